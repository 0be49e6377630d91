/* aio_queue.c - see aio_queue.h.
 *
 * A transfer is one iocb with its own iovec array; all are allocated when the queue is opened. A request waits until the end
 * of the turn, then joins a transfer that was begun in the same batch if it continues it, else takes a free one, else waits
 * for a completion.
 * 1. A transfer is on the free list, in ready[], or with the kernel; requests of the last two are on its list.
 * 2. Only transfers begun by the running batch grow (recent[]): what ready[] kept from an earlier one may already have been
 *    seen by the kernel.
 * 3. At most one fdatasync is with the kernel. A flush that arrives meanwhile is not covered by it and waits for the next,
 *    which serves all that wait by then.
 * 4. A request's done may submit, which only queues; so no function here is entered twice.
 * 5. Where there is no context to be had, requests are carried out one after the other, and the next batch asks again. */
#include "parallax/store/aio_queue.h"

#include "parallax/store/aio_batch.h"
#include "parallax/store/host_file.h"

#include <errno.h>
#include <libaio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define DEPTH 256u
#define MERGE_MAX_BYTES (1u << 20)
#define RECENT 8u
#define REAP 24u
#define RETRY_MS 1

struct transfer {
    struct iocb iocb;
    struct list_node link;     /* free list */
    struct list_node requests; /* bdev_req.link */
    enum bdev_op op;
    bool alone;   /* carries a request of a merged transfer that failed */
    bool stalled; /* the last attempt moved no whole block */
    uint64_t block;
    uint32_t blocks; /* as asked for */
    uint64_t offset_bytes, left_bytes; /* what is still to do */
    unsigned request_count, iov_first, iov_count;
    struct iovec iov[AIO_QUEUE_IOVS];
};

struct aio_queue {
    struct loop *loop;
    int fd;
    uint64_t offset_bytes;
    atomic_int *flush_error;
    io_context_t context;
    struct loop_fd events;
    struct loop_task batch;
    struct loop_timer retry;
    struct list_node waiting, flushes;
    struct list_node ended; /* with the error in device_private, or with 0 */
    struct list_node free;
    struct iocb *ready[DEPTH];
    unsigned ready_count, inflight;
    bool flushing;
    struct transfer *recent[RECENT];
    unsigned recent_count;
    struct aio_queue_stats stats;
    struct transfer *transfers;
};

/* The completion ring that the kernel maps at the context's address (Linux fs/aio.c, struct aio_ring). */
struct completion_ring {
    unsigned id, nr, head, tail, magic, compat_features, incompat_features, header_length;
    struct io_event events[];
};
#define COMPLETION_RING_MAGIC 0xa10a10a1u

/* What a queued request carries in device_private. */
static char retry_alone;

static void schedule(struct aio_queue *q)
{
    if (!list_empty(&q->waiting) || !list_empty(&q->flushes) || !list_empty(&q->ended) || q->ready_count)
        loop_defer_last(q->loop, &q->batch);
}

void aio_queue_submit(struct aio_queue *q, struct bdev_req *req, int error)
{
    if (!error && req->op != BDEV_FLUSH && req->iov_count > AIO_QUEUE_IOVS)
        error = -EINVAL;
    if (!error && req->op == BDEV_FLUSH && atomic_load(q->flush_error))
        error = -EIO;
    if (error) {
        req->device_private = (void *)(intptr_t)error;
        list_add_tail(&q->ended, &req->link);
    } else {
        req->device_private = NULL;
        q->stats.requests++;
        list_add_tail(req->op == BDEV_FLUSH ? &q->flushes : &q->waiting, &req->link);
    }
    loop_defer_last(q->loop, &q->batch);
}

static struct transfer *transfer_begin(struct aio_queue *q, enum bdev_op op)
{
    struct list_node *n = list_pop(&q->free);
    if (!n)
        return NULL;
    struct transfer *t = container_of(n, struct transfer, link);
    t->op = op;
    t->alone = t->stalled = false;
    t->blocks = 0;
    t->left_bytes = 0;
    t->request_count = t->iov_first = t->iov_count = 0;
    q->ready[q->ready_count++] = &t->iocb;
    q->stats.transfers++;
    return t;
}

static void transfer_append(struct transfer *t, struct bdev_req *req)
{
    list_add_tail(&t->requests, &req->link);
    t->request_count++;
    memcpy(t->iov + t->iov_count, req->iov, req->iov_count * sizeof *req->iov);
    t->iov_count += req->iov_count;
    t->blocks += req->blocks;
    t->left_bytes += (uint64_t)req->blocks * BDEV_BLOCK_SIZE;
}

