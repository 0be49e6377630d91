/* disk_load.c - drives a block device from inside a guest, past its page cache.
 *
 *   disk_load rate DEVICE read|write BYTES DEPTH SECONDS [random [BATCH]]   keeps DEPTH requests of BYTES under way; prints their rate.
 *                                                                   It waits for BATCH of them (1) to be done, and submits as many
 *                                                                   with one call
 *   disk_load verify DEVICE SECONDS [SEED]                          writes and reads at random places until the time is up or SIGTERM;
 *                                                                   every block read must be the one last written; prints how long
 *                                                                   the longest request took
 * Exit: 0 well, 1 an error or a wrong byte, with a line that says where. */
#include <errno.h>
#include <fcntl.h>
#include <libaio.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <linux/fs.h>
#include <time.h>
#include <unistd.h>

#define BLOCK 4096u
#define DEPTH_MAX 256u
#define VERIFY_DEPTH 8u
#define VERIFY_BLOCKS 16u      /* of one request, at most */
#define VERIFY_SPAN 8192u      /* blocks that take part: 32 MiB */

static int disk;
static volatile sig_atomic_t stopped;
static uint64_t disk_bytes, seed;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void stop(int signal_number)
{
    (void)signal_number;
    stopped = 1;
}

static uint64_t draw(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    return seed ^= seed << 17;
}

static int fail(const char *what)
{
    fprintf(stderr, "disk_load: %s: %s\n", what, strerror(errno));
    return 1;
}

static void *aligned(size_t bytes)
{
    void *m = NULL;
    if (posix_memalign(&m, BLOCK, bytes))
        exit(fail("memory"));
    memset(m, 0x5a, bytes);
    return m;
}

/* ---- rate ---- */

static void submit(io_context_t ctx, struct iocb **cbs, long count)
{
    while (count) {
        int r = io_submit(ctx, count, cbs);
        if (r <= 0) {
            errno = -r;
            exit(fail("submit"));
        }
        cbs += r;
        count -= r;
    }
}

static int rate(bool write, uint64_t bytes, unsigned depth, double seconds, bool at_random, unsigned batch)
{
    io_context_t ctx = NULL;
    static struct iocb cbs[DEPTH_MAX];
    struct iocb *next_cbs[DEPTH_MAX];
    struct io_event events[DEPTH_MAX];
    uint64_t next = 0, places = disk_bytes / bytes, done = 0;
    if (io_setup((int)depth, &ctx))
        return fail("io_setup");
    for (unsigned i = 0; i < depth; i++) {
        void *buffer = aligned(bytes);
        next_cbs[i] = &cbs[i];
        if (write)
            io_prep_pwrite(&cbs[i], disk, buffer, bytes, (long long)((at_random ? draw() : next++) % places * bytes));
        else
            io_prep_pread(&cbs[i], disk, buffer, bytes, (long long)((at_random ? draw() : next++) % places * bytes));
    }
    submit(ctx, next_cbs, depth);
    double start = now(), end = start + seconds;
    for (unsigned under_way = depth; under_way;) {
        int n = io_getevents(ctx, batch < under_way ? batch : under_way, depth, events, NULL);
        long again = 0;
        for (int i = 0; i < n; i++) {
            if (events[i].res != bytes) {
                errno = (int)-(long)events[i].res;
                return fail("request");
            }
            done++;
            struct iocb *cb = events[i].obj;
            cb->u.c.offset = (long long)((at_random ? draw() : next++) % places * bytes);
            if (now() < end)
                next_cbs[again++] = cb;
            else
                under_way--;
        }
        submit(ctx, next_cbs, again);
    }
    double took = now() - start;
    printf("requests=%llu seconds=%.2f rate=%.0f\n", (unsigned long long)done, took, (double)done / took);
    return 0;
}

/* ---- verify ---- */

struct job {
    struct iocb cb;
    uint64_t first;
    unsigned blocks;
    bool write, active;
    double began;
    uint32_t *buffer;
};

static uint32_t written[VERIFY_SPAN]; /* the stamp of each block; 0: not written by us */
static bool busy[VERIFY_SPAN];

static void stamp_block(uint32_t *block, uint64_t number, uint32_t stamp)
{
    for (unsigned i = 0; i < BLOCK / sizeof *block; i++)
        block[i] = stamp * 2654435761u ^ (uint32_t)number * 40503u ^ i;
}

