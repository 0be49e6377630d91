/* parallax_brim_test.c - a store in which nothing more can be written goes on: whatever asks for a block of the reserve, however
 * often, leaves enough for the next checkpoint (docs/consistency.md, 15 and 17). */
#include "base/clock.h"
#include "parallax/disk.h"
#include "parallax/store_backing.h"
#include "tests/support/bare.h"
#include "tests/support/unit.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STORE_BYTES (48ull << 20)
#define RUN 64u     /* blocks of one write */
#define FAR 200000u /* where the filling begins, in the image */

enum { LEAF = 256 };

static struct bare b;

static int run_wait(struct bare_run *run) { return bare_wait(&b, run); }

static int create(const char *name, uint64_t bytes)
{
    struct bare_run run;
    bare_arm(&run);
    image_create(b.store, &run.op, name, bytes);
    return run_wait(&run);
}

static void open_other(const char *name)
{
    struct image_open_options io = { .mode = IMAGE_READ_WRITE };
    image_close(b.img);
    CU_ASSERT_EQUAL_FATAL(image_open(b.store, name, &io, &b.img, &b.err), 0);
}

static struct store_status status(void)
{
    struct store_status st;
    store_get_status(b.store, &st);
    return st;
}

static uint64_t free_blocks(void) { return (status().capacity_bytes - status().used_bytes) / BDEV_BLOCK_SIZE; }

/* Nothing more can be written now, however often a checkpoint is made. */
static void fill_to_the_brim(void)
{
    uint64_t at = FAR;
    while (!bare_write(&b, at, RUN, 9))
        at += RUN;
    for (bool went = true; went;) {
        CU_ASSERT_EQUAL_FATAL(bare_checkpoint(&b), 0);
        for (went = false; !bare_write(&b, at, 1, 9); at++)
            went = true;
    }
}

static void open_that_waits(void)
{
    struct store_options opt = { .wait_when_full = true };
    struct image_open_options io = { .mode = IMAGE_READ_WRITE };
    image_close(b.img);
    CU_ASSERT_EQUAL_FATAL(store_close(b.store), 0);
    CU_ASSERT_EQUAL_FATAL(store_open_backing(&b.backing, b.loop, &opt, &b.store, &b.err), 0);
    CU_ASSERT_EQUAL_FATAL(image_open(b.store, "a", &io, &b.img, &b.err), 0);
}

/* c0, c1 … of the image "t". */
static void make_clones(unsigned count)
{
    struct bare_run run;
    CU_ASSERT_EQUAL_FATAL(bare_snapshot(&b, "t@s"), 0);
    bare_arm(&run);
    image_clone_many(b.store, &run.op, "t@s", "c", 0, count);
    CU_ASSERT_EQUAL_FATAL(run_wait(&run), 0);
}

/* Fills the store until no more blocks than that are free, and holds a checkpoint while it reads the map of "a". */
static void begin_checkpoint_with(uint64_t free, struct bare_run *checkpoint)
{
    CU_ASSERT_EQUAL_FATAL(bare_write(&b, 0, 1, 13), 0);
    for (uint64_t at = FAR; free_blocks() > free; at += RUN) {
        CU_ASSERT_EQUAL_FATAL(bare_write(&b, at, RUN, 9), 0);
        CU_ASSERT_EQUAL_FATAL(bare_checkpoint(&b), 0);
    }
    CU_ASSERT_EQUAL_FATAL(bare_write(&b, 0, 1, 13), 0);
    bare_begin_held_checkpoint(&b, checkpoint);
}

/* Opens the i-th clone in the place of "a", until b.img is put back. */
static struct image *open_clone(unsigned i)
{
    struct image_open_options io = { .mode = IMAGE_READ_WRITE };
    char name[32];
    snprintf(name, sizeof name, "c%u", i);
    CU_ASSERT_EQUAL_FATAL(image_open(b.store, name, &io, &b.img, &b.err), 0);
    return b.img;
}

