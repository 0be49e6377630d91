/* engine_handles.c - opening and closing images, imports and frozen views at random. */
#include "tests/support/engine.h"

#include <errno.h>
#include <stdlib.h>

#define HANDLES_MOST 6u

void engine_close_handle(struct engine *e, struct handle *h)
{
    struct object *o = h->object;
    image_close(h->img);
    world_remove_handle(&e->world, h);
    if (o->kind == OBJECT_FROZEN || o->kind == OBJECT_IMPORT) /* nothing else holds these */
        world_remove(&e->world, o);
}

static struct handle *pick_idle(struct world *w)
{
    struct handle *chosen = NULL;
    unsigned seen = 0;
    list_for_each(n, &w->handles) {
        struct handle *h = container_of(n, struct handle, link);
        if (!h->inflight && !h->object->operations && world_chance(w, ++seen))
            chosen = h;
    }
    return chosen;
}

static bool may_write(const struct object *o) { return !o->operations && !o->is_template && !o->writer; }
static bool may_read(const struct object *o) { return !o->operations && !o->reader; }

static void open_one(struct engine *e)
{
    struct world *w = &e->world;
    bool write = !world_chance(w, 4);
    struct object *o = write ? world_pick_image(w, may_write) : world_chance(w, 2) ? world_pick_image(w, may_read) : world_pick_snapshot(w, may_read);
    if (!o || (o->kind == OBJECT_SNAPSHOT && o->image->operations))
        return;
    /* What a clone of a running image got must be known before it is changed. After a write that failed nothing is ever known:
     * it may still come true after a crash, and the generator leaves its blocks alone. */
    if (write && !e->faulty && !content_settled(o->content)) {
        o->operations++;
        engine_verify(e, o, true);
        o->operations--;
        if (engine_is_dead(e))
            return;
    }
    struct image_open_options opt = { .mode = write ? IMAGE_READ_WRITE : IMAGE_READ_ONLY, .holder = "the generator" };
    char target[IMAGE_TARGET_SIZE];
    struct image *img;
    struct error err = ERROR_NONE;
    world_target(o, target);
    int rc = image_open(e->store, target, &opt, &img, &err);
    if (rc && e->faulty)
        return;
    if (rc)
        engine_fail("opening '%s': %s (%d)", target, err.text, rc);
    engine_trace("%llu: opened '%s'%s", (unsigned long long)engine_where.step, target, write ? " for writing" : "");
    world_add_handle(w, img, o, write);
}

void engine_random_handle(struct engine *e)
{
    struct world *w = &e->world;
    if (w->handle_count < HANDLES_MOST && !world_chance(w, 3)) {
        open_one(e);
        return;
    }
    struct handle *h = pick_idle(w);
    if (!h)
        return;
    engine_trace("%llu: closing '%s'", (unsigned long long)engine_where.step, h->object->name);
    engine_close_handle(e, h);
}
