/* cache_map.c - see cache_map.h.
 *
 * The ghosts are a set-associative table of about as many addresses as there are slots: in each small set the oldest gives way, which
 * is near enough to one long queue and costs one cache line. Address 0 is kept as UINT64_MAX there, since 0 means none. */
#include "cache/cache_map.h"

#include "base/bdev.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define MIN_SLOTS 64u
#define MAX_SLOTS (1u << 30)
#define GHOST_WAYS 8u
#define PROBATION_SHARE 10u /* one slot in so many */
#define MOST_USES 3u
#define WORTH_ALL (UINT16_MAX + 1u)
#define WORTH_MEMORY 256u            /* so many of the last blocks that ended their probation count */
#define WORTH_LEAST (WORTH_ALL / 32) /* below this share probation is given to a sample only */
#define SAMPLE 8u                    /* one block in so many */

static uint64_t hash(uint64_t address, unsigned bits) { return address * 0x9e3779b97f4a7c15u >> (64 - bits); }
static uint32_t *bucket(const struct cache_map *m, uint64_t address) { return &m->buckets[hash(address, m->bucket_bits)]; }

int cache_map_init(struct cache_map *m, uint64_t bytes)
{
    memset(m, 0, sizeof *m);
    uint64_t slots = bytes / (BDEV_BLOCK_SIZE + sizeof(struct cache_slot) + 2 * sizeof(uint32_t) + 2 * sizeof(uint64_t));
    m->capacity = slots < MIN_SLOTS ? MIN_SLOTS : slots > MAX_SLOTS ? MAX_SLOTS : (uint32_t)slots;
    m->bucket_bits = 6;
    while ((1ull << m->bucket_bits) < m->capacity)
        m->bucket_bits++;
    m->ghost_bits = m->bucket_bits - 3; /* sets of GHOST_WAYS */
    m->free_slots = CACHE_NO_SLOT;
    m->worth = WORTH_ALL;
    for (unsigned q = 0; q < CACHE_QUEUES; q++)
        m->queue[q].oldest = m->queue[q].youngest = CACHE_NO_SLOT;
    m->slots = calloc(m->capacity, sizeof *m->slots);
    m->buckets = malloc(sizeof *m->buckets << m->bucket_bits);
    m->ghosts = calloc(GHOST_WAYS << m->ghost_bits, sizeof *m->ghosts);
    if (!m->slots || !m->buckets || !m->ghosts) {
        cache_map_fini(m);
        return -ENOMEM;
    }
    memset(m->buckets, 0xff, sizeof *m->buckets << m->bucket_bits); /* CACHE_NO_SLOT */
    return 0;
}

void cache_map_fini(struct cache_map *m)
{
    free(m->slots);
    free(m->buckets);
    free(m->ghosts);
}

/* ---- Found by address ---- */

uint32_t cache_map_find(const struct cache_map *m, uint64_t address)
{
    uint32_t i = *bucket(m, address);
    while (i != CACHE_NO_SLOT && m->slots[i].address != address)
        i = m->slots[i].chain;
    return i;
}

static void unhash(struct cache_map *m, uint32_t slot)
{
    uint32_t *at = bucket(m, m->slots[slot].address);
    while (*at != slot)
        at = &m->slots[*at].chain;
    *at = m->slots[slot].chain;
}

void cache_map_touch(struct cache_map *m, uint32_t slot)
{
    if (m->slots[slot].uses < MOST_USES)
        m->slots[slot].uses++;
}

/* ---- Ghosts ---- */

static uint64_t *ghost_set(const struct cache_map *m, uint64_t address) { return &m->ghosts[hash(address, m->ghost_bits) * GHOST_WAYS]; }
static uint64_t ghost_name(uint64_t address) { return address ? address : UINT64_MAX; }

static void ghost_add(struct cache_map *m, uint64_t address)
{
    uint64_t *set = ghost_set(m, address);
    memmove(set + 1, set, (GHOST_WAYS - 1) * sizeof *set);
    set[0] = ghost_name(address);
}

/* Its place in the set, or GHOST_WAYS. */
static unsigned ghost_find(const uint64_t *set, uint64_t address)
{
    unsigned i = 0;
    while (i < GHOST_WAYS && set[i] != ghost_name(address))
        i++;
    return i;
}

/* Whether the address was there; it is not afterwards. */
static bool ghost_take(struct cache_map *m, uint64_t address)
{
    uint64_t *set = ghost_set(m, address);
    unsigned i = ghost_find(set, address);
    if (i == GHOST_WAYS)
        return false;
    memmove(set + i, set + i + 1, (GHOST_WAYS - 1 - i) * sizeof *set);
    set[GHOST_WAYS - 1] = 0;
    return true;
}

/* ---- Queues ---- */

