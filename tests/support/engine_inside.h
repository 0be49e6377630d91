/* engine_inside.h - what a store is doing that only its own structs tell: for tests that count what they have interrupted. */
#ifndef TESTS_SUPPORT_ENGINE_INSIDE_H
#define TESTS_SUPPORT_ENGINE_INSIDE_H
#include "parallax/parallax.h"

struct engine_inside {
    bool checkpoint; /* its thread is at work */
    bool relink;     /* and it gives a deleted version's dead list to its child */
    bool wrap;       /* what recovery would read of the journal crosses the ring's end */
    uint64_t journal_tail, journal_next, journal_blocks; /* numbers of journal blocks in use; of the ring */
};

/* On the loop's thread, or while that one waits. */
struct engine_inside engine_inside(const struct store *s);
#endif
