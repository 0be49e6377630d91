/* radix_lookup_test.c - lookups through the cache against an oracle, in random order of completion and with little memory. */
#include "base/clock.h"
#include "base/log.h"
#include "tests/support/radix_world.h"
#include "tests/support/unit.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEVICE_BLOCKS (1u << 17)
#define SMALLEST_CACHE 1u /* bytes; 64 nodes are kept at least */

struct asked {
    struct radix_lookup l;
    struct radix_entry entries[257];
    int error;
    unsigned answers;
    struct many *many;
};

struct many {
    struct radix_world *w;
    struct radix_cache *cache;
    const struct radix_oracle *oracle;
    uint64_t limit;
    unsigned to_start, in_flight, wrong, failed;
    bool forget; /* addresses are forgotten at random, whatever is being read */
};

static void open_cache(struct radix_world *w, uint64_t bytes, struct radix_cache **out)
{
    CU_ASSERT_FATAL(radix_cache_create(&w->device->bdev, w->io.seed, bytes, out) == 0);
}

static bool same(const struct radix_entry *a, const struct radix_entry *b)
{
    return a->kind == b->kind && (a->kind == RADIX_NONE || (a->address == b->address && a->birth == b->birth && a->crc == b->crc));
}

static bool right(const struct asked *a, const struct radix_oracle *o)
{
    for (uint32_t i = 0; i < a->l.count; i++) {
        struct radix_entry e = radix_oracle_find(o, a->l.first + i);
        if (!same(&e, &a->entries[i]))
            return false;
    }
    return true;
}

static void answered(struct radix_lookup *l, int error)
{
    struct asked *a = container_of(l, struct asked, l);
    a->error = error;
    a->answers++;
}

/* Looks up and waits. */
static int look(struct radix_world *w, struct radix_cache *c, struct asked *a, const struct radix_root *root, uint64_t first, uint32_t count)
{
    memset(a, 0xee, sizeof *a);
    a->answers = 0;
    a->l.root = *root;
    a->l.first = first;
    a->l.count = count;
    a->l.entries = a->entries;
    a->l.done = answered;
    int err = radix_lookup(c, &a->l);
    if (err != -EINPROGRESS)
        return err;
    CU_ASSERT_EQUAL(a->answers, 0);
    while (!a->answers)
        loop_turn(w->loop, 0);
    return a->error;
}

static void make_map(struct radix_world *w, unsigned rounds, uint64_t limit)
{
    for (unsigned i = 0; i < rounds; i++) {
        w->birth++;
        radix_world_random_changes(w, 400, limit);
        CU_ASSERT_EQUAL_FATAL(radix_world_merge(w, limit), 0);
    }
}

/* ---- One at a time ---- */

static void an_empty_map_answers_at_once(void)
{
    struct radix_world w;
    struct radix_cache *c;
    struct asked a;
    radix_world_open(&w, DEVICE_BLOCKS, 1);
    open_cache(&w, SMALLEST_CACHE, &c);
    CU_ASSERT_EQUAL(look(&w, c, &a, &w.root, RADIX_MAX_BLOCKS - 257, 257), 0);
    CU_ASSERT(right(&a, &w.oracle));
    CU_ASSERT_EQUAL(w.device->ios, 0);
    radix_cache_destroy(c);
    radix_world_close(&w);
}

static void bad_lookups_are_refused(void)
{
    struct radix_world w;
    struct radix_cache *c;
    struct asked a;
    radix_world_open(&w, DEVICE_BLOCKS, 1);
    open_cache(&w, SMALLEST_CACHE, &c);
    CU_ASSERT_EQUAL(look(&w, c, &a, &w.root, 0, 0), -EINVAL);
    CU_ASSERT_EQUAL(look(&w, c, &a, &w.root, 0, 258), -EINVAL);
    CU_ASSERT_EQUAL(look(&w, c, &a, &w.root, RADIX_MAX_BLOCKS, 1), -EINVAL);
    CU_ASSERT_EQUAL(look(&w, c, &a, &w.root, UINT64_MAX, 2), -EINVAL);
    struct radix_root bad = { .height = 5 };
    CU_ASSERT_EQUAL(look(&w, c, &a, &bad, 0, 1), -EBADMSG);
    bad = (struct radix_root){ .node = { .kind = RADIX_NODE, .address = 5 }, .height = 0 };
    CU_ASSERT_EQUAL(look(&w, c, &a, &bad, 0, 1), -EBADMSG);
    bad = (struct radix_root){ .node = { .kind = RADIX_NODE, .address = DEVICE_BLOCKS }, .height = 1 };
    CU_ASSERT_EQUAL(look(&w, c, &a, &bad, 0, 1), -EBADMSG);
    bad = (struct radix_root){ .node = { .kind = RADIX_DATA, .address = 5 }, .height = 1 };
    CU_ASSERT_EQUAL(look(&w, c, &a, &bad, 0, 1), -EBADMSG);
    CU_ASSERT_EQUAL(w.device->ios, 0);
    radix_cache_destroy(c);
    radix_world_close(&w);
}

