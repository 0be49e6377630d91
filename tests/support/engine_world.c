/* engine_world.c - see engine_world.h. */
#include "tests/support/engine_world.h"

#include "tests/support/engine_fail.h"
#include "tests/support/unit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void world_init(struct world *w, uint64_t seed)
{
    memset(w, 0, sizeof *w);
    list_init(&w->images);
    list_init(&w->unnamed);
    list_init(&w->handles);
    w->random = seed ? seed : 1;
}

uint64_t world_random(struct world *w, uint64_t below) { return (unit_random(&w->random) >> 11) % below; }
bool world_chance(struct world *w, unsigned n) { return world_random(w, n) == 0; }

void world_new_name(struct world *w, char *name, const char *prefix)
{
    snprintf(name, IMAGE_NAME_MAX, "%s%llu", prefix, (unsigned long long)++w->names);
}

static struct object *object_new(struct world *w, enum object_kind kind, const char *name, struct content *content)
{
    struct object *o = engine_alloc(sizeof *o);
    o->kind = kind;
    o->serial = ++w->serials;
    o->content = content;
    snprintf(o->name, sizeof o->name, "%s", name);
    list_init(&o->snapshots);
    return o;
}

struct object *world_add_image(struct world *w, const char *name, struct content *content)
{
    struct object *o = object_new(w, OBJECT_IMAGE, name, content);
    list_add_tail(&w->images, &o->link);
    w->image_count++;
    return o;
}

struct object *world_add_snapshot(struct world *w, struct object *image, const char *name, struct content *content)
{
    struct object *o = object_new(w, OBJECT_SNAPSHOT, name, content);
    o->image = image;
    list_add_tail(&image->snapshots, &o->link);
    image->snapshot_count++;
    return o;
}

struct object *world_add_unnamed(struct world *w, enum object_kind kind, struct content *content)
{
    struct object *o = object_new(w, kind, "(unnamed)", content);
    list_add_tail(&w->unnamed, &o->link);
    return o;
}

void world_name_import(struct world *w, struct object *import, const char *name, bool is_template)
{
    list_remove(&import->link);
    list_add_tail(&w->images, &import->link);
    w->image_count++;
    import->kind = OBJECT_IMAGE;
    import->is_template = is_template;
    snprintf(import->name, sizeof import->name, "%s", name);
}

void world_remove(struct world *w, struct object *o)
{
    while (!list_empty(&o->snapshots))
        world_remove(w, container_of(o->snapshots.next, struct object, link));
    list_remove(&o->link);
    if (o->kind == OBJECT_IMAGE)
        w->image_count--;
    if (o->kind == OBJECT_SNAPSHOT)
        o->image->snapshot_count--;
    content_free(o->content);
    free(o);
}

void world_free(struct world *w)
{
    while (!list_empty(&w->handles))
        world_remove_handle(w, container_of(w->handles.next, struct handle, link));
    while (!list_empty(&w->images))
        world_remove(w, container_of(w->images.next, struct object, link));
    while (!list_empty(&w->unnamed))
        world_remove(w, container_of(w->unnamed.next, struct object, link));
}

void world_target(const struct object *o, char target[IMAGE_TARGET_SIZE])
{
    if (o->kind == OBJECT_SNAPSHOT)
        snprintf(target, IMAGE_TARGET_SIZE, "%.127s@%.127s", o->image->name, o->name);
    else
        snprintf(target, IMAGE_TARGET_SIZE, "%s", o->name);
}

struct object *world_pick_image(struct world *w, bool (*usable)(const struct object *))
{
    struct object *chosen = NULL;
    unsigned seen = 0;
    list_for_each(n, &w->images) {
        struct object *o = container_of(n, struct object, link);
        if (usable(o) && world_chance(w, ++seen))
            chosen = o;
    }
    return chosen;
}

struct object *world_pick_snapshot(struct world *w, bool (*usable)(const struct object *))
{
    struct object *chosen = NULL;
    unsigned seen = 0;
    list_for_each(n, &w->images)
        list_for_each(m, &container_of(n, struct object, link)->snapshots) {
            struct object *o = container_of(m, struct object, link);
            if (usable(o) && world_chance(w, ++seen))
                chosen = o;
        }
    return chosen;
}

