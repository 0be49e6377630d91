/* scrub.c - reads all that is stored and verifies it, a little at a time, while the store is in use.
 *
 * Versions are gone through in the order of their ids, each for what was born in it alone: parents have smaller ids than their
 * children, and what a deleted version leaves to its child belongs to the child by then; so every block is read once. A child
 * that came after the scrub had begun may have got so what was not read yet: such heirs are gone through in further rounds, and
 * none is left out without an error. A step reads at most STEP_BLOCKS and counts as a reader for that long only. Between steps the scrub waits
 * as its rate asks; without a rate, as long as the step took if others have used the store meanwhile.
 * Its place is kept in the catalog (object "scrub", key "C": version u64, block u64, end u64 (ids from there on are newer than
 * the scrub), bytes u64, damaged u64, began u64 in ns), at most SAVE_MS old: after a stop, a kill or a power cut the next
 * scrub goes on from there. The key goes when the scrub has come to its end. */
#include "parallax/parallax_private.h"

#include "base/clock.h"
#include "base/endian.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STEP_BLOCKS 128u
#define SAVE_MS 2000u
#define TELL_MS 200u
#define PLACE_BYTES 48u
#define ROUNDS 32u /* where states come and go faster than they are read, there is no end */
#define NODES_TOLD 16u /* damaged nodes and lost ranges of one step */

struct place {
    uint64_t version, block, end, bytes, damaged, began_ns;
};

struct bad {
    struct radix_entry entry;
    uint64_t block, count; /* count: of what is lost */
    unsigned level; /* 0: data, or what is lost */
    int error;
};

struct named {
    char name[IMAGE_TARGET_SIZE];
    struct radix_root root;
    bool uses;
};

struct scrub {
    struct owned owned;
    struct job job;
    struct loop_timer pause;
    struct store *store;
    struct store_op *op;
    const struct store_scrub_options *options;
    struct store_scrub_result *out;
    struct place place;
    uint64_t revision;          /* of the object */
    uint64_t *ids;              /* of the versions that there were at the start, ascending */
    uint64_t id_count, at;
    uint32_t rounds;
    int unread;                 /* -EAGAIN, -ENOMEM: the last round has left some out */
    uint64_t era, step_ms, began_ms, saved_ms, told_ms, due_ms, others, bytes; /* bytes: by this run */
    /* of the step */
    struct radix_root root;
    uint64_t min_birth, next_block; /* next_block UINT64_MAX: the version is done */
    struct radix_entry entries[STEP_BLOCKS];
    uint64_t blocks[STEP_BLOCKS];
    struct bad bad[STEP_BLOCKS + NODES_TOLD];
    uint32_t count, bad_count, bad_at;
    bool save, loaded;
    uint8_t *buffer;
    struct named *named;
    uint32_t named_count;
    int error;
};

static void scrub_free(struct scrub *c)
{
    list_remove(&c->owned.link);
    loop_timer_stop(c->store->loop, &c->pause);
    c->store->scrubbing = false;
    free(c->ids);
    free(c->buffer);
    free(c->named);
    free(c);
}

static void release(struct owned *o) { scrub_free(container_of(o, struct scrub, owned)); }

static void submit(struct scrub *c, void (*work)(struct job *j), void (*done)(struct loop_task *t))
{
    c->job.work = work;
    c->job.done.run = done;
    worker_submit(&c->store->walker, &c->job);
}

/* ---- The place, on the walker's thread ---- */

static int take_place(void *ctx, const void *key, size_t key_length, const void *value, size_t length)
{
    struct scrub *c = ctx;
    const uint8_t *v = value;
    if (key_length != 1 || *(const char *)key != 'C' || length != PLACE_BYTES)
        return 0; /* a scrub may begin anew */
    c->place = (struct place){ get_le64(v), get_le64(v + 8), get_le64(v + 16), get_le64(v + 24), get_le64(v + 32), get_le64(v + 40) };
    c->loaded = true;
    return 0;
}