static void lookups_of_every_length_agree_with_the_oracle(void)
{
    struct radix_world w;
    struct radix_cache *c;
    static struct asked a;
    radix_world_open(&w, DEVICE_BLOCKS, unit_seed());
    make_map(&w, 6, 3000);
    open_cache(&w, 1 << 20, &c);
    for (uint32_t count = 1; count <= 257; count++)
        for (unsigned i = 0; i < 20; i++) {
            CU_ASSERT_EQUAL(look(&w, c, &a, &w.root, radix_world_random(&w, 4000), count), 0);
            CU_ASSERT(right(&a, &w.oracle));
        }
    struct radix_cache_stats s;
    radix_cache_get_stats(c, &s);
    CU_ASSERT_EQUAL(s.misses, s.nodes); /* everything fits: each node was read once */
    CU_ASSERT_EQUAL(look(&w, c, &a, &w.root, RADIX_MAX_BLOCKS - 1, 1), 0);
    CU_ASSERT_EQUAL(a.entries[0].kind, RADIX_NONE);
    radix_cache_destroy(c);
    radix_world_close(&w);
}

/* ---- Many at once ---- */

static void start(struct many *m, struct asked *a);

static void one_answered(struct radix_lookup *l, int error)
{
    struct asked *a = container_of(l, struct asked, l);
    struct many *m = a->many;
    if (error)
        m->failed++;
    else if (!right(a, m->oracle))
        m->wrong++;
    m->in_flight--;
    if (m->forget && radix_world_random(m->w, 2))
        radix_cache_forget(m->cache, l->waiting_for.address);
    if (m->forget && radix_world_random(m->w, 20) == 0)
        for (uint64_t address = 0; address < m->w->cursor; address += 1 + radix_world_random(m->w, 8))
            radix_cache_forget(m->cache, address);
    if (m->to_start)
        start(m, a); /* from inside done: allowed */
}

static void start(struct many *m, struct asked *a)
{
    while (m->to_start) {
        m->to_start--;
        a->many = m;
        a->l.root = m->w->root;
        a->l.count = radix_world_random(m->w, 4) ? 1 + (uint32_t)radix_world_random(m->w, 8) : 1 + (uint32_t)radix_world_random(m->w, 257);
        a->l.first = radix_world_random(m->w, 2) && m->oracle->count ? m->oracle->map[radix_world_random(m->w, m->oracle->count)].block
                                                               : radix_world_random(m->w, m->limit);
        if (a->l.first + a->l.count > RADIX_MAX_BLOCKS)
            a->l.first = RADIX_MAX_BLOCKS - a->l.count;
        a->l.entries = a->entries;
        a->l.done = one_answered;
        int err = radix_lookup(m->cache, &a->l);
        if (err == -EINPROGRESS) {
            m->in_flight++;
            return;
        }
        m->failed += err != 0;
        m->wrong += err == 0 && !right(a, m->oracle);
    }
}

