/* parallax_resize_test.c - a change of size beside others: what lies behind the end of an image is never seen (resize.c). */
#include "tests/support/bare.h"
#include "tests/support/engine_fail.h"
#include "tests/support/unit.h"

#include "base/bdev.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define STORE_BYTES (64ull << 20)
#define SMALL_BYTES (BDEV_BLOCK_SIZE + 512u)     /* ends inside the second block */
#define MIDDLE_BYTES (3 * BDEV_BLOCK_SIZE + 512u)
#define LARGE_BYTES (8 * BDEV_BLOCK_SIZE)
#define FLUSHES 4000u

static struct bare b;

static struct {
    bool shrinking;              /* an attempt is under way */
    bool done;                   /* one went well, or growing is over */
    unsigned shrunk;
    struct bare_run shrink, grow;
} race;

static void shrink_ended(struct store_op *op)
{
    race.shrinking = false;
    race.shrunk += !op->error.code;
    race.done |= !op->error.code;
}

/* Something else is answered: whoever waited for it asks for a smaller image now. */
static void flushed(struct image_req *req, int error)
{
    CU_ASSERT_EQUAL(error, 0);
    free(req);
    if (race.shrinking || race.done || race.grow.done)
        return;
    race.shrinking = true;
    race.shrink.op = (struct store_op){ .done = shrink_ended };
    image_resize(b.store, &race.shrink.op, "odd", SMALL_BYTES, true);
}

static void submit_flush(void)
{
    struct image_req *req = calloc(1, sizeof *req);
    if (!req)
        engine_fail("out of memory");
    *req = (struct image_req){ .op = IMAGE_FLUSH, .done = flushed };
    image_submit(b.img, req);
}

static void transfer_done(struct image_req *req, int error)
{
    *(int *)req->iov[1].iov_base = error;
    req->iov_count = 0;
}

/* The first bytes of "odd", all of them or what there is. */
static int transfer(enum image_op op, void *memory, uint64_t length)
{
    struct image_open_options io = { .mode = op == IMAGE_WRITE ? IMAGE_READ_WRITE : IMAGE_READ_ONLY };
    struct image *img;
    int error = 0;
    struct iovec iov[2] = { { memory, length }, { &error, sizeof error } };
    struct image_req req = { .op = op, .length = length, .iov = iov, .iov_count = 1, .done = transfer_done };
    CU_ASSERT_EQUAL_FATAL(image_open(b.store, "odd", &io, &img, &b.err), 0);
    for (image_submit(img, &req); req.iov_count;)
        bare_turn(&b, 1);
    image_close(img);
    return error;
}

static void make_odd(uint8_t *memory)
{
    struct bare_run run;
    bare_arm(&run);
    image_create(b.store, &run.op, "odd", MIDDLE_BYTES);
    CU_ASSERT_EQUAL_FATAL(bare_wait(&b, &run), 0);
    memset(memory, 0x5a, MIDDLE_BYTES);
    CU_ASSERT_EQUAL_FATAL(transfer(IMAGE_WRITE, memory, MIDDLE_BYTES), 0);
}

/* The end of the image is cleared before it grows; then, before it does, somebody makes it smaller. */
static void growing_shows_nothing_that_a_shrink_beside_it_left(void)
{
    uint8_t *memory = bdev_buffer_alloc(LARGE_BYTES / BDEV_BLOCK_SIZE);
    unsigned met = 0;
    for (unsigned tries = 0; tries < 20; tries++) {
        bare_begin(&b, STORE_BYTES);
        make_odd(memory);
        memset(&race, 0, sizeof race);
        bare_arm(&race.grow);
        image_resize(b.store, &race.grow.op, "odd", LARGE_BYTES, false);
        for (unsigned i = 0; i < FLUSHES && !race.grow.done; i++) {
            submit_flush();
            bare_turn(&b, 1);
        }
        CU_ASSERT_EQUAL(bare_wait(&b, &race.grow), 0);
        CU_ASSERT_EQUAL(bare_flush(&b), 0); /* all those before it are answered */
        while (race.shrinking)
            bare_turn(&b, 1);
        met += race.shrunk;
        if (!transfer(IMAGE_READ, memory, LARGE_BYTES))
            for (unsigned i = SMALL_BYTES; race.shrunk && i < LARGE_BYTES; i++)
                if (memory[i]) {
                    CU_FAIL("old bytes behind the end");
                    break;
                }
        bare_end(&b);
    }
    printf("# shrunk meanwhile: %u\n", met);
    free(memory);
}

