/* parallax_holes_test.c - free space and the file system below: what is freed goes back to it, is taken again when needed, and
 * nothing is lost on the way. On a real file, because its holes are what this is about. */
#include "parallax/parallax_private.h"

#include "base/clock.h"
#include "tests/support/engine_fail.h"
#include "tests/support/rig.h"
#include "tests/support/unit.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define MIB (1ull << 20)
#define BLOCKS(mib) ((mib) * 256)

static bool has_shrunk(struct rig *r, void *ctx) { return rig_allocated_bytes(r) <= *(uint64_t *)ctx; }

static void start(struct rig *r, const char *test, uint64_t size_bytes)
{
    engine_where = (struct engine_where){ test, 0, 0 };
    rig_start(r, NULL, size_bytes);
    rig_close(r);
    r->options.trim_after_ms = 50;
    r->options.spare_bytes = 2 * MIB;
    rig_open(r);
}

static void discarded_space_goes_back_to_the_file_system_and_is_taken_again(void)
{
    struct rig r;
    start(&r, __func__, 1024 * MIB);
    rig_create(&r, "disk", 256 * MIB);
    struct image *img = rig_image(&r, "disk", IMAGE_READ_WRITE);
    uint64_t empty = rig_allocated_bytes(&r), want;
    for (uint32_t round = 1; round <= 2; round++) {
        CU_ASSERT_EQUAL(rig_write(&r, img, 0, BLOCKS(60), round), 0);
        CU_ASSERT(rig_allocated_bytes(&r) >= empty + 40 * MIB);
        CU_ASSERT_EQUAL(rig_discard(&r, img, BLOCKS(4), BLOCKS(56)), 0);
        rig_checkpoint(&r);
        want = empty + 16 * MIB;
        rig_wait(&r, has_shrunk, &want, "the file's shrinking");
        rig_expect(&r, img, 0, BLOCKS(4), round);
        rig_expect(&r, img, BLOCKS(4), BLOCKS(56), 0);
        CU_ASSERT(rig_status(&r).trimmed_bytes >= 30 * MIB * round);
    }
    CU_ASSERT(rig_status(&r).present_bytes <= want);
    CU_ASSERT_EQUAL(rig_status(&r).capacity_bytes, 1024 * MIB);
    image_close(img);
    CU_ASSERT(rig_is_sound(&r));
    rig_end(&r);
}

/* The holes are found again, and everything can still be written. */
static void holes_are_known_after_opening_again(void)
{
    struct rig r;
    start(&r, __func__, 96 * MIB);
    rig_create(&r, "kept", 16 * MIB);
    rig_create(&r, "gone", 64 * MIB);
    struct image *kept = rig_image(&r, "kept", IMAGE_READ_WRITE), *gone = rig_image(&r, "gone", IMAGE_READ_WRITE);
    CU_ASSERT_EQUAL(rig_write(&r, gone, 0, BLOCKS(20), 1), 0);
    CU_ASSERT_EQUAL(rig_write(&r, kept, 0, BLOCKS(10), 1), 0);
    CU_ASSERT_EQUAL(rig_write(&r, gone, BLOCKS(20), BLOCKS(24), 1), 0);
    image_close(gone);
    image_close(kept);
    rig_delete(&r, "gone");
    rig_settle(&r);
    rig_close(&r); /* gives back at its end, except for what a load may take again */
    rig_open(&r);
    rig_close(&r);
    uint64_t there = rig_allocated_bytes(&r);
    CU_ASSERT(there < 40 * MIB);
    rig_open(&r);
    struct store_status st = rig_status(&r);
    CU_ASSERT(st.present_bytes < there + 2 * MIB);
    CU_ASSERT(st.used_bytes >= 10 * MIB && st.used_bytes < 20 * MIB);
    CU_ASSERT_EQUAL(st.capacity_bytes, 96 * MIB);
    rig_create(&r, "again", 64 * MIB);
    struct image *again = rig_image(&r, "again", IMAGE_READ_WRITE);
    kept = rig_image(&r, "kept", IMAGE_READ_WRITE);
    CU_ASSERT_EQUAL(rig_write(&r, again, 0, BLOCKS(60), 2), 0);
    rig_expect(&r, again, 0, BLOCKS(60), 2);
    rig_expect(&r, kept, 0, BLOCKS(10), 1);
    image_close(again);
    image_close(kept);
    CU_ASSERT(rig_is_sound(&r));
    rig_end(&r);
}

