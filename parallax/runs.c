/* runs.c - the blocks that data goes to next: a run in use and, where guests flush often, the one after it, made ready.
 *
 * A file system notes down the first write to what it has allocated, and a flush waits for the note. So what of the next run was never
 * written is written with zeroes before it is needed, on the grower's thread; without many flushes that would only take the device's time
 * from the data. A block that is in use and that the map wrongly calls free has been written, so no zeroes go there. */
#include "parallax/parallax_private.h"

#include "base/log.h"

#include <errno.h>
#include <stdlib.h>

#define RUN_BLOCKS 4096u
#define SHORT_RUN_BLOCKS 512u /* while it is not known yet whether guests flush, and while none is ready */
#define READY_BLOCKS 2048u
#define BLOCKS_A_FLUSH 8u     /* zeroes for so many take as long as a flush waits for the note */

struct runs {
    struct job job;
    struct store *store;
    int error;
    uint64_t lent, flushes; /* how long the run in use was, and the device's flushes when it was lent */
};

static void give_back(struct store *s, struct space_run *run)
{
    if (run->next < run->end)
        space_give_back(&s->space, run->next, run->end - run->next);
    *run = (struct space_run){ 0 };
}

static void work(struct job *j)
{
    struct runs *r = container_of(j, struct runs, job);
    const struct space_run *run = &r->store->ahead;
    r->error = bdev_zero(r->store->blocks, run->next, run->end - run->next);
}

static void done(struct loop_task *t)
{
    struct runs *r = container_of(t, struct runs, job.done);
    struct store *s = r->store;
    s->readying = false;
    if (r->error)
        log_limited(&s->grow_complaints, LOG_LEVEL_WARNING, "free space cannot be written ahead of need store=%s error=%d", store_name(s), r->error);
    if (r->error || s->failed || s->closing || space_above_limit(s))
        give_back(s, &s->ahead);
    loop_defer_last(s->loop, &s->pump); /* a write may have waited for these blocks */
}

/* Not while a walk looks at what is free: mend.c would find it taken. */
static void make_ready(struct store *s)
{
    struct runs *r = s->runs;
    bool plenty = s->space.free_blocks >= space_reserve(s, 0, 0) + space_spare(s) + 2 * READY_BLOCKS; /* what the request under way needs is left */
    if (s->readying || s->failed || s->closing || s->checking || !plenty || space_take(&s->space, READY_BLOCKS, &s->ahead))
        return;
    if (s->ahead.end - s->ahead.next < SHORT_RUN_BLOCKS)
        return; /* what lies between data has been written before */
    r->store = s;
    r->job.work = work;
    r->job.done.run = done;
    s->readying = true;
    worker_submit(&s->grower, &r->job);
}

void runs_next(struct store *s)
{
    struct runs *r = s->runs;
    bool first = r->lent == 0, often = !first && (s->stats.device_flushes - r->flushes) * BLOCKS_A_FLUSH >= r->lent;
    if (s->ahead.next < s->ahead.end && !s->readying) {
        s->run = s->ahead;
        s->ahead = (struct space_run){ 0 };
    } else {
        space_take(&s->space, first || often ? SHORT_RUN_BLOCKS : RUN_BLOCKS, &s->run); /* space_ready promised it */
    }
    r->lent = s->run.end - s->run.next;
    r->flushes = s->stats.device_flushes;
    if (often)
        make_ready(s);
}

void runs_return_ahead(struct store *s)
{
    if (!s->readying)
        give_back(s, &s->ahead);
}

void runs_return(struct store *s)
{
    give_back(s, &s->run);
    runs_return_ahead(s);
}

int runs_init(struct store *s)
{
    s->runs = calloc(1, sizeof *s->runs);
    return s->runs ? 0 : -ENOMEM;
}

void runs_fini(struct store *s) { free(s->runs); }
