/* radix_gather.h - new nodes on their way to the device: many at a time, and as one write if their addresses are consecutive.
 *
 * Private to radix/. Threads: those of the radix_io. Errors: 0 or negative errno. */
#ifndef RADIX_RADIX_GATHER_H
#define RADIX_RADIX_GATHER_H
#include "radix/radix_disk.h"

#define RADIX_GATHER_NODES 256u /* 1 MiB */

struct radix_gather {
    struct radix_io *io;
    struct radix_disk_node *nodes; /* RADIX_GATHER_NODES of them */
    uint64_t address[RADIX_GATHER_NODES];
    unsigned count;
    uint64_t written;              /* nodes given to the device or waiting to be */
};

int radix_gather_init(struct radix_gather *g, struct radix_io *io);
void radix_gather_fini(struct radix_gather *g); /* drops what was not flushed */
/* Copies the node, gives it an address and a checksum; *entry is what its parent is to hold. */
int radix_gather_add(struct radix_gather *g, const struct radix_disk_node *n, unsigned level, uint64_t birth, struct radix_entry *entry);
/* Everything added has been written on return. */
int radix_gather_flush(struct radix_gather *g);
#endif
