/* cmd_nbd.c - nbd: images over NBD, served by nbdkit with the plugin that stands beside this program (as built) or where
 * nbdkit looks for plugins (as installed).
 *
 * The command looks whether all is well, then becomes nbdkit. A daemon that it started is ended by the kernel with it. */
#include "tools/parallax/commands.h"

#include "tools/parallax/child.h"
#include "tools/parallax/paste.h"

#include <errno.h>
#include <limits.h>
#include <netdb.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define THREADS "64"
#define DEFAULT_PORT "10809"
#define NAMES_MAX 64u
#define BIND_MAX 255u /* a host's name */
#define SOCKET_PATH_MAX sizeof((struct sockaddr_un *)0)->sun_path
#define URI_MAX 640u
#define ARGUMENTS_MAX (NAMES_MAX + 20u)

struct nbd {
    struct cli *cli;
    const struct args *args;
    char socket[PATH_MAX]; /* absolute, or "" */
    const char *port, *bind;
    bool read_only;
    char *argv[ARGUMENTS_MAX];
    unsigned argc;
    char text[4 * PATH_MAX + NAMES_MAX * 1024]; /* what argv points into: each of them is bounded */
    size_t used;
};

/* ---- Checks ---- */

static int check_image(struct nbd *n, const char *target, struct error *err)
{
    json_t *info = NULL;
    if (cli_request(n->cli, json_pack("{s:s,s:s}", "command", "find", "target", target), NULL, NULL, &info, err))
        return err->code;
    const char *holder = json_text(info, "holder");
    if (!n->read_only && *holder)
        error_set(err, -EBUSY, "'%s' is written by %s; detach it there first, or use --read-only", target, holder);
    json_decref(info);
    return err->code;
}

static int connect_daemon(struct nbd *n, pid_t *child, struct error *err)
{
    int bad = cli_connect_daemon(n->cli, err);
    if (bad == -ENOENT && child_start(n->cli, "local", child, err) == 0)
        cli_note(n->cli, "parallax: no daemon serves this store: started one, pid %d; it ends with this command", (int)*child);
    return err->code;
}

/* nbdkit's own words would not tell of what. */
static int check_directory(const char *path, struct error *err)
{
    char directory[PATH_MAX];
    snprintf(directory, sizeof directory, "%s", path);
    *(strrchr(directory, '/') + 1) = '\0'; /* the path is absolute */
    return access(directory, W_OK | X_OK) == 0 ? 0 : error_set(err, -errno, "cannot make the socket '%.200s': %s", path, strerror(errno));
}

/* A socket that nobody has open is what an earlier server left behind. */
static int clear_socket(const char *path, struct error *err)
{
    struct stat st;
    if (strlen(path) >= SOCKET_PATH_MAX)
        return error_set(err, -ENAMETOOLONG, "'%.200s' is too long for a socket: at most %zu bytes", path, SOCKET_PATH_MAX - 1);
    if (lstat(path, &st) < 0)
        return errno == ENOENT ? check_directory(path, err) : error_set(err, -errno, "cannot use '%.200s': %s", path, strerror(errno));
    if (!S_ISSOCK(st.st_mode))
        return error_set(err, -EEXIST, "'%.200s' exists and is no socket", path);
    int used = control_socket_unused(path);
    if (used == -EADDRINUSE)
        return error_set(err, used, "somebody serves '%.200s' already; name another path with --socket", path);
    if (used)
        return error_set(err, used, "cannot tell whether somebody serves '%.200s': %s; name another path with --socket", path, strerror(-used));
    return unlink(path) < 0 ? error_set(err, -errno, "cannot remove the old '%.200s': %s", path, strerror(errno)) : 0;
}

