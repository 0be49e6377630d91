/* record.c - catalog records of images and versions: encode, load, and the links between what was loaded.
 *
 * Image:   0 flags u32; 4 name length u16; 8 head version u64; 16 origin version u64; 24 origin image u64; 32 created u64; 40 name
 * Version: 0 root entry (16); 16 height u8; 17 name length u8; 20 flags u32; 24 parent u64; 32 deletion cursor u64;
 *          40 generation u64; 48 line u32; 56 size u64; 64 image u64; 72 created u64; 80 last write u64 (of a head); 88 name */
#include "base/endian.h"
#include "parallax/tree.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define IMAGE_HEAD 40u
#define VERSION_HEAD 88u

void key_encode(uint8_t *key, char kind, uint64_t id)
{
    key[0] = (uint8_t)kind;
    for (int i = 0; i < 8; i++)
        key[1 + i] = (uint8_t)(id >> 8 * (7 - i));
}

uint64_t key_id(const uint8_t *key)
{
    uint64_t id = 0;
    for (int i = 1; i <= 8; i++)
        id = id << 8 | key[i];
    return id;
}

uint32_t image_record_encode(const struct vdisk *d, uint8_t *b)
{
    size_t n = d->name ? strlen(d->name) : 0;
    memset(b, 0, IMAGE_HEAD);
    put_le32(b, d->flags);
    put_le16(b + 4, (uint16_t)n);
    put_le64(b + 8, d->head->id);
    put_le64(b + 16, d->origin_version);
    put_le64(b + 24, d->origin_image);
    put_le64(b + 32, d->created_ns);
    memcpy(b + IMAGE_HEAD, d->name ? d->name : "", n);
    return (uint32_t)(IMAGE_HEAD + n);
}

void version_record_patch(uint8_t *b, const struct radix_root *root, uint64_t parent_id, uint64_t delete_cursor)
{
    radix_entry_encode(&root->node, b);
    b[16] = (uint8_t)root->height;
    put_le64(b + 24, parent_id);
    put_le64(b + 32, delete_cursor);
}

uint32_t version_record_encode(const struct version *v, uint8_t *b)
{
    size_t n = v->name ? strlen(v->name) : 0;
    memset(b, 0, VERSION_HEAD);
    b[17] = (uint8_t)n;
    put_le32(b + 20, v->flags);
    put_le64(b + 40, v->generation);
    put_le32(b + 48, v->line->id);
    put_le64(b + 56, v->size_bytes);
    put_le64(b + 64, v->image ? v->image->id : 0);
    put_le64(b + 72, v->created_ns);
    put_le64(b + 80, v->image && v->image->head == v ? v->image->last_write_ns : 0);
    memcpy(b + VERSION_HEAD, v->name ? v->name : "", n);
    return (uint32_t)(VERSION_HEAD + n);
}

int image_record_load(struct tree *t, uint64_t id, const uint8_t *b, size_t length)
{
    if (length < IMAGE_HEAD || length != IMAGE_HEAD + (size_t)get_le16(b + 4) || length - IMAGE_HEAD > IMAGE_NAME_MAX || tree_image(t, id))
        return -EBADMSG;
    struct vdisk *d = tree_add_image(t, id);
    if (!d)
        return -ENOMEM;
    d->flags = get_le32(b);
    d->origin_version = get_le64(b + 16);
    d->origin_image = get_le64(b + 24);
    d->created_ns = get_le64(b + 32);
    d->in_catalog = true;
    d->head_id = get_le64(b + 8);
    char name[IMAGE_NAME_MAX + 1] = "";
    memcpy(name, b + IMAGE_HEAD, length - IMAGE_HEAD);
    if (name[0] && (tree_image_named(t, name) || tree_set_image_name(t, d, name)))
        return -EBADMSG;
    if (d->flags & IMAGE_FLAG_TEMPLATE)
        t->template_count++;
    return 0;
}

