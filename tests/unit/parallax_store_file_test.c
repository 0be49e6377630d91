/* parallax_store_file_test.c - the block device over a file: random requests against an oracle, merging, growth, limits. */
#include "base/clock.h"
#include "parallax/store/bdev_file.h"
#include "tests/support/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <libaio.h>
#include <linux/magic.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { MAX_IOVS = 1100 };

static int setup_error; /* of every io_setup */

int io_setup(int depth, io_context_t *out)
{
    if (setup_error)
        return setup_error;
    return syscall(SYS_io_setup, depth, out) ? -errno : 0;
}

static int submit_error; /* of every io_submit */
static atomic_uint flushes_submitted; /* by any thread */

int io_submit(io_context_t context, long count, struct iocb **iocbs)
{
    for (long i = 0; i < count; i++)
        flushes_submitted += iocbs[i]->aio_lio_opcode == IO_CMD_FDSYNC;
    long n = submit_error ? submit_error : syscall(SYS_io_submit, context, count, iocbs);
    return submit_error || n >= 0 ? (int)n : -errno;
}

static int sync_error; /* of the next flush whose end is asked for by io_getevents */

int io_getevents(io_context_t context, long least, long most, struct io_event *events, struct timespec *timeout)
{
    long n = syscall(SYS_io_getevents, context, least, most, events, timeout);
    for (long i = 0; i < n && sync_error; i++)
        if (events[i].obj->aio_lio_opcode == IO_CMD_FDSYNC) {
            events[i].res = (unsigned long)(long)sync_error;
            sync_error = 0;
        }
    return n >= 0 ? (int)n : -errno;
}

static char directory[256], path[300];

/* A device on a new file, with a loop. */
struct world {
    struct loop *loop;
    struct bdev *d;
    unsigned inflight;
};

static void world_open_as(struct world *w, uint64_t blocks, bool lazy)
{
    bool direct;
    struct bdev_file_options opt = { .create = true, .lazy = lazy };
    unlink(path);
    w->inflight = 0;
    CU_ASSERT_EQUAL_FATAL(loop_create(&w->loop), 0);
    opt.loop = w->loop;
    CU_ASSERT_EQUAL_FATAL(bdev_file_open(path, &opt, &w->d, &direct), 0);
    CU_ASSERT_EQUAL_FATAL(bdev_grow(w->d, blocks), 0);
}

static void world_open(struct world *w, uint64_t blocks) { world_open_as(w, blocks, false); }

static void world_close(struct world *w)
{
    bdev_close(w->d);
    loop_destroy(w->loop);
    unlink(path);
}

static void world_drain(struct world *w)
{
    uint64_t limit = clock_monotonic_ms() + 10000;
    while (w->inflight && clock_monotonic_ms() < limit)
        loop_turn(w->loop, 100);
    CU_ASSERT_EQUAL_FATAL(w->inflight, 0);
}

struct request {
    struct bdev_req req;
    struct world *w;
    struct iovec iov[MAX_IOVS];
    unsigned char *buf;
    int error, calls;
    struct request *next; /* submitted when this one is done */
};

static void request_submit(struct request *r);

static void request_done(struct bdev_req *req, int error)
{
    struct request *r = container_of(req, struct request, req);
    r->error = error;
    r->calls++;
    r->w->inflight--;
    if (r->next)
        request_submit(r->next);
}

/* As many iovecs as pieces; blocks is a multiple of it. */
static struct request *request_make(struct world *w, enum bdev_op op, uint64_t block, uint32_t blocks, unsigned pieces)
{
    struct request *r = calloc(1, sizeof *r);
    r->w = w;
    r->error = 1;
    r->buf = blocks ? bdev_buffer_alloc(blocks) : NULL;
    for (unsigned i = 0; i < pieces; i++)
        r->iov[i] = (struct iovec){ r->buf + (size_t)i * (blocks / pieces) * BDEV_BLOCK_SIZE, (size_t)(blocks / pieces) * BDEV_BLOCK_SIZE };
    r->req = (struct bdev_req){ .op = op, .block = block, .blocks = blocks, .iov = r->iov, .iov_count = pieces, .done = request_done };
    return r;
}

static void request_submit(struct request *r)
{
    r->w->inflight++;
    bdev_submit(r->w->d, &r->req);
    CU_ASSERT_EQUAL(r->calls, 0);
}

static void request_free(struct request *r)
{
    free(r->buf);
    free(r);
}

static void fill(unsigned char *buf, uint64_t block, uint32_t version)
{
    uint64_t random = block * 1000003 + version + 1;
    for (unsigned i = 0; i < BDEV_BLOCK_SIZE; i += 8) {
        uint64_t v = unit_random(&random);
        memcpy(buf + i, &v, 8);
    }
}

