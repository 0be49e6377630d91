/* ring_bench.c - one kind of operation at a fixed depth, timed.
 *
 * A flush is begun after every so many operations, and waited for before the next begins, while those under way go on: what
 * fio does with --fdatasync.
 * The clock is read once a completion. */
#include "tests/support/ring_jobs.h"

#include "base/clock.h"
#include "base/latency.h"
#include "tests/support/unit.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BLOCK 4096u

struct slot {
    struct blkfront_req req;
    struct bench *b;
    struct iovec iov;
    uint64_t began_ns;
};

struct bench {
    struct ring_job *j;
    struct slot *slot;
    struct blkfront_req flush;
    enum blkfront_op op;
    bool random, flushing;
    uint64_t positions, next_position, step, state, serial;
    uint64_t end_ns, begun, limit, errors, flushes;
    struct latency took;
    unsigned out, idle_count;
    struct slot **idle; /* wait for the flush */
};

/* No two blocks written are alike, so that nothing below can save work on equal ones. */
static void stamp(struct bench *b, struct slot *s)
{
    for (uint64_t at = 0; at < b->j->block_bytes; at += BLOCK) {
        uint64_t serial = ++b->serial;
        memcpy((uint8_t *)s->iov.iov_base + at, &serial, sizeof serial);
    }
}

static uint64_t next_position(struct bench *b)
{
    if (b->random && !b->j->once)
        return unit_random(&b->state) % b->positions;
    uint64_t position = b->next_position;
    b->next_position = (position + b->step) % b->positions;
    return position;
}

/* A step of no common factor with the number of positions, near its golden section: every position comes once, far from the
 * one before. */
static uint64_t scattering_step(uint64_t positions)
{
    for (uint64_t step = positions * 618 / 1000 + 1;; step++) {
        uint64_t a = positions, b = step;
        while (b) {
            uint64_t rest = a % b;
            a = b;
            b = rest;
        }
        if (a == 1)
            return step;
    }
}

static bool over(const struct bench *b, uint64_t now) { return now >= b->end_ns || *b->j->stop || b->errors || b->begun == b->limit; }

static void flushed(struct blkfront_req *req, int error);

static void begin_flush(struct bench *b)
{
    b->flush = (struct blkfront_req){ .op = BLKFRONT_FLUSH, .done = flushed };
    b->flushing = true;
    b->out++;
    blkfront_submit(b->j->disk, &b->flush);
}

/* Begins the slot's next operation, unless the job is over. While a flush is out the slot waits. */
static void submit(struct bench *b, struct slot *s, uint64_t now)
{
    if (b->flushing) {
        b->idle[b->idle_count++] = s;
        return;
    }
    if (over(b, now))
        return;
    s->req.offset = next_position(b) * (b->j->stride_bytes ? b->j->stride_bytes : b->j->block_bytes);
    s->began_ns = now;
    if (b->op == BLKFRONT_WRITE)
        stamp(b, s);
    b->out++;
    b->begun++;
    blkfront_submit(b->j->disk, &s->req);
    if (b->j->flush_every && b->begun % b->j->flush_every == 0)
        begin_flush(b);
}

static void flushed(struct blkfront_req *req, int error)
{
    struct bench *b = container_of(req, struct bench, flush);
    uint64_t now = clock_monotonic_ns();
    unsigned waiting = b->idle_count;
    b->out--;
    b->flushing = false;
    b->flushes++;
    if (error && !b->errors++)
        fprintf(stderr, "a flush failed: %s\n", strerror(-error));
    b->idle_count = 0;
    for (unsigned i = 0; i < waiting; i++)
        submit(b, b->idle[i], now);
}

static void done(struct blkfront_req *req, int error)
{
    struct slot *s = container_of(req, struct slot, req);
    struct bench *b = s->b;
    uint64_t now = clock_monotonic_ns();
    b->out--;
    latency_add(&b->took, now - s->began_ns);
    if (error && !b->errors++)
        fprintf(stderr, "operation at %llu failed: %s\n", (unsigned long long)req->offset, strerror(-error));
    submit(b, s, now);
}

