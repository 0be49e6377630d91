/* parallax_store_copy_test.c - the copy of a catalog beside the blocks: its log under every cut and flip, and the catalog that
 * keeps it, over a catalog whose changes fail to order. */
#include "base/endian.h"
#include "parallax/store/catalog_copy.h"
#include "parallax/store/catalog_mirror.h"
#include "parallax/store/memory_private.h"
#include "tests/support/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define OFFSET 4096u
#define SECTOR 512u
#define OBJECT "store"

static char path[300];
static uint64_t region = 256u << 10; /* bytes */
static const char *uuid = "01234567-89ab-4def-8123-456789abcdef";

/* ---- A file with two regions, and what is read from it ---- */

static int open_file(void)
{
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    CU_ASSERT_FATAL(fd >= 0);
    return fd;
}

static void fresh_file(void)
{
    unlink(path);
    int fd = open_file();
    CU_ASSERT_EQUAL_FATAL(ftruncate(fd, (off_t)(OFFSET + 2 * region)), 0);
    close(fd);
}

static struct catalog_copy *open_copy(uint64_t epoch)
{
    struct catalog_copy *c = NULL;
    CU_ASSERT_EQUAL_FATAL(catalog_copy_open(open_file(), OFFSET, region, uuid, epoch, &c), 0);
    return c;
}

static unsigned char *read_file(void)
{
    size_t length = OFFSET + 2 * region;
    unsigned char *image = malloc(length);
    int fd = open_file();
    CU_ASSERT_EQUAL_FATAL(pread(fd, image, length, 0), (ssize_t)length);
    close(fd);
    return image;
}

static void write_file(const unsigned char *image)
{
    size_t length = OFFSET + 2 * region;
    int fd = open_file();
    CU_ASSERT_EQUAL_FATAL(pwrite(fd, image, length, 0), (ssize_t)length);
    close(fd);
}

/* Where two images begin and stop to differ, in whole blocks. */
static void difference(const unsigned char *a, const unsigned char *b, size_t *from, size_t *to)
{
    size_t length = OFFSET + 2 * region;
    for (*from = 0; *from < length && !memcmp(a + *from, b + *from, 4096); *from += 4096)
        ;
    for (*to = length; *to > *from && !memcmp(a + *to - 4096, b + *to - 4096, 4096); *to -= 4096)
        ;
}

static struct catalog *empty_catalog(void)
{
    struct catalog *c = NULL;
    CU_ASSERT_EQUAL_FATAL(memory_catalog_create(&c), 0);
    return c;
}

struct filling {
    struct catalog *catalog;
    uint64_t revision;
};

static int fill(void *ctx, const struct catalog_change *changes, unsigned count)
{
    struct filling *f = ctx;
    return catalog_apply(f->catalog, OBJECT, f->revision++, changes, count);
}

static int add_to_sum(void *ctx, const void *key, size_t key_length, const void *value, size_t value_length)
{
    uint64_t *sum = ctx;
    const unsigned char *k = key, *v = value;
    for (size_t i = 0; i < key_length; i++)
        *sum = (*sum ^ k[i]) * 1099511628211u;
    *sum = (*sum ^ value_length) * 1099511628211u;
    for (size_t i = 0; i < value_length; i++)
        *sum = (*sum ^ v[i]) * 1099511628211u;
    return 0;
}

/* A number for the contents of the object. */
static uint64_t sum_of(struct catalog *c)
{
    uint64_t sum = 14695981039346656037u;
    CU_ASSERT_EQUAL(catalog_scan(c, OBJECT, NULL, add_to_sum, &sum), 0);
    return sum;
}

static uint64_t revision_of(struct catalog *c)
{
    uint64_t revision = 0;
    CU_ASSERT_EQUAL(catalog_scan(c, OBJECT, &revision, NULL, NULL), 0);
    return revision;
}

/* Of the contents of the copy, read into a catalog of their own. */
static uint64_t sum_of_copy(struct catalog_copy *c)
{
    struct filling f = { .catalog = empty_catalog() };
    CU_ASSERT_EQUAL(catalog_copy_replay(c, fill, &f), 0);
    uint64_t sum = sum_of(f.catalog);
    catalog_close(f.catalog);
    return sum;
}

