/* cache_device_test.c - the memory cache against a device whose reads and writes complete in random order. */
#include "base/clock.h"
#include "cache/cache.h"
#include "tests/support/memory_bdev.h"
#include "tests/support/unit.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define DEVICE_BLOCKS 4096u
#define SMALLEST 1u /* bytes; 64 blocks are kept at least */

struct rig {
    struct loop *loop;
    struct memory_bdev *lower;
    struct bdev *cached;
    uint64_t random;
};

struct asked {
    struct bdev_req req;
    struct iovec iov[4];
    unsigned char *buf; /* 257 blocks */
    unsigned answers;
    int error;
};

static void rig_open(struct rig *r, uint64_t bytes, uint64_t seed)
{
    CU_ASSERT_FATAL(loop_create(&r->loop) == 0);
    CU_ASSERT_FATAL(memory_bdev_open(r->loop, DEVICE_BLOCKS, seed, &r->lower) == 0);
    CU_ASSERT_FATAL(cache_open(r->loop, &r->lower->bdev, bytes, &r->cached) == 0);
    r->random = seed;
    for (uint64_t b = 0; b < DEVICE_BLOCKS; b++)
        memset(memory_bdev_block(r->lower, b), (int)(b & 0xff), BDEV_BLOCK_SIZE), *(uint64_t *)memory_bdev_block(r->lower, b) = b;
}

static void rig_close(struct rig *r)
{
    bdev_close(r->cached);
    bdev_close(&r->lower->bdev);
    loop_destroy(r->loop);
}

static void answered(struct bdev_req *req, int error)
{
    struct asked *a = container_of(req, struct asked, req);
    a->answers++;
    a->error = error;
}

static void submit(struct rig *r, struct asked *a, enum bdev_op op, uint64_t block, uint32_t blocks)
{
    a->answers = 0;
    a->iov[0] = (struct iovec){ a->buf, (size_t)blocks * BDEV_BLOCK_SIZE };
    a->req = (struct bdev_req){ .op = op, .block = block, .blocks = blocks, .iov_count = 1, .iov = a->iov, .done = answered };
    bdev_submit(r->cached, &a->req);
    CU_ASSERT_EQUAL(a->answers, 0); /* never from inside submit */
}

static int finish(struct rig *r, struct asked *a)
{
    for (unsigned i = 0; !a->answers && i < 100000; i++)
        loop_turn(r->loop, 0);
    CU_ASSERT_EQUAL(a->answers, 1);
    return a->error;
}

static int do_io(struct rig *r, struct asked *a, enum bdev_op op, uint64_t block, uint32_t blocks)
{
    submit(r, a, op, block, blocks);
    return finish(r, a);
}

/* Reads and compares with the device; returns how many blocks came from below. */
static uint64_t read_right(struct rig *r, struct asked *a, uint64_t block, uint32_t blocks)
{
    uint64_t before = r->lower->blocks_read;
    memset(a->buf, 0xee, (size_t)blocks * BDEV_BLOCK_SIZE);
    CU_ASSERT_EQUAL(do_io(r, a, BDEV_READ, block, blocks), 0);
    CU_ASSERT_EQUAL(memcmp(a->buf, memory_bdev_block(r->lower, block), (size_t)blocks * BDEV_BLOCK_SIZE), 0);
    return r->lower->blocks_read - before;
}

static struct asked *asked_new(void)
{
    struct asked *a = calloc(1, sizeof *a);
    a->buf = bdev_buffer_alloc(257);
    return a;
}

static void asked_free(struct asked *a)
{
    free(a->buf);
    free(a);
}

/* ---- One at a time ---- */

static void a_block_read_twice_comes_from_memory(void)
{
    struct rig r;
    struct asked *a = asked_new();
    rig_open(&r, SMALLEST, 1);
    CU_ASSERT_EQUAL(read_right(&r, a, 7, 1), 1);
    CU_ASSERT_EQUAL(read_right(&r, a, 7, 1), 0);
    CU_ASSERT_EQUAL(read_right(&r, a, 0, 16), 16);
    CU_ASSERT_EQUAL(read_right(&r, a, 0, 16), 0);
    CU_ASSERT_EQUAL(read_right(&r, a, 3, 5), 0);
    CU_ASSERT_EQUAL(read_right(&r, a, 10, 10), 10); /* partly there: read whole */
    CU_ASSERT_EQUAL(read_right(&r, a, 10, 10), 0);
    struct cache_stats s;
    cache_get_stats(r.cached, &s);
    CU_ASSERT_EQUAL(s.hit_blocks, 1 + 16 + 5 + 10);
    CU_ASSERT_EQUAL(s.missed_blocks, 1 + 16 + 10);
    CU_ASSERT_EQUAL(s.blocks, 20);
    rig_close(&r);
    asked_free(a);
}

