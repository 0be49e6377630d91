/* source.c - see source.h. */
#include "tools/parallax/source.h"

#include "tools/common/size.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#define SPOOL_CHUNK (1u << 20)

static int interrupted(struct error *err) { return error_set(err, -ECANCELED, "interrupted; nothing was changed"); }

/* Waits until fd can be read. */
static int wait_readable(int fd, struct cli *cli, struct error *err)
{
    struct pollfd p[2] = { { .fd = fd, .events = POLLIN }, { .fd = cli->cancel_fd, .events = POLLIN } };
    while (poll(p, 2, -1) < 0)
        if (errno != EINTR)
            return error_set(err, -errno, "waiting for input failed: %s", strerror(errno));
    return p[1].revents ? interrupted(err) : 0;
}

/* Reads up to length bytes of a stream; fewer only at its end. */
static ssize_t read_stream(struct source *s, struct cli *cli, void *buf, size_t length, struct error *err)
{
    size_t have = 0;
    while (have < length) {
        if (wait_readable(s->fd, cli, err))
            return err->code;
        ssize_t n = read(s->fd, (char *)buf + have, length - have);
        if (n == 0)
            break;
        if (n < 0 && errno != EINTR && errno != EAGAIN)
            return error_set(err, -errno, "reading %s failed: %s", s->name, strerror(errno));
        have += n > 0 ? (size_t)n : 0;
    }
    return (ssize_t)have;
}

static bool all_zero(const unsigned char *p, size_t length) { return length == 0 || (*p == 0 && memcmp(p, p + 1, length - 1) == 0); }

static int spool_chunk(int fd, const unsigned char *buf, size_t length, uint64_t at, const char *directory, struct error *err)
{
    for (size_t done = 0; done < length;) {
        ssize_t n = pwrite(fd, buf + done, length - done, (off_t)(at + done));
        if (n < 0 && errno != EINTR)
            return error_set(err, -errno, "cannot keep the input in %s: %s; set TMPDIR to a directory with room, or tell its length with --size",
                             directory, strerror(errno));
        done += n > 0 ? (size_t)n : 0;
    }
    return 0;
}