/* The file holds a whole copy of that revision and those contents. */
static void expect_copy(uint64_t revision, uint64_t sum)
{
    uint64_t found = 0;
    struct catalog_copy *c = open_copy(0);
    bool whole = catalog_copy_whole(c, &found);
    if (!whole || found != revision)
        printf("# revision %llu expected, %s %llu\n", (unsigned long long)revision, whole ? "found" : "no copy", (unsigned long long)found);
    CU_ASSERT(whole);
    CU_ASSERT_EQUAL(found, revision);
    if (whole) {
        CU_ASSERT_EQUAL(catalog_copy_check_end(c), 0);
        CU_ASSERT_EQUAL(sum_of_copy(c), sum);
    }
    catalog_copy_close(c);
}

static void expect_no_copy(void)
{
    uint64_t found;
    struct catalog_copy *c = open_copy(0);
    CU_ASSERT_FALSE(catalog_copy_whole(c, &found));
    catalog_copy_close(c);
}

/* ---- Random changes ---- */

#define CHANGES_MAX 6u

struct changes {
    struct catalog_change list[CHANGES_MAX];
    unsigned count;
    char keys[CHANGES_MAX][16];
    unsigned char *values;
};

/* A few of 40 keys, put or removed; values of up to `longest` bytes, some empty. */
static void make_changes(struct changes *c, uint64_t *random, size_t longest)
{
    c->values = malloc(longest + 1);
    for (size_t i = 0; i <= longest; i++)
        c->values[i] = (unsigned char)unit_random(random);
    c->count = (unsigned)(unit_random(random) % (CHANGES_MAX + 1));
    for (unsigned i = 0; i < c->count; i++) {
        int n = snprintf(c->keys[i], sizeof c->keys[i], "key %llu", (unsigned long long)(unit_random(random) % 40));
        size_t from = unit_random(random) % (longest + 1), length = unit_random(random) % 8 ? unit_random(random) % (longest - from + 1) : 0;
        c->list[i] = (struct catalog_change){ c->keys[i], (size_t)n, unit_random(random) % 4 ? c->values + from : NULL, length };
    }
}

/* One change through c, which is expected to end with rc. */
static void change(struct catalog *c, uint64_t *random, size_t longest, int rc)
{
    struct changes x;
    make_changes(&x, random, longest);
    CU_ASSERT_EQUAL(catalog_apply(c, OBJECT, revision_of(c), x.list, x.count), rc);
    free(x.values);
}

static void put_one(struct catalog *c, const char *key, size_t length)
{
    void *value = calloc(1, length + 1);
    CU_ASSERT_EQUAL(catalog_apply(c, OBJECT, revision_of(c), &(struct catalog_change){ key, strlen(key), value, length }, 1), 0);
    free(value);
}

/* ---- The log ---- */

/* An empty catalog with its copy in a fresh file. */
static struct catalog *fresh_mirror(struct catalog **inner)
{
    struct catalog *m = NULL;
    fresh_file();
    *inner = empty_catalog();
    CU_ASSERT_EQUAL_FATAL(catalog_mirror_open(*inner, open_copy(0), true, &m), 0);
    CU_ASSERT_EQUAL_FATAL(catalog_mirror_settle(m), 0);
    return m;
}

/* As after a crash: of the catalog as it is, with the file as it is. */
static int open_again(struct catalog *inner, uint64_t epoch, struct catalog **out)
{
    struct catalog *left;
    struct catalog_copy *c = open_copy(epoch);
    CU_ASSERT_EQUAL_FATAL(memory_catalog_copy(inner, &left), 0);
    int rc = catalog_mirror_open(left, c, false, out);
    if (!rc)
        rc = catalog_mirror_settle(*out);
    if (rc) {
        catalog_copy_close(c);
        catalog_close(left);
    }
    return rc;
}

static void every_cut_of_the_last_change_leaves_the_one_before(void)
{
    uint64_t random = unit_seed();
    for (unsigned round = 0; round < 12; round++) {
        struct catalog *inner;
        struct catalog *m = fresh_mirror(&inner);
        for (unsigned i = 0; i < 5; i++)
            change(m, &random, 3000, 0);
        uint64_t sum = sum_of(m), revision = revision_of(m);
        unsigned char *before = read_file();
        change(m, &random, 9000, 0);
        uint64_t new_sum = sum_of(m);
        unsigned char *after = read_file(), *cut = read_file();
        size_t from, to;
        difference(before, after, &from, &to);
        CU_ASSERT_FATAL(from < to);
        for (size_t at = from; at < to; at += SECTOR) {
            bool same = !memcmp(before + at, after + at, to - at); /* what is cut off is zeroes */
            memcpy(cut, before, OFFSET + 2 * region);
            memcpy(cut + from, after + from, at - from);
            write_file(cut);
            expect_copy(revision + same, same ? new_sum : sum);
        }
        write_file(after);
        expect_copy(revision + 1, new_sum);
        free(before);
        free(after);
        free(cut);
        catalog_close(m);
    }
}