static bool holds(const unsigned char *buf, uint64_t block, uint32_t version)
{
    unsigned char want[BDEV_BLOCK_SIZE] = { 0 };
    if (version)
        fill(want, block, version);
    return memcmp(buf, want, BDEV_BLOCK_SIZE) == 0;
}

/* Batches of requests that do not overlap within a batch, from the loop; now and then the blocking calls. */
enum { BLOCKS = 4096, BATCH = 400, LONGEST = 16 };

struct model {
    struct world w;
    uint32_t version[BLOCKS];
    bool busy[BLOCKS];
    uint64_t random;
};

static bool reserve(struct model *m, uint64_t block, uint32_t blocks)
{
    for (uint32_t i = 0; i < blocks; i++)
        if (m->busy[block + i])
            return false;
    memset(m->busy + block, 1, blocks);
    return true;
}

static void model_batch(struct model *m)
{
    struct request *list[BATCH];
    unsigned count = 0;
    memset(m->busy, 0, sizeof m->busy);
    uint64_t next = 0;
    for (unsigned i = 0; i < BATCH; i++) {
        uint32_t blocks = 1 + (uint32_t)(unit_random(&m->random) % LONGEST);
        bool follow = unit_random(&m->random) % 2; /* continues the request before, for merging */
        uint64_t block = follow ? next : unit_random(&m->random) % (BLOCKS - LONGEST);
        if (block + blocks > BLOCKS || !reserve(m, block, blocks))
            continue;
        next = block + blocks;
        enum bdev_op op = unit_random(&m->random) % 2 ? BDEV_WRITE : BDEV_READ;
        struct request *r = list[count++] = request_make(&m->w, op, block, blocks, blocks % 2 ? 1 : 2);
        if (op == BDEV_WRITE)
            for (uint32_t k = 0; k < blocks; k++)
                fill(r->buf + (size_t)k * BDEV_BLOCK_SIZE, block + k, ++m->version[block + k]);
        request_submit(r);
        if (unit_random(&m->random) % 50 == 0)
            request_submit(list[count++] = request_make(&m->w, BDEV_FLUSH, 0, 0, 0));
        if (count + 2 > BATCH)
            break;
    }
    world_drain(&m->w);
    for (unsigned i = 0; i < count; i++) {
        struct request *r = list[i];
        CU_ASSERT(r->error == 0 && r->calls == 1);
        for (uint32_t k = 0; r->req.op == BDEV_READ && k < r->req.blocks; k++)
            CU_ASSERT(holds(r->buf + (size_t)k * BDEV_BLOCK_SIZE, r->req.block + k, m->version[r->req.block + k]));
        request_free(r);
    }
}

static void model_blocking(struct model *m)
{
    unsigned char *buf = bdev_buffer_alloc(300);
    uint64_t blocks[300], block = unit_random(&m->random) % (BLOCKS - LONGEST);
    void *bufs[300];
    for (unsigned i = 0; i < 300; i++) {
        blocks[i] = unit_random(&m->random) % BLOCKS;
        bufs[i] = buf + (size_t)i * BDEV_BLOCK_SIZE;
    }
    CU_ASSERT_EQUAL(bdev_read_many(m->w.d, blocks, bufs, 300), 0);
    for (unsigned i = 0; i < 300; i++)
        CU_ASSERT(holds(bufs[i], blocks[i], m->version[blocks[i]]));
    unsigned apart = BLOCKS / 300, shift = (unsigned)(unit_random(&m->random) % apart);
    for (unsigned i = 0; i < 300; i++) {
        blocks[i] = (uint64_t)i * apart + shift;
        fill(bufs[i], blocks[i], ++m->version[blocks[i]]);
    }
    CU_ASSERT_EQUAL(bdev_write_many(m->w.d, blocks, bufs, 300), 0);
    for (uint32_t k = 0; k < LONGEST; k++)
        fill(buf + (size_t)k * BDEV_BLOCK_SIZE, block + k, ++m->version[block + k]);
    CU_ASSERT_EQUAL(bdev_write(m->w.d, block, buf, LONGEST), 0);
    CU_ASSERT_EQUAL(bdev_flush(m->w.d), 0);
    memset(buf, 0, LONGEST * BDEV_BLOCK_SIZE);
    CU_ASSERT_EQUAL(bdev_read(m->w.d, block, buf, LONGEST), 0);
    for (uint32_t k = 0; k < LONGEST; k++)
        CU_ASSERT(holds(buf + (size_t)k * BDEV_BLOCK_SIZE, block + k, m->version[block + k]));
    free(buf);
}

