/* store_load.c - see store_load.h. */
#include "tests/support/store_load.h"

#include "base/bdev.h"
#include "base/clock.h"
#include "tests/support/unit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEPTH 32u

static struct loop *loop;
static struct store *store;
static struct image *image;
static const char *holder;
static struct slot {
    struct image_req req;
    struct iovec iov;
} slots[DEPTH];
static enum load_kind kind;
static uint64_t left, at, seed = 88172645463325252u;
static unsigned running;
static struct store_op op;
static bool op_ended;
static uint64_t op_began;

static void expect(bool good, const char *what)
{
    if (good)
        return;
    fprintf(stderr, "%s: %s\n", holder, what);
    exit(1);
}

static double seconds_since(uint64_t began) { return (double)(clock_monotonic_ns() - began) / 1e9; }

uint64_t load_random(uint64_t below) { return unit_random(&seed) % below; }

struct store *load_open(const char *url, const char *command)
{
    struct error err = ERROR_NONE;
    struct store_options opt = { .command = command };
    holder = command;
    expect(!loop_create(&loop), "no loop");
    expect(!store_open(url, loop, &opt, &store, &err), err.text);
    return store;
}

void load_open_image(const char *name, uint64_t bytes)
{
    struct error err = ERROR_NONE;
    struct image_open_options oo = { .mode = IMAGE_READ_WRITE, .holder = holder };
    if (bytes) {
        image_create(store, load_op(), name, bytes);
        load_wait();
    }
    expect(!image_open(store, name, &oo, &image, &err), err.text);
    for (unsigned i = 0; i < DEPTH; i++) {
        slots[i].iov = (struct iovec){ bdev_buffer_alloc(1), BDEV_BLOCK_SIZE };
        expect(slots[i].iov.iov_base, "no memory");
    }
}

void load_close(void)
{
    image_close(image);
    expect(!store_close(store), "the store did not close well");
    for (unsigned i = 0; i < DEPTH; i++)
        free(slots[i].iov.iov_base);
    loop_destroy(loop);
}

static void next(struct slot *s);

static void done(struct image_req *req, int error)
{
    expect(!error, strerror(-error));
    running--;
    next(container_of(req, struct slot, req));
}

static void next(struct slot *s)
{
    if (!left)
        return;
    left--;
    running++;
    uint64_t block = kind == LOAD_FILL ? at++ : load_random(image_size(image) / BDEV_BLOCK_SIZE);
    bool reads = kind == LOAD_READS || (kind == LOAD_MIXED && left % 2);
    for (unsigned i = 0; !reads && i < BDEV_BLOCK_SIZE; i += 8)
        *(uint64_t *)((char *)s->iov.iov_base + i) = unit_random(&seed);
    s->req = (struct image_req){ .op = reads ? IMAGE_READ : IMAGE_WRITE, .offset = block * BDEV_BLOCK_SIZE, .length = BDEV_BLOCK_SIZE,
                                 .iov = &s->iov, .iov_count = 1, .done = done };
    image_submit(image, &s->req);
}

void load_begin(enum load_kind what, uint64_t count)
{
    kind = what;
    left = count;
    at = 0;
    for (unsigned i = 0; i < DEPTH; i++)
        next(&slots[i]);
}

static void wait_for_all(void)
{
    while (running)
        loop_turn(loop, -1);
}

void load_end(void)
{
    left = 0;
    wait_for_all();
}

double load_run(enum load_kind what, uint64_t count)
{
    uint64_t began = clock_monotonic_ns();
    load_begin(what, count);
    wait_for_all();
    return seconds_since(began);
}

static void op_done(struct store_op *o)
{
    (void)o;
    op_ended = true;
}

struct store_op *load_op(void)
{
    op_ended = false;
    op_began = clock_monotonic_ns();
    op = (struct store_op){ .done = op_done };
    return &op;
}

double load_wait(void)
{
    while (!op_ended)
        loop_turn(loop, -1);
    expect(!op.error.code, op.error.text);
    return seconds_since(op_began);
}

struct store_status load_settle(void)
{
    struct store_status st;
    do {
        store_checkpoint(store, load_op());
        load_wait();
        store_get_status(store, &st);
    } while (st.deletions_pending || st.held_blocks);
    return st;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

double load_percentile(double *values, unsigned count, unsigned percent)
{
    if (!count)
        return 0;
    qsort(values, count, sizeof *values, by_value);
    unsigned i = (unsigned)((uint64_t)count * percent / 100);
    return values[i < count ? i : count - 1];
}
