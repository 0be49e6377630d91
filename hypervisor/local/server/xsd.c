/* xsd.c - the xenstore server's beginning and end, and the coming and going of domains in it.
 *
 * Quotas: those of Xen for a guest; the storage domain serves a thousand images and gets more; the toolstack has none. */
#include "hypervisor/local/server/xsd_private.h"

#include "base/clock.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define AGING_PERIOD_MS 5000u

static const struct xsd_quota quotas[] = {
    [XSD_TOOLSTACK] = { .queue_bytes = 64u << 20 },
    [XSD_NAMED] = { .nodes = 100000, .watches = 20000, .transactions = 100, .connections = 64, .value_bytes = 2048, .perms = 5,
                    .transaction_nodes = 8192, .queue_bytes = 64u << 20 },
    [XSD_GUEST] = { .nodes = 1000, .watches = 128, .transactions = 10, .connections = 8, .value_bytes = 2048, .perms = 5,
                    .transaction_nodes = 1024, .queue_bytes = 1u << 20 },
};

static void age(struct loop_timer *t)
{
    struct xsd *x = container_of(t, struct xsd, aging);
    uint64_t now = clock_monotonic_ms();
    for (unsigned i = 0; i < XSD_DOMAIN_BUCKETS; i++)
        list_for_each(n, &x->domains[i]) {
            struct xsd_domain *d = container_of(n, struct xsd_domain, link);
            list_for_each(m, &d->conns)
                xsd_tx_age(container_of(m, struct xsd_conn, of_domain), now);
        }
    loop_timer_start(x->loop, t, AGING_PERIOD_MS);
}

int xsd_init(struct xsd *x, struct loop *loop)
{
    *x = (struct xsd){ .loop = loop, .generation = 1, .aging.expired = age };
    for (unsigned i = 0; i < XSD_DOMAIN_BUCKETS; i++)
        list_init(&x->domains[i]);
    for (unsigned i = 0; i < XSD_WATCH_BUCKETS; i++)
        list_init(&x->watches[i]);
    struct xsd_perms *perms = xsd_perms_create(&(struct xsd_perm){ 0, 0 }, 1);
    x->root = perms ? xsd_node_create("", 0, perms, x->generation) : NULL;
    xsd_perms_put(perms);
    if (!x->root)
        return -ENOMEM;
    loop_timer_start(loop, &x->aging, AGING_PERIOD_MS);
    return xsd_domain_join(x, 0, XSD_TOOLSTACK, "toolstack");
}

void xsd_fini(struct xsd *x)
{
    x->idle = NULL;
    loop_timer_stop(x->loop, &x->aging);
    for (unsigned i = 0; i < XSD_DOMAIN_BUCKETS; i++)
        list_for_each_safe(n, &x->domains[i]) {
            struct xsd_domain *d = container_of(n, struct xsd_domain, link);
            xsd_domain_disconnect(x, d->domid);
            list_remove(&d->link);
            free(d);
        }
    xsd_node_put(x->root);
    x->root = NULL;
}

struct xsd_domain *xsd_domain_find(struct xsd *x, uint32_t domid)
{
    list_for_each(n, &x->domains[domid % XSD_DOMAIN_BUCKETS]) {
        struct xsd_domain *d = container_of(n, struct xsd_domain, link);
        if (d->domid == domid)
            return d;
    }
    return NULL;
}

static void fire_special(struct xsd *x, const char *path)
{
    struct xsd_change change = { .path = (char *)path };
    xsd_watch_fire(x, &change);
}

/* One node of a home: value NULL makes a directory. The owner may write; with readonly only the toolstack may. */
static int home_node(struct xsd_view *v, uint32_t domid, const char *name, const char *value, bool readonly)
{
    char path[XSD_HOME_BYTES + 32], home[XSD_HOME_BYTES];
    xsd_home_path(home, domid);
    snprintf(path, sizeof path, "%s%s%s", home, *name ? "/" : "", name);
    struct xsd_perm rights[2] = { { readonly ? 0 : domid, 0 }, { domid, XSD_READ } };
    struct xsd_perms *perms = xsd_perms_create(rights, readonly ? 2 : 1);
    const struct xsd_domain *toolstack = xsd_domain_find(v->xsd, 0);
    int err = perms ? xsd_write(v, toolstack, path, value, value ? strlen(value) : 0) : -ENOMEM;
    if (!err)
        err = xsd_set_perms(v, toolstack, path, perms);
    xsd_perms_put(perms);
    return err;
}

static int make_home(struct xsd *x, uint32_t domid, const char *name)
{
    static const char *const directories[] = { "", "device", "data", "control", "drivers", "feature", "attr", "error", "backend" };
    char number[12];
    struct xsd_view v;
    snprintf(number, sizeof number, "%u", domid);
    xsd_view_init(&v, x, &x->root);
    int err = 0;
    for (size_t i = 0; !err && i < sizeof directories / sizeof *directories; i++)
        err = home_node(&v, domid, directories[i], NULL, false);
    if (!err)
        err = home_node(&v, domid, "name", name, true);
    if (!err)
        err = home_node(&v, domid, "domid", number, true);
    xsd_view_publish(&v);
    xsd_view_fini(&v);
    return err;
}

int xsd_domain_join(struct xsd *x, uint32_t domid, enum xsd_class class, const char *name)
{
    struct xsd_domain *d = calloc(1, sizeof *d);
    if (!d)
        return -ENOMEM;
    d->domid = domid;
    d->quota = quotas[class];
    d->privileged = class == XSD_TOOLSTACK;
    d->sees_special = class != XSD_GUEST;
    list_init(&d->conns);
    list_add_tail(&x->domains[domid % XSD_DOMAIN_BUCKETS], &d->link);
    if (class == XSD_TOOLSTACK)
        return 0;
    int err = make_home(x, domid, name);
    if (err) {
        xsd_domain_leave(x, domid);
        return err;
    }
    fire_special(x, "@introduceDomain");
    return 0;
}

void xsd_domain_disconnect(struct xsd *x, uint32_t domid)
{
    struct xsd_domain *d = xsd_domain_find(x, domid);
    if (!d)
        return;
    list_for_each_safe(n, &d->conns)
        xsd_conn_close(container_of(n, struct xsd_conn, of_domain));
}

void xsd_domain_leave(struct xsd *x, uint32_t domid)
{
    struct xsd_domain *d = xsd_domain_find(x, domid);
    if (!d)
        return;
    xsd_domain_disconnect(x, domid);
    char home[XSD_HOME_BYTES];
    struct xsd_view v;
    xsd_home_path(home, domid);
    xsd_view_init(&v, x, &x->root);
    if (xsd_remove(&v, xsd_domain_find(x, 0), home) == 0)
        xsd_view_publish(&v);
    xsd_view_fini(&v);
    list_remove(&d->link);
    free(d);
    fire_special(x, "@releaseDomain");
}
