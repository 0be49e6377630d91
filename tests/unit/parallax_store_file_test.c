/* parallax_store_file_test.c - the block device over a file: random requests against an oracle, merging, growth, limits. */
#include "tests/support/file_device.h"
#include "tests/support/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

/* Batches of requests that do not overlap within a batch, from the loop; now and then the blocking calls. */
enum { BLOCKS = 4096, BATCH = 400, LONGEST = 16 };

struct model {
    struct device w;
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
    struct device_request *list[BATCH];
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
        struct device_request *r = list[count++] = device_request(&m->w, op, block, blocks, blocks % 2 ? 1 : 2);
        if (op == BDEV_WRITE)
            for (uint32_t k = 0; k < blocks; k++)
                device_fill(r->buf + (size_t)k * BDEV_BLOCK_SIZE, block + k, ++m->version[block + k]);
        device_submit(r);
        if (unit_random(&m->random) % 50 == 0)
            device_submit(list[count++] = device_request(&m->w, BDEV_FLUSH, 0, 0, 0));
        if (count + 2 > BATCH)
            break;
    }
    device_drain(&m->w);
    for (unsigned i = 0; i < count; i++) {
        struct device_request *r = list[i];
        CU_ASSERT(r->error == 0 && r->calls == 1);
        for (uint32_t k = 0; r->req.op == BDEV_READ && k < r->req.blocks; k++)
            CU_ASSERT(device_holds(r->buf + (size_t)k * BDEV_BLOCK_SIZE, r->req.block + k, m->version[r->req.block + k]));
        device_free(r);
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
        CU_ASSERT(device_holds(bufs[i], blocks[i], m->version[blocks[i]]));
    unsigned apart = BLOCKS / 300, shift = (unsigned)(unit_random(&m->random) % apart);
    for (unsigned i = 0; i < 300; i++) {
        blocks[i] = (uint64_t)i * apart + shift;
        device_fill(bufs[i], blocks[i], ++m->version[blocks[i]]);
    }
    CU_ASSERT_EQUAL(bdev_write_many(m->w.d, blocks, bufs, 300), 0);
    for (uint32_t k = 0; k < LONGEST; k++)
        device_fill(buf + (size_t)k * BDEV_BLOCK_SIZE, block + k, ++m->version[block + k]);
    CU_ASSERT_EQUAL(bdev_write(m->w.d, block, buf, LONGEST), 0);
    CU_ASSERT_EQUAL(bdev_flush(m->w.d), 0);
    memset(buf, 0, LONGEST * BDEV_BLOCK_SIZE);
    CU_ASSERT_EQUAL(bdev_read(m->w.d, block, buf, LONGEST), 0);
    for (uint32_t k = 0; k < LONGEST; k++)
        CU_ASSERT(device_holds(buf + (size_t)k * BDEV_BLOCK_SIZE, block + k, m->version[block + k]));
    free(buf);
}

static void random_requests_match_an_oracle(void)
{
    static struct model m;
    memset(&m, 0, sizeof m);
    m.random = unit_seed();
    device_open(&m.w, BLOCKS, false);
    for (int i = 0; i < 40; i++) {
        model_batch(&m);
        model_blocking(&m);
    }
    struct aio_queue_stats stats;
    bdev_file_get_stats(m.w.d, &stats);
    printf("# %llu requests in %llu transfers and %llu submissions\n", (unsigned long long)stats.requests,
           (unsigned long long)stats.transfers, (unsigned long long)stats.submits);
    CU_ASSERT(stats.transfers < stats.requests);
    device_close(&m.w);
}

static uint64_t transfers_for(struct device *w, struct device_request **list, unsigned count)
{
    struct aio_queue_stats before, after;
    bdev_file_get_stats(w->d, &before);
    for (unsigned i = 0; i < count; i++)
        device_submit(list[i]);
    device_drain(w);
    bdev_file_get_stats(w->d, &after);
    for (unsigned i = 0; i < count; i++) {
        CU_ASSERT(list[i]->error == 0 && list[i]->calls == 1);
        device_free(list[i]);
    }
    return after.transfers - before.transfers;
}

