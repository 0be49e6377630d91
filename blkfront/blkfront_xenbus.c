/* blkfront_xenbus.c - the frontend's half of the XenbusState handshake.
 *
 *   device appears -> own state 1 -> backend InitWait (2) -> rings, nodes, own state 3 -> backend Connected (4) -> own state 4
 *   backend Closing (5) -> no more requests -> nothing in flight -> own state 6
 *
 * A state 4 that is written again means that the size may have changed. A backend whose process is restarted changes no
 * node, and nothing is done here. */
#include "blkfront/blkfront_private.h"

#include "base/clock.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#define DEFAULT_TIMEOUT_MS 10000u
#define CLOSE_TIMEOUT_MS 2000u
#define LOOK_AGAIN_MS 100u

/* ---- Nodes ---- */

static int read_text(struct blkfront *f, const char *dir, const char *name, char *buf, size_t size)
{
    char path[BLKFRONT_PATH_SIZE + 64], *value;
    size_t length;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    int err = hv_xs_read(f->xs, 0, path, &value, &length);
    if (err)
        return err;
    if (length >= size)
        err = -EINVAL;
    else
        memcpy(buf, value, length + 1);
    free(value);
    return err;
}

static uint64_t read_number(struct blkfront *f, const char *dir, const char *name, uint64_t missing)
{
    char text[32], *end;
    if (read_text(f, dir, name, text, sizeof text))
        return missing;
    uint64_t n = strtoull(text, &end, 10);
    return end == text || *end ? missing : n;
}

static int put(struct blkfront *f, const char *name, uint64_t value)
{
    char path[BLKFRONT_PATH_SIZE + 64];
    snprintf(path, sizeof path, "%s/%s", f->frontend, name);
    return hv_xs_printf(f->xs, 0, path, "%llu", (unsigned long long)value);
}

static unsigned backend_state(struct blkfront *f) { return (unsigned)read_number(f, f->backend, "state", XENBUS_UNKNOWN); }

/* ---- Waiting ---- */

/* Turns the loop until condition holds. xenstore's events shorten the wait; the condition itself reads the nodes. */
static int wait_for(struct blkfront *f, bool (*condition)(struct blkfront *f), unsigned timeout_ms)
{
    uint64_t end = clock_monotonic_ms() + timeout_ms;
    while (!condition(f)) {
        uint64_t now = clock_monotonic_ms();
        if (now >= end)
            return -ETIMEDOUT;
        loop_turn(f->loop, (int)(end - now < LOOK_AGAIN_MS ? end - now : LOOK_AGAIN_MS));
    }
    return 0;
}

static bool find_device(struct blkfront *f)
{
    char **names = NULL;
    unsigned count = 0;
    unsigned vdev = f->opt.vdev;
    if (!vdev) {
        if (hv_xs_directory(f->xs, 0, "device/vbd", &names, &count))
            return false;
        vdev = count ? (unsigned)strtoul(names[0], NULL, 10) : 0;
        free(names);
    }
    snprintf(f->frontend, sizeof f->frontend, "device/vbd/%u", vdev);
    if (!vdev || read_text(f, f->frontend, "backend", f->backend, sizeof f->backend))
        return false;
    uint64_t domid = read_number(f, f->frontend, "backend-id", UINT64_MAX);
    if (domid > UINT32_MAX || !backend_state(f))
        return false;
    f->info.vdev = vdev;
    f->info.backend_domid = (unsigned)domid;
    return true;
}

/* The device is there and its frontend directory is complete (backend-id, own state). */
static bool is_waiting(struct blkfront *f)
{
    char text[8];
    return backend_state(f) == XENBUS_INIT_WAIT || read_text(f, f->backend, "hotplug-error", text, sizeof text) != -ENOENT;
}

static bool is_answered(struct blkfront *f)
{
    unsigned s = backend_state(f);
    return s == XENBUS_CONNECTED || s == XENBUS_CLOSING || s == XENBUS_CLOSED || s == XENBUS_UNKNOWN;
}

static bool is_closing(struct blkfront *f) { return backend_state(f) >= XENBUS_CLOSING || !backend_state(f); }
static bool is_closed(struct blkfront *f) { return backend_state(f) == XENBUS_CLOSED || !backend_state(f); }

/* ---- Connect ---- */

