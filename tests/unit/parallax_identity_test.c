/* parallax_identity_test.c - identities: they stay with the image or snapshot whatever it is called, and mean nothing else when
 * it is gone. */
#include "tests/support/engine_blocks.h"
#include "tests/support/unit.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define BLOCKS 64u

static void begin(struct engine *e)
{
    engine_where = (struct engine_where){ "identity", 1, 0 };
    engine_start(e, 1, 256u << 20, 0);
}

static void make(struct engine *e, const char *name, uint64_t content)
{
    engine_must(e, image_create, name, (uint64_t)BLOCKS * BDEV_BLOCK_SIZE);
    blocks_write(e, name, 0, BLOCKS, content, 1);
}

/* From the journal alone, or from the catalog. */
static void reopen(struct engine *e, bool checkpoint)
{
    if (checkpoint)
        engine_checkpoint(e);
    engine_kill(e);
}

static int open_read(struct engine *e, const char *target, struct image **out)
{
    struct error err = ERROR_NONE;
    struct image_open_options opt = { .mode = IMAGE_READ_ONLY };
    return image_open(e->store, target, &opt, out, &err);
}

static void get_identity(struct engine *e, const char *target, char out[static IMAGE_TARGET_SIZE])
{
    struct image_info info;
    struct error err = ERROR_NONE;
    CU_ASSERT_EQUAL_FATAL(store_find(e->store, target, &info, &err), 0);
    memcpy(out, info.identity, IMAGE_TARGET_SIZE);
}

/* Whether it opens as what has this name and these contents. */
static bool is(struct engine *e, const char *identity, const char *name, uint64_t content)
{
    struct image *img;
    char text[IMAGE_TARGET_SIZE];
    if (open_read(e, identity, &img))
        return false;
    image_name(img, text);
    bool same = !strcmp(text, name) && blocks_hold(e, img, 0, content) && blocks_hold(e, img, BLOCKS - 1, content + BLOCKS - 1);
    image_identity(img, text);
    same = same && !strcmp(text, identity);
    image_close(img);
    return same;
}

static int count_data(void *ctx, uint64_t offset, uint64_t length, bool data)
{
    (void)offset;
    *(uint64_t *)ctx += data ? length : 0;
    return 0;
}

static void an_identity_outlives_names(void)
{
    struct engine e;
    struct image *open;
    const char *snap = "fs@a";
    char image[IMAGE_TARGET_SIZE], snapshot[IMAGE_TARGET_SIZE], name[IMAGE_TARGET_SIZE];
    uint64_t mapped = 0;
    begin(&e);
    make(&e, "fs", 1000);
    engine_must(&e, snapshot_create, &snap, 1);
    blocks_write(&e, "fs", 0, BLOCKS, 2000, 1);
    get_identity(&e, "fs", image);
    get_identity(&e, "fs@a", snapshot);
    CU_ASSERT_EQUAL_FATAL(open_read(&e, "fs", &open), 0);
    engine_must(&e, image_rename, "fs", "fs9");
    engine_must(&e, snapshot_rename, "fs9", "a", "b");
    image_name(open, name);
    CU_ASSERT_STRING_EQUAL(name, "fs9");
    image_close(open);
    make(&e, "fs", 3000);
    engine_must(&e, snapshot_create, &snap, 1);
    for (unsigned round = 0; round < 3; round++) {
        CU_ASSERT(is(&e, image, "fs9", 2000));
        CU_ASSERT(is(&e, snapshot, "fs9@b", 1000));
        reopen(&e, round > 0);
    }
    engine_must(&e, image_map, image, 0, (uint64_t)BLOCKS * BDEV_BLOCK_SIZE, count_data, &mapped);
    CU_ASSERT_EQUAL(mapped, BLOCKS * BDEV_BLOCK_SIZE);
    engine_check(&e);
    engine_end(&e);
}

static void an_identity_is_never_given_again(void)
{
    struct engine e;
    struct image *unused;
    const char *name = "fs", *snap = "fs@a";
    char image[IMAGE_TARGET_SIZE], snapshot[IMAGE_TARGET_SIZE], other[IMAGE_TARGET_SIZE];
    begin(&e);
    make(&e, "fs", 1000);
    engine_must(&e, snapshot_create, &snap, 1);
    get_identity(&e, "fs", image);
    get_identity(&e, "fs@a", snapshot);
    engine_must(&e, image_delete, &name, 1, true, false);
    for (unsigned round = 0; round < 4; round++) {
        reopen(&e, round % 2);
        make(&e, "fs", 5000);
        engine_must(&e, snapshot_create, &snap, 1);
        get_identity(&e, "fs", other);
        CU_ASSERT_STRING_NOT_EQUAL(image, other);
        CU_ASSERT_EQUAL(open_read(&e, image, &unused), -ENOENT);
        CU_ASSERT_EQUAL(open_read(&e, snapshot, &unused), -ENOENT);
        CU_ASSERT_EQUAL(engine_do(&e, image_map, image, 0, BDEV_BLOCK_SIZE, count_data, NULL), -ENOENT);
        engine_must(&e, image_delete, &name, 1, true, false);
    }
    engine_check(&e);
    engine_end(&e);
}

