/* parallax_dedup_test.c - sharing by content, against an oracle of contents: what is shared reads the same, costs its map only,
 * survives crashes at any write, and comes back to the last block in whatever order images, snapshots and templates go.
 * SEED repeats a run (up to the timing of threads); STEPS sets its length. */
#include "parallax/store/memory.h"
#include "tests/support/engine_blocks.h"
#include "tests/support/unit.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BLOCKS 700u /* of each image: three leaves */

static void begin(struct engine *e, const char *test, uint64_t seed, uint64_t bytes, uint32_t index_entries)
{
    engine_where = (struct engine_where){ test, seed, 0 };
    engine_start(e, seed, bytes, index_entries);
}

static void create(struct engine *e, const char *name) { engine_must(e, image_create, name, (uint64_t)BLOCKS * BDEV_BLOCK_SIZE); }

static void delete(struct engine *e, const char *name)
{
    const char *names[] = { name };
    engine_must(e, image_delete, names, 1, true, false);
}

/* Data blocks only: less than a leaf's worth of nodes does not matter. */
static void expect_growth(struct engine *e, uint64_t *before, int64_t data_blocks, unsigned slack, const char *what)
{
    uint64_t now = blocks_used(e);
    int64_t more = (int64_t)(now - *before);
    if (more < data_blocks - (int64_t)slack || more > data_blocks + (int64_t)slack)
        engine_fail("%s: %lld blocks more are used, not %lld", what, (long long)more, (long long)data_blocks);
    *before = now;
}

static void import(struct engine *e, const char *name, uint64_t content, bool seal)
{
    struct engine_run run;
    engine_run_arm(&run);
    image_import_begin(e->store, &run.op, (uint64_t)BLOCKS * BDEV_BLOCK_SIZE);
    if (engine_run(e, &run, "beginning an import"))
        engine_fail("beginning an import: %s", run.op.error.text);
    struct image *img = run.op.image;
    blocks_write_open(e, img, 0, BLOCKS, content, 1);
    engine_run_arm(&run);
    image_import_finish(img, &run.op, name, seal);
    if (engine_run(e, &run, "finishing an import"))
        engine_fail("finishing an import: %s", run.op.error.text);
    image_close(img);
}

static void an_import_shares_what_a_template_holds(void)
{
    struct engine e;
    begin(&e, __func__, 1, 256u << 20, 0);
    uint64_t used = blocks_used(&e), empty = used;
    import(&e, "first", 1000, true);
    expect_growth(&e, &used, BLOCKS, 8, "the first import");
    import(&e, "second", 1100, true); /* 600 of its blocks are there, 100 blocks further on */
    expect_growth(&e, &used, 100, 8, "the second import");
    import(&e, "third", 1000, false);
    expect_growth(&e, &used, 0, 8, "the third import");
    for (unsigned i = 0; i < 2; i++) {
        blocks_expect(&e, "first", 0, BLOCKS, 1000, 1);
        blocks_expect(&e, "second", 0, BLOCKS, 1100, 1);
        blocks_expect(&e, "third", 0, BLOCKS, 1000, 1);
        engine_check(&e);
        engine_kill(&e);
    }
    delete(&e, "first");
    expect_growth(&e, &used, 0, 8, "deleting the first, all of which is shared");
    blocks_expect(&e, "second", 0, BLOCKS, 1100, 1);
    blocks_expect(&e, "third", 0, BLOCKS, 1000, 1);
    delete(&e, "third");
    expect_growth(&e, &used, -100, 8, "deleting the third");
    blocks_expect(&e, "second", 0, BLOCKS, 1100, 1);
    engine_check(&e);
    delete(&e, "second");
    expect_growth(&e, &used, -(int64_t)BLOCKS, 8, "deleting the last");
    CU_ASSERT_EQUAL(used, empty);
    engine_check(&e);
    engine_end(&e);
}

