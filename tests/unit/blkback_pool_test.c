/* blkback_pool_test.c - runs of pages: never shared, always given back whole, waiters served in turn. */
#include "blkback/blkback_pool.h"
#include "tests/support/unit.h"

#include <string.h>

#define POOL_PAGES 1024u
#define PAGE 4096u
#define HELD 200u

static struct blkback_pool_waiter waiter(void (*ready)(struct blkback_pool_waiter *w))
{
    return (struct blkback_pool_waiter){ .ready = ready };
}

static unsigned woken;
static void wake(struct blkback_pool_waiter *w)
{
    (void)w;
    woken++;
}

static void random_runs_never_overlap_and_all_come_back(void)
{
    uint64_t seed = unit_seed();
    struct blkback_pool *p;
    CU_ASSERT_EQUAL_FATAL(blkback_pool_create(POOL_PAGES * PAGE, &p), 0);
    CU_ASSERT_EQUAL(blkback_pool_free_pages(p), POOL_PAGES);
    static struct { uint8_t *run; unsigned pages; } held[HELD];
    memset(held, 0, sizeof held);
    struct blkback_pool_waiter w = waiter(wake);
    list_init(&w.link);
    for (unsigned i = 0; i < 200000; i++) {
        unsigned k = (unsigned)(unit_random(&seed) % HELD);
        if (held[k].run) {
            /* Each page still carries its owner's mark: nobody else was given it. */
            for (unsigned page = 0; page < held[k].pages; page++)
                CU_ASSERT_EQUAL_FATAL(held[k].run[page * PAGE], (uint8_t)k);
            blkback_pool_put(p, held[k].run, held[k].pages);
            held[k].run = NULL;
            continue;
        }
        unsigned pages = 1 + (unsigned)(unit_random(&seed) % (unit_random(&seed) % 8 ? 12 : BLKBACK_POOL_RUN_MAX));
        held[k].run = blkback_pool_get(p, pages, &w);
        held[k].pages = pages;
        if (held[k].run) {
            CU_ASSERT_EQUAL((uintptr_t)held[k].run % PAGE, 0);
            for (unsigned page = 0; page < pages; page++)
                held[k].run[page * PAGE] = (uint8_t)k;
        }
    }
    blkback_pool_leave(p, &w);
    for (unsigned k = 0; k < HELD; k++)
        if (held[k].run)
            blkback_pool_put(p, held[k].run, held[k].pages);
    CU_ASSERT_EQUAL(blkback_pool_free_pages(p), POOL_PAGES);
    list_init(&w.link);
    uint8_t *whole[POOL_PAGES / BLKBACK_POOL_RUN_MAX];
    for (unsigned i = 0; i < POOL_PAGES / BLKBACK_POOL_RUN_MAX; i++)
        CU_ASSERT_PTR_NOT_NULL((whole[i] = blkback_pool_get(p, BLKBACK_POOL_RUN_MAX, &w))); /* nothing is left in pieces */
    for (unsigned i = 0; i < POOL_PAGES / BLKBACK_POOL_RUN_MAX; i++)
        blkback_pool_put(p, whole[i], BLKBACK_POOL_RUN_MAX);
    blkback_pool_destroy(p);
}

static void a_large_request_is_not_starved_by_small_ones(void)
{
    struct blkback_pool *p;
    CU_ASSERT_EQUAL_FATAL(blkback_pool_create(2u << 20, &p), 0);
    struct blkback_pool_waiter large = waiter(wake), small = waiter(wake);
    list_init(&large.link);
    list_init(&small.link);
    void *a = blkback_pool_get(p, 256, &small), *b = blkback_pool_get(p, 255, &small);
    CU_ASSERT(a && b);
    CU_ASSERT_PTR_NULL(blkback_pool_get(p, 256, &large));
    blkback_pool_put(p, b, 255);
    CU_ASSERT_PTR_NULL(blkback_pool_get(p, 1, &small)); /* behind the large one, though a page is free */
    woken = 0;
    void *c = blkback_pool_get(p, 256, &large);
    CU_ASSERT_PTR_NOT_NULL(c);
    CU_ASSERT_EQUAL(woken, 1); /* the small one is first now */
    blkback_pool_put(p, a, 256);
    CU_ASSERT_EQUAL(woken, 2);
    void *d = blkback_pool_get(p, 1, &small);
    CU_ASSERT_PTR_NOT_NULL(d);
    blkback_pool_put(p, c, 256);
    blkback_pool_put(p, d, 1);
    blkback_pool_destroy(p);
}

int main(int argc, char **argv)
{
    return unit_main(argc, argv, "blkback_pool", (struct unit_test[]){ UNIT(random_runs_never_overlap_and_all_come_back),
                                                                      UNIT(a_large_request_is_not_starved_by_small_ones), { 0 } });
}
