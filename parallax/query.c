/* query.c - looking at images and at the store: everything from memory. */
#include "base/clock.h"
#include "parallax/parallax_private.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void parent_name(struct store *s, const struct vdisk *d, char *out, size_t size)
{
    const struct version *v = d->origin_version ? tree_version(&s->tree, d->origin_version) : NULL;
    const struct vdisk *origin = v && v->image ? v->image : d->origin_image ? tree_image(&s->tree, d->origin_image) : NULL;
    if (!origin || !origin->name)
        out[0] = 0;
    else if (v && v->image && v->name)
        snprintf(out, size, "%s@%s", origin->name, v->name);
    else
        snprintf(out, size, "%s", origin->name);
}

/* Counts the clones of each image (of any state of it) and of each snapshot; those that are doomed do not count. */
static void count_clones(struct store *s)
{
    if (s->tree.clones_counted)
        return;
    s->tree.clones_counted = true;
    list_for_each(i, &s->tree.all_images) {
        struct vdisk *d = container_of(i, struct vdisk, all_link);
        d->clones = 0;
        list_for_each(n, &d->snapshots)
            container_of(n, struct version, snapshot_link)->clones = 0;
    }
    list_for_each(i, &s->tree.all_images) {
        const struct vdisk *clone = container_of(i, struct vdisk, all_link);
        struct vdisk *d = clone->origin_image && !clone->doomed ? tree_image(&s->tree, clone->origin_image) : NULL;
        struct version *v = d && clone->origin_version ? tree_version(&s->tree, clone->origin_version) : NULL;
        if (d)
            d->clones++;
        if (v)
            v->clones++;
    }
}

static void image_facts(struct store *s, const struct vdisk *d, struct image_info *out)
{
    *out = (struct image_info){ .size_bytes = d->head->size_bytes, .created_ns = d->created_ns, .last_write_ns = d->last_write_ns, .snapshots = d->snapshot_count,
                                .is_template = d->flags & IMAGE_FLAG_TEMPLATE, .is_protected = d->flags & IMAGE_FLAG_PROTECTED, .readers = d->readers, .clones = d->clones };
    snprintf(out->name, sizeof out->name, "%s", d->name);
    parent_name(s, d, out->parent, sizeof out->parent);
    if (d->writer)
        snprintf(out->holder, sizeof out->holder, "%s", d->writer->holder);
}

static void snapshot_facts(const struct vdisk *d, const struct version *v, struct image_info *out)
{
    *out = (struct image_info){ .size_bytes = v->size_bytes, .created_ns = v->created_ns, .is_snapshot = true, .is_protected = v->flags & VERSION_FLAG_PROTECTED,
                                .readers = v->readers, .clones = v->clones };
    snprintf(out->name, sizeof out->name, "%s@%s", d->name, v->name);
    snprintf(out->parent, sizeof out->parent, "%s", d->name);
}

int store_find(struct store *s, const char *target, struct image_info *out, struct error *err)
{
    struct vdisk *d;
    struct version *v;
    int rc = target_find(s, target, &d, &v, err);
    if (rc)
        return rc;
    count_clones(s);
    if (v)
        snapshot_facts(d, v, out);
    else
        image_facts(s, d, out);
    identity_text(s, d, v, out->identity);
    return 0;
}

static int by_name(const void *a, const void *b)
{
    const struct vdisk *x = *(struct vdisk *const *)a, *y = *(struct vdisk *const *)b;
    return strcmp(x->name, y->name);
}

int store_list(struct store *s, int (*each)(void *ctx, const struct image_info *info), void *ctx)
{
    uint64_t n = 0;
    struct vdisk **all = malloc((s->tree.images.count + 1) * sizeof *all);
    if (!all)
        return -ENOMEM;
    list_for_each(i, &s->tree.all_images) {
        struct vdisk *d = container_of(i, struct vdisk, all_link);
        if (d->name)
            all[n++] = d;
    }
    qsort(all, n, sizeof *all, by_name);
    count_clones(s);
    int rc = 0;
    for (uint64_t i = 0; i < n && !rc; i++) {
        struct image_info info;
        image_facts(s, all[i], &info);
        rc = each(ctx, &info);
    }
    free(all);
    return rc;
}