/* Copied by a program that leaves zeroes out, also those of the journal and of what is kept ready. */
static void what_was_written_lately_stays_at_hand_when_the_store_closes(void)
{
    struct rig r;
    start(&r, __func__, 256 * MIB);
    rig_close(&r);
    r.options.trim_after_ms = 3600000;
    r.options.spare_bytes = 4 * MIB; /* what is kept in any case does not depend on the store's size then */
    rig_open(&r);
    rig_create(&r, "disk", 160 * MIB);
    struct image *img = rig_image(&r, "disk", IMAGE_READ_WRITE);
    CU_ASSERT_EQUAL(rig_write(&r, img, 0, BLOCKS(160), 1), 0);
    CU_ASSERT_EQUAL(rig_discard(&r, img, 0, BLOCKS(80)), 0);
    image_close(img);
    rig_close(&r);
    uint64_t used, kept = rig_allocated_bytes(&r), all;
    rig_open(&r);
    used = rig_status(&r).used_bytes;
    printf("# %llu MiB in use, %llu MiB kept\n", (unsigned long long)(used / MIB), (unsigned long long)(kept / MIB));
    /* An eighth of what was allocated, and what is kept in any case. */
    CU_ASSERT(kept >= used + 38 * MIB && kept <= used + 70 * MIB);
    rig_close(&r); /* nothing was written this time */
    all = rig_allocated_bytes(&r);
    CU_ASSERT(all + 10 * MIB <= kept);
    rig_end(&r);
}

static bool is_over(struct rig *r, void *ctx)
{
    (void)r;
    return clock_monotonic_ms() >= *(uint64_t *)ctx;
}

/* However long a growth is, what it has allocated ahead is not taken for waste. */
static void what_was_grown_is_not_given_back_at_once(void)
{
    struct rig r;
    start(&r, __func__, 2048 * MIB);
    rig_close(&r);
    r.options.spare_bytes = 128 * MIB; /* so that it grows by 256 MiB */
    rig_open(&r);
    rig_create(&r, "disk", 512 * MIB);
    struct image *img = rig_image(&r, "disk", IMAGE_READ_WRITE);
    for (unsigned i = 0; i < 8; i++) {
        CU_ASSERT_EQUAL(rig_write(&r, img, BLOCKS(i * 8), BLOCKS(8), i + 1), 0);
        rig_checkpoint(&r);
        uint64_t until = clock_monotonic_ms() + 200;
        rig_wait(&r, is_over, &until, "some time");
    }
    printf("# %llu MiB allocated\n", (unsigned long long)(rig_allocated_bytes(&r) / MIB));
    CU_ASSERT(rig_allocated_bytes(&r) > 256 * MIB);
    CU_ASSERT_EQUAL(rig_status(&r).trimmed_bytes, 0);
    image_close(img);
    rig_end(&r);
}

static void in_directory(const struct rig *r, const char *commands)
{
    char command[700];
    snprintf(command, sizeof command, "cd '%s' && %s", r->directory, commands);
    CU_ASSERT_EQUAL(system(command), 0);
}

static void a_store_copied_without_its_zeroes_is_whole(void)
{
    struct rig r;
    start(&r, __func__, 128 * MIB);
    rig_create(&r, "disk", 64 * MIB);
    struct image *img = rig_image(&r, "disk", IMAGE_READ_WRITE);
    CU_ASSERT_EQUAL(rig_write(&r, img, 0, BLOCKS(8), 1), 0);
    image_close(img);
    rig_close(&r);
    in_directory(&r, "cp --sparse=always blocks copy && mv copy blocks");
    CU_ASSERT(rig_allocated_bytes(&r) < 24 * MIB);
    rig_open(&r);
    img = rig_image(&r, "disk", IMAGE_READ_WRITE);
    rig_expect(&r, img, 0, BLOCKS(8), 1);
    CU_ASSERT_EQUAL(rig_write(&r, img, BLOCKS(4), BLOCKS(30), 2), 0);
    rig_expect(&r, img, 0, BLOCKS(4), 1);
    rig_expect(&r, img, BLOCKS(4), BLOCKS(30), 2);
    image_close(img);
    CU_ASSERT(rig_is_sound(&r));
    rig_end(&r);
}