static void turn_until_pending(unsigned few)
{
    for (unsigned i = 0; i < 5000 && status().deletions_pending > few; i++)
        bare_turn(&b, 1);
}

/* What a snapshot holds is not freed by discarding it, and each discard costs the nodes above it. */
static void discards_between_snapshots_leave_the_reserve_for_deletions(void)
{
    enum { ROUNDS = 600 };
    unsigned refused = 0;
    struct bare_run run;
    char name[32];
    bare_begin(&b, STORE_BYTES);
    for (unsigned i = 0; i < ROUNDS; i++)
        CU_ASSERT_EQUAL_FATAL(bare_write(&b, (uint64_t)i * LEAF, 2, 11), 0);
    fill_to_the_brim();
    for (unsigned i = 0; i < ROUNDS && !status().failed; i++) {
        snprintf(name, sizeof name, "a@s%u", i);
        CU_ASSERT_EQUAL_FATAL(bare_snapshot(&b, name), 0);
        int err = bare_discard(&b, (uint64_t)i * LEAF, 1);
        CU_ASSERT(err == 0 || err == -ENOSPC);
        refused += err == -ENOSPC;
        CU_ASSERT_EQUAL(bare_checkpoint(&b), 0);
    }
    CU_ASSERT_EQUAL_FATAL(status().failed, 0);
    CU_ASSERT(refused > 0 && refused < ROUNDS);
    CU_ASSERT_EQUAL(bare_read(&b, (ROUNDS - 1) * LEAF), 11);
    bare_arm(&run);
    snapshot_purge(b.store, &run.op, "a");
    CU_ASSERT_EQUAL(run_wait(&run), 0);
    turn_until_pending(0);
    CU_ASSERT_EQUAL_FATAL(status().failed, 0);
    CU_ASSERT_EQUAL(bare_discard(&b, FAR, 4096), 0);
    CU_ASSERT_EQUAL(bare_checkpoint(&b), 0);
    CU_ASSERT_EQUAL(bare_write(&b, FAR, 1, 12), 0);
    CU_ASSERT(bare_is_sound(&b));
    bare_end(&b);
}

static int make_smaller(const char *name, uint64_t bytes)
{
    struct bare_run run;
    bare_arm(&run);
    image_resize(b.store, &run.op, name, bytes, true);
    return run_wait(&run);
}

/* Each end that moves costs nodes and a dead list, and no operation is a request that waits for room. */
static void no_number_of_smaller_sizes_takes_the_reserve_of_a_full_store(void)
{
    enum { IMAGES = 600 };
    static struct bare_run runs[IMAGES];
    char (*names)[32] = calloc(IMAGES, sizeof *names);
    unsigned refused = 0;
    struct bare_run run;
    bare_begin(&b, STORE_BYTES);
    CU_ASSERT_EQUAL_FATAL(create("t", 1ull << 30), 0);
    open_other("t");
    for (unsigned i = 0; i < 4; i++)
        CU_ASSERT_EQUAL_FATAL(bare_write(&b, 100 * LEAF + i * 64, 64, 11), 0);
    open_other("a");
    make_clones(IMAGES);
    CU_ASSERT_EQUAL_FATAL(create("empty", 1ull << 30), 0);
    bare_arm(&run);
    image_clone(b.store, &run.op, "empty", "empty-clone");
    CU_ASSERT_EQUAL_FATAL(run_wait(&run), 0);
    CU_ASSERT_EQUAL_FATAL(bare_checkpoint(&b), 0);
    fill_to_the_brim();
    for (unsigned i = 0; i < IMAGES; i++) {
        snprintf(names[i], sizeof names[i], "c%u", i);
        bare_arm(&runs[i]);
        image_resize(b.store, &runs[i].op, names[i], (100 * LEAF + 100) * 4096ull, true);
    }
    for (unsigned i = 0; i < IMAGES; i++) {
        int err = run_wait(&runs[i]);
        CU_ASSERT(err == 0 || err == -ENOSPC);
        refused += err != 0;
    }
    CU_ASSERT_EQUAL(bare_checkpoint(&b), 0);
    CU_ASSERT_EQUAL_FATAL(status().failed, 0);
    CU_ASSERT(refused > 0 && refused < IMAGES);
    /* Of an empty image nothing is dropped. */
    for (unsigned i = 1; i <= 64; i++) {
        CU_ASSERT_EQUAL(make_smaller("empty", (1ull << 30) - i * 4096ull), 0);
        CU_ASSERT_EQUAL(make_smaller("empty-clone", (1ull << 30) - i * 4096ull), 0);
    }
    CU_ASSERT_EQUAL(make_smaller(names[IMAGES - 1], (100 * LEAF + 100) * 4096ull), -ENOSPC);
    CU_ASSERT_EQUAL(bare_checkpoint(&b), 0);
    CU_ASSERT_EQUAL(status().overdrawn_blocks, 0);
    CU_ASSERT_EQUAL_FATAL(status().failed, 0);
    CU_ASSERT(bare_is_sound(&b));
    bare_end(&b);
    free(names);
}