/* (Re)makes the iocb for what is left. */
static void transfer_prepare(struct aio_queue *q, struct transfer *t)
{
    const struct iovec *iov = t->iov + t->iov_first;
    int count = (int)(t->iov_count - t->iov_first);
    if (t->op == BDEV_FLUSH)
        io_prep_fdsync(&t->iocb, q->fd);
    else if (t->op == BDEV_READ)
        io_prep_preadv(&t->iocb, q->fd, iov, count, (long long)t->offset_bytes);
    else
        io_prep_pwritev(&t->iocb, q->fd, iov, count, (long long)t->offset_bytes);
    io_set_eventfd(&t->iocb, q->events.fd);
    t->iocb.data = t;
}

static bool continues(const struct transfer *t, const struct bdev_req *req)
{
    return t->op == req->op && !t->alone && t->block + t->blocks == req->block &&
           t->iov_count + req->iov_count <= AIO_QUEUE_IOVS &&
           t->left_bytes + (uint64_t)req->blocks * BDEV_BLOCK_SIZE <= MERGE_MAX_BYTES;
}

/* Looks among the last few transfers of the batch only: streams that interleave are merged, and a batch stays linear. */
static bool merge(struct aio_queue *q, struct bdev_req *req)
{
    if (req->device_private == &retry_alone)
        return false;
    for (unsigned i = 0; i < RECENT && i < q->recent_count; i++) {
        struct transfer *t = q->recent[(q->recent_count - 1 - i) % RECENT];
        if (continues(t, req)) {
            transfer_append(t, req);
            transfer_prepare(q, t);
            return true;
        }
    }
    return false;
}

/* False: no transfer is free. */
static bool place(struct aio_queue *q, struct bdev_req *req)
{
    struct list_node *next = req->link.next;
    list_remove(&req->link);
    if (merge(q, req))
        return true;
    struct transfer *t = transfer_begin(q, req->op);
    if (!t) {
        list_add_tail(next, &req->link);
        return false;
    }
    t->alone = req->device_private == &retry_alone;
    t->block = req->block;
    t->offset_bytes = q->offset_bytes + req->block * BDEV_BLOCK_SIZE;
    transfer_append(t, req);
    transfer_prepare(q, t);
    q->recent[q->recent_count++ % RECENT] = t;
    return true;
}

static void place_flushes(struct aio_queue *q)
{
    if (q->flushing || list_empty(&q->flushes))
        return;
    struct transfer *t = transfer_begin(q, BDEV_FLUSH);
    if (!t)
        return;
    list_splice_tail(&t->requests, &q->flushes);
    q->flushing = true;
    transfer_prepare(q, t);
}

static void complete_all(struct list_node *requests, int error)
{
    struct list_node *n;
    while ((n = list_pop(requests))) {
        struct bdev_req *req = container_of(n, struct bdev_req, link);
        req->done(req, error);
    }
}

/* A merged transfer that failed is tried again request by request: one bad sector must not fail its neighbours' reads. */
static void split(struct aio_queue *q, struct list_node *requests)
{
    list_for_each(n, requests)
        container_of(n, struct bdev_req, link)->device_private = &retry_alone;
    list_splice_tail(&q->waiting, requests);
}

static void transfer_end(struct aio_queue *q, struct transfer *t, int error)
{
    struct list_node requests = LIST_INIT(requests);
    list_splice_tail(&requests, &t->requests);
    bool merged = t->request_count > 1;
    if (t->op == BDEV_FLUSH) {
        q->flushing = false;
        merged = false;
        if (error)
            atomic_store(q->flush_error, error);
    }
    list_add_head(&q->free, &t->link);
    if (error && merged)
        split(q, &requests);
    else
        complete_all(&requests, error);
}

static const struct completion_ring *visible_ring(const struct aio_queue *q)
{
    const struct completion_ring *ring = (const struct completion_ring *)q->context;
    return ring->magic == COMPLETION_RING_MAGIC && !ring->incompat_features ? ring : NULL;
}

/* Gives ready[] to the kernel, all by one call: to a virtual device each call is a notification, which costs both sides more than
 * what a device that begins sooner would gain. What there is no room for stays until something completes, or for a moment if
 * nothing is due. */
