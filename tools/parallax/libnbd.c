/* libnbd.c - see libnbd.h. */
#include "tools/parallax/libnbd.h"

#include <dlfcn.h>
#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stddef.h>

#define FILE_NAME "libnbd.so.0"

struct libnbd libnbd;

static int load(struct error *err)
{
    void *library = dlopen(FILE_NAME, RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return error_set(err, -ENOPKG, "cannot load " FILE_NAME ": %s (it is in Debian's package libnbd0)", dlerror());
#define LOOK_UP(function)                                                                                                             \
    if (!(libnbd.function = (__typeof__(libnbd.function))dlsym(library, "nbd_" #function)))                                             \
        return error_set(err, -ENOPKG, FILE_NAME " has no nbd_" #function "; install a newer one (Debian's package libnbd0)");
    LIBNBD_FUNCTIONS(LOOK_UP)
#undef LOOK_UP
    return 0;
}

struct nbd_handle *libnbd_open(struct error *err)
{
    if (!libnbd.shutdown && load(err)) /* the last one looked up */
        return NULL;
    struct nbd_handle *h = libnbd.create();
    if (!h)
        error_set(err, -ENOMEM, "out of memory");
    return h;
}

static bool ended(struct nbd_handle *h) { return libnbd.aio_is_dead(h) || libnbd.aio_is_closed(h); }

int libnbd_turn(struct nbd_handle *h, int cancel_fd)
{
    if (ended(h)) /* it has no socket then */
        return -EIO;
    unsigned direction = libnbd.aio_get_direction(h);
    struct pollfd p[2] = { { .fd = libnbd.aio_get_fd(h) }, { .fd = cancel_fd, .events = POLLIN } };
    p[0].events = (short)((direction & LIBNBD_AIO_DIRECTION_READ ? POLLIN : 0) | (direction & LIBNBD_AIO_DIRECTION_WRITE ? POLLOUT : 0));
    if (poll(p, 2, -1) < 0)
        return errno == EINTR ? 0 : -errno;
    if (p[1].revents)
        return -ECANCELED;
    int moved = p[0].revents & POLLOUT ? libnbd.aio_notify_write(h) : p[0].revents ? libnbd.aio_notify_read(h) : 0;
    return moved < 0 || ended(h) ? -EIO : 0;
}

int libnbd_connect(struct nbd_handle *h, const char *uri, int cancel_fd)
{
    int bad = libnbd.aio_connect_uri(h, uri) < 0 ? -EIO : 0;
    while (!bad && !libnbd.aio_is_ready(h))
        bad = libnbd_turn(h, cancel_fd);
    return bad;
}

int libnbd_finish(struct nbd_handle *h, int64_t cookie, int cancel_fd)
{
    int bad = 0, done = cookie < 0 ? -1 : 0;
    while (!bad && !done && !(done = libnbd.aio_command_completed(h, (uint64_t)cookie)))
        bad = libnbd_turn(h, cancel_fd);
    return done < 0 ? -EIO : bad;
}

const char *libnbd_complaint(void)
{
    const char *text = libnbd.get_error();
    return text ? text : "the server is gone";
}
