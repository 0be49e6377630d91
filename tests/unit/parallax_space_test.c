/* parallax_space_test.c - when a block may be used again, and what must stay free (docs/consistency.md, 9 to 11, 17).
 *
 * The store is small and filled up, so that whatever may be used again is. */
#include "tests/support/bare.h"
#include "tests/support/engine_pattern.h"
#include "tests/support/unit.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STORE_BYTES (48ull << 20)
#define LARGER_BYTES (128ull << 20)
#define GROWING_BYTES (1ull << 30)
#define RUN 64u            /* blocks of one write */
#define FAR 100000u        /* where the filling begins, in the image */

enum { LEAVES = 1024, LEAF = 256 }; /* of the image's map, and the blocks below one */

static struct bare b;

static bool until_flush_held(void)
{
    for (unsigned i = 0; i < 2000 && !bare_flush_held(&b); i++)
        bare_turn(&b, 5);
    return bare_flush_held(&b);
}

/* Writes runs of `blocks` from FAR on, of ids from 1000 on, until one fails or is not answered; how many were acknowledged.
 * *stuck, if any is, has to outlive the store. */
static unsigned fill(uint32_t blocks, struct bare_io *stuck)
{
    unsigned n = 0;
    for (;; n++) {
        bare_submit(&b, stuck, IMAGE_WRITE, FAR + (uint64_t)n * blocks, blocks, 1000 + n);
        for (unsigned turns = 0; turns < 300 && stuck->error == BARE_PENDING; turns++)
            bare_turn(&b, 1);
        if (stuck->error)
            return n;
        bare_io_fini(stuck);
    }
}

static void expect_filling(unsigned n, uint32_t blocks)
{
    unsigned wrong = 0;
    for (unsigned i = 0; i < n; i++)
        wrong += bare_read(&b, FAR + (uint64_t)i * blocks) != 1000 + i || bare_read(&b, FAR + (uint64_t)i * blocks + blocks - 1) != 1000 + i;
    CU_ASSERT_EQUAL(wrong, 0);
}

static void expect_run(uint64_t first, uint32_t blocks, uint32_t id)
{
    unsigned wrong = 0;
    for (uint32_t i = 0; i < blocks; i++)
        wrong += bare_read(&b, first + i) != id;
    CU_ASSERT_EQUAL(wrong, 0);
}

static uint64_t used_bytes(void)
{
    struct store_status status;
    store_get_status(b.store, &status);
    return status.used_bytes;
}

/* A checkpoint that drops blocks both of the tree and of changes is held before its commit: until then nothing is free that
 * was not free before. The store is filled by writes of that many blocks, and then it
 * ends. journal_blocks: about as many are written before. */
static void crash_before_the_commit(uint32_t blocks, unsigned journal_blocks, void (*crash)(struct bare *))
{
    struct bare_run checkpoint;
    struct bare_io stuck;
    bare_begin(&b, LARGER_BYTES);
    for (uint32_t i = 0; i < 16; i++)
        CU_ASSERT_EQUAL_FATAL(bare_write(&b, i * RUN, RUN, 11), 0);
    CU_ASSERT_EQUAL(bare_checkpoint(&b), 0);
    for (unsigned i = 0; i < journal_blocks; i++)
        CU_ASSERT_EQUAL_FATAL(bare_write(&b, FAR - 1 - i, 1, 14), 0);
    for (uint32_t i = 0; i < 48; i++)
        CU_ASSERT_EQUAL_FATAL(bare_write(&b, i % 16 * RUN, RUN, 12), 0);
    for (uint32_t i = 0; i < 8; i++)
        CU_ASSERT_EQUAL_FATAL(bare_write(&b, i * RUN, RUN, 13), 0);
    CU_ASSERT_EQUAL(bare_flush(&b), 0);
    uint64_t used = used_bytes();
    bare_hold_flushes(&b);
    bare_arm(&checkpoint);
    store_checkpoint(b.store, &checkpoint.op);
    CU_ASSERT_FATAL(until_flush_held());
    CU_ASSERT(used_bytes() >= used);
    unsigned n = fill(blocks, &stuck);
    CU_ASSERT(n > 0);
    CU_ASSERT_EQUAL(bare_flush(&b), 0);
    crash(&b);
    bare_io_fini(&stuck);
    CU_ASSERT_EQUAL_FATAL(bare_open(&b), 0);
    expect_run(0, 8 * RUN, 13);
    expect_run(8 * RUN, 8 * RUN, 12);
    expect_run(FAR - journal_blocks, journal_blocks, 14);
    expect_filling(n, blocks);
    CU_ASSERT(bare_is_sound(&b));
    CU_ASSERT_EQUAL(bare_checkpoint(&b), 0);
    CU_ASSERT(bare_is_sound(&b));
    bare_reopen(&b);
    expect_run(0, 8 * RUN, 13);
    expect_filling(n, blocks);
    bare_end(&b);
}

