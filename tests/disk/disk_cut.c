/* disk_cut.c - watching begins and ends here; and what a power cut leaves.
 *
 * Every change that is not durable is thrown for: with the odds of the cut, which may be none, all, or a quarter to three
 * quarters. A change of a name stands on those before it of the same name or file: where one was lost, it is lost. */
#include "tests/disk/disk_private.h"

#include "base/crc32c.h"
#include "base/hash.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define RUN_BYTES (1u << 20)

static int raw_open(const char *path, int flags) { return (int)syscall(SYS_openat, AT_FDCWD, path, flags | O_CLOEXEC, 0600); }

static void must(bool right, const char *what)
{
    if (right)
        return;
    perror(what);
    abort();
}

/* ---- Watching ---- */

static void adopt_file(const char *path, const char *name, const struct stat *st)
{
    static unsigned char buf[RUN_BYTES];
    struct disk_file *f = disk_file_new(name, st->st_ino);
    f->durable_name = strdup(name);
    disk_resize(f, (uint64_t)st->st_size);
    int fd = raw_open(path, O_RDONLY);
    ssize_t n;
    must(fd >= 0, path);
    for (uint64_t at = 0; (n = disk_real_pread(fd, buf, sizeof buf, (off_t)at)) > 0; at += (uint64_t)n)
        for (ssize_t i = 0; i < n; i += DISK_PAGE) {
            uint64_t part = n - i < (ssize_t)DISK_PAGE ? (uint64_t)(n - i) : DISK_PAGE;
            if (buf[i] || memcmp(buf + i, buf + i + 1, part - 1))
                disk_put(f, at + (uint64_t)i, buf + i, part);
        }
    syscall(SYS_close, fd);
}

static void adopt(const char *path, const char *name)
{
    DIR *d = opendir(path);
    must(d != NULL, path);
    for (struct dirent *e; (e = readdir(d));) {
        char inner[1024], relative[600];
        struct stat st;
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        snprintf(inner, sizeof inner, "%.700s/%.255s", path, e->d_name);
        snprintf(relative, sizeof relative, "%.300s%s%.255s", name, *name ? "/" : "", e->d_name);
        must(stat(inner, &st) == 0, inner);
        if (S_ISDIR(st.st_mode))
            adopt(inner, relative);
        else
            adopt_file(inner, relative, &st);
    }
    closedir(d);
}

void disk_watch(const char *directory, uint64_t seed)
{
    disk_unwatch();
    snprintf(disk_directory, sizeof disk_directory, "%s", directory);
    adopt(directory, "");
    disk_lock();
    disk_aio_seed(seed);
    disk_watching = true;
    disk_unlock();
}

void disk_unwatch(void)
{
    disk_order_fault(NULL);
    disk_lock();
    disk_watching = false;
    disk_forget_descriptors();
    disk_clear();
    disk_unlock();
}

/* ---- What comes through ---- */

struct throw {
    uint64_t *random;
    unsigned odds; /* of 4 */
    uint64_t sector;
    bool garble;
};

static bool lucky(struct throw *t) { return disk_random(t->random) % 4 < t->odds; }

static void garble(struct throw *t, unsigned char *data, uint64_t length)
{
    for (uint64_t i = 0; i < length; i++)
        data[i] = (unsigned char)disk_random(t->random);
}

static bool may_be_garbled(const struct disk_file *f) { return !f->name || !strstr(f->name, "catalog.db"); }

/* Sector by sector. How many came through, and *damaged: one is neither old nor new. */
static unsigned land_torn(struct disk_change *c, struct throw *t, bool *damaged)
{
    unsigned landed = 0;
    *damaged = false;
    for (uint64_t at = 0; at < c->length;) {
        uint64_t n = t->sector - (c->offset + at) % t->sector;
        n = n < c->length - at ? n : c->length - at;
        if (lucky(t)) {
            landed++;
            disk_put(c->file, c->offset + at, c->data ? c->data + at : NULL, n);
            if (t->garble && may_be_garbled(c->file) && disk_random(t->random) % 8 == 0) {
                unsigned char junk[DISK_PAGE];
                garble(t, junk, n);
                disk_put(c->file, c->offset + at, junk, n);
                *damaged = true;
            }
        }
        at += n;
    }
    return landed;
}

static bool stands_on_lost(const struct disk_change *c)
{
    list_for_each(n, &disk_pending) {
        const struct disk_change *before = container_of(n, struct disk_change, link);
        if (before == c)
            return false;
        if (!before->dropped || before->kind < DISK_CREATE)
            continue;
        if (before->file == c->file || before->replaced == c->file || before->file == c->replaced)
            return true;
        for (unsigned i = 0; i < 4; i++) {
            const char *a = i & 1 ? before->to : before->name, *b = i & 2 ? c->to : c->name;
            if (a && b && strcmp(a, b) == 0)
                return true;
        }
    }
    return false;
}

static void land(struct disk_change *c, struct throw *t, struct disk_cut *out)
{
    bool damaged = false;
    out->pending++;
    if (c->kind >= DISK_CREATE && stands_on_lost(c)) {
        c->dropped = true;
    } else if (c->kind != DISK_DATA || disk_random(t->random) % 2) { /* as one */
        c->dropped = !lucky(t);
        if (!c->dropped)
            disk_apply(c);
        out->whole += !c->dropped;
    } else {
        unsigned landed = land_torn(c, t, &damaged);
        uint64_t sectors = (c->offset + c->length + t->sector - 1) / t->sector - c->offset / t->sector;
        out->whole += landed == sectors && !damaged;
        out->part += damaged || (landed && landed != sectors);
    }
}