/* As it is after a crash, and without zeroes: recovery's checkpoint needs the reserve, which has become a hole. */
static void a_store_that_crashed_and_lost_its_zeroes_is_whole(void)
{
    struct rig r;
    start(&r, __func__, 128 * MIB);
    rig_create(&r, "disk", 64 * MIB);
    rig_checkpoint(&r);
    struct image *img = rig_image(&r, "disk", IMAGE_READ_WRITE);
    CU_ASSERT_EQUAL(rig_write(&r, img, 0, BLOCKS(8), 1), 0);
    CU_ASSERT_EQUAL(rig_flush(&r, img), 0);
    in_directory(&r, "mkdir crashed && cp -r --sparse=always blocks catalog crashed");
    image_close(img);
    rig_close(&r);
    in_directory(&r, "rm -r blocks catalog && mv crashed/* . && rmdir crashed");
    rig_open(&r);
    CU_ASSERT(rig_status(&r).recovered_records > 0);
    CU_ASSERT(rig_is_sound(&r));
    img = rig_image(&r, "disk", IMAGE_READ_WRITE);
    rig_expect(&r, img, 0, BLOCKS(8), 1);
    image_close(img);
    rig_end(&r);
}

/* Until the store is full; how many blocks went in, at least. */
static uint64_t fill(struct rig *r, struct image *img, uint32_t version)
{
    uint64_t written = 0, blocks = image_size(img) / 4096;
    int err = 0;
    while (written < blocks && !(err = rig_write(r, img, written, 64, version)))
        written += 64;
    CU_ASSERT_EQUAL(err, -ENOSPC);
    return written;
}

static bool is_within(struct rig *r, void *ctx) { return rig_status(r).present_bytes <= *(uint64_t *)ctx; }

static int resize(struct rig *r, uint64_t size_bytes)
{
    struct store_op op;
    rig_arm(&op);
    store_resize(r->store, &op, size_bytes);
    return rig_run(r, &op);
}

static void the_limit_moves_up_and_down_while_the_store_is_open(void)
{
    struct rig r;
    start(&r, __func__, 48 * MIB);
    rig_create(&r, "disk", 128 * MIB);
    struct image *img = rig_image(&r, "disk", IMAGE_READ_WRITE);
    uint64_t first = fill(&r, img, 1), limit = 40 * MIB;
    CU_ASSERT(first >= BLOCKS(24));
    struct store_status full = rig_status(&r);
    printf("# full at %llu of %llu bytes, warned at %u %%\n", (unsigned long long)full.used_bytes, (unsigned long long)full.capacity_bytes, full.warned_percent);
    CU_ASSERT(full.warned_percent >= 80);
    CU_ASSERT_EQUAL(resize(&r, 96 * MIB), 0);
    CU_ASSERT_EQUAL(rig_status(&r).capacity_bytes, 96 * MIB);
    CU_ASSERT_EQUAL(rig_write(&r, img, first, BLOCKS(40), 2), 0);
    CU_ASSERT_EQUAL(resize(&r, limit), -ENOSPC);
    CU_ASSERT_EQUAL(resize(&r, MIB), -EINVAL);
    CU_ASSERT_EQUAL(rig_discard(&r, img, BLOCKS(8), first - BLOCKS(8)), 0);
    bool lent = false; /* much to data, which does not use it: where this is slow, what was discarded may go back before */
    for (unsigned tries = 0; tries < 30 && !lent; tries++) {
        if (tries)
            rig_write(&r, img, first + BLOCKS(20), BLOCKS(20), 2);
        CU_ASSERT_EQUAL(rig_discard(&r, img, first + BLOCKS(20), BLOCKS(20)), 0);
        rig_settle(&r);
        for (unsigned i = 0; i < 2048 && !lent; i++) {
            rig_write(&r, img, first, 1, 2);
            lent = r.store->run.end - r.store->run.next >= BLOCKS(7);
        }
    }
    CU_ASSERT(lent);
    rig_checkpoint(&r);
    CU_ASSERT_EQUAL(resize(&r, limit), 0);
    rig_wait(&r, is_within, &limit, "the lower limit");
    CU_ASSERT_EQUAL(rig_status(&r).capacity_bytes, limit);
    fill(&r, img, 3);
    CU_ASSERT(rig_status(&r).present_bytes <= limit);
    rig_expect(&r, img, first, BLOCKS(20), 2);
    image_close(img);
    rig_close(&r);
    rig_open(&r);
    CU_ASSERT_EQUAL(rig_status(&r).size_bytes, limit);
    CU_ASSERT(rig_status(&r).present_bytes <= limit);
    CU_ASSERT(rig_is_sound(&r));
    rig_end(&r);
}

