/* xen_memory.c - a frontend's own memory on the real Xen, for frontends in user space: libxengnttab's grant sharing.
 *
 * 1. The library makes a page and grants it in one step, and chooses where. The arena is a range of plain memory; a page of it that is
 *    granted is replaced, at its address and with its content, by the page that the library made.
 * 2. Taking a grant back is the kernel's: a peer that still has the page mapped keeps it, and the kernel ends the grant when that
 *    is over. It does not tell; so unshare never says -EBUSY here. The memory at the address is plain again at once.
 * 3. A page has at most one grant. The kernel bounds the number of granted pages of a system (module xen-gntalloc, limit, 1024). */
#include "hypervisor/xen/xen_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static int failure(void) { return errno ? -errno : -EIO; }

int xen_memory_init(struct memory *m, uint32_t pages)
{
    void *base = NULL;
    pthread_mutex_init(&m->lock, NULL);
    if (pages) {
        base = mmap(NULL, (size_t)pages * HV_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (base == MAP_FAILED)
            return -errno;
        errno = 0;
        m->share = xengntshr_open(NULL, 0);
        if (!m->share) {
            int err = failure();
            munmap(base, (size_t)pages * HV_PAGE_SIZE);
            return err;
        }
    }
    m->refs = calloc(pages ? pages : 1, sizeof *m->refs);
    int err = arena_init(&m->arena, base, pages);
    return m->refs ? err : -ENOMEM;
}

void xen_memory_fini(struct memory *m)
{
    if (m->arena.base)
        munmap(m->arena.base, (size_t)m->arena.pages * HV_PAGE_SIZE); /* granted pages with it */
    if (m->share)
        xengntshr_close(m->share);
    arena_fini(&m->arena);
    free(m->refs);
    pthread_mutex_destroy(&m->lock);
}

void *xen_arena_alloc(struct hv *hv, unsigned pages) { return arena_alloc(&xen_of(hv)->memory.arena, pages); }
void xen_arena_free(struct hv *hv, void *addr, unsigned pages) { arena_free(&xen_of(hv)->memory.arena, addr, pages); }

/* Puts a newly granted page in the place of page i. */
static int grant_page(struct memory *m, uint32_t i, hv_domid dom, bool readonly, hv_gref *out)
{
    uint8_t *page = m->arena.base + (size_t)i * HV_PAGE_SIZE;
    uint32_t ref;
    errno = 0;
    void *made = xengntshr_share_pages(m->share, dom, 1, &ref, !readonly);
    if (!made)
        return errno == ENOMEM ? -ENOSPC : failure();
    memcpy(made, page, HV_PAGE_SIZE);
    if (mremap(made, HV_PAGE_SIZE, HV_PAGE_SIZE, MREMAP_MAYMOVE | MREMAP_FIXED, page) == MAP_FAILED) {
        int err = failure();
        xengntshr_unshare(m->share, made, 1);
        return err;
    }
    m->refs[i] = ref;
    *out = ref;
    return 0;
}

int xen_grant_share(struct hv *hv, hv_domid dom, void *page, bool readonly, hv_gref *out)
{
    struct memory *m = &xen_of(hv)->memory;
    uint32_t i = arena_page_of(&m->arena, page, 1);
    if (i == ARENA_NO_PAGE || dom > UINT16_MAX)
        return -EINVAL;
    pthread_mutex_lock(&m->lock);
    int err = m->refs[i] ? -EEXIST : grant_page(m, i, dom, readonly, out);
    pthread_mutex_unlock(&m->lock);
    return err;
}

/* Plain memory with the content that was granted, in the place of page i. */
static int plain_page(struct memory *m, uint32_t i)
{
    uint8_t *page = m->arena.base + (size_t)i * HV_PAGE_SIZE;
    void *plain = mmap(NULL, HV_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (plain == MAP_FAILED)
        return -errno;
    memcpy(plain, page, HV_PAGE_SIZE);
    if (mremap(plain, HV_PAGE_SIZE, HV_PAGE_SIZE, MREMAP_MAYMOVE | MREMAP_FIXED, page) == MAP_FAILED) {
        int err = failure();
        munmap(plain, HV_PAGE_SIZE);
        return err;
    }
    m->refs[i] = 0;
    return 0;
}

int xen_grant_unshare(struct hv *hv, hv_gref ref)
{
    struct memory *m = &xen_of(hv)->memory;
    int err = -EINVAL;
    pthread_mutex_lock(&m->lock);
    for (uint32_t i = 0; ref && i < m->arena.pages; i++)
        if (m->refs[i] == ref) {
            err = plain_page(m, i);
            break;
        }
    pthread_mutex_unlock(&m->lock);
    return err;
}
