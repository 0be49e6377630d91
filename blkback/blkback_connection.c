/* blkback_connection.c - the connection to the xenstore, and what happens when it ends.
 *
 * 1. Rings need no xenstore: what is connected goes on. Nothing else comes or goes meanwhile, and what frontends and toolstack have
 *    written is seen when there is another connection.
 * 2. Nothing tells of the end to somebody who only waits, so a timer looks each second, without asking the xenstore. The same timer
 *    tries to connect again. The log has a line when the connection has ended, one for what keeps it so, and one when there is another.
 * 3. A xenstore that was started anew with an empty tree knows none of our devices. It is not believed: all disks would be gone.
 * 4. A hypervisor that has ended does not come back. Rings are still served, since both ends live; when no other end does any more, the
 *    process is of no use, and whoever runs it is told. */
#include "blkback/blkback_private.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#define LOOK_MS 1000

int blkback_connection_open(struct blkback *b, struct hv_xs **out)
{
    struct hv_xs *xs;
    int err = hv_xs_open(b->hv, &xs);
    if (err)
        return err;
    err = hv_xs_watch(xs, "backend/vbd", BLKBACK_BACKEND_TOKEN);
    if (err) {
        hv_xs_close(xs);
        return err == -EPIPE ? -ECONNRESET : err; /* this one ended, not the hypervisor */
    }
    *out = xs;
    return 0;
}

void blkback_connection_lost(struct blkback *b)
{
    if (b->cut)
        return;
    b->cut = true;
    b->cut_reason = 0;
    log_error("xenstore: the connection has ended; guests that are connected go on, no device comes or goes until there is another");
}

static bool knows(struct hv_xs *xs, const char *path)
{
    char *text;
    int err = hv_xs_read(xs, 0, path, &text, NULL);
    if (!err)
        free(text);
    return !err || err == -EACCES;
}

/* Any of the devices, or a guest from which the toolstack has taken one meanwhile; or there is none to know. */
static bool knows_devices(struct blkback *b, struct hv_xs *xs)
{
    bool any = false;
    list_for_each (n, &b->devices) {
        struct blkback_device *d = container_of(n, struct blkback_device, link);
        char node[BLKBACK_PATH_SIZE + 16], home[32];
        if (!blkback_device_has_image(d))
            continue;
        any = true;
        snprintf(node, sizeof node, "%s/frontend", d->path);
        snprintf(home, sizeof home, "/local/domain/%u", d->disk.domid);
        if (knows(xs, node) || knows(xs, home))
            return true;
    }
    return !any;
}

static int take(struct blkback *b, struct hv_xs *xs)
{
    loop_fd_remove(b->control, &b->watches);
    hv_xs_close(b->xs);
    b->xs = xs;
    b->watches.fd = hv_xs_fd(xs);
    list_for_each (n, &b->devices)
        container_of(n, struct blkback_device, link)->watched = false;
    return loop_fd_add(b->control, &b->watches, EPOLLIN);
}

static void explain(struct blkback *b, int err)
{
    if (err == b->cut_reason)
        return;
    b->cut_reason = err;
    if (err == -EPIPE)
        log_error("the hypervisor has ended, and all domains with it: rings are served as long as their other ends live");
    else if (err == -ESTALE)
        log_error("xenstore: it runs again, but knows none of the devices that are attached here, so it is not believed; they go on. "
                  "To attach others, end the guests and restart parallaxd");
}

static void connect_again(struct blkback *b)
{
    struct hv_xs *xs;
    int err = blkback_connection_open(b, &xs);
    if (!err && !knows_devices(b, xs)) {
        hv_xs_close(xs);
        err = -ESTALE;
    } else if (!err) {
        err = take(b, xs);
    }
    if (err) {
        explain(b, err);
        if (err == -EPIPE)
            loop_post(b->loop, &b->usefulness_task);
        return;
    }
    b->cut = false;
    b->scan_due = true;
    log_info("xenstore: connected again");
    blkback_manager_look(b);
}

static void look(struct loop_timer *t)
{
    struct blkback *b = container_of(t, struct blkback, connection_timer);
    if (b->cut)
        connect_again(b);
    else
        blkback_manager_look(b);
    loop_timer_start(b->control, t, LOOK_MS);
}

void blkback_connection_begin(struct blkback *b)
{
    b->connection_timer.expired = look;
    loop_timer_start(b->control, &b->connection_timer, LOOK_MS);
}

/* ---- On the loop ---- */

/* A frontend looks at its ring once more than it had to; only one that is gone cannot be told. */
static bool served(const struct blkback_disk *disk)
{
    for (unsigned i = 0; i < disk->queues; i++)
        if (hv_event_notify(disk->b->ports, disk->rings[i]->port) == 0)
            return true;
    return false;
}

void blkback_connection_useful(struct loop_task *t)
{
    struct blkback *b = container_of(t, struct blkback, usefulness_task);
    bool any = false;
    pthread_mutex_lock(&b->lock);
    list_for_each (n, &b->devices)
        any |= served(&container_of(n, struct blkback_device, link)->disk);
    pthread_mutex_unlock(&b->lock);
    if (!any && b->options.useless)
        b->options.useless(b->options.ctx);
}
