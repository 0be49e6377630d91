/* blkfront.h - the guest's end of a blkif device: doors, tests and the bench reach images through it.
 *
 * What it does: finds a device of its own domain in xenstore, goes through the handshake with the backend, and turns reads,
 * writes, flushes and discards at byte offsets into ring requests. When the backend's process is restarted it does nothing,
 * as a stock frontend: requests in flight are answered later.
 * Words: as in docs/blkif.md. Units: bytes, multiples of 512, unless a name says otherwise.
 * Threads: a struct blkfront belongs to one loop; everything is called on that loop's thread, or, of one that is pulled, on any
 * thread that holds the lock under which the loop is turned. blkfront_open and blkfront_close block (they turn the loop); xenstore
 * is read on the loop when the backend's nodes change, which blocks it for the time of a read. One hv may serve several blkfronts
 * on several threads, each with its own loop.
 * Errors: 0 or negative errno; -EIO is the backend's error response, -EOPNOTSUPP its "not supported", -ENOSPC its "no space in
 * the store", -ENODEV the device went.
 * Ownership: requests and buffers belong to the caller and are borrowed until done. done runs exactly once, on the loop,
 * never from inside blkfront_submit.
 * Speed: memory from blkfront_buffer_alloc is granted once and goes to the backend without a copy; any other memory is
 * copied through pages of blkfront's own. Requests submitted in one turn of the loop go out with one notification.
 * Caveat: the pages of blkfront_buffer_alloc stay readable and writable to the backend until they are freed.
 *
 *   struct blkfront *f;
 *   int err = blkfront_open(hv, loop, &(struct blkfront_options){ .vdev = 51712 }, &f, &e);
 *   err = blkfront_write(f, 0, "...", 512);
 *   blkfront_close(f); */
#ifndef BLKFRONT_BLKFRONT_H
#define BLKFRONT_BLKFRONT_H
#include "base/error.h"
#include "base/loop.h"
#include "hypervisor/hypervisor.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

struct blkfront;

enum blkfront_layout { BLKFRONT_NATIVE, BLKFRONT_X86_64, BLKFRONT_X86_32, BLKFRONT_ARM, BLKFRONT_UNNAMED /* no protocol node */ };

struct blkfront_options {
    unsigned vdev;            /* virtual device number; 0: the only or first device of this domain */
    unsigned timeout_ms;      /* for the device to appear and to connect; 0: 10 s */
    unsigned held_ms;         /* then -EBUSY if the backend says that another has the disk; 0: as long as timeout_ms */
    unsigned ring_order;      /* pages of a ring are 1 << ring_order; reduced to what the backend offers */
    unsigned queues;          /* 0: 1; reduced to what the backend offers */
    unsigned max_segments;    /* of a request; 0: as many as the backend offers (256 at most); 11 or fewer: no indirect requests */
    unsigned bounce_pages;    /* for memory that is not ours; 0: 256 */
    bool persistent;          /* tell the backend that it may keep pages mapped */
    bool pulled;              /* the loop does not look at the rings: whoever waits for a request does, by blkfront_pull */
    enum blkfront_layout layout;
    void (*resized)(void *ctx, uint64_t size_bytes); /* may be NULL */
    void (*gone)(void *ctx);  /* the backend closes or the device was removed: requests now fail with -ENODEV; may be NULL */
    void *ctx;
};
/* Waits for the device and connects. The domain's arena must have room for rings and bounce pages. */
int blkfront_open(struct hv *hv, struct loop *loop, const struct blkfront_options *opt, struct blkfront **out, struct error *err);
/* Waits for what is in flight, closes towards the backend (Closing, Closed) and forgets the device. */
void blkfront_close(struct blkfront *f);

struct blkfront_info {
    unsigned vdev, ring_pages, queues, max_segments, backend_domid;
    uint64_t size_bytes;
    uint32_t physical_sector_bytes;
    bool read_only, flush, barrier, discard, persistent;
    uint64_t requests, responses, events_sent, events_received, bounced_bytes, indirect; /* ring counters */
};
void blkfront_get_info(const struct blkfront *f, struct blkfront_info *out);

enum blkfront_op { BLKFRONT_READ, BLKFRONT_WRITE, BLKFRONT_FLUSH, BLKFRONT_BARRIER, BLKFRONT_DISCARD };

struct blkfront_req {
    enum blkfront_op op;
    uint64_t offset, length;    /* bytes; of any length, split as needed. BLKFRONT_FLUSH: 0. A discard's offset: of 4096 */
    const struct iovec *iov;    /* READ, WRITE, BARRIER: exactly length bytes, each piece a multiple of 512 */
    unsigned iov_count;
    void (*done)(struct blkfront_req *req, int error);
    /* private; zero-initialise */
    struct list_node link;
    uint64_t sent;              /* bytes of length already on a ring */
    unsigned iov_index, pending;
    size_t iov_offset;
    int error;
};
void blkfront_submit(struct blkfront *f, struct blkfront_req *req);

/* ---- Of a device that is pulled ---- */
/* Sends what was submitted, now. */
void blkfront_push(struct blkfront *f);
/* Readable when there may be responses. */
int blkfront_event_fd(const struct blkfront *f);
/* Takes the responses that are there, without waiting: done is called from inside. */
void blkfront_pull(struct blkfront *f);

/* Page-aligned, zeroed memory of this device's own; NULL when the arena is used up. Freed with the same count. */
void *blkfront_buffer_alloc(struct blkfront *f, unsigned pages);
void blkfront_buffer_free(struct blkfront *f, void *buffer, unsigned pages);

/* Each turns the loop until it has ended. */
int blkfront_read(struct blkfront *f, uint64_t offset, void *buffer, uint64_t length);
int blkfront_write(struct blkfront *f, uint64_t offset, const void *buffer, uint64_t length);
int blkfront_flush(struct blkfront *f);
int blkfront_discard(struct blkfront *f, uint64_t offset, uint64_t length);

/* The virtual device number of "xvda" … "xvdz9999" style names or of a plain number; 0 if it is none. */
unsigned blkfront_vdev_number(const char *name);
#endif
