/* radix_merge_test.c - updates of the map against an oracle; every dropped and every new address accounted for. */
#include "tests/support/radix_world.h"
#include "tests/support/unit.h"

#include <errno.h>
#include <string.h>

#define DEVICE_BLOCKS (1u << 17)

static void an_empty_merge_gives_an_empty_map(void)
{
    struct radix_world w;
    radix_world_open(&w, DEVICE_BLOCKS, 1);
    CU_ASSERT_EQUAL(radix_world_merge(&w, 1ull << 32), 0);
    CU_ASSERT_EQUAL(w.root.node.kind, RADIX_NONE);
    CU_ASSERT_EQUAL(w.device->ios, 0);
    radix_world_unmap(&w, 0, UINT64_MAX);
    CU_ASSERT_EQUAL(radix_world_merge(&w, 0), 0);
    CU_ASSERT_EQUAL(w.device->ios, 0);
    radix_world_close(&w);
}

static void heights_follow_the_size(void)
{
    CU_ASSERT_EQUAL(radix_height_for(0), 0);
    CU_ASSERT_EQUAL(radix_height_for(1), 1);
    CU_ASSERT_EQUAL(radix_height_for(256), 1);
    CU_ASSERT_EQUAL(radix_height_for(257), 2);
    CU_ASSERT_EQUAL(radix_height_for(65537), 3);
    CU_ASSERT_EQUAL(radix_height_for(RADIX_MAX_BLOCKS), 4);
    static const uint64_t last[] = { 255, 65535, (1 << 24) - 1, RADIX_MAX_BLOCKS - 1 };
    struct radix_world w;
    radix_world_open(&w, DEVICE_BLOCKS, 1);
    for (unsigned i = 0; i < 4; i++) {
        radix_world_map(&w, last[i]);
        CU_ASSERT_EQUAL(radix_world_merge(&w, 0), 0);
        CU_ASSERT_EQUAL(w.root.height, i + 1);
    }
    radix_world_close(&w);
}

static void min_blocks_raises_the_root_even_without_changes(void)
{
    struct radix_world w;
    radix_world_open(&w, DEVICE_BLOCKS, 1);
    radix_world_map(&w, 3);
    CU_ASSERT_EQUAL(radix_world_merge(&w, 0), 0);
    CU_ASSERT_EQUAL(radix_world_merge(&w, 1ull << 32), 0);
    CU_ASSERT_EQUAL(w.root.height, 4);
    CU_ASSERT_EQUAL(w.last.nodes_written, 3);
    CU_ASSERT_EQUAL(w.drops, 0);
    radix_world_close(&w);
}

static void a_range_over_a_root_that_grows_in_the_same_merge_drops_it(void)
{
    struct radix_world w;
    radix_world_open(&w, DEVICE_BLOCKS, 1);
    radix_world_map(&w, 3);
    CU_ASSERT_EQUAL(radix_world_merge(&w, 0), 0);
    radix_world_unmap(&w, 0, 1 << 24);
    CU_ASSERT_EQUAL(radix_world_merge(&w, 1ull << 32), 0);
    CU_ASSERT_EQUAL(w.root.node.kind, RADIX_NONE);
    CU_ASSERT_EQUAL(w.drops, 1);
    radix_world_close(&w);
}

static void an_identical_entry_changes_nothing(void)
{
    struct radix_world w;
    radix_world_open(&w, DEVICE_BLOCKS, 1);
    radix_world_map(&w, 3);
    radix_world_map(&w, 70000);
    CU_ASSERT_EQUAL(radix_world_merge(&w, 0), 0);
    struct radix_root before = w.root;
    radix_world_map_entry(&w, 3, &w.oracle.map[0].entry);
    radix_world_unmap(&w, 4, 60000);
    w.birth++;
    CU_ASSERT_EQUAL(radix_world_merge(&w, 0), 0);
    CU_ASSERT_EQUAL(w.last.nodes_written, 0);
    CU_ASSERT_EQUAL(memcmp(&before, &w.root, sizeof before), 0);
    radix_world_close(&w);
}

static void an_address_described_anew_is_not_dropped(void)
{
    struct radix_world w;
    radix_world_open(&w, DEVICE_BLOCKS, 1);
    radix_world_map(&w, 3);
    CU_ASSERT_EQUAL(radix_world_merge(&w, 0), 0);
    struct radix_entry e = w.oracle.map[0].entry;
    e.crc++;
    radix_world_map_entry(&w, 3, &e);
    CU_ASSERT_EQUAL(radix_world_merge(&w, 0), 0);
    CU_ASSERT_EQUAL(w.drops, 1); /* the old leaf */
    CU_ASSERT_EQUAL(w.last.nodes_written, 1);
    radix_world_close(&w);
}

