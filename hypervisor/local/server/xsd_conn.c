/* xsd_conn.c - one client's socket: framing in, a bounded queue out.
 *
 * 1. A message is a header and at most XENSTORE_PAYLOAD_MAX bytes; one that claims more ends the connection.
 * 2. A client that does not read is not served: above QUEUE_PAUSE_BYTES nothing more is read from it, and watch events that
 *    fill its queue beyond its quota end the connection.
 * 3. A connection is freed only in its own callback or by xsd_conn_close; whoever finds it broken in passing (firing a
 *    watch) shuts its socket down and leaves the rest to that callback. */
#include "hypervisor/local/server/xsd_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define QUEUE_PAUSE_BYTES (64u * 1024)
#define RX_BYTES (sizeof(struct xsd_sockmsg) + XENSTORE_PAYLOAD_MAX)

static void give_up(struct xsd_conn *c)
{
    if (!c->broken)
        shutdown(c->fd.fd, SHUT_RDWR);
    c->broken = true;
}

static void watch_for(struct xsd_conn *c)
{
    uint32_t events = (c->out_bytes <= QUEUE_PAUSE_BYTES ? EPOLLIN : 0) | (list_empty(&c->out) ? 0 : EPOLLOUT);
    if (c->broken)
        events = EPOLLIN;
    if (events != c->events && loop_fd_modify(c->xsd->loop, &c->fd, events) == 0)
        c->events = events;
}

static void drop_message(struct xsd_conn *c, struct xsd_msg *m)
{
    list_remove(&m->link);
    if (m->watch)
        m->watch->pending = NULL;
    c->out_bytes -= m->bytes;
    free(m);
}

static void flush(struct xsd_conn *c)
{
    while (!list_empty(&c->out) && !c->broken) {
        struct xsd_msg *m = container_of(c->out.next, struct xsd_msg, link);
        ssize_t n = send(c->fd.fd, m->data + m->sent, m->bytes - m->sent, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            if (errno != EAGAIN)
                give_up(c);
            break;
        }
        m->sent += (size_t)n;
        if (m->watch) {
            m->watch->pending = NULL;
            m->watch = NULL;
        }
        if (m->sent == m->bytes)
            drop_message(c, m);
    }
    watch_for(c);
}

struct xsd_msg *xsd_conn_send(struct xsd_conn *c, uint32_t type, uint32_t request, uint32_t tx, const void *a, size_t a_bytes, const void *b,
                              size_t b_bytes)
{
    struct xsd_sockmsg header = { .type = type, .req_id = request, .tx_id = tx, .len = (uint32_t)(a_bytes + b_bytes) };
    struct xsd_msg *m = c->broken ? NULL : malloc(sizeof *m + sizeof header + a_bytes + b_bytes);
    if (!m || (c->who->quota.queue_bytes && c->out_bytes > c->who->quota.queue_bytes)) {
        free(m);
        give_up(c);
        return NULL;
    }
    *m = (struct xsd_msg){ .bytes = sizeof header + a_bytes + b_bytes };
    memcpy(m->data, &header, sizeof header);
    memcpy(m->data + sizeof header, a, a_bytes);
    if (b_bytes)
        memcpy(m->data + sizeof header + a_bytes, b, b_bytes);
    bool first = list_empty(&c->out);
    list_add_tail(&c->out, &m->link);
    c->out_bytes += m->bytes;
    if (!first)
        return m;
    flush(c);
    /* Only a message of which nothing has been sent may still be merged with. */
    return list_empty(&c->out) || m->sent ? NULL : m;
}

void xsd_conn_close(struct xsd_conn *c)
{
    struct xsd *x = c->xsd;
    loop_fd_remove(x->loop, &c->fd);
    xsd_watch_remove_all(c);
    xsd_tx_end_all(c);
    while (!list_empty(&c->out))
        drop_message(c, container_of(c->out.next, struct xsd_msg, link));
    list_remove(&c->of_domain);
    c->who->connections--;
    close(c->fd.fd);
    if (c->closed)
        c->closed(c->context);
    free(c->rx);
    free(c);
    if (--x->connections == 0 && x->idle)
        x->idle(x);
}

/* Serves what is complete in buffer and keeps the rest; false if the client broke the protocol. */
static bool serve(struct xsd_conn *c, char *buffer, size_t bytes)
{
    size_t at = 0;
    struct xsd_sockmsg header;
    while (bytes - at >= sizeof header && !c->broken) {
        memcpy(&header, buffer + at, sizeof header);
        if (header.len > XENSTORE_PAYLOAD_MAX)
            return false;
        if (bytes - at < sizeof header + header.len)
            break;
        xsd_request(c, &header, buffer + at + sizeof header);
        at += sizeof header + header.len;
    }
    char *rest = NULL;
    if (at < bytes) {
        rest = malloc(bytes - at);
        if (!rest)
            return false;
        memcpy(rest, buffer + at, bytes - at);
    }
    free(c->rx);
    c->rx = rest;
    c->rx_bytes = bytes - at;
    return true;
}

static void ready(struct loop_fd *w, uint32_t events)
{
    struct xsd_conn *c = container_of(w, struct xsd_conn, fd);
    if (events & EPOLLOUT)
        flush(c);
    if (!(events & (EPOLLIN | EPOLLHUP | EPOLLERR)))
        return;
    char buffer[RX_BYTES];
    if (c->rx_bytes)
        memcpy(buffer, c->rx, c->rx_bytes);
    ssize_t n = recv(w->fd, buffer + c->rx_bytes, sizeof buffer - c->rx_bytes, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR) && !c->broken)
        return;
    if (n <= 0 || c->broken || !serve(c, buffer, c->rx_bytes + (size_t)n) || c->broken) {
        xsd_conn_close(c);
        return;
    }
    watch_for(c);
}

int xsd_conn_open(struct xsd *x, struct xsd_domain *who, int fd, void (*closed)(void *context), void *context)
{
    struct xsd_conn *c = NULL;
    int err = who->quota.connections && who->connections >= who->quota.connections ? -ENOSPC : 0;
    if (!err && !(c = calloc(1, sizeof *c)))
        err = -ENOMEM;
    if (!err) {
        c->fd = (struct loop_fd){ .ready = ready, .fd = fd };
        c->events = EPOLLIN;
        err = loop_fd_add(x->loop, &c->fd, EPOLLIN);
    }
    if (err) {
        free(c);
        close(fd);
        return err;
    }
    c->xsd = x;
    c->who = who;
    c->closed = closed;
    c->context = context;
    c->next_tx = 1;
    list_init(&c->out);
    list_init(&c->watches);
    list_init(&c->transactions);
    list_add_tail(&who->conns, &c->of_domain);
    who->connections++;
    x->connections++;
    return 0;
}
