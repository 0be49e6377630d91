/* parallax_check_test.c - what a full walk finds that reading does not: a block that was given to two; and its end before its time. */
#include "parallax/parallax_private.h"
#include "parallax/disk.h"
#include "parallax/store_backing.h"
#include "tests/support/bare.h"
#include "tests/support/unit.h"

#include <errno.h>
#include <string.h>

#define STORE_BYTES (48ull << 20)

static struct bare b;
static unsigned told_of_two;

static void look_for_two_users(void *ctx, const char *line)
{
    (void)ctx;
    told_of_two += strstr(line, "has another user") != NULL;
}

static void begin_check(struct bare_run *run, unsigned flags, struct store_check_result *result)
{
    bare_arm(run);
    store_check(b.store, &run->op, flags, look_for_two_users, NULL, result);
}

static struct store_check_result check(unsigned flags)
{
    struct bare_run run;
    struct store_check_result result;
    told_of_two = 0;
    begin_check(&run, flags, &result);
    CU_ASSERT_EQUAL(bare_wait(&b, &run), 0);
    return result;
}

/* What a bug would do: the image's block `block` is said to be at an address that is somebody else's, with its own checksum. */
static void give_away(uint64_t address, uint32_t block)
{
    struct line *l = b.img->disk->head->line;
    struct index *ix = &b.store->index[b.store->active];
    uint64_t ticket = (b.store->journal.next_seq << TICKET_SHIFT) - 1, low, high;
    line_interval(l, ticket, &low, &high);
    index_insert(ix, &(struct index_entry){ .line = l->id, .block = block, .ticket = ticket, .address = address, .crc = 0x12345678 }, low, high);
    tree_dirty_version(&b.store->tree, b.img->disk->head);
}

static void a_block_of_two_users_is_damage_and_frees_nothing(void)
{
    bare_begin(&b, STORE_BYTES);
    CU_ASSERT_EQUAL(bare_write(&b, 0, 200, 7), 0);
    CU_ASSERT_EQUAL(bare_checkpoint(&b), 0);
    struct store_check_result sound = check(STORE_CHECK_DATA);
    CU_ASSERT(sound.damaged == 0 && told_of_two == 0);
    give_away(bare_address(&b, 100, 7), 300);
    CU_ASSERT_EQUAL(bare_write(&b, 500, 1, 8), 0);
    CU_ASSERT_EQUAL(bare_checkpoint(&b), 0);
    for (unsigned quick = 0; quick < 2; quick++) {
        struct store_check_result r = check(quick ? STORE_CHECK_REPAIR : STORE_CHECK_DATA | STORE_CHECK_REPAIR);
        CU_ASSERT(r.damaged > 0);
        CU_ASSERT_EQUAL(r.freed_bytes, 0);
        CU_ASSERT_EQUAL(told_of_two, 1);
    }
    for (uint64_t i = 0; i < 200; i++)
        CU_ASSERT_EQUAL(bare_read(&b, i), 7);
    bare_kill(&b);
    bare_end(&b);
}

/* What a bug would do: free blocks are counted as used. */
static unsigned leak(unsigned count)
{
    struct space *sp = &b.store->space;
    struct space_run run;
    unsigned leaked = 0;
    while (leaked < count && !space_take(sp, count - leaked, &run))
        for (; run.next < run.end; run.next++, leaked++)
            space_image_set(sp, run.next);
    return leaked;
}

