/* local.c - a process as a domain of the embedded hypervisor: open, close, and the control calls in between.
 *
 * 1. The control socket carries one request and one reply at a time, under call_lock.
 * 2. hv_close waits until the hypervisor has given everything of ours back, so that what follows sees no trace of it. */
#include "hypervisor/local/local_private.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>
#include <xenstore.h>

static int send_request(int fd, const struct wire_request *request, const int *fds, unsigned count)
{
    struct iovec iov = { .iov_base = (void *)request, .iov_len = sizeof *request };
    union { struct cmsghdr align; char space[CMSG_SPACE(WIRE_MAX_FDS * sizeof(int))]; } control;
    struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };
    if (count) {
        memset(&control, 0, sizeof control);
        m.msg_control = &control;
        m.msg_controllen = CMSG_SPACE(count * sizeof(int));
        struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(count * sizeof(int));
        memcpy(CMSG_DATA(c), fds, count * sizeof(int));
    }
    ssize_t n;
    do
        n = sendmsg(fd, &m, MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    return n == (ssize_t)sizeof *request ? 0 : -EPIPE;
}

static int receive_reply(int fd, struct wire_reply *reply, int *fds, unsigned count)
{
    struct iovec iov = { .iov_base = reply, .iov_len = sizeof *reply };
    union { struct cmsghdr align; char space[CMSG_SPACE(WIRE_MAX_FDS * sizeof(int))]; } control;
    struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control };
    ssize_t n;
    do
        n = recvmsg(fd, &m, MSG_CMSG_CLOEXEC);
    while (n < 0 && errno == EINTR);
    for (unsigned i = 0; i < count; i++)
        fds[i] = -1;
    for (struct cmsghdr *c = n >= 0 ? CMSG_FIRSTHDR(&m) : NULL; c; c = CMSG_NXTHDR(&m, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        unsigned got = (unsigned)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        for (unsigned i = 0; i < got; i++) {
            int one;
            memcpy(&one, CMSG_DATA(c) + i * sizeof(int), sizeof one);
            if (i < count)
                fds[i] = one;
            else
                close(one);
        }
    }
    return n == (ssize_t)sizeof *reply ? 0 : -EPIPE;
}

int local_call(struct local *l, const struct wire_request *request, const int *send_fds, unsigned send_count, struct wire_reply *reply,
               int *got_fds, unsigned got_count)
{
    struct wire_reply own;
    struct wire_request r = *request;
    r.magic = WIRE_MAGIC;
    if (!reply)
        reply = &own;
    pthread_mutex_lock(&l->call_lock);
    int err = send_request(l->control, &r, send_fds, send_count);
    if (!err)
        err = receive_reply(l->control, reply, got_fds, got_count);
    pthread_mutex_unlock(&l->call_lock);
    if (err)
        return err;
    reply->text[sizeof reply->text - 1] = 0;
    return reply->error;
}

static void local_close(struct hv *hv)
{
    struct local *l = local_of(hv);
    local_call(l, &(struct wire_request){ .op = WIRE_BYE }, NULL, 0, NULL, NULL, 0);
    close(l->control);
    if (l->status)
        munmap((void *)l->status, l->status_ports);
    local_memory_fini(&l->memory);
    pthread_mutex_destroy(&l->call_lock);
    free(l);
}

static hv_domid local_own_domid(const struct hv *hv) { return container_of(hv, struct local, hv)->domid; }

/* libxenstore takes the socket's path from the environment only. The variable is put there once, as a static buffer whose
 * text alone changes afterwards, because setenv would race with getenv in other threads. */
static int local_xenstore_connect(struct hv *hv, struct xs_handle **out)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static char variable[sizeof "XENSTORED_PATH=" + LOCAL_DIR_BYTES + 32] = "XENSTORED_PATH=";
    struct local *l = local_of(hv);
    struct wire_reply reply;
    int err = local_call(l, &(struct wire_request){ .op = WIRE_XENSTORE }, NULL, 0, &reply, NULL, 0);
    if (err)
        return err;
    pthread_mutex_lock(&lock);
    int n = snprintf(variable, sizeof variable, "XENSTORED_PATH=%s/%.40s", l->dir, reply.text);
    struct xs_handle *handle = NULL;
    if (n < (int)sizeof variable && (getenv("XENSTORED_PATH") == strchr(variable, '=') + 1 || putenv(variable) == 0)) {
        errno = 0;
        handle = xs_open(0);
        err = handle ? 0 : errno ? -errno : -EIO;
    } else {
        err = -ENAMETOOLONG;
    }
    pthread_mutex_unlock(&lock);
    if (!err)
        *out = handle;
    return err;
}

