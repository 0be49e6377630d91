/* runs.h - a bounded list of the ranges of an image that hold data.
 *
 * When there are more ranges than fit, ranges with small gaps between them become one: reading the list then reads a few
 * zeroes too many, and memory stays bounded. Ranges are added in ascending order. */
#ifndef TOOLS_COMMON_RUNS_H
#define TOOLS_COMMON_RUNS_H
#include <stdint.h>

#define RUNS_MAX 16384u

struct run {
    uint64_t offset, length; /* bytes */
};
struct runs {
    struct run *list; /* RUNS_MAX of them */
    unsigned count;
    uint64_t gap;     /* bytes: ranges this close together become one */
};
int runs_init(struct runs *r);
void runs_fini(struct runs *r);
void runs_add(struct runs *r, uint64_t offset, uint64_t length);
#endif
