/* merge.c - the checkpointer's thread: changes of the frozen index become trees.
 *
 * Entries are put in order of (planned version, block); each version is then one radix_merge of its changes onto the root
 * before it (consistency.md, 9). Zero ranges of the version's interval and its entries are woven into one ascending stream:
 * where both cover a block, the higher ticket wins.
 * A map node that cannot be read costs what it mapped and nothing else (consistency.md, 9a): the version goes on with lost
 * entries in its place. */
#include "parallax/checkpoint.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct stream {
    struct checkpoint *c;
    struct version *v;
    uint32_t next, end;             /* in c->order */
    struct zero_range *ranges;      /* of this version, by first block, overlaps joined for `at`; tickets in `all` */
    uint32_t range_count, range_at;
    const struct zero_range *all;
    uint32_t all_count;
    uint64_t low, high;             /* tickets */
    uint64_t limit;                 /* generation of the parent */
};

static int by_version_and_block(const void *a, const void *b)
{
    const struct change_order *x = a, *y = b;
    if (x->version != y->version)
        return x->version < y->version ? -1 : 1;
    return x->block < y->block ? -1 : x->block > y->block;
}

static int by_first(const void *a, const void *b)
{
    const struct zero_range *x = a, *y = b;
    return x->first < y->first ? -1 : x->first > y->first;
}

static struct planned_line *find_line(struct checkpoint *c, uint32_t id)
{
    uint32_t low = 0, high = c->line_count;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if (c->lines[middle].id < id)
            low = middle + 1;
        else
            high = middle;
    }
    return low < c->line_count && c->lines[low].id == id ? &c->lines[low] : NULL;
}