static int prepare(struct bench *b)
{
    struct ring_job *j = b->j;
    b->op = strstr(j->rw, "read") ? BLKFRONT_READ : BLKFRONT_WRITE;
    b->random = !strncmp(j->rw, "rand", 4);
    uint64_t bytes = j->region_bytes && j->region_bytes < j->info.size_bytes ? j->region_bytes : j->info.size_bytes;
    b->positions = bytes / (j->stride_bytes ? j->stride_bytes : j->block_bytes);
    b->state = j->seed ? j->seed : 1;
    b->serial = b->state << 20;
    b->step = b->random ? scattering_step(b->positions) : 1;
    b->limit = j->once ? b->positions : UINT64_MAX;
    if (j->operations && j->operations < b->limit)
        b->limit = j->operations;
    b->slot = calloc(j->depth, sizeof *b->slot);
    b->idle = calloc(j->depth, sizeof(struct slot *));
    unsigned pages = (unsigned)((j->block_bytes + BLOCK - 1) / BLOCK);
    uint8_t *memory = blkfront_buffer_alloc(j->disk, pages * j->depth);
    if (!b->positions || !b->slot || !b->idle || !memory)
        return -ENOMEM;
    for (size_t i = 0; i < (size_t)pages * j->depth * BLOCK; i += 8) {
        uint64_t v = unit_random(&b->state);
        memcpy(memory + i, &v, 8);
    }
    for (unsigned i = 0; i < j->depth; i++) {
        struct slot *s = &b->slot[i];
        s->b = b;
        s->iov = (struct iovec){ memory + (size_t)i * pages * BLOCK, j->block_bytes };
        s->req = (struct blkfront_req){ .op = b->op, .length = j->block_bytes, .iov = &s->iov, .iov_count = 1, .done = done };
    }
    return 0;
}

int ring_bench(struct ring_job *j)
{
    struct bench b = { .j = j };
    if (prepare(&b)) {
        fprintf(stderr, "no memory for depth %u of %llu bytes, or the disk is too small\n", j->depth, (unsigned long long)j->block_bytes);
        return 1;
    }
    uint64_t began = clock_monotonic_ns();
    b.end_ns = j->operations || j->once ? UINT64_MAX : began + j->seconds * 1000000000ull;
    for (unsigned i = 0; i < j->depth; i++)
        submit(&b, &b.slot[i], began);
    while (b.out)
        loop_turn(j->loop, 100);
    uint64_t took = clock_monotonic_ns() - began, flush_began = clock_monotonic_ns();
    int err = b.op == BLKFRONT_WRITE && j->info.flush ? blkfront_flush(j->disk) : 0;
    uint64_t flush_ns = clock_monotonic_ns() - flush_began;
    b.errors += err != 0;
    printf("{\"job\":\"bench\",\"pid\":%d,\"domid\":%u,\"rw\":\"%s\",\"bs\":%llu,\"depth\":%u,\"operations\":%llu,\"errors\":%llu,"
           "\"seconds\":%.3f,\"iops\":%.0f,\"iops-with-flush\":%.0f,\"mib-per-s\":%.1f,\"p50-us\":%.1f,\"p99-us\":%.1f,\"max-us\":%.1f,\"flush-us\":%.1f,\"flushes\":%llu}\n",
           (int)getpid(), hv_own_domid(j->hv), j->rw, (unsigned long long)j->block_bytes, j->depth, (unsigned long long)b.took.count,
           (unsigned long long)b.errors, (double)took / 1e9, (double)b.took.count * 1e9 / (double)took,
           (double)b.took.count * 1e9 / (double)(took + flush_ns), (double)(b.took.count * j->block_bytes) * 1e9 / (double)took / 1048576.0,
           (double)latency_percentile_ns(&b.took, 0.5) / 1e3, (double)latency_percentile_ns(&b.took, 0.99) / 1e3, (double)b.took.max_ns / 1e3, (double)flush_ns / 1e3,
           (unsigned long long)b.flushes);
    free(b.slot);
    free(b.idle);
    return b.errors != 0;
}
