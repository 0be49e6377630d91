/* blkback.c - start, stop and statistics of the backend.
 *
 * Stopping with rings left: the control thread ends first, so that no node is touched any more; then no ring takes requests;
 * then the loop turns until what was in flight is answered; then everything is unmapped and the restart tables stay. */
#include "blkback/blkback_private.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#define DEFAULT_BUFFER_BYTES (64ull << 20)
#define DRAIN_TURN_MS 10

static int open_loop_side(struct blkback *b, struct error *err)
{
    uint64_t bytes = b->options.buffer_bytes ? b->options.buffer_bytes : DEFAULT_BUFFER_BYTES;
    if (bytes < 2u << 20)
        return error_set(err, -EINVAL, "the pools of data in flight need 2 MiB at least");
    int rc = 0;
    for (unsigned i = 0; i < BLKBACK_DIRECTIONS && !rc; i++)
        rc = blkback_pool_create(bytes / BLKBACK_DIRECTIONS, &b->pool[i]);
    if (rc)
        return error_set(err, rc, "no memory for data in flight");
    rc = hv_ports_open(b->hv, &b->ports);
    if (rc)
        return error_set(err, rc, "cannot open grants and events: %s", strerror(-rc));
    b->events.fd = hv_event_fd(b->ports);
    b->events.ready = blkback_ring_events;
    rc = loop_fd_add(b->loop, &b->events, EPOLLIN);
    return rc ? error_set(err, rc, "cannot wait for events: %s", strerror(-rc)) : 0;
}

static void close_loop_side(struct blkback *b)
{
    loop_fd_remove(b->loop, &b->events);
    loop_cancel(b->loop, &b->finish_task);
    loop_unpost(b->loop, &b->usefulness_task);
    if (b->ports)
        hv_ports_close(b->ports);
    for (unsigned i = 0; i < BLKBACK_DIRECTIONS; i++)
        if (b->pool[i])
            blkback_pool_destroy(b->pool[i]);
    free(b->ring_by_port);
    pthread_mutex_destroy(&b->lock);
    free(b);
}

int blkback_start(struct hv *hv, struct store *store, struct loop *loop, const struct blkback_options *options,
                  struct blkback **out, struct error *err)
{
    struct blkback *b = calloc(1, sizeof *b);
    if (!b)
        return error_set(err, -ENOMEM, "no memory for the block backend");
    b->hv = hv;
    b->store = store;
    b->loop = loop;
    b->options = *options;
    if (!b->options.mapped_pages)
        b->options.mapped_pages = blkback_persistent_budget();
    list_init(&b->finishing);
    list_init(&b->devices);
    b->finish_task.run = blkback_ring_finish_all;
    b->usefulness_task.run = blkback_connection_useful;
    pthread_mutex_init(&b->lock, NULL);
    int rc = 0;
    if (snprintf(b->state_dir, sizeof b->state_dir, "%s", options->state_dir) >= (int)sizeof b->state_dir)
        rc = error_set(err, -ENAMETOOLONG, "the name of the directory %s is too long", options->state_dir);
    if (!rc)
        rc = open_loop_side(b, err);
    if (!rc)
        rc = blkback_manager_start(b, err);
    if (rc) {
        close_loop_side(b);
        return rc;
    }
    *out = b;
    return 0;
}

static bool in_flight(struct blkback *b)
{
    list_for_each (n, &b->devices) {
        struct blkback_disk *disk = &container_of(n, struct blkback_device, link)->disk;
        for (unsigned i = 0; i < disk->queues; i++)
            if (disk->rings[i]->in_flight)
                return true;
    }
    return false;
}

static void stop_rings(struct blkback *b)
{
    list_for_each (n, &b->devices) {
        struct blkback_disk *disk = &container_of(n, struct blkback_device, link)->disk;
        for (unsigned i = 0; i < disk->queues; i++)
            blkback_ring_stop(disk->rings[i], BLKBACK_STOP_LEAVE);
    }
}

void blkback_stop(struct blkback *b, bool leave_rings)
{
    if (!leave_rings) {
        blkback_manager_shut_down(b);
        while (!atomic_load(&b->shut_down))
            loop_turn(b->loop, DRAIN_TURN_MS);
    }
    blkback_manager_stop(b);
    loop_turn(b->loop, 0); /* a command that was still on its way ends here; nobody reads its reply */
    stop_rings(b);
    store_stop_waiting(b->store);
    while (in_flight(b))
        loop_turn(b->loop, DRAIN_TURN_MS);
    list_for_each_safe (n, &b->devices) {
        struct blkback_device *d = container_of(n, struct blkback_device, link);
        blkback_disk_detach(&d->disk, true);
        free(d);
    }
    loop_destroy(b->control);
    close_loop_side(b);
}

static void fill(struct blkback_device *d, struct blkback_device_info *out)
{
    const struct blkback_disk *disk = &d->disk;
    const struct blkback_counters *c = &disk->count;
    *out = (struct blkback_device_info){
        .domid = disk->domid, .vdev = disk->vdev, .state = (unsigned)atomic_load(&d->state), .read_only = disk->read_only,
        .persistent = disk->persistent, .queues = disk->queues, .ring_pages = disk->ring_pages, .reads = c->reads, .writes = c->writes,
        .flushes = c->flushes, .barriers = c->barriers, .discards = c->discards, .indirect = c->indirect, .segments = c->segments,
        .read_bytes = c->read_bytes, .write_bytes = c->write_bytes, .errors = c->errors, .grants_copied = c->grants_copied,
        .grants_mapped = c->grants_mapped, .events_received = c->events_received, .events_sent = c->events_sent, .batches = c->batches,
    };
    if (disk->image)
        image_name(disk->image, out->image); /* it may have been renamed meanwhile */
    else
        memcpy(out->image, d->target, sizeof out->image);
    memcpy(out->problem, d->problem, sizeof out->problem);
    if (!*out->problem && disk->image && image_waits(disk->image))
        snprintf(out->problem, sizeof out->problem, "the store is full and its writes wait; remove images or snapshots, or enlarge it (parallax resize-store)");
    for (unsigned i = 0; i < disk->queues; i++)
        out->in_flight += disk->rings[i]->in_flight;
}

void blkback_each_device(struct blkback *b, int (*each)(void *ctx, const struct blkback_device_info *info), void *ctx)
{
    pthread_mutex_lock(&b->lock);
    list_for_each (n, &b->devices) {
        struct blkback_device_info info;
        fill(container_of(n, struct blkback_device, link), &info);
        if (each(ctx, &info))
            break;
    }
    pthread_mutex_unlock(&b->lock);
}
