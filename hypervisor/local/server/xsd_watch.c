/* xsd_watch.c - watches, found by path: a change looks up its own path and each one above it, so its cost does not grow with
 * the number of watches.
 *
 * 1. An event is sent to a watcher that may read the node, or could before the change, or may read the parent.
 * 2. While an event for the same path waits unsent at a watch, the next one is merged into it: the watcher will look after
 *    both. What a watcher that does not read can pile up is bounded by its queue.
 * 3. Special paths are told only to domains that may know of others coming and going. */
#include "hypervisor/local/server/xsd_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static struct list_node *bucket(struct xsd *x, const char *path, size_t bytes)
{
    uint32_t h = 2166136261u;
    for (size_t i = 0; i < bytes; i++)
        h = (h ^ (unsigned char)path[i]) * 16777619u;
    return &x->watches[h % XSD_WATCH_BUCKETS];
}

static struct xsd_watch *find(struct xsd_conn *c, const char *path, const char *token)
{
    list_for_each(n, bucket(c->xsd, path, strlen(path))) {
        struct xsd_watch *w = container_of(n, struct xsd_watch, by_path);
        if (w->conn == c && !strcmp(w->path, path) && !strcmp(w->token, token))
            return w;
    }
    return NULL;
}

static void send_event(struct xsd_watch *w, const char *path)
{
    const char *said = path;
    if (w->relative_bytes && strlen(path) >= w->relative_bytes)
        said += w->relative_bytes;
    size_t said_bytes = strlen(said) + 1;
    if (w->pending && !strcmp(w->pending->data + sizeof(struct xsd_sockmsg), said))
        return;
    struct xsd_msg *m = xsd_conn_send(w->conn, XS_WATCH_EVENT, 0, 0, said, said_bytes, w->token, strlen(w->token) + 1);
    if (w->pending)
        w->pending->watch = NULL;
    w->pending = m;
    if (m)
        m->watch = w;
}

/* The caller has answered the request already: the first event comes after the answer. */
int xsd_watch_add(struct xsd_conn *c, const char *path, size_t relative_bytes, const char *token)
{
    if (find(c, path, token))
        return -EEXIST;
    if (c->who->quota.watches && c->who->watches >= c->who->quota.watches)
        return -E2BIG;
    size_t path_bytes = strlen(path) + 1, token_bytes = strlen(token) + 1;
    struct xsd_watch *w = malloc(sizeof *w + path_bytes + token_bytes);
    if (!w)
        return -ENOMEM;
    w->conn = c;
    w->pending = NULL;
    w->relative_bytes = relative_bytes;
    w->token = w->path + path_bytes;
    memcpy(w->path, path, path_bytes);
    memcpy(w->token, token, token_bytes);
    list_add_tail(bucket(c->xsd, path, path_bytes - 1), &w->by_path);
    list_add_tail(&c->watches, &w->of_conn);
    c->who->watches++;
    return 0;
}

static void drop(struct xsd_watch *w)
{
    w->conn->who->watches--;
    list_remove(&w->by_path);
    list_remove(&w->of_conn);
    if (w->pending)
        w->pending->watch = NULL;
    free(w);
}

int xsd_watch_remove(struct xsd_conn *c, const char *path, const char *token)
{
    struct xsd_watch *w = find(c, path, token);
    if (!w)
        return -ENOENT;
    drop(w);
    return 0;
}

void xsd_watch_remove_all(struct xsd_conn *c)
{
    list_for_each_safe(n, &c->watches)
        drop(container_of(n, struct xsd_watch, of_conn));
}

bool xsd_watch_exists(struct xsd *x, const char *path)
{
    list_for_each(n, bucket(x, path, strlen(path)))
        if (!strcmp(container_of(n, struct xsd_watch, by_path)->path, path))
            return true;
    return false;
}

void xsd_watch_fire_first(struct xsd_conn *c, const char *path, const char *token)
{
    struct xsd_watch *w = find(c, path, token);
    if (w)
        send_event(w, path);
}

/* What decides who may hear of a change: the node's permissions now and before, and the parent's. */
struct audience {
    const struct xsd_perms *now, *before, *parent;
    bool special;
};

static bool may_hear(const struct audience *a, const struct xsd_domain *who)
{
    if (a->special)
        return who->sees_special;
    return (a->now && xsd_allowed(who, a->now, XSD_READ)) || (a->before && xsd_allowed(who, a->before, XSD_READ)) ||
           (a->now && a->parent && xsd_allowed(who, a->parent, XSD_READ));
}

/* Watches on the first `bytes` bytes of the changed path. */
static void fire_at(struct xsd *x, const char *path, size_t bytes, const struct audience *audience)
{
    list_for_each(n, bucket(x, path, bytes)) {
        struct xsd_watch *w = container_of(n, struct xsd_watch, by_path);
        if (!strncmp(w->path, path, bytes) && !w->path[bytes] && may_hear(audience, w->conn->who))
            send_event(w, path);
    }
}

void xsd_watch_fire(struct xsd *x, const struct xsd_change *change)
{
    const char *path = change->path;
    struct audience audience = { .before = change->old_perms, .special = path[0] == '@' };
    size_t bytes = strlen(path);
    if (!audience.special) {
        const struct xsd_node *n = xsd_node_lookup(x->root, path);
        char above[XENSTORE_ABS_PATH_MAX + 1];
        strcpy(above, path);
        audience.now = n ? n->perms : NULL;
        if (xsd_path_parent(above) && (n = xsd_node_lookup(x->root, above)))
            audience.parent = n->perms;
    }
    if (change->exact || audience.special) {
        fire_at(x, path, bytes, &audience);
        return;
    }
    for (size_t i = bytes; i > 0; i--)
        if (i == bytes || path[i] == '/')
            fire_at(x, path, i, &audience);
    if (bytes > 1)
        fire_at(x, path, 1, &audience); /* "/" */
}
