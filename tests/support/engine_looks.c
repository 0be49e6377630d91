/* engine_looks.c - the slow looks and the images without names: differences, maps, usage, dry runs, frozen views, imports.
 *
 * Each begins something and waits for it, while the requests of other steps go on. */
#include "tests/support/engine.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK_BYTES 4096u

static bool look_failed(struct engine *e, int err)
{
    return engine_is_dead(e) || (err && (e->faulty || (e->may_fill && err == -ENOSPC)));
}

/* ---- Differences ---- */

struct difference {
    struct content *from, *to; /* from: NULL, an empty image */
    uint64_t end_bytes;
    uint32_t next;   /* first index not yet accounted for */
    bool any;
    const char *name, *from_name;
};

static const uint32_t zeroes[CONTENT_SECTORS];

static const uint32_t *ids_of(const struct content *c, uint32_t index)
{
    return c && index < c->count ? content_newest(&c->block[index])->id : zeroes;
}

/* Within the size of `to`. */
static bool differs(const struct difference *d, uint32_t index)
{
    uint64_t begin = content_block_of(index) * BLOCK_BYTES, left = d->to->size_bytes - begin;
    size_t sectors = left < BLOCK_BYTES ? left / 512 : CONTENT_SECTORS;
    return memcmp(ids_of(d->from, index), ids_of(d->to, index), sectors * sizeof zeroes[0]) != 0;
}

static void expect_same_below(struct difference *d, uint64_t block)
{
    uint32_t stop = content_index_below(block);
    for (; d->next < stop && d->next < d->to->count; d->next++)
        if (differs(d, d->next))
            engine_fail("the difference from '%s' to '%s' misses block %llu (ids %u … %u, then %u … %u; ended at %llu)", d->from_name, d->name,
                        (unsigned long long)content_block_of(d->next), ids_of(d->from, d->next)[0], ids_of(d->from, d->next)[7], ids_of(d->to, d->next)[0],
                        ids_of(d->to, d->next)[7], (unsigned long long)d->end_bytes);
}

static int difference_run(void *ctx, uint64_t offset, uint64_t length, bool is_data)
{
    struct difference *d = ctx;
    if (offset < d->end_bytes || !length || offset >= d->to->size_bytes || length > (d->to->size_bytes + BLOCK_BYTES - 1) / BLOCK_BYTES * BLOCK_BYTES - offset)
        engine_fail("a difference of '%s' is told as %llu+%llu", d->name, (unsigned long long)offset, (unsigned long long)length);
    expect_same_below(d, offset / BLOCK_BYTES);
    d->end_bytes = offset + length;
    uint32_t stop = content_index_below((d->end_bytes + BLOCK_BYTES - 1) / BLOCK_BYTES);
    for (; d->next < stop && d->next < d->to->count; d->next++)
        if (!is_data && memcmp(ids_of(d->to, d->next), zeroes, sizeof zeroes) != 0)
            engine_fail("the difference to '%s' tells block %llu as zero", d->name, (unsigned long long)content_block_of(d->next));
    d->any = true;
    return 0;
}

static bool snapshot_free(const struct object *o) { return !o->operations && !o->image->operations; }

/* ---- Which blocks are stored ---- */

struct stored {
    const char *name;
    uint64_t end_bytes;    /* told so far */
    uint64_t sum, blocks;  /* of the blocks told as data */
};

static void add_stored(struct stored *t, uint64_t offset, uint64_t length)
{
    for (uint64_t block = offset / BLOCK_BYTES; block * BLOCK_BYTES < offset + length; block++) {
        t->sum += (block + 1) * 0x9e3779b97f4a7c15ull ^ block << 13;
        t->blocks++;
    }
}

static int map_run(void *ctx, uint64_t offset, uint64_t length, bool is_data)
{
    struct stored *t = ctx;
    if (offset != t->end_bytes || !length)
        engine_fail("the map of '%s' tells %llu+%llu after %llu", t->name, (unsigned long long)offset, (unsigned long long)length, (unsigned long long)t->end_bytes);
    t->end_bytes = offset + length;
    if (is_data)
        add_stored(t, offset, length);
    return 0;
}

