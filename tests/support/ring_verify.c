/* ring_verify.c - a guest that never believes its disk.
 *
 * The state file is an array of one struct state a block, mapped shared, so that it survives a kill of this process. Each
 * operation on a block takes its next generation; of a generation, the block's content is known: zeroes if the generation is
 * a discard's (by its remainder), else words made from seed, block and generation, the generation first. So a block read
 * later says which of its generations it is.
 * 1. One operation at a time is out for a block; its issued generation is written to the file before it is submitted.
 * 2. acked is written when the operation has ended well; flushed when a flush ended that was submitted after that.
 * 3. A block that was read must hold its acked generation. After a kill of this process: acked or issued. After a power cut:
 *    any generation from flushed to issued. */
#include "tests/support/ring_jobs.h"

#include "base/clock.h"
#include "tests/support/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define BLOCK 4096u
#define WORDS (BLOCK / 8)
#define RUN_MAX 32u          /* blocks of one operation */
#define MAGIC 0x3179666972657670ull
#define DISCARD_EVERY 8u     /* generations with remainder 7 are discards */
#define FLUSH_ONE_IN 64u

struct state {
    uint64_t issued, acked, flushed;
};

struct state_file {
    uint64_t magic, seed, blocks, reserved;
    struct state state[];
};

struct slot {
    struct blkfront_req req;
    struct verify *v;
    struct iovec iov;
    uint64_t block, began_ms;
    unsigned count;
    uint8_t *data;
};

struct verify {
    struct ring_job *j;
    struct state_file *file;
    uint64_t blocks;
    uint8_t *busy;
    uint64_t *flush_cut; /* acked generations when the flush under way was submitted */
    bool flushing;
    struct slot *slot;
    unsigned out;
    uint64_t random, end_ms;
    uint64_t counts[BLKFRONT_DISCARD + 1], errors, mismatches, longest_ms;
};

static bool is_discard(uint64_t generation) { return generation % DISCARD_EVERY == DISCARD_EVERY - 1; }

static void make_block(uint64_t *words, uint64_t seed, uint64_t block, uint64_t generation)
{
    uint64_t x = seed ^ block * 0x9e3779b97f4a7c15ull ^ generation << 40;
    x = x ? x : 1;
    words[0] = generation;
    words[1] = block;
    for (unsigned i = 2; i < WORDS; i++)
        words[i] = unit_random(&x);
}

static bool is_zero(const uint64_t *words) { return !words[0] && !memcmp(words, words + 1, BLOCK - 8); }

/* Whether words are the block in one of the generations from `from` to `to`. */
static bool fits(const struct verify *v, const uint64_t *words, uint64_t block, uint64_t from, uint64_t to)
{
    uint64_t expected[WORDS];
    if (is_zero(words)) {
        for (uint64_t g = from; g <= to; g++)
            if (!g || is_discard(g))
                return true;
        return false;
    }
    if (words[0] < from || words[0] > to || is_discard(words[0]))
        return false;
    make_block(expected, v->file->seed, block, words[0]);
    return !memcmp(expected, words, BLOCK);
}

static void complain(struct verify *v, const uint64_t *words, uint64_t block)
{
    const struct state *s = &v->file->state[block];
    if (v->mismatches++ < 20)
        fprintf(stderr, "wrong content: block %llu: issued %llu acked %llu flushed %llu; found generation %llu of block %llu\n",
                (unsigned long long)block, (unsigned long long)s->issued, (unsigned long long)s->acked, (unsigned long long)s->flushed,
                (unsigned long long)words[0], (unsigned long long)words[1]);
}

static int open_state(struct verify *v, bool fresh)
{
    size_t bytes = sizeof *v->file + v->blocks * sizeof *v->file->state;
    int fd = open(v->j->log, fresh ? O_RDWR | O_CREAT | O_TRUNC : O_RDWR, 0600);
    if (fd < 0 || (fresh && ftruncate(fd, (off_t)bytes) < 0))
        return -errno;
    v->file = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (v->file == MAP_FAILED)
        return -errno;
    if (fresh) {
        v->file->seed = v->j->seed;
        v->file->blocks = v->blocks;
        v->file->magic = MAGIC;
    }
    return v->file->magic == MAGIC && v->file->blocks == v->blocks ? 0 : -EINVAL;
}

/* ---- One operation ---- */

