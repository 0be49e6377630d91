/* memory_crash.c - the end of a memory store's life: what comes through a power cut or a kill.
 *
 * The new store begins with what is durable. A power cut then lets any part of the unflushed blocks and of writes in flight
 * through onto the medium; a kill puts all unflushed blocks, and any of those in flight, among the new store's unflushed. */
#include "parallax/store/memory.h"
#include "parallax/store/memory_private.h"

/* What of the unflushed contents comes through a crash. */
enum survival { NOTHING, EVERYTHING, SOME_BLOCKS, SOME_SECTORS, SURVIVALS };

static unsigned surviving_sectors(enum survival s, uint64_t *random)
{
    uint64_t r = memory_random(random) >> 8;
    switch (s) {
    case EVERYTHING:
        return 0xff;
    case SOME_BLOCKS:
        return r & 1 ? 0xff : 0;
    case SOME_SECTORS:
        return r & 0x300 ? (unsigned)r & 0xff : 0xff;
    default:
        return 0;
    }
}

/* Lets one block of a write through, in whole or in part: onto the medium, or among the unflushed. */
static int land(struct memory *to, uint64_t block, const void *data, unsigned mask, bool durable)
{
    if (!mask)
        return 0;
    if (durable)
        return memory_pages_write(&to->durable, block, data, mask);
    to->completed++;
    return memory_write_one(to, block, data, mask);
}

static int land_in_flight(struct memory *from, struct memory *to, enum survival s, uint64_t *random, bool durable)
{
    int err = 0;
    list_for_each(n, &from->pending) {
        struct bdev_req *req = container_of(n, struct bdev_req, link);
        struct memory_cursor c = { req->iov, 0 };
        unsigned char data[BDEV_BLOCK_SIZE];
        if (req->op != BDEV_WRITE || !memory_in_range(from, req->block, req->blocks))
            continue;
        for (uint32_t i = 0; i < req->blocks && !err; i++) {
            memory_cursor_move(&c, data, true);
            err = land(to, req->block + i, data, surviving_sectors(s, random), durable);
        }
    }
    return err;
}

static int power_cut(struct memory *from, struct memory *to, uint64_t *random)
{
    enum survival s = (enum survival)(memory_random(random) % SURVIVALS);
    int err = memory_pages_copy(&from->durable, &to->durable);
    list_for_each(n, &from->unflushed) {
        struct unflushed *u = container_of(n, struct unflushed, link);
        if (!err)
            err = land(to, u->block, u->data, u->sector_mask & surviving_sectors(s, random), true);
    }
    if (!err)
        err = land_in_flight(from, to, s, random, true);
    return err ? err : memory_pages_copy(&to->durable, &to->current);
}

static int kill_process(struct memory *from, struct memory *to, uint64_t *random)
{
    int err = memory_pages_copy(&from->durable, &to->durable);
    if (!err)
        err = memory_pages_copy(&from->durable, &to->current);
    list_for_each(n, &from->unflushed) {
        struct unflushed *u = container_of(n, struct unflushed, link);
        if (!err)
            err = land(to, u->block, u->data, u->sector_mask, false);
    }
    return err ? err : land_in_flight(from, to, SOME_BLOCKS, random, false);
}

static int end_life(struct backing *b, uint64_t seed, struct loop *loop, struct backing *out,
                    int (*crash)(struct memory *from, struct memory *to, uint64_t *random))
{
    struct memory *from = b->implementation, *to;
    uint64_t random = seed ? seed : 1;
    struct memory_options opt = { .loop = loop, .seed = memory_random(&random), .delay_max_ms = from->delay_max_ms,
                                  .max_blocks = from->dev.max_blocks };
    int err = memory_begin(&opt, &to);
    if (err)
        return err;
    pthread_mutex_lock(&from->lock);
    err = crash(from, to, &random);
    to->dev.blocks = from->dev.blocks;
    to->holes = from->holes;
    if (!err)
        err = memory_catalog_copy(from->catalog, &to->catalog);
    if (!err) {
        from->dead = true;
        memory_catalog_die(from->catalog);
    }
    pthread_mutex_unlock(&from->lock);
    if (err)
        bdev_close(&to->dev);
    else
        memory_finish(to, out);
    return err;
}

int memory_power_cut(struct backing *b, uint64_t seed, struct loop *loop, struct backing *out) { return end_life(b, seed, loop, out, power_cut); }
int memory_kill(struct backing *b, uint64_t seed, struct loop *loop, struct backing *out) { return end_life(b, seed, loop, out, kill_process); }
