/* request.c - a request's way in and out: checks, the choice of path, completion. */
#include "parallax/parallax_private.h"

#include <errno.h>

void request_complete(struct image_req *req, int error)
{
    struct image *img = req->image;
    bool last = --img->in_flight == 0 && img->closed;
    req->done(req, error);
    if (last)
        handle_free(img);
}

static void complete_late(struct loop_task *t)
{
    struct store *s = container_of(t, struct store, late_task);
    struct list_node now = LIST_INIT(now), *n;
    list_splice_tail(&now, &s->late);
    while ((n = list_pop(&now))) {
        struct image_req *req = container_of(n, struct image_req, link);
        request_complete(req, req->result);
    }
}

void request_complete_later(struct image_req *req, int error)
{
    struct store *s = req->image->store;
    req->result = error;
    s->late_task.run = complete_late;
    list_add_tail(&s->late, &req->link);
    loop_defer(s->loop, &s->late_task);
}

bool request_is_aligned(const struct image_req *req)
{
    if ((req->offset | req->length) % BDEV_BLOCK_SIZE)
        return false;
    for (unsigned i = 0; req->op != IMAGE_DISCARD && i < req->iov_count; i++)
        if (((uintptr_t)req->iov[i].iov_base | req->iov[i].iov_len) % BDEV_BLOCK_SIZE)
            return false;
    return true;
}

static int check(const struct image *img, const struct image_req *req)
{
    uint64_t size = image_size(img), bytes = 0;
    if (req->op == IMAGE_FLUSH)
        return 0;
    if ((req->offset | req->length) % IMAGE_SECTOR || req->length == 0 || req->offset >= size || req->length > size - req->offset)
        return -EINVAL;
    if (req->op != IMAGE_READ && (img->mode != IMAGE_READ_WRITE || img->disk->flags & IMAGE_FLAG_TEMPLATE))
        return -EROFS;
    if (req->op == IMAGE_DISCARD)
        return 0;
    for (unsigned i = 0; i < req->iov_count; i++) {
        if (((uintptr_t)req->iov[i].iov_base | req->iov[i].iov_len) % IMAGE_SECTOR || !req->iov[i].iov_len)
            return -EINVAL;
        bytes += req->iov[i].iov_len;
    }
    return bytes == req->length && bytes <= IMAGE_REQUEST_MAX ? 0 : -EINVAL;
}

static void count(struct store *s, const struct image_req *req)
{
    struct store_status *st = &s->stats;
    switch (req->op) {
    case IMAGE_READ: st->reads++; st->read_bytes += req->length; break;
    case IMAGE_WRITE: st->writes++; st->write_bytes += req->length; break;
    case IMAGE_FLUSH: st->flushes++; break;
    case IMAGE_DISCARD: st->discards++; break;
    }
}

void request_dispatch(struct image_req *req)
{
    struct store *s = req->image->store;
    if (!request_is_aligned(req)) {
        partial_submit(s, req);
        return;
    }
    req->first_block = req->offset / BDEV_BLOCK_SIZE;
    req->block_count = req->length / BDEV_BLOCK_SIZE;
    if (partial_blocks(s, req))
        list_add_tail(&s->parked, &req->link);
    else
        write_queue_request(s, req);
}

void image_submit(struct image *img, struct image_req *req)
{
    struct store *s = img->store;
    req->image = img;
    img->in_flight++;
    int err = check(img, req);
    if (!err && s->failed && req->op != IMAGE_READ)
        err = s->failed;
    if (err) {
        request_complete_later(req, err);
        return;
    }
    count(s, req);
    if (req->op == IMAGE_READ)
        read_submit(s, req);
    else if (req->op == IMAGE_FLUSH)
        journal_flush_request(s, req);
    else
        request_dispatch(req);
}