static void run_many(struct radix_world *w, uint64_t cache_bytes, unsigned width, unsigned total, uint64_t limit, bool forget, unsigned *failed)
{
    struct many m = { .w = w, .oracle = &w->oracle, .limit = limit, .to_start = total, .forget = forget };
    open_cache(w, cache_bytes, &m.cache);
    struct asked *asked = calloc(width, sizeof *asked);
    w->device->pending_most = 0;
    for (unsigned i = 0; i < width; i++)
        start(&m, &asked[i]);
    unsigned turns = 0;
    while (m.in_flight && turns++ < 10000000)
        loop_turn(w->loop, 0);
    CU_ASSERT_EQUAL(m.in_flight, 0);
    CU_ASSERT_EQUAL(m.to_start, 0);
    CU_ASSERT_EQUAL(m.wrong, 0);
    *failed = m.failed;
    struct radix_cache_stats s;
    radix_cache_get_stats(m.cache, &s);
    CU_ASSERT(s.nodes <= s.capacity_nodes);
    CU_ASSERT(s.capacity_nodes == 64 || s.capacity_nodes * BDEV_BLOCK_SIZE <= cache_bytes);
    CU_ASSERT(w->device->pending_most <= s.capacity_nodes / 2);
    free(asked);
    radix_cache_destroy(m.cache);
}

static void thousands_of_lookups_share_64_nodes(void)
{
    struct radix_world w;
    radix_world_open(&w, DEVICE_BLOCKS, unit_seed());
    make_map(&w, 8, RADIX_MAX_BLOCKS);
    unsigned failed;
    run_many(&w, SMALLEST_CACHE, 4000, 30000, RADIX_MAX_BLOCKS, false, &failed);
    CU_ASSERT_EQUAL(failed, 0);
    run_many(&w, SMALLEST_CACHE, 3, 3000, RADIX_MAX_BLOCKS, false, &failed);
    CU_ASSERT_EQUAL(failed, 0);
    run_many(&w, 3 << 20, 1000, 30000, RADIX_MAX_BLOCKS, false, &failed);
    CU_ASSERT_EQUAL(failed, 0);
    radix_world_close(&w);
}

static void forgetting_nodes_that_are_being_read_harms_no_lookup(void)
{
    struct radix_world w;
    radix_world_open(&w, DEVICE_BLOCKS, unit_seed());
    w.scatter = 0;
    make_map(&w, 8, RADIX_MAX_BLOCKS);
    unsigned failed;
    run_many(&w, SMALLEST_CACHE, 400, 6000, RADIX_MAX_BLOCKS, true, &failed);
    CU_ASSERT_EQUAL(failed, 0);
    run_many(&w, 1 << 20, 100, 6000, RADIX_MAX_BLOCKS, true, &failed);
    CU_ASSERT_EQUAL(failed, 0);
    radix_world_close(&w);
}

static void lookups_that_want_one_node_share_one_read(void)
{
    struct radix_world w;
    struct radix_cache *c;
    radix_world_open(&w, DEVICE_BLOCKS, 1);
    radix_world_map(&w, 7);
    CU_ASSERT_EQUAL(radix_world_merge(&w, RADIX_MAX_BLOCKS), 0);
    open_cache(&w, SMALLEST_CACHE, &c);
    static struct asked a[1000];
    uint64_t before = w.device->blocks_read;
    for (unsigned i = 0; i < 1000; i++) {
        a[i].l = (struct radix_lookup){ .root = w.root, .first = 7, .count = 1, .entries = a[i].entries, .done = answered };
        CU_ASSERT_EQUAL(radix_lookup(c, &a[i].l), -EINPROGRESS);
    }
    for (unsigned i = 0; i < 50; i++)
        loop_turn(w.loop, 0);
    CU_ASSERT_EQUAL(w.device->blocks_read - before, 4);
    for (unsigned i = 0; i < 1000; i++)
        CU_ASSERT(a[i].answers == 1 && a[i].error == 0 && a[i].entries[0].kind == RADIX_DATA);
    radix_cache_destroy(c);
    radix_world_close(&w);
}

static void a_failed_read_fails_those_who_wait_and_no_others(void)
{
    struct radix_world w;
    radix_world_open(&w, DEVICE_BLOCKS, unit_seed());
    for (uint64_t b = 0; b < 1 << 20; b += 1 << 13)
        radix_world_map(&w, b);
    CU_ASSERT_EQUAL_FATAL(radix_world_merge(&w, 0), 0);
    for (unsigned i = 1; i <= 60; i++) {
        unsigned failed;
        w.device->fail_at = w.device->ios + i;
        run_many(&w, SMALLEST_CACHE, 50, 300, 1 << 20, false, &failed);
        CU_ASSERT(failed <= 50);
        if (i <= 10) /* so few that the failure is sure to have come */
            CU_ASSERT(failed >= 1);
    }
    radix_world_close(&w);
}

