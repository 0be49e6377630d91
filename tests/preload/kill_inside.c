/* kill_inside.c - a library to be preloaded into parallaxd that kills it with SIGKILL inside a chosen phase of its work.
 *
 * The daemon under test is the one that is installed: nothing in it knows of this. What it is doing is seen where it must
 * show: in what it hands to the kernel. Journal blocks are decoded with the engine's own decoder, so a record of a snapshot or
 * of a deletion is known when it is written.
 *
 * KILL_PHASE, KILL_POINT, KILL_NTH: die at the Nth (1, 2, …) of that phase's points of that name. KILL_SEED decides whether
 * before, in the middle of or after the call that is the point. KILL_STORE: the store's directory. KILL_REPORT: a line
 * "PHASE POINT" is appended to this file before the end; there is no line without a kill, and every kill has one.
 *
 * Phases, and the calls that are their points:
 *   opening     what the catalog's own recovery writes: catalog-write, catalog-log-write, catalog-sync
 *   recovery    from the first read of the journal to its first write: journal-read, data-read (to be judged), device-sync, and
 *               the catalog's, for the verdict
 *   journal     an io_submit that has journal blocks in it: write
 *   snapshot    the same with the record of a snapshot: record; and the flush that makes it durable: flush
 *   delete      the same for a deletion: record, flush; and what checkpoints write until two have been committed: the
 *               second of them at the latest carries it out
 *   checkpoint  after recovery: tree-write (nodes, dead runs and space-map pages: blocking writes but for the zeroes of growing)
 *               and the catalog's
 * Threads: any; counters are atomic. Allocates nothing. */
#include "parallax/change.h"
#include "parallax/disk.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <libaio.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

static struct {
    const char *phase, *point, *report, *store;
    unsigned nth;
    uint64_t random;
    atomic_uint seen;
    atomic_bool armed;
    atomic_bool replaying, serving; /* the journal has been read from, written to */
    atomic_bool snapshot_unflushed, delete_unflushed;
    atomic_int deleting;          /* checkpoints that may carry a deletion out and are not committed */
    atomic_bool known;            /* super holds the superblock */
    struct super super;
} k;

static int (*real_io_submit)(io_context_t, long, struct iocb **);
static ssize_t (*real_pread)(int, void *, size_t, off_t);
static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
static ssize_t (*real_write)(int, const void *, size_t);
static int (*real_fdatasync)(int), (*real_fsync)(int);

__attribute__((constructor)) static void begin(void)
{
    char self[256] = "";
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    const char *name = n > 0 ? strrchr(self, '/') : NULL, *nth = getenv("KILL_NTH"), *seed = getenv("KILL_SEED");
    *(void **)&real_io_submit = dlsym(RTLD_NEXT, "io_submit");
    *(void **)&real_pread = dlsym(RTLD_NEXT, "pread64");
    *(void **)&real_pwrite = dlsym(RTLD_NEXT, "pwrite64");
    *(void **)&real_write = dlsym(RTLD_NEXT, "write");
    *(void **)&real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
    *(void **)&real_fsync = dlsym(RTLD_NEXT, "fsync");
    unsetenv("LD_PRELOAD"); /* not for what the daemon starts */
    k.phase = getenv("KILL_PHASE");
    k.point = getenv("KILL_POINT");
    k.report = getenv("KILL_REPORT");
    k.store = getenv("KILL_STORE");
    k.nth = nth ? (unsigned)strtoul(nth, NULL, 10) : 1;
    k.random = seed ? strtoull(seed, NULL, 10) * 2654435761u + 1 : 1;
    k.armed = name && !strcmp(name, "/parallaxd") && k.phase && k.point && k.report && k.store;
}

static unsigned dice(unsigned below)
{
    k.random = k.random * 6364136223846793005u + 1442695040888963407u;
    return (unsigned)(k.random >> 33) % below;
}

static bool in_phase(const char *phase) { return !strcmp(k.phase, phase); }