static void what_a_checkpoint_drops_is_not_used_before_it_commits(void)
{
    crash_before_the_commit(RUN, 0, bare_kill);
    crash_before_the_commit(RUN, 0, bare_power_cut);
}

/* Writes of one block use up the journal, of 1,024 blocks, before they use up the space. */
static void the_journal_is_not_used_again_before_the_commit(void)
{
    crash_before_the_commit(1, 400, bare_kill);
    crash_before_the_commit(1, 400, bare_power_cut);
}

/* While no checkpoint can end, writes wait rather than make more changes than there is memory for. */
static void changes_never_exceed_the_index(void)
{
    struct bare_run checkpoint;
    struct bare_io stuck;
    struct store_status status;
    bare_begin(&b, LARGER_BYTES);
    b.index_entries = 1; /* the least there can be */
    bare_reopen(&b);
    CU_ASSERT_EQUAL(bare_write(&b, 0, 1, 11), 0);
    bare_hold_flushes(&b);
    bare_arm(&checkpoint);
    store_checkpoint(b.store, &checkpoint.op);
    CU_ASSERT_FATAL(until_flush_held());
    unsigned n = fill(RUN, &stuck);
    store_get_status(b.store, &status);
    CU_ASSERT(n > 0 && n * RUN <= status.index_entries);
    bare_release(&b);
    for (unsigned i = 0; i < 2000 && (stuck.error == BARE_PENDING || !checkpoint.done); i++)
        bare_turn(&b, 5);
    CU_ASSERT_EQUAL(stuck.error, 0);
    expect_filling(n + 1, RUN);
    bare_io_fini(&stuck);
    bare_end(&b);
}

static void a_block_that_is_being_read_is_not_used_again(void)
{
    struct bare_io read, stuck;
    bare_begin(&b, STORE_BYTES);
    CU_ASSERT_EQUAL(bare_write(&b, 0, RUN, 11), 0);
    bare_reopen(&b);
    CU_ASSERT_EQUAL(bare_read(&b, RUN), 0); /* the map is in memory now; the data are not */
    bare_hold_reads(&b);
    bare_submit(&b, &read, IMAGE_READ, 0, RUN, 0);
    bare_turn(&b, 20);
    CU_ASSERT_EQUAL(bare_write(&b, 0, RUN, 12), 0);
    CU_ASSERT_EQUAL(bare_checkpoint(&b), 0);
    CU_ASSERT_EQUAL(bare_checkpoint(&b), 0);
    fill(RUN, &stuck);
    CU_ASSERT_EQUAL(read.error, BARE_PENDING);
    bare_release(&b);
    for (unsigned i = 0; i < 2000 && (read.error == BARE_PENDING || stuck.error == BARE_PENDING); i++)
        bare_turn(&b, 5);
    CU_ASSERT_EQUAL(read.error, 0);
    for (uint32_t i = 0; i < RUN * 8; i++)
        CU_ASSERT_EQUAL(pattern_id((uint8_t *)read.memory + i * 512, i), 11);
    bare_io_fini(&read);
    bare_io_fini(&stuck);
    bare_end(&b);
}

