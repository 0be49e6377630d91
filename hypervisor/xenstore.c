/* xenstore.c - the xenstore calls of hypervisor.h through libxenstore, the same for Xen and the embedded hypervisor.
 *
 * 1. libxenstore reports through errno; here that becomes a negative errno, and never 0 for a failure.
 * 2. A watch makes libxenstore start a reader thread, which queues without bound: the control thread must keep draining.
 * 3. When the connection has ended libxenstore's descriptor stays silent, and its calls fail as the broken descriptor below them does;
 *    but the one that waited for an answer, and the look for an event, fail as if their arguments were wrong. All of that is -EPIPE
 *    here: whoever reads must not take it for what stands in the xenstore. */
#include "hypervisor/hypervisor_private.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xenstore.h>

struct hv_xs {
    struct xs_handle *handle;
};

/* None of these is an answer. */
static bool ended(int error) { return error == EBADF || error == EPIPE || error == ECONNRESET || error == ENOTCONN; }

static int failure(struct hv_xs *xs)
{
    int error = errno ? errno : EIO;
    if (error == EINVAL) { /* an answer, or none: the next call tells */
        errno = 0;
        free(xs_get_domain_path(xs->handle, HV_DOMID_TOOLSTACK));
        error = ended(errno) ? errno : EINVAL;
    }
    return ended(error) ? -EPIPE : -error;
}

static int result(struct hv_xs *xs, bool ok) { return ok ? 0 : failure(xs); }

int hv_xs_open(struct hv *hv, struct hv_xs **out)
{
    struct hv_xs *xs = calloc(1, sizeof *xs);
    if (!xs)
        return -ENOMEM;
    int r = hv->ops->xenstore_connect(hv, &xs->handle);
    if (r) {
        free(xs);
        return r;
    }
    *out = xs;
    return 0;
}

void hv_xs_close(struct hv_xs *xs)
{
    xs_close(xs->handle);
    free(xs);
}

int hv_xs_read(struct hv_xs *xs, hv_xs_tx tx, const char *path, char **out, size_t *length)
{
    unsigned n;
    errno = 0;
    char *value = xs_read(xs->handle, tx, path, &n);
    if (!value)
        return failure(xs);
    *out = value;
    if (length)
        *length = n;
    return 0;
}

int hv_xs_write(struct hv_xs *xs, hv_xs_tx tx, const char *path, const char *value)
{
    errno = 0;
    return result(xs, xs_write(xs->handle, tx, path, value, (unsigned)strlen(value)));
}

int hv_xs_printf(struct hv_xs *xs, hv_xs_tx tx, const char *path, const char *fmt, ...)
{
    char *value;
    va_list ap;
    va_start(ap, fmt);
    int n = vasprintf(&value, fmt, ap);
    va_end(ap);
    if (n < 0)
        return -ENOMEM;
    int r = hv_xs_write(xs, tx, path, value);
    free(value);
    return r;
}

int hv_xs_mkdir(struct hv_xs *xs, hv_xs_tx tx, const char *path)
{
    errno = 0;
    return result(xs, xs_mkdir(xs->handle, tx, path));
}

int hv_xs_remove(struct hv_xs *xs, hv_xs_tx tx, const char *path)
{
    errno = 0;
    return result(xs, xs_rm(xs->handle, tx, path));
}

int hv_xs_directory(struct hv_xs *xs, hv_xs_tx tx, const char *path, char ***out, unsigned *count)
{
    unsigned n;
    errno = 0;
    char **names = xs_directory(xs->handle, tx, path, &n);
    if (!names)
        return failure(xs);
    /* libxenstore's array has no NULL at its end; one block of our own holds the pointers, the NULL and the names. */
    size_t bytes = (n + 1u) * sizeof *names;
    for (unsigned i = 0; i < n; i++)
        bytes += strlen(names[i]) + 1;
    char **copy = malloc(bytes);
    if (copy) {
        char *text = (char *)(copy + n + 1);
        for (unsigned i = 0; i < n; i++) {
            copy[i] = text;
            text = stpcpy(text, names[i]) + 1;
        }
        copy[n] = NULL;
    }
    free(names);
    if (!copy)
        return -ENOMEM;
    *out = copy;
    if (count)
        *count = n;
    return 0;
}

int hv_xs_set_owner(struct hv_xs *xs, hv_xs_tx tx, const char *path, hv_domid owner, int reader)
{
    struct xs_permissions perms[2] = { { .id = owner, .perms = XS_PERM_NONE }, { .id = (unsigned)reader, .perms = XS_PERM_READ } };
    errno = 0;
    return result(xs, xs_set_permissions(xs->handle, tx, path, perms, reader >= 0 ? 2 : 1));
}

int hv_xs_begin(struct hv_xs *xs, hv_xs_tx *out)
{
    errno = 0;
    xs_transaction_t t = xs_transaction_start(xs->handle);
    if (t == XBT_NULL)
        return failure(xs);
    *out = t;
    return 0;
}

int hv_xs_end(struct hv_xs *xs, hv_xs_tx tx, bool commit)
{
    errno = 0;
    return result(xs, xs_transaction_end(xs->handle, tx, !commit));
}

int hv_xs_watch(struct hv_xs *xs, const char *path, const char *token)
{
    errno = 0;
    return result(xs, xs_watch(xs->handle, path, token));
}

int hv_xs_unwatch(struct hv_xs *xs, const char *path, const char *token)
{
    errno = 0;
    return result(xs, xs_unwatch(xs->handle, path, token));
}

int hv_xs_fd(struct hv_xs *xs) { return xs_fileno(xs->handle); }

int hv_xs_check_watch(struct hv_xs *xs, char **path, char **token)
{
    errno = 0;
    char **event = xs_check_watch(xs->handle);
    if (!event)
        return errno == EINVAL ? -EPIPE : errno ? -errno : -EIO;
    size_t path_bytes = strlen(event[XS_WATCH_PATH]) + 1, token_bytes = strlen(event[XS_WATCH_TOKEN]) + 1;
    char *copy = malloc(path_bytes + token_bytes);
    if (copy) {
        memcpy(copy, event[XS_WATCH_PATH], path_bytes);
        memcpy(copy + path_bytes, event[XS_WATCH_TOKEN], token_bytes);
    }
    free(event);
    if (!copy)
        return -ENOMEM;
    *path = copy;
    *token = copy + path_bytes;
    return 0;
}
