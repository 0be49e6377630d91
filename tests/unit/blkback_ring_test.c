/* blkback_ring_test.c - what the backend does with requests made by hand: good ones in odd shapes, bad ones, broken rings. */
#include "tests/support/blkback_lone_ring.h"

#include <errno.h>

#define DISK_SECTORS (DISK_BYTES / 512)
#define SECOND_VDEV 51728u

static void expect_error(uint64_t id, uint8_t op, int status)
{
    unsigned before = fake.logged;
    struct raw_response rsp = answer();
    CU_ASSERT_EQUAL(rsp.id, id);
    CU_ASSERT_EQUAL(rsp.op, op);
    CU_ASSERT_EQUAL(rsp.status, status);
    CU_ASSERT_EQUAL(fake.logged, before); /* it never reached the image */
}

static void segments_out_of_their_page_are_refused(void)
{
    begin();
    struct blkif_segment s = whole();
    s.last_sect = 8;
    raw_rw(&ring, BLKIF_OP_WRITE, 1, 0, &s, 1);
    expect_error(1, BLKIF_OP_WRITE, -1);
    s = (struct blkif_segment){ .gref = page_ref, .first_sect = 5, .last_sect = 4 };
    raw_rw(&ring, BLKIF_OP_READ, 2, 0, &s, 1);
    expect_error(2, BLKIF_OP_READ, -1);
    s = (struct blkif_segment){ .gref = page_ref, .first_sect = 255, .last_sect = 255 };
    raw_rw(&ring, BLKIF_OP_READ, 3, 0, &s, 1);
    expect_error(3, BLKIF_OP_READ, -1);
    still_serves();
    end();
}

/* With feature-persistent on this side too. */
static void connect_mapping(struct raw *r)
{
    CU_ASSERT_EQUAL_FATAL(raw_wait_backend(r, 2, 5000), 0);
    CU_ASSERT_EQUAL_FATAL(raw_prepare(r), 0);
    raw_put(r, "feature-persistent", "1");
    raw_put(r, "state", "3");
    CU_ASSERT_EQUAL_FATAL(raw_wait_backend(r, 4, 5000), 0);
    raw_put(r, "state", "4");
}

/* A second device of the same guest; read-only, because the image has its writer. */
static struct raw attach_second(void)
{
    struct toolstack_device second = world.device;
    struct raw r = world_raw(BLKIF_ABI_X86_64, 0);
    second.vdev = r.vdev = SECOND_VDEV;
    second.mode = "r";
    CU_ASSERT_EQUAL_FATAL(toolstack_attach(world.xs, &second), 0);
    return r;
}

static void end_second(struct raw *r)
{
    raw_put(r, "state", "6");
    CU_ASSERT_EQUAL(raw_wait_backend(r, 6, 5000), 0);
    CU_ASSERT(raw_release(r));
}

/* Where pages stay mapped no grant copy looks at the segment any more. */
static void segments_out_of_a_mapped_page_are_refused(void)
{
    world_begin(&(struct blkback_options){ .persistent = true }, DISK_BYTES);
    world_attach();
    ring = world_raw(BLKIF_ABI_X86_64, 0);
    connect_mapping(&ring);
    page = hv_arena_alloc(world.guest, 2);
    CU_ASSERT_EQUAL_FATAL(hv_grant_share(world.guest, ring.backend, page, false, &page_ref), 0);
    struct blkif_segment s = whole();
    s.last_sect = 8;
    raw_rw(&ring, BLKIF_OP_WRITE, 1, 0, &s, 1);
    expect_error(1, BLKIF_OP_WRITE, -1);
    memset(page + 4096, 0x33, 4096);
    raw_rw(&ring, BLKIF_OP_READ, 2, 0, &s, 1);
    expect_error(2, BLKIF_OP_READ, -1);
    CU_ASSERT_EQUAL(page[4096], 0x33);
    still_serves();
    CU_ASSERT(world_info().grants_mapped > 0);
    end();
}

