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
    else /* the end of an odd size may be read by a server that wants whole blocks: it may refuse */
        libnbd.set_strict_mode(h, LIBNBD_STRICT_MASK & ~LIBNBD_STRICT_ALIGN);
    return h;
}

int libnbd_limits(struct nbd_handle *h, const char *name, struct libnbd_limits *out, struct error *err)
{
    int64_t least = libnbd.get_block_size(h, LIBNBD_SIZE_MINIMUM), most = libnbd.get_block_size(h, LIBNBD_SIZE_MAXIMUM);
    if (least < 512) /* 0: not told */
        least = 512;
    if (most <= 0 || most > LIBNBD_MOST_MAX)
        most = LIBNBD_MOST_MAX;
    if (least > LIBNBD_LEAST_MAX || least & (least - 1) || most < least)
        return error_set(err, -EPROTO, "the server of %.200s wants reads of at least %lld and at most %lld bytes, which is not possible here", name,
                         (long long)least, (long long)most);
    *out = (struct libnbd_limits){ .least = (uint32_t)least, .most = (uint32_t)(most - most % least) };
    return 0;
}

const char *libnbd_limits_hint(const struct libnbd_limits *l, uint64_t end)
{
    return end % l->least ? "; its size is no multiple of its server's minimum block size, so that the server may refuse to read the end" : "";
}

static bool ended(struct nbd_handle *h) { return libnbd.aio_is_dead(h) || libnbd.aio_is_closed(h); }

int libnbd_turn(struct nbd_handle *h, struct libnbd_wait w)
{
    if (ended(h)) /* it has no socket then */
        return -EIO;
    unsigned direction = libnbd.aio_get_direction(h);
    struct pollfd p[3] = { { .fd = libnbd.aio_get_fd(h) }, { .fd = w.cancel_fd, .events = POLLIN }, { .fd = w.peer_fd, .events = POLLRDHUP } };
    p[0].events = (short)((direction & LIBNBD_AIO_DIRECTION_READ ? POLLIN : 0) | (direction & LIBNBD_AIO_DIRECTION_WRITE ? POLLOUT : 0));
    if (poll(p, 3, -1) < 0)
        return errno == EINTR ? 0 : -errno;
    if (p[1].revents)
        return -ECANCELED;
    if (p[2].revents)
        return -EPIPE;
    int moved = p[0].revents & POLLOUT ? libnbd.aio_notify_write(h) : p[0].revents ? libnbd.aio_notify_read(h) : 0;
    return moved < 0 || ended(h) ? -EIO : 0;
}

int libnbd_connect(struct nbd_handle *h, const char *uri, struct libnbd_wait w)
{
    int bad = libnbd.aio_connect_uri(h, uri) < 0 ? -EIO : 0;
    while (!bad && !libnbd.aio_is_ready(h))
        bad = libnbd_turn(h, w);
    return bad;
}

int libnbd_finish(struct nbd_handle *h, int64_t cookie, struct libnbd_wait w)
{
    int bad = 0, done = cookie < 0 ? -1 : 0;
    while (!bad && !done && !(done = libnbd.aio_command_completed(h, (uint64_t)cookie)))
        bad = libnbd_turn(h, w);
    return done < 0 ? -EIO : bad;
}

const char *libnbd_complaint(void)
{
    const char *text = libnbd.get_error();
    return text ? text : "the server is gone";
}