static void only_the_very_text_is_an_identity(void)
{
    struct engine e;
    struct image *unused;
    const char *snap = "fs@a", *own = "other@a";
    char image[IMAGE_TARGET_SIZE], snapshot[IMAGE_TARGET_SIZE], text[2 * IMAGE_TARGET_SIZE];
    begin(&e);
    make(&e, "fs", 1000);
    make(&e, "other", 2000);
    engine_must(&e, snapshot_create, &snap, 1);
    engine_must(&e, snapshot_create, &own, 1);
    get_identity(&e, "fs", image);
    get_identity(&e, "other@a", snapshot);
    const char *version = strrchr(snapshot, '/');
    snprintf(text, sizeof text, "%s%s", image, version); /* a snapshot of another image */
    CU_ASSERT_EQUAL(open_read(&e, text, &unused), -ENOENT);
    static const char *const tails[] = { "/", " ", "0", "/0", "@a", "/18446744073709551616" };
    for (unsigned i = 0; i < sizeof tails / sizeof *tails; i++) {
        snprintf(text, sizeof text, "%s%s", image, tails[i]);
        CU_ASSERT_EQUAL(open_read(&e, text, &unused), -ENOENT);
    }
    snprintf(text, sizeof text, "%s", image); /* of another store */
    text[3] = text[3] == '0' ? '1' : '0';
    CU_ASSERT_EQUAL(open_read(&e, text, &unused), -ENOENT);
    static const char *const others[] = { "id:", "id:/", "id:/1", "id:x/1", "id:x" };
    for (unsigned i = 0; i < sizeof others / sizeof *others; i++)
        CU_ASSERT_EQUAL(open_read(&e, others[i], &unused), -ENOENT);
    CU_ASSERT(is(&e, image, "fs", 1000));
    /* Operations go by names: what an identity says must not be taken for one of a whole image. */
    const char *target = snapshot;
    CU_ASSERT_EQUAL(engine_do(&e, image_delete, &target, 1, true, false), -ENOENT);
    engine_check(&e);
    engine_end(&e);
}

static uint32_t clones_of(struct engine *e, const char *target)
{
    struct image_info info;
    struct error err = ERROR_NONE;
    CU_ASSERT_EQUAL_FATAL(store_find(e->store, target, &info, &err), 0);
    return info.clones;
}

/* Also right after changes, removals and reopening. */
static void clones_are_known_to_what_they_come_from(void)
{
    struct engine e;
    const char *snap = "fs@a", *gone[] = { "s0", "h1", "fs2" }, *twice[] = { "s1", "s2", "s1" }, *rest[] = { "h0", "s2", "s1" };
    begin(&e);
    make(&e, "fs", 1000);
    engine_must(&e, snapshot_create, &snap, 1);
    engine_must(&e, image_clone_many, "fs@a", "s", 0, 3);
    engine_must(&e, image_clone_many, "fs", "h", 0, 2);
    engine_must(&e, image_clone, "s1", "fs2");
    for (unsigned round = 0; round < 3; round++) {
        CU_ASSERT(clones_of(&e, "fs") == 5 && clones_of(&e, "fs@a") == 3 && clones_of(&e, "s1") == 1 && clones_of(&e, "h0") == 0);
        reopen(&e, round > 0);
    }
    CU_ASSERT_EQUAL(engine_do(&e, image_delete, twice, 3, false, false), -EINVAL);
    engine_must(&e, image_delete, gone, 3, false, false);
    for (unsigned round = 0; round < 3; round++) {
        CU_ASSERT(clones_of(&e, "fs") == 3 && clones_of(&e, "fs@a") == 2 && clones_of(&e, "s1") == 0);
        reopen(&e, round > 0);
    }
    gone[0] = "fs";
    engine_must(&e, image_delete, gone, 1, true, false);
    reopen(&e, true);
    engine_must(&e, image_delete, rest, 3, false, false);
    engine_check(&e);
    engine_end(&e);
}

int main(int argc, char **argv)
{
    return unit_main(argc, argv, "parallax_identity", (struct unit_test[]){
        UNIT(an_identity_outlives_names), UNIT(an_identity_is_never_given_again), UNIT(only_the_very_text_is_an_identity),
        UNIT(clones_are_known_to_what_they_come_from), { 0 } });
}
