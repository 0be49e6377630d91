/* parallax_recovery_test.c - what recovery believes of a journal, state by state (docs/consistency.md, 4 to 8). */
#include "tests/support/bare.h"
#include "tests/support/engine_pattern.h"
#include "tests/support/unit.h"

#include "base/crc32c.h"
#include "base/endian.h"
#include "parallax/disk.h"
#include "parallax/store/memory.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STORE_BYTES (64ull << 20)

static uint8_t nothing[BDEV_BLOCK_SIZE];
static struct bare b;

static void a_missing_block_below_the_durable_mark_refuses_the_store(void)
{
    bare_begin(&b, STORE_BYTES);
    CU_ASSERT_EQUAL(bare_write(&b, 1, 1, 11), 0);
    CU_ASSERT_EQUAL(bare_flush(&b), 0);
    CU_ASSERT_EQUAL(bare_write(&b, 2, 1, 12), 0); /* its journal block says that the one before is durable */
    bare_put(&b, bare_journal(&b, 1), nothing);
    bare_kill(&b);
    CU_ASSERT_EQUAL(bare_open(&b), -EBADMSG);
    bare_end(&b);
}

static void a_missing_block_above_it_is_a_write_that_did_not_happen(void)
{
    bare_begin(&b, STORE_BYTES);
    CU_ASSERT_EQUAL(bare_write(&b, 1, 1, 11), 0);
    CU_ASSERT_EQUAL(bare_write(&b, 2, 1, 12), 0);
    bare_put(&b, bare_journal(&b, 1), nothing);
    bare_kill(&b);
    CU_ASSERT_EQUAL_FATAL(bare_open(&b), 0);
    CU_ASSERT_EQUAL(bare_read(&b, 1), 0);
    CU_ASSERT_EQUAL(bare_read(&b, 2), 12);
    CU_ASSERT_EQUAL(bare_write(&b, 3, 1, 13), 0);
    bare_kill(&b);
    CU_ASSERT_EQUAL_FATAL(bare_open(&b), 0);
    CU_ASSERT(bare_read(&b, 1) == 0 && bare_read(&b, 2) == 12 && bare_read(&b, 3) == 13);
    CU_ASSERT(bare_is_sound(&b));
    bare_end(&b);
}

/* A power cut leaves `cut` of the journal block at `at`, which holds the write of `block`; that the disk gives it out whole later
 * changes nothing. */
static void is_lost_for_good(uint64_t block, uint64_t at, const void *cut, const void *whole)
{
    bare_put(&b, at, cut);
    bare_kill(&b);
    CU_ASSERT_EQUAL_FATAL(bare_open(&b), 0);
    CU_ASSERT_EQUAL(bare_read(&b, block), 0);
    bare_put(&b, at, whole);
    bare_kill(&b);
    CU_ASSERT_EQUAL_FATAL(bare_open(&b), 0);
    CU_ASSERT_EQUAL(bare_read(&b, block), 0);
}

static void what_was_missing_stays_missing(void)
{
    uint8_t late[BDEV_BLOCK_SIZE];
    bare_begin(&b, STORE_BYTES);
    CU_ASSERT_EQUAL(bare_write(&b, 1, 1, 11), 0);
    CU_ASSERT_EQUAL(bare_write(&b, 2, 1, 12), 0);
    uint64_t at = bare_journal(&b, 1);
    bare_get(&b, at, late);
    is_lost_for_good(1, at, nothing, late);
    CU_ASSERT_EQUAL(bare_read(&b, 2), 12);
    bare_end(&b);
}

/* Judged dead today, a record stays dead, even if its data turn up tomorrow. */
static void what_was_rejected_stays_rejected(void)
{
    uint8_t data[BDEV_BLOCK_SIZE];
    bare_begin(&b, STORE_BYTES);
    CU_ASSERT_EQUAL(bare_write(&b, 1, 1, 11), 0);
    uint64_t at = bare_address(&b, 1, 11);
    CU_ASSERT_NOT_EQUAL_FATAL(at, 0);
    bare_get(&b, at, data);
    bare_put(&b, at, nothing);
    bare_kill(&b);
    CU_ASSERT_EQUAL_FATAL(bare_open(&b), 0);
    bare_put(&b, at, data);
    bare_kill(&b);
    CU_ASSERT_EQUAL_FATAL(bare_open(&b), 0);
    CU_ASSERT_EQUAL(bare_read(&b, 1), 0);
    bare_end(&b);
}

