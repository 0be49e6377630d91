/* parallax_groups_test.c - a group snapshot is one point in time: dependent writes across several images.
 *
 * A chain writes blocks of three images in turn, each write only after the one before it was acknowledged. Whatever instant
 * a snapshot of all three shows, it must be one of the chain: if it holds a write, it holds all that came before. After
 * kill -9 the images themselves must hold the whole acknowledged chain. */
#include "tests/support/engine.h"
#include "tests/support/engine_pattern.h"
#include "tests/support/unit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define IMAGES 3u
#define PLACES 5u /* blocks of each image that the chain uses */
#define BLOCK_SECTORS 8u
#define IMAGE_BYTES (1u << 20)

struct chain {
    struct engine e;
    struct image *img[IMAGES];
    struct image_req req;
    struct iovec iov;
    uint8_t *buf;
    uint32_t submitted, acked; /* links of the chain so far */
    bool running, busy;
};

static const char *const names[IMAGES] = { "log", "data", "index" };

static uint64_t sector_of(uint32_t n) { return n / IMAGES % PLACES * 3 * BLOCK_SECTORS; }

static void next_link(struct chain *c);

static void link_done(struct image_req *req, int error)
{
    struct chain *c = container_of(req, struct chain, req);
    if (error)
        engine_fail("link %u of the chain ended with %d", c->submitted, error);
    c->acked = c->submitted;
    c->busy = false;
    next_link(c);
}

static void next_link(struct chain *c)
{
    if (!c->running || c->busy)
        return;
    uint32_t n = ++c->submitted;
    c->busy = true;
    pattern_fill(c->buf, n, sector_of(n), BLOCK_SECTORS);
    c->iov = (struct iovec){ c->buf, BLOCK_SECTORS * 512 };
    c->req = (struct image_req){ .op = IMAGE_WRITE, .offset = sector_of(n) * 512, .length = BLOCK_SECTORS * 512, .iov = &c->iov, .iov_count = 1, .done = link_done };
    image_submit(c->img[n % IMAGES], &c->req);
}

static void open_images(struct chain *c)
{
    for (unsigned i = 0; i < IMAGES; i++) {
        struct image_open_options opt = { .mode = IMAGE_READ_WRITE, .holder = "the chain" };
        struct error err = ERROR_NONE;
        if (image_open(c->e.store, names[i], &opt, &c->img[i], &err))
            engine_fail("opening '%s': %s", names[i], err.text);
    }
}

static void close_images(struct chain *c)
{
    for (unsigned i = 0; i < IMAGES; i++)
        image_close(c->img[i]);
}

/* The newest link that the state shows; fails unless it shows all before it, too. suffix: "@SNAP" or "". */
static uint32_t check_state(struct chain *c, const char *suffix)
{
    uint32_t found[IMAGES][PLACES], newest = 0;
    uint8_t *buf = NULL;
    if (posix_memalign((void **)&buf, 4096, 4096))
        engine_fail("out of memory");
    for (unsigned i = 0; i < IMAGES; i++) {
        char target[64];
        snprintf(target, sizeof target, "%s%s", names[i], suffix);
        struct image_open_options opt = { .mode = IMAGE_READ_ONLY };
        struct error err = ERROR_NONE;
        struct image *img;
        if (image_open(c->e.store, target, &opt, &img, &err))
            engine_fail("opening '%s': %s", target, err.text);
        for (unsigned p = 0; p < PLACES; p++) {
            uint64_t sector = p * 3 * BLOCK_SECTORS;
            if (engine_read(&c->e, img, sector, BLOCK_SECTORS, buf))
                engine_fail("reading '%s'", target);
            found[i][p] = pattern_id(buf, sector);
            if (found[i][p] == PATTERN_BAD)
                engine_fail("'%s' holds at sector %llu what was never written", target, (unsigned long long)sector);
            newest = found[i][p] > newest ? found[i][p] : newest;
        }
        image_close(img);
    }
    free(buf);
    for (uint32_t n = newest; n > 0 && n + IMAGES * PLACES > newest; n--)
        if (found[n % IMAGES][n / IMAGES % PLACES] != n)
            engine_fail("'%s%s' shows link %u of the chain, but '%s%s' not link %u", names[newest % IMAGES], suffix, newest, names[n % IMAGES], suffix, n);
    return newest;
}

