/* grow.c - space for data: what must stay free, and allocating ahead of need (consistency.md, S1 and S2).
 *
 * The grower allocates holes again, or grows the file by a chunk where there are no holes; data is only ever put where
 * that has been done. */
#include "parallax/parallax_private.h"

#include "base/clock.h"
#include "base/log.h"

#include <errno.h>
#include <stdlib.h>

#define CHUNK_BLOCKS (32u << 20 >> BDEV_BLOCK_SHIFT)
#define LONG_CHUNK_BLOCKS (256u << 20 >> BDEV_BLOCK_SHIFT) /* where it is not written: a growth costs a flush, however long */
#define SPARE_MIN_BLOCKS (16u << 20 >> BDEV_BLOCK_SHIFT)
#define SPARE_MAX_BLOCKS (256u << 20 >> BDEV_BLOCK_SHIFT)
#define RETRY_MS 1000u
#define EARLY_CHANGES 256u     /* for fewer no checkpoint is begun ahead of need */
#define RESERVE_FIXED 512u
#define DISCARD_SHARE 256u     /* of it: discards may take so many, so that a full store can be emptied, */
#define DELETION_SHARE 200u    /* and deletions that begin write less than that */
#define NODES_PER_CHANGE 4u    /* the height of the highest map */
#define BLOCKS_PER_VERSION 2u
#define BLOCKS_PER_RANGE 15u   /* two nodes of each level below the root, the root, and the dead entries of what all of those led to */

struct grow {
    struct job job;
    struct store *store;
    struct space_run holes; /* to be filled; empty: the device is grown to target */
    uint64_t target;
    int error;
    uint64_t grown_blocks;
    bool crowded; /* a long chunk could not be had: there may still be room for short ones */
};

static uint64_t changes_pending(const struct store *s)
{
    const struct index *a = &s->index[0], *b = &s->index[1];
    return a->used + a->reserved + b->used + b->reserved;
}

static uint64_t least(uint64_t a, uint64_t b) { return a < b ? a : b; }

/* New nodes: so many for each change, or as the maps of the versions that change have it, if that is less; then what goes to dead
 * lists as well, an entry for each change and each node. (Of the first that is a part, as it counts what changes share.) But a
 * change inside a range that is discarded parts it: there each node drops all that it led to, and itself. `more` changes may be of
 * a version that has none yet. */
static uint64_t blocks_for_changes(const struct store *s, uint64_t more, bool ranges)
{
    uint64_t changes = changes_pending(s), nodes = checkpoint_nodes(s, changes) + NODES_PER_CHANGE * more;
    if (!ranges)
        return least(NODES_PER_CHANGE * (changes + more), nodes + (changes + more + nodes) / DEAD_PER_BLOCK);
    nodes = least(NODES_PER_CHANGE * (changes + more), nodes);
    return 2 * nodes + nodes / DEAD_PER_BLOCK;
}

/* Each version that changes has a dead list of its own, whose last block is padded, or a map that grew from one node to the full
 * height and is changed far behind that node, which takes six. */
static uint64_t blocks_to_merge(const struct store *s, uint64_t more, uint64_t ranges)
{
    uint64_t changes = changes_pending(s) + more, versions = checkpoint_versions(s) + 1;
    ranges += s->range_count;
    return blocks_for_changes(s, more, ranges > 0) + BLOCKS_PER_RANGE * ranges
           + BLOCKS_PER_VERSION * least(changes + ranges, versions);
}

uint64_t space_needed(const struct store *s) { return blocks_to_merge(s, 0, 0); }

uint64_t space_reserve(const struct store *s, uint64_t more, uint64_t ranges)
{
    return RESERVE_FIXED + s->space.usable / 1024 + blocks_to_merge(s, more, ranges);
}

uint64_t space_room(struct store *s)
{
    uint64_t free_bytes, total_bytes, present = bdev_blocks(s->blocks) - s->space.hole_blocks, limit = s->super.limit_blocks;
    if (!limit && s->blocks->max_blocks == UINT64_MAX && !backing_free_bytes(&s->backing, &free_bytes, &total_bytes)) {
        uint64_t keep = total_bytes / 20 > 1ull << 30 ? total_bytes / 20 : 1ull << 30;
        limit = present + (free_bytes > keep ? (free_bytes - keep) / BDEV_BLOCK_SIZE : 0);
    }
    if (!limit || limit > s->blocks->max_blocks)
        limit = s->blocks->max_blocks;
    limit = limit < s->space.max_blocks ? limit : s->space.max_blocks;
    return limit > present ? limit - present : 0;
}

/* The same for what the reserve misses. Where a page of the map is lost, what is freed there does not come back: the store may
 * become larger than its limit by what checkpoints need, or nothing could be deleted, and so never be repaired. */
