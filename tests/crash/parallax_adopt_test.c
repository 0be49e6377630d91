/* parallax_adopt_test.c - kills and power cuts of a store whose catalog has a copy on the device; after each the store is opened
 * with its catalog, or adopted: with what the copy has, and nothing else.
 *
 * Changes are slow to reach the catalog, so that many a crash comes between the copy and it. What must hold
 * is what parallax_crash_test asks for, whichever of the two the store goes on from, in any succession. */
#include "parallax/store/catalog_copy.h"
#include "parallax/store/catalog_mirror.h"
#include "parallax/store/memory_private.h"
#include "tests/support/engine.h"
#include "tests/support/unit.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define REGION_BYTES (1u << 20)
#define SLOW_US 20000u

static char path[300];

/* The memory store's own catalog, which lives as long as that store does. */
struct borrowed {
    struct catalog catalog;
    struct catalog *real;
};

static struct borrowed lender;
static struct catalog *mirror;
static uint64_t epoch, adopted, ahead, opened;

static int scan(struct catalog *c, const char *object, uint64_t *revision,
                int (*item)(void *ctx, const void *key, size_t key_length, const void *value, size_t value_length), void *ctx)
{
    return catalog_scan(container_of(c, struct borrowed, catalog)->real, object, revision, item, ctx);
}

static int get(struct catalog *c, const char *object, const void *key, size_t key_length, void *value, size_t size, size_t *value_length)
{
    return catalog_get(container_of(c, struct borrowed, catalog)->real, object, key, key_length, value, size, value_length);
}

static void nap(void)
{
    static uint64_t random = 1;
    if (unit_random(&random) % 2)
        usleep((useconds_t)(unit_random(&random) % SLOW_US));
}

/* Slow before and after. Who dies in the second nap does not go on after it. */
static int apply(struct catalog *c, const char *object, uint64_t expected_revision, const struct catalog_change *changes, unsigned count)
{
    struct catalog *real = container_of(c, struct borrowed, catalog)->real;
    nap();
    int rc = catalog_apply(real, object, expected_revision, changes, count);
    nap();
    return rc ? rc : catalog_scan(real, object, NULL, NULL, NULL);
}

static void leave_open(struct catalog *c) { (void)c; }

static const struct catalog_ops borrowed_ops = { .scan = scan, .get = get, .apply = apply, .close = leave_open };

struct filling {
    struct catalog *catalog;
    uint64_t revision;
};

static int fill(void *ctx, const struct catalog_change *changes, unsigned count)
{
    struct filling *f = ctx;
    return catalog_apply(f->catalog, "store", f->revision++, changes, count);
}

/* The memory store gets a catalog made of the copy. */
static void adopt(struct memory *m, struct catalog_copy *copy)
{
    struct filling f = { .revision = 0 };
    if (catalog_copy_check_end(copy) || memory_catalog_create(&f.catalog) || catalog_copy_replay(copy, fill, &f))
        engine_fail("the copy cannot be adopted");
    catalog_close(m->catalog);
    m->catalog = f.catalog;
    adopted++;
}

static void opening(struct engine *e)
{
    struct memory *m = container_of(e->backing.blocks, struct memory, dev);
    struct catalog_copy *copy;
    uint64_t own = 0, copied = 0;
    if (mirror)
        catalog_close(mirror);
    bool adopts = mirror && world_chance(&e->world, 2);
    epoch += adopts;
    if (catalog_copy_open(open(path, O_RDWR | O_CLOEXEC), 0, REGION_BYTES, "a device", epoch, &copy))
        engine_fail("the copy cannot be opened");
    catalog_scan(m->catalog, "store", &own, NULL, NULL);
    if (mirror && (!catalog_copy_whole(copy, &copied) || copied < own || copied > own + 1))
        engine_fail("the copy is of revision %llu, the catalog of %llu", (unsigned long long)copied, (unsigned long long)own);
    ahead += copied == own + 1;
    if (adopts)
        adopt(m, copy);
    lender = (struct borrowed){ { &borrowed_ops }, m->catalog };
    int rc = catalog_mirror_open(&lender.catalog, copy, false, &mirror);
    if (!rc)
        rc = catalog_mirror_settle(mirror);
    if (rc || !catalog_mirror_held(mirror))
        engine_fail("the copy cannot be made equal: %d", rc);
    e->backing.catalog = mirror;
    opened++;
}

static void begin(struct engine *e, const char *test)
{
    unlink(path);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || ftruncate(fd, 2 * REGION_BYTES) < 0)
        engine_fail("no file for the copy");
    close(fd);
    mirror = NULL;
    epoch = adopted = ahead = opened = 0;
    engine_where = (struct engine_where){ test, unit_seed(), 0 };
    engine_start(e, engine_where.seed, 1ull << 30, 512);
    e->opening = opening;
    engine_reopen(e);
}

static void end(struct engine *e)
{
    engine_delete_all(e);
    engine_end(e);
    catalog_close(mirror);
    unlink(path);
    printf("# %llu crashes, opened %llu times, adopted %llu times, the copy ahead %llu times\n", (unsigned long long)e->crashes,
           (unsigned long long)opened, (unsigned long long)adopted, (unsigned long long)ahead);
    CU_ASSERT(adopted > 0);
    /* Whether a crash comes between copy and catalog is a matter of two threads' luck, on a busy machine; unit/parallax_store_copy_test makes it come. */
}

static enum content_crash random_kind(struct engine *e) { return world_chance(&e->world, 2) ? CONTENT_KILL : CONTENT_POWER_CUT; }

static void the_catalog_and_its_copy_are_both_whole_after_crashes(void)
{
    struct engine e;
    begin(&e, __func__);
    uint64_t steps = unit_number("STEPS", 4000);
    for (uint64_t n = 0; n < steps; n++) {
        engine_step(&e);
        if (world_chance(&e.world, 40))
            engine_crash(&e, random_kind(&e), (unsigned)world_random(&e.world, 3));
    }
    end(&e);
}

int main(int argc, char **argv)
{
    snprintf(path, sizeof path, "%s/parallax-adopt-test-%d", getenv("TMPDIR") ? getenv("TMPDIR") : "/var/tmp", (int)getpid());
    return unit_main(argc, argv, "parallax adopt", (struct unit_test[]){ UNIT(the_catalog_and_its_copy_are_both_whole_after_crashes), { 0 } });
}
