/* parallax_fault_test.c - the Nth I/O fails, for N = 1, 2, … until a run of the script meets no fault any more.
 *
 * The script is a short random session of one seed. Whatever an operation or request answers, error or success, the store
 * must be sound after it is opened again on a device that works: what was acknowledged is there, what failed happened wholly
 * or not at all, no block is leaked. STRIDE looks at every STRIDE-th N only. */
#include "parallax/store/memory.h"
#include "tests/support/engine.h"
#include "tests/support/unit.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SCRIPT_STEPS 400u
#define STORE_BYTES (256ull << 20)

static void run_script(struct engine *e)
{
    for (unsigned i = 0; i < SCRIPT_STEPS; i++)
        engine_step(e);
    engine_drain(e);
}

/* Ends the store as it is, opens it on a sound device, compares everything, goes on for a while and frees all. */
static void look_after(struct engine *e, enum content_crash kind)
{
    e->faulty = false;
    engine_crash(e, kind, 0);
    run_script(e);
    engine_delete_all(e);
    engine_end(e);
}

/* Whether the fault was met. */
static bool fail_nth_io(uint64_t seed, uint64_t n, int error, bool lasting, unsigned kinds)
{
    struct engine e;
    engine_start(&e, seed, STORE_BYTES, 300);
    engine_where.step = n * 1000000;
    struct memory_fault fault = { .kinds = kinds, .nth = n, .error = error, .partial = n & 1, .lasting = lasting };
    run_script(&e);
    e.faulty = true;
    memory_fail_io(&e.backing, &fault);
    run_script(&e);
    bool hit = memory_fault_hits(&e.backing) != 0;
    memory_fail_io(&e.backing, NULL);
    look_after(&e, n & 2 ? CONTENT_KILL : CONTENT_POWER_CUT);
    return hit;
}

static void fail_each(const char *test, int error, bool lasting, unsigned kinds, uint64_t usual_stride)
{
    uint64_t step = unit_number("STRIDE", usual_stride), n = 1;
    engine_where = (struct engine_where){ test, unit_seed(), 0 };
    uint64_t seed = engine_where.seed;
    n += seed % step;
    while (fail_nth_io(seed, n, error, lasting, kinds))
        n += step;
    printf("# %llu I/Os until the script met no fault\n", (unsigned long long)n);
}

static void a_failed_write_or_flush_leaves_a_sound_store(void) { fail_each(__func__, -EIO, false, MEMORY_WRITE | MEMORY_FLUSH, 60); }
static void a_device_that_fails_for_good_leaves_a_sound_store(void) { fail_each(__func__, -EIO, true, MEMORY_WRITE | MEMORY_FLUSH, 60); }
static void a_failed_read_leaves_a_sound_store(void) { fail_each(__func__, -EIO, false, MEMORY_READ, 60); }
static void a_host_without_space_leaves_a_sound_store(void) { fail_each(__func__, -ENOSPC, true, MEMORY_GROW, 1); }

static void a_failed_catalog_change_leaves_a_sound_store(void)
{
    engine_where = (struct engine_where){ __func__, unit_seed(), 0 };
    uint64_t seed = engine_where.seed, step = unit_number("STRIDE", 2), before = 0;
    for (uint64_t n = 1 + seed % step, met = n; met >= n; n += step) {
        struct engine e;
        engine_start(&e, seed, STORE_BYTES, 300);
        engine_where.step = n * 1000000;
        run_script(&e);
        e.faulty = true;
        before = memory_apply_count(&e.backing);
        memory_fail_apply(&e.backing, n, -EIO, n / step & 1);
        run_script(&e);
        met = memory_apply_count(&e.backing) - before;
        memory_fail_apply(&e.backing, 0, 0, false);
        look_after(&e, CONTENT_KILL);
    }
}

/* ---- Many writes at once, to one image ---- */

#define WRITES 96u /* of 1 MiB each: several times what the index holds, and more than the space that is there from the start */

struct outcome {
    unsigned ended, failed;
    int error; /* of one that failed */
};