static void segment_counts_are_bounded(void)
{
    begin();
    struct blkif_segment s[11];
    for (unsigned i = 0; i < 11; i++)
        s[i] = whole();
    raw_rw(&ring, BLKIF_OP_READ, 1, 0, s, 0);
    expect_error(1, BLKIF_OP_READ, -1);
    raw_rw(&ring, BLKIF_OP_WRITE, 2, 0, s, 12);
    expect_error(2, BLKIF_OP_WRITE, -1);
    raw_rw(&ring, BLKIF_OP_WRITE, 3, 0, s, 255);
    expect_error(3, BLKIF_OP_WRITE, -1);
    raw_indirect(&ring, BLKIF_OP_WRITE, 4, 0, page_ref, 257);
    expect_error(4, BLKIF_OP_WRITE, -1);
    raw_indirect(&ring, BLKIF_OP_WRITE, 5, 0, page_ref, 0);
    expect_error(5, BLKIF_OP_WRITE, -1);
    raw_indirect(&ring, BLKIF_OP_WRITE, 6, 0, page_ref, 65535);
    expect_error(6, BLKIF_OP_WRITE, -1);
    still_serves();
    end();
}

static void ranges_past_the_end_are_refused(void)
{
    begin();
    struct blkif_segment s = whole();
    static const uint64_t bad[] = { DISK_SECTORS, DISK_SECTORS - 7, UINT64_MAX, UINT64_MAX - 7, 1ull << 55, 1ull << 63 };
    for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++) {
        raw_rw(&ring, i % 2 ? BLKIF_OP_READ : BLKIF_OP_WRITE, i, bad[i], &s, 1);
        expect_error(i, i % 2 ? BLKIF_OP_READ : BLKIF_OP_WRITE, -1);
    }
    raw_rw(&ring, BLKIF_OP_READ, 99, DISK_SECTORS - 8, &s, 1);
    CU_ASSERT_EQUAL(answer().status, 0);
    still_serves();
    end();
}

static void discards_are_checked_for_overflow_and_begin_anywhere(void)
{
    begin();
    static const struct { uint64_t sector, count; uint8_t flag; int status; } bad[] = {
        { 8, 0, 0, -1 }, { 8, UINT64_MAX, 0, -1 }, { UINT64_MAX - 7, 8, 0, -1 }, { 0, DISK_SECTORS + 1, 0, -1 },
        { DISK_SECTORS, 1, 0, -1 }, { UINT64_MAX - 7, UINT64_MAX - 7, 0, -1 }, { 0, 8, BLKIF_DISCARD_SECURE, -2 } };
    for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++) {
        raw_discard(&ring, i, bad[i].sector, bad[i].count, bad[i].flag);
        expect_error(i, BLKIF_OP_DISCARD, bad[i].status);
    }
    memset(fake.data, 1, DISK_BYTES);
    raw_discard(&ring, 76, 3, 6, 0);
    CU_ASSERT_EQUAL(answer().status, 0);
    CU_ASSERT(fake.data[3 * 512 - 1] && !fake.data[3 * 512] && !fake.data[9 * 512 - 1] && fake.data[9 * 512]);
    raw_discard(&ring, 77, 0, DISK_SECTORS, 0);
    CU_ASSERT_EQUAL(answer().status, 0);
    CU_ASSERT_EQUAL(fake.data[DISK_BYTES - 1], 0);
    still_serves();
    end();
}

static void unknown_operations_are_not_supported(void)
{
    begin();
    struct blkif_segment s = whole();
    for (unsigned op = 0; op < 256; op++) {
        if (op <= BLKIF_OP_FLUSH_DISKCACHE || op == BLKIF_OP_DISCARD || op == BLKIF_OP_INDIRECT)
            continue;
        raw_rw(&ring, (uint8_t)op, op, 0, &s, 1);
        expect_error(op, (uint8_t)op, -2);
    }
    raw_indirect(&ring, BLKIF_OP_DISCARD, 1, 0, page_ref, 1);
    expect_error(1, BLKIF_OP_DISCARD, -1);
    raw_indirect(&ring, BLKIF_OP_INDIRECT, 2, 0, page_ref, 1);
    expect_error(2, BLKIF_OP_INDIRECT, -1);
    still_serves();
    end();
}

