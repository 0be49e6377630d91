/* image_check.c - see image_check.h.
 *
 * qemu-img, confined, judges one file after the other: its tables (check), then where its data lie (map), which must be inside the
 * file that holds them. What a chain consists of it says, too (info). */
#include "tools/parallax/image_check.h"

#include "tools/parallax/confine.h"
#include "tools/parallax/converter.h"
#include "tools/parallax/source.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define LINE_MAX_BYTES 512u
#define SECTOR_BYTES 512u
#define DESCRIPTION_MAX (1u << 20) /* bytes that qemu-img may say of a chain */

struct check {
    struct cli *cli;
    struct error *err;
    const char *format;
    int fd;                /* the file that is looked at */
    bool other_files;      /* it needs others */
    struct converter v;    /* qemu-img's messages */
    uint64_t data_bytes;   /* how long the file is that holds its data */
    char line[LINE_MAX_BYTES];
    size_t line_bytes;
    FILE *description;
};

static int damaged(struct check *k, const char *what)
{
    char why[200];
    const char *complaint = converter_complaint(&k->v, why);
    if (strstr(complaint, "key-secret")) /* the option by which QEMU would be told the key */
        return error_set(k->err, -ENOTSUP, "it is encrypted, which is not read; decrypt it with qemu-img convert first");
    return error_set(k->err, -EINVAL, "%s: %s", what, *complaint ? complaint : "qemu-img says no more");
}

/* ---- qemu-img ---- */

/* Hears it out until it ends; the user may have enough of it. */
static void hear(struct check *k, int pidfd, int *output, void (*take)(struct check *k, const char *bytes, size_t n))
{
    char bytes[4096];
    while (!k->err->code) {
        struct pollfd p[3] = { { .fd = pidfd, .events = POLLIN }, { .fd = k->cli->cancel_fd, .events = POLLIN }, { .fd = *output, .events = POLLIN } };
        if (poll(p, 3, -1) < 0) {
            if (errno != EINTR)
                error_set(k->err, -errno, "waiting for qemu-img failed: %s", strerror(errno));
        } else if (p[1].revents)
            error_set(k->err, -ECANCELED, "interrupted; nothing was changed");
        else if (p[2].revents) {
            ssize_t n = read(*output, bytes, sizeof bytes);
            if (n > 0)
                take(k, bytes, (size_t)n);
            else {
                close(*output);
                *output = -1;
            }
        } else if (p[0].revents)
            return;
    }
    kill(k->v.pid, SIGKILL);
}