/* Each change of a far-apart block costs its checkpoint a leaf and more. */
static void a_full_store_can_still_checkpoint_discard_and_delete(void)
{
    struct store_status full, after;
    struct bare_run run;
    const char *name = "a";
    unsigned n = 0;
    int err;
    bare_begin(&b, STORE_BYTES);
    do {
        err = bare_write(&b, (uint64_t)(n * 7919u % 1024) * 256 + n / 1024, 1, 1000 + n);
        n++;
    } while (!err);
    CU_ASSERT_EQUAL(err, -ENOSPC);
    store_get_status(b.store, &full);
    CU_ASSERT_FALSE(full.failed);
    CU_ASSERT_EQUAL(bare_flush(&b), 0);
    CU_ASSERT_EQUAL(bare_checkpoint(&b), 0);
    CU_ASSERT_EQUAL(bare_discard(&b, 0, 256), 0);
    CU_ASSERT_EQUAL(bare_checkpoint(&b), 0);
    CU_ASSERT(bare_is_sound(&b));
    image_close(b.img);
    bare_arm(&run);
    image_delete(b.store, &run.op, &name, 1, true, false);
    CU_ASSERT_EQUAL(bare_wait(&b, &run), 0);
    for (unsigned i = 0; i < 4; i++)
        CU_ASSERT_EQUAL(bare_checkpoint(&b), 0);
    store_get_status(b.store, &after);
    CU_ASSERT_FALSE(after.failed);
    CU_ASSERT(after.used_bytes < full.used_bytes / 2);
    bare_kill(&b);
    bare_end(&b);
}

/* Nothing more can be written now, however often a checkpoint is made. */
static void fill_to_the_brim(void)
{
    struct bare_io stuck;
    unsigned n = fill(RUN, &stuck);
    CU_ASSERT_EQUAL(stuck.error, -ENOSPC);
    bare_io_fini(&stuck);
    for (bool went = true; went;) {
        CU_ASSERT_EQUAL_FATAL(bare_checkpoint(&b), 0);
        for (went = false; !bare_write(&b, FAR + (uint64_t)n * RUN, 1, 9); n++)
            went = true;
    }
}

/* Each with 0, or with that error. */
static void all_end(struct bare_io *io, unsigned count, int error)
{
    unsigned failed = 0;
    for (unsigned i = 0; i < count; i++) {
        for (unsigned turns = 0; turns < 20000 && io[i].error == BARE_PENDING; turns++)
            bare_turn(&b, 1);
        failed += io[i].error != 0 && io[i].error != error;
        bare_io_fini(&io[i]);
    }
    CU_ASSERT_EQUAL(failed, 0);
}

static void all_end_well(struct bare_io *io, unsigned count) { all_end(io, count, 0); }

/* Those that fill() does not use. */
static uint64_t leaf(unsigned i) { return i < 380 ? i : i + 60; }

/* Each spoils two leaves of the map, or one, of which something is left. They come together, to a store that is full. */
static void discards_that_come_together(uint32_t blocks, unsigned first, unsigned step)
{
    enum { SPOILT = 960 };
    static struct bare_io io[SPOILT];
    struct store_status status;
    unsigned n = 0;
    bare_begin(&b, STORE_BYTES);
    b.index_entries = 200000;
    bare_reopen(&b);
    for (unsigned i = 0; i < SPOILT; i++)
        for (unsigned k = 10; k < LEAF; k += 110) /* 10, 120, 230 */
            CU_ASSERT_EQUAL_FATAL(bare_write(&b, leaf(i) * LEAF + k, 1, 11), 0);
    fill_to_the_brim();
    for (unsigned i = 0; i + step <= SPOILT; i += step)
        bare_submit(&b, &io[n++], IMAGE_DISCARD, leaf(i) * LEAF + first, blocks, 0);
    all_end_well(io, n);
    CU_ASSERT_EQUAL(bare_checkpoint(&b), 0);
    store_get_status(b.store, &status);
    CU_ASSERT_EQUAL_FATAL(status.failed, 0);
    CU_ASSERT_EQUAL(bare_read(&b, 120), 11);
    CU_ASSERT(bare_is_sound(&b));
    bare_end(&b);
}

