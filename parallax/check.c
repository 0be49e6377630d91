/* check.c - proof by a full walk: every block that a version reaches is allocated, every allocated block is reached, every
 * node is valid and, if asked, every data block has its checksum.
 *
 * It works on copies taken after a checkpoint while none runs, beside the loop, and counts as a reader until it ends. Shared
 * subtrees are walked once: a node that is marked already is not entered again. */
#include "parallax/parallax_private.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

struct checked_version {
    struct radix_root root;
    uint64_t cursor;     /* of a deletion under way: what lies before is gone */
    uint64_t min_birth;  /* of a deletion under way: what is older belongs to others */
    char name[IMAGE_TARGET_SIZE];
};

struct finding {
    struct list_node link;
    char line[512];
};

struct check {
    struct owned owned;
    struct job job;
    struct store *store;
    struct store_op *op;
    uint64_t era;
    bool data;
    void (*finding)(void *ctx, const char *line);
    void *ctx;
    struct store_check_result *result;
    struct checked_version *versions;
    uint32_t version_count;
    struct { uint64_t address; uint32_t blocks; } *runs;
    uint32_t run_count;
    uint64_t *image, *reached; /* bit maps from zone_start on */
    uint64_t words, usable;
    struct list_node findings;
    uint64_t finding_count;
    const char *name;
    uint8_t *buffer;
    int error;
};

#define FINDINGS_MAX 1000u

static void check_free(struct check *c)
{
    list_remove(&c->owned.link);
    struct list_node *n;
    while ((n = list_pop(&c->findings)))
        free(container_of(n, struct finding, link));
    if (c->image)
        munmap(c->image, c->words * 8);
    if (c->reached)
        munmap(c->reached, c->words * 8);
    free(c->versions);
    free(c->runs);
    free(c->buffer);
    free(c);
}

static void release(struct owned *o) { check_free(container_of(o, struct check, owned)); }

__attribute__((format(printf, 2, 3))) static void report(struct check *c, const char *fmt, ...)
{
    if (c->finding_count++ >= FINDINGS_MAX)
        return;
    struct finding *f = malloc(sizeof *f);
    if (!f)
        return;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(f->line, sizeof f->line, fmt, ap);
    va_end(ap);
    list_add_tail(&c->findings, &f->link);
}

/* ---- On the helper's thread ---- */

/* Marks a block; false if it was marked before. */
static bool mark(struct check *c, uint64_t address)
{
    uint64_t i = address - c->store->super.zone_start, bit = 1ull << (i % 64);
    if (address < c->store->super.zone_start || address >= c->usable) {
        c->result->damaged++;
        report(c, "%s: address %llu lies outside the store", c->name, (unsigned long long)address);
        return false;
    }
    if (c->reached[i / 64] & bit)
        return false;
    c->reached[i / 64] |= bit;
    if (!(c->image[i / 64] & bit)) {
        c->result->wrongly_free++;
        report(c, "%s: block %llu is in use but counted as free", c->name, (unsigned long long)address);
    }
    return true;
}

static void check_data(struct check *c, uint64_t block, const struct radix_entry *e)
{
    if (!mark(c, e->address))
        return;
    c->result->blocks_checked++;
    if (!c->data)
        return;
    int err = bdev_read(c->store->blocks, e->address, c->buffer, 1);
    if (err) /* what a second attempt reads is not damaged */
        err = bdev_read(c->store->blocks, e->address, c->buffer, 1);
    if (err || radix_checksum(c->store->super.seed, c->buffer) != e->crc) {
        c->result->damaged++;
        report(c, "%s: offset %llu: %s (block %llu)", c->name, (unsigned long long)(block * BDEV_BLOCK_SIZE), err ? "cannot be read" : "data does not match its checksum",
               (unsigned long long)e->address);
    }
}

static int check_node(struct check *c, const struct checked_version *v, unsigned level, uint64_t first, const struct radix_entry *node)
{
    struct radix_io io = { .device = c->store->blocks, .seed = c->store->super.seed };
    struct radix_entry entries[RADIX_FANOUT];
    if (node->birth < v->min_birth || (!mark(c, node->address) && !v->cursor))
        return 0;
    int err = radix_read_node(&io, node, level, entries);
    if (err == -EIO)
        err = radix_read_node(&io, node, level, entries);
    if (err == -EBADMSG || err == -EIO) {
        c->result->damaged++;
        report(c, "%s: offset %llu: the map of what follows is damaged (node %llu, level %u)", c->name, (unsigned long long)(first * BDEV_BLOCK_SIZE),
               (unsigned long long)node->address, level);
        return 0;
    }
    c->result->nodes_checked++;
    uint64_t span = 1ull << (8 * (level - 1));
    for (unsigned i = 0; i < RADIX_FANOUT && !err; i++) {
        const struct radix_entry *e = &entries[i];
        uint64_t begin = first + i * span;
        if (e->kind == RADIX_NONE || e->birth < v->min_birth || begin + span <= v->cursor)
            continue;
        if (e->kind == RADIX_DATA)
            check_data(c, begin, e);
        else
            err = check_node(c, v, level - 1, begin, e);
    }
    return err;
}

