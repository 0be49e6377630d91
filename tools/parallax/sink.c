/* sink.c - see sink.h. */
#include "tools/parallax/sink.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#define UNIT 4096u
#define STREAM_PIECE (64u << 10)

static const unsigned char zeroes[STREAM_PIECE];

/* ---- Opening ---- */

/* The directory part of path, "." if it has none. */
static void directory_of(const char *path, char out[PATH_MAX])
{
    const char *slash = strrchr(path, '/');
    if (!slash)
        snprintf(out, PATH_MAX, ".");
    else
        snprintf(out, PATH_MAX, "%.*s", slash == path ? 1 : (int)(slash - path), path);
}

static const char *base_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* The store's own files are never a destination. */
static int refuse_store(const struct sink *s, struct error *err)
{
    char directory[PATH_MAX], real[PATH_MAX];
    size_t n = strlen(s->cli->store_key);
    directory_of(s->path, directory);
    if (!realpath(directory, real) || strncmp(real, s->cli->store_key, n) || (real[n] && real[n] != '/'))
        return 0;
    return error_set(err, -EPERM, "'%.200s' lies in the store itself; export to another directory", s->path);
}

/* Whether a loop device shows this file. Files that cannot be it are not looked at: they may lie on a file system that does
 * not answer. */
static bool behind_loop(const char *name, const struct stat *st)
{
    for (unsigned i = 0; i < 256; i++) {
        char node[64], path[PATH_MAX + 1];
        struct stat other;
        snprintf(node, sizeof node, "/sys/block/loop%u/loop/backing_file", i);
        FILE *f = fopen(node, "re");
        if (!f)
            continue;
        bool same = fgets(path, sizeof path, f) != NULL;
        fclose(f);
        if (same)
            path[strcspn(path, "\n")] = '\0';
        same = same && (st->st_nlink > 1 || !strcmp(base_of(path), base_of(name)));
        if (same && stat(path, &other) == 0 && other.st_dev == st->st_dev && other.st_ino == st->st_ino)
            return true;
    }
    return false;
}

static int open_device(struct sink *s, struct error *err)
{
    if (!s->force)
        return error_set(err, -EEXIST, "'%.200s' is a device; use --force to overwrite it", s->path);
    s->kind = SINK_DEVICE;
    /* The kernel refuses O_EXCL while the device or a part of it is mounted, swap or part of a volume. */
    s->fd = open(s->path, O_WRONLY | O_EXCL | O_CLOEXEC);
    if (s->fd < 0 && errno == EBUSY)
        return error_set(err, -EBUSY, "'%.200s' is in use (mounted, swap, or part of a volume); it was not touched", s->path);
    return s->fd < 0 ? error_set(err, -errno, "cannot open '%.200s': %s", s->path, strerror(errno)) : 0;
}

static int open_file(struct sink *s, struct error *err)
{
    char directory[PATH_MAX];
    s->kind = SINK_FILE;
    directory_of(s->path, directory);
    bool can_be_named = access("/proc/self/fd", X_OK) == 0; /* a file that has no name gets one by that */
    s->fd = can_be_named ? open(directory, O_TMPFILE | O_WRONLY | O_CLOEXEC, 0666) : -1;
    if (s->fd >= 0)
        return 0;
    if (!can_be_named || errno == EOPNOTSUPP || errno == EISDIR) {
        int n = snprintf(s->temporary, sizeof s->temporary, "%s/.%.200s.XXXXXX", directory, base_of(s->path));
        s->fd = n < (int)sizeof s->temporary ? mkostemp(s->temporary, O_CLOEXEC) : -1;
        s->named = s->fd >= 0;
    }
    return s->fd < 0 ? error_set(err, -errno, "cannot make a file in '%.200s': %s", directory, strerror(errno)) : 0;
}

int sink_open(struct sink *s, struct cli *cli, const char *path, bool force, const char *format, struct error *err)
{
    struct stat st;
    *s = (struct sink){ .kind = SINK_STREAM, .fd = STDOUT_FILENO, .force = force, .cli = cli, .format = format };
    if (!strcmp(path, "-"))
        return format ? error_set(err, -EINVAL, "a %s image is written in any order, and needs a file", format) : 0;
    s->fd = -1;
    if (strlen(path) >= sizeof s->path || !*base_of(path))
        return error_set(err, -EINVAL, "'%.200s' is no name for a file", path);
    /* What a link points at is replaced, not the link. */
    if (!realpath(path, s->path)) {
        if (lstat(path, &st) == 0 && S_ISLNK(st.st_mode))
            return error_set(err, -ENOENT, "'%.200s' is a link that leads to nothing; remove it, or name another file", path);
        snprintf(s->path, sizeof s->path, "%s", path);
    }
    if (refuse_store(s, err))
        return err->code;
    if (stat(path, &st) < 0)
        return errno == ENOENT ? open_file(s, err) : error_set(err, -errno, "cannot look at '%.200s': %s", path, strerror(errno));
    if (format && !S_ISREG(st.st_mode))
        return error_set(err, -EINVAL, "a %s image needs a file, which '%.200s' is not", format, path);
    if (S_ISBLK(st.st_mode))
        return open_device(s, err);
    if (S_ISFIFO(st.st_mode)) {
        s->fd = open(s->path, O_WRONLY | O_CLOEXEC);
        return s->fd < 0 ? error_set(err, -errno, "cannot open '%.200s': %s", path, strerror(errno)) : 0;
    }
    if (!S_ISREG(st.st_mode))
        return error_set(err, -EINVAL, "'%.200s' is neither a file nor a block device", path);
    if (!force)
        return error_set(err, -EEXIST, "'%.200s' exists; use --force to replace it", path);
    if (behind_loop(s->path, &st))
        return error_set(err, -EBUSY, "'%.200s' is in use as a loop device; it was not touched", path);
    return open_file(s, err);
}

