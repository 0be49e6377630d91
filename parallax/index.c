/* index.c - see index.h. */
#include "parallax/index.h"

#include "base/hash.h"
#include "base/reserve.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

int index_init(struct index *ix, uint32_t capacity)
{
    uint32_t buckets = 64;
    while (buckets < capacity)
        buckets *= 2;
    *ix = (struct index){ .capacity = capacity, .bucket_mask = buckets - 1 };
    ix->entries = reserve_memory((uint64_t)capacity * sizeof *ix->entries);
    ix->buckets = reserve_memory((uint64_t)buckets * sizeof *ix->buckets);
    ix->held = reserve_memory((uint64_t)capacity * sizeof *ix->held);
    if (ix->entries && ix->buckets && ix->held)
        return 0;
    index_fini(ix);
    return -ENOMEM;
}

void index_fini(struct index *ix)
{
    reserve_release(ix->entries, (uint64_t)ix->capacity * sizeof *ix->entries);
    reserve_release(ix->buckets, ((uint64_t)ix->bucket_mask + 1) * sizeof *ix->buckets);
    reserve_release(ix->held, (uint64_t)ix->capacity * sizeof *ix->held);
    *ix = (struct index){ 0 };
}

void index_clear(struct index *ix)
{
    /* Giving the pages back zeroes them, and costs the same however full the table was. But locked memory (base/flusher.h) cannot be
     * given back. Only the buckets must be zero; entries and held ones are written before they are read. */
    uint64_t bytes = ((uint64_t)ix->bucket_mask + 1) * sizeof *ix->buckets;
    if (madvise(ix->buckets, bytes, MADV_DONTNEED))
        memset(ix->buckets, 0, bytes);
    madvise(ix->entries, (uint64_t)ix->capacity * sizeof *ix->entries, MADV_DONTNEED);
    madvise(ix->held, (uint64_t)ix->capacity * sizeof *ix->held, MADV_DONTNEED);
    ix->used = ix->held_used = 0;
}

static uint32_t *bucket_of(const struct index *ix, uint32_t line, uint32_t block)
{
    return &ix->buckets[hash_u64((uint64_t)line << 32 | block) & ix->bucket_mask];
}

const struct index_entry *index_find(const struct index *ix, uint32_t line, uint32_t block, uint64_t limit)
{
    if (!ix->used) /* as a rule one of the two is: no need to fetch a bucket from far memory for that */
        return NULL;
    for (uint32_t i = *bucket_of(ix, line, block); i; i = ix->entries[i - 1].next) {
        const struct index_entry *e = &ix->entries[i - 1];
        if (e->block == block && e->line == line && e->ticket < limit)
            return e;
    }
    return NULL;
}

/* A share that no tree has seen was not counted: its block is not held. */
void index_hold(struct index *ix, const struct index_entry *e)
{
    if (e->address && !e->shared)
        ix->held[ix->held_used++] = e->address;
}

void index_insert(struct index *ix, const struct index_entry *e, uint64_t low, uint64_t high)
{
    uint32_t *at = bucket_of(ix, e->line, e->block);
    for (; *at; at = &ix->entries[*at - 1].next) {
        struct index_entry *old = &ix->entries[*at - 1];
        if (old->block != e->block || old->line != e->line)
            continue;
        if (old->ticket >= low && old->ticket < high) {
            bool newer = e->ticket > old->ticket;
            index_hold(ix, newer ? old : e);
            if (newer) {
                old->ticket = e->ticket;
                old->address = e->address;
                old->shared = e->shared;
                old->crc = e->crc;
            }
            return;
        }
        if (old->ticket < e->ticket)
            break;
    }
    uint32_t number = ix->used++;
    ix->entries[number] = *e;
    ix->entries[number].next = *at;
    *at = number + 1;
}

int index_grow(struct index *ix)
{
    struct index bigger;
    int err = index_init(&bigger, ix->capacity * 2);
    if (err)
        return err;
    for (uint32_t i = 0; i < ix->used; i++)
        index_insert(&bigger, &ix->entries[i], 1, 0); /* an empty interval: nothing is superseded */
    for (uint32_t i = 0; i < ix->held_used; i++)
        bigger.held[bigger.held_used++] = ix->held[i];
    bigger.reserved = ix->reserved;
    index_fini(ix);
    *ix = bigger;
    return 0;
}
