/* index.h - the bounded table of changes that are not yet in trees.
 *
 * An entry says: since ticket t, block b of line l lies at an address (or is zero). Entries of one (line, block) stand in
 * their bucket in descending order of tickets, so that the first that fits is the newest (consistency.md, W2 and L1).
 * Threads: the loop's; a table that is being merged is only read, by both sides. Memory: fixed at init, touched as used. */
#ifndef PARALLAX_INDEX_H
#define PARALLAX_INDEX_H
#include <stdbool.h>
#include <stdint.h>

struct index_entry {
    uint32_t line, block;
    uint64_t ticket;
    uint64_t address : 63, shared : 1; /* 0: zero; shared: a reference more to a block that is stored (consistency.md, 25) */
    uint32_t crc;
    uint32_t next;    /* in the bucket; entry number + 1, 0 at the end */
};

struct index {
    struct index_entry *entries;
    uint32_t *buckets; /* entry number + 1 */
    uint32_t bucket_mask, capacity, used;
    uint32_t reserved; /* entries promised to batches in flight */
    uint64_t *held;    /* addresses of superseded writes */
    uint32_t held_used;
};

int index_init(struct index *ix, uint32_t capacity);
void index_fini(struct index *ix);
void index_clear(struct index *ix);
/* Twice the room: for recovery, which may find more than one table was made for. */
int index_grow(struct index *ix);

/* The newest entry of that block with a ticket below limit, or NULL. */
const struct index_entry *index_find(const struct index *ix, uint32_t line, uint32_t block, uint64_t limit);

/* Adds e. If an entry of the same block has a ticket in [low, high) (nothing can tell the two apart: no cut lies between),
 * the one with the higher ticket stays and the other's address becomes held. Room for one entry must have been reserved. */
void index_insert(struct index *ix, const struct index_entry *e, uint64_t low, uint64_t high);

/* The address of e, which is not to be inserted, becomes held. Room for one entry must have been reserved. */
void index_hold(struct index *ix, const struct index_entry *e);
#endif
