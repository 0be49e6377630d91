/* node.c - the numbers that the kernel knows things by, and the names behind them.
 *
 * A node stands for a thing, not for a name: a rename in this door takes the node along, and a name that is used again for
 * something new (another time of creation) gets a new node, so that pages the kernel cached of the old one are not shown. */
#include "doors/fuse/fuse_private.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t name_hash(const struct node_name *n)
{
    return hash_bytes(n->image, strlen(n->image)) ^ hash_u64(hash_bytes(n->snapshot, strlen(n->snapshot)) + (uint64_t)n->kind);
}

struct node *node_of(struct fuse_mount *m, fuse_ino_t ino)
{
    return ino == FUSE_ROOT_ID ? &m->fixed[NODE_ROOT] : (struct node *)(uintptr_t)ino;
}

fuse_ino_t node_ino(const struct fuse_mount *m, const struct node *n)
{
    return n == &m->fixed[NODE_ROOT] ? FUSE_ROOT_ID : (fuse_ino_t)(uintptr_t)n;
}

void nodes_init(struct fuse_mount *m)
{
    for (int i = 0; i < NODE_FIXED; i++)
        m->fixed[i] = (struct node){ .kind = (enum node_kind)i, .number = (uint64_t)i + FUSE_ROOT_ID };
    list_init(&m->nodes);
    m->next_number = NODE_FIXED + FUSE_ROOT_ID;
}

void nodes_fini(struct fuse_mount *m)
{
    list_for_each_safe (n, &m->nodes)
        free(container_of(n, struct node, link));
    hash_fini(&m->names);
}

/* ---- Names ---- */

void node_get_name(struct fuse_mount *m, const struct node *n, struct node_name *out)
{
    pthread_mutex_lock(&m->lock);
    out->kind = n->kind;
    memcpy(out->image, n->image, sizeof out->image);
    memcpy(out->snapshot, n->snapshot, sizeof out->snapshot);
    pthread_mutex_unlock(&m->lock);
}

void name_target(const struct node_name *name, char out[TARGET_SIZE])
{
    snprintf(out, TARGET_SIZE, "%s%s%s", name->image, *name->snapshot ? "@" : "", name->snapshot);
}

bool name_child(const struct node_name *directory, const char *file, struct node_name *out)
{
    static const char *const fixed[NODE_FIXED] = { [NODE_IMAGES] = "images", [NODE_SNAPSHOTS] = "snapshots", [NODE_TEMPLATES] = "templates" };
    static const enum node_kind kinds[] = { [NODE_IMAGES] = NODE_IMAGE, [NODE_SNAPSHOTS] = NODE_OF_IMAGE, [NODE_TEMPLATES] = NODE_TEMPLATE,
                                            [NODE_OF_IMAGE] = NODE_SNAPSHOT };
    *out = *directory;
    if (strlen(file) >= LISTING_NAME_SIZE || !kind_is_directory(directory->kind))
        return false;
    if (directory->kind != NODE_ROOT) {
        out->kind = kinds[directory->kind];
        snprintf(directory->kind == NODE_OF_IMAGE ? out->snapshot : out->image, LISTING_NAME_SIZE, "%s", file);
        return true;
    }
    for (int i = NODE_IMAGES; i < NODE_FIXED; i++)
        if (!strcmp(file, fixed[i])) {
            out->kind = (enum node_kind)i;
            return true;
        }
    return false;
}

static time_t later(time_t a, time_t b) { return a > b ? a : b; }

int name_look(const struct listing *l, const struct node_name *name, struct node_facts *out)
{
    *out = (struct node_facts){ .name = *name };
    if (name->kind < NODE_FIXED)
        return 0;
    const struct listing_image *i = listing_find(l, name->image);
    if (!i || (name->kind == NODE_IMAGE && i->is_template) || (name->kind == NODE_TEMPLATE && !i->is_template) ||
        (name->kind == NODE_OF_IMAGE && !i->snapshots))
        return -ENOENT;
    if (name->kind == NODE_SNAPSHOT) {
        const struct listing_snapshot *s = listing_find_snapshot(l, i, name->snapshot);
        if (!s)
            return -ENOENT;
        out->size_bytes = s->size_bytes;
        out->created = out->modified = s->created;
        return 0;
    }
    out->modified = later(i->created, i->last_write);
    if (name->kind == NODE_OF_IMAGE)
        return 0;
    out->size_bytes = i->size_bytes;
    out->created = i->created;
    out->last_write = i->last_write;
    return 0;
}

