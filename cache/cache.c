/* cache.c - the block device: requests, and the bytes in memory. Which block is where: cache_map.h.
 *
 * A read that misses takes a slot (FILLING) for each of its absent blocks when it is submitted, and copies into those that are
 * still its own when it completes. This is what keeps old bytes out:
 *   1. A write or forget turns the slots of reads in flight into orphans: what was read before it is not kept.
 *   2. A write forgets once more when it completes: what was read beside it is not kept either.
 *   3. So a VALID slot holds what the lower device held at some time after the last write to its address completed. */
#include "cache/cache.h"

#include "base/reserve.h"
#include "cache/cache_map.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct cache;

/* One request under way at the lower device. */
struct op {
    struct bdev_req lower_req;
    struct bdev_req *user;
    struct cache *cache;
    struct list_node link; /* in idle */
    uint32_t slots[CACHE_KEEP_BLOCKS]; /* that a read fills; CACHE_NO_SLOT: none for this block */
};

struct cache {
    struct bdev bdev;
    struct bdev *lower;
    struct loop *loop;
    struct cache_map map;
    unsigned char *memory; /* a block for each slot */
    struct op *ops;
    struct list_node idle, waiting, answered; /* ops; writes without an op; reads whose done is to be called */
    struct loop_task answer;
    uint64_t hit_blocks, missed_blocks, bypassed_blocks, dropped_blocks;
};

static struct cache *self(struct bdev *d) { return container_of(d, struct cache, bdev); }
static unsigned char *slot_bytes(const struct cache *c, uint32_t slot) { return c->memory + (size_t)slot * BDEV_BLOCK_SIZE; }

/* ---- Copying ---- */

/* A place in a request's buffers. */
struct cursor {
    const struct iovec *iov;
    size_t offset_bytes;
};

/* Copies one block between the cursor's place and block, and moves on. */
static void copy_block(struct cursor *at, unsigned char *block, bool to_user)
{
    for (size_t done = 0; done < BDEV_BLOCK_SIZE;) {
        size_t n = at->iov->iov_len - at->offset_bytes;
        if (n > BDEV_BLOCK_SIZE - done)
            n = BDEV_BLOCK_SIZE - done;
        unsigned char *user = (unsigned char *)at->iov->iov_base + at->offset_bytes;
        memcpy(to_user ? user : block + done, to_user ? block + done : user, n);
        done += n;
        at->offset_bytes += n;
        if (at->offset_bytes == at->iov->iov_len) {
            at->iov++;
            at->offset_bytes = 0;
        }
    }
}

/* ---- Reads ---- */

static bool all_here(struct cache *c, const struct bdev_req *req)
{
    for (uint32_t i = 0; i < req->blocks; i++) {
        uint32_t slot = cache_map_find(&c->map, req->block + i);
        if (slot == CACHE_NO_SLOT || c->map.slots[slot].state != CACHE_SLOT_VALID)
            return false;
    }
    return true;
}

static void read_from_memory(struct cache *c, struct bdev_req *req)
{
    struct cursor at = { .iov = req->iov };
    for (uint32_t i = 0; i < req->blocks; i++) {
        uint32_t slot = cache_map_find(&c->map, req->block + i);
        cache_map_touch(&c->map, slot);
        copy_block(&at, slot_bytes(c, slot), true);
    }
    c->hit_blocks += req->blocks;
    list_add_tail(&c->answered, &req->link);
    loop_defer(c->loop, &c->answer);
}

static void answer_all(struct loop_task *t)
{
    struct cache *c = container_of(t, struct cache, answer);
    struct list_node now, *n;
    list_init(&now);
    list_splice_tail(&now, &c->answered); /* what done submits is answered by the next task */
    while ((n = list_pop(&now))) {
        struct bdev_req *req = container_of(n, struct bdev_req, link);
        req->done(req, 0);
    }
}

