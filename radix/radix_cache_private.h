/* radix_cache_private.h - the loop's cache of nodes, as radix_cache.c (which node is in which slot) and radix_lookup.c (reads
 * and the lookups that wait for them) share it.
 *
 * A slot is 4 KiB of the arena and says which node is or will be there. Its states:
 *   FREE      in the free list, or never used
 *   READING   a fetch fills it; found by address, so that lookups for the same node share the read
 *   VALID     holds a checked node
 *   ORPHAN    READING or pinned VALID, but forgotten: not found any more, free when its fetch has answered those who wait
 * At most one slot is found under an address. A node is the one wanted only if level, birth and checksum agree too: an address
 * may have been used again, and the entry that leads to it decides. */
#ifndef RADIX_RADIX_CACHE_PRIVATE_H
#define RADIX_RADIX_CACHE_PRIVATE_H
#include "base/log.h"
#include "radix/radix_private.h"

#define SLOT_NONE UINT32_MAX

enum slot_state { SLOT_FREE, SLOT_READING, SLOT_VALID, SLOT_ORPHAN };

struct slot {
    uint64_t address;
    uint64_t birth : 40, level : 8, state : 8, referenced : 1, pinned : 1;
    uint32_t crc;
    uint32_t next;  /* of the hash chain, or of the free list */
    uint32_t fetch; /* which one, while READING */
};

/* One read of a node in flight and the lookups that wait for it. There is a fixed number of them; lookups that find none wait
 * in `stalled`. */
struct fetch {
    struct bdev_req req;
    struct iovec iov;
    struct radix_cache *cache;
    struct radix_entry wanted;
    unsigned level;
    uint32_t slot;
    struct list_node waiters; /* radix_lookup.link */
    struct list_node link;    /* in idle */
};

struct radix_cache {
    struct bdev *device;
    uint32_t seed;
    uint32_t capacity, used; /* slots; those from `used` on were never touched */
    uint32_t hand, free_slots;
    struct slot *slots;
    uint32_t *buckets;
    unsigned bucket_bits;
    struct radix_disk_node *arena;
    struct fetch *fetches;
    uint32_t fetch_count;
    struct list_node idle, stalled;
    struct log_limit damage;
    uint64_t hits, misses, nodes;
};

/* The slot found under the address, or SLOT_NONE. */
uint32_t radix_slot_find(const struct radix_cache *c, uint64_t address);
/* A slot in state READING, found under the address of e. There always is one: fewer fetches than slots exist. */
uint32_t radix_slot_take(struct radix_cache *c, const struct radix_entry *e, unsigned level);
/* The slot is not found any more; it is free at once, or an ORPHAN if a fetch or a pin still needs it. */
void radix_slot_forget(struct radix_cache *c, uint32_t slot);
/* Puts an ORPHAN into the free list. */
void radix_slot_release(struct radix_cache *c, uint32_t slot);

static inline bool radix_slot_holds(const struct slot *s, const struct radix_entry *e, unsigned level)
{
    return s->crc == e->crc && s->birth == e->birth && s->level == level;
}
#endif
