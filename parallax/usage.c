/* usage.c - how much a version maps, how much would come back, and how two versions differ: walks beside the loop.
 *
 * Each begins with a checkpoint, then takes copies of roots and runs while no checkpoint runs, and counts as a reader until it
 * ends: what it walks is not reused meanwhile (consistency.md, H1). */
#include "parallax/parallax_private.h"

#include "parallax/doomed.h"
#include "parallax/tally.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct run_copy {
    struct dead_run run;
    uint64_t limit;
};

/* What is asked about: a target, or a set of versions that would go. Those of a look stand in one array, and so do their walks and
 * runs: each has those from its predecessor's end on. */
struct item {
    struct radix_root data; /* whose blocks are counted */
    uint32_t walk_end, run_end;
    uint64_t data_blocks, freed_blocks;
    bool missing;
};

#define JOB_NODES 4096u /* read before the thread is given to others */

struct look {
    struct owned owned;
    struct job job;
    struct store_op *op;
    struct store *store;
    uint64_t era;
    int error;
    /* usage and what deletion frees */
    struct image_usage *usage;
    struct item *items;
    uint32_t item_count, item; /* item: of them, done */
    struct tally *tally;
    uint64_t nodes;            /* read by walks of what would be freed */
    struct { struct radix_root root; uint64_t min_birth; } *walks;
    uint32_t walk_count;
    struct run_copy *runs;
    uint32_t run_count;
    uint64_t freed_blocks;     /* of the item being looked at */
    /* diff */
    struct radix_root from, to;
    struct { uint64_t first, count; bool data; } *diffs;
    uint64_t diff_count, diff_capacity;
    uint64_t from_bytes, to_bytes;
    int (*run)(void *ctx, uint64_t offset_bytes, uint64_t length_bytes, bool is_data);
    void *ctx;
    uint64_t *ids;     /* versions of a deletion, until they are looked at */
    unsigned id_count;
};

static void look_free(struct look *l)
{
    list_remove(&l->owned.link);
    for (uint32_t i = 0; i < l->run_count; i++)
        free(l->runs[i].run.crcs);
    tally_destroy(l->tally);
    free(l->items);
    free(l->walks);
    free(l->runs);
    free(l->diffs);
    free(l->ids);
    free(l);
}

static void release(struct owned *o) { look_free(container_of(o, struct look, owned)); }

/* ---- What to look at ---- */

static int add_runs(struct look *l, const struct dead_runs *d, uint64_t limit)
{
    struct run_copy *grown = realloc(l->runs, (l->run_count + d->count + 1) * sizeof *grown);
    if (!grown)
        return -ENOMEM;
    l->runs = grown;
    for (uint32_t i = 0; i < d->count; i++) {
        const struct dead_run *r = &d->runs[i];
        if (r->max_birth <= limit)
            continue;
        size_t bytes = dead_run_blocks(r) * sizeof *r->crcs;
        struct run_copy *c = &l->runs[l->run_count];
        *c = (struct run_copy){ *r, limit };
        if (!(c->run.crcs = malloc(bytes)))
            return -ENOMEM;
        memcpy(c->run.crcs, r->crcs, bytes);
        l->run_count++;
    }
    return 0;
}

static int add_walk(struct look *l, const struct version *v, uint64_t limit)
{
    void *grown = realloc(l->walks, (l->walk_count + 1) * sizeof *l->walks);
    if (!grown)
        return -ENOMEM;
    l->walks = grown;
    l->walks[l->walk_count].root = *lookup_root(v);
    l->walks[l->walk_count++].min_birth = limit + 1;
    return 0;
}

/* The blocks that go with the members: of a version that goes whole, what it reaches and was born in it; of one that is joined
 * to a child, what that child no longer reaches and no version that stays above does. */
static int add_set(struct look *l, struct version *const *members, unsigned count)
{
    unsigned n = 0;
    struct doomed *set = doomed_collect(members, count, &n);
    int err = set ? 0 : -ENOMEM;
    for (unsigned i = 0; i < n && !err; i++) {
        struct doomed *d = &set[i];
        const struct doomed *parent = doomed_find(set, n, d->v->parent);
        d->limit = parent && parent->left == 1 ? parent->limit : parent_generation(d->v);
        if (d->left == 0)
            err = add_walk(l, d->v, parent_generation(d->v));
        else if (d->left == 1)
            err = add_runs(l, &doomed_child_left(set, n, d->v)->runs, d->limit);
    }
    free(set);
    return err;
}

