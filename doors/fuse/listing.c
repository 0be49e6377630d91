/* listing.c - see listing.h. */
#include "doors/fuse/listing.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct listing *listing_create(uint64_t taken_ms)
{
    struct listing *l = calloc(1, sizeof *l);
    if (l)
        *l = (struct listing){ .references = 1, .taken_ms = taken_ms };
    return l;
}

struct listing *listing_get(struct listing *l)
{
    __atomic_add_fetch(&l->references, 1, __ATOMIC_RELAXED);
    return l;
}

void listing_put(struct listing *l)
{
    if (!l || __atomic_sub_fetch(&l->references, 1, __ATOMIC_ACQ_REL))
        return;
    free(l->images);
    free(l->snapshots);
    free(l);
}

/* ---- Filling ---- */

/* "2026-01-31T12:00:00Z"; 0 for anything else. */
static time_t parse_time(const json_t *value)
{
    struct tm tm = { 0 };
    const char *text = json_string_value(value), *end = text ? strptime(text, "%Y-%m-%dT%H:%M:%SZ", &tm) : NULL;
    return end && !*end ? timegm(&tm) : 0;
}

/* A name of the store; nothing else may become a file's name. */
static bool parse_name(const json_t *value, char out[LISTING_NAME_SIZE])
{
    const char *text = json_string_value(value);
    size_t length = text ? strlen(text) : 0;
    if (length == 0 || length >= LISTING_NAME_SIZE || strchr(text, '/') || *text == '.')
        return false;
    memcpy(out, text, length + 1);
    return true;
}

static bool parse_size(const json_t *value, uint64_t *out)
{
    json_int_t n = json_integer_value(value);
    *out = (uint64_t)n;
    return json_is_integer(value) && n >= 0;
}

/* Room for one element more in an array that doubles. */
static int make_room(void **array, unsigned count, unsigned *room, size_t element_bytes)
{
    if (count < *room)
        return 0;
    unsigned wanted = *room ? *room * 2 : 64;
    void *grown = reallocarray(*array, wanted, element_bytes);
    if (!grown)
        return -ENOMEM;
    *array = grown;
    *room = wanted;
    return 0;
}

static int add_image(struct listing *l, const json_t *element)
{
    struct listing_image image = { .first_snapshot = l->snapshot_count, .is_template = json_is_true(json_object_get(element, "template")),
                                   .created = parse_time(json_object_get(element, "created")),
                                   .last_write = parse_time(json_object_get(element, "last-write")) };
    if (!parse_name(json_object_get(element, "name"), image.name) || !parse_size(json_object_get(element, "size"), &image.size_bytes))
        return -EPROTO;
    int err = make_room((void **)&l->images, l->image_count, &l->image_room, sizeof image);
    if (!err)
        l->images[l->image_count++] = image;
    return err;
}

static int add_snapshot(struct listing *l, const json_t *element, const char *of)
{
    struct listing_snapshot snapshot = { .created = parse_time(json_object_get(element, "created")) };
    struct listing_image *image = l->image_count ? &l->images[l->image_count - 1] : NULL;
    if (!image || strcmp(image->name, of) || !parse_name(json_object_get(element, "name"), snapshot.name) ||
        !parse_size(json_object_get(element, "size"), &snapshot.size_bytes))
        return -EPROTO;
    int err = make_room((void **)&l->snapshots, l->snapshot_count, &l->snapshot_room, sizeof snapshot);
    if (err)
        return err;
    l->snapshots[l->snapshot_count++] = snapshot;
    image->snapshots++;
    return 0;
}

void listing_add(struct listing *l, const json_t *element)
{
    const char *of = json_string_value(json_object_get(element, "of"));
    if (!l->error)
        l->error = of ? add_snapshot(l, element, of) : add_image(l, element);
}

static int compare_images(const void *a, const void *b)
{
    return strcmp(((const struct listing_image *)a)->name, ((const struct listing_image *)b)->name);
}

int listing_finish(struct listing *l)
{
    if (!l->error && l->image_count)
        qsort(l->images, l->image_count, sizeof *l->images, compare_images);
    return l->error;
}

/* ---- Finding ---- */

static int compare_name(const void *name, const void *image) { return strcmp(name, ((const struct listing_image *)image)->name); }

const struct listing_image *listing_find(const struct listing *l, const char *image)
{
    return l->image_count ? bsearch(image, l->images, l->image_count, sizeof *l->images, compare_name) : NULL;
}

const struct listing_snapshot *listing_find_snapshot(const struct listing *l, const struct listing_image *image, const char *snapshot)
{
    for (unsigned i = 0; i < image->snapshots; i++)
        if (!strcmp(l->snapshots[image->first_snapshot + i].name, snapshot))
            return &l->snapshots[image->first_snapshot + i];
    return NULL;
}