static void dedup_of_a_running_image_shares_its_own_blocks(void)
{
    struct engine e;
    struct image_dedup out;
    begin(&e, __func__, 2, 256u << 20, 0);
    create(&e, "golden");
    blocks_write(&e, "golden", 0, BLOCKS, 5000, 1);
    engine_must(&e, image_seal, "golden");
    create(&e, "vm");
    blocks_write(&e, "vm", 0, 300, 5200, 1);
    blocks_write(&e, "vm", 300, 100, 9000, 1);
    uint64_t used = blocks_used(&e);
    engine_must(&e, image_dedup, "vm", &out);
    CU_ASSERT_EQUAL(out.shared_bytes, 300 * BDEV_BLOCK_SIZE);
    CU_ASSERT_EQUAL(out.examined_bytes, 400 * BDEV_BLOCK_SIZE);
    expect_growth(&e, &used, -300, 4, "sharing 300 blocks");
    blocks_expect(&e, "vm", 0, 300, 5200, 1);
    blocks_expect(&e, "vm", 300, 100, 9000, 1);
    /* Again: nothing is left to do. */
    engine_must(&e, image_dedup, "vm", &out);
    CU_ASSERT_EQUAL(out.shared_bytes, 0);
    /* Overwriting gives a reference back, and the golden image stays as it is. */
    blocks_write(&e, "vm", 0, 300, 7000, 1);
    expect_growth(&e, &used, 300, 4, "overwriting shared blocks");
    blocks_expect(&e, "golden", 0, BLOCKS, 5000, 1);
    engine_check(&e);
    delete(&e, "golden");
    blocks_discard(&e, "vm", 0, BLOCKS);
    delete(&e, "vm");
    blocks_used(&e);
    engine_check(&e);
    engine_end(&e);
}

static void dedup_of_a_sealed_image_moves_its_name_to_a_copy(void)
{
    struct engine e;
    struct image_dedup out;
    begin(&e, __func__, 3, 256u << 20, 0);
    uint64_t empty = blocks_used(&e);
    create(&e, "one");
    blocks_write(&e, "one", 0, BLOCKS, 5000, 1);
    create(&e, "two");
    blocks_write(&e, "two", 0, 500, 5100, 1);
    blocks_write(&e, "two", 500, 200, 6000, 0); /* 200 times the same */
    engine_must(&e, image_seal, "one");
    engine_must(&e, image_seal, "two");
    uint64_t used = blocks_used(&e);
    engine_must(&e, image_dedup, "two", &out);
    CU_ASSERT_EQUAL(out.shared_bytes, (500 + 199) * BDEV_BLOCK_SIZE);
    expect_growth(&e, &used, -699, 6, "sharing all but one block");
    blocks_expect(&e, "two", 0, 500, 5100, 1);
    blocks_expect(&e, "two", 500, 200, 6000, 0);
    engine_must(&e, image_dedup, "two", &out);
    CU_ASSERT_EQUAL(out.shared_bytes, 0);
    engine_must(&e, image_clone, "two", "clone");
    blocks_expect(&e, "clone", 0, 500, 5100, 1);
    delete(&e, "two");
    delete(&e, "one");
    blocks_expect(&e, "clone", 500, 200, 6000, 0);
    engine_check(&e);
    engine_kill(&e);
    engine_check(&e);
    delete(&e, "clone");
    CU_ASSERT_EQUAL(blocks_used(&e), empty);
    engine_end(&e);
}

