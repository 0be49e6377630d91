/* radix_walk_test.c - walks and differences against oracles, and that shared subtrees are not read. */
#include "tests/support/radix_world.h"
#include "tests/support/unit.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define DEVICE_BLOCKS (1u << 17)

/* ---- Walk ---- */

struct expect {
    const struct radix_oracle *o;
    size_t at;
    uint64_t from, min_birth;
    bool wrong;
    unsigned nodes;
    uint64_t last_end;
};

static int expect_data(void *ctx, uint64_t block, const struct radix_entry *e)
{
    struct expect *x = ctx;
    while (x->at < x->o->count && (x->o->map[x->at].block < x->from || x->o->map[x->at].entry.birth < x->min_birth))
        x->at++;
    if (x->at == x->o->count || x->o->map[x->at].block != block || x->o->map[x->at].entry.address != e->address)
        x->wrong = true;
    x->at++;
    return 0;
}

/* A node comes after what is below it: its end never precedes the end of the node before. */
static int expect_node(void *ctx, unsigned level, uint64_t first, const struct radix_entry *e)
{
    struct expect *x = ctx;
    uint64_t end = first + (1ull << 8 * level);
    if (end < x->last_end || e->kind != RADIX_NODE || e->birth < x->min_birth)
        x->wrong = true;
    x->last_end = end;
    x->nodes++;
    return 0;
}

static bool rest_is_passed_over(const struct expect *x)
{
    for (size_t i = x->at; i < x->o->count; i++)
        if (x->o->map[i].block >= x->from && x->o->map[i].entry.birth >= x->min_birth)
            return false;
    return true;
}

static void walks_from_any_block_and_birth_agree_with_the_oracle(void)
{
    struct radix_world w;
    radix_world_open(&w, DEVICE_BLOCKS, unit_seed());
    for (unsigned i = 0; i < 60; i++) {
        w.birth++;
        radix_world_random_changes(&w, 200, i < 30 ? 100000 : RADIX_MAX_BLOCKS);
        CU_ASSERT_EQUAL_FATAL(radix_world_merge(&w, 0), 0);
        for (unsigned k = 0; k < 10; k++) {
            struct expect x = { .o = &w.oracle, .min_birth = radix_world_random(&w, w.birth + 2) };
            x.from = w.oracle.count ? w.oracle.map[radix_world_random(&w, w.oracle.count)].block + radix_world_random(&w, 2) : 5;
            struct radix_visit v = { .ctx = &x, .from = x.from, .min_birth = x.min_birth, .data = expect_data, .node = expect_node };
            CU_ASSERT_EQUAL(radix_walk(&w.io, &w.root, &v), 0);
            CU_ASSERT(!x.wrong && rest_is_passed_over(&x));
        }
    }
    radix_world_close(&w);
}

static void a_walk_by_birth_reads_only_what_is_new(void)
{
    struct radix_world w;
    radix_world_open(&w, DEVICE_BLOCKS, 1);
    w.keep = true;
    for (uint64_t b = 0; b < 1000; b++)
        radix_world_map(&w, b * 256);
    CU_ASSERT_EQUAL(radix_world_merge(&w, RADIX_MAX_BLOCKS), 0);
    w.birth++;
    radix_world_map(&w, 5);
    CU_ASSERT_EQUAL(radix_world_merge(&w, RADIX_MAX_BLOCKS), 0);
    struct expect x = { .o = &w.oracle, .min_birth = 2 };
    struct radix_visit v = { .ctx = &x, .min_birth = 2, .data = expect_data, .node = expect_node };
    uint64_t before = w.device->blocks_read;
    CU_ASSERT_EQUAL(radix_walk(&w.io, &w.root, &v), 0);
    CU_ASSERT(!x.wrong && rest_is_passed_over(&x));
    CU_ASSERT_EQUAL(x.nodes, 4);
    CU_ASSERT_EQUAL(w.device->blocks_read - before, 4);
    v.min_birth = 3;
    CU_ASSERT_EQUAL(radix_walk(&w.io, &w.root, &v), 0);
    CU_ASSERT_EQUAL(w.device->blocks_read - before, 4);
    radix_world_close(&w);
}

struct gate {
    unsigned asked, nodes, blocks;
};

/* Every second node that is asked for stays closed, the root excepted. */
static bool pass_gate(void *ctx, const struct radix_entry *e)
{
    (void)e;
    return ((struct gate *)ctx)->asked++ % 2 == 0;
}

static int count_data(void *ctx, uint64_t block, const struct radix_entry *e)
{
    (void)block, (void)e;
    ((struct gate *)ctx)->blocks++;
    return 0;
}

static int count_nodes(void *ctx, unsigned level, uint64_t first, const struct radix_entry *e)
{
    (void)level, (void)first, (void)e;
    ((struct gate *)ctx)->nodes++;
    return 0;
}