static void neighbours_of_one_turn_become_one_transfer(void)
{
    struct device w;
    struct device_request *list[512];
    device_open(&w, 2048, false);
    for (unsigned i = 0; i < 64; i++)
        list[i] = device_request(&w, BDEV_WRITE, 100 + i, 1, 1);
    CU_ASSERT_EQUAL(transfers_for(&w, list, 64), 1);
    for (unsigned i = 0; i < 64; i++) /* two streams that interleave */
        list[i] = device_request(&w, i % 2 ? BDEV_READ : BDEV_WRITE, (i % 2 ? 0 : 1000) + i / 2, 1, 1);
    CU_ASSERT_EQUAL(transfers_for(&w, list, 64), 2);
    for (unsigned i = 0; i < 8; i++) /* never what is not adjacent */
        list[i] = device_request(&w, BDEV_READ, i * 2, 1, 1);
    CU_ASSERT_EQUAL(transfers_for(&w, list, 8), 8);
    for (unsigned i = 0; i < 512; i++) /* up to 1 MiB each */
        list[i] = device_request(&w, BDEV_READ, i, 1, 1);
    CU_ASSERT_EQUAL(transfers_for(&w, list, 512), 2);
    for (unsigned i = 0; i < 30; i++) /* flushes that wait together are one */
        list[i] = device_request(&w, BDEV_FLUSH, 0, 0, 0);
    CU_ASSERT_EQUAL(transfers_for(&w, list, 30), 1);
    device_close(&w);
}

static void more_requests_than_the_kernel_takes_wait_their_turn(void)
{
    struct device w;
    static struct device_request *list[2000];
    device_open(&w, 8192, false);
    for (unsigned i = 0; i < 2000; i++)
        list[i] = device_request(&w, BDEV_READ, i * 4, 1, 1);
    CU_ASSERT_EQUAL(transfers_for(&w, list, 2000), 2000);
    device_close(&w);
}

static void requests_outside_the_device_are_refused(void)
{
    struct device w;
    unsigned char *buf = bdev_buffer_alloc(16);
    void *bufs[2] = { buf, buf + BDEV_BLOCK_SIZE };
    device_open(&w, 64, false);
    struct device_request *list[] = { device_request(&w, BDEV_READ, 64, 1, 1), device_request(&w, BDEV_WRITE, 60, 8, 1),
                               device_request(&w, BDEV_READ, UINT64_MAX, 2, 1), device_request(&w, BDEV_READ, 0, 0, 0),
                               device_request(&w, BDEV_READ, 0, 1100, 1100) };
    for (unsigned i = 0; i < 5; i++)
        device_submit(list[i]);
    device_drain(&w);
    for (unsigned i = 0; i < 5; i++) {
        CU_ASSERT(list[i]->error == -EINVAL && list[i]->calls == 1);
        device_free(list[i]);
    }
    CU_ASSERT_EQUAL(bdev_read(w.d, 63, buf, 2), -EINVAL);
    CU_ASSERT_EQUAL(bdev_write(w.d, UINT64_MAX, buf, 1), -EINVAL);
    CU_ASSERT_EQUAL(bdev_read_many(w.d, (uint64_t[]){ 1, 64 }, bufs, 2), -EINVAL);
    CU_ASSERT_EQUAL(bdev_write_many(w.d, (uint64_t[]){ 1, 64 }, bufs, 2), -EINVAL);
    CU_ASSERT_EQUAL(bdev_punch(w.d, 60, 5), -EINVAL);
    free(buf);
    device_close(&w);
}

