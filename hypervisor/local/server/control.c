/* control.c - the control socket: what a process asks as its domain.
 *
 * 1. A datagram is one struct wire_request of exactly that size and magic, or the connection ends. Descriptors that come
 *    with it are closed unless the request took them.
 * 2. The first request is HELLO; one connection is one domain for its whole life.
 * 3. The reply is sent without waiting; a client whose socket has no room for one reply is cut off. */
#include "hypervisor/local/server/server_private.h"

#include "base/clock.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

/* What a request becomes: the reply, and descriptors that go with it. */
struct answer {
    struct wire_reply reply;
    int fds[WIRE_MAX_FDS];
    unsigned count;
    bool close_fds; /* ours only until sent */
};

static int explain(struct answer *a, int err, const char *text)
{
    snprintf(a->reply.text, sizeof a->reply.text, "%s", text);
    return err;
}

static void give(struct answer *a, int fd) { a->fds[a->count++] = fd; }

/* ---- HELLO ---- */

static bool printable(const char *name)
{
    for (; *name; name++)
        if (*name < ' ' || *name > '~')
            return false;
    return true;
}

/* The process that holds a named domain, or NULL. One that has just died may not have been noticed yet: its successor, which
 * may be as quick as its supervisor, must not be turned away for that. */
static const struct control *holder(struct server *s, const struct domain *d)
{
    const struct control *alive = NULL;
    list_for_each_safe(n, &s->controls) {
        struct control *c = container_of(n, struct control, link);
        struct pollfd p = { .fd = c->fd.fd, .events = POLLRDHUP };
        if (c->domain != d)
            continue;
        if (poll(&p, 1, 0) == 1 && p.revents & (POLLHUP | POLLRDHUP))
            control_close(c);
        else
            alive = c;
    }
    return alive;
}

/* The toolstack, or the named domain that exists already. */
static int claim(struct control *c, const struct wire_request *r, struct answer *a, struct domain **out)
{
    if (!server_trusts(c->server, c->uid))
        return explain(a, -EPERM, "only its owner and root may be the toolstack or a named domain; this user may be a guest");
    if (r->kind == HV_TOOLSTACK) {
        if (r->arena_pages)
            return explain(a, -EINVAL, "the toolstack has no memory to grant");
        *out = domain_find(c->server, HV_DOMID_TOOLSTACK);
        return 0;
    }
    struct domain *d = domain_named(c->server, r->name);
    if (!d)
        return domain_create(c->server, c, HV_NAMED, r->name, out);
    const struct control *by = holder(c->server, d);
    if (by) {
        snprintf(a->reply.text, sizeof a->reply.text, "the storage domain '%s' is served by process %ld; stop that one first, or give this one another name with --name",
                 d->name, (long)by->pid);
        return -EBUSY;
    }
    if (d->uid != c->uid)
        return explain(a, -EPERM, "that domain belongs to another user");
    *out = d;
    return 0;
}

static int op_hello(struct control *c, const struct wire_request *r, int *fds, struct answer *a)
{
    if (c->domain)
        return -EISCONN;
    if (!memchr(r->name, 0, sizeof r->name) || !printable(r->name) || (r->kind == HV_NAMED && !r->name[0]))
        return explain(a, -EINVAL, "a domain's name is at most 63 printable characters");
    struct domain *d = NULL;
    int err;
    if (r->kind == HV_TOOLSTACK || r->kind == HV_NAMED)
        err = claim(c, r, a, &d);
    else if (r->kind == HV_GUEST)
        err = domain_create(c->server, c, HV_GUEST, r->name, &d);
    else
        err = -EINVAL;
    if (err)
        return a->reply.text[0] ? err : explain(a, err, strerror(-err));
    if (r->arena_pages) {
        err = domain_take_memory(d, c, r, fds);
        if (err) {
            if (!d->controls && d->kind == HV_GUEST)
                domain_destroy(d);
            return explain(a, err, err == -EPERM ? "its memory is not sealed against shrinking" : "its memory was not accepted");
        }
        fds[0] = fds[1] = -1;
    }
    c->domain = d;
    d->controls++;
    server_count_live(c->server, 1);
    a->reply.dom = d->domid;
    a->reply.status_ports = d->port_limit;
    give(a, d->status_fd);
    log_debug("domain joined domid=%u kind=%u pid=%ld uid=%ld", d->domid, d->kind, (long)c->pid, (long)c->uid);
    return 0;
}

