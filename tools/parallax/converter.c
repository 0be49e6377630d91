/* converter.c - see converter.h.
 *
 * The listening socket has a name of the kernel's choice in the abstract name space of this process; the child only accepts
 * on it, so that it needs no network and no name. */
#include "tools/parallax/converter.h"

#include "base/clock.h"
#include "tools/parallax/confine.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define IMAGE_OPTIONS_SIZE (2 * PATH_MAX + 128)

/* As QEMU calls it. */
static const char *driver(const char *format) { return !strcmp(format, "vhd") ? "vpc" : format; }

static int listen_somewhere(struct sockaddr_un *sa, socklen_t *length)
{
    *sa = (struct sockaddr_un){ .sun_family = AF_UNIX };
    *length = sizeof *sa;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    if (bind(fd, (struct sockaddr *)sa, sizeof(sa_family_t)) == 0 && getsockname(fd, (struct sockaddr *)sa, length) == 0 && listen(fd, 4) == 0)
        return fd;
    int bad = -errno;
    close(fd);
    return bad;
}

/* The last line: what comes before are warnings. Of "qemu-nbd: Failed to open 'X': why", the reason. */
const char *converter_complaint(struct converter *v, char out[200])
{
    char text[4096];
    ssize_t n = v->error_fd < 0 ? 0 : pread(v->error_fd, text, sizeof text - 1, 0);
    while (n > 0 && text[n - 1] == '\n')
        n--;
    text[n > 0 ? n : 0] = '\0';
    char *line = strrchr(text, '\n');
    line = line ? line + 1 : text;
    char *colon = strstr(line, ": ");
    const char *why = colon ? colon + 2 : line;
    for (char *quoted; (quoted = strstr(why, "': "));)
        why = quoted + 3;
    snprintf(out, 200, "%.199s", why);
    return out;
}

/* The name of a file whose content names others is needed by QEMU to find them. A comma is doubled in such options. */
static void file_option(const char *path, bool with_backing, char out[2 * PATH_MAX])
{
    char real[PATH_MAX];
    if (!with_backing || !path || !realpath(path, real)) {
        snprintf(out, 2 * PATH_MAX, "%s", CONFINE_FILE);
        return;
    }
    size_t n = 0;
    for (const char *p = real; *p; p++) {
        out[n++] = *p;
        if (*p == ',')
            out[n++] = ',';
    }
    out[n] = '\0';
}

/* How the file is named to QEMU. */
static void image_options(int fd, const char *format, const char *path, bool with_backing, char out[IMAGE_OPTIONS_SIZE])
{
    char file[2 * PATH_MAX];
    struct stat st;
    bool device = fstat(fd, &st) == 0 && S_ISBLK(st.st_mode), chained = (!strcmp(format, "qcow2") || !strcmp(format, "vmdk")) && !with_backing;
    file_option(path, with_backing, file);
    snprintf(out, IMAGE_OPTIONS_SIZE, "driver=%s,file.driver=%s,file.filename=%s,file.locking=off%s", driver(format), device ? "host_device" : "file", file,
             chained ? ",backing=" : "");
}

static int start(struct converter *v, int fd, int socket_fd, const char *format, const char *path, bool writable, bool with_backing, struct error *err)
{
    char options[IMAGE_OPTIONS_SIZE];
    image_options(fd, format, path, with_backing, options);
    char *argv[] = { "qemu-nbd", writable ? "--discard=unmap" : "--read-only", "--shared=4", "--image-opts", options, NULL };
    return confine_start(&(struct confine){ "qemu-nbd", argv, fd, socket_fd, -1, v->error_fd, writable, with_backing }, &v->pid, err);
}

/* qemu-nbd speaks when it has opened its file; it ends when it cannot. */
static int greet(struct converter *v, const struct sockaddr_un *sa, socklen_t length, struct cli *cli, struct error *err)
{
    char why[200];
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (const struct sockaddr *)sa, length) < 0)
        error_set(err, -errno, "cannot reach qemu-nbd: %s", strerror(errno));
    while (!err->code) {
        struct pollfd p[2] = { { .fd = fd, .events = POLLIN }, { .fd = cli->cancel_fd, .events = POLLIN } };
        if (poll(p, 2, 50) > 0 && p[1].revents)
            error_set(err, -ECANCELED, "interrupted; nothing was changed");
        else if (p[0].revents & POLLIN)
            break;
        else if (waitpid(v->pid, NULL, WNOHANG) == v->pid) {
            v->pid = 0;
            error_set(err, -EINVAL, "it cannot be read: %s", converter_complaint(v, why));
        }
    }
    if (err->code || !(v->nbd = nbd_create())) {
        if (fd >= 0)
            close(fd);
        return err->code ? err->code : error_set(err, -ENOMEM, "out of memory");
    }
    nbd_add_meta_context(v->nbd, LIBNBD_CONTEXT_BASE_ALLOCATION);
    if (nbd_connect_socket(v->nbd, fd) < 0)
        error_set(err, -EINVAL, "it cannot be read: %s", *converter_complaint(v, why) ? why : nbd_get_error());
    return err->code;
}

int converter_open(struct converter *v, int fd, const char *format, const char *path, bool writable, bool with_backing, struct cli *cli, struct error *err)
{
    struct sockaddr_un sa;
    socklen_t length;
    *v = (struct converter){ .error_fd = memfd_create("messages", MFD_CLOEXEC) };
    int listener = listen_somewhere(&sa, &length);
    if (v->error_fd < 0 || listener < 0)
        error_set(err, listener < 0 ? listener : -errno, "cannot prepare qemu-nbd: %s", strerror(listener < 0 ? -listener : errno));
    else if (start(v, fd, listener, format, path, writable, with_backing, err) == 0)
        greet(v, &sa, length, cli, err);
    if (listener >= 0)
        close(listener);
    if (err->code)
        converter_close(v, false, err);
    return err->code;
}