static void a_request_of_1024_pieces_is_one_transfer(void)
{
    struct device w;
    device_open(&w, 2048, false);
    struct device_request *r = device_request(&w, BDEV_WRITE, 7, 1024, 1024);
    for (uint32_t k = 0; k < 1024; k++)
        device_fill(r->buf + (size_t)k * BDEV_BLOCK_SIZE, k, 3);
    CU_ASSERT_EQUAL(transfers_for(&w, &r, 1), 1);
    unsigned char *buf = bdev_buffer_alloc(1024);
    CU_ASSERT_EQUAL(bdev_read(w.d, 7, buf, 1024), 0);
    for (uint32_t k = 0; k < 1024; k++)
        CU_ASSERT(device_holds(buf + (size_t)k * BDEV_BLOCK_SIZE, k, 3));
    free(buf);
    device_close(&w);
}
static void growing_allocates_zeroes_and_survives_reopening(void)
{
    struct device w;
    bool direct;
    struct stat st;
    unsigned char *buf = bdev_buffer_alloc(1);
    device_open(&w, 10, false);
    CU_ASSERT_EQUAL(w.d->blocks, 10);
    CU_ASSERT_EQUAL(bdev_grow(w.d, 1000), 0);
    CU_ASSERT_EQUAL(w.d->blocks, 1000);
    CU_ASSERT_EQUAL(bdev_grow(w.d, 500), 0);
    CU_ASSERT_EQUAL(w.d->blocks, 1000);
    CU_ASSERT_EQUAL(stat(device_path, &st), 0);
    CU_ASSERT_EQUAL(st.st_size, 1000 * (off_t)BDEV_BLOCK_SIZE);
    CU_ASSERT(st.st_blocks * 512 >= st.st_size);
    memset(buf, 1, BDEV_BLOCK_SIZE);
    CU_ASSERT_EQUAL(bdev_read(w.d, 999, buf, 1), 0);
    CU_ASSERT(device_holds(buf, 999, 0));
    device_fill(buf, 999, 5);
    CU_ASSERT_EQUAL(bdev_write(w.d, 999, buf, 1), 0);
    uint64_t start = 0, end = 0;
    CU_ASSERT_EQUAL(bdev_zero(w.d, 0, 999), 0);
    CU_ASSERT_EQUAL(bdev_hole(w.d, 0, &start, &end), -ENOENT);
    CU_ASSERT_EQUAL(bdev_punch(w.d, 0, 512), 0);
    CU_ASSERT_EQUAL(bdev_punch(w.d, 600, 100), 0);
    CU_ASSERT_EQUAL(stat(device_path, &st), 0);
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
    CU_ASSERT(device_holds(buf, 650, 0));
    uint64_t free_bytes = 0, total_bytes = 0;
    CU_ASSERT_EQUAL(bdev_file_space(w.d, &free_bytes, &total_bytes), 0);
    CU_ASSERT(free_bytes > 0 && free_bytes <= total_bytes);
    bdev_close(w.d);
    struct bdev_file_options opt = { 0 };
    CU_ASSERT_EQUAL_FATAL(bdev_file_open(device_path, &opt, &w.d, &direct), 0);
    CU_ASSERT_EQUAL(w.d->blocks, 1000);
    CU_ASSERT_EQUAL(bdev_read(w.d, 999, buf, 1), 0);
    CU_ASSERT(device_holds(buf, 999, 5));
    free(buf);
    device_close(&w);
}

/* Unwritten extents are seen by SEEK_HOLE, and are allocated all the same: to lose sight of them would be to keep their space. */
static void what_is_allocated_is_no_hole_before_it_is_written(void)
{
    struct device w;
    struct statfs fs;
    uint64_t start, end;
    device_open(&w, 600, false);
    int fd = open(device_path, O_RDONLY);
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
        device_fill(buf, 3 * i, 5);
        CU_ASSERT_EQUAL(bdev_write(w.d, 3 * i, buf, 1), 0);
    }
    CU_ASSERT_EQUAL(bdev_zero(w.d, 0, 600), 0);
    CU_ASSERT_EQUAL(lseek(fd, 0, SEEK_HOLE), 600 * (off_t)BDEV_BLOCK_SIZE);
    for (unsigned i = 0; i < 600; i++) {
        CU_ASSERT_EQUAL(bdev_read(w.d, i, buf, 1), 0);
        CU_ASSERT(device_holds(buf, i, i % 3 ? 0 : 5)); /* what was written is somebody's */
    }
    free(buf);
    close(fd);
    device_close(&w);
}

