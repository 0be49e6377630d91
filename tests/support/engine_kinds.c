/* engine_kinds.c - the kinds of random operations: four short functions each. */
#include "tests/support/engine_tasks.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static unsigned images_most = 20, snapshots_most = 10;

void engine_limit(unsigned images, unsigned snapshots)
{
    images_most = images;
    snapshots_most = snapshots;
}

static struct world *world_of(struct task *t) { return &t->engine->world; }

/* ---- Which objects may be taken ---- */

static bool any_idle(const struct object *o) { return !o->operations; }
static bool is_running(const struct object *o) { return !o->operations && !o->is_template; }
static bool is_closed(const struct object *o) { return !o->operations && !o->writer && !o->reader; }
static bool is_plain_closed(const struct object *o) { return is_closed(o) && !o->is_template; }
static bool is_snapshottable(const struct object *o) { return is_running(o) && o->snapshot_count < snapshots_most; }
static bool snapshot_idle(const struct object *o) { return !o->operations && !o->image->operations; }
static bool snapshot_deletable(const struct object *o) { return snapshot_idle(o) && !o->is_protected && !o->reader; }
static bool snapshot_restorable(const struct object *o)
{
    return snapshot_idle(o) && is_plain_closed(o->image) && !o->image->is_protected && o->image->snapshot_count < snapshots_most;
}

static bool snapshots_deletable(const struct object *image)
{
    list_for_each(n, &image->snapshots) {
        const struct object *s = container_of(n, struct object, link);
        if (s->operations || s->is_protected || s->reader)
            return false;
    }
    return true;
}

static bool image_deletable(const struct object *o) { return is_closed(o) && !o->is_protected && snapshots_deletable(o); }
static bool image_purgeable(const struct object *o) { return any_idle(o) && o->snapshot_count && snapshots_deletable(o); }

/* Whoever reads a frozen view or a snapshot may keep the image from going and from being rolled back. */
static bool may_be_read(const struct world *w, const struct object *image)
{
    list_for_each(n, &w->unnamed)
        if (container_of(n, struct object, link)->kind == OBJECT_FROZEN)
            return true;
    list_for_each(n, &image->snapshots)
        if (container_of(n, struct object, link)->reader)
            return true;
    return false;
}

static uint64_t random_size(struct world *w)
{
    switch (world_random(w, 16)) {
    case 0: return IMAGE_SIZE_MAX;
    case 1: return (300ull << 20) + 512 * world_random(w, 100);
    case 2: return 512 * (1 + world_random(w, 16));
    case 3: return (8ull << 20) + (world_random(w, 3) << 12);
    case 4: return (100ull << 30) + 512;
    default: return 512 * (1 + world_random(w, 4096));
    }
}

/* ---- create ---- */

static bool create_prepare(struct task *t)
{
    if (world_of(t)->image_count >= images_most)
        return false;
    world_new_name(world_of(t), t->text[0], "image");
    t->number = random_size(world_of(t));
    return true;
}
static void create_submit(struct task *t) { image_create(t->engine->store, &t->op, t->text[0], t->number); }
static void create_apply(struct task *t) { world_add_image(world_of(t), t->text[0], content_new(t->number)); }
static bool first_exists(struct task *t) { return task_exists(t, t->text[0], NULL); }

/* ---- clone: of a snapshot, a template or a running image ---- */

static bool pick_source(struct task *t)
{
    struct world *w = world_of(t);
    struct object *o = world_chance(w, 2) ? world_pick_snapshot(w, snapshot_idle) : world_pick_image(w, any_idle);
    if (!o || w->image_count >= images_most)
        return false;
    task_subject(t, o);
    if (o->kind == OBJECT_SNAPSHOT)
        engine_verify(t->engine, o, true);
    task_cut(t, 0);
    return !engine_is_dead(t->engine);
}

static bool clone_prepare(struct task *t)
{
    if (!pick_source(t))
        return false;
    world_new_name(world_of(t), t->text[0], "clone");
    world_target(t->subject[0], t->text[1]);
    return true;
}

static void clone_submit(struct task *t) { image_clone(t->engine->store, &t->op, t->text[1], t->text[0]); }

static void clone_apply(struct task *t)
{
    struct object *source = t->subject[0], *o = world_add_image(world_of(t), t->text[0], task_frozen(t, 0));
    if (source->kind == OBJECT_SNAPSHOT || source->is_template)
        o->origin = source->serial;
}

/* ---- clone many ---- */