/* A later write of the same place, torn too, could complete a torn block: it must not count then. */
static void a_torn_block_is_not_believed_when_it_is_whole_again(void)
{
    uint8_t whole[BDEV_BLOCK_SIZE], torn[BDEV_BLOCK_SIZE];
    bare_begin(&b, STORE_BYTES);
    bare_reopen(&b); /* nothing else is in the journal */
    CU_ASSERT_EQUAL(bare_write(&b, 1, 1, 11), 0);
    uint64_t at = bare_journal(&b, 0);
    bare_get(&b, at, whole);
    memcpy(torn, whole, sizeof torn);
    memset(torn + 64, 0xa5, 512);
    is_lost_for_good(1, at, torn, whole);
    bare_end(&b);
}

/* After each recovery that found something a new epoch begins: a block of the old one, come back, is nobody's. */
static void a_block_of_an_earlier_epoch_is_not_believed(void)
{
    uint8_t old[BDEV_BLOCK_SIZE];
    bare_begin(&b, STORE_BYTES);
    CU_ASSERT_EQUAL(bare_write(&b, 1, 1, 11), 0);
    CU_ASSERT_EQUAL(bare_write(&b, 2, 1, 12), 0);
    uint64_t at = bare_journal(&b, 0);
    bare_get(&b, at, old);
    is_lost_for_good(2, at, nothing, old); /* the second never arrived; then it does: the disk had kept it back */
    CU_ASSERT_EQUAL(bare_read(&b, 1), 11);
    bare_end(&b);
}

/* Writes of a block each that nobody flushed, and a power cut that takes all of their journal blocks but the last; no checkpoint
 * comes in between, else false. */
static bool lose_all_but_the_last(unsigned writes)
{
    struct store_status status;
    store_get_status(b.store, &status);
    uint64_t checkpoints = status.checkpoints;
    for (unsigned i = 1; i < writes; i++)
        CU_ASSERT_EQUAL_FATAL(bare_write(&b, 1 + i, 1, 100 + i), 0);
    CU_ASSERT_EQUAL_FATAL(bare_write(&b, 1, 1, 11), 0);
    store_get_status(b.store, &status);
    if (status.checkpoints != checkpoints)
        return false;
    for (unsigned back = 1; back < writes; back++)
        bare_put(&b, bare_journal(&b, back), nothing);
    return true;
}

/* However many are missing before it, a write that a power cut left behind is judged at once: it must not lie there until the
 * journal comes near it again, and then undo what was flushed since. */
static void what_a_power_cut_left_far_ahead_does_not_come_back_later(void)
{
    bool met = false;
    for (unsigned tries = 0; tries < 20 && !met; tries++) {
        bare_begin(&b, STORE_BYTES);
        bare_reopen(&b); /* nothing else is in the journal */
        met = lose_all_but_the_last(300);
        bare_kill(&b);
        CU_ASSERT_EQUAL_FATAL(bare_open(&b), 0);
        for (unsigned i = 0; i < 100 && met; i++)
            CU_ASSERT_EQUAL_FATAL(bare_write(&b, 1, 1, 1000 + i), 0);
        CU_ASSERT_EQUAL(bare_flush(&b), 0);
        bare_kill(&b);
        CU_ASSERT_EQUAL_FATAL(bare_open(&b), 0);
        CU_ASSERT(!met || bare_read(&b, 1) == 1099);
        CU_ASSERT(bare_is_sound(&b));
        bare_end(&b);
    }
    CU_ASSERT(met);
}

