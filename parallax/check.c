/* check.c - proof by a full walk: every block that a version reaches is allocated, every allocated block is reached, every
 * node and dead list is valid and, if asked, every data block has its checksum.
 *
 * It works on copies taken after a checkpoint while none runs, beside the loop, and counts as a reader until it ends. Shared
 * subtrees are walked once: a node that is marked already is not entered again.
 * Nodes and data are read many at a time: one by one, a store of small blocks would take hours, and days beside busy guests.
 * Order: versions that somebody can name; hidden ones with branches, so that what only they hold is known; the rest. A
 * version whose deletion into its child has begun (V5) is no longer walked: what is left of it stands in the child's dead runs.
 * A block that is met again must be the same to who names it, by its checksum: else it was given to two, and one has lost it. Of
 * each a byte is kept.
 * References are counted by a second walk: each version by the births that are its own (consistency.md, 31a).
 * One is made at a time: what a walk found wrong may have been put right, and used, by the time at which another is done. */
#include "parallax/mend.h"
#include "parallax/references.h"

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
    uint64_t own_birth;  /* references born from here on are its own; older ones were met in its ancestors */
    bool is_branch;      /* hidden, with branches */
    bool parent_begun;   /* the parent's deletion into this one has begun */
    uint32_t first_run, run_count;
    char name[IMAGE_TARGET_SIZE];
};

struct finding {
    struct list_node link;
    char line[512];
};

#define DATA_BATCH 256u /* data blocks read at once */