static int choose(struct blkfront *f, struct error *err)
{
    uint64_t order = read_number(f, f->backend, "max-ring-page-order", 0), queues = read_number(f, f->backend, "multi-queue-max-queues", 1);
    uint64_t segments = read_number(f, f->backend, "feature-max-indirect-segments", 0);
    static const enum blkif_abi abis[] = { [BLKFRONT_NATIVE] = BLKIF_ABI_X86_64, [BLKFRONT_X86_64] = BLKIF_ABI_X86_64,
                                           [BLKFRONT_X86_32] = BLKIF_ABI_X86_32, [BLKFRONT_ARM] = BLKIF_ABI_ARM,
                                           [BLKFRONT_UNNAMED] = BLKIF_ABI_X86_32 };
    f->abi = abis[f->opt.layout];
    f->slot_bytes = blkif_slot_bytes(f->abi);
    f->ring_order = f->opt.ring_order < order ? f->opt.ring_order : (unsigned)order;
    if (f->ring_order > BLKIF_MAX_RING_ORDER)
        f->ring_order = BLKIF_MAX_RING_ORDER;
    f->queue_count = f->opt.queues ? f->opt.queues : 1;
    if (f->queue_count > queues)
        f->queue_count = queues ? (unsigned)queues : 1;
    if (f->queue_count > BLKFRONT_MAX_QUEUES)
        f->queue_count = BLKFRONT_MAX_QUEUES;
    if (segments < BLKIF_MAX_SEGMENTS)
        segments = BLKIF_MAX_SEGMENTS;
    if (segments > BLKFRONT_MAX_SEGMENTS)
        segments = BLKFRONT_MAX_SEGMENTS;
    f->info.max_segments = f->opt.max_segments && f->opt.max_segments < segments ? f->opt.max_segments : (unsigned)segments;
    f->info.ring_pages = 1u << f->ring_order;
    f->info.queues = f->queue_count;
    for (unsigned i = 0; i < f->queue_count; i++) {
        int rc = blkfront_ring_create(f, &f->queue[i], err);
        if (rc)
            return rc;
    }
    int rc = blkfront_bounce_create(f);
    return rc ? error_set(err, rc, "the domain's memory has no room for bounce pages") : 0;
}

static int write_queue(struct blkfront *f, unsigned i)
{
    char name[48], prefix[24] = "";
    struct blkfront_queue *q = &f->queue[i];
    int rc = 0;
    if (f->queue_count > 1)
        snprintf(prefix, sizeof prefix, "queue-%u/", i);
    for (unsigned k = 0; k < q->ref_count && !rc; k++) {
        if (q->ref_count == 1)
            snprintf(name, sizeof name, "%sring-ref", prefix);
        else
            snprintf(name, sizeof name, "%sring-ref%u", prefix, k);
        rc = put(f, name, q->refs[k]);
    }
    snprintf(name, sizeof name, "%sevent-channel", prefix);
    return rc ? rc : put(f, name, q->port);
}

/* An earlier driver of this domain (a boot loader) may have left nodes of another shape. */
static void remove_old_nodes(struct blkfront *f)
{
    static const char *const names[] = { "ring-page-order", "num-ring-pages", "multi-queue-num-queues", "ring-ref", "event-channel", "protocol" };
    char path[BLKFRONT_PATH_SIZE + 64];
    for (unsigned i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(path, sizeof path, "%s/%s", f->frontend, names[i]);
        hv_xs_remove(f->xs, 0, path); /* most were never there */
    }
}

static int write_nodes(struct blkfront *f)
{
    char path[BLKFRONT_PATH_SIZE + 64];
    int rc = 0;
    remove_old_nodes(f);
    if (f->opt.layout != BLKFRONT_UNNAMED) {
        snprintf(path, sizeof path, "%s/protocol", f->frontend);
        rc = hv_xs_write(f->xs, 0, path, blkif_abi_name(f->abi));
    }
    if (!rc && f->ring_order)
        rc = put(f, "ring-page-order", f->ring_order);
    if (!rc && f->queue_count > 1)
        rc = put(f, "multi-queue-num-queues", f->queue_count);
    if (!rc)
        rc = put(f, "feature-persistent", f->opt.persistent);
    if (!rc)
        rc = put(f, "parallax-no-space", 1);
    for (unsigned i = 0; i < f->queue_count && !rc; i++)
        rc = write_queue(f, i);
    return rc ? rc : put(f, "state", XENBUS_INITIALISED);
}

static void read_properties(struct blkfront *f)
{
    f->info.size_bytes = read_number(f, f->backend, "sectors", 0) * BLKIF_SECTOR_SIZE;
    f->info.physical_sector_bytes = (uint32_t)read_number(f, f->backend, "physical-sector-size", BLKIF_SECTOR_SIZE);
    f->info.read_only = read_number(f, f->backend, "info", 0) & BLKIF_INFO_READONLY;
    f->info.flush = read_number(f, f->backend, "feature-flush-cache", 0) != 0;
    f->info.barrier = read_number(f, f->backend, "feature-barrier", 0) != 0;
    f->info.discard = read_number(f, f->backend, "feature-discard", 0) != 0;
    f->info.persistent = f->opt.persistent && read_number(f, f->backend, "feature-persistent", 0);
}

void blkfront_xenbus_leave(struct blkfront *f)
{
    if (!f->gone || f->left || blkfront_ring_in_flight(f))
        return;
    f->left = true;
    put(f, "state", XENBUS_CLOSED); /* fails when the toolstack removed the device, and then nobody waits for it */
}

static void look(struct blkfront *f)
{
    unsigned state = backend_state(f);
    if (state == XENBUS_CONNECTED && !f->gone) {
        uint64_t size = read_number(f, f->backend, "sectors", 0) * BLKIF_SECTOR_SIZE;
        if (size == f->info.size_bytes)
            return;
        f->info.size_bytes = size;
        if (f->opt.resized)
            f->opt.resized(f->opt.ctx, size);
    } else if ((state >= XENBUS_CLOSING || state == XENBUS_UNKNOWN) && !f->gone) {
        blkfront_ring_refuse(f);
        if (f->opt.gone)
            f->opt.gone(f->opt.ctx);
    }
    blkfront_xenbus_leave(f);
}

