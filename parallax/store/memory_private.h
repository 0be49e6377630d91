/* memory_private.h - the parts of the memory store: its state, its pages, its catalog. */
#ifndef PARALLAX_STORE_MEMORY_PRIVATE_H
#define PARALLAX_STORE_MEMORY_PRIVATE_H
#include "base/bdev.h"
#include "parallax/store/memory.h"

#include <pthread.h>
#include <stdbool.h>

#define MEMORY_SECTOR 512u
#define MEMORY_SECTORS (BDEV_BLOCK_SIZE / MEMORY_SECTOR)

/* memory_pages.c. What a medium holds: a sparse array of blocks, zero where nothing is. The owner serialises. */
struct memory_pages {
    unsigned char **page;
    uint64_t count;
};

void memory_pages_fini(struct memory_pages *p);
int memory_pages_resize(struct memory_pages *p, uint64_t count);
int memory_pages_copy(const struct memory_pages *from, struct memory_pages *to);
void memory_pages_read(const struct memory_pages *p, uint64_t block, void *data);
/* Writes those sectors whose bit is set in mask (bit 0: the first). */
int memory_pages_write(struct memory_pages *p, uint64_t block, const void *data, unsigned sector_mask);
/* A hole reads as garbage and takes no write (-ENOSPC) until it is filled with zeroes. */
void memory_pages_punch(struct memory_pages *p, uint64_t block);
void memory_pages_fill(struct memory_pages *p, uint64_t block);
bool memory_pages_is_hole(const struct memory_pages *p, uint64_t block);

/* xorshift64*, from a state that is not 0. */
uint64_t memory_random(uint64_t *state);

/* memory_catalog.c */
int memory_catalog_create(struct catalog **out);
/* A new catalog of the same contents; no leases. */
int memory_catalog_copy(struct catalog *from, struct catalog **out);
/* From now on every call but close is -EIO. */
void memory_catalog_die(struct catalog *c);
void memory_catalog_fail_apply(struct catalog *c, uint64_t nth, int error, bool after_effect);
uint64_t memory_catalog_apply_count(struct catalog *c);
/* memory.c */
struct unflushed {
    struct list_node link;
    uint64_t block, number;
    unsigned sector_mask;
    unsigned char data[BDEV_BLOCK_SIZE];
};

struct memory {
    struct bdev dev;
    pthread_mutex_t lock;
    struct loop *loop;
    struct loop_fd wake;
    struct loop_timer delay;
    unsigned delay_max_ms;
    uint64_t random;
    struct memory_pages current, durable;
    struct list_node unflushed;
    uint64_t holes;     /* blocks */
    uint64_t completed; /* the number of the last write that completed */
    struct list_node pending;
    unsigned pending_count;
    bool dead;
    struct memory_fault fault;
    uint64_t fault_seen, fault_hits, io_count[4]; /* by bit of MEMORY_… */
    struct catalog *catalog;
};

bool memory_in_range(const struct memory *m, uint64_t block, uint64_t blocks);
/* Writes sectors of one block, unflushed, with the number of the completion that is under way. */
int memory_write_one(struct memory *m, uint64_t block, const void *data, unsigned sector_mask);

/* A place in a request's iovecs. */
struct memory_cursor {
    const struct iovec *iov;
    size_t at;
};
/* Moves the next block's bytes from the iovecs to data, or the other way. */
void memory_cursor_move(struct memory_cursor *c, unsigned char *data, bool from_iov);

/* A store without blocks and without a catalog; then, with both, the backing around it. */
int memory_begin(const struct memory_options *opt, struct memory **out);
void memory_finish(struct memory *m, struct backing *out);
#endif
