/* memory_bdev.c - see memory_bdev.h. */
#include "tests/support/memory_bdev.h"

#include "tests/support/unit.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static struct memory_bdev *self(struct bdev *d) { return container_of(d, struct memory_bdev, bdev); }

void *memory_bdev_block(struct memory_bdev *d, uint64_t block) { return d->data + block * BDEV_BLOCK_SIZE; }

/* Counts the I/O; under the lock. */
static int begin(struct memory_bdev *d, uint64_t block, uint64_t blocks)
{
    if (++d->ios == d->fail_at)
        return -EIO;
    return block + blocks <= d->bdev.blocks ? 0 : -EINVAL;
}

static int copy(struct memory_bdev *d, enum bdev_op op, uint64_t block, void *buf, uint64_t blocks)
{
    if (op == BDEV_WRITE) {
        d->blocks_written += blocks;
        memcpy(memory_bdev_block(d, block), buf, blocks * BDEV_BLOCK_SIZE);
        return 0;
    }
    d->blocks_read += blocks;
    if (d->bad_block && d->bad_block >= block && d->bad_block < block + blocks)
        return -EIO;
    memcpy(buf, memory_bdev_block(d, block), blocks * BDEV_BLOCK_SIZE);
    return 0;
}

static int mem_read(struct bdev *b, uint64_t block, void *buf, uint32_t blocks)
{
    struct memory_bdev *d = self(b);
    pthread_mutex_lock(&d->lock);
    d->reads++;
    int err = begin(d, block, blocks);
    if (!err)
        err = copy(d, BDEV_READ, block, buf, blocks);
    pthread_mutex_unlock(&d->lock);
    return err;
}

static int transfer_many(struct memory_bdev *d, enum bdev_op op, uint64_t *calls, const uint64_t *blocks, void *const *bufs, unsigned count)
{
    int first = 0;
    pthread_mutex_lock(&d->lock);
    (*calls)++;
    for (unsigned i = 0; i < count; i++) {
        int err = begin(d, blocks[i], 1);
        if (!err)
            err = copy(d, op, blocks[i], bufs[i], 1);
        if (!first)
            first = err;
    }
    pthread_mutex_unlock(&d->lock);
    return first;
}

static int mem_read_many(struct bdev *b, const uint64_t *blocks, void *const *bufs, unsigned count)
{
    return transfer_many(self(b), BDEV_READ, &self(b)->read_manys, blocks, bufs, count);
}

static int mem_write_many(struct bdev *b, const uint64_t *blocks, void *const *bufs, unsigned count)
{
    return transfer_many(self(b), BDEV_WRITE, &self(b)->write_manys, blocks, bufs, count);
}

static int mem_write(struct bdev *b, uint64_t block, const void *buf, uint32_t blocks)
{
    struct memory_bdev *d = self(b);
    pthread_mutex_lock(&d->lock);
    d->writes++;
    int err = begin(d, block, blocks);
    if (!err)
        err = copy(d, BDEV_WRITE, block, (void *)buf, blocks);
    pthread_mutex_unlock(&d->lock);
    return err;
}

static int mem_flush(struct bdev *b)
{
    struct memory_bdev *d = self(b);
    pthread_mutex_lock(&d->lock);
    d->flushes++;
    int err = begin(d, 0, 0);
    pthread_mutex_unlock(&d->lock);
    return err;
}

static int mem_grow(struct bdev *b, uint64_t blocks) { return blocks <= b->max_blocks ? 0 : -ENOSPC; }

static int mem_punch(struct bdev *b, uint64_t block, uint64_t blocks)
{
    memset(memory_bdev_block(self(b), block), 0xdb, blocks * BDEV_BLOCK_SIZE);
    return 0;
}

static int transfer(struct memory_bdev *d, struct bdev_req *req)
{
    int err = begin(d, req->block, req->op == BDEV_FLUSH ? 0 : req->blocks);
    uint64_t block = req->block;
    switch (req->op) {
    case BDEV_FLUSH: d->flushes++; break;
    case BDEV_READ: d->reads++; break;
    case BDEV_WRITE: d->writes++; break;
    }
    for (unsigned i = 0; !err && req->op != BDEV_FLUSH && i < req->iov_count; i++) {
        uint64_t blocks = req->iov[i].iov_len / BDEV_BLOCK_SIZE;
        err = copy(d, req->op, block, req->iov[i].iov_base, blocks);
        block += blocks;
    }
    return err;
}

/* Completes one request chosen at random, and comes back later in this turn or in the next one for the others. */
static void complete_one(struct loop_task *t)
{
    struct memory_bdev *d = container_of(t, struct memory_bdev, complete);
    if (d->held || list_empty(&d->pending))
        return;
    uint64_t skip = unit_random(&d->random) % d->pending_count;
    struct list_node *n = d->pending.next;
    while (skip--)
        n = n->next;
    list_remove(n);
    d->pending_count--;
    struct bdev_req *req = container_of(n, struct bdev_req, link);
    pthread_mutex_lock(&d->lock);
    int err = transfer(d, req);
    pthread_mutex_unlock(&d->lock);
    if (!list_empty(&d->pending))
        (unit_random(&d->random) % 4 ? loop_defer : loop_defer_last)(d->loop, &d->complete);
    req->done(req, err);
}

static void mem_submit(struct bdev *b, struct bdev_req *req)
{
    struct memory_bdev *d = self(b);
    for (unsigned i = 0; req->op == BDEV_READ && i < req->iov_count; i++)
        memset(req->iov[i].iov_base, 0xcc, req->iov[i].iov_len);
    list_add_tail(&d->pending, &req->link);
    if (++d->pending_count > d->pending_most)
        d->pending_most = d->pending_count;
    if (!d->held)
        loop_defer(d->loop, &d->complete);
}

void memory_bdev_release(struct memory_bdev *d)
{
    d->held = false;
    loop_defer(d->loop, &d->complete);
}

static void mem_close(struct bdev *b)
{
    struct memory_bdev *d = self(b);
    if (d->loop)
        loop_cancel(d->loop, &d->complete);
    munmap(d->data, b->max_blocks * BDEV_BLOCK_SIZE);
    pthread_mutex_destroy(&d->lock);
    free(d);
}

static const struct bdev_ops ops = {
    .submit = mem_submit, .read = mem_read, .write = mem_write, .read_many = mem_read_many, .write_many = mem_write_many,
    .flush = mem_flush,   .grow = mem_grow, .punch = mem_punch, .close = mem_close,
};

int memory_bdev_open(struct loop *loop, uint64_t blocks, uint64_t seed, struct memory_bdev **out)
{
    struct memory_bdev *d = calloc(1, sizeof *d);
    if (!d)
        return -ENOMEM;
    void *data = mmap(NULL, blocks * BDEV_BLOCK_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (data == MAP_FAILED) {
        free(d);
        return -ENOMEM;
    }
    d->bdev = (struct bdev){ .ops = &ops, .blocks = blocks, .max_blocks = blocks };
    d->loop = loop;
    d->data = data;
    d->random = seed ? seed : 1;
    d->complete.run = complete_one;
    list_init(&d->pending);
    pthread_mutex_init(&d->lock, NULL);
    *out = d;
    return 0;
}
