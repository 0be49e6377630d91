/* memory.c - see memory.h.
 *
 * `current` is what reads see: every write that has taken effect. `durable` is what a flush has promised. Between them lies
 * the list of unflushed blocks, in the order in which their writes completed:
 * 1. current = durable, overwritten by the unflushed blocks in order (but for punched ranges, which hold nothing).
 * 2. A write's number is its place in the order of completions; a flush submitted when N were complete moves those up to N.
 * 3. A power cut begins with `durable` and lets any part of the unflushed blocks, and of writes in flight, come through.
 * Everything is under `lock`; a request's done runs without it. */
#include "parallax/store/memory.h"

#include "parallax/store/memory_private.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

static struct memory *memory_of(struct bdev *d) { return container_of(d, struct memory, dev); }
static struct memory *backing_memory(struct backing *b) { return b->implementation; }

bool memory_in_range(const struct memory *m, uint64_t block, uint64_t blocks)
{
    return block <= m->dev.blocks && blocks <= m->dev.blocks - block;
}

/* Counts an I/O; returns the error that it is to fail with. */
static int begin_io(struct memory *m, unsigned kind)
{
    if (m->dead)
        return -EIO;
    m->io_count[__builtin_ctz(kind)]++;
    if (!(m->fault.kinds & kind))
        return 0;
    uint64_t seen = ++m->fault_seen;
    if (seen != m->fault.nth && !(m->fault.lasting && seen > m->fault.nth))
        return 0;
    m->fault_hits++;
    return m->fault.error;
}

int memory_write_one(struct memory *m, uint64_t block, const void *data, unsigned sector_mask)
{
    struct unflushed *u = malloc(sizeof *u);
    int err = u ? memory_pages_write(&m->current, block, data, sector_mask) : -ENOMEM;
    if (err) {
        free(u);
        return err;
    }
    u->block = block;
    u->number = m->completed;
    u->sector_mask = sector_mask;
    memcpy(u->data, data, BDEV_BLOCK_SIZE);
    list_add_tail(&m->unflushed, &u->link);
    return 0;
}

void memory_cursor_move(struct memory_cursor *c, unsigned char *data, bool from_iov)
{
    for (size_t done = 0; done < BDEV_BLOCK_SIZE;) {
        size_t left = c->iov->iov_len - c->at, n = left < BDEV_BLOCK_SIZE - done ? left : BDEV_BLOCK_SIZE - done;
        unsigned char *there = (unsigned char *)c->iov->iov_base + c->at;
        memcpy(from_iov ? data + done : there, from_iov ? there : data + done, n);
        done += n;
        c->at += n;
        if (c->at == c->iov->iov_len)
            *c = (struct memory_cursor){ c->iov + 1, 0 };
    }
}

/* A failing write leaves nothing, or some sectors if the fault says so. */
static int write_iov(struct memory *m, uint64_t block, uint32_t blocks, const struct iovec *iov)
{
    struct memory_cursor c = { iov, 0 };
    unsigned char data[BDEV_BLOCK_SIZE];
    int fails = begin_io(m, MEMORY_WRITE), err = 0;
    if (fails && (m->dead || !m->fault.partial))
        return fails;
    m->completed++;
    for (uint32_t i = 0; i < blocks && !err; i++) {
        memory_cursor_move(&c, data, true);
        err = memory_write_one(m, block + i, data, fails ? (unsigned)memory_random(&m->random) & 0xff : ~0u);
    }
    return fails ? fails : err;
}

static int read_iov(struct memory *m, uint64_t block, uint32_t blocks, const struct iovec *iov)
{
    struct memory_cursor c = { iov, 0 };
    unsigned char data[BDEV_BLOCK_SIZE];
    int err = begin_io(m, MEMORY_READ);
    for (uint32_t i = 0; i < blocks && !err; i++) {
        memory_pages_read(&m->current, block + i, data);
        memory_cursor_move(&c, data, false);
    }
    return err;
}

