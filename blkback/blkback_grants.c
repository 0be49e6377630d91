/* blkback_grants.c - moves bytes between guests' pages and our buffers: by grant copy, or through mappings that are kept.
 *
 * 1. Copies are gathered for a whole batch of requests and done in one call; every copy has its own status, and one bad
 *    segment fails its request only.
 * 2. With persistent grants a page is mapped when it is first used and stays mapped until the ring is closed, up to
 *    MAPPED_MAX pages a ring, and no more of all rings than the backend's budget; beyond that, pages are copied by grant. The
 *    guest's memory is touched by memcpy alone: it never reaches the image.
 * 3. The budget is there because each page mapped from Xen is a mapping of the kernel's, of which a process has vm.max_map_count, and
 *    one or (PV) two of Xen's, of which a domain has gnttab_max_maptrack_frames full: with either used up, no ring could be mapped any
 *    more, with the first no memory be had. */
#include "blkback/blkback_private.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAP_COUNT_DEFAULT 65530u     /* the kernel's */
#define MAP_COUNT_XEN (1024u * 256 / 2) /* pages of a PV domain by Xen's default: 1024 frames of 256 mappings, two a page */
#define MAPPED_MAX 1056u    /* as much as a Linux frontend may keep for a ring */
#define MAPPED_BUCKETS 4096u /* open addressing, a quarter full at most */

struct blkback_persistent {
    unsigned count;
    struct {
        hv_gref ref;
        uint8_t *page; /* NULL: empty */
    } slot[MAPPED_BUCKETS];
};

static void add(struct blkback_request *r, hv_gref ref, uint16_t offset, uint16_t length, void *local, bool to_guest)
{
    struct blkback *b = r->ring->disk->b;
    if (b->copies.count == BLKBACK_COPY_BATCH)
        blkback_copy_run(b);
    b->copies.owner[b->copies.count] = r;
    b->copies.copy[b->copies.count++] =
        (struct hv_copy){ .dom = r->ring->disk->domid, .ref = ref, .offset = offset, .length = length, .local = local, .to_guest = to_guest };
}

unsigned blkback_persistent_budget(void)
{
    unsigned count = MAP_COUNT_DEFAULT;
    FILE *f = fopen("/proc/sys/vm/max_map_count", "re");
    if (f) {
        if (fscanf(f, "%u", &count) != 1)
            count = MAP_COUNT_DEFAULT;
        fclose(f);
    }
    return (count < MAP_COUNT_XEN ? count : MAP_COUNT_XEN) / 4 * 3; /* the rest for rings, their tables, stacks and caches */
}

/* Whether one page more may be mapped; says so, once, when none is left. */
static bool within_budget(struct blkback *b)
{
    bool left = b->mapped_pages < b->options.mapped_pages;
    if (!left && !b->mapped_out)
        log_limited(&b->mapped_limit, LOG_LEVEL_WARNING,
                    "no more of guests' pages are kept mapped, others are copied by grant: pages=%u (three quarters of vm.max_map_count, at most %u)",
                    b->mapped_pages, MAP_COUNT_XEN / 4 * 3);
    b->mapped_out = !left;
    return left;
}

/* The page of ref, mapped now or before; NULL: it is to be copied by grant, which also tells what is wrong with it. */
static uint8_t *mapped_page(struct blkback_ring *ring, hv_gref ref)
{
    struct blkback_persistent *p = ring->persistent;
    struct blkback *b = ring->disk->b;
    uint32_t i = (ref * 2654435761u) % MAPPED_BUCKETS;
    for (; p->slot[i].page; i = (i + 1) % MAPPED_BUCKETS)
        if (p->slot[i].ref == ref)
            return p->slot[i].page;
    void *page;
    if (p->count == MAPPED_MAX || !within_budget(b) || hv_grant_map(b->ports, ring->disk->domid, &ref, 1, true, &page))
        return NULL;
    p->count++;
    b->mapped_pages++;
    p->slot[i].ref = ref;
    p->slot[i].page = page;
    ring->disk->count.grants_mapped++;
    return page;
}

void blkback_copy_data(struct blkback_request *r, bool to_guest)
{
    uint8_t *at = r->buffer;
    for (unsigned i = 0; i < r->segment_count; i++) {
        const struct blkif_segment *s = &r->segments[i];
        uint16_t offset = (uint16_t)(s->first_sect * IMAGE_SECTOR), length = (uint16_t)((s->last_sect - s->first_sect + 1u) * IMAGE_SECTOR);
        uint8_t *page = r->ring->persistent ? mapped_page(r->ring, s->gref) : NULL;
        if (page && to_guest)
            memcpy(page + offset, at, length);
        else if (page)
            memcpy(at, page + offset, length);
        else
            add(r, s->gref, offset, length, at, to_guest);
        at += length;
    }
}

void blkback_copy_indirect(struct blkback_request *r)
{
    add(r, r->indirect_ref, 0, (uint16_t)(r->segment_count * sizeof *r->segments), r->fetched, false);
}

void blkback_copy_run(struct blkback *b)
{
    struct blkback_copies *c = &b->copies;
    if (!c->count)
        return;
    int err = hv_grant_copy(b->ports, c->copy, c->count);
    for (unsigned i = 0; i < c->count; i++) {
        int status = err ? err : c->copy[i].status;
        c->owner[i]->ring->disk->count.grants_copied++;
        if (status && !c->owner[i]->error)
            c->owner[i]->error = status < 0 ? status : -EIO;
    }
    c->count = 0;
}

int blkback_persistent_create(struct blkback_persistent **out)
{
    *out = calloc(1, sizeof **out);
    return *out ? 0 : -ENOMEM;
}

void blkback_persistent_destroy(struct blkback_ring *ring)
{
    struct blkback_persistent *p = ring->persistent;
    if (!p)
        return;
    for (unsigned i = 0; i < MAPPED_BUCKETS; i++)
        if (p->slot[i].page)
            hv_grant_unmap(ring->disk->b->ports, p->slot[i].page, 1);
    ring->disk->b->mapped_pages -= p->count;
    free(p);
    ring->persistent = NULL;
}