static void no_number_of_discards_takes_the_reserve_of_a_full_store(void)
{
    discards_that_come_together(60, 200, 1);  /* entries of the index */
    discards_that_come_together(100, 200, 2); /* ranges */
}

/* A change between two snapshots costs a node of each level, and a dead list that names the old ones. */
static void no_number_of_snapshots_takes_the_reserve_of_a_full_store(void)
{
    enum { PAIRS = 2000 };
    struct image_open_options io = { .mode = IMAGE_READ_WRITE };
    struct bare_run run, checkpoint;
    struct bare_io stuck;
    struct store_status status;
    char name[32];
    bare_begin(&b, GROWING_BYTES);
    b.backing.blocks->max_blocks = bdev_blocks(b.backing.blocks);
    bare_arm(&run);
    image_create(b.store, &run.op, "high", 1ull << 40);
    CU_ASSERT_EQUAL_FATAL(bare_wait(&b, &run), 0);
    image_close(b.img);
    CU_ASSERT_EQUAL_FATAL(image_open(b.store, "high", &io, &b.img, &b.err), 0);
    CU_ASSERT_EQUAL(bare_write(&b, 0, 1, 11), 0);
    CU_ASSERT_EQUAL(bare_checkpoint(&b), 0);
    for (unsigned i = 0; i < 20; i++)
        CU_ASSERT_EQUAL_FATAL(bare_write(&b, FAR + i * 256, 256, 9), 0);
    CU_ASSERT_EQUAL(bare_checkpoint(&b), 0);
    bare_hold_flushes(&b); /* so that all of them are one checkpoint's */
    bare_arm(&checkpoint);
    store_checkpoint(b.store, &checkpoint.op);
    CU_ASSERT_FATAL(until_flush_held());
    unsigned n = 0;
    for (stuck.error = 0; n < PAIRS && !stuck.error; n++) {
        bare_submit(&b, &stuck, IMAGE_WRITE, n, 1, 1000 + n);
        for (unsigned turns = 0; turns < 300 && stuck.error == BARE_PENDING; turns++)
            bare_turn(&b, 1);
        if (stuck.error)
            break;
        bare_io_fini(&stuck);
        snprintf(name, sizeof name, "high@s%u", n);
        CU_ASSERT_EQUAL_FATAL(bare_snapshot(&b, name), 0);
    }
    CU_ASSERT(n > 600);
    bare_release(&b);
    for (unsigned i = 0; i < 20000 && stuck.error == BARE_PENDING; i++)
        bare_turn(&b, 1);
    CU_ASSERT_EQUAL(bare_checkpoint(&b), 0);
    store_get_status(b.store, &status);
    CU_ASSERT_EQUAL_FATAL(status.failed, 0);
    CU_ASSERT_EQUAL(bare_read(&b, 599), 1599);
    bare_io_fini(&stuck);
    CU_ASSERT(bare_is_sound(&b));
    bare_end(&b);
}

static uint64_t leaf_block(unsigned count, unsigned i, unsigned round) { return (uint64_t)i * (LEAVES / count) * LEAF + round % LEAF; }

