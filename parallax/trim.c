/* trim.c - what is free and not needed goes back to the file system or device (consistency.md, S4).
 *
 * Free are only blocks whose freeing is durable and that no read can hold (H1). The loop takes runs of them out of what may be
 * allocated and the grower punches them, a bounded step at a time; they are holes from then on, and grow.c fills them
 * when they are needed again. Its jobs are done in order, so a hole is never filled before it is punched.
 * What goes back is late and in large runs: only as much as was free during a whole while, more than what is kept at hand.
 * So a load that overwrites, whose free space comes and goes with the checkpoints, is not disturbed; nor is it by a restart: a
 * store that closes keeps what such a load will take again, and the first while after opening is a long one. */
#include "parallax/parallax_private.h"

#include <errno.h>
#include <stdlib.h>

#define STEP_RUNS 64u
#define STEP_BLOCKS (32u << 20 >> BDEV_BLOCK_SHIFT)
#define PIECE_BLOCKS (8u << 20 >> BDEV_BLOCK_SHIFT) /* of one call: a file is locked meanwhile */
#define RUN_MIN_BLOCKS 16u
#define PAUSE_MS 10u
#define WHILE_MS 5000u
#define FIRST_WHILE_MS 60000u
#define CLOSE_STEPS 256u

struct trim {
    struct job job;
    struct store *store;
    struct loop_timer timer;
    struct space_run runs[STEP_RUNS];
    uint32_t run_count, done_count; /* of the step under way; punched ones */
    uint64_t intact;                /* of the first one that is not: from that address on nothing was tried */
    uint32_t page;                  /* where the pass is */
    uint64_t budget;                /* blocks that the pass may still give back */
    uint32_t steps;                 /* and steps that it may take */
    uint64_t kept;                  /* blocks that the pass leaves beyond what is needed */
    bool armed, passing, stepping, unsupported;
    bool passed;                    /* the first pass has been made */
    bool noted;                     /* more became free during the pass */
    int error;
};

/* What is lent to data and not used counts against the limit too. */
static void take_back(struct store *s)
{
    if (space_above_limit(s))
        runs_return(s);
}

/* How many of `free` blocks are not needed, if `more` are kept besides. */
static uint64_t excess(const struct store *s, uint64_t free, uint64_t more)
{
    uint64_t reserve = space_reserve(s, 0, 0), keep = space_kept(s) + more, over = space_above_limit(s), spare = free > keep ? free - keep : 0;
    uint64_t most = free > reserve ? free - reserve : 0;
    over = over < most ? over : most;
    return spare > over ? spare : over;
}

/* ---- A step ---- */

static void work(struct job *j)
{
    struct trim *t = container_of(j, struct trim, job);
    t->error = 0;
    for (t->done_count = 0; t->done_count < t->run_count; t->done_count++) {
        const struct space_run *r = &t->runs[t->done_count];
        for (t->intact = r->next; t->intact < r->end && !t->error;) {
            uint64_t at = t->intact;
            t->intact = r->end - at < PIECE_BLOCKS ? r->end : at + PIECE_BLOCKS;
            t->error = bdev_punch(t->store->blocks, at, t->intact - at);
        }
        if (t->error)
            return;
    }
}

static void end_pass(struct trim *t)
{
    struct store *s = t->store;
    t->passing = false;
    /* What was in use for a part of the last while may be idle now. */
    if (t->noted || s->space.low_free_blocks < s->space.free_blocks)
        trim_note(s);
}

static void step(struct trim *t);

static void done(struct loop_task *task)
{
    struct trim *t = container_of(task, struct trim, job.done);
    struct store *s = t->store;
    t->stepping = false;
    if (t->done_count)
        s->grow_error = 0; /* holes are room to grow into */
    loop_defer_last(s->loop, &s->pump); /* what was under way here may be what writes wait for */
    for (uint32_t i = 0; i < t->run_count; i++) {
        if (i >= t->done_count) /* a piece that failed may be a hole in part, and stays one */
            space_fill_holes(&s->space, i > t->done_count ? t->runs[i].next : t->intact, t->runs[i].end);
        else
            s->stats.trimmed_bytes += (t->runs[i].end - t->runs[i].next) * BDEV_BLOCK_SIZE;
    }
    if (t->error) {
        t->unsupported = t->error == -EOPNOTSUPP;
        if (!t->unsupported)
            log_limited(&s->grow_complaints, LOG_LEVEL_WARNING, "free space cannot be given back store=%s error=%d", store_name(s), t->error);
        t->passing = false;
    } else if (s->closing) {
        step(t);
    } else {
        loop_timer_start(s->loop, &t->timer, PAUSE_MS);
    }
}

