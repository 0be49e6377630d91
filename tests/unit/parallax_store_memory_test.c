/* parallax_store_memory_test.c - the memory store keeps its promises, and breaks everything it did not promise. */
#include "base/clock.h"
#include "parallax/store/memory.h"
#include "tests/support/unit.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCKS = 32, SECTORS = BDEV_BLOCK_SIZE / 512 };

static struct loop *loop;

static void open_store(struct backing *b, uint64_t seed)
{
    struct memory_options opt = { .loop = loop, .initial_blocks = BLOCKS, .max_blocks = 4 * BLOCKS, .seed = seed };
    CU_ASSERT_EQUAL_FATAL(memory_create(&opt, b), 0);
}

/* A block of version v has v in every byte. */
struct request {
    struct bdev_req req;
    struct iovec iov;
    unsigned char buf[BDEV_BLOCK_SIZE];
    int error, calls;
    unsigned place; /* in the order of completions */
};

static unsigned completions;

static void request_done(struct bdev_req *req, int error)
{
    struct request *r = container_of(req, struct request, req);
    r->error = error;
    r->calls++;
    r->place = completions++;
}

static void submit(struct backing *b, struct request *r, enum bdev_op op, uint64_t block, unsigned char version)
{
    memset(r->buf, version, sizeof r->buf);
    r->iov = (struct iovec){ r->buf, sizeof r->buf };
    r->error = 1;
    r->calls = 0;
    r->req = (struct bdev_req){ .op = op, .block = block, .blocks = op == BDEV_FLUSH ? 0 : 1, .iov = &r->iov, .iov_count = 1, .done = request_done };
    bdev_submit(b->blocks, &r->req);
    CU_ASSERT_EQUAL(r->calls, 0);
}

static void drain(struct request *list, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        for (uint64_t limit = clock_monotonic_ms() + 5000; !list[i].calls && clock_monotonic_ms() < limit;)
            loop_turn(loop, 100);
    for (unsigned i = 0; i < count; i++)
        CU_ASSERT_EQUAL(list[i].calls, 1);
}

static void write_now(struct backing *b, uint64_t block, unsigned char version)
{
    static unsigned char buf[BDEV_BLOCK_SIZE];
    memset(buf, version, sizeof buf);
    CU_ASSERT_EQUAL(bdev_write(b->blocks, block, buf, 1), 0);
}

static int sector_version(struct backing *b, uint64_t block, unsigned sector)
{
    static unsigned char buf[BDEV_BLOCK_SIZE];
    CU_ASSERT_EQUAL(bdev_read(b->blocks, block, buf, 1), 0);
    for (unsigned i = 1; i < 512; i++)
        CU_ASSERT_EQUAL(buf[sector * 512], buf[sector * 512 + i]);
    return buf[sector * 512];
}

static void requests_complete_later_in_random_order_with_the_right_contents(void)
{
    struct backing b;
    static struct request list[2 * BLOCKS];
    bool in_order = true;
    open_store(&b, unit_seed());
    for (unsigned i = 0; i < BLOCKS; i++)
        submit(&b, &list[i], BDEV_WRITE, i, (unsigned char)(i + 1));
    drain(list, BLOCKS);
    for (unsigned i = 1; i < BLOCKS; i++)
        in_order = in_order && list[i].place > list[i - 1].place;
    CU_ASSERT(!in_order);
    for (unsigned i = 0; i < BLOCKS; i++)
        submit(&b, &list[i], BDEV_READ, i, 0);
    drain(list, BLOCKS);
    for (unsigned i = 0; i < BLOCKS; i++)
        CU_ASSERT(list[i].error == 0 && list[i].buf[0] == i + 1 && list[i].buf[BDEV_BLOCK_SIZE - 1] == i + 1);
    submit(&b, &list[0], BDEV_READ, BLOCKS, 0);
    drain(list, 1);
    CU_ASSERT_EQUAL(list[0].error, -EINVAL);
    b.close(&b);
}

/* For each block: version 1 flushed, 2 completed and unflushed, 3 in flight. */
static void a_power_cut_keeps_what_was_flushed_and_any_part_of_the_rest(void)
{
    uint64_t random = unit_seed();
    unsigned seen[4] = { 0 }, torn = 0;
    for (int round = 0; round < 60; round++) {
        struct backing b, after;
        static struct request list[BLOCKS];
        open_store(&b, unit_random(&random));
        for (unsigned i = 0; i < BLOCKS; i++)
            write_now(&b, i, 1);
        CU_ASSERT_EQUAL(bdev_flush(b.blocks), 0);
        for (unsigned i = 0; i < BLOCKS; i++)
            write_now(&b, i, 2);
        for (unsigned i = 0; i < BLOCKS; i++)
            submit(&b, &list[i], BDEV_WRITE, i, 3);
        CU_ASSERT_EQUAL_FATAL(memory_power_cut(&b, unit_random(&random), loop, &after), 0);
        drain(list, BLOCKS);
        for (unsigned i = 0; i < BLOCKS; i++) {
            CU_ASSERT_EQUAL(list[i].error, -EIO);
            int first = sector_version(&after, i, 0);
            for (unsigned s = 0; s < SECTORS; s++) {
                int v = sector_version(&after, i, s);
                CU_ASSERT_FATAL(v >= 1 && v <= 3);
                seen[v]++;
                torn += v != first;
            }
        }
        b.close(&b);
        after.close(&after);
    }
    CU_ASSERT(seen[1] && seen[2] && seen[3] && torn);
}

