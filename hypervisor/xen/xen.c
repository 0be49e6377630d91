/* xen.c - this domain of the real Xen: open, close, the handles of a loop, the xenstore.
 *
 * 1. Who a process is, is the domain's matter, not its own: of the identity only HV_NAMED counts. It makes the process the one
 *    backend of its domain; the kernel's lock on a file keeps a second one out and goes with the process.
 * 2. What can fail for want of a module or of rights fails in hv_open, with a line that names it, and not at the first guest.
 * 3. Mappings and channels die with the process: the kernel unmaps and unbinds. Xen returns the peer's port to unbound for the
 *    same domid, so that the next process binds it again (docs/hypervisor.md). */
#include "hypervisor/xen/xen_private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xenstore.h>

#define LOCK_DIRECTORY "/run/parallax"
#define LOCK_FILE LOCK_DIRECTORY "/xen.lock"

static int failure(void) { return errno ? -errno : -EIO; }

static void xen_close(struct hv *hv)
{
    struct xen *x = xen_of(hv);
    if (x->lock_fd >= 0)
        close(x->lock_fd);
    xen_memory_fini(&x->memory);
    free(x);
}

static hv_domid xen_own_domid(const struct hv *hv) { return container_of(hv, struct xen, hv)->domid; }

static void xen_ports_close(struct hv_ports *hp)
{
    struct ports *p = ports_of(hp);
    if (p->events)
        xenevtchn_close(p->events);
    if (p->grants)
        xengnttab_close(p->grants);
    free(p);
}

static int xen_ports_open(struct hv *hv, struct hv_ports **out)
{
    struct ports *p = calloc(1, sizeof *p);
    if (!p)
        return -ENOMEM;
    p->hv.ops = hv->ops;
    errno = 0;
    int err = 0;
    if (!(p->grants = xengnttab_open(NULL, 0)) || !(p->events = xenevtchn_open(NULL, 0)) ||
        fcntl(xenevtchn_fd(p->events), F_SETFL, O_RDWR | O_NONBLOCK) < 0)
        err = failure();
    if (err) {
        xen_ports_close(&p->hv);
        return err;
    }
    *out = &p->hv;
    return 0;
}

static int xen_xenstore_connect(struct hv *hv, struct xs_handle **out)
{
    (void)hv;
    errno = 0;
    struct xs_handle *handle = xs_open(0);
    if (!handle)
        return failure();
    *out = handle;
    return 0;
}

static const struct hv_ops xen_ops = {
    .kind = "xen",
    .close = xen_close,
    .own_domid = xen_own_domid,
    .ports_open = xen_ports_open,
    .ports_close = xen_ports_close,
    .grant_map = xen_grant_map,
    .grant_unmap = xen_grant_unmap,
    .grant_copy = xen_grant_copy,
    .event_bind = xen_event_bind,
    .arena_alloc = xen_arena_alloc,
    .arena_free = xen_arena_free,
    .grant_share = xen_grant_share,
    .grant_unshare = xen_grant_unshare,
    .event_alloc = xen_event_alloc,
    .event_fd = xen_event_fd,
    .event_pending = xen_event_pending,
    .event_unmask = xen_event_unmask,
    .event_notify = xen_event_notify,
    .event_close = xen_event_close,
    .xenstore_connect = xen_xenstore_connect,
};

/* The toolstack writes each domain's number into its home. */
static int read_domid(struct xen *x, struct error *err)
{
    struct xs_handle *xs;
    int r = xen_xenstore_connect(&x->hv, &xs);
    if (r)
        return error_set(err, r, "cannot reach the xenstore: %s; in a storage domain mount xenfs on /proc/xen, in dom0 start xenstored", strerror(-r));
    unsigned length;
    errno = 0;
    char *text = xs_read(xs, XBT_NULL, "domid", &length), *end = NULL;
    r = text ? 0 : failure();
    unsigned long n = text ? strtoul(text, &end, 10) : 0;
    if (r || !*text || *end || n > UINT16_MAX)
        r = error_set(err, r ? r : -EINVAL, "the xenstore does not tell this domain's number in its node domid");
    else
        x->domid = (hv_domid)n;
    free(text);
    xs_close(xs);
    return r;
}

/* What a backend will ask of the kernel is there: /dev/xen/gntdev with grant copy, /dev/xen/evtchn. */
static int try_devices(struct xen *x, struct error *err)
{
    struct hv_ports *p;
    int r = xen_ports_open(&x->hv, &p);
    if (r)
        return error_set(err, r, "cannot open /dev/xen/gntdev and /dev/xen/evtchn: %s; load the modules xen-gntdev and xen-evtchn, and run as root", strerror(-r));
    char byte;
    struct hv_copy c = { .dom = x->domid, .ref = 0, .length = 1, .local = &byte };
    r = xen_grant_copy(p, &c, 1); /* refused as a copy, but not as a call */
    xen_ports_close(p);
    return r ? error_set(err, r, "this kernel does not copy by grant (%s); Linux does since 4.9", strerror(-r)) : 0;
}

static int take_lock(struct xen *x, struct error *err)
{
    mkdir(LOCK_DIRECTORY, 0755);
    x->lock_fd = open(LOCK_FILE, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (x->lock_fd < 0)
        return error_set(err, -errno, "cannot open %s: %s", LOCK_FILE, strerror(errno));
    struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
    if (fcntl(x->lock_fd, F_SETLK, &lock) == 0)
        return 0;
    int r = -errno;
    if (fcntl(x->lock_fd, F_GETLK, &lock) == 0 && lock.l_type != F_UNLCK)
        return error_set(err, -EBUSY, "pid %d is this domain's block backend already; one domain serves one store", (int)lock.l_pid);
    return error_set(err, r, "cannot lock %s: %s", LOCK_FILE, strerror(-r));
}

int xen_open(const struct hv_identity *who, struct hv **out, struct error *err)
{
    struct xen *x = calloc(1, sizeof *x);
    if (!x)
        return error_set(err, -ENOMEM, "out of memory");
    x->hv.ops = &xen_ops;
    x->lock_fd = -1;
    int r = xen_memory_init(&x->memory, who->arena_pages);
    if (r)
        error_set(err, r, "cannot make memory to grant from: %s; load the module xen-gntalloc, and run as root", strerror(-r));
    if (!r)
        r = read_domid(x, err);
    if (!r)
        r = try_devices(x, err);
    if (!r && who->kind == HV_NAMED)
        r = take_lock(x, err);
    if (r) {
        xen_close(&x->hv);
        return r;
    }
    *out = &x->hv;
    return 0;
}