static void bad_grants_fail_their_request_only(void)
{
    begin();
    uint8_t *other = hv_arena_alloc(world.guest, 1);
    hv_gref foreign, readonly;
    CU_ASSERT_EQUAL(hv_grant_share(world.guest, HV_DOMID_TOOLSTACK, other, false, &foreign), 0);
    CU_ASSERT_EQUAL(hv_grant_share(world.guest, ring.backend, other, true, &readonly), 0);
    hv_gref bad[] = { 0, 1, foreign, 0xffffffff, 1u << 20 };
    for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct blkif_segment s = { .gref = bad[i], .last_sect = 7 };
        raw_rw(&ring, BLKIF_OP_WRITE, i, 0, &s, 1);
        expect_error(i, BLKIF_OP_WRITE, -1);
        raw_indirect(&ring, BLKIF_OP_READ, i, 0, bad[i], 1);
        expect_error(i, BLKIF_OP_READ, -1);
    }
    struct blkif_segment s = { .gref = readonly, .last_sect = 7 };
    raw_rw(&ring, BLKIF_OP_READ, 50, 0, &s, 1); /* a read would write to it */
    CU_ASSERT_EQUAL(answer().status, -1);
    raw_rw(&ring, BLKIF_OP_WRITE, 51, 0, &s, 1);
    CU_ASSERT_EQUAL(answer().status, 0);
    struct blkif_segment two[2] = { whole(), { .gref = foreign, .last_sect = 7 } };
    raw_rw(&ring, BLKIF_OP_WRITE, 52, 0, two, 2);
    expect_error(52, BLKIF_OP_WRITE, -1);
    still_serves();
    end();
}

/* Xen has no number for it; who asks for ours gets it. */
static void a_full_store_is_told_to_who_asks(void)
{
    struct blkif_segment s;
    for (unsigned asks = 0; asks < 2; asks++) {
        attach_with(&(struct blkback_options){ 0 }, "w", BLKIF_ABI_X86_64);
        if (asks)
            raw_put(&ring, "parallax-no-space", "1");
        connect_ring();
        s = whole();
        fake.fail = -ENOSPC;
        raw_rw(&ring, BLKIF_OP_WRITE, 1, 0, &s, 1);
        CU_ASSERT_EQUAL(answer().status, asks ? -3 : -1);
        fake.fail = -EIO;
        raw_rw(&ring, BLKIF_OP_WRITE, 2, 0, &s, 1);
        CU_ASSERT_EQUAL(answer().status, -1);
        fake.fail = 0;
        still_serves();
        end();
    }
}

static void one_bad_request_in_a_batch_leaves_the_others_alone(void)
{
    begin();
    struct blkif_segment good = whole(), bad = { .gref = 0xdead, .last_sect = 7 };
    for (unsigned i = 0; i < 30; i++)
        raw_rw(&ring, BLKIF_OP_WRITE, i, i * 8, i % 3 ? &good : &bad, 1);
    raw_push(&ring);
    uint32_t seen = 0;
    for (unsigned i = 0; i < 30; i++) {
        struct raw_response rsp;
        CU_ASSERT_EQUAL_FATAL(raw_response(&ring, 5000, &rsp), 0);
        CU_ASSERT_EQUAL(rsp.status, rsp.id % 3 ? 0 : -1);
        CU_ASSERT_FALSE(seen & 1u << rsp.id);
        seen |= 1u << rsp.id;
    }
    CU_ASSERT_EQUAL(seen, (1u << 30) - 1);
    CU_ASSERT_EQUAL(world_info().errors, 10);
    end();
}

static void a_changed_page_after_the_request_changes_nothing(void)
{
    begin();
    struct blkif_segment s = whole();
    fake.hold = true;
    memset(page, 0x11, 4096);
    raw_rw(&ring, BLKIF_OP_WRITE, 1, 0, &s, 1);
    raw_push(&ring);
    CU_ASSERT(world_until(fake.in_flight == 1));
    memset(page, 0x22, 4096);
    memset(ring.slots, 0xff, ring.slot_bytes);
    fake_release();
    struct raw_response rsp;
    CU_ASSERT_EQUAL(raw_response(&ring, 5000, &rsp), 0);
    CU_ASSERT(rsp.id == 1 && rsp.op == BLKIF_OP_WRITE && rsp.status == 0);
    CU_ASSERT_EQUAL(fake.data[0], 0x11);
    CU_ASSERT_EQUAL(fake.data[4095], 0x11);
    end();
}

