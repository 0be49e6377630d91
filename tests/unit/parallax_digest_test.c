/* parallax_digest_test.c - digests: what is shared is not read again, and what cannot be read is not digested. What the digest
 * is, is the matter of tests/e2e/cli_digest.test. */
#include "tests/support/engine_blocks.h"
#include "tests/support/unit.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define IMAGE_BLOCKS 2048u

static void begin(struct engine *e)
{
    engine_where = (struct engine_where){ "digest", 1, 0 };
    engine_start(e, 1, 256u << 20, 0);
    engine_must(e, image_create, "base", (uint64_t)IMAGE_BLOCKS * BDEV_BLOCK_SIZE);
    blocks_write(e, "base", 0, IMAGE_BLOCKS, 1, 1);
    engine_must(e, image_seal, "base");
}

static void a_clone_is_read_only_where_it_differs(void)
{
    struct engine e;
    struct image_digest base, clone, again;
    begin(&e);
    engine_must(&e, image_get_digest, "base", &base);
    CU_ASSERT_EQUAL(base.hashed_bytes, IMAGE_BLOCKS * BDEV_BLOCK_SIZE);
    engine_must(&e, image_clone, "base", "clone");
    engine_must(&e, image_get_digest, "clone", &clone);
    CU_ASSERT_EQUAL(memcmp(base.sha256, clone.sha256, sizeof base.sha256), 0);
    CU_ASSERT_EQUAL(clone.hashed_bytes, 0);
    blocks_write(&e, "clone", 700, 1, 99999, 1);
    engine_must(&e, image_get_digest, "clone", &clone);
    CU_ASSERT_NOT_EQUAL(memcmp(base.sha256, clone.sha256, sizeof base.sha256), 0);
    CU_ASSERT_EQUAL(clone.hashed_bytes, 256 * BDEV_BLOCK_SIZE);
    blocks_write(&e, "clone", 700, 1, 701, 1);
    engine_must(&e, image_get_digest, "clone", &again);
    CU_ASSERT_EQUAL(memcmp(base.sha256, again.sha256, sizeof base.sha256), 0);
    engine_end(&e);
}

/* What was right once may have rotted since; whoever verifies must not be told what was known then. */
static void verifying_reads_also_what_is_known(void)
{
    struct engine e;
    struct image_digest first, verified;
    begin(&e);
    engine_must(&e, image_get_digest, "base", &first);
    engine_must(&e, image_verify_digest, "base", &verified);
    CU_ASSERT_EQUAL(verified.hashed_bytes, IMAGE_BLOCKS * BDEV_BLOCK_SIZE);
    CU_ASSERT_EQUAL(memcmp(first.sha256, verified.sha256, sizeof first.sha256), 0);
    blocks_flip(&e, blocks_find(&e, 1 + 700, 0), 5);
    CU_ASSERT_EQUAL(engine_do(&e, image_verify_digest, "base", &verified), -EIO);
    engine_end(&e);
}

/* What a digest remembers belongs to a version, and must not outlive or leave it. */
static void known_subtrees_are_those_of_the_same_version(void)
{
    struct engine e;
    struct image_digest before, after, other;
    begin(&e);
    engine_must(&e, image_clone, "base", "clone");
    for (unsigned i = 0; i < 20; i++) {
        char snap[32], image[16];
        snprintf(image, sizeof image, "fresh%u", i);
        snprintf(snap, sizeof snap, "clone@s%u", i);
        blocks_write(&e, "clone", i * 100, 1, 50000 + i, 1);
        const char *target = snap;
        engine_must(&e, snapshot_create, &target, 1);
        engine_must(&e, image_get_digest, "clone", &before);
        engine_must(&e, image_get_digest, snap, &after);
        CU_ASSERT_EQUAL(memcmp(before.sha256, after.sha256, sizeof before.sha256), 0);
        if (i % 3 == 2) {
            snprintf(snap, sizeof snap, "clone@s%u", i - 1);
            engine_must(&e, snapshot_delete, &target, 1, false);
            blocks_used(&e);
        }
        /* The same content, written afresh: nothing is known of it. */
        engine_must(&e, image_create, image, (uint64_t)IMAGE_BLOCKS * BDEV_BLOCK_SIZE);
        blocks_write(&e, image, 0, IMAGE_BLOCKS, 1, 1);
        for (unsigned k = 0; k <= i; k++)
            blocks_write(&e, image, k * 100, 1, 50000 + k, 1);
        engine_must(&e, image_get_digest, image, &other);
        CU_ASSERT_EQUAL(memcmp(before.sha256, other.sha256, sizeof before.sha256), 0);
        const char *gone = image;
        engine_must(&e, image_delete, &gone, 1, true, false);
    }
    engine_end(&e);
}