static bool clone_many_prepare(struct task *t)
{
    if (!pick_source(t))
        return false;
    t->count = 1 + (unsigned)world_random(world_of(t), 6);
    t->number = 97 + world_random(world_of(t), 8); /* so that a batch may cross a change in the number of digits */
    world_target(t->subject[0], t->text[TASK_SUBJECTS - 1]);
    world_new_name(world_of(t), t->text[TASK_SUBJECTS - 2], "many");
    strcat(t->text[TASK_SUBJECTS - 2], "-");
    for (unsigned i = 0; i < t->count; i++)
        snprintf(t->text[i], sizeof t->text[i], "%.100s%llu", t->text[TASK_SUBJECTS - 2], (unsigned long long)t->number + i);
    return true;
}

static void clone_many_submit(struct task *t)
{
    image_clone_many(t->engine->store, &t->op, t->text[TASK_SUBJECTS - 1], t->text[TASK_SUBJECTS - 2], t->number, t->count);
}

static void clone_many_apply(struct task *t)
{
    struct object *source = t->subject[0];
    for (unsigned i = 0; i < t->count; i++) {
        struct object *o = world_add_image(world_of(t), t->text[i], task_frozen(t, 0));
        if (source->kind == OBJECT_SNAPSHOT || source->is_template)
            o->origin = source->serial;
    }
}

static bool all_exist(struct task *t) { return task_all_or_none(t, t->count); }

/* ---- snapshots of one or several images at one point ---- */

static bool snapshot_prepare(struct task *t)
{
    struct world *w = world_of(t);
    unsigned wanted = world_chance(w, 3) ? 2 + (unsigned)world_random(w, 3) : 1;
    while (t->count < wanted) {
        struct object *o = world_pick_image(w, is_snapshottable);
        if (!o)
            break;
        char name[IMAGE_NAME_MAX];
        world_new_name(w, name, "s");
        task_subject(t, o);
        task_cut(t, t->count);
        snprintf(t->text[t->count++], IMAGE_TARGET_SIZE, "%.127s@%.127s", o->name, name);
    }
    return t->count != 0;
}

static void snapshot_submit(struct task *t) { snapshot_create(t->engine->store, &t->op, t->texts, t->count); }

static void snapshot_apply(struct task *t)
{
    for (unsigned i = 0; i < t->count; i++)
        world_add_snapshot(world_of(t), t->subject[i], strchr(t->text[i], '@') + 1, task_frozen(t, i));
}

/* ---- delete ---- */

static bool delete_prepare(struct task *t)
{
    struct world *w = world_of(t);
    unsigned wanted = world_chance(w, 4) ? 3 : 1;
    while (t->count < wanted) {
        struct object *o = world_pick_image(w, image_deletable);
        if (!o)
            break;
        t->may_be_busy |= may_be_read(w, o);
        t->flag |= o->snapshot_count != 0;
        task_subject(t, o);
        snprintf(t->text[t->count++], IMAGE_TARGET_SIZE, "%s", o->name);
    }
    return t->count != 0;
}

static void delete_submit(struct task *t) { image_delete(t->engine->store, &t->op, t->texts, t->count, t->flag, false); }

static void remove_subjects(struct task *t)
{
    for (unsigned i = 0; i < t->count; i++)
        world_remove(world_of(t), t->subject[i]);
}

static bool none_exist(struct task *t) { return !task_all_or_none(t, t->count); }

static bool snapshot_delete_prepare(struct task *t)
{
    struct world *w = world_of(t);
    struct object *first = world_pick_snapshot(w, snapshot_deletable);
    if (!first)
        return false;
    task_subject(t, first);
    world_target(first, t->text[t->count++]);
    struct object *other = world_chance(w, 3) ? world_pick_snapshot(w, snapshot_deletable) : NULL;
    if (other) {
        task_subject(t, other);
        world_target(other, t->text[t->count++]);
    }
    return true;
}

static void snapshot_delete_submit(struct task *t) { snapshot_delete(t->engine->store, &t->op, t->texts, t->count, false); }

static bool purge_prepare(struct task *t)
{
    struct object *o = world_pick_image(world_of(t), image_purgeable);
    if (!o)
        return false;
    task_subject(t, o);
    list_for_each(n, &o->snapshots)
        world_target(container_of(n, struct object, link), t->text[t->count++]);
    return true;
}

static void purge_submit(struct task *t) { snapshot_purge(t->engine->store, &t->op, t->subject[0]->name); }

static void purge_apply(struct task *t)
{
    while (!list_empty(&t->subject[0]->snapshots))
        world_remove(world_of(t), container_of(t->subject[0]->snapshots.next, struct object, link));
}

/* ---- rename, protect, seal, resize ---- */