/* ---- Addresses that are used again ---- */

static void a_reused_address_never_answers_for_the_old_node(void)
{
    struct radix_world w;
    struct radix_cache *c;
    static struct asked a;
    radix_world_open(&w, 600, unit_seed()); /* so small that addresses come round quickly */
    open_cache(&w, SMALLEST_CACHE, &c);
    for (unsigned round = 0; round < 300; round++) {
        w.birth++;
        for (unsigned i = 0; i < 30; i++)
            radix_world_map(&w, i * 50 + radix_world_random(&w, 50));
        CU_ASSERT_EQUAL_FATAL(radix_world_merge(&w, 0), 0);
        for (unsigned i = 0; i < 10; i++) {
            CU_ASSERT_EQUAL(look(&w, c, &a, &w.root, radix_world_random(&w, 1500), 40), 0);
            CU_ASSERT(right(&a, &w.oracle));
        }
        if (w.oracle.count > 300) {
            radix_world_unmap(&w, 0, 1 << 20);
            CU_ASSERT_EQUAL_FATAL(radix_world_merge(&w, 0), 0);
        }
    }
    radix_cache_destroy(c);
    radix_world_close(&w);
}

static void a_forgotten_address_is_read_again(void)
{
    struct radix_world w;
    struct radix_cache *c;
    static struct asked a, b;
    radix_world_open(&w, DEVICE_BLOCKS, 1);
    radix_world_map(&w, 7);
    CU_ASSERT_EQUAL(radix_world_merge(&w, 0), 0);
    open_cache(&w, SMALLEST_CACHE, &c);
    uint64_t before = w.device->blocks_read;
    CU_ASSERT_EQUAL(look(&w, c, &a, &w.root, 7, 1), 0);
    CU_ASSERT_EQUAL(look(&w, c, &a, &w.root, 7, 1), 0);
    CU_ASSERT_EQUAL(w.device->blocks_read - before, 1);
    radix_cache_forget(c, w.root.node.address);
    radix_cache_forget(c, w.root.node.address);
    radix_cache_forget(c, 99);
    CU_ASSERT_EQUAL(look(&w, c, &a, &w.root, 7, 1), 0);
    CU_ASSERT_EQUAL(w.device->blocks_read - before, 2);
    /* Forgotten while it is being read: that read serves those who asked before, and no others. */
    radix_cache_forget(c, w.root.node.address);
    a.l = (struct radix_lookup){ .root = w.root, .first = 7, .count = 1, .entries = a.entries, .done = answered };
    b.l = a.l;
    b.l.entries = b.entries;
    a.answers = b.answers = 0;
    CU_ASSERT_EQUAL(radix_lookup(c, &a.l), -EINPROGRESS);
    radix_cache_forget(c, w.root.node.address);
    CU_ASSERT_EQUAL(radix_lookup(c, &b.l), -EINPROGRESS);
    for (unsigned i = 0; i < 20; i++)
        loop_turn(w.loop, 0);
    CU_ASSERT_EQUAL(w.device->blocks_read - before, 4);
    CU_ASSERT(a.answers == 1 && b.answers == 1 && !a.error && !b.error);
    struct radix_cache_stats s;
    radix_cache_get_stats(c, &s);
    CU_ASSERT_EQUAL(s.nodes, 1);
    radix_cache_destroy(c);
    radix_world_close(&w);
}

