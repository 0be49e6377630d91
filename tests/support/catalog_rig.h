/* catalog_rig.h - what tests of the catalog share: a directory for one on disk, and random changes of an object with an oracle.
 *
 * One thread; what fails fails the test. */
#ifndef TESTS_CATALOG_RIG_H
#define TESTS_CATALOG_RIG_H
#include "parallax/store/catalog.h"

#include <stdbool.h>
#include <stdint.h>

struct unit_test;

/* Runs the tests (as unit_main does) with a new, empty catalog_directory, which is gone afterwards. */
int catalog_rig_main(int argc, char **argv, const struct unit_test *tests);
extern char catalog_directory[256];
/* A new catalog in the emptied directory. */
struct catalog *catalog_rig_create(void);

/* What an object holds: the value of key i, or -1. All bytes 0xff but for revision 0: of an object that is not there. */
enum { CATALOG_ORACLE_KEYS = 200 };
struct catalog_oracle {
    uint64_t revision;
    int value[CATALOG_ORACLE_KEYS];
};
/* Applies `count` (at most 64) random changes in one; the oracle follows if that succeeds. */
int catalog_oracle_apply(struct catalog *c, const char *object, struct catalog_oracle *o, uint64_t *random, unsigned count);
/* 0: the object is exactly as the oracle has it; -1: it is not; else why it cannot be read. */
int catalog_oracle_compare(struct catalog *c, const char *object, const struct catalog_oracle *o);
static inline bool catalog_oracle_holds(struct catalog *c, const char *object, const struct catalog_oracle *o)
{
    return catalog_oracle_compare(c, object, o) == 0;
}
#endif
