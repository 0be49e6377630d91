/* libnbd.h - libnbd, loaded when a command first needs it: libnbd.get_size(h) is nbd_get_size(h); and waiting for a server, which the
 * user may have enough of: libnbd's own waiting goes on whatever signals come.
 *
 * It brings the libraries of TLS and of URIs (GnuTLS, libxml2, ICU), and to load those takes longer than most commands run. One thread. */
#ifndef TOOLS_PARALLAX_LIBNBD_H
#define TOOLS_PARALLAX_LIBNBD_H
#include "base/error.h"

#include <libnbd.h>

#define LIBNBD_FUNCTIONS(X)                                                                                                          \
    X(add_meta_context) X(aio_block_status) X(aio_command_completed) X(aio_connect_uri) X(aio_get_direction) X(aio_get_fd)           \
    X(aio_is_closed) X(aio_is_dead) X(aio_is_ready) X(aio_notify_read) X(aio_notify_write) X(aio_pread) X(aio_pwrite)                \
    X(can_meta_context) X(close) X(connect_socket) X(create) X(flush) X(get_error) X(get_size) X(set_uri_allow_local_file) X(shutdown)

struct libnbd {
#define LIBNBD_MEMBER(function) __typeof__(nbd_##function) *function;
    LIBNBD_FUNCTIONS(LIBNBD_MEMBER)
#undef LIBNBD_MEMBER
};
/* Usable when libnbd_open has given a handle. */
extern struct libnbd libnbd;

/* A new handle, for libnbd.close, or NULL: the library is not there, or out of memory. */
struct nbd_handle *libnbd_open(struct error *err);

/* What follows returns 0; -ECANCELED: cancel_fd can be read; or another failure, of which libnbd_complaint tells. Memory that a
 * command in flight points to stays until it is done or the handle closed. */
/* Waits until bytes can go one way or the other, and moves them. */
int libnbd_turn(struct nbd_handle *h, int cancel_fd);
int libnbd_connect(struct nbd_handle *h, const char *uri, int cancel_fd);
/* Waits for the command that cookie was given for; -1, a command that could not be sent, has failed. */
int libnbd_finish(struct nbd_handle *h, int64_t cookie, int cancel_fd);
const char *libnbd_complaint(void);
#endif
