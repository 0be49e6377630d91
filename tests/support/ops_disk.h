/* ops_disk.h - a disk as the random operations of file_ops.c see it: a file, or an export of an NBD server.
 *
 * Errors: 0 or negative errno. `dice` is a random number, by which an operation chooses among forms that mean the same. */
#ifndef TESTS_SUPPORT_OPS_DISK_H
#define TESTS_SUPPORT_OPS_DISK_H
#include <stdbool.h>
#include <stdint.h>

struct ops_disk;

struct ops_disk_ops {
    int (*open)(struct ops_disk *d); /* fills in size_bytes */
    void (*close)(struct ops_disk *d);
    int (*read)(struct ops_disk *d, uint8_t *buffer, uint64_t offset, uint64_t length);
    int (*write)(struct ops_disk *d, const uint8_t *data, uint64_t offset, uint64_t length, uint64_t dice);
    int (*punch)(struct ops_disk *d, uint64_t offset, uint64_t length, uint64_t dice);
    int (*zero)(struct ops_disk *d, uint64_t offset, uint64_t length, uint64_t dice);
    int (*flush)(struct ops_disk *d);
    /* The first hole at or behind offset; if there is none, an empty one at the end. */
    int (*hole)(struct ops_disk *d, uint64_t offset, uint64_t *begin, uint64_t *end);
};

struct ops_disk {
    const struct ops_disk_ops *ops;
    const char *name;
    bool direct;
    uint64_t size_bytes, punch_grain; /* punching clears the units of punch_grain that lie inside, and nothing else */
    int fd;
    struct nbd_handle *nbd;
};

extern const struct ops_disk_ops ops_file, ops_nbd;

/* By its name: an NBD URI, else a file. */
void ops_disk_choose(struct ops_disk *d, const char *name);
#endif