struct handle *world_add_handle(struct world *w, struct image *img, struct object *o, bool writable)
{
    struct handle *h = engine_alloc(sizeof *h);
    h->img = img;
    h->object = o;
    h->writable = writable;
    if (writable)
        o->writer = h;
    else
        o->reader = h;
    list_add_tail(&w->handles, &h->link);
    w->handle_count++;
    return h;
}

void world_remove_handle(struct world *w, struct handle *h)
{
    if (h->writable)
        h->object->writer = NULL;
    else
        h->object->reader = NULL;
    list_remove(&h->link);
    w->handle_count--;
    free(h);
}

static struct object *find_serial(struct world *w, uint64_t serial)
{
    list_for_each(n, &w->images) {
        struct object *o = container_of(n, struct object, link);
        if (o->serial == serial)
            return o;
        list_for_each(m, &o->snapshots)
            if (container_of(m, struct object, link)->serial == serial)
                return container_of(m, struct object, link);
    }
    return NULL;
}

struct comparison {
    struct world *world;
    struct object *image; /* whose snapshots are compared; NULL: the images are */
    struct list_node *next;
    unsigned count;
};

static void compare_one(struct world *w, const struct object *o, const struct image_info *info)
{
    char target[IMAGE_TARGET_SIZE], parent[IMAGE_TARGET_SIZE];
    world_target(o, target);
    if (strcmp(info->name, target) != 0)
        engine_fail("'%s' is listed where '%s' should be", info->name, target);
    if (info->size_bytes != o->content->size_bytes)
        engine_fail("'%s' is listed with %llu bytes, has %llu", target, (unsigned long long)info->size_bytes, (unsigned long long)o->content->size_bytes);
    if (info->is_template != o->is_template || info->is_protected != o->is_protected || info->is_snapshot != (o->kind == OBJECT_SNAPSHOT))
        engine_fail("'%s' is listed with template %d, protected %d, snapshot %d", target, info->is_template, info->is_protected, info->is_snapshot);
    if (o->kind == OBJECT_IMAGE && info->snapshots != o->snapshot_count)
        engine_fail("'%s' is listed with %u snapshots, has %u", target, info->snapshots, o->snapshot_count);
    const struct object *origin = o->origin ? find_serial(w, o->origin) : NULL;
    if (origin) {
        world_target(origin, parent);
        if (strcmp(info->parent, parent) != 0)
            engine_fail("'%s' is listed as a clone of '%s', is one of '%s'", target, info->parent, parent);
    }
}

static int compare_snapshot(void *ctx, const struct image_info *info)
{
    struct comparison *c = ctx;
    if (c->next == &c->image->snapshots)
        engine_fail("'%s' is listed but should not exist", info->name);
    compare_one(c->world, container_of(c->next, struct object, link), info);
    c->next = c->next->next;
    return 0;
}

static struct object *find_image(struct world *w, const char *name)
{
    list_for_each(n, &w->images)
        if (strcmp(container_of(n, struct object, link)->name, name) == 0)
            return container_of(n, struct object, link);
    return NULL;
}

static int compare_image(void *ctx, const struct image_info *info)
{
    struct comparison *c = ctx;
    struct object *o = find_image(c->world, info->name);
    if (!o)
        engine_fail("'%s' is listed but should not exist", info->name);
    compare_one(c->world, o, info);
    c->count++;
    return 0;
}

void world_compare_names(struct world *w, struct store *s)
{
    struct comparison all = { .world = w };
    store_list(s, compare_image, &all);
    if (all.count != w->image_count)
        engine_fail("%u images are listed, %u exist", all.count, w->image_count);
    list_for_each(n, &w->images) {
        struct object *o = container_of(n, struct object, link);
        struct comparison of_one = { .world = w, .image = o, .next = o->snapshots.next };
        struct error err = ERROR_NONE;
        if (store_list_snapshots(s, o->name, compare_snapshot, &of_one, &err))
            engine_fail("snapshots of '%s' cannot be listed: %s", o->name, err.text);
        if (of_one.next != &o->snapshots)
            engine_fail("'%s@%s' is not listed", o->name, container_of(of_one.next, struct object, link)->name);
    }
}
