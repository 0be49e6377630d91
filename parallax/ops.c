/* ops.c - what all operations share: waiting for room, committing one change record, answering when it is durable; names and
 * targets; changes that nobody waits for.
 *
 * An operation begins only when there is journal room for it (it waits in op_queue otherwise), and is checked, written and
 * applied in one go, so that nothing comes between. */
#include "base/clock.h"
#include "base/log.h"
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
    return s->failed || (idle >= OP_BATCHES && journal_room(s) >= OP_BATCHES * BATCH_JBLOCKS + 2 * BATCHES && !journal_must_flush(s));
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

int check_new_name(struct store *s, const char *name, struct error *err)
{
    int rc = store_check_name(name, err);
    if (!rc && tree_image_named(&s->tree, name))
        return error_set(err, -EEXIST, "image '%s' exists already; choose another name", name);
    return rc;
}

int check_image_size(uint64_t size, struct error *err)
{
    if (size == 0 || size % IMAGE_SECTOR)
        return error_set(err, -EINVAL, "size %llu is not a positive multiple of 512 bytes", (unsigned long long)size);
    if (size > IMAGE_SIZE_MAX)
        return error_set(err, -EINVAL, "size %llu is more than the largest image, 16 TiB", (unsigned long long)size);
    return 0;
}

static int by_text(const void *a, const void *b) { return strcmp(*(const char *const *)a, *(const char *const *)b); }

int check_named_once(const char *const *names, uint32_t count, const char *what, struct error *err)
{
    const char **sorted = malloc((count + 1) * sizeof *sorted);
    int rc = sorted ? 0 : error_set(err, -ENOMEM, "no memory for the operation");
    for (uint32_t i = 0; i < count && !rc; i++)
        sorted[i] = names[i];
    if (!rc)
        qsort(sorted, count, sizeof *sorted, by_text);
    for (uint32_t i = 1; i < count && !rc; i++)
        if (!strcmp(sorted[i - 1], sorted[i]))
            rc = error_set(err, -EINVAL, "%s '%.260s' is named twice", what, sorted[i]);
    free(sorted);
    return rc;
}

struct change_writer change_begin(enum change_kind kind)
{
    struct change_writer w = { 0 };
    change_u8(&w, (uint8_t)kind);
    return w;
}

/* ---- Changes nobody waits for ---- */

struct unattended {
    struct owned owned;
    struct store_op op;
};

static void release_unattended(struct owned *o) { free(container_of(o, struct unattended, owned)); }

static void unattended_done(struct store_op *op)
{
    struct unattended *u = container_of(op, struct unattended, op);
    list_remove(&u->owned.link);
    free(u);
}

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
    struct unattended *u = calloc(1, sizeof *u);
    if (!u)
        return;
    owned_add(s, &u->owned, release_unattended);
    u->op.done = unattended_done;
    u->op.subject = subject;
    op_begin(s, &u->op, run);
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
        checkpoint_reclaim_soon(s);
}