/* While no flush ends, writes wait rather than go where recovery would not look. */
static void no_more_is_unflushed_than_recovery_looks_at(void)
{
    struct bare_io io;
    unsigned n = 0;
    bare_begin(&b, 1ull << 30); /* a journal larger than what may be unflushed */
    bare_write(&b, 0, 1, 11);
    bare_hold_submitted_flushes(&b);
    bare_hold_flushes(&b); /* of a checkpoint, which would move the mark too */
    for (bool waits = false; !waits && n < 8192; n++) {
        bare_submit(&b, &io, IMAGE_WRITE, n % 64, 1, 1000 + n);
        for (unsigned turns = 0; turns < 300 && io.error == BARE_PENDING; turns++)
            bare_turn(&b, 1);
        waits = io.error == BARE_PENDING;
        if (!waits)
            bare_io_fini(&io);
    }
    CU_ASSERT(n < 4096);
    bare_release(&b);
    CU_ASSERT_EQUAL(bare_io_wait(&b, &io), 0);
    bare_io_fini(&io);
    CU_ASSERT_EQUAL(bare_read(&b, (n - 1) % 64), 1000 + n - 1);
    bare_end(&b);
}

/* The store flushes by itself, and what is known durable is believed unread: so recovery reads little. A flushed block that
 * rotted is an error to its reader, not a write that did not happen. */
static void recovery_does_not_judge_what_the_store_flushed_by_itself(void)
{
    struct store_status status;
    bare_begin(&b, 512ull << 20);
    CU_ASSERT_EQUAL(bare_write(&b, 0, 1, 11), 0);
    uint64_t at = bare_address(&b, 0, 11);
    store_get_status(b.store, &status);
    uint64_t flushes = status.device_flushes, checkpoints = status.checkpoints;
    for (unsigned i = 1; i <= 72; i++) /* MiB; no checkpoint comes in between */
        CU_ASSERT_EQUAL_FATAL(bare_write(&b, i * 256, 255, 100 + i), 0);
    bare_turn(&b, 50);
    store_get_status(b.store, &status);
    CU_ASSERT(status.device_flushes > flushes);
    if (status.checkpoints == checkpoints) { /* else the time that it takes here has brought one */
        CU_ASSERT_EQUAL(bare_write(&b, 1, 1, 12), 0);
        bare_put(&b, at, nothing);
        bare_kill(&b);
        CU_ASSERT_EQUAL_FATAL(bare_open(&b), 0);
        CU_ASSERT_EQUAL(bare_read(&b, 0), -EIO);
        CU_ASSERT_EQUAL(bare_read(&b, 1), 12);
    }
    bare_end(&b);
}

/* Makes the next write's data, or its record, fail: which of the two, the device's seed decides. True: the data. */
static bool fail_one_write(uint64_t block, uint32_t id)
{
    struct store_status status;
    memory_fail_io(&b.backing, &(struct memory_fault){ .kinds = MEMORY_WRITE, .nth = 1, .error = -EIO });
    CU_ASSERT_EQUAL(bare_write(&b, block, 1, id), -EIO);
    memory_fail_io(&b.backing, NULL);
    store_get_status(b.store, &status);
    return !status.failed;
}

/* 1 in 2 tries fails the other part; 40 tries leave no doubt. */
static void a_write_whose_data_failed_is_taken_back(void)
{
    bool met = false;
    for (unsigned tries = 0; tries < 40 && !met; tries++) {
        bare_begin(&b, STORE_BYTES);
        CU_ASSERT_EQUAL(bare_write(&b, 1, 1, 11), 0);
        met = fail_one_write(1, 12);
        if (met) {
            CU_ASSERT_EQUAL(bare_read(&b, 1), 11);
            CU_ASSERT_EQUAL(bare_flush(&b), 0); /* after which its record would be believed unread */
            CU_ASSERT_EQUAL(bare_write(&b, 2, 1, 13), 0);
            bare_kill(&b);
            CU_ASSERT_EQUAL_FATAL(bare_open(&b), 0);
            CU_ASSERT_EQUAL(bare_read(&b, 1), 11);
            CU_ASSERT_EQUAL(bare_read(&b, 2), 13);
            bare_kill(&b); /* by the verdict, this time */
            CU_ASSERT_EQUAL_FATAL(bare_open(&b), 0);
            CU_ASSERT_EQUAL(bare_read(&b, 1), 11);
        }
        bare_end(&b);
    }
    CU_ASSERT(met);
}

