/* image_ops.c - operations on images: create, clone, seal, rename, protect, delete; the pattern is that of ops.c. */
#include "base/clock.h"
#include "parallax/parallax_private.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void image_create_flagged(struct store *s, struct store_op *op, const char *name, uint64_t size, unsigned flags, uint64_t *id)
{
    struct tree *t = &s->tree;
    struct change_writer w = change_begin(CHANGE_CREATE);
    *id = t->next_image++;
    change_u64(&w, *id);
    change_u64(&w, t->next_version++);
    change_u32(&w, t->next_line++);
    change_u64(&w, size);
    change_u64(&w, clock_real_ns());
    change_u8(&w, (uint8_t)flags);
    change_text(&w, name);
    op_commit(s, op, &w);
}

static void run_create(struct store_op *op)
{
    struct store *s = op->store;
    const char *name = op->args.name;
    uint64_t size_bytes = op->args.number;
    uint64_t id;
    if (check_new_name(s, name, &op->error) || check_image_size(size_bytes, &op->error))
        op->done(op);
    else
        image_create_flagged(s, op, name, size_bytes, 0, &id);
}

void image_create(struct store *s, struct store_op *op, const char *name, uint64_t size_bytes)
{
    op->args.name = name;
    op->args.number = size_bytes;
    op_begin(s, op, run_create);
}

/* What a clone stands on: a snapshot, a template's only state, or the head, which is then frozen. */
static void clone_from(struct store *s, struct store_op *op, struct vdisk *d, struct version *snapshot, bool numbered, uint64_t first, uint32_t count, const char *name)
{
    struct tree *t = &s->tree;
    bool freeze = !snapshot && !(d->flags & IMAGE_FLAG_TEMPLATE);
    struct change_writer w = change_begin(CHANGE_CLONE);
    change_u64(&w, d->id);
    change_u64(&w, snapshot ? snapshot->id : d->head->id);
    change_u64(&w, freeze ? t->next_version++ : 0);
    change_u64(&w, t->next_image);
    change_u64(&w, t->next_version);
    change_u32(&w, t->next_line);
    t->next_image += count;
    t->next_version += count;
    t->next_line += count;
    change_u32(&w, count);
    change_u64(&w, clock_real_ns());
    change_u8(&w, numbered);
    change_u64(&w, first);
    change_text(&w, name);
    op_commit(s, op, &w);
}

static void run_clone(struct store_op *op)
{
    struct store *s = op->store;
    const char *source = op->args.name, *name = op->args.other;
    struct vdisk *d;
    struct version *v;
    if (target_find(s, source, &d, &v, &op->error) || check_new_name(s, name, &op->error))
        op->done(op);
    else
        clone_from(s, op, d, v, false, 0, 1, name);
}

void image_clone(struct store *s, struct store_op *op, const char *source, const char *name)
{
    op->args.name = source;
    op->args.other = name;
    op_begin(s, op, run_clone);
}

static int check_numbered_names(struct store *s, const char *prefix, uint64_t first, uint32_t count, struct error *err)
{
    char name[IMAGE_NAME_MAX + 24];
    if (count == 0 || count > 100000)
        return error_set(err, -EINVAL, "cannot make %u clones in one step; 1 to 100000 are possible", count);
    if (first > UINT64_MAX - count)
        return error_set(err, -EINVAL, "first number %llu is too large", (unsigned long long)first);
    for (uint32_t i = 0; i < count; i++) {
        snprintf(name, sizeof name, "%.*s%llu", (int)IMAGE_NAME_MAX + 1, prefix, (unsigned long long)(first + i));
        int rc = check_new_name(s, name, err);
        if (rc)
            return rc;
    }
    return 0;
}

static void run_clone_many(struct store_op *op)
{
    struct store *s = op->store;
    const char *source = op->args.name, *prefix = op->args.other;
    uint64_t first = op->args.number;
    uint32_t count = op->args.count;
    struct vdisk *d;
    struct version *v;
    if (target_find(s, source, &d, &v, &op->error) || check_numbered_names(s, prefix, first, count, &op->error))
        op->done(op);
    else
        clone_from(s, op, d, v, true, first, count, prefix);
}

void image_clone_many(struct store *s, struct store_op *op, const char *source, const char *prefix, uint64_t first, uint32_t count)
{
    op->args.name = source;
    op->args.other = prefix;
    op->args.number = first;
    op->args.count = count;
    op_begin(s, op, run_clone_many);
}