static void a_covered_subtree_is_dropped_unread(void)
{
    struct radix_world w;
    radix_world_open(&w, DEVICE_BLOCKS, 1);
    radix_world_map(&w, 1);
    for (uint64_t b = 1 << 16; b < 3 << 16; b += 256)
        radix_world_map(&w, b);
    CU_ASSERT_EQUAL(radix_world_merge(&w, 0), 0);
    /* Only the root and the path to block 1's leaf may be read. The oracle's own reads are taken away. */
    uint64_t before = w.device->blocks_read;
    CU_ASSERT(radix_world_holds(&w, &w.root, &w.oracle));
    uint64_t walk = w.device->blocks_read - before;
    radix_world_unmap(&w, 1 << 16, 2 << 16);
    before = w.device->blocks_read;
    CU_ASSERT_EQUAL(radix_world_merge(&w, 0), 0);
    /* One walk to mark the old root, the merge, the two dropped subtrees, and two walks of the three nodes that are left. */
    CU_ASSERT_EQUAL(w.device->blocks_read - before, walk + 1 + 2 * 257 + 2 * 3);
    CU_ASSERT_EQUAL(w.drops, 3); /* two subtrees and the old root */
    radix_world_close(&w);
}

static void leaves_are_read_in_parallel_and_written_in_runs(void)
{
    struct radix_world w;
    radix_world_open(&w, DEVICE_BLOCKS, 1);
    w.scatter = 0;
    for (uint64_t b = 0; b < 2000; b++)
        radix_world_map(&w, b * 256);
    CU_ASSERT_EQUAL(radix_world_merge(&w, 0), 0);
    CU_ASSERT(w.device->writes <= 2000 / 256 + 3);
    for (uint64_t b = 0; b < 2000; b++)
        radix_world_map(&w, b * 256 + 1);
    w.device->reads = w.device->read_manys = w.device->writes = 0;
    CU_ASSERT_EQUAL(radix_world_merge(&w, 0), 0);
    CU_ASSERT_EQUAL(w.device->reads, 0);
    /* Per slice of 254 leaves a call a level at most; the rest are the walks of the check. */
    CU_ASSERT(w.device->read_manys < 3 * (2000 / 254 + 1) + 3 * (2000 / 64 + 20));
    CU_ASSERT(w.device->writes <= 2000 / 256 + 3);
    /* Free space in short runs makes no more calls. */
    w.scatter = 2;
    for (uint64_t b = 0; b < 2000; b++)
        radix_world_map(&w, b * 256 + 2);
    w.device->writes = 0;
    CU_ASSERT_EQUAL(radix_world_merge(&w, 0), 0);
    CU_ASSERT(w.device->write_manys > 0);
    CU_ASSERT(w.device->writes + w.device->write_manys <= 2000 / 256 + 3);
    radix_world_close(&w);
}

static void bad_changes_are_refused(void)
{
    struct radix_world w;
    radix_world_open(&w, DEVICE_BLOCKS, 1);
    radix_world_map(&w, 5);
    radix_world_map(&w, 300);
    CU_ASSERT_EQUAL(radix_world_merge(&w, 0), 0);
    struct radix_entry good = w.oracle.map[0].entry, bad = good;
    radix_world_map_entry(&w, 9, &good);
    radix_world_map_entry(&w, 8, &good);
    CU_ASSERT_EQUAL(radix_world_merge(&w, 0), -EINVAL);
    radix_world_unmap(&w, 0, 10);
    radix_world_map_entry(&w, 9, &good);
    CU_ASSERT_EQUAL(radix_world_merge(&w, 0), -EINVAL);
    radix_world_map_entry(&w, RADIX_MAX_BLOCKS, &good);
    CU_ASSERT_EQUAL(radix_world_merge(&w, 0), -EINVAL);
    bad.address = 0;
    radix_world_map_entry(&w, 9, &bad);
    CU_ASSERT_EQUAL(radix_world_merge(&w, 0), -EINVAL);
    bad.address = DEVICE_BLOCKS;
    radix_world_map_entry(&w, 9, &bad);
    CU_ASSERT_EQUAL(radix_world_merge(&w, 0), -EINVAL);
    bad = good;
    bad.birth = w.birth + 1;
    radix_world_map_entry(&w, 9, &bad);
    CU_ASSERT_EQUAL(radix_world_merge(&w, 0), -EINVAL);
    bad = good;
    bad.kind = RADIX_NODE;
    radix_world_map_entry(&w, 9, &bad);
    CU_ASSERT_EQUAL(radix_world_merge(&w, 0), -EINVAL);
    CU_ASSERT_EQUAL(radix_world_merge(&w, RADIX_MAX_BLOCKS + 1), -EINVAL);
    w.birth--;
    radix_world_unmap(&w, 5, 1);
    CU_ASSERT_EQUAL(radix_world_merge(&w, 0), -EINVAL);
    CU_ASSERT(radix_world_holds(&w, &w.root, &w.oracle));
    radix_world_close(&w);
}