static void load_place(struct job *j)
{
    struct scrub *c = container_of(j, struct scrub, job);
    c->error = catalog_scan(c->store->backing.catalog, "scrub", &c->revision, take_place, c);
}

/* end: the scrub has come to its end. */
static void save_place(struct scrub *c, bool end)
{
    uint8_t v[PLACE_BYTES];
    const struct place *p = &c->place;
    const uint64_t fields[] = { p->version, p->block, p->end, p->bytes, p->damaged, p->began_ns };
    for (unsigned i = 0; i < sizeof fields / sizeof *fields; i++)
        put_le64(v + 8 * i, fields[i]);
    int err = catalog_apply(c->store->backing.catalog, "scrub", c->revision, &(struct catalog_change){ "C", 1, end ? NULL : v, sizeof v }, 1);
    c->revision += !err;
    c->error = err && end ? err : c->error; /* a place that is not kept costs time, nothing else */
}

/* ---- A step, on the walker's thread ---- */

static int gather(void *ctx, uint64_t block, const struct radix_entry *e)
{
    struct scrub *c = ctx;
    if (c->count == STEP_BLOCKS) {
        c->next_block = block;
        return 1;
    }
    c->entries[c->count] = *e;
    c->blocks[c->count++] = block;
    return 0;
}

/* 1: it is left for the next step. */
static int add_bad(struct scrub *c, struct bad bad)
{
    if (c->bad_count == NODES_TOLD) {
        c->next_block = bad.block;
        return 1;
    }
    c->bad[c->bad_count++] = bad;
    return 0;
}

static int damaged_node(void *ctx, unsigned level, uint64_t first_block, const struct radix_entry *e, int error)
{
    return add_bad(ctx, (struct bad){ .entry = *e, .block = first_block, .level = level, .error = error });
}

static int lost_range(void *ctx, uint64_t first_block, uint64_t count, const struct radix_entry *e)
{
    return add_bad(ctx, (struct bad){ .entry = *e, .block = first_block, .count = count, .error = -EBADMSG });
}

static void step(struct job *j)
{
    struct scrub *c = container_of(j, struct scrub, job);
    struct radix_io io = { .device = c->store->blocks, .seed = c->store->super.seed };
    struct radix_visit visit = { .ctx = c, .from = c->place.block, .min_birth = c->min_birth, .data = gather, .lost = lost_range, .damaged = damaged_node };
    int errors[STEP_BLOCKS];
    c->step_ms = clock_monotonic_ms();
    if (c->save)
        save_place(c, false);
    c->count = c->bad_count = c->bad_at = 0;
    c->next_block = UINT64_MAX;
    int err = c->root.height ? radix_walk(&io, &c->root, &visit) : 0;
    c->error = err < 0 ? err : 0;
    if (!c->error && c->count && blocks_read(c->store, c->entries, c->count, c->buffer, errors))
        for (uint32_t i = 0; i < c->count; i++)
            if (errors[i])
                c->bad[c->bad_count++] = (struct bad){ .entry = c->entries[i], .block = c->blocks[i], .error = errors[i] };
    c->step_ms = clock_monotonic_ms() - c->step_ms;
}

/* Whether a map has that very block or node in that place, or has lost it with that very node. */
static bool uses(struct radix_io *io, const struct radix_root *root, const struct bad *b)
{
    struct radix_entry node = root->node, entries[RADIX_FANOUT];
    if (root->height < b->level || b->block >> 8 * root->height)
        return false;
    for (unsigned level = root->height; level > b->level; level--) {
        if (node.kind == RADIX_LOST && b->entry.kind == RADIX_LOST)
            break;
        if (node.kind != RADIX_NODE || radix_read_node(io, &node, level, entries))
            return false;
        node = entries[b->block >> 8 * (level - 1) & (RADIX_FANOUT - 1)];
    }
    return node.kind == b->entry.kind && node.address == b->entry.address && node.birth == b->entry.birth;
}