static bool rename_prepare(struct task *t)
{
    struct object *o = world_pick_image(world_of(t), any_idle);
    if (!o)
        return false;
    task_subject(t, o);
    t->may_be_busy = o->writer || o->reader;
    world_new_name(world_of(t), t->text[0], "renamed");
    return true;
}
static void rename_submit(struct task *t) { image_rename(t->engine->store, &t->op, t->subject[0]->name, t->text[0]); }
static void rename_apply(struct task *t) { snprintf(t->subject[0]->name, IMAGE_NAME_MAX, "%.127s", t->text[0]); }

static bool snapshot_rename_prepare(struct task *t)
{
    struct object *o = world_pick_snapshot(world_of(t), snapshot_idle);
    if (!o)
        return false;
    task_subject(t, o);
    t->may_be_busy = o->reader != NULL;
    world_new_name(world_of(t), t->text[1], "r");
    snprintf(t->text[0], IMAGE_TARGET_SIZE, "%.127s@%.127s", o->image->name, t->text[1]);
    return true;
}
static void snapshot_rename_submit(struct task *t)
{
    snapshot_rename(t->engine->store, &t->op, t->subject[0]->image->name, t->subject[0]->name, t->text[1]);
}
static void snapshot_rename_apply(struct task *t) { snprintf(t->subject[0]->name, IMAGE_NAME_MAX, "%.127s", t->text[1]); }

static bool protect_prepare(struct task *t)
{
    struct world *w = world_of(t);
    struct object *o = world_chance(w, 2) ? world_pick_snapshot(w, snapshot_idle) : world_pick_image(w, any_idle);
    if (!o)
        return false;
    task_subject(t, o);
    world_target(o, t->text[0]);
    t->flag = !o->is_protected && world_chance(w, 2);
    return true;
}
static void protect_submit(struct task *t) { image_protect(t->engine->store, &t->op, t->text[0], t->flag); }
static void protect_apply(struct task *t) { t->subject[0]->is_protected = t->flag; }
static bool protect_happened(struct task *t)
{
    struct image_info info;
    return task_exists(t, t->text[0], &info) && info.is_protected == t->flag;
}

static bool seal_prepare(struct task *t)
{
    struct object *o = world_pick_image(world_of(t), is_plain_closed);
    if (!o)
        return false;
    task_subject(t, o);
    snprintf(t->text[0], IMAGE_TARGET_SIZE, "%s", o->name);
    return true;
}
static void seal_submit(struct task *t) { image_seal(t->engine->store, &t->op, t->text[0]); }
static void seal_apply(struct task *t) { t->subject[0]->is_template = true; }
static bool seal_happened(struct task *t)
{
    struct image_info info;
    return task_exists(t, t->text[0], &info) && info.is_template;
}

static bool resize_prepare(struct task *t)
{
    struct world *w = world_of(t);
    struct object *o = world_pick_image(w, is_running);
    if (!o)
        return false;
    uint64_t size = o->content->size_bytes;
    t->number = world_chance(w, 2) ? random_size(w) : size + 512 * (1 + world_random(w, 100));
    if (world_chance(w, 4) && size > 512)
        t->number = 512 * (1 + world_random(w, size / 512));
    t->flag = t->number < size;
    if (t->number > IMAGE_SIZE_MAX || t->number == size)
        return false;
    if (t->flag && (o->reader || (o->writer && o->writer->inflight)))
        return false; /* requests beyond the new end might be refused or not */
    if (t->flag && o->writer) {
        t->may_be_busy = true;
        t->holds = o;
        o->held = true;
    }
    t->may_be_busy |= t->flag && may_be_read(w, o);
    task_subject(t, o);
    snprintf(t->text[0], IMAGE_TARGET_SIZE, "%s", o->name);
    return true;
}
static void resize_submit(struct task *t) { image_resize(t->engine->store, &t->op, t->text[0], t->number, t->flag); }
static void resize_apply(struct task *t) { content_resize(t->subject[0]->content, t->number); }
static bool resize_happened(struct task *t)
{
    struct image_info info;
    return task_exists(t, t->text[0], &info) && info.size_bytes == t->number;
}

/* ---- an import gets its name ---- */

static bool finish_prepare(struct task *t)
{
    struct world *w = world_of(t);
    list_for_each(n, &w->handles) {
        struct handle *h = container_of(n, struct handle, link);
        if (h->object->kind != OBJECT_IMPORT || h->inflight || h->object->operations)
            continue;
        task_subject(t, h->object);
        task_cut(t, 0);
        t->holds = h->object;
        h->object->held = true;
        t->flag = world_chance(w, 2);
        world_new_name(w, t->text[0], "import");
        return true;
    }
    return false;
}

