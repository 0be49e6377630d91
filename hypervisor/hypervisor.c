/* hypervisor.c - chooses the implementation by its name and dispatches to it. See hypervisor.h. */
#include "hypervisor/hypervisor_private.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* The kernel says so to every domain, whatever modules are loaded. */
static bool on_xen(void)
{
    char type[8] = "";
    FILE *f = fopen("/sys/hypervisor/type", "re");
    if (!f)
        return false;
    bool is = fgets(type, sizeof type, f) && !strncmp(type, "xen", 3);
    fclose(f);
    return is;
}

int hv_open(const char *kind, const struct hv_identity *who, struct hv **out, struct error *err)
{
    if (!strcmp(kind, "auto"))
        kind = on_xen() ? "xen" : "local";
    if (!strcmp(kind, "local"))
        return local_open(who, out, err);
    if (!strcmp(kind, "xen"))
#ifdef PARALLAX_WITHOUT_XEN
        return error_set(err, -ENOSYS, "this Parallax is built without Xen; use --hypervisor local");
#else
        return xen_open(who, out, err);
#endif
    return error_set(err, -EINVAL, "no hypervisor '%s'; it is auto, xen or local", kind);
}

void hv_close(struct hv *hv) { hv->ops->close(hv); }
hv_domid hv_own_domid(const struct hv *hv) { return hv->ops->own_domid(hv); }
const char *hv_kind(const struct hv *hv) { return hv->ops->kind; }

int hv_ports_open(struct hv *hv, struct hv_ports **out) { return hv->ops->ports_open(hv, out); }
void hv_ports_close(struct hv_ports *p) { p->ops->ports_close(p); }

int hv_grant_map(struct hv_ports *p, hv_domid dom, const hv_gref *refs, unsigned count, bool writable, void **out)
{
    return p->ops->grant_map(p, dom, refs, count, writable, out);
}

int hv_grant_unmap(struct hv_ports *p, void *addr, unsigned count) { return p->ops->grant_unmap(p, addr, count); }
int hv_grant_copy(struct hv_ports *p, struct hv_copy *segments, unsigned count) { return p->ops->grant_copy(p, segments, count); }

int hv_event_bind(struct hv_ports *p, hv_domid dom, uint32_t remote_port, hv_evtchn *out)
{
    return p->ops->event_bind(p, dom, remote_port, out);
}

void *hv_arena_alloc(struct hv *hv, unsigned pages) { return hv->ops->arena_alloc(hv, pages); }
void hv_arena_free(struct hv *hv, void *addr, unsigned pages) { hv->ops->arena_free(hv, addr, pages); }

int hv_grant_share(struct hv *hv, hv_domid dom, void *page, bool readonly, hv_gref *out)
{
    return hv->ops->grant_share(hv, dom, page, readonly, out);
}

int hv_grant_unshare(struct hv *hv, hv_gref ref) { return hv->ops->grant_unshare(hv, ref); }

int hv_event_alloc(struct hv_ports *p, hv_domid dom, hv_evtchn *out) { return p->ops->event_alloc(p, dom, out); }
int hv_event_fd(struct hv_ports *p) { return p->ops->event_fd(p); }
int hv_event_pending(struct hv_ports *p, hv_evtchn *out) { return p->ops->event_pending(p, out); }
int hv_event_unmask(struct hv_ports *p, hv_evtchn port) { return p->ops->event_unmask(p, port); }
int hv_event_notify(struct hv_ports *p, hv_evtchn port) { return p->ops->event_notify(p, port); }
void hv_event_close(struct hv_ports *p, hv_evtchn port) { p->ops->event_close(p, port); }
