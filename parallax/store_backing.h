/* store_backing.h - a store on a backing that the caller brings: how tests put memory, faults and power cuts under the engine.
 * Threads and errors as in parallax.h. */
#ifndef PARALLAX_STORE_BACKING_H
#define PARALLAX_STORE_BACKING_H
#include "parallax/parallax.h"
#include "parallax/store/store.h"

/* Lays an empty store out on it. size_bytes: the store's limit, 0 for none. */
int store_create_backing(struct backing *b, uint64_t size_bytes, struct error *err);
/* The blocks that the layout needs before any data, for a store with that limit (or that much free space). */
uint64_t store_initial_blocks(uint64_t size_bytes);
/* b is copied and stays the caller's to close, after store_close or store_abandon. */
int store_open_backing(struct backing *b, struct loop *loop, const struct store_options *opt, struct store **out, struct error *err);
/* Ends like a kill -9 would: nothing more is written and nothing completes; memory is given back. */
void store_abandon(struct store *s);
#endif