/* What another processor of the guest may do while the backend is at work: the requests on the ring become bad ones. */
static void spoil_slots(void)
{
    memset(ring.slots, 0x7f, (size_t)ring.size * ring.slot_bytes);
}

static void a_request_that_changes_after_it_was_taken_is_what_it_was(void)
{
    begin();
    struct blkif_segment s = whole();
    memset(page, 0x11, 4096);
    fake.submitted = spoil_slots; /* at the first of them */
    for (unsigned i = 0; i < 8; i++)
        raw_rw(&ring, BLKIF_OP_WRITE, i, 8 * i, &s, 1);
    raw_push(&ring);
    CU_ASSERT(world_until(fake.logged == 8));
    fake.submitted = NULL;
    for (unsigned i = 0; i < 8; i++) {
        struct raw_response rsp;
        CU_ASSERT_EQUAL_FATAL(raw_response(&ring, 5000, &rsp), 0);
        CU_ASSERT(rsp.id < 8 && rsp.op == BLKIF_OP_WRITE && rsp.status == 0);
        CU_ASSERT_EQUAL(fake.log_offset[i], i * 4096);
        CU_ASSERT_EQUAL(fake.data[i * 4096], 0x11);
    }
    CU_ASSERT_FALSE(fake.outside);
    still_serves();
    end();
}

static void the_guest_is_notified_when_it_asked_for_it(void)
{
    begin();
    still_serves(); /* and asks for the next response */
    struct blkif_segment s = whole();
    uint64_t before = world_info().events_sent;
    __atomic_store_n(&ring.shared->rsp_event, ring.rsp_cons + 5, __ATOMIC_SEQ_CST); /* the fifth from now */
    for (unsigned i = 0; i < 5; i++) {
        CU_ASSERT_EQUAL(world_info().events_sent, before);
        raw_rw(&ring, BLKIF_OP_WRITE, i, 8, &s, 1);
        raw_push(&ring);
        CU_ASSERT(world_until(__atomic_load_n(&ring.shared->rsp_prod, __ATOMIC_ACQUIRE) == ring.req_prod));
        ring.rsp_cons++;
    }
    CU_ASSERT_EQUAL(world_info().events_sent, before + 1);
    end();
}

static void a_busy_ring_is_looked_at_without_notifications(void)
{
    begin();
    fake.hold = true;
    struct blkif_segment s = whole();
    for (unsigned i = 0; i < 8; i++)
        raw_rw(&ring, BLKIF_OP_READ, i, i * 8, &s, 1);
    raw_push(&ring);
    CU_ASSERT(world_until(fake.in_flight == 8));
    uint32_t wish = ring.shared->req_event;
    CU_ASSERT(wish - ring.req_prod - 1 >= 1u << 31); /* it lies behind: the ninth request makes no notification */
    raw_rw(&ring, BLKIF_OP_READ, 8, 64, &s, 1);
    __atomic_store_n(&ring.shared->req_prod, ring.req_prod, __ATOMIC_SEQ_CST);
    CU_ASSERT(world_until(fake.in_flight == 9));
    fake_release();
    struct raw_response rsp;
    for (unsigned i = 0; i < 9; i++)
        CU_ASSERT(raw_response(&ring, 5000, &rsp) == 0 && rsp.status == 0);
    CU_ASSERT(world_until(ring.shared->req_event == ring.req_prod + 1)); /* and the next one does again */
    still_serves();
    end();
}

