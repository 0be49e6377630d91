/* blkback_disk.c - the commands of the control thread, carried out on the loop: open the image, connect rings, close.
 *
 * 1. One command at a time; its reply is posted when it has ended, and from then on the device's fields are the control
 *    thread's again.
 * 2. The image is closed only when no ring has anything in flight. */
#include "blkback/blkback_private.h"

#include <errno.h>

static struct blkback_device *device_of(struct blkback_disk *disk) { return container_of(disk, struct blkback_device, disk); }

static void reply(struct blkback_device *d, int result)
{
    d->result = result;
    loop_post(d->disk.b->control, &d->to_control);
}

static void resized(void *ctx, uint64_t size_bytes)
{
    struct blkback_device *d = ctx;
    d->disk.sectors = size_bytes / IMAGE_SECTOR;
    atomic_store(&d->new_sectors, d->disk.sectors);
    atomic_store(&d->resized, true);
    loop_post(d->disk.b->control, &d->notice);
}

static int open_image(struct blkback_device *d)
{
    struct blkback_disk *disk = &d->disk;
    struct image_open_options opt = {
        .mode = d->read_only ? IMAGE_READ_ONLY : IMAGE_READ_WRITE, .holder = d->holder, .resized = resized, .ctx = d
    };
    int err = image_open(disk->b->store, *d->identity ? d->identity : d->target, &opt, &disk->image, &d->error);
    if (err) {
        disk->image = NULL;
        return error_set(&d->error, err, "image %s cannot be opened (%d)", d->target, err);
    }
    image_identity(disk->image, d->identity);
    pthread_mutex_lock(&disk->b->lock);
    image_name(disk->image, d->target);
    pthread_mutex_unlock(&disk->b->lock);
    disk->read_only = d->read_only;
    disk->discard = d->discard && !d->read_only && !(disk->hidden & BLKBACK_DISCARD);
    d->sectors = disk->sectors = image_size(disk->image) / IMAGE_SECTOR;
    return 0;
}

static void close_rings(struct blkback_disk *disk, bool keep_tables)
{
    for (unsigned i = 0; i < disk->queues; i++)
        blkback_ring_close(disk->rings[i], keep_tables);
    disk->queues = disk->ring_pages = 0;
    disk->persistent = disk->no_space = false;
}

static int connect_rings(struct blkback_device *d, bool reattach)
{
    struct blkback_disk *disk = &d->disk;
    for (unsigned i = 0; i < d->connection.queues; i++) {
        int err = blkback_ring_open(disk, &d->connection, i, reattach, &disk->rings[i], &d->error);
        if (err) {
            close_rings(disk, false);
            return err;
        }
        disk->queues = i + 1;
    }
    disk->ring_pages = 1u << d->connection.order;
    disk->persistent = d->connection.persistent;
    disk->no_space = d->connection.no_space;
    for (unsigned i = 0; i < disk->queues; i++)
        blkback_ring_start(disk->rings[i]);
    return 0;
}

static int reattach(struct blkback_device *d)
{
    int err = open_image(d);
    d->image_failed = err != 0;
    return err ? err : connect_rings(d, true);
}

static bool busy(const struct blkback_disk *disk)
{
    for (unsigned i = 0; i < disk->queues; i++)
        if (disk->rings[i]->in_flight)
            return true;
    return false;
}

void blkback_disk_detach(struct blkback_disk *disk, bool keep_tables)
{
    close_rings(disk, keep_tables);
    if (disk->image)
        image_close(disk->image);
    disk->image = NULL;
}

void blkback_disk_ring_idle(struct blkback_disk *disk)
{
    if (!disk->closing || busy(disk))
        return;
    disk->closing = false;
    blkback_disk_detach(disk, false);
    reply(device_of(disk), 0);
}

static void begin_close(struct blkback_disk *disk, bool discarding)
{
    for (unsigned i = 0; i < disk->queues; i++)
        blkback_ring_stop(disk->rings[i], discarding ? BLKBACK_STOP_DISCARD : BLKBACK_STOP_ANSWER);
    if (disk->image)
        image_stop_waiting(disk->image); /* nobody is left to whom it would matter */
    disk->closing = true;
    blkback_disk_ring_idle(disk);
}

void blkback_disk_break(struct blkback_disk *disk)
{
    struct blkback_device *d = device_of(disk);
    for (unsigned i = 0; i < disk->queues; i++)
        blkback_ring_stop(disk->rings[i], BLKBACK_STOP_DISCARD);
    atomic_store(&d->broken, true);
    loop_post(disk->b->control, &d->notice);
}

void blkback_disk_run(struct blkback_device *d)
{
    switch (d->command) {
    case BLKBACK_OPEN:
        reply(d, open_image(d));
        break;
    case BLKBACK_CONNECT:
        reply(d, connect_rings(d, false));
        break;
    case BLKBACK_REATTACH:
        reply(d, reattach(d));
        break;
    case BLKBACK_CLOSE:
        begin_close(&d->disk, d->abandoned);
        break;
    case BLKBACK_NOTHING:
        break;
    }
}
