/* blkback_device.c - the XenbusState machine of one device, on the control thread.
 *
 *        NEW --open--> READY --connect--> CONNECTED --close--> CLOSED --open (frontend in state 1 again)--> READY
 *         |             ^                     |                  ^  '--not online, or frontend gone--> forgotten
 *         |--busy--> HELD                     '--ring broken--> BROKEN --frontend closed--'
 *         |--no image--> FAILED
 *         '--state 4 found: reattach--> CONNECTED --the frontend begun anew: close--> CLOSED, and at once open
 *
 * 1. A step reads the nodes afresh and acts on what they say now: events are only reasons to look, so that any number of
 *    them may be merged, and repeats do nothing.
 * 2. While a command is under way nothing is done; its reply steps again. So connect and disconnect never overlap.
 * 3. Reattaching writes nothing. Closing and Closed are written only because the frontend or the toolstack asked, or
 *    because a ring is broken: a stock frontend gives its disk up for good on Closing.
 * 4. A frontend whose state node is gone counts as Closed, but only when it was there before: the toolstack may write the
 *    backend's nodes first.
 * 5. A xenstore that does not answer, or refuses a write, says nothing about the device: it goes on, and what could not be read or
 *    written is tried again on the timer.
 * 6. A frontend that is connected goes on to higher states only, and leaves its nodes as they are. One that does otherwise is another
 *    kernel's, whose predecessor ended without a word or unseen: the old rings are closed and the new ones connected. It is told of
 *    no Closing and no Closed in between, because it would take that for its own end. */
#include "base/clock.h"
#include "blkback/blkback_private.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define LINGER_MS 300

static const char vdev_letters[] = "abcdefghijklmnop";

/* "domain 7 xvda", as a second writer will read it. */
static void name_holder(struct blkback_device *d)
{
    unsigned vdev = d->disk.vdev;
    if (vdev >> 8 == 202)
        snprintf(d->holder, sizeof d->holder, "domain %u xvd%c", d->disk.domid, vdev_letters[(vdev & 255) >> 4]);
    else
        snprintf(d->holder, sizeof d->holder, "domain %u vdev %u", d->disk.domid, vdev);
}

static void set_problem(struct blkback_device *d, const char *text)
{
    pthread_mutex_lock(&d->disk.b->lock);
    snprintf(d->problem, sizeof d->problem, "%s", text);
    pthread_mutex_unlock(&d->disk.b->lock);
}

/* The timer will step d. */
static void look_again(struct blkback_device *d, const char *what, int err)
{
    d->again = true;
    if (err != -EPIPE) /* a xenstore that is gone is told of once, not by each device */
        log_limited(&d->log_limit, LOG_LEVEL_ERROR, "xenstore: cannot %s: domid=%u vdev=%u error=%d", what, d->disk.domid, d->disk.vdev, err);
    blkback_manager_retry(d->disk.b);
}

static void write_state(struct blkback_device *d, unsigned state)
{
    int err = blkback_nodes_write_state(d, state);
    if (err && err != -ENOENT)
        look_again(d, "write state", err);
    atomic_store(&d->state, (int)state);
}

/* A line for the operator and `status`. */
static void complain(struct blkback_device *d, const char *text)
{
    set_problem(d, text);
    log_limited(&d->log_limit, LOG_LEVEL_ERROR, "device: domid=%u vdev=%u image=%s: %s", d->disk.domid, d->disk.vdev, d->target, text);
}

static void write_problem(struct blkback_device *d)
{
    int err = blkback_nodes_write_problem(d, d->problem);
    d->unreported = err && err != -ENOENT;
    if (d->unreported)
        look_again(d, "write the problem", err);
}

/* A line for the toolstack too, which waits for it. */
static void report(struct blkback_device *d, const char *text)
{
    complain(d, text);
    write_problem(d);
}

static void send(struct blkback_device *d, enum blkback_command command)
{
    d->command = command;
    d->error = (struct error)ERROR_NONE;
    loop_post(d->disk.b->loop, &d->to_loop);
}

bool blkback_device_has_image(const struct blkback_device *d) { return d->stage == BLKBACK_READY || d->stage == BLKBACK_CONNECTED; }

static bool attached(unsigned frontend) { return frontend == XENBUS_INITIALISED || frontend == XENBUS_CONNECTED || frontend == XENBUS_CLOSING; }

static void forget(struct blkback_device *d)
{
    d->stage = BLKBACK_GONE;
    blkback_manager_forget(d);
}

