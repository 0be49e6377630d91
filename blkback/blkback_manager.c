/* blkback_manager.c - the control thread: watches backend/vbd, keeps the list of devices, steps those that had events.
 *
 * 1. All watch events that have arrived are drained first and only mark devices; then each marked device steps once. A
 *    frontend that writes its state without end costs one step a round.
 * 2. Events of the properties that we write ourselves are not reasons to look.
 * 3. Devices that wait for another's image, or for their removal, step again on a timer. */
#include "blkback/blkback_private.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#define RETRY_MS 200
#define DRAIN_MAX 4096

static struct blkback_device *find(struct blkback *b, hv_domid domid, unsigned vdev)
{
    list_for_each (n, &b->devices) {
        struct blkback_device *d = container_of(n, struct blkback_device, link);
        if (d->disk.domid == domid && d->disk.vdev == vdev)
            return d;
    }
    return NULL;
}

static void mark(struct blkback *b, hv_domid domid, unsigned vdev)
{
    struct blkback_device *d = find(b, domid, vdev);
    if (!d && !b->shutting_down) {
        d = calloc(1, sizeof *d);
        if (!d) {
            log_error("no memory for a device: domid=%u vdev=%u", domid, vdev);
            return;
        }
        blkback_device_init(d, b, domid, vdev);
        pthread_mutex_lock(&b->lock);
        list_add_tail(&b->devices, &d->link);
        pthread_mutex_unlock(&b->lock);
    }
    if (d)
        d->dirty = true;
}

void blkback_manager_forget(struct blkback_device *d)
{
    struct blkback *b = d->disk.b;
    if (d->watched) {
        char path[BLKBACK_PATH_SIZE + 16], token[48];
        snprintf(path, sizeof path, "%s/state", d->frontend);
        snprintf(token, sizeof token, "%u/%u", d->disk.domid, d->disk.vdev);
        hv_xs_unwatch(b->xs, path, token);
    }
    d->dirty = false;
}

void blkback_manager_reap(struct blkback *b)
{
    list_for_each_safe (n, &b->devices) {
        struct blkback_device *d = container_of(n, struct blkback_device, link);
        if (d->stage != BLKBACK_GONE)
            continue;
        bool again = d->dirty;
        hv_domid domid = d->disk.domid;
        unsigned vdev = d->disk.vdev;
        pthread_mutex_lock(&b->lock);
        list_remove(&d->link);
        pthread_mutex_unlock(&b->lock);
        free(d);
        if (again)
            mark(b, domid, vdev);
    }
    if (b->shutting_down && list_empty(&b->devices))
        atomic_store(&b->shut_down, true);
}

static void step_dirty(struct blkback *b)
{
    list_for_each_safe (n, &b->devices) {
        struct blkback_device *d = container_of(n, struct blkback_device, link);
        if (!d->dirty || d->stage == BLKBACK_GONE)
            continue;
        d->dirty = false;
        blkback_device_step(d);
    }
    blkback_manager_reap(b);
}

/* ---- Watches ---- */

static bool is_reason(const char *leaf)
{
    static const char *const reasons[] = { "", "/state", "/online", "/frontend", "/params", "/mode" };
    for (unsigned i = 0; i < sizeof reasons / sizeof *reasons; i++)
        if (!strcmp(leaf, reasons[i]))
            return true;
    return false;
}

static int scan_domain(struct blkback *b, const char *domain)
{
    char path[BLKBACK_PATH_SIZE], **names;
    unsigned count, domid, vdev;
    int end = 0;
    if (sscanf(domain, "%u%n", &domid, &end) != 1 || domain[end])
        return 0;
    snprintf(path, sizeof path, "backend/vbd/%u", domid);
    int err = hv_xs_directory(b->xs, 0, path, &names, &count);
    if (err)
        return err == -ENOENT ? 0 : err;
    for (unsigned i = 0; i < count; i++)
        if (sscanf(names[i], "%u%n", &vdev, &end) == 1 && !names[i][end])
            mark(b, domid, vdev);
    free(names);
    return 0;
}

/* Marks every device that has a directory or is known. */
static int scan(struct blkback *b)
{
    char **names;
    unsigned count;
    int err = hv_xs_directory(b->xs, 0, "backend/vbd", &names, &count);
    if (!err) {
        for (unsigned i = 0; i < count && !err; i++)
            err = scan_domain(b, names[i]);
        free(names);
    }
    list_for_each (n, &b->devices) /* those that have disappeared are to notice */
        container_of(n, struct blkback_device, link)->dirty = true;
    return err == -ENOENT ? 0 : err;
}

