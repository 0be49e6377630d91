/* radix_diff.c - the blocks in which two maps differ.
 *
 * Both trees are gone through side by side; a pair of entries that lead to the same target is passed over unread, so that the
 * cost is that of the difference. An absent node counts as one that maps nothing. Where one tree is higher, the lower one is
 * its counterpart at the leftmost place of the lower one's height, and everything beside that is in the higher tree alone. */
#include "radix/radix_private.h"

#include <errno.h>
#include <stdlib.h>

#define DIFF_BATCH 64u /* pairs of nodes read at once */

struct pair {
    struct radix_entry a, b;
    uint64_t first;
};

struct batch {
    struct radix_disk_node *a, *b; /* DIFF_BATCH of each */
    struct pair pair[DIFF_BATCH];
    unsigned count;
};

struct diff {
    struct radix_io *io;
    int (*run)(void *ctx, uint64_t first, uint64_t count, bool now_mapped);
    void *ctx;
    uint64_t first, count; /* the run being gathered; count 0: none */
    bool mapped;
    struct radix_disk_node *nodes;
    struct batch batch[RADIX_MAX_HEIGHT + 1]; /* by the level of the nodes in it */
};

static const struct radix_disk_node nothing;

static int end_run(struct diff *d)
{
    int err = d->count ? d->run(d->ctx, d->first, d->count, d->mapped) : 0;
    d->count = 0;
    return err;
}

static int add_block(struct diff *d, uint64_t block, bool mapped)
{
    if (d->count && (d->first + d->count != block || d->mapped != mapped)) {
        int err = end_run(d);
        if (err)
            return err;
    }
    if (d->count == 0)
        d->first = block;
    d->mapped = mapped;
    d->count++;
    return 0;
}

static int diff_leaves(struct diff *d, uint64_t first, const struct radix_disk_node *a, const struct radix_disk_node *b)
{
    for (unsigned i = 0; i < RADIX_FANOUT; i++) {
        struct radix_entry x, y;
        radix_entry_unpack(&a->entry[i], &x);
        radix_entry_unpack(&b->entry[i], &y);
        if (radix_same_target(&x, &y))
            continue;
        int err = add_block(d, first + i, y.kind != RADIX_NONE);
        if (err)
            return err;
    }
    return 0;
}

static int diff_batch(struct diff *d, unsigned level);

/* Goes through the entries from index `from` of two nodes of that level above the leaves. */
static int diff_inner(struct diff *d, unsigned level, uint64_t first, unsigned from, const struct radix_disk_node *a,
                      const struct radix_disk_node *b)
{
    struct batch *t = &d->batch[level - 1];
    t->count = 0;
    for (unsigned i = from; i < RADIX_FANOUT; i++) {
        struct pair *p = &t->pair[t->count];
        radix_entry_unpack(&a->entry[i], &p->a);
        radix_entry_unpack(&b->entry[i], &p->b);
        p->first = first + i * radix_span(level - 1);
        if (!radix_same_target(&p->a, &p->b))
            t->count++;
        if (t->count == DIFF_BATCH || (i == RADIX_FANOUT - 1 && t->count)) {
            int err = diff_batch(d, level - 1);
            if (err)
                return err;
            t->count = 0;
        }
    }
    return 0;
}

/* Reads both sides of the gathered pairs in one go. */
static int read_batch(struct diff *d, unsigned level)
{
    struct batch *t = &d->batch[level];
    struct radix_entry entries[2 * DIFF_BATCH];
    struct radix_disk_node *nodes[2 * DIFF_BATCH];
    int errors[2 * DIFF_BATCH];
    unsigned count = 0;
    for (unsigned i = 0; i < t->count; i++) {
        if (t->pair[i].a.kind != RADIX_NONE) {
            entries[count] = t->pair[i].a;
            nodes[count++] = &t->a[i];
        }
        if (t->pair[i].b.kind != RADIX_NONE) {
            entries[count] = t->pair[i].b;
            nodes[count++] = &t->b[i];
        }
    }
    return radix_read_nodes(d->io, level, entries, nodes, count, errors);
}

