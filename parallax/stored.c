/* stored.c - where a state that does not change holds data, a piece at a time: a walk of its map beside the loop.
 *
 * Only what is mapped costs anything, however large the image is. A piece ends when its list is full, or after so many blocks
 * that whoever waits for the first bytes does not wait for the walk of a whole map; both bound what one turn of the loop is
 * given, and how long the helper thread is away. Like a read, a walk counts as a reader (consistency.md, H1). */
#include "parallax/parallax_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define PIECE_BLOCKS (1u << 18)
#define GAP_BLOCKS 16u /* ranges this close together become one: reading some zeroes costs less than another request */

struct stored {
    struct owned owned;
    struct job job;
    struct store *store;
    struct store_op *op;
    struct image *image;
    struct image_stored *out;
    struct radix_root root;
    uint64_t era;
    uint64_t from, end, next; /* blocks */
    uint64_t blocks;          /* told in this piece */
    int error;
};

static void release(struct owned *o)
{
    list_remove(&o->link);
    free(container_of(o, struct stored, owned));
}

/* ---- Walking, on the helper's thread ---- */

/* 1: the piece ends before these blocks. */
static int add(struct stored *w, uint64_t first, uint64_t count)
{
    uint64_t past = first + count < w->end ? first + count : w->end;
    struct image_stored *out = w->out;
    struct image_range *last = out->count ? &out->ranges[out->count - 1] : NULL;
    first = first > w->from ? first : w->from;
    if (first >= past)
        return 0;
    bool joins = last && first * BDEV_BLOCK_SIZE - (last->offset + last->length) <= GAP_BLOCKS * BDEV_BLOCK_SIZE;
    if (w->blocks >= PIECE_BLOCKS || (!joins && out->count == out->room)) {
        w->next = first;
        return 1;
    }
    if (joins)
        last->length = past * BDEV_BLOCK_SIZE - last->offset;
    else
        out->ranges[out->count++] = (struct image_range){ first * BDEV_BLOCK_SIZE, (past - first) * BDEV_BLOCK_SIZE };
    w->blocks += past - first;
    return 0;
}

static int add_data(void *ctx, uint64_t block, const struct radix_entry *e)
{
    (void)e;
    return add(ctx, block, 1);
}

/* What cannot be read is not nothing: whoever reads there gets the error, and its place. */
static int add_lost(void *ctx, uint64_t first, uint64_t count, const struct radix_entry *e)
{
    (void)e;
    return add(ctx, first, count);
}

static int add_damaged(void *ctx, unsigned level, uint64_t first, const struct radix_entry *e, int error)
{
    (void)e;
    (void)error;
    return add(ctx, first, 1ull << 8 * level);
}

static void work(struct job *j)
{
    struct stored *w = container_of(j, struct stored, job);
    struct radix_io io = { .device = w->store->blocks, .seed = w->store->super.seed };
    struct radix_visit visit = { .ctx = w, .from = w->from, .data = add_data, .lost = add_lost, .damaged = add_damaged };
    w->next = w->end;
    int rc = radix_walk(&io, &w->root, &visit);
    w->error = rc < 0 ? rc : 0;
}

/* ---- On the loop ---- */

static void done(struct loop_task *t)
{
    struct stored *w = container_of(t, struct stored, job.done);
    struct store *s = w->store;
    struct store_op *op = w->op;
    reader_end(s, w->era);
    if (w->error)
        error_set(&op->error, w->error, "store '%s': cannot read its map: %s", store_name(s), strerror(-w->error));
    struct image_range *last = w->out->count ? &w->out->ranges[w->out->count - 1] : NULL;
    uint64_t size = image_size(w->image), next = w->next * BDEV_BLOCK_SIZE;
    if (last && last->length > size - last->offset)
        last->length = size - last->offset; /* which may end inside a block */
    w->out->next = next < size ? next : size;
    release(&w->owned);
    op->done(op);
}

static void begin(struct store_op *op)
{
    struct stored *w = op->work;
    const struct version *v = image_version(w->image);
    if (op->error.code) {
        release(&w->owned);
        op->done(op);
        return;
    }
    w->root = *lookup_root(v);
    w->from = w->out->next / BDEV_BLOCK_SIZE;
    w->end = version_blocks(v);
    w->job.work = work;
    w->job.done.run = done;
    reader_begin(w->store, &w->era);
    worker_submit(&w->store->helper, &w->job);
}

void image_get_stored(struct image *img, struct store_op *op, struct image_stored *out)
{
    struct store *s = img->store;
    struct stored *w = calloc(1, sizeof *w);
    out->count = 0;
    if (!w) {
        error_set(&op->error, -ENOMEM, "no memory for the operation");
        op_begin(s, op, op_done);
        return;
    }
    *w = (struct stored){ .store = s, .op = op, .image = img, .out = out };
    owned_add(s, &w->owned, release);
    op->store = s;
    op->work = w;
    /* Once in trees, it stays there. */
    if (version_final(image_version(img)) || out->next)
        begin(op);
    else
        checkpoint_then(s, op, begin);
}
