/* parallax_sort_test.c - what is sorted and equal may come in any order: the C library promises none.
 *
 * This program has a qsort of its own, for the engine too, that turns the order of equal elements around. */
#include "tests/support/bare.h"
#include "tests/support/engine_fail.h"
#include "tests/support/unit.h"

#include <stdlib.h>
#include <string.h>

#define STORE_BYTES (64ull << 20)

static struct bare b;

static void swap(char *a, char *c, size_t size)
{
    for (; size--; a++, c++) {
        char t = *a;
        *a = *c;
        *c = t;
    }
}

/* By insertion, from the end: an element goes behind those that are equal and were behind it, in turned order. */
void qsort(void *base, size_t count, size_t size, int (*compare)(const void *a, const void *b))
{
    char *p = base;
    for (size_t i = 1; i < count; i++)
        for (size_t k = i; k > 0 && compare(p + (k - 1) * size, p + k * size) >= 0; k--)
            swap(p + (k - 1) * size, p + k * size, size);
}

static void snapshots(const char *const *names, unsigned count, bool remove)
{
    struct bare_run run;
    bare_arm(&run);
    if (remove)
        snapshot_delete(b.store, &run.op, names, count, false);
    else
        snapshot_create(b.store, &run.op, names, count);
    CU_ASSERT_EQUAL_FATAL(bare_wait(&b, &run), 0);
}

/* Both are cut at one ticket; the changes belong to the older one, in its generation. */
static void two_snapshots_of_an_image_in_one_group_are_merged_in_their_order(void)
{
    static const char *const names[] = { "a@x", "a@y" };
    bare_begin(&b, STORE_BYTES);
    CU_ASSERT_EQUAL(bare_write(&b, 0, 64, 11), 0);
    snapshots(names, 2, false);
    CU_ASSERT_EQUAL(bare_checkpoint(&b), 0);
    CU_ASSERT_EQUAL(bare_write(&b, 0, 64, 12), 0);
    CU_ASSERT_EQUAL(bare_checkpoint(&b), 0);
    snapshots(names + 1, 1, true);
    for (unsigned i = 0; i < 3; i++)
        CU_ASSERT_EQUAL(bare_checkpoint(&b), 0);
    CU_ASSERT(bare_is_sound(&b));
    bare_end(&b);
}

int main(int argc, char **argv)
{
    return unit_main(argc, argv, "sort", (struct unit_test[]){ UNIT(two_snapshots_of_an_image_in_one_group_are_merged_in_their_order), { 0 } });
}