static void finish_submit(struct task *t) { image_import_finish(t->subject[0]->writer->img, &t->op, t->text[0], t->flag); }

static void finish_apply(struct task *t)
{
    world_name_import(world_of(t), t->subject[0], t->text[0], t->flag);
    if (t->subject[0]->writer) /* a crash has closed it already */
        engine_close_handle(t->engine, t->subject[0]->writer);
}

/* ---- rollback ---- */

static bool rollback_prepare(struct task *t)
{
    struct world *w = world_of(t);
    struct object *o = world_pick_snapshot(w, snapshot_restorable);
    if (!o)
        return false;
    task_subject(t, o);
    task_subject(t, o->image);
    engine_verify(t->engine, o, true);
    task_cut(t, 1);
    t->may_be_busy = may_be_read(w, o->image);
    world_target(o, t->text[1]);
    t->flag = world_chance(w, 2);
    if (t->flag) {
        world_new_name(w, t->text[2], "kept");
        snprintf(t->text[0], IMAGE_TARGET_SIZE, "%.127s@%.127s", o->image->name, t->text[2]);
    }
    return !engine_is_dead(t->engine);
}

static void rollback_submit(struct task *t) { snapshot_rollback(t->engine->store, &t->op, t->text[1], t->flag ? t->text[2] : NULL); }

static void rollback_apply(struct task *t)
{
    struct object *image = t->subject[1];
    if (t->flag)
        world_add_snapshot(world_of(t), image, t->text[2], task_frozen(t, 1));
    struct content *now = t->subject[0]->content;
    uint32_t *cut = content_cut(now);
    content_free(image->content);
    image->content = content_copy(now, cut);
    image->origin = 0;
    free(cut);
}

static bool rollback_happened(struct task *t)
{
    if (t->flag)
        return task_exists(t, t->text[0], NULL);
    struct object *image = t->subject[1];
    if (engine_is(t->engine, image->name, image->content, t->lenient ? t->durable_cut[1] : t->cut[1]))
        return false;
    if (!engine_is(t->engine, image->name, t->subject[0]->content, NULL))
        engine_fail("after an interrupted rollback '%s' is neither what it was nor '%s'", image->name, t->text[1]);
    return true;
}

/* ---- dedup: no content changes, whatever comes of it ---- */

static bool dedup_prepare(struct task *t)
{
    struct object *o = world_pick_image(world_of(t), any_idle);
    if (!o)
        return false;
    task_subject(t, o);
    snprintf(t->text[0], IMAGE_TARGET_SIZE, "%s", o->name);
    return true;
}
static void dedup_submit(struct task *t) { image_dedup(t->engine->store, &t->op, t->text[0], &t->found); }
static void dedup_apply(struct task *t) { t->engine->shared_bytes += t->found.shared_bytes; }
static bool dedup_happened(struct task *t)
{
    (void)t;
    return false;
}

const struct task_kind task_kinds[] = {
    { "create", 6, create_prepare, create_submit, create_apply, first_exists },
    { "clone", 8, clone_prepare, clone_submit, clone_apply, first_exists },
    { "clone many", 3, clone_many_prepare, clone_many_submit, clone_many_apply, all_exist },
    { "snapshot", 24, snapshot_prepare, snapshot_submit, snapshot_apply, all_exist },
    { "delete", 10, delete_prepare, delete_submit, remove_subjects, none_exist },
    { "snapshot delete", 14, snapshot_delete_prepare, snapshot_delete_submit, remove_subjects, none_exist },
    { "purge", 2, purge_prepare, purge_submit, purge_apply, none_exist },
    { "rename", 3, rename_prepare, rename_submit, rename_apply, first_exists },
    { "snapshot rename", 3, snapshot_rename_prepare, snapshot_rename_submit, snapshot_rename_apply, first_exists },
    { "protect", 4, protect_prepare, protect_submit, protect_apply, protect_happened },
    { "seal", 2, seal_prepare, seal_submit, seal_apply, seal_happened },
    { "resize", 6, resize_prepare, resize_submit, resize_apply, resize_happened },
    { "import finish", 6, finish_prepare, finish_submit, finish_apply, first_exists },
    { "dedup", 4, dedup_prepare, dedup_submit, dedup_apply, dedup_happened },
    { "rollback", 6, rollback_prepare, rollback_submit, rollback_apply, rollback_happened },
    { NULL, 0, NULL, NULL, NULL, NULL },
};