static void ended(struct slot *s, int error)
{
    struct verify *v = s->v;
    uint64_t waited = clock_monotonic_ms() - s->began_ms;
    v->longest_ms = waited > v->longest_ms ? waited : v->longest_ms;
    v->counts[s->req.op]++;
    if (error && v->errors++ < 20)
        fprintf(stderr, "operation %d on block %llu failed: %s\n", s->req.op, (unsigned long long)s->block, strerror(-error));
    if (s->req.op == BLKFRONT_FLUSH) {
        for (uint64_t b = 0; b < v->blocks && !error; b++)
            v->file->state[b].flushed = v->flush_cut[b];
        v->flushing = false;
        return;
    }
    for (unsigned i = 0; i < s->count; i++) {
        struct state *st = &v->file->state[s->block + i];
        const uint64_t *words = (const uint64_t *)(s->data + i * BLOCK);
        v->busy[s->block + i] = 0;
        if (error)
            continue;
        if (s->req.op != BLKFRONT_READ)
            __atomic_store_n(&st->acked, st->issued, __ATOMIC_RELEASE);
        else if (!fits(v, words, s->block + i, st->acked, st->acked))
            complain(v, words, s->block + i);
    }
}

static void next(struct slot *s);

static void done(struct blkfront_req *req, int error)
{
    struct slot *s = container_of(req, struct slot, req);
    s->v->out--;
    ended(s, error);
    next(s);
}

static void submit(struct slot *s, enum blkfront_op op)
{
    struct verify *v = s->v;
    bool data = op == BLKFRONT_READ || op == BLKFRONT_WRITE;
    s->iov = (struct iovec){ s->data, (size_t)s->count * BLOCK };
    s->req = (struct blkfront_req){ .op = op, .offset = s->block * BLOCK, .length = op == BLKFRONT_FLUSH ? 0 : (uint64_t)s->count * BLOCK,
                                    .iov = data ? &s->iov : NULL, .iov_count = data ? 1 : 0, .done = done };
    s->began_ms = clock_monotonic_ms();
    v->out++;
    blkfront_submit(v->j->disk, &s->req);
}

/* A run of blocks that nothing is out for; false after some unlucky picks. */
static bool pick(struct verify *v, struct slot *s)
{
    for (int tries = 0; tries < 50; tries++) {
        s->count = 1 + (unsigned)(unit_random(&v->random) % (unit_random(&v->random) % 4 ? 2 : RUN_MAX));
        if (s->count > v->blocks)
            s->count = (unsigned)v->blocks;
        s->block = unit_random(&v->random) % (v->blocks - s->count + 1);
        if (!memchr(v->busy + s->block, 1, s->count)) {
            memset(v->busy + s->block, 1, s->count);
            return true;
        }
    }
    return false;
}

static void issue(struct verify *v, struct slot *s, bool discard)
{
    for (unsigned i = 0; i < s->count; i++) {
        struct state *st = &v->file->state[s->block + i];
        uint64_t g = st->issued + 1;
        while (is_discard(g) != discard)
            g++;
        __atomic_store_n(&st->issued, g, __ATOMIC_RELEASE);
        if (!discard)
            make_block((uint64_t *)(s->data + i * BLOCK), v->file->seed, s->block + i, g);
    }
    submit(s, discard ? BLKFRONT_DISCARD : BLKFRONT_WRITE);
}

static void next(struct slot *s)
{
    struct verify *v = s->v;
    uint64_t dice = unit_random(&v->random) % FLUSH_ONE_IN;
    if (*v->j->stop || v->errors || v->mismatches || clock_monotonic_ms() >= v->end_ms)
        return;
    if (dice == 0 && !v->flushing) {
        for (uint64_t b = 0; b < v->blocks; b++)
            v->flush_cut[b] = v->file->state[b].acked;
        v->flushing = true;
        s->count = 0;
        submit(s, BLKFRONT_FLUSH);
    } else if (!pick(v, s)) {
        s->count = 0; /* so busy a small disk: this slot rests; the others go on */
    } else if (dice < 24) {
        submit(s, BLKFRONT_READ);
    } else {
        issue(v, s, dice < 28 && v->j->discards);
    }
}

/* ---- Jobs ---- */

