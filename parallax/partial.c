/* partial.c - requests that are not made of whole, aligned blocks: read, merge, write (consistency.md, W3).
 *
 * 1. While one is active its blocks are locked: writes and other partial requests that overlap wait in store.parked.
 * 2. It starts only when no write that overlaps is under way, so what it reads is what it merges into.
 * 3. Its own writes go straight to the queue; they pass their own lock.
 * 4. A request also waits behind parked ones that it overlaps: overlapping writes take effect in the order of submission, and
 *    none starves.
 * Memory: a fixed number of contexts with a bounce buffer each, touched when used; no free one means waiting. Some are for discards
 * only: in a full store writes wait for room with theirs, and it is discards that make some. */
#include "parallax/parallax_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define PARTIALS 40u
#define FOR_DISCARDS 8u
#define BOUNCE_BLOCKS (IMAGE_REQUEST_MAX / BDEV_BLOCK_SIZE + 1)

struct partial {
    struct list_node link; /* idle or active */
    struct image_req *req;
    struct store *store;
    uint64_t first, last;  /* blocks of the whole request */
    uint8_t *bounce;       /* of a write: all its blocks; of a discard: its first and its last */
    struct iovec iov[2];
    struct image_req part[3]; /* reading or writing an edge each; the middle of a discard */
    unsigned pending;
    int error;
};

struct partial_pool {
    struct list_node idle, active;
    uint8_t *memory;
    struct partial all[PARTIALS];
};

#define POOL_BYTES ((size_t)PARTIALS * BOUNCE_BLOCKS * BDEV_BLOCK_SIZE)

int partial_init(struct store *s)
{
    struct partial_pool *p = calloc(1, sizeof *p);
    if (!p)
        return -ENOMEM;
    p->memory = mmap(NULL, POOL_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p->memory == MAP_FAILED) {
        free(p);
        return -ENOMEM;
    }
    list_init(&p->idle);
    list_init(&p->active);
    for (unsigned i = 0; i < PARTIALS; i++) {
        p->all[i].store = s;
        p->all[i].bounce = p->memory + (size_t)i * BOUNCE_BLOCKS * BDEV_BLOCK_SIZE;
        list_add_tail(&p->idle, &p->all[i].link);
    }
    s->partials = p;
    return 0;
}

void partial_fini(struct store *s)
{
    if (!s->partials)
        return;
    munmap(s->partials->memory, POOL_BYTES);
    free(s->partials);
}

static uint64_t first_of(const struct image_req *r) { return r->offset / BDEV_BLOCK_SIZE; }
static uint64_t last_of(const struct image_req *r) { return (r->offset + r->length - 1) / BDEV_BLOCK_SIZE; }

static bool locked(const struct store *s, const struct image *img, uint64_t first, uint64_t last)
{
    list_for_each(n, &s->partials->active) {
        const struct partial *p = container_of(n, struct partial, link);
        if (p->req->image->disk == img->disk && first <= p->last && p->first <= last)
            return true;
    }
    return false;
}

static bool behind_parked(const struct store *s, const struct image_req *req)
{
    list_for_each(n, &s->parked) {
        const struct image_req *p = container_of(n, struct image_req, link);
        if (p->image->disk == req->image->disk && req->first_block < p->first_block + p->block_count && p->first_block < req->first_block + req->block_count)
            return true;
    }
    return false;
}

bool partial_blocks(struct store *s, const struct image_req *req)
{
    return (!list_empty(&s->partials->active) && locked(s, req->image, req->first_block, req->first_block + req->block_count - 1)) || behind_parked(s, req);
}

void partial_retry(struct store *s)
{
    struct list_node waiting = LIST_INIT(waiting), *n;
    list_splice_tail(&waiting, &s->parked);
    while ((n = list_pop(&waiting)))
        request_dispatch(container_of(n, struct image_req, link));
}

void partial_refuse_impatient(struct store *s)
{
    struct list_node refused = LIST_INIT(refused), *i;
    list_for_each_safe(n, &s->parked)
        if (request_is_impatient(container_of(n, struct image_req, link))) {
            list_remove(n);
            list_add_tail(&refused, n);
        }
    if (list_empty(&refused))
        return;
    while ((i = list_pop(&refused)))
        request_complete(container_of(i, struct image_req, link), -ENOSPC);
    partial_retry(s);
}

static void finish(struct partial *p)
{
    struct image_req *req = p->req;
    struct store *s = p->store;
    int error = p->error;
    list_remove(&p->link);
    list_add_tail(&s->partials->idle, &p->link);
    request_complete(req, error);
    partial_retry(s);
}

static void part_done(struct image_req *part, int error)
{
    struct partial *p = part->context;
    if (error && !p->error)
        p->error = error;
    if (--p->pending == 0)
        finish(p);
}

