/* import.c - images without a name: they get it when all is written and what the store holds already is shared, or vanish. */
#include "base/clock.h"
#include "parallax/share.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void import_opened(struct store_op *op)
{
    struct store *s = op->store;
    struct vdisk *d = tree_image(&s->tree, op->subject);
    if (!op->error.code) {
        op->image = handle_open(s, d, NULL, IMAGE_READ_WRITE, "import");
        if (op->image)
            op->image->impatient = true;
        else
            error_set(&op->error, -ENOMEM, "no memory for the operation");
    }
    op->done(op);
}

static void run_import_begin(struct store_op *op)
{
    struct store *s = op->store;
    uint64_t size_bytes = op->args.number;
    if (check_image_size(size_bytes, &op->error)) {
        op->done(op);
        return;
    }
    op->finish = import_opened;
    image_create_flagged(s, op, "", size_bytes, IMAGE_FLAG_IMPORT, &op->subject);
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

/* That nothing could be shared, for whatever reason, is no reason to give up what was imported. */
static void deduped(struct store_op *op)
{
    op->error = (struct error)ERROR_NONE;
    op_begin(op->store, op, run_import_finish);
}

static void written(struct store_op *op)
{
    if (op->error.code)
        op->done(op);
    else
        dedup_import(op->store, op, op->args.image->disk->id, deduped);
}

/* What was written is durable before the record that gives it a name: a power cut could keep that one alone. */
static void run_import_flush(struct store_op *op)
{
    op->finish = written;
    journal_wait_durable(op->store, op);
}

void image_import_finish(struct image *img, struct store_op *op, const char *name, bool seal)
{
    op->args.image = img;
    op->args.name = name;
    op->args.flag = seal;
    op_begin(img->store, op, run_import_flush);
}
