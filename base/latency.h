/* latency.h - how long operations took, in buckets of a sixteenth of a power of two of nanoseconds: a percentile is right to 6 %.
 * For measuring; what is kept for every image and device at all times (histogram.h) is coarser and a twentieth as large.
 *
 * Zero-initialise. No allocation; the owner's thread. */
#ifndef BASE_LATENCY_H
#define BASE_LATENCY_H
#include <stdint.h>

#define LATENCY_FINE 16u
#define LATENCY_BUCKETS (64u * LATENCY_FINE)

struct latency {
    uint64_t count, max_ns;
    uint64_t bucket[LATENCY_BUCKETS];
};

void latency_add(struct latency *l, uint64_t ns);
/* What that part (0 … 1) of the operations did not exceed, to the bucket's upper end; 0 if there are none. */
uint64_t latency_percentile_ns(const struct latency *l, double part);
#endif
