/* write.c - whole-block writes and discards: from the queue into batches, and back.
 *
 * Requests wait in write_queue until the end of the turn, so that what came together goes out together. A request gets its
 * blocks and its ticket when it enters a batch; it never waits after that. What can make it wait is looked at before: a batch,
 * journal room, room in the index, space (S1). */
#include "parallax/parallax_private.h"

#include <errno.h>
#include <string.h>

#define SMALL_DISCARD_BLOCKS 64u /* more become one range */
#define RANGES_CHECKPOINT 128u

/* Walks the blocks of a request whose pieces are multiples of a block. */
struct block_cursor {
    const struct iovec *iov;
    size_t at;
};

static void *next_block(struct block_cursor *c)
{
    void *p = (char *)c->iov->iov_base + c->at;
    c->at += BDEV_BLOCK_SIZE;
    if (c->at >= c->iov->iov_len) {
        c->iov++;
        c->at = 0;
    }
    return p;
}

static bool is_zero(const void *block)
{
    const uint64_t *w = block;
    return w[0] == 0 && memcmp(w, w + 1, BDEV_BLOCK_SIZE - 8) == 0;
}

static void add_change(struct batch *b, uint32_t line, uint64_t block, uint64_t ticket, uint64_t address, uint32_t crc)
{
    b->changes[b->change_count++] = (struct index_entry){ .line = line, .block = (uint32_t)block, .ticket = ticket, .address = address, .crc = crc };
}

static void add_zeroes(struct batch *b, uint32_t line, uint64_t first, uint32_t count)
{
    uint64_t ticket = batch_add_zero(b, line, first, count);
    for (uint32_t i = 0; i < count; i++)
        add_change(b, line, first + i, ticket, 0, 0);
}

static void add_data(struct store *s, struct batch *b, uint32_t line, uint64_t first, uint32_t count, void *const *blocks, const uint32_t *crcs)
{
    while (count) {
        if (s->run.next == s->run.end)
            runs_next(s);
        uint32_t n = s->run.end - s->run.next < count ? (uint32_t)(s->run.end - s->run.next) : count;
        uint64_t address = s->run.next;
        uint64_t ticket = batch_add_write(b, line, (uint32_t)first, n, address, crcs);
        for (uint32_t i = 0; i < n; i++) {
            batch_add_extent(b, address + i, blocks[i]);
            add_change(b, line, first + i, ticket, address + i, crcs[i]);
        }
        s->run.next += n;
        first += n;
        blocks += n;
        crcs += n;
        count -= n;
    }
}

static void add_write(struct store *s, struct batch *b, struct image_req *req)
{
    uint32_t line = req->image->disk->head->line->id, n = (uint32_t)req->block_count, i = 0;
    void *blocks[IMAGE_REQUEST_MAX / BDEV_BLOCK_SIZE + 2];
    uint32_t crcs[IMAGE_REQUEST_MAX / BDEV_BLOCK_SIZE + 2];
    bool zero[IMAGE_REQUEST_MAX / BDEV_BLOCK_SIZE + 2];
    struct block_cursor c = { req->iov, 0 };
    for (uint32_t k = 0; k < n; k++) {
        blocks[k] = next_block(&c);
        zero[k] = is_zero(blocks[k]);
        crcs[k] = zero[k] ? 0 : radix_checksum(s->super.seed, blocks[k]);
    }
    while (i < n) {
        uint32_t from = i;
        while (i < n && zero[i] == zero[from])
            i++;
        if (zero[from])
            add_zeroes(b, line, req->first_block + from, i - from);
        else
            add_data(s, b, line, req->first_block + from, i - from, blocks + from, crcs + from);
    }
}

static void add_discard(struct store *s, struct batch *b, struct image_req *req)
{
    struct line *l = req->image->disk->head->line;
    if (req->block_count <= SMALL_DISCARD_BLOCKS) {
        add_zeroes(b, l->id, req->first_block, (uint32_t)req->block_count);
        return;
    }
    uint64_t ticket = batch_add_zero(b, l->id, req->first_block, req->block_count);
    s->range_count++;
    b->ranges[b->range_count].line = l->id;
    b->ranges[b->range_count++].range = (struct zero_range){ req->first_block, req->block_count, ticket };
    if (l->range_count + b->range_count >= RANGES_CHECKPOINT)
        checkpoint_request(s);
}

#define WAITS_FOR_SPACE (-ENOBUFS)

/* 0: the request may enter a batch now; -EAGAIN: later, and so may no other; WAITS_FOR_SPACE: later; -ENOSPC: never, as things
 * are. */
