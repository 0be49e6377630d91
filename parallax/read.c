/* read.c - reads: changes and tree give an entry for each block, contiguous blocks make one device request, every block is
 * verified (consistency.md, L1, L2).
 *
 * 1. What the indexes know and the root are looked at in one moment, before anything waits: together they are one state.
 * 2. From that moment until the end the read counts as a reader, so no address it holds is given to anybody else (H1).
 * 3. A read of a state whose making, or some write before it, is not in the journal yet waits for that: it could be another one
 *    a moment later (V7).
 * 4. A block that fails its checksum is read once more, past the cache, before the read fails.
 * Memory: a fixed number of contexts, touched when used; no free one means waiting in order. */
#include "parallax/parallax_private.h"

#include "base/log.h"
#include "base/reserve.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define READS 256u
#define BOUNCES 32u
#define READ_BLOCKS (IMAGE_REQUEST_MAX / BDEV_BLOCK_SIZE + 1)
#define BOUNCE_BYTES ((size_t)READ_BLOCKS * BDEV_BLOCK_SIZE)

struct bounce {
    struct list_node link;
    uint8_t *memory;
};

struct read;

struct read_io {
    struct bdev_req req;
    struct read *read;
};

struct read {
    struct list_node link;
    struct store *store;
    struct image_req *req;
    struct bounce *bounce; /* of a request that is not made of whole, aligned blocks */
    struct radix_lookup lookup;
    uint64_t era;
    uint32_t count, pending;
    int error;
    bool starting, again;
    bool known[READ_BLOCKS];
    struct radix_entry changes[READ_BLOCKS], entries[READ_BLOCKS];
    uint8_t *blocks[READ_BLOCKS];
    struct read_io io[READ_BLOCKS];
    struct iovec iov[READ_BLOCKS];
};

struct read_pool {
    struct list_node idle, idle_bounces, waiting, early; /* waiting for memory, and for the journal: image_req.link */
    uint8_t *bounce_memory;
    struct bounce bounces[BOUNCES];
    struct read *all;
    struct log_limit damage_log;
};

int read_init(struct store *s)
{
    struct read_pool *p = s->reads = calloc(1, sizeof *p);
    if (!p)
        return -ENOMEM;
    list_init(&p->idle);
    list_init(&p->idle_bounces);
    list_init(&p->waiting);
    list_init(&p->early);
    p->all = reserve_memory(READS * sizeof *p->all);
    p->bounce_memory = reserve_memory(BOUNCES * BOUNCE_BYTES);
    if (!p->all || !p->bounce_memory)
        return -ENOMEM;
    for (unsigned i = 0; i < READS; i++)
        list_add_tail(&p->idle, &p->all[i].link);
    for (unsigned i = 0; i < BOUNCES; i++) {
        p->bounces[i].memory = p->bounce_memory + i * BOUNCE_BYTES;
        list_add_tail(&p->idle_bounces, &p->bounces[i].link);
    }
    return 0;
}

void read_fini(struct store *s)
{
    struct read_pool *p = s->reads;
    if (!p)
        return;
    reserve_release(p->all, READS * sizeof *p->all);
    reserve_release(p->bounce_memory, BOUNCES * BOUNCE_BYTES);
    free(p);
}

static void start(struct store *s, struct image_req *req);

static void copy_out(struct read *r)
{
    const uint8_t *from = r->bounce->memory + r->req->offset % BDEV_BLOCK_SIZE;
    for (unsigned i = 0; i < r->req->iov_count; i++) {
        memcpy(r->req->iov[i].iov_base, from, r->req->iov[i].iov_len);
        from += r->req->iov[i].iov_len;
    }
}

static void finish(struct read *r)
{
    struct store *s = r->store;
    struct image_req *req = r->req;
    int error = r->error;
    bool inside_submit = r->starting;
    if (r->bounce) {
        if (!error)
            copy_out(r);
        list_add_tail(&s->reads->idle_bounces, &r->bounce->link);
    }
    list_add_head(&s->reads->idle, &r->link);
    reader_end(s, r->era);
    if (inside_submit)
        request_complete_later(req, error);
    else
        request_complete(req, error);
    while (!inside_submit && !list_empty(&s->reads->waiting) && !list_empty(&s->reads->idle) && !list_empty(&s->reads->idle_bounces))
        start(s, container_of(list_pop(&s->reads->waiting), struct image_req, link));
}

static void io_done(struct bdev_req *q, int error);

static void submit_io(struct read *r, struct bdev *device, uint32_t n)
{
    r->pending = n;
    for (uint32_t i = 0; i < n; i++) {
        r->io[i].read = r;
        r->io[i].req.op = BDEV_READ;
        r->io[i].req.done = io_done;
        r->store->stats.device_reads++;
        r->store->stats.device_read_bytes += (uint64_t)r->io[i].req.blocks * BDEV_BLOCK_SIZE;
        bdev_submit(device, &r->io[i].req);
    }
}

static bool verified(const struct read *r, uint32_t i)
{
    return r->entries[i].kind == RADIX_NONE || radix_checksum(r->store->super.seed, r->blocks[i]) == r->entries[i].crc;
}

/* Reads the blocks that did not verify once more, one by one, from the device itself. */
static bool read_again(struct read *r)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < r->count; i++) {
        if (verified(r, i))
            continue;
        cache_drop(r->store->data, r->entries[i].address);
        r->iov[n] = (struct iovec){ r->blocks[i], BDEV_BLOCK_SIZE };
        r->io[n].req = (struct bdev_req){ .block = r->entries[i].address, .blocks = 1, .iov = &r->iov[n], .iov_count = 1 };
        n++;
    }
    if (n) {
        r->again = true;
        submit_io(r, r->store->blocks, n);
    }
    return n > 0;
}