/* The first frees what leaked, and guests use it before the second has put right what it found. */
static void what_one_repair_has_freed_is_not_freed_again_by_another(void)
{
    enum { LEAKED = 300, FAR = 100000, WAITING = 64 };
    static struct bare_io ios[WAITING];
    struct store_options opt = { .wait_when_full = true };
    struct image_open_options io = { .mode = IMAGE_READ_WRITE };
    struct store_check_result results[2];
    struct bare_run repairs[2];
    uint64_t at = FAR;
    bare_begin(&b, STORE_BYTES);
    for (uint64_t i = 0; i < 100; i++)
        CU_ASSERT_EQUAL_FATAL(bare_write(&b, i * 256, 1, 7), 0);
    CU_ASSERT_EQUAL(bare_checkpoint(&b), 0);
    CU_ASSERT_EQUAL_FATAL(leak(LEAKED), LEAKED);
    while (!bare_write(&b, at, 1, 8))
        at++;
    image_close(b.img);
    CU_ASSERT_EQUAL_FATAL(store_close(b.store), 0);
    CU_ASSERT_EQUAL_FATAL(store_open_backing(&b.backing, b.loop, &opt, &b.store, &b.err), 0);
    CU_ASSERT_EQUAL_FATAL(image_open(b.store, "a", &io, &b.img, &b.err), 0);
    bare_slow_walks(&b, 6);
    for (unsigned i = 0; i < WAITING; i++)
        bare_submit(&b, &ios[i], IMAGE_WRITE, at + i, 1, 9);
    bare_turn(&b, 50);
    CU_ASSERT_EQUAL(ios[WAITING - 1].error, BARE_PENDING);
    for (unsigned i = 0; i < 2; i++)
        begin_check(&repairs[i], i ? STORE_CHECK_REPAIR | STORE_CHECK_DATA : STORE_CHECK_COLLECT, &results[i]);
    for (unsigned i = 0; i < 2; i++)
        CU_ASSERT_EQUAL(bare_wait(&b, &repairs[i]), 0);
    CU_ASSERT_EQUAL(results[0].mended, LEAKED);
    CU_ASSERT_EQUAL(results[1].mended, 0);
    bare_slow_walks(&b, 0);
    for (unsigned i = 0; i < WAITING; i++) {
        CU_ASSERT_EQUAL(bare_io_wait(&b, &ios[i]), 0);
        bare_io_fini(&ios[i]);
    }
    image_stop_waiting(b.img);
    for (unsigned i = 0; i < LEAKED; i++) {
        int err = bare_write(&b, FAR + i, 1, 10);
        CU_ASSERT(err == 0 || err == -ENOSPC);
    }
    CU_ASSERT_EQUAL(bare_checkpoint(&b), 0);
    for (unsigned i = 0; i < WAITING; i++)
        CU_ASSERT_EQUAL(bare_read(&b, at + i), 9);
    CU_ASSERT(bare_is_sound(&b));
    bare_end(&b);
}

/* The store is opened without these pages of its map, and repaired. */
static void lose_and_make_anew(unsigned first, unsigned count)
{
    uint8_t block[BDEV_BLOCK_SIZE];
    uint64_t map = b.store->super.zone_start;
    image_close(b.img);
    CU_ASSERT_EQUAL_FATAL(store_close(b.store), 0);
    memset(block, 0x55, sizeof block);
    for (unsigned p = first; p < first + count; p++) {
        bare_put(&b, map + p, block);
        bare_put(&b, map + ZONE_PAGES + p, block);
    }
    CU_ASSERT_EQUAL_FATAL(bare_open(&b), 0);
    struct store_check_result r = check(STORE_CHECK_REPAIR);
    CU_ASSERT_EQUAL(r.lost_pages, count);
    CU_ASSERT(r.mended >= count);
}

static unsigned fill(uint64_t at, unsigned run)
{
    unsigned n = 0;
    while (!bare_write(&b, at + (uint64_t)n * run, run, 8))
        n++;
    return n * run;
}

static void write_runs(unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        CU_ASSERT_EQUAL_FATAL(bare_write(&b, (uint64_t)i * 64, 64, 7), 0);
    CU_ASSERT_EQUAL(bare_checkpoint(&b), 0);
}

static void discard_runs(unsigned first, unsigned end)
{
    for (unsigned i = first; i < end; i++)
        CU_ASSERT_EQUAL_FATAL(bare_discard(&b, (uint64_t)i * 64, 64), 0);
    for (unsigned i = 0; i < 2; i++)
        CU_ASSERT_EQUAL(bare_checkpoint(&b), 0);
}