static void a_long_change_counts_only_if_all_its_pieces_are_there(void)
{
    uint64_t random = unit_seed(), kept = region;
    region = 8u << 20;
    struct catalog *inner;
    struct catalog *m = fresh_mirror(&inner);
    put_one(m, "a", 10);
    uint64_t sum = sum_of(m);
    unsigned char *before = read_file();
    change(m, &random, 10, 0);
    put_one(m, "a", 1);
    uint64_t base_sum = sum_of(m), base_revision = revision_of(m);
    unsigned char *value = malloc(CATALOG_VALUE_MAX);
    memset(value, 7, CATALOG_VALUE_MAX);
    struct catalog_change pieces[] = { { "p", 1, value, 900u << 10 }, { "q", 1, value, 900u << 10 }, { "r", 1, value, 3u << 20 }, { "s", 1, "", 0 } };
    unsigned char *start = read_file();
    CU_ASSERT_EQUAL(catalog_apply(m, OBJECT, base_revision, pieces, 4), 0);
    unsigned char *after = read_file();
    size_t from, to;
    difference(start, after, &from, &to);
    CU_ASSERT(to - from > 4u << 20);
    expect_copy(base_revision + 1, sum_of(m));
    for (unsigned i = 0; i < 8; i++) {
        /* One sector somewhere is not there. */
        size_t at = from + unit_random(&random) % ((to - from) / SECTOR - 8) * SECTOR;
        unsigned char *hole = read_file();
        memset(hole + at, 0, SECTOR);
        write_file(hole);
        expect_copy(base_revision, base_sum);
        write_file(after);
        free(hole);
    }
    write_file(before);
    expect_copy(1, sum);
    free(before);
    free(start);
    free(after);
    free(value);
    catalog_close(m);
    region = kept;
}

static void every_cut_of_a_dump_leaves_what_was_there(void)
{
    uint64_t random = unit_seed();
    struct catalog *inner;
    struct catalog *m = fresh_mirror(&inner);
    for (unsigned i = 0; i < 8; i++)
        change(m, &random, 2000, 0);
    uint64_t sum = sum_of(m), revision = revision_of(m);
    unsigned char *before = read_file();
    /* A dump of other contents, so that the two can be told apart. */
    change(inner, &random, 2000, 0);
    change(inner, &random, 2000, 0);
    struct catalog_copy *c = open_copy(0);
    CU_ASSERT_EQUAL(catalog_copy_dump(c, inner, OBJECT), 0);
    catalog_copy_close(c);
    uint64_t new_sum = sum_of(inner), new_revision = revision_of(inner);
    expect_copy(new_revision, new_sum);
    unsigned char *after = read_file(), *cut = malloc(OFFSET + 2 * region);
    /* The first dump went to the second region, so this one went to the first. */
    size_t end = OFFSET + region;
    while (end > OFFSET && !memcmp(before + end - SECTOR, after + end - SECTOR, SECTOR))
        end -= SECTOR;
    for (size_t at = OFFSET; at <= end; at += SECTOR) {
        memcpy(cut, before, OFFSET + 2 * region);
        memcpy(cut + OFFSET, after + OFFSET, at - OFFSET);
        write_file(cut);
        expect_copy(at < end ? revision : new_revision, at < end ? sum : new_sum);
        if (at % (8 * SECTOR))
            continue;
        /* A dump that is begun again after the crash has nothing of the one that was cut. */
        put_one(inner, "again", at % 5000);
        c = open_copy(0);
        CU_ASSERT_EQUAL(catalog_copy_dump(c, inner, OBJECT), 0);
        catalog_copy_close(c);
        expect_copy(revision_of(inner), sum_of(inner));
    }
    free(before);
    free(after);
    free(cut);
    catalog_close(m);
}

/* Whatever bytes are wrong: no copy, or a state that was, and never one that is older than what was durable before the last
 * change, unless the end is reported as none. */
