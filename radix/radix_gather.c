/* radix_gather.c - see radix_gather.h. */
#include "radix/radix_gather.h"

#include "radix/radix_private.h"

#include <errno.h>
#include <stdlib.h>

int radix_gather_init(struct radix_gather *g, struct radix_io *io)
{
    *g = (struct radix_gather){ .io = io, .nodes = radix_nodes_alloc(RADIX_GATHER_NODES) };
    return g->nodes ? 0 : -ENOMEM;
}

void radix_gather_fini(struct radix_gather *g)
{
    free(g->nodes);
    g->nodes = NULL;
}

int radix_gather_flush(struct radix_gather *g)
{
    void *nodes[RADIX_GATHER_NODES];
    bool consecutive = true;
    for (unsigned i = 0; i < g->count; i++) {
        nodes[i] = &g->nodes[i];
        consecutive = consecutive && g->address[i] == g->address[0] + i;
    }
    if (g->count == 0)
        return 0;
    int err = consecutive ? bdev_write(g->io->device, g->address[0], g->nodes, g->count)
                          : bdev_write_many(g->io->device, g->address, nodes, g->count);
    if (!err)
        g->count = 0;
    return err;
}

int radix_gather_add(struct radix_gather *g, const struct radix_disk_node *n, unsigned level, uint64_t birth, struct radix_entry *entry)
{
    uint64_t address;
    int err = g->io->allocate(g->io->ctx, &address);
    if (err)
        return err;
    struct radix_entry e = { .address = address, .birth = birth, .kind = RADIX_NODE };
    /* A node that no reader would accept must not become part of a tree. */
    if (radix_node_entry_check(&e, level, radix_device_blocks(g->io->device)))
        return -EINVAL;
    if (g->count == RADIX_GATHER_NODES && (err = radix_gather_flush(g)))
        return err;
    g->address[g->count] = address;
    g->nodes[g->count++] = *n;
    g->written++;
    e.crc = radix_node_checksum(g->io->seed, n, level, birth, address);
    *entry = e;
    return 0;
}