static uint64_t room_for_reserve(struct store *s)
{
    uint64_t room = space_room(s), have = bdev_blocks(s->blocks), most = least(s->blocks->max_blocks, s->space.max_blocks);
    uint64_t reserve = space_reserve(s, 0, 0), at_hand = space_at_hand(s), missing = reserve > at_hand ? reserve - at_hand : 0;
    if (missing <= room || !space_has_lost(&s->space))
        return room;
    return least(missing, s->space.hole_blocks + (most > have ? most - have : 0));
}

uint64_t space_above_limit(const struct store *s)
{
    uint64_t limit = s->super.limit_blocks, present = space_present(&s->space);
    return limit && present > limit ? present - limit : 0;
}

uint64_t space_spare(const struct store *s)
{
    uint64_t spare = space_present(&s->space) / 8;
    spare = spare < SPARE_MIN_BLOCKS ? SPARE_MIN_BLOCKS : spare > SPARE_MAX_BLOCKS ? SPARE_MAX_BLOCKS : spare;
    return s->opt.spare_bytes ? s->opt.spare_bytes / BDEV_BLOCK_SIZE : spare;
}

static void work(struct job *j)
{
    struct grow *g = container_of(j, struct grow, job);
    struct bdev *d = g->store->blocks;
    bool fills = g->holes.next < g->holes.end;
    g->error = fills ? bdev_fill(d, g->holes.next, g->holes.end - g->holes.next) : bdev_grow(d, g->target);
}

static uint64_t short_chunk(const struct store *s) { return least(2 * space_spare(s), CHUNK_BLOCKS); }
static uint64_t long_chunk(const struct store *s)
{
    bool written = __atomic_load_n(&s->blocks->grows_by_writing, __ATOMIC_RELAXED);
    return written ? short_chunk(s) : least(2 * space_spare(s), LONG_CHUNK_BLOCKS);
}

uint64_t space_kept(const struct store *s) { return space_reserve(s, 0, 0) + space_spare(s) + long_chunk(s) + short_chunk(s); }

/* Whether many long chunks could be had, as far as the file system tells. */
static bool is_roomy(struct store *s)
{
    uint64_t free_bytes, total_bytes;
    return backing_free_bytes(&s->backing, &free_bytes, &total_bytes) == 0 && free_bytes / BDEV_BLOCK_SIZE > 4 * LONG_CHUNK_BLOCKS;
}

static void done(struct loop_task *t)
{
    struct grow *g = container_of(t, struct grow, job.done);
    struct store *s = g->store;
    bool too_long = g->error && g->grown_blocks > short_chunk(s);
    g->crowded = too_long || (g->crowded && (g->error || !is_roomy(s)));
    s->growing = false;
    s->grow_error = too_long ? 0 : g->error;
    if (s->grow_error) {
        s->grow_retry_ms = clock_monotonic_ms() + RETRY_MS;
        log_limited(&s->grow_complaints, LOG_LEVEL_WARNING, "store cannot grow store=%s blocks=%llu error=%d", store_name(s), (unsigned long long)g->target,
                    g->error);
    } else if (!too_long && g->holes.next < g->holes.end) {
        space_fill_holes(&s->space, g->holes.next, g->holes.end);
    }
    space_set_usable(&s->space, bdev_blocks(s->blocks));
    loop_defer_last(s->loop, &s->pump);
}

/* Allocates a chunk more, if that is possible now. */
static void grow(struct store *s)
{
    if (s->growing || s->failed || s->closing || trim_holds(s))
        return; /* the end of what is being punched tells what is a hole, and wakes the pump */
    if (s->grow_error && clock_monotonic_ms() < s->grow_retry_ms)
        return;
    uint64_t chunk = least(s->grow->crowded ? short_chunk(s) : long_chunk(s), room_for_reserve(s)), have = bdev_blocks(s->blocks);
    struct grow *g = s->grow;
    g->holes = (struct space_run){ 0 };
    g->target = have + chunk < s->space.max_blocks ? have + chunk : s->space.max_blocks;
    if (!chunk || (space_find_holes(&s->space, chunk, &g->holes) && g->target <= have)) {
        s->grow_error = -ENOSPC;
        s->grow_retry_ms = clock_monotonic_ms() + RETRY_MS;
        return;
    }
    g->grown_blocks = g->holes.next < g->holes.end ? g->holes.end - g->holes.next : g->target - have;
    g->store = s;
    g->job.work = work;
    g->job.done.run = done;
    s->growing = true;
    worker_submit(&s->grower, &g->job);
}

/* While opening, before anything allocates: a file that came without its zeroes has holes where the reserve was, and the first
 * checkpoint lives on that. What cannot be had now is missed when it is needed. */
