/* radix_lookup.c - answering lookups from the cache, and reading nodes that are not there.
 *
 * A lookup is a small state machine. `at` says how many of its entries are filled; (waiting_for, level) name the node that has the
 * next ones or leads to them. It goes down as long as nodes are cached, then waits in one of two places:
 *   - in the fetch that reads its node, together with all others that want it;
 *   - in the cache's `stalled` list, while every fetch is busy.
 *
 * 1. A lookup goes on from the node it waited for, never from the root again, until that path's leaf is reached: however small
 *    the cache, every read brings it one level down, so that lookups cannot starve each other by eviction.
 * 2. A fetch that ends first serves its waiters, then the stalled lookups, the oldest first; a new lookup does not overtake those.
 *    Outside of a completion, lookups are stalled only while all fetches are busy, so that none is forgotten.
 * 3. The slot of a fetch is pinned while its waiters are served: what they start may evict any other node, but not this one.
 * 4. Whether a node is right is decided by the entry that leads to it. A waiter whose entry differs from the one that was
 *    fetched tries again by itself. */
#include "radix/radix_cache_private.h"

#include <errno.h>
#include <string.h>

#define MAX_COUNT 257u

static void fill(struct radix_lookup *l, const struct radix_entry *e, uint64_t until_block)
{
    while (l->at < l->count && l->first + l->at < until_block)
        l->entries[l->at++] = *e;
}

/* Aims at the root for the next entry to be filled. */
static void aim_at_root(struct radix_lookup *l)
{
    if (l->root.node.kind == RADIX_NONE || l->first + l->at >= radix_capacity(l->root.height))
        fill(l, &(struct radix_entry){ .kind = RADIX_NONE }, UINT64_MAX);
    l->waiting_for = l->root.node;
    l->level = l->root.height;
}

/* Takes from the node that the lookup aimed at what it has to say: entries, or the next node to aim at. */
static void consult(struct radix_lookup *l, const struct radix_disk_node *n)
{
    uint64_t block = l->first + l->at;
    unsigned i = radix_index(l->level, block);
    if (l->level == 1) {
        for (; l->at < l->count && i < RADIX_FANOUT; i++)
            radix_entry_unpack(&n->entry[i], &l->entries[l->at++]);
        aim_at_root(l);
        return;
    }
    struct radix_entry e;
    radix_entry_unpack(&n->entry[i], &e);
    unsigned below = l->level - 1;
    if (e.kind != RADIX_NODE) {
        fill(l, &e, radix_first(below, block) + radix_span(below));
        aim_at_root(l);
        return;
    }
    l->waiting_for = e;
    l->level = below;
}

static void fetch_done(struct bdev_req *req, int error);

static void start_fetch(struct radix_cache *c, struct radix_lookup *l)
{
    struct fetch *f = container_of(list_pop(&c->idle), struct fetch, link);
    f->cache = c;
    f->wanted = l->waiting_for;
    f->level = l->level;
    f->slot = radix_slot_take(c, &f->wanted, f->level);
    c->slots[f->slot].fetch = (uint32_t)(f - c->fetches);
    list_init(&f->waiters);
    list_add_tail(&f->waiters, &l->link);
    f->iov = (struct iovec){ &c->arena[f->slot], BDEV_BLOCK_SIZE };
    f->req = (struct bdev_req){
        .op = BDEV_READ, .block = f->wanted.address, .blocks = 1, .iov_count = 1, .iov = &f->iov, .done = fetch_done,
    };
    bdev_submit(c->device, &f->req);
}

