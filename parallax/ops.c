/* ops.c - operations on images: check against what there is, write one change record, answer when it is durable.
 *
 * An operation begins only when there is journal room for it (it waits in op_queue otherwise), and is checked, written and
 * applied in one go, so that nothing comes between. */
#include "base/clock.h"
#include "base/log.h"
#include "parallax/change.h"
#include "parallax/parallax_private.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- Ending ---- */

void op_done(struct store_op *op) { op->done(op); }

int op_check_writable(struct store *s, struct error *err)
{
    if (s->failed)
        return error_set(err, s->failed, "store '%s' takes no changes since a write to it failed; see the log, then open it again", store_name(s));
    return 0;
}

/* ---- Beginning and committing ---- */

#define OP_BATCHES 8u
#define CHANGE_MAX ((OP_BATCHES - 1) * BATCH_JBLOCKS * 4000u) /* bytes of one change */

static bool may_begin(struct store *s)
{
    unsigned idle = 0;
    list_for_each(n, &s->journal.idle)
        idle++;
    return s->failed || (idle >= OP_BATCHES && journal_room(s) >= OP_BATCHES * BATCH_JBLOCKS + 2 * BATCHES);
}

void op_begin(struct store *s, struct store_op *op, void (*run)(struct store_op *op))
{
    op->store = s;
    op->run = run;
    op->finish = op_done;
    list_add_tail(&s->op_queue, &op->link);
    loop_defer(s->loop, &s->pump);
}

void ops_pump(struct store *s)
{
    while (!list_empty(&s->op_queue)) {
        if (!may_begin(s)) {
            if (journal_room(s) < s->super.journal_blocks / 2)
                checkpoint_request(s);
            return;
        }
        struct store_op *op = container_of(list_pop(&s->op_queue), struct store_op, link);
        if (op_check_writable(s, &op->error))
            op->done(op);
        else
            op->run(op);
    }
}

void op_commit(struct store *s, struct store_op *op, struct change_writer *w)
{
    uint64_t ticket;
    if (w->failed)
        error_set(&op->error, -ENOMEM, "no memory for the operation");
    else if (w->length > CHANGE_MAX)
        error_set(&op->error, -E2BIG, "too many at once; do it in several steps");
    if (!op->error.code && (journal_append_change(s, w->bytes, w->length, &ticket) || change_apply(s, ticket, w->bytes, w->length))) {
        store_fail(s, -EIO, "a change that could not be written or applied");
        op_check_writable(s, &op->error);
    }
    free(w->bytes);
    checkpoint_touch(s);
    if (op->error.code)
        op->done(op);
    else
        journal_wait_durable(s, op);
}

/* ---- Names ---- */

int store_check_name(const char *text, struct error *err)
{
    size_t n = strlen(text);
    if (n == 0)
        return error_set(err, -EINVAL, "a name may not be empty");
    if (n > IMAGE_NAME_MAX)
        return error_set(err, -EINVAL, "name '%.40s…' is too long (%zu characters, at most %u)", text, n, IMAGE_NAME_MAX);
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)text[i];
        if (!(c < 128 && (isalnum(c) || (i && strchr("._-", c)))))
            return error_set(err, -EINVAL, "name '%.128s' is not allowed: use letters, digits, '.', '_' and '-', beginning with a letter or digit", text);
    }
    return 0;
}

static int no_image(struct store *s, const char *name, struct error *err)
{
    const char *similar = tree_similar_name(&s->tree, name);
    if (similar)
        return error_set(err, -ENOENT, "no image '%.128s'; did you mean '%s'?", name, similar);
    return error_set(err, -ENOENT, "no image '%.128s'; 'parallax ls' lists them", name);
}

int target_find(struct store *s, const char *target, struct vdisk **d, struct version **snapshot, struct error *err)
{
    char name[IMAGE_TARGET_SIZE];
    *snapshot = NULL;
    if (strlen(target) >= sizeof name)
        return error_set(err, -ENOENT, "no image '%.40s…': the name is too long", target);
    snprintf(name, sizeof name, "%s", target);
    char *at = strchr(name, '@');
    if (at)
        *at++ = 0;
    *d = tree_image_named(&s->tree, name);
    if (!*d)
        return no_image(s, name, err);
    if (at && !(*snapshot = tree_snapshot(*d, at)))
        return error_set(err, -ENOENT, "image '%s' has no snapshot '%s'; 'parallax snap ls %s' lists them", name, at, name);
    return 0;
}

int find_image(struct store *s, const char *name, struct vdisk **d, struct error *err)
{
    struct version *v;
    if (strchr(name, '@'))
        return error_set(err, -EINVAL, "'%.200s' names a snapshot; an image is needed here", name);
    return target_find(s, name, d, &v, err);
}