static void random_requests_match_an_oracle(void)
{
    static struct model m;
    memset(&m, 0, sizeof m);
    m.random = unit_seed();
    world_open(&m.w, BLOCKS);
    for (int i = 0; i < 40; i++) {
        model_batch(&m);
        model_blocking(&m);
    }
    struct aio_queue_stats stats;
    bdev_file_get_stats(m.w.d, &stats);
    printf("# %llu requests in %llu transfers and %llu submissions\n", (unsigned long long)stats.requests,
           (unsigned long long)stats.transfers, (unsigned long long)stats.submits);
    CU_ASSERT(stats.transfers < stats.requests);
    world_close(&m.w);
}

static uint64_t transfers_for(struct world *w, struct request **list, unsigned count)
{
    struct aio_queue_stats before, after;
    bdev_file_get_stats(w->d, &before);
    for (unsigned i = 0; i < count; i++)
        request_submit(list[i]);
    world_drain(w);
    bdev_file_get_stats(w->d, &after);
    for (unsigned i = 0; i < count; i++) {
        CU_ASSERT(list[i]->error == 0 && list[i]->calls == 1);
        request_free(list[i]);
    }
    return after.transfers - before.transfers;
}

static void neighbours_of_one_turn_become_one_transfer(void)
{
    struct world w;
    struct request *list[512];
    world_open(&w, 2048);
    for (unsigned i = 0; i < 64; i++)
        list[i] = request_make(&w, BDEV_WRITE, 100 + i, 1, 1);
    CU_ASSERT_EQUAL(transfers_for(&w, list, 64), 1);
    for (unsigned i = 0; i < 64; i++) /* two streams that interleave */
        list[i] = request_make(&w, i % 2 ? BDEV_READ : BDEV_WRITE, (i % 2 ? 0 : 1000) + i / 2, 1, 1);
    CU_ASSERT_EQUAL(transfers_for(&w, list, 64), 2);
    for (unsigned i = 0; i < 8; i++) /* never what is not adjacent */
        list[i] = request_make(&w, BDEV_READ, i * 2, 1, 1);
    CU_ASSERT_EQUAL(transfers_for(&w, list, 8), 8);
    for (unsigned i = 0; i < 512; i++) /* up to 1 MiB each */
        list[i] = request_make(&w, BDEV_READ, i, 1, 1);
    CU_ASSERT_EQUAL(transfers_for(&w, list, 512), 2);
    for (unsigned i = 0; i < 30; i++) /* flushes that wait together are one */
        list[i] = request_make(&w, BDEV_FLUSH, 0, 0, 0);
    CU_ASSERT_EQUAL(transfers_for(&w, list, 30), 1);
    world_close(&w);
}

static void more_requests_than_the_kernel_takes_wait_their_turn(void)
{
    struct world w;
    static struct request *list[2000];
    world_open(&w, 8192);
    for (unsigned i = 0; i < 2000; i++)
        list[i] = request_make(&w, BDEV_READ, i * 4, 1, 1);
    CU_ASSERT_EQUAL(transfers_for(&w, list, 2000), 2000);
    world_close(&w);
}

static void requests_outside_the_device_are_refused(void)
{
    struct world w;
    unsigned char *buf = bdev_buffer_alloc(16);
    void *bufs[2] = { buf, buf + BDEV_BLOCK_SIZE };
    world_open(&w, 64);
    struct request *list[] = { request_make(&w, BDEV_READ, 64, 1, 1), request_make(&w, BDEV_WRITE, 60, 8, 1),
                               request_make(&w, BDEV_READ, UINT64_MAX, 2, 1), request_make(&w, BDEV_READ, 0, 0, 0),
                               request_make(&w, BDEV_READ, 0, 1100, 1100) };
    for (unsigned i = 0; i < 5; i++)
        request_submit(list[i]);
    world_drain(&w);
    for (unsigned i = 0; i < 5; i++) {
        CU_ASSERT(list[i]->error == -EINVAL && list[i]->calls == 1);
        request_free(list[i]);
    }
    CU_ASSERT_EQUAL(bdev_read(w.d, 63, buf, 2), -EINVAL);
    CU_ASSERT_EQUAL(bdev_write(w.d, UINT64_MAX, buf, 1), -EINVAL);
    CU_ASSERT_EQUAL(bdev_read_many(w.d, (uint64_t[]){ 1, 64 }, bufs, 2), -EINVAL);
    CU_ASSERT_EQUAL(bdev_write_many(w.d, (uint64_t[]){ 1, 64 }, bufs, 2), -EINVAL);
    CU_ASSERT_EQUAL(bdev_punch(w.d, 60, 5), -EINVAL);
    free(buf);
    world_close(&w);
}

