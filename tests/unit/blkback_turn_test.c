/* blkback_turn_test.c - how much of large requests the backend carries in one turn of its loop, so that device and guest have work
 * while the next are copied. */
#include "tests/support/blkback_lone_ring.h"

enum { LARGE = 20, LARGE_SEGMENTS = 32, LARGE_A_TURN = 4 }; /* requests of 128 KiB; a turn carries half a MiB */

static void send_large(uint8_t op, hv_gref segments)
{
    fake.hold = true;
    for (unsigned i = 0; i < LARGE; i++)
        raw_indirect(&ring, op, i, i * LARGE_SEGMENTS * 8, segments, LARGE_SEGMENTS);
    raw_push(&ring);
    CU_ASSERT(world_until(fake.in_flight));
}

static void expect_large_to_end(hv_gref segments)
{
    for (unsigned i = 0; i < LARGE; i++)
        CU_ASSERT_EQUAL(answer().status, 0);
    still_serves();
    CU_ASSERT_EQUAL(hv_grant_unshare(world.guest, segments), 0);
}

static void writes_go_to_the_image_while_the_next_are_copied(void)
{
    begin();
    hv_gref segments;
    indirect_page(&segments);
    send_large(BLKIF_OP_WRITE, segments);
    CU_ASSERT_EQUAL(fake.in_flight, LARGE_A_TURN);
    CU_ASSERT(world_until(fake.in_flight == LARGE)); /* the next turn needs neither an event nor the end of something */
    fake_release();
    expect_large_to_end(segments);
    end();
}

static uint32_t responses(void) { return __atomic_load_n(&ring.shared->rsp_prod, __ATOMIC_ACQUIRE) - ring.rsp_cons; }

static void reads_are_answered_while_the_next_are_copied(void)
{
    begin();
    hv_gref segments;
    indirect_page(&segments);
    send_large(BLKIF_OP_READ, segments);
    CU_ASSERT_EQUAL(fake.in_flight, LARGE);
    fake_release();
    CU_ASSERT(world_until(responses()));
    CU_ASSERT_EQUAL(responses(), LARGE_A_TURN);
    CU_ASSERT(world_until(responses() == LARGE));
    expect_large_to_end(segments);
    end();
}

int main(int argc, char **argv)
{
    return unit_main(argc, argv, "blkback_turn", (struct unit_test[]){
        UNIT(writes_go_to_the_image_while_the_next_are_copied), UNIT(reads_are_answered_while_the_next_are_copied), { 0 } });
}