/* A shrunken clone must not take its parent's digest of the subtree that its end cuts through, nor leave its own. */
static void a_size_that_cuts_a_subtree_changes_its_digest(void)
{
    struct engine e;
    struct image_digest base, small, fresh;
    begin(&e);
    engine_must(&e, image_get_digest, "base", &base);
    engine_must(&e, image_clone, "base", "small");
    engine_must(&e, image_resize, "small", 1000 * BDEV_BLOCK_SIZE + 512, true);
    engine_must(&e, image_get_digest, "small", &small);
    engine_must(&e, image_create, "fresh", 1000 * BDEV_BLOCK_SIZE + 512);
    blocks_write(&e, "fresh", 0, 1000, 1, 1);
    struct image *img;
    struct image_open_options opt = { .mode = IMAGE_READ_ONLY };
    struct error err;
    uint8_t *memory = bdev_buffer_alloc(1);
    CU_ASSERT_EQUAL_FATAL(image_open(e.store, "small", &opt, &img, &err), 0);
    CU_ASSERT_EQUAL(engine_read(&e, img, 8000, 1, memory), 0);
    image_close(img);
    opt.mode = IMAGE_READ_WRITE;
    CU_ASSERT_EQUAL_FATAL(image_open(e.store, "fresh", &opt, &img, &err), 0);
    engine_write_sector(&e, img, 8000, memory);
    image_close(img);
    free(memory);
    engine_must(&e, image_get_digest, "fresh", &fresh);
    CU_ASSERT_EQUAL(memcmp(small.sha256, fresh.sha256, sizeof small.sha256), 0);
    engine_must(&e, image_get_digest, "base", &fresh);
    CU_ASSERT_EQUAL(memcmp(base.sha256, fresh.sha256, sizeof base.sha256), 0);
    engine_end(&e);
}

static void damage_ends_it_with_an_error_only_where_it_is_used(void)
{
    struct engine e;
    struct image_digest out;
    begin(&e);
    engine_must(&e, image_clone, "base", "clean");
    blocks_write(&e, "clean", 700, 1, 4242, 1);
    engine_must(&e, store_checkpoint);
    blocks_flip(&e, blocks_find(&e, 701, 0), 12345);
    CU_ASSERT_EQUAL(engine_do(&e, image_get_digest, "base", &out), -EIO);
    CU_ASSERT_EQUAL(engine_do(&e, image_get_digest, "clean", &out), 0);
    blocks_flip(&e, blocks_find(&e, 702, 0), 1);
    CU_ASSERT_EQUAL(engine_do(&e, image_get_digest, "base", &out), -EIO);
    engine_end(&e);
}

int main(int argc, char **argv)
{
    static const struct unit_test tests[] = {
        UNIT(a_clone_is_read_only_where_it_differs), UNIT(verifying_reads_also_what_is_known),
        UNIT(known_subtrees_are_those_of_the_same_version),
        UNIT(a_size_that_cuts_a_subtree_changes_its_digest),
        UNIT(damage_ends_it_with_an_error_only_where_it_is_used),
        { 0 },
    };
    return unit_main(argc, argv, "parallax digest", tests);
}