static const struct hv_ops local_ops = {
    .kind = "local",
    .close = local_close,
    .own_domid = local_own_domid,
    .ports_open = local_ports_open,
    .ports_close = local_ports_close,
    .grant_map = local_grant_map,
    .grant_unmap = local_grant_unmap,
    .grant_copy = local_grant_copy,
    .event_bind = local_event_bind,
    .arena_alloc = local_arena_alloc,
    .arena_free = local_arena_free,
    .grant_share = local_grant_share,
    .grant_unshare = local_grant_unshare,
    .event_alloc = local_event_alloc,
    .event_fd = local_event_fd,
    .event_pending = local_event_pending,
    .event_unmask = local_event_unmask,
    .event_notify = local_event_notify,
    .event_close = local_event_close,
    .xenstore_connect = local_xenstore_connect,
};

/* Says who we are; fds are the memory's. */
static int hello(struct local *l, const struct hv_identity *who, const int *fds, struct error *err)
{
    struct wire_request request = { .op = WIRE_HELLO, .kind = (uint32_t)who->kind, .arena_pages = l->memory.arena.pages, .table_entries = l->memory.entries };
    snprintf(request.name, sizeof request.name, "%s", who->name ? who->name : who->kind == HV_NAMED ? "storage" : "");
    struct wire_reply reply;
    int status_fd = -1;
    int r = local_call(l, &request, fds, l->memory.arena.pages ? 2 : 0, &reply, &status_fd, 1);
    if (r == -EPIPE)
        return error_set(err, r, "the embedded hypervisor in %s closed the connection", l->dir);
    if (r)
        return error_set(err, r, "the embedded hypervisor in %s refused: %s", l->dir, reply.text);
    l->domid = reply.dom;
    void *status = status_fd < 0 ? MAP_FAILED : mmap(NULL, reply.status_ports, PROT_READ, MAP_SHARED, status_fd, 0);
    r = status == MAP_FAILED ? -errno : 0;
    if (status_fd >= 0)
        close(status_fd);
    if (r)
        return error_set(err, r, "cannot map the port states of the embedded hypervisor: %s", strerror(-r));
    l->status = status;
    l->status_ports = reply.status_ports;
    return 0;
}

static int open_once(struct local *l, const struct hv_identity *who, struct error *err)
{
    int r = local_connect(l->dir, &l->control, err);
    if (r)
        return r;
    int fds[2] = { -1, -1 };
    r = local_memory_init(&l->memory, who->arena_pages, fds);
    if (r)
        error_set(err, r, "cannot make %u pages of memory to grant from: %s", who->arena_pages, strerror(-r));
    else
        r = hello(l, who, fds, err);
    for (int i = 0; i < 2; i++)
        if (fds[i] >= 0)
            close(fds[i]);
    if (r) {
        local_memory_fini(&l->memory);
        close(l->control);
    }
    return r;
}

int local_open(const struct hv_identity *who, struct hv **out, struct error *err)
{
    struct local *l = calloc(1, sizeof *l);
    if (!l)
        return error_set(err, -ENOMEM, "out of memory");
    l->hv.ops = &local_ops;
    pthread_mutex_init(&l->call_lock, NULL);
    int r = local_directory(l->dir, err);
    if (!r) {
        struct error last = ERROR_NONE;
        /* A hypervisor that was just ending when we connected hangs up: the next attempt starts a new one. */
        for (int attempt = 0; attempt < 5; attempt++) {
            last = (struct error)ERROR_NONE;
            r = open_once(l, who, &last);
            if (r != -EPIPE)
                break;
        }
        if (r)
            error_set(err, r, "%s", last.text);
    }
    if (r) {
        pthread_mutex_destroy(&l->call_lock);
        free(l);
        return r;
    }
    *out = &l->hv;
    return 0;
}
