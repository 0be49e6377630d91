/* parallax_share_test.c - a share beside a write of the same block (docs/consistency.md, 28). */
#include "tests/support/bare.h"
#include "tests/support/unit.h"

#define STORE_BYTES (64ull << 20)
#define RUN 64u

static struct bare b;

/* "a" and its snapshot hold the same bytes in different blocks. */
static void make_equal_blocks(void)
{
    static const char *const snapshot = "a@s";
    struct bare_run run;
    CU_ASSERT_EQUAL(bare_write(&b, 0, RUN, 11), 0);
    bare_arm(&run);
    snapshot_create(b.store, &run.op, &snapshot, 1);
    CU_ASSERT_EQUAL_FATAL(bare_wait(&b, &run), 0);
    CU_ASSERT_EQUAL(bare_write(&b, 0, RUN, 11), 0);
    CU_ASSERT_EQUAL(bare_checkpoint(&b), 0);
}

/* A dedup that has read nothing yet; from now on all writes wait. */
static void begin_held(struct bare_run *dedup, struct image_dedup *found)
{
    bare_begin(&b, STORE_BYTES);
    make_equal_blocks();
    bare_hold_walks(&b);
    bare_arm(dedup);
    image_dedup(b.store, &dedup->op, "a", found);
    while (!bare_walk_held(&b))
        bare_turn(&b, 1);
    bare_hold_writes(&b);
}

/* It has its ticket already when the share gets one, which is higher: the share must be left out, or the write is lost. */
static void a_write_that_is_in_flight_wins_over_a_share(void)
{
    struct image_dedup found = { 0 };
    struct bare_run dedup;
    struct bare_io write;
    begin_held(&dedup, &found);
    bare_submit(&b, &write, IMAGE_WRITE, 5, 1, 12);
    while (bare_writes_held(&b) < 2) /* its data and its record */
        bare_turn(&b, 1);
    bare_release_walks(&b);
    while (bare_writes_held(&b) < 3) /* the shares of the others */
        bare_turn(&b, 1);
    bare_release(&b);
    CU_ASSERT_EQUAL(bare_wait(&b, &dedup), 0);
    CU_ASSERT_EQUAL(bare_io_wait(&b, &write), 0);
    bare_io_fini(&write);
    CU_ASSERT_EQUAL(found.shared_bytes, (RUN - 1) * 4096);
    CU_ASSERT_EQUAL(bare_read(&b, 5), 12);
    CU_ASSERT_EQUAL(bare_read(&b, 6), 11);
    CU_ASSERT(bare_is_sound(&b));
    bare_kill(&b);
    CU_ASSERT_EQUAL_FATAL(bare_open(&b), 0);
    CU_ASSERT_EQUAL(bare_read(&b, 5), 12);
    CU_ASSERT(bare_is_sound(&b));
    bare_end(&b);
}

/* Under a load there are always as many batches under way as writes may have: a share must not wait for fewer. */
static void shares_go_on_beside_all_the_writes_that_may_be_under_way(void)
{
    struct image_dedup found = { 0 };
    struct bare_run dedup;
    struct bare_io writes[20];
    unsigned n = 0, held;
    begin_held(&dedup, &found);
    for (held = 1; n < 20 && bare_writes_held(&b) != held; n++) {
        held = bare_writes_held(&b);
        bare_submit(&b, &writes[n], IMAGE_WRITE, 1000 + n, 1, 12);
        bare_turn(&b, 5);
    }
    CU_ASSERT_EQUAL(bare_writes_held(&b), held); /* the last one waits */
    bare_release_walks(&b);
    bare_turn(&b, 200);
    CU_ASSERT_EQUAL(bare_writes_held(&b), held + 1);
    bare_release(&b);
    CU_ASSERT_EQUAL(bare_wait(&b, &dedup), 0);
    while (n--) {
        CU_ASSERT_EQUAL(bare_io_wait(&b, &writes[n]), 0);
        bare_io_fini(&writes[n]);
    }
    CU_ASSERT_EQUAL(found.shared_bytes, RUN * 4096);
    CU_ASSERT(bare_is_sound(&b));
    bare_end(&b);
}

int main(int argc, char **argv)
{
    return unit_main(argc, argv, "share", (struct unit_test[]){ UNIT(a_write_that_is_in_flight_wins_over_a_share), UNIT(shares_go_on_beside_all_the_writes_that_may_be_under_way), { 0 } });
}
