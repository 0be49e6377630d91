/* snapshot_depth.c - how an image with many snapshots reads: STORE [SNAPSHOTS [WRITES [IMAGE-MiB [IMAGE]]]].
 *
 * Fills an image, reads it at random (4 KiB, depth 32), then takes SNAPSHOTS snapshots with WRITES uniform random 4 KiB writes
 * before each, and reads again. Prints one JSON line: reads a second before and after, snapshot latency, checkpoints. */
#include "base/bdev.h"
#include "base/clock.h"
#include "parallax/parallax.h"
#include "tests/support/unit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEPTH 32u

static struct loop *loop;
static struct store *store;
static struct image *image;
static uint64_t blocks, seed = 88172645463325252u;

static struct slot {
    struct image_req req;
    struct iovec iov;
} slots[DEPTH];
static unsigned running;
static uint64_t left, fill_at;
static enum { FILL, WRITE_RANDOM, READ_RANDOM } mode;

static void next(struct slot *s);

static void done(struct image_req *req, int error)
{
    struct slot *s = container_of(req, struct slot, req);
    if (error) {
        fprintf(stderr, "request failed: %s\n", strerror(-error));
        exit(1);
    }
    running--;
    next(s);
}

static void next(struct slot *s)
{
    if (!left)
        return;
    left--;
    running++;
    uint64_t block = mode == FILL ? fill_at++ : unit_random(&seed) % blocks;
    if (mode != READ_RANDOM)
        for (unsigned i = 0; i < BDEV_BLOCK_SIZE; i += 8)
            *(uint64_t *)((char *)s->iov.iov_base + i) = unit_random(&seed);
    s->req = (struct image_req){ .op = mode == READ_RANDOM ? IMAGE_READ : IMAGE_WRITE, .offset = block * BDEV_BLOCK_SIZE, .length = BDEV_BLOCK_SIZE, .iov = &s->iov, .iov_count = 1, .done = done };
    image_submit(image, &s->req);
}

static double run(int what, uint64_t count)
{
    uint64_t began = clock_monotonic_ns();
    mode = what;
    left = count;
    for (unsigned i = 0; i < DEPTH; i++)
        next(&slots[i]);
    while (running)
        loop_turn(loop, -1);
    return (double)(clock_monotonic_ns() - began) / 1e9;
}

static bool op_ended;
static void op_done(struct store_op *op) { op_ended = true; (void)op; }

static void wait_op(struct store_op *op)
{
    while (!op_ended)
        loop_turn(loop, -1);
    op_ended = false;
    if (op->error.code) {
        fprintf(stderr, "%s\n", op->error.text);
        exit(1);
    }
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

int main(int argc, char **argv)
{
    unsigned snapshots = argc > 2 ? (unsigned)atoi(argv[2]) : 1000, writes = argc > 3 ? (unsigned)atoi(argv[3]) : 1000;
    struct error err = ERROR_NONE;
    struct store_options opt = { .command = "snapshot_depth" };
    blocks = (argc > 4 ? strtoull(argv[4], NULL, 10) : 1024) << 8;
    if (argc < 2 || loop_create(&loop) || store_open(argv[1], loop, &opt, &store, &err)) {
        fprintf(stderr, "%s\n", argc < 2 ? "usage: snapshot_depth STORE [SNAPSHOTS [WRITES [IMAGE-MiB [IMAGE]]]]" : err.text);
        return 2;
    }
    struct store_op op = { .done = op_done };
    const char *image_name = argc > 5 ? argv[5] : "deep";
    image_create(store, &op, image_name, blocks * BDEV_BLOCK_SIZE);
    wait_op(&op);
    struct image_open_options oo = { .mode = IMAGE_READ_WRITE, .holder = "snapshot_depth" };
    if (image_open(store, image_name, &oo, &image, &err))
        return 1;
    for (unsigned i = 0; i < DEPTH; i++)
        slots[i].iov = (struct iovec){ bdev_buffer_alloc(1), BDEV_BLOCK_SIZE };
    double fill = run(FILL, blocks);
    op = (struct store_op){ .done = op_done };
    store_checkpoint(store, &op);
    wait_op(&op);
    run(READ_RANDOM, 20000);
    double before = run(READ_RANDOM, 200000);
    double *latency = malloc((snapshots + 1) * sizeof *latency), wrote = 0;
    for (unsigned i = 0; i < snapshots; i++) {
        char name[IMAGE_TARGET_SIZE];
        const char *names[] = { name };
        wrote += run(WRITE_RANDOM, writes);
        snprintf(name, sizeof name, "%s@t%u", image_name, i);
        uint64_t began = clock_monotonic_ns();
        op = (struct store_op){ .done = op_done };
        snapshot_create(store, &op, names, 1);
        wait_op(&op);
        latency[i] = (double)(clock_monotonic_ns() - began) / 1e3;
    }
    uint64_t began = clock_monotonic_ns();
    op = (struct store_op){ .done = op_done };
    store_checkpoint(store, &op);
    wait_op(&op);
    double checkpoint = (double)(clock_monotonic_ns() - began) / 1e9;
    run(READ_RANDOM, 20000);
    double after = run(READ_RANDOM, 200000);
    qsort(latency, snapshots, sizeof *latency, by_value);
    struct store_status st;
    store_get_status(store, &st);
    printf("{\"fill-mib-per-s\":%.0f,\"reads-before\":%.0f,\"reads-after\":%.0f,\"writes\":%.0f,\"snapshot-p50-us\":%.0f,\"snapshot-p99-us\":%.0f,\"last-checkpoint-s\":%.2f,\"checkpoints\":%llu,\"used-mib\":%llu}\n",
           (double)blocks / 256 / fill, 200000 / before, 200000 / after, snapshots * (double)writes / wrote, snapshots ? latency[snapshots / 2] : 0, snapshots ? latency[snapshots * 99 / 100] : 0,
           checkpoint, (unsigned long long)st.checkpoints, (unsigned long long)(st.used_bytes >> 20));
    image_close(image);
    int rc = store_close(store);
    loop_destroy(loop);
    return rc ? 1 : 0;
}
