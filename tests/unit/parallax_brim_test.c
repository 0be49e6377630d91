/* parallax_brim_test.c - a store in which nothing more can be written goes on: whatever asks for a block of the reserve, however
 * often, leaves enough for the next checkpoint (docs/consistency.md, 15 and 17). */
#include "tests/support/bare.h"
#include "tests/support/unit.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STORE_BYTES (48ull << 20)
#define RUN 64u     /* blocks of one write */
#define FAR 200000u /* where the filling begins, in the image */

enum { LEAF = 256 };

static struct bare b;

static int run_wait(struct bare_run *run) { return bare_wait(&b, run); }

static int create(const char *name, uint64_t bytes)
{
    struct bare_run run;
    bare_arm(&run);
    image_create(b.store, &run.op, name, bytes);
    return run_wait(&run);
}

static int snapshot(const char *target)
{
    struct bare_run run;
    bare_arm(&run);
    snapshot_create(b.store, &run.op, &target, 1);
    return run_wait(&run);
}

static void open_other(const char *name)
{
    struct image_open_options io = { .mode = IMAGE_READ_WRITE };
    image_close(b.img);
    CU_ASSERT_EQUAL_FATAL(image_open(b.store, name, &io, &b.img, &b.err), 0);
}

static struct store_status status(void)
{
    struct store_status st;
    store_get_status(b.store, &st);
    return st;
}

static uint64_t free_blocks(void) { return (status().capacity_bytes - status().used_bytes) / BDEV_BLOCK_SIZE; }

/* A map of one node that is changed far behind it needs two branches. */
static void maps_that_grow_take_no_reserve(void)
{
    enum { IMAGES = 1500, LEFT = IMAGES * 6 };
    static struct image *images[IMAGES];
    static struct bare_io ios[IMAGES]; /* they go out together, or the journal would be too short */
    struct image_open_options io = { .mode = IMAGE_READ_WRITE };
    struct image *a;
    struct bare_run run, checkpoint;
    char name[32];
    uint64_t at = FAR;
    bare_begin(&b, 128ull << 20);
    CU_ASSERT_EQUAL_FATAL(create("t", 256 * 4096ull), 0);
    open_other("t");
    CU_ASSERT_EQUAL_FATAL(bare_write(&b, 0, 2, 11), 0);
    open_other("a");
    CU_ASSERT_EQUAL_FATAL(snapshot("t@s"), 0);
    bare_arm(&run);
    image_clone_many(b.store, &run.op, "t@s", "c", 0, IMAGES);
    CU_ASSERT_EQUAL_FATAL(run_wait(&run), 0);
    for (unsigned i = 0; i < IMAGES; i++) {
        snprintf(name, sizeof name, "c%u", i);
        bare_arm(&run);
        image_resize(b.store, &run.op, name, 1ull << 44, false);
        CU_ASSERT_EQUAL_FATAL(run_wait(&run), 0);
    }
    CU_ASSERT_EQUAL_FATAL(bare_write(&b, 0, 1, 13), 0);
    for (; free_blocks() > LEFT; at += RUN) {
        CU_ASSERT_EQUAL_FATAL(bare_write(&b, at, RUN, 9), 0);
        CU_ASSERT_EQUAL_FATAL(bare_checkpoint(&b), 0);
    }
    CU_ASSERT_EQUAL_FATAL(bare_write(&b, 0, 1, 13), 0);
    bare_hold_walks(&b); /* the map of "a" is read before any block is taken */
    bare_arm(&checkpoint);
    store_checkpoint(b.store, &checkpoint.op);
    for (unsigned i = 0; i < 2000 && !bare_walk_held(&b); i++)
        bare_turn(&b, 1);
    CU_ASSERT_FATAL(bare_walk_held(&b));
    a = b.img;
    for (unsigned i = 0; i < IMAGES; i++) {
        snprintf(name, sizeof name, "c%u", i);
        CU_ASSERT_EQUAL_FATAL(image_open(b.store, name, &io, &images[i], &b.err), 0);
        b.img = images[i];
        bare_submit(&b, &ios[i], IMAGE_WRITE, 1ull << 31, 1, 12);
    }
    b.img = a;
    bare_turn(&b, 1000);
    CU_ASSERT_EQUAL(ios[1000].error, 0);
    CU_ASSERT_EQUAL(ios[IMAGES - 1].error, BARE_PENDING);
    bare_release_walks(&b);
    for (unsigned i = 0; i < IMAGES; i++) {
        for (unsigned turns = 0; turns < 5000 && ios[i].error == BARE_PENDING; turns++)
            bare_turn(&b, 1);
        CU_ASSERT(ios[i].error == 0 || ios[i].error == -ENOSPC);
        bare_io_fini(&ios[i]);
        image_close(images[i]);
    }
    CU_ASSERT_EQUAL(bare_checkpoint(&b), 0);
    CU_ASSERT_EQUAL_FATAL(status().failed, 0);
    CU_ASSERT(bare_is_sound(&b));
    bare_end(&b);
}