/* The image is closed and nobody wants the device any more. */
static void finish(struct blkback_device *d)
{
    if (atomic_load(&d->state) != XENBUS_CLOSED)
        write_state(d, XENBUS_CLOSED);
    d->stage = BLKBACK_CLOSED;
    if (hv_own_domid(d->disk.b->hv) == HV_DOMID_TOOLSTACK)
        return; /* libxl removes the directory, and that is seen as an event */
    /* libxl reads the state when it is told of it: without a moment for that, it finds nothing and takes it for a failure. */
    if (!d->removal_ms)
        d->removal_ms = clock_monotonic_ms() + LINGER_MS;
    if (clock_monotonic_ms() < d->removal_ms) {
        blkback_manager_retry(d->disk.b);
        return;
    }
    int err = blkback_nodes_remove(d);
    if (err && err != -ENOENT && err != -EACCES) {
        look_again(d, "remove the device", err);
        return;
    }
    if (err == -EACCES)
        log_warning("cannot remove %s: error=%d", d->path, err);
    log_info("device removed: domid=%u vdev=%u image=%s", d->disk.domid, d->disk.vdev, d->target);
    forget(d);
}

static void close_up(struct blkback_device *d)
{
    if (blkback_device_has_image(d)) {
        send(d, BLKBACK_CLOSE);
        return;
    }
    d->unsaid = false;
    if (atomic_load(&d->state) != XENBUS_CLOSED) /* a write is an event, and might find a directory again that cannot be removed */
        write_state(d, XENBUS_CLOSED);
    d->stage = BLKBACK_CLOSED;
    blkback_device_step(d);
}

/* ---- Steps, by stage ---- */

static void open_or_fail(struct blkback_device *d)
{
    struct error err = ERROR_NONE;
    int rc = blkback_nodes_identify(d, &err);
    if (blkback_nodes_unanswered(rc)) {
        look_again(d, "read what to serve", rc);
        return;
    }
    if (rc) {
        report(d, err.text);
        d->stage = BLKBACK_FAILED;
        return;
    }
    d->removal_ms = 0;
    send(d, BLKBACK_OPEN);
}

static void step_new(struct blkback_device *d, const struct blkback_seen *s)
{
    struct error err = ERROR_NONE;
    bool alive = attached(s->frontend_state);
    bool table = blkback_restart_exists(d->disk.b->state_dir, d->disk.domid, d->disk.vdev);
    bool awaits = alive || (table && s->frontend_state == XENBUS_CLOSED); /* answers to what is left on its rings */
    if (awaits && (s->state == XENBUS_CONNECTED || (s->state == XENBUS_CLOSING && table))) {
        int rc = blkback_nodes_recall(d, &err);
        if (!rc)
            rc = blkback_nodes_read_connection(d, &d->connection, &err);
        if (!rc || blkback_nodes_unanswered(rc)) {
            d->frontend_state = s->frontend_state;
            if (rc)
                look_again(d, "read the connection", rc);
            else
                send(d, BLKBACK_REATTACH);
            return;
        }
        complain(d, err.text);
        d->stage = BLKBACK_BROKEN;
        write_state(d, XENBUS_CLOSING);
    } else if (alive && s->state == XENBUS_CLOSING) {
        d->stage = BLKBACK_BROKEN;
    } else if (s->state >= XENBUS_CONNECTED && s->online && s->frontend_state == XENBUS_INITIALISING) {
        d->anew = true;
        d->stage = BLKBACK_CLOSED;
        blkback_device_step(d);
    } else if (s->state >= XENBUS_CONNECTED || (!s->online && !alive)) {
        close_up(d);
    } else if (s->frontend_state >= XENBUS_INITIALISING && s->frontend_state <= XENBUS_CONNECTED) {
        open_or_fail(d);
    }
}

/* Says to the frontend what it waits for, or has the timer try again: until then the toolstack sees a device that does not come up. */
static void say(struct blkback_device *d, int err)
{
    d->unsaid = err && err != -ENOENT;
    if (!d->unsaid)
        return;
    complain(d, "its nodes cannot be written to xenstore (is its quota used up?)");
    blkback_manager_retry(d->disk.b);
}

