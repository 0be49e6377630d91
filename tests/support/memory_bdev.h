/* memory_bdev.h - a block device in memory for tests: asynchronous requests complete on the loop in random order, transfers
 * are counted, and the Nth can be made to fail.
 *
 * Reads deliver what the device holds when they complete, and spoil the buffers when they are submitted; writes take effect when
 * they complete: the worst that bdev.h allows.
 * Blocking calls may come from any thread. Pages are touched lazily, so that a large device costs what is used of it. */
#ifndef TESTS_SUPPORT_MEMORY_BDEV_H
#define TESTS_SUPPORT_MEMORY_BDEV_H
#include "base/bdev.h"
#include "base/loop.h"

#include <pthread.h>
#include <stdbool.h>

struct memory_bdev {
    struct bdev bdev;
    struct loop *loop; /* may be NULL if nothing is submitted */
    unsigned char *data;
    uint64_t random;
    struct loop_task complete;
    struct list_node pending;
    unsigned pending_count, pending_most;
    bool held; /* nothing completes while set; memory_bdev_release ends it */
    pthread_mutex_t lock;
    /* Counts of blocks and of calls; read and reset by the test at will. */
    uint64_t blocks_read, blocks_written, reads, read_manys, writes, write_manys, flushes;
    uint64_t ios;     /* calls and requests so far */
    uint64_t fail_at; /* the one that fails with -EIO, counted like ios from 1; 0: none */
    uint64_t bad_block; /* reading this address fails with -EIO; 0: none */
};

int memory_bdev_open(struct loop *loop, uint64_t blocks, uint64_t seed, struct memory_bdev **out);
/* The bytes of one block. */
void *memory_bdev_block(struct memory_bdev *d, uint64_t block);
void memory_bdev_release(struct memory_bdev *d);
#endif
