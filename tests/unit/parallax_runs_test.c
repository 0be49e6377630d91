/* parallax_runs_test.c - the runs that data goes to: written ahead of need if guests flush often, and nobody's while they are. */
#include "parallax/disk.h"
#include "parallax/parallax_private.h"
#include "tests/support/bare.h"
#include "tests/support/unit.h"

#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>

#define STORE_BYTES (192ull << 20)
#define IMAGE_BLOCKS 65536u

/* Between the store and its device: zeroes take their time, and whoever writes to such a place meanwhile is seen. */
static struct {
    struct bdev_ops ops;
    const struct bdev_ops *own;
    pthread_mutex_t lock;
    uint64_t from, to; /* under lock */
    atomic_uint zeroed, intrusions;
    atomic_ullong zeroed_blocks;
    atomic_int error, ms;
} spy = { .lock = PTHREAD_MUTEX_INITIALIZER };

static struct bare b;

static void look(uint64_t block, uint64_t blocks)
{
    pthread_mutex_lock(&spy.lock);
    spy.intrusions += block < spy.to && spy.from < block + blocks;
    pthread_mutex_unlock(&spy.lock);
}

static void submit(struct bdev *d, struct bdev_req *req)
{
    if (req->op == BDEV_WRITE)
        look(req->block, req->blocks);
    spy.own->submit(d, req);
}

static int write_blocks(struct bdev *d, uint64_t block, const void *buf, uint32_t blocks)
{
    look(block, blocks);
    return spy.own->write(d, block, buf, blocks);
}

static int write_many(struct bdev *d, const uint64_t *blocks, void *const *bufs, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        look(blocks[i], 1);
    return spy.own->write_many(d, blocks, bufs, count);
}

static int punch(struct bdev *d, uint64_t block, uint64_t blocks)
{
    look(block, blocks);
    return spy.own->punch(d, block, blocks);
}

static void set_range(uint64_t from, uint64_t to)
{
    pthread_mutex_lock(&spy.lock);
    spy.from = from;
    spy.to = to;
    pthread_mutex_unlock(&spy.lock);
}

static int zero(struct bdev *d, uint64_t block, uint64_t blocks)
{
    (void)d;
    set_range(block, block + blocks);
    poll(NULL, 0, spy.ms);
    set_range(0, 0);
    spy.zeroed++;
    spy.zeroed_blocks += blocks;
    return spy.error;
}

static void begin(void)
{
    bare_begin(&b, STORE_BYTES);
    struct bdev *d = b.backing.blocks;
    spy.own = d->ops;
    spy.ops = *d->ops;
    spy.ops.submit = submit;
    spy.ops.write = write_blocks;
    spy.ops.write_many = write_many;
    spy.ops.punch = punch;
    spy.ops.zero = zero;
    spy.zeroed = spy.intrusions = 0;
    spy.zeroed_blocks = 0;
    spy.error = 0;
    spy.ms = 30;
    d->ops = &spy.ops;
}

static void end(void)
{
    CU_ASSERT_EQUAL(spy.intrusions, 0);
    CU_ASSERT(bare_is_sound(&b));
    bare_reopen(&b); /* waits for what is under way */
    b.backing.blocks->ops = spy.own;
    bare_end(&b);
}

static int write_random(uint64_t *seed, uint32_t blocks) { return bare_write(&b, unit_random(seed) % (IMAGE_BLOCKS - blocks), blocks, 1 + (uint32_t)(unit_random(seed) % 1000)); }

/* Writes, each of them flushed, until zeroes have gone ahead so often: how soon that is, the machine's load decides. */
static void write_flushed(uint64_t *seed, unsigned zeroed)
{
    for (unsigned i = 0; i < 1000000 && (spy.zeroed < zeroed || b.store->readying); i++) {
        CU_ASSERT_EQUAL_FATAL(write_random(seed, 1), 0);
        CU_ASSERT_EQUAL_FATAL(bare_flush(&b), 0);
    }
    CU_ASSERT(spy.zeroed >= zeroed);
}

static void zeroes_go_ahead_of_data_that_is_flushed(void)
{
    uint64_t seed = unit_seed();
    begin();
    spy.ms = 200; /* runs are used up meanwhile */
    write_flushed(&seed, 1);
    spy.ms = 1;
    write_flushed(&seed, 3);
    CU_ASSERT(spy.zeroed_blocks >= 3 * 512);
    unsigned before = spy.zeroed;
    for (unsigned i = 0; i < 200; i++)
        CU_ASSERT_EQUAL_FATAL(write_random(&seed, 64), 0);
    CU_ASSERT(spy.zeroed <= before + 1); /* the one that was begun for the run before */
    end();
}

/* What is ready is still free: it counts as such, and a checkpoint may have it. */
static void what_is_ready_is_not_used(void)
{
    uint64_t seed = unit_seed();
    struct store_status before, after;
    begin();
    CU_ASSERT_EQUAL_FATAL(write_random(&seed, 1), 0);
    store_get_status(b.store, &before);
    for (unsigned i = 0; i < 1000000 && (!b.store->readying && b.store->ahead.next == b.store->ahead.end); i++) {
        CU_ASSERT_EQUAL_FATAL(bare_write(&b, 7, 1, 1 + i % 2), 0);
        CU_ASSERT_EQUAL_FATAL(bare_flush(&b), 0);
    }
    for (unsigned i = 0; i < 20000 && b.store->readying; i++) {
        store_get_status(b.store, &after);
        CU_ASSERT(after.used_bytes < before.used_bytes + (4u << 20));
        bare_turn(&b, 1);
    }
    CU_ASSERT(!b.store->readying && b.store->ahead.next < b.store->ahead.end);
    CU_ASSERT_EQUAL_FATAL(bare_checkpoint(&b), 0);
    store_get_status(b.store, &after);
    CU_ASSERT(after.used_bytes < before.used_bytes + (4u << 20));
    end();
}