/* admitted: one bit for each block of a read that is to get a slot. */
static void start(struct cache *c, struct bdev_req *req, uint32_t admitted, void (*done)(struct bdev_req *, int))
{
    struct op *op = container_of(list_pop(&c->idle), struct op, link);
    op->cache = c;
    op->user = req;
    op->lower_req = (struct bdev_req){
        .op = req->op, .block = req->block, .blocks = req->blocks, .iov_count = req->iov_count, .iov = req->iov, .done = done,
    };
    if (req->op == BDEV_READ)
        for (uint32_t i = 0; i < req->blocks; i++)
            op->slots[i] = admitted >> i & 1 ? cache_map_begin(&c->map, req->block + i) : CACHE_NO_SLOT;
    bdev_submit(c->lower, &op->lower_req);
}

static void start_waiting(struct cache *c);

static void read_done(struct bdev_req *lower_req, int error)
{
    struct op *op = container_of(lower_req, struct op, lower_req);
    struct cache *c = op->cache;
    struct bdev_req *user = op->user;
    struct cursor at = { .iov = user->iov };
    unsigned char unwanted[BDEV_BLOCK_SIZE];
    for (uint32_t i = 0; i < user->blocks; i++) {
        uint32_t slot = op->slots[i];
        if (!error)
            copy_block(&at, slot == CACHE_NO_SLOT ? unwanted : slot_bytes(c, slot), false);
        if (slot != CACHE_NO_SLOT)
            cache_map_end(&c->map, slot, !error);
    }
    list_add_tail(&c->idle, &op->link);
    start_waiting(c);
    user->done(user, error);
}

static uint32_t admit(struct cache *c, const struct bdev_req *req)
{
    uint32_t admitted = 0;
    for (uint32_t i = 0; i < req->blocks; i++) {
        uint32_t found = cache_map_find(&c->map, req->block + i);
        if (found == CACHE_NO_SLOT)
            admitted |= (uint32_t)cache_map_admit(&c->map, req->block + i) << i;
        else if (c->map.slots[found].state == CACHE_SLOT_VALID)
            cache_map_touch(&c->map, found);
    }
    return admitted;
}

static void submit_read(struct cache *c, struct bdev_req *req)
{
    if (all_here(c, req)) {
        read_from_memory(c, req);
        return;
    }
    c->missed_blocks += req->blocks;
    uint32_t admitted = req->blocks > CACHE_KEEP_BLOCKS || list_empty(&c->idle) ? 0 : admit(c, req);
    if (admitted) {
        start(c, req, admitted, read_done);
    } else {
        c->bypassed_blocks += req->blocks;
        bdev_submit(c->lower, req);
    }
}

/* ---- Writes ---- */

static void write_done(struct bdev_req *lower_req, int error)
{
    struct op *op = container_of(lower_req, struct op, lower_req);
    struct cache *c = op->cache;
    struct bdev_req *user = op->user;
    cache_map_forget(&c->map, user->block, user->blocks);
    list_add_tail(&c->idle, &op->link);
    start_waiting(c);
    user->done(user, error);
}

static void start_write(struct cache *c, struct bdev_req *req)
{
    cache_map_forget(&c->map, req->block, req->blocks);
    start(c, req, 0, write_done);
}

static void start_waiting(struct cache *c)
{
    while (!list_empty(&c->idle) && !list_empty(&c->waiting))
        start_write(c, container_of(list_pop(&c->waiting), struct bdev_req, link));
}

static void cache_submit(struct bdev *d, struct bdev_req *req)
{
    struct cache *c = self(d);
    if (req->op == BDEV_FLUSH)
        bdev_submit(c->lower, req);
    else if (req->op == BDEV_READ)
        submit_read(c, req);
    else if (list_empty(&c->idle))
        list_add_tail(&c->waiting, &req->link);
    else
        start_write(c, req);
}

/* ---- Blocking calls ---- */

static int cache_read(struct bdev *d, uint64_t block, void *buf, uint32_t blocks) { return bdev_read(self(d)->lower, block, buf, blocks); }
static int cache_write(struct bdev *d, uint64_t block, const void *buf, uint32_t blocks)
{
    return bdev_write(self(d)->lower, block, buf, blocks);
}

static int cache_read_many(struct bdev *d, const uint64_t *blocks, void *const *bufs, unsigned count)
{
    return bdev_read_many(self(d)->lower, blocks, bufs, count);
}

