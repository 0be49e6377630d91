/* parallax_pool_test.c - counts of references: what is stored is what was counted, and nothing malformed is believed. */
#include "base/endian.h"
#include "parallax/pool.h"
#include "parallax/store/memory.h"
#include "parallax/tree.h"
#include "tests/support/unit.h"

#include <errno.h>
#include <string.h>

#define ADDRESSES 1000u

static struct backing backing;
static uint64_t revision;

static int put(void *ctx, const void *key, size_t key_length, const void *value, size_t length)
{
    (void)ctx;
    struct catalog_change change = { key, key_length, value, length };
    return catalog_apply(backing.catalog, "store", revision++, &change, 1);
}

static int load(void *ctx, const void *key, size_t key_length, const void *value, size_t length)
{
    (void)key_length;
    return pool_load(ctx, key_id(key), value, length);
}

static void begin(struct pool *p)
{
    struct memory_options opt = { .seed = 1 };
    CU_ASSERT_EQUAL_FATAL(memory_create(&opt, &backing), 0);
    CU_ASSERT_EQUAL_FATAL(pool_init(p, backing.catalog, ADDRESSES), 0);
    revision = 0;
}

static void end(struct pool *p)
{
    pool_fini(p);
    backing.close(&backing);
}

static void counts_go_up_and_down_as_the_oracle_says(void)
{
    struct pool p;
    uint64_t random = unit_seed();
    static unsigned counts[ADDRESSES];
    memset(counts, 0, sizeof counts);
    begin(&p);
    for (unsigned step = 0; step < 20000; step++) {
        unsigned a = (unsigned)(unit_random(&random) % (unit_random(&random) % ADDRESSES + 1));
        if (unit_random(&random) % 2) {
            pool_add(&p, a);
            counts[a]++;
        } else {
            CU_ASSERT_EQUAL(pool_drop(&p, a), counts[a] > 0);
            counts[a] -= counts[a] > 0;
        }
        CU_ASSERT_EQUAL(pool_shared(&p, a), counts[a] > 0);
        if (unit_random(&random) % 200 == 0)
            CU_ASSERT_EQUAL(pool_write(&p, put, NULL), 0);
        if (unit_random(&random) % 2000)
            continue;
        CU_ASSERT_EQUAL(pool_write(&p, put, NULL), 0);
        pool_fini(&p);
        CU_ASSERT_EQUAL_FATAL(pool_init(&p, backing.catalog, ADDRESSES), 0);
        CU_ASSERT_EQUAL(catalog_scan(backing.catalog, "store", NULL, load, &p), 0);
        for (a = 0; a < ADDRESSES; a++)
            CU_ASSERT_EQUAL(pool_shared(&p, a), counts[a] > 0);
    }
    for (unsigned a = 0; a < ADDRESSES; a++)
        while (counts[a]) {
            CU_ASSERT(pool_drop(&p, a));
            counts[a]--;
        }
    CU_ASSERT_EQUAL(pool_write(&p, put, NULL), 0);
    CU_ASSERT_EQUAL(catalog_scan(backing.catalog, "store", NULL, load, &p), 0); /* no key is left: nothing is loaded */
    for (unsigned a = 0; a < ADDRESSES; a++)
        CU_ASSERT(!pool_shared(&p, a) && !pool_drop(&p, a));
    end(&p);
}

static void a_malformed_group_is_refused(void)
{
    struct pool p;
    uint32_t counts[POOL_GROUP];
    uint8_t v[POOL_VALUE_MAX + 4] = { 0 };
    begin(&p);
    put_le32(v, 5 << 8 | 3);
    put_le32(v + 4, 1 << 8 | 63);
    CU_ASSERT_EQUAL(pool_decode(v, 8, counts), 0);
    CU_ASSERT(counts[3] == 5 && counts[63] == 1 && counts[0] == 0);
    CU_ASSERT_EQUAL(pool_decode(v, 0, counts), -EBADMSG);
    CU_ASSERT_EQUAL(pool_decode(v, 7, counts), -EBADMSG);
    CU_ASSERT_EQUAL(pool_decode(v, sizeof v, counts), -EBADMSG);
    CU_ASSERT_EQUAL(pool_decode(v, 12, counts), -EBADMSG); /* a count of zero, and out of order */
    put_le32(v + 4, 1 << 8 | 3);
    CU_ASSERT_EQUAL(pool_decode(v, 8, counts), -EBADMSG); /* one place twice */
    put_le32(v + 4, 1 << 8 | 64);
    CU_ASSERT_EQUAL(pool_decode(v, 8, counts), -EBADMSG);
    CU_ASSERT_EQUAL(pool_load(&p, ADDRESSES / POOL_GROUP + 1, v, 4), -EBADMSG); /* behind the end of the store */
    end(&p);
}

/* What the checkpoint cannot read, or finds changed, ends it: nothing is guessed. */
static void an_unreadable_count_fails_the_checkpoint_that_needs_it(void)
{
    struct pool p;
    begin(&p);
    pool_add(&p, 7);
    CU_ASSERT_EQUAL(pool_write(&p, put, NULL), 0);
    uint8_t key[9];
    key_encode(key, KEY_POOL, 0);
    CU_ASSERT_EQUAL(put(NULL, key, sizeof key, "bad", 3), 0);
    CU_ASSERT(pool_drop(&p, 7)); /* not free: that would be a guess */
    CU_ASSERT_EQUAL(pool_write(&p, put, NULL), -EBADMSG);
    CU_ASSERT_EQUAL(put(NULL, key, sizeof key, NULL, 0), 0);
    CU_ASSERT(pool_drop(&p, 7));
    CU_ASSERT_EQUAL(pool_write(&p, put, NULL), -EBADMSG);
    end(&p);
}

static void a_count_ends_at_its_limit_with_an_error(void)
{
    struct pool p;
    uint8_t v[4], key[9];
    begin(&p);
    put_le32(v, (POOL_COUNT_MAX - 1) << 8 | 1);
    key_encode(key, KEY_POOL, 0);
    CU_ASSERT_EQUAL(put(NULL, key, sizeof key, v, sizeof v), 0);
    CU_ASSERT_EQUAL(pool_load(&p, 0, v, sizeof v), 0);
    pool_add(&p, 1);
    CU_ASSERT_EQUAL(pool_write(&p, put, NULL), 0);
    pool_add(&p, 1);
    CU_ASSERT_EQUAL(pool_write(&p, put, NULL), -EOVERFLOW);
    end(&p);
}

int main(int argc, char **argv)
{
    static const struct unit_test tests[] = {
        UNIT(counts_go_up_and_down_as_the_oracle_says),
        UNIT(a_malformed_group_is_refused),
        UNIT(an_unreadable_count_fails_the_checkpoint_that_needs_it),
        UNIT(a_count_ends_at_its_limit_with_an_error),
        { 0 },
    };
    return unit_main(argc, argv, "parallax pool", tests);
}