/* A device that is full takes no write to a hole. */
static void holes_of_a_page_made_anew_are_filled_before_they_are_used(void)
{
    bare_begin(&b, 256u << 20);
    write_runs(700);
    discard_runs(1, 700);
    check(STORE_CHECK_COLLECT);
    bare_turn(&b, 500);
    uint64_t holes = b.store->space.hole_blocks;
    CU_ASSERT(holes > 10000);
    lose_and_make_anew(0, 2);
    CU_ASSERT(b.store->space.hole_blocks >= holes / 2);
    CU_ASSERT(fill(100000, 64) > 60000);
    CU_ASSERT_EQUAL(bare_checkpoint(&b), 0);
    CU_ASSERT_EQUAL(b.store->failed, 0);
    CU_ASSERT(space_used(b.store) <= (256u << 20) / BDEV_BLOCK_SIZE);
    CU_ASSERT_EQUAL(bare_read(&b, 0), 7);
    CU_ASSERT_EQUAL(bare_read(&b, 100000), 8);
    CU_ASSERT(bare_is_sound(&b));
    bare_end(&b);
}

/* The page reaches further than the device, which grows into it later. */
static void what_comes_after_a_page_was_made_anew_is_free(void)
{
    unsigned filled[2];
    for (unsigned lost = 0; lost < 2; lost++) {
        bare_begin(&b, 500u << 20);
        write_runs(1000);
        discard_runs(0, 450);
        CU_ASSERT_EQUAL((b.store->space.usable - b.store->space.zone_start) / PAGE_BLOCKS, 2);
        if (lost)
            lose_and_make_anew(2, 1);
        else
            bare_reopen(&b);
        filled[lost] = fill(100000, 16);
        CU_ASSERT_EQUAL(bare_checkpoint(&b), 0);
        CU_ASSERT(bare_is_sound(&b));
        bare_end(&b);
    }
    CU_ASSERT(filled[1] + 200 > filled[0]);
}

/* Whoever asked has gone: the walk ends where it is, and what waits for its end begins. */
static void a_check_that_is_stopped_ends_in_the_middle(void)
{
    enum { LEAVES = 300, LEAKED = 10 };
    static const unsigned kinds[] = { STORE_CHECK_DATA, STORE_CHECK_REPAIR, STORE_CHECK_COLLECT };
    bare_begin(&b, STORE_BYTES);
    for (uint64_t i = 0; i < LEAVES; i++)
        CU_ASSERT_EQUAL_FATAL(bare_write(&b, i * 256, 1, 7), 0);
    CU_ASSERT_EQUAL(bare_checkpoint(&b), 0);
    CU_ASSERT_EQUAL_FATAL(leak(LEAKED), LEAKED);
    for (unsigned k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        struct store_check_result stopped, whole;
        struct bare_run first, second;
        bare_hold_walks(&b);
        begin_check(&first, kinds[k], &stopped);
        begin_check(&second, 0, &whole);
        while (!bare_walk_held(&b))
            bare_turn(&b, 1);
        store_op_cancel(&first.op);
        bare_release_walks(&b);
        CU_ASSERT_EQUAL(bare_wait(&b, &first), -ECANCELED);
        CU_ASSERT(stopped.nodes_checked < LEAVES && stopped.mended == 0);
        CU_ASSERT_EQUAL(bare_wait(&b, &second), 0);
        CU_ASSERT(whole.blocks_checked == LEAVES && whole.leaked_blocks == LEAKED);
    }
    CU_ASSERT_EQUAL(check(STORE_CHECK_REPAIR).mended, LEAKED);
    bare_end(&b);
}

int main(int argc, char **argv)
{
    return unit_main(argc, argv, "check", (struct unit_test[]){ UNIT(a_block_of_two_users_is_damage_and_frees_nothing),
        UNIT(what_one_repair_has_freed_is_not_freed_again_by_another), UNIT(holes_of_a_page_made_anew_are_filled_before_they_are_used),
        UNIT(what_comes_after_a_page_was_made_anew_is_free), UNIT(a_check_that_is_stopped_ends_in_the_middle), { 0 } });
}
