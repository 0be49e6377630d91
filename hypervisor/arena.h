/* arena.h - the pages of a frontend's own memory, given out in runs. The memory itself is the implementation's.
 *
 * Threads: any. Errors: negative errno, NULL or ARENA_NO_PAGE. */
#ifndef HYPERVISOR_ARENA_H
#define HYPERVISOR_ARENA_H
#include <pthread.h>
#include <stdint.h>

#define ARENA_NO_PAGE UINT32_MAX

struct arena {
    pthread_mutex_t lock;
    uint8_t *base;  /* NULL: there is no memory */
    uint32_t pages;
    uint32_t next;  /* where the search for free pages goes on */
    uint8_t *used;  /* one byte a page */
};

/* base: pages of memory at a page's start, borrowed until arena_fini; pages may be 0. */
int arena_init(struct arena *a, void *base, uint32_t pages);
void arena_fini(struct arena *a);
/* Zeroed, contiguous; NULL: there is no such run. */
void *arena_alloc(struct arena *a, unsigned pages);
void arena_free(struct arena *a, void *addr, unsigned pages);
/* The number of the page at addr, or ARENA_NO_PAGE if [addr, addr + pages) is not in the arena at a page's start. */
uint32_t arena_page_of(const struct arena *a, const void *addr, unsigned pages);
#endif