static void find_users(struct job *j)
{
    struct scrub *c = container_of(j, struct scrub, job);
    struct radix_io io = { .device = c->store->blocks, .seed = c->store->super.seed };
    for (uint32_t i = 0; i < c->named_count; i++)
        c->named[i].uses = c->named[i].root.height && uses(&io, &c->named[i].root, &c->bad[c->bad_at]);
}

/* ---- On the loop ---- */

static void next_step(struct scrub *c);

static void finish(struct scrub *c, int error)
{
    struct store_op *op = c->op;
    *c->out = (struct store_scrub_result){ .bytes = c->place.bytes, .damaged = c->place.damaged, .resumed_bytes = c->place.bytes - c->bytes };
    if (error == -ECANCELED)
        error_set(&op->error, error, "stopped; the next scrub goes on from here");
    else if (error == -EAGAIN)
        error_set(&op->error, error, "store '%s': snapshots were taken and deleted faster than what they left was read, so some is not verified; scrub again when there are fewer",
                  store_name(c->store));
    else if (error)
        error_set(&op->error, error, "store '%s': the scrub could not be finished: %s", store_name(c->store), strerror(-error));
    scrub_free(c);
    op->done(op);
}

static void saved(struct loop_task *t)
{
    struct scrub *c = container_of(t, struct scrub, job.done);
    finish(c, c->at < c->id_count ? -ECANCELED : c->error ? c->error : c->unread);
}

static void save_last(struct job *j)
{
    struct scrub *c = container_of(j, struct scrub, job);
    c->error = 0;
    save_place(c, c->at == c->id_count);
}

/* A long pause is taken in pieces, so that a stop is heard. */
static void paused(struct loop_timer *t)
{
    struct scrub *c = container_of(t, struct scrub, pause);
    uint64_t now = clock_monotonic_ms();
    if (now >= c->due_ms || op_stopped(c->op))
        next_step(c);
    else
        loop_timer_start(c->store->loop, &c->pause, c->due_ms - now < TELL_MS ? c->due_ms - now : TELL_MS);
}

static void go_on(struct scrub *c)
{
    const struct image_counters *count = &c->store->count;
    uint64_t now = clock_monotonic_ms(), others = count->bytes[IMAGE_READ] + count->bytes[IMAGE_WRITE] + count->bytes[IMAGE_DISCARD];
    if (c->options->rate_bytes)
        c->due_ms = c->began_ms + c->bytes * 1000 / c->options->rate_bytes;
    else
        c->due_ms = others != c->others ? now + c->step_ms + 1 : now;
    c->others = others;
    if (c->options->progress && now - c->told_ms >= TELL_MS) {
        c->told_ms = now;
        c->options->progress(c->options->ctx, c->place.bytes);
    }
    loop_timer_start(c->store->loop, &c->pause, 0);
}

static void tell(struct scrub *c, const struct bad *b, const char *name)
{
    char line[512];
    unsigned long long offset = b->block * BDEV_BLOCK_SIZE, address = b->entry.address;
    const char *what = b->error == -EBADMSG ? "does not match its checksum" : "cannot be read";
    if (b->count)
        snprintf(line, sizeof line, "%s: offset %llu: %llu bytes are lost, as the map of them was damaged (node %llu); writing or discarding them makes them good", name,
                 offset, (unsigned long long)(b->count * BDEV_BLOCK_SIZE), address);
    else if (b->level)
        snprintf(line, sizeof line, "%s: offset %llu: the map of what follows, up to %llu bytes, %s (node %llu, level %u)", name, offset,
                 (unsigned long long)BDEV_BLOCK_SIZE << 8 * b->level, what, address, b->level);
    else
        snprintf(line, sizeof line, "%s: offset %llu: data %s (block %llu)", name, offset, what, address);
    if (c->options->finding)
        c->options->finding(c->options->ctx, line);
}

