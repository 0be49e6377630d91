/* host_device.c - see host_device.h. */
#include "parallax/store/host_device.h"

#include <errno.h>
#include <linux/fs.h>
#include <stddef.h>
#include <sys/ioctl.h>

int host_device_size(int fd, uint64_t *bytes) { return ioctl(fd, BLKGETSIZE64, bytes) < 0 ? -errno : 0; }

bool host_device_read_only(int fd)
{
    int read_only = 0;
    return ioctl(fd, BLKROGET, &read_only) == 0 && read_only;
}

int host_device_discard(int fd, uint64_t offset_bytes, uint64_t length_bytes)
{
    uint64_t range[2] = { offset_bytes, length_bytes };
    return ioctl(fd, BLKDISCARD, range) < 0 ? -errno : 0;
}
