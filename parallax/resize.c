/* resize.c - changing an image's size. What lies behind a smaller end is dropped by the change itself; what an odd end hides in
 * its last block is zeroed before growing shows it. */
#include "base/clock.h"
#include "parallax/parallax_private.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct resizing {
    struct owned owned;
    struct image_req zero;
    struct image handle; /* keeps the image as it is; stands in where nobody has the image open for writing */
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

/* Returns whose end was cleared; NULL: nobody's. */
static const struct vdisk *end_zeroing(struct store_op *op)
{
    struct resizing *r = op->work;
    const struct vdisk *d = r ? r->handle.disk : NULL;
    if (!r)
        return NULL;
    list_remove(&r->owned.link);
    list_remove(&r->handle.link);
    free(r);
    op->work = NULL;
    return d;
}

static void tail_zeroed(struct image_req *req, int error)
{
    struct resizing *r = container_of(req, struct resizing, zero);
    struct store_op *op = r->op;
    if (error == -ENOSPC)
        error_set(&op->error, error, "store '%s' is too full to clear the end of image '%s' before it grows; delete something first", store_name(op->store), op->args.name);
    else if (error)
        error_set(&op->error, error, "cannot clear the end of the image: %s", strerror(-error));
    if (op->error.code) {
        end_zeroing(op);
        op->done(op);
    } else {
        op_begin(op->store, op, run_resize); /* still kept: a shrink or a rollback in between would bring another end */
    }
}

static void release_resizing(struct owned *o) { free(container_of(o, struct resizing, owned)); }

/* The last block of an odd size may hold old bytes behind the end; they are zeroed before growing makes them visible, and
 * durably: else a power cut could keep the new size and lose the zeroes. Going through the writer's handle keeps this apart from its
 * own partial writes to that block. In a full store it fails, as what other operations write: the image, which is kept meanwhile,
 * may be what is to be deleted. */
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
    op->work = r;
    r->handle = (struct image){ .store = s, .disk = d, .mode = IMAGE_READ_WRITE };
    list_init(&r->handle.writes);
    list_add_tail(&d->handles, &r->handle.link); /* the image must not go meanwhile */
    r->zero = (struct image_req){ .op = IMAGE_DISCARD, .flags = IMAGE_FUA | REQUEST_IMPATIENT, .offset = from, .length = BDEV_BLOCK_SIZE - from % BDEV_BLOCK_SIZE,
                                  .done = tail_zeroed, .image = d->writer ? d->writer : &r->handle };
    r->zero.image->in_flight++;
    request_dispatch(&r->zero);
}

/* A checkpoint may have made room. */
static void begin_again(struct store_op *op)
{
    if (op->error.code)
        op->done(op);
    else
        op_begin(op->store, op, run_resize);
}

static void run_resize(struct store_op *op)
{
    struct store *s = op->store;
    const char *name = op->args.name;
    uint64_t size_bytes = op->args.number;
    bool shrink = op->args.flag;
    struct vdisk *d;
    struct error *err = &op->error;
    const struct vdisk *cleared = end_zeroing(op); /* the name may be another's by now */
    if (!find_image(s, name, &d, err) && !check_image_size(size_bytes, err)) {
        uint64_t now = d->head->size_bytes;
        if (d->flags & IMAGE_FLAG_TEMPLATE)
            error_set(err, -EROFS, "image '%s' is a template; clone it and resize the clone", name);
        else if (size_bytes < now && !shrink)
            error_set(err, -EINVAL, "image '%s' has %llu bytes; making it smaller loses what is behind the new end: say --shrink if that is meant", name, (unsigned long long)now);
        else if (size_bytes < now && !list_empty(&d->handles))
            error_set(err, -EBUSY, "image '%s' is in use by %s; it can be made smaller only when it is not", name, d->writer ? d->writer->holder : "a reader");
        else if (size_bytes > now && now % BDEV_BLOCK_SIZE && cleared != d) {
            zero_tail(s, op, d);
            return;
        }
    }
    int ready = !err->code && size_bytes < d->head->size_bytes ? space_ready_to_shrink(s, d->head) : 0;
    if (ready == -ENOSPC)
        error_set(err, ready, "store '%s' is too full to make image '%s' smaller; delete something first", store_name(s), name);
    if (err->code)
        op->done(op);
    else if (ready)
        checkpoint_then(s, op, begin_again);
    else
        resize_commit(s, op, d->id, size_bytes);
}

void image_resize(struct store *s, struct store_op *op, const char *name, uint64_t size_bytes, bool shrink)
{
    op->args.name = name;
    op->args.number = size_bytes;
    op->args.flag = shrink;
    op->work = NULL;
    op_begin(s, op, run_resize);
}