/* A block of that many leaves, together, and a snapshot after it; or false, and some of them are not answered. */
static bool change_leaves(unsigned count, unsigned round, struct bare_io io[LEAVES])
{
    char name[32];
    unsigned pending = count;
    for (unsigned i = 0; i < count; i++)
        bare_submit(&b, &io[i], IMAGE_WRITE, leaf_block(count, i, round), 1, 1000 + round);
    for (unsigned turns = 0; turns < 300 && pending; turns++) {
        bare_turn(&b, 1);
        pending = 0;
        for (unsigned i = 0; i < count; i++)
            pending += io[i].error == BARE_PENDING;
    }
    if (pending)
        return false;
    all_end_well(io, count);
    snprintf(name, sizeof name, "a@r%u", round);
    CU_ASSERT_EQUAL_FATAL(bare_snapshot(&b, name), 0);
    return true;
}

/* Each version needs that many leaves and the nodes above them, which are fewer than four for each change. The checkpoint is held
 * before it has taken its blocks. */
static void changed_maps_take_no_reserve(unsigned count, bool before_the_cut)
{
    enum { BEFORE = 8 };
    static struct bare_io io[LEAVES];
    struct bare_run checkpoint;
    struct bare_io stuck;
    struct store_status status;
    unsigned rounds = 0;
    bare_begin(&b, GROWING_BYTES);
    b.backing.blocks->max_blocks = LARGER_BYTES / BDEV_BLOCK_SIZE;
    b.index_entries = 200000;
    bare_reopen(&b);
    CU_ASSERT_FATAL(change_leaves(count, rounds++, io));
    CU_ASSERT_EQUAL(bare_checkpoint(&b), 0);
    for (; before_the_cut && rounds <= BEFORE; rounds++)
        CU_ASSERT_FATAL(change_leaves(count, rounds, io));
    CU_ASSERT_EQUAL_FATAL(bare_write(&b, 200, 1, 11), 0);
    bare_begin_held_checkpoint(&b, &checkpoint);
    if (before_the_cut)
        fill(RUN, &stuck);
    else
        while (change_leaves(count, rounds, io))
            rounds++;
    bare_release_walks(&b);
    all_end(before_the_cut ? &stuck : io, before_the_cut ? 1 : count, -ENOSPC);
    CU_ASSERT(rounds > BEFORE);
    CU_ASSERT_EQUAL(bare_checkpoint(&b), 0);
    store_get_status(b.store, &status);
    CU_ASSERT_EQUAL_FATAL(status.failed, 0);
    /* The round that could not end may have taken the place of one. */
    for (unsigned round = rounds >= LEAF ? rounds - LEAF + 1 : 0; round < rounds; round++)
        CU_ASSERT_EQUAL(bare_read(&b, leaf_block(count, count - 1, round)), 1000 + round);
    CU_ASSERT(bare_is_sound(&b));
    bare_end(&b);
}

static void no_number_of_changed_maps_takes_the_reserve_of_a_full_store(void)
{
    changed_maps_take_no_reserve(LEAVES, true);
    changed_maps_take_no_reserve(LEAVES, false);
    changed_maps_take_no_reserve(LEAVES / 64, false); /* a node above the leaves for each four of them */
}

static void no_finding(void *ctx, const char *line) { (void)ctx, (void)line; }

/* A check takes as long as the store is large; guests that write meanwhile need space. */
static void a_check_does_not_keep_the_store_from_growing(void)
{
    struct bare_run check;
    struct store_check_result result;
    bare_begin(&b, GROWING_BYTES);
    CU_ASSERT_EQUAL(bare_write(&b, 0, RUN, 11), 0);
    CU_ASSERT_EQUAL(bare_checkpoint(&b), 0);
    uint64_t blocks = bdev_blocks(b.backing.blocks);
    bare_hold_walks(&b);
    bare_arm(&check);
    store_check(b.store, &check.op, STORE_CHECK_DATA, no_finding, NULL, &result);
    while (!bare_walk_held(&b))
        bare_turn(&b, 1);
    unsigned n = 0;
    for (; n < 512 && bdev_blocks(b.backing.blocks) == blocks; n++) /* each change needs a reserve besides */
        CU_ASSERT_EQUAL_FATAL(bare_write(&b, FAR + n * RUN, RUN, 1000 + n), 0);
    CU_ASSERT(bdev_blocks(b.backing.blocks) > blocks);
    CU_ASSERT_FALSE(check.done);
    bare_release(&b);
    CU_ASSERT_EQUAL(bare_wait(&b, &check), 0);
    CU_ASSERT_EQUAL(result.damaged, 0);
    expect_filling(n, RUN);
    bare_end(&b);
}

