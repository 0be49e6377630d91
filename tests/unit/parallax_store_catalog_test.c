/* parallax_store_catalog_test.c - what any catalog must do, tried on both. */
#include "parallax/store/catalog_bdb.h"
#include "parallax/store/memory.h"
#include "tests/support/catalog_rig.h"
#include "tests/support/unit.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A catalog of either kind that can be closed and opened again. */
struct subject {
    bool on_disk;
    struct catalog *c;
    struct backing memory;
};

static void subject_open(struct subject *s, bool on_disk)
{
    s->on_disk = on_disk;
    if (on_disk) {
        s->c = catalog_rig_create();
    } else {
        struct memory_options opt = { .seed = 1 };
        CU_ASSERT_EQUAL_FATAL(memory_create(&opt, &s->memory), 0);
        s->c = s->memory.catalog;
    }
}

static void subject_reopen(struct subject *s)
{
    struct error err = ERROR_NONE;
    if (s->on_disk) {
        catalog_close(s->c);
        CU_ASSERT_EQUAL_FATAL(catalog_bdb_open(catalog_directory, &s->c, &err), 0);
    } else {
        struct backing next;
        CU_ASSERT_EQUAL_FATAL(memory_power_cut(&s->memory, 7, NULL, &next), 0);
        s->memory.close(&s->memory);
        s->memory = next;
        s->c = next.catalog;
    }
}

static void subject_close(struct subject *s)
{
    if (s->on_disk)
        catalog_close(s->c);
    else
        s->memory.close(&s->memory);
}

static void with_both(void (*test)(struct subject *s))
{
    for (int on_disk = 0; on_disk < 2; on_disk++) {
        struct subject s;
        subject_open(&s, on_disk);
        test(&s);
        subject_close(&s);
    }
}

/* Collects a scan as "key=value key=value ". */
static int collect(void *ctx, const void *key, size_t key_length, const void *value, size_t value_length)
{
    char *text = ctx;
    sprintf(text + strlen(text), "%.*s=%.*s ", (int)key_length, (const char *)key, (int)value_length, (const char *)value);
    return 0;
}

static const char *contents(struct catalog *c, const char *object, uint64_t *revision)
{
    static char text[4096];
    text[0] = 0;
    return catalog_scan(c, object, revision, collect, text) ? "error" : text;
}

static int put(struct catalog *c, const char *object, uint64_t revision, const char *key, const char *value)
{
    struct catalog_change change = { key, strlen(key), value, value ? strlen(value) : 0 };
    return catalog_apply(c, object, revision, &change, 1);
}

static void check_get(struct subject *s)
{
    char value[8];
    size_t length = 99;
    CU_ASSERT_EQUAL(catalog_get(s->c, "o", "k", 1, value, sizeof value, &length), -ENOENT);
    CU_ASSERT_EQUAL(put(s->c, "o", 0, "k", "v1"), 0);
    CU_ASSERT_EQUAL(put(s->c, "o", 1, "ka", "longer than 8"), 0);
    CU_ASSERT_EQUAL(catalog_get(s->c, "p", "k", 1, value, sizeof value, &length), -ENOENT);
    CU_ASSERT_EQUAL(catalog_get(s->c, "o", "k", 0, value, sizeof value, &length), -EINVAL);
    CU_ASSERT_EQUAL(catalog_get(s->c, "o", "ka", 2, value, sizeof value, &length), -EMSGSIZE);
    CU_ASSERT_EQUAL(length, 99);
    CU_ASSERT_EQUAL(catalog_get(s->c, "o", "k", 1, value, sizeof value, &length), 0);
    CU_ASSERT(length == 2 && !memcmp(value, "v1", 2));
    subject_reopen(s);
    CU_ASSERT_EQUAL(catalog_get(s->c, "o", "k", 1, value, 2, &length), 0);
    CU_ASSERT_EQUAL(put(s->c, "o", 2, "k", NULL), 0);
    CU_ASSERT_EQUAL(catalog_get(s->c, "o", "k", 1, value, sizeof value, &length), -ENOENT);
}
static void one_value_is_got_by_its_key(void) { with_both(check_get); }