/* ---- Nodes ---- */

struct node *node_find(const struct fuse_mount *m, const struct node_name *name)
{
    for (struct hash_node *h = hash_first(&m->names, name_hash(name)); h; h = hash_next(h)) {
        struct node *n = container_of(h, struct node, by_name);
        if (n->kind == name->kind && !strcmp(n->image, name->image) && !strcmp(n->snapshot, name->snapshot))
            return n;
    }
    return NULL;
}

static void unname(struct fuse_mount *m, struct node *n)
{
    if (n->named)
        hash_remove(&m->names, &n->by_name);
    n->named = false;
}

static void give_name(struct fuse_mount *m, struct node *n, const struct node_name *name)
{
    memcpy(n->image, name->image, sizeof n->image);
    memcpy(n->snapshot, name->snapshot, sizeof n->snapshot);
    hash_insert(&m->names, &n->by_name, name_hash(name));
    n->named = true;
}

static struct node *create(struct fuse_mount *m, const struct node_facts *facts)
{
    struct node *n = hash_reserve(&m->names) ? NULL : calloc(1, sizeof *n);
    if (!n)
        return NULL;
    n->kind = facts->name.kind;
    n->created = facts->created;
    n->number = m->next_number++;
    list_add_tail(&m->nodes, &n->link);
    give_name(m, n, &facts->name);
    return n;
}

struct node *node_take(struct fuse_mount *m, const struct node_facts *facts)
{
    if (facts->name.kind < NODE_FIXED)
        return &m->fixed[facts->name.kind];
    pthread_mutex_lock(&m->lock);
    struct node *n = node_find(m, &facts->name);
    if (n && n->created != facts->created) {
        unname(m, n);
        n = NULL;
    }
    if (!n)
        n = create(m, facts);
    if (n)
        n->lookups++;
    pthread_mutex_unlock(&m->lock);
    return n;
}

/* Under the lock. */
static void let_go(struct fuse_mount *m, struct node *n)
{
    if (n->kind < NODE_FIXED || n->lookups || n->handles)
        return;
    unname(m, n);
    list_remove(&n->link);
    free(n);
}

void node_forget(struct fuse_mount *m, struct node *n, uint64_t lookups)
{
    pthread_mutex_lock(&m->lock);
    if (n->kind >= NODE_FIXED)
        n->lookups -= lookups < n->lookups ? lookups : n->lookups;
    let_go(m, n);
    pthread_mutex_unlock(&m->lock);
}

void node_hold(struct fuse_mount *m, struct node *n)
{
    pthread_mutex_lock(&m->lock);
    n->handles++;
    pthread_mutex_unlock(&m->lock);
}

void node_leave(struct fuse_mount *m, struct node *n)
{
    pthread_mutex_lock(&m->lock);
    n->handles--;
    let_go(m, n);
    pthread_mutex_unlock(&m->lock);
}

/* The nodes of an image and of its snapshots, or of one snapshot. */
void node_rename(struct fuse_mount *m, const struct node_name *from, const struct node_name *to)
{
    pthread_mutex_lock(&m->lock);
    list_for_each (at, &m->nodes) {
        struct node *n = container_of(at, struct node, link);
        if (!n->named || strcmp(n->image, from->image) || (*from->snapshot && strcmp(n->snapshot, from->snapshot)))
            continue;
        struct node_name name = { .kind = n->kind };
        memcpy(name.image, to->image, sizeof name.image);
        memcpy(name.snapshot, *from->snapshot ? to->snapshot : n->snapshot, sizeof name.snapshot);
        unname(m, n);
        struct node *other = node_find(m, &name); /* the name was used before, by something that is gone */
        if (other)
            unname(m, other);
        give_name(m, n, &name);
    }
    pthread_mutex_unlock(&m->lock);
}

void node_gone(struct fuse_mount *m, const struct node_name *name)
{
    pthread_mutex_lock(&m->lock);
    struct node *n = node_find(m, name);
    if (n)
        unname(m, n);
    pthread_mutex_unlock(&m->lock);
}
