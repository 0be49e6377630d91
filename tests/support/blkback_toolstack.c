/* blkback_toolstack.c - the nodes of a block device, written in one transaction with the owners that libxl gives them. */
#include "tests/support/blkback_toolstack.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

static void backend_path(char out[160], const struct toolstack_device *d, const char *name)
{
    snprintf(out, 160, "/local/domain/%u/backend/vbd/%u/%u%s%s", d->backend, d->frontend, d->vdev, *name ? "/" : "", name);
}

static void frontend_path(char out[160], const struct toolstack_device *d, const char *name)
{
    snprintf(out, 160, "/local/domain/%u/device/vbd/%u%s%s", d->frontend, d->vdev, *name ? "/" : "", name);
}

struct writer {
    struct hv_xs *xs;
    hv_xs_tx tx;
    const struct toolstack_device *d;
    int err;
};

static void put(struct writer *w, void (*where)(char *, const struct toolstack_device *, const char *), const char *name, const char *value)
{
    char path[160];
    where(path, w->d, name);
    if (!w->err)
        w->err = hv_xs_write(w->xs, w->tx, path, value);
}

static void make_directory(struct writer *w, void (*where)(char *, const struct toolstack_device *, const char *), hv_domid owner, hv_domid reader)
{
    char path[160];
    where(path, w->d, "");
    if (!w->err)
        w->err = hv_xs_mkdir(w->xs, w->tx, path);
    if (!w->err)
        w->err = hv_xs_set_owner(w->xs, w->tx, path, owner, (int)reader);
}

/* What lies above a device is the toolstack's own, as with libxl: the backend may read it and no more. */
static void make_parent(struct writer *w)
{
    char path[160];
    snprintf(path, sizeof path, "/local/domain/%u/backend/vbd/%u", w->d->backend, w->d->frontend);
    w->err = hv_xs_mkdir(w->xs, w->tx, path);
    if (!w->err)
        w->err = hv_xs_set_owner(w->xs, w->tx, path, HV_DOMID_TOOLSTACK, (int)w->d->backend);
}

static int attach_once(struct writer *w)
{
    const struct toolstack_device *d = w->d;
    char path[160], text[16];
    make_parent(w);
    make_directory(w, backend_path, d->backend, d->frontend);
    make_directory(w, frontend_path, d->frontend, d->backend);
    frontend_path(path, d, "");
    put(w, backend_path, "frontend", path);
    snprintf(text, sizeof text, "%u", d->frontend);
    put(w, backend_path, "frontend-id", text);
    put(w, backend_path, "params", d->params);
    put(w, backend_path, "mode", d->mode);
    put(w, backend_path, "online", "1");
    put(w, backend_path, "device-type", "disk");
    put(w, backend_path, "removable", "0");
    put(w, backend_path, "state", "1");
    backend_path(path, d, "");
    put(w, frontend_path, "backend", path);
    snprintf(text, sizeof text, "%u", d->backend);
    put(w, frontend_path, "backend-id", text);
    snprintf(text, sizeof text, "%u", d->vdev);
    put(w, frontend_path, "virtual-device", text);
    put(w, frontend_path, "device-type", "disk");
    put(w, frontend_path, "state", "1");
    return w->err;
}

int toolstack_attach(struct hv_xs *xs, const struct toolstack_device *d)
{
    int err;
    do {
        struct writer w = { .xs = xs, .d = d };
        err = hv_xs_begin(xs, &w.tx);
        if (err)
            return err;
        attach_once(&w);
        err = hv_xs_end(xs, w.tx, !w.err);
        err = w.err ? w.err : err;
    } while (err == -EAGAIN);
    return err;
}

int toolstack_set_params(struct hv_xs *xs, const struct toolstack_device *d, const char *params)
{
    char path[160];
    backend_path(path, d, "params");
    return hv_xs_write(xs, 0, path, params);
}

int toolstack_ask_detach(struct hv_xs *xs, const struct toolstack_device *d)
{
    char path[160];
    backend_path(path, d, "online");
    int err = hv_xs_write(xs, 0, path, "0");
    backend_path(path, d, "state");
    return err ? err : hv_xs_write(xs, 0, path, "5");
}

void toolstack_remove(struct hv_xs *xs, const struct toolstack_device *d)
{
    char path[160];
    backend_path(path, d, "");
    hv_xs_remove(xs, 0, path);
    frontend_path(path, d, "");
    hv_xs_remove(xs, 0, path);
}

static unsigned read_state(struct hv_xs *xs, const char *path)
{
    char *value;
    if (hv_xs_read(xs, 0, path, &value, NULL))
        return 0;
    unsigned state = (unsigned)strtoul(value, NULL, 10);
    free(value);
    return state;
}

unsigned toolstack_backend_state(struct hv_xs *xs, const struct toolstack_device *d)
{
    char path[160];
    backend_path(path, d, "state");
    return read_state(xs, path);
}

unsigned toolstack_frontend_state(struct hv_xs *xs, const struct toolstack_device *d)
{
    char path[160];
    frontend_path(path, d, "state");
    return read_state(xs, path);
}

char *toolstack_backend_node(struct hv_xs *xs, const struct toolstack_device *d, const char *name)
{
    char path[160], *value;
    backend_path(path, d, name);
    return hv_xs_read(xs, 0, path, &value, NULL) ? NULL : value;
}
