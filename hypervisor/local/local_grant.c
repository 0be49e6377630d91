/* local_grant.c - the backend's side of grants: checking them as Xen would, mapping, copying.
 *
 * A view is one domain's arena and grant table, mapped into this process for one port set. Here we stand in for Xen, with
 * the granter as the party not to be trusted:
 * 1. A grant is used only between pin and unpin. pin checks type, domid and write permission and sets the in-use bit in the
 *    same compare-and-swap, so a revocation is either seen or refused; the frame is read after that and checked against the
 *    arena's size as it was when the sealed descriptor was checked.
 * 2. The granter may write anything into its table at any time. The pin counts are ours, never read back from it, so it can
 *    only mislead itself; a granter that keeps changing an entry under pin is refused after a few attempts.
 * 3. Pins are counted per port set. A page offered to two loops at once under one reference may look free to its granter
 *    when the first of them is done.
 * 4. A view lives while a mapping or a bound event channel refers to it; of the others the latest is kept until the next one
 *    is needed, so memory of dead domains is not held for long.
 * 5. The copy path makes no system call once the view exists. */
#include "hypervisor/local/local_private.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#define PIN_ATTEMPTS 8

struct view {
    struct list_node link; /* in by_domid */
    hv_domid dom;
    unsigned uses; /* mappings and held channels */
    uint8_t *arena;
    struct grant_entry *table;
    uint32_t pages, entries;
    struct pins {
        uint16_t readers, writers;
    } *pins; /* by reference */
    int arena_fd;
};

struct mapping {
    struct list_node link; /* in maps */
    struct view *view;
    void *addr;
    unsigned count;
    bool writable, own_range; /* own_range: a range of its own, not part of the view's arena */
    hv_gref refs[];
};

void local_views_init(struct views *v, struct local *l)
{
    v->local = l;
    for (unsigned i = 0; i < VIEW_BUCKETS; i++) {
        list_init(&v->by_domid[i]);
        list_init(&v->maps[i]);
    }
}

static void view_free(struct views *v, struct view *w)
{
    if (v->last == w)
        v->last = NULL;
    list_remove(&w->link);
    if (w->arena)
        munmap(w->arena, (size_t)w->pages * HV_PAGE_SIZE);
    if (w->table)
        munmap(w->table, (size_t)w->entries * sizeof *w->table);
    if (w->arena_fd >= 0)
        close(w->arena_fd);
    free(w->pins);
    free(w);
}

static void view_drop(struct views *v, struct view *w)
{
    if (--w->uses == 0)
        view_free(v, w);
}

/* A descriptor from another domain is safe to map only if it is shared memory that can never become smaller; huge pages
 * can fail to be there when touched. */
static int check_memory_fd(int fd, uint64_t bytes)
{
    struct stat st;
    struct statfs fs;
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0 || !(seals & F_SEAL_SHRINK) || fstat(fd, &st) < 0 || fstatfs(fd, &fs) < 0 || fs.f_type != TMPFS_MAGIC)
        return -EPERM;
    return (uint64_t)st.st_size >= bytes ? 0 : -EINVAL;
}

static int map_shared(int fd, size_t bytes, void **out)
{
    int err = check_memory_fd(fd, bytes);
    if (err)
        return err;
    void *m = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (m == MAP_FAILED)
        return -errno;
    *out = m;
    return 0;
}

static int view_map(struct view *w, int fds[2])
{
    void *m;
    int err = map_shared(fds[0], (size_t)w->pages * HV_PAGE_SIZE, &m);
    if (err)
        return err;
    w->arena = m;
    err = map_shared(fds[1], (size_t)w->entries * sizeof(struct grant_entry), &m);
    if (err)
        return err;
    w->table = m;
    w->pins = calloc(w->entries, sizeof *w->pins);
    return w->pins ? 0 : -ENOMEM;
}