/* A flush promises the write that completed before it was submitted, and nothing about the one that had not, even if that
 * one completed before the flush did. */
static void a_flush_covers_what_had_completed_before_it(void)
{
    uint64_t random = unit_seed();
    unsigned lost = 0;
    for (int round = 0; round < 200; round++) {
        struct backing b, after;
        static struct request list[3];
        open_store(&b, unit_random(&random));
        submit(&b, &list[0], BDEV_WRITE, 0, 1);
        drain(list, 1);
        submit(&b, &list[1], BDEV_WRITE, 1, 1);
        submit(&b, &list[2], BDEV_FLUSH, 0, 0);
        drain(list, 3);
        CU_ASSERT_EQUAL_FATAL(memory_power_cut(&b, unit_random(&random), NULL, &after), 0);
        CU_ASSERT_EQUAL(sector_version(&after, 0, 3), 1);
        lost += list[1].place < list[2].place && sector_version(&after, 1, 3) == 0;
        b.close(&b);
        after.close(&after);
    }
    CU_ASSERT(lost > 0);
}

static void a_kill_keeps_what_completed_but_promises_no_flush(void)
{
    uint64_t random = unit_seed();
    unsigned landed = 0, missed = 0, lost = 0;
    for (int round = 0; round < 60; round++) {
        struct backing b, after, cut;
        static struct request list[2];
        open_store(&b, unit_random(&random));
        write_now(&b, 0, 1);
        submit(&b, &list[0], BDEV_WRITE, 1, 2);
        submit(&b, &list[1], BDEV_FLUSH, 0, 0);
        CU_ASSERT_EQUAL_FATAL(memory_kill(&b, unit_random(&random), loop, &after), 0);
        drain(list, 2);
        CU_ASSERT(list[0].error == -EIO && list[1].error == -EIO);
        CU_ASSERT_EQUAL(sector_version(&after, 0, 0), 1);
        landed += sector_version(&after, 1, 0) == 2;
        missed += sector_version(&after, 1, 0) == 0;
        CU_ASSERT_EQUAL_FATAL(memory_power_cut(&after, unit_random(&random), loop, &cut), 0);
        lost += sector_version(&cut, 0, 0) == 0;
        b.close(&b);
        after.close(&after);
        cut.close(&cut);
    }
    CU_ASSERT(landed && missed && lost);
}

static int put(struct catalog *c, uint64_t revision, const char *value)
{
    struct catalog_change change = { "k", 1, value, strlen(value) };
    return catalog_apply(c, "o", revision, &change, 1);
}

static void the_old_store_is_dead_and_changes_nothing(void)
{
    struct backing b, after;
    unsigned char buf[BDEV_BLOCK_SIZE] = { 0 };
    uint64_t revision;
    static struct request list[1];
    open_store(&b, 3);
    CU_ASSERT_EQUAL(put(b.catalog, 0, "one"), 0);
    CU_ASSERT_EQUAL_FATAL(memory_kill(&b, 5, loop, &after), 0);
    CU_ASSERT_EQUAL(put(b.catalog, 1, "two"), -EIO);
    CU_ASSERT_EQUAL(catalog_scan(b.catalog, "o", &revision, NULL, NULL), -EIO);
    CU_ASSERT_EQUAL(bdev_write(b.blocks, 0, buf, 1), -EIO);
    CU_ASSERT_EQUAL(bdev_read(b.blocks, 0, buf, 1), -EIO);
    CU_ASSERT_EQUAL(bdev_flush(b.blocks), -EIO);
    CU_ASSERT_EQUAL(bdev_grow(b.blocks, 64), -EIO);
    submit(&b, &list[0], BDEV_WRITE, 0, 9);
    b.close(&b); /* forgets the request */
    loop_turn(loop, 0);
    CU_ASSERT_EQUAL(list[0].calls, 0);
    CU_ASSERT_EQUAL(catalog_scan(after.catalog, "o", &revision, NULL, NULL), 0);
    CU_ASSERT_EQUAL(revision, 1);
    CU_ASSERT_EQUAL(after.blocks->blocks, BLOCKS);
    after.close(&after);
}