static void send(struct aio_queue *q)
{
    while (q->ready_count) {
        int n = io_submit(q->context, (long)q->ready_count, q->ready);
        if (n > 0) {
            q->stats.submits++;
            q->inflight += (unsigned)n;
            q->ready_count -= (unsigned)n;
            memmove(q->ready, q->ready + n, q->ready_count * sizeof *q->ready);
        } else if (n == 0 || n == -EAGAIN || n == -EINTR) {
            if (!q->inflight)
                loop_timer_start(q->loop, &q->retry, RETRY_MS);
            return;
        } else {
            struct transfer *t = container_of(q->ready[0], struct transfer, iocb);
            memmove(q->ready, q->ready + 1, --q->ready_count * sizeof *q->ready);
            transfer_end(q, t, n);
        }
    }
}

/* Learns whether the kernel knows the asynchronous fdatasync, before anything depends on it. One that fails is a flush that has
 * failed, of what was written without a context. */
static int probe_flush(struct aio_queue *q)
{
    struct iocb cb, *list[1] = { &cb };
    struct io_event event;
    io_prep_fdsync(&cb, q->fd);
    int n = io_submit(q->context, 1, list);
    if (n != 1)
        return n < 0 ? n : -EIO;
    do
        n = io_getevents(q->context, 1, 1, &event, NULL);
    while (n == -EINTR || n == 0);
    if (n < 0)
        return n;
    int err = (int)(long)event.res;
    if (err)
        atomic_store(q->flush_error, err);
    return err;
}

/* Makes the kernel's context. */
static int begin(struct aio_queue *q)
{
    int err = io_setup((int)DEPTH, &q->context);
    if (err)
        return err;
    err = probe_flush(q);
    if (err) {
        io_destroy(q->context);
        q->context = NULL;
    }
    return err;
}

/* Without a context: the thread waits for each. */
static int carry_out(struct aio_queue *q, const struct bdev_req *req)
{
    off_t at = (off_t)(q->offset_bytes + req->block * BDEV_BLOCK_SIZE);
    int err = 0;
    if (req->op == BDEV_FLUSH && atomic_load(q->flush_error))
        return -EIO;
    if (req->op == BDEV_FLUSH && fdatasync(q->fd) < 0)
        atomic_store(q->flush_error, err = -errno);
    for (unsigned i = 0; req->op != BDEV_FLUSH && i < req->iov_count && !err; i++) {
        err = host_file_transfer(q->fd, req->op == BDEV_WRITE, req->iov[i].iov_base, req->iov[i].iov_len, at);
        at += (off_t)req->iov[i].iov_len;
    }
    return err;
}

static void carry_out_in_turn(struct aio_queue *q, struct list_node *requests)
{
    list_for_each(n, requests) {
        struct bdev_req *req = container_of(n, struct bdev_req, link);
        req->device_private = (void *)(intptr_t)carry_out(q, req);
    }
    list_splice_tail(&q->ended, requests);
}

static void refuse(struct aio_queue *q, struct list_node *requests, int error)
{
    list_for_each(n, requests)
        container_of(n, struct bdev_req, link)->device_private = (void *)(intptr_t)error;
    list_splice_tail(&q->ended, requests);
}

static void batch_run(struct loop_task *task)
{
    struct aio_queue *q = container_of(task, struct aio_queue, batch);
    struct list_node *n;
    int err = q->context ? 0 : begin(q);
    if (aio_none_to_be_had(err)) {
        carry_out_in_turn(q, &q->waiting);
        carry_out_in_turn(q, &q->flushes);
    } else if (err) {
        refuse(q, &q->waiting, err);
        refuse(q, &q->flushes, err);
    }
    while ((n = list_pop(&q->ended))) {
        struct bdev_req *req = container_of(n, struct bdev_req, link);
        req->done(req, (int)(intptr_t)req->device_private);
    }
    if (!q->context)
        return; /* what came meanwhile has scheduled the next attempt */
    q->recent_count = 0;
    place_flushes(q);
    while (!list_empty(&q->waiting))
        if (!place(q, container_of(q->waiting.next, struct bdev_req, link)))
            break;
    send(q);
    /* With nothing in flight no completion will come to continue from: requests that a failed transfer left behind. */
    if (!q->inflight && !q->ready_count)
        schedule(q);
}

static void retry_expired(struct loop_timer *t)
{
    struct aio_queue *q = container_of(t, struct aio_queue, retry);
    schedule(q);
}

/* Drops the first bytes of what is left to do. */
static void transfer_advance(struct transfer *t, uint64_t bytes)
{
    t->offset_bytes += bytes;
    t->left_bytes -= bytes;
    while (bytes) {
        struct iovec *v = &t->iov[t->iov_first];
        size_t n = bytes < v->iov_len ? (size_t)bytes : v->iov_len;
        v->iov_base = (char *)v->iov_base + n;
        v->iov_len -= n;
        bytes -= n;
        if (!v->iov_len)
            t->iov_first++;
    }
}