/* What deletions free is held while somebody reads; what they write down meanwhile must not be all that is left. */
static void deletions_while_somebody_reads_leave_something_of_the_reserve(void)
{
    enum { IMAGES = 700 };
    struct bare_io read;
    struct bare_run run;
    char name[32];
    const char *target = name;
    bare_begin(&b, STORE_BYTES);
    CU_ASSERT_EQUAL_FATAL(create("t", 256 * 4096ull), 0);
    open_other("t");
    CU_ASSERT_EQUAL_FATAL(bare_write(&b, 0, 2, 11), 0);
    open_other("a");
    make_clones(IMAGES);
    CU_ASSERT_EQUAL_FATAL(bare_write(&b, 0, 1, 13), 0);
    for (unsigned i = 0; i < IMAGES; i++) {
        snprintf(name, sizeof name, "c%u", i);
        open_other(name);
        CU_ASSERT_EQUAL_FATAL(bare_write(&b, 0, 1, 12), 0);
        snprintf(name, sizeof name, "c%u@s", i);
        CU_ASSERT_EQUAL_FATAL(bare_snapshot(&b, name), 0);
        CU_ASSERT_EQUAL_FATAL(bare_discard(&b, 0, 256), 0);
    }
    open_other("a");
    CU_ASSERT_EQUAL_FATAL(bare_checkpoint(&b), 0);
    fill_to_the_brim();
    bare_reopen(&b);
    bare_hold_reads(&b);
    bare_submit(&b, &read, IMAGE_READ, 0, 1, 0);
    bare_turn(&b, 20);
    for (unsigned i = 0; i < IMAGES; i++) {
        snprintf(name, sizeof name, "c%u@s", i);
        bare_arm(&run);
        snapshot_delete(b.store, &run.op, &target, 1, false);
        CU_ASSERT_EQUAL_FATAL(run_wait(&run), 0);
    }
    for (unsigned i = 0; i < 8; i++)
        CU_ASSERT_EQUAL(bare_checkpoint(&b), 0);
    CU_ASSERT_EQUAL_FATAL(status().failed, 0);
    CU_ASSERT_EQUAL(read.error, BARE_PENDING);
    CU_ASSERT(status().deletions_pending > 0);
    bare_release(&b);
    turn_until_pending(0);
    CU_ASSERT_EQUAL(read.error, 0);
    bare_io_fini(&read);
    CU_ASSERT_EQUAL(status().deletions_pending, 0);
    CU_ASSERT(bare_is_sound(&b));
    CU_ASSERT_EQUAL(bare_write(&b, 1, 1, 12), 0);
    bare_end(&b);
}

