/* The index of changes against a list that is searched from its newest end. */
#include "parallax/index.h"
#include "tests/support/unit.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static void put(struct index *ix, uint32_t block, uint64_t ticket, uint64_t address, uint64_t low, uint64_t high)
{
    index_insert(ix, &(struct index_entry){ .line = 1, .block = block, .ticket = ticket, .address = address }, low, high);
}

static void the_highest_ticket_wins_whatever_the_order_of_completion(void)
{
    struct index ix;
    CU_ASSERT_EQUAL_FATAL(index_init(&ix, 64), 0);
    put(&ix, 7, 20, 200, 0, UINT64_MAX);
    put(&ix, 7, 10, 100, 0, UINT64_MAX); /* older, completed later */
    CU_ASSERT_EQUAL(index_find(&ix, 1, 7, UINT64_MAX)->address, 200);
    CU_ASSERT_EQUAL(ix.used, 1);
    CU_ASSERT_EQUAL(ix.held_used, 1);
    CU_ASSERT_EQUAL(ix.held[0], 100);
    index_fini(&ix);
}

static void a_cut_keeps_both_sides_apart(void)
{
    struct index ix;
    CU_ASSERT_EQUAL_FATAL(index_init(&ix, 64), 0);
    put(&ix, 7, 10, 100, 0, 15);
    put(&ix, 7, 20, 200, 15, UINT64_MAX);
    put(&ix, 7, 12, 120, 0, 15); /* still before the cut at 15 */
    CU_ASSERT_EQUAL(index_find(&ix, 1, 7, UINT64_MAX)->address, 200);
    CU_ASSERT_EQUAL(index_find(&ix, 1, 7, 15)->address, 120);
    CU_ASSERT_PTR_NULL(index_find(&ix, 1, 7, 10));
    CU_ASSERT_PTR_NULL(index_find(&ix, 2, 7, UINT64_MAX));
    CU_ASSERT_EQUAL(ix.held_used, 1);
    index_fini(&ix);
}

static void growing_and_clearing_lose_nothing_and_leave_nothing(void)
{
    struct index ix;
    CU_ASSERT_EQUAL_FATAL(index_init(&ix, 64), 0);
    for (uint32_t i = 0; i < 1000; i++) {
        if (ix.used + ix.held_used >= ix.capacity)
            CU_ASSERT_EQUAL_FATAL(index_grow(&ix), 0);
        put(&ix, i % 300, i + 1, 1000 + i, i < 500 ? 0 : 501, i < 500 ? 501 : UINT64_MAX);
    }
    for (uint32_t b = 0; b < 300; b++) {
        uint64_t newest = 0, before = 0;
        for (uint32_t i = 0; i < 1000; i++)
            if (i % 300 == b) {
                newest = 1000 + i;
                if (i < 500)
                    before = 1000 + i;
            }
        CU_ASSERT_EQUAL(index_find(&ix, 1, b, UINT64_MAX)->address, newest);
        CU_ASSERT_EQUAL(index_find(&ix, 1, b, 501)->address, before);
    }
    index_clear(&ix);
    CU_ASSERT_PTR_NULL(index_find(&ix, 1, 5, UINT64_MAX));
    CU_ASSERT_EQUAL(ix.used + ix.held_used, 0);
    index_fini(&ix);
}

/* As in a daemon with the right to lock its memory, whose pages cannot be given back (base/flusher.h). */
static void clearing_locked_memory_leaves_nothing(void)
{
    struct index ix;
    CU_ASSERT_EQUAL_FATAL(index_init(&ix, 64), 0);
    CU_ASSERT_EQUAL_FATAL(mlock(ix.buckets, 64 * sizeof *ix.buckets), 0);
    CU_ASSERT_EQUAL_FATAL(mlock(ix.entries, 64 * sizeof *ix.entries), 0);
    CU_ASSERT_EQUAL_FATAL(mlock(ix.held, 64 * sizeof *ix.held), 0);
    for (uint32_t b = 0; b < 64; b++)
        put(&ix, b, b + 1, 1000 + b, 0, UINT64_MAX);
    index_clear(&ix);
    for (uint32_t b = 0; b < 64; b++)
        CU_ASSERT_PTR_NULL(index_find(&ix, 1, b, UINT64_MAX));
    for (uint32_t b = 0; b < 64; b++)
        put(&ix, 63 - b, 100 + b, 2000 + b, 0, UINT64_MAX);
    for (uint32_t b = 0; b < 64; b++)
        CU_ASSERT_EQUAL(index_find(&ix, 1, 63 - b, UINT64_MAX)->address, 2000 + b);
    CU_ASSERT_EQUAL(ix.used, 64);
    CU_ASSERT_EQUAL(ix.held_used, 0);
    index_fini(&ix);
}

int main(int argc, char **argv)
{
    return unit_main(argc, argv, "index",
                     (struct unit_test[]){ UNIT(the_highest_ticket_wins_whatever_the_order_of_completion), UNIT(a_cut_keeps_both_sides_apart),
                                           UNIT(growing_and_clearing_lose_nothing_and_leave_nothing),
                                           UNIT(clearing_locked_memory_leaves_nothing), { 0 } });
}