static int check_new_name(struct store *s, const char *name, struct error *err)
{
    int rc = store_check_name(name, err);
    if (!rc && tree_image_named(&s->tree, name))
        return error_set(err, -EEXIST, "image '%s' exists already; choose another name", name);
    return rc;
}

static int check_size(uint64_t size, struct error *err)
{
    if (size == 0 || size % IMAGE_SECTOR)
        return error_set(err, -EINVAL, "size %llu is not a positive multiple of 512 bytes", (unsigned long long)size);
    if (size > IMAGE_SIZE_MAX)
        return error_set(err, -EINVAL, "size %llu is more than the largest image, 16 TiB", (unsigned long long)size);
    return 0;
}

struct change_writer change_begin(enum change_kind kind)
{
    struct change_writer w = { 0 };
    change_u8(&w, (uint8_t)kind);
    return w;
}

/* ---- Operations ---- */

static void create(struct store *s, struct store_op *op, const char *name, uint64_t size, unsigned flags, uint64_t *id)
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
    if (check_new_name(s, name, &op->error) || check_size(size_bytes, &op->error))
        op->done(op);
    else
        create(s, op, name, size_bytes, 0, &id);
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

/* ---- Resize ---- */

struct resizing {
    struct owned owned;
    struct image_req zero;
    struct image handle; /* keeps the image; stands in where nobody has the image open for writing */
    struct store_op *op;
};

static void tell_handles(struct store_op *op)
{
    struct vdisk *d = tree_image(&op->store->tree, op->subject);
    if (d && !op->error.code)
        list_for_each_safe(n, &d->handles) {
            struct image *img = container_of(n, struct image, link);
            if (!img->frozen && img->resized)
                img->resized(img->ctx, image_size(img));
        }
    op->done(op);
}

static void resize_commit(struct store *s, struct store_op *op, uint64_t image, uint64_t size)
{
    struct change_writer w = change_begin(CHANGE_RESIZE);
    change_u64(&w, image);
    change_u64(&w, size);
    op->subject = image;
    op->finish = tell_handles;
    op_commit(s, op, &w);
}

static void run_resize(struct store_op *op);

static void tail_zeroed(struct image_req *req, int error)
{
    struct resizing *r = container_of(req, struct resizing, zero);
    struct store_op *op = r->op;
    if (error)
        error_set(&op->error, error, "cannot clear the end of the image: %s", strerror(-error));
    op->args.dry_run = true; /* cleared: go on */
    list_remove(&r->owned.link);
    list_remove(&r->handle.link);
    free(r);
    if (op->error.code)
        op->done(op);
    else
        op_begin(op->store, op, run_resize);
}

static void release_resizing(struct owned *o) { free(container_of(o, struct resizing, owned)); }

/* The last block of an odd size may hold old bytes behind the end; they are zeroed before growing makes them visible, and
 * durably: else a power cut could keep the new size and lose the zeroes. Going
 * through the writer's handle keeps this apart from its own partial writes to that block. */
static void zero_tail(struct store *s, struct store_op *op, struct vdisk *d)
{
    struct resizing *r = calloc(1, sizeof *r);
    if (!r) {
        error_set(&op->error, -ENOMEM, "no memory for the operation");
        op->done(op);
        return;
    }
    uint64_t from = d->head->size_bytes;
    owned_add(s, &r->owned, release_resizing);
    r->op = op;
    r->handle = (struct image){ .store = s, .disk = d, .mode = IMAGE_READ_WRITE };
    list_init(&r->handle.writes);
    list_add_tail(&d->handles, &r->handle.link); /* the image must not go meanwhile */
    r->zero = (struct image_req){ .op = IMAGE_DISCARD, .flags = IMAGE_FUA, .offset = from, .length = BLOCK_SIZE - from % BLOCK_SIZE, .done = tail_zeroed,
                                  .image = d->writer ? d->writer : &r->handle };
    r->zero.image->in_flight++;
    request_dispatch(&r->zero);
}

static void run_resize(struct store_op *op)
{
    struct store *s = op->store;
    const char *name = op->args.name;
    uint64_t size_bytes = op->args.number;
    bool shrink = op->args.flag;
    struct vdisk *d;
    struct error *err = &op->error;
    if (!find_image(s, name, &d, err) && !check_size(size_bytes, err)) {
        uint64_t now = d->head->size_bytes;
        if (d->flags & IMAGE_FLAG_TEMPLATE)
            error_set(err, -EROFS, "image '%s' is a template; clone it and resize the clone", name);
        else if (size_bytes < now && !shrink)
            error_set(err, -EINVAL, "image '%s' has %llu bytes; making it smaller loses what is behind the new end: say --shrink if that is meant", name, (unsigned long long)now);
        else if (size_bytes < now && !list_empty(&d->handles))
            error_set(err, -EBUSY, "image '%s' is in use by %s; it can be made smaller only when it is not", name, d->writer ? d->writer->holder : "a reader");
        else if (size_bytes > now && now % BLOCK_SIZE && !op->args.dry_run) {
            zero_tail(s, op, d);
            return;
        }
    }
    if (err->code)
        op->done(op);
    else
        resize_commit(s, op, d->id, size_bytes);
}

