/* bare.h - a store in memory, used step by step: for tests that bring about one state exactly, and spoil it.
 *
 * One image, "a", of 1 GiB, is open for writing. Blocks hold patterns (engine_pattern.h) by id; id 0 is zeroes. Everything
 * waits for its answer, on the loop, but where it says otherwise.
 * The blocks that the store writes can be looked at and changed while nothing is in flight, and some kinds of calls can be held
 * up: what the loop submits to the device, blocking reads, and the flush that the checkpoint's thread makes before it commits.
 * Threads: one. Memory failure ends the test program. */
#ifndef TESTS_SUPPORT_BARE_H
#define TESTS_SUPPORT_BARE_H
#include "parallax/parallax.h"
#include "parallax/store/store.h"

#include <pthread.h>

#define BARE_PENDING 1 /* a request that has not been answered yet */

struct bare {
    struct loop *loop;
    struct backing backing;
    struct store *store;
    struct image *img;
    struct error err;         /* of the last opening or operation */
    uint64_t store_bytes, seed;
    uint32_t index_entries, reclaim_blocks, closing_ms; /* for the next opening */
    bool accept_loss;         /* the same */
};

/* A new store of that size with its image, checkpointed. */
void bare_begin(struct bare *b, uint64_t store_bytes);
/* Ends it, however it is. */
void bare_end(struct bare *b);

/* kill -9, or a power cut; the store stays closed. What is held up is forgotten. */
void bare_kill(struct bare *b);
void bare_power_cut(struct bare *b);
/* 0 or the error with which the store or the image does not open. */
int bare_open(struct bare *b);
/* An orderly end and a new beginning: nothing is in a cache. */
void bare_reopen(struct bare *b);

struct bare_io {
    struct image_req req;
    struct iovec iov;
    void *memory;
    int error;                /* BARE_PENDING until it is done */
};
/* Begins a request; bare_io_fini gives its memory back when it is done or the store is gone. blocks: up to 256. */
void bare_submit(struct bare *b, struct bare_io *io, enum image_op op, uint64_t block, uint32_t blocks, uint32_t id);
/* Waits for its answer: 0 or the error. */
int bare_io_wait(struct bare *b, struct bare_io *io);
void bare_io_fini(struct bare_io *io);
/* The same, waited for: 0 or the error. */
int bare_write(struct bare *b, uint64_t block, uint32_t blocks, uint32_t id);
int bare_discard(struct bare *b, uint64_t block, uint32_t blocks);
int bare_flush(struct bare *b);
/* The id that the block holds, PATTERN_BAD, or the negative errno. */
int64_t bare_read(struct bare *b, uint64_t block);
/* Turns the loop some times, whatever happens. */
void bare_turn(struct bare *b, unsigned turns);

/* Waits for an operation that was begun with run.op. */
struct bare_run {
    struct store_op op;
    bool done;
};
void bare_arm(struct bare_run *run);
int bare_wait(struct bare *b, struct bare_run *run);
int bare_checkpoint(struct bare *b);
int bare_snapshot(struct bare *b, const char *target);
/* Whether the checker finds nothing at all. */
bool bare_is_sound(struct bare *b);

/* The address at which the device holds the block of that id, or 0; what lies at an address; the new contents. */
uint64_t bare_address(struct bare *b, uint64_t block, uint32_t id);
void bare_get(struct bare *b, uint64_t address, void *block);
void bare_put(struct bare *b, uint64_t address, const void *block);
/* The address of the journal block with the highest number, less `back`; 0: there is none. */
uint64_t bare_journal(struct bare *b, unsigned back);

/* From now on reads that the loop submits wait; until bare_release. */
void bare_hold_reads(struct bare *b);
/* From now on writes that the loop submits wait; until bare_release. bare_writes_held: how many do. */
void bare_hold_writes(struct bare *b);
unsigned bare_writes_held(struct bare *b);
/* Later writes pass those that wait. */
void bare_let_writes(struct bare *b);
/* Those that wait go on, and nothing else that is held. */
void bare_release_writes(struct bare *b);
/* From now on flushes that the loop submits wait; until bare_release. */
void bare_hold_submitted_flushes(struct bare *b);
/* From now on blocking reads, which walks and merges make, wait; until bare_release. bare_walk_held: whether one does. */
void bare_hold_walks(struct bare *b);
bool bare_walk_held(struct bare *b);
void bare_release_walks(struct bare *b);
/* Holds walks and begins a checkpoint, which reads a map first: it has taken no block yet. run: to be waited for after the release. */
void bare_begin_held_checkpoint(struct bare *b, struct bare_run *run);
/* From now on each of them takes so long at least; 0: no longer. */
void bare_slow_walks(struct bare *b, unsigned ms);
/* From now on blocking flushes wait; until bare_release. bare_flush_held: whether one does. */
void bare_hold_flushes(struct bare *b);
bool bare_flush_held(struct bare *b);
void bare_release(struct bare *b);
#endif
