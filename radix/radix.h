/* radix.h - the copy-on-write map from an image's blocks to stored blocks.
 *
 * A tree of 4 KiB nodes of RADIX_FANOUT entries, over an injected block device. Nodes are never changed in place: an update
 * writes new nodes and reports what they replace. A root of height h maps RADIX_FANOUT^h blocks; height 0 maps nothing.
 * The on-disk form and what "valid" means: docs/disk-format.md. Every node is checked whole against its parent's entry when
 * it is read (checksum, kinds for its level, addresses on the device, births not after its own, reserved bits zero).
 *
 * Threads: a struct radix_cache and lookups through it belong to one loop. radix_merge, radix_walk and radix_diff block and
 * run on any thread but a loop's, with a struct radix_io of that thread.
 * Errors: 0 or negative errno; -EBADMSG: a node is damaged (logged once with its address); callbacks may stop a walk with
 * any negative value, which is returned. */
#ifndef RADIX_RADIX_H
#define RADIX_RADIX_H
#include "base/bdev.h"

#include <stdbool.h>
#include <stdint.h>

#define RADIX_FANOUT 256u
#define RADIX_MAX_HEIGHT 4u
#define RADIX_MAX_BLOCKS (1ull << 32) /* 16 TiB of blocks */

/* RADIX_LOST: what stood here was in a node that could not be read when it had to be changed. address is that node's, birth the
 * generation in which the loss was met; whoever reads such a block gets an error, and mapping or unmapping it makes it good. */
enum radix_kind { RADIX_NONE = 0, RADIX_DATA = 1, RADIX_NODE = 2, RADIX_LOST = 3 };

struct radix_entry {
    uint64_t address; /* 48 bits */
    uint64_t birth;   /* generation it was written in; 40 bits */
    uint32_t crc;     /* crc32c of the block's 4096 bytes, seeded with the store's seed */
    enum radix_kind kind;
};

struct radix_root {
    struct radix_entry node; /* kind RADIX_NODE, or RADIX_NONE for an empty map */
    unsigned height;         /* 0 … RADIX_MAX_HEIGHT */
};

/* Heights needed for an image of that many blocks. */
unsigned radix_height_for(uint64_t blocks);
/* What a map of an image of that many blocks has at most: nodes in all, and those that are no leaves. */
static inline uint64_t radix_nodes_at_most(uint64_t blocks) { return blocks / (RADIX_FANOUT - 1) + RADIX_MAX_HEIGHT; }
static inline uint64_t radix_inner_at_most(uint64_t blocks) { return radix_nodes_at_most(blocks / RADIX_FANOUT); }
/* Checksum of one block as entries carry it. */
uint32_t radix_checksum(uint32_t seed, const void *block);
/* 16 bytes little-endian, for those who store a root elsewhere. decode: -EBADMSG for reserved bits or an unknown kind. */
void radix_entry_encode(const struct radix_entry *e, void *bytes16);
int radix_entry_decode(const void *bytes16, struct radix_entry *out);

/* ---- Lookup, on a loop ---- */

struct radix_cache;
/* bytes: bound of the memory for nodes (at least 64 nodes are kept); device is borrowed. */
int radix_cache_create(struct bdev *device, uint32_t seed, uint64_t bytes, struct radix_cache **out);
void radix_cache_destroy(struct radix_cache *c); /* no lookup may be in flight */

struct radix_lookup {
    struct radix_root root;
    uint64_t first;              /* image block */
    uint32_t count;              /* 1 … 257: one call answers a 1 MiB request at any offset */
    struct radix_entry *entries; /* count of them, the caller's, filled before done; RADIX_NONE where nothing was written, RADIX_LOST */
    void (*done)(struct radix_lookup *l, int error);
    /* private until done */
    uint32_t at;
    unsigned level;
    struct list_node link;
    struct radix_entry waiting_for;
};

/* 0: answered from the cache at once, done will not be called. -EINPROGRESS: done will be called. Other errors: failed. */
int radix_lookup(struct radix_cache *c, struct radix_lookup *l);
/* The address will be used again: forget a node cached under it. */
void radix_cache_forget(struct radix_cache *c, uint64_t address);

struct radix_cache_stats {
    uint64_t hits, misses, nodes, capacity_nodes;
};
void radix_cache_get_stats(const struct radix_cache *c, struct radix_cache_stats *out);

/* ---- Update, walk, difference: blocking ---- */