int store_list_snapshots(struct store *s, const char *image, int (*each)(void *ctx, const struct image_info *info), void *ctx, struct error *err)
{
    struct vdisk *d;
    int rc = find_image(s, image, &d, err);
    if (rc)
        return rc;
    count_clones(s);
    list_for_each(n, &d->snapshots) {
        struct image_info info;
        snapshot_facts(d, container_of(n, struct version, snapshot_link), &info);
        if ((rc = each(ctx, &info)))
            break;
    }
    return rc;
}

static void doom(struct store *s, const char *const *names, unsigned count, bool doomed)
{
    for (unsigned i = 0; i < count; i++) {
        struct vdisk *d = tree_image_named(&s->tree, names[i]);
        if (d)
            d->doomed = doomed;
    }
}

void store_list_survived(struct store *s, const char *const *names, unsigned count, void (*each)(void *ctx, const char *name), void *ctx)
{
    doom(s, names, count, true);
    s->tree.clones_counted = false;
    count_clones(s);
    doom(s, names, count, false);
    for (unsigned i = 0; i < count; i++) {
        const struct vdisk *d = tree_image_named(&s->tree, names[i]);
        if (d && d->clones)
            each(ctx, names[i]);
    }
    s->tree.clones_counted = false;
}

static uint64_t deletions_pending(const struct store *s)
{
    uint64_t n = 0;
    list_for_each(i, &s->tree.orphans)
        n += version_unwanted(container_of(i, struct version, orphan_link));
    return n;
}

static void space_facts(struct store *s, struct store_status *o)
{
    o->size_bytes = s->super.limit_blocks * BDEV_BLOCK_SIZE;
    o->present_bytes = (bdev_blocks(s->blocks) - s->space.hole_blocks) * BDEV_BLOCK_SIZE;
    o->capacity_bytes = o->present_bytes + space_room(s) * BDEV_BLOCK_SIZE;
    o->used_percent = limit_percent(s);
    o->warned_percent = s->warned_percent;
    o->used_bytes = space_used(s) * BDEV_BLOCK_SIZE;
}

static void cache_facts(struct store *s, struct store_status *o)
{
    struct radix_cache_stats map;
    struct cache_stats blocks;
    radix_cache_get_stats(s->map, &map);
    cache_get_stats(s->data, &blocks);
    o->map_hits = map.hits;
    o->map_misses = map.misses;
    o->cache_hits = blocks.hit_blocks;
    o->cache_misses = blocks.missed_blocks;
}

void store_get_status(struct store *s, struct store_status *o)
{
    const struct index *a = &s->index[s->active], *f = &s->index[1 - s->active];
    *o = s->stats;
    snprintf(o->name, sizeof o->name, "%s", store_name(s));
    store_uuid_text(s, o->uuid);
    o->direct = s->backing.direct;
    o->on_device = backing_catalog_copy(&s->backing) != BACKING_COPY_NEEDLESS;
    o->catalog_copied = backing_catalog_copy(&s->backing) == BACKING_COPY_HELD;
    o->failed = s->failed;
    space_facts(s, o);
    cache_facts(s, o);
    o->provisioned_bytes = s->tree.provisioned_bytes;
    o->templates = s->tree.template_count;
    o->images = s->tree.image_count - s->tree.template_count;
    o->snapshots = s->tree.snapshot_count;
    o->journal_bytes = s->super.journal_blocks * BDEV_BLOCK_SIZE;
    o->journal_used_bytes = (s->journal.next_seq - s->journal.tail) * BDEV_BLOCK_SIZE;
    o->index_entries = a->capacity;
    o->index_used = a->used + f->used;
    o->held_blocks = a->held_used + f->held_used;
    o->deletions_pending = deletions_pending(s);
}

/* ---- Checkpoint on request ---- */

static void run_checkpoint(struct store_op *op)
{
    struct store *s = op->store;
    op->target_seq = s->journal.next_seq - 1;
    list_add_tail(&s->checkpoint_waiters, &op->link);
    checkpoint_request(s);
    if (s->failed) /* there will be none, and the pump says so */
        loop_defer_last(s->loop, &s->pump);
}

void store_checkpoint(struct store *s, struct store_op *op) { op_begin(s, op, run_checkpoint); }

void checkpoint_then(struct store *s, struct store_op *op, void (*finish)(struct store_op *op))
{
    op->finish = finish;
    op->store = s;
    run_checkpoint(op);
}