static void buffers_may_be_scattered_anyhow(void)
{
    struct rig r;
    struct asked *a = asked_new();
    rig_open(&r, SMALLEST, 1);
    for (unsigned round = 0; round < 2; round++) { /* filled from, then answered from memory */
        a->answers = 0;
        unsigned char *p = a->buf;
        memset(p, 0xee, 5 * BDEV_BLOCK_SIZE);
        a->iov[0] = (struct iovec){ p + 3 * BDEV_BLOCK_SIZE, BDEV_BLOCK_SIZE };
        a->iov[1] = (struct iovec){ p, BDEV_BLOCK_SIZE / 2 };
        a->iov[2] = (struct iovec){ p + BDEV_BLOCK_SIZE / 2, 2 * BDEV_BLOCK_SIZE };
        a->iov[3] = (struct iovec){ p + 4 * BDEV_BLOCK_SIZE, BDEV_BLOCK_SIZE / 2 };
        a->req = (struct bdev_req){ .op = BDEV_READ, .block = 20, .blocks = 4, .iov_count = 4, .iov = a->iov, .done = answered };
        if (round == 0) { /* the test device copies whole blocks only */
            CU_ASSERT_EQUAL(read_right(&r, a, 20, 4), 4);
            continue;
        }
        bdev_submit(r.cached, &a->req);
        CU_ASSERT_EQUAL(finish(&r, a), 0);
        unsigned char flat[4 * BDEV_BLOCK_SIZE];
        memcpy(flat, p + 3 * BDEV_BLOCK_SIZE, BDEV_BLOCK_SIZE);
        memcpy(flat + BDEV_BLOCK_SIZE, p, 5 * BDEV_BLOCK_SIZE / 2);
        memcpy(flat + 7 * BDEV_BLOCK_SIZE / 2, p + 4 * BDEV_BLOCK_SIZE, BDEV_BLOCK_SIZE / 2);
        CU_ASSERT_EQUAL(memcmp(flat, memory_bdev_block(r.lower, 20), sizeof flat), 0);
    }
    rig_close(&r);
    asked_free(a);
}

static void long_reads_are_not_kept(void)
{
    struct rig r;
    struct asked *a = asked_new();
    rig_open(&r, 8 << 20, 1);
    CU_ASSERT_EQUAL(read_right(&r, a, 100, 17), 17);
    CU_ASSERT_EQUAL(read_right(&r, a, 100, 17), 17);
    CU_ASSERT_EQUAL(read_right(&r, a, 100, 16), 16);
    CU_ASSERT_EQUAL(read_right(&r, a, 116, 1), 1);
    CU_ASSERT_EQUAL(read_right(&r, a, 100, 17), 0); /* but answered if all is there */
    struct cache_stats s;
    cache_get_stats(r.cached, &s);
    CU_ASSERT_EQUAL(s.bypassed_blocks, 34);
    rig_close(&r);
    asked_free(a);
}

static void writes_go_through_and_are_not_kept(void)
{
    struct rig r;
    struct asked *a = asked_new();
    rig_open(&r, SMALLEST, 1);
    CU_ASSERT_EQUAL(read_right(&r, a, 50, 4), 4);
    memset(a->buf, 0x5a, 2 * BDEV_BLOCK_SIZE);
    CU_ASSERT_EQUAL(do_io(&r, a, BDEV_WRITE, 51, 2), 0);
    CU_ASSERT_EQUAL(*(unsigned char *)memory_bdev_block(r.lower, 52), 0x5a);
    CU_ASSERT_EQUAL(read_right(&r, a, 50, 1), 0);
    CU_ASSERT_EQUAL(read_right(&r, a, 53, 1), 0);
    CU_ASSERT_EQUAL(read_right(&r, a, 51, 2), 2);
    CU_ASSERT_EQUAL(do_io(&r, a, BDEV_FLUSH, 0, 0), 0);
    CU_ASSERT_EQUAL(r.lower->flushes, 1);
    rig_close(&r);
    asked_free(a);
}

