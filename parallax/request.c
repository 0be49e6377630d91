/* request.c - a request's way in and out: checks, the choice of path, completion. */
#include "parallax/parallax_private.h"

#include <errno.h>

static void count(struct image_counters *c, const struct image_req *req, unsigned bucket, uint64_t took_ns, int error)
{
    histogram_add(&c->latency[req->op], bucket, took_ns);
    c->bytes[req->op] += error ? 0 : req->length;
    c->errors += error != 0;
}

static void count_ended(const struct image_req *req, int error)
{
    uint64_t took_ns = loop_monotonic_ns(req->image->store->loop) - req->begun_ns;
    unsigned bucket = histogram_bucket(took_ns);
    count(&req->image->store->count, req, bucket, took_ns, error);
    if (req->image->counted)
        count(&req->image->counted->count, req, bucket, took_ns, error);
}

static void count_refused(const struct image *img)
{
    img->store->count.errors++;
    if (img->counted)
        img->counted->count.errors++;
}

void request_complete(struct image_req *req, int error)
{
    struct image *img = req->image;
    if (req->begun_ns)
        count_ended(req, error);
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
    req->begun_ns = 0;
    if (err) {
        count_refused(img);
        request_complete_later(req, err);
        return;
    }
    req->begun_ns = loop_monotonic_ns(s->loop);
    if (req->op == IMAGE_READ)
        read_submit(s, req);
    else if (req->op == IMAGE_FLUSH)
        journal_flush_request(s, req);
    else
        request_dispatch(req);
}