static void a_node_that_is_not_entered_is_not_read(void)
{
    struct radix_world w;
    radix_world_open(&w, DEVICE_BLOCKS, 1);
    for (uint64_t b = 0; b < 200; b++)
        radix_world_map(&w, b * 256);
    CU_ASSERT_EQUAL(radix_world_merge(&w, 0), 0);
    struct gate g = { 0 };
    struct radix_visit v = { .ctx = &g, .enter = pass_gate, .data = count_data, .node = count_nodes };
    uint64_t before = w.device->blocks_read;
    CU_ASSERT_EQUAL(radix_walk(&w.io, &w.root, &v), 0);
    CU_ASSERT(g.asked == 201 && g.nodes == 101 && g.blocks == 100);
    CU_ASSERT_EQUAL(w.device->blocks_read - before, 101);
    g.asked = 1;
    CU_ASSERT_EQUAL(radix_walk(&w.io, &w.root, &v), 0);
    CU_ASSERT_EQUAL(w.device->blocks_read - before, 101);
    radix_world_close(&w);
}

static int stop_data(void *ctx, uint64_t block, const struct radix_entry *e)
{
    (void)e;
    return block == *(uint64_t *)ctx ? -ECANCELED : 0;
}

static void a_callback_stops_a_walk(void)
{
    struct radix_world w;
    radix_world_open(&w, DEVICE_BLOCKS, 1);
    radix_world_map(&w, 5);
    radix_world_map(&w, 70000);
    CU_ASSERT_EQUAL(radix_world_merge(&w, 0), 0);
    uint64_t at = 70000;
    struct radix_visit v = { .ctx = &at, .data = stop_data };
    CU_ASSERT_EQUAL(radix_walk(&w.io, &w.root, &v), -ECANCELED);
    at = 6;
    CU_ASSERT_EQUAL(radix_walk(&w.io, &w.root, &v), 0);
    CU_ASSERT_EQUAL(radix_walk_subtree(&w.io, &w.root.node, 0, 0, &v), -EINVAL);
    CU_ASSERT_EQUAL(radix_walk_subtree(&w.io, &w.root.node, 5, 0, &v), -EINVAL);
    CU_ASSERT_EQUAL(radix_walk_subtree(&w.io, &w.root.node, 3, 1, &v), -EINVAL);
    struct radix_root bad = { .node = w.root.node, .height = 5 };
    CU_ASSERT_EQUAL(radix_walk(&w.io, &bad, &v), -EBADMSG);
    bad.height = 2; /* the wrong level for this node */
    CU_ASSERT_EQUAL(radix_walk(&w.io, &bad, &v), -EBADMSG);
    radix_world_close(&w);
}

static void one_node_is_read_with_its_entries(void)
{
    struct radix_world w;
    struct radix_entry entries[RADIX_FANOUT];
    radix_world_open(&w, DEVICE_BLOCKS, 1);
    radix_world_map(&w, 5);
    CU_ASSERT_EQUAL(radix_world_merge(&w, 0), 0);
    CU_ASSERT_EQUAL(radix_read_node(&w.io, &w.root.node, 1, entries), 0);
    for (unsigned i = 0; i < RADIX_FANOUT; i++)
        CU_ASSERT_EQUAL(entries[i].kind, i == 5 ? RADIX_DATA : RADIX_NONE);
    CU_ASSERT_EQUAL(entries[5].address, w.oracle.map[0].entry.address);
    CU_ASSERT_EQUAL(radix_read_node(&w.io, &w.root.node, 2, entries), -EBADMSG);
    w.device->bad_block = w.root.node.address;
    CU_ASSERT_EQUAL(radix_read_node(&w.io, &w.root.node, 1, entries), -EIO);
    radix_world_close(&w);
}

/* ---- Difference ---- */

struct differing {
    const struct radix_oracle *a, *b;
    size_t i, k;             /* next mapping of either that was not accounted for */
    uint64_t last_end;
    bool last_mapped, wrong;
    unsigned runs;
};

static bool same(const struct radix_entry *x, const struct radix_entry *y) { return x->address == y->address && x->crc == y->crc; }

/* Moves past mappings below `until`; all of them must be the same on both sides. */
static void skip_same(struct differing *d, uint64_t until)
{
    for (; d->i < d->a->count && d->a->map[d->i].block < until; d->i++, d->k++)
        if (d->k >= d->b->count || d->b->map[d->k].block != d->a->map[d->i].block || !same(&d->a->map[d->i].entry, &d->b->map[d->k].entry)) {
            d->wrong = true;
            return;
        }
    if (d->k < d->b->count && d->b->map[d->k].block < until)
        d->wrong = true;
}

