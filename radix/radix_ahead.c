/* radix_ahead.c - see radix_ahead.h. */
#include "radix/radix_ahead.h"

#include <errno.h>
#include <stdlib.h>

int radix_ahead_create(struct radix_merge *m, unsigned height, struct radix_ahead **out)
{
    struct radix_ahead *a = malloc(sizeof *a);
    if (!a)
        return -ENOMEM;
    a->merge = m;
    a->ended = false;
    a->next_free = 0;
    a->change_count = a->touch_count = 0;
    for (unsigned l = 0; l <= RADIX_MAX_HEIGHT; l++)
        a->level[l] = (struct radix_ahead_level){ .count = 0 };
    for (unsigned l = 1; l <= height; l++) {
        uint64_t most = radix_span(height - l);
        a->level[l].capacity = most < RADIX_BATCH ? (unsigned)most : RADIX_BATCH;
        a->level[l].nodes = radix_nodes_alloc(a->level[l].capacity);
        if (!a->level[l].nodes) {
            radix_ahead_destroy(a);
            return -ENOMEM;
        }
    }
    *out = a;
    return 0;
}

void radix_ahead_destroy(struct radix_ahead *a)
{
    for (unsigned l = 1; l <= RADIX_MAX_HEIGHT; l++)
        free(a->level[l].nodes);
    free(a);
}

/* ---- Pulling ---- */

static int check_change(struct radix_ahead *a, struct radix_change *c, const struct radix_io *io)
{
    if (c->first < a->next_free)
        return -EINVAL;
    if (c->entry.kind == RADIX_NONE) { /* to the end of what can be mapped, at most */
        if (c->first >= RADIX_MAX_BLOCKS)
            c->count = 0;
        else if (c->count > RADIX_MAX_BLOCKS - c->first)
            c->count = RADIX_MAX_BLOCKS - c->first;
    } else if (c->entry.kind != RADIX_DATA || c->count != 1 || c->first >= RADIX_MAX_BLOCKS || c->entry.address == 0
               || c->entry.address >= RADIX_ADDRESS_LIMIT || c->entry.address >= radix_device_blocks(io->device)
               || c->entry.birth > a->merge->birth) {
        return -EINVAL;
    }
    a->next_free = c->first + c->count;
    return 0;
}

static void touch(struct radix_ahead *a, uint64_t block, unsigned min_level)
{
    struct radix_touch *last = a->touch_count ? &a->touch[a->touch_count - 1] : NULL;
    if (last && radix_first(1, last->block) == radix_first(1, block)) {
        if (min_level < last->min_level)
            last->min_level = min_level;
        return;
    }
    a->touch[a->touch_count++] = (struct radix_touch){ block, min_level };
}

/* The lowest level at which the node above block is not wholly inside the range, so that it has to be read. */
static unsigned lowest_partial(uint64_t block, uint64_t first, uint64_t end)
{
    unsigned level = 1;
    while (level <= RADIX_MAX_HEIGHT && radix_first(level, block) >= first && radix_first(level, block) + radix_span(level) <= end)
        level++;
    return level;
}

static void touch_change(struct radix_ahead *a, const struct radix_change *c)
{
    if (c->entry.kind == RADIX_DATA) {
        touch(a, c->first, 1);
        return;
    }
    uint64_t end = c->first + c->count;
    touch(a, c->first, lowest_partial(c->first, c->first, end));
    touch(a, end - 1, lowest_partial(end - 1, c->first, end));
}

int radix_ahead_pull(struct radix_ahead *a, const struct radix_io *io)
{
    a->change_count = a->touch_count = 0;
    for (unsigned l = 1; l <= RADIX_MAX_HEIGHT; l++)
        a->level[l].count = a->level[l].at = 0;
    /* A range touches two leaves. */
    while (!a->ended && a->change_count < RADIX_AHEAD_CHANGES && a->touch_count + 2 <= RADIX_BATCH) {
        struct radix_change *c = &a->change[a->change_count];
        int got = a->merge->next(a->merge->ctx, c);
        if (got < 0)
            return got;
        if (got == 0) {
            a->ended = true;
            break;
        }
        int err = check_change(a, c, io);
        if (err)
            return err;
        if (c->count == 0)
            continue;
        touch_change(a, c);
        a->change_count++;
    }
    return 0;
}

/* ---- Taking ---- */

const struct radix_disk_node *radix_ahead_take(struct radix_ahead *a, unsigned level, uint64_t first, const struct radix_entry *e)
{
    struct radix_ahead_level *q = &a->level[level];
    while (q->at < q->count && q->first[q->at] < first)
        q->at++;
    if (q->at == q->count || q->first[q->at] != first || !radix_same_entry(&q->entry[q->at], e))
        return NULL;
    return &q->nodes[q->at];
}
