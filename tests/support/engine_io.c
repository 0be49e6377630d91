/* engine_io.c - random requests and the judgement of their answers.
 *
 * A request remembers, for each tracked block of its range, a version number: a write the one that it makes, a read the
 * one that was acknowledged when it began, a flush those that it will have made durable. The content is pinned meanwhile. */
#include "tests/support/engine.h"
#include "tests/support/engine_pattern.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct io {
    struct list_node link; /* engine.ios */
    struct engine *engine;
    struct handle *handle;
    struct image_req req;
    struct iovec iov[3];
    void *memory;
    uint8_t *buf; /* in memory; at times not aligned to a block */
    uint64_t first, sectors;
    uint32_t id;
    uint32_t *numbers, *cut;
    uint32_t cut_count;
    uint64_t step;
};

static struct content *content_of(const struct io *io) { return io->handle->object->content; }

static void io_free(struct io *io)
{
    free(io->memory);
    free(io->numbers);
    free(io->cut);
    free(io);
}

static void check_read(const struct io *io)
{
    struct content *c = content_of(io);
    uint32_t first_index = content_index_below(io->first / CONTENT_SECTORS), index;
    for (uint64_t s = 0; s < io->sectors; s++) {
        uint64_t sector = io->first + s;
        uint32_t id = pattern_id(io->buf + s * 512, sector), since = 0;
        if (content_tracked(sector / CONTENT_SECTORS, &index) && index < c->count)
            since = io->numbers[index - first_index];
        if (!content_may_read(c, sector, since, id)) {
            char target[IMAGE_TARGET_SIZE];
            world_target(io->handle->object, target);
            engine_fail("read of '%s' (begun at step %llu) returned id %u (words %016llx %016llx) for sector %llu", target, (unsigned long long)io->step,
                        id, (unsigned long long)((uint64_t *)(io->buf + s * 512))[0], (unsigned long long)((uint64_t *)(io->buf + s * 512))[1],
                        (unsigned long long)sector);
        }
    }
}

static void succeeded(struct io *io)
{
    struct content *c = content_of(io);
    if (io->req.op == IMAGE_READ)
        check_read(io);
    if (io->req.op == IMAGE_WRITE || io->req.op == IMAGE_DISCARD)
        content_acked(c, io->first, io->sectors, io->numbers);
    if (io->cut)
        content_durable(c, io->cut, io->cut_count);
    if (io->req.flags & IMAGE_FUA) {
        uint32_t first = content_index_below(io->first / CONTENT_SECTORS);
        uint32_t count = content_index_below((io->first + io->sectors + CONTENT_SECTORS - 1) / CONTENT_SECTORS) - first;
        for (uint32_t i = 0; i < count && first + i < c->count; i++)
            if (io->numbers[i] > c->block[first + i].durable)
                c->block[first + i].durable = io->numbers[i];
    }
}

static void io_done(struct image_req *req, int error)
{
    struct io *io = container_of(req, struct io, req);
    struct engine *e = io->engine;
    engine_trace("%llu: op %d of '%s' at %llu+%llu id %u ended with %d", (unsigned long long)engine_where.step, req->op, io->handle->object->name,
                 (unsigned long long)io->first, (unsigned long long)io->sectors, io->id, error);
    if (!error)
        succeeded(io);
    else if (!e->faulty && !engine_is_dead(e) && !(e->may_fill && error == -ENOSPC && req->op != IMAGE_READ && req->op != IMAGE_FLUSH))
        engine_fail("request %d on '%s' at sector %llu, %llu sectors, ended with error %d", req->op, io->handle->object->name, (unsigned long long)io->first,
                    (unsigned long long)io->sectors, error);
    content_of(io)->pins--;
    io->handle->inflight--;
    e->io_count--;
    e->finished_ios++;
    list_remove(&io->link);
    io_free(io);
}

