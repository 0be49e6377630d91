/* parallax_store_powercut_test.c - the catalog on disk under power cuts and failing writes, by hooks in Berkeley DB's calls.
 *
 * Every write, sync, cut and removal of a file by Berkeley DB is recorded, and so is the witness, at each acknowledgement. Then,
 * for any moment, files are made as a power cut could have left them: what was synced is there, and of every later write any
 * 512-byte sectors. As on the file systems of Linux, a file's name is durable once the file has been synced. The catalog must
 * open, hold all that was acknowledged by then, and whole changes only. */
#include "base/log.h"
#include "parallax/store/catalog_bdb.h"
#include "tests/support/unit.h"

#include <db.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SECTOR = 512, FILES = 256, EVENTS = 200000, KEYS = 12 };

enum event_kind { WRITE, SYNC, CUT, REMOVE, ACKNOWLEDGE };

struct event {
    enum event_kind kind;
    int file;
    off_t offset;  /* CUT: the new length; ACKNOWLEDGE: the revision */
    size_t length;
    char *data;
};

static char live[256], image[300];
static bool recording;
static char *names[FILES];
static int name_count;
static struct event *events;
static int event_count;

/* Faults: the nth call from now that writes or syncs fails. */
static int fail_in, fail_error;

static bool fault(void)
{
    if (!fail_in || --fail_in)
        return false;
    errno = fail_error;
    return true;
}

/* Files are told apart only while recording. */
static int file_number(const char *name)
{
    if (!recording)
        return 0;
    for (int i = 0; i < name_count; i++)
        if (strcmp(names[i], name) == 0)
            return i;
    if (name_count == FILES)
        abort();
    names[name_count] = strdup(name);
    return name_count++;
}

static const char *last_part(const char *path) { return strrchr(path, '/') ? strrchr(path, '/') + 1 : path; }

static int file_of(int fd)
{
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    path[n < 0 ? 0 : n] = 0;
    return file_number(last_part(path));
}

static void record(enum event_kind kind, int file, off_t offset, const void *data, size_t length)
{
    if (!recording || event_count == EVENTS)
        return;
    struct event *e = &events[event_count++];
    *e = (struct event){ kind, file, offset, length, NULL };
    if (length) {
        e->data = malloc(length);
        memcpy(e->data, data, length);
    }
}

static ssize_t hook_pwrite(int fd, const void *data, size_t length, off_t offset)
{
    if (fault())
        return -1;
    ssize_t n = pwrite(fd, data, length, offset);
    if (n > 0)
        record(WRITE, file_of(fd), offset, data, (size_t)n);
    return n;
}

static ssize_t hook_write(int fd, const void *data, size_t length)
{
    if (fault())
        return -1;
    off_t offset = lseek(fd, 0, SEEK_CUR);
    ssize_t n = write(fd, data, length);
    if (n > 0)
        record(WRITE, file_of(fd), offset, data, (size_t)n);
    return n;
}

/* Berkeley DB takes what this returns for the error itself. */
static int hook_fsync(int fd)
{
    if (fault())
        return errno;
    record(SYNC, file_of(fd), 0, NULL, 0);
    return 0; /* the page cache serves: nothing here needs the disk */
}

static int hook_ftruncate(int fd, off_t length)
{
    record(CUT, file_of(fd), length, NULL, 0);
    return ftruncate(fd, length);
}

static int hook_unlink(const char *path)
{
    record(REMOVE, file_number(last_part(path)), 0, NULL, 0);
    return unlink(path);
}

/* Berkeley DB makes its database under another name; that is over before the catalog is one. */
static int hook_rename(const char *from, const char *to)
{
    int file = file_number(last_part(from));
    if (recording) {
        free(names[file]);
        names[file] = strdup(last_part(to));
    }
    return rename(from, to);
}

/* Revision r sets every key to r, with as many bytes as r says, so that some changes are large. */
static int apply_revision(struct catalog *c, uint64_t revision)
{
    static char value[120000];
    static const char *const keys[KEYS] = { "a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l" };
    struct catalog_change changes[KEYS];
    memset(value, 'a' + (int)(revision % 26), sizeof value);
    memcpy(value, &revision, sizeof revision);
    for (int i = 0; i < KEYS; i++)
        changes[i] = (struct catalog_change){ keys[i], 1, value, i == 3 && revision % 4 == 0 ? sizeof value : 8 + (revision * 37 + (uint64_t)i) % 900 };
    return catalog_apply(c, "o", revision - 1, changes, KEYS);
}

struct seen {
    uint64_t revision;
    int keys;
};

static int check_item(void *ctx, const void *key, size_t key_length, const void *value, size_t value_length)
{
    struct seen *s = ctx;
    uint64_t revision;
    if (key_length != 1 || value_length < 8)
        return -1;
    int i = *(const char *)key - 'a';
    memcpy(&revision, value, sizeof revision);
    s->keys++;
    size_t want = i == 3 && s->revision % 4 == 0 ? 120000 : 8 + (s->revision * 37 + (uint64_t)i) % 900;
    for (size_t k = 8; k < value_length; k++)
        if (((const char *)value)[k] != 'a' + (int)(s->revision % 26))
            return -1;
    return revision == s->revision && value_length == want ? 0 : -1;
}

