/* blkfront.c - open, close and the synchronous calls. */
#include "blkfront/blkfront_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

static void destroy(struct blkfront *f)
{
    blkfront_xenbus_disconnect(f);
    for (unsigned i = 0; i < f->queue_count; i++)
        blkfront_ring_destroy(f, &f->queue[i]);
    blkfront_bounce_destroy(f);
    list_for_each_safe (n, &f->regions)
        blkfront_region_destroy(f, container_of(n, struct blkfront_region, link));
    loop_cancel(f->loop, &f->pump_task);
    loop_fd_remove(f->loop, &f->events);
    if (f->ports)
        hv_ports_close(f->ports);
    free(f);
}

int blkfront_open(struct hv *hv, struct loop *loop, const struct blkfront_options *opt, struct blkfront **out, struct error *err)
{
    struct blkfront *f = calloc(1, sizeof *f);
    if (!f)
        return error_set(err, -ENOMEM, "no memory");
    f->hv = hv;
    f->loop = loop;
    f->opt = *opt;
    list_init(&f->pending);
    list_init(&f->failed);
    list_init(&f->regions);
    f->pump_task.run = blkfront_ring_pump;
    int rc = hv_ports_open(hv, &f->ports);
    if (!rc) {
        f->events.fd = hv_event_fd(f->ports);
        f->events.ready = blkfront_ring_events;
        rc = opt->pulled ? 0 : loop_fd_add(loop, &f->events, EPOLLIN);
    }
    if (rc)
        error_set(err, rc, "cannot open grants and events: %s", strerror(-rc));
    else
        rc = blkfront_xenbus_connect(f, err);
    if (rc) {
        destroy(f);
        return rc;
    }
    *out = f;
    return 0;
}

void blkfront_close(struct blkfront *f) { destroy(f); }

void blkfront_get_info(const struct blkfront *f, struct blkfront_info *out) { *out = f->info; }

/* ---- Synchronous calls ---- */

struct sync_req {
    struct blkfront_req req;
    bool ended;
    int error;
};

static void sync_done(struct blkfront_req *req, int error)
{
    struct sync_req *s = container_of(req, struct sync_req, req);
    s->ended = true;
    s->error = error;
}

static int run(struct blkfront *f, enum blkfront_op op, uint64_t offset, void *buffer, uint64_t length)
{
    struct iovec iov = { buffer, length };
    struct sync_req s = { .req = { .op = op, .offset = offset, .length = length, .iov = &iov, .iov_count = buffer ? 1 : 0, .done = sync_done } };
    if (!length && op != BLKFRONT_FLUSH)
        return 0;
    blkfront_submit(f, &s.req);
    while (!s.ended)
        loop_turn(f->loop, -1);
    return s.error;
}

int blkfront_read(struct blkfront *f, uint64_t offset, void *buffer, uint64_t length) { return run(f, BLKFRONT_READ, offset, buffer, length); }

int blkfront_write(struct blkfront *f, uint64_t offset, const void *buffer, uint64_t length)
{
    return run(f, BLKFRONT_WRITE, offset, (void *)(uintptr_t)buffer, length);
}

int blkfront_flush(struct blkfront *f) { return run(f, BLKFRONT_FLUSH, 0, NULL, 0); }
int blkfront_discard(struct blkfront *f, uint64_t offset, uint64_t length) { return run(f, BLKFRONT_DISCARD, offset, NULL, length); }

/* ---- Names ---- */

/* xvda is 202 << 8, 16 numbers a disk, up to xvdp; beyond that the extended form 1 << 28 | disk << 8. */
unsigned blkfront_vdev_number(const char *name)
{
    char *end;
    unsigned long n = strtoul(name, &end, 10);
    if (end != name)
        return *end || n > UINT32_MAX ? 0 : (unsigned)n;
    if (strncmp(name, "xvd", 3) || name[3] < 'a' || name[3] > 'z')
        return 0;
    unsigned disk = 0;
    for (name += 3; *name >= 'a' && *name <= 'z' && disk < 1u << 16; name++)
        disk = disk * 26 + (unsigned)(*name - 'a') + 1;
    disk--;
    unsigned long partition = 0;
    if (*name) {
        partition = strtoul(name, &end, 10);
        if (end == name || *end)
            return 0;
    }
    if (disk < 16 && partition < 16)
        return 202u << 8 | disk << 4 | (unsigned)partition;
    return disk < 1u << 20 && partition < 256 ? 1u << 28 | disk << 8 | (unsigned)partition : 0;
}