/* A map of one node that is changed far behind it needs two branches. */
static void maps_that_grow_take_no_reserve(void)
{
    enum { IMAGES = 1500, LEFT = IMAGES * 6 };
    static struct image *images[IMAGES];
    static struct bare_io ios[IMAGES]; /* they go out together, or the journal would be too short */
    struct image *a;
    struct bare_run run, checkpoint;
    char name[32];
    bare_begin(&b, 128ull << 20);
    CU_ASSERT_EQUAL_FATAL(create("t", 256 * 4096ull), 0);
    open_other("t");
    CU_ASSERT_EQUAL_FATAL(bare_write(&b, 0, 2, 11), 0);
    open_other("a");
    make_clones(IMAGES);
    for (unsigned i = 0; i < IMAGES; i++) {
        snprintf(name, sizeof name, "c%u", i);
        bare_arm(&run);
        image_resize(b.store, &run.op, name, 1ull << 44, false);
        CU_ASSERT_EQUAL_FATAL(run_wait(&run), 0);
    }
    begin_checkpoint_with(LEFT, &checkpoint);
    a = b.img;
    for (unsigned i = 0; i < IMAGES; i++) {
        images[i] = open_clone(i);
        bare_submit(&b, &ios[i], IMAGE_WRITE, 1ull << 31, 1, 12);
    }
    b.img = a;
    bare_turn(&b, 1000);
    CU_ASSERT_EQUAL(ios[1000].error, 0);
    CU_ASSERT_EQUAL(ios[IMAGES - 1].error, BARE_PENDING);
    bare_release_walks(&b);
    for (unsigned i = 0; i < IMAGES; i++) {
        for (unsigned turns = 0; turns < 5000 && ios[i].error == BARE_PENDING; turns++)
            bare_turn(&b, 1);
        CU_ASSERT(ios[i].error == 0 || ios[i].error == -ENOSPC);
        bare_io_fini(&ios[i]);
        image_close(images[i]);
    }
    CU_ASSERT_EQUAL(bare_checkpoint(&b), 0);
    CU_ASSERT_EQUAL_FATAL(status().failed, 0);
    CU_ASSERT(bare_is_sound(&b));
    bare_end(&b);
}

/* A write that waits for what a reader holds waits; checkpoints would bring nothing. */
static void a_write_that_waits_for_a_reader_asks_for_few_checkpoints(void)
{
    struct bare_io read, stuck;
    bare_begin(&b, STORE_BYTES);
    CU_ASSERT_EQUAL_FATAL(bare_write(&b, 0, RUN, 11), 0);
    fill_to_the_brim();
    bare_reopen(&b);
    bare_hold_reads(&b);
    bare_submit(&b, &read, IMAGE_READ, 0, RUN, 0);
    bare_turn(&b, 20);
    CU_ASSERT_EQUAL_FATAL(bare_discard(&b, 0, RUN), 0);
    CU_ASSERT_EQUAL_FATAL(bare_checkpoint(&b), 0);
    bare_submit(&b, &stuck, IMAGE_WRITE, 0, 8, 12);
    bare_turn(&b, 100);
    uint64_t before = status().checkpoints;
    bare_turn(&b, 1000);
    printf("# %llu checkpoints in 1000 turns\n", (unsigned long long)(status().checkpoints - before));
    CU_ASSERT(status().checkpoints - before < 5);
    CU_ASSERT_EQUAL(stuck.error, BARE_PENDING);
    bare_release(&b);
    for (unsigned i = 0; i < 2000 && (read.error == BARE_PENDING || stuck.error == BARE_PENDING); i++)
        bare_turn(&b, 1);
    CU_ASSERT_EQUAL(read.error, 0);
    CU_ASSERT_EQUAL(stuck.error, 0);
    bare_io_fini(&read);
    bare_io_fini(&stuck);
    bare_end(&b);
}