int sink_begin(struct sink *s, uint64_t size, struct error *err)
{
    uint64_t room;
    s->size = size;
    if (s->format)
        return encoder_open(s->fd, s->format, size, s->cli, &s->encoder, err);
    if (s->kind == SINK_FILE && ftruncate(s->fd, (off_t)size) < 0)
        return error_set(err, -errno, "cannot make '%.200s' %llu bytes long: %s", s->path, (unsigned long long)size, strerror(errno));
    if (s->kind == SINK_DEVICE && ioctl(s->fd, BLKGETSIZE64, &room) < 0)
        return error_set(err, -errno, "cannot tell the size of '%.200s': %s", s->path, strerror(errno));
    if (s->kind == SINK_DEVICE && room < size)
        return error_set(err, -ENOSPC, "'%.200s' has %llu bytes, the image %llu; it was not touched", s->path, (unsigned long long)room,
                         (unsigned long long)size);
    return 0;
}

/* ---- Writing ---- */

static int write_failed(const struct sink *s, struct error *err)
{
    const char *what = s->kind == SINK_STREAM && !*s->path ? "standard output" : s->path;
    return error_set(err, -errno, "writing to %.200s failed: %s", what, strerror(errno));
}

static int stream_bytes(struct sink *s, const void *data, size_t length, struct error *err)
{
    const char *p = data;
    while (length) {
        struct pollfd fds[2] = { { .fd = s->fd, .events = POLLOUT }, { .fd = s->cli->cancel_fd, .events = POLLIN } };
        if (poll(fds, 2, -1) < 0 && errno != EINTR)
            return write_failed(s, err);
        if (cli_cancelled(s->cli))
            return error_set(err, -ECANCELED, "interrupted");
        ssize_t n = write(s->fd, p, length < STREAM_PIECE ? length : STREAM_PIECE);
        if (n < 0 && errno != EINTR && errno != EAGAIN)
            return write_failed(s, err);
        p += n > 0 ? n : 0;
        length -= n > 0 ? (size_t)n : 0;
    }
    return 0;
}

static int put_bytes(struct sink *s, uint64_t offset, const void *data, size_t length, struct error *err)
{
    for (size_t done = 0; done < length;) {
        ssize_t n = pwrite(s->fd, (const char *)data + done, length - done, (off_t)(offset + done));
        if (n < 0 && errno != EINTR)
            return write_failed(s, err);
        done += n > 0 ? (size_t)n : 0;
    }
    return 0;
}

/* Zeroes from s->at to offset. */
static int fill_gap(struct sink *s, uint64_t offset, struct error *err)
{
    uint64_t range[2] = { s->at, offset - s->at };
    if (s->kind == SINK_FILE || offset == s->at)
        return 0;
    if (s->kind == SINK_DEVICE && ioctl(s->fd, BLKZEROOUT, range) == 0)
        return 0;
    for (uint64_t at = s->at; at < offset && !err->code;) {
        size_t n = offset - at < sizeof zeroes ? (size_t)(offset - at) : sizeof zeroes;
        if (s->kind == SINK_STREAM)
            stream_bytes(s, zeroes, n, err);
        else
            put_bytes(s, at, zeroes, n, err);
        at += n;
    }
    return err->code;
}

/* Writes a file's blocks that are not zero. */
static int put_sparse(struct sink *s, uint64_t offset, const unsigned char *data, size_t length, struct error *err)
{
    size_t begin = 0, at = 0;
    while (at < length) {
        size_t unit = length - at < UNIT ? length - at : UNIT;
        bool zero = !memcmp(data + at, zeroes, unit);
        if (zero && at > begin && put_bytes(s, offset + begin, data + begin, at - begin, err))
            return err->code;
        at += unit;
        if (zero)
            begin = at;
    }
    return at > begin ? put_bytes(s, offset + begin, data + begin, at - begin, err) : 0;
}

