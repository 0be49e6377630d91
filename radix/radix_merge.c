/* radix_merge.c - the copy-on-write update: a bulk loader over a sorted stream of changes.
 *
 * One node a level is open at a time: frame[1] a leaf, frame[height] the root, and frame[height + 1] a holder whose only entry
 * leads to the root. The open nodes are those from level `open` up; each lies below the next. Changes ascend, so that a node is
 * final once a change beyond it comes: it is closed then, from the lowest open level up to the first node that holds the block.
 *
 * 1. A node is opened by copying the old node of its place, or empty if there is none. Old nodes are never written to.
 * 2. Closing a node that was changed writes it under a new address (or, if nothing is left in it, makes it vanish), drops the
 *    old one and changes the entry in the parent. Closing one that was not changed does nothing: its parent keeps the old entry.
 * 3. Every old entry that loses its place is dropped exactly once: data when it is replaced or unmapped, a node when its
 *    replacement is closed, a subtree when a range covers it.
 * 4. A tree grows by making the holder a node and putting a new holder above it.
 * 5. Where the old node cannot be read, and below what is lost already, a node is opened that holds lost entries only; it drops
 *    nothing, as nobody knows what the old one led to. */
#include "radix/radix_ahead.h"
#include "radix/radix_gather.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct frame {
    uint64_t first;         /* first image block below the node */
    struct radix_entry old; /* what it replaces; RADIX_NONE if nothing was here */
    bool changed;
    struct radix_disk_node *node;
};

struct merge {
    struct radix_io *io;
    struct radix_merge *m;
    unsigned height, open;
    struct frame frame[RADIX_MAX_HEIGHT + 2];
    struct radix_disk_node *nodes; /* of the frames */
    struct radix_ahead *ahead;
    struct radix_gather gather;
};

static struct radix_disk_entry *entry_at(struct merge *mg, unsigned level, uint64_t block)
{
    return &mg->frame[level].node->entry[radix_index(level, block)];
}

static void open_empty(struct merge *mg, unsigned level, uint64_t first)
{
    struct frame *f = &mg->frame[level];
    f->first = first;
    f->old = (struct radix_entry){ .kind = RADIX_NONE };
    f->changed = false;
    memset(f->node, 0, sizeof *f->node);
    mg->open = level;
}

/* Puts one more level above the holder, which becomes a node like any other; an empty tree just gets the height. */
static void grow(struct merge *mg)
{
    unsigned holder = mg->height + 1, open = mg->open;
    bool empty = open == holder && radix_entry_kind(&mg->frame[holder].node->entry[0]) == RADIX_NONE;
    if (!empty)
        mg->frame[holder].changed = true;
    open_empty(mg, holder + 1, 0);
    if (!empty)
        mg->open = open;
    mg->height++;
}

static void open_lost(struct merge *mg, unsigned level, uint64_t first, uint64_t address, uint64_t birth)
{
    open_empty(mg, level, first);
    struct radix_entry e = { .kind = RADIX_LOST, .address = address, .birth = birth };
    for (unsigned i = 0; i < RADIX_FANOUT; i++)
        radix_entry_encode(&e, &mg->frame[level].node->entry[i]);
}

static int lose(struct merge *mg, unsigned level, uint64_t first, const struct radix_entry *e, int error)
{
    if (!mg->m->lost || (error != -EBADMSG && error != -EIO))
        return error;
    int err = mg->m->lost(mg->m->ctx, level, first, e, error);
    if (!err)
        open_lost(mg, level, first, e->address, mg->m->birth);
    return err;
}

static int open_old(struct merge *mg, unsigned level, uint64_t first, const struct radix_entry *e)
{
    struct frame *f = &mg->frame[level];
    const struct radix_disk_node *ready = radix_ahead_take(mg->ahead, level, first, e);
    if (ready) {
        *f->node = *ready;
    } else {
        int unused, err = radix_read_nodes(mg->io, level, e, &f->node, 1, &unused);
        if (err)
            return lose(mg, level, first, e, err);
    }
    f->first = first;
    f->old = *e;
    f->changed = false;
    mg->open = level;
    return 0;
}

static bool is_empty(const struct radix_disk_node *n)
{
    for (unsigned i = 0; i < RADIX_FANOUT; i++)
        if (radix_entry_kind(&n->entry[i]) != RADIX_NONE)
            return false;
    return true;
}

/* Closes the lowest open node. */
static int close_lowest(struct merge *mg)
{
    unsigned level = mg->open++;
    struct frame *f = &mg->frame[level];
    if (!f->changed)
        return 0;
    struct radix_entry e = { .kind = RADIX_NONE };
    int err = is_empty(f->node) ? 0 : radix_gather_add(&mg->gather, f->node, level, mg->m->birth, &e);
    if (!err && f->old.kind == RADIX_NODE)
        err = mg->m->drop(mg->m->ctx, RADIX_DROP_NODE, &f->old, level, f->first);
    if (err)
        return err;
    radix_entry_encode(&e, entry_at(mg, level + 1, f->first));
    mg->frame[level + 1].changed = true;
    return 0;
}

