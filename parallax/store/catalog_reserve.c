/* catalog_reserve.c - see catalog_reserve.h. */
#include "parallax/store/catalog_reserve.h"

#include "parallax/store/host_file.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_NAME "reserve"
#define STEP_BYTES ((off_t)1 << 20)

static int open_file(int directory_fd) { return openat(directory_fd, FILE_NAME, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600); }

/* Allocates up to size bytes, of which held are there; a failure leaves those. 0 or negative errno. */
static int extend(int fd, off_t held, off_t size)
{
    int rc = -posix_fallocate(fd, 0, size);
    return rc && ftruncate(fd, held) < 0 ? -errno : rc;
}

int catalog_reserve_fill(int directory_fd, uint64_t at_least)
{
    struct stat st;
    int fd = open_file(directory_fd), rc = 0;
    if (fd < 0)
        return -errno;
    if (fstat(fd, &st) < 0)
        rc = -errno;
    else if (st.st_size != (off_t)CATALOG_RESERVE_BYTES) {
        off_t size = (off_t)CATALOG_RESERVE_BYTES;
        while ((rc = extend(fd, st.st_size, size)) == -ENOSPC && size - STEP_BYTES > st.st_size && (uint64_t)(size - STEP_BYTES) >= at_least)
            size -= STEP_BYTES;
        if (rc == -ENOSPC && (uint64_t)st.st_size >= at_least)
            rc = 0;
    }
    if (rc && ftruncate(fd, 0) < 0)
        rc = -errno;
    close(fd);
    return rc;
}

bool catalog_reserve_release(int directory_fd)
{
    struct stat st;
    int fd = open_file(directory_fd);
    if (fd < 0)
        return false;
    bool released = fstat(fd, &st) == 0 && st.st_blocks > 0 && ftruncate(fd, 0) == 0 && fsync(fd) == 0;
    close(fd);
    return released;
}

bool catalog_reserve_needed(int directory_fd, uint64_t bytes)
{
    struct host_file_space there;
    return host_file_space(directory_fd, &there) == 0 && there.available < bytes;
}