static void wrong_bytes_are_never_believed(void)
{
    uint64_t random = unit_seed(), sums[40];
    struct catalog *inner;
    struct catalog *m = fresh_mirror(&inner);
    sums[0] = sum_of(m);
    for (unsigned i = 1; i < 20; i++) {
        change(m, &random, 500, 0);
        sums[i] = sum_of(m);
    }
    uint64_t last = revision_of(m);
    unsigned char *sound = read_file();
    size_t used = OFFSET + 2 * region;
    while (!sound[used - 1])
        used--;
    for (unsigned i = 0; i < 600; i++) {
        unsigned char *wrong = read_file();
        size_t at = OFFSET + region + unit_random(&random) % (used - OFFSET - region), length = 1 + (i % 3) * 700;
        for (size_t k = at; k < at + length && k < used && (k == at || k % 4096); k++) /* of one record */
            wrong[k] = (unsigned char)unit_random(&random);
        bool changed = memcmp(wrong, sound, OFFSET + 2 * region);
        write_file(wrong);
        uint64_t found = 0;
        struct catalog_copy *c = open_copy(0);
        if (catalog_copy_whole(c, &found)) {
            CU_ASSERT_EQUAL(catalog_copy_check_end(c), found + 1 < last ? -EBADMSG : 0);
            CU_ASSERT(found <= last && sum_of_copy(c) == sums[found]);
            CU_ASSERT(!changed || found < last);
        }
        catalog_copy_close(c);
        write_file(sound);
        free(wrong);
    }
    free(sound);
    catalog_close(m);
}

static void another_stores_copy_is_none(void)
{
    uint64_t random = unit_seed(), found;
    struct catalog *inner;
    struct catalog *m = fresh_mirror(&inner);
    change(m, &random, 100, 0);
    const char *own = uuid;
    uuid = "11234567-89ab-4def-8123-456789abcdef";
    expect_no_copy();
    uuid = own;
    expect_copy(1, sum_of(m));
    struct catalog_copy *c = open_copy(3);
    CU_ASSERT(catalog_copy_whole(c, &found) && catalog_copy_foreign(c));
    catalog_copy_close(c);
    catalog_close(m);
}

static void a_full_region_is_followed_by_the_other(void)
{
    uint64_t random = unit_seed();
    struct catalog *inner;
    struct catalog *m = fresh_mirror(&inner);
    for (unsigned i = 0; i < 400; i++) {
        change(m, &random, 1500, 0);
        CU_ASSERT(catalog_mirror_held(m));
        if (i % 10 == 0)
            expect_copy(revision_of(m), sum_of(m));
    }
    expect_copy(400, sum_of(m));
    /* Should it rot, none of those before it is taken. */
    unsigned char *image = read_file(), *first = image + OFFSET, *second = first + region;
    (get_le64(first + 8) > get_le64(second + 8) ? first : second)[9] ^= 1;
    write_file(image);
    free(image);
    expect_no_copy();
    catalog_close(m);
}

/* A crash that left both regions whole: the older is gone before the newer gets ahead of it. */
static void an_older_copy_is_void_before_a_change(void)
{
    uint64_t random = unit_seed();
    struct catalog *inner, *again = NULL;
    struct catalog *m = fresh_mirror(&inner);
    for (unsigned i = 0; i < 4; i++)
        change(m, &random, 800, 0);
    /* The first dump went to the second region, the next goes to the first; what was in the second is put back. */
    unsigned char *before = read_file();
    struct catalog_copy *c = open_copy(0);
    CU_ASSERT_EQUAL(catalog_copy_dump(c, inner, OBJECT), 0);
    catalog_copy_close(c);
    unsigned char *image = read_file(), *first = image + OFFSET;
    memcpy(first + region, before + OFFSET + region, region);
    write_file(image);
    expect_copy(4, sum_of(m));
    free(before);
    free(image);
    CU_ASSERT_EQUAL_FATAL(open_again(inner, 0, &again), 0);
    for (unsigned i = 0; i < 3; i++)
        change(again, &random, 800, 0);
    expect_copy(7, sum_of(again));
    image = read_file();
    image[OFFSET + 9] ^= 1;
    write_file(image);
    free(image);
    expect_no_copy();
    catalog_close(again);
    catalog_close(m);
}