/* The answer is -EIO whatever it failed for: who was told that there is no room would make some, or wait for it, in vain. */
static void fail_the_journal(int error)
{
    bool met = false;
    for (unsigned tries = 0; tries < 40 && !met; tries++) {
        struct store_status status;
        bare_begin(&b, STORE_BYTES);
        CU_ASSERT_EQUAL(bare_write(&b, 1, 1, 11), 0);
        memory_fail_io(&b.backing, &(struct memory_fault){ .kinds = MEMORY_WRITE, .nth = 1, .error = error });
        int answer = bare_write(&b, 2, 1, 12);
        memory_fail_io(&b.backing, NULL);
        /* The data are on the device: it was the record that failed. */
        met = bare_address(&b, 2, 12) != 0;
        CU_ASSERT_EQUAL(answer, met ? -EIO : error); /* data that could not be written are taken back, and the store goes on */
        if (met) {
            store_get_status(b.store, &status);
            CU_ASSERT(status.failed);
            CU_ASSERT_EQUAL(bare_write(&b, 3, 1, 13), -EIO);
            CU_ASSERT_EQUAL(bare_discard(&b, 1, 1), -EIO);
            CU_ASSERT_EQUAL(bare_flush(&b), -EIO);
            CU_ASSERT_EQUAL(bare_checkpoint(&b), -EIO);
            CU_ASSERT_EQUAL(bare_read(&b, 1), 11);
            bare_kill(&b);
            CU_ASSERT_EQUAL_FATAL(bare_open(&b), 0);
            CU_ASSERT_EQUAL(bare_read(&b, 1), 11);
            CU_ASSERT_EQUAL(bare_write(&b, 3, 1, 13), 0);
        }
        bare_end(&b);
    }
    CU_ASSERT(met);
}

static void a_failed_journal_write_fails_the_store(void) { fail_the_journal(-EIO); }
static void a_journal_that_finds_no_room_fails_the_store_as_well(void) { fail_the_journal(-ENOSPC); }

#define GROUP 100u

/* A group of that many long names: its record takes several journal blocks. */
static void take_large_group(void)
{
    static char text[GROUP][IMAGE_TARGET_SIZE];
    const char *all[GROUP];
    struct bare_run run;
    bare_arm(&run);
    image_clone_many(b.store, &run.op, "a", "clone-", 0, GROUP);
    CU_ASSERT_EQUAL_FATAL(bare_wait(&b, &run), 0);
    for (unsigned i = 0; i < GROUP; i++) {
        snprintf(text[i], sizeof text[i], "clone-%u@%0100u", i, i);
        all[i] = text[i];
    }
    bare_arm(&run);
    snapshot_create(b.store, &run.op, all, GROUP);
    CU_ASSERT_EQUAL_FATAL(bare_wait(&b, &run), 0);
}

static unsigned snapshots(void)
{
    struct store_status status;
    store_get_status(b.store, &status);
    return (unsigned)status.snapshots;
}

static void a_change_of_several_blocks_is_there_whole_or_not_at_all(void)
{
    for (unsigned back = 0; back < 4; back++) {
        bare_begin(&b, STORE_BYTES);
        take_large_group();
        CU_ASSERT_EQUAL(snapshots(), GROUP);
        if (back < 3)
            bare_put(&b, bare_journal(&b, back), nothing);
        bare_kill(&b);
        CU_ASSERT_EQUAL_FATAL(bare_open(&b), 0);
        CU_ASSERT_EQUAL(snapshots(), back < 3 ? 0 : GROUP);
        CU_ASSERT(bare_is_sound(&b));
        bare_end(&b);
    }
}

/* Begins an operation, which is made true in memory and cannot become durable; how many journal blocks it took. */
static void begin_unflushed(struct bare_run *run, void (*begin)(struct bare_run *run))
{
    bare_hold_submitted_flushes(&b);
    bare_hold_flushes(&b);
    bare_arm(run);
    begin(run);
    bare_turn(&b, 20);
    CU_ASSERT_FALSE(run->done);
}