/* A range that is discarded, with a block of each leaf written anew after it: all else that the nodes led to goes to dead lists. */
static void maps_discarded_and_written_anew_take_no_reserve(void)
{
    enum { IMAGES = 40, LEAVES = 64, BLOCKS = LEAVES * LEAF, LEFT = 4500 };
    static struct image *images[IMAGES];
    static struct bare_io discards[IMAGES], ios[IMAGES * LEAVES];
    struct bare_run checkpoint;
    struct image *a;
    unsigned written = 0;
    bare_begin(&b, 192ull << 20);
    CU_ASSERT_EQUAL_FATAL(create("t", BLOCKS * 4096ull), 0);
    open_other("t");
    for (unsigned i = 0; i < BLOCKS; i += LEAF)
        CU_ASSERT_EQUAL_FATAL(bare_write(&b, i, LEAF, 11), 0);
    open_other("a");
    make_clones(IMAGES);
    begin_checkpoint_with(LEFT, &checkpoint);
    a = b.img;
    for (unsigned i = 0; i < IMAGES; i++) {
        images[i] = open_clone(i);
        bare_submit(&b, &discards[i], IMAGE_DISCARD, 0, BLOCKS, 0);
        for (unsigned k = 0; k < LEAVES; k++)
            bare_submit(&b, &ios[i * LEAVES + k], IMAGE_WRITE, k * LEAF + 100, 1, 12);
    }
    b.img = a;
    bare_turn(&b, 1000);
    for (unsigned i = 0; i < IMAGES * LEAVES; i++)
        written += ios[i].error == 0;
    CU_ASSERT(written > 8 * LEAVES && written < IMAGES * LEAVES);
    printf("# %u leaves\n", written);
    bare_release_walks(&b);
    for (unsigned i = 0; i < IMAGES * LEAVES; i++) {
        for (unsigned turns = 0; turns < 5000 && (ios[i].error == BARE_PENDING || discards[i / LEAVES].error == BARE_PENDING); turns++)
            bare_turn(&b, 1);
        CU_ASSERT(ios[i].error == 0 || ios[i].error == -ENOSPC);
        bare_io_fini(&ios[i]);
    }
    for (unsigned i = 0; i < IMAGES; i++)
        image_close(images[i]);
    CU_ASSERT_EQUAL(bare_checkpoint(&b), 0);
    CU_ASSERT_EQUAL_FATAL(status().failed, 0);
    CU_ASSERT(bare_is_sound(&b));
    bare_end(&b);
}

/* A device whose flush takes a while. */
static struct {
    struct bdev_ops ops;
    const struct bdev_ops *own;
} slow;

static int flush_slowly(struct bdev *d)
{
    poll(NULL, 0, 3);
    return slow.own->flush(d);
}

/* While one runs, whatever happens wakes a write that waits; the end of the one under way is all that it has to wait for. */
static void a_write_that_waits_for_a_checkpoint_asks_for_no_other(void)
{
    struct bare_io stuck;
    bare_begin(&b, STORE_BYTES);
    CU_ASSERT_EQUAL_FATAL(bare_write(&b, 0, RUN, 11), 0);
    fill_to_the_brim();
    open_that_waits();
    slow.own = b.backing.blocks->ops;
    slow.ops = *slow.own;
    slow.ops.flush = flush_slowly;
    b.backing.blocks->ops = &slow.ops;
    bare_submit(&b, &stuck, IMAGE_WRITE, 5 * RUN, RUN, 12);
    bare_turn(&b, 100);
    CU_ASSERT_EQUAL(stuck.error, BARE_PENDING);
    uint64_t before = status().checkpoints;
    uint64_t until_ms = clock_monotonic_ms() + 500;
    for (unsigned i = 0; clock_monotonic_ms() < until_ms; i++) {
        struct bare_io f;
        bare_submit(&b, &f, IMAGE_FLUSH, 0, 0, 0);
        if (i == 10)
            CU_ASSERT_EQUAL_FATAL(bare_discard(&b, 0, 1), 0);
        for (unsigned k = 0; k < 1000 && f.error == BARE_PENDING; k++)
            bare_turn(&b, 1);
    }
    printf("# %llu checkpoints\n", (unsigned long long)(status().checkpoints - before));
    CU_ASSERT(status().checkpoints - before < 10);
    CU_ASSERT_EQUAL(stuck.error, BARE_PENDING);
    CU_ASSERT_EQUAL_FATAL(bare_discard(&b, 1, RUN - 1), 0);
    CU_ASSERT_EQUAL_FATAL(bare_discard(&b, FAR, 256), 0);
    CU_ASSERT_EQUAL(bare_io_wait(&b, &stuck), 0);
    bare_io_fini(&stuck);
    bare_end(&b);
}