/* A range that is discarded, with a block of each leaf written anew after it: all else that the nodes led to goes to dead lists. */
static void maps_discarded_and_written_anew_take_no_reserve(void)
{
    enum { IMAGES = 40, LEAVES = 64, BLOCKS = LEAVES * LEAF, LEFT = 4500 };
    static struct image *images[IMAGES];
    static struct bare_io discards[IMAGES], ios[IMAGES * LEAVES];
    struct image_open_options io = { .mode = IMAGE_READ_WRITE };
    struct bare_run run, checkpoint;
    struct image *a;
    char name[32];
    uint64_t at = FAR;
    unsigned written = 0;
    bare_begin(&b, 192ull << 20);
    CU_ASSERT_EQUAL_FATAL(create("t", BLOCKS * 4096ull), 0);
    open_other("t");
    for (unsigned i = 0; i < BLOCKS; i += LEAF)
        CU_ASSERT_EQUAL_FATAL(bare_write(&b, i, LEAF, 11), 0);
    open_other("a");
    CU_ASSERT_EQUAL_FATAL(snapshot("t@s"), 0);
    bare_arm(&run);
    image_clone_many(b.store, &run.op, "t@s", "c", 0, IMAGES);
    CU_ASSERT_EQUAL_FATAL(run_wait(&run), 0);
    CU_ASSERT_EQUAL_FATAL(bare_write(&b, 0, 1, 13), 0);
    for (; free_blocks() > LEFT; at += RUN) {
        CU_ASSERT_EQUAL_FATAL(bare_write(&b, at, RUN, 9), 0);
        CU_ASSERT_EQUAL_FATAL(bare_checkpoint(&b), 0);
    }
    CU_ASSERT_EQUAL_FATAL(bare_write(&b, 0, 1, 13), 0);
    bare_hold_walks(&b); /* the map of "a" is read before any block is taken */
    bare_arm(&checkpoint);
    store_checkpoint(b.store, &checkpoint.op);
    for (unsigned i = 0; i < 2000 && !bare_walk_held(&b); i++)
        bare_turn(&b, 1);
    CU_ASSERT_FATAL(bare_walk_held(&b));
    a = b.img;
    for (unsigned i = 0; i < IMAGES; i++) {
        snprintf(name, sizeof name, "c%u", i);
        CU_ASSERT_EQUAL_FATAL(image_open(b.store, name, &io, &images[i], &b.err), 0);
        b.img = images[i];
        bare_submit(&b, &discards[i], IMAGE_DISCARD, 0, BLOCKS, 0);
        for (unsigned k = 0; k < LEAVES; k++)
            bare_submit(&b, &ios[i * LEAVES + k], IMAGE_WRITE, k * LEAF + 100, 1, 12);
    }
    b.img = a;
    bare_turn(&b, 1000);
    for (unsigned i = 0; i < IMAGES * LEAVES; i++)
        written += ios[i].error == 0;
    CU_ASSERT(written > 8 * LEAVES && written < IMAGES * LEAVES);
    printf("# %u leaves\n", written);
    bare_release_walks(&b);
    for (unsigned i = 0; i < IMAGES * LEAVES; i++) {
        for (unsigned turns = 0; turns < 5000 && (ios[i].error == BARE_PENDING || discards[i / LEAVES].error == BARE_PENDING); turns++)
            bare_turn(&b, 1);
        CU_ASSERT(ios[i].error == 0 || ios[i].error == -ENOSPC);
        bare_io_fini(&ios[i]);
    }
    for (unsigned i = 0; i < IMAGES; i++)
        image_close(images[i]);
    CU_ASSERT_EQUAL(bare_checkpoint(&b), 0);
    CU_ASSERT_EQUAL_FATAL(status().failed, 0);
    CU_ASSERT(bare_is_sound(&b));
    bare_end(&b);
}

int main(int argc, char **argv)
{
    return unit_main(argc, argv, "brim", (struct unit_test[]){
        UNIT(maps_that_grow_take_no_reserve), UNIT(maps_discarded_and_written_anew_take_no_reserve), { 0 } });
}
