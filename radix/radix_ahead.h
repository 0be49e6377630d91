/* radix_ahead.h - the changes of a merge, read ahead, and the old nodes they will touch, read in batches.
 *
 * Changes are pulled in slices of at most RADIX_AHEAD_CHANGES that touch at most RADIX_BATCH leaves. Before a slice is
 * applied, the old nodes on the paths of its changes are read level by level, each level by one call to the device: a slice
 * of scattered changes costs as many round trips as the tree is high, not as many as it has leaves.
 *
 * Private to radix/. Reading ahead is only speed: a node that is not found here is read alone by the merge. */
#ifndef RADIX_RADIX_AHEAD_H
#define RADIX_RADIX_AHEAD_H
#include "radix/radix_private.h"

#define RADIX_AHEAD_CHANGES 4096u

/* A leaf that a slice touches. The nodes above its block are needed from min_level up: lower ones are dropped unread. */
struct radix_touch {
    uint64_t block;
    unsigned min_level;
};

/* The nodes of one level that were read ahead, in the order of their first blocks. */
struct radix_ahead_level {
    unsigned count, at, capacity;
    struct radix_disk_node *nodes;
    struct radix_entry entry[RADIX_BATCH];
    uint64_t first[RADIX_BATCH];
};

struct radix_ahead {
    struct radix_merge *merge;
    bool ended;         /* next() has no more */
    uint64_t next_free; /* the next change begins here or later */
    unsigned change_count, touch_count;
    struct radix_change change[RADIX_AHEAD_CHANGES];
    struct radix_touch touch[RADIX_BATCH];
    struct radix_ahead_level level[RADIX_MAX_HEIGHT + 1];
};

/* height: of the old tree. */
int radix_ahead_create(struct radix_merge *m, unsigned height, struct radix_ahead **out);
void radix_ahead_destroy(struct radix_ahead *a);
/* Pulls the next slice into change[]; change_count is 0 at the end. -EINVAL: changes out of order or not legal. */
int radix_ahead_pull(struct radix_ahead *a, const struct radix_io *io);
/* The node of that level whose first block is first, if it was read ahead under exactly that entry; else NULL. Calls come in
 * ascending order of first on each level. The node is lent until the next pull. */
const struct radix_disk_node *radix_ahead_take(struct radix_ahead *a, unsigned level, uint64_t first, const struct radix_entry *e);
#endif