/* The node that l aims at, if it is cached. Else NULL, and l waits; or *err says why it cannot. fresh: l has not waited yet. */
static const struct radix_disk_node *find_or_wait(struct radix_cache *c, struct radix_lookup *l, bool fresh, int *err)
{
    const struct radix_entry *e = &l->waiting_for;
    uint32_t slot = radix_slot_find(c, e->address);
    if (slot != SLOT_NONE) {
        struct slot *s = &c->slots[slot];
        if (s->state == SLOT_READING) {
            c->misses++;
            list_add_tail(&c->fetches[s->fetch].waiters, &l->link);
            *err = -EINPROGRESS;
            return NULL;
        }
        if (radix_slot_holds(s, e, l->level)) {
            c->hits++;
            s->referenced = 1;
            return &c->arena[slot];
        }
    }
    *err = radix_node_entry_check(e, l->level, radix_device_blocks(c->device));
    if (*err) {
        log_limited(&c->damage, LOG_LEVEL_ERROR, "map entry leads nowhere address=%llu level=%u", (unsigned long long)e->address, l->level);
        return NULL;
    }
    *err = -EINPROGRESS;
    if (list_empty(&c->idle) || (fresh && !list_empty(&c->stalled))) {
        list_add_tail(&c->stalled, &l->link);
        return NULL;
    }
    c->misses++;
    if (slot != SLOT_NONE) /* the address was used again for another node */
        radix_slot_forget(c, slot);
    start_fetch(c, l);
    return NULL;
}

static int go_on(struct radix_cache *c, struct radix_lookup *l, bool fresh)
{
    while (l->at < l->count) {
        int err = 0;
        const struct radix_disk_node *n = find_or_wait(c, l, fresh, &err);
        if (!n)
            return err;
        consult(l, n);
    }
    return 0;
}

static void go_on_and_tell(struct radix_cache *c, struct radix_lookup *l)
{
    int err = go_on(c, l, false);
    if (err != -EINPROGRESS)
        l->done(l, err);
}

int radix_lookup(struct radix_cache *c, struct radix_lookup *l)
{
    if (l->count < 1 || l->count > MAX_COUNT || l->first >= RADIX_MAX_BLOCKS || l->first + l->count > RADIX_MAX_BLOCKS)
        return -EINVAL;
    int err = radix_root_check(&l->root, radix_device_blocks(c->device));
    if (err)
        return err;
    l->at = 0;
    aim_at_root(l);
    return go_on(c, l, true);
}

/* ---- Completion ---- */

static void serve_waiters(struct radix_cache *c, struct list_node *waiters, const struct radix_entry *wanted, unsigned level,
                          const struct radix_disk_node *n, int error)
{
    struct list_node *node;
    while ((node = list_pop(waiters))) {
        struct radix_lookup *l = container_of(node, struct radix_lookup, link);
        bool same = l->level == level && radix_same_entry(&l->waiting_for, wanted);
        if (same && error) {
            l->done(l, error);
            continue;
        }
        if (same)
            consult(l, n);
        go_on_and_tell(c, l);
    }
}

static void serve_stalled(struct radix_cache *c)
{
    while (!list_empty(&c->idle) && !list_empty(&c->stalled))
        go_on_and_tell(c, container_of(list_pop(&c->stalled), struct radix_lookup, link));
}

static void fetch_done(struct bdev_req *req, int error)
{
    struct fetch *f = container_of(req, struct fetch, req);
    struct radix_cache *c = f->cache;
    uint32_t slot = f->slot;
    struct slot *s = &c->slots[slot];
    struct radix_entry wanted = f->wanted;
    unsigned level = f->level;
    if (!error)
        error = radix_node_check(&c->arena[slot], c->seed, &wanted, level, radix_device_blocks(c->device));
    if (error)
        log_limited(&c->damage, LOG_LEVEL_ERROR, "map node %s address=%llu level=%u birth=%llu crc=%08x error=%d",
                    error == -EBADMSG ? "damaged" : "unreadable", (unsigned long long)wanted.address, level,
                    (unsigned long long)wanted.birth, wanted.crc, -error);
    if (error && s->state == SLOT_READING)
        radix_slot_forget(c, slot);
    if (s->state == SLOT_READING) {
        s->state = SLOT_VALID;
        c->nodes++;
    }
    struct list_node waiters;
    list_init(&waiters);
    list_splice_tail(&waiters, &f->waiters);
    list_add_tail(&c->idle, &f->link);
    s->pinned = 1;
    serve_waiters(c, &waiters, &wanted, level, &c->arena[slot], error);
    s->pinned = 0;
    if (s->state == SLOT_ORPHAN)
        radix_slot_release(c, slot);
    serve_stalled(c);
}
