/* request_counts.c - what the device below the engine sees of a fixed piece of work, counted: REQUESTS random or sequential
 * requests in rounds of 32, on a store in memory, so that every run does the same.
 *
 *   request_counts read|write|flushed-write|clone-write|sequential-read|sequential-write|snapshot|checkpoint REQUESTS
 * A round is submitted in one turn of the loop and waited for. flushed-write: a flush after each write. snapshot: one after each
 * round of writes. checkpoint: the writes are not counted, the checkpoint after them is, for each block written.
 * Prints "NAME VALUE" lines, each a count divided by REQUESTS. zero-blocks: written ahead of data since the store was opened. */
#include "parallax/store/memory.h"
#include "parallax/store_backing.h"
#include "tests/support/unit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROUND 32u
#define BLOCKS 32768u /* of the image: 128 MiB, far more than the block cache below */
#define STORE_BYTES (1ull << 30)
#define LARGE_BLOCKS 32u

/* ---- A device that counts, and passes on ---- */

struct counts {
    uint64_t reads, read_blocks, writes, write_blocks, flushes, zero_blocks;
};

static struct counted {
    struct bdev bdev;
    struct bdev *lower;
    struct counts n;
} device;

static void count(uint64_t *what, uint64_t by) { __atomic_add_fetch(what, by, __ATOMIC_RELAXED); }

static void count_op(enum bdev_op op, uint64_t blocks)
{
    count(op == BDEV_READ ? &device.n.reads : op == BDEV_WRITE ? &device.n.writes : &device.n.flushes, 1);
    if (op != BDEV_FLUSH)
        count(op == BDEV_READ ? &device.n.read_blocks : &device.n.write_blocks, blocks);
}

static void c_submit(struct bdev *d, struct bdev_req *req)
{
    (void)d;
    count_op(req->op, req->blocks);
    bdev_submit(device.lower, req);
}
static int c_read(struct bdev *d, uint64_t block, void *buf, uint32_t blocks)
{
    (void)d;
    count_op(BDEV_READ, blocks);
    return bdev_read(device.lower, block, buf, blocks);
}
static int c_write(struct bdev *d, uint64_t block, const void *buf, uint32_t blocks)
{
    (void)d;
    count_op(BDEV_WRITE, blocks);
    return bdev_write(device.lower, block, buf, blocks);
}
static int c_read_many(struct bdev *d, const uint64_t *blocks, void *const *bufs, unsigned number)
{
    (void)d;
    count(&device.n.reads, number);
    count(&device.n.read_blocks, number);
    return bdev_read_many(device.lower, blocks, bufs, number);
}
static int c_write_many(struct bdev *d, const uint64_t *blocks, void *const *bufs, unsigned number)
{
    (void)d;
    count(&device.n.writes, number);
    count(&device.n.write_blocks, number);
    return bdev_write_many(device.lower, blocks, bufs, number);
}
static int c_flush(struct bdev *d)
{
    (void)d;
    count_op(BDEV_FLUSH, 0);
    return bdev_flush(device.lower);
}
static int c_grow(struct bdev *d, uint64_t blocks)
{
    int err = bdev_grow(device.lower, blocks);
    __atomic_store_n(&d->blocks, bdev_blocks(device.lower), __ATOMIC_RELAXED);
    return err;
}
static int c_punch(struct bdev *d, uint64_t block, uint64_t blocks) { return (void)d, bdev_punch(device.lower, block, blocks); }
static int c_fill(struct bdev *d, uint64_t block, uint64_t blocks) { return (void)d, bdev_fill(device.lower, block, blocks); }
static int c_zero(struct bdev *d, uint64_t block, uint64_t blocks)
{
    (void)d;
    count(&device.n.zero_blocks, blocks);
    return bdev_zero(device.lower, block, blocks);
}
static int c_hole(struct bdev *d, uint64_t from, uint64_t *start, uint64_t *end) { return (void)d, bdev_hole(device.lower, from, start, end); }
static void c_close(struct bdev *d) { (void)d; }

static const struct bdev_ops counted_ops = { .submit = c_submit, .read = c_read, .write = c_write, .read_many = c_read_many, .write_many = c_write_many, .flush = c_flush,
                                             .grow = c_grow, .punch = c_punch, .fill = c_fill, .zero = c_zero, .hole = c_hole, .close = c_close };

/* ---- The work ---- */

static struct loop *loop;
static struct store *store;
static struct image *image;
static struct slot {
    struct image_req req;
    struct iovec iov;
} slots[ROUND];
static unsigned running;
static uint64_t seed = 88172645463325252u, next_block;
static bool op_ended;

static void die(const char *what, int error)
{
    fprintf(stderr, "request_counts: %s: %s\n", what, strerror(-error));
    exit(1);
}

static void done(struct image_req *req, int error)
{
    (void)req;
    running--;
    if (error)
        die("a request failed", error);
}

static void op_done(struct store_op *op)
{
    if (op->error.code)
        die(op->error.text, op->error.code);
    op_ended = true;
}

static void wait_op(void)
{
    while (!op_ended)
        loop_turn(loop, -1);
    op_ended = false;
}

