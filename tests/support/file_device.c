/* file_device.c - see file_device.h. */
#include "tests/support/file_device.h"

#include "base/clock.h"
#include "tests/support/unit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

char device_directory[256], device_path[300];

void device_open(struct device *w, uint64_t blocks, bool lazy)
{
    bool direct;
    struct bdev_file_options opt = { .create = true, .lazy = lazy };
    unlink(device_path);
    w->inflight = 0;
    CU_ASSERT_EQUAL_FATAL(loop_create(&w->loop), 0);
    opt.loop = w->loop;
    CU_ASSERT_EQUAL_FATAL(bdev_file_open(device_path, &opt, &w->d, &direct), 0);
    CU_ASSERT_EQUAL_FATAL(bdev_grow(w->d, blocks), 0);
}

void device_close(struct device *w)
{
    bdev_close(w->d);
    loop_destroy(w->loop);
    unlink(device_path);
}

void device_drain(struct device *w)
{
    uint64_t limit = clock_monotonic_ms() + 10000;
    while (w->inflight && clock_monotonic_ms() < limit)
        loop_turn(w->loop, 100);
    CU_ASSERT_EQUAL_FATAL(w->inflight, 0);
}

void device_done(struct bdev_req *req, int error)
{
    struct device_request *r = container_of(req, struct device_request, req);
    r->error = error;
    r->calls++;
    r->w->inflight--;
    if (r->next)
        device_submit(r->next);
}

struct device_request *device_request(struct device *w, enum bdev_op op, uint64_t block, uint32_t blocks, unsigned pieces)
{
    struct device_request *r = calloc(1, sizeof *r);
    r->w = w;
    r->error = 1;
    r->buf = blocks ? bdev_buffer_alloc(blocks) : NULL;
    for (unsigned i = 0; i < pieces; i++)
        r->iov[i] = (struct iovec){ r->buf + (size_t)i * (blocks / pieces) * BDEV_BLOCK_SIZE, (size_t)(blocks / pieces) * BDEV_BLOCK_SIZE };
    r->req = (struct bdev_req){ .op = op, .block = block, .blocks = blocks, .iov = r->iov, .iov_count = pieces, .done = device_done };
    return r;
}

void device_submit(struct device_request *r)
{
    r->w->inflight++;
    bdev_submit(r->w->d, &r->req);
    CU_ASSERT_EQUAL(r->calls, 0);
}

void device_free(struct device_request *r)
{
    free(r->buf);
    free(r);
}

void device_fill(unsigned char *buf, uint64_t block, uint32_t version)
{
    uint64_t random = block * 1000003 + version + 1;
    for (unsigned i = 0; i < BDEV_BLOCK_SIZE; i += 8) {
        uint64_t v = unit_random(&random);
        memcpy(buf + i, &v, 8);
    }
}

bool device_holds(const unsigned char *buf, uint64_t block, uint32_t version)
{
    unsigned char want[BDEV_BLOCK_SIZE] = { 0 };
    if (version)
        device_fill(want, block, version);
    return memcmp(buf, want, BDEV_BLOCK_SIZE) == 0;
}

int device_tests(int argc, char **argv, const char *name, const struct unit_test *tests)
{
    snprintf(device_directory, sizeof device_directory, "%s/parallax-file-test-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/var/tmp");
    if (!mkdtemp(device_directory)) {
        perror(device_directory);
        return 1;
    }
    snprintf(device_path, sizeof device_path, "%s/blocks", device_directory);
    int rc = unit_main(argc, argv, name, tests);
    rmdir(device_directory);
    return rc;
}