static void flush_and_barrier_keep_their_order(void)
{
    begin();
    struct blkif_segment s = whole();
    raw_rw(&ring, BLKIF_OP_FLUSH_DISKCACHE, 1, 0, &s, 0);
    CU_ASSERT_EQUAL(answer().status, 0);
    CU_ASSERT(fake.logged == 1 && fake.log[0] == IMAGE_FLUSH);
    fake.logged = 0;
    raw_rw(&ring, BLKIF_OP_FLUSH_DISKCACHE, 2, 8, &s, 1);
    CU_ASSERT_EQUAL(answer().status, 0);
    CU_ASSERT(fake.logged == 2 && fake.log[0] == IMAGE_FLUSH && fake.log[1] == IMAGE_WRITE);
    fake.logged = 0;
    for (unsigned i = 0; i < 4; i++)
        raw_rw(&ring, BLKIF_OP_WRITE, 10 + i, 0, &s, 1);
    raw_rw(&ring, BLKIF_OP_WRITE_BARRIER, 20, 0, &s, 1);
    raw_rw(&ring, BLKIF_OP_READ, 30, 0, &s, 1);
    fake.hold = true;
    raw_push(&ring);
    for (unsigned i = 0; i < 30; i++)
        world_turn();
    CU_ASSERT_EQUAL(fake.logged, 4); /* the barrier waits for the writes, and what follows for the barrier */
    fake_release();
    uint64_t order[6];
    for (unsigned i = 0; i < 6; i++) {
        struct raw_response rsp;
        CU_ASSERT_EQUAL_FATAL(raw_response(&ring, 5000, &rsp), 0);
        CU_ASSERT_EQUAL(rsp.status, 0);
        order[i] = rsp.id;
    }
    CU_ASSERT(order[4] == 20 && order[5] == 30);
    static const enum image_op expected[] = { IMAGE_WRITE, IMAGE_WRITE, IMAGE_WRITE, IMAGE_WRITE, IMAGE_FLUSH, IMAGE_WRITE, IMAGE_FLUSH, IMAGE_READ };
    CU_ASSERT(fake.logged == 8 && !memcmp(fake.log, expected, sizeof expected));
    end();
}

static void an_error_of_the_image_reaches_the_guest(void)
{
    begin();
    struct blkif_segment s = whole();
    fake.fail = -EIO;
    memset(page, 0x77, 4096);
    raw_rw(&ring, BLKIF_OP_READ, 1, 0, &s, 1);
    CU_ASSERT_EQUAL(answer().status, -1);
    CU_ASSERT_EQUAL(page[0], 0x77); /* nothing of a failed read is shown */
    raw_rw(&ring, BLKIF_OP_WRITE_BARRIER, 2, 0, &s, 1);
    fake.logged = 0;
    CU_ASSERT_EQUAL(answer().status, -1);
    CU_ASSERT_EQUAL(fake.logged, 1); /* the plan ended with its first step */
    fake.fail = 0;
    still_serves();
    end();
}

static void reads_return_partial_pages_where_asked(void)
{
    begin_with(&(struct blkback_options){ 0 }, "r", BLKIF_ABI_X86_32);
    for (unsigned i = 0; i < DISK_SECTORS; i++)
        memset(fake.data + i * 512, (int)(i % 251), 512);
    struct blkif_segment s[2] = { { .gref = page_ref, .first_sect = 6, .last_sect = 7 }, { .gref = page_ref, .first_sect = 1, .last_sect = 1 } };
    memset(page, 0xff, 4096);
    raw_rw(&ring, BLKIF_OP_READ, 1, 100, s, 2);
    struct raw_response rsp = answer();
    CU_ASSERT_EQUAL(rsp.status, 0);
    CU_ASSERT(page[6 * 512] == 100 && page[7 * 512] == 101 && page[512] == 102 && page[0] == 0xff && page[1024] == 0xff);
    raw_rw(&ring, BLKIF_OP_WRITE, 2, 0, s, 1);
    expect_error(2, BLKIF_OP_WRITE, -1);
    raw_rw(&ring, BLKIF_OP_WRITE_BARRIER, 3, 0, s, 1);
    expect_error(3, BLKIF_OP_WRITE_BARRIER, -1);
    raw_discard(&ring, 4, 0, 8, 0);
    expect_error(4, BLKIF_OP_DISCARD, -2);
    end();
}

static void break_ring_by(uint32_t req_prod)
{
    begin();
    still_serves();
    ring.req_prod = req_prod;
    raw_push(&ring);
    CU_ASSERT_EQUAL(raw_wait_backend(&ring, 5, 5000), 0);
    CU_ASSERT_EQUAL(fake.opens, fake.closes);
    CU_ASSERT(raw_release(&ring));
    raw_put(&ring, "state", "6");
    CU_ASSERT_EQUAL(raw_wait_backend(&ring, 6, 5000), 0);
    raw_put(&ring, "state", "1");
    struct blkfront *f = world_open(&(struct blkfront_options){ 0 });
    uint8_t b[512];
    CU_ASSERT_EQUAL(blkfront_read(f, 16 * 512, b, 512), 0);
    CU_ASSERT_EQUAL(b[0], 0x5a);
    blkfront_close(f);
    world_end();
}