static void the_nth_operation_fails_as_ordered(void)
{
    struct backing b;
    unsigned char buf[BDEV_BLOCK_SIZE];
    open_store(&b, 3);
    memset(buf, 7, sizeof buf);
    memory_fail_io(&b, &(struct memory_fault){ .kinds = MEMORY_WRITE, .nth = 2, .error = -ENOSPC });
    CU_ASSERT_EQUAL(bdev_write(b.blocks, 0, buf, 1), 0);
    CU_ASSERT_EQUAL(bdev_read(b.blocks, 0, buf, 1), 0);
    CU_ASSERT_EQUAL(bdev_write(b.blocks, 1, buf, 1), -ENOSPC);
    CU_ASSERT_EQUAL(sector_version(&b, 1, 0), 0);
    CU_ASSERT_EQUAL(bdev_write(b.blocks, 1, buf, 1), 0);
    CU_ASSERT_EQUAL(memory_fault_hits(&b), 1);
    CU_ASSERT_EQUAL(memory_io_count(&b, MEMORY_WRITE), 3);
    memory_fail_io(&b, &(struct memory_fault){ .kinds = MEMORY_FLUSH | MEMORY_GROW, .nth = 1, .error = -EIO, .lasting = true });
    CU_ASSERT_EQUAL(bdev_flush(b.blocks), -EIO);
    CU_ASSERT_EQUAL(bdev_grow(b.blocks, 64), -EIO);
    CU_ASSERT_EQUAL(bdev_write(b.blocks, 2, buf, 1), 0);
    unsigned written = 0;
    memory_fail_io(&b, &(struct memory_fault){ .kinds = MEMORY_ANY, .nth = 1, .error = -EIO, .partial = true, .lasting = true });
    for (unsigned i = 3; i < BLOCKS; i++)
        CU_ASSERT_EQUAL(bdev_write(b.blocks, i, buf, 1), -EIO);
    memory_fail_io(&b, NULL);
    for (unsigned i = 3; i < BLOCKS; i++)
        for (unsigned s = 0; s < SECTORS; s++)
            written += sector_version(&b, i, s) == 7;
    CU_ASSERT(written > 0 && written < (BLOCKS - 3) * SECTORS);
    CU_ASSERT_EQUAL(bdev_flush(b.blocks), 0);
    CU_ASSERT_EQUAL(bdev_grow(b.blocks, 4 * BLOCKS + 1), -ENOSPC);
    CU_ASSERT_EQUAL(bdev_grow(b.blocks, 4 * BLOCKS), 0);
    CU_ASSERT_EQUAL(sector_version(&b, 4 * BLOCKS - 1, 0), 0);
    b.close(&b);
}

static void an_apply_fails_before_or_after_its_effect(void)
{
    struct backing b;
    uint64_t revision;
    open_store(&b, 3);
    memory_fail_apply(&b, 2, -EIO, false);
    CU_ASSERT_EQUAL(put(b.catalog, 0, "one"), 0);
    CU_ASSERT_EQUAL(put(b.catalog, 1, "two"), -EIO);
    CU_ASSERT_EQUAL(put(b.catalog, 1, "two"), 0);
    memory_fail_apply(&b, 1, -ENOSPC, true);
    CU_ASSERT_EQUAL(put(b.catalog, 2, "three"), -ENOSPC);
    CU_ASSERT_EQUAL(catalog_scan(b.catalog, "o", &revision, NULL, NULL), 0);
    CU_ASSERT_EQUAL(revision, 3);
    CU_ASSERT_EQUAL(memory_apply_count(&b), 4);
    b.close(&b);
}

static void a_punched_range_reads_as_garbage(void)
{
    struct backing b;
    open_store(&b, 3);
    write_now(&b, 4, 1);
    write_now(&b, 5, 1);
    CU_ASSERT_EQUAL(bdev_punch(b.blocks, 4, 1), 0);
    CU_ASSERT(sector_version(&b, 4, 0) > 1);
    CU_ASSERT_EQUAL(sector_version(&b, 5, 0), 1);
    CU_ASSERT_EQUAL(bdev_punch(b.blocks, BLOCKS, 1), -EINVAL);
    b.close(&b);
}

int main(int argc, char **argv)
{
    if (loop_create(&loop))
        return 1;
    int rc = unit_main(argc, argv, "memory",
                       (struct unit_test[]){ UNIT(requests_complete_later_in_random_order_with_the_right_contents),
                                             UNIT(a_power_cut_keeps_what_was_flushed_and_any_part_of_the_rest),
                                             UNIT(a_flush_covers_what_had_completed_before_it), UNIT(a_kill_keeps_what_completed_but_promises_no_flush),
                                             UNIT(the_old_store_is_dead_and_changes_nothing), UNIT(the_nth_operation_fails_as_ordered),
                                             UNIT(an_apply_fails_before_or_after_its_effect), UNIT(a_punched_range_reads_as_garbage), { 0 } });
    loop_destroy(loop);
    return rc;
}
