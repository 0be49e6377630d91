/* limit.c - how large the store may become, and what is said when it fills up.
 *
 * The limit bounds what is allocated below, holes not counted; so a lower one needs nothing to be moved: free space goes back
 * until the limit is kept (trim.c). It stands in the superblock, whose second copy is written and flushed before the first:
 * until the first is whole the old limit is in force, and if the first is torn the second has the new one. */
#include "parallax/parallax_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define LIMIT_MIN_BYTES (32ull << 20)

struct limit {
    struct owned owned;
    struct job job;
    struct store *store;
    struct store_op *op;
    struct super super;
    uint8_t *block;
    int error;
};

static void limit_free(struct limit *l)
{
    list_remove(&l->owned.link);
    free(l->block);
    free(l);
}

static void release(struct owned *o) { limit_free(container_of(o, struct limit, owned)); }

static void work(struct job *j)
{
    struct limit *l = container_of(j, struct limit, job);
    struct bdev *d = l->store->blocks;
    super_encode(&l->super, l->block);
    l->error = 0;
    for (unsigned copy = SUPER_COPIES; copy-- && !l->error;) {
        l->error = bdev_write(d, copy, l->block, 1);
        if (!l->error)
            l->error = bdev_flush(d);
    }
}

static void done(struct loop_task *t)
{
    struct limit *l = container_of(t, struct limit, job.done);
    struct store *s = l->store;
    struct store_op *op = l->op;
    if (l->error) {
        error_set(&op->error, l->error, "store '%s': its size cannot be written: %s", store_name(s), strerror(-l->error));
    } else {
        s->super.limit_blocks = l->super.limit_blocks;
        s->grow_error = 0;
        limit_watch(s);
        trim_note(s);
        loop_defer_last(s->loop, &s->pump);
    }
    limit_free(l);
    op->done(op);
}

static void check(struct store *s, uint64_t size_bytes, struct error *err)
{
    uint64_t blocks = size_bytes / BDEV_BLOCK_SIZE;
    uint64_t needed = space_used(s) + space_reserve(s, 0, 0);
    if (blocks < LIMIT_MIN_BYTES / BDEV_BLOCK_SIZE)
        error_set(err, -EINVAL, "a store of %llu bytes is too small; at least 32 MiB are needed", (unsigned long long)size_bytes);
    else if (blocks > s->blocks->max_blocks)
        error_set(err, -ENOSPC, "the device of store '%s' has %llu bytes, fewer than the size asked for", store_name(s),
                  (unsigned long long)s->blocks->max_blocks * BDEV_BLOCK_SIZE);
    else if (blocks > s->space.max_blocks)
        error_set(err, -EFBIG, "store '%s' can become %llu bytes large in one step; then open it again for the next", store_name(s),
                  (unsigned long long)s->space.max_blocks * BDEV_BLOCK_SIZE);
    else if (blocks < needed)
        error_set(err, -ENOSPC, "store '%s' needs %llu bytes for what it holds; delete something, or run 'parallax gc', first", store_name(s),
                  (unsigned long long)needed * BDEV_BLOCK_SIZE);
}

/* No checkpoint runs, and everything is in trees: what is in use is known. */
static void ready(struct store_op *op)
{
    struct limit *l = op->work;
    struct store *s = l->store;
    if (!op->error.code)
        check(s, op->args.number, &op->error);
    if (op->error.code) {
        limit_free(l);
        op->done(op);
        return;
    }
    l->super = s->super;
    l->super.limit_blocks = op->args.number / BDEV_BLOCK_SIZE;
    l->job.work = work;
    l->job.done.run = done;
    worker_submit(&s->grower, &l->job);
}

static void run_resize(struct store_op *op) { checkpoint_then(op->store, op, ready); }

void store_resize(struct store *s, struct store_op *op, uint64_t size_bytes)
{
    struct limit *l = calloc(1, sizeof *l);
    op->args.number = size_bytes;
    op->work = l;
    if (l && (l->block = bdev_buffer_alloc(1))) {
        l->store = s;
        l->op = op;
        owned_add(s, &l->owned, release);
        op_begin(s, op, run_resize);
        return;
    }
    free(l);
    op_begin(s, op, op_done);
    error_set(&op->error, -ENOMEM, "no memory for the operation");
}

/* ---- Filling up ---- */

unsigned limit_percent(struct store *s)
{
    uint64_t capacity = space_present(&s->space) + space_room(s), used = space_used(s);
    return capacity ? (unsigned)(used * 100 / capacity) : 100;
}

void limit_watch(struct store *s)
{
    static const unsigned levels[] = { 95, 90, 80 };
    unsigned percent = limit_percent(s), level = 0;
    for (unsigned i = 0; i < sizeof levels / sizeof *levels && !level; i++)
        level = percent >= levels[i] ? levels[i] : 0;
    if (level > s->warned_percent)
        log_warning("store fills up store=%s used-percent=%u", store_name(s), percent);
    if (level > s->warned_percent || percent + 2 < s->warned_percent) /* said once a crossing, not at every swing about it */
        s->warned_percent = level;
}