static int diff_batch(struct diff *d, unsigned level)
{
    struct batch *t = &d->batch[level];
    int err = read_batch(d, level);
    for (unsigned i = 0; !err && i < t->count; i++) {
        const struct radix_disk_node *a = t->pair[i].a.kind != RADIX_NONE ? &t->a[i] : &nothing;
        const struct radix_disk_node *b = t->pair[i].b.kind != RADIX_NONE ? &t->b[i] : &nothing;
        err = level == 1 ? diff_leaves(d, t->pair[i].first, a, b) : diff_inner(d, level, t->pair[i].first, 0, a, b);
    }
    return err;
}

static int diff_pair(struct diff *d, unsigned level, const struct radix_entry *a, const struct radix_entry *b)
{
    if (radix_same_target(a, b))
        return 0;
    struct batch *t = &d->batch[level];
    t->pair[0] = (struct pair){ .a = *a, .b = *b, .first = 0 };
    t->count = 1;
    return diff_batch(d, level);
}

/* One side is higher: its leftmost path is read down to the other's height, then the pair there is compared, then what lies
 * beside the path, from the lowest level up, so that runs ascend. */
static int diff_uneven(struct diff *d, const struct radix_root *high, const struct radix_root *low, bool a_is_high)
{
    struct radix_disk_node *path[RADIX_MAX_HEIGHT + 1], *nodes = radix_nodes_alloc(RADIX_MAX_HEIGHT + 1);
    if (!nodes)
        return -ENOMEM;
    struct radix_entry e = high->node;
    unsigned level = high->height;
    int err = 0;
    for (; !err && level > low->height && e.kind == RADIX_NODE; level--) {
        int unused;
        path[level] = &nodes[level];
        err = radix_read_nodes(d->io, level, &e, &path[level], 1, &unused);
        if (!err)
            radix_entry_unpack(&path[level]->entry[0], &e);
    }
    if (!err)
        err = a_is_high ? diff_pair(d, low->height, &e, &low->node) : diff_pair(d, low->height, &low->node, &e);
    for (level++; !err && level <= high->height; level++)
        err = diff_inner(d, level, 0, 1, a_is_high ? path[level] : &nothing, a_is_high ? &nothing : path[level]);
    free(nodes);
    return err;
}

static int diff_roots(struct diff *d, const struct radix_root *a, const struct radix_root *b)
{
    if (a->height > b->height && b->node.kind != RADIX_NONE)
        return diff_uneven(d, a, b, true);
    if (b->height > a->height && a->node.kind != RADIX_NONE)
        return diff_uneven(d, b, a, false);
    unsigned height = a->node.kind != RADIX_NONE ? a->height : b->height;
    return diff_pair(d, height, &a->node, &b->node);
}

static int diff_init(struct diff *d, unsigned height)
{
    d->nodes = radix_nodes_alloc((size_t)height * 2 * DIFF_BATCH + 1);
    if (!d->nodes)
        return -ENOMEM;
    for (unsigned l = 1; l <= height; l++) {
        d->batch[l].a = d->nodes + (l - 1) * 2 * DIFF_BATCH;
        d->batch[l].b = d->batch[l].a + DIFF_BATCH;
    }
    return 0;
}

int radix_diff(struct radix_io *io, const struct radix_root *a, const struct radix_root *b,
               int (*run)(void *ctx, uint64_t first, uint64_t count, bool now_mapped), void *ctx)
{
    uint64_t limit = radix_device_blocks(io->device);
    if (radix_root_check(a, limit) || radix_root_check(b, limit))
        return -EBADMSG;
    struct diff *d = calloc(1, sizeof *d);
    if (!d)
        return -ENOMEM;
    d->io = io;
    d->run = run;
    d->ctx = ctx;
    int err = diff_init(d, a->height > b->height ? a->height : b->height);
    if (!err)
        err = diff_roots(d, a, b);
    if (!err)
        err = end_run(d);
    free(d->nodes);
    free(d);
    return err;
}