/* More stretches than one look at the extents brings. */
static void holes_of_a_scattered_file_are_all_found(void)
{
    struct device w;
    uint64_t start, end, at = 0;
    unsigned found = 0;
    device_open(&w, 2000, false);
    CU_ASSERT_EQUAL(bdev_zero(w.d, 0, 2000), 0);
    for (uint64_t b = 0; b < 2000; b += 8)
        CU_ASSERT_EQUAL(bdev_punch(w.d, b, 3), 0);
    for (; bdev_hole(w.d, at, &start, &end) == 0; at = end, found++)
        CU_ASSERT(start == found * 8u && end == start + 3);
    CU_ASSERT_EQUAL(found, 250);
    CU_ASSERT_EQUAL(bdev_punch(w.d, 0, 2000), 0);
    CU_ASSERT_EQUAL(bdev_hole(w.d, 7, &start, &end), 0);
    CU_ASSERT(start == 7 && end == 2000);
    device_close(&w);
}

static void a_full_file_system_fails_growth_and_leaves_nothing_of_it(void)
{
    struct stat st;
    struct device w;
    uint64_t before, after, total;
    char command[1200];
    snprintf(command, sizeof command, "truncate -s 8M %s.ext4 && mkfs.ext4 -q -O ^has_journal %s.ext4 && mount -o loop %s.ext4 %s", device_directory,
             device_directory, device_directory, device_directory);
    CU_ASSERT_EQUAL_FATAL(system(command), 0);
    device_open(&w, 256, false);
    CU_ASSERT_EQUAL(bdev_file_space(w.d, &before, &total), 0);
    CU_ASSERT_EQUAL(bdev_grow(w.d, 4096), -ENOSPC);
    CU_ASSERT_EQUAL(w.d->blocks, 256);
    CU_ASSERT_EQUAL(stat(device_path, &st), 0);
    CU_ASSERT_EQUAL(st.st_size, 256 * (off_t)BDEV_BLOCK_SIZE);
    CU_ASSERT_EQUAL(bdev_file_space(w.d, &after, &total), 0);
    CU_ASSERT(after + 65536 >= before); /* an extent block or two may stay */
    CU_ASSERT_EQUAL(bdev_grow(w.d, 512), 0);
    struct device_request *r = device_request(&w, BDEV_WRITE, 500, 2, 1);
    CU_ASSERT_EQUAL(transfers_for(&w, &r, 1), 1);
    /* Nor do holes take what there is when they do not get all that they want. */
    CU_ASSERT_EQUAL(bdev_grow(w.d, 768), 0);
    CU_ASSERT_EQUAL(bdev_punch(w.d, 0, 768), 0);
    CU_ASSERT_EQUAL(bdev_file_space(w.d, &before, &total), 0);
    snprintf(command, sizeof command, "fallocate -l %llu %s/others", (unsigned long long)before - (1 << 20), device_directory);
    CU_ASSERT_EQUAL(system(command), 0);
    CU_ASSERT_EQUAL(bdev_file_space(w.d, &before, &total), 0);
    CU_ASSERT_EQUAL(bdev_fill(w.d, 0, 768), -ENOSPC);
    CU_ASSERT_EQUAL(bdev_file_space(w.d, &after, &total), 0);
    CU_ASSERT(after + 65536 >= before);
    CU_ASSERT_EQUAL(bdev_fill(w.d, 0, 64), 0);
    device_close(&w);
    snprintf(command, sizeof command, "umount %s && rm %s.ext4", device_directory, device_directory);
    CU_ASSERT_EQUAL(system(command), 0);
}

