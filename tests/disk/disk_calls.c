/* disk_calls.c - the calls of the C library that change files, as this program has them: passed on to the kernel, and recorded
 * if the file is a watched one. See disk.h.
 *
 * 1. A descriptor is a watched file's if the path it was opened by lies below the directory watched; that is looked up once,
 *    when it is opened. O_DIRECT is left out: the directory may lie in memory.
 * 2. A change that the record cannot see (a shared writable mapping, a vectored write) or has not seen (a file that nobody
 *    made) ends the program.
 * 3. The calls are visible to shared libraries, which then find them before their own. */
#undef _FILE_OFFSET_BITS /* both names of each call are defined here, and they are the same on 64 bits */
#include "tests/disk/disk_private.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#pragma GCC visibility push(default)

#define DESCRIPTORS 1024

char disk_directory[512];
bool disk_watching;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static void (*at_boundary)(bool flush);
static void (*at_read)(const char *name, uint64_t offset, uint64_t length);
static struct {
    struct disk_file *file;
    char *directory; /* a watched directory: its name */
    bool synchronous;
} descriptors[DESCRIPTORS];

void disk_lock(void) { pthread_mutex_lock(&lock); }
void disk_unlock(void) { pthread_mutex_unlock(&lock); }
void disk_at_boundary(void (*boundary)(bool flush)) { at_boundary = boundary; }

void disk_at_read(void (*read_hook)(const char *name, uint64_t offset, uint64_t length)) { at_read = read_hook; }

void disk_note_read(const struct disk_file *f, uint64_t offset, uint64_t length)
{
    if (f && f->name && at_read && length)
        at_read(f->name, offset, length);
}

void disk_boundary(bool flush)
{
    if (disk_watching && at_boundary)
        at_boundary(flush);
}

struct disk_file *disk_file_of(int fd) { return disk_watching && fd >= 0 && fd < DESCRIPTORS ? descriptors[fd].file : NULL; }

static void forget(int fd)
{
    if (fd < 0 || fd >= DESCRIPTORS)
        return;
    free(descriptors[fd].directory);
    memset(&descriptors[fd], 0, sizeof descriptors[fd]);
}

void disk_forget_descriptors(void)
{
    for (int fd = 0; fd < DESCRIPTORS; fd++)
        forget(fd);
}

ssize_t disk_real_pread(int fd, void *buf, size_t length, off_t at) { return syscall(SYS_pread64, fd, buf, length, at); }
ssize_t disk_real_pwrite(int fd, const void *buf, size_t length, off_t at) { return syscall(SYS_pwrite64, fd, buf, length, at); }

/* The path of an open descriptor, or of a name seen from one, relative to the directory watched; NULL: elsewhere. */
static const char *watched_part(const char *path)
{
    size_t n = strlen(disk_directory);
    if (!disk_watching || strncmp(path, disk_directory, n) != 0 || (path[n] && path[n] != '/'))
        return NULL;
    return path[n] ? path + n + 1 : "";
}

static bool path_of(int fd, char path[PATH_MAX])
{
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = syscall(SYS_readlinkat, AT_FDCWD, link, path, PATH_MAX - 1);
    path[n < 0 ? 0 : n] = 0;
    return n > 0;
}

static const char *watched_name(int directory_fd, const char *name, char path[PATH_MAX])
{
    size_t n = 0;
    int named_fd, skip = 0;
    if (!disk_watching)
        return NULL;
    if (sscanf(name, "/proc/self/fd/%d/%n", &named_fd, &skip) == 1 && skip) { /* as Berkeley DB names its files */
        directory_fd = named_fd;
        name += skip;
    }
    if (name[0] != '/' && directory_fd != AT_FDCWD && path_of(directory_fd, path))
        n = strlen(path);
    if (n)
        path[n++] = '/';
    snprintf(path + n, PATH_MAX - n, "%s", name);
    return watched_part(path);
}

/* Before a call: true if it is to fail, with errno set. */
static bool fails(unsigned kind, struct disk_fault *f)
{
    if (!disk_meets_fault(kind, f))
        return false;
    errno = f->error;
    return true;
}

/* ---- Opening and names ---- */

static void note_open(int fd, int flags)
{
    char path[PATH_MAX];
    struct stat st;
    const char *name = path_of(fd, path) ? watched_part(path) : NULL;
    forget(fd);
    if (!name || fd >= DESCRIPTORS || fstat(fd, &st) < 0)
        return;
    if (S_ISDIR(st.st_mode)) {
        descriptors[fd].directory = strdup(name);
        return;
    }
    struct disk_file *f = disk_file_by_inode(st.st_ino);
    bool made = !f;
    if (made) {
        if (!(flags & O_CREAT)) /* somebody made it behind our back */
            abort();
        f = disk_file_new(name, st.st_ino);
        struct disk_change *c = disk_change_new(DISK_CREATE, f, 0, 0, NULL);
        c->name = strdup(name);
        c->completed = disk_now();
    } else if (flags & O_TRUNC) {
        disk_change_new(DISK_TRUNCATE, f, 0, 0, NULL)->completed = disk_now();
    }
    descriptors[fd].file = f;
    descriptors[fd].synchronous = flags & O_DSYNC;
    if (made)
        disk_boundary(false);
}

