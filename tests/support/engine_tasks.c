/* engine_tasks.c - random operations: begun, followed while requests run, and judged after a crash.
 *
 * A task knows how to prepare itself (pick its subjects), how to submit, what it changes in the oracle, and how to tell from
 * the names in a reopened store whether it happened. Its subjects are locked against other tasks; requests go on.
 * Where an operation takes the state of a running image, that image is cut when the task is submitted: what was acknowledged
 * then is in, what is submitted after the answer is not, and what lies between may be either. */
#include "tests/support/engine.h"
#include "tests/support/engine_tasks.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool run_is_done(struct engine *e, void *ctx)
{
    (void)e;
    return ((struct engine_run *)ctx)->done;
}

static void run_done(struct store_op *op) { container_of(op, struct engine_run, op)->done = true; }

int engine_run(struct engine *e, struct engine_run *run, const char *what)
{
    engine_wait(e, run_is_done, run, what);
    return e->store ? run->op.error.code : -ECANCELED;
}

void engine_run_arm(struct engine_run *run)
{
    memset(run, 0, sizeof *run);
    run->op.done = run_done;
}

void engine_checkpoint(struct engine *e)
{
    struct engine_run run;
    engine_run_arm(&run);
    store_checkpoint(e->store, &run.op);
    if (engine_run(e, &run, "a checkpoint") && !e->faulty && !engine_is_dead(e))
        engine_fail("checkpoint: %s", run.op.error.text);
}

/* ---- Subjects ---- */

void task_subject(struct task *t, struct object *o)
{
    t->subject[t->subjects++] = o;
    o->operations++;
    if (o->kind == OBJECT_SNAPSHOT)
        o->image->operations++;
}

void task_cut(struct task *t, unsigned i)
{
    struct content *c = t->subject[i]->content;
    t->cut[i] = content_cut(c);
    t->cut_count[i] = c->count;
    t->durable_cut[i] = engine_alloc((c->count + 1) * sizeof(uint32_t));
    for (uint32_t b = 0; b < c->count; b++)
        t->durable_cut[i][b] = c->block[b].durable;
    c->pins++;
    t->pinned[i] = c;
}

struct content *task_frozen(struct task *t, unsigned i)
{
    return content_copy(t->subject[i]->content, t->lenient ? t->durable_cut[i] : t->cut[i]);
}

/* What the operation saw is as safe as the operation itself. */
static void cuts_are_durable(struct task *t)
{
    for (unsigned i = 0; i < t->subjects; i++)
        if (t->cut[i])
            content_durable(t->pinned[i], t->lenient ? t->durable_cut[i] : t->cut[i], t->cut_count[i]);
}

static void unlock(struct task *t)
{
    for (unsigned i = 0; i < t->subjects; i++) {
        t->subject[i]->operations--;
        if (t->subject[i]->kind == OBJECT_SNAPSHOT)
            t->subject[i]->image->operations--;
        if (t->pinned[i])
            t->pinned[i]->pins--;
    }
    if (t->holds)
        t->holds->held = false;
}

static void task_free(struct task *t)
{
    for (unsigned i = 0; i < TASK_SUBJECTS; i++) {
        free(t->cut[i]);
        free(t->durable_cut[i]);
    }
    free(t);
}

static void task_happened(struct task *t)
{
    cuts_are_durable(t);
    unlock(t);
    t->kind->apply(t);
}

static void task_done(struct store_op *op)
{
    struct task *t = container_of(op, struct task, op);
    struct engine *e = t->engine;
    list_remove(&t->link);
    e->task_count--;
    e->finished_tasks++;
    engine_trace("%llu: %s %s %s ended with %d %s", (unsigned long long)engine_where.step, t->kind->name, t->text[0], t->text[1], op->error.code,
                 op->error.text);
    bool fault = e->faulty || engine_is_dead(e);
    bool allowed = fault || (e->may_fill && op->error.code == -ENOSPC) || (t->may_be_busy && op->error.code == -EBUSY);
    if (op->error.code && !allowed)
        engine_fail("%s %s %s (begun at step %llu): %s (%d)", t->kind->name, t->text[0], t->text[1], (unsigned long long)t->step, op->error.text,
                    op->error.code);
    if (!op->error.code) {
        task_happened(t);
        task_free(t);
    } else if (fault) { /* the answer was an error; whether it happened shows after the next opening */
        list_add_tail(&e->tasks, &t->link);
    } else {
        unlock(t);
        task_free(t);
    }
}

