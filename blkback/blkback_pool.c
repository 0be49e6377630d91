/* blkback_pool.c - a buddy allocator over one lazily touched region.
 *
 * 1. A run of order o starts at a multiple of 1 << o; its buddy is the run that differs in that bit alone.
 * 2. order_of[first page of a free run] is the run's order; it is USED for every other page. Free runs of one order form a
 *    doubly linked list by page number, used last in, first out, so that a small load keeps touching the same memory.
 * 3. Waiters are served in order; see the header. */
#include "blkback/blkback_pool.h"

#include "base/reserve.h"
#include "hypervisor/hypervisor.h"

#include <errno.h>
#include <stdlib.h>

#define ORDERS 9u /* 1 << 8 is BLKBACK_POOL_RUN_MAX */
#define NONE UINT32_MAX
#define USED 0xffu

struct blkback_pool {
    uint8_t *memory;
    uint32_t pages, free_pages;
    uint32_t head[ORDERS];
    uint32_t *next, *prev; /* by page */
    uint8_t *order_of;     /* by page */
    struct list_node waiters;
};

static unsigned order_for(unsigned pages)
{
    unsigned order = 0;
    while ((1u << order) < pages)
        order++;
    return order;
}

static void push(struct blkback_pool *p, uint32_t page, unsigned order)
{
    p->order_of[page] = (uint8_t)order;
    p->prev[page] = NONE;
    p->next[page] = p->head[order];
    if (p->head[order] != NONE)
        p->prev[p->head[order]] = page;
    p->head[order] = page;
}

static void unlink_run(struct blkback_pool *p, uint32_t page, unsigned order)
{
    if (p->prev[page] != NONE)
        p->next[p->prev[page]] = p->next[page];
    else
        p->head[order] = p->next[page];
    if (p->next[page] != NONE)
        p->prev[p->next[page]] = p->prev[page];
    p->order_of[page] = USED;
}

int blkback_pool_create(uint64_t bytes, struct blkback_pool **out)
{
    uint32_t pages = BLKBACK_POOL_RUN_MAX;
    while ((uint64_t)pages * 2 * HV_PAGE_SIZE <= bytes && pages < 1u << 24)
        pages *= 2;
    struct blkback_pool *p = calloc(1, sizeof *p);
    if (!p)
        return -ENOMEM;
    p->memory = reserve_memory((size_t)pages * HV_PAGE_SIZE);
    p->pages = p->free_pages = pages;
    p->next = calloc(pages, sizeof *p->next);
    p->prev = calloc(pages, sizeof *p->prev);
    p->order_of = malloc(pages);
    list_init(&p->waiters);
    if (!p->memory || !p->next || !p->prev || !p->order_of) {
        blkback_pool_destroy(p);
        return -ENOMEM;
    }
    for (unsigned o = 0; o < ORDERS; o++)
        p->head[o] = NONE;
    for (uint32_t i = 0; i < pages; i++)
        p->order_of[i] = USED;
    for (uint32_t i = pages; i; i -= BLKBACK_POOL_RUN_MAX)
        push(p, i - BLKBACK_POOL_RUN_MAX, ORDERS - 1);
    *out = p;
    return 0;
}

void blkback_pool_destroy(struct blkback_pool *p)
{
    reserve_release(p->memory, (size_t)p->pages * HV_PAGE_SIZE);
    free(p->next);
    free(p->prev);
    free(p->order_of);
    free(p);
}

static void *take(struct blkback_pool *p, unsigned order)
{
    unsigned o = order;
    while (o < ORDERS && p->head[o] == NONE)
        o++;
    if (o == ORDERS)
        return NULL;
    uint32_t page = p->head[o];
    unlink_run(p, page, o);
    while (o > order) {
        o--;
        push(p, page + (1u << o), o);
    }
    p->free_pages -= 1u << order;
    return p->memory + (size_t)page * HV_PAGE_SIZE;
}

void *blkback_pool_get(struct blkback_pool *p, unsigned pages, struct blkback_pool_waiter *w)
{
    bool first = list_empty(&p->waiters) || p->waiters.next == &w->link;
    void *run = first ? take(p, order_for(pages)) : NULL;
    if (!run && list_empty(&w->link))
        list_add_tail(&p->waiters, &w->link);
    else if (run)
        blkback_pool_leave(p, w);
    return run;
}

void blkback_pool_put(struct blkback_pool *p, void *run, unsigned pages)
{
    uint32_t page = (uint32_t)(((uint8_t *)run - p->memory) / HV_PAGE_SIZE);
    unsigned order = order_for(pages);
    p->free_pages += 1u << order;
    while (order < ORDERS - 1) {
        uint32_t buddy = page ^ (1u << order);
        if (p->order_of[buddy] != order)
            break;
        unlink_run(p, buddy, order);
        page &= ~(1u << order);
        order++;
    }
    push(p, page, order);
    if (!list_empty(&p->waiters)) {
        struct blkback_pool_waiter *w = container_of(p->waiters.next, struct blkback_pool_waiter, link);
        w->ready(w);
    }
}

void blkback_pool_leave(struct blkback_pool *p, struct blkback_pool_waiter *w)
{
    bool was_first = p->waiters.next == &w->link;
    list_remove(&w->link);
    if (was_first && !list_empty(&p->waiters)) {
        struct blkback_pool_waiter *next = container_of(p->waiters.next, struct blkback_pool_waiter, link);
        next->ready(next);
    }
}

uint32_t blkback_pool_free_pages(const struct blkback_pool *p) { return p->free_pages; }
