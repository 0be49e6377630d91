/* blkback_advisories_test.c - what Xen's advisories teach a backend, where no other test is about it: docs/testing.md has the table.
 *
 * A spy stands between the backend and the embedded hypervisor: it sees each copy, and can hand out an event of a port that was closed,
 * as Xen's event channels may. */
#include "hypervisor/hypervisor_private.h"
#include "tests/support/blkback_world.h"

#include <errno.h>

#define DISK_BYTES (4u << 20)
#define SECOND_VDEV 51728u

static struct raw ring;
static uint8_t *pages; /* two, granted */
static hv_gref refs[2];

/* ---- The spy ---- */

static const struct hv_ops *real;
static struct spy {
    hv_evtchn last_bound, stale; /* stale: to be handed out once; 0: none */
    bool shown_early;            /* a guest's page was used when the response was there to be seen */
    unsigned copies;
    struct blkif_ring_header *watched;
    uint32_t rsp_prod;           /* all that may have been shown so far */
    unsigned pushed, unmasked;   /* requests; times */
    bool unmasked_early;         /* with a request that had not been begun */
} spy;

static int spy_bind(struct hv_ports *p, hv_domid dom, uint32_t remote_port, hv_evtchn *out)
{
    int err = real->event_bind(p, dom, remote_port, out);
    if (!err)
        spy.last_bound = *out;
    return err;
}

static int spy_pending(struct hv_ports *p, hv_evtchn *out)
{
    if (!spy.stale)
        return real->event_pending(p, out);
    *out = spy.stale;
    spy.stale = 0;
    return 0;
}

static int spy_unmask(struct hv_ports *p, hv_evtchn port)
{
    spy.unmasked++;
    spy.unmasked_early |= fake.logged != spy.pushed;
    return real->event_unmask(p, port);
}

static int spy_copy(struct hv_ports *p, struct hv_copy *segments, unsigned count)
{
    spy.copies += count;
    if (spy.watched)
        spy.shown_early |= __atomic_load_n(&spy.watched->rsp_prod, __ATOMIC_ACQUIRE) != spy.rsp_prod;
    return real->grant_copy(p, segments, count);
}

/* A world whose backend stands behind the spy. */
static void begin_world(bool persistent)
{
    static struct hv_ops ops;
    world_begin(&(struct blkback_options){ .persistent = persistent }, DISK_BYTES);
    blkback_stop(world.backend, false);
    real = world.storage->ops;
    ops = *real;
    ops.event_bind = spy_bind;
    ops.event_pending = spy_pending;
    ops.event_unmask = spy_unmask;
    ops.grant_copy = spy_copy;
    world.storage->ops = &ops;
    memset(&spy, 0, sizeof spy);
    world_backend_start();
    world_attach();
    ring = world_raw(BLKIF_ABI_X86_64, 0);
    pages = hv_arena_alloc(world.guest, 2);
    for (unsigned i = 0; i < 2; i++)
        CU_ASSERT_EQUAL_FATAL(hv_grant_share(world.guest, ring.backend, pages + i * 4096, false, &refs[i]), 0);
}

static void begin(void)
{
    begin_world(false);
    CU_ASSERT_EQUAL_FATAL(raw_connect(&ring), 0);
    raw_put(&ring, "state", "4");
}

static void leave(void)
{
    raw_put(&ring, "state", "6");
    CU_ASSERT_EQUAL(raw_wait_backend(&ring, 6, WORLD_PATIENCE_MS), 0);
    CU_ASSERT(raw_release(&ring));
}

static void end(void)
{
    for (unsigned i = 0; i < 2; i++)
        CU_ASSERT_EQUAL(hv_grant_unshare(world.guest, refs[i]), 0);
    world.storage->ops = real;
    world_end();
}

static int16_t answer(struct raw *r, uint64_t id)
{
    struct raw_response rsp = { .status = 99 };
    raw_push(r);
    CU_ASSERT_EQUAL(raw_response(r, WORLD_PATIENCE_MS, &rsp), 0);
    CU_ASSERT(rsp.id == id && rsp.clean);
    return rsp.status;
}

static struct blkif_segment whole(unsigned page) { return (struct blkif_segment){ .gref = refs[page], .last_sect = 7 }; }

/* ---- 155: what was checked is what is used ---- */

static struct blkif_segment *indirect;