/* The memory in one to three pieces; unaligned within the page now and then, so that both paths are taken. */
static void make_iov(struct io *io, struct world *w)
{
    uint64_t left = io->sectors * 512, at = 0;
    unsigned n = 0, pieces = 1 + (unsigned)world_random(w, 3);
    while (left) {
        uint64_t take = n + 1 == pieces ? left : (1 + world_random(w, left / 512)) * 512;
        if (n + 1 < pieces && world_chance(w, 2) && take >= 4096)
            take &= ~4095ull;
        io->iov[n].iov_base = io->buf + at;
        io->iov[n++].iov_len = take;
        at += take;
        left -= take;
    }
    io->req.iov = io->iov;
    io->req.iov_count = n;
}

static struct io *io_new(struct engine *e, struct handle *h, enum image_op op, uint64_t first, uint64_t sectors, unsigned flags)
{
    struct io *io = engine_alloc(sizeof *io);
    io->engine = e;
    io->handle = h;
    io->first = first;
    io->sectors = sectors;
    io->step = engine_where.step;
    io->req.op = op;
    io->req.flags = flags;
    io->req.done = io_done;
    io->req.offset = first * 512;
    io->req.length = sectors * 512;
    io->numbers = engine_alloc((h->object->content->count + 1) * sizeof *io->numbers);
    if (op == IMAGE_READ || op == IMAGE_WRITE) {
        unsigned skew = world_chance(&e->world, 4) ? 512 : 0;
        if (posix_memalign(&io->memory, 4096, sectors * 512 + skew))
            engine_fail("out of memory");
        io->buf = (uint8_t *)io->memory + skew;
        make_iov(io, &e->world);
    }
    return io;
}

static bool any(const struct object *o)
{
    (void)o;
    return true;
}

/* A new id; now and then one that another image or snapshot holds there, so that there are equal blocks to find. */
static uint32_t id_to_write(struct engine *e, uint64_t first)
{
    struct world *w = &e->world;
    uint32_t index;
    if (world_chance(w, 4) && content_tracked(first / CONTENT_SECTORS, &index)) {
        const struct object *o = world_chance(w, 2) ? world_pick_snapshot(w, any) : world_pick_image(w, any);
        const uint32_t id = o && index < o->content->count ? content_newest(&o->content->block[index])->id[first % CONTENT_SECTORS] : 0;
        if (id)
            return id;
    }
    return ++e->ids;
}

void engine_submit_io(struct engine *e, struct handle *h, enum image_op op, uint64_t first, uint64_t sectors, unsigned flags)
{
    struct content *c = h->object->content;
    struct io *io = io_new(e, h, op, first, sectors, flags);
    if (op == IMAGE_WRITE || op == IMAGE_DISCARD) {
        io->id = op == IMAGE_WRITE ? id_to_write(e, first) : 0;
        content_write(c, first, sectors, io->id, io->numbers);
        if (op == IMAGE_WRITE)
            pattern_fill(io->buf, io->id, first, sectors);
    } else if (op == IMAGE_READ) {
        memset(io->buf, 0xee, sectors * 512);
        uint32_t begin = content_index_below(first / CONTENT_SECTORS), end = content_index_below((first + sectors + CONTENT_SECTORS - 1) / CONTENT_SECTORS);
        for (uint32_t i = begin; i < end && i < c->count; i++)
            io->numbers[i - begin] = c->block[i].acked;
    }
    if (op == IMAGE_FLUSH || flags & IMAGE_FUA) {
        io->cut = content_cut(c);
        io->cut_count = c->count;
    }
    c->pins++;
    h->inflight++;
    e->io_count++;
    list_add_tail(&e->ios, &io->link);
    engine_trace("%llu: op %d of '%s' at %llu+%llu id %u flags %u", (unsigned long long)engine_where.step, op, h->object->name, (unsigned long long)first,
                 (unsigned long long)sectors, io->id, flags);
    image_submit(h->img, &io->req);
}