static void enqueue(struct cache_map *m, uint32_t slot, enum cache_queue q)
{
    struct cache_slot *s = &m->slots[slot];
    s->queue = q;
    s->next = CACHE_NO_SLOT;
    s->prev = m->queue[q].youngest;
    if (s->prev == CACHE_NO_SLOT)
        m->queue[q].oldest = slot;
    else
        m->slots[s->prev].next = slot;
    m->queue[q].youngest = slot;
    m->queue[q].count++;
}

static void dequeue(struct cache_map *m, uint32_t slot)
{
    struct cache_slot *s = &m->slots[slot];
    if (s->prev == CACHE_NO_SLOT)
        m->queue[s->queue].oldest = s->next;
    else
        m->slots[s->prev].next = s->next;
    if (s->next == CACHE_NO_SLOT)
        m->queue[s->queue].youngest = s->prev;
    else
        m->slots[s->next].prev = s->prev;
    m->queue[s->queue].count--;
}

static void release(struct cache_map *m, uint32_t slot)
{
    m->slots[slot].state = CACHE_SLOT_FREE;
    m->slots[slot].chain = m->free_slots;
    m->free_slots = slot;
}

static void forget_slot(struct cache_map *m, uint32_t slot)
{
    struct cache_slot *s = &m->slots[slot];
    unhash(m, slot);
    if (s->state == CACHE_SLOT_FILLING) {
        s->state = CACHE_SLOT_ORPHAN;
        return;
    }
    dequeue(m, slot);
    release(m, slot);
}

/* ---- Eviction ---- */

/* One step of the policy on the oldest block of a queue: it goes on, goes round, or leaves. Each step ends a block's stay or takes one
 * of its uses away, so that few steps lead to a free slot. */
static void age(struct cache_map *m, enum cache_queue q)
{
    uint32_t slot = m->queue[q].oldest;
    struct cache_slot *s = &m->slots[slot];
    if (q == CACHE_PROBATION)
        m->worth = m->worth - m->worth / WORTH_MEMORY + (s->uses ? WORTH_ALL / WORTH_MEMORY : 0);
    if (s->uses == 0) {
        if (q == CACHE_PROBATION)
            ghost_add(m, s->address);
        forget_slot(m, slot);
        return;
    }
    s->uses = q == CACHE_PROBATION ? 0 : s->uses - 1;
    dequeue(m, slot);
    enqueue(m, slot, CACHE_MAIN);
}

static bool evict_one(struct cache_map *m)
{
    while (m->free_slots == CACHE_NO_SLOT) {
        uint32_t probation = m->queue[CACHE_PROBATION].count, main = m->queue[CACHE_MAIN].count;
        if (probation + main == 0)
            return false;
        age(m, main == 0 || probation > m->capacity / PROBATION_SHARE ? CACHE_PROBATION : CACHE_MAIN);
    }
    return true;
}

bool cache_map_admit(struct cache_map *m, uint64_t address)
{
    if (m->free_slots != CACHE_NO_SLOT || m->used < m->capacity || m->worth >= WORTH_LEAST || ++m->sample % SAMPLE == 0)
        return true;
    if (ghost_find(ghost_set(m, address), address) < GHOST_WAYS)
        return true;
    ghost_add(m, address);
    return false;
}

uint32_t cache_map_begin(struct cache_map *m, uint64_t address)
{
    uint32_t slot;
    if (m->free_slots == CACHE_NO_SLOT && m->used < m->capacity) {
        slot = m->used++;
    } else {
        if (!evict_one(m))
            return CACHE_NO_SLOT;
        slot = m->free_slots;
        m->free_slots = m->slots[slot].chain;
    }
    uint32_t *head = bucket(m, address);
    m->slots[slot] = (struct cache_slot){ .address = address, .state = CACHE_SLOT_FILLING, .chain = *head };
    *head = slot;
    return slot;
}

bool cache_map_end(struct cache_map *m, uint32_t slot, bool stored)
{
    struct cache_slot *s = &m->slots[slot];
    if (s->state == CACHE_SLOT_ORPHAN) {
        release(m, slot);
        return false;
    }
    if (!stored) {
        unhash(m, slot);
        release(m, slot);
        return false;
    }
    s->state = CACHE_SLOT_VALID;
    enqueue(m, slot, ghost_take(m, s->address) ? CACHE_MAIN : CACHE_PROBATION);
    return true;
}

void cache_map_forget(struct cache_map *m, uint64_t address, uint64_t count)
{
    if (count < m->used) {
        for (uint64_t i = 0; i < count; i++) {
            uint32_t slot = cache_map_find(m, address + i);
            if (slot != CACHE_NO_SLOT)
                forget_slot(m, slot);
        }
        return;
    }
    for (uint32_t slot = 0; slot < m->used; slot++) {
        struct cache_slot *s = &m->slots[slot];
        if ((s->state == CACHE_SLOT_VALID || s->state == CACHE_SLOT_FILLING) && s->address - address < count)
            forget_slot(m, slot);
    }
}
