/* vbd.c - see vbd.h.
 *
 * Both directories are made and get their owners before anything is written in them, all in one transaction: a watcher never
 * sees a device that is half there or that its owner may not read. */
#include "vbd/vbd.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define XVD_MAJOR 202u
#define NAMES_MAX 256u /* xvda … xvdiv: numbers of one frontend */
#define PATH_SIZE 192

static void backend_path(const struct vbd *v, const char *node, char out[PATH_SIZE])
{
    snprintf(out, PATH_SIZE, "/local/domain/%u/backend/vbd/%u/%u%s%s", v->backend, v->frontend, v->vdev, *node ? "/" : "", node);
}

static void frontend_path(const struct vbd *v, const char *node, char out[PATH_SIZE])
{
    snprintf(out, PATH_SIZE, "/local/domain/%u/device/vbd/%u%s%s", v->frontend, v->vdev, *node ? "/" : "", node);
}

/* ---- Names ---- */

/* Xen's numbering: 16 partitions of 16 disks under the old major, 256 partitions of each disk after that. */
static unsigned device_number(unsigned disk, unsigned partition)
{
    return disk < 16 && partition < 16 ? XVD_MAJOR << 8 | disk << 4 | partition : 1u << 28 | disk << 8 | partition;
}

static void name_of_disk(unsigned disk, char out[16])
{
    if (disk < 26)
        snprintf(out, 16, "xvd%c", (char)('a' + disk));
    else
        snprintf(out, 16, "xvd%c%c", (char)('a' + disk / 26 - 1), (char)('a' + disk % 26));
}

int vbd_parse_name(const char *text, struct vbd *out, struct error *err)
{
    unsigned disk = 0, letters = 0;
    char *end;
    if (*text >= '0' && *text <= '9') {
        unsigned long n = strtoul(text, &end, 10);
        if (*end || n == 0 || n >= 1ul << 29)
            return error_set(err, -EINVAL, "'%.32s' is no number of a virtual device", text);
        out->vdev = (unsigned)n;
        snprintf(out->name, sizeof out->name, "%lu", n);
        return 0;
    }
    const char *p = text + 3;
    if (!strncmp(text, "xvd", 3))
        for (; *p >= 'a' && *p <= 'z' && letters < 2; p++, letters++)
            disk = letters ? (disk + 1) * 26 + (unsigned)(*p - 'a') : (unsigned)(*p - 'a');
    unsigned long partition = letters && *p ? strtoul(p, &end, 10) : 0;
    if (!letters || disk >= NAMES_MAX || (*p && (*p < '1' || *p > '9' || *end || partition > 255)))
        return error_set(err, -EINVAL, "'%.32s' is no name of a virtual device; write xvda, xvdb, …", text);
    out->vdev = device_number(disk, (unsigned)partition);
    snprintf(out->name, sizeof out->name, "%s", text);
    return 0;
}

static bool node_exists(struct hv_xs *xs, const char *path)
{
    char *value;
    if (hv_xs_read(xs, 0, path, &value, NULL))
        return false;
    free(value);
    return true;
}

int vbd_find_domain(struct hv_xs *xs, const char *text, hv_domid *out, struct error *err)
{
    char path[PATH_SIZE], *end, **names;
    unsigned long id = strtoul(text, &end, 10);
    if (*text >= '0' && *text <= '9' && !*end) {
        snprintf(path, sizeof path, "/local/domain/%lu", id);
        if (id > 0x7feful || !node_exists(xs, path))
            return error_set(err, -ENOENT, "there is no domain %.32s", text);
        *out = (hv_domid)id;
        return 0;
    }
    unsigned count = 0, found = 0;
    int bad = hv_xs_directory(xs, 0, "/local/domain", &names, &count);
    if (bad)
        return error_set(err, bad, "cannot list domains: %s", strerror(-bad));
    for (unsigned i = 0; i < count; i++) {
        char *name;
        snprintf(path, sizeof path, "/local/domain/%.32s/name", names[i]);
        if (hv_xs_read(xs, 0, path, &name, NULL))
            continue;
        if (!strcmp(name, text)) {
            *out = (hv_domid)strtoul(names[i], NULL, 10);
            found++;
        }
        free(name);
    }
    free(names);
    if (found > 1)
        return error_set(err, -EINVAL, "%u domains are called '%.64s'; name one by its number", found, text);
    return found ? 0 : error_set(err, -ENOENT, "there is no domain '%.64s'", text);
}

int vbd_choose_free(struct hv_xs *xs, struct vbd *v, struct error *err)
{
    for (unsigned disk = 0; disk < 26; disk++) {
        char path[PATH_SIZE];
        v->vdev = device_number(disk, 0);
        name_of_disk(disk, v->name);
        frontend_path(v, "", path);
        if (!node_exists(xs, path))
            return 0;
    }
    return error_set(err, -EBUSY, "domain %u uses xvda to xvdz; name another device with --vdev", v->frontend);
}