/* Makes the writes up to that number durable. */
static int flush_to(struct memory *m, uint64_t number)
{
    int err = begin_io(m, MEMORY_FLUSH);
    while (!err && !list_empty(&m->unflushed)) {
        struct unflushed *u = container_of(m->unflushed.next, struct unflushed, link);
        if (u->number > number)
            break;
        err = memory_pages_write(&m->durable, u->block, u->data, u->sector_mask);
        if (err)
            break;
        list_remove(&u->link);
        free(u);
    }
    return err;
}

static int perform(struct memory *m, struct bdev_req *req)
{
    if (req->op == BDEV_FLUSH)
        return flush_to(m, (uint64_t)(uintptr_t)req->device_private);
    if (!req->blocks || !req->iov_count || !memory_in_range(m, req->block, req->blocks))
        return -EINVAL;
    return req->op == BDEV_READ ? read_iov(m, req->block, req->blocks, req->iov) : write_iov(m, req->block, req->blocks, req->iov);
}

static void wake(struct memory *m)
{
    uint64_t one = 1;
    ssize_t n = write(m->wake.fd, &one, sizeof one);
    (void)n; /* a full counter wakes as well */
}

/* One more batch, later. The lock is held. */
static void schedule(struct memory *m)
{
    if (m->delay_max_ms)
        loop_timer_start(m->loop, &m->delay, memory_random(&m->random) % (m->delay_max_ms + 1));
    else
        wake(m);
}

/* Performs some of the pending requests, in an order of its own; they complete in that order. */
static void perform_some(struct memory *m, struct list_node *done)
{
    unsigned count = 1 + (unsigned)(memory_random(&m->random) % m->pending_count);
    for (; count; count--) {
        struct list_node *n = m->pending.next;
        for (uint64_t skip = memory_random(&m->random) % (m->pending_count < 16 ? m->pending_count : 16); skip; skip--)
            n = n->next;
        struct bdev_req *req = container_of(n, struct bdev_req, link);
        list_remove(n);
        m->pending_count--;
        req->device_private = (void *)(intptr_t)perform(m, req);
        list_add_tail(done, n);
    }
}

static void complete_some(struct memory *m)
{
    struct list_node done = LIST_INIT(done), *n;
    pthread_mutex_lock(&m->lock);
    if (m->pending_count)
        perform_some(m, &done);
    if (m->pending_count)
        schedule(m);
    pthread_mutex_unlock(&m->lock);
    while ((n = list_pop(&done))) {
        struct bdev_req *req = container_of(n, struct bdev_req, link);
        req->done(req, (int)(intptr_t)req->device_private);
    }
}

static void wake_ready(struct loop_fd *w, uint32_t epoll_events)
{
    (void)epoll_events;
    uint64_t ignored;
    ssize_t n = read(w->fd, &ignored, sizeof ignored);
    (void)n;
    complete_some(container_of(w, struct memory, wake));
}

static void delay_expired(struct loop_timer *t) { complete_some(container_of(t, struct memory, delay)); }

static void submit(struct bdev *d, struct bdev_req *req)
{
    struct memory *m = memory_of(d);
    assert(m->loop);
    pthread_mutex_lock(&m->lock);
    req->device_private = (void *)(uintptr_t)m->completed;
    list_add_tail(&m->pending, &req->link);
    if (!m->pending_count++)
        schedule(m);
    pthread_mutex_unlock(&m->lock);
}

static int read_blocks(struct bdev *d, uint64_t block, void *buf, uint32_t blocks)
{
    struct memory *m = memory_of(d);
    struct iovec iov = { buf, (size_t)blocks * BDEV_BLOCK_SIZE };
    pthread_mutex_lock(&m->lock);
    int err = memory_in_range(m, block, blocks) ? read_iov(m, block, blocks, &iov) : -EINVAL;
    pthread_mutex_unlock(&m->lock);
    return err;
}

static int write_blocks(struct bdev *d, uint64_t block, const void *buf, uint32_t blocks)
{
    struct memory *m = memory_of(d);
    struct iovec iov = { (void *)(uintptr_t)buf, (size_t)blocks * BDEV_BLOCK_SIZE };
    pthread_mutex_lock(&m->lock);
    int err = memory_in_range(m, block, blocks) ? write_iov(m, block, blocks, &iov) : -EINVAL;
    pthread_mutex_unlock(&m->lock);
    return err;
}

