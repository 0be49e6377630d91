/* nbd_exports.c - exports and their attachments. */
#include "doors/nbd/nbd_private.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static pthread_mutex_t table_lock = PTHREAD_MUTEX_INITIALIZER; /* of the list, which only grows */
static struct nbd_export *exports, **last = &exports;
static bool only_named;

/* Under table_lock; NULL: there is none. */
static struct nbd_export *find(const char *target)
{
    struct nbd_export *x = exports;
    while (x && strcmp(x->target, target))
        x = x->next;
    return x;
}

static struct nbd_export *find_or_add(const char *target)
{
    pthread_mutex_lock(&table_lock);
    struct nbd_export *x = find(target);
    if (!x && strlen(target) < sizeof x->target && (x = calloc(1, sizeof *x))) {
        pthread_mutex_init(&x->lock, NULL);
        snprintf(x->target, sizeof x->target, "%s", target);
        *last = x;
        last = &x->next;
    }
    pthread_mutex_unlock(&table_lock);
    return x;
}

int nbd_exports_name(const char *target, struct error *err)
{
    only_named = true;
    return find_or_add(target) ? 0 : error_set(err, -EINVAL, "'%.64s…' is no name of an image", target);
}

const char *nbd_exports_default(void) { return only_named ? exports->target : NULL; }

int nbd_exports_check(struct door *d, struct error *err)
{
    struct door_image image;
    for (struct nbd_export *x = exports; x; x = x->next)
        if (door_find(d, x->target, &image, err))
            return err->code;
    return 0;
}

int nbd_exports_attach(struct door *d, bool read_only, struct error *err)
{
    struct nbd_export *unused;
    for (struct nbd_export *x = exports; x; x = x->next)
        if (nbd_exports_get(d, x->target, read_only, &unused, err))
            return err->code;
    return 0;
}

/* ---- Listing ---- */

static int add_named(struct nbdkit_exports *out)
{
    for (struct nbd_export *x = exports; x; x = x->next)
        if (nbdkit_add_export(out, x->target, NULL))
            return -ENOMEM;
    return 0;
}

int nbd_exports_list(struct door *d, struct nbdkit_exports *out, struct error *err)
{
    json_t *items = NULL, *image;
    size_t i;
    if (only_named)
        return add_named(out) ? error_set(err, -ENOMEM, "too many exports") : 0;
    if (door_ask(d, json_pack("{s:s}", "command", "ls"), true, &items, NULL, err))
        return err->code;
    json_array_foreach(items, i, image) {
        char name[sizeof exports->target];
        const char *of = json_string_value(json_object_get(image, "of")), *own = json_string_value(json_object_get(image, "name"));
        snprintf(name, sizeof name, "%s%s%s", of ? of : "", of ? "@" : "", own ? own : "");
        if (nbdkit_add_export(out, name, NULL))
            break; /* it has said why: more than the protocol's clients can take; those so far are told */
    }
    json_decref(items);
    return 0;
}

/* ---- Attachments ---- */

static int attach(struct door *d, struct nbd_export *x, bool read_only, struct error *err)
{
    struct door_image image;
    if (door_find(d, x->target, &image, err))
        return err->code;
    struct door_disk_options opt = { .target = x->target, .read_only = read_only || image.fixed };
    return door_disk_open(d, &opt, &x->disk, err);
}

int nbd_exports_get(struct door *d, const char *target, bool read_only, struct nbd_export **out, struct error *err)
{
    pthread_mutex_lock(&table_lock);
    bool known = !only_named || find(target);
    pthread_mutex_unlock(&table_lock);
    if (!known)
        return error_set(err, -ENOENT, "'%.200s' is not exported here", target);
    struct door_image image;
    /* A name that no image has must not stay in the table. */
    if (!only_named && door_find(d, target, &image, err))
        return err->code;
    struct nbd_export *x = find_or_add(target);
    if (!x)
        return error_set(err, -ENOMEM, "no memory for an export");
    pthread_mutex_lock(&x->lock);
    int bad = 0;
    if (!x->disk)
        bad = attach(d, x, read_only, err);
    else if (!only_named && strcmp(image.identity, door_disk_identity(x->disk)))
        bad = error_set(err, -EBUSY, "another image that was called '%.200s' before is still open here", target);
    if (!bad) {
        x->users++;
        *out = x;
    }
    pthread_mutex_unlock(&x->lock);
    return bad;
}

void nbd_exports_put(struct nbd_export *x)
{
    pthread_mutex_lock(&x->lock);
    if (--x->users == 0) {
        door_disk_close(x->disk);
        x->disk = NULL;
    }
    pthread_mutex_unlock(&x->lock);
}

void nbd_exports_close(void)
{
    for (struct nbd_export *x = exports; x; x = x->next)
        if (x->disk)
            door_disk_close(x->disk);
    while (exports) {
        struct nbd_export *x = exports;
        exports = x->next;
        pthread_mutex_destroy(&x->lock);
        free(x);
    }
}