static bool begin_job(io_context_t ctx, struct job *j)
{
    j->first = draw() % (VERIFY_SPAN - VERIFY_BLOCKS);
    j->blocks = 1 + (unsigned)(draw() % VERIFY_BLOCKS);
    j->write = draw() % 2;
    for (unsigned i = 0; i < j->blocks; i++)
        if (busy[j->first + i])
            return false; /* two at one place have no defined order */
    for (unsigned i = 0; i < j->blocks; i++)
        busy[j->first + i] = true;
    size_t bytes = (size_t)j->blocks * BLOCK;
    long long offset = (long long)(j->first * BLOCK);
    if (j->write) {
        uint32_t stamp = (uint32_t)draw() | 1;
        for (unsigned i = 0; i < j->blocks; i++) {
            stamp_block(j->buffer + i * (BLOCK / 4), j->first + i, stamp);
            written[j->first + i] = stamp;
        }
        io_prep_pwrite(&j->cb, disk, j->buffer, bytes, offset);
    } else {
        io_prep_pread(&j->cb, disk, j->buffer, bytes, offset);
    }
    j->active = true;
    j->began = now();
    submit(ctx, &(struct iocb *){ &j->cb }, 1);
    return true;
}

static bool end_job(struct job *j, long result)
{
    uint32_t want[BLOCK / 4];
    bool good = result == (long)(j->blocks * BLOCK);
    if (!good)
        fprintf(stderr, "disk_load: block %llu: result %ld\n", (unsigned long long)j->first, result);
    for (unsigned i = 0; i < j->blocks; i++) {
        busy[j->first + i] = false;
        if (!good || j->write || !written[j->first + i])
            continue;
        stamp_block(want, j->first + i, written[j->first + i]);
        if (memcmp(want, j->buffer + i * (BLOCK / 4), BLOCK)) {
            fprintf(stderr, "disk_load: block %llu is not what was written\n", (unsigned long long)(j->first + i));
            good = false;
        }
    }
    j->active = false;
    return good;
}

static int verify(double seconds)
{
    io_context_t ctx = NULL;
    struct job jobs[VERIFY_DEPTH] = { 0 };
    struct io_event events[VERIFY_DEPTH];
    uint64_t done = 0;
    double end = now() + seconds, longest = 0;
    unsigned active = 0;
    bool good = true;
    if (disk_bytes < (uint64_t)VERIFY_SPAN * BLOCK) {
        errno = ENOSPC;
        return fail("the device has less than 32 MiB");
    }
    if (io_setup(VERIFY_DEPTH, &ctx))
        return fail("io_setup");
    for (unsigned i = 0; i < VERIFY_DEPTH; i++)
        jobs[i].buffer = aligned(VERIFY_BLOCKS * BLOCK);
    printf("seed=%llu\n", (unsigned long long)seed);
    signal(SIGTERM, stop);
    bool more = true;
    do {
        more = more && good && !stopped && now() < end;
        for (unsigned i = 0; i < VERIFY_DEPTH && more; i++)
            if (!jobs[i].active && begin_job(ctx, &jobs[i]))
                active++;
        if (!active)
            continue;
        int n = io_getevents(ctx, 1, VERIFY_DEPTH, events, NULL); /* a signal may end it without one */
        for (int i = 0; i < n; i++, active--, done++) {
            struct job *j = (struct job *)events[i].obj;
            double took = now() - j->began;
            longest = took > longest ? took : longest;
            good &= end_job(j, (long)events[i].res);
        }
    } while (active || more);
    printf("requests=%llu longest=%.1f s, %s\n", (unsigned long long)done, longest, good ? "no wrong byte" : "WRONG");
    return good ? 0 : 1;
}

int main(int argc, char **argv)
{
    bool is_rate = argc >= 7 && !strcmp(argv[1], "rate"), is_verify = argc >= 4 && !strcmp(argv[1], "verify");
    if (!is_rate && !is_verify) {
        fprintf(stderr, "usage: disk_load rate DEVICE read|write BYTES DEPTH SECONDS [random [BATCH]] | disk_load verify DEVICE SECONDS [SEED]\n");
        return 2;
    }
    disk = open(argv[2], O_RDWR | O_DIRECT);
    if (disk < 0)
        disk = open(argv[2], O_RDONLY | O_DIRECT);
    if (disk < 0 || ioctl(disk, BLKGETSIZE64, &disk_bytes) < 0)
        return fail(argv[2]);
    seed = is_verify && argc > 4 ? strtoull(argv[4], NULL, 10) : (uint64_t)time(NULL) * 2654435761u + (uint64_t)getpid() + 1;
    if (is_verify)
        return verify(atof(argv[3]));
    uint64_t bytes = strtoull(argv[4], NULL, 10), depth = strtoull(argv[5], NULL, 10), batch = argc > 8 ? strtoull(argv[8], NULL, 10) : 1;
    if (!bytes || bytes % 512 || !depth || depth > DEPTH_MAX || !batch || batch > depth || disk_bytes < bytes) {
        errno = EINVAL;
        return fail("BYTES, DEPTH and BATCH");
    }
    return rate(!strcmp(argv[3], "write"), bytes, (unsigned)depth, atof(argv[6]), argc > 7, (unsigned)batch);
}
