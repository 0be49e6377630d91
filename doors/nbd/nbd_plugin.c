/* nbd_plugin.c - nbdkit's plugin: images of a store over NBD.
 *
 *   nbdkit parallax image=NAME[@SNAP] [image=…] [store=URL] [readonly=true] [announce=TEXT] [socket=PATH [umask=MASK]]
 *
 * Without image= every image and snapshot of the store is an export of its name. nbdkit gives sockets, TLS and socket
 * activation; doors/common the disks. What `parallax nbd` needs: readonly is nbdkit's -r, which is not told before the images
 * are attached; TEXT is printed when clients can connect; PATH, nbdkit's socket, is removed at the end; MASK tells who may
 * connect to it, since nbdkit takes no notice of the umask that it was started under.
 *
 * 1. Before nbdkit forks, the store and the images are looked for, so that a mistake is told to whoever started it. Threads
 *    and attachments are made after the fork, because they would not survive it.
 * 2. nbdkit ends when its connections have ended, and those end when their requests do. So the signals that end it also stop
 *    the door, by way of a thread of ours: requests which wait for a storage domain that is away end as well. nbdkit would then
 *    wait for clients that stay connected; the thread does not, and ends the process.
 * 3. The attachments end with the process in any case. */
#include "doors/nbd/nbd_private.h"

#include "base/notify.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL
#define GRACE_MS 400u   /* SIGTERM ends the server within 2 s: first requests may end, */
#define CLIENTS_MS 300 /* then clients may go */

struct door *nbd_door;
static const char *store_url, *announcement, *socket_path;
static int announce_fd = -1; /* nbdkit closes its standard output before clients can connect */
static long socket_mask = -1; /* -1: nbdkit's */
static bool server_read_only;
static pthread_t watcher;
static bool watching;
static int end_fd = -1;      /* readable when the server is to end */
static int ended_fd = -1;    /* readable when its connections have ended */
static struct sigaction nbdkit_action[NSIG];

static int fail(const struct error *err)
{
    nbdkit_error("%s", err->text);
    nbdkit_set_error(-err->code);
    return -1;
}

/* ---- Starting ---- */

static int parse_mask(const char *value)
{
    char *end;
    socket_mask = strtol(value, &end, 8);
    if (end != value && !*end && socket_mask >= 0 && socket_mask <= 0777)
        return 0;
    nbdkit_error("umask=%s: an octal number from 0 to 777 is needed", value);
    return -1;
}

static int parse_read_only(const char *value)
{
    int yes = nbdkit_parse_bool(value);
    server_read_only = yes == 1;
    return yes < 0 ? -1 : 0;
}

static int plx_config(const char *key, const char *value)
{
    struct error err = ERROR_NONE;
    if (!strcmp(key, "image"))
        return nbd_exports_name(value, &err) ? fail(&err) : 0;
    if (!strcmp(key, "store"))
        store_url = value;
    else if (!strcmp(key, "announce")) {
        announcement = value;
        announce_fd = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
    }
    else if (!strcmp(key, "socket"))
        socket_path = value;
    else if (!strcmp(key, "umask"))
        return parse_mask(value);
    else if (!strcmp(key, "readonly"))
        return parse_read_only(value);
    else {
        nbdkit_error("unknown parameter '%s'", key);
        return -1;
    }
    return 0;
}

static void tell(void *ctx, const char *line)
{
    (void)ctx;
    nbdkit_error("%s", line);
}

static int open_door(struct door **out, struct error *err)
{
    return door_open(&(struct door_options){ .store = store_url, .tell = tell }, out, err);
}

static int plx_get_ready(void)
{
    struct error err = ERROR_NONE;
    struct door *d;
    if (open_door(&d, &err))
        return fail(&err);
    nbd_exports_check(d, &err);
    door_close(d);
    if (socket_mask >= 0)
        umask((mode_t)socket_mask); /* the socket is made after this */
    return err.code ? fail(&err) : 0;
}

/* ---- The signals that end nbdkit ---- */

static const int end_signals[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT };

static void raise_event(int fd)
{
    uint64_t one = 1;
    ssize_t n = write(fd, &one, sizeof one);
    (void)n; /* its counter is far from full */
}

static void on_signal(int number, siginfo_t *info, void *context)
{
    const struct sigaction *theirs = &nbdkit_action[number];
    int before = errno;
    raise_event(end_fd);
    errno = before;
    if (theirs->sa_flags & SA_SIGINFO)
        theirs->sa_sigaction(number, info, context);
    else
        theirs->sa_handler(number);
}