/* Whether a write there could meet another under way, or one whose outcome is unknown. */
static bool contended(const struct content *c, uint64_t first, uint64_t sectors)
{
    uint32_t i = content_index_below(first / CONTENT_SECTORS), end = content_index_below((first + sectors + CONTENT_SECTORS - 1) / CONTENT_SECTORS);
    for (; i < end && i < c->count; i++)
        if (c->block[i].acked != c->block[i].first + c->block[i].count - 1)
            return true;
    return false;
}

static struct handle *pick_handle(struct world *w, bool writable)
{
    struct handle *chosen = NULL;
    unsigned seen = 0;
    list_for_each(n, &w->handles) {
        struct handle *h = container_of(n, struct handle, link);
        if (!h->object->held && h->object->content->count && (h->writable || !writable) && world_chance(w, ++seen))
            chosen = h;
    }
    return chosen;
}

/* Mostly short; now and then up to the largest request. */
static uint64_t random_length(struct world *w)
{
    switch (world_random(w, 8)) {
    case 0: return 1 + world_random(w, IMAGE_REQUEST_MAX / 512);
    case 1: case 2: return 8 * (1 + world_random(w, 16));
    case 3: return 1 + world_random(w, 64);
    case 4: return 8;
    default: return 1 + world_random(w, 8);
    }
}

/* A range that starts in a tracked block; it ends with the image or, for a write, with the tracked region. */
static void random_range(struct world *w, const struct content *c, enum image_op op, uint64_t *first, uint64_t *sectors)
{
    uint32_t hot = c->count < 40 || world_chance(w, 2) ? c->count : 40; /* half of all requests meet in a few blocks */
    uint64_t index = world_random(w, hot), end = c->size_bytes / 512;
    *first = content_block_of((uint32_t)index) * CONTENT_SECTORS;
    if (world_chance(w, 2))
        *first += world_random(w, CONTENT_SECTORS);
    if (*first >= end)
        *first = end - 1;
    *sectors = op == IMAGE_DISCARD && world_chance(w, 8) ? 1 + world_random(w, end) : random_length(w);
    if (*sectors > end - *first)
        *sectors = end - *first;
    if (op != IMAGE_WRITE)
        return;
    uint32_t unused;
    uint64_t block = *first / CONTENT_SECTORS, last = (*first + *sectors - 1) / CONTENT_SECTORS;
    while (block < last && content_tracked(block + 1, &unused))
        block++;
    if (block < last)
        *sectors = (block + 1) * CONTENT_SECTORS - *first;
}

void engine_random_io(struct engine *e)
{
    struct world *w = &e->world;
    uint64_t kind = world_random(w, 20), first = 0, sectors = 0;
    enum image_op op = kind < 8 ? IMAGE_WRITE : kind < 17 ? IMAGE_READ : kind < 18 ? IMAGE_DISCARD : IMAGE_FLUSH;
    struct handle *h = pick_handle(w, op != IMAGE_READ);
    if (!h)
        return;
    if (op != IMAGE_FLUSH)
        random_range(w, h->object->content, op, &first, &sectors);
    bool changes = op == IMAGE_WRITE || op == IMAGE_DISCARD;
    if (changes && !e->overlap && contended(h->object->content, first, sectors))
        return;
    engine_submit_io(e, h, op, first, sectors, op == IMAGE_WRITE && world_chance(w, 8) ? IMAGE_FUA : 0);
    if (op == IMAGE_WRITE && e->overlap && sectors < CONTENT_SECTORS && world_chance(w, 2)) { /* its neighbour in the block, at once */
        uint64_t other = first ^ 1;
        if (other < h->object->content->size_bytes / 512)
            engine_submit_io(e, h, IMAGE_WRITE, other, 1, 0);
    }
}

void engine_each_io(struct engine *e, void (*each)(void *ctx, const struct image_req *req, const struct object *o), void *ctx)
{
    list_for_each(n, &e->ios) {
        const struct io *io = container_of(n, struct io, link);
        each(ctx, &io->req, io->handle->object);
    }
}

void engine_forget_ios(struct engine *e)
{
    struct list_node *n;
    while ((n = list_pop(&e->ios)))
        io_free(container_of(n, struct io, link));
    e->io_count = 0;
}