/* Another processor of the guest, when the request is under way. */
static void spoil_segments(void)
{
    for (unsigned i = 0; i < 4; i++)
        indirect[i] = (struct blkif_segment){ .gref = refs[1], .first_sect = (uint8_t)(i % 2 ? 200 : 0), .last_sect = (uint8_t)(i % 2 ? 255 : 7) };
}

static void indirect_segments_that_change_after_they_were_taken_are_what_they_were(void)
{
    begin();
    hv_gref page;
    indirect = hv_arena_alloc(world.guest, 1);
    CU_ASSERT_EQUAL_FATAL(hv_grant_share(world.guest, ring.backend, indirect, false, &page), 0);
    fake.submitted = spoil_segments;
    for (unsigned round = 0; round < 100; round++) {
        for (unsigned i = 0; i < 4; i++)
            indirect[i] = (struct blkif_segment){ .gref = refs[0], .first_sect = (uint8_t)(2 * i), .last_sect = (uint8_t)(2 * i + 1) };
        memset(fake.data, (int)(round % 200 + 1), 4096);
        memset(pages, 0, 4096);
        memset(pages + 4096, 0xee, 4096);
        raw_indirect(&ring, BLKIF_OP_READ, round, 0, page, 4);
        CU_ASSERT_EQUAL(answer(&ring, round), 0);
        for (unsigned i = 0; i < 4096; i++)
            CU_ASSERT_FATAL(pages[i] == round % 200 + 1 && pages[4096 + i] == 0xee);
    }
    CU_ASSERT_EQUAL(hv_grant_unshare(world.guest, page), 0);
    leave();
    end();
}

/* ---- 331: an event of a channel that is removed meanwhile ---- */

static void an_event_of_a_port_that_was_closed_is_nobodys(void)
{
    begin();
    struct raw other = world_raw(BLKIF_ABI_X86_64, 0);
    struct toolstack_device second = world.device;
    second.vdev = other.vdev = SECOND_VDEV;
    second.mode = "r";
    CU_ASSERT_EQUAL_FATAL(toolstack_attach(world.xs, &second), 0);
    CU_ASSERT_EQUAL_FATAL(raw_connect(&other), 0);
    for (unsigned round = 0; round < 50; round++) {
        leave();
        raw_put(&ring, "state", "1");
        CU_ASSERT_EQUAL_FATAL(raw_connect(&ring), 0);
        hv_evtchn closing = spy.last_bound;
        leave();
        spy.stale = closing;
        struct blkif_segment s = whole(0);
        raw_rw(&other, BLKIF_OP_READ, round, 0, &s, 1);
        CU_ASSERT_EQUAL(answer(&other, round), 0);
        CU_ASSERT_EQUAL(spy.stale, 0); /* it was handed out */
        raw_put(&ring, "state", "1");
        CU_ASSERT_EQUAL_FATAL(raw_connect(&ring), 0);
    }
    leave();
    ring = other;
    leave();
    end();
}

/* ---- 332: a storm of events ---- */

static void a_port_is_unmasked_after_the_work(void)
{
    begin();
    for (unsigned round = 0; round < 300; round++) {
        struct blkif_segment s = whole(0);
        unsigned before = spy.unmasked;
        raw_rw(&ring, BLKIF_OP_READ, round, 0, &s, 1);
        spy.pushed++;
        CU_ASSERT_EQUAL(answer(&ring, round), 0);
        CU_ASSERT(world_until(spy.unmasked > before));
    }
    CU_ASSERT_FALSE(spy.unmasked_early);
    leave();
    end();
}

/* ---- 350: connecting and disconnecting as fast as it goes ---- */

static bool is_closed(void)
{
    unsigned state = raw_backend_state(&ring);
    return state == 6 || state == 1;
}

