/* checkpoint.c - the loop's side of checkpoints: when, the cut and its plan, the installation of the result.
 *
 * States: IDLE -> CUTTING (cut made, later changes go to the other index; waiting for writes before the cut) -> RUNNING (the
 * thread works) -> IDLE. What the catalog gets is the state at the cut exactly: records are encoded at the cut, and the
 * thread adds only what it makes itself (roots, runs, the space map).
 * Order on the device: nodes, runs, space-map pages; flush; one catalog transaction (C1). Then, here: roots become visible,
 * the journal's tail moves (C2), freed blocks are released when no older reader is left (C3, H1). */
#include "parallax/checkpoint.h"

#include "base/endian.h"
#include "base/log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define REFILL_BLOCKS 1024u
#define IDLE_MS 2000u

/* Blocks for the thread. When all that is free is lent to the data, part of that loan is taken back: the reserve of S1 counts
 * it as free. */
static int lend_blocks(struct store *s, struct space_run *out)
{
    int err = space_take(&s->space, REFILL_BLOCKS, out);
    uint64_t lent = s->run.end - s->run.next;
    if (err != -ENOSPC || lent == 0)
        return err;
    uint64_t part = lent < REFILL_BLOCKS ? lent : REFILL_BLOCKS;
    s->run.end -= part;
    *out = (struct space_run){ s->run.end, s->run.end + part };
    return 0;
}

static void refill_run(struct loop_task *t)
{
    struct checkpoint *c = container_of(t, struct checkpoint, refill_task);
    pthread_mutex_lock(&c->lock);
    c->refill_error = lend_blocks(c->store, &c->run);
    c->refill_done = true;
    pthread_cond_signal(&c->refilled);
    pthread_mutex_unlock(&c->lock);
}

static void idle_expired(struct loop_timer *t)
{
    struct store *s = container_of(t, struct store, idle_timer);
    s->checkpoint->touched = false;
    checkpoint_request(s);
}

int checkpoint_init(struct store *s)
{
    struct checkpoint *c = s->checkpoint = calloc(1, sizeof *c);
    if (!c)
        return -ENOMEM;
    c->store = s;
    c->gather.entries = malloc(DEAD_RUN_ENTRIES * sizeof *c->gather.entries);
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->refilled, NULL);
    c->refill_task.run = refill_run;
    s->idle_timer.expired = idle_expired;
    return c->gather.entries ? 0 : -ENOMEM;
}

/* ---- The plan ---- */

int checkpoint_add_change(struct checkpoint *c, const void *key, size_t key_length, const void *value, size_t value_length)
{
    if (c->change_count == c->change_capacity) {
        uint32_t capacity = c->change_capacity ? c->change_capacity * 2 : 64;
        struct catalog_change *grown = realloc(c->changes, capacity * sizeof *grown);
        if (!grown)
            return -ENOMEM;
        c->changes = grown;
        c->change_capacity = capacity;
    }
    uint8_t *bytes = malloc(key_length + value_length);
    if (!bytes)
        return -ENOMEM;
    memcpy(bytes, key, key_length);
    if (value)
        memcpy(bytes + key_length, value, value_length);
    c->changes[c->change_count++] = (struct catalog_change){ bytes, key_length, value ? bytes + key_length : NULL, value_length };
    return 0;
}

static void plan_free(struct checkpoint *c)
{
    for (uint32_t i = 0; i < c->change_count; i++)
        free((void *)(uintptr_t)c->changes[i].key);
    for (uint32_t i = 0; i < c->line_count; i++)
        free(c->lines[i].ranges);
    free(c->changes);
    free(c->versions);
    free(c->lines);
    free(c->deletions);
    free(c->order);
    c->changes = NULL;
    c->versions = NULL;
    c->lines = NULL;
    c->deletions = NULL;
    c->order = NULL;
    c->change_count = c->change_capacity = c->version_count = c->line_count = c->deletion_count = c->order_count = 0;
}

static bool wants_deletion(const struct version *v)
{
    return version_unwanted(v) && v->readers == 0 && v->plan_mark == PLAN_NONE;
}