/* Fills the store until no run fits; then there is room for a block, but a write of a run waits. */
static void let_a_run_wait(struct bare_io *run)
{
    uint64_t at = FAR;
    for (bool went = true; went;) {
        CU_ASSERT_EQUAL_FATAL(bare_checkpoint(&b), 0);
        for (went = false; !bare_write(&b, at, RUN, 9); at += RUN)
            went = true;
    }
    open_that_waits();
    CU_ASSERT_EQUAL_FATAL(bare_discard(&b, FAR, 8), 0);
    CU_ASSERT_EQUAL_FATAL(bare_checkpoint(&b), 0);
    CU_ASSERT_EQUAL_FATAL(bare_write(&b, FAR, 1, 9), 0);
    bare_submit(&b, run, IMAGE_WRITE, at, RUN, 12);
    bare_turn(&b, 100);
    CU_ASSERT_EQUAL_FATAL(run->error, BARE_PENDING);
}

/* Whoever is impatient learns that the store is full, also if what he writes would have room and only others wait. */
static void an_impatient_write_fails_behind_one_that_waits(void)
{
    struct bare_io stuck, other;
    struct image_open_options io = { .mode = IMAGE_READ_WRITE, .impatient = true };
    bare_begin(&b, STORE_BYTES);
    CU_ASSERT_EQUAL_FATAL(create("impatient", 1 << 20), 0);
    let_a_run_wait(&stuck);
    struct image *patient = b.img;
    CU_ASSERT_EQUAL_FATAL(image_open(b.store, "impatient", &io, &b.img, &b.err), 0);
    bare_submit(&b, &other, IMAGE_WRITE, 0, 1, 13);
    CU_ASSERT_EQUAL(bare_io_wait(&b, &other), -ENOSPC);
    bare_io_fini(&other);
    image_close(b.img);
    b.img = patient;
    CU_ASSERT_EQUAL(stuck.error, BARE_PENDING);
    CU_ASSERT_EQUAL_FATAL(bare_discard(&b, FAR, 1024), 0);
    CU_ASSERT_EQUAL(bare_io_wait(&b, &stuck), 0);
    bare_io_fini(&stuck);
    bare_end(&b);
}

/* Requests for parts of blocks. */
static struct part {
    struct image_req req;
    int error;
} waiting[60]; /* there are fewer contexts */

static void part_done(struct image_req *req, int error) { container_of(req, struct part, req)->error = error; }

static void submit_part(struct image *img, struct part *p, enum image_op op, uint64_t offset, uint64_t length)
{
    static uint8_t sector[512] __attribute__((aligned(512))) = { 1 };
    static struct iovec iov = { sector, sizeof sector };
    *p = (struct part){ .error = BARE_PENDING, .req = { .op = op, .offset = offset, .length = length, .iov = &iov, .iov_count = op == IMAGE_WRITE, .done = part_done } };
    image_submit(img, &p->req);
    bare_turn(&b, 5);
}

static int part_wait(struct part *p)
{
    for (unsigned i = 0; i < 5000 && p->error == BARE_PENDING; i++)
        bare_turn(&b, 1);
    return p->error;
}

static void let_parts_wait(void)
{
    for (unsigned i = 0; i < sizeof waiting / sizeof *waiting; i++)
        submit_part(b.img, &waiting[i], IMAGE_WRITE, i * BDEV_BLOCK_SIZE, 512);
}

