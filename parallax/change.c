/* change.c - see change.h. Applying checks that the change fits the state: at run time it always does, because the operation
 * was checked before; at replay a misfit is damage. */
#include "parallax/change.h"

#include "base/endian.h"
#include "parallax/parallax_private.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- Writing ---- */

static uint8_t *room(struct change_writer *w, uint32_t n)
{
    if (w->length + n > w->capacity) {
        uint32_t capacity = w->capacity ? w->capacity * 2 : 256;
        while (capacity < w->length + n)
            capacity *= 2;
        uint8_t *grown = realloc(w->bytes, capacity);
        if (!grown) {
            w->failed = true;
            return NULL;
        }
        w->bytes = grown;
        w->capacity = capacity;
    }
    w->length += n;
    return w->bytes + w->length - n;
}

void change_u8(struct change_writer *w, uint8_t v)
{
    uint8_t *p = room(w, 1);
    if (p)
        *p = v;
}

void change_u32(struct change_writer *w, uint32_t v)
{
    uint8_t *p = room(w, 4);
    if (p)
        put_le32(p, v);
}

void change_u64(struct change_writer *w, uint64_t v)
{
    uint8_t *p = room(w, 8);
    if (p)
        put_le64(p, v);
}

void change_text(struct change_writer *w, const char *text)
{
    size_t n = strlen(text);
    change_u8(w, (uint8_t)n);
    uint8_t *p = room(w, (uint32_t)n);
    if (p)
        memcpy(p, text, n);
}

/* ---- Reading: bounded; anything beyond the end reads as zero and is remembered ---- */

struct reader {
    const uint8_t *p;
    uint32_t left;
    bool bad;
};

static const uint8_t *take(struct reader *r, uint32_t n)
{
    static const uint8_t zero[8];
    if (r->left < n) {
        r->bad = true;
        r->left = 0;
        return zero;
    }
    const uint8_t *p = r->p;
    r->p += n;
    r->left -= n;
    return p;
}

static uint8_t get_u8(struct reader *r) { return *take(r, 1); }
static uint32_t get_u32(struct reader *r) { return get_le32(take(r, 4)); }
static uint64_t get_u64(struct reader *r) { return get_le64(take(r, 8)); }

static void get_text(struct reader *r, char out[IMAGE_NAME_MAX + 1])
{
    uint8_t n = get_u8(r);
    out[0] = 0;
    if (n > IMAGE_NAME_MAX || r->left < n) {
        r->bad = true;
        return;
    }
    memcpy(out, take(r, n), n);
    out[n] = 0;
}

/* ---- Applying ---- */

static void become_head(struct tree *t, struct vdisk *d, struct version *v, uint64_t size, uint64_t created)
{
    tree_set_owner(t, v, d);
    v->size_bytes = size;
    v->created_ns = created;
    list_add_tail(&v->line->unmerged, &v->line_link);
    t->provisioned_bytes += size - (d->head ? d->head->size_bytes : 0);
    d->head = v;
    tree_dirty_image(t, d);
    tree_dirty_version(t, v);
}

/* The head is frozen where it is, and a new head follows it in the same line (V1). */
static int freeze_head(struct tree *t, struct vdisk *d, uint64_t ticket, uint64_t new_id, uint64_t created)
{
    struct version *old = d->head;
    struct version *v = tree_version(t, new_id) ? NULL : tree_add_version(t, new_id, old, old->line);
    if (!v)
        return -ENOMEM;
    old->cut = ticket;
    tree_set_owner(t, old, NULL);
    v->generation = old->generation + 1;
    tree_dirty_version(t, old);
    become_head(t, d, v, old->size_bytes, created);
    return 0;
}

/* A first version of its own line on a frozen parent. */
static struct version *branch(struct tree *t, uint64_t ticket, struct version *parent, uint64_t id, uint32_t line_id)
{
    struct line *line = tree_line(t, line_id) || tree_version(t, id) ? NULL : tree_add_line(t, line_id);
    struct version *v = line ? tree_add_version(t, id, parent, line) : NULL;
    if (!v)
        return NULL;
    v->generation = parent->generation + 1;
    line->made = ticket;
    if (version_final(parent)) {
        v->root = v->live_root = parent->live_root;
        line->base = v;
    } else {
        line->origin = parent;
    }
    return v;
}