static int stored_run(void *ctx, uint64_t offset, uint64_t length, bool is_data)
{
    if (is_data)
        add_stored(ctx, offset, length);
    return 0;
}

#define MAP_MOST_BYTES (4ull << 30) /* 16 TiB in pieces of some MiB would take minutes */

/* The map of a snapshot, asked for in pieces before its changes are in trees, is what a walk of its tree finds afterwards. */
static void look_map(struct engine *e)
{
    struct object *o = world_pick_snapshot(&e->world, snapshot_free);
    char name[IMAGE_TARGET_SIZE];
    if (!o || o->content->size_bytes > MAP_MOST_BYTES)
        return;
    o->operations++;
    o->image->operations++;
    world_target(o, name);
    struct stored mapped = { .name = name }, walked = { .name = name };
    struct engine_run run;
    uint64_t before = UINT64_MAX;
    int err = 0;
    while (!err && mapped.end_bytes != before && !engine_is_dead(e)) {
        before = mapped.end_bytes;
        engine_run_arm(&run);
        image_map(e->store, &run.op, name, before, BLOCK_BYTES * (1 + world_random(&e->world, 2048)), map_run, &mapped);
        err = engine_run(e, &run, "a map");
    }
    if (!err && !engine_is_dead(e)) {
        engine_run_arm(&run);
        image_diff(e->store, &run.op, NULL, name, stored_run, &walked);
        err = engine_run(e, &run, "a difference");
    }
    if (err && !look_failed(e, err))
        engine_fail("map of '%s': %s", name, run.op.error.text);
    if (!err && !engine_is_dead(e) && (mapped.sum != walked.sum || mapped.blocks != walked.blocks || mapped.end_bytes != o->content->size_bytes))
        engine_fail("the map of '%s' has %llu blocks in %llu bytes, its tree %llu blocks", name, (unsigned long long)mapped.blocks,
                    (unsigned long long)mapped.end_bytes, (unsigned long long)walked.blocks);
    o->operations--;
    o->image->operations--;
}

static void look_difference(struct engine *e)
{
    struct object *to = world_pick_snapshot(&e->world, snapshot_free), *from = NULL;
    if (!to)
        return;
    if (!world_chance(&e->world, 3)) {
        unsigned seen = 0;
        list_for_each(n, &to->image->snapshots)
            if (world_chance(&e->world, ++seen))
                from = container_of(n, struct object, link);
    }
    if (from && from->operations)
        return;
    to->operations++;
    to->image->operations++;
    engine_verify(e, to, true);
    if (from)
        engine_verify(e, from, true);
    char to_name[IMAGE_TARGET_SIZE], from_name[IMAGE_TARGET_SIZE];
    world_target(to, to_name);
    if (from)
        world_target(from, from_name);
    bool known = content_settled(to->content) && (!from || content_settled(from->content)); /* not if a read failed by order */
    if (!engine_is_dead(e) && known) {
        struct difference d = { .from = from ? from->content : NULL, .to = to->content, .name = to_name, .from_name = from ? from_name : "" };
        struct engine_run run;
        engine_run_arm(&run);
        image_diff(e->store, &run.op, from ? from_name : NULL, to_name, difference_run, &d);
        int err = engine_run(e, &run, "a difference");
        if (err && !look_failed(e, err))
            engine_fail("difference from '%s' to '%s': %s", from ? from_name : "", to_name, run.op.error.text);
        if (!err && !engine_is_dead(e))
            expect_same_below(&d, UINT64_MAX >> 12);
        if (!err && from == to && d.any)
            engine_fail("'%s' differs from itself", to_name);
    }
    to->operations--;
    to->image->operations--;
}

/* ---- Usage and dry runs ---- */

static bool image_idle(const struct object *o) { return !o->operations; }
static bool image_alone(const struct object *o) { return !o->operations && !o->writer && !o->reader && !o->is_protected && !o->snapshot_count; }

