/* parallax_stored_test.c - where a frozen state holds data: all of it is told, in pieces, and hardly anything else, however
 * large the image is. */
#include "parallax/store/memory.h"
#include "tests/support/bare.h"
#include "tests/support/engine_blocks.h"
#include "tests/support/unit.h"

#include <errno.h>
#include <string.h>

#define ROOM 3u

/* Every piece; whether the ranges ascend, lie inside, and cover each of these blocks. Gives the bytes told. */
static uint64_t told(struct engine *e, struct image *img, const uint64_t *blocks, unsigned count)
{
    struct image_range ranges[ROOM];
    struct image_stored piece = { .ranges = ranges, .room = ROOM };
    uint64_t sum = 0, end = 0;
    unsigned covered = 0;
    do {
        struct engine_run run;
        uint64_t from = piece.next;
        engine_run_arm(&run);
        image_get_stored(img, &run.op, &piece);
        CU_ASSERT_EQUAL_FATAL(engine_run(e, &run, "image_get_stored"), 0);
        CU_ASSERT_FATAL(piece.count <= ROOM && piece.next > from);
        for (uint32_t i = 0; i < piece.count; i++) {
            CU_ASSERT(ranges[i].offset >= end && ranges[i].length && ranges[i].length % IMAGE_SECTOR == 0);
            end = ranges[i].offset + ranges[i].length;
            CU_ASSERT(end <= image_size(img) && end <= piece.next);
            sum += ranges[i].length;
            for (unsigned k = 0; k < count; k++)
                covered += blocks[k] * BDEV_BLOCK_SIZE >= ranges[i].offset && blocks[k] * BDEV_BLOCK_SIZE < end;
        }
    } while (piece.next < image_size(img));
    CU_ASSERT_EQUAL(piece.next, image_size(img));
    CU_ASSERT_EQUAL(covered, count);
    return sum;
}

static struct image *open_frozen(struct engine *e, const char *name)
{
    struct engine_run run;
    engine_run_arm(&run);
    image_open_frozen(e->store, &run.op, name);
    CU_ASSERT_EQUAL_FATAL(engine_run(e, &run, "image_open_frozen"), 0);
    return run.op.image;
}

static void all_data_are_told_in_pieces_and_no_holes(void)
{
    struct engine e;
    uint64_t size = (16ull << 40) - 3 * IMAGE_SECTOR, blocks[40]; /* the last block is not whole */
    engine_where = (struct engine_where){ "stored", 1, 0 };
    engine_start(&e, 1, 256u << 20, 0);
    engine_must(&e, image_create, "wide", size);
    for (unsigned i = 0; i < 40; i++) {
        blocks[i] = i < 39 ? i * (size / BDEV_BLOCK_SIZE / 40) + i : size / BDEV_BLOCK_SIZE - 1;
        blocks_write(&e, "wide", blocks[i], 1, 100 + i, 1);
    }
    struct image *img = open_frozen(&e, "wide");
    blocks_write(&e, "wide", 12345, 1, 7, 1);
    blocks_discard(&e, "wide", blocks[5], 1);
    CU_ASSERT_EQUAL(told(&e, img, blocks, 40), 40 * BDEV_BLOCK_SIZE);
    CU_ASSERT_EQUAL(told(&e, img, blocks, 40), 40 * BDEV_BLOCK_SIZE);
    CU_ASSERT(blocks_hold(&e, img, blocks[5], 105));
    image_close(img);
    struct image_open_options opt = { .mode = IMAGE_READ_ONLY };
    engine_must(&e, image_seal, "wide");
    CU_ASSERT_EQUAL_FATAL(image_open(e.store, "wide", &opt, &img, NULL), 0);
    blocks[5] = 12345;
    CU_ASSERT_EQUAL(told(&e, img, blocks, 40), 40 * BDEV_BLOCK_SIZE);
    image_close(img);
    engine_end(&e);
}

static void a_range_ends_with_an_image_that_ends_inside_a_block(void)
{
    struct engine e;
    const uint64_t blocks[] = { 0, 9 };
    engine_where = (struct engine_where){ "stored", 2, 0 };
    engine_start(&e, 1, 256u << 20, 0);
    engine_must(&e, image_create, "odd", 10 * BDEV_BLOCK_SIZE);
    blocks_write(&e, "odd", 0, 10, 50, 1);
    engine_must(&e, image_resize, "odd", 9 * BDEV_BLOCK_SIZE + IMAGE_SECTOR, true);
    struct image *img = open_frozen(&e, "odd");
    CU_ASSERT_EQUAL(told(&e, img, blocks, 2), 9 * BDEV_BLOCK_SIZE + IMAGE_SECTOR);
    image_close(img);
    engine_must(&e, image_create, "empty", 1ull << 40);
    img = open_frozen(&e, "empty");
    CU_ASSERT_EQUAL(told(&e, img, NULL, 0), 0);
    image_close(img);
    engine_end(&e);
}

/* What is not in a tree yet will not be: the store makes no more checkpoints. */
static void a_store_that_has_failed_answers(void)
{
    struct bare b;
    struct bare_run run;
    struct image *img;
    struct image_open_options io = { .mode = IMAGE_READ_ONLY };
    struct image_range range;
    struct image_stored piece = { .ranges = &range, .room = 1 };
    bare_begin(&b, 48u << 20);
    CU_ASSERT_EQUAL_FATAL(bare_write(&b, 0, 10, 11), 0);
    CU_ASSERT_EQUAL_FATAL(bare_snapshot(&b, "a@s"), 0);
    memory_fail_io(&b.backing, &(struct memory_fault){ .kinds = MEMORY_WRITE, .nth = 1, .error = -EIO, .lasting = true });
    CU_ASSERT_EQUAL(bare_write(&b, 0, 1, 12), -EIO);
    bare_turn(&b, 20);
    CU_ASSERT_EQUAL_FATAL(image_open(b.store, "a@s", &io, &img, &b.err), 0);
    bare_arm(&run);
    image_get_stored(img, &run.op, &piece);
    for (unsigned turns = 0; turns < 2000 && !run.done; turns++)
        bare_turn(&b, 1);
    CU_ASSERT(run.done);
    CU_ASSERT_EQUAL(run.op.error.code, -EIO);
    image_close(img);
    bare_kill(&b);
    bare_end(&b);
}

int main(int argc, char **argv)
{
    return unit_main(argc, argv, "parallax stored", (struct unit_test[]){
        UNIT(all_data_are_told_in_pieces_and_no_holes),
        UNIT(a_range_ends_with_an_image_that_ends_inside_a_block),
        UNIT(a_store_that_has_failed_answers),
        { 0 },
    });
}