int usage_collect(const struct vdisk *d, struct version ***versions, unsigned *count)
{
    struct version **grown = realloc(*versions, (*count + d->snapshot_count + 1) * sizeof *grown);
    if (!grown)
        return -ENOMEM;
    *versions = grown;
    grown[(*count)++] = d->head;
    list_for_each(n, &d->snapshots)
        grown[(*count)++] = container_of(n, struct version, snapshot_link);
    return 0;
}

/* ---- Looking, on the helper's thread ---- */

/* What other references lead to does not come back. */
static void count_freed(struct look *l, const struct radix_entry *e) { l->freed_blocks += !pool_shared(&l->store->pool, e->address); }

static int freed_data(void *ctx, uint64_t block, const struct radix_entry *e)
{
    (void)block;
    count_freed(ctx, e);
    return 0;
}

static int freed_node(void *ctx, unsigned level, uint64_t first_block, const struct radix_entry *e)
{
    (void)level;
    ((struct look *)ctx)->nodes++;
    return freed_data(ctx, first_block, e);
}

static int count_run(struct look *l, struct radix_io *io, const struct run_copy *c, uint8_t *buffer)
{
    struct dead_entry entries[DEAD_PER_BLOCK];
    struct radix_visit visit = { .ctx = l, .min_birth = c->limit + 1, .data = freed_data, .node = freed_node };
    for (uint32_t b = dead_run_blocks(&c->run); b-- > 0;) {
        uint32_t n;
        int err = dead_run_read(&c->run, io->device, io->seed, b, entries, &n, buffer);
        if (err)
            return err;
        if (!n || entries[n - 1].block.birth <= c->limit)
            return 0;
        while (n-- && entries[n].block.birth > c->limit) {
            if (entries[n].what != RADIX_DROP_SUBTREE)
                count_freed(l, &entries[n].block);
            else if ((err = radix_walk_subtree(io, &entries[n].block, entries[n].level, 0, &visit)))
                return err;
        }
    }
    return 0;
}

static int look_item(struct look *l, struct radix_io *io, uint32_t at, uint8_t *buffer)
{
    struct item *item = &l->items[at];
    int err = tally_count(l->tally, io, &item->data, &item->data_blocks);
    l->freed_blocks = 0;
    for (uint32_t i = at ? item[-1].walk_end : 0; i < item->walk_end && !err; i++) {
        struct radix_visit visit = { .ctx = l, .min_birth = l->walks[i].min_birth, .data = freed_data, .node = freed_node };
        err = l->walks[i].root.height ? radix_walk(io, &l->walks[i].root, &visit) : 0;
    }
    for (uint32_t i = at ? item[-1].run_end : 0; i < item->run_end && !err; i++)
        err = count_run(l, io, &l->runs[i], buffer);
    item->freed_blocks = l->freed_blocks;
    return err;
}

/* As many items as read about JOB_NODES nodes. */
static void look_usage(struct job *j)
{
    struct look *l = container_of(j, struct look, job);
    struct radix_io io = { .device = l->store->blocks, .seed = l->store->super.seed };
    uint8_t *buffer = bdev_buffer_alloc(1);
    int err = buffer ? 0 : -ENOMEM;
    if (!err && !l->tally)
        err = tally_create(&l->tally);
    for (uint64_t until = err ? 0 : l->nodes + tally_nodes(l->tally) + JOB_NODES;
         !err && l->item < l->item_count && l->nodes + tally_nodes(l->tally) < until; l->item++)
        err = op_stopped(l->op) ? -ECANCELED : look_item(l, &io, l->item, buffer);
    free(buffer);
    l->error = err;
}

static int add_diff(void *ctx, uint64_t first, uint64_t count, bool now_mapped)
{
    struct look *l = ctx;
    if (l->diff_count == l->diff_capacity) {
        uint64_t capacity = l->diff_capacity ? l->diff_capacity * 2 : 256;
        void *grown = realloc(l->diffs, capacity * sizeof *l->diffs);
        if (!grown)
            return -ENOMEM;
        l->diffs = grown;
        l->diff_capacity = capacity;
    }
    l->diffs[l->diff_count].first = first;
    l->diffs[l->diff_count].count = count;
    l->diffs[l->diff_count++].data = now_mapped;
    return 0;
}

static int first_data(void *ctx, uint64_t block, const struct radix_entry *e)
{
    (void)e;
    *(uint64_t *)ctx = block;
    return 1;
}

