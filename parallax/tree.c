/* tree.c - see tree.h. */
#include "parallax/tree.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void tree_init(struct tree *t)
{
    *t = (struct tree){ .next_version = 1, .next_image = 1, .next_line = 1 };
    list_init(&t->all_images);
    list_init(&t->dirty_images);
    list_init(&t->dirty_versions);
    list_init(&t->orphans);
    list_init(&t->gone);
}

void version_describe(const struct version *v, char *out, size_t size)
{
    if (v->image && v->image->name && v->name)
        snprintf(out, size, "%s@%s", v->image->name, v->name);
    else if (v->image && v->image->name)
        snprintf(out, size, "%s", v->image->name);
    else
        snprintf(out, size, "(hidden version %llu)", (unsigned long long)v->id);
}

struct vdisk *tree_image(const struct tree *t, uint64_t id)
{
    for (struct hash_node *n = hash_first(&t->images, hash_u64(id)); n; n = hash_next(n)) {
        struct vdisk *d = container_of(n, struct vdisk, node);
        if (d->id == id)
            return d;
    }
    return NULL;
}

struct vdisk *tree_image_named(const struct tree *t, const char *name)
{
    for (struct hash_node *n = hash_first(&t->names, hash_bytes(name, strlen(name))); n; n = hash_next(n)) {
        struct vdisk *d = container_of(n, struct vdisk, name_node);
        if (!strcmp(d->name, name))
            return d;
    }
    return NULL;
}

struct version *tree_version(const struct tree *t, uint64_t id)
{
    for (struct hash_node *n = hash_first(&t->versions, hash_u64(id)); n; n = hash_next(n)) {
        struct version *v = container_of(n, struct version, node);
        if (v->id == id)
            return v;
    }
    return NULL;
}

struct version *tree_snapshot(const struct vdisk *d, const char *name)
{
    list_for_each(n, &d->snapshots) {
        struct version *v = container_of(n, struct version, snapshot_link);
        if (v->name && !strcmp(v->name, name))
            return v;
    }
    return NULL;
}

struct line *tree_line(const struct tree *t, uint32_t id)
{
    for (struct hash_node *n = hash_first(&t->lines, hash_u64(id)); n; n = hash_next(n)) {
        struct line *l = container_of(n, struct line, node);
        if (l->id == id)
            return l;
    }
    return NULL;
}

/* Edit distance of short strings; 99 if their lengths alone make it more than 2. */
static unsigned distance(const char *a, const char *b)
{
    size_t n = strlen(a), m = strlen(b);
    if (n > IMAGE_NAME_MAX || m > IMAGE_NAME_MAX || (n > m ? n - m : m - n) > 2)
        return 99;
    unsigned row[IMAGE_NAME_MAX + 1];
    for (size_t j = 0; j <= m; j++)
        row[j] = (unsigned)j;
    for (size_t i = 1; i <= n; i++) {
        unsigned diagonal = row[0];
        row[0] = (unsigned)i;
        for (size_t j = 1; j <= m; j++) {
            unsigned best = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            if (row[j] + 1 < best)
                best = row[j] + 1;
            if (row[j - 1] + 1 < best)
                best = row[j - 1] + 1;
            row[j] = best;
        }
    }
    return row[m];
}

const char *tree_similar_name(const struct tree *t, const char *name)
{
    const char *best = NULL;
    unsigned least = 3;
    list_for_each(n, &t->all_images) {
        const char *other = container_of(n, struct vdisk, all_link)->name;
        unsigned d = other ? distance(name, other) : 99;
        if (d < least && 2 * d <= strlen(name)) {
            least = d;
            best = other;
        }
    }
    return best;
}

struct line *tree_add_line(struct tree *t, uint32_t id)
{
    struct line *l = calloc(1, sizeof *l);
    if (!l || hash_reserve(&t->lines)) {
        free(l);
        return NULL;
    }
    l->id = id;
    list_init(&l->unmerged);
    hash_insert(&t->lines, &l->node, hash_u64(id));
    if (t->next_line <= id)
        t->next_line = id + 1;
    return l;
}

void tree_set_parent(struct version *v, struct version *parent)
{
    if (v->parent) {
        list_remove(&v->sibling);
        v->parent->child_count--;
    }
    v->parent = parent;
    if (parent) {
        list_add_tail(&parent->children, &v->sibling);
        parent->child_count++;
    }
}

void tree_set_owner(struct tree *t, struct version *v, struct vdisk *d)
{
    v->image = d;
    list_remove(&v->orphan_link);
    if (!d)
        list_add_tail(&t->orphans, &v->orphan_link);
}

struct version *tree_add_version(struct tree *t, uint64_t id, struct version *parent, struct line *line)
{
    struct version *v = calloc(1, sizeof *v);
    if (!v || hash_reserve(&t->versions)) {
        free(v);
        return NULL;
    }
    v->id = id;
    v->cut = TICKET_MAX;
    v->line = line;
    line->versions++;
    list_init(&v->children);
    list_init(&v->sibling);
    list_init(&v->line_link);
    list_init(&v->snapshot_link);
    list_init(&v->dirty_link);
    list_init(&v->orphan_link);
    hash_insert(&t->versions, &v->node, hash_u64(id));
    if (t->next_version <= id)
        t->next_version = id + 1;
    tree_set_parent(v, parent);
    tree_dirty_version(t, v);
    return v;
}

