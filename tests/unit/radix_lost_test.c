/* radix_lost_test.c - maps that go on without a node of theirs: what a merge that meets an unreadable node leaves, against a
 * model of one state a block. */
#include "radix/radix_disk.h"
#include "tests/support/radix_world.h"
#include "tests/support/unit.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define DEVICE_BLOCKS (1u << 17)
#define LIMIT (1u << 18) /* of the image: three levels */
#define LOST UINT64_MAX

struct model {
    struct radix_world w;
    uint64_t *state; /* by image block: 0 nothing, LOST, or the address of its data */
    struct radix_change change[64];
    unsigned count, at;
    uint64_t spoilt; /* the address of the node */
    unsigned losses, wrong;
    uint64_t walked; /* every block below was seen by the walk */
};

static int next(void *ctx, struct radix_change *out)
{
    struct model *m = ctx;
    if (m->at == m->count)
        return 0;
    *out = m->change[m->at++];
    return 1;
}

static int drop(void *ctx, enum radix_drop what, const struct radix_entry *e, unsigned level, uint64_t first)
{
    struct model *m = ctx;
    (void)level;
    if (what == RADIX_DROP_DATA && m->state[first] != e->address)
        m->wrong++;
    if (what == RADIX_DROP_NODE && e->address == m->spoilt)
        m->wrong++;
    return 0;
}

static int lost(void *ctx, unsigned level, uint64_t first, const struct radix_entry *e, int error)
{
    struct model *m = ctx;
    if (e->address != m->spoilt || error != -EBADMSG)
        m->wrong++;
    for (uint64_t b = first; b < first + radix_span(level) && b < LIMIT; b++)
        m->state[b] = LOST;
    m->losses++;
    return 0;
}

/* Blocks that the walk passed over must be mapped to nothing. */
static void pass(struct model *m, uint64_t until)
{
    for (; m->walked < until && m->walked < LIMIT; m->walked++)
        m->wrong += m->state[m->walked] != 0;
}

static int see_data(void *ctx, uint64_t block, const struct radix_entry *e)
{
    struct model *m = ctx;
    pass(m, block);
    m->wrong += m->walked != block || m->state[block] != e->address;
    m->walked = block + 1;
    return 0;
}

static int see_lost(void *ctx, uint64_t first, uint64_t count, const struct radix_entry *e)
{
    struct model *m = ctx;
    if (first >= LIMIT)
        return 0;
    pass(m, first);
    m->wrong += m->walked != first || e->kind != RADIX_LOST || e->birth > m->w.birth;
    for (; m->walked < first + count && m->walked < LIMIT; m->walked++)
        m->wrong += m->state[m->walked] != LOST;
    return 0;
}

static void answered(struct radix_lookup *l, int error) { l->root.height = error ? 99 : 98; }

static void compare(struct model *m, struct radix_cache *c)
{
    struct radix_visit v = { .ctx = m, .data = see_data, .lost = see_lost };
    m->walked = 0;
    CU_ASSERT_EQUAL(radix_walk(&m->w.io, &m->w.root, &v), 0);
    pass(m, LIMIT);
    for (unsigned i = 0; i < 40; i++) {
        struct radix_entry e[64];
        struct radix_lookup l = { .root = m->w.root, .first = radix_world_random(&m->w, LIMIT - 64), .count = 64, .entries = e, .done = answered };
        int err = radix_lookup(c, &l);
        while (err == -EINPROGRESS && l.root.height < 98)
            loop_turn(m->w.loop, 0);
        CU_ASSERT_FATAL(err == 0 || l.root.height == 98);
        for (unsigned k = 0; k < 64; k++) {
            uint64_t want = m->state[l.first + k];
            m->wrong += e[k].kind != (want == LOST ? RADIX_LOST : want ? RADIX_DATA : RADIX_NONE) || (e[k].kind == RADIX_DATA && e[k].address != want);
        }
    }
    CU_ASSERT_EQUAL_FATAL(m->wrong, 0);
}

static void add_change(struct model *m, uint64_t first, uint64_t count)
{
    struct radix_change *c = &m->change[m->count++];
    *c = (struct radix_change){ .first = first, .count = count };
    if (count > 1 || radix_world_random(&m->w, 4) == 0)
        return;
    c->entry = (struct radix_entry){ .kind = RADIX_DATA, .birth = m->w.birth, .crc = 1 };
    CU_ASSERT_FATAL(m->w.io.allocate(m->w.io.ctx, &c->entry.address) == 0);
}

/* Ascending changes, one block or a range, one of them at `inside` if that is a block of the image. */
static void make_changes(struct model *m, uint64_t inside)
{
    m->count = m->at = 0;
    m->w.birth++;
    uint64_t at = radix_world_random(&m->w, LIMIT / 8);
    at = at < inside ? at : inside;
    while (m->count < 40 && at < LIMIT) {
        if (m->count == 30 && inside != UINT64_MAX)
            at = inside;
        uint64_t count = radix_world_random(&m->w, 6) ? 1 : 1 + radix_world_random(&m->w, radix_world_random(&m->w, 2) ? 400 : LIMIT / 8);
        if (inside < at + count && inside != UINT64_MAX) {
            at = inside;
            count = 1;
            inside = UINT64_MAX;
        }
        add_change(m, at, count);
        at += count + radix_world_random(&m->w, radix_world_random(&m->w, 3) ? 9 : LIMIT / 6);
        at = at < inside ? at : inside;
    }
}

