/* ring_jobs.h - what tests/programs/ring_client does with its disk.
 *
 * Each job runs the frontend's loop until it has ended or *stop is set, prints one line of JSON on stdout, and returns the
 * program's exit status: 0, or 1 when something was wrong. Threads: the frontend's loop. */
#ifndef TESTS_SUPPORT_RING_JOBS_H
#define TESTS_SUPPORT_RING_JOBS_H
#include "base/loop.h"
#include "blkfront/blkfront.h"

#include <signal.h>

struct ring_job {
    struct hv *hv;
    struct loop *loop;
    struct blkfront *disk;
    struct blkfront_info info;
    volatile sig_atomic_t *stop;
    unsigned depth;          /* operations in flight */
    uint64_t seconds;
    uint64_t region_bytes;   /* from the start of the disk; 0: all of it */
    uint64_t seed;
    bool stay;               /* keep the disk when the job is done, until stop */
    /* verify, check */
    const char *log;         /* the state file */
    bool discards;           /* verify discards too */
    bool power_cut;          /* check: only what was flushed must be there */
    /* bench */
    const char *rw;          /* read, write, randread, randwrite */
    uint64_t block_bytes;
    uint64_t stride_bytes;   /* positions are multiples of it; 0: of block_bytes */
    uint64_t operations;     /* ends after so many, whatever the time; 0: by time alone */
    unsigned flush_every;    /* a flush after so many operations, while which nothing new begins; 0: one at the end */
    bool once;               /* random: each position once, then the job ends */
};

/* Random writes, reads, flushes and discards of blocks that say what they are, with a state file that tells at any instant,
 * even after a kill, what was issued, acknowledged and flushed; every read is compared, and all blocks at the end. */
int ring_verify(struct ring_job *j);
/* Compares the disk with the state file that an earlier verify left. */
int ring_check(struct ring_job *j);
/* Like fio: one kind of operation at a depth for some seconds. Written data is distinct and not zero. */
int ring_bench(struct ring_job *j);
#endif