struct vdisk *tree_add_image(struct tree *t, uint64_t id)
{
    struct vdisk *d = calloc(1, sizeof *d);
    if (!d || hash_reserve(&t->images)) {
        free(d);
        return NULL;
    }
    d->id = id;
    list_init(&d->snapshots);
    list_init(&d->handles);
    list_init(&d->dirty_link);
    list_add_tail(&t->all_images, &d->all_link);
    hash_insert(&t->images, &d->node, hash_u64(id));
    if (t->next_image <= id)
        t->next_image = id + 1;
    tree_dirty_image(t, d);
    return d;
}

int tree_set_image_name(struct tree *t, struct vdisk *d, const char *name)
{
    char *copy = strdup(name);
    if (!copy || hash_reserve(&t->names)) {
        free(copy);
        return -ENOMEM;
    }
    if (d->name) {
        hash_remove(&t->names, &d->name_node);
        free(d->name);
    } else {
        t->image_count++;
    }
    d->name = copy;
    hash_insert(&t->names, &d->name_node, hash_bytes(name, strlen(name)));
    tree_dirty_image(t, d);
    return 0;
}

void tree_dirty_image(struct tree *t, struct vdisk *d)
{
    if (!d->dirty) {
        d->dirty = true;
        list_add_tail(&t->dirty_images, &d->dirty_link);
    }
}

void tree_dirty_version(struct tree *t, struct version *v)
{
    if (!v->dirty) {
        v->dirty = true;
        t->dirty_version_count++;
        list_add_tail(&t->dirty_versions, &v->dirty_link);
    }
}

void tree_changing(struct tree *t, struct version *v)
{
    uint64_t nodes = radix_nodes_at_most(version_blocks(v)), inner = radix_inner_at_most(version_blocks(v));
    tree_dirty_version(t, v);
    if (nodes > v->changing_nodes) {
        t->changing_nodes += nodes - v->changing_nodes;
        t->changing_inner += inner - v->changing_inner;
        v->changing_nodes = nodes;
        v->changing_inner = inner;
    }
}

static int add_gone(struct tree *t, char kind, uint64_t id)
{
    struct gone_key *g = malloc(sizeof *g);
    if (!g)
        return -ENOMEM;
    key_encode(g->key, kind, id);
    list_add_tail(&t->gone, &g->link);
    return 0;
}

static void free_image(struct vdisk *d)
{
    list_remove(&d->all_link);
    list_remove(&d->dirty_link);
    free(d->name);
    free(d);
}

int tree_remove_image(struct tree *t, struct vdisk *d)
{
    if (d->in_catalog && add_gone(t, KEY_IMAGE, d->id))
        return -ENOMEM;
    if (d->name) {
        hash_remove(&t->names, &d->name_node);
        t->image_count--;
    }
    if (d->flags & IMAGE_FLAG_TEMPLATE)
        t->template_count--;
    hash_remove(&t->images, &d->node);
    free_image(d);
    return 0;
}

static void free_version(struct version *v)
{
    list_remove(&v->dirty_link);
    list_remove(&v->line_link);
    list_remove(&v->snapshot_link);
    list_remove(&v->orphan_link);
    dead_runs_fini(&v->runs);
    free(v->name);
    free(v);
}

void tree_remove_version(struct tree *t, struct version *v)
{
    tree_set_parent(v, NULL);
    hash_remove(&t->versions, &v->node);
    t->dirty_version_count -= v->dirty;
    t->changing_nodes -= v->changing_nodes;
    t->changing_inner -= v->changing_inner;
    struct line *l = v->line;
    free_version(v);
    if (--l->versions == 0) {
        hash_remove(&t->lines, &l->node);
        free(l->ranges);
        free(l);
    }
}

int tree_attach_snapshot(struct tree *t, struct version *v, struct vdisk *d, const char *name)
{
    char *copy = strdup(name);
    if (!copy)
        return -ENOMEM;
    free(v->name);
    v->name = copy;
    v->flags |= VERSION_FLAG_SNAPSHOT;
    tree_set_owner(t, v, d);
    list_add_tail(&d->snapshots, &v->snapshot_link);
    d->snapshot_count++;
    t->snapshot_count++;
    tree_dirty_version(t, v);
    return 0;
}

void tree_detach_snapshot(struct tree *t, struct version *v)
{
    list_remove(&v->snapshot_link);
    v->image->snapshot_count--;
    t->snapshot_count--;
    free(v->name);
    v->name = NULL;
    tree_set_owner(t, v, NULL);
    v->flags &= ~(unsigned)(VERSION_FLAG_SNAPSHOT | VERSION_FLAG_PROTECTED | VERSION_FLAG_TEMPORARY);
    tree_dirty_version(t, v);
}

void tree_fini(struct tree *t)
{
    struct list_node *n;
    while ((n = list_pop(&t->gone)))
        free(container_of(n, struct gone_key, link));
    list_for_each_safe(i, &t->all_images)
        free_image(container_of(i, struct vdisk, all_link));
    for (uint64_t b = 0; t->versions.buckets && b <= t->versions.mask; b++)
        for (struct hash_node *h = t->versions.buckets[b], *next; h; h = next) {
            next = h->next;
            struct version *v = container_of(h, struct version, node);
            list_init(&v->line_link);
            list_init(&v->snapshot_link);
            list_init(&v->dirty_link);
            list_init(&v->orphan_link);
            free_version(v);
        }
    for (uint64_t b = 0; t->lines.buckets && b <= t->lines.mask; b++)
        for (struct hash_node *h = t->lines.buckets[b], *next; h; h = next) {
            next = h->next;
            struct line *l = container_of(h, struct line, node);
            free(l->ranges);
            free(l);
        }
    hash_fini(&t->images);
    hash_fini(&t->names);
    hash_fini(&t->versions);
    hash_fini(&t->lines);
}
