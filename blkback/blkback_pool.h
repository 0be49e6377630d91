/* blkback_pool.h - memory for data in flight in one direction: runs of 1 to 256 pages from one region, shared by all rings.
 *
 * Threads: the store's loop. Ownership: a run is the taker's until it is given back with the same number of pages.
 * Errors: no run free is NULL, never a wait; the waiter is told when to try again. */
#ifndef BLKBACK_POOL_H
#define BLKBACK_POOL_H
#include "base/list.h"

#include <stdbool.h>
#include <stdint.h>

#define BLKBACK_POOL_RUN_MAX 256u /* pages */

struct blkback_pool;

/* One that waits for a run. Zero-initialise, list_init the link. */
struct blkback_pool_waiter {
    void (*ready)(struct blkback_pool_waiter *w);
    struct list_node link;
};

/* bytes: at least 1 MiB; rounded down to a power of two. Nothing is touched until it is taken. */
int blkback_pool_create(uint64_t bytes, struct blkback_pool **out);
/* Everything has been given back. */
void blkback_pool_destroy(struct blkback_pool *p);

/* A page-aligned run, or NULL: then w is queued, and w->ready runs from inside a later blkback_pool_put when it is its turn.
 * While others wait, only the first of them is given anything: a large request is not starved by small ones. */
void *blkback_pool_get(struct blkback_pool *p, unsigned pages, struct blkback_pool_waiter *w);
void blkback_pool_put(struct blkback_pool *p, void *run, unsigned pages);
/* Takes w out of the queue, if it is there. */
void blkback_pool_leave(struct blkback_pool *p, struct blkback_pool_waiter *w);
uint32_t blkback_pool_free_pages(const struct blkback_pool *p);
#endif