static int apply_create(struct store *s, uint64_t ticket, struct reader *r)
{
    struct tree *t = &s->tree;
    uint64_t id = get_u64(r), version = get_u64(r);
    uint32_t line_id = get_u32(r);
    uint64_t size = get_u64(r), created = get_u64(r);
    unsigned flags = get_u8(r);
    char name[IMAGE_NAME_MAX + 1];
    get_text(r, name);
    if (r->bad || tree_image(t, id) || tree_version(t, version) || tree_line(t, line_id) || (name[0] && tree_image_named(t, name)))
        return -EBADMSG;
    struct line *line = tree_add_line(t, line_id);
    struct version *v = line ? tree_add_version(t, version, NULL, line) : NULL;
    struct vdisk *d = v ? tree_add_image(t, id) : NULL;
    if (!d || (name[0] && tree_set_image_name(t, d, name)))
        return -ENOMEM;
    d->flags = flags;
    d->created_ns = created;
    v->generation = 1;
    line->base = v;
    line->made = ticket;
    become_head(t, d, v, size, created);
    return 0;
}

static int clone_one(struct store *s, uint64_t ticket, struct version *source, uint64_t source_image, uint64_t id, uint64_t version, uint32_t line, uint64_t created, const char *name)
{
    struct tree *t = &s->tree;
    if (tree_image(t, id) || tree_image_named(t, name))
        return -EBADMSG;
    struct version *v = branch(t, ticket, source, version, line);
    struct vdisk *d = v ? tree_add_image(t, id) : NULL;
    if (!d || tree_set_image_name(t, d, name))
        return -ENOMEM;
    d->created_ns = created;
    d->origin_version = source->id;
    d->origin_image = source_image;
    become_head(t, d, v, source->size_bytes, created);
    return 0;
}

static int apply_clone(struct store *s, uint64_t ticket, struct reader *r)
{
    uint64_t image = get_u64(r), version = get_u64(r), new_head = get_u64(r), first_image = get_u64(r), first_version = get_u64(r);
    uint32_t first_line = get_u32(r), count = get_u32(r);
    uint64_t created = get_u64(r);
    bool numbered = get_u8(r);
    uint64_t number = get_u64(r);
    char name[IMAGE_NAME_MAX + 1], full[IMAGE_NAME_MAX + 24];
    get_text(r, name);
    struct vdisk *d = tree_image(&s->tree, image);
    struct version *source = tree_version(&s->tree, version);
    if (r->bad || !source || (new_head ? !d || d->head != source : source->cut == TICKET_MAX))
        return -EBADMSG;
    int err = new_head ? freeze_head(&s->tree, d, ticket, new_head, created) : 0;
    for (uint32_t i = 0; i < count && !err; i++) {
        snprintf(full, sizeof full, numbered ? "%s%llu" : "%s", name, (unsigned long long)(number + i));
        err = clone_one(s, ticket, source, image, first_image + i, first_version + i, first_line + i, created, full);
    }
    return err;
}

static int apply_copy(struct store *s, uint64_t ticket, struct reader *r)
{
    struct tree *t = &s->tree;
    struct version *source = tree_version(t, get_u64(r));
    uint64_t id = get_u64(r), version = get_u64(r);
    uint32_t line = get_u32(r);
    uint64_t created = get_u64(r);
    if (r->bad || !source || source->cut == TICKET_MAX || tree_image(t, id))
        return -EBADMSG;
    struct version *v = branch(t, ticket, source, version, line);
    struct vdisk *d = v ? tree_add_image(t, id) : NULL;
    if (!d)
        return -ENOMEM;
    d->flags = IMAGE_FLAG_IMPORT;
    d->created_ns = created;
    become_head(t, d, v, source->size_bytes, created);
    return 0;
}

static int apply_snapshot(struct store *s, uint64_t ticket, struct reader *r)
{
    uint64_t created = get_u64(r);
    unsigned flags = get_u8(r);
    uint32_t count = get_u32(r);
    for (uint32_t i = 0; i < count; i++) {
        uint64_t image = get_u64(r), new_head = get_u64(r);
        char name[IMAGE_NAME_MAX + 1];
        get_text(r, name);
        struct vdisk *d = tree_image(&s->tree, image);
        if (r->bad || !d || d->flags & IMAGE_FLAG_TEMPLATE)
            return -EBADMSG;
        struct version *frozen = d->head;
        int err = freeze_head(&s->tree, d, ticket, new_head, created);
        if (err)
            return err;
        frozen->created_ns = created;
        frozen->flags |= flags;
        if (!(flags & VERSION_FLAG_TEMPORARY) && (err = tree_attach_snapshot(&s->tree, frozen, d, name)))
            return err;
    }
    return 0;
}