static int open_at(int directory_fd, const char *name, int flags, mode_t mode)
{
    char path[PATH_MAX];
    struct disk_fault fault;
    disk_lock();
    bool watched = watched_name(directory_fd, name, path);
    int fd = watched && fails(DISK_NAME, &fault) ? -1 : (int)syscall(SYS_openat, directory_fd, name, watched ? flags & ~O_DIRECT : flags, mode);
    if (fd >= 0)
        note_open(fd, flags);
    disk_unlock();
    return fd;
}

#define OPEN_MODE(flags)                            \
    mode_t mode = 0;                                \
    if ((flags) & (O_CREAT | __O_TMPFILE)) {        \
        va_list ap;                                 \
        va_start(ap, flags);                        \
        mode = va_arg(ap, mode_t);                  \
        va_end(ap);                                 \
    }

int open(const char *name, int flags, ...)
{
    OPEN_MODE(flags)
    return open_at(AT_FDCWD, name, flags, mode);
}

int openat(int directory_fd, const char *name, int flags, ...)
{
    OPEN_MODE(flags)
    return open_at(directory_fd, name, flags, mode);
}

int close(int fd)
{
    disk_lock();
    forget(fd);
    int rc = (int)syscall(SYS_close, fd);
    disk_unlock();
    return rc;
}

static int remove_name(int directory_fd, const char *name, int flags)
{
    char path[PATH_MAX];
    struct disk_fault fault;
    disk_lock();
    const char *watched = watched_name(directory_fd, name, path);
    int rc = watched && fails(DISK_NAME, &fault) ? -1 : (int)syscall(SYS_unlinkat, directory_fd, name, flags);
    struct disk_file *f = rc == 0 && watched ? disk_file_by_name(watched) : NULL;
    if (f) {
        struct disk_change *c = disk_change_new(DISK_REMOVE, f, 0, 0, NULL);
        c->name = f->name;
        c->completed = disk_now();
        f->name = NULL;
        f->inode = 0;
        disk_boundary(false);
    }
    disk_unlock();
    return rc;
}

int unlink(const char *name) { return remove_name(AT_FDCWD, name, 0); }
int unlinkat(int directory_fd, const char *name, int flags) { return remove_name(directory_fd, name, flags); }

int renameat(int from_fd, const char *from, int to_fd, const char *to)
{
    char from_path[PATH_MAX], to_path[PATH_MAX];
    struct disk_fault fault;
    disk_lock();
    const char *old = watched_name(from_fd, from, from_path), *new = watched_name(to_fd, to, to_path);
    int rc = old && new && fails(DISK_NAME, &fault) ? -1 : (int)syscall(SYS_renameat2, from_fd, from, to_fd, to, 0);
    struct disk_file *f = rc == 0 && old && new ? disk_file_by_name(old) : NULL;
    if (f) {
        struct disk_change *c = disk_change_new(DISK_RENAME, f, 0, 0, NULL);
        c->replaced = disk_file_by_name(new);
        if (c->replaced) {
            free(c->replaced->name);
            c->replaced->name = NULL;
            c->replaced->inode = 0;
        }
        c->name = f->name;
        c->to = strdup(new);
        c->completed = disk_now();
        f->name = strdup(new);
        disk_boundary(false);
    }
    disk_unlock();
    return rc;
}

int rename(const char *from, const char *to) { return renameat(AT_FDCWD, from, AT_FDCWD, to); }

/* ---- Data ---- */

/* at < 0: where the descriptor stands. */
static ssize_t put(int fd, const void *buf, size_t length, off_t at)
{
    struct disk_fault fault = { 0 };
    disk_lock();
    struct disk_file *f = disk_file_of(fd);
    bool bad = f && disk_meets_fault(DISK_WRITE, &fault);
    size_t part = bad && fault.manner == DISK_SHORT ? length / 2 & ~511ul : length;
    if (bad && (fault.manner == DISK_FAILS || !part)) {
        disk_unlock();
        errno = fault.error;
        return -1;
    }
    off_t from = at < 0 && f ? lseek(fd, 0, SEEK_CUR) : at;
    ssize_t n = at < 0 ? syscall(SYS_write, fd, buf, part) : disk_real_pwrite(fd, buf, part, at);
    int error = errno;
    if (f && n > 0) {
        disk_change_new(DISK_DATA, f, (uint64_t)from, (uint64_t)n, buf)->completed = disk_now();
        disk_boundary(false);
        if (descriptors[fd].synchronous) {
            disk_flushed(f, disk_now());
            disk_boundary(true);
        }
    }
    disk_unlock();
    errno = bad ? fault.error : error;
    return bad && fault.manner == DISK_LATE ? -1 : n;
}

ssize_t write(int fd, const void *buf, size_t length) { return put(fd, buf, length, -1); }
ssize_t pwrite(int fd, const void *buf, size_t length, off_t at) { return put(fd, buf, length, at); }

