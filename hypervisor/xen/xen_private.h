/* xen_private.h - the real Xen behind hypervisor.h: what its files share.
 *
 * Everything goes through libxengnttab, libxenevtchn and libxenstore with the rights of an ordinary domain: no call that only
 * the toolstack may make, and of the xenstore only what lies below the domain's own home and its frontends' device nodes.
 * Threads: struct xen is read-only once open. struct ports belongs to one thread. */
#ifndef HYPERVISOR_XEN_XEN_PRIVATE_H
#define HYPERVISOR_XEN_XEN_PRIVATE_H
#include "base/list.h"
#include "hypervisor/arena.h"
#include "hypervisor/hypervisor_private.h"

#include <xenevtchn.h>
#include <xengnttab.h>

#define XEN_COPY_BATCH 256u

/* A frontend's own memory. */
struct memory {
    pthread_mutex_t lock;
    struct arena arena;
    xengntshr_handle *share; /* NULL if there is no memory */
    hv_gref *refs;           /* by page; 0: not granted */
};

struct xen {
    struct hv hv;
    struct memory memory;
    hv_domid domid;
    int lock_fd; /* the storage domain's lock, or -1 */
};

struct ports {
    struct hv_ports hv;
    xengnttab_handle *grants;
    xenevtchn_handle *events;
    struct xengnttab_grant_copy_segment copies[XEN_COPY_BATCH]; /* those of one call */
};

static inline struct xen *xen_of(struct hv *hv) { return container_of(hv, struct xen, hv); }
static inline struct ports *ports_of(struct hv_ports *p) { return container_of(p, struct ports, hv); }

/* ---- xen_grant.c ---- */
int xen_grant_map(struct hv_ports *p, hv_domid dom, const hv_gref *refs, unsigned count, bool writable, void **out);
int xen_grant_unmap(struct hv_ports *p, void *addr, unsigned count);
int xen_grant_copy(struct hv_ports *p, struct hv_copy *segments, unsigned count);

/* ---- xen_memory.c ---- */
int xen_memory_init(struct memory *m, uint32_t pages);
void xen_memory_fini(struct memory *m);
void *xen_arena_alloc(struct hv *hv, unsigned pages);
void xen_arena_free(struct hv *hv, void *addr, unsigned pages);
int xen_grant_share(struct hv *hv, hv_domid dom, void *page, bool readonly, hv_gref *out);
int xen_grant_unshare(struct hv *hv, hv_gref ref);

/* ---- xen_event.c ---- */
int xen_event_bind(struct hv_ports *p, hv_domid dom, uint32_t remote_port, hv_evtchn *out);
int xen_event_alloc(struct hv_ports *p, hv_domid dom, hv_evtchn *out);
int xen_event_fd(struct hv_ports *p);
int xen_event_pending(struct hv_ports *p, hv_evtchn *out);
int xen_event_unmask(struct hv_ports *p, hv_evtchn port);
int xen_event_notify(struct hv_ports *p, hv_evtchn port);
void xen_event_close(struct hv_ports *p, hv_evtchn port);
#endif
