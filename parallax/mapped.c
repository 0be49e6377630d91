/* mapped.c - which blocks of a range hold data, as of this instant: changes that are not in trees included.
 *
 * Chunks of a leaf's blocks are looked up one after the other, each in one moment (consistency.md, L1). As in a read, the root it
 * began with is not reused until it ends (H1), and a state that could be another one a moment later is waited for (V7). Runs are
 * told on the loop; a chunk whose nodes are in memory costs some microseconds, and IMAGE_MAP_MAX bounds how many there are. */
#include "parallax/parallax_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK RADIX_FANOUT /* blocks */

struct mapped {
    struct owned owned;
    struct store *store;
    struct store_op *op;
    struct loop_task begin;
    struct radix_lookup lookup;
    uint64_t era;
    uint64_t at, end;               /* bytes: what was not told yet */
    struct { uint64_t offset, length; bool data; } run;
    bool known[CHUNK];
    struct radix_entry changes[CHUNK], entries[CHUNK];
};

static void release(struct owned *o)
{
    struct mapped *m = container_of(o, struct mapped, owned);
    loop_cancel(m->store->loop, &m->begin);
    list_remove(&m->owned.link);
    free(m);
}

static void finish(struct mapped *m, int error)
{
    struct store_op *op = m->op;
    if (!error && m->run.length)
        error = op->args.diff_run(op->args.diff_ctx, m->run.offset, m->run.length, m->run.data);
    if (error)
        error_set(&op->error, error, "store '%s': cannot read its map: %s", store_name(m->store), error == -EBADMSG ? "damaged; run 'parallax check'" : strerror(-error));
    release(&m->owned);
    op->done(op);
}

/* Makes [m->at, to) part of a run. */
static int add(struct mapped *m, uint64_t to, bool data)
{
    int err = 0;
    to = to < m->end ? to : m->end;
    if (m->run.length && m->run.data != data) {
        err = m->op->args.diff_run(m->op->args.diff_ctx, m->run.offset, m->run.length, m->run.data);
        m->run.length = 0;
    }
    if (!m->run.length) {
        m->run.offset = m->at;
        m->run.data = data;
    }
    m->run.length += to - m->at;
    m->at = to;
    return err;
}

static int tell_chunk(struct mapped *m)
{
    int err = 0;
    for (uint32_t i = 0; i < m->lookup.count && !err; i++) {
        const struct radix_entry *e = m->known[i] ? &m->changes[i] : &m->entries[i];
        err = add(m, (m->lookup.first + i + 1) * BDEV_BLOCK_SIZE, e->kind != RADIX_NONE);
    }
    return err;
}

static void completed(struct store_op *op);

/* Begins the next chunk; its target may have changed or gone since the last one. */
static int look_up(struct mapped *m)
{
    struct vdisk *d;
    struct version *v;
    struct store *s = m->store;
    int err = identity_find(s, m->op->args.name, &d, &v, &m->op->error);
    if (err)
        return err;
    v = v ? v : d->head;
    m->end = m->end < v->size_bytes ? m->end : v->size_bytes;
    if (m->at >= m->end)
        return 0;
    if (read_is_early(s, v)) {
        m->op->finish = completed;
        journal_wait_complete(s, m->op);
        return -EINPROGRESS;
    }
    uint64_t first = m->at / BDEV_BLOCK_SIZE, last = (m->end - 1) / BDEV_BLOCK_SIZE, most = CHUNK - first % CHUNK;
    uint32_t count = (uint32_t)(last - first + 1 < most ? last - first + 1 : most), found = 0;
    for (uint32_t i = 0; i < count; i++) {
        m->known[i] = lookup_changes(s, v, (uint32_t)(first + i), &m->changes[i]);
        found += m->known[i];
    }
    m->lookup.root = *lookup_root(v);
    m->lookup.first = first;
    m->lookup.count = count;
    reader_begin(s, &m->era);
    return found == count ? 0 : radix_lookup(s->map, &m->lookup);
}

static void go_on(struct mapped *m, int error)
{
    while (!error) {
        if (m->lookup.count) {
            reader_end(m->store, m->era);
            error = tell_chunk(m);
        }
        m->lookup.count = 0;
        if (!error)
            error = look_up(m);
        if (error == -EINPROGRESS)
            return;
        if (!error && m->at >= m->end)
            break;
    }
    if (error && m->lookup.count)
        reader_end(m->store, m->era);
    finish(m, error);
}

static void looked_up(struct radix_lookup *l, int error) { go_on(container_of(l, struct mapped, lookup), error); }

static void completed(struct store_op *op) { go_on(op->work, 0); }

static void begin(struct loop_task *t) { go_on(container_of(t, struct mapped, begin), 0); }

void image_map(struct store *s, struct store_op *op, const char *target, uint64_t offset, uint64_t length,
               int (*run)(void *ctx, uint64_t offset_bytes, uint64_t length_bytes, bool is_data), void *ctx)
{
    struct mapped *m = calloc(1, sizeof *m);
    if (!m) {
        error_set(&op->error, -ENOMEM, "no memory for the operation");
        op_begin(s, op, op_done);
        return;
    }
    op->store = s;
    op->work = m;
    op->args.name = target;
    op->args.diff_run = run;
    op->args.diff_ctx = ctx;
    m->store = s;
    m->op = op;
    m->at = offset;
    m->end = offset + (length < IMAGE_MAP_MAX ? length : IMAGE_MAP_MAX);
    m->lookup.entries = m->entries;
    m->lookup.done = looked_up;
    m->begin.run = begin;
    owned_add(s, &m->owned, release);
    loop_defer(s->loop, &m->begin);
}