/* Fetches another domain's memory from the hypervisor. */
static int view_open(struct views *v, hv_domid dom, struct view **out)
{
    struct wire_reply reply;
    int fds[2] = { -1, -1 };
    int err = local_call(v->local, &(struct wire_request){ .op = WIRE_MEMORY, .dom = dom }, NULL, 0, &reply, fds, 2);
    struct view *w = NULL;
    if (!err && (fds[0] < 0 || fds[1] < 0 || !reply.arena_pages || !reply.table_entries))
        err = -EIO;
    if (!err && !(w = calloc(1, sizeof *w)))
        err = -ENOMEM;
    if (!err) {
        list_init(&w->link);
        w->dom = dom;
        w->pages = reply.arena_pages;
        w->entries = reply.table_entries;
        w->arena_fd = fds[0];
        fds[0] = -1;
        err = view_map(w, (int[2]){ w->arena_fd, fds[1] });
    }
    for (int i = 0; i < 2; i++)
        if (fds[i] >= 0)
            close(fds[i]);
    if (err) {
        if (w)
            view_free(v, w);
        return err;
    }
    list_add_head(&v->by_domid[dom % VIEW_BUCKETS], &w->link);
    *out = w;
    return 0;
}

static void drop_idle(struct views *v)
{
    for (unsigned i = 0; v->idle && i < VIEW_BUCKETS; i++)
        list_for_each_safe(n, &v->by_domid[i]) {
            struct view *w = container_of(n, struct view, link);
            if (!w->uses)
                view_free(v, w);
        }
    v->idle = 0;
}

static int view_get(struct views *v, hv_domid dom, struct view **out)
{
    if (v->last && v->last->dom == dom) {
        *out = v->last;
        return 0;
    }
    list_for_each(n, &v->by_domid[dom % VIEW_BUCKETS]) {
        struct view *w = container_of(n, struct view, link);
        if (w->dom == dom) {
            *out = v->last = w;
            return 0;
        }
    }
    drop_idle(v);
    int err = view_open(v, dom, out);
    if (err)
        return err;
    v->idle = 1;
    v->last = *out;
    return 0;
}

int local_view_hold(struct views *v, hv_domid dom)
{
    struct view *w;
    int err = view_get(v, dom, &w);
    if (!err)
        w->uses++;
    return err;
}

void local_view_release(struct views *v, hv_domid dom)
{
    struct view *w;
    if (view_get(v, dom, &w) == 0 && w->uses)
        view_drop(v, w);
}

/* ---- pins ---- */

static void unpin(struct view *w, hv_gref ref, bool writable)
{
    struct pins *p = &w->pins[ref];
    uint32_t clear = 0;
    if (writable) {
        if (--p->writers == 0)
            clear |= GRANT_WRITING;
    } else {
        p->readers--;
    }
    if (!p->readers && !p->writers)
        clear |= GRANT_READING;
    if (clear)
        atomic_fetch_and_explicit(&w->table[ref].head, ~clear, memory_order_release);
}

/* Marks the grant in use and gives its frame. */
static int pin(struct view *w, hv_domid own, hv_gref ref, bool writable, uint32_t *frame)
{
    if (ref < GRANT_RESERVED_ENTRIES || ref >= w->entries)
        return -EINVAL;
    struct pins *p = &w->pins[ref];
    if (p->readers == UINT16_MAX || p->writers == UINT16_MAX)
        return -EBUSY;
    struct grant_entry *e = &w->table[ref];
    uint32_t bits = GRANT_READING | (writable ? GRANT_WRITING : 0), head = atomic_load_explicit(&e->head, memory_order_relaxed);
    for (int attempt = 0; ; attempt++) {
        if ((head & (GRANT_TYPE_MASK | GRANT_SUB_PAGE)) != GRANT_PERMIT_ACCESS || head >> 16 != own || (writable && head & GRANT_READONLY) ||
            attempt == PIN_ATTEMPTS)
            return -EACCES;
        if (atomic_compare_exchange_strong_explicit(&e->head, &head, head | bits, memory_order_acq_rel, memory_order_relaxed))
            break;
    }
    if (writable)
        p->writers++;
    else
        p->readers++;
    *frame = atomic_load_explicit(&e->frame, memory_order_relaxed);
    if (*frame >= w->pages) {
        unpin(w, ref, writable);
        return -EINVAL;
    }
    return 0;
}

/* ---- map ---- */

/* Puts the frames at consecutive addresses. Writable and consecutive already, the arena itself serves; else a range of its
 * own is made, which for a read-only mapping is read-only for the processor too. */
