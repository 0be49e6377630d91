/* parallax_usage_test.c - how much images hold: what many share is read once, and the numbers are right. */
#include "base/bdev.h"
#include "parallax/parallax_private.h"
#include "tests/support/rig.h"
#include "tests/support/engine_fail.h"
#include "tests/support/unit.h"

#include <errno.h>
#include <stdio.h>

#define CLONES 60u
#define LEAVES 40u

static struct bdev_ops counting;
static const struct bdev_ops *plain;
static uint64_t blocks_read_once;

static int count_read(struct bdev *d, uint64_t block, void *buf, uint32_t blocks)
{
    blocks_read_once += blocks;
    return plain->read(d, block, buf, blocks);
}

static int count_read_many(struct bdev *d, const uint64_t *addresses, void *const *buffers, uint32_t count)
{
    blocks_read_once += count;
    return plain->read_many(d, addresses, buffers, count);
}

/* The looks below, with the blocks that they read counted. */
static void begin_counting(struct rig *r)
{
    plain = r->store->blocks->ops;
    counting = *plain;
    counting.read = count_read;
    counting.read_many = plain->read_many ? count_read_many : NULL;
    blocks_read_once = 0;
    r->store->blocks->ops = &counting;
}

static void end_counting(struct rig *r) { r->store->blocks->ops = plain; }

static void write_one(struct rig *r, const char *name, uint64_t block)
{
    struct image *img = rig_image(r, name, IMAGE_READ_WRITE);
    CU_ASSERT_EQUAL(rig_write(r, img, block, 1, 9), 0);
    CU_ASSERT_EQUAL(rig_flush(r, img), 0);
    image_close(img);
}

/* A template of LEAVES leaves with two blocks each, and clones: every tenth changes a block and adds one. */
static void make(struct rig *r, char names[CLONES + 2][16], const char *targets[CLONES + 2])
{
    rig_start(r, NULL, 512u << 20);
    rig_create(r, "base", LEAVES * 256ull * BDEV_BLOCK_SIZE);
    struct image *img = rig_image(r, "base", IMAGE_READ_WRITE);
    for (uint64_t i = 0; i < LEAVES; i++)
        CU_ASSERT_EQUAL(rig_write(r, img, i * 256, 2, 1), 0);
    image_close(img);
    rig_snapshot(r, "base@s");
    for (unsigned i = 0; i < CLONES; i++) {
        snprintf(names[i], sizeof names[i], "c%u", i);
        rig_clone(r, "base@s", names[i]);
        targets[i] = names[i];
        if (i % 10 == 0) {
            write_one(r, names[i], i * 2 % LEAVES * 256);
            write_one(r, names[i], i * 2 % LEAVES * 256 + 7);
        }
    }
    targets[CLONES] = "base";
    targets[CLONES + 1] = "no-such-image";
    rig_checkpoint(r);
}

static void what_many_images_share_is_read_once(void)
{
    struct rig r;
    char names[CLONES + 2][16];
    const char *targets[CLONES + 2];
    struct image_usage usages[CLONES + 2], one;
    struct store_op op;
    make(&r, names, targets);
    begin_counting(&r);
    rig_arm(&op);
    image_get_usages(r.store, &op, targets, CLONES + 2, usages);
    CU_ASSERT_EQUAL(rig_run(&r, &op), 0);
    end_counting(&r);
    /* The template's nodes once, and three of each clone that has some of its own, twice: for what it holds and for what is its own. */
    CU_ASSERT(blocks_read_once <= LEAVES + 3 + CLONES / 10 * 6);
    for (unsigned i = 0; i < CLONES; i++) {
        CU_ASSERT_EQUAL(usages[i].data_bytes, (LEAVES * 2 + (i % 10 == 0)) * BDEV_BLOCK_SIZE);
        CU_ASSERT_EQUAL(usages[i].used_bytes, i % 10 ? 0 : 4 * BDEV_BLOCK_SIZE); /* two blocks, a leaf, a root */
        CU_ASSERT(!usages[i].missing);
    }
    CU_ASSERT_EQUAL(usages[CLONES].data_bytes, LEAVES * 2 * BDEV_BLOCK_SIZE);
    CU_ASSERT(usages[CLONES + 1].missing);
    for (unsigned i = 0; i <= CLONES; i += 5) {
        rig_arm(&op);
        image_get_usage(r.store, &op, targets[i], &one);
        CU_ASSERT_EQUAL(rig_run(&r, &op), 0);
        CU_ASSERT(one.data_bytes == usages[i].data_bytes && one.used_bytes == usages[i].used_bytes);
    }
    rig_arm(&op);
    image_get_usage(r.store, &op, "no-such-image", &one);
    CU_ASSERT_EQUAL(rig_run(&r, &op), -ENOENT);
    rig_end(&r);
}

int main(int argc, char **argv)
{
    return unit_main(argc, argv, "parallax usage", (struct unit_test[]){ UNIT(what_many_images_share_is_read_once), { 0 } });
}
