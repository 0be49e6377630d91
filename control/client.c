/* client.c - the blocking end of the control protocol.
 *
 * The socket does not block; every wait is a poll on the socket and on the cancel descriptor together, so that a signal that
 * comes between a check and a system call is never missed. */
#include "base/clock.h"
#include "base/endian.h"
#include "control/control.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define BUFFER_SIZE (CONTROL_DATA_MAX + CONTROL_OFFSET_SIZE)

int control_client_init(struct control_client *c, int fd, int cancel_fd)
{
    *c = (struct control_client){ .fd = fd, .cancel_fd = cancel_fd, .buffer = malloc(BUFFER_SIZE) };
    if (!c->buffer)
        return -ENOMEM;
    int flags = fcntl(fd, F_GETFL);
    return flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 ? -errno : 0;
}

void control_client_fini(struct control_client *c)
{
    free(c->buffer);
    close(c->fd);
    *c = (struct control_client){ .fd = -1, .cancel_fd = -1 };
}

static int wait_for(struct control_client *c, short events)
{
    struct pollfd p[2] = { { .fd = c->fd, .events = events }, { .fd = c->cancel_fd, .events = POLLIN } };
    int n;
    do {
        uint64_t now = clock_monotonic_ms(), left = c->deadline_ms > now ? c->deadline_ms - now : 0;
        n = poll(p, 2, !c->deadline_ms ? -1 : left > INT_MAX ? INT_MAX : (int)left);
    } while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n == 0 ? -ETIMEDOUT : p[1].revents ? -ECANCELED : 0;
}

static int receive_bytes(struct control_client *c, void *to, size_t length)
{
    unsigned char *at = to;
    while (length) {
        ssize_t n = recv(c->fd, at, length, 0);
        if (n == 0)
            return -ECONNRESET;
        if (n > 0) {
            at += n;
            length -= (size_t)n;
            continue;
        }
        if (errno != EAGAIN && errno != EINTR)
            return errno == EPIPE ? -ECONNRESET : -errno;
        int err = wait_for(c, POLLIN);
        if (err)
            return err;
    }
    return 0;
}

static int send_pieces(struct control_client *c, struct iovec *iov, unsigned count)
{
    while (count) {
        struct msghdr m = { .msg_iov = iov, .msg_iovlen = count };
        ssize_t n = sendmsg(c->fd, &m, MSG_NOSIGNAL);
        if (n < 0) {
            if (errno != EAGAIN && errno != EINTR)
                return errno == EPIPE ? -ECONNRESET : -errno;
            int err = wait_for(c, POLLOUT);
            if (err)
                return err;
            continue;
        }
        size_t sent = (size_t)n;
        while (count && sent >= iov->iov_len) {
            sent -= iov->iov_len;
            iov++;
            count--;
        }
        if (count) {
            iov->iov_base = (char *)iov->iov_base + sent;
            iov->iov_len -= sent;
        }
    }
    return 0;
}

int control_client_receive(struct control_client *c, struct control_frame *out)
{
    unsigned char head[CONTROL_HEADER_SIZE];
    uint32_t type, length;
    int err = receive_bytes(c, head, sizeof head);
    if (err)
        return err;
    control_header_decode(head, &type, &length);
    if (!control_frame_valid(type, length))
        return -EPROTO;
    err = receive_bytes(c, c->buffer, length);
    if (err)
        return err;
    struct control_frame f = { .type = (enum control_type)type };
    if (f.type == CONTROL_DATA) {
        f.offset = get_le64(c->buffer);
        f.data = c->buffer + CONTROL_OFFSET_SIZE;
        f.length = length - CONTROL_OFFSET_SIZE;
    } else if (f.type == CONTROL_CREDIT) {
        c->credits += get_le32(c->buffer);
    } else if (length) {
        f.doc = control_json_decode(c->buffer, length);
        if (!f.doc)
            return -EPROTO;
    }
    *out = f;
    return 0;
}

int control_client_send_json(struct control_client *c, enum control_type type, const json_t *doc)
{
    uint32_t length = 0;
    char *text = control_json_encode(doc, &length);
    if (!text)
        return -EMSGSIZE;
    unsigned char head[CONTROL_HEADER_SIZE];
    control_header_encode(head, type, length);
    struct iovec iov[2] = { { head, sizeof head }, { text, length } };
    int err = send_pieces(c, iov, 2);
    free(text);
    return err;
}

int control_client_send_data(struct control_client *c, uint64_t offset, const void *data, uint32_t length)
{
    if (length == 0 || length > CONTROL_DATA_MAX)
        return -EINVAL;
    if (c->credits == 0)
        return -EAGAIN;
    unsigned char head[CONTROL_HEADER_SIZE + CONTROL_OFFSET_SIZE];
    control_header_encode(head, CONTROL_DATA, length + CONTROL_OFFSET_SIZE);
    put_le64(head + CONTROL_HEADER_SIZE, offset);
    struct iovec iov[2] = { { head, sizeof head }, { (void *)(uintptr_t)data, length } };
    int err = send_pieces(c, iov, 2);
    if (!err)
        c->credits--;
    return err;
}

int control_client_send_end(struct control_client *c)
{
    unsigned char head[CONTROL_HEADER_SIZE];
    control_header_encode(head, CONTROL_END, 0);
    struct iovec iov = { head, sizeof head };
    return send_pieces(c, &iov, 1);
}