static const char *const snapshot = "a@s", *const other = "other";

static void begin_create(struct bare_run *run) { image_create(b.store, &run->op, other, 1u << 20); }
static void begin_snapshot(struct bare_run *run) { snapshot_create(b.store, &run->op, &snapshot, 1); }
static void begin_clone(struct bare_run *run) { image_clone(b.store, &run->op, snapshot, other); }
static void begin_removal(struct bare_run *run) { snapshot_delete(b.store, &run->op, &snapshot, 1, false); }
static void begin_growth(struct bare_run *run) { image_resize(b.store, &run->op, "a", (1ull << 30) + (1u << 20), false); }

static bool is_there(const char *target)
{
    struct image_info info;
    return store_find(b.store, target, &info, NULL) == 0;
}

/* The store dies, and of its journal the block that has so many behind it is lost. Opened twice, the second time by the verdict. */
static void die_without(unsigned back)
{
    bare_put(&b, bare_journal(&b, back), nothing);
    bare_kill(&b);
    CU_ASSERT_EQUAL_FATAL(bare_open(&b), 0);
    CU_ASSERT(bare_is_sound(&b));
    bare_kill(&b);
    CU_ASSERT_EQUAL_FATAL(bare_open(&b), 0);
}

static void write_to(const char *name, uint32_t id)
{
    struct image_open_options io = { .mode = IMAGE_READ_WRITE };
    struct image *own = b.img;
    CU_ASSERT_EQUAL_FATAL(image_open(b.store, name, &io, &b.img, &b.err), 0);
    CU_ASSERT_EQUAL(bare_write(&b, 1, 2, id), 0);
    CU_ASSERT_EQUAL(bare_discard(&b, 1, 1), 0);
    CU_ASSERT_EQUAL(bare_discard(&b, 2, 100), 0);
    image_close(b.img);
    b.img = own;
}

/* Whoever sees what an operation has made can go on from there before it is durable; a power cut may keep that alone. */
static void what_was_made_upon_a_lost_change_is_lost_with_it(void)
{
    struct bare_run first, second;
    static void (*const upon[])(struct bare_run *run) = { begin_clone, begin_removal };
    for (unsigned i = 0; i < 2; i++) {
        bare_begin(&b, STORE_BYTES);
        CU_ASSERT_EQUAL(bare_write(&b, 1, 1, 11), 0);
        CU_ASSERT_EQUAL(bare_flush(&b), 0);
        begin_unflushed(&first, begin_snapshot);
        begin_unflushed(&second, upon[i]);
        CU_ASSERT_EQUAL(bare_write(&b, 2, 1, 12), 0); /* to what was there before: acknowledged, and kept */
        die_without(2);
        CU_ASSERT_FALSE(is_there(snapshot));
        CU_ASSERT_FALSE(is_there(other));
        CU_ASSERT(bare_read(&b, 1) == 11 && bare_read(&b, 2) == 12);
        CU_ASSERT_EQUAL(bare_write(&b, 1, 1, 13), 0);
        CU_ASSERT_EQUAL(bare_checkpoint(&b), 0);
        CU_ASSERT(bare_is_sound(&b));
        bare_end(&b);
    }
}

static void what_was_written_into_an_image_that_was_lost_is_lost_with_it(void)
{
    struct bare_run first;
    bare_begin(&b, STORE_BYTES);
    begin_unflushed(&first, begin_create);
    write_to(other, 12);
    die_without(3);
    CU_ASSERT_FALSE(is_there(other));
    CU_ASSERT_EQUAL(bare_write(&b, 2, 1, 13), 0);
    CU_ASSERT(bare_is_sound(&b));
    bare_end(&b);
}

