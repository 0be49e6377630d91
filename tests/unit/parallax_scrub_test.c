/* parallax_scrub_test.c - scrubs with bits flipped on the device: all that is damaged is told, with everybody who uses it and
 * nobody else; a stopped one goes on; every block is read once. */
#include "tests/support/bare.h"
#include "tests/support/engine_blocks.h"
#include "tests/support/unit.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BLOCKS 1000u

struct findings {
    char text[16384];
    unsigned lines;
    uint64_t bytes;        /* that were read when it was told last */
    struct store_op *stop; /* after the first progress */
};

static void finding(void *ctx, const char *line)
{
    struct findings *f = ctx;
    snprintf(f->text + strlen(f->text), sizeof f->text - strlen(f->text), "%s\n", line);
    f->lines++;
}

static void progress(void *ctx, uint64_t bytes)
{
    struct findings *f = ctx;
    f->bytes = bytes;
    if (bytes && f->stop)
        store_op_cancel(f->stop);
}

static int scrub(struct engine *e, struct findings *f, bool stop, uint64_t rate, struct store_scrub_result *out)
{
    struct engine_run run;
    struct store_scrub_options opt = { .rate_bytes = rate, .finding = finding, .progress = progress, .ctx = f };
    *f = (struct findings){ .stop = stop ? &run.op : NULL };
    engine_run_arm(&run);
    store_scrub(e->store, &run.op, &opt, out);
    return engine_run(e, &run, "a scrub");
}

static void begin(struct engine *e)
{
    const char *snap[] = { "base@old" };
    engine_where = (struct engine_where){ "scrub", 1, 0 };
    engine_start(e, 1, 256u << 20, 0);
    engine_must(e, image_create, "base", (uint64_t)BLOCKS * BDEV_BLOCK_SIZE);
    blocks_write(e, "base", 0, BLOCKS, 1, 1);
    engine_must(e, snapshot_create, snap, 1);
    blocks_write(e, "base", 0, 100, 5001, 1);
    engine_must(e, image_clone, "base", "clone");
    blocks_write(e, "clone", 100, 100, 7001, 1);
    engine_must(e, store_checkpoint);
}

static bool tells(const struct findings *f, const char *who, uint64_t block)
{
    char start[80];
    snprintf(start, sizeof start, "%s: offset %llu:", who, (unsigned long long)(block * BDEV_BLOCK_SIZE));
    return strstr(f->text, start) != NULL;
}

static void a_sound_store_is_read_once(void)
{
    struct engine e;
    struct findings f;
    struct store_scrub_result out;
    begin(&e);
    CU_ASSERT_EQUAL(scrub(&e, &f, false, 0, &out), 0);
    CU_ASSERT_EQUAL(out.bytes, (BLOCKS + 200) * BDEV_BLOCK_SIZE);
    CU_ASSERT(out.damaged == 0 && out.resumed_bytes == 0 && f.lines == 0);
    engine_end(&e);
}

static void damaged_data_is_told_with_all_who_use_it(void)
{
    struct engine e;
    struct findings f;
    struct store_scrub_result out;
    begin(&e);
    blocks_flip(&e, blocks_find(&e, 1 + 500, 0), 77);        /* everybody's */
    blocks_flip(&e, blocks_find(&e, 1 + 50, 0), 4096);       /* the snapshot's alone */
    blocks_flip(&e, blocks_find(&e, 1 + 150, 0), 1);         /* not the clone's */
    blocks_flip(&e, blocks_find(&e, 7001 + 20, 0), 32767);   /* the clone's alone */
    CU_ASSERT_EQUAL(scrub(&e, &f, false, 0, &out), 0);
    CU_ASSERT_EQUAL(out.damaged, 4);
    CU_ASSERT(tells(&f, "base", 500) && tells(&f, "base@old", 500) && tells(&f, "clone", 500));
    CU_ASSERT(tells(&f, "base@old", 50) && !tells(&f, "base", 50) && !tells(&f, "clone", 50));
    CU_ASSERT(tells(&f, "base", 150) && tells(&f, "base@old", 150) && !tells(&f, "clone", 150));
    CU_ASSERT(tells(&f, "clone", 120) && !tells(&f, "base", 120));
    CU_ASSERT_EQUAL(f.lines, 3 + 1 + 2 + 1);
    /* Who does not use it is not hurt. */
    blocks_expect(&e, "clone", 150, 1, 7051, 1);
    blocks_expect(&e, "base", 50, 1, 5051, 1);
    engine_end(&e);
}