static void a_run_away_producer_disconnects_and_may_come_back(void)
{
    break_ring_by(1 + 33);
    break_ring_by(0);
    break_ring_by(0x80000000u);
    break_ring_by(UINT32_MAX);
}

static void a_storm_of_events_costs_little(void)
{
    begin();
    for (unsigned i = 0; i < 2000; i++) {
        raw_kick(&ring);
        world_turn();
    }
    CU_ASSERT(world_info().events_received < 1500);
    still_serves();
    end();
}

static unsigned ended;

static void count_end(struct blkfront_req *req, int error)
{
    (void)req;
    CU_ASSERT_EQUAL(error, 0);
    ended++;
}

static void requests_wait_when_buffers_are_used_up(void)
{
    world_begin(&(struct blkback_options){ .buffer_bytes = 2u << 20 }, DISK_BYTES);
    world_attach();
    struct blkfront *f = world_open(&(struct blkfront_options){ .ring_order = 4, .bounce_pages = 3000 });
    enum { LENGTH = 512 << 10, COUNT = 20 };
    static uint8_t buffer[LENGTH];
    static struct blkfront_req reqs[COUNT];
    struct iovec iov = { buffer, LENGTH };
    ended = 0;
    memset(buffer, 3, sizeof buffer);
    fake.hold = true;
    for (unsigned i = 0; i < COUNT; i++) {
        reqs[i] = (struct blkfront_req){ .op = BLKFRONT_WRITE, .offset = (i % 8) * LENGTH, .length = LENGTH, .iov = &iov, .iov_count = 1, .done = count_end };
        blkfront_submit(f, &reqs[i]);
    }
    for (unsigned i = 0; i < 50; i++)
        world_turn();
    CU_ASSERT(fake.in_flight > 0 && fake.in_flight <= 4);
    fake_release();
    CU_ASSERT(world_until(ended == COUNT));
    blkfront_close(f);
    world_end();
}

/* Writes that wait, in a store that is full, as many as a ring has room for, and of a MiB each: ids 0, 1, … */
enum { WAITING = 28 };

static void fill_up(hv_gref segments)
{
    fake.hold_writes = true;
    memset(page, 0x66, 4096);
    for (unsigned i = 0; i < WAITING; i++)
        raw_indirect(&ring, BLKIF_OP_WRITE, i, 0, segments, 256);
    raw_push(&ring);
    CU_ASSERT(world_until(world_info_of(WORLD_VDEV).in_flight == WAITING));
}

static void expect_waiting_to_end(void)
{
    uint32_t seen = 0;
    for (unsigned i = 0; i < WAITING; i++) {
        struct raw_response rsp;
        CU_ASSERT_EQUAL_FATAL(raw_response(&ring, 5000, &rsp), 0);
        CU_ASSERT(rsp.status == 0 && rsp.id < WAITING && !(seen & 1u << rsp.id));
        seen |= 1u << rsp.id;
    }
    CU_ASSERT(fake.data[0] == 0x66 && fake.data[(1 << 20) - 1] == 0x66);
}

static void writes_that_wait_for_room_hold_up_nothing_else(void)
{
    begin_with(&(struct blkback_options){ .buffer_bytes = 2u << 20 }, "w", BLKIF_ABI_X86_64);
    struct raw other = attach_second();
    CU_ASSERT_EQUAL_FATAL(raw_connect(&other), 0);
    hv_gref segments;
    indirect_page(&segments);
    fill_up(segments);
    /* The same guest: what makes room, what needs none, and reads. */
    struct blkif_segment s = whole();
    raw_discard(&ring, 100, 4096, 8, 0);
    CU_ASSERT_EQUAL(answer().id, 100);
    raw_rw(&ring, BLKIF_OP_FLUSH_DISKCACHE, 101, 0, &s, 0);
    CU_ASSERT_EQUAL(answer().id, 101);
    raw_rw(&ring, BLKIF_OP_READ, 102, 0, &s, 1);
    CU_ASSERT_EQUAL(answer().id, 102);
    /* Another: reads as large as they may be. */
    struct raw first = ring;
    ring = other;
    for (unsigned i = 0; i < 100; i++) {
        raw_indirect(&ring, BLKIF_OP_READ, i, 0, segments, 256);
        struct raw_response rsp = answer();
        CU_ASSERT_FATAL(rsp.id == i && rsp.status == 0);
    }
    end_second(&ring);
    ring = first;
    CU_ASSERT_EQUAL(world_info_of(WORLD_VDEV).in_flight, WAITING);
    memset(page, 0x66, 4096); /* the reads were into it */
    fake_release();
    expect_waiting_to_end();
    still_serves();
    CU_ASSERT_EQUAL(hv_grant_unshare(world.guest, segments), 0);
    end();
}