static unsigned kinds_weight;

static const struct task_kind *random_kind(struct world *w, const char *preferred)
{
    for (unsigned i = 0; preferred && task_kinds[i].name; i++)
        if (strcmp(task_kinds[i].name, preferred) == 0 && world_chance(w, 2))
            return &task_kinds[i];
    if (!kinds_weight)
        for (unsigned i = 0; task_kinds[i].name; i++)
            kinds_weight += task_kinds[i].weight;
    uint64_t r = world_random(w, kinds_weight);
    for (unsigned i = 0;; i++) {
        if (r < task_kinds[i].weight)
            return &task_kinds[i];
        r -= task_kinds[i].weight;
    }
}

static bool begin(struct engine *e, const struct task_kind *kind)
{
    struct task *t = engine_alloc(sizeof *t);
    t->engine = e;
    t->kind = kind;
    t->step = engine_where.step;
    t->op.done = task_done;
    for (unsigned i = 0; i < TASK_SUBJECTS; i++)
        t->texts[i] = t->text[i];
    if (!t->kind->prepare(t)) {
        unlock(t);
        task_free(t);
        return false;
    }
    list_add_tail(&e->tasks, &t->link);
    e->task_count++;
    engine_trace("%llu: %s %s %s (%u, %llu) begins", (unsigned long long)engine_where.step, t->kind->name, t->text[0], t->text[1], t->subjects,
                 (unsigned long long)t->number);
    t->kind->submit(t);
    return true;
}

void engine_random_task(struct engine *e) { begin(e, random_kind(&e->world, e->preferred_task)); }

bool engine_begin_task(struct engine *e, const char *kind)
{
    for (unsigned i = 0; task_kinds[i].name; i++)
        if (strcmp(task_kinds[i].name, kind) == 0)
            return begin(e, &task_kinds[i]);
    engine_fail("there is no operation '%s'", kind);
}

void engine_each_task(struct engine *e, void (*each)(void *ctx, const char *kind, unsigned count), void *ctx)
{
    list_for_each(n, &e->tasks) {
        const struct task *t = container_of(n, struct task, link);
        each(ctx, t->kind->name, t->count);
    }
}

bool task_exists(struct task *t, const char *target, struct image_info *info)
{
    struct error err = ERROR_NONE;
    struct image_info unused;
    int rc = store_find(t->engine->store, target, info ? info : &unused, &err);
    if (rc && rc != -ENOENT)
        engine_fail("'%s' cannot be looked up: %s", target, err.text);
    return rc == 0;
}

/* How many of these names exist: all or none, if they are one operation's. */
bool task_all_or_none(struct task *t, unsigned count)
{
    unsigned there = 0;
    for (unsigned i = 0; i < count; i++)
        there += task_exists(t, t->text[i], NULL);
    if (there && there != count)
        engine_fail("an interrupted %s of %u names, '%s' first, left %u of them", t->kind->name, count, t->text[0], there);
    return there != 0;
}

void engine_judge_tasks(struct engine *e, enum content_crash kind)
{
    struct list_node *n;
    while ((n = list_pop(&e->tasks))) {
        struct task *t = container_of(n, struct task, link);
        t->lenient = kind == CONTENT_POWER_CUT;
        bool happened = t->kind->happened(t);
        engine_trace("%s %s %s %s", t->kind->name, t->text[0], t->text[1], happened ? "happened" : "did not happen");
        if (happened)
            task_happened(t);
        else
            unlock(t);
        task_free(t);
    }
    e->task_count = 0;
}