/* A `from` that ends inside a block reads as zeroes behind its end, whatever the block that both may share holds there: if
 * `to` goes on, that block differs. */
static int add_tail(struct look *l, struct radix_io *io)
{
    uint64_t tail = l->from_bytes / BDEV_BLOCK_SIZE, mapped = UINT64_MAX, at = l->diff_count;
    if (l->from_bytes % BDEV_BLOCK_SIZE == 0 || l->from_bytes >= l->to_bytes || !l->to.height)
        return 0;
    while (at && l->diffs[at - 1].first > tail)
        at--;
    if (at && tail - l->diffs[at - 1].first < l->diffs[at - 1].count)
        return 0;
    struct radix_visit visit = { .ctx = &mapped, .from = tail, .data = first_data };
    int err = radix_walk(io, &l->to, &visit);
    if (err < 0 || mapped != tail)
        return err < 0 ? err : 0;
    if ((err = add_diff(l, tail, 1, true)))
        return err;
    memmove(&l->diffs[at + 1], &l->diffs[at], (l->diff_count - 1 - at) * sizeof *l->diffs);
    l->diffs[at].first = tail;
    l->diffs[at].count = 1;
    l->diffs[at].data = true;
    return 0;
}

static void look_diff(struct job *j)
{
    struct look *l = container_of(j, struct look, job);
    struct radix_io io = { .device = l->store->blocks, .seed = l->store->super.seed };
    l->error = radix_diff(&io, &l->from, &l->to, add_diff, l);
    if (!l->error)
        l->error = add_tail(l, &io);
}

/* ---- Beginning and ending ---- */

static void tell_diffs(struct look *l)
{
    for (uint64_t i = 0; i < l->diff_count && !l->error; i++) {
        uint64_t begin = l->diffs[i].first * BDEV_BLOCK_SIZE, end = begin + l->diffs[i].count * BDEV_BLOCK_SIZE;
        end = end > l->to_bytes ? l->to_bytes : end;
        if (begin < end)
            l->error = l->run(l->ctx, begin, end - begin, l->diffs[i].data);
    }
}

static void look_done(struct loop_task *t)
{
    struct look *l = container_of(t, struct look, job.done);
    struct store *s = l->store;
    struct store_op *op = l->op;
    if (!l->error && l->item < l->item_count) {
        worker_submit(&s->helper, &l->job);
        return;
    }
    s->walkers--;
    reader_end(s, l->era);
    if (!l->error && l->run)
        tell_diffs(l);
    if (l->error)
        error_set(&op->error, l->error, "store '%s': cannot read its map: %s", store_name(s), l->error == -EBADMSG ? "damaged; run 'parallax check'" : strerror(-l->error));
    for (uint32_t i = 0; i < l->item_count; i++) {
        const struct item *item = &l->items[i];
        if (l->usage)
            l->usage[i] = (struct image_usage){ .data_bytes = item->data_blocks * BDEV_BLOCK_SIZE,
                                                .used_bytes = item->freed_blocks * BDEV_BLOCK_SIZE, .missing = item->missing };
        else
            op->freed_bytes = item->freed_blocks * BDEV_BLOCK_SIZE;
    }
    look_free(l);
    op->done(op);
}

static void look_start(struct look *l, void (*work)(struct job *j))
{
    l->job.work = work;
    l->job.done.run = look_done;
    l->store->walkers++;
    reader_begin(l->store, &l->era);
    worker_submit(&l->store->helper, &l->job);
}

static void look_fail(struct look *l, int err)
{
    struct store_op *op = l->op;
    error_set(&op->error, err, "no memory for the operation");
    look_free(l);
    op->done(op);
}

static struct look *look_begin(struct store_op *op)
{
    struct look *l = calloc(1, sizeof *l);
    if (l) {
        l->op = op;
        l->store = op->store;
        op->work = l;
        owned_add(l->store, &l->owned, release);
    }
    return l;
}

static int add_target(struct look *l, const char *target, struct error *missing)
{
    struct vdisk *d;
    struct version *v;
    struct item *item = &l->items[l->item_count++];
    int err = 0;
    if (target_find(l->store, target, &d, &v, missing)) {
        item->missing = true;
    } else {
        v = v ? v : d->head;
        item->data = *lookup_root(v);
        err = add_set(l, &v, 1);
    }
    item->walk_end = l->walk_count;
    item->run_end = l->run_count;
    return err;
}

