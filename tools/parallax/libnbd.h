/* libnbd.h - libnbd, loaded when a command first needs it: libnbd.get_size(h) is nbd_get_size(h); and waiting for a server, which the
 * user may have enough of: libnbd's own waiting goes on whatever signals come.
 *
 * It brings the libraries of TLS and of URIs (GnuTLS, libxml2, ICU), and to load those takes longer than most commands run. One thread. */
#ifndef TOOLS_PARALLAX_LIBNBD_H
#define TOOLS_PARALLAX_LIBNBD_H
#include "base/error.h"

#include <libnbd.h>
#include <stdint.h>

#define LIBNBD_FUNCTIONS(X)                                                                                                          \
    X(add_meta_context) X(aio_block_status) X(aio_command_completed) X(aio_connect_uri) X(aio_get_direction) X(aio_get_fd)           \
    X(aio_is_closed) X(aio_is_dead) X(aio_is_ready) X(aio_notify_read) X(aio_notify_write) X(aio_pread) X(aio_pwrite)                \
    X(can_meta_context) X(close) X(connect_socket) X(create) X(flush) X(get_block_size) X(get_error) X(get_size) X(set_strict_mode)          \
    X(set_uri_allow_local_file) X(shutdown)

struct libnbd {
#define LIBNBD_MEMBER(function) __typeof__(nbd_##function) *function;
    LIBNBD_FUNCTIONS(LIBNBD_MEMBER)
#undef LIBNBD_MEMBER
};
/* Usable when libnbd_open has given a handle. */
extern struct libnbd libnbd;

/* A new handle, for libnbd.close, or NULL: the library is not there, or out of memory. */
struct nbd_handle *libnbd_open(struct error *err);

#define LIBNBD_LEAST_MAX (64u << 10)
#define LIBNBD_MOST_MAX (512u << 10)
/* How a server wants to be read: by whole multiples of `least` (512 … LIBNBD_LEAST_MAX bytes) but for the end of a size that is none, and by
 * at most `most` bytes at once, a multiple of it, up to LIBNBD_MOST_MAX. */
struct libnbd_limits {
    uint32_t least, most;
};
/* name: for messages. Refuses a server that cannot be read like that. */
int libnbd_limits(struct nbd_handle *h, const char *name, struct libnbd_limits *out, struct error *err);
/* To be added to the complaint about what ends at byte `end`; may be empty. */
const char *libnbd_limits_hint(const struct libnbd_limits *l, uint64_t end);

/* What a wait does not outlast, each -1 for none. */
struct libnbd_wait {
    int cancel_fd; /* that it can be read */
    int peer_fd;   /* the end of this connection */
};
/* What follows returns 0; -ECANCELED, -EPIPE: for cancel_fd, for peer_fd; or another failure, of which libnbd_complaint tells. Memory
 * that a command in flight points to stays until it is done or the handle closed. */
/* Waits until bytes can go one way or the other, and moves them. */
int libnbd_turn(struct nbd_handle *h, struct libnbd_wait w);
int libnbd_connect(struct nbd_handle *h, const char *uri, struct libnbd_wait w);
/* Waits for the command that cookie was given for; -1, a command that could not be sent, has failed. */
int libnbd_finish(struct nbd_handle *h, int64_t cookie, struct libnbd_wait w);
const char *libnbd_complaint(void);
#endif