/* Whether this call, a point of that name, is the one at which the process ends. */
static bool chosen(const char *point) { return !strcmp(k.point, point) && atomic_fetch_add(&k.seen, 1) + 1 == k.nth; }

_Noreturn static void die(void)
{
    char line[128];
    int n = snprintf(line, sizeof line, "%s %s\n", k.phase, k.point), fd = open(k.report, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (fd >= 0 && real_write(fd, line, (size_t)n) == n)
        for (;;)
            kill(getpid(), SIGKILL);
    abort(); /* a kill that is not reported would not be counted */
}

enum file { OTHER, BLOCKS, CATALOG, WITNESS };

static enum file file_of(int fd)
{
    char link[64], path[512];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    size_t prefix = strlen(k.store);
    if (n <= (ssize_t)prefix)
        return OTHER;
    path[n] = 0;
    if (strncmp(path, k.store, prefix))
        return OTHER;
    return !strcmp(path + prefix, "/blocks") ? BLOCKS : !strcmp(path + prefix, "/catalog/witness") ? WITNESS
           : !strncmp(path + prefix, "/catalog/", 9) ? CATALOG : OTHER;
}

static bool in_journal(int fd, uint64_t offset)
{
    static _Alignas(BDEV_BLOCK_SIZE) uint8_t block[BDEV_BLOCK_SIZE];
    if (!k.known) {
        if (real_pread(fd, block, sizeof block, 0) != sizeof block || super_decode(block, &k.super))
            return false;
        k.known = true;
    }
    uint64_t at = offset / BDEV_BLOCK_SIZE;
    return at >= k.super.journal_start && at < k.super.journal_start + k.super.journal_blocks;
}

static bool is_main(void) { return syscall(SYS_gettid) == getpid(); }

/* ---- What the loop submits ---- */

static void note_records(const uint8_t *block, bool *snapshot, bool *deletion)
{
    struct jheader h;
    struct jrecord r;
    uint32_t at = 0;
    if (jblock_open(block, k.super.seed, &h))
        return;
    for (unsigned i = 0; i < h.records && !jrecord_get(block + JBLOCK_HEADER, h.used, &at, &r); i++)
        if (r.type == JRECORD_CHANGE && r.first_piece && r.length) {
            *snapshot |= r.payload[0] == CHANGE_SNAPSHOT;
            *deletion |= r.payload[0] == CHANGE_DELETE || r.payload[0] == CHANGE_UNSNAPSHOT;
        }
}

/* Looks through the journal blocks of a write; false: it has none. */
static bool look_at_write(const struct iocb *cb, bool *snapshot, bool *deletion)
{
    uint64_t offset = (uint64_t)cb->u.c.offset;
    bool found = false;
    if (cb->aio_lio_opcode != IO_CMD_PWRITEV)
        return false;
    const struct iovec *v = cb->u.c.buf;
    for (unsigned long i = 0; i < cb->u.c.nbytes; i++)
        for (size_t at = 0; at < v[i].iov_len; at += BDEV_BLOCK_SIZE, offset += BDEV_BLOCK_SIZE)
            if (in_journal(cb->aio_fildes, offset)) {
                found = true;
                note_records((const uint8_t *)v[i].iov_base + at, snapshot, deletion);
            }
    return found;
}

/* Hands none, some or all of it to the kernel, and ends. */
_Noreturn static void die_submitting(io_context_t ctx, long n, struct iocb **cbs)
{
    unsigned how = dice(3);
    for (long i = 0; how && i < n; i++)
        if (how == 2 || dice(2))
            real_io_submit(ctx, 1, &cbs[i]);
    die();
}

EXPORT int io_submit(io_context_t ctx, long n, struct iocb **cbs)
{
    bool journal = false, snapshot = false, deletion = false, flush = false;
    if (!k.armed || n <= 0 || file_of(cbs[0]->aio_fildes) != BLOCKS)
        return real_io_submit(ctx, n, cbs);
    for (long i = 0; i < n; i++) {
        journal |= look_at_write(cbs[i], &snapshot, &deletion);
        flush |= cbs[i]->aio_lio_opcode == IO_CMD_FDSYNC;
    }
    if (journal)
        k.serving = true;
    if (journal && in_phase("journal") && chosen("write"))
        die_submitting(ctx, n, cbs);
    bool record = in_phase("snapshot") ? snapshot : in_phase("delete") && deletion;
    bool its_flush = flush && (in_phase("snapshot") ? k.snapshot_unflushed : in_phase("delete") && k.delete_unflushed);
    if ((record && chosen("record")) || (its_flush && chosen("flush")))
        die_submitting(ctx, n, cbs);
    if (flush)
        k.snapshot_unflushed = k.delete_unflushed = false;
    if (snapshot)
        k.snapshot_unflushed = true;
    if (deletion) {
        k.delete_unflushed = true;
        k.deleting = 2; /* one may be under way, whose cut was before */
    }
    return real_io_submit(ctx, n, cbs);
}

/* ---- What blocking calls do ---- */

static bool all_zero(const void *buf, size_t n) { return !n || (!*(const char *)buf && !memcmp(buf, (const char *)buf + 1, n - 1)); }

/* Whether the call, which is about that file, is the one at which the process ends. */
static bool at_point(enum file file, const char *point)
{
    bool catalog = file == CATALOG || file == WITNESS, now = false;
    if (file == OTHER)
        return false;
    if (in_phase("opening"))
        now = catalog && is_main() && !k.replaying;
    else if (in_phase("recovery"))
        now = is_main() && k.replaying && !k.serving;
    else if (in_phase("checkpoint") || (in_phase("delete") && k.deleting > 0))
        now = k.serving && (catalog || !strcmp(point, "tree-write"));
    return now && chosen(point);
}

EXPORT ssize_t pread64(int fd, void *buf, size_t n, off64_t offset)
{
    if (k.armed && !k.serving && file_of(fd) == BLOCKS) {
        bool journal = in_journal(fd, (uint64_t)offset);
        if (journal)
            k.replaying = true;
        if (at_point(BLOCKS, journal ? "journal-read" : "data-read"))
            die();
    }
    return real_pread(fd, buf, n, offset);
}

EXPORT ssize_t pwrite64(int fd, const void *buf, size_t n, off64_t offset)
{
    enum file file = k.armed ? file_of(fd) : OTHER;
    bool growing = file == BLOCKS && all_zero(buf, n);
    if (!growing && at_point(file, file == BLOCKS ? "tree-write" : "catalog-write")) {
        unsigned how = dice(3);
        if (how)
            real_pwrite(fd, buf, how == 2 ? n : file == BLOCKS ? n / 2 / BDEV_BLOCK_SIZE * BDEV_BLOCK_SIZE : n / 2, offset);
        die();
    }
    ssize_t done = real_pwrite(fd, buf, n, offset);
    if (file == WITNESS && k.deleting > 0) /* it is written last: a checkpoint is committed */
        k.deleting--;
    return done;
}

/* Berkeley DB calls it by its older name. */
EXPORT ssize_t pwrite_by_old_name(int fd, const void *buf, size_t n, off64_t offset) __asm__("pwrite");
ssize_t pwrite_by_old_name(int fd, const void *buf, size_t n, off64_t offset) { return pwrite64(fd, buf, n, offset); }

EXPORT ssize_t write(int fd, const void *buf, size_t n)
{
    enum file file = k.armed ? file_of(fd) : OTHER;
    if (at_point(file, "catalog-log-write")) {
        unsigned how = dice(3);
        if (how && real_write(fd, buf, how == 2 ? n : n / 2) < 0)
            abort();
        die();
    }
    return real_write(fd, buf, n);
}

static int synced(int fd, int (*real)(int))
{
    enum file file = k.armed ? file_of(fd) : OTHER;
    if (at_point(file, file == BLOCKS ? "device-sync" : "catalog-sync")) {
        if (dice(2))
            (void)real(fd);
        die();
    }
    return real(fd);
}

EXPORT int fdatasync(int fd) { return synced(fd, real_fdatasync); }
EXPORT int fsync(int fd) { return synced(fd, real_fsync); }