/* The file is cut short behind the device's back: whole blocks that are gone must be errors, and only they. */
static void a_read_past_what_is_there_fails_alone(void)
{
    struct device w;
    struct device_request *list[8];
    device_open(&w, 64, false);
    CU_ASSERT_EQUAL(truncate(device_path, 36 * (off_t)BDEV_BLOCK_SIZE), 0);
    for (unsigned i = 0; i < 8; i++)
        device_submit(list[i] = device_request(&w, BDEV_READ, 32 + i, 1, 1));
    device_drain(&w);
    for (unsigned i = 0; i < 8; i++) {
        CU_ASSERT_EQUAL(list[i]->error, i < 4 ? 0 : -EIO);
        CU_ASSERT_EQUAL(list[i]->calls, 1);
        device_free(list[i]);
    }
    unsigned char *buf = bdev_buffer_alloc(2);
    CU_ASSERT_EQUAL(bdev_read(w.d, 35, buf, 2), -EIO);
    CU_ASSERT_EQUAL(bdev_read_many(w.d, (uint64_t[]){ 35, 36 }, (void *[]){ buf, buf + BDEV_BLOCK_SIZE }, 2), -EIO);
    free(buf);
    device_close(&w);
}

static void opening_what_is_not_there_or_not_a_file_is_an_error(void)
{
    struct bdev_file_options opt = { 0 }, create = { .create = true };
    struct bdev *d;
    bool direct;
    unlink(device_path);
    CU_ASSERT_EQUAL(bdev_file_open(device_path, &opt, &d, &direct), -ENOENT);
    CU_ASSERT(bdev_file_open(device_directory, &opt, &d, &direct) < 0);
    CU_ASSERT(bdev_file_open("/dev/null", &opt, &d, &direct) < 0);
    CU_ASSERT_EQUAL_FATAL(bdev_file_open(device_path, &create, &d, &direct), 0);
    bdev_close(d);
    CU_ASSERT_EQUAL(bdev_file_open(device_path, &create, &d, &direct), -EEXIST);
    unlink(device_path);
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
            if (!device_holds(bufs[i], blocks[i], 9))
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
    struct device w;
    device_open(&w, 1024, false);
    unsigned char *buf = bdev_buffer_alloc(1);
    for (uint64_t i = 0; i < 64; i++) {
        device_fill(buf, i, 9);
        CU_ASSERT_EQUAL(bdev_write(w.d, i, buf, 1), 0);
    }
    struct worker workers[3];
    for (int i = 0; i < 3; i++) {
        workers[i] = (struct worker){ .d = w.d };
        pthread_create(&workers[i].thread, NULL, i < 2 ? read_for_a_while : grow_for_a_while, &workers[i]);
    }
    for (unsigned round = 0; round < 200; round++) {
        struct device_request *list[2] = { device_request(&w, BDEV_WRITE, 100 + round, 1, 1), device_request(&w, BDEV_FLUSH, 0, 0, 0) };
        CU_ASSERT_EQUAL(transfers_for(&w, list, 2), 2);
    }
    for (int i = 0; i < 3; i++) {
        pthread_join(workers[i].thread, NULL);
        CU_ASSERT_EQUAL(workers[i].error, 0);
    }
    CU_ASSERT(w.d->blocks > 3900);
    free(buf);
    device_close(&w);
}
int main(int argc, char **argv)
{
    bool root = geteuid() == 0 && access("/dev/loop-control", F_OK) == 0;
    if (!root)
        printf("skip file: a_full_file_system_fails_growth_and_leaves_nothing_of_it - mounting a small file system needs root and a loop device\n");
    return device_tests(argc, argv, "file",
                       (struct unit_test[]){ UNIT(random_requests_match_an_oracle), UNIT(neighbours_of_one_turn_become_one_transfer),
                                             UNIT(more_requests_than_the_kernel_takes_wait_their_turn),
                                             UNIT(requests_outside_the_device_are_refused), UNIT(a_request_of_1024_pieces_is_one_transfer),
                                             UNIT(growing_allocates_zeroes_and_survives_reopening),
                                             UNIT(what_is_allocated_is_no_hole_before_it_is_written),
                                             UNIT(holes_of_a_scattered_file_are_all_found), UNIT(a_read_past_what_is_there_fails_alone),
                                             UNIT(opening_what_is_not_there_or_not_a_file_is_an_error), UNIT(blocking_calls_run_beside_the_loop),
                                             root ? (struct unit_test)UNIT(a_full_file_system_fails_growth_and_leaves_nothing_of_it) : (struct unit_test){ 0 },
                                             { 0 } });
}
