/* bdev_file.c - see bdev_file.h.
 *
 * Two descriptors: the asynchronous queue has one, the blocking calls the other, so that each hears of a failed write-back
 * (the kernel tells every open file once).
 * 1. `blocks` only grows, and only after the new range is allocated, and durably so; so whoever sees the new number may
 *    use it at once. It is read and written atomically: grow runs on any thread.
 * 2. A failed flush is latched in flush_error, for both descriptors: the kernel forgets the failure once it has told it. */
#include "parallax/store/bdev_file.h"

#include "base/log.h"
#include "parallax/store/aio_batch.h"
#include "parallax/store/host_device.h"
#include "parallax/store/host_file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define GROW_CHUNK_BLOCKS 256u

struct bdev_file {
    struct bdev dev;
    int async_fd, sync_fd;
    bool is_device;
    uint64_t offset_bytes;
    struct aio_queue *queue;
    struct aio_batch *batch;
    atomic_int flush_error;
    pthread_mutex_t grow_lock;
    int (*grown)(void *ctx, uint64_t blocks);
    void *grown_ctx;
};

static struct bdev_file *file_of(struct bdev *d) { return container_of(d, struct bdev_file, dev); }

static uint64_t usable_blocks(const struct bdev_file *f) { return __atomic_load_n(&f->dev.blocks, __ATOMIC_ACQUIRE); }

static bool in_range(const struct bdev_file *f, uint64_t block, uint64_t blocks)
{
    uint64_t limit = usable_blocks(f);
    return block <= limit && blocks <= limit - block;
}

static off_t offset_of(const struct bdev_file *f, uint64_t block) { return (off_t)(f->offset_bytes + block * BDEV_BLOCK_SIZE); }

static void submit(struct bdev *d, struct bdev_req *req)
{
    struct bdev_file *f = file_of(d);
    bool valid = req->op == BDEV_FLUSH || (req->blocks && req->iov_count && in_range(f, req->block, req->blocks));
    aio_queue_submit(f->queue, req, valid ? 0 : -EINVAL);
}

static int read_blocks(struct bdev *d, uint64_t block, void *buf, uint32_t blocks)
{
    struct bdev_file *f = file_of(d);
    if (!in_range(f, block, blocks))
        return -EINVAL;
    return host_file_transfer(f->sync_fd, false, buf, (size_t)blocks * BDEV_BLOCK_SIZE, offset_of(f, block));
}

static int write_blocks(struct bdev *d, uint64_t block, const void *buf, uint32_t blocks)
{
    struct bdev_file *f = file_of(d);
    if (!in_range(f, block, blocks))
        return -EINVAL;
    return host_file_transfer(f->sync_fd, true, (void *)(uintptr_t)buf, (size_t)blocks * BDEV_BLOCK_SIZE, offset_of(f, block));
}

static int transfer_many(struct bdev *d, bool write, const uint64_t *blocks, void *const *bufs, unsigned count)
{
    struct bdev_file *f = file_of(d);
    for (unsigned i = 0; i < count; i++)
        if (!in_range(f, blocks[i], 1))
            return -EINVAL;
    if (count == 1)
        return write ? write_blocks(d, blocks[0], bufs[0], 1) : read_blocks(d, blocks[0], bufs[0], 1);
    return aio_batch_transfer(f->batch, write, blocks, bufs, count);
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
    struct bdev_file *f = file_of(d);
    if (atomic_load(&f->flush_error))
        return -EIO;
    if (fdatasync(f->sync_fd) < 0) {
        int err = -errno;
        atomic_store(&f->flush_error, err);
        return err;
    }
    return 0;
}

static int write_zeroes(struct bdev_file *f, uint64_t block, uint64_t end)
{
    void *zeroes = bdev_buffer_alloc(GROW_CHUNK_BLOCKS);
    if (!zeroes)
        return -ENOMEM;
    int err = 0;
    for (; !err && block < end; block += GROW_CHUNK_BLOCKS) {
        uint64_t n = end - block < GROW_CHUNK_BLOCKS ? end - block : GROW_CHUNK_BLOCKS;
        err = host_file_transfer(f->sync_fd, true, zeroes, (size_t)n * BDEV_BLOCK_SIZE, offset_of(f, block));
    }
    free(zeroes);
    return err;
}

static bool fits(const struct bdev_file *f, uint64_t bytes)
{
    struct host_file_space there;
    return f->is_device || host_file_space(f->sync_fd, &there) < 0 || there.free >= bytes;
}

/* A file gets its extents (and length) in one piece, unwritten. A device, and a file where that is not possible, is allocated by
 * writing. What does not fit is not tried: until that had failed nobody else would have room, and what holes had got by then they
 * would keep. */