/* A power cut could keep the record of the new size and lose the zeroes. */
static void an_image_grows_when_its_cleared_end_is_durable(void)
{
    struct image_info info;
    struct bare_run run;
    uint8_t *memory = bdev_buffer_alloc(LARGE_BYTES / BDEV_BLOCK_SIZE);
    bare_begin(&b, STORE_BYTES);
    make_odd(memory);
    bare_hold_submitted_flushes(&b);
    bare_hold_flushes(&b);
    bare_arm(&run);
    image_resize(b.store, &run.op, "odd", LARGE_BYTES, false);
    bare_turn(&b, 100);
    CU_ASSERT_EQUAL(store_find(b.store, "odd", &info, &b.err), 0);
    CU_ASSERT_EQUAL(info.size_bytes, MIDDLE_BYTES);
    bare_release(&b);
    CU_ASSERT_EQUAL(bare_wait(&b, &run), 0);
    CU_ASSERT_EQUAL(store_find(b.store, "odd", &info, &b.err), 0);
    CU_ASSERT_EQUAL(info.size_bytes, LARGE_BYTES);
    bare_end(&b);
    free(memory);
}

static void rename_image(struct bare_run *run, const char *name, const char *to)
{
    bare_arm(run);
    image_rename(b.store, &run->op, name, to);
}

/* While the end of an image is cleared its name goes to another one, whose end is not. */
static void growing_shows_nothing_of_an_image_that_gets_the_name_meanwhile(void)
{
    struct bare_run run, away, there;
    uint8_t *memory = bdev_buffer_alloc(LARGE_BYTES / BDEV_BLOCK_SIZE);
    bare_begin(&b, STORE_BYTES);
    make_odd(memory);
    bare_arm(&run);
    image_resize(b.store, &run.op, "odd", SMALL_BYTES, true);
    CU_ASSERT_EQUAL_FATAL(bare_wait(&b, &run), 0);
    bare_arm(&run);
    image_create(b.store, &run.op, "grown", SMALL_BYTES);
    CU_ASSERT_EQUAL_FATAL(bare_wait(&b, &run), 0);
    bare_hold_submitted_flushes(&b);
    bare_arm(&run);
    image_resize(b.store, &run.op, "grown", LARGE_BYTES, false);
    bare_turn(&b, 100);
    rename_image(&away, "grown", "away");
    bare_turn(&b, 20);
    rename_image(&there, "odd", "grown");
    bare_turn(&b, 20);
    bare_release(&b);
    CU_ASSERT_EQUAL(bare_wait(&b, &away), 0);
    CU_ASSERT_EQUAL(bare_wait(&b, &there), 0);
    CU_ASSERT_EQUAL(bare_wait(&b, &run), 0);
    rename_image(&away, "grown", "odd");
    CU_ASSERT_EQUAL(bare_wait(&b, &away), 0);
    CU_ASSERT_EQUAL_FATAL(transfer(IMAGE_READ, memory, LARGE_BYTES), 0);
    for (unsigned i = SMALL_BYTES; i < LARGE_BYTES; i++)
        if (memory[i]) {
            CU_FAIL("old bytes behind the end");
            break;
        }
    bare_end(&b);
    free(memory);
}

int main(int argc, char **argv)
{
    return unit_main(argc, argv, "resize", (struct unit_test[]){ UNIT(growing_shows_nothing_that_a_shrink_beside_it_left), UNIT(an_image_grows_when_its_cleared_end_is_durable),
                                                                     UNIT(growing_shows_nothing_of_an_image_that_gets_the_name_meanwhile), { 0 } });
}