static void take_group(struct chain *c, unsigned number)
{
    char text[IMAGES][64], suffix[32];
    const char *targets[IMAGES];
    struct engine_run run;
    snprintf(suffix, sizeof suffix, "@s%u", number);
    for (unsigned i = 0; i < IMAGES; i++) {
        snprintf(text[i], sizeof text[i], "%s%s", names[(i + number) % IMAGES], suffix);
        targets[i] = text[i];
    }
    uint32_t before = c->acked;
    engine_run_arm(&run);
    snapshot_create(c->e.store, &run.op, targets, IMAGES);
    if (engine_run(&c->e, &run, "a group snapshot"))
        engine_fail("group snapshot: %s", run.op.error.text);
    uint32_t after = c->submitted, shown = check_state(c, suffix);
    if (shown < before || shown > after)
        engine_fail("a group snapshot shows link %u; %u were acknowledged before it, %u submitted until its end", shown, before, after);
    engine_run_arm(&run);
    snapshot_delete(c->e.store, &run.op, targets, IMAGES, false);
    if (engine_run(&c->e, &run, "deleting a group"))
        engine_fail("deleting a group snapshot: %s", run.op.error.text);
}

static bool link_is_done(struct engine *e, void *ctx)
{
    (void)e;
    return !((struct chain *)ctx)->busy;
}

static void stop_chain(struct chain *c)
{
    c->running = false;
    engine_wait(&c->e, link_is_done, c, "the chain");
}

static void begin(struct chain *c, const char *test)
{
    memset(c, 0, sizeof *c);
    engine_where = (struct engine_where){ test, unit_seed(), 0 };
    engine_start(&c->e, engine_where.seed, 1ull << 30, 256);
    for (unsigned i = 0; i < IMAGES; i++) {
        struct engine_run run;
        engine_run_arm(&run);
        image_create(c->e.store, &run.op, names[i], IMAGE_BYTES);
        if (engine_run(&c->e, &run, "creating an image"))
            engine_fail("creating '%s': %s", names[i], run.op.error.text);
        world_add_image(&c->e.world, names[i], content_new(IMAGE_BYTES));
    }
    if (posix_memalign((void **)&c->buf, 4096, 4096))
        engine_fail("out of memory");
    open_images(c);
    c->running = true;
    next_link(c);
}

static void end(struct chain *c)
{
    free(c->buf);
    engine_delete_all(&c->e);
    engine_end(&c->e);
}

static void a_group_snapshot_never_shows_an_effect_without_its_cause(void)
{
    struct chain c;
    begin(&c, __func__);
    for (unsigned i = 0; i < 300; i++) {
        engine_where.step = i;
        for (uint64_t turns = world_random(&c.e.world, 20); turns; turns--)
            engine_turn(&c.e, 1);
        take_group(&c, i);
    }
    stop_chain(&c);
    if (check_state(&c, "") != c.acked)
        engine_fail("the chain ends at link %u, not %u", check_state(&c, ""), c.acked);
    close_images(&c);
    end(&c);
}

static void after_a_kill_the_acknowledged_chain_is_whole(void)
{
    struct chain c;
    begin(&c, __func__);
    for (unsigned i = 0; i < 40; i++) {
        engine_where.step = i;
        for (uint64_t turns = world_random(&c.e.world, 200); turns; turns--)
            engine_turn(&c.e, 1);
        uint32_t acked = c.acked, submitted = c.submitted;
        engine_kill(&c.e);
        uint32_t shown = check_state(&c, "");
        if (shown < acked || shown > submitted)
            engine_fail("after a kill the chain ends at link %u; %u were acknowledged, %u submitted", shown, acked, submitted);
        c.submitted = c.acked = shown;
        c.busy = false;
        open_images(&c);
        next_link(&c);
    }
    stop_chain(&c);
    close_images(&c);
    end(&c);
}

int main(int argc, char **argv)
{
    static const struct unit_test tests[] = {
        UNIT(a_group_snapshot_never_shows_an_effect_without_its_cause),
        UNIT(after_a_kill_the_acknowledged_chain_is_whole),
        { 0 },
    };
    return unit_main(argc, argv, "parallax groups", tests);
}