static void errors_are_passed_on_and_nothing_is_kept(void)
{
    struct rig r;
    struct asked *a = asked_new();
    rig_open(&r, SMALLEST, 1);
    r.lower->bad_block = 31;
    CU_ASSERT_EQUAL(do_io(&r, a, BDEV_READ, 30, 3), -EIO);
    r.lower->bad_block = 0;
    CU_ASSERT_EQUAL(read_right(&r, a, 30, 3), 3);
    r.lower->fail_at = r.lower->ios + 1;
    CU_ASSERT_EQUAL(do_io(&r, a, BDEV_WRITE, 30, 1), -EIO);
    CU_ASSERT_EQUAL(read_right(&r, a, 30, 1), 1); /* who knows what the write left there */
    rig_close(&r);
    asked_free(a);
}

static void forgotten_and_dropped_blocks_are_read_again(void)
{
    struct rig r;
    struct asked *a = asked_new();
    rig_open(&r, SMALLEST, 1);
    read_right(&r, a, 10, 10);
    cache_forget(r.cached, 12, 3);
    CU_ASSERT_EQUAL(read_right(&r, a, 10, 2), 0);
    CU_ASSERT_EQUAL(read_right(&r, a, 15, 5), 0);
    CU_ASSERT_EQUAL(read_right(&r, a, 12, 1), 1);
    cache_drop(r.cached, 10);
    CU_ASSERT_EQUAL(read_right(&r, a, 10, 1), 1);
    cache_forget(r.cached, 0, UINT64_MAX);
    struct cache_stats s;
    cache_get_stats(r.cached, &s);
    CU_ASSERT_EQUAL(s.blocks, 0);
    CU_ASSERT_EQUAL(s.dropped_blocks, 1);
    CU_ASSERT_EQUAL(read_right(&r, a, 10, 10), 10);
    /* Forgotten while it is being read. */
    cache_forget(r.cached, 0, UINT64_MAX);
    submit(&r, a, BDEV_READ, 10, 1);
    cache_forget(r.cached, 10, 1);
    CU_ASSERT_EQUAL(finish(&r, a), 0);
    CU_ASSERT_EQUAL(read_right(&r, a, 10, 1), 1);
    rig_close(&r);
    asked_free(a);
}

/* ---- Policy ---- */

static void a_scan_does_not_flush_the_blocks_in_use(void)
{
    struct rig r;
    struct asked *a = asked_new();
    rig_open(&r, 200 * 4150, 1);
    struct cache_stats s;
    cache_get_stats(r.cached, &s);
    CU_ASSERT(s.capacity_blocks > 150 && s.capacity_blocks <= 200);
    for (unsigned round = 0; round < 4; round++)
        for (uint64_t b = 0; b < 100; b++)
            read_right(&r, a, b, 1);
    for (uint64_t b = 200; b < 4000; b += 10) /* a scan of twenty times the memory, in short reads */
        read_right(&r, a, b, 10);
    uint64_t again = 0;
    for (uint64_t b = 0; b < 100; b++)
        again += read_right(&r, a, b, 1);
    CU_ASSERT(again <= 10);
    rig_close(&r);
    asked_free(a);
}

static void a_new_working_set_takes_the_old_ones_place(void)
{
    struct rig r;
    struct asked *a = asked_new();
    rig_open(&r, 200 * 4150, 1);
    for (unsigned set = 0; set < 3; set++) {
        uint64_t last = 0;
        for (unsigned round = 0; round < 12; round++) {
            last = 0;
            for (uint64_t b = 0; b < 120; b++)
                last += read_right(&r, a, set * 1000 + b, 1);
        }
        CU_ASSERT(last <= 12);
    }
    rig_close(&r);
    asked_free(a);
}

static void reads_far_and_wide_are_hardly_kept_until_a_working_set_comes(void)
{
    struct rig r;
    struct asked *a = asked_new();
    rig_open(&r, 200 * 4150, 1);
    struct cache_stats before, after;
    for (unsigned i = 0; i < 3000; i++)
        read_right(&r, a, unit_random(&r.random) % DEVICE_BLOCKS, 1);
    cache_get_stats(r.cached, &before);
    for (unsigned i = 0; i < 2000; i++)
        read_right(&r, a, unit_random(&r.random) % DEVICE_BLOCKS, 1);
    cache_get_stats(r.cached, &after);
    uint64_t missed = after.missed_blocks - before.missed_blocks, bypassed = after.bypassed_blocks - before.bypassed_blocks;
    CU_ASSERT(missed > 1500 && bypassed > missed / 2 && bypassed < missed);
    uint64_t last = 0;
    for (unsigned round = 0; round < 4; round++) {
        last = 0;
        for (uint64_t b = 0; b < 100; b++)
            last += read_right(&r, a, b, 1);
    }
    CU_ASSERT(last <= 10);
    rig_close(&r);
    asked_free(a);
}