/* Versions to delete now: no two of them neighbours (V4). */
static int plan_deletions(struct checkpoint *c)
{
    struct tree *t = &c->store->tree;
    c->deletions = calloc(DELETIONS_MAX, sizeof *c->deletions);
    if (!c->deletions)
        return -ENOMEM;
    list_for_each(n, &t->orphans) {
        struct version *v = container_of(n, struct version, orphan_link);
        if (c->deletion_count == DELETIONS_MAX)
            break;
        if (!wants_deletion(v))
            continue;
        struct version *child = v->child_count ? container_of(v->children.next, struct version, sibling) : NULL;
        if ((child && child->plan_mark == PLAN_DELETED) || (v->parent && v->parent->plan_mark == PLAN_DELETED))
            continue;
        v->plan_mark = PLAN_DELETED;
        tree_dirty_version(t, v);
        if (child) {
            child->plan_mark = PLAN_NEIGHBOUR;
            tree_dirty_version(t, child);
        }
        if (v->parent)
            v->parent->plan_mark = PLAN_NEIGHBOUR;
        c->deletions[c->deletion_count++] = (struct deletion){ .v = v, .child = child, .parent = v->parent };
    }
    for (uint32_t i = 0; i < c->deletion_count; i++) {
        struct deletion *d = &c->deletions[i];
        d->v->plan_mark = PLAN_NONE;
        if (d->child)
            d->child->plan_mark = PLAN_NONE;
        if (d->parent)
            d->parent->plan_mark = PLAN_NONE;
    }
    return 0;
}

static int by_line_and_cut(const void *a, const void *b)
{
    const struct planned_version *x = a, *y = b;
    if (x->merge != y->merge)
        return x->merge ? -1 : 1;
    if (x->line != y->line)
        return x->line < y->line ? -1 : 1;
    return x->cut < y->cut ? -1 : x->cut > y->cut;
}

static int plan_versions(struct checkpoint *c)
{
    struct tree *t = &c->store->tree;
    uint32_t n = 0;
    list_for_each(i, &t->dirty_versions)
        n++;
    c->versions = calloc(n + 1, sizeof *c->versions);
    if (!c->versions)
        return -ENOMEM;
    struct list_node *node;
    while ((node = list_pop(&t->dirty_versions))) {
        struct version *v = container_of(node, struct version, dirty_link);
        struct planned_version *p = &c->versions[c->version_count++];
        v->dirty = false;
        *p = (struct planned_version){ .v = v, .cut = v->cut, .line = v->line->id, .merge = !list_empty(&v->line_link), .parent_id = v->parent ? v->parent->id : 0 };
        p->record_length = version_record_encode(v, p->record);
    }
    qsort(c->versions, n, sizeof *c->versions, by_line_and_cut);
    return 0;
}

static int plan_lines(struct checkpoint *c)
{
    c->lines = calloc(c->version_count + 1, sizeof *c->lines);
    if (!c->lines)
        return -ENOMEM;
    for (uint32_t i = 0; i < c->version_count && c->versions[i].merge; i++) {
        struct line *l = c->versions[i].v->line;
        if (!c->line_count || c->lines[c->line_count - 1].line != l)
            c->lines[c->line_count++] = (struct planned_line){ .id = l->id, .line = l, .first = i, .base = l->base ? &l->base->root : &l->origin->root };
        c->lines[c->line_count - 1].count++;
    }
    return 0;
}

static int plan_images(struct checkpoint *c)
{
    struct tree *t = &c->store->tree;
    struct list_node *n;
    int err = 0;
    uint8_t key[9], record[RECORD_MAX];
    while (!err && (n = list_pop(&t->dirty_images))) {
        struct vdisk *d = container_of(n, struct vdisk, dirty_link);
        d->dirty = false;
        d->in_catalog = true;
        key_encode(key, KEY_IMAGE, d->id);
        err = checkpoint_add_change(c, key, sizeof key, record, image_record_encode(d, record));
    }
    while (!err && (n = list_pop(&t->gone))) {
        struct gone_key *g = container_of(n, struct gone_key, link);
        err = checkpoint_add_change(c, g->key, sizeof g->key, NULL, 0);
        free(g);
    }
    return err;
}

static void plan_state(struct checkpoint *c)
{
    struct store *s = c->store;
    c->state_record = (struct stored_state){ .checkpoint = s->checkpoint_number + 1, .epoch = s->journal.epoch, .tail = c->cut_seq + 1,
                                             .next_version = s->tree.next_version, .next_image = s->tree.next_image, .next_line = s->tree.next_line };
    memcpy(c->state_record.uuid, s->super.uuid, 16);
}

static void fail(struct checkpoint *c, int err, const char *what)
{
    store_fail(c->store, err, what);
    c->state = CHECKPOINT_IDLE;
}

static void cut(struct checkpoint *c)
{
    struct store *s = c->store;
    c->wanted = false;
    c->error = 0;
    c->cut_seq = s->journal.next_seq - 1;
    c->cut_ticket = (c->cut_seq + 1) << TICKET_SHIFT;
    s->frozen_seq = c->cut_seq;
    s->active = 1 - s->active;
    c->state = CHECKPOINT_CUTTING;
    int err = plan_deletions(c);
    if (!err)
        err = plan_versions(c);
    if (!err)
        err = plan_lines(c);
    if (!err)
        err = plan_images(c);
    if (err)
        fail(c, err, "planning a checkpoint");
    plan_state(c);
}

/* ---- The thread ---- */

