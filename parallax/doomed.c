/* doomed.c - see doomed.h. */
#include "parallax/doomed.h"

#include <stdlib.h>

/* By generation, so that a parent stands before its children. */
static int by_generation(const void *a, const void *b)
{
    const struct version *x = ((const struct doomed *)a)->v, *y = ((const struct doomed *)b)->v;
    if (x->generation != y->generation)
        return x->generation < y->generation ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

struct doomed *doomed_find(struct doomed *set, unsigned n, struct version *v)
{
    struct doomed key = { .v = v };
    return v ? bsearch(&key, set, n, sizeof *set, by_generation) : NULL;
}

static bool is_invisible(const struct version *v) { return !v->image && !(v->flags & VERSION_FLAG_TEMPORARY); }

/* Whoever goes whole leaves its parent with one child less. */
static void count_children_left(struct doomed *set, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        struct doomed *d = &set[i], *parent;
        if (d->v->child_count)
            continue;
        while ((parent = doomed_find(set, n, d->v->parent)) && --parent->left == 0)
            d = parent;
    }
}

struct doomed *doomed_collect(struct version *const *members, unsigned count, unsigned *n)
{
    unsigned all = 0, kept = 0;
    for (unsigned i = 0; i < count; i++)
        for (const struct version *v = members[i]; v && (v == members[i] || is_invisible(v)); v = v->parent)
            all++;
    struct doomed *set = calloc(all + 1, sizeof *set);
    if (!set)
        return NULL;
    all = 0;
    for (unsigned i = 0; i < count; i++)
        for (struct version *v = members[i]; v && (v == members[i] || is_invisible(v)); v = v->parent)
            set[all++] = (struct doomed){ .v = v, .left = v->child_count };
    qsort(set, all, sizeof *set, by_generation);
    for (unsigned i = 0; i < all; i++)
        if (!kept || set[kept - 1].v != set[i].v)
            set[kept++] = set[i];
    count_children_left(set, kept);
    *n = kept;
    return set;
}

const struct version *doomed_child_left(struct doomed *set, unsigned n, const struct version *v)
{
    list_for_each(i, &v->children) {
        struct version *child = container_of(i, struct version, sibling);
        const struct doomed *d = doomed_find(set, n, child);
        if (!d || d->left)
            return child;
    }
    return NULL;
}
