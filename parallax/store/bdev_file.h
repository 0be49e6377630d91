/* bdev_file.h - a block device over a file or a host block device, with O_DIRECT where the file system has it.
 *
 * Threads and errors as in base/bdev.h; further: an address outside the device is -EINVAL; a flush that failed once fails
 * for ever after (-EIO), because the kernel reports a lost write only once. A request has at most 1024 iovecs. */
#ifndef PARALLAX_STORE_BDEV_FILE_H
#define PARALLAX_STORE_BDEV_FILE_H
#include "base/bdev.h"
#include "base/loop.h"
#include "parallax/store/aio_queue.h"

struct bdev_file_options {
    struct loop *loop;       /* where bdev_submit's requests complete; NULL: blocking calls only */
    bool lazy;               /* as of aio_queue_open */
    uint64_t offset_bytes;   /* where block 0 lies; a multiple of BDEV_BLOCK_SIZE */
    uint64_t blocks;         /* host device: blocks usable now; a file's are known by its size */
    bool create;             /* make the file; it must not exist */
    /* Called by grow before the new blocks are usable, to record their number durably; may be NULL. Any thread. */
    int (*grown)(void *ctx, uint64_t blocks);
    void *grown_ctx;
};

/* *direct: whether O_DIRECT is in use. A host device is claimed exclusively: -EBUSY if it is mounted or otherwise in use; -ERANGE if it has
 * fewer blocks than are said to be usable. */
int bdev_file_open(const char *path, const struct bdev_file_options *opt, struct bdev **out, bool *direct);

/* Any thread: bytes that grow can still take, and bytes of all, of the file system or device below. -ENOTSUP: the file system does not tell. */
int bdev_file_space(const struct bdev *d, uint64_t *free_bytes, uint64_t *total_bytes);
/* Zeroes without a loop. */
void bdev_file_get_stats(const struct bdev *d, struct aio_queue_stats *stats);
#endif
