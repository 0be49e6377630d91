/* parallax_age_test.c - how a store tells that its blocks and its catalog are of one time, and what opens it when they are not
 * (docs/consistency.md, R4 and R5). */
#include "tests/support/bare.h"
#include "tests/support/unit.h"

#include "base/endian.h"
#include "parallax/disk.h"

#include <errno.h>
#include <string.h>

#define STORE_BYTES (64ull << 20)

static uint8_t nothing[BDEV_BLOCK_SIZE];
static struct bare b;

static uint32_t seed(void)
{
    uint8_t block[BDEV_BLOCK_SIZE];
    bare_get(&b, 0, block);
    return get_le32(block + 56);
}

static uint64_t time_at(uint64_t address)
{
    uint8_t block[BDEV_BLOCK_SIZE];
    bare_get(&b, address, block);
    return time_decode(block, seed());
}

static void put_time(uint64_t address, uint64_t time)
{
    uint8_t block[BDEV_BLOCK_SIZE];
    time_encode(block, seed(), time, 0);
    bare_put(&b, address, block);
}

static void rot(uint64_t address)
{
    uint8_t block[BDEV_BLOCK_SIZE];
    bare_get(&b, address, block);
    block[8] ^= 1;
    bare_put(&b, address, block);
}

/* The store is closed, by a kill, after `checkpoints` of them, each of which holds another id. */
static void begin(uint32_t checkpoints)
{
    bare_begin(&b, STORE_BYTES);
    for (uint32_t i = 1; i <= checkpoints; i++) {
        CU_ASSERT_EQUAL(bare_write(&b, 0, 200, i), 0);
        CU_ASSERT_EQUAL(bare_checkpoint(&b), 0);
    }
    bare_kill(&b);
}

/* The blocks tell of the time before the catalog's, as if they had been put back from a copy of it. */
static void make_older(void)
{
    uint64_t now = time_at(TIME_COMMITTED);
    put_time(TIME_ANNOUNCED + now % 2, now - 2);
    put_time(TIME_ANNOUNCED + (now - 1) % 2, now - 1);
    put_time(TIME_COMMITTED, now - 1);
}

static int open_accepting(void)
{
    b.accept_loss = true;
    int err = bare_open(&b);
    b.accept_loss = false;
    return err;
}

static void any_block_that_tells_the_time_may_rot_and_is_written_anew(void)
{
    for (uint32_t checkpoints = 2; checkpoints <= 3; checkpoints++)
        for (uint64_t at = TIME_ANNOUNCED; at <= TIME_COMMITTED; at++) {
            begin(checkpoints);
            uint64_t now = time_at(TIME_COMMITTED);
            rot(at);
            CU_ASSERT_EQUAL_FATAL(bare_open(&b), 0);
            CU_ASSERT_EQUAL(bare_read(&b, 199), checkpoints);
            CU_ASSERT_EQUAL(time_at(TIME_ANNOUNCED + now % 2), now);
            CU_ASSERT_EQUAL(time_at(TIME_COMMITTED), now);
            CU_ASSERT(bare_is_sound(&b));
            bare_end(&b);
        }
}

/* A kill may come between a commit and the note of it. */
static void a_commit_that_was_not_noted_is_noted_by_the_next_opening(void)
{
    begin(2);
    uint64_t now = time_at(TIME_COMMITTED);
    put_time(TIME_COMMITTED, now - 1);
    CU_ASSERT_EQUAL_FATAL(bare_open(&b), 0);
    CU_ASSERT_EQUAL(time_at(TIME_COMMITTED), now);
    bare_end(&b);
}

