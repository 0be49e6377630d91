/* parallax_deletion_test.c - deletions in the background: when they ask for checkpoints, and what closing does with them
 * (docs/consistency.md, 15). */
#include "tests/support/bare.h"
#include "tests/support/unit.h"

#include <errno.h>
#include <stdio.h>

#define STORE_BYTES (96ull << 20)

static struct bare b;

/* a@s0, a@s1 …, each with blocks of its own; checkpointed. How many checkpoints there have been then. */
static uint64_t make_snapshots(unsigned count, uint32_t blocks)
{
    struct store_status status;
    char name[16];
    for (unsigned i = 0; i < count; i++) {
        CU_ASSERT_EQUAL(bare_write(&b, 0, blocks, 100 + i), 0);
        snprintf(name, sizeof name, "a@s%u", i);
        CU_ASSERT_EQUAL_FATAL(bare_snapshot(&b, name), 0);
    }
    CU_ASSERT_EQUAL(bare_checkpoint(&b), 0);
    store_get_status(b.store, &status);
    return status.checkpoints;
}

/* Each deletion asks for a checkpoint, and a checkpoint takes the device's time from whoever comes next. */
static void deletions_one_after_another_share_checkpoints(void)
{
    enum { SNAPSHOTS = 60 };
    struct bare_run run;
    struct store_status status;
    char name[16];
    const char *target = name;
    bare_begin(&b, STORE_BYTES);
    uint64_t before = make_snapshots(SNAPSHOTS, 16);
    for (unsigned i = 0; i < SNAPSHOTS; i++) {
        snprintf(name, sizeof name, "a@s%u", i);
        bare_arm(&run);
        snapshot_delete(b.store, &run.op, &target, 1, false);
        CU_ASSERT_EQUAL_FATAL(bare_wait(&b, &run), 0);
        bare_turn(&b, 3);
    }
    store_get_status(b.store, &status);
    CU_ASSERT(status.checkpoints - before < SNAPSHOTS * 2 / 3);
    do {
        bare_turn(&b, 10);
        store_get_status(b.store, &status);
    } while (status.deletions_pending);
    CU_ASSERT(bare_is_sound(&b));
    bare_end(&b);
}

/* Closing does not leave a deletion to the next opening because it is just having a rest. */
static void closing_ends_what_is_being_deleted(void)
{
    enum { SNAPSHOTS = 40 };
    struct bare_run run;
    struct store_status status;
    char names[SNAPSHOTS][16];
    const char *targets[SNAPSHOTS];
    bare_begin(&b, STORE_BYTES);
    uint64_t before = make_snapshots(SNAPSHOTS, 64);
    for (unsigned i = 0; i < SNAPSHOTS; i++) {
        snprintf(names[i], sizeof names[i], "a@s%u", i);
        targets[i] = names[i];
    }
    bare_arm(&run);
    snapshot_delete(b.store, &run.op, targets, SNAPSHOTS, false);
    CU_ASSERT_EQUAL_FATAL(bare_wait(&b, &run), 0);
    do {
        bare_turn(&b, 1);
        store_get_status(b.store, &status);
    } while (status.checkpoints == before);
    CU_ASSERT(status.deletions_pending > 0);
    bare_reopen(&b);
    store_get_status(b.store, &status);
    CU_ASSERT_EQUAL(status.deletions_pending, 0);
    bare_end(&b);
}

/* Guests wait for whoever serves the store next: closing leaves the rest of the deletions to him. */
static void closing_goes_on_with_deletions_for_so_long_only(void)
{
    struct bare_run run;
    struct store_status status;
    const char *targets[] = { "a@s0", "a@s1", "a@s2", "a@s3" };
    bare_begin(&b, STORE_BYTES);
    b.reclaim_blocks = b.closing_ms = 1;
    bare_reopen(&b);
    make_snapshots(4, 256);
    bare_arm(&run);
    snapshot_delete(b.store, &run.op, targets, 4, false);
    CU_ASSERT_EQUAL_FATAL(bare_wait(&b, &run), 0);
    b.reclaim_blocks = b.closing_ms = 0;
    bare_reopen(&b);
    store_get_status(b.store, &status);
    CU_ASSERT(status.deletions_pending > 0);
    bare_reopen(&b);
    store_get_status(b.store, &status);
    CU_ASSERT_EQUAL(status.deletions_pending, 0);
    CU_ASSERT(bare_is_sound(&b));
    bare_end(&b);
}

/* One that a single checkpoint carries out, but for the time. */
static void closing_stops_in_the_middle_of_a_deletion(void)
{
    struct bare_run run;
    struct store_status status;
    const char *name = "a";
    bare_begin(&b, STORE_BYTES);
    for (uint64_t i = 0; i < 1024; i++)
        CU_ASSERT_EQUAL(bare_write(&b, i * 256, 1, 1), 0);
    b.closing_ms = 1;
    bare_reopen(&b);
    image_close(b.img);
    bare_arm(&run);
    image_delete(b.store, &run.op, &name, 1, true, false);
    CU_ASSERT_EQUAL_FATAL(bare_wait(&b, &run), 0);
    bare_slow_walks(&b, 10);
    CU_ASSERT_EQUAL(store_close(b.store), 0);
    b.store = NULL;
    bare_slow_walks(&b, 0);
    CU_ASSERT_EQUAL(bare_open(&b), -ENOENT); /* the image is gone; the store is open */
    store_get_status(b.store, &status);
    CU_ASSERT(status.deletions_pending > 0);
    for (unsigned i = 0; i < 4; i++)
        CU_ASSERT_EQUAL(bare_checkpoint(&b), 0);
    store_get_status(b.store, &status);
    CU_ASSERT_EQUAL(status.deletions_pending, 0);
    CU_ASSERT(bare_is_sound(&b));
    bare_kill(&b);
    bare_end(&b);
}

int main(int argc, char **argv)
{
    return unit_main(argc, argv, "deletion", (struct unit_test[]){
        UNIT(deletions_one_after_another_share_checkpoints),
        UNIT(closing_ends_what_is_being_deleted),
        UNIT(closing_goes_on_with_deletions_for_so_long_only),
        UNIT(closing_stops_in_the_middle_of_a_deletion), { 0 } });
}