/* Each block of "two" has the checksum of one of "one", and other bytes. */
static void equal_checksums_are_no_proof(void)
{
    struct engine e;
    struct image_dedup out;
    begin(&e, __func__, 4, 256u << 20, 0);
    create(&e, "one");
    blocks_write(&e, "one", 0, BLOCKS, 1, 1);
    engine_must(&e, image_seal, "one");
    create(&e, "two");
    blocks_write(&e, "two", 0, BLOCKS, CONTENT_TWIN | 1, 1);
    engine_must(&e, image_dedup, "two", &out);
    CU_ASSERT_EQUAL(out.examined_bytes, BLOCKS * BDEV_BLOCK_SIZE);
    CU_ASSERT_EQUAL(out.shared_bytes, 0);
    blocks_expect(&e, "two", 0, BLOCKS, CONTENT_TWIN | 1, 1);
    /* Among several with one checksum the right one is found. */
    create(&e, "three");
    blocks_write(&e, "three", 0, BLOCKS, CONTENT_TWIN | 1, 1);
    engine_must(&e, image_seal, "two");
    engine_must(&e, image_dedup, "three", &out);
    CU_ASSERT_EQUAL(out.shared_bytes, BLOCKS * BDEV_BLOCK_SIZE);
    blocks_expect(&e, "three", 0, BLOCKS, CONTENT_TWIN | 1, 1);
    engine_check(&e);
    engine_end(&e);
}

/* ---- At random ---- */

#define DISKS 7u
#define SNAPS 3u
#define UNIVERSE 60u /* contents: few, so that most blocks have equals */
#define WRITES 6u    /* beside a dedup */

struct disk {
    char name[32];
    bool there, sealed;
    uint64_t content[BLOCKS];
    struct { char name[32]; uint64_t content[BLOCKS]; } snaps[SNAPS];
    unsigned snap_count;
};

struct model {
    struct engine e;
    struct disk disks[DISKS];
    unsigned names;
    uint64_t crashes, shared, finished;
};

static uint64_t chance(struct model *m, uint64_t below) { return world_random(&m->e.world, below); }

static struct disk *pick(struct model *m, bool there)
{
    for (unsigned i = 0, at = (unsigned)chance(m, DISKS); i < DISKS; i++)
        if (m->disks[(at + i) % DISKS].there == there)
            return &m->disks[(at + i) % DISKS];
    return NULL;
}

static void random_content(struct model *m, uint64_t content[BLOCKS])
{
    for (unsigned i = 0; i < BLOCKS;) {
        unsigned n = 1 + (unsigned)chance(m, 90);
        uint64_t first = chance(m, UNIVERSE), step = chance(m, 3) ? 1 : 0, twin = chance(m, 6) ? 0 : CONTENT_TWIN;
        for (; n-- && i < BLOCKS; first += step)
            content[i++] = first % UNIVERSE ? first % UNIVERSE | twin : 0;
    }
}

static void write_content(struct model *m, struct image *img, const uint64_t content[BLOCKS])
{
    for (unsigned i = 0, n; i < BLOCKS && m->e.store; i += n) {
        for (n = 1; i + n < BLOCKS && content[i + n] == content[i];)
            n++;
        blocks_write_open(&m->e, img, i, n, content[i], 0);
    }
}

static void compare_content(struct model *m, const char *target, const uint64_t *content)
{
    struct image_open_options opt = { .mode = IMAGE_READ_ONLY };
    struct error err = ERROR_NONE;
    struct image *img;
    if (image_open(m->e.store, target, &opt, &img, &err))
        engine_fail("opening '%s': %s", target, err.text);
    for (unsigned i = 0; i < BLOCKS; i++)
        if (!blocks_hold(&m->e, img, i, content[i]))
            engine_fail("'%s' holds something else in block %u than content %llx", target, i, (unsigned long long)content[i]);
    image_close(img);
}

static void compare_all(struct model *m)
{
    char target[80];
    for (unsigned i = 0; i < DISKS; i++) {
        const struct disk *d = &m->disks[i];
        if (!d->there)
            continue;
        compare_content(m, d->name, d->content);
        for (unsigned k = 0; k < d->snap_count; k++) {
            snprintf(target, sizeof target, "%s@%s", d->name, d->snaps[k].name);
            compare_content(m, target, d->snaps[k].content);
        }
    }
    engine_check(&m->e);
}

