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
    bare_power_cut(&b);
    CU_ASSERT_EQUAL_FATAL(bare_open(&b), 0);
    for (unsigned i = 0; i < 4; i++)
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
    bare_power_cut(&b);
    CU_ASSERT_EQUAL_FATAL(bare_open(&b), 0);
    CU_ASSERT_EQUAL(bare_read(&b, 11), 11);
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
    bare_power_cut(&b);
    bare_io_fini(&write);
    CU_ASSERT_EQUAL_FATAL(bare_open(&b), 0);
    CU_ASSERT_EQUAL(bare_read(&b, 1), 10);
    bare_end(&b);
}

int main(int argc, char **argv)
{
    return unit_main(argc, argv, "parallax_flush", (struct unit_test[]){
        UNIT(a_flush_that_follows_each_write_is_foreseen), UNIT(a_write_in_the_place_of_a_flush_ends_that),
        UNIT(what_is_written_while_a_foreseen_flush_is_out_is_flushed_again),
        UNIT(a_write_under_way_keeps_no_flush), { 0 } });
}