/* Whether the port is to be had. nbdkit's own words name neither address nor port. */
static int check_port(const struct nbd *n, struct error *err)
{
    struct addrinfo hints = { .ai_flags = AI_PASSIVE, .ai_socktype = SOCK_STREAM }, *list;
    int bad = getaddrinfo(n->bind, n->port, &hints, &list), last = ENOENT, on = 1;
    if (bad)
        return error_set(err, -EINVAL, "cannot serve at '%s': %s; name an address of this machine with --bind", n->bind,
                         bad == EAI_SYSTEM ? strerror(errno) : gai_strerror(bad));
    for (const struct addrinfo *a = list; a && last; a = a->ai_next) {
        int fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, a->ai_protocol);
        last = fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0 || bind(fd, a->ai_addr, a->ai_addrlen) < 0 ? errno : 0;
        if (fd >= 0)
            close(fd);
    }
    freeaddrinfo(list);
    return last ? error_set(err, -last, "cannot serve port %s of '%s': %s; name another with --port or --bind", n->port, n->bind, strerror(last)) : 0;
}

static int parse_place(struct nbd *n)
{
    const struct args *a = n->args;
    const char *path = option_value(a, "socket"), *port = option_value(a, "port");
    char *end, directory[PATH_MAX] = "";
    if (path && (port || option_set(a, "bind")))
        return cli_usage(a, "--socket and --port exclude each other");
    n->port = port ? port : DEFAULT_PORT;
    n->bind = option_value(a, "bind") ? option_value(a, "bind") : "127.0.0.1";
    unsigned long number = strtoul(n->port, &end, 10);
    if (*n->port < '0' || *n->port > '9' || *end || !number || number > 65535)
        return cli_usage(a, "--port is a number from 1 to 65535, not '%.64s'", n->port);
    if (strlen(n->bind) > BIND_MAX)
        return cli_usage(a, "--bind is too long for an address: at most %u characters", BIND_MAX);
    if (path && !*path)
        return cli_usage(a, "--socket names no path");
    if (path && *path != '/' && !getcwd(directory, sizeof directory - 1))
        return cli_fail_text("cannot tell the working directory: %s", strerror(errno));
    if (path && snprintf(n->socket, sizeof n->socket, "%s%s%s", directory, *directory ? "/" : "", path) >= (int)sizeof n->socket)
        return cli_usage(a, "--socket is too long");
    return EXIT_DONE;
}

/* ---- nbdkit's command line ---- */

