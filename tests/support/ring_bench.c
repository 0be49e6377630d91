/* ring_bench.c - one kind of operation at a fixed depth, timed.
 *
 * Latencies go into buckets of 1/16 of a power of two of nanoseconds, so that a percentile is right to 6 %. The clock is read
 * once a completion. */
#include "tests/support/ring_jobs.h"

#include "base/clock.h"
#include "tests/support/unit.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FINE 16u
#define BUCKETS (64u * FINE)
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
    enum blkfront_op op;
    bool random;
    uint64_t positions, next_position, state, serial;
    uint64_t end_ns, ended, errors, max_ns;
    unsigned out;
    uint64_t bucket[BUCKETS];
};

static unsigned bucket_of(uint64_t ns)
{
    if (ns < FINE)
        return (unsigned)ns;
    unsigned power = 63u - (unsigned)__builtin_clzll(ns);
    return (power - 3) * FINE + (unsigned)(ns >> (power - 4)) % FINE;
}

/* The upper end of a bucket. */
static uint64_t bucket_ns(unsigned i)
{
    if (i < FINE)
        return i;
    unsigned power = i / FINE + 3;
    return ((uint64_t)FINE + i % FINE + 1) << (power - 4);
}

static uint64_t percentile_ns(const struct bench *b, double part)
{
    uint64_t seen = 0, wanted = (uint64_t)((double)b->ended * part);
    for (unsigned i = 0; i < BUCKETS; i++) {
        seen += b->bucket[i];
        if (seen > wanted)
            return bucket_ns(i) < b->max_ns ? bucket_ns(i) : b->max_ns;
    }
    return b->max_ns;
}

/* No two blocks written are alike, so that nothing below can save work on equal ones. */
static void stamp(struct bench *b, struct slot *s)
{
    for (uint64_t at = 0; at < b->j->block_bytes; at += BLOCK) {
        uint64_t serial = ++b->serial;
        memcpy((uint8_t *)s->iov.iov_base + at, &serial, sizeof serial);
    }
}

static void submit(struct bench *b, struct slot *s, uint64_t now)
{
    uint64_t position = b->random ? unit_random(&b->state) % b->positions : b->next_position++ % b->positions;
    s->req.offset = position * b->j->block_bytes;
    s->began_ns = now;
    if (b->op == BLKFRONT_WRITE)
        stamp(b, s);
    b->out++;
    blkfront_submit(b->j->disk, &s->req);
}

static void done(struct blkfront_req *req, int error)
{
    struct slot *s = container_of(req, struct slot, req);
    struct bench *b = s->b;
    uint64_t now = clock_monotonic_ns(), took = now - s->began_ns;
    b->out--;
    b->ended++;
    b->bucket[bucket_of(took)]++;
    b->max_ns = took > b->max_ns ? took : b->max_ns;
    if (error && !b->errors++)
        fprintf(stderr, "operation at %llu failed: %s\n", (unsigned long long)req->offset, strerror(-error));
    if (now < b->end_ns && !*b->j->stop && !b->errors)
        submit(b, s, now);
}

static int prepare(struct bench *b)
{
    struct ring_job *j = b->j;
    b->op = strstr(j->rw, "read") ? BLKFRONT_READ : BLKFRONT_WRITE;
    b->random = !strncmp(j->rw, "rand", 4);
    uint64_t bytes = j->region_bytes && j->region_bytes < j->info.size_bytes ? j->region_bytes : j->info.size_bytes;
    b->positions = bytes / j->block_bytes;
    b->state = j->seed ? j->seed : 1;
    b->serial = b->state << 20;
    b->slot = calloc(j->depth, sizeof *b->slot);
    unsigned pages = (unsigned)((j->block_bytes + BLOCK - 1) / BLOCK);
    uint8_t *memory = blkfront_buffer_alloc(j->disk, pages * j->depth);
    if (!b->positions || !b->slot || !memory)
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
    b.end_ns = began + j->seconds * 1000000000ull;
    for (unsigned i = 0; i < j->depth; i++)
        submit(&b, &b.slot[i], began);
    while (b.out)
        loop_turn(j->loop, 100);
    uint64_t took = clock_monotonic_ns() - began, flush_began = clock_monotonic_ns();
    int err = b.op == BLKFRONT_WRITE && j->info.flush ? blkfront_flush(j->disk) : 0;
    uint64_t flush_ns = clock_monotonic_ns() - flush_began;
    b.errors += err != 0;
    printf("{\"job\":\"bench\",\"pid\":%d,\"domid\":%u,\"rw\":\"%s\",\"bs\":%llu,\"depth\":%u,\"operations\":%llu,\"errors\":%llu,"
           "\"seconds\":%.3f,\"iops\":%.0f,\"iops-with-flush\":%.0f,\"mib-per-s\":%.1f,\"p50-us\":%.1f,\"p99-us\":%.1f,\"max-us\":%.1f,\"flush-us\":%.1f}\n",
           (int)getpid(), hv_own_domid(j->hv), j->rw, (unsigned long long)j->block_bytes, j->depth, (unsigned long long)b.ended,
           (unsigned long long)b.errors, (double)took / 1e9, (double)b.ended * 1e9 / (double)took,
           (double)b.ended * 1e9 / (double)(took + flush_ns), (double)(b.ended * j->block_bytes) * 1e9 / (double)took / 1048576.0,
           (double)percentile_ns(&b, 0.5) / 1e3, (double)percentile_ns(&b, 0.99) / 1e3, (double)b.max_ns / 1e3, (double)flush_ns / 1e3);
    free(b.slot);
    return b.errors != 0;
}