static int allocate(struct bdev_file *f, uint64_t from, uint64_t to)
{
    off_t start = offset_of(f, from), end = offset_of(f, to);
    if (!fits(f, (to - from) * BDEV_BLOCK_SIZE))
        return -ENOSPC;
    int err = f->is_device ? -EOPNOTSUPP : fallocate(f->sync_fd, 0, start, end - start) < 0 ? -errno : 0;
    if (err == -EOPNOTSUPP || err == -ENOSYS) {
        __atomic_store_n(&f->dev.grows_by_writing, true, __ATOMIC_RELAXED);
        err = write_zeroes(f, from, to);
    }
    return err ? err : flush(&f->dev);
}

static int grow_range(struct bdev_file *f, uint64_t from, uint64_t to)
{
    off_t start = offset_of(f, from);
    int err = allocate(f, from, to);
    if (!err && f->grown)
        err = f->grown(f->grown_ctx, to);
    if (err && !f->is_device && ftruncate(f->sync_fd, start) < 0)
        log_warning("giving back space after a failed growth failed error=%d", errno);
    return err;
}

static int grow(struct bdev *d, uint64_t blocks)
{
    struct bdev_file *f = file_of(d);
    int err = 0;
    pthread_mutex_lock(&f->grow_lock);
    uint64_t now = usable_blocks(f);
    if (blocks > d->max_blocks || blocks > (uint64_t)(INT64_MAX - (int64_t)f->offset_bytes) / BDEV_BLOCK_SIZE)
        err = -ENOSPC;
    else if (blocks > now)
        err = grow_range(f, now, blocks);
    if (!err && blocks > now)
        __atomic_store_n(&d->blocks, blocks, __ATOMIC_RELEASE);
    pthread_mutex_unlock(&f->grow_lock);
    return err;
}

static int punch(struct bdev *d, uint64_t block, uint64_t blocks)
{
    struct bdev_file *f = file_of(d);
    if (!in_range(f, block, blocks))
        return -EINVAL;
    if (!blocks)
        return 0;
    off_t start = offset_of(f, block), length = (off_t)(blocks * BDEV_BLOCK_SIZE);
    int rc = 0;
    if (f->is_device)
        rc = host_device_discard(f->sync_fd, (uint64_t)start, (uint64_t)length);
    else if (fallocate(f->sync_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, start, length) < 0)
        rc = -errno;
    return rc == -ENOSYS ? -EOPNOTSUPP : rc;
}

static int fill(struct bdev *d, uint64_t block, uint64_t blocks)
{
    struct bdev_file *f = file_of(d);
    return in_range(f, block, blocks) ? allocate(f, block, block + blocks) : -EINVAL;
}

/* A block that is so in part counts: whoever wrote to one wrote all of it. */
static bool find_unwritten(const struct bdev_file *f, uint64_t from, uint64_t to, uint64_t *start, uint64_t *stop)
{
    uint64_t first, last;
    if (f->is_device || host_file_unwritten(f->sync_fd, (uint64_t)offset_of(f, from), (uint64_t)offset_of(f, to), &first, &last))
        return false;
    *start = (first - f->offset_bytes) / BDEV_BLOCK_SIZE;
    *stop = (last - f->offset_bytes + BDEV_BLOCK_SIZE - 1) / BDEV_BLOCK_SIZE;
    return true;
}

static int zero(struct bdev *d, uint64_t block, uint64_t blocks)
{
    struct bdev_file *f = file_of(d);
    if (!in_range(f, block, blocks))
        return -EINVAL;
    uint64_t at = block, end = block + blocks;
    bool wrote = false;
    int err = 0;
    for (uint64_t start, stop; !err && at < end && find_unwritten(f, at, end, &start, &stop); at = stop, wrote = true)
        err = write_zeroes(f, start, stop);
    return err || !wrote ? err : flush(d);
}

/* A block that is only partly there counts as missing. What a device has allocated is not told. */
static int hole(struct bdev *d, uint64_t from, uint64_t *start, uint64_t *end)
{
    struct bdev_file *f = file_of(d);
    uint64_t limit = usable_blocks(f), first, last;
    if (f->is_device || from >= limit || host_file_hole(f->sync_fd, (uint64_t)offset_of(f, from), (uint64_t)offset_of(f, limit), &first, &last))
        return -ENOENT;
    *start = (first - f->offset_bytes) / BDEV_BLOCK_SIZE;
    *end = (last - f->offset_bytes + BDEV_BLOCK_SIZE - 1) / BDEV_BLOCK_SIZE;
    return 0;
}

static void close_file(struct bdev *d)
{
    struct bdev_file *f = file_of(d);
    if (f->queue)
        aio_queue_close(f->queue);
    if (f->batch)
        aio_batch_close(f->batch);
    if (f->async_fd >= 0)
        close(f->async_fd);
    if (f->sync_fd >= 0)
        close(f->sync_fd);
    pthread_mutex_destroy(&f->grow_lock);
    free(f);
}

