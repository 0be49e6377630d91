/* blkfront_name_test.c - virtual device numbers from the names that people use. */
#include "blkfront/blkfront.h"
#include "tests/support/unit.h"

static void names_become_the_numbers_of_the_xen_interface(void)
{
    CU_ASSERT_EQUAL(blkfront_vdev_number("xvda"), 51712);
    CU_ASSERT_EQUAL(blkfront_vdev_number("xvdb"), 51728);
    CU_ASSERT_EQUAL(blkfront_vdev_number("xvda1"), 51713);
    CU_ASSERT_EQUAL(blkfront_vdev_number("xvdp15"), 51967);
    CU_ASSERT_EQUAL(blkfront_vdev_number("xvdq"), 1u << 28 | 16 << 8);
    CU_ASSERT_EQUAL(blkfront_vdev_number("xvdaa"), 1u << 28 | 26 << 8);
    CU_ASSERT_EQUAL(blkfront_vdev_number("xvda16"), 1u << 28 | 16);
    CU_ASSERT_EQUAL(blkfront_vdev_number("51712"), 51712);
}

static void what_is_no_name_is_zero(void)
{
    static const char *const bad[] = { "", "xvd", "xvdA", "sda", "xvda-1", "xvda1x", "51712x", "99999999999", "xvda999999", "xvdzzzzzzzzzzzz" };
    for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++)
        CU_ASSERT_EQUAL(blkfront_vdev_number(bad[i]), 0);
}

int main(int argc, char **argv)
{
    return unit_main(argc, argv, "blkfront_name",
                     (struct unit_test[]){ UNIT(names_become_the_numbers_of_the_xen_interface), UNIT(what_is_no_name_is_zero), { 0 } });
}