/* A file without a durable name is gone. */
static void drop_nameless(void)
{
    for (struct list_node *n = disk_files.next, *next; n != &disk_files; n = next) {
        struct disk_file *f = container_of(n, struct disk_file, link);
        next = n->next;
        free(f->name);
        f->name = f->durable_name ? strdup(f->durable_name) : NULL;
        if (!f->name)
            list_remove(&f->link);
    }
}

static void write_file(struct disk_file *f, uint64_t *hash)
{
    static unsigned char buf[RUN_BYTES];
    char path[1200];
    struct stat st;
    snprintf(path, sizeof path, "%s/%s", disk_directory, f->name);
    char *slash = strrchr(path, '/');
    *slash = 0;
    must(mkdir(path, 0700) == 0 || errno == EEXIST, path);
    *slash = '/';
    int fd = raw_open(path, O_RDWR | O_CREAT | O_EXCL);
    must(fd >= 0 && syscall(SYS_ftruncate, fd, f->durable_size) == 0 && fstat(fd, &st) == 0, path);
    f->inode = st.st_ino;
    *hash = hash_u64(*hash ^ hash_bytes(f->name, strlen(f->name)) ^ f->durable_size);
    for (uint64_t p = 0, run; p < f->pages; p += run) {
        for (run = 0; p + run < f->pages && f->page[p + run] && run < RUN_BYTES / DISK_PAGE; run++)
            memcpy(buf + run * DISK_PAGE, f->page[p + run], DISK_PAGE);
        if (!run) {
            run = 1;
            continue;
        }
        uint64_t bytes = run * DISK_PAGE;
        if (p * DISK_PAGE + bytes > f->durable_size)
            bytes = f->durable_size - p * DISK_PAGE;
        must(disk_real_pwrite(fd, buf, bytes, (off_t)(p * DISK_PAGE)) == (ssize_t)bytes, path);
        uint32_t low = crc32c((uint32_t)*hash, buf, bytes), high = crc32c((uint32_t)(*hash >> 32) ^ 0x5bd1e995u, buf, bytes);
        *hash = hash_u64(*hash ^ low ^ (uint64_t)high << 32 ^ p);
    }
    syscall(SYS_close, fd);
}

void disk_cut(const char *directory, uint64_t *random, struct disk_cut *out)
{
    uint64_t unused = 1;
    bool all = !random;
    random = all ? &unused : random;
    struct throw t = { .random = random, .odds = (unsigned)(disk_random(random) % 16), .sector = disk_random(random) % 2 ? 512 : DISK_PAGE,
                       .garble = disk_random(random) % 4 == 0 };
    t.odds = all ? 4 : t.odds == 0 ? 0 : t.odds == 1 ? 4 : 1 + t.odds % 3;
    t.garble &= !all;
    *out = (struct disk_cut){ 0 };
    list_for_each(n, &disk_pending)
        land(container_of(n, struct disk_change, link), &t, out);
    while (!list_empty(&disk_pending))
        disk_change_free(container_of(disk_pending.next, struct disk_change, link));
    disk_forget_descriptors();
    drop_nameless();
    snprintf(disk_directory, sizeof disk_directory, "%s", directory);
    must(mkdir(directory, 0700) == 0, directory);
    list_for_each(n, &disk_files)
        write_file(container_of(n, struct disk_file, link), &out->hash);
}

void disk_settle(void)
{
    disk_lock();
    list_for_each(n, &disk_pending)
        disk_apply(container_of(n, struct disk_change, link));
    while (!list_empty(&disk_pending))
        disk_change_free(container_of(disk_pending.next, struct disk_change, link));
    disk_unlock();
}

static unsigned char *byte_at(const char *name, uint64_t offset)
{
    struct disk_file *f = disk_file_by_name(name);
    return f && offset < f->durable_size ? f->page[offset / DISK_PAGE] ? f->page[offset / DISK_PAGE] + offset % DISK_PAGE : NULL : NULL;
}

uint64_t disk_size(const char *name)
{
    const struct disk_file *f = disk_file_by_name(name);
    return f ? f->durable_size : 0;
}

unsigned char disk_byte(const char *name, uint64_t offset)
{
    const unsigned char *p = byte_at(name, offset);
    return p ? *p : 0;
}

void disk_flip(const char *name, uint64_t offset, unsigned char bits)
{
    struct disk_file *f = disk_file_by_name(name);
    unsigned char changed = disk_byte(name, offset) ^ bits;
    must(f && offset < f->durable_size, name);
    disk_put(f, offset, &changed, 1);
}

void disk_remove_tree(const char *directory)
{
    DIR *d = opendir(directory);
    for (struct dirent *e; d && (e = readdir(d));) {
        char inner[1024];
        struct stat st;
        snprintf(inner, sizeof inner, "%.700s/%.255s", directory, e->d_name);
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0 || lstat(inner, &st) < 0)
            continue;
        if (S_ISDIR(st.st_mode))
            disk_remove_tree(inner);
        else
            syscall(SYS_unlinkat, AT_FDCWD, inner, 0);
    }
    if (d)
        closedir(d);
    rmdir(directory);
}