/* Two roots claim different nodes at one address: each lookup is judged by its own entry. */
static void lookups_with_different_expectations_are_kept_apart(void)
{
    struct radix_world w;
    struct radix_cache *c;
    static struct asked a, b;
    radix_world_open(&w, DEVICE_BLOCKS, 1);
    radix_world_map(&w, 7);
    CU_ASSERT_EQUAL(radix_world_merge(&w, 0), 0);
    open_cache(&w, SMALLEST_CACHE, &c);
    struct radix_root stale = w.root;
    stale.node.crc ^= 1;
    for (unsigned order = 0; order < 2; order++) {
        radix_cache_forget(c, w.root.node.address);
        a.l = (struct radix_lookup){ .root = w.root, .first = 7, .count = 1, .entries = a.entries, .done = answered };
        b.l = a.l;
        b.l.root = stale;
        b.l.entries = b.entries;
        a.answers = b.answers = 0;
        CU_ASSERT_EQUAL(radix_lookup(c, order ? &a.l : &b.l), -EINPROGRESS);
        CU_ASSERT_EQUAL(radix_lookup(c, order ? &b.l : &a.l), -EINPROGRESS);
        for (unsigned i = 0; i < 20; i++)
            loop_turn(w.loop, 0);
        CU_ASSERT(a.answers == 1 && a.error == 0);
        CU_ASSERT(b.answers == 1 && b.error == -EBADMSG);
    }
    radix_cache_destroy(c);
    radix_world_close(&w);
}

/* ---- Policy and speed ---- */

static void a_scan_does_not_flush_the_nodes_in_use(void)
{
    struct radix_world w;
    struct radix_cache *c;
    static struct asked a;
    radix_world_open(&w, DEVICE_BLOCKS, 1);
    for (uint64_t b = 0; b < 1000; b++)
        radix_world_map(&w, b * 256);
    CU_ASSERT_EQUAL(radix_world_merge(&w, 0), 0);
    open_cache(&w, SMALLEST_CACHE, &c);
    uint64_t hot_reads = 0;
    for (uint64_t b = 0; b < 1000; b++) {
        CU_ASSERT_EQUAL(look(&w, c, &a, &w.root, b * 256, 1), 0);
        uint64_t before = w.device->blocks_read;
        CU_ASSERT_EQUAL(look(&w, c, &a, &w.root, b % 8 * 256, 1), 0);
        hot_reads += w.device->blocks_read - before;
    }
    CU_ASSERT(hot_reads <= 8);
    radix_cache_destroy(c);
    radix_world_close(&w);
}

/* For information only: a build with sanitizers or on a busy machine says nothing. */
static void the_time_of_a_cached_lookup_is_measured(void)
{
    struct radix_world w;
    struct radix_cache *c;
    static struct asked a;
    radix_world_open(&w, DEVICE_BLOCKS, 1);
    for (uint64_t b = 0; b < 4000; b++)
        radix_world_map(&w, b << 19);
    CU_ASSERT_EQUAL(radix_world_merge(&w, RADIX_MAX_BLOCKS), 0);
    open_cache(&w, 64 << 20, &c);
    for (uint64_t b = 0; b < 4000; b++)
        CU_ASSERT_EQUAL(look(&w, c, &a, &w.root, b << 19, 1), 0);
    for (unsigned spread = 16; spread <= 4000; spread = spread == 16 ? 4000 : 4001) {
        uint64_t begin = clock_monotonic_ns(), n = 500000, failed = 0;
        for (uint64_t i = 0; i < n; i++) {
            a.l.first = (i * 7919 % spread) << 19;
            failed += radix_lookup(c, &a.l) != 0;
        }
        CU_ASSERT_EQUAL(failed, 0);
        unsigned long long each = (clock_monotonic_ns() - begin) / n;
        printf("# cached lookup of one block, height 4, %u leaves in use: %llu ns\n", spread, each);
    }
    radix_cache_destroy(c);
    radix_world_close(&w);
}

int main(int argc, char **argv)
{
    return unit_main(argc, argv, "radix lookup",
                     (struct unit_test[]){ UNIT(an_empty_map_answers_at_once), UNIT(bad_lookups_are_refused),
                                           UNIT(lookups_of_every_length_agree_with_the_oracle), UNIT(thousands_of_lookups_share_64_nodes),
                                           UNIT(forgetting_nodes_that_are_being_read_harms_no_lookup),
                                           UNIT(lookups_that_want_one_node_share_one_read),
                                           UNIT(a_failed_read_fails_those_who_wait_and_no_others),
                                           UNIT(a_reused_address_never_answers_for_the_old_node), UNIT(a_forgotten_address_is_read_again),
                                           UNIT(lookups_with_different_expectations_are_kept_apart),
                                           UNIT(a_scan_does_not_flush_the_nodes_in_use), UNIT(the_time_of_a_cached_lookup_is_measured), { 0 } });
}