static void states_in_any_order_and_at_any_speed_end_where_they_end(void)
{
    uint64_t seed = unit_seed();
    begin_world(false);
    for (unsigned round = 0; round < 200; round++) {
        CU_ASSERT_EQUAL_FATAL(raw_wait_backend(&ring, 2, 60000), 0);
        CU_ASSERT_EQUAL_FATAL(raw_prepare(&ring), 0);
        for (unsigned n = (unsigned)(unit_random(&seed) % 12); n; n--) {
            raw_put(&ring, "state", "%u", (unsigned)(1 + unit_random(&seed) % 6));
            if (unit_random(&seed) % 3 == 0)
                world_turn();
        }
        /* An old Closed may look like the answer to ours: the second time it was open in between. */
        for (unsigned i = 0; i < 2; i++) {
            raw_put(&ring, "state", "6");
            bool seen = false; /* it may be open again by now */
            CU_ASSERT_FATAL(world_until(seen |= is_closed()));
            raw_put(&ring, "state", "1");
            CU_ASSERT_EQUAL_FATAL(raw_wait_backend(&ring, 2, WORLD_PATIENCE_MS), 0);
        }
        CU_ASSERT_FATAL(raw_release(&ring));
        CU_ASSERT_EQUAL_FATAL(fake.opens, fake.closes + 1);
    }
    CU_ASSERT_EQUAL_FATAL(raw_connect(&ring), 0);
    struct blkif_segment s = whole(0);
    raw_rw(&ring, BLKIF_OP_WRITE, 1, 0, &s, 1);
    CU_ASSERT_EQUAL(answer(&ring, 1), 0);
    leave();
    end();
}

/* ---- 362: what fails in the middle is undone in full ---- */

static void refused(void)
{
    raw_put(&ring, "state", "3");
    CU_ASSERT_EQUAL_FATAL(raw_wait_backend(&ring, 5, WORLD_PATIENCE_MS), 0);
}

static void begin_again(void)
{
    raw_put(&ring, "state", "6");
    CU_ASSERT_EQUAL(raw_wait_backend(&ring, 6, WORLD_PATIENCE_MS), 0);
    raw_put(&ring, "state", "1");
    CU_ASSERT_EQUAL_FATAL(raw_wait_backend(&ring, 2, WORLD_PATIENCE_MS), 0);
}

static void a_connection_that_fails_at_any_page_keeps_none(void)
{
    begin_world(false);
    CU_ASSERT_EQUAL_FATAL(raw_wait_backend(&ring, 2, WORLD_PATIENCE_MS), 0);
    ring.order = 3;
    for (unsigned round = 0; round < 64; round++) {
        char name[16];
        CU_ASSERT_EQUAL_FATAL(raw_prepare(&ring), 0);
        if (round % 9 == 8) {
            raw_put(&ring, "event-channel", "%u", ring.port + 1000); /* every page was mapped */
        } else {
            snprintf(name, sizeof name, "ring-ref%u", round % 9);
            raw_put(&ring, name, "%u", 1000000 + round);
        }
        refused();
        CU_ASSERT_FATAL(raw_release(&ring));
        begin_again();
    }
    CU_ASSERT_EQUAL(raw_connect(&ring), 0);
    leave();
    end();
}

static void move_to_queue(struct raw *r, unsigned queue)
{
    char name[32];
    raw_delete(r, "ring-ref");
    raw_delete(r, "event-channel");
    snprintf(name, sizeof name, "queue-%u/ring-ref", queue);
    raw_put(r, name, "%u", r->refs[0]);
    snprintf(name, sizeof name, "queue-%u/event-channel", queue);
    raw_put(r, name, "%u", r->port);
}

static void a_connection_that_fails_at_its_last_queue_keeps_none(void)
{
    begin_world(false);
    CU_ASSERT_EQUAL_FATAL(raw_wait_backend(&ring, 2, WORLD_PATIENCE_MS), 0);
    for (unsigned round = 0; round < 20; round++) {
        struct raw last = ring;
        CU_ASSERT_EQUAL_FATAL(raw_prepare(&last), 0);
        move_to_queue(&last, 1);
        CU_ASSERT_EQUAL_FATAL(raw_prepare(&ring), 0);
        move_to_queue(&ring, 0);
        raw_put(&ring, "multi-queue-num-queues", "2");
        raw_put(&ring, round % 2 ? "queue-1/ring-ref" : "queue-1/event-channel", "%u", 1000000 + round);
        refused();
        CU_ASSERT_FATAL(raw_release(&ring) && raw_release(&last));
        begin_again();
    }
    raw_delete(&ring, "queue-0");
    raw_delete(&ring, "queue-1");
    raw_delete(&ring, "multi-queue-num-queues");
    CU_ASSERT_EQUAL(raw_connect(&ring), 0);
    leave();
    end();
}

/* ---- 396: a grant is let go before the response that ends its use ---- */

