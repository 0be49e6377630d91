/* radix_world.c - see radix_world.h. */
#include "tests/support/radix_world.h"

#include "tests/support/unit.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { REACHED_BEFORE = 1, BROUGHT_IN = 2, REACHED_AFTER = 4, DROPPED = 8, TWICE = 16 };

static int allocate(void *ctx, uint64_t *address)
{
    struct radix_world *w = ctx;
    if (w->scatter && radix_world_random(w, w->scatter) == 0)
        w->cursor = 1 + radix_world_random(w, w->device->bdev.blocks - 1);
    for (uint64_t tries = 0; tries < w->device->bdev.blocks; tries++, w->cursor++) {
        if (w->cursor >= w->device->bdev.blocks)
            w->cursor = 1;
        if (!w->used[w->cursor]) {
            w->used[w->cursor] = 1;
            w->fate[w->cursor] |= BROUGHT_IN;
            *address = w->cursor++;
            return 0;
        }
    }
    return -ENOSPC;
}

void radix_world_open(struct radix_world *w, uint64_t device_blocks, uint64_t seed)
{
    memset(w, 0, sizeof *w);
    CU_ASSERT_FATAL(loop_create(&w->loop) == 0);
    CU_ASSERT_FATAL(memory_bdev_open(w->loop, device_blocks, seed, &w->device) == 0);
    w->io = (struct radix_io){ .device = &w->device->bdev, .seed = 0x5eed, .ctx = w, .allocate = allocate };
    w->random = seed;
    w->scatter = 16;
    w->used = calloc(device_blocks, 1);
    w->fate = calloc(device_blocks, 1);
    w->cursor = 1;
    w->birth = 1;
}

void radix_world_close(struct radix_world *w)
{
    bdev_close(&w->device->bdev);
    loop_destroy(w->loop);
    free(w->used);
    free(w->fate);
    free(w->change);
    free(w->oracle.map);
}

uint64_t radix_world_random(struct radix_world *w, uint64_t below) { return unit_random(&w->random) % below; }

/* ---- Changes ---- */

static struct radix_change *add_change(struct radix_world *w)
{
    if (w->change_count == w->change_room) {
        w->change_room = w->change_room ? 2 * w->change_room : 64;
        w->change = realloc(w->change, w->change_room * sizeof *w->change);
    }
    return &w->change[w->change_count++];
}

void radix_world_map_entry(struct radix_world *w, uint64_t block, const struct radix_entry *e)
{
    *add_change(w) = (struct radix_change){ .first = block, .count = 1, .entry = *e };
}

void radix_world_map(struct radix_world *w, uint64_t block)
{
    struct radix_entry e = { .kind = RADIX_DATA, .birth = w->birth, .crc = (uint32_t)unit_random(&w->random) };
    CU_ASSERT_FATAL(allocate(w, &e.address) == 0);
    radix_world_map_entry(w, block, &e);
}

void radix_world_unmap(struct radix_world *w, uint64_t first, uint64_t count)
{
    *add_change(w) = (struct radix_change){ .first = first, .count = count };
}

