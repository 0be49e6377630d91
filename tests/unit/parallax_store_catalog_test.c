/* parallax_store_catalog_test.c - one battery for both catalogs, then what only the one on disk can go through. */
#include <sys/mount.h>
#undef BDEV_BLOCK_SIZE /* the system header's is another one */

#include "base/clock.h"
#include "base/list.h"
#include "base/log.h"
#include "parallax/store/catalog_bdb.h"
#include "parallax/store/memory.h"
#include "tests/support/unit.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* A catalog of either kind that can be closed and opened again. */
struct subject {
    bool on_disk;
    struct catalog *c;
    struct backing memory;
};

static char directory[256];

static void empty_directory(void)
{
    DIR *d = opendir(directory);
    for (struct dirent *e; d && (e = readdir(d));)
        if (e->d_name[0] != '.')
            unlinkat(dirfd(d), e->d_name, 0);
    if (d)
        closedir(d);
}

static void subject_open(struct subject *s, bool on_disk)
{
    struct error err = ERROR_NONE;
    s->on_disk = on_disk;
    if (on_disk) {
        empty_directory();
        CU_ASSERT_EQUAL_FATAL(catalog_bdb_create(directory, &s->c, &err), 0);
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
        CU_ASSERT_EQUAL_FATAL(catalog_bdb_open(directory, &s->c, &err), 0);
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

/* Random changes to a few objects, against an array per object: value of key i, or -1. */
enum { OBJECTS = 3, KEYS = 200 };

struct oracle {
    uint64_t revision;
    int value[KEYS];
};

struct comparison {
    const struct oracle *o;
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
    for (int i = 0; i < KEYS; i++)
        if (make_key(k, i) == key_length && memcmp(k, key, key_length) == 0) {
            c->next++;
            return c->o->value[i] >= 0 && make_value(v, c->o->value[i]) == value_length && memcmp(v, value, value_length) == 0 ? 0 : -1;
        }
    return -1;
}

/* True if the object is exactly as the oracle has it. */
static bool equals(struct catalog *c, const char *object, const struct oracle *o)
{
    struct comparison cmp = { o, 0 };
    uint64_t revision = 0;
    int present = 0;
    for (int i = 0; i < KEYS; i++)
        present += o->value[i] >= 0;
    return catalog_scan(c, object, &revision, compare_item, &cmp) == 0 && revision == o->revision && cmp.next == present;
}

static int random_apply(struct catalog *c, const char *object, struct oracle *o, uint64_t *random, unsigned count)
{
    struct catalog_change changes[64];
    char keys[64][16], values[64][2048];
    struct oracle after = *o;
    for (unsigned i = 0; i < count; i++) {
        int key = (int)(unit_random(random) % KEYS), value = unit_random(random) % 4 ? (int)(unit_random(random) % 100000) : -1;
        after.value[key] = value;
        changes[i] = (struct catalog_change){ keys[i], make_key(keys[i], key), value < 0 ? NULL : values[i], value < 0 ? 0 : make_value(values[i], value) };
    }
    int err = catalog_apply(c, object, o->revision, changes, count);
    after.revision++;
    if (!err)
        *o = after;
    return err;
}

static uint64_t seed;

static void check_random(struct subject *s)
{
    static const char *const names[OBJECTS] = { "images", "image", "space" };
    static struct oracle oracles[OBJECTS];
    uint64_t random = seed;
    memset(oracles, 0xff, sizeof oracles);
    for (int i = 0; i < OBJECTS; i++)
        oracles[i].revision = 0;
    for (int step = 0; step < 300; step++) {
        int i = (int)(unit_random(&random) % OBJECTS);
        CU_ASSERT_EQUAL_FATAL(random_apply(s->c, names[i], &oracles[i], &random, (unsigned)(unit_random(&random) % 64)), 0);
        if (unit_random(&random) % 40 == 0)
            subject_reopen(s);
        if (step % 10 == 0)
            for (i = 0; i < OBJECTS; i++)
                CU_ASSERT(equals(s->c, names[i], &oracles[i]));
    }
}

static void random_changes_match_an_oracle(void)
{
    seed = unit_seed();
    with_both(check_random);
}

static void speed_is_what_the_engine_counts_on(void)
{
    struct subject s;
    subject_open(&s, true);
    static struct catalog_change changes[3000];
    static char keys[3000][16];
    char value[100] = "";
    for (int i = 0; i < 3000; i++)
        changes[i] = (struct catalog_change){ keys[i], (size_t)sprintf(keys[i], "k%05d", i * 7919 % 3000), value, sizeof value };
    uint64_t start = clock_monotonic_ms();
    CU_ASSERT_EQUAL(catalog_apply(s.c, "o", 0, changes, 3000), 0);
    uint64_t apply_ms = clock_monotonic_ms() - start;
    catalog_close(s.c);
    struct error err = ERROR_NONE;
    start = clock_monotonic_ms();
    CU_ASSERT_EQUAL_FATAL(catalog_bdb_open(directory, &s.c, &err), 0);
    uint64_t open_ms = clock_monotonic_ms() - start;
    printf("# 3000 records applied in %llu ms, reopened in %llu ms\n", (unsigned long long)apply_ms, (unsigned long long)open_ms);
    /* Ten times what was measured, for slow disks and sanitizers. */
    CU_ASSERT(apply_ms < 1000);
    CU_ASSERT(open_ms < 500);
    catalog_close(s.c);
}

static void opening_what_is_not_a_catalog_is_an_error(void)
{
    struct catalog *c;
    struct error err = ERROR_NONE;
    empty_directory();
    CU_ASSERT_EQUAL(catalog_bdb_open(directory, &c, &err), -ENOENT);
    CU_ASSERT(strstr(err.text, "catalog.db") != NULL);
    err = (struct error)ERROR_NONE;
    CU_ASSERT_EQUAL(catalog_bdb_open("/nonexistent/x", &c, &err), -ENOENT);
    struct subject s;
    subject_open(&s, true);
    catalog_close(s.c);
    err = (struct error)ERROR_NONE;
    CU_ASSERT(catalog_bdb_create(directory, &c, &err) < 0);
    CU_ASSERT(err.text[0] != 0);
}

/* The child applies without end; each apply sets all keys to its revision and tells the parent once it has returned. */
static void apply_without_end(int out)
{
    struct catalog *c;
    uint64_t revision = 0;
    if (catalog_bdb_open(directory, &c, NULL) || catalog_scan(c, "o", &revision, NULL, NULL))
        _exit(9);
    static char padding[40000];
    for (;; revision++) {
        char key[20][8], value[32];
        struct catalog_change changes[21];
        sprintf(value, "%llu", (unsigned long long)revision + 1);
        for (int i = 0; i < 20; i++)
            changes[i] = (struct catalog_change){ key[i], (size_t)sprintf(key[i], "%d", i), value, strlen(value) };
        /* Enough to make checkpoints and log files come by. */
        changes[20] = (struct catalog_change){ "padding", 7, padding, sizeof padding };
        if (catalog_apply(c, "o", revision, changes, 21))
            _exit(8);
        uint64_t told = revision + 1;
        if (write(out, &told, sizeof told) != sizeof told)
            _exit(7);
    }
}

static int same_value(void *ctx, const void *key, size_t key_length, const void *value, size_t value_length)
{
    (void)key;
    char text[32] = "";
    if (key_length == 7)
        return 0;
    memcpy(text, value, value_length < 31 ? value_length : 31);
    return strtoull(text, NULL, 10) == *(uint64_t *)ctx ? 0 : -1;
}

static void acknowledged_changes_survive_kill_at_any_moment(void)
{
    struct subject s;
    uint64_t random = unit_seed(), acknowledged = 1;
    subject_open(&s, true);
    CU_ASSERT_EQUAL(catalog_apply(s.c, "o", 0, NULL, 0), 0);
    catalog_close(s.c);
    for (int round = 0; round < 25; round++) {
        int pipe_fd[2];
        CU_ASSERT_EQUAL_FATAL(pipe(pipe_fd), 0);
        pid_t pid = fork();
        if (pid == 0) {
            close(pipe_fd[0]);
            apply_without_end(pipe_fd[1]);
        }
        close(pipe_fd[1]);
        if (round % 2) /* not before it has got to work */
            CU_ASSERT_EQUAL(read(pipe_fd[0], &acknowledged, sizeof acknowledged), sizeof acknowledged);
        usleep((useconds_t)(unit_random(&random) % 60000));
        kill(pid, SIGKILL);
        int status;
        waitpid(pid, &status, 0);
        CU_ASSERT(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        for (uint64_t told; read(pipe_fd[0], &told, sizeof told) == sizeof told;)
            acknowledged = told;
        close(pipe_fd[0]);
        struct error err = ERROR_NONE;
        uint64_t revision = 0;
        CU_ASSERT_EQUAL_FATAL(catalog_bdb_open(directory, &s.c, &err), 0);
        CU_ASSERT_EQUAL(catalog_scan(s.c, "o", &revision, NULL, NULL), 0);
        CU_ASSERT(revision >= acknowledged && revision <= acknowledged + 1);
        if (revision > 1)
            CU_ASSERT_EQUAL(catalog_scan(s.c, "o", NULL, same_value, &revision), 0);
        acknowledged = revision;
        catalog_close(s.c);
    }
    printf("# %llu changes acknowledged\n", (unsigned long long)acknowledged);
    CU_ASSERT(acknowledged >= 12);
}

/* Files of the catalog, in memory. */
struct saved_file {
    char name[256];
    char *data;
    size_t size;
};

static int compare_names(const void *a, const void *b) { return strcmp(((const struct saved_file *)a)->name, ((const struct saved_file *)b)->name); }

static unsigned save_files(struct saved_file *files, unsigned room)
{
    unsigned count = 0;
    DIR *d = opendir(directory);
    for (struct dirent *e; d && (e = readdir(d)) && count < room;) {
        struct stat st;
        if (e->d_name[0] == '.' || fstatat(dirfd(d), e->d_name, &st, 0) < 0)
            continue;
        struct saved_file *f = &files[count++];
        snprintf(f->name, sizeof f->name, "%s", e->d_name);
        f->size = (size_t)st.st_size;
        f->data = malloc(f->size + 1);
        int fd = openat(dirfd(d), e->d_name, O_RDONLY);
        CU_ASSERT_EQUAL(read(fd, f->data, f->size), (ssize_t)f->size);
        close(fd);
    }
    closedir(d);
    /* A seed means the same on every file system. */
    qsort(files, count, sizeof *files, compare_names);
    return count;
}

static int open_file(const struct saved_file *f, int flags)
{
    int directory_fd = open(directory, O_RDONLY | O_DIRECTORY);
    int fd = openat(directory_fd, f->name, flags, 0600);
    close(directory_fd);
    return fd;
}

static void restore_file(const struct saved_file *f)
{
    int fd = open_file(f, O_WRONLY | O_CREAT | O_TRUNC);
    CU_ASSERT_EQUAL(write(fd, f->data, f->size), (ssize_t)f->size);
    close(fd);
}

/* Where something is: a file's tail of zeroes says nothing of how the rest is read. */
static size_t used_size(const struct saved_file *f)
{
    size_t used = f->size;
    while (used > 1 && !f->data[used - 1])
        used--;
    return used;
}

/* Flips bits, overwrites a stretch, or cuts the file short. Half the time among the first bytes or in the last tenth, for there are the
 * words that decide how the rest is read. */
static void damage(const struct saved_file *f, uint64_t *random)
{
    char bytes[600];
    int fd = open_file(f, O_RDWR);
    size_t used = used_size(f), edge = used < 64 ? used : 64;
    uint64_t where = unit_random(random) % 4;
    off_t at = (off_t)(where == 0 ? unit_random(random) % edge : where == 1 ? used - 1 - unit_random(random) % (used / 10 + 1) : unit_random(random) % used);
    size_t n = 1;
    bytes[0] = (char)(f->data[at] ^ 1 << unit_random(random) % 8);
    switch (unit_random(random) % 4) {
    case 0:
        n = unit_random(random) % sizeof bytes;
        for (size_t i = 0; i < n; i++)
            bytes[i] = (char)unit_random(random);
        break;
    case 1:
        CU_ASSERT_EQUAL(ftruncate(fd, at), 0);
        break;
    default:
        break;
    }
    CU_ASSERT_EQUAL(pwrite(fd, bytes, n, at), (ssize_t)n);
    close(fd);
}

enum verdict { CORRECT, REFUSED, WRONG };

/* In a child, so that a crash is seen as one. */
static int judge(const struct oracle *o)
{
    pid_t pid = fork();
    if (pid == 0) {
        struct catalog *c;
        struct error err = ERROR_NONE;
        struct comparison cmp = { o, 0 };
        uint64_t revision = 0;
        alarm(20);
        log_set_level(0);
        int rc = catalog_bdb_open(directory, &c, &err);
        if (rc)
            _exit(err.text[0] ? REFUSED : WRONG);
        rc = catalog_scan(c, "o", &revision, compare_item, &cmp);
        bool right = rc == 0 && equals(c, "o", o);
        bool refused = rc == -EBADMSG || rc == -EIO;
        if (right)
            refused = catalog_apply(c, "o", revision, NULL, 0) != 0;
        catalog_close(c);
        _exit(right ? CORRECT : refused ? REFUSED : WRONG);
    }
    int status = 0;
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

/* unclean: the log still holds what the database file has not. */
static void damage_many(bool unclean, unsigned rounds, uint64_t *random)
{
    struct saved_file files[16];
    static struct oracle o;
    struct subject s;
    unsigned verdicts[3] = { 0 };
    memset(&o, 0xff, sizeof o);
    o.revision = 0;
    subject_open(&s, true);
    for (int i = 0; i < 20; i++)
        CU_ASSERT_EQUAL(random_apply(s.c, "o", &o, random, 30), 0);
    unsigned count = 0;
    if (unclean)
        count = save_files(files, 16);
    catalog_close(s.c);
    if (!unclean)
        count = save_files(files, 16);
    for (unsigned i = 0; i < rounds; i++) {
        empty_directory();
        for (unsigned k = 0; k < count; k++)
            restore_file(&files[k]);
        const struct saved_file *f = &files[unit_random(random) % count];
        if (!f->size || strcmp(f->name, "reserve") == 0)
            continue;
        damage(f, random);
        int verdict = judge(&o);
        if (verdict >= 0 && verdict <= WRONG)
            verdicts[verdict]++;
        if (verdict < 0 || verdict >= WRONG)
            printf("# damage to %s in round %u: verdict %d\n", f->name, i, verdict);
        CU_ASSERT(verdict == CORRECT || verdict == REFUSED);
    }
    printf("# damaged %s: %u read right, %u refused, %u wrong\n", unclean ? "after a crash" : "when closed", verdicts[CORRECT], verdicts[REFUSED],
           verdicts[WRONG]);
    CU_ASSERT(verdicts[REFUSED] > 0);
    while (count)
        free(files[--count].data);
}

static void damaged_files_are_refused_or_read_right(void)
{
    uint64_t random = unit_seed();
    damage_many(false, 100, &random);
    damage_many(true, 100, &random);
}

/* Takes what space there is. */
static void fill_up(int fd)
{
    static char block[1 << 16];
    while (write(fd, block, sizeof block) > 0)
        ;
    while (write(fd, block, 512) > 0)
        ;
}

/* neighbour: another program takes the catalog's reserve as soon as it is released. */
static void fill_disk_under_catalog(bool neighbour)
{
    static struct oracle o;
    struct catalog *c;
    struct error err = ERROR_NONE;
    uint64_t random = unit_seed();
    char filler[300];
    CU_ASSERT_EQUAL_FATAL(mount("none", directory, "tmpfs", 0, "size=48m"), 0);
    CU_ASSERT_EQUAL_FATAL(catalog_bdb_create(directory, &c, &err), 0);
    snprintf(filler, sizeof filler, "%s/filler", directory);
    int fd = open(filler, O_WRONLY | O_CREAT, 0600), rc = 0, done = 0;
    memset(&o, 0xff, sizeof o);
    o.revision = 0;
    fill_up(fd);
    for (; done < 400 && !rc; done++) {
        if (neighbour)
            fill_up(fd);
        rc = random_apply(c, "o", &o, &random, 60);
    }
    printf("# %d changes on a full disk, then %d\n", done, rc);
    CU_ASSERT_EQUAL(rc, neighbour ? -ENOSPC : 0);
    CU_ASSERT_EQUAL(ftruncate(fd, 0), 0);
    CU_ASSERT(equals(c, "o", &o));
    CU_ASSERT_EQUAL(random_apply(c, "o", &o, &random, 60), 0);
    catalog_close(c);
    close(fd);
    unlink(filler);
    CU_ASSERT_EQUAL_FATAL(catalog_bdb_open(directory, &c, &err), 0);
    CU_ASSERT(equals(c, "o", &o));
    CU_ASSERT_EQUAL(random_apply(c, "o", &o, &random, 60), 0);
    CU_ASSERT(equals(c, "o", &o));
    catalog_close(c);
    CU_ASSERT_EQUAL(umount(directory), 0);
}

/* Leaves a log whose last file is short, so that recovery needs space. */
static void leave_unclosed(uint64_t *random)
{
    int status;
    pid_t pid = fork();
    if (pid == 0) {
        static struct oracle o;
        struct catalog *c;
        struct error err = ERROR_NONE;
        int rc = catalog_bdb_open(directory, &c, &err);
        memset(&o, 0xff, sizeof o);
        o.revision = 0;
        for (unsigned i = 0; i < 40 && !rc; i++)
            rc = random_apply(c, "unclosed", &o, random, 60);
        _exit(rc != 0);
    }
    waitpid(pid, &status, 0);
    CU_ASSERT_EQUAL(status, 0);
}

/* Between two openings a neighbour takes all that the catalog has not set aside. */
static void a_full_disk_does_not_stop_short_openings(void)
{
    static struct oracle o;
    struct catalog *c;
    struct error err = ERROR_NONE;
    uint64_t random = unit_seed();
    char filler[300], reserve[300];
    CU_ASSERT_EQUAL_FATAL(mount("none", directory, "tmpfs", 0, "size=48m"), 0);
    CU_ASSERT_EQUAL_FATAL(catalog_bdb_create(directory, &c, &err), 0);
    snprintf(filler, sizeof filler, "%s/filler", directory);
    snprintf(reserve, sizeof reserve, "%s/reserve", directory);
    int fd = open(filler, O_WRONLY | O_CREAT, 0600), rc = 0, done = 0;
    memset(&o, 0xff, sizeof o);
    o.revision = 0;
    for (; done < 40 && !rc; done++) {
        catalog_close(c);
        fill_up(fd);
        CU_ASSERT_EQUAL_FATAL(catalog_bdb_open(directory, &c, &err), 0);
        rc = random_apply(c, "o", &o, &random, 60);
    }
    printf("# %d openings on a full disk, then %d\n", done, rc);
    CU_ASSERT_EQUAL(rc, 0);
    catalog_close(c);
    CU_ASSERT_EQUAL(ftruncate(fd, 0), 0);
    leave_unclosed(&random);
    unlink(reserve);
    fill_up(fd);
    rc = catalog_bdb_open(directory, &c, &err);
    printf("# without the reserve: %d %s\n", rc, err.text);
    CU_ASSERT_EQUAL(rc, -ENOSPC);
    CU_ASSERT_PTR_NULL(strstr(err.text, "damaged"));
    CU_ASSERT_EQUAL(ftruncate(fd, 0), 0);
    err = (struct error)ERROR_NONE;
    CU_ASSERT_EQUAL_FATAL(catalog_bdb_open(directory, &c, &err), 0);
    CU_ASSERT(equals(c, "o", &o));
    catalog_close(c);
    close(fd);
    unlink(filler);
    CU_ASSERT_EQUAL(umount(directory), 0);
}

static void a_full_disk_does_not_stop_the_catalog(void) { fill_disk_under_catalog(false); }
static void a_disk_without_any_room_is_an_error_and_loses_nothing(void) { fill_disk_under_catalog(true); }

int main(int argc, char **argv)
{
    bool root = geteuid() == 0;
    if (!root)
        printf("skip catalog: a_full_disk_does_not_stop_the_catalog - mounting a small file system needs root\n");
    snprintf(directory, sizeof directory, "%s/parallax-catalog-test-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/var/tmp");
    if (!mkdtemp(directory)) {
        perror(directory);
        return 1;
    }
    int rc = unit_main(argc, argv, "catalog",
                       (struct unit_test[]){ UNIT(objects_are_sorted_maps_that_survive_reopening),
                                             UNIT(one_value_is_got_by_its_key),
                                             UNIT(a_change_with_a_stale_revision_changes_nothing), UNIT(names_keys_and_values_have_limits),
                                             UNIT(a_scan_ends_when_its_callback_says_so), UNIT(values_of_any_size_up_to_16_mib_come_back),
                                             UNIT(a_lease_has_one_holder_until_it_is_dropped_or_expires), UNIT(random_changes_match_an_oracle),
                                             UNIT(speed_is_what_the_engine_counts_on), UNIT(opening_what_is_not_a_catalog_is_an_error),
                                             UNIT(acknowledged_changes_survive_kill_at_any_moment),
                                             UNIT(damaged_files_are_refused_or_read_right),
                                             root ? (struct unit_test)UNIT(a_full_disk_does_not_stop_the_catalog) : (struct unit_test){ 0 },
                                             UNIT(a_full_disk_does_not_stop_short_openings),
                                             UNIT(a_disk_without_any_room_is_an_error_and_loses_nothing), { 0 } });
    empty_directory();
    rmdir(directory);
    return rc;
}
