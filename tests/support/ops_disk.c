/* ops_disk.c - a file as a disk. */
#include "tests/support/ops_disk.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int file_open(struct ops_disk *d)
{
    struct stat st;
    d->fd = open(d->name, O_RDWR | O_CLOEXEC | (d->direct ? O_DIRECT : 0));
    if (d->fd < 0 || fstat(d->fd, &st) < 0)
        return -errno;
    d->size_bytes = (uint64_t)st.st_size;
    return 0;
}

static void file_close(struct ops_disk *d) { close(d->fd); }

static int file_read(struct ops_disk *d, uint8_t *buffer, uint64_t offset, uint64_t length)
{
    for (uint64_t done = 0; done < length;) {
        ssize_t n = pread(d->fd, buffer + done, length - done, (off_t)(offset + done));
        if (n <= 0)
            return n ? -errno : -ENODATA;
        done += (uint64_t)n;
    }
    return 0;
}

static int file_write(struct ops_disk *d, const uint8_t *data, uint64_t offset, uint64_t length, uint64_t dice)
{
    (void)dice;
    for (uint64_t done = 0; done < length;) {
        ssize_t n = pwrite(d->fd, data + done, length - done, (off_t)(offset + done));
        if (n <= 0)
            return n ? -errno : -ENODATA;
        done += (uint64_t)n;
    }
    return 0;
}

static int file_punch(struct ops_disk *d, uint64_t offset, uint64_t length, uint64_t dice)
{
    (void)dice;
    return fallocate(d->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)length) < 0 ? -errno : 0;
}

static int file_zero(struct ops_disk *d, uint64_t offset, uint64_t length, uint64_t dice)
{
    int mode = FALLOC_FL_ZERO_RANGE | (dice & 1 ? FALLOC_FL_KEEP_SIZE : 0);
    return fallocate(d->fd, mode, (off_t)offset, (off_t)length) < 0 ? -errno : 0;
}

static int file_flush(struct ops_disk *d) { return fsync(d->fd) < 0 ? -errno : 0; }

static int file_hole(struct ops_disk *d, uint64_t offset, uint64_t *begin, uint64_t *end)
{
    off_t hole = lseek(d->fd, (off_t)offset, SEEK_HOLE), data = hole;
    if (hole < 0)
        return -errno;
    if ((uint64_t)hole < d->size_bytes && (data = lseek(d->fd, hole, SEEK_DATA)) < 0) {
        if (errno != ENXIO)
            return -errno;
        data = (off_t)d->size_bytes;
    }
    *begin = (uint64_t)hole;
    *end = (uint64_t)data;
    return 0;
}

const struct ops_disk_ops ops_file = { .open = file_open, .close = file_close, .read = file_read, .write = file_write, .punch = file_punch,
                                       .zero = file_zero, .flush = file_flush, .hole = file_hole };

void ops_disk_choose(struct ops_disk *d, const char *name)
{
    d->name = name;
    d->ops = strncmp(name, "nbd", 3) || !strchr(name, ':') ? &ops_file : &ops_nbd;
}
