/* radix_cache.c - which node is in which slot: a hash by address, and CLOCK to choose what goes.
 *
 * A node enters unreferenced and is marked when it is found again, so that the leaves of a long scan replace each other while
 * the upper nodes, and leaves in use, stay. Slots that are being read or are pinned are passed over. */
#include "radix/radix_cache_private.h"

#include "base/reserve.h"

#include <errno.h>
#include <stdlib.h>

#define MIN_NODES 64u
#define MAX_NODES (1u << 30)
#define MAX_FETCHES 256u

static uint32_t *bucket(const struct radix_cache *c, uint64_t address)
{
    return &c->buckets[address * 0x9e3779b97f4a7c15u >> (64 - c->bucket_bits)];
}

static void size_cache(struct radix_cache *c, uint64_t bytes)
{
    uint64_t nodes = bytes / (BDEV_BLOCK_SIZE + sizeof(struct slot) + 2 * sizeof(uint32_t));
    c->capacity = nodes < MIN_NODES ? MIN_NODES : nodes > MAX_NODES ? MAX_NODES : (uint32_t)nodes;
    c->fetch_count = c->capacity / 2 < MAX_FETCHES ? c->capacity / 2 : MAX_FETCHES;
    c->bucket_bits = 6;
    while ((1ull << c->bucket_bits) < c->capacity)
        c->bucket_bits++;
}

int radix_cache_create(struct bdev *device, uint32_t seed, uint64_t bytes, struct radix_cache **out)
{
    struct radix_cache *c = calloc(1, sizeof *c);
    if (!c)
        return -ENOMEM;
    c->device = device;
    c->seed = seed;
    c->free_slots = SLOT_NONE;
    list_init(&c->idle);
    list_init(&c->stalled);
    size_cache(c, bytes);
    c->slots = calloc(c->capacity, sizeof *c->slots);
    c->buckets = malloc(sizeof *c->buckets << c->bucket_bits);
    c->fetches = calloc(c->fetch_count, sizeof *c->fetches);
    /* Touched page by page as nodes come in. */
    c->arena = reserve_memory((size_t)c->capacity * BDEV_BLOCK_SIZE);
    if (!c->slots || !c->buckets || !c->fetches || !c->arena) {
        radix_cache_destroy(c);
        return -ENOMEM;
    }
    for (uint64_t i = 0; i < 1ull << c->bucket_bits; i++)
        c->buckets[i] = SLOT_NONE;
    for (uint32_t i = 0; i < c->fetch_count; i++)
        list_add_tail(&c->idle, &c->fetches[i].link);
    *out = c;
    return 0;
}

void radix_cache_destroy(struct radix_cache *c)
{
    reserve_release(c->arena, (size_t)c->capacity * BDEV_BLOCK_SIZE);
    free(c->fetches);
    free(c->buckets);
    free(c->slots);
    free(c);
}

uint32_t radix_slot_find(const struct radix_cache *c, uint64_t address)
{
    uint32_t i = *bucket(c, address);
    while (i != SLOT_NONE && c->slots[i].address != address)
        i = c->slots[i].next;
    return i;
}

static void unhash(struct radix_cache *c, uint32_t slot)
{
    uint32_t *at = bucket(c, c->slots[slot].address);
    while (*at != slot)
        at = &c->slots[*at].next;
    *at = c->slots[slot].next;
}

void radix_slot_release(struct radix_cache *c, uint32_t slot)
{
    struct slot *s = &c->slots[slot];
    s->state = SLOT_FREE;
    s->next = c->free_slots;
    c->free_slots = slot;
}

void radix_slot_forget(struct radix_cache *c, uint32_t slot)
{
    struct slot *s = &c->slots[slot];
    unhash(c, slot);
    if (s->state == SLOT_VALID)
        c->nodes--;
    bool needed = s->state == SLOT_READING || s->pinned;
    s->state = SLOT_ORPHAN;
    if (!needed)
        radix_slot_release(c, slot);
}

/* CLOCK: the next node that was not found since the hand last passed. */
static void evict_one(struct radix_cache *c)
{
    for (;;) {
        uint32_t i = c->hand;
        c->hand = i + 1 == c->capacity ? 0 : i + 1;
        struct slot *s = &c->slots[i];
        if (s->state != SLOT_VALID || s->pinned)
            continue;
        if (!s->referenced) {
            radix_slot_forget(c, i);
            return;
        }
        s->referenced = 0;
    }
}

uint32_t radix_slot_take(struct radix_cache *c, const struct radix_entry *e, unsigned level)
{
    uint32_t i;
    if (c->free_slots == SLOT_NONE && c->used < c->capacity) {
        i = c->used++;
    } else {
        if (c->free_slots == SLOT_NONE)
            evict_one(c);
        i = c->free_slots;
        c->free_slots = c->slots[i].next;
    }
    uint32_t *head = bucket(c, e->address);
    c->slots[i] = (struct slot){
        .address = e->address, .birth = e->birth, .level = level, .state = SLOT_READING, .crc = e->crc, .next = *head,
    };
    *head = i;
    return i;
}

void radix_cache_forget(struct radix_cache *c, uint64_t address)
{
    uint32_t slot = radix_slot_find(c, address);
    if (slot != SLOT_NONE)
        radix_slot_forget(c, slot);
}

void radix_cache_get_stats(const struct radix_cache *c, struct radix_cache_stats *out)
{
    *out = (struct radix_cache_stats){ .hits = c->hits, .misses = c->misses, .nodes = c->nodes, .capacity_nodes = c->capacity };
}
