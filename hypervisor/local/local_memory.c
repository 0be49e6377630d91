/* local_memory.c - a frontend's own memory: the arena, its pages, and the grants given on them.
 *
 * 1. Arena and grant table are memfds sealed against shrinking and growing, so that no mapping of them can ever fault.
 * 2. A grant becomes visible by one store of its head, after its frame; it is taken back by one compare-and-swap that fails
 *    while the grantee has its in-use bits set (Xen's rule).
 * 3. The hypervisor hands this memory to a domain only after we named that domain, so the first grant to each asks it. */
#include "hypervisor/local/local_private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static int make_sealed(const char *name, size_t bytes, int *fd, void **map)
{
    int f = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (f < 0)
        return -errno;
    void *m = MAP_FAILED;
    if (ftruncate(f, (off_t)bytes) == 0 && fcntl(f, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0)
        m = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, f, 0);
    if (m == MAP_FAILED) {
        int err = -errno;
        close(f);
        return err;
    }
    *fd = f;
    *map = m;
    return 0;
}

int local_memory_init(struct memory *m, uint32_t pages, int fds[2])
{
    memset(m, 0, sizeof *m);
    pthread_mutex_init(&m->lock, NULL);
    int err = -EINVAL;
    if (pages > WIRE_MAX_ARENA_PAGES)
        goto fail;
    if (!pages)
        return arena_init(&m->arena, NULL, 0);
    /* A page may be granted to several domains, hence some entries more than pages; whole pages of entries. */
    uint32_t entries = (pages + pages / 8 + GRANT_RESERVED_ENTRIES + 511u) / 512u * 512u;
    void *map;
    err = make_sealed("parallax-arena", (size_t)pages * HV_PAGE_SIZE, &fds[0], &map);
    if (err)
        goto fail;
    err = arena_init(&m->arena, map, pages);
    if (err)
        goto fail;
    err = make_sealed("parallax-grants", (size_t)entries * sizeof(struct grant_entry), &fds[1], &map);
    if (err)
        goto fail;
    m->table = map;
    m->entries = entries;
    m->free_refs = malloc(entries * sizeof *m->free_refs);
    err = -ENOMEM;
    if (!m->free_refs)
        goto fail;
    for (uint32_t ref = entries - 1; ref >= GRANT_RESERVED_ENTRIES; ref--)
        m->free_refs[m->free_count++] = ref;
    return 0;
fail:
    local_memory_fini(m);
    return err;
}

void local_memory_fini(struct memory *m)
{
    if (m->arena.base)
        munmap(m->arena.base, (size_t)m->arena.pages * HV_PAGE_SIZE);
    if (m->table)
        munmap(m->table, (size_t)m->entries * sizeof *m->table);
    arena_fini(&m->arena);
    free(m->free_refs);
    pthread_mutex_destroy(&m->lock);
    memset(m, 0, sizeof *m);
}

void *local_arena_alloc(struct hv *hv, unsigned pages) { return arena_alloc(&local_of(hv)->memory.arena, pages); }
void local_arena_free(struct hv *hv, void *addr, unsigned pages) { arena_free(&local_of(hv)->memory.arena, addr, pages); }

/* Names dom to the hypervisor once. Under m->lock. */
static int authorise(struct local *l, hv_domid dom)
{
    struct memory *m = &l->memory;
    for (unsigned i = 0; i < m->authorised_count; i++)
        if (m->authorised[i] == dom)
            return 0;
    int err = local_call(l, &(struct wire_request){ .op = WIRE_AUTHORISE, .dom = dom }, NULL, 0, NULL, NULL, 0);
    if (!err && m->authorised_count < sizeof m->authorised / sizeof *m->authorised)
        m->authorised[m->authorised_count++] = dom;
    return err;
}

int local_grant_share(struct hv *hv, hv_domid dom, void *page, bool readonly, hv_gref *out)
{
    struct local *l = local_of(hv);
    struct memory *m = &l->memory;
    uint32_t frame = arena_page_of(&m->arena, page, 1);
    if (frame == ARENA_NO_PAGE || dom > WIRE_MAX_GRANTEE)
        return -EINVAL;
    pthread_mutex_lock(&m->lock);
    int err = authorise(l, dom);
    if (!err && !m->free_count)
        err = -ENOSPC;
    uint32_t ref = err ? 0 : m->free_refs[--m->free_count];
    pthread_mutex_unlock(&m->lock);
    if (err)
        return err;
    atomic_store_explicit(&m->table[ref].frame, frame, memory_order_relaxed);
    atomic_store_explicit(&m->table[ref].head, GRANT_PERMIT_ACCESS | (readonly ? GRANT_READONLY : 0) | dom << 16, memory_order_release);
    *out = ref;
    return 0;
}

int local_grant_unshare(struct hv *hv, hv_gref ref)
{
    struct memory *m = &local_of(hv)->memory;
    if (ref < GRANT_RESERVED_ENTRIES || ref >= m->entries)
        return -EINVAL;
    uint32_t head = atomic_load(&m->table[ref].head);
    do {
        if (!(head & GRANT_TYPE_MASK))
            return -EINVAL;
        if (head & (GRANT_READING | GRANT_WRITING))
            return -EBUSY;
    } while (!atomic_compare_exchange_weak(&m->table[ref].head, &head, 0));
    pthread_mutex_lock(&m->lock);
    m->free_refs[m->free_count++] = ref;
    pthread_mutex_unlock(&m->lock);
    return 0;
}
