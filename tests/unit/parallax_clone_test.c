/* parallax_clone_test.c - clones and snapshots of images whose changes are in no tree yet (consistency.md, L1). */
#include "tests/support/engine_fail.h"
#include "tests/support/rig.h"
#include "tests/support/unit.h"

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

int main(int argc, char **argv)
{
    return unit_main(argc, argv, "parallax clone", (struct unit_test[]){
        UNIT(a_line_of_clones_reads_what_was_written_just_before_each), UNIT(a_snapshot_and_its_clone_do_not_see_what_was_written_after), { 0 } });
}