static const struct bdev_ops file_ops = {
    .submit = submit, .read = read_blocks, .write = write_blocks, .read_many = read_many, .write_many = write_many,
    .flush = flush, .grow = grow, .punch = punch, .fill = fill, .zero = zero, .hole = hole, .close = close_file,
};

/* *direct in: try O_DIRECT; out: whether it is in use. */
static int open_one(const char *path, int flags, bool *direct)
{
    int fd = -1;
    if (*direct)
        fd = open(path, O_RDWR | O_CLOEXEC | O_DIRECT | flags, 0600);
    if (fd < 0 && (!*direct || errno == EINVAL)) {
        /* Where O_DIRECT is refused, the file may have been created all the same. */
        bool created = *direct && (flags & O_CREAT);
        fd = open(path, O_RDWR | O_CLOEXEC | (created ? flags & ~O_EXCL : flags), 0600);
        *direct = false;
    }
    return fd < 0 ? -errno : fd;
}

/* Finds out what is below, and how large it is. */
static int measure(struct bdev_file *f, const struct bdev_file_options *opt)
{
    struct stat st;
    if (fstat(f->sync_fd, &st) < 0)
        return -errno;
    uint64_t bytes = (uint64_t)st.st_size;
    f->is_device = S_ISBLK(st.st_mode);
    if (!f->is_device && !S_ISREG(st.st_mode))
        return -EINVAL;
    int rc = f->is_device ? host_device_size(f->sync_fd, &bytes) : 0;
    if (rc)
        return rc;
    uint64_t blocks = bytes > opt->offset_bytes ? (bytes - opt->offset_bytes) / BDEV_BLOCK_SIZE : 0;
    f->dev.max_blocks = f->is_device ? blocks : UINT64_MAX;
    f->dev.blocks = f->is_device ? opt->blocks : blocks;
    return f->dev.blocks > f->dev.max_blocks ? -ERANGE : 0;
}

/* The claim of a host device is with the descriptor that is opened first, so the second must not ask for it. */
static int open_descriptors(struct bdev_file *f, const char *path, const struct bdev_file_options *opt, bool *direct)
{
    struct stat st;
    int flags = opt->create ? O_CREAT | O_EXCL : 0;
    if (!opt->create && stat(path, &st) == 0 && S_ISBLK(st.st_mode))
        flags = O_EXCL;
    *direct = true;
    f->sync_fd = open_one(path, flags, direct);
    if (f->sync_fd < 0)
        return f->sync_fd;
    if (!opt->loop)
        return 0;
    f->async_fd = open_one(path, 0, direct);
    return f->async_fd < 0 ? f->async_fd : 0;
}

int bdev_file_open(const char *path, const struct bdev_file_options *opt, struct bdev **out, bool *direct)
{
    struct bdev_file *f = calloc(1, sizeof *f);
    if (!f)
        return -ENOMEM;
    f->dev.ops = &file_ops;
    f->async_fd = f->sync_fd = -1;
    f->offset_bytes = opt->offset_bytes;
    f->grown = opt->grown;
    f->grown_ctx = opt->grown_ctx;
    pthread_mutex_init(&f->grow_lock, NULL);
    bool is_direct = false;
    int err = open_descriptors(f, path, opt, &is_direct);
    if (!err)
        err = measure(f, opt);
    if (!err)
        err = aio_batch_open(f->sync_fd, f->offset_bytes, &f->batch);
    if (!err && opt->loop)
        err = aio_queue_open(opt->loop, f->async_fd, f->offset_bytes, &f->flush_error, opt->lazy, &f->queue);
    if (err) {
        close_file(&f->dev);
        return err;
    }
    *out = &f->dev;
    *direct = is_direct;
    return 0;
}

int bdev_file_space(const struct bdev *d, uint64_t *free_bytes, uint64_t *total_bytes)
{
    const struct bdev_file *f = container_of(d, struct bdev_file, dev);
    if (f->is_device) {
        *free_bytes = (d->max_blocks - usable_blocks(f)) * BDEV_BLOCK_SIZE;
        *total_bytes = d->max_blocks * BDEV_BLOCK_SIZE;
        return 0;
    }
    struct host_file_space there;
    int err = host_file_space(f->sync_fd, &there);
    if (!err) {
        *free_bytes = there.available;
        *total_bytes = there.total;
    }
    return err;
}

void bdev_file_get_stats(const struct bdev *d, struct aio_queue_stats *stats)
{
    const struct bdev_file *f = container_of(d, struct bdev_file, dev);
    *stats = (struct aio_queue_stats){ 0 };
    if (f->queue)
        aio_queue_get_stats(f->queue, stats);
}
