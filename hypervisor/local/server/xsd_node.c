/* xsd_node.c - the tree, persistent: a transaction keeps the root it began with, at the cost of one reference.
 *
 * 1. A node with more than one reference is never changed; xsd_node_own copies it first (its children are then shared).
 * 2. Whoever changes a node owns the whole path from its root down to it.
 * 3. Depth is bounded by the length of a path (XENSTORE_ABS_PATH_MAX / 2), so recursion is. */
#include "hypervisor/local/server/xsd_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct xsd_perms *xsd_perms_create(const struct xsd_perm *list, unsigned count)
{
    struct xsd_perms *p = malloc(sizeof *p + count * sizeof *list);
    if (!p)
        return NULL;
    p->refs = 1;
    p->count = count;
    memcpy(p->list, list, count * sizeof *list);
    return p;
}

struct xsd_perms *xsd_perms_get(struct xsd_perms *p)
{
    p->refs++;
    return p;
}

void xsd_perms_put(struct xsd_perms *p)
{
    if (p && --p->refs == 0)
        free(p);
}

struct xsd_node *xsd_node_create(const char *name, size_t name_bytes, struct xsd_perms *perms, uint64_t generation)
{
    struct xsd_node *n = calloc(1, sizeof *n + name_bytes);
    if (!n)
        return NULL;
    n->refs = 1;
    n->name_bytes = (uint16_t)name_bytes;
    n->generation = generation;
    n->perms = xsd_perms_get(perms);
    memcpy(n->data, name, name_bytes);
    return n;
}

struct xsd_node *xsd_node_get(struct xsd_node *n)
{
    n->refs++;
    return n;
}

void xsd_node_put(struct xsd_node *n)
{
    if (!n || --n->refs)
        return;
    for (uint32_t i = 0; i < n->count; i++)
        xsd_node_put(n->children[i]);
    free(n->children);
    xsd_perms_put(n->perms);
    free(n);
}

struct xsd_node *xsd_node_own(struct xsd_node **slot)
{
    struct xsd_node *old = *slot;
    if (old->refs == 1)
        return old;
    size_t bytes = sizeof *old + old->name_bytes + old->value_bytes;
    struct xsd_node *n = malloc(bytes);
    struct xsd_node **children = old->count ? malloc(old->count * sizeof *children) : NULL;
    if (!n || (old->count && !children)) {
        free(n);
        free(children);
        return NULL;
    }
    memcpy(n, old, bytes);
    n->refs = 1;
    n->children = children;
    n->room = n->count;
    xsd_perms_get(n->perms);
    for (uint32_t i = 0; i < n->count; i++)
        children[i] = xsd_node_get(old->children[i]);
    old->refs--;
    *slot = n;
    return n;
}

int xsd_node_set_value(struct xsd_node **slot, const void *value, size_t bytes)
{
    struct xsd_node *n = realloc(*slot, sizeof *n + (*slot)->name_bytes + bytes);
    if (!n)
        return -ENOMEM;
    memcpy(n->data + n->name_bytes, value, bytes);
    n->value_bytes = (uint16_t)bytes;
    *slot = n;
    return 0;
}

static int compare(const struct xsd_node *n, const char *name, size_t bytes)
{
    size_t common = n->name_bytes < bytes ? n->name_bytes : bytes;
    int c = memcmp(n->data, name, common);
    return c ? c : n->name_bytes < bytes ? -1 : n->name_bytes > bytes;
}

struct xsd_node **xsd_node_child(const struct xsd_node *n, const char *name, size_t name_bytes, uint32_t *index)
{
    uint32_t low = 0, high = n->count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        int c = compare(n->children[middle], name, name_bytes);
        if (c == 0) {
            if (index)
                *index = middle;
            return &n->children[middle];
        }
        if (c < 0)
            low = middle + 1;
        else
            high = middle;
    }
    if (index)
        *index = low;
    return NULL;
}

int xsd_node_insert(struct xsd_node *n, uint32_t index, struct xsd_node *child)
{
    if (n->count == n->room) {
        uint32_t room = n->room < 4 ? n->room + 2 : n->room + n->room / 2;
        struct xsd_node **children = realloc(n->children, room * sizeof *children);
        if (!children)
            return -ENOMEM;
        n->children = children;
        n->room = room;
    }
    memmove(n->children + index + 1, n->children + index, (n->count - index) * sizeof *n->children);
    n->children[index] = child;
    n->count++;
    return 0;
}

void xsd_node_erase(struct xsd_node *n, uint32_t index)
{
    struct xsd_node *child = n->children[index];
    n->count--;
    memmove(n->children + index, n->children + index + 1, (n->count - index) * sizeof *n->children);
    xsd_node_put(child);
}

/* The length of the component that path begins with, after any slash; path moves to its start. */
static size_t next_component(const char **path)
{
    if (**path == '/')
        ++*path;
    return strcspn(*path, "/");
}

const struct xsd_node *xsd_node_lookup(const struct xsd_node *root, const char *path)
{
    const struct xsd_node *n = root;
    size_t bytes;
    for (; n && (bytes = next_component(&path)); path += bytes) {
        struct xsd_node **child = xsd_node_child(n, path, bytes, NULL);
        n = child ? *child : NULL;
    }
    return n;
}

struct xsd_node **xsd_node_own_path(struct xsd_node **root, const char *path)
{
    struct xsd_node **slot = root;
    size_t bytes;
    for (;; path += bytes) {
        struct xsd_node *n = xsd_node_own(slot);
        if (!n)
            return NULL;
        bytes = next_component(&path);
        if (!bytes)
            return slot;
        slot = xsd_node_child(n, path, bytes, NULL);
        if (!slot)
            return NULL;
    }
}
