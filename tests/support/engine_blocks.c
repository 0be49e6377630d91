/* engine_blocks.c - see engine_blocks.h. */
#include "tests/support/engine_blocks.h"

#include "tests/support/unit.h"

#include <stdlib.h>
#include <string.h>

void block_fill(uint8_t *block, uint64_t content)
{
    bool twin = content & CONTENT_TWIN;
    content &= ~CONTENT_TWIN;
    uint64_t state = content * 0x9e3779b97f4a7c15u + 1;
    memset(block, 0, BDEV_BLOCK_SIZE);
    for (unsigned i = 0; content && i < BDEV_BLOCK_SIZE / 8; i++) {
        uint64_t word = unit_random(&state);
        memcpy(block + 8 * i, &word, 8);
    }
    /* The generator polynomial of crc32c, whose own checksum is zero: adding it changes no checksum. */
    uint64_t polynomial = 1 | 0x82f63b78ull << 1;
    for (unsigned i = 0; twin && i < 5; i++)
        block[100 + i] ^= (uint8_t)(polynomial >> 8 * i);
}

struct one {
    struct image_req req;
    bool done;
    int error;
};

static void one_done(struct image_req *req, int error)
{
    struct one *o = container_of(req, struct one, req);
    o->done = true;
    o->error = error;
}

static bool one_is_done(struct engine *e, void *ctx)
{
    (void)e;
    return ((struct one *)ctx)->done;
}

static struct image *open_image(struct engine *e, const char *target, enum image_mode mode)
{
    struct image_open_options opt = { .mode = mode, .holder = "the test" };
    struct error err = ERROR_NONE;
    struct image *img;
    if (image_open(e->store, target, &opt, &img, &err))
        engine_fail("opening '%s': %s", target, err.text);
    return img;
}

static void submit_bytes(struct engine *e, struct image *img, enum image_op op, uint64_t offset, uint64_t length, void *memory)
{
    struct iovec iov = { memory, length };
    struct one o = { .req = { .op = op, .offset = offset, .length = length, .iov = &iov, .iov_count = memory != NULL, .done = one_done } };
    image_submit(img, &o.req);
    engine_wait(e, one_is_done, &o, "a request");
    if (!engine_is_dead(e) && o.error)
        engine_fail("a request at offset %llu ended with %d", (unsigned long long)offset, o.error);
}

static void submit(struct engine *e, struct image *img, enum image_op op, uint64_t first, uint64_t count, void *memory)
{
    submit_bytes(e, img, op, first * BDEV_BLOCK_SIZE, count * BDEV_BLOCK_SIZE, memory);
}

void engine_write_sector(struct engine *e, struct image *img, uint64_t sector, void *bytes)
{
    submit_bytes(e, img, IMAGE_WRITE, sector * 512, 512, bytes);
}

void blocks_write_open(struct engine *e, struct image *img, uint64_t first, uint64_t count, uint64_t content, uint64_t step)
{
    for (uint64_t at = 0; at < count; at += 256) {
        uint64_t n = count - at < 256 ? count - at : 256;
        uint8_t *memory = bdev_buffer_alloc(n);
        for (uint64_t i = 0; i < n; i++)
            block_fill(memory + i * BDEV_BLOCK_SIZE, content + (at + i) * step);
        submit(e, img, IMAGE_WRITE, first + at, n, memory);
        free(memory);
    }
}

void blocks_flush(struct engine *e, struct image *img)
{
    if (e->store)
        submit_bytes(e, img, IMAGE_FLUSH, 0, 0, NULL);
}

void blocks_write(struct engine *e, const char *image, uint64_t first, uint64_t count, uint64_t content, uint64_t step)
{
    struct image *img = open_image(e, image, IMAGE_READ_WRITE);
    blocks_write_open(e, img, first, count, content, step);
    blocks_flush(e, img);
    if (e->store)
        image_close(img);
}

void blocks_discard(struct engine *e, const char *image, uint64_t first, uint64_t count)
{
    struct image *img = open_image(e, image, IMAGE_READ_WRITE);
    submit(e, img, IMAGE_DISCARD, first, count, NULL);
    blocks_flush(e, img);
    if (e->store)
        image_close(img);
}

bool blocks_hold(struct engine *e, struct image *img, uint64_t block, uint64_t content)
{
    uint8_t *memory = bdev_buffer_alloc(2);
    int err = engine_read(e, img, block * 8, 8, memory);
    block_fill(memory + BDEV_BLOCK_SIZE, content);
    bool same = !err && memcmp(memory, memory + BDEV_BLOCK_SIZE, BDEV_BLOCK_SIZE) == 0;
    free(memory);
    if (err)
        engine_fail("block %llu cannot be read: %d", (unsigned long long)block, err);
    return same;
}

void blocks_expect(struct engine *e, const char *target, uint64_t first, uint64_t count, uint64_t content, uint64_t step)
{
    struct image *img = open_image(e, target, IMAGE_READ_ONLY);
    for (uint64_t i = 0; i < count; i++)
        if (!blocks_hold(e, img, first + i, content + i * step))
            engine_fail("'%s' holds something else in block %llu than content %llu", target, (unsigned long long)(first + i), (unsigned long long)(content + i * step));
    image_close(img);
}

uint64_t blocks_find(struct engine *e, uint64_t content, uint64_t from)
{
    uint8_t *memory = bdev_buffer_alloc(2);
    uint64_t found = 0;
    block_fill(memory, content);
    for (uint64_t a = from; a < bdev_blocks(e->backing.blocks) && !found; a++)
        if (bdev_read(e->backing.blocks, a, memory + BDEV_BLOCK_SIZE, 1) == 0 && memcmp(memory, memory + BDEV_BLOCK_SIZE, BDEV_BLOCK_SIZE) == 0)
            found = a;
    free(memory);
    return found;
}

void blocks_flip(struct engine *e, uint64_t address, unsigned bit)
{
    uint8_t *memory = bdev_buffer_alloc(1);
    if (bdev_read(e->backing.blocks, address, memory, 1))
        engine_fail("the device cannot be read");
    memory[bit / 8 % BDEV_BLOCK_SIZE] ^= (uint8_t)(1u << bit % 8);
    if (bdev_write(e->backing.blocks, address, memory, 1))
        engine_fail("the device cannot be written");
    free(memory);
}

uint64_t blocks_used(struct engine *e)
{
    struct store_status status;
    do {
        engine_checkpoint(e);
        engine_checkpoint(e);
        store_get_status(e->store, &status);
    } while (status.deletions_pending);
    return status.used_bytes / BDEV_BLOCK_SIZE;
}