static void end_waiting(struct bare_io *run)
{
    CU_ASSERT_EQUAL(bare_io_wait(&b, run), 0);
    for (unsigned i = 0; i < sizeof waiting / sizeof *waiting; i++)
        CU_ASSERT_EQUAL(part_wait(&waiting[i]), 0);
    bare_io_fini(run);
}

/* Also for one of the contexts that writes of parts of blocks need, all of which have been taken by writes that wait. */
static void an_impatient_write_of_a_part_fails_behind_those_that_wait(void)
{
    struct image_open_options io = { .mode = IMAGE_READ_WRITE, .impatient = true }, patient_io = { .mode = IMAGE_READ_WRITE };
    struct part other, third;
    struct bare_io stuck;
    struct image *impatient, *patient;
    bare_begin(&b, STORE_BYTES);
    CU_ASSERT_EQUAL_FATAL(create("impatient", 1 << 20), 0);
    CU_ASSERT_EQUAL_FATAL(create("patient", 1 << 20), 0);
    let_a_run_wait(&stuck);
    CU_ASSERT_EQUAL_FATAL(image_open(b.store, "impatient", &io, &impatient, &b.err), 0);
    CU_ASSERT_EQUAL_FATAL(image_open(b.store, "patient", &patient_io, &patient, &b.err), 0);
    let_parts_wait();
    submit_part(patient, &third, IMAGE_WRITE, 0, 512);
    submit_part(impatient, &other, IMAGE_WRITE, 0, 512);
    CU_ASSERT_EQUAL(part_wait(&other), -ENOSPC);
    CU_ASSERT(image_waits(patient));
    CU_ASSERT_EQUAL(stuck.error, BARE_PENDING);
    CU_ASSERT_EQUAL_FATAL(bare_discard(&b, FAR, 1024), 0);
    end_waiting(&stuck);
    CU_ASSERT_EQUAL(part_wait(&third), 0);
    CU_ASSERT_FALSE(image_waits(patient));
    image_close(impatient);
    image_close(patient);
    bare_end(&b);
}

static void a_discard_of_parts_makes_room_for_those_that_wait(void)
{
    struct part discard;
    struct bare_io stuck;
    bare_begin(&b, STORE_BYTES);
    let_a_run_wait(&stuck);
    let_parts_wait();
    submit_part(b.img, &discard, IMAGE_DISCARD, FAR * (uint64_t)BDEV_BLOCK_SIZE + 512, 1024 * BDEV_BLOCK_SIZE);
    CU_ASSERT_EQUAL(part_wait(&discard), 0);
    end_waiting(&stuck);
    bare_end(&b);
}

/* The end of an image of an odd size is cleared before it grows: that is no write to wait with, as the image is kept meanwhile. */
static void an_image_of_an_odd_size_does_not_wait_to_grow(void)
{
    enum { ODD_BYTES = BDEV_BLOCK_SIZE + 512 };
    static const char *const name = "odd";
    struct bare_io stuck;
    struct bare_run run;
    struct image_info info;
    bare_begin(&b, STORE_BYTES);
    CU_ASSERT_EQUAL_FATAL(create(name, 2 * BDEV_BLOCK_SIZE), 0);
    open_other(name);
    CU_ASSERT_EQUAL_FATAL(bare_write(&b, 0, 2, 17), 0);
    open_other("a");
    bare_arm(&run);
    image_resize(b.store, &run.op, name, ODD_BYTES, true);
    CU_ASSERT_EQUAL_FATAL(run_wait(&run), 0);
    let_a_run_wait(&stuck);
    bare_arm(&run);
    image_resize(b.store, &run.op, name, 2 * BDEV_BLOCK_SIZE, false);
    CU_ASSERT_EQUAL(run_wait(&run), -ENOSPC);
    CU_ASSERT_EQUAL(store_find(b.store, name, &info, &b.err), 0);
    CU_ASSERT_EQUAL(info.size_bytes, ODD_BYTES);
    bare_arm(&run);
    image_delete(b.store, &run.op, &name, 1, false, false);
    CU_ASSERT_EQUAL(run_wait(&run), 0);
    CU_ASSERT_EQUAL_FATAL(bare_discard(&b, FAR, 1024), 0);
    CU_ASSERT_EQUAL(bare_io_wait(&b, &stuck), 0);
    bare_io_fini(&stuck);
    bare_end(&b);
}

