/* xsd_store.c - reading and changing a view, under permissions and quotas.
 *
 * 1. Every check comes before the first change, so a refused request leaves the view as it was (running out of memory may
 *    leave created parents behind).
 * 2. In a transaction every node looked at is noted first: what the outcome depends on is compared again at commit.
 * 3. A new node has its parent's permissions; made by a domain without privilege it belongs to that domain.
 * 4. Counts of nodes by owner change in the view; they reach the domains when the view is published. */
#include "hypervisor/local/server/xsd_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

void xsd_view_init(struct xsd_view *v, struct xsd *x, struct xsd_node **root) { *v = (struct xsd_view){ .xsd = x, .root = root, .collect = true }; }

void xsd_view_fini(struct xsd_view *v)
{
    for (size_t i = 0; i < v->change_count; i++) {
        free(v->changes[i].path);
        xsd_perms_put(v->changes[i].old_perms);
    }
    free(v->changes);
    free(v->deltas);
}

void xsd_view_publish(struct xsd_view *v)
{
    for (size_t i = 0; i < v->delta_count; i++) {
        struct xsd_domain *d = xsd_domain_find(v->xsd, v->deltas[i].domid);
        if (d)
            d->nodes += (unsigned)v->deltas[i].nodes;
        v->deltas[i].nodes = 0;
    }
    for (size_t i = 0; i < v->change_count; i++)
        xsd_watch_fire(v->xsd, &v->changes[i]);
}

/* Out of memory loses a watch event, never the store. */
static void collect(struct xsd_view *v, const char *path, struct xsd_perms *old_perms, bool exact)
{
    if (!v->collect)
        return;
    if (v->change_count == v->change_room) {
        size_t room = v->change_room ? v->change_room * 2 : 4;
        struct xsd_change *c = realloc(v->changes, room * sizeof *c);
        if (!c)
            return;
        v->changes = c;
        v->change_room = room;
    }
    char *copy = strdup(path);
    if (copy)
        v->changes[v->change_count++] = (struct xsd_change){ copy, old_perms ? xsd_perms_get(old_perms) : NULL, exact };
}

static struct xsd_delta *delta(struct xsd_view *v, uint32_t domid)
{
    for (size_t i = 0; i < v->delta_count; i++)
        if (v->deltas[i].domid == domid)
            return &v->deltas[i];
    struct xsd_delta *d = realloc(v->deltas, (v->delta_count + 1) * sizeof *d);
    if (!d)
        return NULL;
    v->deltas = d;
    d[v->delta_count] = (struct xsd_delta){ .domid = domid };
    return &d[v->delta_count++];
}

static bool owns(const struct xsd_domain *who, const struct xsd_perms *p) { return who->privileged || p->list[0].domid == who->domid; }

bool xsd_allowed(const struct xsd_domain *who, const struct xsd_perms *perms, unsigned want)
{
    if (owns(who, perms))
        return true;
    for (unsigned i = 1; i < perms->count; i++)
        if (perms->list[i].domid == who->domid)
            return (perms->list[i].access & want) == want;
    return (perms->list[0].access & want) == want;
}

/* Looks path up and, in a transaction, notes that it was looked at. */
static int look(struct xsd_view *v, const char *path, const struct xsd_node **out)
{
    const struct xsd_node *n = xsd_node_lookup(*v->root, path);
    if (v->tx && (!n || n->generation <= xsd_tx_start_generation(v->tx))) {
        int err = xsd_tx_note(v->tx, path, n ? n->generation : 0);
        if (err)
            return err;
    }
    *out = n;
    return 0;
}

/* The nearest node above path that exists; path is cut to its. */
static int look_above(struct xsd_view *v, char *path, const struct xsd_node **out)
{
    const struct xsd_node *n = NULL;
    while (!n && xsd_path_parent(path)) {
        int err = look(v, path, &n);
        if (err)
            return err;
    }
    if (!n)
        return -ENOENT;
    *out = n;
    return 0;
}

