/* host_file.c - see host_file.h. */
#include "parallax/store/host_file.h"

#include <errno.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define EXTENTS 64u

struct extents {
    struct fiemap map;
    struct fiemap_extent extents[EXTENTS];
};

static int ask(int fd, uint64_t from, uint64_t end, struct extents *q)
{
    q->map = (struct fiemap){ .fm_start = from, .fm_length = end - from, .fm_flags = FIEMAP_FLAG_SYNC, .fm_extent_count = EXTENTS };
    return ioctl(fd, FS_IOC_FIEMAP, &q->map) < 0 ? -errno : 0;
}

/* Follows the extents from `from` on as long as they touch: the end of what is allocated there, or the place of the next extent if
 * `from` is in a hole. */
static int look(int fd, uint64_t from, uint64_t end, uint64_t *allocated_to, uint64_t *next)
{
    struct extents q;
    *allocated_to = from;
    *next = end;
    for (uint64_t at = from; at < end; at = *allocated_to) {
        int err = ask(fd, at, end, &q);
        if (err)
            return err;
        for (uint32_t i = 0; i < q.map.fm_mapped_extents; i++) {
            const struct fiemap_extent *e = &q.extents[i];
            if (e->fe_logical > *allocated_to) {
                *next = e->fe_logical;
                return 0;
            }
            *allocated_to = e->fe_logical + e->fe_length;
            if (e->fe_flags & FIEMAP_EXTENT_LAST)
                return 0;
        }
        if (*allocated_to == at)
            return 0;
    }
    return 0;
}

static int by_extents(int fd, uint64_t from, uint64_t end, uint64_t *start, uint64_t *stop)
{
    int err = look(fd, from, end, start, stop);
    return err ? err : *start < end ? 0 : -ENOENT;
}

static int by_seeking(int fd, uint64_t from, uint64_t end, uint64_t *start, uint64_t *stop)
{
    off_t hole = lseek(fd, (off_t)from, SEEK_HOLE), data;
    if (hole < 0 || (uint64_t)hole >= end)
        return -ENOENT;
    data = lseek(fd, hole, SEEK_DATA);
    *start = (uint64_t)hole;
    *stop = data < 0 || (uint64_t)data > end ? end : (uint64_t)data;
    return 0;
}

int host_file_hole(int fd, uint64_t from, uint64_t end, uint64_t *start, uint64_t *stop)
{
    int err = by_extents(fd, from, end, start, stop);
    return !err || err == -ENOENT ? err : by_seeking(fd, from, end, start, stop);
}

int host_file_unwritten(int fd, uint64_t from, uint64_t end, uint64_t *start, uint64_t *stop)
{
    struct extents q;
    for (uint64_t at = from; at < end && ask(fd, at, end, &q) == 0 && q.map.fm_mapped_extents;) {
        for (uint32_t i = 0; i < q.map.fm_mapped_extents; i++) {
            const struct fiemap_extent *e = &q.extents[i];
            at = e->fe_logical + e->fe_length;
            if (e->fe_flags & FIEMAP_EXTENT_UNWRITTEN) {
                *start = e->fe_logical > from ? e->fe_logical : from;
                *stop = at < end ? at : end;
                return 0;
            }
            if (e->fe_flags & FIEMAP_EXTENT_LAST)
                return -ENOENT;
        }
    }
    return -ENOENT;
}

int host_file_transfer(int fd, bool writing, void *buf, size_t left, off_t at)
{
    for (char *p = buf; left;) {
        ssize_t n = writing ? pwrite(fd, p, left, at) : pread(fd, p, left, at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n ? -errno : -EIO;
        p += n;
        at += n;
        left -= (size_t)n;
    }
    return 0;
}

int host_file_space(int fd, struct host_file_space *out)
{
    struct statvfs v;
    if (fstatvfs(fd, &v) < 0)
        return -errno;
    *out = (struct host_file_space){ (uint64_t)v.f_bfree * v.f_frsize, (uint64_t)v.f_bavail * v.f_frsize, (uint64_t)v.f_blocks * v.f_frsize };
    return v.f_blocks ? 0 : -ENOTSUP;
}