struct radix_io {
    struct bdev *device;
    uint32_t seed;
    void *ctx;
    /* An address for a new node, durable-safe to write to now. Needed by radix_merge only. */
    int (*allocate)(void *ctx, uint64_t *address);
};

/* One change: blocks first … first+count-1 become entry (count 1), or unmapped (kind RADIX_NONE, any count). */
struct radix_change {
    uint64_t first, count;
    struct radix_entry entry;
};

/* What radix_merge reports as no longer reached from the new root: one data block, one node whose children live on in its
 * replacement, or a node with all that is below it (level: 1 for a leaf). */
enum radix_drop { RADIX_DROP_DATA, RADIX_DROP_NODE, RADIX_DROP_SUBTREE };

struct radix_merge {
    /* Gives the next change, in ascending order, none overlapping another; 1: given, 0: no more, negative: stop. It is called
     * up to some thousands of changes ahead of the drops that follow from them. */
    int (*next)(void *ctx, struct radix_change *out);
    /* Told before the new root is returned; an error stops the merge. An entry that is replaced by one with the same address
     * is still reached and not dropped. first_block: the image block, or the first one below the node. */
    int (*drop)(void *ctx, enum radix_drop what, const struct radix_entry *e, unsigned level, uint64_t first_block);
    /* Told when a node that has to be changed cannot be read (-EBADMSG or -EIO, at the second attempt too): 0 puts a new node
     * in its place, in which all that is not changed is RADIX_LOST; the old node and what is below it are not dropped. NULL:
     * the merge stops with the error. */
    int (*lost)(void *ctx, unsigned level, uint64_t first_block, const struct radix_entry *e, int error);
    void *ctx;
    uint64_t birth;     /* of the new nodes */
    uint64_t min_blocks; /* the new root is at least high enough for an image of this many blocks, if it maps anything */
    uint64_t nodes_written; /* set by radix_merge: new nodes that were given an address, those of a failed merge included */
};

/* Writes the nodes of old with the changes applied and returns their root; old stays valid. Nodes are gathered into large
 * writes and all have been written (not flushed) on return. On error nothing but unreferenced new nodes is left.
 * Memory: at most 256 nodes per level (those that the next changes touch, read in batches) and a write buffer of 1 MiB, whatever
 * the size. -EINVAL: changes out of order, or an address, birth or min_blocks that no map can hold. */
int radix_merge(struct radix_io *io, const struct radix_root *old, struct radix_merge *m, struct radix_root *out);

struct radix_visit {
    void *ctx;
    uint64_t from;      /* image block to begin at */
    uint64_t min_birth; /* entries born before it are passed over with all below them (births never grow downwards) */
    /* Whether a node is read and visited, with all that is below it; asked before any of that is read. May be NULL: each is. */
    bool (*enter)(void *ctx, const struct radix_entry *e);
    /* Each mapped data block, in order. May be NULL. */
    int (*data)(void *ctx, uint64_t block, const struct radix_entry *e);
    /* Each node, after all that is below it (level 1: a leaf; the root last). May be NULL. first: first image block below it. */
    int (*node)(void *ctx, unsigned level, uint64_t first_block, const struct radix_entry *e);
    /* Each run of blocks that are RADIX_LOST by the same loss, in order with the data. May be NULL. */
    int (*lost)(void *ctx, uint64_t first_block, uint64_t count, const struct radix_entry *e);
    /* A node that could not be read or is invalid: 0 goes on without it. NULL: stops with -EBADMSG (or -EIO). */
    int (*damaged)(void *ctx, unsigned level, uint64_t first_block, const struct radix_entry *e, int error);
};
int radix_walk(struct radix_io *io, const struct radix_root *root, const struct radix_visit *v);
/* The same below one entry: a node of that level whose first image block is first_block. */
int radix_walk_subtree(struct radix_io *io, const struct radix_entry *node, unsigned level, uint64_t first_block,
                       const struct radix_visit *v);
/* The entries of one node, read and checked. */
int radix_read_node(struct radix_io *io, const struct radix_entry *node, unsigned level, struct radix_entry entries[RADIX_FANOUT]);

/* Blocks in which the two maps differ, as ascending runs; shared subtrees are never read. now_mapped: whether b maps it.
 * A block is the same if both entries have the same address and checksum. Runs are merged where they touch. */
int radix_diff(struct radix_io *io, const struct radix_root *a, const struct radix_root *b,
               int (*run)(void *ctx, uint64_t first, uint64_t count, bool now_mapped), void *ctx);
#endif