static int place(struct view *w, struct mapping *m, const uint32_t *frames)
{
    unsigned run = 1;
    while (run < m->count && frames[run] == frames[0] + run)
        run++;
    if (m->writable && run == m->count) {
        m->addr = w->arena + (size_t)frames[0] * HV_PAGE_SIZE;
        return 0;
    }
    size_t bytes = (size_t)m->count * HV_PAGE_SIZE;
    uint8_t *base = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED)
        return -errno;
    int prot = PROT_READ | (m->writable ? PROT_WRITE : 0);
    for (unsigned i = 0; i < m->count; i++)
        if (mmap(base + (size_t)i * HV_PAGE_SIZE, HV_PAGE_SIZE, prot, MAP_SHARED | MAP_FIXED, w->arena_fd, (off_t)frames[i] * HV_PAGE_SIZE) == MAP_FAILED) {
            int err = -errno;
            munmap(base, bytes);
            return err;
        }
    m->own_range = true;
    m->addr = base;
    return 0;
}

static struct list_node *map_bucket(struct views *v, const void *addr) { return &v->maps[(uintptr_t)addr / HV_PAGE_SIZE % VIEW_BUCKETS]; }

int local_grant_map(struct hv_ports *hp, hv_domid dom, const hv_gref *refs, unsigned count, bool writable, void **out)
{
    struct views *v = &ports_of(hp)->views;
    if (!count || count > WIRE_MAX_ARENA_PAGES)
        return -EINVAL;
    struct view *w;
    int err = view_get(v, dom, &w);
    if (err)
        return err;
    struct mapping *m = calloc(1, sizeof *m + count * sizeof *m->refs);
    uint32_t *frames = malloc(count * sizeof *frames);
    if (!m || !frames) {
        free(m);
        free(frames);
        return -ENOMEM;
    }
    m->view = w;
    m->count = count;
    m->writable = writable;
    memcpy(m->refs, refs, count * sizeof *refs);
    unsigned pinned = 0;
    while (pinned < count && !(err = pin(w, v->local->domid, m->refs[pinned], writable, &frames[pinned])))
        pinned++;
    if (!err)
        err = place(w, m, frames);
    free(frames);
    if (err) {
        while (pinned)
            unpin(w, m->refs[--pinned], writable);
        free(m);
        return err;
    }
    w->uses++;
    list_add_head(map_bucket(v, m->addr), &m->link);
    *out = m->addr;
    return 0;
}

static void mapping_free(struct views *v, struct mapping *m)
{
    list_remove(&m->link);
    if (m->own_range)
        munmap(m->addr, (size_t)m->count * HV_PAGE_SIZE);
    for (unsigned i = 0; i < m->count; i++)
        unpin(m->view, m->refs[i], m->writable);
    view_drop(v, m->view);
    free(m);
}

int local_grant_unmap(struct hv_ports *hp, void *addr, unsigned count)
{
    struct views *v = &ports_of(hp)->views;
    list_for_each(n, map_bucket(v, addr)) {
        struct mapping *m = container_of(n, struct mapping, link);
        if (m->addr == addr && m->count == count) {
            mapping_free(v, m);
            return 0;
        }
    }
    return -EINVAL;
}

void local_views_fini(struct views *v)
{
    for (unsigned i = 0; i < VIEW_BUCKETS; i++)
        list_for_each_safe(n, &v->maps[i])
            mapping_free(v, container_of(n, struct mapping, link));
    for (unsigned i = 0; i < VIEW_BUCKETS; i++)
        list_for_each_safe(n, &v->by_domid[i])
            view_free(v, container_of(n, struct view, link));
}

/* ---- copy ---- */

static int copy_one(struct views *v, const struct hv_copy *c)
{
    if ((unsigned)c->offset + c->length > HV_PAGE_SIZE)
        return -EINVAL;
    struct view *w;
    uint32_t frame;
    int err = view_get(v, c->dom, &w);
    if (!err)
        err = pin(w, v->local->domid, c->ref, c->to_guest, &frame);
    if (err)
        return err;
    uint8_t *page = w->arena + (size_t)frame * HV_PAGE_SIZE + c->offset;
    if (c->to_guest)
        memcpy(page, c->local, c->length);
    else
        memcpy(c->local, page, c->length);
    unpin(w, c->ref, c->to_guest);
    return 0;
}

int local_grant_copy(struct hv_ports *hp, struct hv_copy *segments, unsigned count)
{
    struct views *v = &ports_of(hp)->views;
    for (unsigned i = 0; i < count; i++)
        segments[i].status = (int16_t)copy_one(v, &segments[i]);
    return 0;
}
