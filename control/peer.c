/* peer.c - the server's end of one connection, on a loop.
 *
 * 1. Reading: header, then the payload, into a buffer whose size was checked first; a DATA frame's bytes go straight into the
 *    buffer the owner names. A turn reads a bounded number of frames, so that one client cannot keep the loop.
 * 2. Writing: a queue of frames, sent at the end of the turn and whenever the socket takes more. Who produces without end
 *    looks at queued_bytes or waits for sent. A client that asks on and does not read is not heard above WAITING_MAX.
 * 3. The end: whatever goes wrong ends in shut_down, which tells every queued frame and runs once. */
#include "control/control.h"

#include "base/endian.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define FRAMES_PER_TURN 16
#define PIECES_PER_CALL 32
#define WAITING_MAX (1u << 20) /* bytes */

/* A frame whose body is freed when it is out. */
struct owned_out {
    struct control_out out;
    char *text;
};

static void owned_sent(struct control_out *o, int error)
{
    (void)error;
    struct owned_out *w = container_of(o, struct owned_out, out);
    free(w->text);
    free(w);
}

static bool is_data(const struct control_peer *p) { return p->type == CONTROL_DATA; }

static void forget_input(struct control_peer *p)
{
    if (p->body && !is_data(p))
        free(p->body);
    p->body = NULL;
    p->head_have = p->body_have = 0;
}

/* Closes the descriptor and gives every queued frame back. */
static bool shut_down(struct control_peer *p)
{
    if (!p->open)
        return false;
    p->open = false;
    loop_fd_remove(p->loop, &p->watch);
    loop_cancel(p->loop, &p->flush);
    close(p->watch.fd);
    forget_input(p);
    struct list_node *n;
    while ((n = list_pop(&p->out))) {
        struct control_out *o = container_of(n, struct control_out, link);
        o->sent(o, -ECONNRESET);
    }
    p->queued_bytes = 0;
    return true;
}

static void fail(struct control_peer *p, int error)
{
    if (shut_down(p))
        p->ops->closed(p, error);
}

void control_peer_close(struct control_peer *p) { shut_down(p); }

static bool listens(const struct control_peer *p) { return !p->paused && p->queued_bytes <= WAITING_MAX; }

static void want(struct control_peer *p)
{
    uint32_t events = (!listens(p) ? 0u : (uint32_t)EPOLLIN) | (list_empty(&p->out) ? 0u : (uint32_t)EPOLLOUT);
    if (p->open && events != p->events && loop_fd_modify(p->loop, &p->watch, events) == 0)
        p->events = events;
}

void control_peer_pause(struct control_peer *p, bool paused)
{
    p->paused = paused;
    want(p);
}

/* ---- Writing ---- */

static unsigned gather(struct control_peer *p, struct iovec *iov)
{
    unsigned n = 0;
    list_for_each(node, &p->out) {
        struct control_out *o = container_of(node, struct control_out, link);
        if (n + 2 > PIECES_PER_CALL)
            break;
        uint32_t head_done = o->done < o->head_length ? o->done : o->head_length, body_done = o->done - head_done;
        if (head_done < o->head_length)
            iov[n++] = (struct iovec){ o->head + head_done, o->head_length - head_done };
        if (body_done < o->body_length)
            iov[n++] = (struct iovec){ (char *)(uintptr_t)o->body + body_done, o->body_length - body_done };
    }
    return n;
}

static void retire(struct control_peer *p, size_t bytes)
{
    p->queued_bytes -= bytes;
    while (!list_empty(&p->out)) {
        struct control_out *o = container_of(p->out.next, struct control_out, link);
        uint32_t left = o->head_length + o->body_length - o->done;
        if (bytes < left) {
            o->done += (uint32_t)bytes;
            return;
        }
        bytes -= left;
        list_remove(&o->link);
        o->sent(o, 0);
    }
}

static void flush_output(struct control_peer *p)
{
    while (p->open && !list_empty(&p->out)) {
        struct iovec iov[PIECES_PER_CALL];
        struct msghdr m = { .msg_iov = iov, .msg_iovlen = gather(p, iov) };
        ssize_t n = sendmsg(p->watch.fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0) {
            if (errno == EINTR)
                continue;
            if (errno != EAGAIN)
                fail(p, -ECONNRESET);
            break;
        }
        retire(p, (size_t)n);
    }
    want(p);
}

static void flush_task(struct loop_task *t) { flush_output(container_of(t, struct control_peer, flush)); }

static void enqueue(struct control_peer *p, struct control_out *o)
{
    list_add_tail(&p->out, &o->link);
    p->queued_bytes += o->head_length + o->body_length;
    o->done = 0;
    loop_defer_last(p->loop, &p->flush);
}