static void a_request_of_1024_pieces_is_one_transfer(void)
{
    struct world w;
    world_open(&w, 2048);
    struct request *r = request_make(&w, BDEV_WRITE, 7, 1024, 1024);
    for (uint32_t k = 0; k < 1024; k++)
        fill(r->buf + (size_t)k * BDEV_BLOCK_SIZE, k, 3);
    CU_ASSERT_EQUAL(transfers_for(&w, &r, 1), 1);
    unsigned char *buf = bdev_buffer_alloc(1024);
    CU_ASSERT_EQUAL(bdev_read(w.d, 7, buf, 1024), 0);
    for (uint32_t k = 0; k < 1024; k++)
        CU_ASSERT(holds(buf + (size_t)k * BDEV_BLOCK_SIZE, k, 3));
    free(buf);
    world_close(&w);
}

/* fs.aio-max-nr is used up, by others who may let go of some; there is no memory; the kernel has none, or none for us. */
static void without_a_context_each_request_is_waited_for_until_there_is_one(void)
{
    struct world w;
    world_open_as(&w, 64, true);
    world_close(&w); /* never used */
    world_open_as(&w, 64, true);
    struct request *list[] = { request_make(&w, BDEV_WRITE, 3, 4, 2), request_make(&w, BDEV_READ, 3, 4, 1), request_make(&w, BDEV_FLUSH, 0, 0, 0),
                               request_make(&w, BDEV_READ, 4, 1, 1) };
    const int setup[] = { -EAGAIN, -ENOMEM, -ENOSYS, -EPERM, -EINVAL, 0 }, expected[] = { 0, 0, 0, 0, -EINVAL, 0 };
    for (unsigned i = 0; i < 3; i++)
        list[i]->next = list[i + 1];
    for (unsigned round = 0; round < sizeof setup / sizeof *setup; round++) {
        setup_error = setup[round];
        memset(list[0]->buf, 0x11 + (int)round, 4 * BDEV_BLOCK_SIZE);
        memset(list[1]->buf, 0, 4 * BDEV_BLOCK_SIZE);
        request_submit(list[0]);
        world_drain(&w);
        for (unsigned i = 0; i < 4; i++) {
            CU_ASSERT_EQUAL(list[i]->error, expected[round]);
            CU_ASSERT_EQUAL(list[i]->calls, 1);
            list[i]->calls = 0;
        }
        CU_ASSERT(expected[round] || !memcmp(list[0]->buf, list[1]->buf, 4 * BDEV_BLOCK_SIZE));
    }
    for (unsigned i = 0; i < 4; i++)
        request_free(list[i]);
    world_close(&w);
}

/* The kernel tells of it once: to whoever makes the context, here for a read. */
static void a_flush_that_fails_when_a_context_is_made_fails_all_that_follow(void)
{
    struct world w;
    world_open_as(&w, 64, true);
    struct request *list[] = { request_make(&w, BDEV_WRITE, 3, 4, 1), request_make(&w, BDEV_READ, 3, 4, 1), request_make(&w, BDEV_FLUSH, 0, 0, 0) };
    setup_error = -EAGAIN;
    request_submit(list[0]);
    world_drain(&w);
    setup_error = 0;
    sync_error = -EIO;
    for (unsigned i = 1; i < 3; i++) {
        request_submit(list[i]);
        world_drain(&w);
    }
    CU_ASSERT_EQUAL(list[0]->error, 0);
    CU_ASSERT_EQUAL(list[2]->error, -EIO);
    CU_ASSERT_EQUAL(bdev_flush(w.d), -EIO);
    for (unsigned i = 0; i < 3; i++)
        request_free(list[i]);
    world_close(&w);
}

struct answer {
    struct request write, flush;
    struct loop_task task;
    unsigned flushes; /* that were submitted when it went out */
};

static void send_answer(struct loop_task *task) { container_of(task, struct answer, task)->flushes = flushes_submitted; }

static void answer_and_flush(struct bdev_req *req, int error)
{
    struct answer *a = container_of(req, struct answer, write.req);
    loop_defer_last(a->write.w->loop, &a->task);
    request_done(req, error);
}

/* Whoever is woken by the answer to a write may take the processor from us. */
static void a_flush_is_on_its_way_before_what_it_covers_is_answered(void)
{
    static struct answer a;
    struct world w;
    world_open(&w, 64);
    struct request *model = request_make(&w, BDEV_WRITE, 3, 4, 1);
    a = (struct answer){ .write = { .w = &w, .next = &a.flush }, .flush = { .w = &w, .req = { .op = BDEV_FLUSH, .done = request_done } }, .task.run = send_answer };
    a.write.req = model->req;
    a.write.req.done = answer_and_flush;
    unsigned before = flushes_submitted;
    request_submit(&a.write);
    world_drain(&w);
    CU_ASSERT(a.write.error == 0 && a.flush.error == 0 && a.flush.calls == 1);
    CU_ASSERT_EQUAL(a.flushes, before + 1);
    request_free(model);
    world_close(&w);
}