static void start_part(struct partial *p, unsigned i, enum image_op op, uint64_t first, uint64_t count, void *memory)
{
    struct image_req *r = &p->part[i];
    if (memory)
        p->iov[i] = (struct iovec){ memory, count * BDEV_BLOCK_SIZE };
    *r = (struct image_req){ .op = op, .flags = p->req->flags, .image = p->req->image, .iov = &p->iov[i], .iov_count = memory ? 1 : 0, .done = part_done,
                             .context = p, .first_block = first, .block_count = count, .offset = first * BDEV_BLOCK_SIZE, .length = count * BDEV_BLOCK_SIZE };
    r->image->in_flight++;
    p->pending++;
    write_queue_request(p->store, r);
}

static void copy_in(struct partial *p)
{
    uint8_t *to = p->bounce + p->req->offset % BDEV_BLOCK_SIZE;
    for (unsigned i = 0; i < p->req->iov_count; i++) {
        memcpy(to, p->req->iov[i].iov_base, p->req->iov[i].iov_len);
        to += p->req->iov[i].iov_len;
    }
}

static void write_merged(struct partial *p)
{
    copy_in(p);
    p->pending = 0;
    start_part(p, 0, IMAGE_WRITE, p->first, p->last - p->first + 1, p->bounce);
}

/* The edges of a discard become zeroes in their blocks; whole blocks in between are discarded. */
static void discard_merged(struct partial *p)
{
    uint64_t begin = p->req->offset, end = begin + p->req->length;
    uint64_t head = begin % BDEV_BLOCK_SIZE, tail = end % BDEV_BLOCK_SIZE, middle = p->first + (head > 0), middle_end = p->last + 1 - (tail > 0);
    p->pending = 1; /* until all have been started */
    if (p->first == p->last) {
        memset(p->bounce + head, 0, p->req->length);
        start_part(p, 0, IMAGE_WRITE, p->first, 1, p->bounce);
    } else {
        if (head) {
            memset(p->bounce + head, 0, BDEV_BLOCK_SIZE - head);
            start_part(p, 0, IMAGE_WRITE, p->first, 1, p->bounce);
        }
        if (tail) {
            memset(p->bounce + BDEV_BLOCK_SIZE, 0, tail);
            start_part(p, 1, IMAGE_WRITE, p->last, 1, p->bounce + BDEV_BLOCK_SIZE);
        }
        if (middle < middle_end)
            start_part(p, 2, IMAGE_DISCARD, middle, middle_end - middle, NULL);
    }
    p->pending--;
}

static void edges_read(struct partial *p)
{
    if (p->error)
        finish(p);
    else if (p->req->op == IMAGE_DISCARD)
        discard_merged(p);
    else
        write_merged(p);
}

static void edge_done(struct image_req *part, int error)
{
    struct partial *p = part->context;
    if (error && !p->error)
        p->error = error;
    if (--p->pending == 0)
        edges_read(p);
}

static void read_edge(struct partial *p, unsigned i, uint64_t block, void *memory)
{
    p->iov[i] = (struct iovec){ memory, BDEV_BLOCK_SIZE };
    p->part[i] = (struct image_req){ .op = IMAGE_READ, .image = p->req->image, .iov = &p->iov[i], .iov_count = 1, .done = edge_done, .context = p,
                                     .offset = block * BDEV_BLOCK_SIZE, .length = BDEV_BLOCK_SIZE };
    p->req->image->in_flight++;
    p->pending++;
    read_submit(p->store, &p->part[i]);
}

static void start(struct partial *p)
{
    uint64_t end = p->req->offset + p->req->length;
    bool head = p->req->offset % BDEV_BLOCK_SIZE, tail = end % BDEV_BLOCK_SIZE;
    void *last = p->req->op == IMAGE_DISCARD ? p->bounce + BDEV_BLOCK_SIZE : p->bounce + (p->last - p->first) * BDEV_BLOCK_SIZE;
    p->pending = 1;
    if (head || (tail && p->first == p->last))
        read_edge(p, 0, p->first, p->bounce);
    if (tail && p->first != p->last)
        read_edge(p, 1, p->last, last);
    if (--p->pending == 0)
        edges_read(p);
}

static bool has_context(const struct store *s, const struct image_req *req)
{
    unsigned idle = 0;
    list_for_each(n, &s->partials->idle)
        if (++idle > FOR_DISCARDS || req->op == IMAGE_DISCARD)
            return true;
    return false;
}

void partial_submit(struct store *s, struct image_req *req)
{
    req->first_block = first_of(req);
    req->block_count = last_of(req) - req->first_block + 1;
    if (!has_context(s, req) || locked(s, req->image, req->first_block, last_of(req)) || write_overlaps(req->image, req->first_block, req->block_count)
        || behind_parked(s, req)) {
        list_add_tail(&s->parked, &req->link);
        return;
    }
    struct partial *p = container_of(list_pop(&s->partials->idle), struct partial, link);
    list_add_tail(&s->partials->active, &p->link);
    p->req = req;
    p->first = req->first_block;
    p->last = last_of(req);
    p->error = 0;
    start(p);
}
