/* snapshot_ops.c - operations on snapshots; the pattern is that of ops.c. */
#include "base/clock.h"
#include "parallax/parallax_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Splits NAME@SNAP of a snapshot that is to be made. */
static int parse_new(struct store *s, const char *target, struct vdisk **d, const char **snap, struct error *err)
{
    char name[IMAGE_TARGET_SIZE];
    const char *at = strchr(target, '@');
    if (!at || strlen(target) >= sizeof name)
        return error_set(err, -EINVAL, "'%.200s' is not of the form IMAGE@SNAPSHOT", target);
    memcpy(name, target, (size_t)(at - target));
    name[at - target] = 0;
    *snap = at + 1;
    int rc = find_image(s, name, d, err);
    if (rc || (rc = store_check_name(*snap, err)))
        return rc;
    if ((*d)->flags & IMAGE_FLAG_TEMPLATE)
        return error_set(err, -EROFS, "image '%s' is a template and never changes; clone it instead", name);
    if (tree_snapshot(*d, *snap))
        return error_set(err, -EEXIST, "snapshot '%s' exists already; choose another name", target);
    return 0;
}

static void run_snapshot(struct store_op *op)
{
    struct store *s = op->store;
    struct vdisk *d;
    const char *snap = NULL;
    struct change_writer w = change_begin(CHANGE_SNAPSHOT);
    change_u64(&w, clock_real_ns());
    change_u8(&w, 0);
    change_u32(&w, op->args.count);
    check_named_once(op->args.names, op->args.count, "snapshot", &op->error);
    for (uint32_t i = 0; i < op->args.count && !op->error.code; i++) {
        if (parse_new(s, op->args.names[i], &d, &snap, &op->error))
            break;
        change_u64(&w, d->id);
        change_u64(&w, s->tree.next_version++);
        change_text(&w, snap);
    }
    op_commit(s, op, &w);
}

void snapshot_create(struct store *s, struct store_op *op, const char *const *targets, unsigned count)
{
    op->args.names = targets;
    op->args.count = count;
    op_begin(s, op, run_snapshot);
}

static int find_snapshot(struct store *s, const char *target, struct vdisk **d, struct version **v, struct error *err)
{
    int rc = target_find(s, target, d, v, err);
    if (!rc && !*v)
        rc = error_set(err, -EINVAL, "'%s' is an image; a snapshot, IMAGE@SNAPSHOT, is needed here", target);
    return rc;
}

static int check_deletable(const struct vdisk *d, const struct version *v, struct error *err)
{
    if (v->flags & VERSION_FLAG_PROTECTED)
        return error_set(err, -EPERM, "snapshot '%s@%s' is protected; 'parallax unprotect %s@%s' first", d->name, v->name, d->name, v->name);
    if (v->readers)
        return error_set(err, -EBUSY, "snapshot '%s@%s' is in use; detach it first", d->name, v->name);
    return 0;
}

/* Ends op: deletes these versions, or only tells what that would give back. versions is freed. */
static void delete_versions(struct store_op *op, struct version **versions, uint32_t count)
{
    if (op->args.dry_run && !op->error.code) {
        usage_freed(op->store, op, versions, count);
        return;
    }
    struct change_writer w = change_begin(CHANGE_UNSNAPSHOT);
    change_u32(&w, count);
    for (uint32_t i = 0; i < count; i++)
        change_u64(&w, versions[i]->id);
    free(versions);
    checkpoint_reclaim_soon(op->store);
    op_commit(op->store, op, &w);
}

static void run_delete(struct store_op *op)
{
    struct vdisk *d;
    uint32_t n = 0;
    struct version **versions = calloc(op->args.count + 1, sizeof *versions);
    if (!versions)
        error_set(&op->error, -ENOMEM, "no memory for the operation");
    else
        check_named_once(op->args.names, op->args.count, "snapshot", &op->error);
    for (uint32_t i = 0; i < op->args.count && !op->error.code; i++) {
        if (find_snapshot(op->store, op->args.names[i], &d, &versions[n], &op->error) || check_deletable(d, versions[n], &op->error))
            break;
        n++;
    }
    delete_versions(op, versions, n);
}

void snapshot_delete(struct store *s, struct store_op *op, const char *const *targets, unsigned count, bool dry_run)
{
    op->args.names = targets;
    op->args.count = count;
    op->args.dry_run = dry_run;
    op_begin(s, op, run_delete);
}

static void run_purge(struct store_op *op)
{
    struct vdisk *d;
    struct version **versions = NULL;
    uint32_t n = 0;
    if (!find_image(op->store, op->args.name, &d, &op->error) && !(versions = calloc(d->snapshot_count + 1, sizeof *versions)))
        error_set(&op->error, -ENOMEM, "no memory for the operation");
    if (!op->error.code)
        list_for_each(i, &d->snapshots) {
            versions[n] = container_of(i, struct version, snapshot_link);
            if (check_deletable(d, versions[n++], &op->error))
                break;
        }
    delete_versions(op, versions, n);
}