static int cache_write_many(struct bdev *d, const uint64_t *blocks, void *const *bufs, unsigned count)
{
    return bdev_write_many(self(d)->lower, blocks, bufs, count);
}

static int cache_flush(struct bdev *d) { return bdev_flush(self(d)->lower); }
static int cache_punch(struct bdev *d, uint64_t block, uint64_t blocks) { return bdev_punch(self(d)->lower, block, blocks); }
static int cache_fill(struct bdev *d, uint64_t block, uint64_t blocks) { return bdev_fill(self(d)->lower, block, blocks); }
static int cache_zero(struct bdev *d, uint64_t block, uint64_t blocks) { return bdev_zero(self(d)->lower, block, blocks); }
static int cache_hole(struct bdev *d, uint64_t from, uint64_t *start, uint64_t *end) { return bdev_hole(self(d)->lower, from, start, end); }

static int cache_grow(struct bdev *d, uint64_t blocks)
{
    struct bdev *lower = self(d)->lower;
    int err = bdev_grow(lower, blocks);
    /* The loop may be looking at the size meanwhile. */
    __atomic_store_n(&d->blocks, __atomic_load_n(&lower->blocks, __ATOMIC_RELAXED), __ATOMIC_RELAXED);
    return err;
}

/* ---- The whole ---- */

static void cache_close(struct bdev *d)
{
    struct cache *c = self(d);
    if (c->answer.queued)
        loop_cancel(c->loop, &c->answer);
    reserve_release(c->memory, (size_t)c->map.capacity * BDEV_BLOCK_SIZE);
    cache_map_fini(&c->map);
    free(c->ops);
    free(c);
}

static const struct bdev_ops cache_ops = {
    .submit = cache_submit, .read = cache_read, .write = cache_write, .read_many = cache_read_many, .write_many = cache_write_many,
    .flush = cache_flush,   .grow = cache_grow, .punch = cache_punch, .fill = cache_fill, .zero = cache_zero, .hole = cache_hole, .close = cache_close,
};

int cache_open(struct loop *loop, struct bdev *lower, uint64_t bytes, struct bdev **out)
{
    struct cache *c = calloc(1, sizeof *c);
    if (!c)
        return -ENOMEM;
    c->bdev = (struct bdev){ .ops = &cache_ops, .blocks = lower->blocks, .max_blocks = lower->max_blocks };
    c->lower = lower;
    c->loop = loop;
    c->answer.run = answer_all;
    list_init(&c->idle);
    list_init(&c->waiting);
    list_init(&c->answered);
    int err = cache_map_init(&c->map, bytes);
    if (err) {
        free(c);
        return err;
    }
    /* Touched block by block as they come in. */
    c->memory = reserve_memory((size_t)c->map.capacity * BDEV_BLOCK_SIZE);
    c->ops = calloc(CACHE_OPS, sizeof *c->ops);
    if (!c->memory || !c->ops) {
        cache_close(&c->bdev);
        return -ENOMEM;
    }
    for (unsigned i = 0; i < CACHE_OPS; i++)
        list_add_tail(&c->idle, &c->ops[i].link);
    *out = &c->bdev;
    return 0;
}

void cache_forget(struct bdev *cached, uint64_t address, uint64_t count) { cache_map_forget(&self(cached)->map, address, count); }

void cache_drop(struct bdev *cached, uint64_t address)
{
    self(cached)->dropped_blocks++;
    cache_map_forget(&self(cached)->map, address, 1);
}

void cache_get_stats(const struct bdev *cached, struct cache_stats *out)
{
    const struct cache *c = container_of(cached, struct cache, bdev);
    *out = (struct cache_stats){ .hit_blocks = c->hit_blocks,
                                 .missed_blocks = c->missed_blocks,
                                 .bypassed_blocks = c->bypassed_blocks,
                                 .dropped_blocks = c->dropped_blocks,
                                 .blocks = c->map.queue[CACHE_PROBATION].count + c->map.queue[CACHE_MAIN].count,
                                 .capacity_blocks = c->map.capacity };
}
