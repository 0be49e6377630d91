/* identity.c - what an image or snapshot is, whatever it is called.
 *
 * "id:STORE/IMAGE" or "id:STORE/IMAGE/VERSION", after the ids of disk-format.md. Ids are never given twice, so an identity
 * that is kept while the store is closed means the same thing or nothing. No name may have ':' or '/' in it. */
#include "parallax/parallax_private.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

void store_uuid_text(const struct store *s, char out[static STORE_UUID_SIZE])
{
    uuid_text(s->super.uuid, out);
}

void identity_text(const struct store *s, const struct vdisk *d, const struct version *v, char out[static IMAGE_TARGET_SIZE])
{
    char uuid[STORE_UUID_SIZE];
    store_uuid_text(s, uuid);
    int n = snprintf(out, IMAGE_TARGET_SIZE, "id:%s/%" PRIu64, uuid, d->id);
    if (v)
        snprintf(out + n, IMAGE_TARGET_SIZE - (size_t)n, "/%" PRIu64, v->id);
}

/* Only what identity_text writes is an identity, to the letter: the comparison at the end sees to it. */
int identity_find(struct store *s, const char *target, struct vdisk **d, struct version **snapshot, struct error *err)
{
    char own[IMAGE_TARGET_SIZE];
    uint64_t image = 0, version = 0;
    if (strncmp(target, "id:", 3))
        return target_find(s, target, d, snapshot, err);
    int numbers = sscanf(target, "id:%*[^/]/%" SCNu64 "/%" SCNu64, &image, &version);
    *d = tree_image(&s->tree, image);
    *snapshot = numbers == 2 ? tree_version(&s->tree, version) : NULL;
    bool there = *d && (*d)->name && (numbers < 2 || (*snapshot && (*snapshot)->image == *d && (*snapshot)->name));
    if (there)
        identity_text(s, *d, *snapshot, own);
    if (!there || strcmp(own, target))
        return error_set(err, -ENOENT, "the image with the identity %.128s is not in this store any more", target);
    return 0;
}

void image_identity(const struct image *img, char out[static IMAGE_TARGET_SIZE]) { identity_text(img->store, img->disk, img->frozen, out); }

void image_name(const struct image *img, char out[static IMAGE_TARGET_SIZE])
{
    const struct version *v = img->frozen;
    snprintf(out, IMAGE_TARGET_SIZE, "%s%s%s", img->disk->name ? img->disk->name : "", v && v->name ? "@" : "", v && v->name ? v->name : "");
}