struct check {
    struct owned owned;
    struct job job;
    struct store *store;
    struct store_op *op;
    uint64_t era;
    unsigned flags;
    uint64_t used_before;
    struct mend mend;
    struct references references;
    bool may_miss_references;
    void (*finding)(void *ctx, const char *line);
    void *ctx;
    struct store_check_result *result;
    struct checked_version *versions;
    uint32_t version_count;
    struct dead_run *runs;
    uint32_t run_count;
    uint64_t *image, *reached; /* bit maps from zone_start on */
    uint8_t *prints;           /* of the checksum of each block that was reached */
    uint64_t marked;
    uint64_t words, usable;
    struct list_node findings;
    uint64_t finding_count;
    const char *name;
    const struct checked_version *version; /* being walked */
    uint8_t *buffer;
    struct radix_entry entries[DATA_BATCH]; /* data met and not read yet, of one version */
    uint64_t offsets[DATA_BATCH];
    uint32_t entry_count;
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
    if (c->prints)
        munmap(c->prints, c->words * 64);
    for (uint32_t i = 0; i < c->run_count; i++)
        free(c->runs[i].crcs);
    references_fini(&c->references);
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

static uint8_t print_of(uint32_t crc) { return (uint8_t)(crc ^ crc >> 8 ^ crc >> 16 ^ crc >> 24); }

/* The one who lost it may hold more blocks below it, which nobody knows. */
static void tell_two_users(struct check *c, uint64_t address)
{
    c->result->damaged++;
    c->mend.blind = true;
    report(c, "%s: block %llu has another user, for whom it holds something else", c->name, (unsigned long long)address);
}

/* Marks a block, of which its user knows the checksum; false if it was marked before. */
static bool mark(struct check *c, uint64_t address, uint32_t crc)
{
    uint64_t i = address - c->store->super.zone_start, bit = 1ull << (i % 64);
    if (address < c->store->super.zone_start || address >= c->usable) {
        c->result->damaged++;
        report(c, "%s: address %llu lies outside the store", c->name, (unsigned long long)address);
        return false;
    }
    if (c->reached[i / 64] & bit) {
        if (c->prints[i] != print_of(crc))
            tell_two_users(c, address);
        return false;
    }
    c->reached[i / 64] |= bit;
    c->prints[i] = print_of(crc);
    c->marked++;
    if (!(c->image[i / 64] & bit)) {
        c->result->wrongly_free++;
        report(c, "%s: block %llu is in use but counted as free", c->name, (unsigned long long)address);
    }
    return true;
}

/* Reads and verifies the data gathered so far. */
static void check_gathered(struct check *c)
{
    int errors[DATA_BATCH];
    uint32_t bad = blocks_read(c->store, c->entries, c->entry_count, c->buffer, errors);
    for (uint32_t i = 0; bad && i < c->entry_count; i++)
        if (errors[i]) {
            c->result->damaged++;
            report(c, "%s: offset %llu: %s (block %llu)", c->name, (unsigned long long)c->offsets[i],
                   errors[i] == -EBADMSG ? "data does not match its checksum" : "cannot be read", (unsigned long long)c->entries[i].address);
        }
    c->entry_count = 0;
}

static int check_data(void *ctx, uint64_t block, const struct radix_entry *e)
{
    struct check *c = ctx;
    if (!mark(c, e->address, e->crc))
        return 0;
    c->result->blocks_checked++;
    if (!(c->flags & STORE_CHECK_DATA))
        return 0;
    c->entries[c->entry_count] = *e;
    c->offsets[c->entry_count++] = block * BDEV_BLOCK_SIZE;
    if (c->entry_count == DATA_BATCH)
        check_gathered(c);
    return op_stopped(c->op) ? -ECANCELED : 0;
}

static bool enter_node(void *ctx, const struct radix_entry *node)
{
    struct check *c = ctx;
    return mark(c, node->address, node->crc) || c->version->cursor;
}

static int count_node(void *ctx, unsigned level, uint64_t first, const struct radix_entry *node)
{
    struct check *c = ctx;
    (void)level, (void)first, (void)node;
    c->result->nodes_checked++;
    return op_stopped(c->op) ? -ECANCELED : 0;
}

/* What could not be read then may still be below it: nobody knows what it led to. */
static int lost_range(void *ctx, uint64_t first, uint64_t count, const struct radix_entry *e)
{
    struct check *c = ctx;
    c->result->damaged++;
    c->mend.blind = true;
    report(c, "%s: offset %llu: %llu bytes are lost, as the map of them was damaged (node %llu); writing or discarding them makes them good", c->name,
           (unsigned long long)(first * BDEV_BLOCK_SIZE), (unsigned long long)(count * BDEV_BLOCK_SIZE), (unsigned long long)e->address);
    return 0;
}

static int damaged_node(void *ctx, unsigned level, uint64_t first, const struct radix_entry *node, int error)
{
    struct check *c = ctx;
    if (error != -EBADMSG && error != -EIO)
        return error;
    c->result->damaged++;
    c->mend.blind = true;
    report(c, "%s: offset %llu: unreadable for up to %llu bytes, as the map of them is damaged (node %llu, level %u)", c->name,
           (unsigned long long)(first * BDEV_BLOCK_SIZE), (unsigned long long)BDEV_BLOCK_SIZE << 8 * level, (unsigned long long)node->address, level);
    return 0;
}

static int check_subtree(struct check *c, const struct checked_version *v, unsigned level, const struct radix_entry *node)
{
    struct radix_io io = { .device = c->store->blocks, .seed = c->store->super.seed };
    struct radix_visit visit = { .ctx = c, .from = v->cursor, .min_birth = v->min_birth,
                                 .enter = enter_node, .data = check_data, .node = count_node, .lost = lost_range, .damaged = damaged_node };
    c->version = v;
    return radix_walk_subtree(&io, node, level, 0, &visit);
}

static bool is_marked(const struct check *c, uint64_t address)
{
    uint64_t i = address - c->store->super.zone_start;
    return address >= c->store->super.zone_start && address < c->usable && c->reached[i / 64] >> (i % 64) & 1;
}

/* ---- References ---- */

static int count_reference(void *ctx, uint64_t block, const struct radix_entry *e)
{
    struct check *c = ctx;
    (void)block;
    references_add(&c->references, e->address);
    return op_stopped(c->op) ? -ECANCELED : 0;
}

static int miss_references(void *ctx, unsigned level, uint64_t first, const struct radix_entry *node, int error)
{
    (void)level, (void)first, (void)node;
    ((struct check *)ctx)->may_miss_references = true;
    return error == -EBADMSG || error == -EIO ? 0 : error; /* told by the first walk */
}

static int count_references(struct check *c, const struct checked_version *v, uint64_t from, unsigned level, const struct radix_entry *node)
{
    struct radix_io io = { .device = c->store->blocks, .seed = c->store->super.seed };
    struct radix_visit visit = { .ctx = c, .from = from, .min_birth = v->own_birth, .data = count_reference, .damaged = miss_references };
    return radix_walk_subtree(&io, node, level, 0, &visit);
}

/* Of a version whose parent's deletion into it has begun: what the parent alone holds of its own births. */
static int count_dead_reference(struct check *c, const struct checked_version *v, const struct dead_entry *e)
{
    if (e->what == RADIX_DROP_SUBTREE)
        return count_references(c, v, 0, e->level, &e->block);
    if (e->what == RADIX_DROP_DATA && e->block.birth >= v->own_birth)
        references_add(&c->references, e->block.address);
    return 0;
}

static void tell_count(void *ctx, uint64_t address, uint64_t counted, uint64_t met)
{
    struct check *c = ctx;
    uint64_t *n = counted > met ? &c->result->overcounted : &c->result->undercounted;
    if (++*n <= 20)
        report(c, "block %llu has %llu references, but %llu are counted: it would %s", (unsigned long long)address, (unsigned long long)met,
               (unsigned long long)counted, counted > met ? "never be freed" : "be freed while it is in use");
}

static int compare_references(struct check *c)
{
    int err = 0;
    for (uint32_t i = 0; i < c->version_count && !err; i++)
        if (c->versions[i].root.height)
            err = count_references(c, &c->versions[i], c->versions[i].cursor, c->versions[i].root.height, &c->versions[i].root.node);
    return err ? err : references_compare(&c->references, c->may_miss_references || c->mend.blind, tell_count, c);
}

/* An entry names what the parent holds; if that is being given up already, the entry alone holds it. */
static int check_dead_entry(struct check *c, const struct checked_version *v, const struct dead_entry *e)
{
    static const struct checked_version whole = { .cursor = 0 };
    if (v->parent_begun) {
        int err = e->what == RADIX_DROP_SUBTREE ? check_subtree(c, &whole, e->level, &e->block) : (mark(c, e->block.address, e->block.crc), 0);
        return err ? err : count_dead_reference(c, v, e);
    }
    if (is_marked(c, e->block.address) || c->mend.blind)
        return 0;
    c->result->damaged++;
    report(c, "%s: its dead list names block %llu, which its parent does not hold", v->name, (unsigned long long)e->block.address);
    return 0;
}

static int check_run(struct check *c, const struct checked_version *v, const struct dead_run *r)
{
    struct dead_entry entries[DEAD_PER_BLOCK];
    int err = 0;
    for (uint32_t b = 0; b < dead_run_blocks(r) && !err; b++) {
        uint32_t n;
        if (op_stopped(c->op))
            return -ECANCELED;
        mark(c, r->address + b, r->crcs[b]);
        err = dead_run_read(r, c->store->blocks, c->store->super.seed, b, entries, &n, c->buffer);
        if (err == -EIO)
            err = dead_run_read(r, c->store->blocks, c->store->super.seed, b, entries, &n, c->buffer);
        if (err == -EIO || err == -EBADMSG) {
            c->result->dead_damaged++;
            report(c, "%s: a block of its dead list is damaged (block %llu): what it names comes back by 'parallax gc' after deletions", v->name,
                   (unsigned long long)(r->address + b));
            c->may_miss_references |= v->parent_begun;
            n = 0;
            err = 0;
        }
        for (uint32_t i = 0; i < n && !err; i++)
            err = check_dead_entry(c, v, &entries[i]);
    }
    return err;
}

static bool is_lost(const struct check *c, uint64_t word) { return c->store->space.page_lost[word / PAGE_WORDS]; }

static void compare(struct check *c)
{
    uint64_t start = c->store->super.zone_start;
    for (uint64_t w = 0; w < c->words; w++) {
        uint64_t extra = is_lost(c, w) ? 0 : c->image[w] & ~c->reached[w];
        for (; extra; extra &= extra - 1) {
            uint64_t i = w * 64 + (uint64_t)__builtin_ctzll(extra);
            if (i % ZONE_BLOCKS < ZONE_HEAD_BLOCKS || start + i >= c->usable)
                continue;
            c->result->leaked_blocks++;
            if (c->result->leaked_blocks <= 20)
                report(c, "block %llu is counted as used, but nothing reaches it%s", (unsigned long long)(start + i),
                       c->mend.blind ? " (unless what is damaged does)" : "");
        }
        if (w % PAGE_WORDS == 0 && is_lost(c, w)) {
            c->result->lost_pages++;
            report(c, "page %llu of the space map is unreadable: its blocks stay as they are", (unsigned long long)(w / PAGE_WORDS));
        }
    }
}

static void work(struct job *j)
{
    struct check *c = container_of(j, struct check, job);
    for (uint32_t i = 0; i < c->version_count && !c->error; i++) {
        const struct checked_version *v = &c->versions[i];
        uint64_t before = c->marked;
        c->name = v->name;
        if (v->root.height)
            c->error = check_subtree(c, v, v->root.height, &v->root.node);
        check_gathered(c);
        c->result->hidden_bytes += v->is_branch ? (c->marked - before) * BDEV_BLOCK_SIZE : 0;
    }
    for (uint32_t i = 0; i < c->version_count && !c->error; i++) {
        const struct checked_version *v = &c->versions[i];
        c->name = v->name;
        for (uint32_t k = 0; k < v->run_count && !c->error; k++)
            c->error = check_run(c, v, &c->runs[v->first_run + k]);
        check_gathered(c);
    }
    if (!c->error)
        c->error = compare_references(c);
    if (!c->error)
        compare(c);
}

/* ---- On the checkpointer's thread ---- */

static void load_counts(struct job *j) { references_load(&container_of(j, struct check, job)->references); }

static void mend_counts(struct job *j) { references_mend(&container_of(j, struct check, job)->references); }

/* ---- On the loop ---- */

static void begin(struct store_op *op);

/* Lets the next one begin. */
static void end(struct check *c)
{
    struct store *s = c->store;
    struct store_op *op = c->op;
    check_free(c);
    s->checking = false;
    if (!list_empty(&s->checks))
        begin(container_of(list_pop(&s->checks), struct store_op, link));
    op->done(op);
}

static void finish(struct check *c)
{
    struct store *s = c->store;
    list_for_each(n, &c->findings)
        if (c->finding)
            c->finding(c->ctx, container_of(n, struct finding, link)->line);
    if (c->error == -ECANCELED)
        error_set(&c->op->error, c->error, "store '%s': the check was stopped", store_name(s));
    else if (c->error)
        error_set(&c->op->error, c->error, "store '%s': the check could not be finished: %s", store_name(s), strerror(-c->error));
    struct store_status st;
    store_get_status(s, &st);
    c->result->freed_bytes = st.used_bytes < c->used_before ? c->used_before - st.used_bytes : 0;
    if (c->flags & STORE_CHECK_COLLECT)
        trim_now(s);
    end(c);
}

/* The checkpoint that commits the mended map is done. */
static void mended(struct store_op *op)
{
    struct check *c = op->work;
    if (op->error.code)
        c->result->mended = 0;
    else
        mend_end(c->store, &c->mend);
    finish(c);
}

static void nothing(struct job *j) { (void)j; }

static void mend_next(struct loop_task *t);

static void mend(struct store_op *op)
{
    struct check *c = op->work;
    if (!op->error.code && c->store->readying) { /* these blocks look as if they were in use; no others are taken for that meanwhile */
        c->job.work = nothing; /* after them: the grower does one thing after another */
        c->job.done.run = mend_next;
        worker_submit(&c->store->grower, &c->job);
        return;
    }
    if (!op->error.code)
        mend_begin(c->store, &c->mend);
    if (c->result->mended)
        checkpoint_then(c->store, op, mended);
    else
        finish(c);
}

static void mend_next(struct loop_task *t)
{
    struct check *c = container_of(t, struct check, job.done);
    checkpoint_then(c->store, c->op, mend);
}

static void done(struct loop_task *t)
{
    struct check *c = container_of(t, struct check, job.done);
    reader_end(c->store, c->era);
    c->mend.counted = c->image;
    c->mend.reached = c->reached;
    c->mend.words = c->words;
    c->mend.result = c->result;
    bool wrong = c->result->leaked_blocks || c->result->wrongly_free || c->result->lost_pages || c->references.wrong_count;
    if (!(c->flags & (STORE_CHECK_REPAIR | STORE_CHECK_COLLECT)) || !wrong || c->error) {
        finish(c);
        return;
    }
    c->result->mended = c->references.wrong_count;
    c->job.work = mend_counts;
    c->job.done.run = mend_next;
    worker_submit(&c->store->checkpointer, &c->job);
}

static bool is_begun(const struct version *v) { return v && v->delete_cursor && v->child_count; }

static int copy_version(struct check *c, const struct version *v)
{
    struct checked_version *k = &c->versions[c->version_count++];
    if (!is_begun(v))
        k->root = *lookup_root(v);
    const struct version *older = v->parent;
    while (is_begun(older)) /* what it leaves is v's already */
        older = older->parent;
    k->own_birth = older ? older->generation + 1 : 0;
    k->cursor = v->delete_cursor;
    k->min_birth = v->delete_cursor ? parent_generation(v) + 1 : 0;
    k->is_branch = !v->image && v->child_count > 1;
    k->parent_begun = is_begun(v->parent);
    k->first_run = c->run_count;
    version_describe(v, k->name, sizeof k->name);
    for (uint32_t i = 0; i < v->runs.count; i++, k->run_count++) {
        struct dead_run *r = &c->runs[c->run_count];
        size_t bytes = dead_run_blocks(&v->runs.runs[i]) * sizeof *r->crcs;
        *r = v->runs.runs[i];
        if (!(r->crcs = malloc(bytes + 1)))
            return -ENOMEM;
        memcpy(r->crcs, v->runs.runs[i].crcs, bytes);
        c->run_count++;
    }
    return 0;
}

static void *zeroes(uint64_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
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
    c->words = (uint64_t)s->space.pages * PAGE_WORDS;
    c->versions = calloc(h->count + 1, sizeof *c->versions);
    c->runs = calloc(runs + 1, sizeof *c->runs);
    c->image = zeroes(c->words * 8);
    c->reached = zeroes(c->words * 8);
    c->prints = zeroes(c->words * 64);
    c->buffer = bdev_buffer_alloc(DATA_BATCH);
    if (references_init(&c->references, s) || !c->versions || !c->runs || !c->image || !c->reached || !c->prints || !c->buffer)
        return -ENOMEM;
    memcpy(c->image, s->space.image, c->words * 8);
    for (uint64_t w = 0; w < c->words; w++)
        if (is_lost(c, w))
            c->image[w] = ~0ull;
    int err = 0;
    for (unsigned pass = 0; pass < 3; pass++)
        for (uint64_t b = 0; h->buckets && b <= h->mask; b++)
            for (struct hash_node *n = h->buckets[b]; n && !err; n = n->next) {
                const struct version *v = container_of(n, struct version, node);
                if (pass == (v->image ? 0 : v->child_count > 1 ? 1 : 2))
                    err = copy_version(c, v);
            }
    return err;
}

static void loaded(struct loop_task *t)
{
    struct check *c = container_of(t, struct check, job.done);
    c->error = c->references.error;
    c->job.work = work;
    c->job.done.run = done;
    worker_submit(&c->store->helper, &c->job);
}

static void ready(struct store_op *op)
{
    struct check *c = op->work;
    if (c->flags & STORE_CHECK_COLLECT && !op->error.code && !op_stopped(op) && checkpoint_deletions_wait(c->store)) {
        checkpoint_then(c->store, op, ready);
        return;
    }
    int err = op->error.code ? op->error.code : copy_all(c);
    if (err) {
        error_set(&op->error, err, "no memory for the check");
        end(c);
        return;
    }
    c->job.work = load_counts;
    c->job.done.run = loaded;
    reader_begin(c->store, &c->era);
    worker_submit(&c->store->checkpointer, &c->job); /* before the next checkpoint changes them */
}

static void begin(struct store_op *op)
{
    struct check *c = op->work;
    struct store_status st;
    op->store->checking = true;
    store_get_status(op->store, &st);
    c->used_before = st.used_bytes;
    checkpoint_then(op->store, op, ready);
}

static void run_check(struct store_op *op)
{
    if (op->store->checking)
        list_add_tail(&op->store->checks, &op->link);
    else
        begin(op);
}

void store_check(struct store *s, struct store_op *op, unsigned flags, void (*finding)(void *ctx, const char *line), void *ctx, struct store_check_result *out)
{
    struct check *c = calloc(1, sizeof *c);
    *out = (struct store_check_result){ 0 };
    op->work = c;
    if (c) {
        *c = (struct check){ .store = s, .op = op, .flags = flags, .finding = finding, .ctx = ctx, .result = out };
        list_init(&c->findings);
        owned_add(s, &c->owned, release);
        op_begin(s, op, run_check);
        return;
    }
    op_begin(s, op, op_done);
    error_set(&op->error, -ENOMEM, "no memory for the check");
}
