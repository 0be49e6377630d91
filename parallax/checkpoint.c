/* checkpoint.c - the loop's side of checkpoints: when, the cut and its plan, the installation of the result.
 *
 * States: IDLE -> CUTTING (cut made, later changes go to the other index; waiting for writes before the cut) -> RUNNING (the
 * thread works) -> IDLE. What the catalog gets is the state at the cut exactly: records are encoded at the cut, and the
 * thread adds only what it makes itself (roots, runs, the space map).
 * Order on the device: nodes, runs, space-map pages; flush; one catalog transaction (C1). Then, here: roots become visible,
 * the journal's tail moves (C2), freed blocks are released when no older reader is left (C3, H1). */
#include "parallax/checkpoint.h"

#include "base/clock.h"
#include "base/log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define IDLE_MS 2000u
#define RECLAIM_MIN_MS 20u
#define RECLAIM_REST 4u /* between two checkpoints for deletions, times as long as the last one took */

/* Blocks for the thread: many runs at once, because in a store that is old they are short. When all that is free is lent to the
 * data, part of that loan is taken back: the reserve of S1 counts it as free. */
static int lend(struct checkpoint *c)
{
    struct store *s = c->store;
    uint64_t want = LOAN_BLOCKS, of_data = s->run.end - s->run.next;
    c->loan_at = c->loan_count = 0;
    if (!s->space.free_blocks)
        runs_return_ahead(s);
    while (want && c->loan_count < LOAN_RUNS && !space_take(&s->space, want, &c->loan[c->loan_count])) {
        want -= c->loan[c->loan_count].end - c->loan[c->loan_count].next;
        c->loan_count++;
    }
    if (c->loan_count)
        return 0;
    if (of_data == 0)
        return -ENOSPC;
    uint64_t part = of_data < LOAN_BLOCKS ? of_data : LOAN_BLOCKS;
    s->run.end -= part;
    c->loan[c->loan_count++] = (struct space_run){ s->run.end, s->run.end + part };
    return 0;
}

static void lend_run(struct loop_task *t)
{
    struct checkpoint *c = container_of(t, struct checkpoint, lend_task);
    pthread_mutex_lock(&c->lock);
    c->lend_error = lend(c);
    c->lend_done = true;
    pthread_cond_signal(&c->lent);
    pthread_mutex_unlock(&c->lock);
}

static void end_loan(struct checkpoint *c)
{
    for (; c->loan_at < c->loan_count; c->loan_at++)
        space_give_back(&c->store->space, c->loan[c->loan_at].next, c->loan[c->loan_at].end - c->loan[c->loan_at].next);
}

static void idle_expired(struct loop_timer *t)
{
    struct store *s = container_of(t, struct store, idle_timer);
    s->checkpoint->touched = false;
    checkpoint_request(s);
}

static void reclaim_expired(struct loop_timer *t)
{
    struct store *s = container_of(t, struct store, reclaim_timer);
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
    pthread_cond_init(&c->lent, NULL);
    c->lend_task.run = lend_run;
    s->idle_timer.expired = idle_expired;
    s->reclaim_timer.expired = reclaim_expired;
    return c->gather.entries ? 0 : -ENOMEM;
}

/* ---- The cut ---- */

static void fail(struct checkpoint *c, int err, const char *what)
{
    store_fail(c->store, err, what);
    c->state = CHECKPOINT_IDLE;
}

static void cut(struct checkpoint *c)
{
    struct store *s = c->store;
    loop_timer_stop(s->loop, &s->reclaim_timer);
    c->wanted = c->resting = false;
    c->error = 0;
    c->began_ms = clock_monotonic_ms();
    c->cut_seq = s->journal.next_seq - 1;
    c->cut_ticket = (c->cut_seq + 1) << TICKET_SHIFT;
    s->frozen_seq = c->cut_seq;
    s->active = 1 - s->active;
    c->state = CHECKPOINT_CUTTING;
    int err = plan_make(c);
    if (err)
        fail(c, err, "planning a checkpoint");
    c->taken_blocks = 0;
    c->kept_blocks = space_needed(s);
}

/* ---- Start and installation ---- */

static void tell_losses(const struct checkpoint *c)
{
    char name[IMAGE_TARGET_SIZE];
    for (uint32_t i = 0; i < c->loss_count && i < LOSSES_TOLD; i++) {
        const struct loss *l = &c->losses[i];
        version_describe(l->v, name, sizeof name);
        log_error("the map of a range was damaged and had to be changed; what is not written anew is lost store=%s image=%s offset=%llu bytes=%llu address=%llu level=%u",
                  store_name(c->store), name, (unsigned long long)(l->block * BDEV_BLOCK_SIZE), (unsigned long long)BDEV_BLOCK_SIZE << 8 * l->level, (unsigned long long)l->address, l->level);
    }
    if (c->loss_count > LOSSES_TOLD)
        log_error("%u more ranges were lost; 'parallax check' lists them store=%s", c->loss_count - LOSSES_TOLD, store_name(c->store));
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
        c->store->range_count -= l->range_count - kept;
        l->range_count = kept;
    }
}

static void install_deletions(struct checkpoint *c)
{
    for (uint32_t i = 0; i < c->deletion_count; i++) {
        struct deletion *d = &c->deletions[i];
        if (!d->finished) {
            d->v->is_going = d->v->delete_cursor;
            tree_dirty_version(&c->store->tree, d->v);
            continue;
        }
        if (d->child)
            tree_set_parent(d->child, d->parent);
        tree_remove_version(&c->store->tree, d->v);
    }
}

