/* cache_map.h - which block is in which slot of the cache's memory, and which one goes when a slot is needed.
 *
 * A slot's states:
 *   FREE      in the free list, or never used
 *   FILLING   found by address, but its bytes are not there yet: a read is bringing them
 *   VALID     found by address, bytes there; a member of one of the two queues
 *   ORPHAN    was FILLING and has been forgotten; the read that brings its bytes frees it
 * At most one slot is found under an address.
 *
 * The policy is S3-FIFO (Yang, Zhang, Qiu, Yue, Vigfusson: "FIFO queues are all you need for cache eviction", SOSP 2023): a new block
 * enters the probation queue, a tenth of the slots; at its end it goes on to the main queue if it was found meanwhile, else it
 * leaves and its address is remembered as a ghost. A block whose ghost is known enters the main queue at once. The main queue
 * is a CLOCK: a block found since its last round goes round again.
 *
 * To that is added: while next to no block is found during its probation, as under random reads of much more than the memory, most
 * new ones become ghosts at once. Bringing in a block to throw it out unused costs as much as reading it.
 *
 * Private to cache/. Threads: the cache's loop. No errors: where no slot can be had, CACHE_NO_SLOT says so. */
#ifndef CACHE_CACHE_MAP_H
#define CACHE_CACHE_MAP_H
#include <stdbool.h>
#include <stdint.h>

#define CACHE_NO_SLOT UINT32_MAX

enum cache_slot_state { CACHE_SLOT_FREE, CACHE_SLOT_FILLING, CACHE_SLOT_VALID, CACHE_SLOT_ORPHAN };
enum cache_queue { CACHE_PROBATION, CACHE_MAIN, CACHE_QUEUES };

struct cache_slot {
    uint64_t address : 48, state : 4, queue : 4, uses : 8;
    uint32_t chain;      /* next in the hash chain, or in the free list */
    uint32_t prev, next; /* in the queue; next is the younger */
};

struct cache_map {
    struct cache_slot *slots;
    uint32_t *buckets;
    uint64_t *ghosts; /* sets of GHOST_WAYS addresses, the youngest first; 0: none */
    unsigned bucket_bits, ghost_bits;
    uint32_t worth; /* of probation: moving share of the blocks that were found in it, of UINT16_MAX + 1 */
    uint32_t sample;
    uint32_t capacity, used, free_slots;
    struct {
        uint32_t oldest, youngest, count;
    } queue[CACHE_QUEUES];
};

/* bytes: of the memory for blocks and everything here. capacity slots follow from it. 0 or -ENOMEM. */
int cache_map_init(struct cache_map *m, uint64_t bytes);
void cache_map_fini(struct cache_map *m);

/* The slot found under the address, FILLING or VALID, or CACHE_NO_SLOT. */
uint32_t cache_map_find(const struct cache_map *m, uint64_t address);
/* The block of a VALID slot was read. */
void cache_map_touch(struct cache_map *m, uint32_t slot);
/* Whether a block that is not found is to get a slot; if not, its address is a ghost now. */
bool cache_map_admit(struct cache_map *m, uint64_t address);
/* A FILLING slot for an address that is not found, or CACHE_NO_SLOT if all slots are being filled. May evict. */
uint32_t cache_map_begin(struct cache_map *m, uint64_t address);
/* The read ended. stored: the bytes are in the slot. Returns whether the block is kept; an ORPHAN never is. */
bool cache_map_end(struct cache_map *m, uint32_t slot, bool stored);
/* The addresses are not found any more. */
void cache_map_forget(struct cache_map *m, uint64_t address, uint64_t count);
#endif