/* The planned version whose interval holds the ticket: the first with a later cut. */
static uint32_t version_at(const struct checkpoint *c, const struct planned_line *l, uint64_t ticket)
{
    uint32_t low = l->first, high = l->first + l->count - 1;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if (c->versions[middle].cut <= ticket)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static int put_in_order(struct checkpoint *c)
{
    const struct index *ix = &c->store->index[1 - c->store->active];
    c->order = malloc((ix->used + 1) * sizeof *c->order);
    if (!c->order)
        return -ENOMEM;
    for (uint32_t i = 0; i < ix->used; i++) {
        const struct index_entry *e = &ix->entries[i];
        struct planned_line *l = find_line(c, e->line);
        if (!l)
            return -EPROTO; /* a change of a line that nobody marked as changed: our own bug */
        c->order[i] = (struct change_order){ version_at(c, l, e->ticket), i, e->block };
        if (e->shared) /* before anything is freed (P3); an entry that a range hides is freed like any other */
            pool_add(&c->store->pool, e->address);
    }
    c->order_count = ix->used;
    qsort(c->order, c->order_count, sizeof *c->order, by_version_and_block);
    for (uint32_t i = 0; i < c->order_count; i++) {
        struct planned_version *pv = &c->versions[c->order[i].version];
        if (!pv->change_count++)
            pv->change_first = i;
    }
    return 0;
}

static bool range_wins(const struct stream *st, uint32_t block, uint64_t ticket)
{
    for (uint32_t i = 0; i < st->all_count; i++) {
        const struct zero_range *r = &st->all[i];
        if (r->ticket >= st->low && r->ticket < st->high && r->ticket > ticket && block >= r->first && block - r->first < r->count)
            return true;
    }
    return false;
}

/* The next entry that no later range hides; the blocks of hidden ones are free. */
static const struct index_entry *peek_entry(struct stream *st)
{
    const struct index *ix = &st->c->store->index[1 - st->c->store->active];
    while (st->next < st->end) {
        const struct index_entry *e = &ix->entries[st->c->order[st->next].entry];
        if (!st->all_count || !range_wins(st, e->block, e->ticket))
            return e;
        if (e->address)
            checkpoint_free_block(st->c, e->address);
        st->next++;
    }
    return NULL;
}

static int next_change(void *ctx, struct radix_change *out)
{
    struct stream *st = ctx;
    const struct index_entry *e = peek_entry(st);
    struct zero_range *r = st->range_at < st->range_count ? &st->ranges[st->range_at] : NULL;
    if (r && (!e || r->first < e->block)) {
        uint64_t end = r->first + r->count, stop = e && e->block < end ? e->block : end;
        *out = (struct radix_change){ .first = r->first, .count = stop - r->first };
        r->count = end - stop;
        r->first = stop;
        if (!r->count)
            st->range_at++;
        return 1;
    }
    if (!e)
        return 0;
    st->next++;
    if (r && r->first == e->block) {
        r->first++;
        if (--r->count == 0)
            st->range_at++;
    }
    *out = (struct radix_change){ .first = e->block, .count = 1 };
    if (e->address) {
        out->entry = (struct radix_entry){ .address = e->address, .birth = st->v->generation, .crc = e->crc, .kind = RADIX_DATA };
        if (!e->shared)
            space_image_set(&st->c->store->space, e->address);
    }
    return 1;
}

static int drop(void *ctx, enum radix_drop what, const struct radix_entry *e, unsigned level, uint64_t first_block)
{
    struct stream *st = ctx;
    (void)first_block;
    return checkpoint_drop(st->c, st->v, st->limit, what, e, level);
}

/* Whether the device reads at all. If not, what it cannot read now is not lost. */
static int probe(struct store *s)
{
    void *block = bdev_buffer_alloc(1);
    int err = block ? bdev_read(s->blocks, 0, block, 1) : -ENOMEM;
    free(block);
    return err;
}

static int lost(void *ctx, unsigned level, uint64_t first_block, const struct radix_entry *e, int error)
{
    struct stream *st = ctx;
    struct checkpoint *c = st->c;
    int err = error == -EIO ? probe(c->store) : 0; /* the error was logged when the node was read */
    if (err)
        return err;
    c->state_record.has_lost = true;
    if (c->loss_count++ < LOSSES_TOLD)
        c->losses[c->loss_count - 1] = (struct loss){ .v = st->v, .block = first_block, .level = level, .address = e->address };
    return 0;
}

/* The version's own ranges, sorted and joined. */
static int collect_ranges(struct stream *st)
{
    uint32_t n = 0;
    st->ranges = malloc((st->all_count + 1) * sizeof *st->ranges);
    if (!st->ranges)
        return -ENOMEM;
    for (uint32_t i = 0; i < st->all_count; i++)
        if (st->all[i].ticket >= st->low && st->all[i].ticket < st->high)
            st->ranges[n++] = st->all[i];
    qsort(st->ranges, n, sizeof *st->ranges, by_first);
    uint32_t kept = 0;
    for (uint32_t i = 0; i < n; i++) {
        struct zero_range *last = kept ? &st->ranges[kept - 1] : NULL, *r = &st->ranges[i];
        if (last && r->first <= last->first + last->count) {
            uint64_t end = r->first + r->count, last_end = last->first + last->count;
            last->count = (end > last_end ? end : last_end) - last->first;
        } else {
            st->ranges[kept++] = *r;
        }
    }
    st->range_count = kept;
    return 0;
}

static int merge_version(struct checkpoint *c, const struct planned_line *l, struct planned_version *pv, uint64_t low, const struct radix_root *base)
{
    struct version *v = pv->v;
    struct stream st = { .c = c, .v = v, .next = pv->change_first, .end = pv->change_first + pv->change_count,
                         .all = l->ranges, .all_count = l->range_count, .low = low, .high = pv->cut, .limit = parent_generation(v) };
    struct radix_merge m = { .next = next_change, .drop = drop, .lost = lost, .ctx = &st, .birth = v->generation, .min_blocks = pv->blocks };
    struct radix_io io = checkpoint_io(c);
    struct radix_root root = *base;
    int err = collect_ranges(&st);
    if (!err && (pv->change_count || st.range_count))
        err = radix_merge(&io, base, &m, &root);
    if (!err)
        err = checkpoint_dead_flush(c, v);
    free(st.ranges);
    if (!err)
        v->root = root;
    return err;
}

int checkpoint_merge_lines(struct checkpoint *c)
{
    int err = put_in_order(c);
    for (uint32_t i = 0; i < c->line_count && !err; i++) {
        struct planned_line *l = &c->lines[i];
        const struct radix_root *base = l->base;
        uint64_t low = 0;
        for (uint32_t k = 0; k < l->count && !err; k++) {
            struct planned_version *pv = &c->versions[l->first + k];
            err = merge_version(c, l, pv, low, base);
            base = &pv->v->root;
            low = pv->cut;
        }
    }
    return err;
}