static bool exists(struct model *m, const char *target)
{
    struct image_info info;
    return store_find(m->e.store, target, &info, NULL) == 0;
}

/* The store comes back if an armed crash took it away; whether it did. */
static bool crashed(struct model *m)
{
    if (m->e.store) {
        engine_arm_crash(&m->e, CONTENT_KILL, ENGINE_NEVER);
        return false;
    }
    engine_kill(&m->e);
    m->crashes++;
    return true;
}

static void maybe_arm(struct model *m)
{
    if (chance(m, 3) == 0)
        engine_arm_crash(&m->e, chance(m, 2) ? CONTENT_KILL : CONTENT_POWER_CUT, chance(m, 1ull << chance(m, 8)));
}

static void random_import(struct model *m)
{
    struct disk *d = pick(m, false);
    struct engine_run run;
    if (!d)
        return;
    memset(d, 0, sizeof *d);
    snprintf(d->name, sizeof d->name, "disk%u", m->names++);
    random_content(m, d->content);
    d->sealed = chance(m, 2);
    engine_run_arm(&run);
    image_import_begin(m->e.store, &run.op, (uint64_t)BLOCKS * BDEV_BLOCK_SIZE);
    if (engine_run(&m->e, &run, "beginning an import"))
        engine_fail("beginning an import: %s", run.op.error.text);
    struct image *img = run.op.image;
    write_content(m, img, d->content);
    maybe_arm(m);
    engine_run_arm(&run);
    image_import_finish(img, &run.op, d->name, d->sealed);
    int err = engine_run(&m->e, &run, "finishing an import");
    if (err && m->e.store && !engine_is_dead(&m->e))
        engine_fail("finishing an import: %s", run.op.error.text);
    if (m->e.store)
        image_close(img);
    d->there = !crashed(m) || exists(m, d->name);
}

static void random_write(struct model *m)
{
    struct disk *d = pick(m, true);
    if (!d || d->sealed)
        return;
    unsigned first = (unsigned)chance(m, BLOCKS), count = 1 + (unsigned)chance(m, BLOCKS - first);
    uint64_t content = chance(m, UNIVERSE), step = 0;
    if (chance(m, 4) == 0)
        blocks_discard(&m->e, d->name, first, count), content = 0;
    else
        blocks_write(&m->e, d->name, first, count, content, step);
    for (unsigned i = 0; i < count; i++)
        d->content[first + i] = content;
}

static void random_snapshot(struct model *m)
{
    struct disk *d = pick(m, true);
    char target[80];
    const char *targets[] = { target };
    if (!d || d->sealed || d->snap_count == SNAPS)
        return;
    snprintf(d->snaps[d->snap_count].name, 32, "s%u", m->names++);
    snprintf(target, sizeof target, "%s@%s", d->name, d->snaps[d->snap_count].name);
    memcpy(d->snaps[d->snap_count].content, d->content, sizeof d->content);
    maybe_arm(m);
    engine_do(&m->e, snapshot_create, targets, 1);
    if (!crashed(m) || exists(m, target))
        d->snap_count++;
}

static void forget_snapshot(struct disk *d, unsigned k) { memmove(&d->snaps[k], &d->snaps[k + 1], (--d->snap_count - k) * sizeof d->snaps[0]); }

static void random_unsnapshot(struct model *m, bool rollback)
{
    struct disk *d = pick(m, true);
    char target[80];
    const char *targets[] = { target };
    if (!d || !d->snap_count)
        return;
    unsigned k = (unsigned)chance(m, d->snap_count);
    snprintf(target, sizeof target, "%s@%s", d->name, d->snaps[k].name);
    if (rollback && !d->sealed) {
        engine_must(&m->e, snapshot_rollback, target, NULL);
        memcpy(d->content, d->snaps[k].content, sizeof d->content);
        return;
    }
    maybe_arm(m);
    engine_do(&m->e, snapshot_delete, targets, 1, false);
    if (!crashed(m) || !exists(m, target))
        forget_snapshot(d, k);
}

