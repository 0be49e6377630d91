/* converter.c - see converter.h.
 *
 * The listening socket has a name of the kernel's choice in the abstract name space of this process; the child only accepts
 * on it, so that it needs no network and no name. */
#include "tools/parallax/converter.h"

#include "base/clock.h"
#include "tools/parallax/confine.h"
#include "tools/parallax/source.h"

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

/* A comma is doubled in such options. */
static void file_option(const char *path, char out[2 * PATH_MAX])
{
    size_t n = 0;
    for (const char *p = path; *p && n < 2 * PATH_MAX - 2; p++) {
        out[n++] = *p;
        if (*p == ',')
            out[n++] = ',';
    }
    out[n] = '\0';
}

void converter_options(int fd, const char *format, const char *path, bool alone, char out[CONVERTER_OPTIONS_SIZE])
{
    char file[2 * PATH_MAX];
    struct stat st;
    bool device = fstat(fd, &st) == 0 && S_ISBLK(st.st_mode);
    file_option(path ? path : CONFINE_FILE, file);
    snprintf(out, CONVERTER_OPTIONS_SIZE, "driver=%s,file.driver=%s,file.filename=%s,file.locking=off%s", driver(format), device ? "host_device" : "file", file,
             alone && format_chains(format) ? ",backing=" : "");
}

static int start(struct converter *v, int fd, int socket_fd, const char *format, const char *path, bool writable, bool with_backing, struct error *err)
{
    char options[CONVERTER_OPTIONS_SIZE], real[PATH_MAX];
    /* The name of a file whose content names others is needed by QEMU to find them. */
    converter_options(fd, format, with_backing && path && realpath(path, real) ? real : NULL, !with_backing, options);
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
    if (err->code || !(v->nbd = libnbd_open(err))) {
        if (fd >= 0)
            close(fd);
        return err->code;
    }
    libnbd.add_meta_context(v->nbd, LIBNBD_CONTEXT_BASE_ALLOCATION);
    if (libnbd.connect_socket(v->nbd, fd) < 0)
        error_set(err, -EINVAL, "it cannot be read: %s", *converter_complaint(v, why) ? why : libnbd_complaint());
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
        libnbd.shutdown(v->nbd, 0);
    if (v->nbd)
        libnbd.close(v->nbd);
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
