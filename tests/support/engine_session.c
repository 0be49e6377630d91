/* engine_session.c - the random mix of everything, and the end at which all space must be free again. */
#include "tests/support/engine.h"

#include "base/clock.h"

#include <errno.h>
#include <stdlib.h>

#define IOS_MOST 48u
#define TASKS_MOST 4u

static bool few_under_way(struct engine *e, void *ctx)
{
    (void)ctx;
    return e->io_count < IOS_MOST && e->task_count < TASKS_MOST;
}

static void submit_some(struct engine *e)
{
    unsigned count = 1 + (unsigned)world_random(&e->world, world_chance(&e->world, 8) ? 40 : 6);
    while (count--)
        engine_random_io(e);
}

static void turn_some(struct engine *e)
{
    for (unsigned turns = (unsigned)world_random(&e->world, 6); turns; turns--)
        engine_turn(e, 0);
}

static void verify_one(struct engine *e)
{
    static unsigned round;
    struct object *o = NULL;
    unsigned at = round++ % (e->world.image_count ? e->world.image_count : 1);
    list_for_each(n, &e->world.images)
        if (!at--)
            o = container_of(n, struct object, link);
    if (!o || o->operations || (o->writer && o->writer->inflight))
        return;
    o->operations++; /* it must not go while it is read */
    engine_verify(e, o, false);
    o->operations--;
}

void engine_step(struct engine *e)
{
    struct world *w = &e->world;
    engine_where.step++;
    engine_wait(e, few_under_way, NULL, "waiting for room");
    if (engine_is_dead(e))
        return;
    uint64_t what = world_random(w, 200);
    if (what < 90)
        submit_some(e);
    else if (what < 130)
        turn_some(e);
    else if (what < 165)
        engine_random_task(e);
    else if (what < 182)
        engine_random_handle(e);
    else if (what < 188)
        engine_drain(e);
    else if (what < 192)
        engine_random_look(e);
    else if (what < 195 && e->armed_writes == ENGINE_NEVER && !e->faulty && !e->may_be_cut) /* its helpers are unknown to the oracle should it end midway */
        engine_random_refusal(e);
    else if (what < 197)
        verify_one(e);
    else if (what < 199)
        engine_checkpoint(e);
    else if (world_chance(w, 4))
        engine_check(e);
}

static void delete_objects(struct engine *e)
{
    while (!list_empty(&e->world.images)) {
        struct object *o = container_of(e->world.images.next, struct object, link);
        const char *name = o->name;
        struct engine_run run;
        list_for_each(n, &o->snapshots) {
            struct object *s = container_of(n, struct object, link);
            char target[IMAGE_TARGET_SIZE];
            world_target(s, target);
            engine_run_arm(&run);
            image_protect(e->store, &run.op, target, false);
            if (engine_run(e, &run, "unprotecting a snapshot"))
                engine_fail("unprotecting '%s': %s", target, run.op.error.text);
        }
        engine_run_arm(&run);
        image_protect(e->store, &run.op, name, false);
        engine_run(e, &run, "unprotecting an image");
        engine_run_arm(&run);
        image_delete(e->store, &run.op, &name, 1, true, false);
        if (engine_run(e, &run, "deleting an image"))
            engine_fail("deleting '%s': %s", name, run.op.error.text);
        world_remove(&e->world, o);
    }
}

void engine_delete_all(struct engine *e)
{
    struct store_status status;
    uint64_t begun_ms = clock_monotonic_ms();
    engine_drain(e);
    while (!list_empty(&e->world.handles))
        engine_close_handle(e, container_of(e->world.handles.next, struct handle, link));
    delete_objects(e);
    do {
        engine_checkpoint(e);
        store_get_status(e->store, &status);
        if (clock_monotonic_ms() - begun_ms > 20000)
            engine_fail("%llu deletions never end", (unsigned long long)status.deletions_pending);
    } while (status.deletions_pending);
    engine_checkpoint(e); /* what the last deletion freed is held until one more checkpoint contains it */
    store_get_status(e->store, &status);
    if (status.used_bytes != e->fresh_used_bytes)
        engine_fail("with everything deleted %llu bytes are in use; a new store uses %llu", (unsigned long long)status.used_bytes,
                    (unsigned long long)e->fresh_used_bytes);
    engine_check(e);
}