/* ---- the other requests ---- */

static int op_alloc(struct control *c, const struct wire_request *r, struct answer *a)
{
    int fd;
    int err = channel_alloc(c, r->dom, &a->reply.port, &fd);
    if (err)
        return err;
    give(a, fd);
    a->close_fds = true;
    return 0;
}

static int op_bind(struct control *c, const struct wire_request *r, struct answer *a)
{
    int fd;
    int err = channel_bind(c, r->dom, r->port, &a->reply.port, &fd);
    if (!err)
        give(a, fd);
    return err;
}

static int op_memory(struct control *c, const struct wire_request *r, struct answer *a)
{
    const struct domain *d = domain_find(c->server, r->dom);
    if (!d)
        return -ENOENT;
    if (d->arena_fd < 0 || !domain_authorises(d, c->domain->domid))
        return -EACCES;
    a->reply.arena_pages = d->arena_pages;
    a->reply.table_entries = d->table_entries;
    give(a, d->arena_fd);
    give(a, d->table_fd);
    return 0;
}

static void xenstore_closed(void *context)
{
    struct user *u = context;
    user_discharge(u->server, u, 1);
}

static void xenstore_accepted(struct listener *l, int fd, pid_t pid, uid_t uid)
{
    (void)pid;
    struct domain *d = l->domain;
    struct xsd_domain *who = xsd_domain_find(&l->server->xsd, d->domid);
    if (!who || (uid != d->uid && uid != 0) || user_charge(l->server, d->user, 1) != 0) {
        close(fd);
        return;
    }
    if (xsd_conn_open(&l->server->xsd, who, fd, d->user ? xenstore_closed : NULL, d->user) != 0)
        user_discharge(l->server, d->user, 1);
}

static int op_xenstore(struct control *c, struct answer *a)
{
    struct domain *d = c->domain;
    char name[32];
    if (d->kind == HV_TOOLSTACK)
        return explain(a, 0, WIRE_XENSTORE_SOCKET);
    snprintf(name, sizeof name, "xenstore-%u.sock", d->domid);
    if (!d->xenstore) {
        int err = user_charge(c->server, d->user, 1);
        if (err)
            return err;
        struct listener *l = calloc(1, sizeof *l);
        if (l) {
            l->domain = d;
            l->accepted = xenstore_accepted;
        }
        err = l ? listener_open(c->server, l, SOCK_STREAM, name) : -ENOMEM;
        if (err) {
            user_discharge(c->server, d->user, 1);
            free(l);
            return err;
        }
        d->xenstore = l;
    }
    return explain(a, 0, name);
}

static int run(struct control *c, const struct wire_request *r, int *fds, struct answer *a)
{
    if (r->op == WIRE_HELLO)
        return op_hello(c, r, fds, a);
    if (!c->domain)
        return -ENOTCONN;
    switch (r->op) {
    case WIRE_ALLOC: return op_alloc(c, r, a);
    case WIRE_BIND: return op_bind(c, r, a);
    case WIRE_CLOSE: return channel_close(c, r->port);
    case WIRE_MEMORY: return op_memory(c, r, a);
    case WIRE_AUTHORISE: return domain_authorise(c->domain, r->dom);
    case WIRE_XENSTORE: return op_xenstore(c, a);
    case WIRE_BYE: {
        struct domain *d = c->domain;
        c->domain = NULL;
        domain_detach(d, c);
        return 0;
    }
    }
    return -ENOSYS;
}

/* ---- the socket ---- */

static int send_answer(const struct control *c, const struct answer *a)
{
    struct iovec iov = { .iov_base = (void *)&a->reply, .iov_len = sizeof a->reply };
    union { struct cmsghdr align; char space[CMSG_SPACE(WIRE_MAX_FDS * sizeof(int))]; } control;
    struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };
    if (a->count) {
        memset(&control, 0, sizeof control);
        m.msg_control = &control;
        m.msg_controllen = CMSG_SPACE(a->count * sizeof(int));
        struct cmsghdr *h = CMSG_FIRSTHDR(&m);
        h->cmsg_level = SOL_SOCKET;
        h->cmsg_type = SCM_RIGHTS;
        h->cmsg_len = CMSG_LEN(a->count * sizeof(int));
        memcpy(CMSG_DATA(h), a->fds, a->count * sizeof(int));
    }
    return sendmsg(c->fd.fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)sizeof a->reply ? 0 : -EPIPE;
}

