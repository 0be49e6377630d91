/* hypervisor_private.h - what an implementation of hypervisor.h provides: one table of functions.
 *
 * hypervisor.c dispatches every public call through the table that stands first in struct hv and struct hv_ports; an
 * implementation embeds these two as the first member of its own. Rules of hypervisor.h hold for each function. The table is
 * constant and lives as long as the program. */
#ifndef HYPERVISOR_HYPERVISOR_PRIVATE_H
#define HYPERVISOR_HYPERVISOR_PRIVATE_H
#include "hypervisor/hypervisor.h"

struct xs_handle; /* libxenstore's */

struct hv_ops {
    const char *kind;
    void (*close)(struct hv *hv);
    hv_domid (*own_domid)(const struct hv *hv);
    int (*ports_open)(struct hv *hv, struct hv_ports **out);
    void (*ports_close)(struct hv_ports *p);
    int (*grant_map)(struct hv_ports *p, hv_domid dom, const hv_gref *refs, unsigned count, bool writable, void **out);
    int (*grant_unmap)(struct hv_ports *p, void *addr, unsigned count);
    int (*grant_copy)(struct hv_ports *p, struct hv_copy *segments, unsigned count);
    int (*event_bind)(struct hv_ports *p, hv_domid dom, uint32_t remote_port, hv_evtchn *out);
    void *(*arena_alloc)(struct hv *hv, unsigned pages);
    void (*arena_free)(struct hv *hv, void *addr, unsigned pages);
    int (*grant_share)(struct hv *hv, hv_domid dom, void *page, bool readonly, hv_gref *out);
    int (*grant_unshare)(struct hv *hv, hv_gref ref);
    int (*event_alloc)(struct hv_ports *p, hv_domid dom, hv_evtchn *out);
    int (*event_fd)(struct hv_ports *p);
    int (*event_pending)(struct hv_ports *p, hv_evtchn *out);
    int (*event_unmask)(struct hv_ports *p, hv_evtchn port);
    int (*event_notify)(struct hv_ports *p, hv_evtchn port);
    void (*event_close)(struct hv_ports *p, hv_evtchn port);
    /* A libxenstore connection as this domain. */
    int (*xenstore_connect)(struct hv *hv, struct xs_handle **out);
};

struct hv {
    const struct hv_ops *ops;
};

struct hv_ports {
    const struct hv_ops *ops;
};

/* The embedded hypervisor's client (hypervisor/local/). */
int local_open(const struct hv_identity *who, struct hv **out, struct error *err);
/* The real Xen, as the domain that this process runs in (hypervisor/xen/; not in every build). */
int xen_open(const struct hv_identity *who, struct hv **out, struct error *err);
#endif