static void check_basics(struct subject *s)
{
    uint64_t revision = 99;
    CU_ASSERT_STRING_EQUAL(contents(s->c, "a", &revision), "");
    CU_ASSERT_EQUAL(revision, 0);
    struct catalog_change three[] = { { "b", 1, "2", 1 }, { "abc", 3, "1", 1 }, { "b", 1, "3", 1 }, { "gone", 4, NULL, 0 }, { "b\xff", 2, "", 0 } };
    CU_ASSERT_EQUAL(catalog_apply(s->c, "a", 0, three, 5), 0);
    CU_ASSERT_STRING_EQUAL(contents(s->c, "a", &revision), "abc=1 b=3 b\xff= ");
    CU_ASSERT_EQUAL(revision, 1);
    CU_ASSERT_EQUAL(put(s->c, "a", 1, "abc", NULL), 0);
    CU_ASSERT_EQUAL(put(s->c, "ab", 0, "x", "other"), 0);
    CU_ASSERT_EQUAL(put(s->c, "a\x01", 0, "y", "third"), 0);
    subject_reopen(s);
    CU_ASSERT_STRING_EQUAL(contents(s->c, "a", &revision), "b=3 b\xff= ");
    CU_ASSERT_EQUAL(revision, 2);
    CU_ASSERT_STRING_EQUAL(contents(s->c, "ab", &revision), "x=other ");
    CU_ASSERT_EQUAL(revision, 1);
    CU_ASSERT_EQUAL(catalog_apply(s->c, "a", 2, NULL, 0), 0);
    CU_ASSERT_EQUAL(catalog_scan(s->c, "a", &revision, NULL, NULL), 0);
    CU_ASSERT_EQUAL(revision, 3);
}

static void objects_are_sorted_maps_that_survive_reopening(void) { with_both(check_basics); }

static void check_revisions(struct subject *s)
{
    CU_ASSERT_EQUAL(put(s->c, "o", 1, "k", "v"), -ESTALE);
    CU_ASSERT_EQUAL(put(s->c, "o", 0, "k", "v"), 0);
    CU_ASSERT_EQUAL(put(s->c, "o", 0, "k", "w"), -ESTALE);
    CU_ASSERT_EQUAL(put(s->c, "o", 2, "k", "w"), -ESTALE);
    uint64_t revision;
    CU_ASSERT_STRING_EQUAL(contents(s->c, "o", &revision), "k=v ");
    CU_ASSERT_EQUAL(revision, 1);
    CU_ASSERT_EQUAL(put(s->c, "o", 1, "k", "w"), 0);
}

static void a_change_with_a_stale_revision_changes_nothing(void) { with_both(check_revisions); }

static void check_refusals(struct subject *s)
{
    static char long_key[CATALOG_KEY_MAX + 1], long_name[CATALOG_OBJECT_NAME_MAX + 2];
    memset(long_key, 'k', sizeof long_key);
    memset(long_name, 'n', sizeof long_name - 1);
    struct catalog_change longest = { long_key, CATALOG_KEY_MAX, "v", 1 }, too_long = { long_key, CATALOG_KEY_MAX + 1, "v", 1 };
    struct catalog_change no_key = { "", 0, "v", 1 }, huge = { "k", 1, "v", CATALOG_VALUE_MAX + 1 };
    CU_ASSERT_EQUAL(catalog_apply(s->c, "o", 0, &too_long, 1), -EINVAL);
    CU_ASSERT_EQUAL(catalog_apply(s->c, "o", 0, &no_key, 1), -EINVAL);
    CU_ASSERT_EQUAL(catalog_apply(s->c, "o", 0, &huge, 1), -EINVAL);
    CU_ASSERT_EQUAL(catalog_apply(s->c, "", 0, &longest, 1), -EINVAL);
    CU_ASSERT_EQUAL(catalog_apply(s->c, long_name, 0, &longest, 1), -EINVAL);
    CU_ASSERT_EQUAL(catalog_scan(s->c, long_name, NULL, NULL, NULL), -EINVAL);
    CU_ASSERT_EQUAL(catalog_apply(s->c, long_name + 1, 0, &longest, 1), 0);
}

static void names_keys_and_values_have_limits(void) { with_both(check_refusals); }

static int stop_at_second(void *ctx, const void *key, size_t key_length, const void *value, size_t value_length)
{
    (void)key, (void)key_length, (void)value, (void)value_length;
    return ++*(int *)ctx == 2 ? 77 : 0;
}

static void check_stop(struct subject *s)
{
    for (int i = 0; i < 4; i++)
        CU_ASSERT_EQUAL(put(s->c, "o", (uint64_t)i, (char[]){ (char)('a' + i), 0 }, "v"), 0);
    int seen = 0;
    CU_ASSERT_EQUAL(catalog_scan(s->c, "o", NULL, stop_at_second, &seen), 77);
    CU_ASSERT_EQUAL(seen, 2);
    CU_ASSERT_EQUAL(put(s->c, "o", 4, "e", "v"), 0);
}

static void a_scan_ends_when_its_callback_says_so(void) { with_both(check_stop); }

struct expected_value {
    const unsigned char *data;
    size_t length;
    int seen;
};