static void a_page_is_let_go_before_its_response_is_shown(void)
{
    begin();
    for (unsigned round = 0; round < 300; round++) {
        struct blkif_segment s[2] = { whole(0), whole(1) };
        spy.watched = ring.shared;
        spy.rsp_prod = ring.rsp_cons;
        raw_rw(&ring, round % 2 ? BLKIF_OP_WRITE : BLKIF_OP_READ, round, 0, s, 2);
        raw_push(&ring);
        /* As soon as the response is there, and with nothing of the backend's run in between. */
        CU_ASSERT_FATAL(world_until(__atomic_load_n(&ring.shared->rsp_prod, __ATOMIC_ACQUIRE) != ring.rsp_cons));
        spy.watched = NULL;
        for (unsigned i = 0; i < 2; i++) {
            CU_ASSERT_EQUAL_FATAL(hv_grant_unshare(world.guest, refs[i]), 0);
            CU_ASSERT_EQUAL_FATAL(hv_grant_share(world.guest, ring.backend, pages + i * 4096, false, &refs[i]), 0);
        }
        struct raw_response rsp;
        CU_ASSERT(raw_response(&ring, WORLD_PATIENCE_MS, &rsp) == 0 && rsp.id == round && rsp.status == 0);
    }
    CU_ASSERT(spy.copies >= 600);
    CU_ASSERT_FALSE(spy.shown_early);
    leave();
    end();
}

/* ---- 403: nobody is shown memory that was not read for them ---- */

static void what_one_request_left_behind_is_shown_to_no_other(bool persistent)
{
    begin_world(persistent);
    CU_ASSERT_EQUAL_FATAL(raw_wait_backend(&ring, 2, WORLD_PATIENCE_MS), 0);
    CU_ASSERT_EQUAL_FATAL(raw_prepare(&ring), 0);
    raw_put(&ring, "feature-persistent", "%u", persistent);
    raw_put(&ring, "state", "3");
    CU_ASSERT_EQUAL_FATAL(raw_wait_backend(&ring, 4, WORLD_PATIENCE_MS), 0);
    for (unsigned round = 0; round < 200; round++) {
        struct blkif_segment secret = whole(0), s[2] = { whole(1), whole(1) };
        memset(pages, 0xa5, 4096);
        memset(fake.data + 65536, 0xa5, 4096);
        raw_rw(&ring, round % 2 ? BLKIF_OP_READ : BLKIF_OP_WRITE, 1, 128, &secret, 1); /* a buffer holds it now */
        CU_ASSERT_EQUAL(answer(&ring, 1), 0);
        memset(pages + 4096, 0x77, 4096);
        fake.fail = -EIO;
        raw_rw(&ring, BLKIF_OP_READ, 2, 0, s, 1);
        CU_ASSERT_EQUAL(answer(&ring, 2), -1);
        fake.fail = 0;
        s[1].last_sect = 8; /* refused when a buffer was taken already */
        raw_rw(&ring, BLKIF_OP_READ, 3, 0, s, 2);
        CU_ASSERT_EQUAL(answer(&ring, 3), -1);
        for (unsigned i = 0; i < 4096; i++)
            CU_ASSERT_EQUAL_FATAL(pages[4096 + i], 0x77);
    }
    leave();
    end();
}

static void what_one_request_left_is_not_copied_to_another(void) { what_one_request_left_behind_is_shown_to_no_other(false); }
static void what_one_request_left_is_not_put_into_a_mapped_page(void) { what_one_request_left_behind_is_shown_to_no_other(true); }

int main(int argc, char **argv)
{
    return unit_main(argc, argv, "blkback_advisories", (struct unit_test[]){
        UNIT(indirect_segments_that_change_after_they_were_taken_are_what_they_were), UNIT(an_event_of_a_port_that_was_closed_is_nobodys),
        UNIT(a_port_is_unmasked_after_the_work),
        UNIT(states_in_any_order_and_at_any_speed_end_where_they_end), UNIT(a_connection_that_fails_at_any_page_keeps_none),
        UNIT(a_connection_that_fails_at_its_last_queue_keeps_none), UNIT(a_page_is_let_go_before_its_response_is_shown),
        UNIT(what_one_request_left_is_not_copied_to_another), UNIT(what_one_request_left_is_not_put_into_a_mapped_page), { 0 } });
}
