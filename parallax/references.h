/* references.h - proof of the pool's counts: for each block, the references that a walk met against those that are counted
 * (consistency.md, 31a).
 *
 * Order of calls: references_init; references_load, on the checkpointer's thread at a moment when no checkpoint runs;
 * references_add for every reference and then references_compare, on any one thread; references_mend, on the checkpointer's
 * thread; references_fini.
 * Memory: a bit a block, 16 bytes for each block with a count, 8 for each reference beyond the first. */
#ifndef PARALLAX_REFERENCES_H
#define PARALLAX_REFERENCES_H
#include "parallax/parallax_private.h"

struct reference_count {
    uint64_t address;
    int64_t count; /* as stored; after references_compare, of a wrong one: what has to be added */
};

struct references {
    struct store *store;
    uint64_t *met;                  /* a bit an address: at least one reference */
    uint64_t words;
    uint64_t *further;              /* addresses, one for each reference beyond the first */
    uint64_t further_count, further_capacity;
    struct reference_count *stored; /* by address */
    uint64_t stored_count, stored_capacity;
    struct reference_count *wrong;
    uint64_t wrong_count, wrong_capacity;
    int error;                      /* of references_load and references_add */
};

int references_init(struct references *r, struct store *s);
void references_fini(struct references *r);
void references_load(struct references *r);
void references_add(struct references *r, uint64_t address);
/* blind: there may be references that were not met, so that a count that is too high proves nothing. tell is called for every
 * wrong count. 0 or r->error. */
int references_compare(struct references *r, bool blind, void (*tell)(void *ctx, uint64_t address, uint64_t counted, uint64_t met), void *ctx);
/* Changes the wrong counts; the next checkpoint commits that. */
void references_mend(struct references *r);
#endif