#define DO(call, ...)                                  \
    do {                                               \
        struct store_op op_ = { .done = op_done };     \
        call(store, &op_, ##__VA_ARGS__);              \
        wait_op();                                     \
    } while (0)

static void submit(struct slot *s, enum image_op op, uint64_t block, uint32_t blocks)
{
    s->iov.iov_len = (size_t)blocks * BDEV_BLOCK_SIZE;
    s->req = (struct image_req){ .op = op, .offset = block * BDEV_BLOCK_SIZE, .length = op == IMAGE_FLUSH ? 0 : s->iov.iov_len, .iov = &s->iov,
                                 .iov_count = op == IMAGE_FLUSH ? 0 : 1, .done = done };
    running++;
    image_submit(image, &s->req);
}

static void wait_all(void)
{
    while (running)
        loop_turn(loop, -1);
}

/* One round, or less of it, in one turn. */
static void submit_round(enum image_op op, bool random, uint32_t blocks, uint64_t requests)
{
    for (uint64_t i = 0; i < requests; i++) {
        uint64_t position = random ? unit_random(&seed) : next_block++;
        for (uint32_t b = 0; op == IMAGE_WRITE && b < blocks; b++) /* zeroes would not be stored */
            *(uint64_t *)((char *)slots[i].iov.iov_base + (size_t)b * BDEV_BLOCK_SIZE) = unit_random(&seed);
        submit(&slots[i], op, position % (BLOCKS / blocks) * blocks, blocks);
    }
    wait_all();
}

static void fill(void)
{
    next_block = 0;
    for (uint64_t i = 0; i < BLOCKS / LARGE_BLOCKS; i += ROUND)
        submit_round(IMAGE_WRITE, false, LARGE_BLOCKS, ROUND);
    next_block = 0;
    DO(store_checkpoint);
}

static void open_image(const char *name)
{
    struct error err = ERROR_NONE;
    struct image_open_options opt = { .mode = IMAGE_READ_WRITE, .holder = "request_counts" };
    if (image_open(store, name, &opt, &image, &err))
        die(err.text, err.code);
}

static void begin(void)
{
    static struct backing backing;
    struct memory_options opt = { .seed = 1, .initial_blocks = store_initial_blocks(STORE_BYTES) };
    struct store_options store_opt = { .block_cache_bytes = 1u << 20, .command = "request_counts" };
    struct error err = ERROR_NONE;
    int bad = loop_create(&loop);
    opt.loop = loop;
    if (bad || (bad = memory_create(&opt, &backing)) || (bad = store_create_backing(&backing, STORE_BYTES, &err)))
        die("making the store", bad);
    device = (struct counted){ .bdev = *backing.blocks, .lower = backing.blocks };
    device.bdev.ops = &counted_ops;
    backing.blocks = &device.bdev;
    if ((bad = store_open_backing(&backing, loop, &store_opt, &store, &err)))
        die(err.text, bad);
    for (unsigned i = 0; i < ROUND; i++)
        slots[i].iov.iov_base = bdev_buffer_alloc(LARGE_BLOCKS);
    DO(image_create, "disk", (uint64_t)BLOCKS * BDEV_BLOCK_SIZE);
    open_image("disk");
    fill();
}

/* Not inlined: callgrind counts inside it. */
__attribute__((noinline)) static void counted_work(const char *name, uint64_t requests)
{
    bool flushed = !strcmp(name, "flushed-write"), snapshot = !strcmp(name, "snapshot"), sequential = !strncmp(name, "sequential", 10);
    bool reads = !strcmp(name, "read") || !strcmp(name, "sequential-read");
    unsigned round = flushed ? 1 : ROUND;
    for (uint64_t at = 0; at < requests; at += round) {
        submit_round(reads ? IMAGE_READ : IMAGE_WRITE, !sequential, sequential ? LARGE_BLOCKS : 1, requests - at < round ? requests - at : round);
        if (flushed) {
            submit(&slots[0], IMAGE_FLUSH, 0, 0);
            wait_all();
        }
        if (snapshot) {
            char target[64];
            const char *targets[] = { target };
            snprintf(target, sizeof target, "disk@s%llu", (unsigned long long)at);
            DO(snapshot_create, targets, 1);
        }
    }
}

int main(int argc, char **argv)
{
    const char *name = argc == 3 ? argv[1] : "";
    uint64_t requests = argc == 3 ? strtoull(argv[2], NULL, 10) : 0;
    if (!requests || !strstr(" read write flushed-write clone-write sequential-read sequential-write snapshot checkpoint ", name)) {
        fprintf(stderr, "usage: request_counts WORKLOAD REQUESTS (see the head of its source)\n");
        return 2;
    }
    begin();
    if (!strcmp(name, "clone-write")) {
        image_close(image);
        DO(image_clone, "disk", "clone");
        open_image("clone");
    }
    if (!strcmp(name, "checkpoint"))
        counted_work("write", requests);
    struct counts before = device.n;
    if (!strcmp(name, "checkpoint"))
        DO(store_checkpoint);
    else
        counted_work(name, requests);
    struct counts n = device.n;
    double r = (double)requests;
    printf("device-reads %.4f\ndevice-read-blocks %.4f\ndevice-writes %.4f\ndevice-write-blocks %.4f\nflushes %.4f\nzero-blocks %.4f\n", (double)(n.reads - before.reads) / r,
           (double)(n.read_blocks - before.read_blocks) / r, (double)(n.writes - before.writes) / r, (double)(n.write_blocks - before.write_blocks) / r,
           (double)(n.flushes - before.flushes) / r, (double)n.zero_blocks / r);
    image_close(image);
    int err = store_close(store);
    loop_destroy(loop);
    return err ? 1 : 0;
}
