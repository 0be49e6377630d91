/* dedup.c - the operation that finds blocks of an image in named frozen versions and refers to those instead (share.h;
 * consistency.md, 27 to 30). One at a time in a store; others wait for it.
 *
 * Steps: [a nameless copy of a sealed image's map] -> a checkpoint -> pin the holders -> passes of match (walker) and sharing
 * (loop) -> unpin -> [the copy takes the sealed image's place] -> done. From the beginning of a pass to its end the operation
 * counts as a reader: no address that it compared is given to anybody else. */
#include "parallax/share.h"

#include "base/clock.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct dedup {
    struct owned owned;
    struct list_node link;     /* in store.dedups; the first of them is under way */
    struct job job;
    struct store *store;
    struct store_op *op, inner;
    void (*then)(struct store_op *op); /* of an import: what follows, whatever came of this */
    uint64_t image;
    struct version *sealed;    /* of a sealed image: its only state, pinned */
    uint64_t copy;             /* its nameless copy, or 0 */
    struct match match;
    struct sharing sharing;
    uint64_t era, shared_blocks;
    int error;
};

static void dedup_free(struct dedup *d)
{
    list_remove(&d->owned.link);
    list_remove(&d->link);
    loop_timer_stop(d->store->loop, &d->sharing.retry);
    free(d->match.holders);
    free(d->match.shares);
    free(d);
}

static void release(struct owned *o) { dedup_free(container_of(o, struct dedup, owned)); }

static void start(struct dedup *d);

static void end(struct dedup *d)
{
    struct store *s = d->store;
    struct store_op *op = d->op;
    struct vdisk *copy = d->copy ? tree_image(&s->tree, d->copy) : NULL;
    void (*then)(struct store_op *op) = d->then;
    for (uint32_t i = 0; i < d->match.holder_count; i++)
        version_unpin(s, d->match.holders[i].version);
    if (d->sealed)
        version_unpin(s, d->sealed);
    if (copy && copy->flags & IMAGE_FLAG_IMPORT)
        ops_drop_import(s, copy);
    if (op->args.dedup)
        *op->args.dedup = (struct image_dedup){ .examined_bytes = d->match.examined_blocks * BDEV_BLOCK_SIZE, .shared_bytes = d->shared_blocks * BDEV_BLOCK_SIZE };
    dedup_free(d);
    if (!list_empty(&s->dedups))
        start(container_of(s->dedups.next, struct dedup, link));
    then(op);
}

/* ---- The end for a sealed image ---- */

static void replaced(struct store_op *inner)
{
    struct dedup *d = container_of(inner, struct dedup, inner);
    if (inner->error.code)
        d->op->error = inner->error;
    end(d);
}

static void run_replace(struct store_op *inner)
{
    struct dedup *d = container_of(inner, struct dedup, inner);
    const struct vdisk *image = tree_image(&d->store->tree, d->image);
    if (!image || image->head != d->sealed) {
        end(d); /* deleted meanwhile */
        return;
    }
    struct change_writer w = change_begin(CHANGE_REPLACE);
    change_u64(&w, d->image);
    change_u64(&w, d->copy);
    inner->finish = replaced;
    op_commit(d->store, inner, &w);
}

static void finish(struct dedup *d)
{
    if (d->error == -ECANCELED)
        error_set(&d->op->error, d->error, "stopped; what was found until then is shared");
    else if (d->error == -ENOSPC)
        error_set(&d->op->error, d->error, "store '%s' is too full to share more", store_name(d->store));
    else if (d->error && d->error != -ESTALE)
        error_set(&d->op->error, d->error, "store '%s': cannot look for equal blocks: %s", store_name(d->store), strerror(-d->error));
    if (!d->copy || !d->shared_blocks || (d->error && d->error != -ECANCELED && d->error != -ENOSPC)) {
        end(d);
        return;
    }
    d->inner = (struct store_op){ .done = replaced };
    op_begin(d->store, &d->inner, run_replace);
}

/* ---- Passes ---- */

static void begin_pass(struct dedup *d);

static void shared(struct sharing *g)
{
    struct dedup *d = container_of(g, struct dedup, sharing);
    reader_end(d->store, d->era);
    d->shared_blocks += g->shared;
    d->error = d->match.error ? d->match.error : g->error;
    if (d->error || d->match.cursor == UINT64_MAX)
        finish(d);
    else
        begin_pass(d);
}

static void matched(struct loop_task *t)
{
    struct dedup *d = container_of(t, struct dedup, job.done);
    d->sharing = (struct sharing){ .store = d->store, .image = d->copy ? d->copy : d->image, .op = d->op, .shares = d->match.shares,
                                   .count = d->match.error ? 0 : d->match.share_count, .done = shared };
    sharing_start(&d->sharing);
}

static void work(struct job *j) { match_pass(&container_of(j, struct dedup, job)->match); }

static void begin_pass(struct dedup *d)
{
    const struct vdisk *image = tree_image(&d->store->tree, d->image);
    if (!image || op_stopped(d->op)) {
        d->error = image ? -ECANCELED : -ESTALE;
        finish(d);
        return;
    }
    const struct version *v = d->sealed ? d->sealed : image->head;
    d->match.root = *lookup_root(v);
    d->match.min_birth = parent_generation(v) + 1; /* what an older version holds would not become free */
    reader_begin(d->store, &d->era);
    d->job.work = work;
    d->job.done.run = matched;
    worker_submit(&d->store->walker, &d->job);
}

