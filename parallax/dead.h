/* dead.h - dead lists: what a version's parent holds and the version does not, as runs sorted by birth.
 *
 * consistency.md V2, V3; layout in disk-format.md. Threads: the checkpoint's, and the loop's while none runs. */
#ifndef PARALLAX_DEAD_H
#define PARALLAX_DEAD_H
#include "parallax/disk.h"

#define DEAD_RUN_BLOCKS 256u
#define DEAD_RUN_ENTRIES (DEAD_RUN_BLOCKS * DEAD_PER_BLOCK)

struct dead_run {
    uint64_t number;  /* its key in the catalog, with the version's */
    uint64_t address; /* consecutive blocks */
    uint32_t count;   /* entries */
    uint64_t max_birth;
    uint32_t *crcs;   /* of each block */
    bool dirty;
};

struct dead_runs {
    struct dead_run *runs;
    uint32_t count, capacity;
    uint64_t next_number;
};

static inline uint32_t dead_run_blocks(const struct dead_run *r) { return (r->count + DEAD_PER_BLOCK - 1) / DEAD_PER_BLOCK; }

void dead_runs_fini(struct dead_runs *d);
/* Takes over run (its crcs too) on success, numbering it anew. */
int dead_runs_add(struct dead_runs *d, const struct dead_run *run);

/* A run being gathered. Entries are kept until dead_gather_full, then sorted and written by dead_gather_write. */
struct dead_gather {
    struct dead_entry *entries; /* DEAD_RUN_ENTRIES of them */
    uint32_t count;
};
static inline bool dead_gather_full(const struct dead_gather *g) { return g->count == DEAD_RUN_ENTRIES; }
/* Blocks the gathered entries will take. */
static inline uint32_t dead_gather_blocks(const struct dead_gather *g) { return (g->count + DEAD_PER_BLOCK - 1) / DEAD_PER_BLOCK; }
/* Sorts the first entries by birth and writes as many as fit `blocks` consecutive blocks at address; they leave g. */
int dead_gather_write(struct dead_gather *g, struct bdev *device, uint32_t seed, uint64_t address, uint32_t blocks, struct dead_run *out);

/* Reads block number `block` of the run into entries; *count: how many of them belong to the run. */
int dead_run_read(const struct dead_run *r, struct bdev *device, uint32_t seed, uint32_t block, struct dead_entry *entries, uint32_t *count, uint8_t *buffer);

uint32_t dead_run_encode(const struct dead_run *r, uint8_t *value); /* at most DEAD_RUN_VALUE_MAX bytes */
#define DEAD_RUN_VALUE_MAX (20u + 4u * DEAD_RUN_BLOCKS)
int dead_run_decode(const uint8_t *value, size_t length, uint64_t number, struct dead_run *out);
#endif