static ssize_t receive(const struct control *c, struct wire_request *r, int fds[WIRE_MAX_FDS])
{
    struct iovec iov = { .iov_base = r, .iov_len = sizeof *r };
    union { struct cmsghdr align; char space[CMSG_SPACE(WIRE_MAX_FDS * sizeof(int))]; } control;
    struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control };
    ssize_t n = recvmsg(c->fd.fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (n < 0)
        return -errno;
    unsigned got = 0;
    for (struct cmsghdr *h = CMSG_FIRSTHDR(&m); h; h = CMSG_NXTHDR(&m, h)) {
        if (h->cmsg_level != SOL_SOCKET || h->cmsg_type != SCM_RIGHTS)
            continue;
        size_t count = (h->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(h) + i * sizeof(int), sizeof fd);
            if (got < WIRE_MAX_FDS)
                fds[got++] = fd;
            else
                close(fd);
        }
    }
    return m.msg_flags & MSG_TRUNC ? -EMSGSIZE : n;
}

void control_close(struct control *c)
{
    struct server *s = c->server;
    struct domain *d = c->domain;
    c->domain = NULL;
    loop_fd_remove(s->loop, &c->fd);
    list_remove(&c->link);
    if (d)
        domain_detach(d, c);
    close(c->fd.fd);
    user_discharge(s, c->user, 1);
    free(c);
}

static void ready(struct loop_fd *w, uint32_t events)
{
    (void)events;
    struct control *c = container_of(w, struct control, fd);
    struct wire_request r;
    int fds[WIRE_MAX_FDS] = { -1, -1 };
    ssize_t n = receive(c, &r, fds);
    bool bad = n != (ssize_t)sizeof r || r.magic != WIRE_MAGIC;
    if (n == -EAGAIN || n == -EINTR)
        return;
    if (!bad) {
        struct answer a = { .reply.error = 0 };
        a.reply.error = run(c, &r, fds, &a);
        if (a.reply.error)
            a.count = 0;
        bad = send_answer(c, &a) != 0;
        for (unsigned i = 0; a.close_fds && i < a.count; i++)
            close(a.fds[i]);
    } else if (n != 0) {
        log_limited(&c->server->refused, LOG_LEVEL_WARNING, "bad control message bytes=%ld pid=%ld uid=%ld", (long)n, (long)c->pid, (long)c->uid);
    }
    for (int i = 0; i < WIRE_MAX_FDS; i++)
        if (fds[i] >= 0)
            close(fds[i]);
    if (bad)
        control_close(c);
}

static int admit(struct server *s, int fd, pid_t pid, uid_t uid)
{
    struct user *u;
    int err = user_find(s, uid, &u);
    if (!err)
        err = user_charge(s, u, 1);
    if (err)
        return err;
    struct control *c = calloc(1, sizeof *c);
    if (u && (unsigned)fd + DESCRIPTOR_RESERVE > s->descriptor_limit)
        err = -EMFILE;
    else if (!c)
        err = -ENOMEM;
    if (!err) {
        *c = (struct control){ .fd = { .ready = ready, .fd = fd }, .server = s, .pid = pid, .uid = uid, .user = u, .since_ms = clock_monotonic_ms() };
        err = loop_fd_add(s->loop, &c->fd, EPOLLIN);
    }
    if (err) {
        free(c);
        user_discharge(s, u, 1);
        return err;
    }
    list_add_tail(&s->controls, &c->link);
    return 0;
}

void control_accepted(struct listener *l, int fd, pid_t pid, uid_t uid)
{
    int err = admit(l->server, fd, pid, uid);
    if (!err)
        return;
    log_limited(&l->server->refused, LOG_LEVEL_WARNING, "connection refused error=%d pid=%ld uid=%ld", err, (long)pid, (long)uid);
    close(fd);
}