/* Makes the node of that level that holds the block the lowest open one, or leaves a lower one that does. create: makes the
 * nodes that are missing; else stops above the first missing one, and mg->open says where. */
static int seek(struct merge *mg, uint64_t block, unsigned level, bool create)
{
    while (mg->open <= mg->height && radix_first(mg->open, block) != mg->frame[mg->open].first) {
        int err = close_lowest(mg);
        if (err)
            return err;
    }
    while (mg->open > level) {
        struct radix_entry e;
        radix_entry_unpack(entry_at(mg, mg->open, block), &e);
        unsigned below = mg->open - 1;
        int err = 0;
        if (e.kind == RADIX_NODE)
            err = open_old(mg, below, radix_first(below, block), &e);
        else if (e.kind == RADIX_LOST)
            open_lost(mg, below, radix_first(below, block), e.address, e.birth);
        else if (create)
            open_empty(mg, below, radix_first(below, block));
        else
            return 0;
        if (err)
            return err;
    }
    return 0;
}

static int map_block(struct merge *mg, uint64_t block, const struct radix_entry *e)
{
    while (block >= radix_capacity(mg->height))
        grow(mg);
    int err = seek(mg, block, 1, true);
    if (err)
        return err;
    struct radix_disk_entry *place = entry_at(mg, 1, block);
    struct radix_entry old;
    radix_entry_unpack(place, &old);
    if (radix_same_entry(&old, e))
        return 0;
    radix_entry_encode(e, place);
    mg->frame[1].changed = true;
    /* The same address described anew is still reached, so it is not dropped. */
    if (old.kind != RADIX_DATA || old.address == e->address)
        return 0;
    return mg->m->drop(mg->m->ctx, RADIX_DROP_DATA, &old, 0, block);
}

/* Unmaps what the lowest open node maps at block: a data block or a whole subtree, unread. */
static int unmap_child(struct merge *mg, uint64_t block)
{
    unsigned level = mg->open;
    struct radix_disk_entry *place = entry_at(mg, level, block);
    struct radix_entry old;
    radix_entry_unpack(place, &old);
    if (old.kind == RADIX_NONE)
        return 0;
    memset(place, 0, sizeof *place);
    mg->frame[level].changed = true;
    if (old.kind == RADIX_LOST)
        return 0;
    return mg->m->drop(mg->m->ctx, level == 1 ? RADIX_DROP_DATA : RADIX_DROP_SUBTREE, &old, level - 1, block);
}

/* The highest level whose nodes have a child that begins at first and ends inside the range. */
static unsigned level_for(const struct merge *mg, uint64_t first, uint64_t end)
{
    unsigned level = 1;
    while (level <= mg->height && first % radix_span(level) == 0 && first + radix_span(level) <= end)
        level++;
    return level;
}

/* Climbs and descends with the range's alignment: whole children of one node at a time, missing ones skipped at the level at
 * which they are missing. The number of nodes visited does not depend on the range's length. */
static int unmap_range(struct merge *mg, uint64_t first, uint64_t end)
{
    if (end > radix_capacity(mg->height))
        end = radix_capacity(mg->height);
    while (first < end) {
        unsigned level = level_for(mg, first, end);
        int err = seek(mg, first, level, false);
        if (err)
            return err;
        if (mg->open > level) {
            first = radix_first(mg->open - 1, first) + radix_span(mg->open - 1);
            continue;
        }
        /* A lower node than asked for is open only where grow() put it above the old root; it lies in the range as well. */
        level = mg->open;
        uint64_t node_end = radix_first(level, first) + radix_span(level), child = radix_span(level - 1);
        for (; first < node_end && first + child <= end; first += child) {
            err = unmap_child(mg, first);
            if (err)
                return err;
        }
    }
    return 0;
}

/* ---- Reading ahead ---- */

/* The entry that leads to the node of that level that holds the block, if its parent is open or was read ahead. at: a cursor
 * into the parents read ahead, which ascends with the blocks. */
static bool find_entry(struct merge *mg, unsigned level, uint64_t block, unsigned *at, struct radix_entry *out)
{
    unsigned up = level + 1;
    const struct radix_disk_node *parent = NULL;
    if (up >= mg->open && (up == mg->height + 1 || mg->frame[up].first == radix_first(up, block))) {
        parent = mg->frame[up].node;
    } else if (up <= RADIX_MAX_HEIGHT) {
        struct radix_ahead_level *q = &mg->ahead->level[up];
        while (*at < q->count && q->first[*at] < radix_first(up, block))
            (*at)++;
        if (*at < q->count && q->first[*at] == radix_first(up, block))
            parent = &q->nodes[*at];
    }
    if (!parent)
        return false;
    radix_entry_unpack(&parent->entry[radix_index(up, block)], out);
    return out->kind == RADIX_NODE;
}

