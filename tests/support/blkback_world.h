/* blkback_world.h - toolstack, storage domain and one guest in one process and on one loop, for unit tests of both ends.
 *
 * Included by one test program, after blkback_fake_image.h. The embedded hypervisor is a process of its own, in a directory
 * of the test's own, and ends with it. */
#ifndef TESTS_SUPPORT_BLKBACK_WORLD_H
#define TESTS_SUPPORT_BLKBACK_WORLD_H
#include "base/clock.h"
#include "blkback/blkback.h"
#include "blkfront/blkfront.h"
#include "tests/support/blkback_fake_image.h"
#include "tests/support/blkback_raw.h"
#include "tests/support/blkback_toolstack.h"
#include "tests/support/unit.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define WORLD_VDEV 51712u
#define WORLD_ARENA_PAGES 4096u

static struct world {
    char dir[64];
    struct loop *loop;
    struct hv *toolstack, *storage, *guest;
    struct hv_xs *xs;       /* the toolstack's */
    struct hv_xs *guest_xs;
    struct hv_ports *guest_ports;
    struct blkback *backend;
    struct blkback_options options;
    struct toolstack_device device;
} world;

static inline void world_turn(void) { loop_turn(world.loop, 1); }

static inline struct hv *world_join(int kind, uint32_t arena_pages)
{
    struct error err = ERROR_NONE;
    struct hv *hv = NULL;
    struct hv_identity who = { .arena_pages = arena_pages };
    who.kind = kind;
    if (hv_open("local", &who, &hv, &err)) {
        fprintf(stderr, "%s\n", err.text);
        exit(1);
    }
    return hv;
}

static inline void world_backend_start(void)
{
    struct error err = ERROR_NONE;
    if (blkback_start(world.storage, NULL, world.loop, &world.options, &world.backend, &err)) {
        fprintf(stderr, "%s\n", err.text);
        exit(1);
    }
}

/* A world whose backend runs; nothing is attached. */
static inline void world_begin(const struct blkback_options *options, uint64_t disk_bytes)
{
    memset(&world, 0, sizeof world);
    snprintf(world.dir, sizeof world.dir, "/tmp/plx-blk-XXXXXX");
    if (!mkdtemp(world.dir) || loop_create(&world.loop))
        exit(1);
    setenv("PARALLAX_HYPERVISOR_DIR", world.dir, 1);
    fake_init(world.loop, disk_bytes);
    world.toolstack = world_join(HV_TOOLSTACK, 0);
    world.storage = world_join(HV_NAMED, 0);
    world.guest = world_join(HV_GUEST, WORLD_ARENA_PAGES);
    if (hv_xs_open(world.toolstack, &world.xs) || hv_xs_open(world.guest, &world.guest_xs) || hv_ports_open(world.guest, &world.guest_ports))
        exit(1);
    world.options = *options;
    world.options.state_dir = world.dir;
    world.device = (struct toolstack_device){ hv_own_domid(world.storage), hv_own_domid(world.guest), WORLD_VDEV, "disk", "w" };
    world_backend_start();
}

static inline void world_attach(void) { CU_ASSERT_EQUAL_FATAL(toolstack_attach(world.xs, &world.device), 0); }

#define WORLD_PATIENCE_MS 20000 /* what is waited for comes at once, on a machine that runs */

/* Turns until condition; whether it came to hold in time, which it need not do for long: an event that is late brings a device that was
 * forgotten back for a moment. */
#define world_until(condition)                                            \
    ({                                                                    \
        uint64_t until_ms = clock_monotonic_ms() + WORLD_PATIENCE_MS;     \
        bool holds;                                                       \
        while (!(holds = (condition)) && clock_monotonic_ms() < until_ms) \
            world_turn();                                                 \
        holds;                                                            \
    })

static inline struct blkfront *world_open(const struct blkfront_options *opt)
{
    struct error err = ERROR_NONE;
    struct blkfront *f = NULL;
    struct blkfront_options o = *opt;
    o.vdev = WORLD_VDEV;
    o.timeout_ms = WORLD_PATIENCE_MS;
    if (blkfront_open(world.guest, world.loop, &o, &f, &err))
        fprintf(stderr, "%s\n", err.text);
    CU_ASSERT_PTR_NOT_NULL_FATAL(f);
    return f;
}

static inline struct raw world_raw(enum blkif_abi abi, unsigned order)
{
    struct raw r = { .hv = world.guest, .xs = world.guest_xs, .ports = world.guest_ports, .backend = hv_own_domid(world.storage),
                     .vdev = WORLD_VDEV, .turn = world_turn, .abi = abi, .order = order };
    return r;
}

static inline unsigned world_state(void) { return toolstack_backend_state(world.xs, &world.device); }

/* Writes the first block of the disk through a frontend's ring; whether it was answered well and arrived. */
static inline bool world_write_block(struct raw *r, int value)
{
    uint8_t *page = hv_arena_alloc(world.guest, 1);
    struct raw_response rsp;
    struct blkif_segment s = { .last_sect = 7 };
    if (hv_grant_share(world.guest, r->backend, page, false, &s.gref))
        return false;
    memset(page, value, HV_PAGE_SIZE);
    raw_rw(r, BLKIF_OP_WRITE, 1, 0, &s, 1);
    raw_push(r);
    bool good = raw_response(r, WORLD_PATIENCE_MS, &rsp) == 0 && rsp.status == 0 && fake.data[0] == value;
    hv_grant_unshare(world.guest, s.gref);
    hv_arena_free(world.guest, page, 1);
    return good;
}

static inline int world_keep_info(void *ctx, const struct blkback_device_info *info)
{
    *(struct blkback_device_info *)ctx = *info;
    return 1;
}

static inline struct blkback_device_info world_info(void)
{
    struct blkback_device_info info = { 0 };
    blkback_each_device(world.backend, world_keep_info, &info);
    return info;
}

struct world_wanted {
    unsigned vdev;
    struct blkback_device_info info;
};

static inline int world_find_info(void *ctx, const struct blkback_device_info *info)
{
    struct world_wanted *w = ctx;
    if (info->vdev == w->vdev)
        w->info = *info;
    return info->vdev == w->vdev;
}

static inline struct blkback_device_info world_info_of(unsigned vdev)
{
    struct world_wanted w = { .vdev = vdev };
    blkback_each_device(world.backend, world_find_info, &w);
    return w.info;
}

static inline void world_end(void)
{
    if (world.backend)
        blkback_stop(world.backend, false);
    CU_ASSERT_EQUAL(fake.opens, fake.closes);
    CU_ASSERT_EQUAL(fake.in_flight, 0);
    hv_ports_close(world.guest_ports);
    hv_xs_close(world.guest_xs);
    hv_xs_close(world.xs);
    hv_close(world.guest);
    hv_close(world.storage);
    hv_close(world.toolstack);
    loop_destroy(world.loop);
    free(fake.data);
    fake.data = NULL;
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", world.dir);
    if (system(command))
        fprintf(stderr, "cannot remove %s\n", world.dir);
}
#endif