static int write_versions(struct checkpoint *c)
{
    int err = 0;
    uint8_t key[17], value[DEAD_RUN_VALUE_MAX], number[9];
    for (uint32_t i = 0; i < c->version_count && !err; i++) {
        struct planned_version *p = &c->versions[i];
        struct version *v = p->v;
        if (p->deleted)
            continue;
        version_record_patch(p->record, &v->root, p->parent_id, v->delete_cursor);
        key_encode(key, KEY_VERSION, v->id);
        err = checkpoint_add_change(c, key, 9, p->record, p->record_length);
        for (uint32_t k = 0; k < v->runs.count && !err; k++) {
            struct dead_run *r = &v->runs.runs[k];
            if (!r->dirty)
                continue;
            key_encode(key, KEY_RUN, v->id);
            key_encode(number, KEY_RUN, r->number);
            memcpy(key + 9, number + 1, 8);
            err = checkpoint_add_change(c, key, 17, value, dead_run_encode(r, value));
            r->dirty = false;
        }
    }
    return err;
}

static int write_space(struct checkpoint *c)
{
    struct store *s = c->store;
    uint8_t *buffer = bdev_buffer_alloc(1), *states = calloc(1, s->space.max_pages / 4 + 1);
    int err = buffer && states ? 0 : -ENOMEM;
    if (!err)
        err = space_write_pages(&s->space, s->blocks, s->super.seed, c->state_record.checkpoint, buffer);
    if (!err) {
        uint32_t length = space_encode_states(&s->space, states);
        err = length ? checkpoint_add_change(c, "P", 1, states, length) : 0;
    }
    free(buffer);
    free(states);
    return err;
}

static int write_state(struct checkpoint *c)
{
    uint32_t length;
    uint8_t *value = state_encode(&c->state_record, &length);
    int err = value ? checkpoint_add_change(c, "S", 1, value, length) : -ENOMEM;
    free(value);
    return err;
}

static int step(struct checkpoint *c, const char *what, int err)
{
    if (err && !c->error_what)
        c->error_what = what;
    return err;
}

static void work(struct job *j)
{
    struct checkpoint *c = container_of(j, struct checkpoint, job);
    struct store *s = c->store;
    int err;
    c->error_what = NULL;
    (void)((err = step(c, "merging changes into trees", checkpoint_merge_lines(c)))
           || (err = step(c, "reclaiming space", checkpoint_reclaim(c)))
           || (err = step(c, "writing version records", write_versions(c)))
           || (err = step(c, "writing the space map", write_space(c)))
           || (err = step(c, "writing the state record", write_state(c)))
           || (err = step(c, "flushing the device", bdev_flush(s->blocks)))
           || (err = step(c, "committing the catalog", catalog_apply(s->backing.catalog, "store", s->catalog_revision, c->changes, c->change_count))));
    c->error = err;
}

/* ---- Start and installation ---- */

static int copy_ranges(struct checkpoint *c)
{
    for (uint32_t i = 0; i < c->line_count; i++) {
        struct planned_line *p = &c->lines[i];
        if (!(p->ranges = malloc((p->line->range_count + 1) * sizeof *p->ranges)))
            return -ENOMEM;
        for (uint32_t k = 0; k < p->line->range_count; k++)
            if (p->line->ranges[k].ticket < c->cut_ticket)
                p->ranges[p->range_count++] = p->line->ranges[k];
    }
    return 0;
}

static void install_lines(struct checkpoint *c)
{
    for (uint32_t i = 0; i < c->version_count; i++) {
        struct planned_version *p = &c->versions[i];
        p->v->in_catalog = true;
        if (!p->merge)
            continue;
        p->v->live_root = p->v->root;
        if (p->cut != TICKET_MAX)
            list_remove(&p->v->line_link);
    }
    for (uint32_t i = 0; i < c->line_count; i++) {
        struct planned_line *p = &c->lines[i];
        struct line *l = p->line;
        uint32_t kept = 0;
        l->base = c->versions[p->first + p->count - 1].v;
        l->origin = NULL;
        for (uint32_t k = 0; k < l->range_count; k++)
            if (l->ranges[k].ticket >= c->cut_ticket)
                l->ranges[kept++] = l->ranges[k];
        l->range_count = kept;
    }
}

static void install_deletions(struct checkpoint *c)
{
    for (uint32_t i = 0; i < c->deletion_count; i++) {
        struct deletion *d = &c->deletions[i];
        if (!d->finished) {
            tree_dirty_version(&c->store->tree, d->v);
            continue;
        }
        if (d->child)
            tree_set_parent(d->child, d->parent);
        tree_remove_version(&c->store->tree, d->v);
    }
}

static bool deletions_wait(const struct store *s)
{
    list_for_each(n, &s->tree.orphans)
        if (wants_deletion(container_of(n, struct version, orphan_link)))
            return true;
    return false;
}