bool checkpoint_deletions_wait(const struct store *s)
{
    if (!space_ready_to_delete(s))
        return false;
    list_for_each(n, &s->tree.orphans)
        if (plan_may_delete(container_of(n, struct version, orphan_link)))
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
    end_loan(c);
    if (c->error) {
        char what[128];
        snprintf(what, sizeof what, "a checkpoint (%s)", c->error_what);
        plan_end(c);
        fail(c, c->error, what);
        wake_waiters(s);
        return;
    }
    if (c->taken_blocks > c->kept_blocks + c->dead_blocks)
        s->stats.overdrawn_blocks += c->taken_blocks - c->kept_blocks - c->dead_blocks;
    s->catalog_revision++;
    s->checkpoint_number = c->state_record.checkpoint;
    s->has_lost = c->state_record.has_lost;
    s->journal.tail = c->cut_seq + 1;
    if (s->journal.durable < c->cut_seq)
        s->journal.durable = c->cut_seq; /* the flush before the commit covered it */
    s->stats.checkpoints++;
    s->old_readers += s->new_readers;
    s->new_readers = 0;
    tell_losses(c);
    install_lines(c);
    install_deletions(c);
    for (uint32_t i = 0; i < frozen->held_used; i++)
        space_hold(&s->space, frozen->held[i]);
    index_clear(frozen);
    space_install(&s->space);
    plan_end(c);
    c->state = CHECKPOINT_IDLE;
    c->took_ms = clock_monotonic_ms() - c->began_ms;
    log_debug("checkpoint number=%llu tail=%llu", (unsigned long long)s->checkpoint_number, (unsigned long long)s->journal.tail);
    checkpoint_release(s);
    if (checkpoint_deletions_wait(s))
        checkpoint_reclaim_soon(s);
    wake_waiters(s);
    loop_defer_last(s->loop, &s->pump);
}

static void start(struct checkpoint *c)
{
    int err = plan_copy_ranges(c);
    if (err) {
        fail(c, err, "planning a checkpoint");
        return;
    }
    c->state = CHECKPOINT_RUNNING;
    c->job.work = checkpoint_work;
    c->job.done.run = install;
    worker_submit(&c->store->checkpointer, &c->job);
}

/* ---- When ---- */

uint64_t checkpoint_versions(const struct store *s) { return s->tree.dirty_version_count + s->checkpoint->version_count; }

uint64_t checkpoint_nodes(const struct store *s, uint64_t changes)
{
    uint64_t nodes = s->tree.changing_nodes + s->checkpoint->changing_nodes, inner = s->tree.changing_inner + s->checkpoint->changing_inner;
    return nodes < changes + inner ? nodes : changes + inner;
}

bool checkpoint_busy(const struct store *s) { return s->checkpoint->state != CHECKPOINT_IDLE || s->checkpoint->wanted; }

void checkpoint_request(struct store *s)
{
    if (s->failed || s->checkpoint->wanted)
        return; /* the end of the one under way wakes the pump; waking it here would keep the turn from ending */
    s->checkpoint->wanted = true;
    loop_defer_last(s->loop, &s->pump);
}

void checkpoint_reclaim_soon(struct store *s)
{
    struct checkpoint *c = s->checkpoint;
    uint64_t rest = RECLAIM_REST * c->took_ms;
    rest = rest < RECLAIM_MIN_MS ? RECLAIM_MIN_MS : rest > IDLE_MS ? IDLE_MS : rest;
    if (s->hurries_until_ms) {
        if (clock_monotonic_ms() < s->hurries_until_ms)
            checkpoint_request(s);
    } else if (!s->failed && !c->resting) {
        c->resting = true;
        loop_timer_start(s->loop, &s->reclaim_timer, rest);
    }
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
    if (s->failed) {
        /* A cut that waits will never be complete; a running thread ends by itself. */
        if (c->state == CHECKPOINT_CUTTING)
            c->state = CHECKPOINT_IDLE;
        c->wanted = false;
        wake_waiters(s);
        return;
    }
    if (c->state == CHECKPOINT_IDLE && c->wanted)
        cut(c);
    if (c->state == CHECKPOINT_CUTTING && journal_completed(s) >= c->cut_seq)
        start(c);
}

void checkpoint_release(struct store *s)
{
    if (s->old_readers == 0 && s->checkpoint->state != CHECKPOINT_RUNNING) {
        bool had_room = space_ready_to_delete(s);
        if (space_release(&s->space) || !list_empty(&s->write_queue)) /* who waited for the readers learns that they have ended */
            loop_defer_last(s->loop, &s->pump);
        if (!had_room && checkpoint_deletions_wait(s))
            checkpoint_reclaim_soon(s);
    }
    limit_watch(s);
    trim_note(s); /* also if only the reserve has become smaller */
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
    if (!c)
        return;
    pthread_mutex_lock(&c->lock);
    c->abandoned = true;
    pthread_cond_signal(&c->lent);
    pthread_mutex_unlock(&c->lock);
}

void checkpoint_fini(struct store *s)
{
    struct checkpoint *c = s->checkpoint;
    if (!c)
        return;
    plan_end(c);
    loop_timer_stop(s->loop, &s->idle_timer);
    loop_timer_stop(s->loop, &s->reclaim_timer);
    loop_unpost(s->loop, &c->lend_task);
    free(c->gather.entries);
    pthread_mutex_destroy(&c->lock);
    pthread_cond_destroy(&c->lent);
    free(c);
}