/* Data cannot be written; journal blocks, which lie before them, can. */
static struct {
    struct bdev_ops ops;
    const struct bdev_ops *own;
    uint64_t first_bad;
} broken;

static void submit_in_vain(struct bdev *d, struct bdev_req *req)
{
    if (req->op == BDEV_WRITE && req->block >= broken.first_bad)
        req->block = UINT64_MAX / 2; /* where there is no device */
    broken.own->submit(d, req);
}

/* What was taken for them comes back with the next checkpoint. */
static void writes_that_failed_take_no_space(void)
{
    unsigned failed = 0;
    bare_begin(&b, STORE_BYTES);
    CU_ASSERT_EQUAL(bare_write(&b, 0, RUN, 11), 0);
    CU_ASSERT_EQUAL(bare_checkpoint(&b), 0);
    uint64_t used = used_bytes();
    broken.own = b.backing.blocks->ops;
    broken.ops = *broken.own;
    broken.ops.submit = submit_in_vain;
    broken.first_bad = bare_address(&b, 0, 11);
    CU_ASSERT_NOT_EQUAL_FATAL(broken.first_bad, 0);
    b.backing.blocks->ops = &broken.ops;
    for (unsigned i = 0; i < 30; i++)
        failed += bare_write(&b, 0, RUN, 12) != 0;
    CU_ASSERT_EQUAL(failed, 30);
    b.backing.blocks->ops = broken.own;
    CU_ASSERT_EQUAL(bare_checkpoint(&b), 0);
    CU_ASSERT(used_bytes() < used + 30 * RUN * BDEV_BLOCK_SIZE / 2);
    expect_run(0, RUN, 11);
    struct bare_io stuck;
    unsigned n = fill(RUN, &stuck);
    CU_ASSERT_EQUAL(stuck.error, -ENOSPC);
    bare_io_fini(&stuck);
    bare_kill(&b);
    CU_ASSERT_EQUAL_FATAL(bare_open(&b), 0);
    expect_run(0, RUN, 11);
    expect_filling(n, RUN);
    CU_ASSERT(bare_is_sound(&b));
    bare_end(&b);
}

/* ---- Space that is given back, and is not ---- */

/* Punching takes until it may end, and fails, in vain or having done half; filling takes until it may go on. */
static struct {
    struct bdev_ops ops;
    const struct bdev_ops *own;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool hold_punch, hold_fill, punching, filling, half, over; /* over: it does as the device below; its functions stay, threads use them */
} slow = { .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER };

static void wait_while(const bool *hold, bool *under_way)
{
    pthread_mutex_lock(&slow.lock);
    *under_way = true;
    while (*hold)
        pthread_cond_wait(&slow.changed, &slow.lock);
    pthread_mutex_unlock(&slow.lock);
}

static bool look(const bool *flag)
{
    pthread_mutex_lock(&slow.lock);
    bool is = *flag;
    pthread_mutex_unlock(&slow.lock);
    return is;
}

static void set(bool *flag, bool value)
{
    pthread_mutex_lock(&slow.lock);
    *flag = value;
    pthread_cond_broadcast(&slow.changed);
    pthread_mutex_unlock(&slow.lock);
}