/* The checkpoint is done and none runs: versions may be looked at. */
static void usage_ready(struct store_op *op)
{
    struct look *l = op->work;
    struct error missing = ERROR_NONE;
    int err = op->error.code || (l->items = calloc(op->args.count + 1, sizeof *l->items)) ? 0 : -ENOMEM;
    for (uint32_t i = 0; i < op->args.count && !err && !op->error.code; i++) {
        err = add_target(l, op->args.names[i], &missing);
        if (missing.code && !op->args.flag)
            op->error = missing;
    }
    if (op->error.code) {
        look_free(l);
        op->done(op);
    } else if (err) {
        look_fail(l, err);
    } else {
        look_start(l, look_usage);
    }
}

static void run_usage(struct store_op *op)
{
    struct look *l = look_begin(op);
    if (!l) {
        error_set(&op->error, -ENOMEM, "no memory for the operation");
        op->done(op);
        return;
    }
    l->usage = op->args.usage;
    checkpoint_then(op->store, op, usage_ready);
}

void image_get_usage(struct store *s, struct store_op *op, const char *target, struct image_usage *out)
{
    op->args.name = target;
    op->args.names = &op->args.name;
    op->args.count = 1;
    op->args.usage = out;
    op_begin(s, op, run_usage);
}

void image_get_usages(struct store *s, struct store_op *op, const char *const *targets, unsigned count, struct image_usage *out)
{
    op->args.names = targets;
    op->args.count = count;
    op->args.flag = true;
    op->args.usage = out;
    op_begin(s, op, run_usage);
}

static void freed_ready(struct store_op *op)
{
    struct look *l = op->work;
    struct version **set = malloc((l->id_count + 1) * sizeof *set);
    unsigned n = 0;
    for (unsigned i = 0; set && i < l->id_count; i++)
        if ((set[n] = tree_version(&l->store->tree, l->ids[i])))
            n++;
    int err = op->error.code ? 0 : set && (l->items = calloc(1, sizeof *l->items)) ? add_set(l, set, n) : -ENOMEM;
    free(set);
    if (l->items) {
        l->items[0].walk_end = l->walk_count;
        l->items[0].run_end = l->run_count;
        l->item_count = 1;
    }
    if (op->error.code) {
        look_free(l);
        op->done(op);
    } else if (err) {
        look_fail(l, err);
    } else {
        look_start(l, look_usage);
    }
}

void usage_freed(struct store *s, struct store_op *op, struct version **versions, unsigned count)
{
    struct look *l = look_begin(op);
    if (!l) {
        free(versions);
        error_set(&op->error, -ENOMEM, "no memory for the operation");
        op->done(op);
        return;
    }
    if (!(l->ids = malloc((count + 1) * sizeof *l->ids))) {
        free(versions);
        look_fail(l, -ENOMEM);
        return;
    }
    for (unsigned i = 0; i < count; i++)
        l->ids[i] = versions[i]->id;
    l->id_count = count;
    free(versions);
    checkpoint_then(s, op, freed_ready);
}

static void diff_ready(struct store_op *op)
{
    struct look *l = op->work;
    struct vdisk *d;
    struct version *v;
    struct error *err = &op->error;
    if (!err->code && op->args.other && !target_find(l->store, op->args.other, &d, &v, err)) {
        v = v ? v : d->head;
        l->from = *lookup_root(v);
        l->from_bytes = v->size_bytes;
    }
    if (err->code || target_find(l->store, op->args.name, &d, &v, err)) {
        look_free(l);
        op->done(op);
        return;
    }
    v = v ? v : d->head;
    l->to = *lookup_root(v);
    l->to_bytes = v->size_bytes;
    look_start(l, look_diff);
}

static void run_diff(struct store_op *op)
{
    struct look *l = look_begin(op);
    if (!l) {
        error_set(&op->error, -ENOMEM, "no memory for the operation");
        op->done(op);
        return;
    }
    l->run = op->args.diff_run;
    l->ctx = op->args.diff_ctx;
    checkpoint_then(op->store, op, diff_ready);
}

void image_diff(struct store *s, struct store_op *op, const char *from, const char *to,
                int (*run)(void *ctx, uint64_t offset_bytes, uint64_t length_bytes, bool is_data), void *ctx)
{
    op->args.other = from;
    op->args.name = to;
    op->args.diff_run = run;
    op->args.diff_ctx = ctx;
    op_begin(s, op, run_diff);
}