/* It would be seen when the image grows again. */
static void what_was_written_behind_an_end_that_was_lost_is_lost_with_it(void)
{
    struct bare_run first;
    bare_begin(&b, STORE_BYTES);
    begin_unflushed(&first, begin_growth);
    CU_ASSERT_EQUAL(bare_write(&b, 1u << 18, 1, 12), 0);
    die_without(1);
    bare_arm(&first);
    begin_growth(&first);
    CU_ASSERT_EQUAL(bare_wait(&b, &first), 0);
    CU_ASSERT_EQUAL(bare_read(&b, 1u << 18), 0);
    CU_ASSERT(bare_is_sound(&b));
    bare_end(&b);
}

/* It is acknowledged then, and the end of the process must not take the image along. */
static void a_write_waits_for_the_record_of_its_image(void)
{
    struct bare_run first;
    struct bare_io write;
    struct image_open_options io = { .mode = IMAGE_READ_WRITE };
    struct image *own;
    bare_begin(&b, STORE_BYTES);
    bare_hold_writes(&b);
    bare_arm(&first);
    begin_create(&first);
    bare_turn(&b, 20);
    CU_ASSERT_EQUAL(bare_writes_held(&b), 1);
    own = b.img;
    CU_ASSERT_EQUAL_FATAL(image_open(b.store, other, &io, &b.img, &b.err), 0);
    bare_submit(&b, &write, IMAGE_WRITE, 1, 1, 12);
    bare_turn(&b, 20);
    CU_ASSERT_EQUAL(bare_writes_held(&b), 1);
    bare_release(&b);
    CU_ASSERT_EQUAL(bare_wait(&b, &first), 0);
    CU_ASSERT_EQUAL(bare_io_wait(&b, &write), 0);
    bare_io_fini(&write);
    CU_ASSERT_EQUAL(bare_read(&b, 1), 12);
    image_close(b.img);
    b.img = own;
    bare_end(&b);
}

/* Likewise for what lies behind an end that has moved. */
static void a_write_waits_for_the_record_of_its_end(void)
{
    struct bare_run first;
    struct bare_io write;
    bare_begin(&b, STORE_BYTES);
    bare_hold_writes(&b);
    bare_arm(&first);
    begin_growth(&first);
    bare_turn(&b, 20);
    CU_ASSERT_EQUAL(bare_writes_held(&b), 1);
    bare_submit(&b, &write, IMAGE_WRITE, 1u << 18, 1, 12);
    bare_turn(&b, 20);
    CU_ASSERT_EQUAL(bare_writes_held(&b), 1);
    bare_release(&b);
    CU_ASSERT_EQUAL(bare_io_wait(&b, &write), 0);
    bare_io_fini(&write);
    CU_ASSERT_EQUAL(bare_wait(&b, &first), 0);
    CU_ASSERT_EQUAL(bare_read(&b, 1u << 18), 12);
    bare_end(&b);
}

static int io_error;

static void io_ended(struct image_req *req, int error)
{
    (void)req;
    io_error = error;
}

/* A power cut could keep the record of the name and lose what was written before it. */
static void an_import_gets_its_name_when_what_was_written_is_durable(void)
{
    struct bare_run run;
    struct image_info info;
    void *memory = bdev_buffer_alloc(1);
    struct iovec iov = { memory, BDEV_BLOCK_SIZE };
    struct image_req write = { .op = IMAGE_WRITE, .length = BDEV_BLOCK_SIZE, .iov = &iov, .iov_count = 1, .done = io_ended };
    bare_begin(&b, STORE_BYTES);
    bare_arm(&run);
    image_import_begin(b.store, &run.op, BDEV_BLOCK_SIZE);
    CU_ASSERT_EQUAL_FATAL(bare_wait(&b, &run), 0);
    struct image *img = run.op.image;
    memset(memory, 0x5a, BDEV_BLOCK_SIZE);
    io_error = BARE_PENDING;
    for (image_submit(img, &write); io_error == BARE_PENDING;)
        bare_turn(&b, 1);
    CU_ASSERT_EQUAL(io_error, 0);
    bare_hold_submitted_flushes(&b);
    bare_hold_flushes(&b);
    bare_arm(&run);
    image_import_finish(img, &run.op, "imported", false);
    bare_turn(&b, 100);
    CU_ASSERT_EQUAL(store_find(b.store, "imported", &info, &b.err), -ENOENT);
    bare_release(&b);
    CU_ASSERT_EQUAL(bare_wait(&b, &run), 0);
    image_close(img);
    CU_ASSERT_EQUAL(store_find(b.store, "imported", &info, &b.err), 0);
    bare_end(&b);
    free(memory);
}

