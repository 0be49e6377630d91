/* mend.h - the space map is put right after a full walk (consistency.md, 19).
 *
 * Nothing that could be data is given up: a block that nothing reaches is freed only if the walk saw everything.
 * Threads: the loop's, each call at a moment when no checkpoint runs. */
#ifndef PARALLAX_MEND_H
#define PARALLAX_MEND_H
#include "parallax/parallax_private.h"

/* What a walk found. Bit i stands for address zone_start + i. */
struct mend {
    uint64_t *counted;       /* allocated, as the space map said; afterwards: what mend_begin has freed */
    const uint64_t *reached;
    uint64_t words;          /* of each */
    bool blind;              /* a node could not be read: what is below it was not met */
    struct store_check_result *result;
};

/* Changes the map that the next checkpoint commits. */
void mend_begin(struct store *s, struct mend *m);
/* After that checkpoint: what was freed may be used. */
void mend_end(struct store *s, const struct mend *m);
#endif