/* Finds the node by flipping bits of blocks that hold no data, until the scrub tells of one. */
static void a_damaged_node_is_told_and_hurts_only_who_uses_it(void)
{
    struct engine e;
    struct findings f;
    struct store_scrub_result out;
    unsigned nodes = 0, hurt_clone = 0, spared_clone = 0;
    begin(&e);
    uint64_t first = blocks_find(&e, 1, 0), last = bdev_blocks(e.backing.blocks);
    for (uint64_t a = first; a < last; a++) {
        uint8_t *block = bdev_buffer_alloc(1);
        bool zero = bdev_read(e.backing.blocks, a, block, 1) || (block[0] | block[6] | block[16] | block[22]) == 0;
        bool node = !zero && (block[6] == 1 || block[6] == 2) && block[22] == block[6];
        free(block);
        if (!node)
            continue;
        blocks_flip(&e, a, 3);
        CU_ASSERT_EQUAL(scrub(&e, &f, false, 0, &out), 0);
        blocks_flip(&e, a, 3);
        if (!out.damaged)
            continue; /* an old node, or no node */
        nodes++;
        CU_ASSERT_EQUAL(out.damaged, 1);
        CU_ASSERT_PTR_NOT_NULL(strstr(f.text, "the map of what follows"));
        if (strstr(f.text, "clone: offset"))
            hurt_clone++;
        else
            spared_clone++;
    }
    if (nodes < 5 || !hurt_clone || !spared_clone)
        engine_fail("%u nodes were found, %u of them the clone's", nodes, hurt_clone);
    CU_ASSERT_EQUAL(scrub(&e, &f, false, 0, &out), 0);
    CU_ASSERT_EQUAL(out.damaged, 0);
    engine_end(&e);
}

/* A leaf that maps its first block alone. */
static bool is_leaf_of_one(struct engine *e, uint64_t address)
{
    uint8_t *block = bdev_buffer_alloc(1);
    bool is = !bdev_read(e->backing.blocks, address, block, 1) && block[6] == 1;
    for (unsigned i = 16; i < BDEV_BLOCK_SIZE && is; i++)
        is = !block[i];
    free(block);
    return is;
}

/* Nothing to read lies between them. */
static void however_many_nodes_are_damaged_each_is_told(void)
{
    enum { LEAVES = 100 };
    struct engine e;
    struct findings f;
    struct store_scrub_result out;
    unsigned flipped = 0;
    begin(&e);
    engine_must(&e, image_create, "wide", LEAVES * 256ull * BDEV_BLOCK_SIZE);
    for (unsigned i = 0; i < LEAVES; i++)
        blocks_write(&e, "wide", i * 256, 1, 100000 + i, 1);
    engine_must(&e, store_checkpoint);
    for (uint64_t a = blocks_find(&e, 1, 0); a < bdev_blocks(e.backing.blocks); a++)
        if (is_leaf_of_one(&e, a)) {
            blocks_flip(&e, a, 3);
            flipped++;
        }
    CU_ASSERT_EQUAL(flipped, LEAVES);
    CU_ASSERT_EQUAL(scrub(&e, &f, false, 0, &out), 0);
    CU_ASSERT_EQUAL(out.damaged, LEAVES);
    CU_ASSERT_EQUAL(f.lines, LEAVES);
    for (unsigned i = 0; i < LEAVES; i++)
        CU_ASSERT(tells(&f, "wide", i * 256));
    engine_end(&e);
}

static void a_stopped_scrub_goes_on_also_after_a_kill(void)
{
    struct engine e;
    struct findings f;
    struct store_scrub_result out, second;
    begin(&e);
    blocks_flip(&e, blocks_find(&e, 1 + 5, 0), 9); /* in the first step */
    CU_ASSERT_EQUAL(scrub(&e, &f, true, 8u << 20, &out), -ECANCELED);
    CU_ASSERT(out.bytes > 0 && out.bytes < (BLOCKS + 200) * BDEV_BLOCK_SIZE && out.damaged == 1);
    engine_kill(&e);
    CU_ASSERT_EQUAL(scrub(&e, &f, false, 0, &second), 0);
    CU_ASSERT_EQUAL(second.resumed_bytes, out.bytes);
    CU_ASSERT_EQUAL(second.bytes, (BLOCKS + 200) * BDEV_BLOCK_SIZE);
    CU_ASSERT_EQUAL(second.damaged, 1); /* found before it was stopped */
    CU_ASSERT_EQUAL(f.lines, 0);
    CU_ASSERT_EQUAL(scrub(&e, &f, false, 0, &second), 0);
    CU_ASSERT(second.resumed_bytes == 0 && second.damaged == 1 && f.lines == 1 && tells(&f, "base@old", 5));
    engine_end(&e);
}

#define SNAPSHOTS_BESIDE 100u

