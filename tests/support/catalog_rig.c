/* catalog_rig.c - see catalog_rig.h. */
#include "tests/support/catalog_rig.h"

#include "parallax/store/catalog_bdb.h"
#include "tests/support/unit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

char catalog_directory[256];

struct catalog *catalog_rig_create(void)
{
    struct catalog *c;
    struct error err = ERROR_NONE;
    unit_empty_directory(catalog_directory);
    CU_ASSERT_EQUAL_FATAL(catalog_bdb_create(catalog_directory, &c, &err), 0);
    return c;
}

int catalog_rig_main(int argc, char **argv, const struct unit_test *tests)
{
    snprintf(catalog_directory, sizeof catalog_directory, "%s/parallax-catalog-test-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/var/tmp");
    if (!mkdtemp(catalog_directory)) {
        perror(catalog_directory);
        return 1;
    }
    int rc = unit_main(argc, argv, "catalog", tests);
    unit_empty_directory(catalog_directory);
    rmdir(catalog_directory);
    return rc;
}

struct comparison {
    const struct catalog_oracle *o;
    int next;
};

static size_t make_key(char key[16], int i) { return (size_t)sprintf(key, "%0*d", 3 + i % 5, i); }

/* Values are of a length that depends on them, some too large for a page. */
static size_t make_value(char value[2048], int v)
{
    size_t n = (size_t)(v % 17 == 0 ? 1500 : v % 40 + 8);
    memset(value, 'a' + v % 26, n);
    memcpy(value, &v, sizeof v);
    return n;
}

static int compare_item(void *ctx, const void *key, size_t key_length, const void *value, size_t value_length)
{
    struct comparison *c = ctx;
    char k[16], v[2048];
    for (int i = 0; i < CATALOG_ORACLE_KEYS; i++)
        if (make_key(k, i) == key_length && memcmp(k, key, key_length) == 0) {
            c->next++;
            return c->o->value[i] >= 0 && make_value(v, c->o->value[i]) == value_length && memcmp(v, value, value_length) == 0 ? 0 : -1;
        }
    return -1;
}

int catalog_oracle_compare(struct catalog *c, const char *object, const struct catalog_oracle *o)
{
    struct comparison cmp = { o, 0 };
    uint64_t revision = 0;
    int present = 0;
    for (int i = 0; i < CATALOG_ORACLE_KEYS; i++)
        present += o->value[i] >= 0;
    int err = catalog_scan(c, object, &revision, compare_item, &cmp);
    return err ? err : revision == o->revision && cmp.next == present ? 0 : -1;
}

int catalog_oracle_apply(struct catalog *c, const char *object, struct catalog_oracle *o, uint64_t *random, unsigned count)
{
    struct catalog_change changes[64];
    char keys[64][16], values[64][2048];
    struct catalog_oracle after = *o;
    for (unsigned i = 0; i < count; i++) {
        int key = (int)(unit_random(random) % CATALOG_ORACLE_KEYS), value = unit_random(random) % 4 ? (int)(unit_random(random) % 100000) : -1;
        after.value[key] = value;
        changes[i] = (struct catalog_change){ keys[i], make_key(keys[i], key), value < 0 ? NULL : values[i], value < 0 ? 0 : make_value(values[i], value) };
    }
    int err = catalog_apply(c, object, o->revision, changes, count);
    after.revision++;
    if (!err)
        *o = after;
    return err;
}
