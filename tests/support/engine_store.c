/* engine_store.c - the life of a store under test: made, opened, closed, killed, cut.
 *
 * A crash is memory_kill or memory_power_cut at any moment, or, armed beforehand, after a number of device I/Os, wherever
 * the engine then is: from that I/O on the device answers nothing but errors until the crash is carried out. Nothing turns
 * the loop once the store is dead, so that no answer of the dead store is believed. */
#include "parallax/store/memory.h"
#include "parallax/store_backing.h"
#include "tests/support/engine.h"

#include "base/clock.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PATIENCE_MS 30000u

static void must(int err, const char *what, const struct error *why)
{
    if (err)
        engine_fail("%s: %s (%d)", what, why && why->text[0] ? why->text : strerror(-err), err);
}

static void blocking(struct engine *e, bool begins)
{
    if (e->blocking)
        e->blocking(e, begins);
}

static void opening(struct engine *e)
{
    if (e->opening)
        e->opening(e);
}

static int try_open(struct engine *e, struct error *err)
{
    struct backing_open_options opt = { .command = "the test" };
    blocking(e, true);
    opening(e);
    int rc = *e->url ? backing_open(e->url, e->loop, &opt, &e->backing, err) : 0;
    if (!rc) {
        rc = store_open_backing(&e->backing, e->loop, &e->options, &e->store, err);
        if (rc && *e->url)
            e->backing.close(&e->backing);
    }
    blocking(e, false);
    return rc;
}

static void open_store(struct engine *e)
{
    struct error err = ERROR_NONE;
    must(try_open(e, &err), "opening the store", &err);
}

/* The error of store_close; a backing on disk is closed with it. */
static int close_store(struct engine *e)
{
    blocking(e, true);
    int err = store_close(e->store);
    e->store = NULL;
    if (*e->url)
        e->backing.close(&e->backing);
    blocking(e, false);
    return err;
}

static void begin(struct engine *e, uint64_t seed, uint64_t store_bytes, uint32_t index_entries)
{
    memset(e, 0, sizeof *e);
    list_init(&e->ios);
    list_init(&e->tasks);
    world_init(&e->world, seed);
    must(loop_create(&e->loop), "making a loop", NULL);
    e->store_bytes = store_bytes;
    e->armed_writes = ENGINE_NEVER;
    e->options.index_entries = index_entries;
    e->options.map_cache_bytes = 256u << 10;
    e->options.block_cache_bytes = 1u << 20;
    e->options.spare_bytes = 1u << 18; /* so that space is given back and taken again all the time */
    e->options.trim_after_ms = 1;
    e->options.reclaim_blocks = 400; /* so that deletions take several checkpoints */
}

static void open_fresh(struct engine *e)
{
    struct store_status status;
    open_store(e);
    engine_checkpoint(e);
    store_get_status(e->store, &status);
    e->fresh_used_bytes = status.used_bytes;
}

void engine_start(struct engine *e, uint64_t seed, uint64_t store_bytes, uint32_t index_entries)
{
    begin(e, seed, store_bytes, index_entries);
    struct memory_options opt = { .loop = e->loop, .seed = seed, .initial_blocks = store_initial_blocks(store_bytes) };
    struct error err = ERROR_NONE;
    must(memory_create(&opt, &e->backing), "making a store in memory", NULL);
    must(store_create_backing(&e->backing, store_bytes, &err), "laying the store out", &err);
    open_fresh(e);
}

void engine_start_at(struct engine *e, uint64_t seed, uint64_t store_bytes, uint32_t index_entries, const char *url)
{
    struct error err = ERROR_NONE;
    struct store_create_options opt = { .size_bytes = store_bytes };
    begin(e, seed, store_bytes, index_entries);
    must(store_create(url, &opt, &err), "creating the store", &err);
    snprintf(e->url, sizeof e->url, "%s", url);
    open_fresh(e);
}

void engine_end(struct engine *e)
{
    engine_drain(e);
    while (!list_empty(&e->world.handles))
        engine_close_handle(e, container_of(e->world.handles.next, struct handle, link));
    must(close_store(e), "closing the store", NULL);
    if (!*e->url)
        e->backing.close(&e->backing);
    world_free(&e->world);
    loop_destroy(e->loop);
}

static bool fault_has_come(const struct engine *e)
{
    return e->armed_writes != ENGINE_NEVER && memory_fault_hits((struct backing *)(uintptr_t)&e->backing) > e->armed_hits;
}

bool engine_is_dead(const struct engine *e) { return !e->store || fault_has_come(e); }

void engine_arm_crash(struct engine *e, enum content_crash kind, uint64_t writes)
{
    struct memory_fault fault = { .kinds = MEMORY_WRITE | MEMORY_FLUSH, .nth = writes + 1, .error = -EIO, .partial = true, .lasting = true };
    e->armed_kind = kind;
    e->armed_writes = writes;
    e->armed_hits = memory_fault_hits(&e->backing);
    memory_fail_io(&e->backing, writes == ENGINE_NEVER ? NULL : &fault);
}

/* The present backing dies; e->backing becomes what is left of it. */
static void replace_backing(struct engine *e, enum content_crash kind)
{
    struct backing left;
    uint64_t seed = world_random(&e->world, UINT64_MAX >> 12) + 1;
    must(kind == CONTENT_KILL ? memory_kill(&e->backing, seed, e->loop, &left) : memory_power_cut(&e->backing, seed, e->loop, &left), "ending the device", NULL);
    if (e->store)
        store_abandon(e->store);
    e->store = NULL;
    engine_forget_ios(e);
    e->backing.close(&e->backing);
    e->backing = left;
    e->armed_writes = ENGINE_NEVER;
}