/* True if the catalog is at a whole revision, which is stored. */
static bool whole(struct catalog *c, uint64_t *revision)
{
    struct seen s = { 0, 0 };
    if (catalog_scan(c, "o", &s.revision, NULL, NULL) || catalog_scan(c, "o", NULL, check_item, &s))
        return false;
    *revision = s.revision;
    return s.keys == (s.revision ? KEYS : 0);
}

static void record_acknowledgement(uint64_t revision)
{
    char path[300], data[8192];
    snprintf(path, sizeof path, "%s/witness", live);
    int fd = open(path, O_RDONLY);
    ssize_t n = read(fd, data, sizeof data);
    close(fd);
    CU_ASSERT_EQUAL(n, (ssize_t)sizeof data);
    record(ACKNOWLEDGE, file_number("witness"), (off_t)revision, data, sizeof data);
}

/* One file as the power cut leaves it. */
struct remains {
    char *data;
    size_t size, room;
    bool exists;
};

static void put_bytes(struct remains *r, off_t offset, const char *data, size_t length)
{
    size_t end = (size_t)offset + length;
    if (end > r->room) {
        r->room = end * 2;
        r->data = realloc(r->data, r->room);
    }
    if (end > r->size) {
        memset(r->data + r->size, 0, end - r->size);
        r->size = end;
    }
    memcpy(r->data + offset, data, length);
}

/* Lets sectors of an unsynced write through as the odds (of 4) say. */
static void put_torn(struct remains *r, const struct event *e, unsigned odds, uint64_t *random)
{
    for (size_t at = 0; at < e->length;) {
        size_t n = SECTOR - (size_t)(e->offset + (off_t)at) % SECTOR;
        n = n < e->length - at ? n : e->length - at;
        if (unit_random(random) % 4 < odds)
            put_bytes(r, e->offset + (off_t)at, e->data + at, n);
        at += n;
    }
}

static void replay(struct remains *r, int upto, uint64_t *random)
{
    int synced[FILES];
    unsigned odds = (unsigned)(unit_random(random) % 5);
    memset(synced, -1, sizeof synced);
    for (int i = 0; i < upto; i++)
        if (events[i].kind == SYNC)
            synced[events[i].file] = i;
    for (int i = 0; i < upto; i++) {
        const struct event *e = &events[i];
        struct remains *f = &r[e->file];
        bool durable = i < synced[e->file] || e->kind == ACKNOWLEDGE;
        if (e->kind == ACKNOWLEDGE)
            put_bytes(f, 0, e->data, e->length);
        else if (e->kind == WRITE && durable)
            put_bytes(f, e->offset, e->data, e->length);
        else if (e->kind == WRITE)
            put_torn(f, e, odds, random);
        else if (e->kind == CUT && (durable || odds) && (size_t)e->offset < f->size)
            f->size = (size_t)e->offset;
        f->exists = f->exists || e->kind == WRITE || e->kind == ACKNOWLEDGE;
        if (e->kind == REMOVE && unit_random(random) % 4 < odds)
            f->exists = false;
    }
    /* The name of a file that was never synced may be lost. */
    for (int i = 0; i < name_count; i++)
        if (synced[i] < 0 && strcmp(names[i], "witness") != 0 && unit_random(random) % 4 >= odds)
            r[i].exists = false;
}

static void make_image(int upto, uint64_t *random)
{
    struct remains r[FILES] = { 0 };
    replay(r, upto, random);
    unit_empty_directory(image);
    for (int i = 0; i < name_count; i++) {
        char path[600];
        snprintf(path, sizeof path, "%s/%s", image, names[i]);
        int fd = r[i].exists ? open(path, O_WRONLY | O_CREAT, 0600) : -1;
        if (r[i].exists) {
            CU_ASSERT_EQUAL(write(fd, r[i].data, r[i].size), (ssize_t)r[i].size);
            close(fd);
        }
        free(r[i].data);
    }
}

/* Applies and reopens; the catalog's first moments, before it is a catalog, are not looked at: a store is made last of all. */
static int record_life(uint64_t last_revision, uint64_t *random)
{
    struct catalog *c;
    struct error err = ERROR_NONE;
    unit_empty_directory(live);
    recording = true;
    event_count = 0;
    CU_ASSERT_EQUAL_FATAL(catalog_bdb_create(live, &c, &err), 0);
    record_acknowledgement(0);
    int begin = event_count;
    for (uint64_t r = 1; r <= last_revision; r++) {
        CU_ASSERT_EQUAL_FATAL(apply_revision(c, r), 0);
        record_acknowledgement(r);
        if (unit_random(random) % 20 == 0) {
            catalog_close(c);
            CU_ASSERT_EQUAL_FATAL(catalog_bdb_open(live, &c, &err), 0);
        }
    }
    catalog_close(c);
    recording = false;
    CU_ASSERT_FATAL(event_count < EVENTS);
    return begin;
}