static void add(struct nbd *n, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void add(struct nbd *n, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    n->argv[n->argc++] = n->text + n->used;
    n->used += (size_t)vsnprintf(n->text + n->used, sizeof n->text - n->used, fmt, ap) + 1;
    va_end(ap);
}

/* The plugin as built stands beside this program; nbdkit knows the installed one by its name. */
static void add_plugin(struct nbd *n)
{
    char self[PATH_MAX - 32], plugin[PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    self[length > 0 ? length : 0] = '\0';
    char *slash = strrchr(self, '/');
    if (slash)
        *slash = '\0';
    snprintf(plugin, sizeof plugin, "%s/nbdkit-parallax-plugin.so", self);
    add(n, "%s", slash && access(plugin, R_OK) == 0 ? plugin : "parallax");
}

static void make_uri(const struct nbd *n, const char *name, char out[URI_MAX])
{
    char place[PASTE_URI_FACTOR * SOCKET_PATH_MAX];
    bool colon = strchr(n->bind, ':') != NULL;
    paste_for_uri(n->socket, place, sizeof place);
    if (*n->socket)
        snprintf(out, URI_MAX, "nbd+unix:///%s?socket=%s", name, place);
    else
        snprintf(out, URI_MAX, "nbd://%s%s%s:%s/%s", colon ? "[" : "", n->bind, colon ? "]" : "", n->port, name);
}

/* The document, as one line less: the plugin ends it. NULL: a path is no text. */
static char *make_document(const struct nbd *n)
{
    char uri[URI_MAX];
    json_t *exports = json_array();
    for (unsigned i = 0; i < n->args->count; i++) {
        make_uri(n, n->args->words[i], uri);
        json_array_append_new(exports, json_pack("{s:s,s:s}", "name", n->args->words[i], "uri", uri));
    }
    json_t *doc = json_pack("{s:s,s:i,s:o}", "store", n->cli->store_key, "pid", (int)getpid(), "exports", exports);
    char *text = doc ? json_dumps(doc, JSON_INDENT(2)) : NULL;
    json_decref(doc);
    return text;
}

/* One URI a line, or one document, printed by the plugin when clients can connect. */
static int add_announcement(struct nbd *n, struct error *err)
{
    char text[NAMES_MAX * URI_MAX];
    size_t at = 0;
    if (n->cli->json) {
        char *document = make_document(n);
        int length = document ? asprintf(&n->argv[n->argc++], "announce=%s", document) : -1;
        free(document);
        return length < 0 ? error_set(err, -EINVAL, "the store's path is no UTF-8 text, so there is no document with it; leave --json out") : 0;
    }
    for (unsigned i = 0; i < n->args->count; i++) {
        char uri[URI_MAX];
        make_uri(n, n->args->words[i], uri);
        at += (size_t)snprintf(text + at, sizeof text - at, "%s%s", i ? "\n" : "", uri);
    }
    add(n, "announce=%s", text);
    return 0;
}

static int make_command(struct nbd *n, struct error *err)
{
    add(n, "nbdkit");
    add(n, "--foreground");
    add(n, "--threads");
    add(n, THREADS);
    if (n->read_only)
        add(n, "--readonly");
    if (*n->socket) {
        add(n, "--unix");
        add(n, "%s", n->socket);
    } else {
        add(n, "--ipaddr");
        add(n, "%s", n->bind);
        add(n, "--port");
        add(n, "%s", n->port);
    }
    add_plugin(n);
    add(n, "store=%s", n->cli->store_url);
    if (*n->socket) {
        mode_t mask = umask(0);
        umask(mask);
        add(n, "socket=%s", n->socket);
        add(n, "umask=%04o", (unsigned)mask);
    }
    if (n->read_only)
        add(n, "readonly=true");
    for (unsigned i = 0; i < n->args->count; i++)
        add(n, "image=%s", n->args->words[i]);
    add_announcement(n, err);
    n->argv[n->argc] = NULL;
    return err->code;
}

static int run_nbd(struct cli *cli, const struct args *a)
{
    static struct nbd n;
    struct error err = ERROR_NONE;
    pid_t child = 0;
    n = (struct nbd){ .cli = cli, .args = a, .read_only = option_set(a, "read-only") };
    int status = parse_place(&n);
    if (status != EXIT_DONE)
        return status;
    if (connect_daemon(&n, &child, &err) == 0)
        *n.socket ? clear_socket(n.socket, &err) : check_port(&n, &err);
    for (unsigned i = 0; i < a->count && !err.code; i++)
        check_image(&n, a->words[i], &err);
    cli_disconnect(cli);
    if (!err.code && make_command(&n, &err) == 0) {
        signal(SIGPIPE, SIG_DFL);
        execvp("nbdkit", n.argv);
        error_set(&err, -errno, "cannot run nbdkit: %s%s", strerror(errno), errno == ENOENT ? "; install the package nbdkit" : "");
    }
    if (child)
        child_stop(child);
    return cli_fail(&err);
}

const struct command nbd_commands[] = {
    { .name = "nbd", .arguments = "NAME[@SNAP] …", .summary = "Serve images over NBD (to QEMU, libvirt, nbdcopy …) until it is ended", .run = run_nbd,
      .least = 1, .most = NAMES_MAX,
      .options = { { "socket", 0, "PATH", "serve a Unix socket" },
                   { "port", 0, "N", "serve a TCP port (default: " DEFAULT_PORT ")" },
                   { "bind", 0, "ADDR", "of this address (default: 127.0.0.1)" },
                   { "read-only", 0, NULL, "let nobody write; others may have the image open for writing" } },
      .examples = "  parallax nbd vm1 --socket /run/vm1.sock   # then: parallax info --qemu vm1 --socket /run/vm1.sock\n"
                  "  parallax nbd vm1@nightly --port 10810     # of 127.0.0.1\n"
                  "  qemu-img convert nbd+unix:///vm1?socket=/run/vm1.sock -O qcow2 vm1.qcow2\n" },
    { 0 },
};