static int transfer_many(struct bdev *d, bool write, const uint64_t *blocks, void *const *bufs, unsigned count)
{
    int err = 0;
    for (unsigned i = 0; i < count; i++) {
        int one = write ? write_blocks(d, blocks[i], bufs[i], 1) : read_blocks(d, blocks[i], bufs[i], 1);
        err = err ? err : one;
    }
    return err;
}

static int read_many(struct bdev *d, const uint64_t *blocks, void *const *bufs, unsigned count)
{
    return transfer_many(d, false, blocks, bufs, count);
}

static int write_many(struct bdev *d, const uint64_t *blocks, void *const *bufs, unsigned count)
{
    return transfer_many(d, true, blocks, bufs, count);
}

static int flush(struct bdev *d)
{
    struct memory *m = memory_of(d);
    pthread_mutex_lock(&m->lock);
    int err = flush_to(m, m->completed);
    pthread_mutex_unlock(&m->lock);
    return err;
}

static int grow(struct bdev *d, uint64_t blocks)
{
    struct memory *m = memory_of(d);
    pthread_mutex_lock(&m->lock);
    int err = begin_io(m, MEMORY_GROW);
    if (!err && blocks > d->max_blocks)
        err = -ENOSPC;
    if (!err)
        err = memory_pages_resize(&m->durable, blocks);
    if (!err)
        err = memory_pages_resize(&m->current, blocks);
    if (!err && blocks > d->blocks)
        __atomic_store_n(&d->blocks, blocks, __ATOMIC_RELEASE);
    pthread_mutex_unlock(&m->lock);
    return err;
}

/* What was written there before and not flushed must not come back. */
static void forget_unflushed(struct memory *m, uint64_t block, uint64_t blocks)
{
    list_for_each_safe(n, &m->unflushed) {
        struct unflushed *u = container_of(n, struct unflushed, link);
        if (u->block - block >= blocks)
            continue;
        list_remove(n);
        free(u);
    }
}

static int punch(struct bdev *d, uint64_t block, uint64_t blocks)
{
    struct memory *m = memory_of(d);
    pthread_mutex_lock(&m->lock);
    int err = m->dead ? -EIO : memory_in_range(m, block, blocks) ? 0 : -EINVAL;
    if (!err)
        forget_unflushed(m, block, blocks);
    for (uint64_t i = 0; i < blocks && !err; i++) {
        m->holes += !memory_pages_is_hole(&m->current, block + i);
        memory_pages_punch(&m->current, block + i);
        memory_pages_punch(&m->durable, block + i);
    }
    pthread_mutex_unlock(&m->lock);
    return err;
}

static int fill(struct bdev *d, uint64_t block, uint64_t blocks)
{
    struct memory *m = memory_of(d);
    pthread_mutex_lock(&m->lock);
    int err = memory_in_range(m, block, blocks) ? begin_io(m, MEMORY_GROW) : -EINVAL;
    for (uint64_t i = 0; i < blocks && !err; i++) {
        m->holes -= memory_pages_is_hole(&m->current, block + i);
        memory_pages_fill(&m->current, block + i);
        memory_pages_fill(&m->durable, block + i);
    }
    pthread_mutex_unlock(&m->lock);
    return err;
}

static int hole(struct bdev *d, uint64_t from, uint64_t *start, uint64_t *end)
{
    struct memory *m = memory_of(d);
    uint64_t i = from;
    pthread_mutex_lock(&m->lock);
    while (i < d->blocks && !memory_pages_is_hole(&m->current, i))
        i++;
    uint64_t first = i, last = d->blocks;
    while (i < last && memory_pages_is_hole(&m->current, i))
        i++;
    pthread_mutex_unlock(&m->lock);
    if (first == last)
        return -ENOENT;
    *start = first;
    *end = i;
    return 0;
}