static void the_second_superblock_serves_when_the_first_is_damaged(void)
{
    bare_begin(&b, STORE_BYTES);
    CU_ASSERT_EQUAL(bare_write(&b, 1, 1, 11), 0);
    bare_put(&b, 0, nothing);
    bare_kill(&b);
    CU_ASSERT_EQUAL_FATAL(bare_open(&b), 0);
    CU_ASSERT_EQUAL(bare_read(&b, 1), 11);
    bare_put(&b, 1, nothing);
    bare_kill(&b);
    CU_ASSERT_EQUAL(bare_open(&b), -EBADMSG);
    bare_end(&b);
}

/* Sets a bit of the superblock in both copies, with a right checksum. */
static void set_features(unsigned byte, uint8_t features)
{
    uint8_t block[BDEV_BLOCK_SIZE];
    bare_get(&b, 0, block);
    block[byte] = features;
    put_le32(block + 12, 0);
    put_le32(block + 12, crc32c(0, block, sizeof block));
    for (unsigned i = 0; i < 2; i++)
        bare_put(&b, i, block);
}

static void features_of_a_later_version_are_refused_but_for_compatible_ones(void)
{
    static const struct { unsigned byte; int answer; } bits[] = { { 16, -EPROTONOSUPPORT }, { 24, -EPROTONOSUPPORT }, { 32, 0 } };
    for (unsigned i = 0; i < 3; i++) {
        bare_begin(&b, STORE_BYTES);
        set_features(bits[i].byte, 4);
        bare_kill(&b);
        CU_ASSERT_EQUAL(bare_open(&b), bits[i].answer);
        bare_end(&b);
    }
}

/* As a power cut may leave it that comes before the flush of the next commit; that of the note of the last one is no other. */
static void an_announcement_that_is_not_whole_leaves_the_one_before_it(void)
{
    uint8_t block[BDEV_BLOCK_SIZE], seed[BDEV_BLOCK_SIZE], before[BDEV_BLOCK_SIZE];
    bare_begin(&b, STORE_BYTES);
    bare_get(&b, 0, seed);
    for (uint32_t i = 1; i <= 4; i++) {
        CU_ASSERT_EQUAL(bare_write(&b, 0, 10, i), 0);
        CU_ASSERT_EQUAL(bare_checkpoint(&b), 0);
        bare_kill(&b);
        bare_get(&b, TIME_COMMITTED, block);
        uint64_t now = time_decode(block, get_le32(seed + 56));
        CU_ASSERT(now > 1);
        memset(block, 0xa5, sizeof block);
        bare_get(&b, TIME_ANNOUNCED + (now + 1) % 2, before);
        bare_put(&b, TIME_ANNOUNCED + (now + 1) % 2, block);
        bare_put(&b, TIME_COMMITTED, block);
        CU_ASSERT_EQUAL_FATAL(bare_open(&b), 0);
        CU_ASSERT_EQUAL(bare_read(&b, 9), i);
        bare_put(&b, TIME_ANNOUNCED + (now + 1) % 2, before); /* what a commit that is not announced would leave there */
    }
    CU_ASSERT(bare_is_sound(&b));
    bare_end(&b);
}

