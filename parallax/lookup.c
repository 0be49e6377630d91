/* lookup.c - what a version's block is, as far as changes that are not in trees know (consistency.md, L1). */
#include "parallax/parallax_private.h"

#include <errno.h>
#include <stdlib.h>

static const struct zero_range *newest_range(const struct line *l, uint32_t block, uint64_t limit)
{
    for (uint32_t i = l->range_count; i-- > 0;) {
        const struct zero_range *r = &l->ranges[i];
        if (r->ticket < limit && block - r->first < r->count && block >= r->first)
            return r;
    }
    return NULL;
}

int lookup_changes(struct store *s, const struct version *v, uint32_t block, struct radix_entry *out)
{
    if (version_final(v))
        return 0;
    const struct line *l = v->line;
    uint64_t limit = v->cut;
    for (;;) {
        const struct index_entry *e = index_find(&s->index[s->active], l->id, block, limit);
        if (!e)
            e = index_find(&s->index[1 - s->active], l->id, block, limit);
        const struct zero_range *r = l->range_count ? newest_range(l, block, limit) : NULL;
        if (r && (!e || r->ticket > e->ticket))
            *out = (struct radix_entry){ .kind = RADIX_NONE };
        else if (e)
            *out = (struct radix_entry){ .address = e->address, .crc = e->crc, .kind = e->address ? RADIX_DATA : RADIX_NONE };
        if (r || e)
            return 1;
        if (!l->origin)
            return 0;
        limit = l->origin->cut;
        if (version_final(l->origin))
            return 0;
        l = l->origin->line;
    }
}

const struct radix_root *lookup_root(const struct version *v)
{
    if (version_final(v))
        return &v->live_root;
    const struct line *l = v->line;
    while (!l->base) {
        if (version_final(l->origin))
            return &l->origin->live_root;
        l = l->origin->line;
    }
    return &l->base->live_root;
}

void line_interval(const struct line *l, uint64_t ticket, uint64_t *low, uint64_t *high)
{
    *low = 0;
    *high = TICKET_MAX;
    for (const struct list_node *n = l->unmerged.prev; n != &l->unmerged; n = n->prev) {
        const struct version *v = container_of(n, struct version, line_link);
        if (v->cut <= ticket) {
            *low = v->cut;
            return;
        }
        *high = v->cut;
    }
}

int line_add_range(struct line *l, const struct zero_range *r)
{
    if (l->range_count == l->range_capacity) {
        uint32_t capacity = l->range_capacity ? l->range_capacity * 2 : 8;
        struct zero_range *grown = realloc(l->ranges, capacity * sizeof *grown);
        if (!grown)
            return -ENOMEM;
        l->ranges = grown;
        l->range_capacity = capacity;
    }
    uint32_t at = l->range_count++;
    for (; at > 0 && l->ranges[at - 1].ticket > r->ticket; at--)
        l->ranges[at] = l->ranges[at - 1];
    l->ranges[at] = *r;
    return 0;
}
