/* parallax_clone_test.c - clones and snapshots of images whose changes are in no tree yet (consistency.md, L1). */
#include "tests/support/bare.h"
#include "tests/support/engine_fail.h"
#include "tests/support/engine_pattern.h"
#include "tests/support/rig.h"
#include "tests/support/unit.h"

#include <string.h>

#define MIB (1ull << 20)

static void start(struct rig *r, const char *test)
{
    engine_where = (struct engine_where){ test, 0, 0 };
    rig_start(r, NULL, 64 * MIB);
}

static void write_blocks(struct rig *r, const char *name, uint64_t first, uint64_t count, uint32_t version)
{
    struct image *img = rig_image(r, name, IMAGE_READ_WRITE);
    CU_ASSERT_EQUAL(rig_write(r, img, first, count, version), 0);
    image_close(img);
}

static void expect_blocks(struct rig *r, const char *target, uint64_t first, uint64_t count, uint32_t version)
{
    struct image *img = rig_image(r, target, IMAGE_READ_ONLY);
    rig_expect(r, img, first, count, version);
    image_close(img);
}

/* Each was made of the one before, and holds a piece that was written in between. */
static void a_line_of_clones_reads_what_was_written_just_before_each(void)
{
    static const char *const names[] = { "a", "b", "c", "d" };
    struct rig r;
    start(&r, __func__);
    rig_create(&r, "a", MIB);
    rig_checkpoint(&r);
    for (uint32_t i = 0; i < 4; i++) {
        if (i)
            rig_clone(&r, names[i - 1], names[i]);
        write_blocks(&r, names[i], i * 8, 8, i + 1);
        for (uint32_t k = 0; k <= i; k++)
            expect_blocks(&r, names[i], k * 8, 8, k + 1);
    }
    expect_blocks(&r, "a", 8, 24, 0);
    rig_checkpoint(&r);
    for (uint32_t k = 0; k < 4; k++)
        expect_blocks(&r, "d", k * 8, 8, k + 1);
    CU_ASSERT(rig_is_sound(&r));
    rig_end(&r);
}

static void a_snapshot_and_its_clone_do_not_see_what_was_written_after(void)
{
    struct rig r;
    start(&r, __func__);
    rig_create(&r, "a", MIB);
    write_blocks(&r, "a", 0, 8, 1);
    rig_snapshot(&r, "a@s");
    write_blocks(&r, "a", 0, 4, 2);
    rig_clone(&r, "a@s", "b");
    expect_blocks(&r, "b", 0, 8, 1);
    expect_blocks(&r, "a@s", 0, 8, 1);
    expect_blocks(&r, "a", 0, 4, 2);
    expect_blocks(&r, "a", 4, 4, 1);
    CU_ASSERT(rig_is_sound(&r));
    rig_end(&r);
}

static struct bare b;

/* A write and, behind it, a snapshot or clone of that name, all of which are held. */
static void begin_freezing(const char *target, struct bare_io *write, struct bare_run *run)
{
    bare_hold_writes(&b);
    bare_submit(&b, write, IMAGE_WRITE, 1, 1, 12);
    while (bare_writes_held(&b) < 2) /* its data and its record */
        bare_turn(&b, 1);
    bare_arm(run);
    if (strchr(target, '@'))
        snapshot_create(b.store, &run->op, &target, 1);
    else
        image_clone(b.store, &run->op, "a", target);
    while (bare_writes_held(&b) < 3)
        bare_turn(&b, 1);
}

/* A write in flight when the clone is made, or the snapshot, belongs to it: nobody reads it without. */
static void what_is_frozen_is_read_when_the_writes_before_it_are_there(void)
{
    static const char *const targets[] = { "c", "a@s" };
    for (unsigned i = 0; i < 2; i++) {
        struct image_open_options io = { .mode = IMAGE_READ_ONLY };
        struct bare_run run;
        struct bare_io write, read;
        bare_begin(&b, 64ull << 20);
        CU_ASSERT_EQUAL(bare_write(&b, 1, 1, 11), 0);
        begin_freezing(targets[i], &write, &run);
        struct image *own = b.img;
        CU_ASSERT_EQUAL_FATAL(image_open(b.store, targets[i], &io, &b.img, &b.err), 0);
        bare_submit(&b, &read, IMAGE_READ, 1, 1, 0);
        bare_turn(&b, 20);
        CU_ASSERT_EQUAL(read.error, BARE_PENDING);
        bare_release(&b);
        CU_ASSERT(bare_io_wait(&b, &read) == 0 && bare_io_wait(&b, &write) == 0);
        CU_ASSERT_EQUAL(pattern_id(read.memory, 8), 12);
        CU_ASSERT_EQUAL(bare_read(&b, 1), 12);
        CU_ASSERT_EQUAL(bare_wait(&b, &run), 0);
        bare_io_fini(&read);
        bare_io_fini(&write);
        image_close(b.img);
        b.img = own;
        bare_end(&b);
    }
}

static int note_run(void *ctx, uint64_t offset_bytes, uint64_t length_bytes, bool is_data)
{
    uint64_t *data = ctx;
    (void)offset_bytes;
    *data += is_data ? length_bytes : 0;
    return 0;
}

/* Nor does anybody learn where it holds data: who copies it leaves the rest out. */
static void what_is_frozen_is_mapped_when_the_writes_before_it_are_there(void)
{
    static const char *const targets[] = { "c", "a@s" };
    for (unsigned i = 0; i < 2; i++) {
        struct bare_run run, map;
        struct bare_io write;
        uint64_t data = 0;
        bare_begin(&b, 64ull << 20);
        begin_freezing(targets[i], &write, &run);
        bare_arm(&map);
        image_map(b.store, &map.op, targets[i], 0, 1u << 20, note_run, &data);
        bare_turn(&b, 20);
        CU_ASSERT_FALSE(map.done);
        bare_release(&b);
        CU_ASSERT_EQUAL(bare_wait(&b, &map), 0);
        CU_ASSERT_EQUAL(data, BDEV_BLOCK_SIZE);
        CU_ASSERT_EQUAL(bare_io_wait(&b, &write), 0);
        CU_ASSERT_EQUAL(bare_wait(&b, &run), 0);
        bare_io_fini(&write);
        bare_end(&b);
    }
}

int main(int argc, char **argv)
{
    return unit_main(argc, argv, "parallax clone", (struct unit_test[]){
        UNIT(a_line_of_clones_reads_what_was_written_just_before_each), UNIT(a_snapshot_and_its_clone_do_not_see_what_was_written_after), UNIT(what_is_frozen_is_read_when_the_writes_before_it_are_there),
        UNIT(what_is_frozen_is_mapped_when_the_writes_before_it_are_there), { 0 } });
}