static void memory_stays_within_its_bound(void)
{
    struct rig r;
    struct asked *a = asked_new();
    static const uint64_t bytes[] = { 0, 1, 300000, 1000000, 5000000 };
    for (unsigned i = 0; i < 5; i++) {
        rig_open(&r, bytes[i], 1);
        for (unsigned k = 0; k < 3000; k++)
            read_right(&r, a, unit_random(&r.random) % (DEVICE_BLOCKS - 16), 1 + unit_random(&r.random) % 16);
        struct cache_stats s;
        cache_get_stats(r.cached, &s);
        CU_ASSERT(s.blocks <= s.capacity_blocks);
        CU_ASSERT(s.capacity_blocks * BDEV_BLOCK_SIZE <= bytes[i] || s.capacity_blocks == 64);
        rig_close(&r);
    }
    asked_free(a);
}

/* ---- Many at once ---- */

/* Every block carries its number and a version. A read must bring versions that were on the device at some time between its
 * submission and its completion; only one write to a block is under way at a time. */
struct model {
    struct rig r;
    uint64_t before[DEVICE_BLOCKS], after[DEVICE_BLOCKS]; /* versions a read submitted now may see */
    bool writing[DEVICE_BLOCKS];
    unsigned in_flight, wrong;
};

struct mixed {
    struct asked a;
    struct model *m;
    uint64_t low[20]; /* the least version that each block may have */
};

static void mixed_done(struct bdev_req *req, int error)
{
    struct mixed *x = container_of(container_of(req, struct asked, req), struct mixed, a);
    struct model *m = x->m;
    m->in_flight--;
    m->wrong += error != 0;
    for (uint32_t i = 0; i < req->blocks; i++) {
        uint64_t b = req->block + i, *words = (uint64_t *)(x->a.buf + (size_t)i * BDEV_BLOCK_SIZE);
        if (req->op == BDEV_WRITE) {
            m->before[b] = m->after[b];
            m->writing[b] = false;
        } else if (words[0] != b || words[1] < x->low[i] || words[1] > m->after[b] || words[511] != words[1]) {
            m->wrong++;
        }
    }
    x->a.answers = 1;
}

static void mixed_start(struct mixed *x)
{
    struct model *m = x->m;
    uint32_t blocks = 1 + (uint32_t)(unit_random(&m->r.random) % 20);
    uint64_t block = unit_random(&m->r.random) % 200;
    bool write = unit_random(&m->r.random) % 4 == 0;
    for (uint32_t i = 0; i < blocks; i++)
        write &= !m->writing[block + i];
    for (uint32_t i = 0; i < blocks; i++) {
        uint64_t b = block + i, *words = (uint64_t *)(x->a.buf + (size_t)i * BDEV_BLOCK_SIZE);
        if (write) {
            m->writing[b] = true;
            words[0] = b;
            words[1] = words[511] = ++m->after[b];
        } else {
            x->low[i] = m->before[b];
        }
    }
    x->a.answers = 0;
    x->a.iov[0] = (struct iovec){ x->a.buf, (size_t)blocks * BDEV_BLOCK_SIZE };
    x->a.req = (struct bdev_req){ .op = write ? BDEV_WRITE : BDEV_READ, .block = block, .blocks = blocks, .iov_count = 1, .iov = x->a.iov };
    x->a.req.done = mixed_done;
    m->in_flight++;
    bdev_submit(m->r.cached, &x->a.req);
}