static void look_usage(struct engine *e)
{
    struct object *o = world_chance(&e->world, 2) ? world_pick_snapshot(&e->world, snapshot_free) : world_pick_image(&e->world, image_idle);
    if (!o || o->kind != OBJECT_SNAPSHOT)
        o = world_pick_image(&e->world, image_alone);
    if (!o)
        return;
    o->operations++;
    if (o->image)
        o->image->operations++;
    char target[IMAGE_TARGET_SIZE];
    world_target(o, target);
    struct image_usage usage = { 0 };
    struct engine_run run;
    engine_run_arm(&run);
    image_get_usage(e->store, &run.op, target, &usage);
    int err = engine_run(e, &run, "a look at usage");
    if (err && !look_failed(e, err))
        engine_fail("usage of '%s': %s", target, run.op.error.text);
    uint64_t data = 0;
    for (uint32_t i = 0; i < o->content->count; i++)
        if (content_block_exact(&o->content->block[i]))
            data += memcmp(ids_of(o->content, i), zeroes, sizeof zeroes) != 0;
    if (!err && !engine_is_dead(e) && usage.data_bytes < data * BLOCK_BYTES)
        engine_fail("'%s' holds %llu blocks that are not zero, and is said to hold %llu bytes", target, (unsigned long long)data,
                    (unsigned long long)usage.data_bytes);
    o->operations--;
    if (o->image)
        o->image->operations--;
}

static void look_dry_run(struct engine *e)
{
    struct object *o = world_pick_image(&e->world, image_alone);
    if (!o)
        return;
    o->operations++;
    const char *name = o->name;
    struct engine_run run;
    engine_run_arm(&run);
    image_delete(e->store, &run.op, &name, 1, false, true);
    int err = engine_run(e, &run, "a dry run");
    if (err && err != -EBUSY && !look_failed(e, err)) /* a frozen view of it may be open */
        engine_fail("dry run of deleting '%s': %s", name, run.op.error.text);
    o->operations--;
}

/* ---- Frozen views and imports ---- */

static void look_frozen(struct engine *e)
{
    struct object *o = world_pick_image(&e->world, image_idle);
    if (!o)
        return;
    char target[IMAGE_TARGET_SIZE];
    world_target(o, target);
    uint32_t *cut = content_cut(o->content);
    o->operations++;
    o->content->pins++;
    struct engine_run run;
    engine_run_arm(&run);
    image_open_frozen(e->store, &run.op, target);
    int err = engine_run(e, &run, "freezing an image");
    if (err && !look_failed(e, err))
        engine_fail("freezing '%s': %s", target, run.op.error.text);
    if (!err && !engine_is_dead(e)) {
        struct object *view = world_add_unnamed(&e->world, OBJECT_FROZEN, content_copy(o->content, cut));
        world_add_handle(&e->world, run.op.image, view, false);
        if (world_chance(&e->world, 2))
            engine_verify(e, view, true);
    }
    o->content->pins--;
    o->operations--;
    free(cut);
}

void engine_begin_import(struct engine *e)
{
    struct engine_run run;
    uint64_t size = 512 * (1 + world_random(&e->world, 4096));
    engine_run_arm(&run);
    image_import_begin(e->store, &run.op, size);
    int err = engine_run(e, &run, "beginning an import");
    if (err && !look_failed(e, err))
        engine_fail("beginning an import: %s", run.op.error.text);
    if (!err && !engine_is_dead(e))
        world_add_handle(&e->world, run.op.image, world_add_unnamed(&e->world, OBJECT_IMPORT, content_new(size)), true);
}

static void look_import(struct engine *e)
{
    unsigned imports = 0;
    list_for_each(n, &e->world.unnamed)
        imports += container_of(n, struct object, link)->kind == OBJECT_IMPORT;
    if (imports < 2)
        engine_begin_import(e);
}

void engine_random_look(struct engine *e)
{
    switch (world_random(&e->world, 6)) {
    case 0: look_difference(e); break;
    case 4: look_map(e); break;
    case 1: look_usage(e); break;
    case 2: look_dry_run(e); break;
    case 3: look_frozen(e); break;
    default: look_import(e); break;
    }
}
