/* histogram.h - how long things took: counts in buckets whose bounds grow by half an octave, in a fixed piece of memory.
 *
 * Adding is a few increments, with no lock and no allocation; a histogram belongs to one thread. Counts only grow, so what
 * happened between two looks is the difference of the two. A bucket's bound belongs to it ("at most"). The last bucket has none:
 * it holds what took longer than HISTOGRAM_MAX_NS. */
#ifndef BASE_HISTOGRAM_H
#define BASE_HISTOGRAM_H
#include <stdint.h>

#define HISTOGRAM_FIRST_SHIFT 10u /* the first bound: 1024 ns */
#define HISTOGRAM_LAST_SHIFT 36u  /* the last: 68.7 s */
#define HISTOGRAM_MAX_NS (1ull << HISTOGRAM_LAST_SHIFT)
#define HISTOGRAM_BOUNDS (2u * (HISTOGRAM_LAST_SHIFT - HISTOGRAM_FIRST_SHIFT) + 1) /* every even one is a power of two */
#define HISTOGRAM_BUCKETS (HISTOGRAM_BOUNDS + 1)

struct histogram {
    uint64_t sum_ns;
    uint64_t bucket[HISTOGRAM_BUCKETS];
};

static inline unsigned histogram_bucket(uint64_t ns)
{
    uint64_t below = ns - (ns > 0);
    if (below < 1ull << HISTOGRAM_FIRST_SHIFT)
        return 0;
    if (below >= HISTOGRAM_MAX_NS)
        return HISTOGRAM_BUCKETS - 1;
    unsigned shift = 63u - (unsigned)__builtin_clzll(below);
    return 1 + 2 * (shift - HISTOGRAM_FIRST_SHIFT) + (unsigned)(below >> (shift - 1) & 1);
}

static inline void histogram_add(struct histogram *h, unsigned bucket, uint64_t ns)
{
    h->bucket[bucket]++;
    h->sum_ns += ns;
}

/* The bound of a bucket; i < HISTOGRAM_BOUNDS. */
uint64_t histogram_bound_ns(unsigned i);
uint64_t histogram_count(const struct histogram *h);
/* What at least that part (0 … 1) of all took at most, as if a bucket's were spread evenly in it; 0 if there are none. */
uint64_t histogram_quantile_ns(const struct histogram *h, double part);
/* h becomes what came since `before`; where that is no earlier state of h, what there is. */
void histogram_since(struct histogram *h, const struct histogram *before);
#endif