/* Copies the stream to a file without a name, which takes its place. */
static int spool(struct source *s, uint64_t most, struct cli *cli, struct error *err)
{
    const char *env = getenv("TMPDIR"), *directory = env && *env ? env : "/var/tmp";
    int fd = open(directory, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    unsigned char *buf = malloc(SPOOL_CHUNK);
    uint64_t at = 0;
    ssize_t n = 0;
    if (fd < 0)
        error_set(err, -errno, "cannot make a temporary file in %s: %s; set TMPDIR, or tell the input's length with --size", directory, strerror(errno));
    else if (!buf)
        error_set(err, -ENOMEM, "out of memory");
    while (!err->code && (n = read_stream(s, cli, buf, SPOOL_CHUNK, err)) > 0) {
        if (!all_zero(buf, (size_t)n))
            spool_chunk(fd, buf, (size_t)n, at, directory, err);
        at += (uint64_t)n;
        if (at > most)
            error_set(err, -EFBIG, "standard input has more than the %llu bytes that fit; nothing was written", (unsigned long long)most);
    }
    free(buf);
    if (!err->code && ftruncate(fd, (off_t)at) < 0)
        error_set(err, -errno, "cannot keep the input in %s: %s", directory, strerror(errno));
    if (err->code) {
        if (fd >= 0)
            close(fd);
        return err->code;
    }
    s->fd = fd;
    s->length = at;
    s->holes = true;
    return 0;
}

static int measure(struct source *s, const struct stat *st, struct error *err)
{
    if (S_ISREG(st->st_mode)) {
        off_t at = s->fd == STDIN_FILENO ? lseek(s->fd, 0, SEEK_CUR) : 0;
        s->start = at > 0 ? (uint64_t)at : 0;
        s->length = (uint64_t)st->st_size > s->start ? (uint64_t)st->st_size - s->start : 0;
        s->holes = true;
        return 0;
    }
    return ioctl(s->fd, BLKGETSIZE64, &s->length) < 0 ? error_set(err, -errno, "cannot tell the size of %s: %s", s->name, strerror(errno)) : 0;
}

static int open_path(struct source *s, const char *path, struct stat *st, struct error *err)
{
    s->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (s->fd < 0 || fstat(s->fd, st) < 0)
        return error_set(err, -errno, "cannot open '%.200s': %s", path, strerror(errno));
    if (S_ISDIR(st->st_mode))
        return error_set(err, -EISDIR, "'%.200s' is a directory, not an image file", path);
    if (!S_ISREG(st->st_mode) && !S_ISBLK(st->st_mode))
        return error_set(err, -EINVAL, "'%.200s' is neither a file nor a block device; pipe it in and name it -", path);
    return 0;
}

int source_open(struct source *s, const char *path, uint64_t announced, uint64_t most, struct cli *cli, struct error *err)
{
    struct stat st;
    bool standard = !strcmp(path, "-");
    *s = (struct source){ .fd = standard ? STDIN_FILENO : -1, .name = standard ? "standard input" : path };
    if (standard && fstat(STDIN_FILENO, &st) < 0)
        return error_set(err, -errno, "standard input cannot be read: %s", strerror(errno));
    if (!standard && open_path(s, path, &st, err)) {
        source_close(s);
        return err->code;
    }
    int bad;
    if (S_ISREG(st.st_mode) || S_ISBLK(st.st_mode))
        bad = measure(s, &st, err);
    else if (S_ISDIR(st.st_mode))
        bad = error_set(err, -EISDIR, "standard input is a directory");
    else if (announced == 0)
        bad = spool(s, most, cli, err);
    else {
        s->length = announced;
        s->streamed = true;
        return 0;
    }
    if (!bad && announced && announced != s->length)
        bad = error_set(err, -EINVAL, "%.200s has %llu bytes, not the %llu announced", s->name, (unsigned long long)s->length,
                        (unsigned long long)announced);
    if (!bad && s->length == 0)
        bad = error_set(err, -ENODATA, "%.200s is empty", s->name);
    if (bad)
        source_close(s);
    return bad;
}

void source_close(struct source *s)
{
    if (s->fd > STDIN_FILENO)
        close(s->fd);
    s->fd = -1;
}

/* What lies behind the end of a file that became shorter is no hole. */
static bool became_shorter(const struct source *s)
{
    struct stat st;
    return fstat(s->fd, &st) < 0 || (uint64_t)st.st_size < s->start + s->length;
}

bool source_data(const struct source *s, uint64_t offset, uint64_t *begin, uint64_t *end)
{
    *begin = offset;
    *end = s->length;
    if (offset >= s->length)
        return false;
    off_t data = s->holes ? lseek(s->fd, (off_t)(s->start + offset), SEEK_DATA) : -1;
    if (data < 0)
        return !s->holes || errno != ENXIO || became_shorter(s);
    off_t hole = lseek(s->fd, data, SEEK_HOLE);
    *begin = (uint64_t)data - s->start;
    if (hole > data && (uint64_t)hole - s->start < s->length)
        *end = (uint64_t)hole - s->start;
    return *begin < s->length;
}

static int too_short(const struct source *s, uint64_t at, struct error *err)
{
    return error_set(err, -ENODATA, "%.200s ended after %llu of %llu bytes", s->name, (unsigned long long)at, (unsigned long long)s->length);
}

int source_read(struct source *s, struct cli *cli, uint64_t offset, void *buf, size_t length, struct error *err)
{
    if (cli_cancelled(cli))
        return interrupted(err);
    if (s->streamed) {
        ssize_t got = read_stream(s, cli, buf, length, err);
        return got < 0 ? (int)got : (size_t)got < length ? too_short(s, offset + (uint64_t)got, err) : 0;
    }
    for (size_t done = 0; done < length;) {
        ssize_t n = pread(s->fd, (char *)buf + done, length - done, (off_t)(s->start + offset + done));
        if (n == 0)
            return too_short(s, offset + done, err);
        if (n < 0 && errno != EINTR)
            return error_set(err, -errno, "reading %.200s failed at byte %llu: %s", s->name, (unsigned long long)(offset + done), strerror(errno));
        done += n > 0 ? (size_t)n : 0;
    }
    return 0;
}

int source_at_end(struct source *s, struct cli *cli, struct error *err)
{
    char byte;
    if (!s->streamed)
        return 0;
    ssize_t n = read_stream(s, cli, &byte, 1, err);
    if (n > 0)
        return error_set(err, -EFBIG, "%s goes on after the %llu bytes announced", s->name, (unsigned long long)s->length);
    return n < 0 ? (int)n : 0;
}
