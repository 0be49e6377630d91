/* radix_io.c - blocking, checked reads of nodes.
 *
 * A batch goes to the device in one call. If the device reports an error for the batch, each node is read alone, so that one
 * bad sector costs only the node it hit. */
#include "radix/radix_private.h"

#include "base/log.h"

#include <errno.h>
#include <stdlib.h>

void radix_log_damage(const struct radix_entry *e, unsigned level, int error)
{
    static _Thread_local struct log_limit limit;
    log_limited(&limit, LOG_LEVEL_ERROR, "map node %s address=%llu level=%u birth=%llu crc=%08x error=%d",
                error == -EBADMSG ? "damaged" : "unreadable", (unsigned long long)e->address, level,
                (unsigned long long)e->birth, e->crc, -error);
}

struct radix_disk_node *radix_nodes_alloc(size_t count)
{
    return aligned_alloc(BDEV_BLOCK_SIZE, count * sizeof(struct radix_disk_node));
}

int radix_read_nodes(struct radix_io *io, unsigned level, const struct radix_entry *entries, struct radix_disk_node *const *nodes,
                     unsigned count, int *errors)
{
    uint64_t addresses[RADIX_BATCH], limit = radix_device_blocks(io->device);
    void *buffers[RADIX_BATCH];
    unsigned readable = 0;
    for (unsigned i = 0; i < count; i++) {
        errors[i] = radix_node_entry_check(&entries[i], level, limit);
        if (errors[i])
            continue;
        addresses[readable] = entries[i].address;
        buffers[readable++] = nodes[i];
    }
    bool one_by_one = readable && bdev_read_many(io->device, addresses, buffers, readable);
    int first = 0;
    for (unsigned i = 0; i < count; i++) {
        if (!errors[i] && one_by_one)
            errors[i] = bdev_read(io->device, entries[i].address, nodes[i], 1);
        if (!errors[i])
            errors[i] = radix_node_check(nodes[i], io->seed, &entries[i], level, limit);
        if (errors[i])
            radix_log_damage(&entries[i], level, errors[i]);
        if (!first)
            first = errors[i];
    }
    return first;
}

int radix_read_node(struct radix_io *io, const struct radix_entry *node, unsigned level, struct radix_entry entries[RADIX_FANOUT])
{
    struct radix_disk_node *n = radix_nodes_alloc(1);
    if (!n)
        return -ENOMEM;
    int unused, err = radix_read_nodes(io, level, node, &n, 1, &unused);
    for (unsigned i = 0; !err && i < RADIX_FANOUT; i++)
        radix_entry_unpack(&n->entry[i], &entries[i]);
    free(n);
    return err;
}
