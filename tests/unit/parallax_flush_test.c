/* parallax_flush_test.c - when the device is flushed: once for each flush that is asked for, and ahead of it where that is foreseen. */
#include "tests/support/bare.h"
#include "tests/support/unit.h"

#define STORE_BYTES (64ull << 20)
#define HABIT 4u

static struct bare b;

static uint64_t flushes(void)
{
    struct store_status status;
    store_get_status(b.store, &status);
    return status.device_flushes;
}

/* Writes and flushes by turns, until that is a habit. */
static void begin(void)
{
    bare_begin(&b, STORE_BYTES);
    for (unsigned i = 0; i < HABIT; i++) {
        uint64_t before = flushes();
        CU_ASSERT_EQUAL(bare_write(&b, i, 1, 1 + i), 0);
        bare_turn(&b, 20);
        CU_ASSERT_EQUAL(flushes(), before); /* not yet */
        CU_ASSERT_EQUAL(bare_flush(&b), 0);
        CU_ASSERT_EQUAL(flushes(), before + 1);
    }
}

/* What a power cut now leaves in the block. */
static int64_t read_after_a_cut(uint64_t block)
{
    bare_power_cut(&b);
    CU_ASSERT_EQUAL_FATAL(bare_open(&b), 0);
    return bare_read(&b, block);
}

static void a_flush_that_follows_each_write_is_foreseen(void)
{
    begin();
    for (unsigned i = 0; i < 5; i++) {
        uint64_t before = flushes();
        CU_ASSERT_EQUAL(bare_write(&b, i, 1, 100 + i), 0);
        bare_turn(&b, 20);
        CU_ASSERT_EQUAL(flushes(), before + 1);
        CU_ASSERT_EQUAL(bare_flush(&b), 0);
        CU_ASSERT_EQUAL(flushes(), before + 1); /* it is durable already */
    }
    CU_ASSERT_EQUAL(read_after_a_cut(0), 100);
    for (unsigned i = 1; i < 4; i++)
        CU_ASSERT_EQUAL(bare_read(&b, i), 100 + i);
    bare_end(&b);
}

static void a_write_in_the_place_of_a_flush_ends_that(void)
{
    begin();
    uint64_t before = flushes();
    CU_ASSERT_EQUAL(bare_write(&b, 10, 1, 10), 0);
    bare_turn(&b, 20);
    CU_ASSERT_EQUAL(flushes(), before + 1); /* for nobody */
    for (unsigned i = 0; i < 10; i++) {
        CU_ASSERT_EQUAL(bare_write(&b, 11 + i, 1, 11 + i), 0);
        bare_turn(&b, 20);
    }
    CU_ASSERT_EQUAL(flushes(), before + 1);
    CU_ASSERT_EQUAL(bare_flush(&b), 0);
    CU_ASSERT_EQUAL(flushes(), before + 2);
    bare_end(&b);
}

static void what_is_written_while_a_foreseen_flush_is_out_is_flushed_again(void)
{
    struct bare_io write, flush;
    begin();
    bare_hold_submitted_flushes(&b);
    CU_ASSERT_EQUAL(bare_write(&b, 10, 1, 10), 0);
    bare_turn(&b, 20);
    uint64_t before = flushes();
    bare_submit(&b, &write, IMAGE_WRITE, 11, 1, 11);
    bare_turn(&b, 50);
    CU_ASSERT_EQUAL(write.error, 0);
    bare_submit(&b, &flush, IMAGE_FLUSH, 0, 0, 0);
    bare_turn(&b, 50);
    CU_ASSERT_EQUAL(flush.error, BARE_PENDING);
    CU_ASSERT_EQUAL(flushes(), before); /* the one that is out covers less */
    bare_release(&b);
    CU_ASSERT_EQUAL(bare_io_wait(&b, &flush), 0);
    CU_ASSERT_EQUAL(flushes(), before + 1);
    bare_io_fini(&write);
    bare_io_fini(&flush);
    CU_ASSERT_EQUAL(read_after_a_cut(11), 11);
    bare_end(&b);
}

static void a_write_under_way_keeps_no_flush(void)
{
    struct bare_io write;
    bare_begin(&b, STORE_BYTES);
    CU_ASSERT_EQUAL(bare_write(&b, 1, 1, 10), 0);
    bare_hold_writes(&b);
    bare_submit(&b, &write, IMAGE_WRITE, 1, 1, 11);
    bare_turn(&b, 20);
    CU_ASSERT(bare_writes_held(&b) > 0);
    uint64_t before = flushes();
    CU_ASSERT_EQUAL(bare_flush(&b), 0);
    CU_ASSERT_EQUAL(flushes(), before + 1);
    CU_ASSERT_EQUAL(write.error, BARE_PENDING);
    CU_ASSERT_EQUAL(read_after_a_cut(1), 10);
    bare_io_fini(&write);
    bare_end(&b);
}