int xsd_get(struct xsd_view *v, const struct xsd_domain *who, const char *path, unsigned want, const struct xsd_node **out)
{
    const struct xsd_node *n;
    int err = look(v, path, &n);
    if (err)
        return err;
    if (n) {
        if (!xsd_allowed(who, n->perms, want))
            return -EACCES;
        *out = n;
        return 0;
    }
    /* Whoever may not see the place does not learn that nothing is there. */
    char above[XENSTORE_ABS_PATH_MAX + 1];
    strcpy(above, path);
    err = look_above(v, above, &n);
    if (!err && !xsd_allowed(who, n->perms, want))
        err = -EACCES;
    return err ? err : -ENOENT;
}

static int make_nodes(struct xsd_view *v, struct xsd_node **slot, const char *rest, struct xsd_perms *perms, const void *value, size_t bytes)
{
    struct xsd_delta *d = delta(v, perms->list[0].domid);
    if (!d)
        return -ENOMEM;
    while (*rest) {
        rest += *rest == '/';
        size_t name_bytes = strcspn(rest, "/");
        uint32_t index;
        struct xsd_node *n = xsd_node_create(rest, name_bytes, perms, ++v->xsd->generation);
        if (!n)
            return -ENOMEM;
        rest += name_bytes;
        int err = *rest || !bytes ? 0 : xsd_node_set_value(&n, value, bytes);
        xsd_node_child(*slot, n->data, n->name_bytes, &index);
        if (!err)
            err = xsd_node_insert(*slot, index, n);
        if (err) {
            xsd_node_put(n);
            return err;
        }
        (*slot)->generation = ++v->xsd->generation;
        d->nodes++;
        slot = &(*slot)->children[index];
    }
    return 0;
}

static unsigned components(const char *rest)
{
    unsigned n = 0;
    for (; *rest; rest++)
        n += *rest == '/';
    return n;
}

static int create(struct xsd_view *v, const struct xsd_domain *who, const char *path, const void *value, size_t bytes)
{
    char above[XENSTORE_ABS_PATH_MAX + 1];
    const struct xsd_node *base;
    strcpy(above, path);
    int err = look_above(v, above, &base);
    if (err)
        return err;
    if (!xsd_allowed(who, base->perms, XSD_WRITE))
        return -EACCES;
    const char *rest = above[1] ? path + strlen(above) : path;
    struct xsd_perms *perms;
    if (who->privileged || base->perms->list[0].domid == who->domid) {
        perms = xsd_perms_get(base->perms);
    } else {
        perms = xsd_perms_create(base->perms->list, base->perms->count);
        if (!perms)
            return -ENOMEM;
        perms->list[0].domid = who->domid;
    }
    struct xsd_delta *d = delta(v, who->domid);
    struct xsd_node **slot = NULL;
    if (!d)
        err = -ENOMEM;
    else if (who->quota.nodes && (int)who->nodes + d->nodes + (int)components(rest) > (int)who->quota.nodes)
        err = -ENOSPC;
    else if (!(slot = xsd_node_own_path(v->root, above)))
        err = -ENOMEM;
    if (!err)
        err = make_nodes(v, slot, rest, perms, value, bytes);
    xsd_perms_put(perms);
    return err;
}

static int write_node(struct xsd_view *v, const struct xsd_domain *who, const char *path, const void *value, size_t bytes)
{
    const struct xsd_node *n;
    int err = xsd_get(v, who, path, XSD_WRITE, &n);
    if (!err && !value)
        return 0;
    if (err == -ENOENT) {
        err = create(v, who, path, value, bytes);
    } else if (!err) {
        struct xsd_node **slot = xsd_node_own_path(v->root, path);
        err = slot ? xsd_node_set_value(slot, value, bytes) : -ENOMEM;
        if (!err)
            (*slot)->generation = ++v->xsd->generation;
    }
    if (!err)
        collect(v, path, NULL, false);
    return err;
}

/* Counts the nodes of a tree that is to go, notes them in the transaction, and keeps those that are watched themselves. */
static int take_leave(struct xsd_view *v, const struct xsd_node *n, char *path, bool top)
{
    if (v->tx && n->generation <= xsd_tx_start_generation(v->tx)) {
        int err = xsd_tx_note(v->tx, path, n->generation);
        if (err)
            return err;
    }
    struct xsd_delta *d = delta(v, n->perms->list[0].domid);
    if (!d)
        return -ENOMEM;
    d->nodes--;
    if (!top && v->collect && xsd_watch_exists(v->xsd, path))
        collect(v, path, n->perms, true);
    size_t bytes = strlen(path);
    for (uint32_t i = 0; i < n->count; i++) {
        const struct xsd_node *child = n->children[i];
        path[bytes] = '/';
        memcpy(path + bytes + 1, child->data, child->name_bytes);
        path[bytes + 1 + child->name_bytes] = 0;
        int err = take_leave(v, child, path, false);
        path[bytes] = 0;
        if (err)
            return err;
    }
    return 0;
}