static void writes_that_wait_are_done_by_the_next_backend(void)
{
    begin_with(&(struct blkback_options){ .buffer_bytes = 2u << 20 }, "w", BLKIF_ABI_X86_64);
    hv_gref segments;
    indirect_page(&segments);
    fill_up(segments);
    blkback_stop(world.backend, true);
    fake_release();
    world_backend_start();
    expect_waiting_to_end();
    CU_ASSERT_EQUAL(world_info().errors, 0);
    still_serves();
    CU_ASSERT_EQUAL(hv_grant_unshare(world.guest, segments), 0);
    end();
}

static void a_guest_that_leaves_may_have_writes_that_wait(void)
{
    begin_with(&(struct blkback_options){ .buffer_bytes = 2u << 20 }, "w", BLKIF_ABI_X86_64);
    hv_gref segments;
    indirect_page(&segments);
    fill_up(segments);
    raw_put(&ring, "state", "6");
    CU_ASSERT(world_until(world_info().in_flight == 1)); /* the one that had a buffer, and waits in the store */
    CU_ASSERT_EQUAL(fake.closes, 0);
    fake_release();
    CU_ASSERT_EQUAL(hv_grant_unshare(world.guest, segments), 0);
    end();
}

/* Each of the pages in turn is what a request reads or writes. */
static void use_pages(struct raw *r, uint8_t op, unsigned count, hv_gref refs[])
{
    for (unsigned i = 0; i < count; i++) {
        struct blkif_segment s = { .gref = refs[i], .last_sect = 7 };
        struct raw_response rsp = { .status = 99 };
        raw_rw(r, op, i, i * 8, &s, 1);
        raw_push(r);
        CU_ASSERT(raw_response(r, 5000, &rsp) == 0 && rsp.status == 0);
    }
}

static void pages_beyond_the_budget_are_copied(void)
{
    enum { BUDGET = 10, EACH = 8 };
    world_begin(&(struct blkback_options){ .persistent = true, .mapped_pages = BUDGET }, DISK_BYTES);
    world_attach();
    ring = world_raw(BLKIF_ABI_X86_64, 0);
    connect_mapping(&ring);
    struct raw other = attach_second();
    connect_mapping(&other);
    uint8_t *mine = hv_arena_alloc(world.guest, 2 * EACH), *theirs = mine + EACH * 4096;
    hv_gref refs[2 * EACH];
    for (unsigned i = 0; i < 2 * EACH; i++)
        CU_ASSERT_EQUAL_FATAL(hv_grant_share(world.guest, ring.backend, mine + i * 4096, false, &refs[i]), 0);
    for (unsigned i = 0; i < EACH * 4096; i++)
        mine[i] = (uint8_t)(i / 512 + 1);
    for (unsigned round = 0; round < 3; round++) {
        memset(theirs, 0, EACH * 4096);
        use_pages(&ring, BLKIF_OP_WRITE, EACH, refs);
        use_pages(&other, BLKIF_OP_READ, EACH, refs + EACH);
        CU_ASSERT_FALSE(memcmp(mine, theirs, EACH * 4096));
    }
    CU_ASSERT_EQUAL(world_info_of(WORLD_VDEV).grants_mapped, EACH);
    CU_ASSERT_EQUAL(world_info_of(WORLD_VDEV).grants_copied, 0);
    CU_ASSERT_EQUAL(world_info_of(SECOND_VDEV).grants_mapped, BUDGET - EACH);
    CU_ASSERT_EQUAL(world_info_of(SECOND_VDEV).grants_copied, 3 * (2 * EACH - BUDGET));
    for (unsigned i = BUDGET; i < 2 * EACH; i++)
        CU_ASSERT_EQUAL(hv_grant_unshare(world.guest, refs[i]), 0); /* what was copied is not held */
    /* What a ring had mapped is there for others when it has gone. */
    raw_put(&ring, "state", "6");
    CU_ASSERT_EQUAL(raw_wait_backend(&ring, 6, 5000), 0);
    CU_ASSERT(raw_release(&ring));
    use_pages(&other, BLKIF_OP_READ, EACH, refs);
    CU_ASSERT_EQUAL(world_info_of(SECOND_VDEV).grants_mapped, BUDGET);
    end_second(&other);
    for (unsigned i = 0; i < BUDGET; i++)
        CU_ASSERT_EQUAL(hv_grant_unshare(world.guest, refs[i]), 0);
    world_end();
}

