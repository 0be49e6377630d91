/* reclaim.c - the checkpointer's thread: blocks it takes, blocks that versions drop, versions that nobody wants.
 *
 * DROP, and DELETE with one child or none: docs/consistency.md, "Versions". Dead entries of one version are gathered and
 * written as a run whenever a run is full and when the version is done (V2). A subtree in a dead run is opened up when its
 * root is freed (V3). Deletions stop when the checkpoint's budget is spent: what was still to be freed is then in the child's
 * dead runs, or behind the cursor of the walk, and delete_cursor says that the deletion has begun (V5).
 * A dead run's block or a node that is damaged costs the space of what it named, nothing else: the store goes on. */
#include "parallax/checkpoint.h"

#include "base/clock.h"
#include "base/log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- Blocks for the thread: lent by the loop ---- */

static int borrow(struct checkpoint *c)
{
    pthread_mutex_lock(&c->lock);
    c->lend_done = false;
    loop_post(c->store->loop, &c->lend_task);
    while (!c->lend_done && !c->abandoned)
        pthread_cond_wait(&c->lent, &c->lock);
    int err = c->lend_done ? c->lend_error : -ECANCELED;
    pthread_mutex_unlock(&c->lock);
    return err;
}

int checkpoint_allocate(struct checkpoint *c, uint32_t want, uint64_t *address, uint32_t *got)
{
    if (c->loan_at == c->loan_count) {
        int err = borrow(c);
        if (err)
            return err;
    }
    struct space_run *run = &c->loan[c->loan_at];
    uint64_t left = run->end - run->next;
    *got = left < want ? (uint32_t)left : want;
    *address = run->next;
    c->taken_blocks += *got;
    run->next += *got;
    if (run->next == run->end)
        c->loan_at++;
    for (uint32_t i = 0; i < *got; i++)
        space_image_set(&c->store->space, *address + i);
    return 0;
}

static int allocate_node(void *ctx, uint64_t *address)
{
    uint32_t got;
    return checkpoint_allocate(ctx, 1, address, &got);
}

struct radix_io checkpoint_io(struct checkpoint *c)
{
    return (struct radix_io){ .device = c->store->blocks, .seed = c->store->super.seed, .ctx = c, .allocate = allocate_node };
}

void checkpoint_free_block(struct checkpoint *c, uint64_t address)
{
    if (!pool_drop(&c->store->pool, address)) /* P1 */
        space_image_clear(&c->store->space, address);
}

/* ---- Dead lists ---- */

static int write_run(struct checkpoint *c, struct version *v)
{
    uint64_t address;
    uint32_t got;
    struct dead_run run;
    uint32_t want = dead_gather_blocks(&c->gather);
    int err = checkpoint_allocate(c, want, &address, &got);
    if (!err)
        err = dead_gather_write(&c->gather, c->store->blocks, c->store->super.seed, address, got, &run);
    if (!err && (err = dead_runs_add(&v->runs, &run)))
        free(run.crcs);
    c->dead_blocks += got;
    return err;
}

int checkpoint_dead_flush(struct checkpoint *c, struct version *v)
{
    int err = 0;
    while (c->gather.count && !err)
        err = write_run(c, v);
    return err;
}

static int add_dead(struct checkpoint *c, struct version *v, enum radix_drop what, const struct radix_entry *e, unsigned level)
{
    c->gather.entries[c->gather.count++] = (struct dead_entry){ .block = *e, .what = what, .level = (uint8_t)level };
    if (c->budget != UINT64_MAX && c->dead_blocks + dead_gather_blocks(&c->gather) >= RECLAIM_DEAD_BLOCKS)
        c->budget = 0;
    return dead_gather_full(&c->gather) ? write_run(c, v) : 0;
}

/* One block of the budget, of which nothing is left when a store that closes has had its time. */
static void spend(struct checkpoint *c)
{
    uint64_t until_ms = __atomic_load_n(&c->store->hurries_until_ms, __ATOMIC_RELAXED);
    if (c->budget != UINT64_MAX)
        c->budget = until_ms && clock_monotonic_ms() >= until_ms ? 0 : c->budget - 1;
}