/* A node of the backend, for the caller to free(); NULL: none. */
static char *read_backend(struct hv_xs *xs, const struct vbd *v, const char *node)
{
    char path[PATH_SIZE], *value;
    backend_path(v, node, path);
    return hv_xs_read(xs, 0, path, &value, NULL) ? NULL : value;
}

char *vbd_identity(struct hv_xs *xs, const struct vbd *v) { return read_backend(xs, v, "parallax-image"); }

void vbd_set_number(struct vbd *v, unsigned vdev)
{
    v->vdev = vdev;
    snprintf(v->name, sizeof v->name, "%u", vdev);
    for (unsigned disk = 0; disk < NAMES_MAX; disk++)
        if (device_number(disk, 0) == vdev)
            name_of_disk(disk, v->name);
}

/* ---- Nodes ---- */

struct writer {
    struct hv_xs *xs;
    hv_xs_tx tx;
    int err;
};

static void put(struct writer *w, const char *path, const char *value)
{
    if (!w->err)
        w->err = hv_xs_write(w->xs, w->tx, path, value);
}

static void put_backend(struct writer *w, const struct vbd *v, const char *node, const char *value)
{
    char path[PATH_SIZE];
    backend_path(v, node, path);
    put(w, path, value);
}

static void put_frontend(struct writer *w, const struct vbd *v, const char *node, const char *value)
{
    char path[PATH_SIZE];
    frontend_path(v, node, path);
    put(w, path, value);
}

static void make_owned(struct writer *w, const char *path, hv_domid owner, hv_domid reader)
{
    if (!w->err)
        w->err = hv_xs_mkdir(w->xs, w->tx, path);
    if (!w->err)
        w->err = hv_xs_set_owner(w->xs, w->tx, path, owner, (int)reader);
}

static int write_all(struct writer *w, const struct vbd *v, const char *image, bool read_only)
{
    char back[PATH_SIZE], front[PATH_SIZE], number[16];
    backend_path(v, "", back);
    frontend_path(v, "", front);
    if (node_exists(w->xs, front) || node_exists(w->xs, back))
        return -EEXIST;
    make_owned(w, back, v->backend, v->frontend);
    make_owned(w, front, v->frontend, v->backend);
    put_backend(w, v, "frontend", front);
    snprintf(number, sizeof number, "%u", v->frontend);
    put_backend(w, v, "frontend-id", number);
    put_backend(w, v, "online", "1");
    put_backend(w, v, "mode", read_only ? "r" : "w");
    put_backend(w, v, "params", image);
    put_backend(w, v, "type", "phy");
    put_backend(w, v, "dev", v->name);
    put_backend(w, v, "device-type", "disk");
    put_backend(w, v, "removable", "0");
    put_backend(w, v, "bootable", "1");
    put_backend(w, v, "state", "1");
    put_frontend(w, v, "backend", back);
    snprintf(number, sizeof number, "%u", v->backend);
    put_frontend(w, v, "backend-id", number);
    snprintf(number, sizeof number, "%u", v->vdev);
    put_frontend(w, v, "virtual-device", number);
    put_frontend(w, v, "device-type", "disk");
    put_frontend(w, v, "state", "1");
    return w->err;
}

int vbd_write_nodes(struct hv_xs *xs, const struct vbd *v, const char *image, bool read_only, struct error *err)
{
    int bad;
    do {
        struct writer w = { .xs = xs };
        bad = hv_xs_begin(xs, &w.tx);
        if (bad)
            break;
        int failed = write_all(&w, v, image, read_only);
        bad = hv_xs_end(xs, w.tx, !failed);
        bad = failed ? failed : bad;
    } while (bad == -EAGAIN);
    if (bad == -EEXIST)
        return error_set(err, bad, "domain %u already has a device %s; choose another with --vdev", v->frontend, v->name);
    return bad ? error_set(err, bad, "cannot write the device's nodes to xenstore: %s", strerror(-bad)) : 0;
}

int vbd_ask_close(struct hv_xs *xs, const struct vbd *v)
{
    char path[PATH_SIZE];
    backend_path(v, "online", path);
    int bad = hv_xs_write(xs, 0, path, "0");
    backend_path(v, "state", path);
    return bad ? bad : hv_xs_write(xs, 0, path, "5");
}

void vbd_remove_nodes(struct hv_xs *xs, const struct vbd *v)
{
    char path[PATH_SIZE];
    backend_path(v, "", path);
    hv_xs_remove(xs, 0, path);
    frontend_path(v, "", path);
    hv_xs_remove(xs, 0, path);
}

unsigned vbd_backend_state(struct hv_xs *xs, const struct vbd *v)
{
    char *value = read_backend(xs, v, "state");
    if (!value)
        return 0;
    unsigned state = (unsigned)strtoul(value, NULL, 10);
    free(value);
    return state;
}

bool vbd_online(struct hv_xs *xs, const struct vbd *v)
{
    char *value = read_backend(xs, v, "online");
    bool online = value && !strcmp(value, "1");
    free(value);
    return online;
}

char *vbd_problem(struct hv_xs *xs, const struct vbd *v)
{
    char *value = read_backend(xs, v, "hotplug-error");
    if (!value || *value)
        return value;
    free(value);
    return NULL;
}