/* It has none of the blocks that tell the time, and gets none. */
static void a_store_from_before_there_were_times_goes_on_without(void)
{
    static const uint8_t zero[BDEV_BLOCK_SIZE];
    uint8_t block[BDEV_BLOCK_SIZE];
    bare_begin(&b, STORE_BYTES);
    bare_kill(&b);
    set_features(24, 0);
    for (uint64_t i = TIME_ANNOUNCED; i <= TIME_COMMITTED; i++)
        bare_put(&b, i, zero);
    CU_ASSERT_EQUAL_FATAL(bare_open(&b), 0);
    for (uint32_t i = 1; i <= 3; i++) {
        CU_ASSERT_EQUAL(bare_write(&b, 0, 200, i), 0);
        CU_ASSERT_EQUAL(bare_checkpoint(&b), 0);
        bare_kill(&b);
        CU_ASSERT_EQUAL_FATAL(bare_open(&b), 0);
        CU_ASSERT_EQUAL(bare_read(&b, 199), i);
    }
    for (uint64_t i = TIME_ANNOUNCED; i <= TIME_COMMITTED; i++) {
        bare_get(&b, i, block);
        CU_ASSERT_FALSE(memcmp(block, zero, sizeof zero));
    }
    CU_ASSERT(bare_is_sound(&b));
    bare_end(&b);
}

/* Nothing is taken from it: what it said was free may hold anything. */
static void a_space_map_page_that_cannot_be_read_gives_no_space(void)
{
    bare_begin(&b, STORE_BYTES);
    CU_ASSERT_EQUAL(bare_write(&b, 0, 200, 11), 0);
    bare_reopen(&b);
    uint64_t zone = bare_address(&b, 0, 11) & ~15ull, at = zone;
    uint8_t block[BDEV_BLOCK_SIZE];
    for (bare_get(&b, at, block); at && memcmp(block, "PSPM", 4); bare_get(&b, at, block))
        at--; /* the copies of its first page lie at the head of the zone */
    CU_ASSERT_NOT_EQUAL_FATAL(at, 0);
    for (uint64_t i = at - 8; i <= at + 8; i++) {
        bare_get(&b, i, block);
        if (!memcmp(block, "PSPM", 4))
            bare_put(&b, i, nothing);
    }
    bare_kill(&b);
    CU_ASSERT_EQUAL_FATAL(bare_open(&b), 0);
    CU_ASSERT_EQUAL(bare_read(&b, 199), 11);
    for (unsigned i = 0; i < 40; i++)
        (void)bare_write(&b, 1000 + i, 1, 12); /* there may be no space at all */
    for (unsigned i = 0; i < 200; i++)
        CU_ASSERT_EQUAL(bare_read(&b, i), 11);
    bare_kill(&b);
    bare_end(&b);
}

int main(int argc, char **argv)
{
    return unit_main(argc, argv, "recovery", (struct unit_test[]){
        UNIT(a_missing_block_below_the_durable_mark_refuses_the_store), UNIT(a_missing_block_above_it_is_a_write_that_did_not_happen),
        UNIT(what_was_rejected_stays_rejected), UNIT(what_was_missing_stays_missing), UNIT(a_torn_block_is_not_believed_when_it_is_whole_again),
        UNIT(a_block_of_an_earlier_epoch_is_not_believed), UNIT(what_a_power_cut_left_far_ahead_does_not_come_back_later),
        UNIT(no_more_is_unflushed_than_recovery_looks_at), UNIT(recovery_does_not_judge_what_the_store_flushed_by_itself),
        UNIT(a_write_whose_data_failed_is_taken_back), UNIT(a_failed_journal_write_fails_the_store),
        UNIT(a_journal_that_finds_no_room_fails_the_store_as_well),
        UNIT(a_change_of_several_blocks_is_there_whole_or_not_at_all), UNIT(an_import_gets_its_name_when_what_was_written_is_durable),
        UNIT(what_was_made_upon_a_lost_change_is_lost_with_it), UNIT(what_was_written_into_an_image_that_was_lost_is_lost_with_it),
        UNIT(what_was_written_behind_an_end_that_was_lost_is_lost_with_it), UNIT(a_write_waits_for_the_record_of_its_image),
        UNIT(a_write_waits_for_the_record_of_its_end),
        UNIT(the_second_superblock_serves_when_the_first_is_damaged),
        UNIT(features_of_a_later_version_are_refused_but_for_compatible_ones), UNIT(a_store_from_before_there_were_times_goes_on_without), UNIT(an_announcement_that_is_not_whole_leaves_the_one_before_it),
        UNIT(a_space_map_page_that_cannot_be_read_gives_no_space),
        { 0 } });
}