static void step_waiting(struct blkback_device *d, const struct blkback_seen *s)
{
    bool alive = attached(s->frontend_state);
    if (s->frontend_state == XENBUS_CLOSED || (!alive && (s->state == XENBUS_CLOSING || !s->online))) {
        close_up(d);
    } else if (s->frontend_state == XENBUS_CLOSING) {
        if (s->state != XENBUS_CLOSING)
            write_state(d, XENBUS_CLOSING);
    } else if (d->stage == BLKBACK_HELD) {
        send(d, BLKBACK_OPEN);
    } else if (d->unsaid && s->state != XENBUS_CLOSING) {
        say(d, blkback_nodes_write_features(d, NULL));
        if (!d->unsaid)
            set_problem(d, "");
    } else if (alive && s->state != XENBUS_CLOSING) {
        struct error err = ERROR_NONE;
        int rc = blkback_nodes_read_connection(d, &d->connection, &err);
        if (!rc) {
            d->frontend_state = XENBUS_UNKNOWN;
            d->abandoned = false;
            send(d, BLKBACK_CONNECT);
            return;
        }
        if (blkback_nodes_unanswered(rc)) {
            look_again(d, "read the connection", rc);
            return;
        }
        report(d, err.text);
        atomic_store(&d->broken, true);
        send(d, BLKBACK_CLOSE);
    }
}

/* Sets d->anew if the frontend, in state 3 or 4, is not the one that we are connected to. */
static int look_for_another(struct blkback_device *d, unsigned frontend)
{
    struct blkback_connection now;
    struct blkback_seen still;
    struct error err = ERROR_NONE;
    d->anew = frontend < d->frontend_state;
    int rc = d->anew ? 0 : blkback_nodes_read_connection(d, &now, &err);
    if (blkback_nodes_unanswered(rc))
        return rc;
    bool went_back = d->anew;
    if (!went_back) /* what makes no sense is a wish for a connection in state 3 only */
        d->anew = rc ? frontend == XENBUS_INITIALISED : memcmp(&now, &d->connection, sizeof now) != 0;
    d->frontend_state = frontend;
    if (!d->anew || went_back)
        return 0;
    /* Nodes that were removed while they were read are nobody's beginning; that they are gone is told of. */
    rc = blkback_nodes_look(d, &still);
    d->anew = !rc && still.frontend_exists;
    return rc;
}

static void step_connected(struct blkback_device *d, const struct blkback_seen *s)
{
    int rc = 0;
    switch (s->frontend_state) {
    case XENBUS_CLOSING:
        d->frontend_state = XENBUS_CLOSING;
        break;
    case XENBUS_INITIALISED:
    case XENBUS_CONNECTED:
        if (s->online && !d->anew)
            rc = look_for_another(d, s->frontend_state);
        break;
    case XENBUS_INITIALISING:
        d->anew = s->online;
    }
    bool left = s->frontend_state == XENBUS_INITIALISING || s->frontend_state == XENBUS_INIT_WAIT || s->frontend_state == XENBUS_CLOSED;
    if (atomic_load(&d->broken) || d->anew || left) {
        d->frontend_state = s->frontend_state;
        d->abandoned = d->anew || s->frontend_state == XENBUS_INITIALISING || s->frontend_state == XENBUS_INIT_WAIT;
        send(d, BLKBACK_CLOSE);
        return;
    }
    if (rc) {
        look_again(d, "read the connection", rc);
        return;
    }
    if (s->frontend_state == XENBUS_CLOSING) {
        if (s->state != XENBUS_CLOSING)
            write_state(d, XENBUS_CLOSING);
        return;
    }
    if (d->unsaid && s->state != XENBUS_CLOSING) {
        say(d, blkback_nodes_write_connected(d));
        if (!d->unsaid)
            set_problem(d, "");
    } else if (s->state == XENBUS_CONNECTED && atomic_exchange(&d->resized, false)) {
        d->sectors = atomic_load(&d->new_sectors);
        int err = blkback_nodes_write_size(d);
        if (err && err != -ENOENT) {
            atomic_store(&d->resized, true);
            look_again(d, "write the new size", err);
        }
    }
}

static void step_closed(struct blkback_device *d, const struct blkback_seen *s)
{
    /* State 4 may be of the connection that was closed; not if another was seen since. */
    bool left = d->anew || (d->frontend_state != XENBUS_UNKNOWN && d->frontend_state != XENBUS_CONNECTED);
    bool begins = s->frontend_state == XENBUS_INITIALISING || s->frontend_state == XENBUS_INITIALISED || (s->frontend_state == XENBUS_CONNECTED && left);
    if (!s->online) {
        finish(d);
    } else if (s->state == XENBUS_INITIALISING) {
        d->stage = BLKBACK_NEW;
        blkback_device_step(d);
    } else if (s->state != XENBUS_CLOSED && !(d->anew && begins)) {
        write_state(d, XENBUS_CLOSED);
    } else if (begins) {
        open_or_fail(d);
    }
}

