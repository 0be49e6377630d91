/* histogram.c - see histogram.h. */
#include "base/histogram.h"

uint64_t histogram_bound_ns(unsigned i)
{
    uint64_t power = 1ull << (HISTOGRAM_FIRST_SHIFT + i / 2);
    return i % 2 ? power + power / 2 : power;
}

uint64_t histogram_count(const struct histogram *h)
{
    uint64_t n = 0;
    for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++)
        n += h->bucket[i];
    return n;
}

uint64_t histogram_quantile_ns(const struct histogram *h, double part)
{
    double wanted = part * (double)histogram_count(h), seen = 0;
    for (unsigned i = 0; i < HISTOGRAM_BOUNDS; i++) {
        double here = (double)h->bucket[i];
        if (here > 0 && seen + here >= wanted) {
            double low = i ? (double)histogram_bound_ns(i - 1) : 0, high = (double)histogram_bound_ns(i);
            return (uint64_t)(low + (high - low) * (wanted - seen) / here);
        }
        seen += here;
    }
    return h->bucket[HISTOGRAM_BOUNDS] ? HISTOGRAM_MAX_NS : 0;
}

void histogram_since(struct histogram *h, const struct histogram *before)
{
    for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++)
        if (h->bucket[i] < before->bucket[i])
            return;
    for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++)
        h->bucket[i] -= before->bucket[i];
    h->sum_ns -= h->sum_ns < before->sum_ns ? h->sum_ns : before->sum_ns;
}