static void watch_ready(struct loop_fd *w, uint32_t epoll_events)
{
    struct blkfront *f = container_of(w, struct blkfront, watches);
    char *path, *token;
    bool any = false;
    (void)epoll_events;
    while (hv_xs_check_watch(f->xs, &path, &token) == 0) {
        free(path);
        any = true;
    }
    if (any && f->watching)
        look(f);
}

/* The backend's state is watched from here on; look() acts on it once we are connected. */
static void watch_backend(struct blkfront *f)
{
    char path[BLKFRONT_PATH_SIZE + 64];
    hv_xs_unwatch(f->xs, "device/vbd", "device");
    snprintf(path, sizeof path, "%s/state", f->backend);
    hv_xs_watch(f->xs, path, "backend"); /* without it closing is seen only when the device is used */
}

static int refused(struct blkfront *f, struct error *err, int code, const char *what)
{
    char why[256];
    if (read_text(f, f->backend, "hotplug-error", why, sizeof why))
        snprintf(why, sizeof why, "backend state %u", backend_state(f));
    return error_set(err, code, "device %u: %s: %s", f->info.vdev, what, why);
}

/* A backend that says why it does not connect, since another has the disk, is given held_ms of the time. */
static int wait_for_answer(struct blkfront *f, unsigned timeout_ms)
{
    char why[256];
    unsigned first_ms = f->opt.held_ms && f->opt.held_ms < timeout_ms ? f->opt.held_ms : timeout_ms;
    int rc = wait_for(f, is_answered, first_ms);
    if (!rc || first_ms == timeout_ms)
        return rc;
    return read_text(f, f->backend, "hotplug-error", why, sizeof why) ? wait_for(f, is_answered, timeout_ms - first_ms) : -EBUSY;
}

int blkfront_xenbus_connect(struct blkfront *f, struct error *err)
{
    unsigned timeout_ms = f->opt.timeout_ms ? f->opt.timeout_ms : DEFAULT_TIMEOUT_MS;
    int rc = hv_xs_open(f->hv, &f->xs);
    if (rc)
        return error_set(err, rc, "cannot open xenstore: %s", strerror(-rc));
    f->watches.fd = hv_xs_fd(f->xs);
    f->watches.ready = watch_ready;
    hv_xs_watch(f->xs, "device/vbd", "device");
    rc = loop_fd_add(f->loop, &f->watches, EPOLLIN);
    if (!rc)
        rc = wait_for(f, find_device, timeout_ms);
    if (rc)
        return error_set(err, rc, "no block device %u appeared for domain %u", f->opt.vdev, hv_own_domid(f->hv));
    watch_backend(f);
    if (read_number(f, f->frontend, "state", XENBUS_UNKNOWN) != XENBUS_INITIALISING)
        put(f, "state", XENBUS_INITIALISING);
    rc = wait_for(f, is_waiting, timeout_ms);
    if (rc || backend_state(f) != XENBUS_INIT_WAIT)
        return refused(f, err, rc ? rc : -ENODEV, "the backend does not offer it");
    rc = choose(f, err);
    if (rc)
        return rc;
    rc = write_nodes(f);
    if (rc)
        return error_set(err, rc, "cannot write the nodes of %s: %s", f->frontend, strerror(-rc));
    rc = wait_for_answer(f, timeout_ms);
    if (rc || backend_state(f) != XENBUS_CONNECTED)
        return refused(f, err, rc ? rc : -ENODEV, "the backend did not connect");
    read_properties(f);
    rc = put(f, "state", XENBUS_CONNECTED);
    f->watching = true;
    return rc ? error_set(err, rc, "cannot write the state of %s", f->frontend) : 0;
}

static bool is_idle(struct blkfront *f) { return !blkfront_ring_in_flight(f) && list_empty(&f->pending) && list_empty(&f->failed); }

void blkfront_xenbus_disconnect(struct blkfront *f)
{
    if (!f->xs)
        return;
    if (f->watching) {
        if (f->opt.pulled)
            loop_fd_add(f->loop, &f->events, EPOLLIN); /* nobody pulls any more */
        while (!is_idle(f))
            loop_turn(f->loop, LOOK_AGAIN_MS);
        f->watching = false;
        f->gone = true;
    }
    if (*f->backend && f->queue_count && !f->left) {
        put(f, "state", XENBUS_CLOSING);
        wait_for(f, is_closing, CLOSE_TIMEOUT_MS); /* a backend that is away finds Closed when it is back */
        put(f, "state", XENBUS_CLOSED);
    }
    if (*f->backend && f->queue_count)
        wait_for(f, is_closed, CLOSE_TIMEOUT_MS);
    loop_fd_remove(f->loop, &f->watches);
    hv_xs_close(f->xs);
}