int version_record_load(struct tree *t, uint64_t id, const uint8_t *b, size_t length)
{
    if (length < VERSION_HEAD || length != VERSION_HEAD + (size_t)b[17] || b[17] > IMAGE_NAME_MAX || b[16] > RADIX_MAX_HEIGHT || tree_version(t, id))
        return -EBADMSG;
    struct radix_root root = { .height = b[16] };
    if (radix_entry_decode(b, &root.node) || (root.height > 0) != (root.node.kind == RADIX_NODE))
        return -EBADMSG;
    uint32_t line_id = get_le32(b + 48);
    struct line *line = tree_line(t, line_id);
    if (!line)
        line = tree_add_line(t, line_id);
    struct version *v = line ? tree_add_version(t, id, NULL, line) : NULL;
    if (!v)
        return -ENOMEM;
    v->root = v->live_root = root;
    v->flags = get_le32(b + 20);
    v->delete_cursor = get_le64(b + 32);
    v->is_going = v->delete_cursor;
    v->generation = get_le64(b + 40);
    v->size_bytes = get_le64(b + 56);
    v->created_ns = get_le64(b + 72);
    v->last_write_ns = get_le64(b + 80);
    v->in_catalog = true;
    v->cut = 0; /* frozen, until an image turns out to have it as its head */
    if (b[17]) {
        char name[IMAGE_NAME_MAX + 1] = "";
        memcpy(name, b + VERSION_HEAD, b[17]);
        if (!(v->name = strdup(name)))
            return -ENOMEM;
    }
    v->parent_id = get_le64(b + 24);
    v->image_id = get_le64(b + 64);
    return v->generation && v->size_bytes <= IMAGE_SIZE_MAX ? 0 : -EBADMSG;
}

static int by_id(const void *a, const void *b)
{
    const struct version *x = *(struct version *const *)a, *y = *(struct version *const *)b;
    return x->id < y->id ? -1 : x->id > y->id;
}

static int link_version(struct tree *t, struct version *v)
{
    struct version *parent = v->parent_id ? tree_version(t, v->parent_id) : NULL;
    struct vdisk *d = v->image_id ? tree_image(t, v->image_id) : NULL;
    if ((v->parent_id && (!parent || parent->generation >= v->generation)) || (v->image_id && !d))
        return -EBADMSG;
    tree_set_parent(v, parent);
    tree_set_owner(t, v, d);
    if (v->flags & VERSION_FLAG_SNAPSHOT) {
        if (!d || !v->name)
            return -EBADMSG;
        list_add_tail(&d->snapshots, &v->snapshot_link);
        d->snapshot_count++;
        t->snapshot_count++;
    }
    return 0;
}

static int link_head(struct tree *t, struct vdisk *d)
{
    d->head = tree_version(t, d->head_id);
    struct version *h = d->head;
    d->last_write_ns = h ? h->last_write_ns : 0;
    if (!h || h->image != d || h->line->base)
        return -EBADMSG;
    t->provisioned_bytes += h->size_bytes;
    h->line->base = h;
    if (d->flags & IMAGE_FLAG_TEMPLATE)
        return 0;
    h->cut = TICKET_MAX;
    list_add_tail(&h->line->unmerged, &h->line_link);
    return 0;
}

int tree_link(struct tree *t)
{
    uint64_t n = 0;
    struct version **all = malloc((t->versions.count + 1) * sizeof *all);
    if (!all)
        return -ENOMEM;
    for (uint64_t b = 0; t->versions.buckets && b <= t->versions.mask; b++)
        for (struct hash_node *h = t->versions.buckets[b]; h; h = h->next)
            all[n++] = container_of(h, struct version, node);
    qsort(all, n, sizeof *all, by_id);
    int err = 0;
    for (uint64_t i = 0; i < n; i++) {
        int e = link_version(t, all[i]);
        if (e && !err)
            err = e;
        all[i]->dirty = false;
        t->dirty_version_count--;
        list_remove(&all[i]->dirty_link);
    }
    free(all);
    list_for_each(i, &t->all_images) {
        struct vdisk *d = container_of(i, struct vdisk, all_link);
        if (!err)
            err = link_head(t, d);
        d->dirty = false;
        list_remove(&d->dirty_link);
    }
    return err;
}
