/* xen_event.c - event channels through libxenevtchn: one handle a port set, whose descriptor says that a port is pending.
 *
 * 1. The descriptor is non-blocking, so that asking for a port that is not there returns instead of waiting. (Kernels before
 *    3.13 blocked all the same; grant copy, which is asked for at open, needs 4.9.)
 * 2. Reading a port leaves it masked; writing it back unmasks it, and the kernel delivers what came meanwhile.
 * 3. A port closed while it waits to be read may be read once more: its number then belongs to nobody, or to a new channel,
 *    which looks at its ring once for nothing. */
#include "hypervisor/xen/xen_private.h"

#include <errno.h>

static int failure(void) { return errno ? -errno : -EIO; }

int xen_event_bind(struct hv_ports *hp, hv_domid dom, uint32_t remote_port, hv_evtchn *out)
{
    errno = 0;
    xenevtchn_port_or_error_t port = xenevtchn_bind_interdomain(ports_of(hp)->events, dom, remote_port);
    if (port < 0)
        return failure();
    *out = (hv_evtchn)port;
    return 0;
}

int xen_event_alloc(struct hv_ports *hp, hv_domid dom, hv_evtchn *out)
{
    errno = 0;
    xenevtchn_port_or_error_t port = xenevtchn_bind_unbound_port(ports_of(hp)->events, dom);
    if (port < 0)
        return failure();
    *out = (hv_evtchn)port;
    return 0;
}

int xen_event_fd(struct hv_ports *hp) { return xenevtchn_fd(ports_of(hp)->events); }

int xen_event_pending(struct hv_ports *hp, hv_evtchn *out)
{
    errno = 0;
    xenevtchn_port_or_error_t port = xenevtchn_pending(ports_of(hp)->events);
    if (port < 0)
        return failure();
    *out = (hv_evtchn)port;
    return 0;
}

int xen_event_unmask(struct hv_ports *hp, hv_evtchn port)
{
    errno = 0;
    return xenevtchn_unmask(ports_of(hp)->events, port) < 0 ? failure() : 0;
}

int xen_event_notify(struct hv_ports *hp, hv_evtchn port)
{
    errno = 0;
    return xenevtchn_notify(ports_of(hp)->events, port) < 0 ? failure() : 0;
}

void xen_event_close(struct hv_ports *hp, hv_evtchn port) { xenevtchn_unbind(ports_of(hp)->events, port); }