#define UNANSWERED 1

/* context: an int. */
static void answered(struct image_req *req, int error) { *(int *)req->context = error; }
static bool is_answered(struct rig *r, void *ctx)
{
    (void)r;
    return *(int *)ctx != UNANSWERED;
}

static void a_write_that_waits_for_space_gets_it_from_a_discard_behind_it(void)
{
    struct rig r;
    int answer;
    start(&r, __func__, 48 * MIB);
    rig_create(&r, "disk", 128 * MIB);
    struct image *img = rig_image(&r, "disk", IMAGE_READ_WRITE);
    uint64_t first = fill(&r, img, 1);
    image_close(img);
    rig_close(&r);
    r.options.wait_when_full = true;
    rig_open(&r);
    img = rig_image(&r, "disk", IMAGE_READ_WRITE);
    void *block = bdev_buffer_alloc(64);
    struct iovec iov = { block, 64 * BDEV_BLOCK_SIZE };
    for (uint64_t i = 0; i < 64; i++)
        rig_fill_block((char *)block + i * BDEV_BLOCK_SIZE, first + i, 4);
    struct image_req req = { .op = IMAGE_WRITE, .offset = first * BDEV_BLOCK_SIZE, .length = iov.iov_len, .iov = &iov, .iov_count = 1, .done = answered, .context = &answer };
    answer = UNANSWERED;
    image_submit(img, &req);
    rig_checkpoint(&r);
    CU_ASSERT_EQUAL(answer, UNANSWERED);
    CU_ASSERT_EQUAL(rig_discard(&r, img, 0, BLOCKS(8)), 0);
    rig_wait(&r, is_answered, &answer, "the write that waited");
    CU_ASSERT_EQUAL(answer, 0);
    rig_expect(&r, img, first, 64, 4);
    r.store->opt.wait_when_full = false;
    uint64_t more = fill(&r, img, 5);
    r.store->opt.wait_when_full = true;
    req.offset = (more + 64) * BDEV_BLOCK_SIZE;
    answer = UNANSWERED;
    image_submit(img, &req);
    rig_checkpoint(&r);
    store_stop_waiting(r.store);
    rig_wait(&r, is_answered, &answer, "the end of waiting");
    CU_ASSERT_EQUAL(answer, -ECANCELED);
    image_close(img);
    free(block);
    CU_ASSERT(rig_is_sound(&r));
    rig_end(&r);
}

static void what_waits_for_space_ends_when_nobody_waits_for_it_any_more(void)
{
    struct rig r;
    int answer, second;
    start(&r, __func__, 48 * MIB);
    rig_create(&r, "disk", 128 * MIB);
    rig_create(&r, "other", 128 * MIB);
    struct image *img = rig_image(&r, "disk", IMAGE_READ_WRITE), *other = rig_image(&r, "other", IMAGE_READ_WRITE);
    uint64_t first = fill(&r, img, 1);
    r.store->opt.wait_when_full = true;
    void *block = bdev_buffer_alloc(64);
    struct iovec iov = { block, 64 * BDEV_BLOCK_SIZE };
    memset(block, 7, iov.iov_len);
    struct image_req req = { .op = IMAGE_WRITE, .offset = first * BDEV_BLOCK_SIZE, .length = iov.iov_len, .iov = &iov, .iov_count = 1, .done = answered, .context = &answer };
    struct image_req behind = { .op = IMAGE_WRITE, .offset = 0, .length = iov.iov_len, .iov = &iov, .iov_count = 1, .done = answered, .context = &second };
    answer = second = UNANSWERED;
    image_submit(img, &req);
    image_submit(other, &behind);
    rig_checkpoint(&r);
    CU_ASSERT_EQUAL(answer, UNANSWERED);
    CU_ASSERT_EQUAL(second, UNANSWERED);
    image_stop_waiting(other); /* though another waits before it */
    rig_wait(&r, is_answered, &second, "the end of the second one's waiting");
    CU_ASSERT_EQUAL(second, -ENOSPC);
    CU_ASSERT_EQUAL(answer, UNANSWERED);
    image_stop_waiting(img);
    rig_wait(&r, is_answered, &answer, "the end of the first one's waiting");
    CU_ASSERT_EQUAL(answer, -ENOSPC);
    image_close(img);
    image_close(other);
    free(block);
    CU_ASSERT(rig_is_sound(&r));
    rig_end(&r);
}