static void seal(struct store *s, struct vdisk *d, uint64_t ticket)
{
    if (!(d->flags & IMAGE_FLAG_TEMPLATE))
        s->tree.template_count++;
    d->flags |= IMAGE_FLAG_TEMPLATE;
    d->head->cut = ticket;
    tree_dirty_image(&s->tree, d);
    tree_dirty_version(&s->tree, d->head);
}

static int apply_resize(struct store *s, uint64_t ticket, struct vdisk *d, uint64_t size)
{
    struct version *h = d->head;
    uint64_t old_blocks = version_blocks(h), new_blocks = (size + BDEV_BLOCK_SIZE - 1) / BDEV_BLOCK_SIZE;
    s->tree.provisioned_bytes += size - h->size_bytes;
    h->size_bytes = size;
    tree_dirty_version(&s->tree, h);
    if (new_blocks >= old_blocks) {
        h->line->made = ticket; /* what is written behind the end stands upon it (W6) */
        return 0;
    }
    s->range_count++;
    return line_add_range(h->line, &(struct zero_range){ new_blocks, old_blocks - new_blocks, ticket });
}

static void orphan_head(struct tree *t, struct vdisk *d, uint64_t ticket)
{
    struct version *h = d->head;
    t->provisioned_bytes -= h->size_bytes;
    if (h->cut == TICKET_MAX)
        h->cut = ticket;
    tree_set_owner(t, h, NULL);
    d->head = NULL;
    tree_dirty_version(t, h);
}

static int apply_delete(struct store *s, uint64_t ticket, struct reader *r)
{
    uint32_t count = get_u32(r);
    for (uint32_t i = 0; i < count; i++) {
        struct vdisk *d = tree_image(&s->tree, get_u64(r));
        if (r->bad || !d)
            return -EBADMSG;
        while (!list_empty(&d->snapshots))
            tree_detach_snapshot(&s->tree, container_of(d->snapshots.next, struct version, snapshot_link));
        orphan_head(&s->tree, d, ticket);
        if (tree_remove_image(&s->tree, d))
            return -ENOMEM;
    }
    return 0;
}

static int apply_replace(struct store *s, uint64_t ticket, struct reader *r)
{
    struct tree *t = &s->tree;
    struct vdisk *d = tree_image(t, get_u64(r)), *from = tree_image(t, get_u64(r));
    if (r->bad || !d || !from || d == from || !(d->flags & IMAGE_FLAG_TEMPLATE) || !(from->flags & IMAGE_FLAG_IMPORT))
        return -EBADMSG;
    struct version *v = from->head;
    orphan_head(t, d, ticket);
    from->head = NULL;
    tree_set_owner(t, v, d);
    d->head = v;
    v->cut = ticket;
    tree_dirty_image(t, d);
    tree_dirty_version(t, v);
    return tree_remove_image(t, from);
}

static int apply_unsnapshot(struct store *s, struct reader *r)
{
    uint32_t count = get_u32(r);
    for (uint32_t i = 0; i < count; i++) {
        struct version *v = tree_version(&s->tree, get_u64(r));
        if (r->bad || !v || !(v->flags & VERSION_FLAG_SNAPSHOT))
            return -EBADMSG;
        tree_detach_snapshot(&s->tree, v);
    }
    return 0;
}

static int apply_rename_snapshot(struct store *s, struct reader *r)
{
    struct version *v = tree_version(&s->tree, get_u64(r));
    char name[IMAGE_NAME_MAX + 1];
    get_text(r, name);
    if (r->bad || !v || !(v->flags & VERSION_FLAG_SNAPSHOT))
        return -EBADMSG;
    char *copy = strdup(name);
    if (!copy)
        return -ENOMEM;
    free(v->name);
    v->name = copy;
    tree_dirty_version(&s->tree, v);
    return 0;
}