/* Three blocks here and there, written and read back by one call each. */
static const uint64_t scattered[3] = { 5, 60, 17 };

static void many_go_there_and_back(struct world *w, void *const bufs[3])
{
    for (unsigned i = 0; i < 3; i++)
        fill(bufs[i], scattered[i], 3);
    CU_ASSERT_EQUAL(bdev_write_many(w->d, scattered, bufs, 3), 0);
    for (unsigned i = 0; i < 3; i++)
        memset(bufs[i], 0, BDEV_BLOCK_SIZE);
    CU_ASSERT_EQUAL(bdev_read_many(w->d, scattered, bufs, 3), 0);
    for (unsigned i = 0; i < 3; i++)
        CU_ASSERT(holds(bufs[i], scattered[i], 3));
}

static void without_a_context_many_blocks_are_read_and_written_in_turn(void)
{
    struct world w;
    unsigned char *buf = bdev_buffer_alloc(3);
    void *bufs[] = { buf, buf + BDEV_BLOCK_SIZE, buf + 2 * BDEV_BLOCK_SIZE };
    world_open_as(&w, 64, true);
    const int setup[] = { -ENOMEM, -ENOSYS, -EPERM, -EAGAIN };
    for (unsigned i = 0; i < sizeof setup / sizeof *setup; i++) {
        setup_error = setup[i];
        many_go_there_and_back(&w, bufs);
    }
    CU_ASSERT_EQUAL(truncate(path, 20 * (off_t)BDEV_BLOCK_SIZE), 0);
    CU_ASSERT_EQUAL(bdev_read_many(w.d, scattered, bufs, 3), -EIO);
    CU_ASSERT(holds(bufs[2], 17, 3));
    setup_error = 0;
    free(buf);
    world_close(&w);
}

/* An error here would be one of the checkpoint's, and the end of the store's life. */
static void what_the_kernel_does_not_take_is_read_and_written_in_turn(void)
{
    struct world w;
    unsigned char *buf = bdev_buffer_alloc(3);
    void *bufs[] = { buf, buf + BDEV_BLOCK_SIZE, buf + 2 * BDEV_BLOCK_SIZE };
    world_open(&w, 64);
    submit_error = -EAGAIN;
    many_go_there_and_back(&w, bufs);
    submit_error = -EIO;
    CU_ASSERT_EQUAL(bdev_read_many(w.d, scattered, bufs, 3), -EIO);
    submit_error = 0;
    many_go_there_and_back(&w, bufs);
    free(buf);
    world_close(&w);
}

static void growing_allocates_zeroes_and_survives_reopening(void)
{
    struct world w;
    bool direct;
    struct stat st;
    unsigned char *buf = bdev_buffer_alloc(1);
    world_open(&w, 10);
    CU_ASSERT_EQUAL(w.d->blocks, 10);
    CU_ASSERT_EQUAL(bdev_grow(w.d, 1000), 0);
    CU_ASSERT_EQUAL(w.d->blocks, 1000);
    CU_ASSERT_EQUAL(bdev_grow(w.d, 500), 0);
    CU_ASSERT_EQUAL(w.d->blocks, 1000);
    CU_ASSERT_EQUAL(stat(path, &st), 0);
    CU_ASSERT_EQUAL(st.st_size, 1000 * (off_t)BDEV_BLOCK_SIZE);
    CU_ASSERT(st.st_blocks * 512 >= st.st_size);
    memset(buf, 1, BDEV_BLOCK_SIZE);
    CU_ASSERT_EQUAL(bdev_read(w.d, 999, buf, 1), 0);
    CU_ASSERT(holds(buf, 999, 0));
    fill(buf, 999, 5);
    CU_ASSERT_EQUAL(bdev_write(w.d, 999, buf, 1), 0);
    uint64_t start = 0, end = 0;
    CU_ASSERT_EQUAL(bdev_zero(w.d, 0, 999), 0);
    CU_ASSERT_EQUAL(bdev_hole(w.d, 0, &start, &end), -ENOENT);
    CU_ASSERT_EQUAL(bdev_punch(w.d, 0, 512), 0);
    CU_ASSERT_EQUAL(bdev_punch(w.d, 600, 100), 0);
    CU_ASSERT_EQUAL(stat(path, &st), 0);
    CU_ASSERT_EQUAL(st.st_size, 1000 * (off_t)BDEV_BLOCK_SIZE);
    CU_ASSERT(st.st_blocks * 512 <= st.st_size - 612 * (off_t)BDEV_BLOCK_SIZE);
    CU_ASSERT_EQUAL(bdev_hole(w.d, 0, &start, &end), 0);
    CU_ASSERT(start == 0 && end == 512);
    CU_ASSERT_EQUAL(bdev_hole(w.d, 512, &start, &end), 0);
    CU_ASSERT(start == 600 && end == 700);
    CU_ASSERT_EQUAL(bdev_fill(w.d, 0, 512), 0);
    CU_ASSERT_EQUAL(bdev_fill(w.d, 600, 401), -EINVAL);
    CU_ASSERT_EQUAL(bdev_fill(w.d, 600, 100), 0);
    CU_ASSERT_EQUAL(bdev_zero(w.d, 0, 512), 0);
    CU_ASSERT_EQUAL(bdev_zero(w.d, 600, 100), 0);
    CU_ASSERT_EQUAL(bdev_hole(w.d, 0, &start, &end), -ENOENT);
    CU_ASSERT_EQUAL(bdev_read(w.d, 650, buf, 1), 0);
    CU_ASSERT(holds(buf, 650, 0));
    uint64_t free_bytes = 0, total_bytes = 0;
    CU_ASSERT_EQUAL(bdev_file_space(w.d, &free_bytes, &total_bytes), 0);
    CU_ASSERT(free_bytes > 0 && free_bytes <= total_bytes);
    bdev_close(w.d);
    struct bdev_file_options opt = { 0 };
    CU_ASSERT_EQUAL_FATAL(bdev_file_open(path, &opt, &w.d, &direct), 0);
    CU_ASSERT_EQUAL(w.d->blocks, 1000);
    CU_ASSERT_EQUAL(bdev_read(w.d, 999, buf, 1), 0);
    CU_ASSERT(holds(buf, 999, 5));
    free(buf);
    world_close(&w);
}