static void compare(struct check *c)
{
    uint64_t start = c->store->super.zone_start;
    for (uint64_t w = 0; w < c->words; w++) {
        uint64_t extra = c->image[w] & ~c->reached[w];
        for (; extra; extra &= extra - 1) {
            uint64_t i = w * 64 + (uint64_t)__builtin_ctzll(extra);
            if (i % ZONE_BLOCKS < ZONE_HEAD_BLOCKS || start + i >= c->usable)
                continue;
            c->result->leaked_blocks++;
            if (c->result->leaked_blocks <= 20)
                report(c, "block %llu is counted as used, but nothing reaches it", (unsigned long long)(start + i));
        }
    }
}

static void work(struct job *j)
{
    struct check *c = container_of(j, struct check, job);
    for (uint32_t i = 0; i < c->version_count && !c->error; i++) {
        const struct checked_version *v = &c->versions[i];
        c->name = v->name;
        if (v->root.height)
            c->error = check_node(c, v, v->root.height, 0, &v->root.node);
    }
    c->name = "dead list";
    for (uint32_t i = 0; i < c->run_count && !c->error; i++)
        for (uint32_t b = 0; b < c->runs[i].blocks; b++)
            mark(c, c->runs[i].address + b);
    if (!c->error)
        compare(c);
}

/* ---- On the loop ---- */

static void done(struct loop_task *t)
{
    struct check *c = container_of(t, struct check, job.done);
    struct store *s = c->store;
    struct store_op *op = c->op;
    reader_end(s, c->era);
    list_for_each(n, &c->findings)
        if (c->finding)
            c->finding(c->ctx, container_of(n, struct finding, link)->line);
    if (c->error)
        error_set(&op->error, c->error, "store '%s': the check could not be finished: %s", store_name(s), strerror(-c->error));
    check_free(c);
    op->done(op);
}

static void name_version(const struct version *v, char *out, size_t size)
{
    if (v->image && v->image->name && v->name)
        snprintf(out, size, "%s@%s", v->image->name, v->name);
    else if (v->image && v->image->name)
        snprintf(out, size, "%s", v->image->name);
    else
        snprintf(out, size, "(hidden version %llu)", (unsigned long long)v->id);
}

static void copy_version(struct check *c, const struct version *v)
{
    struct checked_version *k = &c->versions[c->version_count++];
    k->root = *lookup_root(v);
    k->cursor = v->delete_cursor;
    k->min_birth = v->delete_cursor ? parent_generation(v) + 1 : 0;
    name_version(v, k->name, sizeof k->name);
    for (uint32_t i = 0; i < v->runs.count; i++) {
        c->runs[c->run_count].address = v->runs.runs[i].address;
        c->runs[c->run_count++].blocks = dead_run_blocks(&v->runs.runs[i]);
    }
}

static uint64_t *bit_map(uint64_t words)
{
    void *p = mmap(NULL, words * 8, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

static int copy_all(struct check *c)
{
    struct store *s = c->store;
    const struct hash *h = &s->tree.versions;
    uint64_t runs = 0;
    for (uint64_t b = 0; h->buckets && b <= h->mask; b++)
        for (struct hash_node *n = h->buckets[b]; n; n = n->next)
            runs += container_of(n, struct version, node)->runs.count;
    c->usable = s->space.usable;
    c->words = (uint64_t)s->space.pages * PAGE_WORDS + 1;
    c->versions = calloc(h->count + 1, sizeof *c->versions);
    c->runs = calloc(runs + 1, sizeof *c->runs);
    c->image = bit_map(c->words);
    c->reached = bit_map(c->words);
    c->buffer = bdev_buffer_alloc(1);
    if (!c->versions || !c->runs || !c->image || !c->reached || !c->buffer)
        return -ENOMEM;
    memcpy(c->image, s->space.image, (c->words - 1) * 8);
    for (uint64_t b = 0; h->buckets && b <= h->mask; b++)
        for (struct hash_node *n = h->buckets[b]; n; n = n->next)
            copy_version(c, container_of(n, struct version, node));
    return 0;
}

static void ready(struct store_op *op)
{
    struct check *c = op->work;
    int err = op->error.code ? op->error.code : copy_all(c);
    if (err) {
        error_set(&op->error, err, "no memory for the check");
        check_free(c);
        op->done(op);
        return;
    }
    c->job.work = work;
    c->job.done.run = done;
    reader_begin(c->store, &c->era);
    worker_submit(&c->store->helper, &c->job);
}

static void run_check(struct store_op *op) { checkpoint_then(op->store, op, ready); }

void store_check(struct store *s, struct store_op *op, bool data, void (*finding)(void *ctx, const char *line), void *ctx, struct store_check_result *out)
{
    struct check *c = calloc(1, sizeof *c);
    *out = (struct store_check_result){ 0 };
    op->work = c;
    if (c) {
        *c = (struct check){ .store = s, .op = op, .data = data, .finding = finding, .ctx = ctx, .result = out };
        list_init(&c->findings);
        owned_add(s, &c->owned, release);
        op_begin(s, op, run_check);
        return;
    }
    op_begin(s, op, op_done);
    error_set(&op->error, -ENOMEM, "no memory for the check");
}
