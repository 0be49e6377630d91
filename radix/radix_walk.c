/* radix_walk.c - visiting what a root reaches, in order.
 *
 * Depth first; the children of a node are read in batches, so that a walk keeps the device busy. Each level has one batch of
 * buffers, used by the one node of that level's parents that is being visited: the depth is bounded by RADIX_MAX_HEIGHT, and so is
 * the memory. */
#include "radix/radix_private.h"

#include <errno.h>
#include <stdlib.h>

#define WALK_BATCH 64u

struct batch {
    struct radix_disk_node *nodes; /* WALK_BATCH of them */
    struct radix_entry entry[WALK_BATCH];
    uint64_t first[WALK_BATCH];
    unsigned count;
};

struct walk {
    struct radix_io *io;
    const struct radix_visit *v;
    struct batch batch[RADIX_MAX_HEIGHT + 1]; /* by the level of the nodes in it */
};

static bool wanted(const struct walk *w, unsigned level, uint64_t first, const struct radix_entry *e)
{
    return e->kind != RADIX_NONE && e->birth >= w->v->min_birth && first + radix_span(level) > w->v->from;
}

static bool entered(const struct walk *w, unsigned level, uint64_t first, const struct radix_entry *e)
{
    return wanted(w, level, first, e) && (!w->v->enter || w->v->enter(w->v->ctx, e));
}

static int visit_leaf(struct walk *w, uint64_t first, const struct radix_disk_node *n)
{
    for (unsigned i = 0; w->v->data && i < RADIX_FANOUT; i++) {
        struct radix_entry e;
        radix_entry_unpack(&n->entry[i], &e);
        if (!wanted(w, 0, first + i, &e))
            continue;
        int err = w->v->data(w->v->ctx, first + i, &e);
        if (err)
            return err;
    }
    return 0;
}

static int visit_batch(struct walk *w, unsigned level);

static int visit_inner(struct walk *w, unsigned level, uint64_t first, const struct radix_disk_node *n)
{
    struct batch *b = &w->batch[level - 1];
    b->count = 0;
    for (unsigned i = 0; i < RADIX_FANOUT; i++) {
        uint64_t child = first + i * radix_span(level - 1);
        radix_entry_unpack(&n->entry[i], &b->entry[b->count]);
        if (entered(w, level - 1, child, &b->entry[b->count]))
            b->first[b->count++] = child;
        if (b->count == WALK_BATCH || (i == RADIX_FANOUT - 1 && b->count)) {
            int err = visit_batch(w, level - 1);
            if (err)
                return err;
            b->count = 0;
        }
    }
    return 0;
}

/* Reads the nodes gathered for that level and visits each with all that is below it. */
static int visit_batch(struct walk *w, unsigned level)
{
    struct batch *b = &w->batch[level];
    struct radix_disk_node *nodes[WALK_BATCH];
    int errors[WALK_BATCH];
    for (unsigned i = 0; i < b->count; i++)
        nodes[i] = &b->nodes[i];
    radix_read_nodes(w->io, level, b->entry, nodes, b->count, errors);
    for (unsigned i = 0; i < b->count; i++) {
        int err = errors[i];
        if (err) {
            err = w->v->damaged ? w->v->damaged(w->v->ctx, level, b->first[i], &b->entry[i], err) : err;
            if (err)
                return err;
            continue;
        }
        err = level == 1 ? visit_leaf(w, b->first[i], nodes[i]) : visit_inner(w, level, b->first[i], nodes[i]);
        if (!err && w->v->node)
            err = w->v->node(w->v->ctx, level, b->first[i], &b->entry[i]);
        if (err)
            return err;
    }
    return 0;
}

int radix_walk_subtree(struct radix_io *io, const struct radix_entry *node, unsigned level, uint64_t first_block,
                       const struct radix_visit *v)
{
    if (level < 1 || level > RADIX_MAX_HEIGHT || radix_first(level, first_block) != first_block)
        return -EINVAL;
    struct walk *w = malloc(sizeof *w);
    if (!w)
        return -ENOMEM;
    w->io = io;
    w->v = v;
    if (!entered(w, level, first_block, node)) {
        free(w);
        return 0;
    }
    struct radix_disk_node *nodes = radix_nodes_alloc((level - 1) * WALK_BATCH + 1);
    int err = nodes ? 0 : -ENOMEM;
    if (!err) {
        for (unsigned l = 1; l <= level; l++)
            w->batch[l].nodes = nodes + (l - 1) * WALK_BATCH;
        struct batch *top = &w->batch[level];
        top->entry[0] = *node;
        top->first[0] = first_block;
        top->count = 1;
        err = visit_batch(w, level);
    }
    free(nodes);
    free(w);
    return err;
}

int radix_walk(struct radix_io *io, const struct radix_root *root, const struct radix_visit *v)
{
    if (root->node.kind == RADIX_NONE)
        return 0;
    if (root->height < 1 || root->height > RADIX_MAX_HEIGHT)
        return -EBADMSG;
    return radix_walk_subtree(io, &root->node, root->height, 0, v);
}