int converter_close(struct converter *v, bool finish, struct error *err)
{
    int status = 0;
    char why[200];
    if (v->nbd && finish)
        nbd_shutdown(v->nbd, 0);
    if (v->nbd)
        nbd_close(v->nbd);
    v->nbd = NULL;
    if (v->pid > 0) {
        if (!finish)
            kill(v->pid, SIGKILL);
        while (waitpid(v->pid, &status, 0) < 0 && errno == EINTR)
            ;
    }
    v->pid = 0;
    if (finish && status)
        error_set(err, -EIO, "qemu-nbd failed: %s", converter_complaint(v, why));
    if (v->error_fd >= 0)
        close(v->error_fd);
    v->error_fd = -1;
    return err->code;
}

int converter_create(int fd, const char *format, uint64_t size_bytes, struct error *err)
{
    char size[32], why[200];
    struct converter v = { .error_fd = memfd_create("messages", MFD_CLOEXEC) };
    snprintf(size, sizeof size, "%llu", (unsigned long long)size_bytes);
    /* A VHD's size is otherwise rounded to whole cylinders. */
    char *argv[] = { "qemu-img", "create", "-q", "-f", (char *)(uintptr_t)driver(format), "-o", !strcmp(format, "vhd") ? "subformat=dynamic,force_size=on" : "lazy_refcounts=off",
                     CONFINE_FILE, size, NULL };
    int status = 0;
    if (v.error_fd < 0)
        return error_set(err, -errno, "cannot prepare qemu-img: %s", strerror(errno));
    if (confine_start(&(struct confine){ "qemu-img", argv, fd, -1, -1, v.error_fd, true, false }, &v.pid, err) == 0) {
        while (waitpid(v.pid, &status, 0) < 0 && errno == EINTR)
            ;
        if (status)
            error_set(err, -EIO, "cannot make a %s file: %s", format, converter_complaint(&v, why));
    }
    close(v.error_fd);
    return err->code;
}

/* ---- Checking ---- */

static int wait_status(pid_t pid)
{
    int status;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* Whether the tables of the image are sound, as far as QEMU can tell for that format. */
static int check_tables(struct converter *v, int fd, const char *options, struct error *err)
{
    char *argv[] = { "qemu-img", "check", "-q", "-U", "--image-opts", (char *)(uintptr_t)options, NULL }, why[200];
    if (confine_start(&(struct confine){ "qemu-img", argv, fd, -1, v->error_fd, v->error_fd, false, false }, &v->pid, err))
        return err->code;
    int status = wait_status(v->pid);
    if (status == 0 || status == 3 || status == 63) /* sound; leaked clusters; no check for this format */
        return 0;
    const char *complaint = converter_complaint(v, why);
    return error_set(err, -EINVAL, "it is damaged or incomplete: %s", *complaint ? complaint : "qemu-img check fails");
}

/* QEMU reads what lies beyond the end of the file as zeroes; here it is missing. */
static int check_extent(const char *line, uint64_t file_bytes, struct error *err)
{
    const char *length = strstr(line, "\"length\": "), *offset = strstr(line, "\"offset\": ");
    if (!length || !offset || !strstr(line, "\"data\": true"))
        return 0;
    uint64_t at = strtoull(offset + 10, NULL, 10), n = strtoull(length + 10, NULL, 10);
    if (at <= file_bytes && n <= file_bytes - at)
        return 0;
    return error_set(err, -EINVAL, "it is incomplete: data at %llu lie beyond the end of the file", (unsigned long long)at);
}

static int check_extents(struct converter *v, int fd, const char *options, uint64_t file_bytes, struct error *err)
{
    char *argv[] = { "qemu-img", "map", "-U", "--output=json", "--image-opts", (char *)(uintptr_t)options, NULL }, line[512], why[200];
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0)
        return error_set(err, -errno, "cannot make a pipe: %s", strerror(errno));
    int bad = confine_start(&(struct confine){ "qemu-img", argv, fd, -1, ends[1], v->error_fd, false, false }, &v->pid, err);
    close(ends[1]);
    FILE *f = bad ? NULL : fdopen(ends[0], "r");
    if (!f) {
        close(ends[0]);
        if (!bad)
            kill(v->pid, SIGKILL);
    }
    while (f && fgets(line, sizeof line, f) && !err->code)
        check_extent(line, file_bytes, err);
    if (f)
        fclose(f);
    int status = bad ? 0 : wait_status(v->pid);
    if (status && !err->code)
        error_set(err, -EINVAL, "it is damaged: %s", converter_complaint(v, why));
    return err->code;
}

int converter_check(int fd, const char *format, uint64_t file_bytes, struct error *err)
{
    char options[IMAGE_OPTIONS_SIZE];
    struct converter v = { .error_fd = memfd_create("messages", MFD_CLOEXEC) };
    if (v.error_fd < 0)
        return error_set(err, -errno, "cannot prepare qemu-img: %s", strerror(errno));
    image_options(fd, format, NULL, false, options);
    if (check_tables(&v, fd, options, err) == 0)
        check_extents(&v, fd, options, file_bytes, err);
    close(v.error_fd);
    return err->code;
}