static ssize_t get(int fd, void *buf, size_t length, off_t at)
{
    struct disk_fault fault = { 0 };
    disk_lock();
    struct disk_file *f = disk_file_of(fd);
    bool bad = f && disk_meets_fault(DISK_READ, &fault);
    if (f)
        disk_note_read(f, (uint64_t)(at < 0 ? lseek(fd, 0, SEEK_CUR) : at), length);
    disk_unlock();
    if (bad && fault.manner != DISK_SHORT) {
        errno = fault.error;
        return -1;
    }
    length = bad ? length / 2 & ~511ul : length;
    return at < 0 ? syscall(SYS_read, fd, buf, length) : disk_real_pread(fd, buf, length, at);
}

ssize_t read(int fd, void *buf, size_t length) { return get(fd, buf, length, -1); }
ssize_t pread(int fd, void *buf, size_t length, off_t at) { return get(fd, buf, length, at); }

static int flush(int fd)
{
    struct disk_fault fault = { 0 };
    disk_lock();
    struct disk_file *f = disk_file_of(fd);
    const char *directory = disk_watching && fd >= 0 && fd < DESCRIPTORS ? descriptors[fd].directory : NULL;
    if (!f && !directory) {
        disk_unlock();
        return (int)syscall(SYS_fdatasync, fd);
    }
    disk_boundary(true);
    bool bad = disk_meets_fault(DISK_FLUSH, &fault);
    if (!bad || fault.manner == DISK_LATE) {
        if (f)
            disk_flushed(f, disk_now());
        else
            disk_directory_flushed(directory);
        disk_boundary(true);
    }
    disk_unlock();
    errno = bad ? fault.error : errno;
    return bad ? -1 : 0;
}

int fsync(int fd) { return flush(fd); }
int fdatasync(int fd) { return flush(fd); }

/* ---- Sizes ---- */

/* Allocating below the watched directory makes a file longer and takes no memory. */
static int lengthen(int fd, off_t end)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return -1;
    return end > st.st_size ? (int)syscall(SYS_ftruncate, fd, end) : 0;
}

static int change_space(int fd, enum disk_change_kind kind, int mode, off_t offset, off_t length)
{
    struct disk_fault fault = { 0 };
    disk_lock();
    struct disk_file *f = disk_file_of(fd);
    bool bad = f && disk_meets_fault(DISK_SPACE, &fault);
    int rc = -1;
    if (!bad || fault.manner == DISK_LATE)
        rc = kind == DISK_TRUNCATE ? (int)syscall(SYS_ftruncate, fd, length)
             : kind == DISK_ALLOCATE && f ? lengthen(fd, offset + length)
                                          : (int)syscall(SYS_fallocate, fd, mode, offset, length);
    int error = errno;
    if (f && rc == 0) {
        disk_change_new(kind, f, (uint64_t)offset, (uint64_t)length, NULL)->completed = disk_now();
        disk_boundary(false);
    }
    disk_unlock();
    errno = bad ? fault.error : error;
    return bad ? -1 : rc;
}

int ftruncate(int fd, off_t length) { return change_space(fd, DISK_TRUNCATE, 0, 0, length); }

int fallocate(int fd, int mode, off_t offset, off_t length)
{
    if (disk_file_of(fd) && mode && mode != (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE))
        abort();
    return change_space(fd, mode ? DISK_PUNCH : DISK_ALLOCATE, mode, offset, length);
}

int posix_fallocate(int fd, off_t offset, off_t length) { return fallocate(fd, 0, offset, length) < 0 ? errno : 0; }

/* ---- What the record cannot see ---- */

void *mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset)
{
    if (disk_file_of(fd) && (protection & PROT_WRITE) && (flags & MAP_SHARED))
        abort();
    return (void *)syscall(SYS_mmap, address, length, protection, flags, fd, offset);
}

ssize_t writev(int fd, const struct iovec *iov, int count)
{
    if (disk_file_of(fd))
        abort();
    return syscall(SYS_writev, fd, iov, count);
}

ssize_t pwritev(int fd, const struct iovec *iov, int count, off_t at)
{
    if (disk_file_of(fd))
        abort();
    return syscall(SYS_pwritev, fd, iov, count, at, 0);
}

#define SAME(name) __attribute__((alias(#name)))
int open64(const char *name, int flags, ...) SAME(open);
int openat64(int directory_fd, const char *name, int flags, ...) SAME(openat);
ssize_t pwrite64(int fd, const void *buf, size_t length, off_t at) SAME(pwrite);
ssize_t pread64(int fd, void *buf, size_t length, off_t at) SAME(pread);
int ftruncate64(int fd, off_t length) SAME(ftruncate);
int fallocate64(int fd, int mode, off_t offset, off_t length) SAME(fallocate);
int posix_fallocate64(int fd, off_t offset, off_t length) SAME(posix_fallocate);
void *mmap64(void *address, size_t length, int protection, int flags, int fd, off_t offset) SAME(mmap);
ssize_t pwritev64(int fd, const struct iovec *iov, int count, off_t at) SAME(pwritev);