static void blocks_that_are_older_are_refused(void)
{
    begin(2);
    make_older();
    CU_ASSERT_EQUAL(bare_open(&b), -ESTALE);
    CU_ASSERT(strstr(b.err.text, "blocks are older than its catalog") != NULL);
    CU_ASSERT_EQUAL_FATAL(open_accepting(), 0);
    CU_ASSERT_EQUAL(bare_read(&b, 199), 2);
    bare_kill(&b);
    CU_ASSERT_EQUAL(bare_open(&b), -ESTALE); /* nothing was committed */
    CU_ASSERT_EQUAL_FATAL(open_accepting(), 0);
    CU_ASSERT_EQUAL(bare_checkpoint(&b), 0);
    bare_kill(&b);
    CU_ASSERT_EQUAL_FATAL(bare_open(&b), 0);
    CU_ASSERT_EQUAL(bare_read(&b, 199), 2);
    bare_end(&b);
}

/* Or the next opening would believe the space map of another time. */
static void accepted_blocks_stay_refused_until_the_catalog_says_so(void)
{
    struct bare_run run;
    begin(2);
    make_older();
    CU_ASSERT_EQUAL_FATAL(open_accepting(), 0);
    bare_hold_flushes(&b);
    bare_arm(&run);
    store_checkpoint(b.store, &run.op);
    while (!bare_flush_held(&b))
        bare_turn(&b, 1);
    bare_kill(&b); /* all is on the device, and nothing in the catalog */
    CU_ASSERT_EQUAL(bare_open(&b), -ESTALE);
    bare_end(&b);
}

static void a_verdict_alone_does_not_accept_blocks(void)
{
    begin(2);
    CU_ASSERT_EQUAL_FATAL(bare_open(&b), 0);
    CU_ASSERT_EQUAL(bare_write(&b, 300, 1, 9), 0);
    bare_kill(&b);
    make_older();
    CU_ASSERT_EQUAL_FATAL(open_accepting(), 0);
    CU_ASSERT_EQUAL(bare_read(&b, 300), 9);
    bare_kill(&b);
    CU_ASSERT_EQUAL(bare_open(&b), -ESTALE);
    CU_ASSERT_EQUAL_FATAL(open_accepting(), 0);
    CU_ASSERT_EQUAL(bare_read(&b, 300), 9);
    bare_kill(&b); /* there is no room to merge it into the map */
    bare_end(&b);
}

/* They are of before the write, and the catalog of after a recovery that met it. */
static void older_blocks_may_lack_what_a_recovery_has_sealed(void)
{
    begin(2);
    CU_ASSERT_EQUAL_FATAL(bare_open(&b), 0);
    CU_ASSERT_EQUAL(bare_write(&b, 300, 1, 9), 0);
    uint64_t at = bare_journal(&b, 0);
    bare_kill(&b);
    CU_ASSERT_EQUAL_FATAL(bare_open(&b), 0);
    bare_kill(&b);
    bare_put(&b, at, nothing);
    CU_ASSERT_EQUAL(bare_open(&b), -EBADMSG);
    make_older();
    CU_ASSERT_EQUAL(bare_open(&b), -ESTALE);
    CU_ASSERT_EQUAL_FATAL(open_accepting(), 0);
    CU_ASSERT_EQUAL(bare_read(&b, 199), 2);
    CU_ASSERT_EQUAL(bare_read(&b, 300), 0);
    CU_ASSERT_EQUAL(bare_checkpoint(&b), 0);
    bare_kill(&b);
    CU_ASSERT_EQUAL_FATAL(bare_open(&b), 0);
    bare_end(&b);
}

int main(int argc, char **argv)
{
    return unit_main(argc, argv, "parallax", (const struct unit_test[]){
        UNIT(any_block_that_tells_the_time_may_rot_and_is_written_anew), UNIT(a_commit_that_was_not_noted_is_noted_by_the_next_opening),
        UNIT(blocks_that_are_older_are_refused), UNIT(accepted_blocks_stay_refused_until_the_catalog_says_so),
        UNIT(a_verdict_alone_does_not_accept_blocks), UNIT(older_blocks_may_lack_what_a_recovery_has_sealed), { 0 } });
}
