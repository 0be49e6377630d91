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

/* What a turn leaves for the next is no less answered when the guest goes in between. */
static void what_a_turn_left_is_answered_when_the_guest_leaves(void)
{
    begin();
    hv_gref segments;
    indirect_page(&segments);
    send_large(BLKIF_OP_READ, segments);
    fake_release();
    CU_ASSERT(world_until(responses()));
    raw_put(&ring, "state", "6");
    CU_ASSERT(world_until(responses() == LARGE));
    for (unsigned i = 0; i < LARGE; i++)
        CU_ASSERT_EQUAL(answer().status, 0);
    CU_ASSERT_EQUAL(hv_grant_unshare(world.guest, segments), 0);
    end();
}

/* Nor is it lost or done twice when the backend goes and another comes. */
static void what_a_turn_left_is_done_once_when_the_backend_is_replaced(uint8_t op)
{
    bool answered[LARGE] = { false };
    begin();
    hv_gref segments;
    indirect_page(&segments);
    fake.hold = false;
    for (unsigned i = 0; i < LARGE; i++)
        raw_indirect(&ring, op, i, i * LARGE_SEGMENTS * 8, segments, LARGE_SEGMENTS);
    raw_push(&ring);
    CU_ASSERT(world_until(responses()));
    CU_ASSERT(responses() < LARGE);
    blkback_stop(world.backend, true);
    world_backend_start();
    CU_ASSERT(world_until(responses() == LARGE));
    for (unsigned i = 0; i < LARGE; i++) {
        struct raw_response rsp = answer();
        CU_ASSERT_EQUAL(rsp.status, 0);
        CU_ASSERT_FATAL(rsp.id < LARGE);
        CU_ASSERT(!answered[rsp.id]);
        answered[rsp.id] = true;
    }
    still_serves();
    CU_ASSERT_EQUAL(hv_grant_unshare(world.guest, segments), 0);
    end();
}

static void reads_that_a_turn_left_survive_a_restart(void) { what_a_turn_left_is_done_once_when_the_backend_is_replaced(BLKIF_OP_READ); }
static void writes_that_a_turn_left_survive_a_restart(void) { what_a_turn_left_is_done_once_when_the_backend_is_replaced(BLKIF_OP_WRITE); }

/* A ring that breaks the rules while a turn's rest waits: what was taken ends, and nothing is told or touched later. */
static void a_ring_may_break_between_two_turns(void)
{
    begin();
    hv_gref segments;
    indirect_page(&segments);
    send_large(BLKIF_OP_WRITE, segments);
    CU_ASSERT_EQUAL(fake.in_flight, LARGE_A_TURN);
    __atomic_store_n(&ring.shared->req_prod, ring.req_prod + 1000, __ATOMIC_RELEASE);
    CU_ASSERT_EQUAL(raw_wait_backend(&ring, 5, 5000 + (fake_release(), 0)), 0);
    CU_ASSERT_EQUAL(responses(), 0);
    CU_ASSERT_EQUAL(hv_grant_unshare(world.guest, segments), 0);
    end();
}

int main(int argc, char **argv)
{
    return unit_main(argc, argv, "blkback_turn", (struct unit_test[]){
        UNIT(writes_go_to_the_image_while_the_next_are_copied), UNIT(reads_are_answered_while_the_next_are_copied),
        UNIT(what_a_turn_left_is_answered_when_the_guest_leaves), UNIT(reads_that_a_turn_left_survive_a_restart), UNIT(writes_that_a_turn_left_survive_a_restart),
        UNIT(a_ring_may_break_between_two_turns), { 0 } });
}
