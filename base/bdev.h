/* bdev.h - the block-device interface: what the map, the log and the caches stand on, and where tests put their fault,
 * delay and power-cut devices.
 *
 * Words: a block is BDEV_BLOCK_SIZE bytes; an address is a block number on the device.
 * Threads: bdev_submit belongs to the device's loop; bdev_read, bdev_read_many, bdev_write, bdev_write_many, bdev_flush, bdev_grow,
 * bdev_punch, bdev_fill and bdev_zero block and may be called from any other thread, at any time.
 * Errors: 0 or negative errno. A device that has no room says -ENOSPC; a short transfer is -EIO.
 * Order: requests complete in any order, and a request sees the effect of another only if that one had completed before it
 * was submitted. A completed write is in the device but survives power loss only after a flush that was submitted later has
 * completed. A write that was cut short leaves each 512-byte sector old, new or (on bad media) unreadable.
 * Ownership: the caller owns the request, its iovec array and its buffers, and lends them until done runs. done runs exactly
 * once, on the loop, never from inside bdev_submit. Buffers are aligned to BDEV_BLOCK_SIZE (bdev_buffer_alloc gives such). */
#ifndef BASE_BDEV_H
#define BASE_BDEV_H
#include "base/list.h"

#include <errno.h>
#include <stdint.h>
#include <sys/uio.h>

#define BDEV_BLOCK_SIZE 4096u
#define BDEV_BLOCK_SHIFT 12u

enum bdev_op { BDEV_READ, BDEV_WRITE, BDEV_FLUSH };

struct bdev_req {
    enum bdev_op op;
    uint64_t block;         /* first address; unused by BDEV_FLUSH */
    uint32_t blocks;        /* length in blocks; the iovecs hold exactly that many */
    unsigned iov_count;
    const struct iovec *iov;
    void (*done)(struct bdev_req *req, int error);
    struct list_node link;  /* the device's until done */
    void *device_private;   /* the device's until done */
};

struct bdev;

struct bdev_ops {
    void (*submit)(struct bdev *d, struct bdev_req *req);
    int (*read)(struct bdev *d, uint64_t block, void *buf, uint32_t blocks);
    int (*write)(struct bdev *d, uint64_t block, const void *buf, uint32_t blocks);
    /* Reads `count` single blocks at once, in any order: bufs[i] gets blocks[i]. The first error, if any. */
    int (*read_many)(struct bdev *d, const uint64_t *blocks, void *const *bufs, unsigned count);
    /* Likewise the other way: blocks[i] gets bufs[i]. After an error any of them may have been written. */
    int (*write_many)(struct bdev *d, const uint64_t *blocks, void *const *bufs, unsigned count);
    int (*flush)(struct bdev *d);
    /* Makes addresses up to `blocks` usable and physically allocated, durably; what is new reads as zeroes. Grows the file if there is
     * one. */
    int (*grow)(struct bdev *d, uint64_t blocks);
    /* Gives the space of a freed range back to what lies below; the range then reads as anything, and is not written to before
     * fill has made it allocated again. -EOPNOTSUPP: what lies below cannot take it. */
    int (*punch)(struct bdev *d, uint64_t block, uint64_t blocks);
    /* Makes a punched range physically allocated again, durably; it then reads as zeroes. NULL: a punched range stays allocated. */
    int (*fill)(struct bdev *d, uint64_t block, uint64_t blocks);
    /* Writes zeroes, durably, to what of a range is allocated and was never written, as far as what lies below tells: a file system
     * notes down the first write to what it has allocated, and the flush after that write has to wait for the note. Nobody may write
     * there meanwhile. NULL: nothing is noted. */
    int (*zero)(struct bdev *d, uint64_t block, uint64_t blocks);
    /* The first stretch at or after `from` that is not allocated, as far as what lies below tells; -ENOENT: none. Called while
     * nothing else is. NULL: none ever is. */
    int (*hole)(struct bdev *d, uint64_t from, uint64_t *start, uint64_t *end);
    void (*close)(struct bdev *d);
};

/* The head of every device; an implementation embeds it first. */
struct bdev {
    const struct bdev_ops *ops;
    uint64_t blocks;     /* usable addresses now; changed by grow */
    uint64_t max_blocks; /* the most that grow can reach: the device's size, or UINT64_MAX for a file */
    bool grows_by_writing; /* grow and fill take as long as writing so much; read and written atomically */
};

/* Addresses usable now; any thread, while another one grows the device. */
static inline uint64_t bdev_blocks(const struct bdev *d) { return __atomic_load_n(&d->blocks, __ATOMIC_RELAXED); }
static inline void bdev_submit(struct bdev *d, struct bdev_req *req) { d->ops->submit(d, req); }
static inline int bdev_read(struct bdev *d, uint64_t block, void *buf, uint32_t blocks) { return d->ops->read(d, block, buf, blocks); }
static inline int bdev_write(struct bdev *d, uint64_t block, const void *buf, uint32_t blocks) { return d->ops->write(d, block, buf, blocks); }
static inline int bdev_read_many(struct bdev *d, const uint64_t *blocks, void *const *bufs, unsigned count)
{
    return d->ops->read_many(d, blocks, bufs, count);
}
static inline int bdev_write_many(struct bdev *d, const uint64_t *blocks, void *const *bufs, unsigned count)
{
    return d->ops->write_many(d, blocks, bufs, count);
}
static inline int bdev_flush(struct bdev *d) { return d->ops->flush(d); }
static inline int bdev_grow(struct bdev *d, uint64_t blocks) { return d->ops->grow(d, blocks); }
static inline int bdev_punch(struct bdev *d, uint64_t block, uint64_t blocks) { return d->ops->punch(d, block, blocks); }
static inline int bdev_fill(struct bdev *d, uint64_t block, uint64_t blocks) { return d->ops->fill ? d->ops->fill(d, block, blocks) : 0; }
static inline int bdev_zero(struct bdev *d, uint64_t block, uint64_t blocks) { return d->ops->zero ? d->ops->zero(d, block, blocks) : 0; }
static inline int bdev_hole(struct bdev *d, uint64_t from, uint64_t *start, uint64_t *end)
{
    return d->ops->hole ? d->ops->hole(d, from, start, end) : -ENOENT;
}
/* No request may be in flight. */
static inline void bdev_close(struct bdev *d) { d->ops->close(d); }

/* Zeroed, BDEV_BLOCK_SIZE-aligned memory of `blocks` blocks, or NULL; free() gives it back. */
void *bdev_buffer_alloc(size_t blocks);
#endif