/* A short transfer goes on from its last whole block, for O_DIRECT's alignment; two in a row that move nothing are -EIO. */
static void transfer_event(struct aio_queue *q, struct transfer *t, long result)
{
    q->inflight--;
    if (result < 0 || t->op == BDEV_FLUSH || (uint64_t)result >= t->left_bytes) {
        transfer_end(q, t, result < 0 ? (int)result : 0);
        return;
    }
    uint64_t whole = (uint64_t)result & ~(uint64_t)(BDEV_BLOCK_SIZE - 1);
    if (!whole && t->stalled) {
        transfer_end(q, t, -EIO);
        return;
    }
    t->stalled = !whole;
    transfer_advance(t, whole);
    transfer_prepare(q, t);
    q->ready[q->ready_count++] = &t->iocb;
}

/* Takes completions from the ring in our own memory, else by the system call if the ring is of a kind not known here. */
static unsigned reap(struct aio_queue *q, struct io_event *events)
{
    if (!visible_ring(q)) {
        struct timespec now = { 0, 0 };
        int n = io_getevents(q->context, 0, REAP, events, &now);
        return n > 0 ? (unsigned)n : 0;
    }
    struct completion_ring *ring = (struct completion_ring *)q->context;
    unsigned head = ring->head, tail = __atomic_load_n(&ring->tail, __ATOMIC_ACQUIRE), count = 0;
    while (head != tail && count < REAP) {
        events[count++] = ring->events[head];
        head = (head + 1) % ring->nr;
    }
    __atomic_store_n(&ring->head, head, __ATOMIC_RELEASE);
    return count;
}

static void events_ready(struct loop_fd *w, uint32_t epoll_events)
{
    (void)epoll_events;
    struct aio_queue *q = container_of(w, struct aio_queue, events);
    struct io_event events[REAP];
    uint64_t ignored;
    ssize_t got = read(w->fd, &ignored, sizeof ignored);
    (void)got; /* the ring, not the counter, says what has completed */
    /* So many a turn: those who wait for the first ones can send the device new work while the rest is looked at. */
    unsigned n = reap(q, events);
    for (unsigned i = 0; i < n; i++)
        transfer_event(q, events[i].data, (long)events[i].res);
    if (n == REAP) {
        uint64_t more = 1;
        got = write(w->fd, &more, sizeof more);
    }
    /* A flush gathers nothing: it goes out before those are woken who wait for what has completed, as they may take the processor. */
    if (!list_empty(&q->flushes) && !q->flushing)
        batch_run(&q->batch);
    schedule(q);
}

int aio_queue_open(struct loop *loop, int fd, uint64_t offset_bytes, atomic_int *flush_error, bool lazy, struct aio_queue **out)
{
    struct aio_queue *q = calloc(1, sizeof *q);
    if (!q)
        return -ENOMEM;
    q->loop = loop;
    q->fd = fd;
    q->offset_bytes = offset_bytes;
    q->flush_error = flush_error;
    q->batch.run = batch_run;
    q->retry.expired = retry_expired;
    q->events.ready = events_ready;
    q->events.fd = -1;
    list_init(&q->waiting);
    list_init(&q->flushes);
    list_init(&q->ended);
    list_init(&q->free);
    int err = -ENOMEM;
    q->transfers = calloc(DEPTH, sizeof *q->transfers);
    if (!q->transfers)
        goto out;
    for (unsigned i = 0; i < DEPTH; i++) {
        list_init(&q->transfers[i].requests);
        list_add_tail(&q->free, &q->transfers[i].link);
    }
    q->events.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (q->events.fd < 0) {
        err = -errno;
        goto out;
    }
    err = lazy ? 0 : begin(q);
    if (!err)
        err = loop_fd_add(loop, &q->events, EPOLLIN);
out:
    if (err)
        aio_queue_close(q);
    else
        *out = q;
    return err;
}

void aio_queue_close(struct aio_queue *q)
{
    loop_cancel(q->loop, &q->batch);
    loop_timer_stop(q->loop, &q->retry);
    loop_fd_remove(q->loop, &q->events);
    if (q->context)
        io_destroy(q->context);
    if (q->events.fd >= 0)
        close(q->events.fd);
    free(q->transfers);
    free(q);
}

void aio_queue_get_stats(const struct aio_queue *q, struct aio_queue_stats *stats) { *stats = q->stats; }
