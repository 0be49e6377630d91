/* The histogram of latencies: bounds, quantiles, differences. */
#include "base/histogram.h"
#include "tests/support/unit.h"

static void observe(struct histogram *h, uint64_t ns) { histogram_add(h, histogram_bucket(ns), ns); }

static void every_time_falls_into_the_bucket_of_the_least_bound_not_below_it(void)
{
    for (unsigned i = 0; i < HISTOGRAM_BOUNDS; i++) {
        uint64_t bound = histogram_bound_ns(i);
        CU_ASSERT_EQUAL(histogram_bucket(bound), i);
        CU_ASSERT_EQUAL(histogram_bucket(bound + 1), i + 1);
        CU_ASSERT_EQUAL(histogram_bucket(bound - 1), i);
    }
    CU_ASSERT_EQUAL(histogram_bucket(0), 0);
    CU_ASSERT_EQUAL(histogram_bucket(UINT64_MAX), HISTOGRAM_BUCKETS - 1);
    uint64_t state = unit_seed();
    for (int k = 0; k < 100000; k++) {
        uint64_t ns = unit_random(&state) >> (unit_random(&state) % 64);
        unsigned i = histogram_bucket(ns);
        if ((i < HISTOGRAM_BOUNDS && ns > histogram_bound_ns(i)) || (i && ns <= histogram_bound_ns(i - 1)))
            CU_FAIL("a time outside its bucket");
    }
}

static void bounds_grow_by_half_an_octave_at_most(void)
{
    CU_ASSERT_EQUAL(histogram_bound_ns(0), 1024);
    CU_ASSERT_EQUAL(histogram_bound_ns(1), 1536);
    CU_ASSERT_EQUAL(histogram_bound_ns(2), 2048);
    CU_ASSERT_EQUAL(histogram_bound_ns(HISTOGRAM_BOUNDS - 1), HISTOGRAM_MAX_NS);
    for (unsigned i = 1; i < HISTOGRAM_BOUNDS; i++)
        CU_ASSERT(2 * histogram_bound_ns(i) <= 3 * histogram_bound_ns(i - 1));
}

static void count_and_sum_are_exact(void)
{
    struct histogram h = { 0 };
    for (uint64_t ns = 0; ns < 1000; ns++)
        observe(&h, ns * ns);
    observe(&h, 2 * HISTOGRAM_MAX_NS);
    CU_ASSERT_EQUAL(histogram_count(&h), 1001);
    CU_ASSERT_EQUAL(h.sum_ns, 332833500 + 2 * HISTOGRAM_MAX_NS);
}

static void a_quantile_lies_in_the_bucket_that_holds_it(void)
{
    struct histogram h = { 0 };
    CU_ASSERT_EQUAL(histogram_quantile_ns(&h, 0.99), 0);
    for (unsigned i = 0; i < 990; i++)
        observe(&h, 10000);
    for (unsigned i = 0; i < 10; i++)
        observe(&h, 5000000);
    uint64_t p50 = histogram_quantile_ns(&h, 0.5), p99 = histogram_quantile_ns(&h, 0.99), p999 = histogram_quantile_ns(&h, 0.999);
    CU_ASSERT(p50 > 8192 && p50 <= 12288);
    CU_ASSERT(p99 > 8192 && p99 <= 12288);
    CU_ASSERT(p999 > 4194304 && p999 <= 6291456);
    CU_ASSERT(histogram_quantile_ns(&h, 1) == 6291456);
    observe(&h, 2 * HISTOGRAM_MAX_NS);
    CU_ASSERT_EQUAL(histogram_quantile_ns(&h, 1), HISTOGRAM_MAX_NS);
}

static void the_difference_of_two_looks_is_what_came_between(void)
{
    struct histogram before = { 0 }, now, other = { 0 };
    observe(&before, 3000);
    now = before;
    observe(&now, 7000);
    observe(&now, 3000);
    histogram_since(&now, &before);
    CU_ASSERT_EQUAL(histogram_count(&now), 2);
    CU_ASSERT_EQUAL(now.sum_ns, 10000);
    /* An image that was closed and opened again begins anew. */
    observe(&other, 100);
    histogram_since(&other, &now);
    CU_ASSERT_EQUAL(histogram_count(&other), 1);
    CU_ASSERT_EQUAL(other.sum_ns, 100);
}

int main(int argc, char **argv)
{
    return unit_main(argc, argv, "histogram", (struct unit_test[]){
        UNIT(every_time_falls_into_the_bucket_of_the_least_bound_not_below_it), UNIT(bounds_grow_by_half_an_octave_at_most),
        UNIT(count_and_sum_are_exact), UNIT(a_quantile_lies_in_the_bucket_that_holds_it),
        UNIT(the_difference_of_two_looks_is_what_came_between), { 0 } });
}