static void acknowledged_changes_survive_power_cuts(void)
{
    uint64_t random = unit_seed(), last = 160;
    int begin = record_life(last, &random), lost = 0;
    printf("# %d events, %d files\n", event_count, name_count);
    for (int round = 0; round < 250; round++) {
        int upto = begin + (int)(unit_random(&random) % (uint64_t)(event_count - begin + 1));
        uint64_t acknowledged = 0, revision = 0;
        for (int i = 0; i < upto; i++)
            if (events[i].kind == ACKNOWLEDGE)
                acknowledged = (uint64_t)events[i].offset;
        struct catalog *c;
        struct error err = ERROR_NONE;
        make_image(upto, &random);
        int rc = catalog_bdb_open(image, &c, &err);
        bool right = rc == 0 && whole(c, &revision) && revision >= acknowledged && revision <= acknowledged + 1;
        if (!right)
            printf("# round %d, event %d of %d: %d %s; acknowledged %llu, found %llu\n", round, upto, event_count, rc, err.text,
                   (unsigned long long)acknowledged, (unsigned long long)revision);
        CU_ASSERT_FATAL(right);
        lost += revision == acknowledged;
        CU_ASSERT_EQUAL(apply_revision(c, revision + 1), 0);
        catalog_close(c);
    }
    printf("# %d cuts lost what was not yet acknowledged\n", lost);
    for (int i = 0; i < event_count; i++)
        free(events[i].data);
}

/* Every write and sync in turn fails once: the change is refused or made, never lost, and opening again is always possible. */
static void fail_each_call(int error)
{
    struct catalog *c;
    struct error err = ERROR_NONE;
    int survived = 0, refused = 0;
    bool more = true;
    for (int nth = 1; more; nth += nth < 45 ? 1 : 9) { /* the far ones are all pages of the last checkpoint */
        uint64_t done = 0, revision;
        unit_empty_directory(live);
        CU_ASSERT_EQUAL_FATAL(catalog_bdb_create(live, &c, &err), 0);
        fail_in = nth;
        fail_error = error;
        int rc = 0;
        for (uint64_t r = 1; r <= 12 && !rc; r++) {
            rc = apply_revision(c, r);
            done = rc ? done : r;
        }
        catalog_close(c);
        more = fail_in == 0;
        fail_in = 0;
        if (!more)
            break;
        survived += rc == 0;
        refused += rc != 0;
        if (rc && error == ENOSPC)
            printf("# call %d: change %llu refused with %d\n", nth, (unsigned long long)done + 1, rc);
        int opened = catalog_bdb_open(live, &c, &err);
        if (opened)
            printf("# call %d failed with %d at change %llu, then: %s\n", nth, error, (unsigned long long)done + 1, err.text);
        CU_ASSERT_EQUAL_FATAL(opened, 0);
        CU_ASSERT_FATAL(whole(c, &revision));
        CU_ASSERT(revision == done || (rc && revision == done + 1));
        CU_ASSERT_EQUAL(apply_revision(c, revision + 1), 0);
        catalog_close(c);
    }
    printf("# error %d: %d survived, %d refused\n", error, survived, refused);
    CU_ASSERT(survived + refused > 10);
    if (error == ENOSPC)
        CU_ASSERT_EQUAL(refused, 0);
}

static void any_write_may_fail(void) { fail_each_call(EIO); }
static void any_write_may_find_the_disk_full(void) { fail_each_call(ENOSPC); }

int main(int argc, char **argv)
{
    /* The hooks play the disk: memory serves as well, and much faster. */
    const char *place = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : getenv("TMPDIR") ? getenv("TMPDIR") : "/var/tmp";
    snprintf(live, sizeof live, "%s/parallax-powercut-test-XXXXXX", place);
    if (!mkdtemp(live)) {
        perror(live);
        return 1;
    }
    snprintf(image, sizeof image, "%s.image", live);
    log_set_level(0); /* every failure here is ordered */
    events = calloc(EVENTS, sizeof *events);
    if (!events || mkdir(image, 0700) < 0)
        return 1;
    db_env_set_func_pwrite(hook_pwrite);
    db_env_set_func_write(hook_write);
    db_env_set_func_fsync(hook_fsync);
    db_env_set_func_ftruncate(hook_ftruncate);
    db_env_set_func_unlink(hook_unlink);
    db_env_set_func_rename(hook_rename);
    int rc = unit_main(argc, argv, "powercut",
                       (struct unit_test[]){ UNIT(acknowledged_changes_survive_power_cuts), UNIT(any_write_may_fail),
                                             UNIT(any_write_may_find_the_disk_full), { 0 } });
    unit_empty_directory(live);
    unit_empty_directory(image);
    rmdir(live);
    rmdir(image);
    for (int i = 0; i < name_count; i++)
        free(names[i]);
    free(events);
    return rc;
}