static void close_memory(struct bdev *d)
{
    struct memory *m = memory_of(d);
    if (m->loop) {
        loop_timer_stop(m->loop, &m->delay);
        loop_fd_remove(m->loop, &m->wake);
    }
    if (m->wake.fd >= 0)
        close(m->wake.fd);
    struct list_node *n;
    while ((n = list_pop(&m->unflushed)))
        free(container_of(n, struct unflushed, link));
    memory_pages_fini(&m->current);
    memory_pages_fini(&m->durable);
    if (m->catalog)
        catalog_close(m->catalog);
    pthread_mutex_destroy(&m->lock);
    free(m);
}

static const struct bdev_ops memory_ops = {
    .submit = submit, .read = read_blocks, .write = write_blocks, .read_many = read_many, .write_many = write_many,
    .flush = flush, .grow = grow, .punch = punch, .fill = fill, .hole = hole, .close = close_memory,
};

static void close_backing(struct backing *b)
{
    bdev_close(b->blocks);
    memset(b, 0, sizeof *b);
}

static int free_bytes(struct backing *b, uint64_t *free_out, uint64_t *total_out)
{
    struct bdev *d = b->blocks;
    *free_out = (d->max_blocks - d->blocks + memory_of(d)->holes) * BDEV_BLOCK_SIZE;
    *total_out = d->max_blocks * BDEV_BLOCK_SIZE;
    return 0;
}

int memory_begin(const struct memory_options *opt, struct memory **out)
{
    struct memory *m = calloc(1, sizeof *m);
    if (!m)
        return -ENOMEM;
    m->dev.ops = &memory_ops;
    m->dev.max_blocks = opt->max_blocks ? opt->max_blocks : UINT64_MAX / BDEV_BLOCK_SIZE;
    m->loop = opt->loop;
    m->random = opt->seed ? opt->seed : 1;
    m->delay_max_ms = opt->delay_max_ms;
    m->delay.expired = delay_expired;
    m->wake.ready = wake_ready;
    pthread_mutex_init(&m->lock, NULL);
    list_init(&m->unflushed);
    list_init(&m->pending);
    m->wake.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int err = m->wake.fd < 0 ? -errno : 0;
    if (!err && m->loop)
        err = loop_fd_add(m->loop, &m->wake, EPOLLIN);
    if (err)
        close_memory(&m->dev);
    else
        *out = m;
    return err;
}

void memory_finish(struct memory *m, struct backing *out)
{
    *out = (struct backing){ .blocks = &m->dev, .catalog = m->catalog, .direct = true, .name = "memory",
                             .implementation = m, .close = close_backing, .free_bytes = free_bytes };
}

int memory_create(const struct memory_options *opt, struct backing *out)
{
    struct memory *m;
    int err = memory_begin(opt, &m);
    if (err)
        return err;
    err = opt->initial_blocks > m->dev.max_blocks ? -ENOSPC : grow(&m->dev, opt->initial_blocks);
    if (!err)
        err = memory_catalog_create(&m->catalog);
    if (err)
        close_memory(&m->dev);
    else
        memory_finish(m, out);
    return err;
}

void memory_fail_io(struct backing *b, const struct memory_fault *fault)
{
    struct memory *m = backing_memory(b);
    pthread_mutex_lock(&m->lock);
    m->fault = fault ? *fault : (struct memory_fault){ 0 };
    m->fault_seen = 0;
    pthread_mutex_unlock(&m->lock);
}

uint64_t memory_io_count(struct backing *b, unsigned kinds)
{
    struct memory *m = backing_memory(b);
    uint64_t n = 0;
    pthread_mutex_lock(&m->lock);
    for (unsigned i = 0; i < 4; i++)
        n += kinds & 1u << i ? m->io_count[i] : 0;
    pthread_mutex_unlock(&m->lock);
    return n;
}

uint64_t memory_fault_hits(struct backing *b)
{
    struct memory *m = backing_memory(b);
    pthread_mutex_lock(&m->lock);
    uint64_t n = m->fault_hits;
    pthread_mutex_unlock(&m->lock);
    return n;
}

void memory_fail_apply(struct backing *b, uint64_t nth, int error, bool after_effect)
{
    memory_catalog_fail_apply(backing_memory(b)->catalog, nth, error, after_effect);
}

uint64_t memory_apply_count(struct backing *b) { return memory_catalog_apply_count(backing_memory(b)->catalog); }
