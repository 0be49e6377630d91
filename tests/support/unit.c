/* unit.c - see unit.h. */
#include "tests/support/unit.h"

#include "base/clock.h"

#include <CUnit/TestRun.h>
#include <dirent.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static int failures;

static void test_complete(const CU_pTest test, const CU_pSuite suite, const CU_pFailureRecord failure)
{
    if (!failure) {
        printf("ok %s: %s\n", suite->pName, test->pName);
    } else {
        failures++;
        printf("not ok %s: %s - %s:%u: %s\n", suite->pName, test->pName, failure->strFileName, failure->uiLineNumber, failure->strCondition);
    }
    fflush(stdout);
}

int unit_main(int argc, char **argv, const char *suite_name, const struct unit_test *tests)
{
    if (CU_initialize_registry() != CUE_SUCCESS)
        return 2;
    CU_pSuite suite = CU_add_suite(suite_name, NULL, NULL);
    for (; tests->name; tests++)
        if (argc < 2 || fnmatch(argv[1], tests->name, 0) == 0)
            CU_add_test(suite, tests->name, tests->run);
    CU_set_test_complete_handler(test_complete);
    CU_run_all_tests();
    CU_cleanup_registry();
    return failures ? 1 : 0;
}

uint64_t unit_number(const char *name, uint64_t usual)
{
    const char *s = getenv(name);
    return s ? strtoull(s, NULL, 0) : usual;
}

uint64_t unit_seed(void)
{
    uint64_t seed = unit_number("SEED", clock_real_ns());
    printf("# SEED=%llu\n", (unsigned long long)seed);
    fflush(stdout);
    return seed ? seed : 1;
}

uint64_t unit_random(uint64_t *s)
{
    *s ^= *s >> 12;
    *s ^= *s << 25;
    *s ^= *s >> 27;
    return *s * 0x2545f4914f6cdd1du;
}

void unit_empty_directory(const char *path)
{
    DIR *d = opendir(path);
    for (struct dirent *e; d && (e = readdir(d));)
        if (e->d_name[0] != '.')
            unlinkat(dirfd(d), e->d_name, 0);
    if (d)
        closedir(d);
}