static void random_delete(struct model *m)
{
    struct disk *d = pick(m, true);
    if (!d)
        return;
    const char *names[] = { d->name };
    maybe_arm(m);
    engine_do(&m->e, image_delete, names, 1, true, false);
    d->there = crashed(m) && exists(m, d->name);
}

static void random_clone(struct model *m)
{
    struct disk *from = pick(m, true), *d = pick(m, false);
    if (!from || !d)
        return;
    memset(d, 0, sizeof *d);
    snprintf(d->name, sizeof d->name, "clone%u", m->names++);
    memcpy(d->content, from->content, sizeof d->content);
    engine_must(&m->e, image_clone, from->name, d->name);
    d->there = true;
}

static void random_seal(struct model *m)
{
    struct disk *d = pick(m, true);
    if (!d || d->sealed)
        return;
    engine_must(&m->e, image_seal, d->name);
    d->sealed = true;
}

/* ---- A dedup, with a guest that writes meanwhile ---- */

struct guest {
    struct image_req req[WRITES];
    struct iovec iov[WRITES];
    uint8_t *memory[WRITES];
    uint64_t block[WRITES], content[WRITES];
    unsigned begun, ended;
    int error;
};

static void guest_done(struct image_req *req, int error)
{
    struct guest *g = req->context;
    g->ended++;
    if (error)
        g->error = error;
}

static void guest_write(struct model *m, struct guest *g, struct image *img)
{
    unsigned i = g->begun++;
    g->block[i] = chance(m, BLOCKS);
    for (unsigned k = 0; k < i;) {
        bool twice = g->block[k] == g->block[i];
        g->block[i] = (g->block[i] + twice) % BLOCKS;
        k = twice ? 0 : k + 1;
    }
    g->content[i] = chance(m, UNIVERSE);
    g->memory[i] = bdev_buffer_alloc(1);
    block_fill(g->memory[i], g->content[i]);
    g->iov[i] = (struct iovec){ g->memory[i], BDEV_BLOCK_SIZE };
    g->req[i] = (struct image_req){ .op = IMAGE_WRITE, .offset = g->block[i] * BDEV_BLOCK_SIZE, .length = BDEV_BLOCK_SIZE, .iov = &g->iov[i], .iov_count = 1,
                                    .done = guest_done, .context = g };
    image_submit(img, &g->req[i]);
}

struct wanted {
    struct engine_run *run;
    struct guest *guest;
};

static bool both_ended(struct engine *e, void *ctx)
{
    struct wanted *w = ctx;
    (void)e;
    return w->run->done && w->guest->ended == w->guest->begun;
}

/* After a crash each write beside has happened or not. */
static void settle(struct model *m, struct disk *d, struct guest *g, bool maybe)
{
    struct image_open_options opt = { .mode = IMAGE_READ_ONLY };
    struct image *img = NULL;
    if (maybe && image_open(m->e.store, d->name, &opt, &img, NULL))
        engine_fail("'%s' has gone", d->name);
    for (unsigned i = 0; i < g->begun; i++) {
        if (!maybe || blocks_hold(&m->e, img, g->block[i], g->content[i]))
            d->content[g->block[i]] = g->content[i];
        free(g->memory[i]);
    }
    if (img)
        image_close(img);
}