static void random_merges(uint64_t seed, unsigned rounds, unsigned most, uint64_t limit)
{
    struct radix_world w;
    radix_world_open(&w, DEVICE_BLOCKS, seed);
    for (unsigned i = 0; i < rounds; i++) {
        w.birth++;
        radix_world_random_changes(&w, most, limit);
        CU_ASSERT_EQUAL_FATAL(radix_world_merge(&w, radix_world_random(&w, 20) ? 0 : limit), 0);
        if (radix_world_random(&w, 40) == 0) { /* begin again */
            radix_world_unmap(&w, 0, UINT64_MAX);
            CU_ASSERT_EQUAL_FATAL(radix_world_merge(&w, 0), 0);
        }
    }
    radix_world_close(&w);
}

static void random_merges_agree_with_the_oracle(void)
{
    uint64_t seed = unit_seed();
    static const uint64_t limits[] = { 200, 3000, 1 << 18, 1 << 26, RADIX_MAX_BLOCKS };
    for (unsigned i = 0; i < 5; i++) {
        random_merges(seed + i, 120, 12, limits[i]);
        random_merges(seed + 10 + i, 60, 300, limits[i]);
    }
    random_merges(seed + 20, 12, 6000, RADIX_MAX_BLOCKS);
}

/* Runs one merge with the Nth I/O, change or drop failing, N = 1, 2, … until it succeeds. */
static void any_failure_leaves_the_old_root_whole(void)
{
    uint64_t seed = unit_seed();
    for (unsigned kind = 0; kind < 3; kind++) {
        struct radix_world w;
        radix_world_open(&w, DEVICE_BLOCKS, seed + kind);
        for (unsigned i = 0; i < 5; i++) {
            radix_world_random_changes(&w, 60, 1 << 20);
            CU_ASSERT_EQUAL_FATAL(radix_world_merge(&w, 0), 0);
        }
        int err = -1;
        for (uint64_t n = 1; err; n++) {
            uint64_t random = w.random, ios = w.device->ios;
            CU_ASSERT(radix_world_holds(&w, &w.root, &w.oracle)); /* as many reads as marking the old root takes */
            uint64_t walk = w.device->ios - ios;
            radix_world_random_changes(&w, 60, 1 << 20);
            w.device->fail_at = kind == 0 ? w.device->ios + walk + n : 0;
            w.fail_next_at = kind == 1 ? n : 0;
            w.fail_drop_at = kind == 2 ? n : 0;
            uint64_t end_ios = w.device->ios;
            err = radix_world_merge(&w, 0);
            if (err) {
                /* A failed batch is read again one by one, and a single failure is then not seen: that is a success too,
                 * handled by going on with the next n. */
                CU_ASSERT(err == (kind == 0 ? -EIO : -ECANCELED));
                w.random = random;
            } else if (kind == 0 && w.device->fail_at <= w.device->ios && w.device->fail_at > end_ios) {
                err = n < 400 ? -1 : 0;
            }
            w.device->fail_at = 0;
            CU_ASSERT_FATAL(n < 5000);
        }
        radix_world_close(&w);
    }
}

int main(int argc, char **argv)
{
    return unit_main(argc, argv, "radix merge",
                     (struct unit_test[]){ UNIT(an_empty_merge_gives_an_empty_map), UNIT(heights_follow_the_size),
                                           UNIT(min_blocks_raises_the_root_even_without_changes),
                                           UNIT(a_range_over_a_root_that_grows_in_the_same_merge_drops_it),
                                           UNIT(an_identical_entry_changes_nothing),
                                           UNIT(an_address_described_anew_is_not_dropped), UNIT(a_covered_subtree_is_dropped_unread),
                                           UNIT(leaves_are_read_in_parallel_and_written_in_runs), UNIT(bad_changes_are_refused),
                                           UNIT(random_merges_agree_with_the_oracle), UNIT(any_failure_leaves_the_old_root_whole), { 0 } });
}
