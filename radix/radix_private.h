/* radix_private.h - what the files of radix/ share: checked reads of nodes, and the limits of batches. */
#ifndef RADIX_RADIX_PRIVATE_H
#define RADIX_RADIX_PRIVATE_H
#include "radix/radix_disk.h"

#define RADIX_BATCH 256u /* nodes read by one call of radix_read_nodes at most */

/* The device's size as this moment's checks see it; another thread may be growing it. */
static inline uint64_t radix_device_blocks(const struct bdev *d) { return __atomic_load_n(&d->blocks, __ATOMIC_RELAXED); }

/* Logs that a node is damaged or unreadable; at most a few lines a minute from each thread. */
void radix_log_damage(const struct radix_entry *e, unsigned level, int error);

/* Reads and checks `count` (up to RADIX_BATCH) nodes of one level at once: nodes[i] gets what entries[i] leads to, errors[i]
 * 0, -EBADMSG or the device's error. Returns the first error. */
int radix_read_nodes(struct radix_io *io, unsigned level, const struct radix_entry *entries, struct radix_disk_node *const *nodes,
                     unsigned count, int *errors);

/* Memory for `count` nodes, aligned for the device, not cleared; NULL if there is none. free() gives it back. */
struct radix_disk_node *radix_nodes_alloc(size_t count);
#endif