static void count_end(struct image_req *req, int error)
{
    struct outcome *o = req->context;
    o->ended++;
    if (error) {
        o->failed++;
        o->error = error;
    }
}

static bool all_have_ended(struct engine *e, void *ctx)
{
    (void)e;
    return ((struct outcome *)ctx)->ended == WRITES;
}

static struct image *new_image(struct engine *e)
{
    struct engine_run run;
    struct error err = ERROR_NONE;
    struct image *img = NULL;
    engine_run_arm(&run);
    image_create(e->store, &run.op, "disk", (uint64_t)WRITES * IMAGE_REQUEST_MAX);
    if (engine_run(e, &run, "creating an image"))
        engine_fail("creating an image: %s", run.op.error.text);
    if (image_open(e->store, "disk", &(struct image_open_options){ .mode = IMAGE_READ_WRITE }, &img, &err))
        engine_fail("opening it: %s", err.text);
    return img;
}

/* Each must be answered; what is left must be sound. */
static struct outcome write_all(struct engine *e, struct image *img)
{
    struct outcome o = { 0 };
    struct image_req *reqs = engine_alloc(WRITES * sizeof *reqs);
    uint8_t *data = bdev_buffer_alloc(IMAGE_REQUEST_MAX / BDEV_BLOCK_SIZE);
    struct iovec iov = { data, IMAGE_REQUEST_MAX };
    memset(data, 0x5a, IMAGE_REQUEST_MAX);
    for (unsigned i = 0; i < WRITES; i++) {
        reqs[i] = (struct image_req){ .op = IMAGE_WRITE, .offset = (uint64_t)i * IMAGE_REQUEST_MAX, .length = IMAGE_REQUEST_MAX, .iov = &iov, .iov_count = 1,
                                      .done = count_end, .context = &o };
        image_submit(img, &reqs[i]);
    }
    engine_wait(e, all_have_ended, &o, "waiting for the writes");
    image_close(img);
    free(data);
    free(reqs);
    memory_fail_apply(&e->backing, 0, 0, false);
    memory_fail_io(&e->backing, NULL);
    engine_kill(e);
    engine_check(e);
    return o;
}

static void writes_that_wait_for_a_failing_checkpoint_are_answered(void)
{
    struct engine e;
    engine_where = (struct engine_where){ __func__, unit_seed(), 0 };
    engine_start(&e, engine_where.seed, STORE_BYTES, 1);
    struct image *img = new_image(&e);
    memory_fail_apply(&e.backing, 1, -EIO, false);
    struct outcome o = write_all(&e, img);
    if (!o.failed || o.error != -EIO)
        engine_fail("%u writes met the failed checkpoint, with error %d", o.failed, o.error);
    engine_end(&e);
}

static void writes_that_find_no_space_on_the_host_are_answered(void)
{
    struct engine e;
    engine_where = (struct engine_where){ __func__, unit_seed(), 0 };
    engine_start(&e, engine_where.seed, STORE_BYTES, 1);
    struct image *img = new_image(&e);
    memory_fail_io(&e.backing, &(struct memory_fault){ .kinds = MEMORY_GROW, .nth = 1, .error = -ENOSPC, .lasting = true });
    struct outcome o = write_all(&e, img);
    /* How many fit follows from what had been made ready before. */
    if (!o.failed || o.error != -ENOSPC)
        engine_fail("%u writes of %u found no space, with error %d", o.failed, WRITES, o.error);
    engine_end(&e);
}

int main(int argc, char **argv)
{
    static const struct unit_test tests[] = {
        UNIT(a_failed_write_or_flush_leaves_a_sound_store),
        UNIT(a_device_that_fails_for_good_leaves_a_sound_store),
        UNIT(a_failed_read_leaves_a_sound_store),
        UNIT(a_host_without_space_leaves_a_sound_store),
        UNIT(a_failed_catalog_change_leaves_a_sound_store),
        UNIT(writes_that_wait_for_a_failing_checkpoint_are_answered),
        UNIT(writes_that_find_no_space_on_the_host_are_answered),
        { 0 },
    };
    return unit_main(argc, argv, "parallax fault", tests);
}
