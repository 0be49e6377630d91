/* memory.h - a store in memory, for tests: as unfriendly as bdev.h and catalog.h allow, with faults and crashes to order.
 *
 * Requests complete on the loop, a few a turn, in random order; a write takes effect, and a read looks, at any moment between
 * submission and completion. A flush makes exactly those writes durable that had completed before it was submitted. A punched
 * range reads as garbage, and a write to it fails with -ENOSPC until it has been filled.
 * memory_power_cut and memory_kill end a store's life at one instant and make a new store of what was left. The old one then
 * is dead: its requests, in flight and later ones, and its catalog answer -EIO and change nothing, so that its user can be
 * taken down in any way, before or after.
 * Threads: requests, closing, memory_power_cut and memory_kill belong to the loop's thread; the rest to any.
 * Errors: 0 or negative errno. */
#ifndef PARALLAX_STORE_MEMORY_H
#define PARALLAX_STORE_MEMORY_H
#include "parallax/store/store.h"

struct memory_options {
    struct loop *loop;       /* NULL: blocking calls only */
    uint64_t initial_blocks;
    uint64_t max_blocks;     /* bdev_grow beyond it is -ENOSPC; 0: without limit */
    uint64_t seed;           /* of the order and moments of completions */
    unsigned delay_max_ms;   /* a request waits a random time up to that; 0: turns only */
};

/* Closing it (backing.close) while requests are in flight forgets them: their done never runs. */
int memory_create(const struct memory_options *opt, struct backing *out);

enum { MEMORY_READ = 1u << BDEV_READ, MEMORY_WRITE = 1u << BDEV_WRITE, MEMORY_FLUSH = 1u << BDEV_FLUSH, MEMORY_GROW = 8, MEMORY_ANY = 15 };

struct memory_fault {
    unsigned kinds;  /* MEMORY_READ | …: the I/Os that count */
    uint64_t nth;    /* the 1st, 2nd, … of them from now fails */
    int error;       /* -EIO, -ENOSPC, … */
    bool partial;    /* a failing write leaves some of its sectors written */
    bool lasting;    /* all that follow fail as well */
};

/* Replaces the fault in force; NULL: none. */
void memory_fail_io(struct backing *b, const struct memory_fault *fault);
/* I/Os begun so far of these kinds, and how many of all failed by order. */
uint64_t memory_io_count(struct backing *b, unsigned kinds);
uint64_t memory_fault_hits(struct backing *b);

/* The nth apply from now (1: the next; 0: none) returns error; after_effect: having changed the catalog all the same. */
void memory_fail_apply(struct backing *b, uint64_t nth, int error, bool after_effect);
uint64_t memory_apply_count(struct backing *b);

/* The power fails: writes no completed flush covers, in flight ones too, survive whole, torn at 512 bytes, or not at all, in
 * any combination that seed picks. What catalog_apply returned is durable. */
int memory_power_cut(struct backing *b, uint64_t seed, struct loop *loop, struct backing *out);
/* The process is killed, the host lives on: completed writes stay (unflushed as they are), each block of one in flight has
 * landed or not. */
int memory_kill(struct backing *b, uint64_t seed, struct loop *loop, struct backing *out);
#endif
