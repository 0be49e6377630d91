/* contact.c - see contact.h. */
#include "control/contact.h"

#include "base/clock.h"
#include "control/place.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define LOOK_EVERY_MS 20

static int read_hello(const json_t *doc, const char *key, int *pid, struct error *err)
{
    json_t *problem = json_object_get(doc, "error");
    const char *store = json_string_value(json_object_get(doc, "store")), *text = json_string_value(json_object_get(problem, "text"));
    int code = (int)json_integer_value(json_object_get(problem, "code"));
    int protocol = (int)json_integer_value(json_object_get(doc, "protocol"));
    if (problem)
        return error_set(err, code < 0 ? code : -EIO, "%s", text ? text : "the store could not be opened");
    if (protocol != CONTROL_PROTOCOL)
        return error_set(err, -EPROTONOSUPPORT, "the store's daemon speaks protocol %d and this program %d; use the same version of both",
                         protocol, CONTROL_PROTOCOL);
    if (!store || strcmp(store, key))
        return -ENOENT;
    *pid = (int)json_integer_value(json_object_get(doc, "pid"));
    return 0;
}

int contact_greet(struct control_client *c, const char *key, int *pid, struct error *err)
{
    struct control_frame f;
    int bad = control_client_receive(c, &f);
    if (bad == -ECANCELED)
        return error_set(err, bad, "interrupted; nothing was changed");
    if (bad || f.type != CONTROL_HELLO) {
        if (!bad)
            json_decref(f.doc);
        return error_set(err, bad ? bad : -EPROTO, "who answers for store %s does not greet: %s", key, strerror(bad ? -bad : EPROTO));
    }
    bad = read_hello(f.doc, key, pid, err);
    json_decref(f.doc);
    return bad;
}

static int silent(const char *key, int pid, unsigned timeout_ms, struct error *err)
{
    if (err)
        *err = (struct error)ERROR_NONE;
    char who[32] = "";
    if (pid > 0)
        snprintf(who, sizeof who, ", pid %d,", pid);
    return error_set(err, -ETIMEDOUT, "the daemon of store %s%s does not answer within %g s: it is stopped or busy; see what it does, or wait longer with --lock-timeout",
                     key, who, timeout_ms / 1000.0);
}

/* Waits while too many others wait for an answer: a daemon that is stopped takes nobody's connection. */
static int connect_in_turn(const char *path, int cancel_fd, uint64_t deadline_ms, int *fd)
{
    struct pollfd cancel = { .fd = cancel_fd, .events = POLLIN };
    int bad;
    while ((bad = control_connect(path, fd)) == -EAGAIN) {
        if (deadline_ms && clock_monotonic_ms() >= deadline_ms)
            return -ETIMEDOUT;
        if (poll(&cancel, 1, LOOK_EVERY_MS) > 0)
            return -ECANCELED;
    }
    return bad;
}

int contact_daemon(const char *key, int cancel_fd, unsigned timeout_ms, struct control_client *out, int *pid, struct error *err)
{
    char paths[PLACE_CANDIDATES][PLACE_MAX];
    unsigned count = place_socket_candidates(key, paths);
    uint64_t deadline_ms = timeout_ms ? clock_monotonic_ms() + timeout_ms : 0;
    for (unsigned i = 0; i < count; i++) {
        int fd, bad = connect_in_turn(paths[i], cancel_fd, deadline_ms, &fd);
        if (bad == -ETIMEDOUT)
            return silent(key, -1, timeout_ms, err);
        if (bad == -ECANCELED)
            return error_set(err, bad, "interrupted; nothing was changed");
        if (bad == -EACCES && access(paths[i], F_OK) == 0)
            return error_set(err, bad, "a daemon serves this store at %s, and this user may not talk to it; be root or a member of group %s",
                             paths[i], PLACE_GROUP);
        if (bad)
            continue;
        bad = control_client_init(out, fd, cancel_fd);
        if (!bad)
            out->deadline_ms = deadline_ms;
        if (!bad)
            bad = contact_greet(out, key, pid, err);
        out->deadline_ms = 0;
        if (!bad)
            return 0;
        int peer = control_peer_pid(fd);
        control_client_fini(out);
        if (bad == -ETIMEDOUT)
            return silent(key, peer, timeout_ms, err);
        /* Neither another store's daemon nor one that just ends is ours. */
        if (bad != -ENOENT && bad != -ECONNRESET)
            return error_set(err, bad, "cannot talk to the daemon at %s: %s", paths[i], strerror(-bad));
        if (err)
            *err = (struct error)ERROR_NONE;
    }
    return -ENOENT;
}