static int apply_rollback(struct store *s, uint64_t ticket, struct reader *r)
{
    struct tree *t = &s->tree;
    struct vdisk *d = tree_image(t, get_u64(r));
    struct version *target = tree_version(t, get_u64(r));
    uint64_t id = get_u64(r);
    uint32_t line = get_u32(r);
    uint64_t created = get_u64(r);
    char keep[IMAGE_NAME_MAX + 1];
    get_text(r, keep);
    if (r->bad || !d || !target || target->image != d || target == d->head)
        return -EBADMSG;
    struct version *v = branch(t, ticket, target, id, line), *old = d->head;
    if (!v)
        return -ENOMEM;
    orphan_head(t, d, ticket);
    if (keep[0]) {
        old->created_ns = created;
        if (tree_attach_snapshot(t, old, d, keep))
            return -ENOMEM;
    }
    become_head(t, d, v, target->size_bytes, created);
    return 0;
}

static int apply_protect(struct store *s, struct reader *r)
{
    struct vdisk *d = tree_image(&s->tree, get_u64(r));
    uint64_t version = get_u64(r);
    bool on = get_u8(r);
    struct version *v = version ? tree_version(&s->tree, version) : NULL;
    if (r->bad || !d || (version && !v))
        return -EBADMSG;
    if (v) {
        v->flags = on ? v->flags | VERSION_FLAG_PROTECTED : v->flags & ~(unsigned)VERSION_FLAG_PROTECTED;
        tree_dirty_version(&s->tree, v);
    } else {
        d->flags = on ? d->flags | IMAGE_FLAG_PROTECTED : d->flags & ~(unsigned)IMAGE_FLAG_PROTECTED;
        tree_dirty_image(&s->tree, d);
    }
    return 0;
}

static int apply_finish_import(struct store *s, uint64_t ticket, struct reader *r)
{
    struct vdisk *d = tree_image(&s->tree, get_u64(r));
    bool sealed = get_u8(r);
    char name[IMAGE_NAME_MAX + 1];
    get_text(r, name);
    if (r->bad || !d || !(d->flags & IMAGE_FLAG_IMPORT) || tree_image_named(&s->tree, name))
        return -EBADMSG;
    if (tree_set_image_name(&s->tree, d, name))
        return -ENOMEM;
    d->flags &= ~(unsigned)IMAGE_FLAG_IMPORT;
    if (sealed)
        seal(s, d, ticket);
    return 0;
}

int change_apply(struct store *s, uint64_t ticket, const uint8_t *payload, uint32_t length)
{
    s->tree.clones_counted = false;
    struct reader r = { payload, length, false };
    enum change_kind kind = get_u8(&r);
    struct vdisk *d;
    switch (kind) {
    case CHANGE_CREATE: return apply_create(s, ticket, &r);
    case CHANGE_CLONE: return apply_clone(s, ticket, &r);
    case CHANGE_SNAPSHOT: return apply_snapshot(s, ticket, &r);
    case CHANGE_PROTECT: return apply_protect(s, &r);
    case CHANGE_DELETE: return apply_delete(s, ticket, &r);
    case CHANGE_UNSNAPSHOT: return apply_unsnapshot(s, &r);
    case CHANGE_RENAME_SNAPSHOT: return apply_rename_snapshot(s, &r);
    case CHANGE_ROLLBACK: return apply_rollback(s, ticket, &r);
    case CHANGE_FINISH_IMPORT: return apply_finish_import(s, ticket, &r);
    case CHANGE_COPY: return apply_copy(s, ticket, &r);
    case CHANGE_REPLACE: return apply_replace(s, ticket, &r);
    case CHANGE_SEAL:
        if (!(d = tree_image(&s->tree, get_u64(&r))) || d->flags & IMAGE_FLAG_TEMPLATE)
            return -EBADMSG;
        seal(s, d, ticket);
        return 0;
    case CHANGE_RENAME: {
        d = tree_image(&s->tree, get_u64(&r));
        char name[IMAGE_NAME_MAX + 1];
        get_text(&r, name);
        if (r.bad || !d || !d->name || tree_image_named(&s->tree, name))
            return -EBADMSG;
        return tree_set_image_name(&s->tree, d, name);
    }
    case CHANGE_RESIZE: {
        d = tree_image(&s->tree, get_u64(&r));
        uint64_t size = get_u64(&r);
        return r.bad || !d || size > IMAGE_SIZE_MAX ? -EBADMSG : apply_resize(s, ticket, d, size);
    }
    case CHANGE_RELEASE: {
        struct version *v = tree_version(&s->tree, get_u64(&r));
        if (r.bad || !v)
            return -EBADMSG;
        v->flags &= ~(unsigned)VERSION_FLAG_TEMPORARY;
        tree_dirty_version(&s->tree, v);
        return 0;
    }
    }
    return -EBADMSG;
}