static int compare_value(void *ctx, const void *key, size_t key_length, const void *value, size_t value_length)
{
    (void)key, (void)key_length;
    struct expected_value *e = ctx;
    e->seen++;
    return value_length == e->length && memcmp(value, e->data, value_length) == 0 ? 0 : -1;
}

static void check_large(struct subject *s)
{
    unsigned char *data = malloc(CATALOG_VALUE_MAX);
    uint64_t random = 5, revision = 0;
    for (size_t i = 0; i < CATALOG_VALUE_MAX; i++)
        data[i] = (unsigned char)unit_random(&random);
    static const size_t sizes[] = { 0, 1, 200, 511, 512, 513, 4096, 1 << 20, CATALOG_VALUE_MAX, 3 };
    for (unsigned i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct catalog_change change = { "k", 1, data, sizes[i] };
        CU_ASSERT_EQUAL(catalog_apply(s->c, "o", revision++, &change, 1), 0);
        struct expected_value e = { data, sizes[i], 0 };
        CU_ASSERT_EQUAL(catalog_scan(s->c, "o", NULL, compare_value, &e), 0);
        CU_ASSERT_EQUAL(e.seen, 1);
    }
    free(data);
}

static void values_of_any_size_up_to_16_mib_come_back(void) { with_both(check_large); }

static void check_leases(struct subject *s)
{
    char other[64] = "";
    CU_ASSERT_EQUAL(catalog_lease_take(s->c, "vm", "me", 60000, NULL, 0), 0);
    CU_ASSERT_EQUAL(catalog_lease_take(s->c, "vm", "me", 60000, NULL, 0), 0);
    CU_ASSERT_EQUAL(catalog_lease_take(s->c, "vm", "you", 60000, other, sizeof other), -EBUSY);
    CU_ASSERT_STRING_EQUAL(other, "me");
    CU_ASSERT_EQUAL(catalog_lease_drop(s->c, "vm", "you"), -ENOENT);
    CU_ASSERT_EQUAL(catalog_lease_drop(s->c, "vm", "me"), 0);
    CU_ASSERT_EQUAL(catalog_lease_drop(s->c, "vm", "me"), -ENOENT);
    CU_ASSERT_EQUAL(catalog_lease_take(s->c, "vm", "you", 20, NULL, 0), 0);
    usleep(40000);
    CU_ASSERT_EQUAL(catalog_lease_drop(s->c, "vm", "you"), -ENOENT);
    CU_ASSERT_EQUAL(catalog_lease_take(s->c, "vm", "me", 60000, NULL, 0), 0);
    CU_ASSERT_EQUAL(catalog_lease_take(s->c, "", "me", 60000, NULL, 0), -EINVAL);
    subject_reopen(s);
    CU_ASSERT_EQUAL(catalog_lease_take(s->c, "vm", "you", 60000, NULL, 0), 0);
}

static void a_lease_has_one_holder_until_it_is_dropped_or_expires(void) { with_both(check_leases); }

static uint64_t seed;

enum { OBJECTS = 3 };

static void check_random(struct subject *s)
{
    static const char *const names[OBJECTS] = { "images", "image", "space" };
    static struct catalog_oracle oracles[OBJECTS];
    uint64_t random = seed;
    memset(oracles, 0xff, sizeof oracles);
    for (int i = 0; i < OBJECTS; i++)
        oracles[i].revision = 0;
    for (int step = 0; step < 300; step++) {
        int i = (int)(unit_random(&random) % OBJECTS);
        CU_ASSERT_EQUAL_FATAL(catalog_oracle_apply(s->c, names[i], &oracles[i], &random, (unsigned)(unit_random(&random) % 64)), 0);
        if (unit_random(&random) % 40 == 0)
            subject_reopen(s);
        if (step % 10 == 0)
            for (i = 0; i < OBJECTS; i++)
                CU_ASSERT(catalog_oracle_holds(s->c, names[i], &oracles[i]));
    }
}

static void random_changes_match_an_oracle(void)
{
    seed = unit_seed();
    with_both(check_random);
}

int main(int argc, char **argv)
{
    return catalog_rig_main(argc, argv,
                            (struct unit_test[]){ UNIT(objects_are_sorted_maps_that_survive_reopening), UNIT(one_value_is_got_by_its_key),
                                                  UNIT(a_change_with_a_stale_revision_changes_nothing),
                                                  UNIT(names_keys_and_values_have_limits), UNIT(a_scan_ends_when_its_callback_says_so),
                                                  UNIT(values_of_any_size_up_to_16_mib_come_back),
                                                  UNIT(a_lease_has_one_holder_until_it_is_dropped_or_expires),
                                                  UNIT(random_changes_match_an_oracle), { 0 } });
}