static void random_dedup(struct model *m)
{
    struct disk *d = pick(m, true);
    struct guest g = { 0 };
    struct image_dedup out = { 0 };
    struct engine_run run;
    struct image *img = NULL;
    struct image_open_options opt = { .mode = IMAGE_READ_WRITE, .holder = "guest" };
    if (!d)
        return;
    if (!d->sealed && image_open(m->e.store, d->name, &opt, &img, NULL))
        engine_fail("'%s' cannot be opened", d->name);
    maybe_arm(m);
    engine_run_arm(&run);
    image_dedup(m->e.store, &run.op, d->name, &out);
    bool stop = chance(m, 12) == 0;
    for (unsigned turns = 0; turns < 200 && !run.done && m->e.store; turns++) {
        if (img && g.begun < WRITES && chance(m, 4) == 0)
            guest_write(m, &g, img);
        if (stop && chance(m, 20) == 0)
            store_op_cancel(&run.op);
        engine_turn(&m->e, chance(m, 3) == 0);
    }
    if (m->e.store)
        engine_wait(&m->e, both_ended, &(struct wanted){ &run, &g }, "a dedup");
    int err = m->e.store ? run.op.error.code : 0;
    if (!engine_is_dead(&m->e) && ((err && err != -ECANCELED) || g.error))
        engine_fail("dedup: %s, writes beside it: %d", run.op.error.text, g.error);
    m->shared += out.shared_bytes / BDEV_BLOCK_SIZE;
    if (img)
        blocks_flush(&m->e, img);
    if (m->e.store && img)
        image_close(img);
    settle(m, d, &g, crashed(m));
}

static void random_steps(const char *test, uint64_t bytes, uint32_t index_entries, uint64_t usual)
{
    struct model *m = calloc(1, sizeof *m);
    const char *wanted = getenv("STEPS");
    begin(&m->e, test, unit_seed(), bytes, index_entries);
    uint64_t empty = blocks_used(&m->e);
    for (uint64_t steps = wanted ? strtoull(wanted, NULL, 0) : usual; steps; steps--, engine_where.step++) {
        unsigned kind = (unsigned)chance(m, 16);
        engine_trace("%llu: step of kind %u", (unsigned long long)engine_where.step, kind);
        switch (kind) {
        case 0: case 1: case 2: random_import(m); break;
        case 3: case 4: random_write(m); break;
        case 5: random_snapshot(m); break;
        case 6: random_unsnapshot(m, true); break;
        case 7: random_unsnapshot(m, false); break;
        case 8: random_delete(m); break;
        case 9: random_clone(m); break;
        case 10: random_seal(m); break;
        case 11: engine_must(&m->e, store_checkpoint); break;
        case 12: engine_kill(&m->e); break;
        default: random_dedup(m);
        }
        if (chance(m, 25) == 0)
            compare_all(m);
    }
    compare_all(m);
    while (pick(m, true)) {
        random_delete(m);
        if (chance(m, 3) == 0)
            compare_all(m);
    }
    uint64_t left = blocks_used(&m->e);
    if (left != empty)
        engine_fail("%lld blocks did not come back", (long long)(left - empty));
    engine_check(&m->e);
    printf("# %llu blocks shared, %llu crashes\n", (unsigned long long)m->shared, (unsigned long long)m->crashes);
    if (m->shared == 0 || m->crashes == 0)
        engine_fail("nothing was shared, or nothing crashed: this run tested nothing");
    engine_end(&m->e);
    free(m);
}

static void random_sharing_with_crashes_is_exact(void) { random_steps(__func__, 512ull << 20, 4096, 250); }
static void random_sharing_in_a_small_store_with_tiny_indexes_is_exact(void) { random_steps(__func__, 128ull << 20, 256, 250); }

int main(int argc, char **argv)
{
    static const struct unit_test tests[] = {
        UNIT(an_import_shares_what_a_template_holds),
        UNIT(dedup_of_a_running_image_shares_its_own_blocks),
        UNIT(dedup_of_a_sealed_image_moves_its_name_to_a_copy),
        UNIT(equal_checksums_are_no_proof),
        UNIT(random_sharing_with_crashes_is_exact),
        UNIT(random_sharing_in_a_small_store_with_tiny_indexes_is_exact),
        { 0 },
    };
    return unit_main(argc, argv, "parallax dedup", tests);
}