static void take_signals(void)
{
    for (size_t i = 0; i < sizeof end_signals / sizeof *end_signals; i++) {
        struct sigaction *theirs = &nbdkit_action[end_signals[i]];
        if (sigaction(end_signals[i], NULL, theirs) || theirs->sa_handler == SIG_DFL || theirs->sa_handler == SIG_IGN)
            continue;
        struct sigaction ours = *theirs;
        ours.sa_flags |= SA_SIGINFO;
        ours.sa_sigaction = on_signal;
        sigaction(end_signals[i], &ours, NULL);
    }
}

static void *watch_for_end(void *arg)
{
    uint64_t unused;
    int n;
    (void)arg;
    while (read(end_fd, &unused, sizeof unused) < 0 && errno == EINTR)
        ;
    door_stop(nbd_door, GRACE_MS);
    struct pollfd p = { .fd = ended_fd, .events = POLLIN };
    while ((n = poll(&p, 1, (int)GRACE_MS + CLIENTS_MS)) < 0 && errno == EINTR)
        ;
    if (n)
        return NULL;
    if (socket_path)
        unlink(socket_path);
    _exit(EXIT_SUCCESS);
}

static int start_watcher(void)
{
    sigset_t all, before;
    end_fd = eventfd(0, EFD_CLOEXEC);
    ended_fd = eventfd(0, EFD_CLOEXEC);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    watching = end_fd >= 0 && ended_fd >= 0 && pthread_create(&watcher, NULL, watch_for_end, NULL) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (watching)
        take_signals();
    return watching ? 0 : -1;
}

static int plx_after_fork(void)
{
    struct error err = ERROR_NONE;
    if (open_door(&nbd_door, &err) || nbd_exports_attach(nbd_door, server_read_only, &err))
        return fail(&err);
    if (start_watcher()) {
        nbdkit_error("cannot start a thread");
        return -1;
    }
    if (announce_fd >= 0) {
        /* nbdkit 1.32 wants to end with its parent, whether it was told --exit-with-parent or not; the server that a script
         * started must outlive the script. */
        prctl(PR_SET_PDEATHSIG, 0ul, 0ul, 0ul, 0ul);
        if (dprintf(announce_fd, "%s\n", announcement) < 0)
            nbdkit_error("clients can connect, but that cannot be written to standard output: %s", strerror(errno));
        close(announce_fd);
    }
    notify_state("READY=1");
    return 0;
}

/* ---- Ending: no connection is left ---- */

static void plx_cleanup(void)
{
    if (socket_path)
        unlink(socket_path);
    if (!nbd_door)
        return;
    door_stop(nbd_door, 0);
    if (watching) {
        raise_event(ended_fd);
        raise_event(end_fd); /* nbdkit may end for another reason than a signal */
        pthread_join(watcher, NULL);
    }
    nbd_exports_close();
    door_close(nbd_door);
    nbd_door = NULL;
}

/* ---- Connections ---- */

static int plx_list_exports(int readonly, int is_tls, struct nbdkit_exports *out)
{
    struct error err = ERROR_NONE;
    (void)readonly;
    (void)is_tls;
    return nbd_exports_list(nbd_door, out, &err) ? fail(&err) : 0;
}

static const char *plx_default_export(int readonly, int is_tls)
{
    (void)readonly;
    (void)is_tls;
    return nbd_exports_default();
}

static void *plx_open(int readonly)
{
    struct error err = ERROR_NONE;
    struct nbd_export *x;
    const char *name = nbdkit_export_name();
    if (!name || !*name)
        name = nbd_exports_default();
    if (!name)
        error_set(&err, -ENOENT, "the client named no export, and this server has one for each image");
    else if (nbd_exports_get(nbd_door, name, readonly, &x, &err) == 0)
        return x;
    fail(&err);
    return NULL;
}

static void plx_close(void *handle) { nbd_exports_put(handle); }

static const char *plx_export_description(void *handle)
{
    struct nbd_export *x = handle;
    return nbdkit_printf_intern("Parallax %s '%s'", strchr(x->target, '@') ? "snapshot" : "image", x->target);
}

static struct nbdkit_plugin plugin = {
    .name = "parallax",
    .longname = "Parallax virtual block store",
    .version = "0.1",
    .description = "Serves images and snapshots of a Parallax store.",
    .magic_config_key = "image",
    .config = plx_config,
    .config_help = "image=NAME[@SNAP]  the image to serve; more than one: each is an export; none: all are\n"
                   "store=URL          the store (default: $PARALLAX_STORE, else as of the parallax command)",
    .get_ready = plx_get_ready,
    .after_fork = plx_after_fork,
    .cleanup = plx_cleanup,
    .list_exports = plx_list_exports,
    .default_export = plx_default_export,
    .open = plx_open,
    .close = plx_close,
    .export_description = plx_export_description,
};

/* Fills in what nbd_io.c has before nbdkit looks. */
static void __attribute__((constructor)) prepare(void) { nbd_io_fill(&plugin); }

NBDKIT_REGISTER_PLUGIN(plugin)