/* Snapshots and deletions beside a slow scrub: nothing is left out, and the store stays as it should be. */
static void versions_that_come_and_go_meanwhile_do_no_harm(void)
{
    struct engine e;
    struct findings f = { 0 };
    struct store_scrub_result out;
    struct engine_run run;
    struct store_scrub_options opt = { .rate_bytes = 4u << 20, .finding = finding, .ctx = &f };
    begin(&e);
    engine_run_arm(&run);
    store_scrub(e.store, &run.op, &opt, &out);
    for (unsigned i = 0; !run.done; i++) {
        if (i >= SNAPSHOTS_BESIDE) { /* more would fill the store before a slow scrub has ended */
            engine_turn(&e, 10);
            continue;
        }
        char snap[32];
        const char *target = snap, *old = "base@old";
        snprintf(snap, sizeof snap, "clone@s%u", i);
        blocks_write(&e, "clone", i * 37 % 900, 20, 90000 + i * 100, 1);
        engine_must(&e, snapshot_create, &target, 1);
        if (i == 1)
            engine_must(&e, snapshot_delete, &old, 1, false);
        if (i > 2 && i % 2)
            engine_must(&e, snapshot_delete, &target, 1, false);
    }
    CU_ASSERT_EQUAL(run.op.error.code, 0);
    CU_ASSERT_EQUAL(out.damaged, 0);
    CU_ASSERT_EQUAL(f.lines, 0);
    engine_check(&e);
    engine_end(&e);
}

/* Not all can have been read then, and it must not say so. */
static void a_scrub_that_is_never_done_says_so(void)
{
    struct engine e;
    struct findings f = { 0 };
    struct store_scrub_result out;
    struct engine_run run;
    struct store_scrub_options opt = { .rate_bytes = 4u << 20, .finding = finding, .ctx = &f }; /* a round takes longer than a snapshot */
    const char *snap = "late@s";
    begin(&e);
    engine_must(&e, image_create, "late", 64ull * BDEV_BLOCK_SIZE);
    blocks_write(&e, "late", 0, 64, 200000, 1);
    engine_must(&e, store_checkpoint);
    engine_run_arm(&run);
    store_scrub(e.store, &run.op, &opt, &out);
    while (!run.done) {
        engine_must(&e, snapshot_create, &snap, 1);
        engine_must(&e, store_checkpoint);
        engine_must(&e, snapshot_delete, &snap, 1, false);
    }
    CU_ASSERT_EQUAL(run.op.error.code, -EAGAIN);
    CU_ASSERT_EQUAL(out.damaged, 0);
    engine_end(&e);
}

static void freeze(struct engine *e, const char *snap)
{
    engine_must(e, snapshot_create, &snap, 1);
    engine_must(e, store_checkpoint);
}

static void drop(struct engine *e, const char *snap)
{
    engine_must(e, snapshot_delete, &snap, 1, false);
    for (unsigned i = 0; i < 3; i++)
        engine_must(e, store_checkpoint);
}

/* The scrub has begun, and reads. */
static void begin_scrub(struct engine *e, struct engine_run *run, const struct store_scrub_options *opt, struct store_scrub_result *out)
{
    engine_run_arm(run);
    store_scrub(e->store, &run->op, opt, out);
    for (unsigned i = 0; i < 5; i++)
        engine_turn(e, 5);
}

/* A head that is frozen becomes the snapshot; when that goes, what it held is the new head's, which the scrub had not known. */
static void what_a_snapshot_leaves_to_a_newer_head_is_read_too(void)
{
    enum { LATE = 3000 };
    struct engine e;
    struct findings f = { 0 };
    struct store_scrub_result out;
    struct engine_run run;
    struct store_scrub_options opt = { .rate_bytes = 8u << 20, .finding = finding, .ctx = &f };
    begin(&e);
    engine_must(&e, image_create, "late", (uint64_t)LATE * BDEV_BLOCK_SIZE);
    blocks_write(&e, "late", 0, LATE, 200000, 1);
    engine_must(&e, store_checkpoint);
    begin_scrub(&e, &run, &opt, &out);
    freeze(&e, "late@s");
    drop(&e, "late@s");
    blocks_flip(&e, blocks_find(&e, 200000 + LATE - 1, 0), 77);
    while (!run.done)
        engine_turn(&e, 10);
    CU_ASSERT_EQUAL(run.op.error.code, 0);
    CU_ASSERT(out.bytes >= (BLOCKS + 200 + LATE) * (uint64_t)BDEV_BLOCK_SIZE);
    CU_ASSERT_EQUAL(out.damaged, 1);
    CU_ASSERT(tells(&f, "late", LATE - 1));
    engine_end(&e);
}

