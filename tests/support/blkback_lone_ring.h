/* blkback_lone_ring.h - a world with one disk of 4 MiB, whose ring a test fills by hand.
 *
 * Included by one test program, in place of blkback_world.h. */
#ifndef TESTS_SUPPORT_BLKBACK_LONE_RING_H
#define TESTS_SUPPORT_BLKBACK_LONE_RING_H
#include "tests/support/blkback_world.h"

#define DISK_BYTES (4u << 20)

static struct raw ring;
static uint8_t *page; /* granted */
static hv_gref page_ref;

static inline void attach_with(const struct blkback_options *opt, const char *mode, enum blkif_abi abi)
{
    world_begin(opt, DISK_BYTES);
    world.device.mode = mode;
    world_attach();
    ring = world_raw(abi, 0);
}

static inline void connect_ring(void)
{
    CU_ASSERT_EQUAL_FATAL(raw_connect(&ring), 0);
    raw_put(&ring, "state", "4");
    page = hv_arena_alloc(world.guest, 1);
    CU_ASSERT_EQUAL_FATAL(hv_grant_share(world.guest, ring.backend, page, false, &page_ref), 0);
}

static inline void begin_with(const struct blkback_options *opt, const char *mode, enum blkif_abi abi)
{
    attach_with(opt, mode, abi);
    connect_ring();
}

static inline void begin(void) { begin_with(&(struct blkback_options){ 0 }, "w", BLKIF_ABI_X86_64); }

static inline void end(void)
{
    raw_put(&ring, "state", "6");
    CU_ASSERT_EQUAL(raw_wait_backend(&ring, 6, 5000), 0);
    CU_ASSERT(raw_release(&ring)); /* nothing of ours is mapped any more */
    CU_ASSERT_EQUAL(hv_grant_unshare(world.guest, page_ref), 0);
    world_end();
}

static inline struct raw_response answer(void)
{
    struct raw_response rsp = { .status = 99 };
    raw_push(&ring);
    CU_ASSERT_EQUAL(raw_response(&ring, 5000, &rsp), 0);
    CU_ASSERT(rsp.clean);
    return rsp;
}

static inline struct blkif_segment whole(void) { return (struct blkif_segment){ .gref = page_ref, .last_sect = 7 }; }

/* A good request still works: the ring and the disk are in order. */
static inline void still_serves(void)
{
    struct blkif_segment s = whole();
    memset(page, 0x5a, 4096);
    raw_rw(&ring, BLKIF_OP_WRITE, 4711, 16, &s, 1);
    struct raw_response rsp = answer();
    CU_ASSERT(rsp.id == 4711 && rsp.op == BLKIF_OP_WRITE && rsp.status == 0);
    CU_ASSERT_EQUAL(fake.data[16 * 512], 0x5a);
}

static inline struct blkif_segment *indirect_page(hv_gref *ref)
{
    struct blkif_segment *s = hv_arena_alloc(world.guest, 1);
    CU_ASSERT_EQUAL_FATAL(hv_grant_share(world.guest, ring.backend, s, false, ref), 0);
    for (unsigned i = 0; i < 256; i++)
        s[i] = whole();
    return s;
}
#endif