static void wake_waiters(struct store *s)
{
    struct list_node now = LIST_INIT(now), *n;
    list_for_each_safe(i, &s->checkpoint_waiters) {
        struct store_op *op = container_of(i, struct store_op, link);
        if (s->failed || op->target_seq < s->journal.tail) {
            list_remove(i);
            list_add_tail(&now, i);
        }
    }
    while ((n = list_pop(&now))) {
        struct store_op *op = container_of(n, struct store_op, link);
        if (s->failed)
            error_set(&op->error, s->failed, "store '%s': a checkpoint failed; see the log, then open it again", store_name(s));
        op->finish(op);
    }
    if (!list_empty(&s->checkpoint_waiters))
        checkpoint_request(s);
}

static void install(struct loop_task *t)
{
    struct checkpoint *c = container_of(t, struct checkpoint, job.done);
    struct store *s = c->store;
    struct index *frozen = &s->index[1 - s->active];
    if (c->run.next < c->run.end)
        space_give_back(&s->space, c->run.next, c->run.end - c->run.next);
    c->run = (struct space_run){ 0 };
    if (c->error) {
        char what[128];
        snprintf(what, sizeof what, "a checkpoint (%s)", c->error_what);
        plan_free(c);
        fail(c, c->error, what);
        wake_waiters(s);
        return;
    }
    s->catalog_revision++;
    s->checkpoint_number = c->state_record.checkpoint;
    s->journal.tail = c->cut_seq + 1;
    if (s->journal.durable < c->cut_seq)
        s->journal.durable = c->cut_seq; /* the flush before the commit covered it */
    s->stats.checkpoints++;
    s->old_readers += s->new_readers;
    s->new_readers = 0;
    install_lines(c);
    install_deletions(c);
    for (uint32_t i = 0; i < frozen->held_used; i++)
        space_hold(&s->space, frozen->held[i]);
    index_clear(frozen);
    space_install(&s->space);
    plan_free(c);
    c->state = CHECKPOINT_IDLE;
    log_debug("checkpoint number=%llu tail=%llu", (unsigned long long)s->checkpoint_number, (unsigned long long)s->journal.tail);
    checkpoint_release(s);
    if (deletions_wait(s))
        checkpoint_request(s);
    wake_waiters(s);
    loop_defer_last(s->loop, &s->pump);
}

static void start(struct checkpoint *c)
{
    int err = copy_ranges(c);
    if (err) {
        fail(c, err, "planning a checkpoint");
        return;
    }
    c->state = CHECKPOINT_RUNNING;
    c->job.work = work;
    c->job.done.run = install;
    worker_submit(&c->store->checkpointer, &c->job);
}

/* ---- When ---- */

bool checkpoint_busy(const struct store *s) { return s->checkpoint->state != CHECKPOINT_IDLE || s->checkpoint->wanted; }

void checkpoint_request(struct store *s)
{
    if (s->checkpoint->wanted)
        return; /* the end of the one under way wakes the pump; waking it here would keep the turn from ending */
    s->checkpoint->wanted = true;
    loop_defer_last(s->loop, &s->pump);
}

void checkpoint_touch(struct store *s)
{
    if (s->checkpoint->touched)
        return;
    s->checkpoint->touched = true;
    loop_timer_start(s->loop, &s->idle_timer, IDLE_MS);
}

void checkpoint_poll(struct store *s)
{
    struct checkpoint *c = s->checkpoint;
    if (s->failed)
        return;
    if (c->state == CHECKPOINT_IDLE && c->wanted)
        cut(c);
    if (c->state == CHECKPOINT_CUTTING && journal_completed(s) >= c->cut_seq)
        start(c);
}

void checkpoint_release(struct store *s)
{
    if (s->old_readers == 0 && s->checkpoint->state != CHECKPOINT_RUNNING && space_release(&s->space))
        loop_defer_last(s->loop, &s->pump);
}

void reader_end(struct store *s, uint64_t era)
{
    if (era == s->checkpoint_number)
        s->new_readers--;
    else if (--s->old_readers == 0)
        checkpoint_release(s);
}

void checkpoint_abandon(struct store *s)
{
    struct checkpoint *c = s->checkpoint;
    pthread_mutex_lock(&c->lock);
    c->abandoned = true;
    pthread_cond_signal(&c->refilled);
    pthread_mutex_unlock(&c->lock);
}

void checkpoint_fini(struct store *s)
{
    struct checkpoint *c = s->checkpoint;
    if (!c)
        return;
    plan_free(c);
    loop_timer_stop(s->loop, &s->idle_timer);
    loop_cancel(s->loop, &c->refill_task);
    free(c->gather.entries);
    pthread_mutex_destroy(&c->lock);
    pthread_cond_destroy(&c->refilled);
    free(c);
}
