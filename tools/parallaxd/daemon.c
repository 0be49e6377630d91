/* daemon.c - see daemon.h.
 *
 * 1. The order of the beginning: no other daemon on this store; the store (its lock, recovery); the hypervisor; the control
 *    socket; the backend; then "ready". The order of the end is the reverse.
 * 2. SIGTERM and SIGINT: no new clients, transfers of present ones end, the backend answers what is in flight and leaves rings
 *    and nodes as they are, and the store is flushed, checkpointed and closed. Guests wait for the next daemon.
 * 3. A service manager may have made the control socket: then its clients wait there for the next daemon, it stays when we end,
 *    and we must not ask it who serves the store. It is told that we live from the loop, between the requests of guests.
 * 4. Metrics come last and go first: their thread asks the loop about the store and the backend.
 * 5. If the hypervisor ends we serve whom we can reach, and then fail, so that the service manager starts us anew.
 * 6. Signals are blocked before the first thread is made, and read from a descriptor on the loop. */
#include "tools/parallaxd/daemon.h"

#include "base/log.h"
#include "base/loop.h"
#include "base/notify.h"
#include "blkback/blkback.h"
#include "control/control.h"
#include "hypervisor/hypervisor.h"
#include "parallax/parallax.h"
#include "control/contact.h"
#include "control/place.h"
#include "tools/common/server.h"
#include "tools/common/status.h"
#include "tools/parallaxd/describe.h"
#include "tools/parallaxd/exporter.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define CLOSING_MS 2000u /* for deletions: guests wait meanwhile */

struct daemon {
    const struct daemon_options *opt;
    char key[PLACE_MAX], socket[PLACE_MAX], state_directory[PLACE_MAX];
    struct loop *loop;
    struct loop_fd signals;
    struct store *store;
    struct hv *hv;
    struct server *server;
    struct blkback *backend;
    struct loop_timer watchdog;
    uint64_t watchdog_ms;
    int given; /* the service manager's control socket, or -1 */
    struct exporter *exporter;
    bool stopping, useless;
    struct stat socket_file; /* what was made at `socket`; st_ino 0: nothing */
};

/* ---- Callbacks ---- */

static void describe(void *ctx, json_t *status)
{
    struct daemon *d = ctx;
    json_object_set_new(status, "daemon", json_pack("{s:i,s:s,s:I,s:s}", "pid", (int)getpid(), "hypervisor", hv_kind(d->hv), "domid",
                                                    (json_int_t)hv_own_domid(d->hv), "socket", d->socket));
    if (d->exporter)
        json_object_set_new(json_object_get(status, "daemon"), "metrics", json_string(exporter_url(d->exporter)));
    if (d->backend)
        json_object_set_new(status, "devices", describe_devices(d->backend));
}

static json_t *make_metrics(void *ctx)
{
    struct daemon *d = ctx;
    json_t *status = status_document(d->store);
    if (status)
        describe(d, status);
    return status;
}

static void emptied(void *ctx)
{
    struct daemon *d = ctx;
    if (d->stopping)
        loop_stop(d->loop);
}

static void useless(void *ctx)
{
    struct daemon *d = ctx;
    d->useless = true;
    loop_stop(d->loop);
}

static void on_signal(struct loop_fd *w, uint32_t events)
{
    struct daemon *d = container_of(w, struct daemon, signals);
    struct signalfd_siginfo info;
    (void)events;
    if (read(w->fd, &info, sizeof info) != (ssize_t)sizeof info || d->stopping)
        return;
    log_info("stopping signal=%s", info.ssi_signo == SIGTERM ? "SIGTERM" : "SIGINT");
    notify_state("STOPPING=1");
    d->stopping = true;
    if (!server_stop(d->server))
        loop_stop(d->loop);
}

static void say_alive(struct loop_timer *t)
{
    struct daemon *d = container_of(t, struct daemon, watchdog);
    notify_state("WATCHDOG=1");
    loop_timer_start(d->loop, t, d->watchdog_ms / 3 + 1);
}

static void tell_waiting(void *ctx, int pid, const char *command)
{
    (void)ctx;
    log_info("waiting for the store's lock pid=%d command=%s", pid, command);
}

/* ---- Beginning ---- */

static int watch_signals(struct daemon *d, struct error *err)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    d->signals.ready = on_signal;
    d->signals.fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    int bad = d->signals.fd < 0 ? -errno : loop_fd_add(d->loop, &d->signals, EPOLLIN);
    return bad ? error_set(err, bad, "cannot watch signals: %s", strerror(-bad)) : 0;
}

/* One that listens elsewhere has the store's lock, at any rate. */
static int refuse_second_daemon(struct daemon *d, struct error *err)
{
    struct control_client other;
    if (d->given >= 0)
        return 0;
    int pid, fd, bad = contact_daemon(d->key, -1, CONTACT_MS, &other, &pid, err);
    if (!bad) {
        control_client_fini(&other);
        return error_set(err, -EBUSY, "another daemon serves the store %s: pid %d; stop it first", d->key, pid);
    }
    if (bad != -ENOENT)
        return bad;
    if (d->opt->socket && control_connect(d->opt->socket, &fd) == 0) {
        pid = control_peer_pid(fd);
        close(fd);
        return error_set(err, -EBUSY, "the socket %.200s is in use by pid %d; name another with --socket", d->opt->socket, pid);
    }
    return 0;
}