static void next_bad(struct scrub *c);

static void users_found(struct loop_task *t)
{
    struct scrub *c = container_of(t, struct scrub, job.done);
    const struct bad *b = &c->bad[c->bad_at++];
    bool told = false;
    for (uint32_t i = 0; i < c->named_count; i++)
        if (c->named[i].uses) {
            tell(c, b, c->named[i].name);
            told = true;
        }
    if (!told)
        tell(c, b, "(a state without a name)");
    next_bad(c);
}

static void add_named(struct scrub *c, const struct version *v, const char *image, const char *snapshot)
{
    struct named *n = &c->named[c->named_count++];
    n->root = *lookup_root(v);
    snprintf(n->name, sizeof n->name, snapshot ? "%s@%s" : "%s", image, snapshot);
}

/* All images and snapshots, as they are now: the step still counts as a reader. */
static int collect_named(struct scrub *c)
{
    const struct tree *t = &c->store->tree;
    free(c->named);
    c->named = calloc(t->image_count + t->snapshot_count + 1, sizeof *c->named);
    c->named_count = 0;
    if (!c->named)
        return -ENOMEM;
    list_for_each(n, &t->all_images) {
        const struct vdisk *d = container_of(n, struct vdisk, all_link);
        if (!d->name)
            continue;
        add_named(c, d->head, d->name, NULL);
        list_for_each(i, &d->snapshots)
            add_named(c, container_of(i, struct version, snapshot_link), d->name, container_of(i, struct version, snapshot_link)->name);
    }
    return 0;
}

static void next_bad(struct scrub *c)
{
    if (c->bad_at < c->bad_count) {
        submit(c, find_users, users_found);
        return;
    }
    reader_end(c->store, c->era);
    go_on(c);
}

static void stepped(struct loop_task *t)
{
    struct scrub *c = container_of(t, struct scrub, job.done);
    if (c->save)
        c->saved_ms = clock_monotonic_ms();
    if (c->error) {
        reader_end(c->store, c->era);
        finish(c, c->error);
        return;
    }
    c->bytes += (uint64_t)c->count * BDEV_BLOCK_SIZE;
    c->place.bytes += (uint64_t)c->count * BDEV_BLOCK_SIZE;
    c->place.damaged += c->bad_count;
    c->place.block = c->next_block;
    if (c->next_block == UINT64_MAX) {
        c->place.block = 0;
        c->place.version++;
        c->at++;
    }
    if (c->bad_count && collect_named(c))
        c->bad_count = 0;
    next_bad(c);
}

/* Its deletion has begun: blocks that only it held are gone from its map (V5). */
static bool is_going(const struct version *v) { return version_unwanted(v) && v->is_going; }

/* What is born in it and in the versions that it stands for. */
static uint64_t own_birth(const struct version *v)
{
    const struct version *older = v->parent;
    while (older && is_going(older)) /* what it leaves is v's already */
        older = older->parent;
    return older ? older->generation + 1 : 0;
}

static bool is_there(const struct version *v) { return v && v->in_catalog && !is_going(v) && (!version_unwanted(v) || v->child_count); }

/* It has what was born in a version that is gone. (The first of an image is of generation 1.) */
static bool has_inherited(const struct version *v)
{
    uint64_t birth = own_birth(v);
    return v->generation > (birth ? birth : 1);
}