static int compare_blocks(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* Positions are spread over all scales; half of them lie near something already mapped. */
static uint64_t random_block(struct radix_world *w, uint64_t limit)
{
    if (w->oracle.count && radix_world_random(w, 2)) {
        uint64_t near = w->oracle.map[radix_world_random(w, w->oracle.count)].block + radix_world_random(w, 4);
        return near < limit ? near : limit - 1;
    }
    unsigned bits = (unsigned)radix_world_random(w, 33);
    return unit_random(&w->random) % (1ull << bits) % limit;
}

void radix_world_random_changes(struct radix_world *w, unsigned most, uint64_t limit)
{
    unsigned n = (unsigned)radix_world_random(w, most + 1);
    uint64_t *at = malloc((n + 1) * sizeof *at), next_free = 0;
    for (unsigned i = 0; i < n; i++)
        at[i] = random_block(w, limit);
    qsort(at, n, sizeof *at, compare_blocks);
    unsigned unmap_one_in = 2 + (unsigned)radix_world_random(w, 6);
    for (unsigned i = 0; i < n; i++) {
        uint64_t block = at[i], run = radix_world_random(w, 8) ? 1 : 1 + radix_world_random(w, 300);
        if (block < next_free)
            continue;
        if (radix_world_random(w, unmap_one_in) == 0) {
            uint64_t count = 1 + unit_random(&w->random) % (1ull << radix_world_random(w, 26));
            if (radix_world_random(w, 3) == 0) /* aligned, so that whole subtrees go */
                block = block & ~((1ull << 8 * radix_world_random(w, 4)) - 1), count = 1ull << 8 * radix_world_random(w, 4);
            if (block < next_free)
                continue;
            radix_world_unmap(w, block, count);
            next_free = block + count;
            continue;
        }
        struct radix_entry same = radix_oracle_find(&w->oracle, block);
        if (same.kind == RADIX_DATA && radix_world_random(w, 8) == 0) {
            radix_world_map_entry(w, block, &same);
            next_free = block + 1;
            continue;
        }
        for (; run && block < limit; run--, block++)
            radix_world_map(w, block);
        next_free = block;
    }
    free(at);
}

static int next(void *ctx, struct radix_change *out)
{
    struct radix_world *w = ctx;
    if (w->fail_next_at && w->change_at + 1 == w->fail_next_at)
        return -ECANCELED;
    if (w->change_at == w->change_count)
        return 0;
    *out = w->change[w->change_at++];
    return 1;
}

/* ---- Fates ---- */

static void mark(struct radix_world *w, uint64_t address, unsigned bit)
{
    if (w->fate[address] & bit)
        w->fate[address] |= TWICE;
    w->fate[address] |= (uint8_t)bit;
}

struct marking {
    struct radix_world *w;
    unsigned bit;
};

static int mark_data(void *ctx, uint64_t block, const struct radix_entry *e)
{
    struct marking *m = ctx;
    (void)block;
    mark(m->w, e->address, m->bit);
    return 0;
}

static int mark_node(void *ctx, unsigned level, uint64_t first, const struct radix_entry *e)
{
    (void)level;
    return mark_data(ctx, first, e);
}

static void mark_root(struct radix_world *w, const struct radix_root *root, unsigned bit)
{
    struct marking m = { w, bit };
    struct radix_visit v = { .ctx = &m, .data = mark_data, .node = mark_node };
    CU_ASSERT_EQUAL(radix_walk(&w->io, root, &v), 0);
}

static int drop(void *ctx, enum radix_drop what, const struct radix_entry *e, unsigned level, uint64_t first)
{
    struct radix_world *w = ctx;
    if (w->fail_drop_at && w->drops + 1 == w->fail_drop_at)
        return -ECANCELED;
    w->drops++;
    CU_ASSERT_EQUAL(e->kind, what == RADIX_DROP_DATA ? RADIX_DATA : RADIX_NODE);
    CU_ASSERT_EQUAL(level == 0, what == RADIX_DROP_DATA);
    CU_ASSERT_EQUAL(first % (1ull << 8 * level), 0);
    if (what != RADIX_DROP_SUBTREE) {
        mark(w, e->address, DROPPED);
        return 0;
    }
    struct marking m = { w, DROPPED };
    struct radix_visit v = { .ctx = &m, .data = mark_data, .node = mark_node };
    return radix_walk_subtree(&w->io, e, level, first, &v);
}

/* Every address that was reached or came in is either reached now or was dropped, and nothing twice. */
static void check_fates(struct radix_world *w)
{
    uint64_t wrong = 0;
    for (uint64_t a = 0; a < w->device->bdev.blocks; a++) {
        bool there = w->fate[a] & (REACHED_BEFORE | BROUGHT_IN);
        bool after = w->fate[a] & REACHED_AFTER, dropped = w->fate[a] & DROPPED;
        wrong += (w->fate[a] & TWICE) || there != (after || dropped) || (after && dropped);
        if (dropped && !w->keep)
            w->used[a] = 0;
    }
    CU_ASSERT_EQUAL(wrong, 0);
}

/* ---- The oracle ---- */

static void oracle_add(struct radix_oracle *o, uint64_t block, const struct radix_entry *e)
{
    if (o->count == o->room) {
        o->room = o->room ? 2 * o->room : 64;
        o->map = realloc(o->map, o->room * sizeof *o->map);
    }
    o->map[o->count++] = (struct radix_mapping){ block, *e };
}

void radix_oracle_copy(struct radix_oracle *to, const struct radix_oracle *from)
{
    *to = (struct radix_oracle){ .count = 0 };
    for (size_t i = 0; i < from->count; i++)
        oracle_add(to, from->map[i].block, &from->map[i].entry);
}

struct radix_entry radix_oracle_find(const struct radix_oracle *o, uint64_t block)
{
    size_t low = 0, high = o->count;
    while (low < high) {
        size_t mid = (low + high) / 2;
        if (o->map[mid].block == block)
            return o->map[mid].entry;
        if (o->map[mid].block < block)
            low = mid + 1;
        else
            high = mid;
    }
    return (struct radix_entry){ .kind = RADIX_NONE };
}

static void oracle_apply(struct radix_world *w)
{
    struct radix_oracle old = w->oracle, new = { .count = 0 };
    size_t i = 0;
    for (size_t k = 0; k < w->change_count; k++) {
        const struct radix_change *c = &w->change[k];
        for (; i < old.count && old.map[i].block < c->first; i++)
            oracle_add(&new, old.map[i].block, &old.map[i].entry);
        while (i < old.count && old.map[i].block - c->first < c->count)
            i++;
        if (c->entry.kind == RADIX_DATA)
            oracle_add(&new, c->first, &c->entry);
    }
    for (; i < old.count; i++)
        oracle_add(&new, old.map[i].block, &old.map[i].entry);
    free(old.map);
    w->oracle = new;
}

struct comparing {
    const struct radix_oracle *o;
    size_t at;
    bool wrong;
};

static int compare_data(void *ctx, uint64_t block, const struct radix_entry *e)
{
    struct comparing *c = ctx;
    const struct radix_mapping *m = c->at < c->o->count ? &c->o->map[c->at++] : NULL;
    if (!m || m->block != block || e->kind != RADIX_DATA || m->entry.address != e->address || m->entry.birth != e->birth
        || m->entry.crc != e->crc)
        c->wrong = true;
    return 0;
}

bool radix_world_holds(struct radix_world *w, const struct radix_root *root, const struct radix_oracle *o)
{
    struct comparing c = { .o = o };
    struct radix_visit v = { .ctx = &c, .data = compare_data };
    return radix_walk(&w->io, root, &v) == 0 && !c.wrong && c.at == o->count;
}

/* ---- Merging ---- */

static void check_height(struct radix_world *w, const struct radix_root *root, uint64_t min_blocks)
{
    if (w->oracle.count == 0) {
        CU_ASSERT_EQUAL(root->node.kind, RADIX_NONE);
        CU_ASSERT_EQUAL(root->height, 0);
    } else {
        CU_ASSERT(root->height >= radix_height_for(min_blocks));
        CU_ASSERT(root->height >= radix_height_for(w->oracle.map[w->oracle.count - 1].block + 1));
    }
}

static void undo(struct radix_world *w)
{
    for (uint64_t a = 0; a < w->device->bdev.blocks; a++)
        if (w->fate[a] & BROUGHT_IN)
            w->used[a] = 0;
}

int radix_world_merge(struct radix_world *w, uint64_t min_blocks)
{
    uint64_t seen = 0;
    for (uint64_t a = 0; a < w->device->bdev.blocks; a++)
        seen += w->fate[a] & BROUGHT_IN ? 1 : 0;
    mark_root(w, &w->root, REACHED_BEFORE);
    w->change_at = 0;
    w->drops = 0;
    struct radix_merge m = { .next = next, .drop = drop, .ctx = w, .birth = w->birth, .min_blocks = min_blocks };
    struct radix_root root = { .height = 77 };
    int err = radix_merge(&w->io, &w->root, &m, &root);
    w->last = m;
    if (err) {
        CU_ASSERT_EQUAL(root.height, 77);
        undo(w);
    } else {
        uint64_t new_nodes = 0;
        for (uint64_t a = 0; a < w->device->bdev.blocks; a++)
            new_nodes += w->fate[a] & BROUGHT_IN ? 1 : 0;
        CU_ASSERT_EQUAL(new_nodes - seen, m.nodes_written);
        oracle_apply(w);
        mark_root(w, &root, REACHED_AFTER);
        check_fates(w);
        CU_ASSERT(radix_world_holds(w, &root, &w->oracle));
        check_height(w, &root, min_blocks);
        w->root = root;
    }
    memset(w->fate, 0, w->device->bdev.blocks);
    w->change_count = 0;
    return err;
}
