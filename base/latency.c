/* latency.c - see latency.h. */
#include "base/latency.h"

static unsigned bucket_of(uint64_t ns)
{
    if (ns < LATENCY_FINE)
        return (unsigned)ns;
    unsigned power = 63u - (unsigned)__builtin_clzll(ns);
    return (power - 3) * LATENCY_FINE + (unsigned)(ns >> (power - 4)) % LATENCY_FINE;
}

/* The upper end of a bucket. */
static uint64_t bucket_ns(unsigned i)
{
    if (i < LATENCY_FINE)
        return i;
    unsigned power = i / LATENCY_FINE + 3;
    return ((uint64_t)LATENCY_FINE + i % LATENCY_FINE + 1) << (power - 4);
}

void latency_add(struct latency *l, uint64_t ns)
{
    l->count++;
    l->bucket[bucket_of(ns)]++;
    l->max_ns = ns > l->max_ns ? ns : l->max_ns;
}

uint64_t latency_percentile_ns(const struct latency *l, double part)
{
    uint64_t seen = 0, wanted = (uint64_t)((double)l->count * part);
    for (unsigned i = 0; i < LATENCY_BUCKETS; i++) {
        seen += l->bucket[i];
        if (seen > wanted)
            return bucket_ns(i) < l->max_ns ? bucket_ns(i) : l->max_ns;
    }
    return l->max_ns;
}
