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

/* Tells of what is lost from entry i of a node on; *end: the first entry that says something else. */
static int visit_lost(struct walk *w, unsigned level, uint64_t first, const struct radix_disk_node *n, unsigned i, unsigned *end)
{
    uint64_t span = radix_span(level - 1);
    struct radix_entry e, next;
    radix_entry_unpack(&n->entry[i], &e);
    for (*end = i + 1; *end < RADIX_FANOUT; ++*end) {
        radix_entry_unpack(&n->entry[*end], &next);
        if (!radix_same_entry(&e, &next))
            break;
    }
    return w->v->lost ? w->v->lost(w->v->ctx, first + i * span, (*end - i) * span, &e) : 0;
}

static int visit_leaf(struct walk *w, uint64_t first, const struct radix_disk_node *n)
{
    for (unsigned i = 0, end; i < RADIX_FANOUT; i = end) {
        struct radix_entry e;
        int err = 0;
        end = i + 1;
        radix_entry_unpack(&n->entry[i], &e);
        if (!wanted(w, 0, first + i, &e))
            continue;
        if (e.kind == RADIX_LOST)
            err = visit_lost(w, 1, first, n, i, &end);
        else if (w->v->data)
            err = w->v->data(w->v->ctx, first + i, &e);
        if (err)
            return err;
    }
    return 0;
}

static int visit_batch(struct walk *w, unsigned level);

/* The children gathered for that level, all that is below them, and none is gathered any more. */
static int visit_gathered(struct walk *w, unsigned level)
{
    struct batch *b = &w->batch[level];
    int err = b->count ? visit_batch(w, level) : 0;
    b->count = 0;
    return err;
}

static int visit_inner(struct walk *w, unsigned level, uint64_t first, const struct radix_disk_node *n)
{
    struct batch *b = &w->batch[level - 1];
    int err = 0;
    b->count = 0;
    for (unsigned i = 0, end; i < RADIX_FANOUT && !err; i = end) {
        uint64_t child = first + i * radix_span(level - 1);
        struct radix_entry *e = &b->entry[b->count];
        end = i + 1;
        radix_entry_unpack(&n->entry[i], e);
        if (e->kind == RADIX_LOST && wanted(w, level - 1, child, e)) {
            err = visit_gathered(w, level - 1);
            if (!err)
                err = visit_lost(w, level, first, n, i, &end);
        } else if (e->kind == RADIX_NODE && entered(w, level - 1, child, e)) {
            b->first[b->count++] = child;
        }
        if (b->count == WALK_BATCH)
            err = visit_gathered(w, level - 1);
    }
    return err ? err : visit_gathered(w, level - 1);
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