static int remove_tree(struct xsd_view *v, const struct xsd_domain *who, const char *path)
{
    char above[XENSTORE_ABS_PATH_MAX + 1];
    const struct xsd_node *n;
    strcpy(above, path);
    int err = xsd_get(v, who, path, XSD_WRITE, &n);
    if (err == -ENOENT) {
        /* Nothing there is what was wanted, provided that the place itself exists. */
        const struct xsd_node *parent = NULL;
        if (xsd_path_parent(above) && (err = look(v, above, &parent)) == 0 && !parent)
            err = -ENOENT;
        return err;
    }
    if (err)
        return err;
    if (!path[1])
        return -EINVAL;
    collect(v, path, n->perms, false);
    err = take_leave(v, n, above, true);
    const struct xsd_node *parent;
    if (!err && xsd_path_parent(above))
        err = look(v, above, &parent); /* it changes, so it is noted before */
    if (err)
        return err;
    struct xsd_node **slot = xsd_node_own_path(v->root, above);
    if (!slot)
        return -ENOMEM;
    uint32_t index;
    const char *name = strrchr(path, '/') + 1;
    if (!xsd_node_child(*slot, name, strlen(name), &index))
        return -ENOENT;
    xsd_node_erase(*slot, index);
    (*slot)->generation = ++v->xsd->generation;
    return 0;
}

static int change_perms(struct xsd_view *v, const struct xsd_domain *who, const char *path, struct xsd_perms *perms)
{
    const struct xsd_node *n;
    int err = xsd_get(v, who, path, XSD_WRITE, &n);
    if (err)
        return err;
    if (!owns(who, n->perms))
        return -EACCES;
    if (who->quota.perms && perms->count > who->quota.perms)
        return -ENOSPC;
    uint32_t old_owner = n->perms->list[0].domid, owner = perms->list[0].domid;
    if (!who->privileged && owner != old_owner)
        return -EPERM;
    if (!delta(v, old_owner) || !delta(v, owner))
        return -ENOMEM;
    struct xsd_node **slot = xsd_node_own_path(v->root, path);
    if (!slot)
        return -ENOMEM;
    delta(v, old_owner)->nodes--;
    delta(v, owner)->nodes++;
    collect(v, path, (*slot)->perms, false);
    xsd_perms_put((*slot)->perms);
    (*slot)->perms = xsd_perms_get(perms);
    (*slot)->generation = ++v->xsd->generation;
    return 0;
}

/* In a transaction a request is logged first and taken back from the log if it fails, so that the log holds exactly what
 * succeeded. */
static int finish(struct xsd_view *v, int err)
{
    if (err && v->tx)
        xsd_tx_unlog(v->tx);
    return err;
}

int xsd_write(struct xsd_view *v, const struct xsd_domain *who, const char *path, const void *value, size_t bytes)
{
    if (who->quota.value_bytes && bytes > who->quota.value_bytes)
        return -ENOSPC;
    int err = v->tx ? xsd_tx_log(v->tx, value ? XSD_LOG_WRITE : XSD_LOG_MKDIR, path, value, bytes, NULL) : 0;
    return err ? err : finish(v, write_node(v, who, path, value, bytes));
}

int xsd_remove(struct xsd_view *v, const struct xsd_domain *who, const char *path)
{
    int err = v->tx ? xsd_tx_log(v->tx, XSD_LOG_REMOVE, path, NULL, 0, NULL) : 0;
    return err ? err : finish(v, remove_tree(v, who, path));
}

int xsd_set_perms(struct xsd_view *v, const struct xsd_domain *who, const char *path, struct xsd_perms *perms)
{
    int err = v->tx ? xsd_tx_log(v->tx, XSD_LOG_PERMS, path, NULL, 0, perms) : 0;
    return err ? err : finish(v, change_perms(v, who, path, perms));
}