static int may_start(struct store *s, const struct image_req *req)
{
    struct index *ix = &s->index[s->active];
    const struct line *line = req->image->disk->head->line;
    bool may_wait = s->opt.wait_when_full && !request_is_impatient(req);
    int ready;
    if (ticket_seq(line->made) > journal_completed(s))
        return -EAGAIN; /* a write that is acknowledged survives the end of the process (W1), and so must what it was written into (W6) */
    uint32_t entries = req->op == IMAGE_DISCARD && req->block_count > SMALL_DISCARD_BLOCKS ? 1 : (uint32_t)req->block_count;
    if (line->range_count >= 8 * RANGES_CHECKPOINT || ix->used + ix->held_used + ix->reserved + entries > ix->capacity) {
        checkpoint_request(s);
        return -EAGAIN;
    }
    if (req->op == IMAGE_DISCARD)
        ready = space_ready_to_discard(s, req->block_count > SMALL_DISCARD_BLOCKS ? 0 : entries, may_wait);
    else
        ready = space_ready(s, entries, may_wait);
    return ready == -EAGAIN ? WAITS_FOR_SPACE : ready;
}

/* What waits for space must not keep a discard from making some; but neither passes a write of the same blocks. (Nor does it keep
 * somebody impatient from learning that there is none: what cannot start may fail out of turn.) */
static bool may_pass(const struct store *s, const struct image_req *req)
{
    if (req->op != IMAGE_DISCARD)
        return false;
    list_for_each(n, &s->write_queue) {
        const struct image_req *r = container_of(n, struct image_req, link);
        if (r == req)
            break;
        if (r->image->disk == req->image->disk && r->first_block < req->first_block + req->block_count && req->first_block < r->first_block + r->block_count)
            return false;
    }
    return true;
}

void write_pump(struct store *s)
{
    struct batch *b = NULL;
    bool waits = false;
    s->full = false;
    list_for_each_safe(n, &s->write_queue) {
        struct image_req *req = container_of(n, struct image_req, link);
        bool in_turn = !waits || may_pass(s, req);
        if (!in_turn && !request_is_impatient(req))
            continue;
        bool sealed = req->image->disk->flags & IMAGE_FLAG_TEMPLATE; /* while the request waited */
        int ready = s->failed ? s->failed : sealed ? -EROFS : may_start(s, req);
        if (!in_turn && !ready && s->full)
            ready = -ENOSPC; /* what is before it waits for room that nobody may ever make */
        if (!in_turn && (!ready || ready == -EAGAIN || ready == WAITS_FOR_SPACE))
            continue;
        if (ready == -EAGAIN)
            break;
        if (ready == WAITS_FOR_SPACE) {
            waits = true;
            continue;
        }
        if (ready) {
            list_remove(&req->link);
            write_done(req, ready);
            continue;
        }
        uint32_t changes = req->op == IMAGE_DISCARD && req->block_count > SMALL_DISCARD_BLOCKS ? 0 : (uint32_t)req->block_count;
        if (b && !batch_has_room(b, changes)) {
            batch_submit(b);
            b = NULL;
        }
        if (!b && !(b = batch_begin(s))) {
            if (journal_room(s) < s->super.journal_blocks / 2)
                checkpoint_request(s);
            break;
        }
        list_remove(&req->link);
        list_add_tail(&b->requests, &req->link);
        s->index[s->active].reserved += changes;
        tree_changing(&s->tree, req->image->disk->head);
        if (req->op == IMAGE_DISCARD)
            add_discard(s, b, req);
        else
            add_write(s, b, req);
    }
    if (b)
        batch_submit(b);
    if (s->full)
        partial_refuse_impatient(s);
    struct index *ix = &s->index[s->active];
    if (ix->used + ix->held_used > ix->capacity / 2 || journal_room(s) < s->super.journal_blocks / 2)
        checkpoint_request(s);
}

void write_queue_request(struct store *s, struct image_req *req)
{
    list_add_tail(&req->image->writes, &req->image_link);
    list_add_tail(&s->write_queue, &req->link);
    loop_defer_last(s->loop, &s->pump);
}

bool write_overlaps(const struct image *img, uint64_t first, uint64_t count)
{
    list_for_each(n, &img->writes) {
        const struct image_req *r = container_of(n, struct image_req, image_link);
        if (first < r->first_block + r->block_count && r->first_block < first + count)
            return true;
    }
    return false;
}

/* The batch is complete (or the request never entered one). */
void write_done(struct image_req *req, int error)
{
    struct store *s = req->image->store;
    list_remove(&req->image_link);
    if (!error)
        req->image->disk->last_write_ns = loop_real_ns(s->loop);
    checkpoint_touch(s);
    if (!error && req->flags & IMAGE_FUA) {
        journal_flush_request(s, req);
    } else {
        request_complete(req, error);
    }
    partial_retry(s);
}