/* Filled, emptied, its limit moved, looked through and mended, beside flushes without end. */
static void what_is_being_written_is_not_to_be_had(void)
{
    static const uint64_t sizes[] = { STORE_BYTES, STORE_BYTES / 4, STORE_BYTES / 2, STORE_BYTES };
    uint64_t seed = unit_seed();
    unsigned refused = 0, moved = 0;
    begin();
    for (unsigned i = 0; i < 14000; i++) {
        uint32_t blocks = i / 2000 % 2 ? 1 + (uint32_t)(unit_random(&seed) % 64) : 1;
        int err = write_random(&seed, blocks);
        CU_ASSERT_FATAL(err == 0 || err == -ENOSPC);
        refused += err == -ENOSPC;
        CU_ASSERT_EQUAL_FATAL(bare_flush(&b), 0);
        if (err || unit_random(&seed) % 3000 == 0) {
            for (uint32_t at = 0; at < IMAGE_BLOCKS; at += 8192) {
                err = bare_discard(&b, at, 8192);
                CU_ASSERT(err == 0 || err == -ENOSPC);
            }
        }
        if (unit_random(&seed) % (b.store->readying ? 6 : 500) == 0) {
            struct bare_run run;
            bare_arm(&run);
            store_resize(b.store, &run.op, sizes[unit_random(&seed) % 4]);
            moved += bare_wait(&b, &run) == 0;
        }
        if (unit_random(&seed) % 700 == 0) {
            struct store_check_result result;
            struct bare_run run;
            bare_arm(&run);
            store_check(b.store, &run.op, STORE_CHECK_COLLECT, NULL, NULL, &result);
            CU_ASSERT_EQUAL(bare_wait(&b, &run), 0);
            CU_ASSERT_EQUAL(result.mended, 0);
        }
    }
    for (uint32_t at = 0; !bare_write(&b, at % IMAGE_BLOCKS, 64, 1 + at % 999) && at < 2 * IMAGE_BLOCKS; at += 64)
        CU_ASSERT_EQUAL_FATAL(bare_flush(&b), 0);
    printf("# %u times %llu blocks, %u refused, limit moved %u times\n", spy.zeroed, spy.zeroed_blocks, refused, moved);
    CU_ASSERT(spy.zeroed > 1 && moved > 3);
    CU_ASSERT_EQUAL(b.store->stats.overdrawn_blocks, 0);
    end();
}

/* A block in use that the map calls free is not taken for one that was given away because it is being made ready; nor is the wait
 * for that filled with checkpoints. */
static void a_repair_waits_for_what_is_being_written(void)
{
    begin();
    struct space *sp = &b.store->space;
    runs_return(b.store);
    sp->cursor_page = 0;
    sp->cursor = 2000;
    CU_ASSERT_EQUAL_FATAL(bare_write(&b, 77, 1, 1001), 0);
    for (unsigned i = 0; i < 200; i++)
        CU_ASSERT_FATAL(bare_write(&b, 7, 1, 1 + i % 2) == 0 && bare_flush(&b) == 0);
    while (b.store->readying)
        bare_turn(&b, 1);
    runs_return(b.store);
    CU_ASSERT_EQUAL_FATAL(bare_checkpoint(&b), 0);
    uint64_t address = bare_address(&b, 77, 1001), i = address - sp->zone_start;
    sp->image[i / 64] &= ~(1ull << i % 64);
    sp->page_dirty[i / PAGE_BLOCKS] = 1;
    space_give_back(sp, address, 1);
    sp->cursor = 0;
    spy.ms = 1000;
    CU_ASSERT_EQUAL_FATAL(bare_write(&b, 7, 1, 3), 0);
    CU_ASSERT_FATAL(b.store->readying && b.store->ahead.next <= address && address < b.store->ahead.end);
    struct store_check_result result;
    struct bare_run run;
    uint64_t before = b.store->stats.checkpoints;
    bare_arm(&run);
    store_check(b.store, &run.op, STORE_CHECK_REPAIR, NULL, NULL, &result);
    CU_ASSERT_EQUAL(bare_wait(&b, &run), 0);
    CU_ASSERT(result.wrongly_free == 1 && result.mended == 1);
    CU_ASSERT(b.store->stats.checkpoints - before < 10);
    CU_ASSERT_EQUAL(bare_read(&b, 77), 1001);
    spy.ms = 1;
    end();
}

/* A device that cannot write zeroes has not failed to write data. */
static void what_cannot_be_written_ahead_is_used_all_the_same(void)
{
    uint64_t seed = unit_seed();
    begin();
    spy.error = -EIO;
    write_flushed(&seed, 2);
    CU_ASSERT_EQUAL(b.store->failed, 0);
    end();
}

int main(int argc, char **argv)
{
    return unit_main(argc, argv, "runs", (struct unit_test[]){
        UNIT(zeroes_go_ahead_of_data_that_is_flushed), UNIT(what_is_ready_is_not_used), UNIT(what_is_being_written_is_not_to_be_had),
        UNIT(a_repair_waits_for_what_is_being_written), UNIT(what_cannot_be_written_ahead_is_used_all_the_same), { 0 } });
}
