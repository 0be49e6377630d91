/* xen_grant.c - other domains' pages through libxengnttab: mapped, or copied by the hypervisor.
 *
 * 1. A map is all or nothing: the library undoes what it had mapped when one reference fails. It cannot say which failed, nor
 *    why; the errors of hypervisor.h that tell reasons apart come from copies only.
 * 2. A copy's segments are done in order, and each has its status: GNTST_… becomes an errno here. */
#include "hypervisor/xen/xen_private.h"

#include <errno.h>
#include <sys/mman.h>

int xen_grant_map(struct hv_ports *hp, hv_domid dom, const hv_gref *refs, unsigned count, bool writable, void **out)
{
    if (!count)
        return -EINVAL;
    errno = 0;
    /* The library's prototype lacks a const; it only reads. */
    void *m = xengnttab_map_domain_grant_refs(ports_of(hp)->grants, count, dom, (uint32_t *)refs, PROT_READ | (writable ? PROT_WRITE : 0));
    if (!m)
        return errno ? -errno : -EINVAL;
    *out = m;
    return 0;
}

int xen_grant_unmap(struct hv_ports *hp, void *addr, unsigned count)
{
    errno = 0;
    return xengnttab_unmap(ports_of(hp)->grants, addr, count) ? (errno ? -errno : -EINVAL) : 0;
}

static int16_t status_error(int16_t status)
{
    switch (status) {
    case GNTST_okay:
        return 0;
    case GNTST_bad_domain:
        return -ENOENT;
    case GNTST_permission_denied:
        return -EACCES;
    case GNTST_bad_gntref:
    case GNTST_bad_copy_arg:
        return -EINVAL;
    default:
        return -EIO;
    }
}

static void fill(struct xengnttab_grant_copy_segment *s, const struct hv_copy *c)
{
    union xengnttab_copy_ptr ours = { .virt = c->local };
    union xengnttab_copy_ptr theirs = { .foreign = { .ref = c->ref, .offset = c->offset, .domid = (uint16_t)c->dom } };
    *s = (struct xengnttab_grant_copy_segment){
        .source = c->to_guest ? ours : theirs,
        .dest = c->to_guest ? theirs : ours,
        .len = c->length,
        .flags = c->to_guest ? GNTCOPY_dest_gref : GNTCOPY_source_gref,
    };
}

/* A segment beyond its page would make the kernel refuse the whole call: it is answered here, and not sent. */
static bool within_page(const struct hv_copy *c) { return (unsigned)c->offset + c->length <= HV_PAGE_SIZE; }

/* One call's worth; which[i] is the index of what became copies[i]. */
static int copy_some(struct ports *p, struct hv_copy *segments, const unsigned *which, unsigned count)
{
    if (!count)
        return 0;
    errno = 0;
    if (xengnttab_grant_copy(p->grants, count, p->copies))
        return errno ? -errno : -EIO;
    for (unsigned i = 0; i < count; i++)
        segments[which[i]].status = status_error(p->copies[i].status);
    return 0;
}

int xen_grant_copy(struct hv_ports *hp, struct hv_copy *segments, unsigned count)
{
    struct ports *p = ports_of(hp);
    unsigned which[XEN_COPY_BATCH], n = 0;
    int err = 0;
    for (unsigned i = 0; i < count && !err; i++) {
        if (!within_page(&segments[i])) {
            segments[i].status = -EINVAL;
            continue;
        }
        fill(&p->copies[n], &segments[i]);
        which[n++] = i;
        if (n == XEN_COPY_BATCH) {
            err = copy_some(p, segments, which, n);
            n = 0;
        }
    }
    return err ? err : copy_some(p, segments, which, n);
}