static void step_failed(struct blkback_device *d, const struct blkback_seen *s)
{
    if (!s->online || s->state == XENBUS_CLOSING)
        close_up(d);
    else if (s->frontend_state >= XENBUS_INITIALISING && s->frontend_state <= XENBUS_CONNECTED)
        open_or_fail(d);
}

/* The toolstack or the frontend is gone: close what is open, then forget. True when that was all there is to do. */
static bool step_gone(struct blkback_device *d, const struct blkback_seen *s)
{
    bool vanished = !s->frontend_exists && (d->frontend_seen || d->removal_ms || (d->stage == BLKBACK_NEW && s->state > XENBUS_INITIALISING));
    bool leaving = !s->exists || vanished || d->disk.b->shutting_down;
    if (!leaving)
        return !s->frontend_exists; /* not yet there: wait for it */
    if (blkback_device_has_image(d)) {
        send(d, BLKBACK_CLOSE);
    } else if (!s->exists) {
        forget(d);
    } else if (d->disk.b->shutting_down) {
        if (s->state >= XENBUS_INIT_WAIT && s->state != XENBUS_CLOSED)
            write_state(d, XENBUS_CLOSED);
        forget(d);
    } else {
        finish(d);
    }
    return true;
}

void blkback_device_step(struct blkback_device *d)
{
    struct blkback_seen s;
    d->missed = d->command != BLKBACK_NOTHING;
    if (d->missed || d->stage == BLKBACK_GONE)
        return;
    struct error err = ERROR_NONE;
    d->again = false;
    int rc = *d->frontend ? 0 : blkback_nodes_identify(d, &err);
    if (blkback_nodes_unanswered(rc))
        *d->frontend = 0; /* not all of it was read */
    else
        rc = blkback_nodes_look(d, &s);
    if (rc == -EPIPE && d->disk.b->shutting_down) {
        blkback_device_has_image(d) ? send(d, BLKBACK_CLOSE) : forget(d);
        return;
    }
    if (blkback_nodes_unanswered(rc)) {
        look_again(d, "read the device's nodes", rc);
        return;
    }
    if (s.exists && !*d->frontend) { /* the toolstack is not ready, or wrong; an event will tell of a change */
        if (d->disk.b->shutting_down)
            forget(d);
        else
            report(d, err.text);
        return;
    }
    atomic_store(&d->state, (int)s.state);
    if (*d->frontend && !d->watched) {
        char path[BLKBACK_PATH_SIZE + 16], token[48];
        snprintf(path, sizeof path, "%s/state", d->frontend);
        snprintf(token, sizeof token, "%u/%u", d->disk.domid, d->disk.vdev);
        rc = hv_xs_watch(d->disk.b->xs, path, token);
        d->watched = !rc || rc == -EEXIST;
        if (!d->watched) /* without it the timer looks */
            look_again(d, "watch the frontend (is its quota of watches used up?)", rc);
    }
    d->frontend_seen |= s.frontend_exists;
    if (d->stage != BLKBACK_CONNECTED && s.frontend_exists && s.frontend_state != XENBUS_CONNECTED)
        d->frontend_state = s.frontend_state;
    if (step_gone(d, &s))
        return;
    switch (d->stage) {
    case BLKBACK_NEW:
        step_new(d, &s);
        break;
    case BLKBACK_FAILED:
        step_failed(d, &s);
        break;
    case BLKBACK_HELD:
    case BLKBACK_READY:
        step_waiting(d, &s);
        break;
    case BLKBACK_CONNECTED:
        step_connected(d, &s);
        break;
    case BLKBACK_BROKEN:
        if (d->unreported)
            write_problem(d);
        if (s.frontend_state == XENBUS_CLOSED || s.frontend_state == XENBUS_INITIALISING || (!s.online && !attached(s.frontend_state)))
            close_up(d);
        else if (s.state != XENBUS_CLOSING)
            write_state(d, XENBUS_CLOSING);
        break;
    case BLKBACK_CLOSED:
        step_closed(d, &s);
        break;
    case BLKBACK_GONE:
        break;
    }
}

bool blkback_device_waits(const struct blkback_device *d)
{
    return d->command == BLKBACK_NOTHING
        && (d->again || d->unsaid || d->stage == BLKBACK_HELD || (d->stage == BLKBACK_NEW && d->image_failed) || (d->stage == BLKBACK_CLOSED && d->removal_ms));
}

/* ---- Replies ---- */