/* The heir goes before it is read, and its heir was there already when that round began. */
static void what_an_heir_leaves_is_read_too(void)
{
    enum { LONG = 2000, SHORT = 50 };
    struct engine e;
    struct findings f = { 0 };
    struct store_scrub_result out;
    struct engine_run run;
    struct store_scrub_options opt = { .rate_bytes = 4u << 20, .finding = finding, .progress = progress, .ctx = &f };
    begin(&e);
    engine_must(&e, image_create, "long", (uint64_t)LONG * BDEV_BLOCK_SIZE);
    blocks_write(&e, "long", 0, LONG, 200000, 1);
    engine_must(&e, image_create, "short", (uint64_t)SHORT * BDEV_BLOCK_SIZE);
    blocks_write(&e, "short", 0, SHORT, 300000, 1);
    engine_must(&e, store_checkpoint);
    begin_scrub(&e, &run, &opt, &out);
    freeze(&e, "long@a");
    freeze(&e, "short@a");
    freeze(&e, "short@b");
    drop(&e, "long@a");
    drop(&e, "short@a");
    while (!run.done && f.bytes < (BLOCKS + 200 + LONG / 4) * (uint64_t)BDEV_BLOCK_SIZE) /* until the heir of "long" is being read */
        engine_turn(&e, 5);
    CU_ASSERT_FALSE(run.done);
    drop(&e, "short@b");
    CU_ASSERT(f.bytes < (BLOCKS + 200 + LONG - 200) * (uint64_t)BDEV_BLOCK_SIZE);
    blocks_flip(&e, blocks_find(&e, 300000 + SHORT - 1, 0), 77);
    while (!run.done)
        engine_turn(&e, 10);
    CU_ASSERT_EQUAL(run.op.error.code, 0);
    CU_ASSERT_EQUAL(out.damaged, 1);
    CU_ASSERT(tells(&f, "short", SHORT - 1));
    CU_ASSERT_EQUAL(out.bytes, (BLOCKS + 200 + LONG + SHORT) * (uint64_t)BDEV_BLOCK_SIZE);
    engine_end(&e);
}

static void write_all(struct bare *b, uint32_t id)
{
    for (uint32_t at = 0; at < 6000; at += 200)
        CU_ASSERT_EQUAL(bare_write(b, at, 200, id + at), 0);
    CU_ASSERT_EQUAL(bare_checkpoint(b), 0);
}

/* A deletion that goes on through many checkpoints, on a thread of theirs. */
static void a_scrub_beside_a_long_deletion_reads_what_is_left(void)
{
    static struct bare b;
    struct bare_run run, deletion;
    struct store_scrub_options opt = { .rate_bytes = 60u << 20 };
    struct store_scrub_result out;
    const char *snap = "a@s";
    bare_begin(&b, 256u << 20);
    b.reclaim_blocks = 4;
    b.index_entries = 16384;
    bare_reopen(&b);
    write_all(&b, 1);
    CU_ASSERT_EQUAL(bare_snapshot(&b, snap), 0);
    write_all(&b, 7);
    bare_arm(&deletion);
    snapshot_delete(b.store, &deletion.op, &snap, 1, false);
    CU_ASSERT_EQUAL(bare_wait(&b, &deletion), 0);
    bare_arm(&run);
    store_scrub(b.store, &run.op, &opt, &out);
    while (!run.done) {
        struct bare_run checkpoint;
        bare_arm(&checkpoint);
        store_checkpoint(b.store, &checkpoint.op);
        CU_ASSERT_EQUAL_FATAL(bare_wait(&b, &checkpoint), 0);
    }
    CU_ASSERT_EQUAL(run.op.error.code, 0);
    CU_ASSERT(out.damaged == 0 && out.bytes >= 6000 * (uint64_t)BDEV_BLOCK_SIZE);
    CU_ASSERT(bare_is_sound(&b));
    bare_end(&b);
}

int main(int argc, char **argv)
{
    static const struct unit_test tests[] = {
        UNIT(a_sound_store_is_read_once),
        UNIT(damaged_data_is_told_with_all_who_use_it),
        UNIT(a_damaged_node_is_told_and_hurts_only_who_uses_it),
        UNIT(however_many_nodes_are_damaged_each_is_told),
        UNIT(a_stopped_scrub_goes_on_also_after_a_kill),
        UNIT(versions_that_come_and_go_meanwhile_do_no_harm),
        UNIT(a_scrub_beside_a_long_deletion_reads_what_is_left),
        UNIT(what_a_snapshot_leaves_to_a_newer_head_is_read_too), UNIT(what_an_heir_leaves_is_read_too), UNIT(a_scrub_that_is_never_done_says_so),
        { 0 },
    };
    return unit_main(argc, argv, "parallax scrub", tests);
}