void image_resize(struct store *s, struct store_op *op, const char *name, uint64_t size_bytes, bool shrink)
{
    op->args.name = name;
    op->args.number = size_bytes;
    op->args.flag = shrink;
    op_begin(s, op, run_resize);
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
    for (unsigned i = 0; i < count && !op->error.code; i++) {
        for (unsigned k = 0; k < i; k++)
            if (!strcmp(names[i], names[k]))
                error_set(&op->error, -EINVAL, "image '%s' is named twice", names[i]);
        if (op->error.code || check_deletable(s, names[i], with_snapshots, &d, &op->error))
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

/* ---- Import ---- */

static void import_opened(struct store_op *op)
{
    struct store *s = op->store;
    struct vdisk *d = tree_image(&s->tree, op->subject);
    if (!op->error.code) {
        op->image = handle_open(s, d, NULL, IMAGE_READ_WRITE, "import");
        if (!op->image)
            error_set(&op->error, -ENOMEM, "no memory for the operation");
    }
    op->done(op);
}

static void run_import_begin(struct store_op *op)
{
    struct store *s = op->store;
    uint64_t size_bytes = op->args.number;
    if (check_size(size_bytes, &op->error)) {
        op->done(op);
        return;
    }
    op->finish = import_opened;
    create(s, op, "", size_bytes, IMAGE_FLAG_IMPORT, &op->subject);
}

void image_import_begin(struct store *s, struct store_op *op, uint64_t size_bytes)
{
    op->args.number = size_bytes;
    op_begin(s, op, run_import_begin);
}

static void run_import_finish(struct store_op *op)
{
    struct store *s = op->store;
    struct image *img = op->args.image;
    const char *name = op->args.name;
    bool seal = op->args.flag;
    check_new_name(s, name, &op->error);
    if (!op->error.code && !(img->disk->flags & IMAGE_FLAG_IMPORT))
        error_set(&op->error, -EINVAL, "image '%s' is not being imported", img->disk->name);
    struct change_writer w = change_begin(CHANGE_FINISH_IMPORT);
    change_u64(&w, img->disk->id);
    change_u8(&w, seal);
    change_text(&w, op->error.code ? "" : name);
    op_commit(s, op, &w);
}

void image_import_finish(struct image *img, struct store_op *op, const char *name, bool seal)
{
    op->args.image = img;
    op->args.name = name;
    op->args.flag = seal;
    op_begin(img->store, op, run_import_finish);
}

/* ---- Changes nobody waits for ---- */

static void free_op(struct store_op *op) { free(op); }

static void run_drop_import(struct store_op *op)
{
    const struct vdisk *d = tree_image(&op->store->tree, op->subject);
    if (!d || !(d->flags & IMAGE_FLAG_IMPORT)) {
        op->done(op);
        return;
    }
    struct change_writer w = change_begin(CHANGE_DELETE);
    change_u32(&w, 1);
    change_u64(&w, op->subject);
    op_commit(op->store, op, &w);
}

static void run_release_version(struct store_op *op)
{
    if (!tree_version(&op->store->tree, op->subject)) {
        op->done(op);
        return;
    }
    struct change_writer w = change_begin(CHANGE_RELEASE);
    change_u64(&w, op->subject);
    op_commit(op->store, op, &w);
}

/* Without memory, or if the store fails meanwhile, the next opening cleans up. */
static void begin_unattended(struct store *s, uint64_t subject, void (*run)(struct store_op *op))
{
    struct store_op *op = calloc(1, sizeof *op);
    if (!op)
        return;
    op->done = free_op;
    op->subject = subject;
    op_begin(s, op, run);
}

void ops_drop_import(struct store *s, const struct vdisk *d) { begin_unattended(s, d->id, run_drop_import); }
void ops_release_version(struct store *s, const struct version *v) { begin_unattended(s, v->id, run_release_version); }

void ops_clean_up(struct store *s)
{
    list_for_each_safe(n, &s->tree.all_images) {
        struct vdisk *d = container_of(n, struct vdisk, all_link);
        if (d->flags & IMAGE_FLAG_IMPORT)
            ops_drop_import(s, d);
    }
    bool waiting = false;
    list_for_each_safe(n, &s->tree.orphans) {
        struct version *v = container_of(n, struct version, orphan_link);
        if (v->flags & VERSION_FLAG_TEMPORARY)
            ops_release_version(s, v);
        waiting = true;
    }
    if (waiting)
        checkpoint_request(s);
}
