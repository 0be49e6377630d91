/* file_device.h - a block device on a new file, with a loop, and requests to it whose blocks are told apart.
 *
 * Threads: the loop's; device_fill and device_holds any. What does not work fails the running test. */
#ifndef TESTS_SUPPORT_FILE_DEVICE_H
#define TESTS_SUPPORT_FILE_DEVICE_H
#include "base/loop.h"
#include "parallax/store/bdev_file.h"

enum { DEVICE_IOVS_MAX = 1100 };

struct device {
    struct loop *loop;
    struct bdev *d;
    unsigned inflight;
};

/* Its file, and the directory for that, which device_tests makes. */
extern char device_directory[256], device_path[300];

/* A new device of so many blocks. lazy: its AIO context is made when it is first needed. */
void device_open(struct device *w, uint64_t blocks, bool lazy);
void device_close(struct device *w);
/* Turns the loop until no request is in flight. */
void device_drain(struct device *w);

struct device_request {
    struct bdev_req req;
    struct device *w;
    struct iovec iov[DEVICE_IOVS_MAX];
    unsigned char *buf;
    int error, calls;
    struct device_request *next; /* submitted when this one is done */
};

/* A request, which device_free gives back. As many iovecs as pieces; blocks is a multiple of it. */
struct device_request *device_request(struct device *w, enum bdev_op op, uint64_t block, uint32_t blocks, unsigned pieces);
void device_submit(struct device_request *r);
/* What req.done is. */
void device_done(struct bdev_req *req, int error);
void device_free(struct device_request *r);

/* A block's content by its number and version; version 0: zeroes. */
void device_fill(unsigned char *buf, uint64_t block, uint32_t version);
bool device_holds(const unsigned char *buf, uint64_t block, uint32_t version);

struct unit_test;
/* unit_main with a directory for the file in TMPDIR (/var/tmp), removed at the end; the exit status. */
int device_tests(int argc, char **argv, const char *name, const struct unit_test *tests);
#endif