static int by_id(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* Begins a round if there are heirs: with all that are newer than the last one, as an heir may go before it is read. */
static bool take_heirs(struct scrub *c)
{
    const struct hash *h = &c->store->tree.versions;
    uint64_t *ids = malloc((h->count + 1) * sizeof *ids), n = 0;
    bool heirs = false;
    for (uint64_t b = 0; ids && h->buckets && b <= h->mask; b++)
        for (struct hash_node *i = h->buckets[b]; i; i = i->next) {
            const struct version *v = container_of(i, struct version, node);
            if (v->id < c->place.end)
                continue;
            ids[n++] = v->id;
            heirs |= is_there(v) && has_inherited(v);
        }
    if (!ids || !heirs || c->rounds++ == ROUNDS) {
        c->unread = !ids ? -ENOMEM : heirs ? -EAGAIN : 0;
        free(ids);
        return false;
    }
    qsort(ids, n, sizeof *ids, by_id);
    free(c->ids);
    c->ids = ids;
    c->id_count = n;
    c->at = 0;
    c->place.end = c->store->tree.next_version;
    return true;
}

/* The next version that is there, with what it alone holds; NULL: none. */
static struct version *next_version(struct scrub *c)
{
    do
        for (; c->at < c->id_count; c->at++) {
            struct version *v = tree_version(&c->store->tree, c->ids[c->at]);
            if (!is_there(v) || (c->rounds && !has_inherited(v)))
                continue;
            if (c->place.version != v->id)
                c->place.block = 0;
            c->place.version = v->id;
            return v;
        }
    while (take_heirs(c));
    return NULL;
}

static void next_step(struct scrub *c)
{
    struct version *v = next_version(c);
    if (!v || op_stopped(c->op)) {
        submit(c, save_last, saved);
        return;
    }
    c->root = v->live_root;
    c->min_birth = own_birth(v);
    c->save = clock_monotonic_ms() - c->saved_ms >= SAVE_MS;
    reader_begin(c->store, &c->era);
    submit(c, step, stepped);
}

static int collect_ids(struct scrub *c)
{
    const struct hash *h = &c->store->tree.versions;
    if (!c->loaded)
        c->place = (struct place){ .end = c->store->tree.next_version, .began_ns = clock_real_ns() };
    if (!(c->ids = malloc((h->count + 1) * sizeof *c->ids)))
        return -ENOMEM;
    for (uint64_t b = 0; h->buckets && b <= h->mask; b++)
        for (struct hash_node *n = h->buckets[b]; n; n = n->next) {
            uint64_t id = container_of(n, struct version, node)->id;
            if (id >= c->place.version && id < c->place.end)
                c->ids[c->id_count++] = id;
        }
    qsort(c->ids, c->id_count, sizeof *c->ids, by_id);
    return 0;
}

static void in_trees(struct store_op *op)
{
    struct scrub *c = op->work;
    int err = op->error.code ? op->error.code : collect_ids(c);
    if (err) {
        finish(c, err);
        return;
    }
    c->began_ms = c->saved_ms = clock_monotonic_ms();
    c->pause.expired = paused;
    next_step(c);
}

static void place_loaded(struct loop_task *t)
{
    struct scrub *c = container_of(t, struct scrub, job.done);
    if (c->error)
        finish(c, c->error);
    else
        checkpoint_then(c->store, c->op, in_trees);
}

static void run_scrub(struct store_op *op)
{
    struct store *s = op->store;
    struct scrub *c = s->scrubbing ? NULL : calloc(1, sizeof *c);
    uint8_t *buffer = c ? bdev_buffer_alloc(STEP_BLOCKS) : NULL;
    if (!buffer) {
        error_set(&op->error, s->scrubbing ? -EBUSY : -ENOMEM, s->scrubbing ? "store '%s' is being scrubbed already" : "store '%s': no memory for a scrub", store_name(s));
        free(c);
        op->done(op);
        return;
    }
    *c = (struct scrub){ .store = s, .op = op, .options = op->args.scrub, .out = op->args.scrubbed, .buffer = buffer };
    op->work = c;
    owned_add(s, &c->owned, release);
    s->scrubbing = true;
    submit(c, load_place, place_loaded);
}

void store_scrub(struct store *s, struct store_op *op, const struct store_scrub_options *options, struct store_scrub_result *out)
{
    op->args.scrub = options;
    op->args.scrubbed = out;
    op_begin(s, op, run_scrub);
}
