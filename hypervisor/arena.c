/* arena.c - see arena.h. First fit, from where the last search ended. */
#include "hypervisor/arena.h"

#include "hypervisor/hypervisor.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int arena_init(struct arena *a, void *base, uint32_t pages)
{
    *a = (struct arena){ .base = base, .pages = pages };
    pthread_mutex_init(&a->lock, NULL);
    a->used = calloc(pages ? pages : 1, 1);
    return a->used ? 0 : -ENOMEM;
}

void arena_fini(struct arena *a)
{
    free(a->used);
    pthread_mutex_destroy(&a->lock);
}

/* The first page of a free run at or after `from`. */
static uint32_t find_run(const struct arena *a, uint32_t from, uint32_t pages)
{
    uint32_t length = 0;
    for (uint32_t i = from; i < a->pages; i++) {
        length = a->used[i] ? 0 : length + 1;
        if (length == pages)
            return i + 1 - pages;
    }
    return ARENA_NO_PAGE;
}

void *arena_alloc(struct arena *a, unsigned pages)
{
    if (!pages || pages > a->pages)
        return NULL;
    pthread_mutex_lock(&a->lock);
    uint32_t at = find_run(a, a->next, pages);
    if (at == ARENA_NO_PAGE)
        at = find_run(a, 0, pages);
    if (at != ARENA_NO_PAGE) {
        memset(a->used + at, 1, pages);
        a->next = at + pages < a->pages ? at + pages : 0;
    }
    pthread_mutex_unlock(&a->lock);
    if (at == ARENA_NO_PAGE)
        return NULL;
    uint8_t *addr = a->base + (size_t)at * HV_PAGE_SIZE;
    memset(addr, 0, (size_t)pages * HV_PAGE_SIZE);
    return addr;
}

uint32_t arena_page_of(const struct arena *a, const void *addr, unsigned pages)
{
    uintptr_t offset = (uintptr_t)addr - (uintptr_t)a->base;
    if (!a->base || offset % HV_PAGE_SIZE || offset / HV_PAGE_SIZE >= a->pages || pages > a->pages - offset / HV_PAGE_SIZE)
        return ARENA_NO_PAGE;
    return (uint32_t)(offset / HV_PAGE_SIZE);
}

void arena_free(struct arena *a, void *addr, unsigned pages)
{
    uint32_t at = arena_page_of(a, addr, pages);
    if (at == ARENA_NO_PAGE)
        return;
    pthread_mutex_lock(&a->lock);
    memset(a->used + at, 0, pages);
    pthread_mutex_unlock(&a->lock);
}