void space_restore_reserve(struct store *s)
{
    while (s->space.free_blocks < space_reserve(s, 0, 0)) {
        uint64_t missing = space_reserve(s, 0, 0) - s->space.free_blocks, have = bdev_blocks(s->blocks), room = room_for_reserve(s);
        struct space_run holes;
        int err;
        missing = missing < room ? missing : room;
        if (!missing) {
            err = -ENOSPC;
        } else if (space_find_holes(&s->space, missing, &holes)) {
            err = have + missing <= s->space.max_blocks ? bdev_grow(s->blocks, have + missing) : -ENOSPC;
            space_set_usable(&s->space, bdev_blocks(s->blocks));
        } else if (!(err = bdev_fill(s->blocks, holes.next, holes.end - holes.next))) {
            space_fill_holes(&s->space, holes.next, holes.end);
        }
        if (err) {
            log_limited(&s->grow_complaints, LOG_LEVEL_WARNING, "the reserve cannot be restored store=%s blocks=%llu error=%d", store_name(s),
                        (unsigned long long)missing, err);
            return;
        }
    }
}

/* Where the store cannot grow, a checkpoint is begun when half of what data may take since the last one is taken, so that no write
 * has to wait for its end. */
void space_grow_ahead(struct store *s)
{
    uint64_t reserve = space_reserve(s, 0, 0), free = space_at_hand(s);
    const struct index *ix = &s->index[s->active];
    uint64_t since = ix->used + ix->held_used;
    if (s->space.free_blocks >= reserve + space_spare(s))
        return;
    grow(s);
    if (!s->growing && !checkpoint_busy(s) && since >= EARLY_CHANGES && since + reserve >= free)
        checkpoint_request(s);
}

/* Whether a checkpoint could make room: something is held, was written, discarded or deleted since the last one, is about to
 * be, or waits to be deleted. */
static bool checkpoint_helps(const struct store *s)
{
    const struct index *ix = &s->index[s->active];
    return s->journal.tail != s->journal.next_seq || ix->held_used || ix->reserved || checkpoint_deletions_wait(s);
}

/* There is no room now. Only what would bring some is asked for: a checkpoint under way ends, and so do reads that hold what was
 * freed, and both wake the pump. */
static int no_room(struct store *s, bool may_wait)
{
    grow(s);
    if (s->growing || s->readying || trim_holds(s)) /* what is being punched can be filled again when that is done */
        return -EAGAIN;
    if (checkpoint_busy(s))
        return -EAGAIN;
    if (checkpoint_helps(s)) {
        checkpoint_request(s);
        return -EAGAIN;
    }
    if (s->old_readers)
        return -EAGAIN;
    limit_watch(s);
    if (!may_wait)
        return -ENOSPC;
    if (s->stops_waiting)
        return -ECANCELED;
    s->full = true;
    loop_timer_start(s->loop, &s->full_timer, RETRY_MS);
    return -EAGAIN;
}

/* Nothing of what lies above the limit is for data: else the store would need as much again, and become larger without end. */
int space_ready(struct store *s, uint32_t blocks, bool may_wait)
{
    if (space_at_hand(s) < blocks + space_reserve(s, blocks, 0) + space_above_limit(s))
        return no_room(s, may_wait);
    space_grow_ahead(s);
    return 0;
}

/* One that is alone costs no more than a range, as its blocks are consecutive. */
static bool may_discard(const struct store *s, uint32_t entries)
{
    uint64_t have = space_at_hand(s) + DISCARD_SHARE;
    bool alone = !changes_pending(s) && !s->range_count;
    return have >= space_reserve(s, entries, entries == 0) || (alone && have >= space_reserve(s, 0, 1));
}

int space_ready_to_discard(struct store *s, uint32_t entries, bool may_wait)
{
    if (may_discard(s, entries))
        return 0;
    if (!changes_pending(s) && !s->range_count)
        return no_room(s, may_wait);
    checkpoint_request(s);
    return -EAGAIN;
}

int space_ready_to_shrink(struct store *s, const struct version *v)
{
    if (may_discard(s, 0))
        return 0;
    grow(s);
    if (s->growing || s->readying || changes_pending(s) || s->range_count || checkpoint_busy(s) || checkpoint_deletions_wait(s))
        return -EAGAIN;
    /* All changes are in the maps now. Of an empty one a range drops nothing, and alone it costs the checkpoint nothing. */
    return lookup_root(v)->node.kind == RADIX_NONE ? 0 : -ENOSPC;
}

bool space_ready_to_delete(const struct store *s)
{
    return space_at_hand(s) + RESERVE_FIXED >= space_reserve(s, 0, 0) + DELETION_SHARE;
}

static void full_expired(struct loop_timer *t)
{
    struct store *s = container_of(t, struct store, full_timer);
    loop_defer_last(s->loop, &s->pump);
}

void store_stop_waiting(struct store *s)
{
    s->stops_waiting = true;
    loop_defer_last(s->loop, &s->pump);
}

int grow_init(struct store *s)
{
    s->grow = calloc(1, sizeof *s->grow);
    s->full_timer.expired = full_expired;
    if (!s->grow)
        return -ENOMEM;
    return 0;
}

void grow_fini(struct store *s)
{
    loop_timer_stop(s->loop, &s->full_timer);
    free(s->grow);
}
