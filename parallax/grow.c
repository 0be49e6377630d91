/* grow.c - space for data: what must stay free, and growing the device ahead of need (consistency.md, S1 and S2).
 *
 * The helper thread grows the file in chunks of zeroes; data is only ever put where that has been done. */
#include "parallax/parallax_private.h"

#include "base/clock.h"
#include "base/log.h"

#include <errno.h>
#include <stdlib.h>

#define CHUNK_BLOCKS (32u << 20 >> BDEV_BLOCK_SHIFT)
#define AHEAD_MIN_BLOCKS (16u << 20 >> BDEV_BLOCK_SHIFT)
#define AHEAD_MAX_BLOCKS (256u << 20 >> BDEV_BLOCK_SHIFT)
#define RETRY_MS 1000u
#define RESERVE_FIXED 512u
#define NODES_PER_CHANGE 4u /* the height of the highest map */

struct grow {
    struct job job;
    struct store *store;
    uint64_t target;
    int error;
};

uint64_t space_reserve(const struct store *s, uint64_t more)
{
    const struct index *a = &s->index[0], *b = &s->index[1];
    uint64_t changes = a->used + a->reserved + b->used + b->reserved + more;
    return RESERVE_FIXED + s->space.usable / 1024 + NODES_PER_CHANGE * changes;
}

/* The most blocks the device may have. Without a limit of its own the store leaves room to others on the file system. */
static uint64_t limit_blocks(struct store *s)
{
    uint64_t free_bytes, total_bytes;
    if (s->super.limit_blocks)
        return s->super.limit_blocks;
    if (s->blocks->max_blocks != UINT64_MAX)
        return s->blocks->max_blocks;
    if (backing_free_bytes(&s->backing, &free_bytes, &total_bytes))
        return s->space.max_blocks;
    uint64_t keep = total_bytes / 20 > 1ull << 30 ? total_bytes / 20 : 1ull << 30;
    uint64_t more = free_bytes > keep ? (free_bytes - keep) / BDEV_BLOCK_SIZE : 0, most = bdev_blocks(s->blocks) + more;
    return most < s->space.max_blocks ? most : s->space.max_blocks;
}

static void work(struct job *j)
{
    struct grow *g = container_of(j, struct grow, job);
    g->error = bdev_grow(g->store->blocks, g->target);
}

static void done(struct loop_task *t)
{
    struct grow *g = container_of(t, struct grow, job.done);
    struct store *s = g->store;
    s->growing = false;
    s->grow_error = g->error;
    if (g->error) {
        s->grow_retry_ms = clock_monotonic_ms() + RETRY_MS;
        log_warning("store cannot grow store=%s blocks=%llu error=%d", store_name(s), (unsigned long long)g->target, g->error);
    }
    space_set_usable(&s->space, bdev_blocks(s->blocks));
    loop_defer_last(s->loop, &s->pump);
}

void space_grow_ahead(struct store *s)
{
    uint64_t ahead = s->space.usable / 8;
    ahead = ahead < AHEAD_MIN_BLOCKS ? AHEAD_MIN_BLOCKS : ahead > AHEAD_MAX_BLOCKS ? AHEAD_MAX_BLOCKS : ahead;
    if (s->growing || s->failed || s->closing || s->space.free_blocks >= space_reserve(s, 0) + ahead)
        return;
    if (s->grow_error && clock_monotonic_ms() < s->grow_retry_ms)
        return;
    uint64_t limit = limit_blocks(s), have = bdev_blocks(s->blocks);
    if (have >= limit) {
        if (!s->super.limit_blocks && s->blocks->max_blocks == UINT64_MAX) {
            s->grow_error = -ENOSPC;
            s->grow_retry_ms = clock_monotonic_ms() + RETRY_MS;
        }
        return;
    }
    struct grow *g = s->grow;
    g->store = s;
    g->target = limit - have < CHUNK_BLOCKS ? limit : have + CHUNK_BLOCKS;
    g->job.work = work;
    g->job.done.run = done;
    s->growing = true;
    worker_submit(&s->helper, &g->job);
}

/* Whether a checkpoint could make room: something is held, changed or waiting to be deleted. */
static bool checkpoint_helps(const struct store *s)
{
    const struct index *ix = &s->index[s->active];
    if (checkpoint_busy(s) || ix->used || ix->held_used || s->old_readers)
        return true;
    list_for_each(n, &s->tree.orphans) {
        const struct version *v = container_of(n, struct version, orphan_link);
        if (version_unwanted(v) && !v->readers && !v->pins)
            return true;
    }
    return false;
}

int space_ready(struct store *s, uint32_t blocks)
{
    uint64_t in_run = s->run.end - s->run.next;
    if (s->space.free_blocks + in_run >= blocks + space_reserve(s, blocks)) {
        if (!s->growing && s->space.free_blocks < AHEAD_MAX_BLOCKS + space_reserve(s, 0))
            space_grow_ahead(s);
        return 0;
    }
    space_grow_ahead(s);
    if (s->growing)
        return -EAGAIN;
    if (checkpoint_helps(s)) {
        checkpoint_request(s);
        return -EAGAIN;
    }
    if (!s->opt.wait_when_full)
        return -ENOSPC;
    loop_timer_start(s->loop, &s->full_timer, RETRY_MS);
    return -EAGAIN;
}

static void full_expired(struct loop_timer *t)
{
    struct store *s = container_of(t, struct store, full_timer);
    loop_defer_last(s->loop, &s->pump);
}

int grow_init(struct store *s)
{
    s->grow = calloc(1, sizeof *s->grow);
    s->full_timer.expired = full_expired;
    return s->grow ? 0 : -ENOMEM;
}

void grow_fini(struct store *s)
{
    loop_timer_stop(s->loop, &s->full_timer);
    free(s->grow);
}