/* Unwritten extents are seen by SEEK_HOLE, and are allocated all the same: to lose sight of them would be to keep their space. */
static void what_is_allocated_is_no_hole_before_it_is_written(void)
{
    struct world w;
    struct statfs fs;
    uint64_t start, end;
    world_open(&w, 600);
    int fd = open(path, O_RDONLY);
    CU_ASSERT_FATAL(fd >= 0 && fstatfs(fd, &fs) == 0);
    if (fs.f_type == EXT4_SUPER_MAGIC || fs.f_type == XFS_SUPER_MAGIC) {
        CU_ASSERT_EQUAL(lseek(fd, 0, SEEK_HOLE), 0);
        CU_ASSERT_EQUAL(bdev_hole(w.d, 0, &start, &end), -ENOENT);
        CU_ASSERT_EQUAL(bdev_punch(w.d, 100, 50), 0);
        CU_ASSERT_EQUAL(bdev_hole(w.d, 0, &start, &end), 0);
        CU_ASSERT(start == 100 && end == 150);
        CU_ASSERT_EQUAL(bdev_hole(w.d, 120, &start, &end), 0);
        CU_ASSERT(start == 120 && end == 150);
        CU_ASSERT_EQUAL(bdev_hole(w.d, 150, &start, &end), -ENOENT);
        CU_ASSERT_EQUAL(bdev_fill(w.d, 100, 50), 0);
        CU_ASSERT_EQUAL(bdev_hole(w.d, 0, &start, &end), -ENOENT);
    }
    CU_ASSERT_EQUAL(bdev_zero(w.d, 1, 600), -EINVAL);
    unsigned char *buf = bdev_buffer_alloc(1);
    for (unsigned i = 0; i < 200; i++) { /* more extents than one look brings */
        fill(buf, 3 * i, 5);
        CU_ASSERT_EQUAL(bdev_write(w.d, 3 * i, buf, 1), 0);
    }
    CU_ASSERT_EQUAL(bdev_zero(w.d, 0, 600), 0);
    CU_ASSERT_EQUAL(lseek(fd, 0, SEEK_HOLE), 600 * (off_t)BDEV_BLOCK_SIZE);
    for (unsigned i = 0; i < 600; i++) {
        CU_ASSERT_EQUAL(bdev_read(w.d, i, buf, 1), 0);
        CU_ASSERT(holds(buf, i, i % 3 ? 0 : 5)); /* what was written is somebody's */
    }
    free(buf);
    close(fd);
    world_close(&w);
}

/* More stretches than one look at the extents brings. */
static void holes_of_a_scattered_file_are_all_found(void)
{
    struct world w;
    uint64_t start, end, at = 0;
    unsigned found = 0;
    world_open(&w, 2000);
    CU_ASSERT_EQUAL(bdev_zero(w.d, 0, 2000), 0);
    for (uint64_t b = 0; b < 2000; b += 8)
        CU_ASSERT_EQUAL(bdev_punch(w.d, b, 3), 0);
    for (; bdev_hole(w.d, at, &start, &end) == 0; at = end, found++)
        CU_ASSERT(start == found * 8u && end == start + 3);
    CU_ASSERT_EQUAL(found, 250);
    CU_ASSERT_EQUAL(bdev_punch(w.d, 0, 2000), 0);
    CU_ASSERT_EQUAL(bdev_hole(w.d, 7, &start, &end), 0);
    CU_ASSERT(start == 7 && end == 2000);
    world_close(&w);
}