/* ---- Holders ---- */

static bool is_holder(const struct version *v)
{
    return v->image && version_final(v) && v->in_catalog && (v->flags & VERSION_FLAG_SNAPSHOT || (v->image->head == v && v->image->flags & IMAGE_FLAG_TEMPLATE));
}

static int add_holder(struct dedup *d, struct version *v)
{
    struct match *m = &d->match;
    struct holder *grown = realloc(m->holders, (m->holder_count + 1) * sizeof *grown);
    if (!grown)
        return -ENOMEM;
    m->holders = grown;
    const struct version *older = v->parent;
    while (older && !is_holder(older))
        older = older->parent;
    grown[m->holder_count++] = (struct holder){ .version = version_pin(v), .root = v->live_root, .min_birth = older ? older->generation + 1 : 0 };
    return 0;
}

static int add_holders(struct dedup *d)
{
    const struct tree *t = &d->store->tree;
    int err = 0;
    list_for_each(n, &t->all_images) {
        struct vdisk *image = container_of(n, struct vdisk, all_link);
        list_for_each(i, &image->snapshots)
            if (!err && is_holder(container_of(i, struct version, snapshot_link)))
                err = add_holder(d, container_of(i, struct version, snapshot_link));
        if (!err && image->head != d->sealed && is_holder(image->head))
            err = add_holder(d, image->head);
    }
    if (!err && d->sealed && !(err = add_holder(d, d->sealed)))
        d->match.holders[d->match.holder_count - 1].self = true;
    return err;
}

static void in_trees(struct store_op *inner)
{
    struct dedup *d = container_of(inner, struct dedup, inner);
    d->match.shares = malloc(MATCH_BLOCKS * sizeof *d->match.shares);
    int err = inner->error.code ? 0 : d->match.shares ? add_holders(d) : -ENOMEM;
    if (inner->error.code || err || !d->match.holder_count) {
        d->op->error = inner->error;
        d->error = err;
        finish(d);
        return;
    }
    d->match.op = d->op;
    d->match.store = d->store;
    begin_pass(d);
}

/* ---- Beginning ---- */

static void copied(struct store_op *inner)
{
    struct dedup *d = container_of(inner, struct dedup, inner);
    if (inner->error.code)
        in_trees(inner);
    else
        checkpoint_then(d->store, inner, in_trees);
}

/* A nameless image that begins as the sealed one is. */
static void run_copy(struct store_op *inner)
{
    struct dedup *d = container_of(inner, struct dedup, inner);
    struct store *s = d->store;
    struct tree *t = &s->tree;
    const struct vdisk *image = tree_image(t, d->image);
    if (!image) {
        end(d);
        return;
    }
    d->sealed = version_pin(image->head);
    d->copy = t->next_image++;
    struct change_writer w = change_begin(CHANGE_COPY);
    change_u64(&w, d->sealed->id);
    change_u64(&w, d->copy);
    change_u64(&w, t->next_version++);
    change_u32(&w, t->next_line++);
    change_u64(&w, clock_real_ns());
    inner->finish = copied;
    op_commit(s, inner, &w);
}

static void run_checkpoint(struct store_op *inner)
{
    struct dedup *d = container_of(inner, struct dedup, inner);
    checkpoint_then(d->store, inner, in_trees);
}

static void start(struct dedup *d)
{
    const struct vdisk *image = tree_image(&d->store->tree, d->image);
    d->inner = (struct store_op){ .done = in_trees };
    op_begin(d->store, &d->inner, image && image->flags & IMAGE_FLAG_TEMPLATE ? run_copy : run_checkpoint);
}

static int dedup_begin(struct store *s, struct store_op *op, uint64_t image, void (*then)(struct store_op *op))
{
    struct dedup *d = calloc(1, sizeof *d);
    if (!d)
        return -ENOMEM;
    *d = (struct dedup){ .store = s, .op = op, .image = image, .then = then };
    owned_add(s, &d->owned, release);
    list_add_tail(&s->dedups, &d->link);
    if (s->dedups.next == &d->link)
        start(d);
    return 0;
}

static void run_dedup(struct store_op *op)
{
    struct vdisk *d;
    if (!find_image(op->store, op->args.name, &d, &op->error) && dedup_begin(op->store, op, d->id, op_done))
        error_set(&op->error, -ENOMEM, "no memory for the operation");
    if (op->error.code)
        op->done(op);
}

void image_dedup(struct store *s, struct store_op *op, const char *name, struct image_dedup *out)
{
    op->args.name = name;
    op->args.dedup = out;
    op_begin(s, op, run_dedup);
}

static bool has_holders(const struct tree *t) { return t->template_count || t->snapshot_count; }

void dedup_import(struct store *s, struct store_op *op, uint64_t image, void (*done)(struct store_op *op))
{
    if (!has_holders(&s->tree) || dedup_begin(s, op, image, done))
        done(op);
}