/* Frees a subtree's blocks born after limit; older parts go to v's dead list. */
static int drop_subtree(struct checkpoint *c, struct version *v, uint64_t limit, const struct radix_entry *node, unsigned level)
{
    struct radix_io io = checkpoint_io(c);
    struct radix_entry entries[RADIX_FANOUT];
    int err = radix_read_node(&io, node, level, entries);
    if (err == -EIO) /* what a second attempt reads is not damaged */
        err = radix_read_node(&io, node, level, entries);
    if (err == -EBADMSG || err == -EIO) {
        log_error("a damaged map node was dropped with what is below it; its blocks stay unused address=%llu", (unsigned long long)node->address);
        return 0;
    }
    for (unsigned i = 0; i < RADIX_FANOUT && !err; i++) {
        const struct radix_entry *e = &entries[i];
        if (e->kind == RADIX_DATA)
            err = checkpoint_drop(c, v, limit, RADIX_DROP_DATA, e, 0);
        else if (e->kind == RADIX_NODE)
            err = checkpoint_drop(c, v, limit, RADIX_DROP_SUBTREE, e, level - 1);
    }
    if (!err)
        checkpoint_free_block(c, node->address);
    return err;
}

int checkpoint_drop(struct checkpoint *c, struct version *v, uint64_t limit, enum radix_drop what, const struct radix_entry *e, unsigned level)
{
    if (e->birth <= limit || c->budget == 0)
        return add_dead(c, v, what, e, level);
    spend(c);
    if (what == RADIX_DROP_SUBTREE)
        return drop_subtree(c, v, limit, e, level);
    checkpoint_free_block(c, e->address);
    return 0;
}

/* ---- DELETE with one child ---- */

/* The entries of a run's last block are lost. */
static void lose_block(struct checkpoint *c, const struct version *child, struct dead_run *run, uint32_t block, int err)
{
    log_error("a block of a dead list is damaged, what it names stays unused version=%llu address=%llu error=%d", (unsigned long long)child->id,
              (unsigned long long)(run->address + block), err);
    run->count = block * DEAD_PER_BLOCK;
    run->dirty = true;
    checkpoint_free_block(c, run->address + block);
}

static int read_dead(struct checkpoint *c, const struct dead_run *run, uint32_t block, struct dead_entry *entries, uint32_t *n, uint8_t *buffer)
{
    int err = dead_run_read(run, c->store->blocks, c->store->super.seed, block, entries, n, buffer);
    return err == -EIO ? dead_run_read(run, c->store->blocks, c->store->super.seed, block, entries, n, buffer) : err;
}

/* Cuts off a run's entries born after limit, newest first, as far as the budget goes. */
static int cut_run(struct checkpoint *c, struct version *child, struct dead_run *run, uint64_t limit, uint8_t *buffer)
{
    struct dead_entry entries[DEAD_PER_BLOCK];
    while (run->count && run->max_birth > limit && c->budget) {
        uint32_t block = dead_run_blocks(run) - 1, n;
        int err = read_dead(c, run, block, entries, &n, buffer);
        if (err == -EBADMSG || err == -EIO) {
            lose_block(c, child, run, block, err);
            continue;
        }
        while (!err && n && entries[n - 1].block.birth > limit && c->budget) {
            const struct dead_entry *e = &entries[--n];
            run->count--;
            err = checkpoint_drop(c, child, limit, e->what, &e->block, e->level);
        }
        if (err)
            return err;
        if (n)
            run->max_birth = entries[n - 1].block.birth;
        else
            checkpoint_free_block(c, run->address + block);
        run->dirty = true;
    }
    return 0;
}

static int forget_run(struct checkpoint *c, uint64_t version, struct dead_run *run)
{
    uint8_t key[17];
    key_encode(key, KEY_RUN, version);
    uint8_t number[9];
    key_encode(number, KEY_RUN, run->number);
    for (int i = 0; i < 8; i++)
        key[9 + i] = number[1 + i];
    free(run->crcs);
    run->crcs = NULL;
    return checkpoint_add_change(c, key, sizeof key, NULL, 0);
}

static int cut_runs(struct checkpoint *c, struct version *child, uint64_t limit)
{
    uint8_t *buffer = bdev_buffer_alloc(1);
    if (!buffer)
        return -ENOMEM;
    int err = 0;
    /* Opening subtrees adds runs behind the ones there are: those hold what is to be kept, or is left for the next time. */
    uint32_t n = child->runs.count, kept = 0;
    for (uint32_t i = 0; i < n && !err; i++) {
        struct dead_run run = child->runs.runs[i];
        err = cut_run(c, child, &run, limit, buffer);
        child->runs.runs[i] = run;
    }
    if (!err)
        err = checkpoint_dead_flush(c, child);
    for (uint32_t i = 0; i < child->runs.count && !err; i++) {
        struct dead_run run = child->runs.runs[i];
        child->runs.runs[i].crcs = NULL; /* should the next fail, they have one place all the same */
        if (run.count)
            child->runs.runs[kept++] = run;
        else
            err = forget_run(c, child->id, &run);
    }
    if (!err)
        child->runs.count = kept;
    free(buffer);
    return err;
}