/* Reads every block and asks whether it is one of those that may be. */
static int compare_all(struct verify *v, bool power_cut, bool was_killed)
{
    uint8_t *data = v->slot[0].data;
    for (uint64_t block = 0; block < v->blocks; block += RUN_MAX) {
        unsigned count = v->blocks - block < RUN_MAX ? (unsigned)(v->blocks - block) : RUN_MAX;
        int err = blkfront_read(v->j->disk, block * BLOCK, data, (uint64_t)count * BLOCK);
        if (err) {
            fprintf(stderr, "cannot read block %llu: %s\n", (unsigned long long)block, strerror(-err));
            v->errors++;
            return err;
        }
        for (unsigned i = 0; i < count; i++) {
            const struct state *s = &v->file->state[block + i];
            const uint64_t *words = (const uint64_t *)(data + i * BLOCK);
            bool ok = power_cut ? fits(v, words, block + i, s->flushed, s->issued)
                                : fits(v, words, block + i, s->acked, s->acked) || (was_killed && fits(v, words, block + i, s->issued, s->issued));
            if (!ok)
                complain(v, words, block + i);
        }
    }
    return 0;
}

static int report(const struct verify *v, const char *job)
{
    const uint64_t *c = v->counts;
    printf("{\"job\":\"%s\",\"pid\":%d,\"domid\":%u,\"blocks\":%llu,\"reads\":%llu,\"writes\":%llu,\"flushes\":%llu,\"discards\":%llu,"
           "\"errors\":%llu,\"mismatches\":%llu,\"longest-wait-ms\":%llu}\n",
           job, (int)getpid(), hv_own_domid(v->j->hv), (unsigned long long)v->blocks, (unsigned long long)c[BLKFRONT_READ],
           (unsigned long long)c[BLKFRONT_WRITE], (unsigned long long)c[BLKFRONT_FLUSH], (unsigned long long)c[BLKFRONT_DISCARD],
           (unsigned long long)v->errors, (unsigned long long)v->mismatches, (unsigned long long)v->longest_ms);
    return v->errors || v->mismatches;
}

static int begin(struct verify *v, struct ring_job *j, bool fresh)
{
    uint64_t bytes = j->region_bytes && j->region_bytes < j->info.size_bytes ? j->region_bytes : j->info.size_bytes;
    v->j = j;
    v->blocks = bytes / BLOCK;
    v->random = j->seed ? j->seed : 1;
    v->end_ms = clock_monotonic_ms() + j->seconds * 1000;
    v->busy = calloc(v->blocks, 1);
    v->flush_cut = calloc(v->blocks, sizeof *v->flush_cut);
    v->slot = calloc(j->depth, sizeof *v->slot);
    if (!v->blocks || !v->busy || !v->flush_cut || !v->slot)
        return -ENOMEM;
    for (unsigned i = 0; i < j->depth; i++) {
        v->slot[i].v = v;
        /* Half of the memory is granted, half goes through bounce pages: both ways are to be right. */
        v->slot[i].data = i % 2 ? aligned_alloc(BLOCK, RUN_MAX * BLOCK) : blkfront_buffer_alloc(j->disk, RUN_MAX);
        if (!v->slot[i].data)
            return -ENOMEM;
    }
    return open_state(v, fresh);
}

static int end(struct verify *v, const char *job)
{
    int status = report(v, job);
    for (unsigned i = 1; i < v->j->depth; i += 2)
        free(v->slot[i].data);
    munmap(v->file, sizeof *v->file + v->blocks * sizeof *v->file->state);
    free(v->slot);
    free(v->busy);
    free(v->flush_cut);
    return status;
}

int ring_verify(struct ring_job *j)
{
    struct verify v = { 0 };
    int err = begin(&v, j, true);
    if (err) {
        fprintf(stderr, "cannot begin to verify with %s: %s\n", j->log, strerror(-err));
        return 1;
    }
    /* The state says "generation 0, zeroes" of every block: make it so. */
    err = blkfront_discard(j->disk, 0, v.blocks * BLOCK);
    if (err) {
        fprintf(stderr, "cannot clear the disk: %s\n", strerror(-err));
        v.errors++;
    }
    for (unsigned i = 0; i < j->depth; i++)
        next(&v.slot[i]);
    while (v.out)
        loop_turn(j->loop, 100);
    if (!v.errors)
        compare_all(&v, false, false);
    return end(&v, "verify");
}

int ring_check(struct ring_job *j)
{
    struct verify v = { 0 };
    int err = begin(&v, j, false);
    if (err) {
        fprintf(stderr, "cannot use the state file %s: %s\n", j->log, strerror(-err));
        return 1;
    }
    compare_all(&v, j->power_cut, true);
    return end(&v, "check");
}
