/* handle.c - opening images and snapshots: who writes, who reads. */
#include "parallax/parallax_private.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- What is counted of an image while somebody has it open ---- */

static struct counted *counted_get(struct store *s, struct vdisk *d)
{
    struct counted *c = NULL;
    list_for_each(n, &d->handles)
        if ((c = container_of(n, struct image, link)->counted))
            break;
    if (!c) {
        if (!(c = calloc(1, sizeof *c)))
            return NULL;
        c->disk = d;
        list_add_tail(&s->counted, &c->link);
    }
    c->users++;
    return c;
}

static void counted_put(struct image *img)
{
    struct counted *c = img->counted;
    img->counted = NULL;
    if (c && --c->users == 0) {
        list_remove(&c->link);
        free(c);
    }
}

int store_each_counted(struct store *s, int (*each)(void *ctx, const char *name, const char *identity, const struct image_counters *count), void *ctx)
{
    int rc = 0;
    list_for_each(n, &s->counted) {
        const struct counted *c = container_of(n, struct counted, link);
        char identity[IMAGE_TARGET_SIZE];
        if (!c->disk->name)
            continue;
        identity_text(s, c->disk, NULL, identity);
        if ((rc = each(ctx, c->disk->name, identity, &c->count)))
            break;
    }
    return rc;
}

const struct image_counters *store_get_counters(const struct store *s) { return &s->count; }

/* ---- Handles ---- */

static void release(struct owned *o)
{
    struct image *img = container_of(o, struct image, owned);
    counted_put(img);
    free(img);
}

void handle_free(struct image *img)
{
    list_remove(&img->link);
    list_remove(&img->owned.link);
    free(img);
}

struct image *handle_open(struct store *s, struct vdisk *d, struct version *frozen, enum image_mode mode, const char *holder)
{
    struct image *img = calloc(1, sizeof *img);
    if (!img || !(img->counted = counted_get(s, d))) {
        free(img);
        return NULL;
    }
    owned_add(s, &img->owned, release);
    img->store = s;
    img->disk = d;
    img->frozen = frozen;
    img->mode = mode;
    snprintf(img->holder, sizeof img->holder, "%s", holder ? holder : "an unnamed user");
    list_init(&img->writes);
    list_add_tail(&d->handles, &img->link);
    if (frozen)
        frozen->readers++;
    else if (mode == IMAGE_READ_WRITE)
        d->writer = img;
    else
        d->readers++;
    s->stats.open_images++;
    return img;
}

int image_open(struct store *s, const char *target, const struct image_open_options *opt, struct image **out, struct error *err)
{
    struct vdisk *d;
    struct version *v;
    int rc = identity_find(s, target, &d, &v, err);
    if (rc)
        return rc;
    if (opt->mode == IMAGE_READ_WRITE) {
        if (v)
            return error_set(err, -EROFS, "'%s' is a snapshot and cannot be written; clone it", target);
        if (d->flags & IMAGE_FLAG_TEMPLATE)
            return error_set(err, -EROFS, "'%s' is a template and cannot be written; clone it", target);
        if (d->writer)
            return error_set(err, -EBUSY, "image '%s' is being written by %s; only one writer is possible", target, d->writer->holder);
        if ((rc = op_check_writable(s, err)))
            return rc;
    }
    struct image *img = handle_open(s, d, v, opt->mode, opt->holder);
    if (!img)
        return error_set(err, -ENOMEM, "no memory to open '%s'", target);
    img->resized = opt->resized;
    img->impatient = opt->impatient;
    img->ctx = opt->ctx;
    *out = img;
    return 0;
}

void handle_close(struct image *img)
{
    struct store *s = img->store;
    struct vdisk *d = img->disk;
    list_remove(&img->link);
    counted_put(img);
    if (img->frozen)
        img->frozen->readers--;
    else if (d->writer == img)
        d->writer = NULL;
    else
        d->readers--;
    s->stats.open_images--;
    if (img->temporary)
        ops_release_version(s, img->frozen);
    if (d->flags & IMAGE_FLAG_IMPORT)
        ops_drop_import(s, d);
    img->resized = NULL;
    if (img->in_flight) {
        img->closed = true; /* a resize still uses it; the last request frees it */
        list_add_tail(&d->handles, &img->link);
    } else {
        handle_free(img);
    }
}

void image_close(struct image *img) { handle_close(img); }

void image_stop_waiting(struct image *img)
{
    img->impatient = true;
    loop_defer_last(img->store->loop, &img->store->pump);
}

static bool has_one_of(const struct list_node *requests, const struct image *img)
{
    list_for_each(n, requests)
        if (container_of(n, struct image_req, link)->image == img)
            return true;
    return false;
}

bool image_waits(const struct image *img)
{
    const struct store *s = img->store;
    return s->full && (has_one_of(&s->write_queue, img) || has_one_of(&s->parked, img));
}

uint64_t image_size(const struct image *img) { return image_version(img)->size_bytes; }