static void opened(struct blkback_device *d)
{
    bool was_held = d->stage == BLKBACK_HELD && !d->unsaid;
    d->anew = d->unreported = false;
    if (d->result && d->result != -EBUSY) {
        report(d, d->error.text);
        d->stage = BLKBACK_FAILED;
        d->unsaid = false;
        return;
    }
    d->stage = d->result ? BLKBACK_HELD : BLKBACK_READY;
    set_problem(d, d->result ? d->error.text : "");
    if (was_held) {
        if (!d->result)
            say(d, blkback_nodes_write_available(d));
        return;
    }
    if (d->result)
        log_limited(&d->log_limit, LOG_LEVEL_INFO, "device waits for its image: domid=%u vdev=%u image=%s: %s", d->disk.domid, d->disk.vdev, d->target, d->error.text);
    say(d, blkback_nodes_write_features(d, d->result ? d->error.text : NULL));
}

static void ring_failed(struct blkback_device *d)
{
    report(d, d->error.text);
    d->stage = BLKBACK_CONNECTED;
    atomic_store(&d->broken, true); /* the next step closes it */
}

static void connected(struct blkback_device *d)
{
    if (d->result) {
        ring_failed(d);
        return;
    }
    d->stage = BLKBACK_CONNECTED;
    say(d, blkback_nodes_write_connected(d));
    log_limited(&d->log_limit, LOG_LEVEL_INFO, "device connected: domid=%u vdev=%u image=%s sectors=%llu queues=%u ring_pages=%u layout=%s", d->disk.domid, d->disk.vdev, d->target,
             (unsigned long long)d->sectors, d->connection.queues, 1u << d->connection.order, blkif_abi_name(d->connection.abi));
}

static void reattached(struct blkback_device *d)
{
    if (d->result && d->image_failed && d->frontend_state == XENBUS_CLOSED) {
        close_up(d);
    } else if (d->result && d->image_failed) {
        complain(d, d->error.text); /* the guest waits; the next retry may succeed */
    } else if (d->result && (d->frontend_state == XENBUS_INITIALISED || d->result == -ESTALE)) {
        /* It has asked for nothing yet, or nobody has taken it: rings of a kernel that began while no process was here. */
        d->stage = BLKBACK_CONNECTED;
        d->anew = true;
    } else if (d->result) {
        ring_failed(d);
    } else {
        set_problem(d, "");
        d->stage = BLKBACK_CONNECTED;
        log_info("device taken up again: domid=%u vdev=%u image=%s", d->disk.domid, d->disk.vdev, d->target);
    }
}

static void closed(struct blkback_device *d)
{
    bool broken = atomic_exchange(&d->broken, false) && !d->anew;
    d->unsaid = false;
    atomic_store(&d->resized, false); /* whoever opens next reads the size anew */
    d->stage = broken ? BLKBACK_BROKEN : BLKBACK_CLOSED;
    if (broken || !d->anew)
        write_state(d, broken ? XENBUS_CLOSING : XENBUS_CLOSED);
    log_limited(&d->log_limit, LOG_LEVEL_INFO, "device %s: domid=%u vdev=%u image=%s", broken ? "disconnected" : "closed", d->disk.domid, d->disk.vdev, d->target);
}

static void replied(struct loop_task *t)
{
    struct blkback_device *d = container_of(t, struct blkback_device, to_control);
    enum blkback_command command = d->command;
    d->command = BLKBACK_NOTHING;
    switch (command) {
    case BLKBACK_OPEN:
        opened(d);
        break;
    case BLKBACK_CONNECT:
        connected(d);
        break;
    case BLKBACK_REATTACH:
        reattached(d);
        break;
    case BLKBACK_CLOSE:
        closed(d);
        break;
    case BLKBACK_NOTHING:
        break;
    }
    blkback_manager_retry(d->disk.b);
    /* What waits for another's image is looked at again by the timer, not at once; what failed, when something changes. */
    if (d->missed || (!blkback_device_waits(d) && d->stage != BLKBACK_FAILED))
        blkback_device_step(d);
    blkback_manager_reap(d->disk.b);
}

static void noticed(struct loop_task *t)
{
    struct blkback_device *d = container_of(t, struct blkback_device, notice);
    blkback_device_step(d);
    blkback_manager_reap(d->disk.b);
}

static void on_loop(struct loop_task *t) { blkback_disk_run(container_of(t, struct blkback_device, to_loop)); }

void blkback_device_init(struct blkback_device *d, struct blkback *b, hv_domid domid, unsigned vdev)
{
    d->disk.b = b;
    d->disk.domid = domid;
    d->disk.vdev = vdev;
    d->read_only = true; /* until its nodes say otherwise */
    d->to_loop.run = on_loop;
    d->to_control.run = replied;
    d->notice.run = noticed;
    snprintf(d->path, sizeof d->path, "backend/vbd/%u/%u", domid, vdev);
    name_holder(d);
}