static void a_full_file_system_fails_growth_and_leaves_nothing_of_it(void)
{
    struct stat st;
    struct world w;
    uint64_t before, after, total;
    char command[1200];
    snprintf(command, sizeof command, "truncate -s 8M %s.ext4 && mkfs.ext4 -q -O ^has_journal %s.ext4 && mount -o loop %s.ext4 %s", directory,
             directory, directory, directory);
    CU_ASSERT_EQUAL_FATAL(system(command), 0);
    world_open(&w, 256);
    CU_ASSERT_EQUAL(bdev_file_space(w.d, &before, &total), 0);
    CU_ASSERT_EQUAL(bdev_grow(w.d, 4096), -ENOSPC);
    CU_ASSERT_EQUAL(w.d->blocks, 256);
    CU_ASSERT_EQUAL(stat(path, &st), 0);
    CU_ASSERT_EQUAL(st.st_size, 256 * (off_t)BDEV_BLOCK_SIZE);
    CU_ASSERT_EQUAL(bdev_file_space(w.d, &after, &total), 0);
    CU_ASSERT(after + 65536 >= before); /* an extent block or two may stay */
    CU_ASSERT_EQUAL(bdev_grow(w.d, 512), 0);
    struct request *r = request_make(&w, BDEV_WRITE, 500, 2, 1);
    CU_ASSERT_EQUAL(transfers_for(&w, &r, 1), 1);
    /* Nor do holes take what there is when they do not get all that they want. */
    CU_ASSERT_EQUAL(bdev_grow(w.d, 768), 0);
    CU_ASSERT_EQUAL(bdev_punch(w.d, 0, 768), 0);
    CU_ASSERT_EQUAL(bdev_file_space(w.d, &before, &total), 0);
    snprintf(command, sizeof command, "fallocate -l %llu %s/others", (unsigned long long)before - (1 << 20), directory);
    CU_ASSERT_EQUAL(system(command), 0);
    CU_ASSERT_EQUAL(bdev_file_space(w.d, &before, &total), 0);
    CU_ASSERT_EQUAL(bdev_fill(w.d, 0, 768), -ENOSPC);
    CU_ASSERT_EQUAL(bdev_file_space(w.d, &after, &total), 0);
    CU_ASSERT(after + 65536 >= before);
    CU_ASSERT_EQUAL(bdev_fill(w.d, 0, 64), 0);
    world_close(&w);
    snprintf(command, sizeof command, "umount %s && rm %s.ext4", directory, directory);
    CU_ASSERT_EQUAL(system(command), 0);
}

/* The file is cut short behind the device's back: whole blocks that are gone must be errors, and only they. */
static void a_read_past_what_is_there_fails_alone(void)
{
    struct world w;
    struct request *list[8];
    world_open(&w, 64);
    CU_ASSERT_EQUAL(truncate(path, 36 * (off_t)BDEV_BLOCK_SIZE), 0);
    for (unsigned i = 0; i < 8; i++)
        request_submit(list[i] = request_make(&w, BDEV_READ, 32 + i, 1, 1));
    world_drain(&w);
    for (unsigned i = 0; i < 8; i++) {
        CU_ASSERT_EQUAL(list[i]->error, i < 4 ? 0 : -EIO);
        CU_ASSERT_EQUAL(list[i]->calls, 1);
        request_free(list[i]);
    }
    unsigned char *buf = bdev_buffer_alloc(2);
    CU_ASSERT_EQUAL(bdev_read(w.d, 35, buf, 2), -EIO);
    CU_ASSERT_EQUAL(bdev_read_many(w.d, (uint64_t[]){ 35, 36 }, (void *[]){ buf, buf + BDEV_BLOCK_SIZE }, 2), -EIO);
    free(buf);
    world_close(&w);
}

static void opening_what_is_not_there_or_not_a_file_is_an_error(void)
{
    struct bdev_file_options opt = { 0 }, create = { .create = true };
    struct bdev *d;
    bool direct;
    unlink(path);
    CU_ASSERT_EQUAL(bdev_file_open(path, &opt, &d, &direct), -ENOENT);
    CU_ASSERT(bdev_file_open(directory, &opt, &d, &direct) < 0);
    CU_ASSERT(bdev_file_open("/dev/null", &opt, &d, &direct) < 0);
    CU_ASSERT_EQUAL_FATAL(bdev_file_open(path, &create, &d, &direct), 0);
    bdev_close(d);
    CU_ASSERT_EQUAL(bdev_file_open(path, &create, &d, &direct), -EEXIST);
    unlink(path);
}

