/* libnbd.h - libnbd, loaded when a command first needs it: libnbd.get_size(h) is nbd_get_size(h).
 *
 * It brings the libraries of TLS and of URIs (GnuTLS, libxml2, ICU), and to load those takes longer than most commands run. One thread. */
#ifndef TOOLS_PARALLAX_LIBNBD_H
#define TOOLS_PARALLAX_LIBNBD_H
#include "base/error.h"

#include <libnbd.h>

#define LIBNBD_FUNCTIONS(X)                                                                                                          \
    X(add_meta_context) X(aio_get_direction) X(aio_get_fd) X(aio_is_closed) X(aio_is_dead) X(aio_notify_read) X(aio_notify_write)    \
    X(aio_pread) X(aio_pwrite) X(block_status) X(can_meta_context) X(close) X(connect_socket) X(connect_uri) X(create) X(flush)      \
    X(get_error) X(get_size) X(pread) X(set_uri_allow_local_file) X(shutdown)

struct libnbd {
#define LIBNBD_MEMBER(function) __typeof__(nbd_##function) *function;
    LIBNBD_FUNCTIONS(LIBNBD_MEMBER)
#undef LIBNBD_MEMBER
};
/* Usable when libnbd_open has given a handle. */
extern struct libnbd libnbd;

/* A new handle, for libnbd.close, or NULL: the library is not there, or out of memory. */
struct nbd_handle *libnbd_open(struct error *err);
#endif