static void report(struct read *r, uint32_t i, const char *what)
{
    char name[IMAGE_TARGET_SIZE];
    version_describe(image_version(r->req->image), name, sizeof name);
    log_limited(&r->store->reads->damage_log, LOG_LEVEL_ERROR, "%s store=%s image=%s offset=%llu address=%llu", what, store_name(r->store), name,
                (unsigned long long)((r->lookup.first + i) * BDEV_BLOCK_SIZE), (unsigned long long)r->entries[i].address);
    r->error = -EIO;
}

static void report_damage(struct read *r)
{
    for (uint32_t i = 0; i < r->count; i++)
        if (!verified(r, i))
            report(r, i, "checksum mismatch");
}

static void io_done(struct bdev_req *q, int error)
{
    struct read *r = container_of(q, struct read_io, req)->read;
    if (error && !r->error)
        r->error = error;
    if (--r->pending)
        return;
    if (!r->error && !r->again && read_again(r))
        return;
    if (!r->error && r->again)
        report_damage(r);
    finish(r);
}

/* Ends a read that meets a block whose map was damaged when it had to be changed (consistency.md, 9a). */
static bool meets_a_loss(struct read *r)
{
    for (uint32_t i = 0; i < r->count; i++)
        if (r->entries[i].kind == RADIX_LOST) {
            report(r, i, "what is read here was lost with its map");
            return true;
        }
    return false;
}

static void issue(struct read *r)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < r->count; i++) {
        const struct radix_entry *e = &r->entries[i];
        if (e->kind == RADIX_NONE) {
            memset(r->blocks[i], 0, BDEV_BLOCK_SIZE);
            continue;
        }
        struct bdev_req *last = n ? &r->io[n - 1].req : NULL;
        bool adjacent = last && last->block + last->blocks == e->address;
        r->iov[i] = (struct iovec){ r->blocks[i], BDEV_BLOCK_SIZE };
        /* iov[i] follows the last request's pieces only if the block before was part of it. */
        if (adjacent && i > 0 && r->entries[i - 1].kind != RADIX_NONE) {
            last->blocks++;
            last->iov_count++;
        } else {
            r->io[n++].req = (struct bdev_req){ .block = e->address, .blocks = 1, .iov = &r->iov[i], .iov_count = 1 };
        }
    }
    if (n)
        submit_io(r, r->store->data, n);
    else
        finish(r);
}

static void looked_up(struct radix_lookup *l, int error)
{
    struct read *r = container_of(l, struct read, lookup);
    if (error) {
        r->error = error;
        finish(r);
        return;
    }
    for (uint32_t i = 0; i < r->count; i++)
        if (r->known[i])
            r->entries[i] = r->changes[i];
    if (meets_a_loss(r))
        finish(r);
    else
        issue(r);
}

static void place_blocks(struct read *r)
{
    uint32_t i = 0;
    if (r->bounce) {
        for (; i < r->count; i++)
            r->blocks[i] = r->bounce->memory + (size_t)i * BDEV_BLOCK_SIZE;
        return;
    }
    for (unsigned k = 0; k < r->req->iov_count; k++)
        for (size_t at = 0; at < r->req->iov[k].iov_len; at += BDEV_BLOCK_SIZE)
            r->blocks[i++] = (uint8_t *)r->req->iov[k].iov_base + at;
}

static void start(struct store *s, struct image_req *req)
{
    struct read *r = container_of(list_pop(&s->reads->idle), struct read, link);
    const struct version *v = image_version(req->image);
    uint64_t first = req->offset / BDEV_BLOCK_SIZE;
    r->store = s;
    r->req = req;
    r->bounce = request_is_aligned(req) ? NULL : container_of(list_pop(&s->reads->idle_bounces), struct bounce, link);
    r->count = (uint32_t)((req->offset + req->length - 1) / BDEV_BLOCK_SIZE - first + 1);
    r->error = 0;
    r->again = false;
    r->starting = true;
    reader_begin(s, &r->era);
    place_blocks(r);
    uint32_t found = 0;
    for (uint32_t i = 0; i < r->count; i++) {
        r->known[i] = lookup_changes(s, v, (uint32_t)(first + i), &r->changes[i]);
        found += r->known[i];
    }
    r->lookup = (struct radix_lookup){ .root = *lookup_root(v), .first = first, .count = r->count, .entries = r->entries, .done = looked_up };
    int err = found == r->count ? 0 : radix_lookup(s->map, &r->lookup);
    if (err != -EINPROGRESS)
        looked_up(&r->lookup, err);
    r->starting = false; /* what has not ended by now ends from a later completion */
}

bool read_is_early(const struct store *s, const struct version *v)
{
    uint64_t frozen = v->cut == TICKET_MAX ? 0 : v->cut, made = v->line->made > frozen ? v->line->made : frozen;
    return ticket_seq(made) > journal_completed(s) && !s->failed;
}

void read_submit(struct store *s, struct image_req *req)
{
    if (read_is_early(s, image_version(req->image)))
        list_add_tail(&s->reads->early, &req->link);
    else if (list_empty(&s->reads->idle) || list_empty(&s->reads->idle_bounces))
        list_add_tail(&s->reads->waiting, &req->link);
    else
        start(s, req);
}

void read_retry(struct store *s)
{
    struct list_node waiting = LIST_INIT(waiting), *n;
    list_splice_tail(&waiting, &s->reads->early);
    while ((n = list_pop(&waiting)))
        read_submit(s, container_of(n, struct image_req, link));
}