static void backend_event(struct blkback *b, const char *path)
{
    const char *rest = strstr(path, "backend/vbd");
    unsigned domid, vdev;
    int end = 0;
    if (!rest)
        return;
    rest += strlen("backend/vbd");
    if (sscanf(rest, "/%u/%u%n", &domid, &vdev, &end) == 2 && end) {
        if (is_reason(rest + end))
            mark(b, domid, vdev);
    } else {
        b->scan_due = true;
    }
}

static void drain(struct blkback *b)
{
    char *path, *token;
    unsigned domid, vdev;
    int err = 0;
    for (int i = 0; i < DRAIN_MAX && (err = hv_xs_check_watch(b->xs, &path, &token)) == 0; i++) {
        if (!strcmp(token, BLKBACK_BACKEND_TOKEN))
            backend_event(b, path);
        else if (sscanf(token, "%u/%u", &domid, &vdev) == 2 && find(b, domid, vdev))
            mark(b, domid, vdev);
        free(path);
    }
    if (err == -EPIPE)
        blkback_connection_lost(b);
    else if (b->scan_due) { /* once, however many events ask for it */
        b->scan_due = scan(b) != 0;
        if (b->scan_due)
            blkback_manager_retry(b);
    }
}

void blkback_manager_look(struct blkback *b)
{
    drain(b);
    step_dirty(b);
}

static void watch_ready(struct loop_fd *w, uint32_t epoll_events)
{
    (void)epoll_events;
    blkback_manager_look(container_of(w, struct blkback, watches));
}

static void retry(struct loop_timer *t)
{
    struct blkback *b = container_of(t, struct blkback, retry_timer);
    if (b->cut && !b->shutting_down)
        return; /* nothing would be answered; all are looked at when there is a connection again */
    bool waiting = b->scan_due;
    list_for_each (n, &b->devices) {
        struct blkback_device *d = container_of(n, struct blkback_device, link);
        if (blkback_device_waits(d))
            waiting = d->dirty = true;
    }
    /* Events may have been left over by the bound of a drain, or by libxenstore's own queue. */
    blkback_manager_look(b);
    if (waiting)
        loop_timer_start(b->control, &b->retry_timer, RETRY_MS);
}

void blkback_manager_retry(struct blkback *b)
{
    if (list_empty(&b->retry_timer.link))
        loop_timer_start(b->control, &b->retry_timer, RETRY_MS);
}

/* ---- Life ---- */

static void shut_down(struct loop_task *t)
{
    struct blkback *b = container_of(t, struct blkback, shutdown_task);
    b->shutting_down = true;
    list_for_each (n, &b->devices)
        container_of(n, struct blkback_device, link)->dirty = true;
    step_dirty(b);
}

static bool known(void *ctx, hv_domid domid, unsigned vdev) { return find(ctx, domid, vdev) != NULL; }

static int begin(struct blkback *b)
{
    int err = blkback_connection_open(b, &b->xs);
    if (err)
        return err;
    b->watches.fd = hv_xs_fd(b->xs);
    b->watches.ready = watch_ready;
    err = loop_fd_add(b->control, &b->watches, EPOLLIN);
    if (!err)
        err = scan(b);
    if (err) {
        loop_fd_remove(b->control, &b->watches);
        hv_xs_close(b->xs);
        return err;
    }
    /* Tables of devices that went while no process was here. */
    blkback_restart_sweep(b->state_dir, known, b);
    return 0;
}

static void *control_thread(void *arg)
{
    struct blkback *b = arg;
    b->started = begin(b);
    bool run = b->started == 0;
    sem_post(&b->ready);
    if (!run)
        return NULL;
    step_dirty(b);
    blkback_connection_begin(b);
    loop_run(b->control);
    loop_fd_remove(b->control, &b->watches);
    hv_xs_close(b->xs);
    return NULL;
}

int blkback_manager_start(struct blkback *b, struct error *err)
{
    b->retry_timer.expired = retry;
    list_init(&b->retry_timer.link);
    b->shutdown_task.run = shut_down;
    int rc = loop_create(&b->control);
    if (rc)
        return error_set(err, rc, "cannot make an event loop: %s", strerror(-rc));
    sem_init(&b->ready, 0, 0);
    rc = -pthread_create(&b->thread, NULL, control_thread, b);
    if (!rc) {
        while (sem_wait(&b->ready) && errno == EINTR)
            ;
        rc = b->started;
        if (rc)
            pthread_join(b->thread, NULL);
    }
    if (rc) {
        sem_destroy(&b->ready);
        loop_destroy(b->control);
        return error_set(err, rc, "cannot watch backend/vbd in xenstore: %s", strerror(-rc));
    }
    return 0;
}

void blkback_manager_shut_down(struct blkback *b) { loop_post(b->control, &b->shutdown_task); }

void blkback_manager_stop(struct blkback *b)
{
    loop_stop(b->control);
    pthread_join(b->thread, NULL);
    sem_destroy(&b->ready);
}