static void a_bad_connection_is_refused_with_a_reason(void)
{
    static const struct { const char *name, *value; } bad[] = {
        { "ring-ref", "-1" }, { "ring-ref", "99999999999999999999" }, { "ring-ref", "" }, { "ring-ref", "0x10" }, { "ring-ref", "4294967295" },
        { "ring-ref", "0" }, { "event-channel", "no" }, { "event-channel", "4000000" }, { "event-channel", "0" }, { "event-channel", "4294967295" }, { "ring-page-order", "31" }, { "ring-page-order", "-1" }, { "ring-page-order", "4" },
        { "protocol", "vax-abi" }, { "multi-queue-num-queues", "0" }, { "multi-queue-num-queues", "1000000" }, { "multi-queue-num-queues", "4" },
        { "feature-persistent", "maybe" }, { "feature-persistent", "2" }, { "parallax-no-space", "2" }, { "num-ring-pages", "0" }, { "num-ring-pages", "3" } };
    for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++) {
        world_begin(&(struct blkback_options){ 0 }, DISK_BYTES);
        world_attach();
        struct raw r = world_raw(BLKIF_ABI_X86_64, 0);
        CU_ASSERT_EQUAL_FATAL(raw_wait_backend(&r, 2, 5000), 0);
        CU_ASSERT_EQUAL(raw_prepare(&r), 0);
        raw_put(&r, bad[i].name, "%s", bad[i].value);
        raw_put(&r, "state", "3");
        CU_ASSERT_EQUAL(raw_wait_backend(&r, 5, 5000), 0);
        char *text = toolstack_backend_node(world.xs, &world.device, "hotplug-error");
        CU_ASSERT(text && *text);
        free(text);
        CU_ASSERT(raw_release(&r));
        toolstack_remove(world.xs, &world.device);
        world_end();
    }
}

int main(int argc, char **argv)
{
    return unit_main(argc, argv, "blkback_ring", (struct unit_test[]){
        UNIT(segments_out_of_their_page_are_refused), UNIT(segments_out_of_a_mapped_page_are_refused), UNIT(segment_counts_are_bounded),
        UNIT(ranges_past_the_end_are_refused),
        UNIT(discards_are_checked_for_overflow_and_begin_anywhere), UNIT(unknown_operations_are_not_supported), UNIT(bad_grants_fail_their_request_only),
        UNIT(one_bad_request_in_a_batch_leaves_the_others_alone), UNIT(a_changed_page_after_the_request_changes_nothing),
        UNIT(flush_and_barrier_keep_their_order),
        UNIT(a_request_that_changes_after_it_was_taken_is_what_it_was), UNIT(the_guest_is_notified_when_it_asked_for_it), UNIT(a_busy_ring_is_looked_at_without_notifications), UNIT(an_error_of_the_image_reaches_the_guest), UNIT(a_full_store_is_told_to_who_asks), UNIT(reads_return_partial_pages_where_asked),
        UNIT(a_run_away_producer_disconnects_and_may_come_back), UNIT(a_storm_of_events_costs_little),
        UNIT(requests_wait_when_buffers_are_used_up), UNIT(writes_that_wait_for_room_hold_up_nothing_else),
        UNIT(writes_that_wait_are_done_by_the_next_backend), UNIT(a_guest_that_leaves_may_have_writes_that_wait),
        UNIT(pages_beyond_the_budget_are_copied), UNIT(a_bad_connection_is_refused_with_a_reason), { 0 } });
}