static void spoil_a_page_of_the_map(unsigned page)
{
    uint8_t block[BDEV_BLOCK_SIZE];
    struct super super;
    image_close(b.img);
    CU_ASSERT_EQUAL_FATAL(store_close(b.store), 0);
    bare_get(&b, 0, block);
    CU_ASSERT_EQUAL_FATAL(super_decode(block, &super), 0);
    memset(block, 0x55, sizeof block);
    bare_put(&b, super.zone_start + page, block);
    bare_put(&b, super.zone_start + ZONE_PAGES + page, block);
    CU_ASSERT_EQUAL_FATAL(bare_open(&b), 0);
}

/* What is discarded in a lost page does not come back, so the store grows for its reserve. Were that given to data, it would grow
 * for the next reserve, and so on. */
static void what_a_store_has_beyond_its_limit_is_not_for_data(void)
{
    enum { DISCARDS = 200, ROUNDS = 30, LIMIT = (256u << 20) / BDEV_BLOCK_SIZE };
    static struct bare_io discards[DISCARDS];
    bare_begin(&b, (uint64_t)LIMIT * BDEV_BLOCK_SIZE);
    fill_to_the_brim();
    spoil_a_page_of_the_map(1);
    for (unsigned i = 0; i < ROUNDS; i++) {
        for (unsigned k = 0; k < DISCARDS; k++)
            bare_submit(&b, &discards[k], IMAGE_DISCARD, FAR + (i * DISCARDS + k) % 1000 * 60, 60, 0);
        for (unsigned k = 0; k < DISCARDS; k++) {
            CU_ASSERT_EQUAL(bare_io_wait(&b, &discards[k]), 0);
        }
        CU_ASSERT_EQUAL(bare_checkpoint(&b), 0);
        for (uint64_t at = i % 2; !bare_write(&b, at, 1, 9 + i); at += 2)
            continue;
        CU_ASSERT(status().used_bytes <= (uint64_t)LIMIT * BDEV_BLOCK_SIZE);
    }
    printf("# %llu of %u blocks\n", (unsigned long long)bdev_blocks(b.backing.blocks), LIMIT);
    CU_ASSERT(status().used_bytes > (uint64_t)LIMIT * BDEV_BLOCK_SIZE / 10 * 9);
    bare_end(&b);
}

int main(int argc, char **argv)
{
    return unit_main(argc, argv, "brim", (struct unit_test[]){
        UNIT(discards_between_snapshots_leave_the_reserve_for_deletions), UNIT(no_number_of_smaller_sizes_takes_the_reserve_of_a_full_store),
        UNIT(deletions_while_somebody_reads_leave_something_of_the_reserve), UNIT(maps_that_grow_take_no_reserve),
        UNIT(maps_discarded_and_written_anew_take_no_reserve), UNIT(a_write_that_waits_for_a_checkpoint_asks_for_no_other),
        UNIT(a_write_that_waits_for_a_reader_asks_for_few_checkpoints),
        UNIT(an_impatient_write_fails_behind_one_that_waits), UNIT(an_impatient_write_of_a_part_fails_behind_those_that_wait),
        UNIT(a_discard_of_parts_makes_room_for_those_that_wait),
        UNIT(an_image_of_an_odd_size_does_not_wait_to_grow),
        UNIT(what_a_store_has_beyond_its_limit_is_not_for_data), { 0 } });
}