/* Requests on the loop while other threads read, grow and flush. */
struct worker {
    pthread_t thread;
    struct bdev *d;
    int error;
};

static void *read_for_a_while(void *arg)
{
    struct worker *k = arg;
    unsigned char *buf = bdev_buffer_alloc(64);
    uint64_t blocks[64];
    void *bufs[64];
    for (unsigned round = 0; round < 30; round++) {
        for (unsigned i = 0; i < 64; i++) {
            blocks[i] = (i * 37 + round) % 64;
            bufs[i] = buf + (size_t)i * BDEV_BLOCK_SIZE;
        }
        int err = bdev_read_many(k->d, blocks, bufs, 64);
        for (unsigned i = 0; i < 64 && !err; i++)
            if (!holds(bufs[i], blocks[i], 9))
                err = -EBADMSG;
        k->error = k->error ? k->error : err;
    }
    free(buf);
    return NULL;
}

static void *grow_for_a_while(void *arg)
{
    struct worker *k = arg;
    for (uint64_t blocks = 2048; blocks < 4096 && !k->error; blocks += 100) {
        k->error = bdev_grow(k->d, blocks);
        if (!k->error)
            k->error = bdev_flush(k->d);
    }
    return NULL;
}

static void blocking_calls_run_beside_the_loop(void)
{
    struct world w;
    world_open(&w, 1024);
    unsigned char *buf = bdev_buffer_alloc(1);
    for (uint64_t i = 0; i < 64; i++) {
        fill(buf, i, 9);
        CU_ASSERT_EQUAL(bdev_write(w.d, i, buf, 1), 0);
    }
    struct worker workers[3];
    for (int i = 0; i < 3; i++) {
        workers[i] = (struct worker){ .d = w.d };
        pthread_create(&workers[i].thread, NULL, i < 2 ? read_for_a_while : grow_for_a_while, &workers[i]);
    }
    for (unsigned round = 0; round < 200; round++) {
        struct request *list[2] = { request_make(&w, BDEV_WRITE, 100 + round, 1, 1), request_make(&w, BDEV_FLUSH, 0, 0, 0) };
        CU_ASSERT_EQUAL(transfers_for(&w, list, 2), 2);
    }
    for (int i = 0; i < 3; i++) {
        pthread_join(workers[i].thread, NULL);
        CU_ASSERT_EQUAL(workers[i].error, 0);
    }
    CU_ASSERT(w.d->blocks > 3900);
    free(buf);
    world_close(&w);
}

int main(int argc, char **argv)
{
    bool root = geteuid() == 0 && access("/dev/loop-control", F_OK) == 0;
    snprintf(directory, sizeof directory, "%s/parallax-file-test-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/var/tmp");
    if (!mkdtemp(directory)) {
        perror(directory);
        return 1;
    }
    snprintf(path, sizeof path, "%s/blocks", directory);
    if (!root)
        printf("skip file: a_full_file_system_fails_growth_and_leaves_nothing_of_it - mounting a small file system needs root and a loop device\n");
    int rc = unit_main(argc, argv, "file",
                       (struct unit_test[]){ UNIT(random_requests_match_an_oracle), UNIT(neighbours_of_one_turn_become_one_transfer),
                                             UNIT(more_requests_than_the_kernel_takes_wait_their_turn),
                                             UNIT(requests_outside_the_device_are_refused), UNIT(a_request_of_1024_pieces_is_one_transfer),
                                             UNIT(without_a_context_each_request_is_waited_for_until_there_is_one),
                                             UNIT(a_flush_that_fails_when_a_context_is_made_fails_all_that_follow),
                                             UNIT(a_flush_is_on_its_way_before_what_it_covers_is_answered),
                                             UNIT(without_a_context_many_blocks_are_read_and_written_in_turn),
                                             UNIT(what_the_kernel_does_not_take_is_read_and_written_in_turn),
                                             UNIT(growing_allocates_zeroes_and_survives_reopening),
                                             UNIT(what_is_allocated_is_no_hole_before_it_is_written),
                                             UNIT(holes_of_a_scattered_file_are_all_found), UNIT(a_read_past_what_is_there_fails_alone),
                                             UNIT(opening_what_is_not_there_or_not_a_file_is_an_error), UNIT(blocking_calls_run_beside_the_loop),
                                             root ? (struct unit_test)UNIT(a_full_file_system_fails_growth_and_leaves_nothing_of_it) : (struct unit_test){ 0 },
                                             { 0 } });
    rmdir(directory);
    return rc;
}