/* 0: done; -EINTR: to be continued. */
static int delete_into_child(struct checkpoint *c, struct version *v, struct version *child, uint64_t limit)
{
    int err = cut_runs(c, child, limit);
    for (uint32_t i = 0; i < child->runs.count && !err; i++)
        if (child->runs.runs[i].max_birth > limit) {
            v->delete_cursor = 1;
            return -EINTR;
        }
    for (uint32_t i = 0; i < v->runs.count && !err; i++) {
        struct dead_run moved = v->runs.runs[i];
        size_t bytes = dead_run_blocks(&moved) * sizeof *moved.crcs;
        moved.crcs = malloc(bytes);
        if (!moved.crcs)
            return -ENOMEM;
        memcpy(moved.crcs, v->runs.runs[i].crcs, bytes);
        if ((err = dead_runs_add(&child->runs, &moved)))
            free(moved.crcs);
    }
    return err;
}

/* ---- DELETE without children ---- */

struct walk {
    struct checkpoint *c;
    struct version *v;
};

static int walk_data(void *ctx, uint64_t block, const struct radix_entry *e)
{
    struct walk *w = ctx;
    if (w->c->budget == 0) {
        w->v->delete_cursor = block;
        return -EINTR;
    }
    spend(w->c);
    checkpoint_free_block(w->c, e->address);
    return 0;
}

static int walk_node(void *ctx, unsigned level, uint64_t first_block, const struct radix_entry *e)
{
    struct walk *w = ctx;
    (void)level;
    (void)first_block;
    checkpoint_free_block(w->c, e->address);
    return 0;
}

static int walk_damaged(void *ctx, unsigned level, uint64_t first_block, const struct radix_entry *e, int error)
{
    (void)ctx;
    (void)error;
    log_error("a damaged map node was met while deleting; what is below it stays unused address=%llu level=%u block=%llu", (unsigned long long)e->address, level,
              (unsigned long long)first_block);
    return 0;
}

/* 0: done; -EINTR: to be continued from the cursor. */
static int delete_leaf(struct checkpoint *c, struct version *v, uint64_t limit)
{
    struct walk w = { c, v };
    struct radix_visit visit = { .ctx = &w, .from = v->delete_cursor, .min_birth = limit + 1, .data = walk_data, .node = walk_node, .damaged = walk_damaged };
    struct radix_io io = checkpoint_io(c);
    int err = v->root.height ? radix_walk(&io, &v->root, &visit) : 0;
    for (uint32_t i = 0; i < v->runs.count && !err; i++)
        for (uint32_t b = 0; b < dead_run_blocks(&v->runs.runs[i]); b++)
            checkpoint_free_block(c, v->runs.runs[i].address + b);
    return err;
}

static int forget_version(struct checkpoint *c, struct version *v)
{
    int err = 0;
    for (uint32_t i = 0; i < v->runs.count && !err; i++)
        err = forget_run(c, v->id, &v->runs.runs[i]);
    dead_runs_fini(&v->runs);
    uint8_t key[9];
    key_encode(key, KEY_VERSION, v->id);
    return err ? err : checkpoint_add_change(c, key, sizeof key, NULL, 0);
}

static struct planned_version *planned(struct checkpoint *c, const struct version *v)
{
    for (uint32_t i = 0; i < c->version_count; i++)
        if (c->versions[i].v == v)
            return &c->versions[i];
    return NULL;
}

int checkpoint_reclaim(struct checkpoint *c)
{
    c->budget = c->store->opt.reclaim_blocks;
    c->dead_blocks = 0;
    for (uint32_t i = 0; i < c->deletion_count; i++) {
        struct deletion *d = &c->deletions[i];
        uint64_t limit = d->parent ? d->parent->generation : 0;
        if (c->budget == 0)
            continue;
        int err = d->child ? delete_into_child(c, d->v, d->child, limit) : delete_leaf(c, d->v, limit);
        if (err == -EINTR)
            continue;
        if (!err && d->child)
            planned(c, d->child)->parent_id = d->parent ? d->parent->id : 0;
        if (!err)
            err = forget_version(c, d->v);
        if (err)
            return err;
        planned(c, d->v)->deleted = d->finished = true;
    }
    return 0;
}
