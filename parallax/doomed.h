/* doomed.h - which versions would go if a set of them went: those, and the invisible ones above that only they keep. The loop's. */
#ifndef PARALLAX_DOOMED_H
#define PARALLAX_DOOMED_H
#include "parallax/tree.h"

struct doomed {
    struct version *v;
    uint32_t left;  /* children that stay: none: it goes whole; one: it is joined to that one; more: it stays, invisible */
    uint64_t limit; /* what was born up to here belongs to a version that stays; the user's to fill */
};
/* The members and the invisible versions above them, each once, parents first; the caller's to free. NULL: no memory. */
struct doomed *doomed_collect(struct version *const *members, unsigned count, unsigned *n);
/* NULL: v is not in the set, or NULL. */
struct doomed *doomed_find(struct doomed *set, unsigned n, struct version *v);
/* The child that v, of which one is left, is joined to. */
const struct version *doomed_child_left(struct doomed *set, unsigned n, const struct version *v);
#endif