static void run_mixed(unsigned width, unsigned total, uint64_t bytes)
{
    struct model *m = calloc(1, sizeof *m);
    rig_open(&m->r, bytes, unit_seed());
    for (uint64_t b = 0; b < DEVICE_BLOCKS; b++) {
        uint64_t *words = memory_bdev_block(m->r.lower, b);
        words[1] = words[511] = 0;
    }
    struct mixed *x = calloc(width, sizeof *x);
    for (unsigned i = 0; i < width; i++) {
        x[i].m = m;
        x[i].a.buf = bdev_buffer_alloc(20);
        mixed_start(&x[i]);
    }
    for (unsigned started = width; m->in_flight;) {
        loop_turn(m->r.loop, 0);
        for (unsigned i = 0; i < width && started < total; i++)
            if (x[i].a.answers && unit_random(&m->r.random) % 2) {
                mixed_start(&x[i]);
                started++;
            }
        if (unit_random(&m->r.random) % 50 == 0)
            cache_forget(m->r.cached, unit_random(&m->r.random) % 200, 30);
    }
    CU_ASSERT_EQUAL(m->wrong, 0);
    struct cache_stats s;
    cache_get_stats(m->r.cached, &s);
    CU_ASSERT(s.hit_blocks > 0 || width > s.capacity_blocks); /* memory taken up by reads in flight keeps nothing */
    for (unsigned i = 0; i < width; i++)
        free(x[i].a.buf);
    free(x);
    rig_close(&m->r);
    free(m);
}

static void mixed_requests_never_see_old_bytes(void)
{
    run_mixed(8, 60000, SMALLEST);
    run_mixed(8, 60000, 4 << 20);
    run_mixed(100, 60000, 1 << 20);
}

static void more_requests_than_the_cache_can_follow_are_all_answered(void)
{
    run_mixed(3000, 30000, SMALLEST);
    run_mixed(3000, 30000, 4 << 20);
}

/* ---- Blocking calls ---- */

static void *blocking_calls(void *ctx)
{
    struct rig *r = ctx;
    unsigned char *buf = bdev_buffer_alloc(2);
    uint64_t addresses[2] = { 3000, 3001 };
    void *bufs[2] = { buf, buf + BDEV_BLOCK_SIZE };
    for (unsigned i = 0; i < 500; i++) {
        memset(buf, (int)i, BDEV_BLOCK_SIZE);
        CU_ASSERT_EQUAL(bdev_write(r->cached, 3000, buf, 1), 0);
        CU_ASSERT_EQUAL(bdev_read(r->cached, 3000, buf, 2), 0);
        CU_ASSERT_EQUAL(bdev_read_many(r->cached, addresses, bufs, 2), 0);
        CU_ASSERT_EQUAL(bdev_flush(r->cached), 0);
        CU_ASSERT_EQUAL(bdev_grow(r->cached, DEVICE_BLOCKS), 0);
    }
    CU_ASSERT_EQUAL(bdev_grow(r->cached, DEVICE_BLOCKS + 1), -ENOSPC);
    CU_ASSERT_EQUAL(bdev_punch(r->cached, 3001, 1), 0);
    free(buf);
    return NULL;
}

static void blocking_calls_from_another_thread_go_below(void)
{
    struct rig r;
    struct asked *a = asked_new();
    pthread_t thread;
    rig_open(&r, SMALLEST, 1);
    CU_ASSERT_EQUAL_FATAL(pthread_create(&thread, NULL, blocking_calls, &r), 0);
    for (unsigned i = 0; i < 2000; i++) {
        CU_ASSERT_EQUAL(do_io(&r, a, BDEV_READ, i % 100, 1), 0);
        CU_ASSERT_EQUAL(*(uint64_t *)a->buf, i % 100);
    }
    pthread_join(thread, NULL);
    CU_ASSERT_EQUAL(r.cached->blocks, DEVICE_BLOCKS);
    CU_ASSERT_EQUAL(*(unsigned char *)memory_bdev_block(r.lower, 3000), 499 & 0xff);
    rig_close(&r);
    asked_free(a);
}

int main(int argc, char **argv)
{
    return unit_main(argc, argv, "cache device",
                     (struct unit_test[]){ UNIT(a_block_read_twice_comes_from_memory), UNIT(buffers_may_be_scattered_anyhow),
                                           UNIT(long_reads_are_not_kept), UNIT(writes_go_through_and_are_not_kept),
                                           UNIT(errors_are_passed_on_and_nothing_is_kept),
                                           UNIT(forgotten_and_dropped_blocks_are_read_again), UNIT(a_scan_does_not_flush_the_blocks_in_use),
                                           UNIT(a_new_working_set_takes_the_old_ones_place),
                                           UNIT(reads_far_and_wide_are_hardly_kept_until_a_working_set_comes), UNIT(memory_stays_within_its_bound),
                                           UNIT(mixed_requests_never_see_old_bytes),
                                           UNIT(more_requests_than_the_cache_can_follow_are_all_answered),
                                           UNIT(blocking_calls_from_another_thread_go_below), { 0 } });
}
