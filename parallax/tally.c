/* tally.c - see tally.h. The memory is bounded: a node's number takes the place of another's. */
#include "parallax/tally.h"

#include "base/hash.h"

#include <errno.h>
#include <stdlib.h>

#define SLOTS 65536u

struct slot {
    uint64_t address; /* 0: empty */
    uint64_t blocks;
    unsigned level;
};

struct tally {
    uint64_t nodes;
    uint64_t sums[RADIX_MAX_HEIGHT + 2]; /* by level: below the node of that level that is being visited */
    struct slot slots[SLOTS];
};

int tally_create(struct tally **out)
{
    struct tally *t = calloc(1, sizeof *t);
    if (!t)
        return -ENOMEM;
    *out = t;
    return 0;
}

void tally_destroy(struct tally *t) { free(t); }

uint64_t tally_nodes(const struct tally *t) { return t->nodes; }

static struct slot *slot_of(struct tally *t, const struct radix_entry *e) { return &t->slots[hash_u64(e->address) % SLOTS]; }

static bool enter(void *ctx, const struct radix_entry *e)
{
    struct tally *t = ctx;
    const struct slot *s = slot_of(t, e);
    if (s->address != e->address)
        return true;
    t->sums[s->level + 1] += s->blocks;
    return false;
}

static int data(void *ctx, uint64_t block, const struct radix_entry *e)
{
    struct tally *t = ctx;
    (void)block;
    (void)e;
    t->sums[1]++;
    return 0;
}

static int node(void *ctx, unsigned level, uint64_t first_block, const struct radix_entry *e)
{
    struct tally *t = ctx;
    (void)first_block;
    *slot_of(t, e) = (struct slot){ e->address, t->sums[level], level };
    t->sums[level + 1] += t->sums[level];
    t->sums[level] = 0;
    t->nodes++;
    return 0;
}

int tally_count(struct tally *t, struct radix_io *io, const struct radix_root *root, uint64_t *blocks)
{
    struct radix_visit visit = { .ctx = t, .enter = enter, .data = data, .node = node };
    for (unsigned level = 0; level < RADIX_MAX_HEIGHT + 2; level++)
        t->sums[level] = 0;
    int err = root->height ? radix_walk(io, root, &visit) : 0;
    if (!err)
        *blocks = t->sums[root->height + 1];
    return err;
}