static int check_run(void *ctx, uint64_t first, uint64_t count, bool mapped)
{
    struct differing *d = ctx;
    if (count == 0 || first < d->last_end || (d->runs && first == d->last_end && mapped == d->last_mapped))
        d->wrong = true;
    skip_same(d, first);
    for (uint64_t block = first; !d->wrong && block < first + count; block++) {
        bool in_a = d->i < d->a->count && d->a->map[d->i].block == block, in_b = d->k < d->b->count && d->b->map[d->k].block == block;
        if (in_b != mapped || !(in_a || in_b) || (in_a && in_b && same(&d->a->map[d->i].entry, &d->b->map[d->k].entry)))
            d->wrong = true;
        d->i += in_a;
        d->k += in_b;
    }
    d->last_end = first + count;
    d->last_mapped = mapped;
    d->runs++;
    return d->wrong ? -ECANCELED : 0;
}

static unsigned check_diff(struct radix_world *w, const struct radix_root *a, const struct radix_oracle *oa, const struct radix_root *b,
                           const struct radix_oracle *ob)
{
    struct differing d = { .a = oa, .b = ob };
    CU_ASSERT_EQUAL(radix_diff(&w->io, a, b, check_run, &d), 0);
    skip_same(&d, UINT64_MAX);
    CU_ASSERT(!d.wrong);
    return d.runs;
}

static void random_maps_differ_as_their_oracles_do(void)
{
    struct radix_world w;
    radix_world_open(&w, DEVICE_BLOCKS, unit_seed());
    w.keep = true;
    enum { VERSIONS = 40 };
    struct radix_root root[VERSIONS] = { { .height = 0 } };
    static struct radix_oracle oracle[VERSIONS];
    for (unsigned i = 1; i < VERSIONS; i++) {
        w.birth++;
        /* Later versions are higher; some begin again from nothing or from any earlier one. */
        static const uint64_t limits[] = { 200, 60000, 1 << 24, RADIX_MAX_BLOCKS };
        if (radix_world_random(&w, 4) == 0) {
            unsigned from = (unsigned)radix_world_random(&w, i);
            w.root = root[from];
            free(w.oracle.map);
            radix_oracle_copy(&w.oracle, &oracle[from]);
        }
        radix_world_random_changes(&w, 150, limits[i * 4 / VERSIONS]);
        CU_ASSERT_EQUAL_FATAL(radix_world_merge(&w, 0), 0);
        root[i] = w.root;
        radix_oracle_copy(&oracle[i], &w.oracle);
    }
    for (unsigned i = 0; i < VERSIONS; i++)
        for (unsigned k = 0; k < VERSIONS; k++) {
            unsigned runs = check_diff(&w, &root[i], &oracle[i], &root[k], &oracle[k]);
            CU_ASSERT(i != k || runs == 0);
        }
    for (unsigned i = 0; i < VERSIONS; i++) {
        CU_ASSERT(radix_world_holds(&w, &root[i], &oracle[i])); /* no merge touched an old version */
        free(oracle[i].map);
    }
    radix_world_close(&w);
}

static void a_difference_reads_only_what_differs(void)
{
    struct radix_world w;
    radix_world_open(&w, DEVICE_BLOCKS, 1);
    w.keep = true;
    for (uint64_t b = 0; b < 1000; b++)
        radix_world_map(&w, b * 256);
    CU_ASSERT_EQUAL(radix_world_merge(&w, 0), 0);
    struct radix_root a = w.root;
    struct radix_oracle oa;
    radix_oracle_copy(&oa, &w.oracle);
    uint64_t before = w.device->blocks_read;
    CU_ASSERT_EQUAL(check_diff(&w, &a, &oa, &a, &oa), 0);
    CU_ASSERT_EQUAL(w.device->blocks_read, before);
    radix_world_map(&w, 77 * 256);
    CU_ASSERT_EQUAL(radix_world_merge(&w, 0), 0);
    before = w.device->blocks_read;
    CU_ASSERT_EQUAL(check_diff(&w, &a, &oa, &w.root, &w.oracle), 1);
    CU_ASSERT_EQUAL(w.device->blocks_read - before, 2 * 3);
    /* The same map under a higher root: only the new upper nodes are read. */
    a = w.root;
    CU_ASSERT_EQUAL(radix_world_merge(&w, RADIX_MAX_BLOCKS), 0);
    before = w.device->blocks_read;
    CU_ASSERT_EQUAL(check_diff(&w, &a, &w.oracle, &w.root, &w.oracle), 0);
    CU_ASSERT_EQUAL(check_diff(&w, &w.root, &w.oracle, &a, &w.oracle), 0);
    CU_ASSERT_EQUAL(w.device->blocks_read - before, 2);
    free(oa.map);
    radix_world_close(&w);
}

int main(int argc, char **argv)
{
    return unit_main(argc, argv, "radix walk",
                     (struct unit_test[]){ UNIT(walks_from_any_block_and_birth_agree_with_the_oracle), UNIT(a_walk_by_birth_reads_only_what_is_new),
                                           UNIT(a_node_that_is_not_entered_is_not_read), UNIT(a_callback_stops_a_walk), UNIT(one_node_is_read_with_its_entries),
                                           UNIT(random_maps_differ_as_their_oracles_do), UNIT(a_difference_reads_only_what_differs), { 0 } });
}