void engine_turn(struct engine *e, int timeout_ms)
{
    if (e->store)
        loop_turn(e->loop, timeout_ms);
    /* Here and not later: what the store has borrowed of its callers is still there. */
    if (e->store && fault_has_come(e))
        replace_backing(e, e->armed_kind);
    if (e->turned)
        e->turned(e);
}

void engine_wait(struct engine *e, bool (*condition)(struct engine *, void *), void *ctx, const char *what)
{
    uint64_t begun_ms = clock_monotonic_ms() - e->paused_ms;
    while (!condition(e, ctx) && !engine_is_dead(e)) {
        engine_turn(e, 20);
        if (clock_monotonic_ms() - e->paused_ms - begun_ms > PATIENCE_MS)
            engine_fail("%s does not end; %u requests and %u operations are under way", what, e->io_count, e->task_count);
    }
}

static bool nothing_under_way(struct engine *e, void *ctx)
{
    (void)ctx;
    return !e->io_count && !e->task_count;
}

void engine_drain(struct engine *e)
{
    engine_wait(e, nothing_under_way, NULL, "a drain");
    if (engine_is_dead(e))
        return;
    list_for_each(n, &e->world.images)
        content_prune(container_of(n, struct object, link)->content);
}

static void drop_unnamed(struct engine *e)
{
    while (!list_empty(&e->world.unnamed))
        world_remove(&e->world, container_of(e->world.unnamed.next, struct object, link));
}

void engine_reopen(struct engine *e)
{
    engine_drain(e);
    while (!engine_is_dead(e) && !list_empty(&e->world.handles))
        engine_close_handle(e, container_of(e->world.handles.next, struct handle, link));
    if (engine_is_dead(e))
        return;
    drop_unnamed(e);
    int err = close_store(e);
    bool died = fault_has_come(e);
    if (err && !e->faulty && !died)
        engine_fail("closing the store: %d", err);
    if (died || err) { /* what did not end in order */
        replace_backing(e, e->armed_kind);
        engine_crash(e, e->armed_kind, 0);
        return;
    }
    list_for_each(n, &e->world.images) { /* an orderly end is a checkpoint */
        struct content *c = container_of(n, struct object, link)->content;
        uint32_t *cut = content_cut(c);
        content_durable(c, cut, c->count);
        free(cut);
    }
    open_store(e);
    world_compare_names(&e->world, e->store);
}

void engine_kill(struct engine *e)
{
    replace_backing(e, CONTENT_KILL);
    open_store(e);
}

static enum content_crash recover(struct engine *e, enum content_crash kind, unsigned cuts)
{
    for (; cuts; cuts--) {
        struct error err = ERROR_NONE;
        enum content_crash next = world_chance(&e->world, 2) ? CONTENT_KILL : CONTENT_POWER_CUT;
        engine_arm_crash(e, next, world_random(&e->world, world_chance(&e->world, 2) ? 4 : 40));
        struct store *s;
        opening(e);
        int rc = store_open_backing(&e->backing, e->loop, &e->options, &s, &err);
        if (rc && !fault_has_come(e))
            engine_fail("opening the store after a crash: %s (%d)", err.text, rc);
        e->store = rc ? NULL : s;
        engine_trace("recovery %s; then another %s", rc ? "was cut" : "ended", next == CONTENT_KILL ? "kill" : "power cut");
        replace_backing(e, next);
        if (next == CONTENT_POWER_CUT && rc)
            kind = next;
    }
    open_store(e);
    return kind;
}

static void crash_object(struct object *o, enum content_crash kind)
{
    o->operations = 0;
    content_crash(o->content, kind);
    list_for_each(n, &o->snapshots)
        crash_object(container_of(n, struct object, link), kind);
}

/* The store is open again: what is there is compared with what the crash allows. */
static void judge(struct engine *e, enum content_crash kind)
{
    engine_judge_tasks(e, kind);
    drop_unnamed(e);
    list_for_each(n, &e->world.images)
        crash_object(container_of(n, struct object, link), kind);
    world_compare_names(&e->world, e->store);
    engine_verify_all(e, true);
    engine_check(e);
    e->crashes++;
}

static void drop_handles(struct engine *e)
{
    while (!list_empty(&e->world.handles))
        world_remove_handle(&e->world, container_of(e->world.handles.next, struct handle, link));
}

void engine_crash(struct engine *e, enum content_crash kind, unsigned cuts_in_recovery)
{
    if (!e->store)
        kind = e->armed_kind;
    else
        replace_backing(e, kind);
    engine_trace("%llu: %s", (unsigned long long)engine_where.step, kind == CONTENT_KILL ? "KILL" : "POWER CUT");
    drop_handles(e);
    judge(e, recover(e, kind, cuts_in_recovery));
}

int engine_reach(struct engine *e, const char *url, struct error *err)
{
    engine_forget_ios(e);
    drop_handles(e);
    e->store = NULL;
    must(loop_create(&e->loop), "making a loop", NULL);
    snprintf(e->url, sizeof e->url, "%s", url);
    return try_open(e, err);
}

void engine_land(struct engine *e, const char *url, enum content_crash kind)
{
    struct error err = ERROR_NONE;
    must(engine_reach(e, url, &err), "opening the store after a crash", &err);
    judge(e, kind);
}

unsigned engine_land_damaged(struct engine *e)
{
    drop_unnamed(e);
    list_for_each(n, &e->world.images)
        crash_object(container_of(n, struct object, link), CONTENT_POWER_CUT);
    world_compare_names(&e->world, e->store);
    unsigned errors = 0;
    list_for_each(n, &e->world.images) {
        struct object *o = container_of(n, struct object, link);
        list_for_each(m, &o->snapshots)
            errors += engine_verify_damaged(e, container_of(m, struct object, link));
        errors += engine_verify_damaged(e, o);
    }
    return errors;
}