/* What could not be read is tried once more when it is opened, and it is decided there what that means. */
static void read_ahead_level(struct merge *mg, unsigned level)
{
    struct radix_ahead_level *q = &mg->ahead->level[level];
    struct radix_disk_node *nodes[RADIX_BATCH];
    unsigned at = 0;
    for (unsigned i = 0; i < mg->ahead->touch_count; i++) {
        const struct radix_touch *t = &mg->ahead->touch[i];
        uint64_t first = radix_first(level, t->block);
        bool open = level >= mg->open && mg->frame[level].first == first;
        bool twice = q->count && q->first[q->count - 1] == first;
        if (t->min_level > level || t->block >= radix_capacity(mg->height) || open || twice || q->count == q->capacity)
            continue;
        if (!find_entry(mg, level, t->block, &at, &q->entry[q->count]))
            continue;
        q->first[q->count] = first;
        nodes[q->count] = &q->nodes[q->count];
        q->count++;
    }
    int errors[RADIX_BATCH];
    if (q->count == 0 || !radix_read_nodes(mg->io, level, q->entry, nodes, q->count, errors))
        return;
    unsigned kept = 0;
    for (unsigned i = 0; i < q->count; i++) {
        if (errors[i])
            continue;
        q->entry[kept] = q->entry[i];
        q->first[kept] = q->first[i];
        if (kept != i)
            q->nodes[kept] = q->nodes[i];
        kept++;
    }
    q->count = kept;
}

static void read_ahead(struct merge *mg)
{
    for (unsigned level = mg->height; level >= 1; level--)
        read_ahead_level(mg, level);
}

/* ---- The whole ---- */

static int apply_slice(struct merge *mg)
{
    for (unsigned i = 0; i < mg->ahead->change_count; i++) {
        const struct radix_change *c = &mg->ahead->change[i];
        int err = c->entry.kind == RADIX_DATA ? map_block(mg, c->first, &c->entry) : unmap_range(mg, c->first, c->first + c->count);
        if (err)
            return err;
    }
    return 0;
}

static int run(struct merge *mg, struct radix_root *out)
{
    do {
        int err = radix_ahead_pull(mg->ahead, mg->io);
        if (err)
            return err;
        read_ahead(mg);
        err = apply_slice(mg);
        if (err)
            return err;
    } while (!mg->ahead->ended);
    while (mg->open <= mg->height) {
        int err = close_lowest(mg);
        if (err)
            return err;
    }
    int err = radix_gather_flush(&mg->gather);
    if (err)
        return err;
    radix_entry_unpack(&mg->frame[mg->height + 1].node->entry[0], &out->node);
    out->height = out->node.kind == RADIX_NONE ? 0 : mg->height;
    return 0;
}

static int init(struct merge *mg, const struct radix_root *old)
{
    mg->nodes = radix_nodes_alloc(RADIX_MAX_HEIGHT + 2);
    if (!mg->nodes)
        return -ENOMEM;
    for (unsigned l = 0; l < RADIX_MAX_HEIGHT + 2; l++)
        mg->frame[l].node = &mg->nodes[l];
    mg->height = old->node.kind == RADIX_NONE ? 0 : old->height;
    open_empty(mg, mg->height + 1, 0);
    radix_entry_encode(&old->node, &mg->frame[mg->height + 1].node->entry[0]);
    int err = radix_gather_init(&mg->gather, mg->io);
    if (!err)
        err = radix_ahead_create(mg->m, mg->height, &mg->ahead);
    if (err)
        return err;
    while (mg->height < radix_height_for(mg->m->min_blocks))
        grow(mg);
    return 0;
}

int radix_merge(struct radix_io *io, const struct radix_root *old, struct radix_merge *m, struct radix_root *out)
{
    m->nodes_written = 0;
    int err = radix_root_check(old, radix_device_blocks(io->device));
    if (err)
        return err;
    if (m->birth >= RADIX_BIRTH_LIMIT || m->min_blocks > RADIX_MAX_BLOCKS || (old->node.kind == RADIX_NODE && old->node.birth > m->birth))
        return -EINVAL;
    struct merge mg = { .io = io, .m = m };
    struct radix_root root;
    err = init(&mg, old);
    if (!err)
        err = run(&mg, &root);
    m->nodes_written = mg.gather.written;
    if (mg.ahead)
        radix_ahead_destroy(mg.ahead);
    radix_gather_fini(&mg.gather);
    free(mg.nodes);
    if (!err)
        *out = root;
    return err;
}
