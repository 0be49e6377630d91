/* aio_batch.c - see aio_batch.h.
 *
 * One Linux AIO context with DEPTH iocbs, kept full: whatever completes makes room for the next. Context, iocbs and
 * events belong to whoever holds the lock; nothing is in flight when it is free. The context is made at the first use: to
 * destroy one takes the kernel tens of milliseconds, which a command that only lists must not pay. Where there is none to be had,
 * or the host takes nothing for lack of memory, or moved less than a block, blocks are read and written one after the other. */
#include "parallax/store/aio_batch.h"

#include "base/bdev.h"
#include "parallax/store/host_file.h"

#include <errno.h>
#include <libaio.h>
#include <pthread.h>
#include <stdlib.h>

#define DEPTH 256u

struct aio_batch {
    int fd;
    uint64_t offset_bytes;
    pthread_mutex_t lock;
    io_context_t context;
    struct iocb iocbs[DEPTH], *free[DEPTH], *ready[DEPTH];
    unsigned free_count, ready_count, inflight;
    struct io_event events[DEPTH];
};

int aio_batch_open(int fd, uint64_t offset_bytes, struct aio_batch **out)
{
    struct aio_batch *b = calloc(1, sizeof *b);
    if (!b)
        return -ENOMEM;
    b->fd = fd;
    b->offset_bytes = offset_bytes;
    pthread_mutex_init(&b->lock, NULL);
    for (unsigned i = 0; i < DEPTH; i++)
        b->free[b->free_count++] = &b->iocbs[i];
    *out = b;
    return 0;
}

void aio_batch_close(struct aio_batch *b)
{
    if (b->context)
        io_destroy(b->context);
    pthread_mutex_destroy(&b->lock);
    free(b);
}

/* Hands as many of the prepared iocbs to the kernel as it takes. */
static int send(struct aio_batch *b)
{
    unsigned sent = 0;
    int err = 0;
    while (sent < b->ready_count) {
        int n = io_submit(b->context, (long)(b->ready_count - sent), b->ready + sent);
        if (n == -EINTR)
            continue;
        if (n <= 0) {
            err = n == 0 || (n == -EAGAIN && b->inflight) ? 0 : n;
            break;
        }
        sent += (unsigned)n;
        b->inflight += (unsigned)n;
    }
    for (unsigned i = sent; i < b->ready_count; i++)
        b->ready[i - sent] = b->ready[i];
    b->ready_count -= sent;
    return err;
}

static int collect(struct aio_batch *b)
{
    int n, err = 0;
    do
        n = io_getevents(b->context, 1, (long)DEPTH, b->events, NULL);
    while (n == -EINTR);
    if (n < 0)
        return n;
    for (int i = 0; i < n; i++) {
        long result = (long)b->events[i].res;
        if (result != (long)BDEV_BLOCK_SIZE && !err)
            err = result < 0 ? (int)result : -EAGAIN;
        b->free[b->free_count++] = b->events[i].obj;
    }
    b->inflight -= (unsigned)n;
    return err;
}

static void drop_ready(struct aio_batch *b)
{
    while (b->ready_count)
        b->free[b->free_count++] = b->ready[--b->ready_count];
}

static int in_turn(struct aio_batch *b, bool write, const uint64_t *blocks, void *const *bufs, unsigned count)
{
    int err = 0;
    for (unsigned i = 0; i < count; i++) {
        int one = host_file_transfer(b->fd, write, bufs[i], BDEV_BLOCK_SIZE, (off_t)(b->offset_bytes + blocks[i] * BDEV_BLOCK_SIZE));
        err = err ? err : one;
    }
    return err;
}

int aio_batch_transfer(struct aio_batch *b, bool write, const uint64_t *blocks, void *const *bufs, unsigned count)
{
    pthread_mutex_lock(&b->lock);
    int err = b->context ? 0 : io_setup((int)DEPTH, &b->context);
    if (aio_none_to_be_had(err)) {
        pthread_mutex_unlock(&b->lock);
        return in_turn(b, write, blocks, bufs, count);
    }
    for (unsigned next = 0; (next < count && !err) || b->ready_count || b->inflight;) {
        for (; next < count && !err && b->free_count; next++) {
            struct iocb *cb = b->free[--b->free_count];
            (write ? io_prep_pwrite : io_prep_pread)(cb, b->fd, bufs[next], BDEV_BLOCK_SIZE, (long long)(b->offset_bytes + blocks[next] * BDEV_BLOCK_SIZE));
            b->ready[b->ready_count++] = cb;
        }
        int step = send(b);
        if (step)
            drop_ready(b);
        if (b->inflight) {
            int collected = collect(b);
            step = step ? step : collected;
        }
        err = err ? err : step;
    }
    pthread_mutex_unlock(&b->lock);
    return err == -EAGAIN ? in_turn(b, write, blocks, bufs, count) : err;
}