static void step(struct trim *t)
{
    struct store *s = t->store;
    take_back(s);
    uint64_t most = excess(s, s->space.free_blocks, t->kept);
    most = most < t->budget ? most : t->budget;
    most = most < STEP_BLOCKS ? most : STEP_BLOCKS;
    uint64_t least = space_above_limit(s) ? 1 : RUN_MIN_BLOCKS;
    if (s->failed || most < least || t->page >= s->space.pages || !t->steps) {
        end_pass(t);
        return;
    }
    t->steps--;
    t->run_count = space_take_excess(&s->space, &t->page, least, most, t->runs, STEP_RUNS);
    for (uint32_t i = 0; i < t->run_count; i++)
        t->budget -= t->runs[i].end - t->runs[i].next;
    t->stepping = true;
    t->job.work = work;
    t->job.done.run = done;
    worker_submit(&s->grower, &t->job);
}

/* ---- When ---- */

static void begin_pass(struct trim *t, uint64_t budget, uint32_t steps, uint64_t kept)
{
    t->passing = t->passed = true;
    t->kept = kept;
    t->noted = false;
    t->page = 0;
    t->budget = budget;
    t->steps = steps;
    step(t);
}

static void expired(struct loop_timer *timer)
{
    struct trim *t = container_of(timer, struct trim, timer);
    struct store *s = t->store;
    if (s->closing && !t->passing)
        return;
    if (t->passing) {
        step(t);
        return;
    }
    t->armed = false;
    begin_pass(t, excess(s, s->space.low_free_blocks, 0), UINT32_MAX, 0);
}

void trim_note(struct store *s)
{
    struct trim *t = s->trim;
    t->noted = true;
    take_back(s);
    if (t->armed || t->passing || t->unsupported || s->closing || s->failed || !excess(s, s->space.free_blocks, 0))
        return;
    t->armed = true;
    s->space.low_free_blocks = s->space.free_blocks;
    loop_timer_start(s->loop, &t->timer, s->opt.trim_after_ms ? s->opt.trim_after_ms : t->passed ? WHILE_MS : FIRST_WHILE_MS);
}

static void now(struct store *s, uint64_t kept)
{
    struct trim *t = s->trim;
    if (t->unsupported)
        return;
    if (t->stepping) {
        t->steps = CLOSE_STEPS;
        t->budget = UINT64_MAX;
        t->kept = kept;
        t->page = 0;
        return;
    }
    loop_timer_stop(s->loop, &t->timer);
    t->armed = false;
    begin_pass(t, excess(s, s->space.free_blocks, kept), CLOSE_STEPS, kept);
}

void trim_now(struct store *s) { now(s, 0); }

/* A load that overwrites takes its own space again and again: never more than it wrote, and not much more than lies between two
 * checkpoints of a store. */
void trim_closing(struct store *s)
{
    uint64_t written = s->stats.device_write_bytes / BDEV_BLOCK_SIZE, most = space_present(&s->space) / 8;
    now(s, written < most ? written : most);
}

bool trim_holds(const struct store *s) { return s->trim->stepping; }

bool trim_busy(const struct store *s) { return s->trim->passing; }

/* ---- Opening ---- */

int trim_find_holes(struct store *s)
{
    uint64_t start, end;
    for (uint64_t at = 0; bdev_hole(s->blocks, at, &start, &end) == 0; at = end) {
        /* The superblock and the journal must be there before anything else (a store may have been copied without its zeroes). */
        uint64_t first = start < s->super.zone_start ? (end < s->super.zone_start ? end : s->super.zone_start) - start : 0;
        int err = first ? bdev_fill(s->blocks, start, first) : 0;
        if (!err && first)
            err = bdev_zero(s->blocks, start, first);
        if (err)
            return err;
        space_make_holes(&s->space, start, end);
    }
    return 0;
}

int trim_init(struct store *s)
{
    struct trim *t = s->trim = calloc(1, sizeof *t);
    if (!t)
        return -ENOMEM;
    t->store = s;
    t->timer.expired = expired;
    return 0;
}

void trim_fini(struct store *s)
{
    if (s->trim)
        loop_timer_stop(s->loop, &s->trim->timer);
    free(s->trim);
}
