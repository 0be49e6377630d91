/* store_times.c - what some of a store's promises measure: STORE WHAT [SIZE-MiB [COUNT]]. STORE must be new; one JSON line.
 *
 *   metadata  an image of SIZE is fully written, in order: what a new store uses (most of it its journal), and what the store
 *             uses beyond that and the data after a checkpoint
 *   delete    COUNT snapshots, 1,000 random writes before each; then all are deleted, in random order, beside random reads and
 *             writes: how long each deletion takes to be durable
 *   recover   an image of 1 TiB of which SIZE is written at random; the process that did it kills itself; how long opening and a
 *             first read take then, and what the journal held
 * Blocks differ in every word, so that nothing is shared. */
#include "base/bdev.h"
#include "base/clock.h"
#include "parallax/parallax.h"
#include "tests/support/unit.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define DEPTH 32u

static struct loop *loop;
static struct store *store;
static struct image *image;
static const char *url;
static uint64_t blocks, seed = 88172645463325252u, at, left;
static bool in_order, mixed;
static unsigned running;
static struct slot {
    struct image_req req;
    struct iovec iov;
} slots[DEPTH];

static void next(struct slot *s);

static void done(struct image_req *req, int error)
{
    if (error) {
        fprintf(stderr, "request failed: %s\n", strerror(-error));
        exit(1);
    }
    running--;
    next(container_of(req, struct slot, req));
}

static void next(struct slot *s)
{
    if (!left)
        return;
    left--;
    running++;
    uint64_t block = in_order ? at++ : unit_random(&seed) % blocks;
    bool reads = mixed && left % 2;
    for (unsigned i = 0; !reads && i < BDEV_BLOCK_SIZE; i += 8)
        *(uint64_t *)((char *)s->iov.iov_base + i) = unit_random(&seed);
    s->req = (struct image_req){ .op = reads ? IMAGE_READ : IMAGE_WRITE, .offset = block * BDEV_BLOCK_SIZE, .length = BDEV_BLOCK_SIZE, .iov = &s->iov,
                                 .iov_count = 1, .done = done };
    image_submit(image, &s->req);
}

static void begin(uint64_t count)
{
    left = count;
    for (unsigned i = 0; i < DEPTH && count; i++)
        next(&slots[i]);
}

static void run(uint64_t count)
{
    begin(count);
    while (running)
        loop_turn(loop, -1);
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

static void open_store(void)
{
    struct error err = ERROR_NONE;
    struct store_options opt = { .command = "store_times" };
    if (loop_create(&loop) || store_open(url, loop, &opt, &store, &err)) {
        fprintf(stderr, "%s\n", err.text);
        exit(1);
    }
}

static void open_image(uint64_t size_bytes, bool create)
{
    struct error err = ERROR_NONE;
    struct store_op op = { .done = op_done };
    struct image_open_options oo = { .mode = IMAGE_READ_WRITE, .holder = "store_times" };
    blocks = size_bytes / BDEV_BLOCK_SIZE;
    if (create) {
        image_create(store, &op, "disk", size_bytes);
        wait_op(&op);
    }
    if (image_open(store, "disk", &oo, &image, &err)) {
        fprintf(stderr, "%s\n", err.text);
        exit(1);
    }
    for (unsigned i = 0; i < DEPTH; i++)
        slots[i].iov = (struct iovec){ bdev_buffer_alloc(1), BDEV_BLOCK_SIZE };
}

static struct store_status settled(void)
{
    struct store_status st;
    do {
        struct store_op op = { .done = op_done };
        store_checkpoint(store, &op);
        wait_op(&op);
        store_get_status(store, &st);
    } while (st.deletions_pending || st.held_blocks);
    return st;
}

static void metadata(uint64_t size_bytes)
{
    open_store();
    uint64_t before = settled().used_bytes;
    open_image(size_bytes, true);
    in_order = true;
    run(blocks);
    uint64_t used = settled().used_bytes;
    printf("{\"what\":\"metadata\",\"data\":%llu,\"used\":%llu,\"empty-store\":%llu,\"map-percent\":%.3f}\n", (unsigned long long)size_bytes,
           (unsigned long long)used, (unsigned long long)before, 100.0 * ((double)used - (double)before - (double)size_bytes) / (double)size_bytes);
    image_close(image);
    store_close(store);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static void deletions(uint64_t size_bytes, unsigned count)
{
    open_store();
    open_image(size_bytes, true);
    in_order = true;
    run(blocks);
    in_order = false;
    unsigned *order = malloc((count + 1) * sizeof *order);
    double *latency = malloc((count + 1) * sizeof *latency);
    char name[64];
    const char *names[] = { name };
    for (unsigned i = 0; i < count; i++) {
        struct store_op op = { .done = op_done };
        run(1000);
        snprintf(name, sizeof name, "disk@s%u", i);
        snapshot_create(store, &op, names, 1);
        wait_op(&op);
        order[i] = i;
    }
    settled();
    mixed = true;
    begin(UINT64_MAX);
    for (unsigned i = 0; i < count; i++) {
        struct store_op op = { .done = op_done };
        unsigned k = i + (unsigned)(unit_random(&seed) % (count - i)), chosen = order[k];
        order[k] = order[i];
        snprintf(name, sizeof name, "disk@s%u", chosen);
        uint64_t began = clock_monotonic_ns();
        snapshot_delete(store, &op, names, 1, false);
        wait_op(&op);
        latency[i] = (double)(clock_monotonic_ns() - began) / 1e6;
    }
    left = 0;
    while (running)
        loop_turn(loop, -1);
    qsort(latency, count, sizeof *latency, by_value);
    printf("{\"what\":\"delete\",\"snapshots\":%u,\"p50-ms\":%.2f,\"p99-ms\":%.2f,\"longest-ms\":%.2f}\n", count, latency[count / 2], latency[count * 99 / 100], latency[count - 1]);
    settled();
    image_close(image);
    store_close(store);
}

static void recover(uint64_t size_bytes)
{
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        open_store();
        open_image(1ull << 40, true);
        run(size_bytes / BDEV_BLOCK_SIZE);
        kill(getpid(), SIGKILL);
    }
    waitpid(pid, NULL, 0);
    uint64_t began = clock_monotonic_ns();
    open_store();
    double opened = (double)(clock_monotonic_ns() - began) / 1e9;
    open_image(1ull << 40, false);
    mixed = true;
    run(2);
    double served = (double)(clock_monotonic_ns() - began) / 1e9;
    struct store_status st;
    store_get_status(store, &st);
    printf("{\"what\":\"recover\",\"written\":%llu,\"opened-s\":%.3f,\"served-s\":%.3f,\"journal-used\":%llu,\"changes\":%llu}\n", (unsigned long long)size_bytes, opened, served,
           (unsigned long long)st.journal_used_bytes, (unsigned long long)st.index_used);
    image_close(image);
    store_close(store);
}

int main(int argc, char **argv)
{
    uint64_t size_bytes = (argc > 3 ? strtoull(argv[3], NULL, 10) : 1024) << 20;
    unsigned count = argc > 4 ? (unsigned)atoi(argv[4]) : 1000;
    if (argc < 3 || !size_bytes || !count) {
        fprintf(stderr, "usage: store_times STORE metadata|delete|recover [SIZE-MiB [COUNT]]\n");
        return 2;
    }
    url = argv[1];
    if (!strcmp(argv[2], "metadata"))
        metadata(size_bytes);
    else if (!strcmp(argv[2], "delete"))
        deletions(size_bytes, count);
    else
        recover(size_bytes);
    return 0;
}