int sink_write(struct sink *s, uint64_t offset, const void *data, size_t length, struct error *err)
{
    if (offset < s->at || length > s->size || offset > s->size - length)
        return error_set(err, -EPROTO, "the server sent data out of order");
    if (fill_gap(s, offset, err))
        return err->code;
    s->at = offset + length;
    if (s->encoder)
        return encoder_write(s->encoder, offset, data, length, err);
    if (s->kind == SINK_FILE)
        return put_sparse(s, offset, data, length, err);
    return s->kind == SINK_DEVICE ? put_bytes(s, offset, data, length, err) : stream_bytes(s, data, length, err);
}

/* ---- Finishing ---- */

static int exists(const struct sink *s, struct error *err)
{
    return error_set(err, -EEXIST, "'%.200s' appeared meanwhile; use --force to replace it", s->path);
}

/* Gives a file without a name one beside its destination, to be renamed. */
static int give_temporary_name(struct sink *s, const char *self, struct error *err)
{
    char directory[PATH_MAX];
    directory_of(s->path, directory);
    int n = snprintf(s->temporary, sizeof s->temporary, "%s/.%.200s.%d", directory, base_of(s->path), (int)getpid());
    if (n >= (int)sizeof s->temporary || linkat(AT_FDCWD, self, AT_FDCWD, s->temporary, AT_SYMLINK_FOLLOW) < 0)
        return error_set(err, -errno, "cannot name '%.200s': %s", s->path, strerror(errno));
    s->named = true;
    return 0;
}

/* Gives the new file the list of who else may read the old one, or none if that had none. Without it the group's bits of a mode may be
 * those of somebody named there. */
static bool hand_list_on(const struct sink *s)
{
    static const char list[] = "system.posix_acl_access";
    char bytes[4096];
    ssize_t n = getxattr(s->path, list, bytes, sizeof bytes);
    if (n >= 0)
        return fsetxattr(s->fd, list, bytes, (size_t)n, 0) == 0;
    if (errno != ENODATA && errno != EOPNOTSUPP)
        return false;
    return fremovexattr(s->fd, list) == 0 || errno == ENODATA || errno == EOPNOTSUPP;
}

/* A file that is replaced hands its owner, group, mode and list of access on, as far as we may give them: who could not read the one
 * cannot read the other. */
static void hand_rights_on(struct sink *s)
{
    struct stat old;
    if (!s->force || stat(s->path, &old) < 0)
        return;
    mode_t mode = old.st_mode & 0777;
    if (fchown(s->fd, old.st_uid, old.st_gid) < 0 && fchown(s->fd, (uid_t)-1, old.st_gid) < 0)
        mode &= ~(mode_t)S_IRWXG; /* it was for another group than ours */
    if (!hand_list_on(s))
        mode &= ~(mode_t)S_IRWXG;
    fchmod(s->fd, mode); /* refused by file systems that have no modes */
}

static int give_name(struct sink *s, struct error *err)
{
    char self[64];
    snprintf(self, sizeof self, "/proc/self/fd/%d", s->fd);
    if (!s->named && !s->force) {
        if (linkat(AT_FDCWD, self, AT_FDCWD, s->path, AT_SYMLINK_FOLLOW) == 0)
            return 0;
        return errno == EEXIST ? exists(s, err) : error_set(err, -errno, "cannot name '%.200s': %s", s->path, strerror(errno));
    }
    if (!s->named && give_temporary_name(s, self, err))
        return err->code;
    if (renameat2(AT_FDCWD, s->temporary, AT_FDCWD, s->path, s->force ? 0 : RENAME_NOREPLACE) < 0)
        return errno == EEXIST ? exists(s, err) : error_set(err, -errno, "cannot name '%.200s': %s", s->path, strerror(errno));
    s->named = false;
    return 0;
}

static int sync_directory(const struct sink *s, struct error *err)
{
    char directory[PATH_MAX];
    directory_of(s->path, directory);
    int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC), bad = 0;
    if (fd < 0 || fsync(fd) < 0)
        bad = error_set(err, -errno, "cannot make '%.200s' durable: %s", s->path, strerror(errno));
    if (fd >= 0)
        close(fd);
    return bad;
}

int sink_finish(struct sink *s, struct error *err)
{
    if (fill_gap(s, s->size, err) || (s->encoder && encoder_finish(s->encoder, err)))
        return err->code;
    if (s->kind == SINK_STREAM)
        return 0;
    if (s->kind == SINK_FILE)
        hand_rights_on(s);
    if (fsync(s->fd) < 0)
        return error_set(err, -errno, "cannot make '%.200s' durable: %s", s->path, strerror(errno));
    if (s->kind == SINK_DEVICE)
        return 0;
    return give_name(s, err) ? err->code : sync_directory(s, err);
}

void sink_close(struct sink *s)
{
    if (s->encoder)
        encoder_close(s->encoder);
    s->encoder = NULL;
    if (s->named)
        unlink(s->temporary);
    if (s->fd > STDERR_FILENO)
        close(s->fd);
    s->fd = -1;
}