static int merge(struct model *m, bool may_lose)
{
    struct radix_merge mg = { .next = next, .drop = drop, .lost = may_lose ? lost : NULL, .ctx = m, .birth = m->w.birth, .min_blocks = LIMIT };
    int err = radix_merge(&m->w.io, &m->w.root, &mg, &m->w.root);
    for (unsigned i = 0; !err && i < m->count; i++)
        for (uint64_t b = m->change[i].first; b < m->change[i].first + m->change[i].count && b < LIMIT; b++)
            m->state[b] = m->change[i].entry.address;
    return err;
}

struct node {
    struct radix_entry entry;
    uint64_t first;
    unsigned level, left, least; /* least: of the levels that count */
};

static int choose(void *ctx, unsigned level, uint64_t first, const struct radix_entry *e)
{
    struct node *n = ctx;
    if (level < n->least || first >= LIMIT || n->left-- != 0)
        return 0;
    *n = (struct node){ .entry = *e, .first = first, .level = level };
    return 1;
}

/* One of level `least` or above, if there is one. */
static struct node some_node(struct model *m, unsigned least)
{
    struct node n = { .left = (unsigned)radix_world_random(&m->w, 40), .least = least };
    struct radix_visit v = { .ctx = &n, .node = choose };
    while (radix_walk(&m->w.io, &m->w.root, &v) == 0) {
        n.least = n.left < 3 ? 1 : least; /* it may be that there is none */
        n.left = (unsigned)radix_world_random(&m->w, 3);
    }
    return n;
}

static void an_unreadable_node_costs_what_it_mapped_and_what_is_written_comes_back(void)
{
    struct model m = { .count = 0 };
    struct radix_cache *c;
    unsigned heights = 0;
    radix_world_open(&m.w, DEVICE_BLOCKS, unit_seed());
    m.state = calloc(LIMIT, sizeof *m.state);
    CU_ASSERT_FATAL(m.state && radix_cache_create(&m.w.device->bdev, 0x5eed, 1, &c) == 0);
    for (unsigned round = 0; round < 300; round++) {
        m.spoilt = 0;
        make_changes(&m, UINT64_MAX);
        CU_ASSERT_EQUAL_FATAL(merge(&m, true), 0);
        compare(&m, c);
        if (round % 3 || m.w.root.node.kind == RADIX_NONE)
            continue;
        struct node n = some_node(&m, 1 + round % 2);
        unsigned char *bytes = memory_bdev_block(m.w.device, n.entry.address);
        bytes[radix_world_random(&m.w, BDEV_BLOCK_SIZE)] ^= 1;
        radix_cache_forget(c, n.entry.address);
        m.spoilt = n.entry.address;
        uint64_t span = radix_span(n.level), in_image = n.first + span > LIMIT ? LIMIT - n.first : span;
        make_changes(&m, n.first + radix_world_random(&m.w, in_image));
        struct radix_root before = m.w.root;
        unsigned losses = m.losses;
        CU_ASSERT_EQUAL(merge(&m, false), -EBADMSG);
        CU_ASSERT_EQUAL(memcmp(&before, &m.w.root, sizeof before), 0);
        m.at = 0;
        CU_ASSERT_EQUAL_FATAL(merge(&m, true), 0);
        CU_ASSERT_EQUAL(m.losses, losses + 1);
        heights |= 1u << n.level;
        compare(&m, c);
    }
    CU_ASSERT((heights & 6) == 6); /* a leaf and an inner node at least */
    m.count = m.at = 0;
    m.w.birth++;
    m.change[m.count++] = (struct radix_change){ .first = 0, .count = UINT64_MAX };
    CU_ASSERT_EQUAL(merge(&m, true), 0);
    CU_ASSERT_EQUAL(m.w.root.node.kind, RADIX_NONE);
    radix_cache_destroy(c);
    free(m.state);
    radix_world_close(&m.w);
}

static void a_failure_that_passes_loses_nothing(void)
{
    struct model m = { .count = 0 };
    radix_world_open(&m.w, DEVICE_BLOCKS, 1);
    m.state = calloc(LIMIT, sizeof *m.state);
    make_changes(&m, 5);
    CU_ASSERT_EQUAL_FATAL(merge(&m, true), 0);
    for (unsigned n = 1; n < 20; n++) {
        make_changes(&m, 5);
        m.w.device->fail_at = m.w.device->ios + n;
        int err = merge(&m, true);
        m.w.device->fail_at = 0;
        CU_ASSERT(err == 0 || err == -EIO); /* of a write */
        CU_ASSERT_EQUAL(m.losses, 0);
    }
    free(m.state);
    radix_world_close(&m.w);
}

int main(int argc, char **argv)
{
    return unit_main(argc, argv, "radix lost",
                     (struct unit_test[]){ UNIT(an_unreadable_node_costs_what_it_mapped_and_what_is_written_comes_back),
                                           UNIT(a_failure_that_passes_loses_nothing), { 0 } });
}