/* The torn dump of a former owner has the generation of the next owner's, whose revisions begin anew. */
static void what_a_former_epoch_has_left_is_no_rot(void)
{
    uint64_t found;
    struct catalog *inner, *again = NULL, *next = empty_catalog();
    struct catalog *m = fresh_mirror(&inner);
    for (unsigned i = 0; i < 10; i++)
        put_one(m, "a", 20000);
    unsigned char *before = read_file();
    struct catalog_copy *c = open_copy(0);
    CU_ASSERT_EQUAL(catalog_copy_dump(c, inner, OBJECT), 0);
    for (unsigned i = 0; i < 3; i++)
        CU_ASSERT_EQUAL(catalog_copy_append(c, &(struct catalog_change){ "a", 1, "x", 1 }, 1), 0);
    catalog_copy_close(c);
    unsigned char *torn = read_file();
    memset(torn + OFFSET, 0, 4096);
    memcpy(torn + OFFSET + region, before + OFFSET + region, region);
    write_file(torn);
    free(before);
    free(torn);
    put_one(next, "b", 1);
    c = open_copy(1);
    CU_ASSERT(catalog_copy_whole(c, &found) && catalog_copy_foreign(c));
    CU_ASSERT_EQUAL_FATAL(catalog_mirror_open(next, c, false, &again), 0);
    CU_ASSERT_EQUAL_FATAL(catalog_mirror_settle(again), 0);
    catalog_close(again);
    c = open_copy(1);
    CU_ASSERT(catalog_copy_whole(c, &found) && found == 1);
    CU_ASSERT_EQUAL(catalog_copy_check_end(c), 0);
    catalog_copy_close(c);
    catalog_close(m);
}

/* ---- The catalog that keeps it ---- */

static void after_random_changes_and_failures_the_copy_is_the_catalog(void)
{
    uint64_t random = unit_seed();
    struct catalog *inner;
    struct catalog *m = fresh_mirror(&inner);
    unsigned failed = 0;
    for (unsigned i = 0; i < 500; i++) {
        bool fails = unit_random(&random) % 5 == 0;
        if (fails)
            memory_catalog_fail_apply(inner, 1, unit_random(&random) % 2 ? -EIO : -ENOSPC, unit_random(&random) % 2);
        struct changes x;
        make_changes(&x, &random, 900);
        int rc = catalog_apply(m, OBJECT, revision_of(m), x.list, x.count);
        free(x.values);
        CU_ASSERT_EQUAL(rc != 0, fails);
        failed += fails;
        if (!rc)
            expect_copy(revision_of(m), sum_of(m));
    }
    CU_ASSERT(failed > 50);
    catalog_close(m);
}

static void a_change_of_another_revision_leaves_the_copy_as_it_is(void)
{
    uint64_t random = unit_seed();
    struct catalog *inner;
    struct catalog *m = fresh_mirror(&inner);
    change(m, &random, 100, 0);
    unsigned char *before = read_file();
    CU_ASSERT_EQUAL(catalog_apply(m, OBJECT, 7, NULL, 0), -ESTALE);
    CU_ASSERT_EQUAL(catalog_apply(m, "scrub", 0, &(struct catalog_change){ "C", 1, "x", 1 }, 1), 0);
    unsigned char *after = read_file();
    CU_ASSERT_EQUAL(memcmp(before, after, OFFSET + 2 * region), 0);
    change(m, &random, 100, 0);
    expect_copy(2, sum_of(m));
    free(before);
    free(after);
    catalog_close(m);
}

/* A crash between the two, either way round, is mended before the catalog is used. */
static void opening_makes_the_copy_equal(void)
{
    static const struct { unsigned copy_only, catalog_only; uint64_t epoch; bool refused; } cases[] = {
        { 0, 0, 0, false }, { 1, 0, 0, false }, { 0, 1, 0, false }, { 0, 3, 0, false }, { 2, 0, 0, true }, { 2, 0, 1, false }, { 0, 0, 1, false } };
    uint64_t random = unit_seed();
    for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct catalog *inner;
        struct catalog *m = fresh_mirror(&inner), *again = NULL;
        for (unsigned k = 0; k < 4; k++)
            change(m, &random, 800, 0);
        struct catalog_copy *c = open_copy(0);
        for (unsigned k = 0; k < cases[i].copy_only; k++)
            CU_ASSERT_EQUAL(catalog_copy_append(c, &(struct catalog_change){ "lost", 4, "x", 1 }, 1), 0);
        catalog_copy_close(c);
        for (unsigned k = 0; k < cases[i].catalog_only; k++)
            change(inner, &random, 800, 0);
        unsigned char *before = read_file();
        int rc = open_again(inner, cases[i].epoch, &again);
        CU_ASSERT_EQUAL(rc, cases[i].refused ? -ESTALE : 0);
        if (cases[i].refused) {
            unsigned char *after = read_file();
            CU_ASSERT_EQUAL(memcmp(before, after, OFFSET + 2 * region), 0);
            free(after);
        } else {
            CU_ASSERT(catalog_mirror_held(again));
            expect_copy(revision_of(again), sum_of(again));
            change(again, &random, 800, 0);
            expect_copy(revision_of(again), sum_of(again));
            catalog_close(again);
        }
        free(before);
        catalog_close(m);
    }
}

