/* blkfront_memory.c - granted memory: regions for callers, and the pages through which other memory is copied.
 *
 * A page is granted when its region is made and revoked when the region goes: no grant is made or ended on the data path. */
#include "blkfront/blkfront_private.h"

#include <errno.h>
#include <stdlib.h>

int blkfront_region_create(struct blkfront *f, unsigned pages, struct blkfront_region **out)
{
    struct blkfront_region *r = calloc(1, sizeof *r + pages * sizeof *r->refs);
    if (!r)
        return -ENOMEM;
    list_init(&r->link);
    r->base = hv_arena_alloc(f->hv, pages);
    if (!r->base) {
        free(r);
        return -ENOMEM;
    }
    r->pages = pages;
    for (unsigned i = 0; i < pages; i++) {
        int err = hv_grant_share(f->hv, f->info.backend_domid, r->base + (size_t)i * HV_PAGE_SIZE, false, &r->refs[i]);
        if (err) {
            r->refs[i] = 0; /* destroy ends only what was granted */
            blkfront_region_destroy(f, r);
            return err;
        }
    }
    *out = r;
    return 0;
}

void blkfront_region_destroy(struct blkfront *f, struct blkfront_region *r)
{
    bool busy = false;
    for (unsigned i = 0; i < r->pages && r->refs[i]; i++)
        if (hv_grant_unshare(f->hv, r->refs[i]))
            busy = true;
    if (!busy)
        hv_arena_free(f->hv, r->base, r->pages);
    list_remove(&r->link);
    free(r);
}

bool blkfront_region_find(struct blkfront *f, const void *p, hv_gref *out)
{
    if ((uintptr_t)p % BLKIF_SECTOR_SIZE)
        return false;
    list_for_each (n, &f->regions) {
        struct blkfront_region *r = container_of(n, struct blkfront_region, link);
        uintptr_t at = (uintptr_t)p - (uintptr_t)r->base;
        if ((uintptr_t)p >= (uintptr_t)r->base && at < (uintptr_t)r->pages * HV_PAGE_SIZE) {
            *out = r->refs[at / HV_PAGE_SIZE];
            return true;
        }
    }
    return false;
}

int blkfront_bounce_create(struct blkfront *f)
{
    unsigned pages = f->opt.bounce_pages ? f->opt.bounce_pages : 256;
    f->bounce_free = calloc(pages, sizeof *f->bounce_free);
    if (!f->bounce_free)
        return -ENOMEM;
    int err = blkfront_region_create(f, pages, &f->bounce);
    if (err)
        return err;
    for (unsigned i = 0; i < pages; i++)
        f->bounce_free[i] = pages - 1 - i;
    f->bounce_count = pages;
    return 0;
}

void blkfront_bounce_destroy(struct blkfront *f)
{
    if (f->bounce)
        blkfront_region_destroy(f, f->bounce);
    f->bounce = NULL;
    free(f->bounce_free);
    f->bounce_free = NULL;
}

void *blkfront_buffer_alloc(struct blkfront *f, unsigned pages)
{
    struct blkfront_region *r;
    if (!pages || blkfront_region_create(f, pages, &r))
        return NULL;
    list_add_head(&f->regions, &r->link);
    return r->base;
}

void blkfront_buffer_free(struct blkfront *f, void *buffer, unsigned pages)
{
    list_for_each_safe (n, &f->regions) {
        struct blkfront_region *r = container_of(n, struct blkfront_region, link);
        if (r->base == buffer && r->pages == pages)
            blkfront_region_destroy(f, r);
    }
}