void snapshot_purge(struct store *s, struct store_op *op, const char *image)
{
    op->args.name = image;
    op_begin(s, op, run_purge);
}

static void run_rename(struct store_op *op)
{
    struct vdisk *d;
    struct version *v = NULL;
    struct error *err = &op->error;
    if (!find_image(op->store, op->args.name, &d, err)) {
        if (!(v = tree_snapshot(d, op->args.names[0])))
            error_set(err, -ENOENT, "image '%s' has no snapshot '%s'; 'parallax snap ls %s' lists them", d->name, op->args.names[0], d->name);
        else if (!store_check_name(op->args.other, err) && tree_snapshot(d, op->args.other))
            error_set(err, -EEXIST, "snapshot '%s@%s' exists already; choose another name", d->name, op->args.other);
    }
    struct change_writer w = change_begin(CHANGE_RENAME_SNAPSHOT);
    change_u64(&w, v ? v->id : 0);
    change_text(&w, err->code ? "" : op->args.other);
    op_commit(op->store, op, &w);
}

void snapshot_rename(struct store *s, struct store_op *op, const char *image, const char *from, const char *to)
{
    op->args.name = image;
    op->rename_from = from;
    op->args.names = &op->rename_from;
    op->args.other = to;
    op_begin(s, op, run_rename);
}

static void run_rollback(struct store_op *op)
{
    struct store *s = op->store;
    struct vdisk *d = NULL;
    struct version *v = NULL;
    struct error *err = &op->error;
    const char *keep = op->args.other;
    if (!find_snapshot(s, op->args.name, &d, &v, err)) {
        if (d->writer)
            error_set(err, -EBUSY, "image '%s' is in use by %s; detach it before rolling back", d->name, d->writer->holder);
        else if (!list_empty(&d->handles))
            error_set(err, -EBUSY, "image '%s' is being read; try again when that has ended", d->name);
        else if (d->flags & IMAGE_FLAG_PROTECTED)
            error_set(err, -EPERM, "image '%s' is protected; 'parallax unprotect %s' first", d->name, d->name);
        else if (d->flags & IMAGE_FLAG_TEMPLATE)
            error_set(err, -EROFS, "image '%s' is a template and never changes", d->name);
        else if (keep && !store_check_name(keep, err) && tree_snapshot(d, keep))
            error_set(err, -EEXIST, "snapshot '%s@%s' exists already; choose another name to keep the present state under", d->name, keep);
    }
    struct change_writer w = change_begin(CHANGE_ROLLBACK);
    change_u64(&w, d ? d->id : 0);
    change_u64(&w, v ? v->id : 0);
    change_u64(&w, s->tree.next_version++);
    change_u32(&w, s->tree.next_line++);
    change_u64(&w, clock_real_ns());
    change_text(&w, keep && !err->code ? keep : "");
    op_commit(s, op, &w);
}

void snapshot_rollback(struct store *s, struct store_op *op, const char *target, const char *keep)
{
    op->args.name = target;
    op->args.other = keep;
    op_begin(s, op, run_rollback);
}

/* ---- A frozen view of an image ---- */

static void frozen_ready(struct store_op *op)
{
    struct store *s = op->store;
    struct version *v = tree_version(&s->tree, op->subject);
    struct vdisk *d = op->args.image ? op->args.image->disk : NULL;
    if (!op->error.code) {
        op->image = handle_open(s, d, v, IMAGE_READ_ONLY, "reader");
        if (!op->image)
            error_set(&op->error, -ENOMEM, "no memory for the operation");
        else
            op->image->temporary = v->flags & VERSION_FLAG_TEMPORARY;
    }
    if (op->args.image)
        handle_close(op->args.image);
    op->args.image = NULL;
    op->done(op);
}

static void run_open_frozen(struct store_op *op)
{
    struct store *s = op->store;
    struct vdisk *d;
    struct version *v;
    if (target_find(s, op->args.name, &d, &v, &op->error)) {
        op->done(op);
        return;
    }
    /* A handle on the image keeps it from being deleted until the frozen one is there. */
    op->args.image = handle_open(s, d, v, IMAGE_READ_ONLY, "reader");
    op->finish = frozen_ready;
    op->subject = v ? v->id : d->head->id;
    if (!op->args.image) {
        error_set(&op->error, -ENOMEM, "no memory for the operation");
        op->done(op);
    } else if (v || d->flags & IMAGE_FLAG_TEMPLATE) {
        frozen_ready(op);
    } else {
        struct change_writer w = change_begin(CHANGE_SNAPSHOT);
        change_u64(&w, clock_real_ns());
        change_u8(&w, VERSION_FLAG_TEMPORARY);
        change_u32(&w, 1);
        change_u64(&w, d->id);
        change_u64(&w, s->tree.next_version++);
        change_text(&w, "");
        op_commit(s, op, &w);
    }
}

void image_open_frozen(struct store *s, struct store_op *op, const char *target)
{
    op->args.name = target;
    op_begin(s, op, run_open_frozen);
}