static void a_copy_that_cannot_be_written_fails_the_change(void)
{
    uint64_t random = unit_seed(), revision;
    struct catalog *m = NULL;
    fresh_file();
    int fd = open_file(), writable = dup(fd), read_only = open(path, O_RDONLY);
    struct catalog_copy *c;
    CU_ASSERT_EQUAL_FATAL(catalog_copy_open(fd, OFFSET, region, uuid, 0, &c), 0);
    CU_ASSERT_EQUAL_FATAL(catalog_mirror_open(empty_catalog(), c, false, &m), 0);
    CU_ASSERT_EQUAL_FATAL(catalog_mirror_settle(m), 0);
    change(m, &random, 800, 0);
    uint64_t sum = sum_of(m);
    CU_ASSERT_EQUAL(dup2(read_only, fd), fd);
    for (unsigned i = 0; i < 3; i++) {
        change(m, &random, 800, -EBADF);
        CU_ASSERT_EQUAL(sum_of(m), sum);
        CU_ASSERT_EQUAL(revision_of(m), 1);
    }
    CU_ASSERT_EQUAL(dup2(writable, fd), fd);
    change(m, &random, 800, 0);
    revision = revision_of(m);
    CU_ASSERT_EQUAL(revision, 2);
    expect_copy(2, sum_of(m));
    close(writable);
    close(read_only);
    catalog_close(m);
}

static void what_does_not_fit_leaves_no_copy(void)
{
    uint64_t random = unit_seed();
    struct catalog *inner;
    struct catalog *m = fresh_mirror(&inner);
    /* A change that has no room beside the dump: the copy is back with the next one. */
    put_one(m, "first", 100u << 10);
    put_one(m, "large", 100u << 10);
    expect_copy(2, sum_of(m));
    unsigned char *value = calloc(1, 200u << 10);
    struct catalog_change there_and_gone[] = { { "x", 1, value, 200u << 10 }, { "x", 1, NULL, 0 } };
    CU_ASSERT_EQUAL(catalog_apply(m, OBJECT, 2, there_and_gone, 2), 0);
    free(value);
    CU_ASSERT_FALSE(catalog_mirror_held(m));
    expect_no_copy();
    put_one(m, "small", 10);
    CU_ASSERT(catalog_mirror_held(m));
    expect_copy(4, sum_of(m));
    /* An object that has none: none until it is opened again and smaller. */
    put_one(m, "first", 200u << 10);
    put_one(m, "first", 10);
    CU_ASSERT_FALSE(catalog_mirror_held(m));
    put_one(m, "large", 10);
    expect_no_copy();
    struct catalog *again = NULL;
    CU_ASSERT_EQUAL_FATAL(open_again(inner, 0, &again), 0);
    catalog_close(m);
    CU_ASSERT(catalog_mirror_held(again));
    expect_copy(7, sum_of(again));
    put_one(again, "large", 150u << 10);
    put_one(again, "third", 120u << 10);
    CU_ASSERT_FALSE(catalog_mirror_held(again));
    expect_no_copy();
    change(again, &random, 300, 0);
    expect_no_copy();
    catalog_close(again);
}

int main(int argc, char **argv)
{
    snprintf(path, sizeof path, "%s/parallax-copy-test-%d", getenv("TMPDIR") ? getenv("TMPDIR") : "/var/tmp", (int)getpid());
    int rc = unit_main(argc, argv, "copy",
                       (struct unit_test[]){ UNIT(every_cut_of_the_last_change_leaves_the_one_before), UNIT(a_long_change_counts_only_if_all_its_pieces_are_there),
                                             UNIT(every_cut_of_a_dump_leaves_what_was_there), UNIT(wrong_bytes_are_never_believed),
                                             UNIT(another_stores_copy_is_none), UNIT(a_full_region_is_followed_by_the_other),
                                             UNIT(an_older_copy_is_void_before_a_change), UNIT(what_a_former_epoch_has_left_is_no_rot),
                                             UNIT(after_random_changes_and_failures_the_copy_is_the_catalog),
                                             UNIT(a_change_of_another_revision_leaves_the_copy_as_it_is), UNIT(opening_makes_the_copy_equal),
                                             UNIT(a_copy_that_cannot_be_written_fails_the_change), UNIT(what_does_not_fit_leaves_no_copy), { 0 } });
    unlink(path);
    return rc;
}