/* It lies above what recovery may rely on, and what is missing before it, with the lower ticket, is no damage. */
static void what_was_flushed_behind_a_write_under_way_is_found(void)
{
    for (unsigned cut = 0; cut < 20; cut++) {
        struct bare_io under_way[2];
        bare_begin(&b, STORE_BYTES);
        CU_ASSERT_EQUAL(bare_write(&b, 0, 200, 5), 0);
        bare_hold_writes(&b);
        bare_submit(&b, &under_way[0], IMAGE_WRITE, 1, 1, 11);
        bare_turn(&b, 20);
        bare_submit(&b, &under_way[1], IMAGE_WRITE, 100, 40, 12);
        bare_turn(&b, 20);
        bare_let_writes(&b);
        CU_ASSERT_EQUAL(bare_write(&b, 1, 1, 21), 0);
        CU_ASSERT_EQUAL(bare_discard(&b, 50, 100), 0);
        CU_ASSERT_EQUAL(bare_flush(&b), 0);
        CU_ASSERT_EQUAL(under_way[0].error, BARE_PENDING);
        CU_ASSERT_EQUAL(under_way[1].error, BARE_PENDING);
        if (cut % 2)
            bare_release(&b); /* the cut leaves something of them */
        CU_ASSERT_EQUAL(read_after_a_cut(1), 21);
        bare_io_fini(&under_way[0]);
        bare_io_fini(&under_way[1]);
        for (unsigned i = 50; i < 150; i += 7)
            CU_ASSERT_EQUAL(bare_read(&b, i), 0);
        CU_ASSERT(bare_is_sound(&b));
        bare_end(&b);
    }
}

/* The device flush that was out covers it only if it had ended when that began, not when it was asked for. */
static void what_ends_while_a_flush_is_out_is_flushed_again(void)
{
    struct bare_io write, first, second;
    bare_begin(&b, STORE_BYTES);
    CU_ASSERT_EQUAL(bare_write(&b, 1, 1, 10), 0);
    bare_hold_writes(&b);
    bare_submit(&b, &write, IMAGE_WRITE, 2, 1, 11);
    bare_turn(&b, 20);
    bare_hold_submitted_flushes(&b);
    bare_submit(&b, &first, IMAGE_FLUSH, 0, 0, 0);
    bare_turn(&b, 20);
    uint64_t before = flushes();
    bare_release_writes(&b);
    CU_ASSERT_EQUAL(bare_io_wait(&b, &write), 0);
    bare_submit(&b, &second, IMAGE_FLUSH, 0, 0, 0);
    bare_turn(&b, 20);
    CU_ASSERT_EQUAL(first.error, BARE_PENDING);
    bare_release(&b);
    CU_ASSERT_EQUAL(bare_io_wait(&b, &first), 0);
    CU_ASSERT_EQUAL(bare_io_wait(&b, &second), 0);
    CU_ASSERT_EQUAL(flushes(), before + 1);
    bare_io_fini(&write);
    CU_ASSERT_EQUAL(read_after_a_cut(2), 11);
    bare_end(&b);
}

/* Flushes that go on and on beside a write under way answer no operation before its record, and all before it, are durable. */
static void an_operation_waits_for_what_flushes_do_not(void)
{
    struct bare_io under_way;
    struct bare_run run;
    const char *target = "a@s";
    bare_begin(&b, STORE_BYTES);
    bare_hold_writes(&b);
    bare_submit(&b, &under_way, IMAGE_WRITE, 1, 1, 11);
    bare_turn(&b, 20);
    bare_let_writes(&b);
    bare_arm(&run);
    snapshot_create(b.store, &run.op, &target, 1);
    for (unsigned i = 0; i < 10; i++) {
        CU_ASSERT_EQUAL(bare_write(&b, 10 + i, 1, 20 + i), 0);
        CU_ASSERT_EQUAL(bare_flush(&b), 0);
    }
    CU_ASSERT_FALSE(run.done);
    bare_release(&b);
    CU_ASSERT_EQUAL(bare_wait(&b, &run), 0);
    CU_ASSERT_EQUAL(under_way.error, 0);
    bare_io_fini(&under_way);
    CU_ASSERT_EQUAL(read_after_a_cut(1), 11);
    for (unsigned i = 0; i < 10; i++)
        CU_ASSERT_EQUAL(bare_read(&b, 10 + i), 20 + i);
    bare_end(&b);
}

int main(int argc, char **argv)
{
    return unit_main(argc, argv, "parallax_flush", (struct unit_test[]){
        UNIT(a_flush_that_follows_each_write_is_foreseen), UNIT(a_write_in_the_place_of_a_flush_ends_that),
        UNIT(what_is_written_while_a_foreseen_flush_is_out_is_flushed_again),
        UNIT(a_write_under_way_keeps_no_flush), UNIT(what_was_flushed_behind_a_write_under_way_is_found),
        UNIT(what_ends_while_a_flush_is_out_is_flushed_again), UNIT(an_operation_waits_for_what_flushes_do_not), { 0 } });
}