static void run_seal(struct store_op *op)
{
    struct store *s = op->store;
    const char *name = op->args.name;
    struct vdisk *d;
    if (!find_image(s, name, &d, &op->error)) {
        if (d->flags & IMAGE_FLAG_TEMPLATE)
            error_set(&op->error, -EROFS, "image '%s' is a template already", name);
        else if (d->writer)
            error_set(&op->error, -EBUSY, "image '%s' is being written by %s; detach it first", name, d->writer->holder);
    }
    struct change_writer w = change_begin(CHANGE_SEAL);
    change_u64(&w, op->error.code ? 0 : d->id);
    op_commit(s, op, &w);
}

void image_seal(struct store *s, struct store_op *op, const char *name)
{
    op->args.name = name;
    op_begin(s, op, run_seal);
}

static void run_rename(struct store_op *op)
{
    struct store *s = op->store;
    const char *name = op->args.name, *to = op->args.other;
    struct vdisk *d = NULL;
    if (!find_image(s, name, &d, &op->error))
        check_new_name(s, to, &op->error);
    struct change_writer w = change_begin(CHANGE_RENAME);
    change_u64(&w, d ? d->id : 0);
    change_text(&w, op->error.code ? "" : to);
    op_commit(s, op, &w);
}

void image_rename(struct store *s, struct store_op *op, const char *name, const char *to)
{
    op->args.name = name;
    op->args.other = to;
    op_begin(s, op, run_rename);
}

static void run_protect(struct store_op *op)
{
    struct store *s = op->store;
    const char *target = op->args.name;
    bool on = op->args.flag;
    struct vdisk *d = NULL;
    struct version *v = NULL;
    target_find(s, target, &d, &v, &op->error);
    struct change_writer w = change_begin(CHANGE_PROTECT);
    change_u64(&w, d ? d->id : 0);
    change_u64(&w, v ? v->id : 0);
    change_u8(&w, on);
    op_commit(s, op, &w);
}

void image_protect(struct store *s, struct store_op *op, const char *target, bool on)
{
    op->args.name = target;
    op->args.flag = on;
    op_begin(s, op, run_protect);
}

/* ---- Delete ---- */

static int check_deletable(struct store *s, const char *name, bool with_snapshots, struct vdisk **out, struct error *err)
{
    struct vdisk *d;
    int rc = find_image(s, name, &d, err);
    if (rc)
        return rc;
    if (d->flags & IMAGE_FLAG_PROTECTED)
        return error_set(err, -EPERM, "image '%s' is protected; 'parallax unprotect %s' first", name, name);
    if (d->writer)
        return error_set(err, -EBUSY, "image '%s' is in use by %s; detach it first", name, d->writer->holder);
    if (!list_empty(&d->handles))
        return error_set(err, -EBUSY, "image '%s' is being read; try again when that has ended", name);
    if (d->snapshot_count && !with_snapshots)
        return error_set(err, -EBUSY, "image '%s' has %u snapshot%s; say --snapshots to remove them too", name, d->snapshot_count, d->snapshot_count > 1 ? "s" : "");
    list_for_each(n, &d->snapshots) {
        struct version *v = container_of(n, struct version, snapshot_link);
        if (v->flags & VERSION_FLAG_PROTECTED)
            return error_set(err, -EPERM, "snapshot '%s@%s' is protected; unprotect it first", name, v->name);
    }
    *out = d;
    return 0;
}

static void run_delete(struct store_op *op)
{
    struct store *s = op->store;
    const char *const *names = op->args.names;
    unsigned count = op->args.count;
    bool with_snapshots = op->args.flag, dry_run = op->args.dry_run;
    struct change_writer w = change_begin(CHANGE_DELETE);
    struct version **gone = NULL;
    unsigned gone_count = 0;
    struct vdisk *d = NULL;
    change_u32(&w, count);
    check_named_once(names, count, "image", &op->error);
    for (unsigned i = 0; i < count && !op->error.code; i++) {
        if (check_deletable(s, names[i], with_snapshots, &d, &op->error))
            break;
        change_u64(&w, d->id);
        if (usage_collect(d, &gone, &gone_count))
            error_set(&op->error, -ENOMEM, "no memory for the operation");
    }
    if (op->error.code || dry_run)
        free(w.bytes);
    if (op->error.code) {
        free(gone);
        op->done(op);
    } else if (dry_run) {
        usage_freed(s, op, gone, gone_count);
    } else {
        free(gone);
        op_commit(s, op, &w);
    }
}

void image_delete(struct store *s, struct store_op *op, const char *const *names, unsigned count, bool with_snapshots, bool dry_run)
{
    op->args.names = names;
    op->args.count = count;
    op->args.flag = with_snapshots;
    op->args.dry_run = dry_run;
    op_begin(s, op, run_delete);
}
