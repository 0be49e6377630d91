/* unit.h - one CUnit suite as a program whose output tests/run reads: "ok NAME" or "not ok NAME - why", one line a test.
 *
 *   static void a_name_that_is_a_sentence(void) { CU_ASSERT_EQUAL(1 + 1, 2); }
 *   int main(int argc, char **argv) { return unit_main(argc, argv, "base", (struct unit_test[]){ UNIT(a_name_that_is_a_sentence), { 0 } }); }
 *
 * An argument is a shell pattern: only the tests whose name matches are run. */
#ifndef TESTS_SUPPORT_UNIT_H
#define TESTS_SUPPORT_UNIT_H
#include <CUnit/CUnit.h>
#include <stdint.h>

struct unit_test {
    const char *name;
    void (*run)(void);
};
#define UNIT(function) { #function, function }

int unit_main(int argc, char **argv, const char *suite, const struct unit_test *tests);

/* The number in the environment variable of that name, or the usual one. */
uint64_t unit_number(const char *name, uint64_t usual);
/* A seed from the environment variable SEED, else from the clock; printed, so that a failure can be repeated. */
uint64_t unit_seed(void);
/* xorshift64*: small, fast and the same everywhere. */
uint64_t unit_random(uint64_t *state);
/* Removes the files of a directory that has no others in it; a directory that is not there is empty. */
void unit_empty_directory(const char *path);
#endif
