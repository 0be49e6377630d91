/* pool.h - blocks that more than one reference leads to: how many (consistency.md, "Shared by content").
 *
 * Threads: while the store opens, the loop's; then the checkpoint's thread, which alone changes counts. pool_shared: any.
 * Memory: a bit a block, touched where something is shared; while a checkpoint runs, 300 bytes for each 64 addresses whose
 * counts it changes. */
#ifndef PARALLAX_POOL_H
#define PARALLAX_POOL_H
#include "base/hash.h"
#include "parallax/store/catalog.h"

#include <stdbool.h>
#include <stdint.h>

#define POOL_GROUP 64u
#define POOL_COUNT_MAX 0xffffffu /* references beyond the first */
#define POOL_VALUE_MAX (POOL_GROUP * 4u)
#define KEY_POOL 'X'

struct pool {
    uint64_t *shared; /* by address: it has a count */
    uint64_t words;
    struct catalog *catalog;
    struct hash groups; /* those that the checkpoint under way has looked at */
    int error;          /* the first of that checkpoint */
};

int pool_init(struct pool *p, struct catalog *catalog, uint64_t max_blocks);
void pool_fini(struct pool *p);
/* While opening: takes in a group as stored. -EBADMSG. */
int pool_load(struct pool *p, uint64_t group, const void *value, size_t length);

static inline bool pool_shared(const struct pool *p, uint64_t address)
{
    return address / 64 < p->words && __atomic_load_n(&p->shared[address / 64], __ATOMIC_RELAXED) >> address % 64 & 1;
}

/* One reference more. */
void pool_add(struct pool *p, uint64_t address);
/* One less; false: there is none beyond the first, and the block is free. */
bool pool_drop(struct pool *p, uint64_t address);
/* Puts a count right that was wrong by so much; never below zero. */
void pool_adjust(struct pool *p, uint64_t address, int64_t difference);
/* Gives the groups that have changed since the last time to put (value NULL: no key any more), and forgets them. The first
 * error of pool_add or pool_drop since then is returned. */
int pool_write(struct pool *p, int (*put)(void *ctx, const void *key, size_t key_length, const void *value, size_t length), void *ctx);

/* A group's value: counts of its POOL_GROUP addresses. -EBADMSG. */
int pool_decode(const void *value, size_t length, uint32_t counts[POOL_GROUP]);
#endif
