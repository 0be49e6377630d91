/* tally.h - how many blocks maps hold, when many of them share most of what they hold.
 *
 * What a subtree holds is remembered under its node's address for as long as the tally lives, so that a map which shares a
 * subtree with one that was counted before costs no walk of it. Valid while no node that was met can be freed and its
 * address used again: under one reader (consistency.md, H1).
 * Threads: one at a time; blocks, not on a loop. */
#ifndef PARALLAX_TALLY_H
#define PARALLAX_TALLY_H
#include "radix/radix.h"

struct tally;
int tally_create(struct tally **out);
void tally_destroy(struct tally *t); /* NULL is allowed */
/* Data blocks below a root. */
int tally_count(struct tally *t, struct radix_io *io, const struct radix_root *root, uint64_t *blocks);
uint64_t tally_nodes(const struct tally *t); /* read so far */
#endif