static int send_owned(struct control_peer *p, enum control_type type, char *text, uint32_t length)
{
    struct owned_out *w = p->open ? calloc(1, sizeof *w) : NULL;
    if (!w) {
        free(text);
        return p->open ? -ENOMEM : -ECONNRESET;
    }
    w->text = text;
    w->out.sent = owned_sent;
    control_header_encode(w->out.head, type, length);
    w->out.head_length = CONTROL_HEADER_SIZE;
    w->out.body = text;
    w->out.body_length = length;
    enqueue(p, &w->out);
    return 0;
}

int control_peer_send_json(struct control_peer *p, enum control_type type, const json_t *doc)
{
    uint32_t length = 0;
    char *text = control_json_encode(doc, &length);
    return text ? send_owned(p, type, text, length) : -EMSGSIZE;
}

int control_peer_send_credit(struct control_peer *p, uint32_t frames)
{
    char *body = malloc(4);
    if (!body)
        return -ENOMEM;
    put_le32(body, frames);
    return send_owned(p, CONTROL_CREDIT, body, 4);
}

void control_peer_send_data(struct control_peer *p, struct control_out *o, uint64_t offset, const void *data, uint32_t length)
{
    control_header_encode(o->head, CONTROL_DATA, length + CONTROL_OFFSET_SIZE);
    put_le64(o->head + CONTROL_HEADER_SIZE, offset);
    o->head_length = sizeof o->head;
    o->body = data;
    o->body_length = length;
    enqueue(p, o);
}

/* ---- Reading ---- */

/* 1: all there; 0: not yet; negative: the connection ended. */
static int fill(struct control_peer *p, unsigned char *to, uint32_t *have, uint32_t length)
{
    while (*have < length) {
        ssize_t n = recv(p->watch.fd, to + *have, length - *have, MSG_DONTWAIT);
        if (n > 0)
            *have += (uint32_t)n;
        else if (n == 0)
            return -ESHUTDOWN;
        else if (errno == EAGAIN)
            return 0;
        else if (errno != EINTR)
            return -errno;
    }
    return 1;
}

static int read_header(struct control_peer *p)
{
    int r = fill(p, p->head, &p->head_have, CONTROL_HEADER_SIZE);
    if (r <= 0)
        return r;
    control_header_decode(p->head, &p->type, &p->length);
    bool from_client = p->type == CONTROL_REQUEST || p->type == CONTROL_DATA || p->type == CONTROL_END;
    if (!from_client || !control_frame_valid(p->type, p->length))
        return -EPROTO;
    return is_data(p) ? fill(p, p->head, &p->head_have, CONTROL_HEADER_SIZE + CONTROL_OFFSET_SIZE) : 1;
}

static int read_body(struct control_peer *p)
{
    uint32_t length = is_data(p) ? p->length - CONTROL_OFFSET_SIZE : p->length;
    if (length == 0)
        return 1;
    if (!p->body)
        p->body = is_data(p) ? p->ops->buffer(p, length) : malloc(length);
    if (!p->body)
        return is_data(p) ? -EPROTO : -ENOMEM;
    return fill(p, p->body, &p->body_have, length);
}

static int deliver(struct control_peer *p)
{
    if (is_data(p)) {
        void *body = p->body;
        uint32_t length = p->body_have;
        forget_input(p);
        p->ops->data(p, get_le64(p->head + CONTROL_HEADER_SIZE), body, length);
        return 0;
    }
    if (p->type == CONTROL_END) {
        forget_input(p);
        p->ops->end(p);
        return 0;
    }
    json_t *doc = control_json_decode(p->body, p->body_have);
    forget_input(p);
    if (!doc)
        return -EPROTO;
    p->ops->request(p, doc);
    json_decref(doc);
    return 0;
}

static void read_frames(struct control_peer *p)
{
    for (int i = 0; i < FRAMES_PER_TURN && p->open && listens(p); i++) {
        int r = read_header(p);
        if (r > 0)
            r = read_body(p);
        if (r == 0)
            return;
        if (r > 0)
            r = deliver(p);
        if (r < 0) {
            fail(p, r == -ESHUTDOWN ? 0 : r);
            return;
        }
    }
}

static void on_ready(struct loop_fd *w, uint32_t events)
{
    struct control_peer *p = container_of(w, struct control_peer, watch);
    if (events & EPOLLOUT)
        flush_output(p);
    if (p->open && (events & EPOLLIN))
        read_frames(p);
    if (p->open && (events & (EPOLLHUP | EPOLLERR)) && (p->paused || !(events & EPOLLIN)))
        fail(p, 0);
}

int control_peer_init(struct control_peer *p, struct loop *l, int fd, const struct control_peer_ops *ops)
{
    *p = (struct control_peer){ .ops = ops, .loop = l, .events = EPOLLIN };
    p->watch = (struct loop_fd){ .ready = on_ready, .fd = fd };
    p->flush.run = flush_task;
    list_init(&p->out);
    int err = loop_fd_add(l, &p->watch, EPOLLIN);
    p->open = !err;
    return err;
}