/* Runs it, and hands over what it prints; take NULL: that belongs to its messages. Its exit status; -1: it was killed. */
static int run(struct check *k, char *const argv[], void (*take)(struct check *k, const char *bytes, size_t n))
{
    int ends[2] = { -1, -1 }, status = 0;
    if (ftruncate(k->v.error_fd, 0) < 0 || lseek(k->v.error_fd, 0, SEEK_SET) < 0)
        return error_set(k->err, -errno, "cannot prepare qemu-img: %s", strerror(errno));
    if (take && pipe2(ends, O_CLOEXEC) < 0)
        return error_set(k->err, -errno, "cannot make a pipe: %s", strerror(errno));
    int bad = confine_start(&(struct confine){ "qemu-img", argv, k->fd, -1, take ? ends[1] : k->v.error_fd, k->v.error_fd, false, k->other_files }, &k->v.pid, k->err);
    if (take)
        close(ends[1]);
    if (!bad) {
        int pidfd = pidfd_open(k->v.pid, 0);
        hear(k, pidfd, &ends[0], take);
        while (waitpid(k->v.pid, &status, 0) < 0 && errno == EINTR)
            ;
        close(pidfd);
    }
    if (ends[0] >= 0)
        close(ends[0]);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* ---- One file ---- */

/* Whether its tables are sound, as far as QEMU can tell for that format. */
static int check_tables(struct check *k, const char *options)
{
    char *argv[] = { "qemu-img", "check", "-q", "-U", "--image-opts", (char *)(uintptr_t)options, NULL };
    int status = run(k, argv, NULL);
    if (k->err->code || status == 0 || status == 3 || status == 63) /* sound; leaked clusters; no check for this format */
        return k->err->code;
    return damaged(k, "it is damaged or incomplete");
}

static void check_extent(struct check *k)
{
    const char *length = strstr(k->line, "\"length\": "), *offset = strstr(k->line, "\"offset\": ");
    if (!length || !offset || !strstr(k->line, "\"data\": true"))
        return;
    uint64_t at = strtoull(offset + 10, NULL, 10), n = strtoull(length + 10, NULL, 10);
    if (at > k->data_bytes || n > k->data_bytes - at)
        error_set(k->err, -EINVAL, "it is incomplete: data at %llu lie beyond the end of the file", (unsigned long long)at);
}

static void take_extents(struct check *k, const char *bytes, size_t n)
{
    for (size_t i = 0; i < n && !k->err->code; i++) {
        if (bytes[i] != '\n') {
            if (k->line_bytes < sizeof k->line - 1)
                k->line[k->line_bytes++] = bytes[i];
            continue;
        }
        k->line[k->line_bytes] = '\0';
        k->line_bytes = 0;
        check_extent(k);
    }
}

/* QEMU takes a last sector of which bytes are missing for a whole one, and does not tell where in a VHDX the data lie. Whatever a VHDX
 * holds is whole sectors. */
static int check_last_sector(struct check *k)
{
    bool cut = !strcmp(k->format, "vhdx") && k->data_bytes % SECTOR_BYTES;
    return cut ? error_set(k->err, -EINVAL, "it is incomplete: it ends within a sector") : 0;
}

static int check_extents(struct check *k, const char *options)
{
    char *argv[] = { "qemu-img", "map", "-U", "--output=json", "--image-opts", (char *)(uintptr_t)options, NULL };
    k->line_bytes = 0;
    int status = run(k, argv, take_extents);
    return status && !k->err->code ? damaged(k, "it is damaged") : k->err->code;
}

static uint64_t length_of(int fd)
{
    off_t end = lseek(fd, 0, SEEK_END); /* of a device, too */
    return end > 0 ? (uint64_t)end : 0;
}

static int check_alone(struct check *k)
{
    char options[CONVERTER_OPTIONS_SIZE];
    converter_options(k->fd, k->format, NULL, true, options);
    k->data_bytes = length_of(k->fd);
    return check_tables(k, options) || check_last_sector(k) ? k->err->code : check_extents(k, options);
}

/* ---- A chain ---- */

static void take_description(struct check *k, const char *bytes, size_t n)
{
    if (ftell(k->description) + (long)n > (long)DESCRIPTION_MAX || fwrite(bytes, 1, n, k->description) != n)
        error_set(k->err, -EINVAL, "it refers to too many files");
}

/* The list of all files, the first one first. */
static json_t *describe(struct check *k, const char *path)
{
    char options[CONVERTER_OPTIONS_SIZE], *text = NULL;
    size_t length;
    json_t *list = NULL;
    converter_options(k->fd, k->format, path, false, options);
    char *argv[] = { "qemu-img", "info", "-U", "--backing-chain", "--output=json", "--image-opts", options, NULL };
    k->description = open_memstream(&text, &length);
    if (!k->description) {
        error_set(k->err, -ENOMEM, "out of memory");
        return NULL;
    }
    int status = run(k, argv, take_description);
    fclose(k->description);
    if (status && !k->err->code)
        damaged(k, "it cannot be read");
    if (!k->err->code && !(list = json_loadb(text, length, 0, NULL)))
        error_set(k->err, -EINVAL, "qemu-img does not tell what it consists of");
    free(text);
    return list;
}

/* Opens a file that stands beside the image `beside` unless its name says otherwise. A name that is of another kind is QEMU's. */
static int open_beside(const char *beside, const char *name)
{
    char path[PATH_MAX];
    const char *slash = *name == '/' ? NULL : strrchr(beside, '/');
    if (snprintf(path, sizeof path, "%.*s%s", slash ? (int)(slash + 1 - beside) : 0, beside, name) >= (int)sizeof path)
        return -1;
    return open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
}

/* A flat extent of a VMDK is as long as what it holds. The others are looked at with the tables. */
static int check_flat(struct check *k, const char *file, const json_t *extents)
{
    size_t i;
    json_t *extent;
    json_array_foreach(extents, i, extent) {
        const char *name = json_string_value(json_object_get(extent, "filename")), *type = json_string_value(json_object_get(extent, "format"));
        uint64_t size = (uint64_t)json_integer_value(json_object_get(extent, "virtual-size"));
        int fd = name && type && (!strcmp(type, "FLAT") || !strcmp(type, "VMFS")) ? open_beside(file, name) : -1;
        if (fd < 0)
            continue;
        if (length_of(fd) < size)
            error_set(k->err, -EINVAL, "it is incomplete: '%.100s' has fewer than %llu bytes", name, (unsigned long long)size);
        close(fd);
        if (k->err->code)
            break;
    }
    return k->err->code;
}

/* One file of the chain by its name, with what it keeps elsewhere but for its backing file. */
static int check_member(struct check *k, const char *file, const json_t *about)
{
    char options[CONVERTER_OPTIONS_SIZE];
    const json_t *specific = json_object_get(json_object_get(about, "format-specific"), "data"), *extents = json_object_get(specific, "extents");
    const char *data = json_string_value(json_object_get(specific, "data-file"));
    int data_fd = data ? open_beside(file, data) : -1;
    converter_options(k->fd, k->format, file, true, options);
    k->data_bytes = length_of(data_fd < 0 ? k->fd : data_fd);
    if (data_fd >= 0)
        close(data_fd);
    if (check_tables(k, options) || check_last_sector(k) || check_flat(k, file, extents))
        return k->err->code;
    const char *first = json_string_value(json_object_get(json_array_get(extents, 0), "filename"));
    return first && strcmp(first, file) ? 0 : check_extents(k, options); /* several files have offsets of their own */
}

static int check_chain(struct check *k, const char *path)
{
    size_t i;
    int own = k->fd;
    json_t *about, *list = describe(k, path);
    json_array_foreach(list, i, about) {
        const char *file = json_string_value(json_object_get(about, "filename")), *format = json_string_value(json_object_get(about, "format"));
        if (!file || !format || !strcmp(format, "raw"))
            continue;
        int fd = i ? open(file, O_RDONLY | O_CLOEXEC | O_NONBLOCK) : own;
        if (fd < 0)
            continue; /* it is no file: QEMU found it otherwise */
        struct error why = ERROR_NONE;
        struct check one = { .cli = k->cli, .err = &why, .format = format, .fd = fd, .other_files = true, .v = k->v };
        if (check_member(&one, file, about))
            i && why.code == -EINVAL ? error_set(k->err, why.code, "of its file '%.150s': %.300s", file, why.text) : error_set(k->err, why.code, "%s", why.text);
        if (i)
            close(fd);
        if (k->err->code)
            break;
    }
    json_decref(list);
    return k->err->code;
}

int image_check(int fd, const char *format, const char *path, struct cli *cli, struct error *err)
{
    char real[PATH_MAX];
    struct check k = { .cli = cli, .err = err, .format = format, .fd = fd, .other_files = path != NULL, .v = { .error_fd = memfd_create("messages", MFD_CLOEXEC) } };
    if (k.v.error_fd < 0)
        return error_set(err, -errno, "cannot prepare qemu-img: %s", strerror(errno));
    if (path && !realpath(path, real))
        error_set(err, -errno, "cannot find '%.200s': %s", path, strerror(errno));
    else if (path)
        check_chain(&k, real);
    else
        check_alone(&k);
    close(k.v.error_fd);
    return err->code;
}
