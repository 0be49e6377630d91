/* share.c - references to stored blocks in the place of equal ones (share.h; consistency.md, P4 and P5).
 *
 * The shares of one leaf of the map are looked up, checked and appended together. Between the check and the ticket nothing can
 * come: both happen in one call on the loop. If the root has changed since the lookup, the leaf is looked up again. */
#include "parallax/share.h"

#include <errno.h>

#define RETRY_MS 10u
#define TRIES 1000u

static void run(struct sharing *g);

static void barrier_done(struct store_op *op)
{
    struct sharing *g = container_of(op, struct sharing, barrier);
    if (g->store->failed && !g->error)
        g->error = g->store->failed;
    g->done(g);
}

static void finish(struct sharing *g, int error)
{
    g->error = error;
    loop_timer_stop(g->store->loop, &g->retry);
    g->barrier = (struct store_op){ .store = g->store, .finish = barrier_done };
    journal_wait_complete(g->store, &g->barrier);
}

static void retry_expired(struct loop_timer *t) { run(container_of(t, struct sharing, retry)); }

/* Room may come with a checkpoint; but what only this operation's end would release never does. */
static void try_later(struct sharing *g)
{
    if (++g->tries > TRIES)
        finish(g, -ENOSPC);
    else
        loop_timer_start(g->store->loop, &g->retry, RETRY_MS);
}

/* Whether a merge could find a reference to this block at its place: one that replaces it by itself would not be dropped. */
static bool was_there(struct store *s, const struct line *l, const struct share *sh, const struct radix_entry *tree)
{
    if (l->origin || (tree->kind == RADIX_DATA && tree->address == sh->address))
        return true;
    for (unsigned i = 0; i < 2; i++) {
        const struct index_entry *e = index_find(&s->index[i], l->id, (uint32_t)sh->block, TICKET_MAX);
        for (; e; e = index_find(&s->index[i], l->id, (uint32_t)sh->block, e->ticket))
            if (e->address == sh->address)
                return true;
    }
    return false;
}

static bool may_share(struct store *s, const struct vdisk *d, const struct share *sh, const struct radix_entry *tree)
{
    struct radix_entry now;
    if (sh->block >= version_blocks(d->head) || !lookup_changes(s, d->head, (uint32_t)sh->block, &now))
        now = *tree;
    if (sh->block >= version_blocks(d->head) || now.kind != RADIX_DATA || now.address != sh->old_address || was_there(s, d->head->line, sh, tree))
        return false;
    list_for_each(n, &d->handles)
        if (write_overlaps(container_of(n, struct image, link), sh->block, 1))
            return false;
    return true;
}

static void append(struct batch *b, struct line *l, const struct share *first, uint32_t n)
{
    uint32_t crcs[RADIX_FANOUT];
    for (uint32_t i = 0; i < n; i++)
        crcs[i] = first[i].crc;
    uint64_t ticket = batch_add_share(b, l->id, (uint32_t)first->block, n, first->address, crcs);
    for (uint32_t i = 0; i < n; i++)
        b->changes[b->change_count++] = (struct index_entry){ .line = l->id, .block = (uint32_t)first[i].block, .ticket = ticket, .address = first[i].address,
                                                              .shared = 1, .crc = first[i].crc };
}

/* 0: appended (or nothing to append); -EAGAIN: no room now; -ENOSPC: none to come. */
static int share_leaf(struct sharing *g, struct vdisk *d)
{
    struct store *s = g->store;
    struct index *ix = &s->index[s->active];
    struct share now[RADIX_FANOUT];
    uint32_t n = 0;
    for (uint32_t i = g->at; i < g->next; i++)
        if (may_share(s, d, &g->shares[i], &g->entries[g->shares[i].block - g->lookup.first]))
            now[n++] = g->shares[i];
    if (!n)
        return 0;
    int err = space_ready(s, n, false);
    if (err)
        return err;
    bool room = ix->used + ix->held_used + ix->reserved + n <= ix->capacity;
    struct batch *b = room ? batch_begin_share(s) : NULL;
    if (!room || (!b && journal_room(s) < s->super.journal_blocks / 2))
        checkpoint_request(s);
    if (!b)
        return -EAGAIN;
    for (uint32_t i = 0, k; i < n; i = k) {
        for (k = i + 1; k < n && now[k].block == now[k - 1].block + 1 && now[k].address == now[k - 1].address + 1;)
            k++;
        append(b, d->head->line, &now[i], k - i);
    }
    ix->reserved += n;
    tree_changing(&s->tree, d->head);
    batch_submit(b);
    checkpoint_touch(s);
    g->shared += n;
    return 0;
}

static bool same_root(const struct radix_root *a, const struct radix_root *b)
{
    return a->height == b->height && a->node.address == b->node.address && a->node.birth == b->node.birth && a->node.crc == b->node.crc;
}

/* The image, while it is there to be shared in. */
static struct vdisk *subject(const struct sharing *g)
{
    struct vdisk *d = tree_image(&g->store->tree, g->image);
    return d && d->flags & IMAGE_FLAG_TEMPLATE ? NULL : d;
}

/* The leaf was looked up: true if it is done, and the next may come. */
static bool leaf_done(struct sharing *g, int error)
{
    struct vdisk *d = subject(g);
    reader_end(g->store, g->era);
    int rc = error || !d || g->store->failed ? 0 : same_root(lookup_root(d->head), &g->lookup.root) ? share_leaf(g, d) : -EAGAIN;
    if (rc == -ENOSPC)
        finish(g, rc);
    else if (rc)
        try_later(g);
    if (rc)
        return false;
    g->at = g->next; /* a leaf that cannot be read is left as it is */
    g->tries = 0;
    return true;
}

static void looked_up(struct radix_lookup *l, int error)
{
    struct sharing *g = container_of(l, struct sharing, lookup);
    if (leaf_done(g, error))
        run(g);
}

static void run(struct sharing *g)
{
    struct store *s = g->store;
    for (;;) {
        const struct vdisk *d = subject(g);
        if (!d || s->failed || op_stopped(g->op) || g->at == g->count) {
            finish(g, s->failed ? s->failed : !d ? -ESTALE : g->at < g->count ? -ECANCELED : 0);
            return;
        }
        uint64_t first = g->shares[g->at].block;
        for (g->next = g->at; g->next < g->count && g->shares[g->next].block / RADIX_FANOUT == first / RADIX_FANOUT;)
            g->next++;
        g->lookup = (struct radix_lookup){ .root = *lookup_root(d->head), .first = first, .count = (uint32_t)(g->shares[g->next - 1].block - first) + 1,
                                           .entries = g->entries, .done = looked_up };
        reader_begin(s, &g->era);
        int err = radix_lookup(s->map, &g->lookup);
        if (err == -EINPROGRESS || !leaf_done(g, err))
            return;
    }
}

void sharing_start(struct sharing *g)
{
    g->retry.expired = retry_expired;
    run(g);
}