#define PAIRS 40u

static unsigned pair_ends;
static void pair_ended(struct image_req *req, int error)
{
    (void)req;
    pair_ends++;
    CU_ASSERT_EQUAL(error, 0);
}
static bool pairs_have_ended(struct rig *r, void *ctx)
{
    (void)r;
    (void)ctx;
    return pair_ends == 2 * PAIRS;
}

/* A large write and a small one to its first block, many times, more than there is room for before the store has grown: the small one
 * would find room where the large one waits for it. */
static void an_impatient_write_passes_no_earlier_one(void)
{
    struct rig r;
    struct image *img;
    struct error err = ERROR_NONE;
    static struct image_req reqs[2 * PAIRS];
    start(&r, __func__, 512 * MIB);
    rig_create(&r, "disk", 64 * MIB);
    CU_ASSERT_EQUAL_FATAL(image_open(r.store, "disk", &(struct image_open_options){ .mode = IMAGE_READ_WRITE, .impatient = true }, &img, &err), 0);
    char *large = bdev_buffer_alloc(256), *small = bdev_buffer_alloc(PAIRS);
    struct iovec all = { large, 256 * BDEV_BLOCK_SIZE }, one[PAIRS];
    memset(large, 1, all.iov_len);
    pair_ends = 0;
    for (unsigned i = 0; i < PAIRS; i++) {
        uint64_t block = i * 256ull;
        one[i] = (struct iovec){ small + i * BDEV_BLOCK_SIZE, BDEV_BLOCK_SIZE };
        rig_fill_block(one[i].iov_base, block, 9);
        reqs[2 * i] = (struct image_req){ .op = IMAGE_WRITE, .offset = block * BDEV_BLOCK_SIZE, .length = all.iov_len, .iov = &all, .iov_count = 1, .done = pair_ended };
        reqs[2 * i + 1] = reqs[2 * i];
        reqs[2 * i + 1].length = BDEV_BLOCK_SIZE;
        reqs[2 * i + 1].iov = &one[i];
        image_submit(img, &reqs[2 * i]);
        image_submit(img, &reqs[2 * i + 1]);
    }
    rig_wait(&r, pairs_have_ended, NULL, "all writes");
    for (unsigned i = 0; i < PAIRS; i++)
        rig_expect(&r, img, i * 256ull, 1, 9);
    image_close(img);
    free(large);
    free(small);
    CU_ASSERT(rig_is_sound(&r));
    rig_end(&r);
}

int main(int argc, char **argv)
{
    static const struct unit_test tests[] = {
        UNIT(discarded_space_goes_back_to_the_file_system_and_is_taken_again),
        UNIT(holes_are_known_after_opening_again),
        UNIT(what_was_written_lately_stays_at_hand_when_the_store_closes),
        UNIT(what_was_grown_is_not_given_back_at_once),
        UNIT(a_store_copied_without_its_zeroes_is_whole),
        UNIT(a_store_that_crashed_and_lost_its_zeroes_is_whole),
        UNIT(the_limit_moves_up_and_down_while_the_store_is_open),
        UNIT(a_write_that_waits_for_space_gets_it_from_a_discard_behind_it),
        UNIT(what_waits_for_space_ends_when_nobody_waits_for_it_any_more),
        UNIT(an_impatient_write_passes_no_earlier_one),
        { 0 },
    };
    return unit_main(argc, argv, "parallax holes", tests);
}
