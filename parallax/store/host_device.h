/* host_device.h - what the kernel is asked about a block device of the host. Any thread; 0 or negative errno.
 *
 * The only place that includes the kernel's headers that name these requests. */
#ifndef PARALLAX_STORE_HOST_DEVICE_H
#define PARALLAX_STORE_HOST_DEVICE_H
#include <stdbool.h>
#include <stdint.h>

int host_device_size(int fd, uint64_t *bytes);
/* Whether it is set so: it can be opened for writing all the same. */
bool host_device_read_only(int fd);
int host_device_discard(int fd, uint64_t offset_bytes, uint64_t length_bytes);
#endif
