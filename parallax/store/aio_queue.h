/* aio_queue.h - asynchronous block requests on one descriptor, through Linux AIO, completing on an event loop.
 *
 * Requests of one turn of the loop go out together at its end; neighbours of the same kind become one vectored transfer.
 * Threads: everything belongs to the loop's thread, except aio_queue_open and aio_queue_close, which may run on another
 * thread while the loop does not run.
 * Errors: 0 or negative errno, to each request's done. */
#ifndef PARALLAX_STORE_AIO_QUEUE_H
#define PARALLAX_STORE_AIO_QUEUE_H
#include "base/bdev.h"
#include "base/loop.h"

#include <stdatomic.h>

/* The most iovecs that one request may have; more are -EINVAL. */
#define AIO_QUEUE_IOVS 1024u

struct aio_queue;

struct aio_queue_stats {
    uint64_t requests;  /* reads, writes and flushes accepted */
    uint64_t transfers; /* what the kernel was given for them */
    uint64_t submits;   /* io_submit calls that sent something */
};

/* fd and flush_error stay the caller's and must outlive the queue; block 0 lies at offset_bytes. A flush that fails stores its
 * error in *flush_error, and from then on every flush is -EIO. -EAGAIN: the host's fs.aio-max-nr is used up; -ENOMEM; -ENOSYS,
 * -EPERM: the kernel has no asynchronous I/O, or none for us; -EINVAL: no asynchronous fdatasync (before 4.18). lazy: the kernel's
 * context is made by the first request: to destroy one takes the kernel some 30 ms, which a user that may have no request need not
 * pay. Where there is none to be had (aio_batch.h) the loop's thread waits for each request. */
int aio_queue_open(struct loop *loop, int fd, uint64_t offset_bytes, atomic_int *flush_error, bool lazy, struct aio_queue **out);
/* No request may be in flight; not from inside a request's done. */
void aio_queue_close(struct aio_queue *q);

/* As bdev_submit. error: not 0 makes the request complete with it instead of being carried out. */
void aio_queue_submit(struct aio_queue *q, struct bdev_req *req, int error);
void aio_queue_get_stats(const struct aio_queue *q, struct aio_queue_stats *stats);
#endif