static int punch_slowly(struct bdev *d, uint64_t block, uint64_t blocks)
{
    if (look(&slow.over))
        return slow.own->punch(d, block, blocks);
    wait_while(&slow.hold_punch, &slow.punching);
    if (slow.half)
        slow.own->punch(d, block, blocks / 2);
    set(&slow.punching, false);
    return -EIO;
}

static int fill_slowly(struct bdev *d, uint64_t block, uint64_t blocks)
{
    wait_while(&slow.hold_fill, &slow.filling);
    int err = slow.own->fill(d, block, blocks);
    set(&slow.filling, false);
    return err;
}

static uint64_t free_blocks(void)
{
    struct store_status status;
    store_get_status(b.store, &status);
    return (status.present_bytes - status.used_bytes) / BDEV_BLOCK_SIZE;
}

/* Writes that many runs of `blocks`, as fill does, from number `from` on, with a checkpoint after each, so that hardly anything but data needs space. */
static void write_runs(unsigned from, unsigned count, uint32_t blocks)
{
    for (unsigned i = from; i < from + count; i++) {
        CU_ASSERT_EQUAL_FATAL(bare_write(&b, FAR + (uint64_t)i * blocks, blocks, 1000 + i), 0);
        CU_ASSERT_EQUAL_FATAL(bare_checkpoint(&b), 0);
    }
}

#define BATCH 256u /* blocks */

/* A store with much free space, of which gc gives some back: it has begun to. */
static void begin_giving_back(bool half)
{
    struct bare_run gc;
    struct store_check_result result;
    bare_begin(&b, GROWING_BYTES);
    slow.own = b.backing.blocks->ops;
    slow.ops = *slow.own;
    slow.ops.punch = punch_slowly;
    slow.ops.fill = fill_slowly;
    slow.half = half;
    slow.over = false;
    b.backing.blocks->ops = &slow.ops;
    write_runs(0, 96, BATCH);
    CU_ASSERT_EQUAL(bare_discard(&b, FAR, 96 * BATCH), 0);
    CU_ASSERT_EQUAL(bare_checkpoint(&b), 0);
    CU_ASSERT_EQUAL(bare_checkpoint(&b), 0);
    set(&slow.hold_punch, true);
    bare_arm(&gc);
    store_check(b.store, &gc.op, STORE_CHECK_COLLECT, no_finding, NULL, &result);
    CU_ASSERT_EQUAL(bare_wait(&b, &gc), 0);
    while (!look(&slow.punching))
        bare_turn(&b, 1);
}

static void end_giving_back(void)
{
    set(&slow.hold_punch, false);
    while (look(&slow.punching))
        bare_turn(&b, 1);
}

/* While free space is being given back, guests need more of it; then it turns out that it cannot be given back, so it is free
 * again, and they use it. Nobody else may still mean to fill it with zeroes. */
static void space_that_could_not_be_given_back_is_not_filled_over_its_users(void)
{
    unsigned n = 0;
    begin_giving_back(false);
    for (; free_blocks() > 12 * BATCH; n++)
        write_runs(n, 1, BATCH);
    set(&slow.hold_fill, true);
    end_giving_back();
    write_runs(n, 24, BATCH); /* more than was free before */
    set(&slow.hold_fill, false);
    while (look(&slow.filling))
        bare_turn(&b, 1);
    set(&slow.over, true);
    bare_reopen(&b); /* nothing is in a cache */
    expect_filling(n + 24, BATCH);
    bare_end(&b);
}

/* A call that failed may have given back a part all the same. */
static void space_that_was_given_back_in_part_is_filled_before_it_is_used(void)
{
    begin_giving_back(true);
    end_giving_back();
    write_runs(0, 160, BATCH);
    set(&slow.over, true);
    bare_reopen(&b);
    expect_filling(160, BATCH);
    bare_end(&b);
}