static int open_store(struct daemon *d, struct error *err)
{
    struct store_options o = {
        .map_cache_bytes = d->opt->map_cache_bytes,
        .block_cache_bytes = d->opt->block_cache_bytes,
        .closing_ms = CLOSING_MS,
        .wait_when_full = d->opt->wait_when_full,
        .command = "parallaxd",
        .lock_waiting = tell_waiting,
    };
    return store_open(d->opt->url, d->loop, &o, &d->store, err);
}

static int take_given_socket(struct daemon *d, struct error *err)
{
    int bad = notify_listener(&d->given);
    if (bad && bad != -ENOENT)
        return error_set(err, bad, "the service manager (LISTEN_FDS) must give one listening Unix stream socket: %s", strerror(-bad));
    struct sockaddr_un a = { 0 };
    socklen_t length = sizeof a;
    if (!bad && getsockname(d->given, (struct sockaddr *)&a, &length) == 0)
        snprintf(d->socket, sizeof d->socket, "%.*s", (int)sizeof a.sun_path, a.sun_path);
    return 0;
}

static int open_socket(struct daemon *d, struct error *err)
{
    int fd = d->given;
    struct server_options o = { .store = d->store, .loop = d->loop, .key = d->key, .describe = describe, .emptied = emptied, .ctx = d };
    if (fd < 0 && place_socket_to_serve(d->key, d->opt->socket, d->socket, err))
        return err->code;
    int bad = server_create(&o, &d->server);
    if (!bad && fd < 0 && !(bad = control_listen(d->socket, PLACE_GROUP, &fd)) && lstat(d->socket, &d->socket_file) < 0)
        bad = -errno;
    if (!bad)
        bad = server_listen(d->server, fd);
    return bad ? error_set(err, bad, "cannot serve at %.300s: %s; name another path with --socket", d->socket, strerror(-bad)) : 0;
}

/* On Xen the domain is what it is, whatever name was given. */
static int open_state_directory(struct daemon *d, struct error *err)
{
    return place_state_directory(d->key, strcmp(hv_kind(d->hv), "local") ? NULL : d->opt->name, d->state_directory, err);
}

static int begin(struct daemon *d, struct error *err)
{
    struct hv_identity who = { .kind = HV_NAMED, .name = d->opt->name };
    struct blkback_options o = {
        .state_dir = d->state_directory, .persistent = d->opt->map_grants, .hidings = d->opt->hidings, .hiding_count = d->opt->hiding_count,
        .useless = useless, .ctx = d
    };
    int bad = loop_create(&d->loop);
    if (bad)
        return error_set(err, bad, "cannot make an event loop: %s", strerror(-bad));
    if (take_given_socket(d, err) || place_store_key(d->opt->url, d->key, err) || watch_signals(d, err) || refuse_second_daemon(d, err) ||
        open_store(d, err) || hv_open(d->opt->hypervisor, &who, &d->hv, err) || open_state_directory(d, err) || open_socket(d, err))
        return err->code;
    bad = blkback_start(d->hv, d->store, d->loop, &o, &d->backend, err);
    if (!bad && d->opt->metrics)
        bad = exporter_start(d->opt->metrics, d->loop, make_metrics, d, &d->exporter, err);
    return bad;
}

/* ---- The end ---- */

/* Unless another daemon's stands there by now. */
static void remove_socket(const struct daemon *d)
{
    struct stat now;
    if (d->socket_file.st_ino && lstat(d->socket, &now) == 0 && now.st_dev == d->socket_file.st_dev && now.st_ino == d->socket_file.st_ino)
        unlink(d->socket);
}

static void finish(struct daemon *d, struct error *err)
{
    if (d->exporter)
        exporter_stop(d->exporter);
    /* A failed beginning leaves the server without clients of consequence: they see the connection end. */
    if (d->server && !d->stopping) {
        d->stopping = true;
        if (server_stop(d->server))
            loop_run(d->loop);
    }
    if (d->backend)
        blkback_stop(d->backend, true);
    if (*d->state_directory)
        rmdir(d->state_directory); /* stays while guests wait for the next daemon, because then it holds their tables */
    remove_socket(d);
    if (d->server && d->given < 0)
        place_forget_socket(d->key);
    if (d->server)
        server_destroy(d->server);
    if (d->hv)
        hv_close(d->hv);
    int bad = d->store ? store_close(d->store) : 0;
    if (bad == -ESTALE)
        error_set(err, bad, "the store %s was removed while it was served: what was written to it is lost; make another with 'parallax init'", d->key);
    else if (bad)
        error_set(err, bad, "the store %s did not close cleanly: %s; it recovers when it is opened again", d->key, strerror(-bad));
    if (d->watchdog_ms)
        loop_timer_stop(d->loop, &d->watchdog);
    if (d->signals.active)
        loop_fd_remove(d->loop, &d->signals);
    if (d->signals.fd >= 0)
        close(d->signals.fd);
    if (d->loop)
        loop_destroy(d->loop);
}

int daemon_run(const struct daemon_options *opt, struct error *err)
{
    struct daemon d = { .opt = opt, .signals.fd = -1, .given = -1, .watchdog.expired = say_alive };
    if (begin(&d, err) == 0) {
        if (d.exporter)
            log_info("metrics url=%s", exporter_url(d.exporter));
        log_info("ready store=%s socket=%s hypervisor=%s domid=%u", d.key, d.socket, hv_kind(d.hv), hv_own_domid(d.hv));
        notify_state("READY=1");
        if ((d.watchdog_ms = notify_watchdog_ms()))
            say_alive(&d.watchdog);
        loop_run(d.loop);
        if (d.useless)
            error_set(err, -EPIPE, "the hypervisor has ended, and no guest is left: a parallaxd that is started now joins the next one");
    }
    finish(&d, err);
    return err->code;
}
