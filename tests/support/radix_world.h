/* radix_world.h - a map under test beside its oracle: a device in memory, an allocator, the current root, and a sorted array
 * that says what the root must map.
 *
 * radix_world_merge applies a list of changes to both and then proves by walking that the tree holds exactly the oracle, and that
 * every address has exactly one fate: what the old root reached or the merge brought in is either reached by the new root or
 * was dropped, once. Dropped addresses are used again by later merges, unless `keep` is set (old roots stay valid then). */
#ifndef TESTS_SUPPORT_RADIX_WORLD_H
#define TESTS_SUPPORT_RADIX_WORLD_H
#include "radix/radix.h"
#include "tests/support/memory_bdev.h"

struct radix_mapping {
    uint64_t block;
    struct radix_entry entry;
};

/* What a root must map. */
struct radix_oracle {
    struct radix_mapping *map;
    size_t count, room;
};

struct radix_world {
    struct loop *loop;
    struct memory_bdev *device;
    struct radix_io io;
    uint64_t random;
    uint8_t *used;  /* by address */
    uint8_t *fate;  /* by address, for the merge being checked */
    uint64_t cursor;
    unsigned scatter; /* one allocation in so many jumps to a random place; 0: never */
    bool keep;
    struct radix_root root;
    struct radix_oracle oracle;
    uint64_t birth;
    /* The changes of the next merge. */
    struct radix_change *change;
    size_t change_count, change_room, change_at;
    uint64_t fail_next_at, fail_drop_at; /* callbacks that fail: counted from 1; 0: none */
    uint64_t drops;
    struct radix_merge last; /* as it was after the last merge */
};

void radix_world_open(struct radix_world *w, uint64_t device_blocks, uint64_t seed);
void radix_world_close(struct radix_world *w);
uint64_t radix_world_random(struct radix_world *w, uint64_t below);

/* Adds to the list of changes; ascending, not overlapping. radix_world_map brings in a new data address. */
void radix_world_map(struct radix_world *w, uint64_t block);
void radix_world_map_entry(struct radix_world *w, uint64_t block, const struct radix_entry *e);
void radix_world_unmap(struct radix_world *w, uint64_t first, uint64_t count);
/* Adds up to `most` random changes below limit. */
void radix_world_random_changes(struct radix_world *w, unsigned most, uint64_t limit);

/* Merges the list into the root; returns radix_merge's result. Success is checked against the oracle with CUnit's assertions;
 * a failure leaves root and oracle as they were and gives the new addresses back. The list is empty afterwards. */
int radix_world_merge(struct radix_world *w, uint64_t min_blocks);
/* Whether a root maps exactly what the oracle says. */
bool radix_world_holds(struct radix_world *w, const struct radix_root *root, const struct radix_oracle *o);
void radix_oracle_copy(struct radix_oracle *to, const struct radix_oracle *from);
/* The entry for a block, or RADIX_NONE. */
struct radix_entry radix_oracle_find(const struct radix_oracle *o, uint64_t block);
#endif