/* A discard of many blocks is one range, and no entry of the index. */
static void a_write_gets_what_was_discarded_before_it(void)
{
    struct bare_io stuck;
    bare_begin(&b, STORE_BYTES);
    unsigned n = fill(RUN, &stuck);
    CU_ASSERT_EQUAL(stuck.error, -ENOSPC);
    bare_io_fini(&stuck);
    CU_ASSERT_EQUAL(bare_checkpoint(&b), 0);
    for (unsigned i = 0; i < 8; i++)
        CU_ASSERT_EQUAL(bare_discard(&b, FAR + i * 256, 256), 0);
    CU_ASSERT_EQUAL(bare_write(&b, FAR + (uint64_t)n * RUN, RUN, 12), 0);
    CU_ASSERT(bare_is_sound(&b));
    bare_end(&b);
}

/* Requests that come together need a reserve each until the checkpoint that they make necessary. */
static void requests_that_come_together_wait_for_room_that_a_checkpoint_makes(void)
{
    enum { TOGETHER = 20, BLOCKS = 256 };
    struct bare_io io[TOGETHER];
    bare_begin(&b, STORE_BYTES);
    for (unsigned i = 0; i < TOGETHER; i++)
        bare_submit(&b, &io[i], IMAGE_WRITE, (uint64_t)i * BLOCKS, BLOCKS, 1 + i);
    all_end_well(io, TOGETHER);
    for (unsigned i = 0; i < TOGETHER; i++)
        expect_run((uint64_t)i * BLOCKS, BLOCKS, 1 + i);
    CU_ASSERT(bare_is_sound(&b));
    bare_end(&b);
}

static void a_block_that_rotted_is_an_error_and_costs_no_other(void)
{
    uint8_t block[BDEV_BLOCK_SIZE];
    bare_begin(&b, STORE_BYTES);
    CU_ASSERT_EQUAL(bare_write(&b, 0, 4, 11), 0);
    bare_reopen(&b);
    uint64_t at = bare_address(&b, 1, 11);
    CU_ASSERT_NOT_EQUAL_FATAL(at, 0);
    bare_get(&b, at, block);
    block[4095] ^= 0x40;
    bare_put(&b, at, block);
    CU_ASSERT_EQUAL(bare_read(&b, 0), 11);
    CU_ASSERT_EQUAL(bare_read(&b, 1), -EIO);
    CU_ASSERT_EQUAL(bare_read(&b, 2), 11);
    CU_ASSERT_FALSE(bare_is_sound(&b));
    CU_ASSERT_EQUAL(bare_write(&b, 1, 1, 12), 0); /* written anew it is well again */
    CU_ASSERT_EQUAL(bare_read(&b, 1), 12);
    bare_end(&b);
}

int main(int argc, char **argv)
{
    return unit_main(argc, argv, "space", (struct unit_test[]){
        UNIT(what_a_checkpoint_drops_is_not_used_before_it_commits), UNIT(the_journal_is_not_used_again_before_the_commit),
        UNIT(changes_never_exceed_the_index),
        UNIT(a_block_that_is_being_read_is_not_used_again), UNIT(a_full_store_can_still_checkpoint_discard_and_delete), UNIT(a_write_gets_what_was_discarded_before_it), UNIT(requests_that_come_together_wait_for_room_that_a_checkpoint_makes),
        UNIT(no_number_of_discards_takes_the_reserve_of_a_full_store), UNIT(no_number_of_snapshots_takes_the_reserve_of_a_full_store),
        UNIT(no_number_of_changed_maps_takes_the_reserve_of_a_full_store),
        UNIT(a_check_does_not_keep_the_store_from_growing), UNIT(writes_that_failed_take_no_space),
        UNIT(space_that_could_not_be_given_back_is_not_filled_over_its_users),
        UNIT(space_that_was_given_back_in_part_is_filled_before_it_is_used), UNIT(a_block_that_rotted_is_an_error_and_costs_no_other), { 0 } });
}
