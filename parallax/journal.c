/* journal.c - batches of writes and changes, their way to the device, and flushes.
 *
 * 1. A batch takes consecutive journal blocks and sends data and records in parallel; it is complete when all of them are
 *    (W1). Batches complete in any order; in_flight is in order of seq, so that "everything up to" is its head.
 * 2. A batch whose data failed stays in flight until a record that cancels it is written (W4). A failed journal write fails
 *    the store (W5).
 * 3. durable moves to what had completed when the device flush was submitted (F1). An operation waits until it has passed its own
 *    last block. A request for a flush waits for a device flush that was submitted when all that it must cover had ended, in
 *    whatever order; no write that is under way keeps it.
 *    Never more than UNFLUSHED_JBLOCKS and what is under way lie beyond it, so that recovery, which looks that far, misses none
 *    of them, whichever of them a power cut has taken (F3).
 *    Who writes and flushes by turns is waited for twice: for the flush, and for its being asked for. So when he has done that a few
 *    times, the flush begins when his write has completed, and is mostly half done when he asks.
 * 4. Journal blocks from tail on are never overwritten (C2): journal_room counts what is left, and writes leave a reserve
 *    that only changes and cancels may use. */
#include "parallax/parallax_private.h"

#include "base/log.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

int journal_init(struct store *s)
{
    struct journal *j = &s->journal;
    j->batches = calloc(BATCHES, sizeof *j->batches);
    j->jbufs = bdev_buffer_alloc((size_t)BATCHES * BATCH_JBLOCKS);
    list_init(&j->idle);
    list_init(&j->in_flight);
    list_init(&j->waiters);
    list_init(&j->flush_requests);
    list_init(&j->barriers);
    if (!j->batches || !j->jbufs)
        return -ENOMEM;
    for (unsigned i = 0; i < BATCHES; i++) {
        struct batch *b = &j->batches[i];
        b->store = s;
        b->jbuf = j->jbufs + (size_t)i * BATCH_JBLOCKS * BDEV_BLOCK_SIZE;
        list_init(&b->requests);
        list_add_tail(&j->idle, &b->link);
    }
    return 0;
}

void journal_fini(struct store *s)
{
    free(s->journal.batches);
    free(s->journal.jbufs);
}

uint64_t journal_completed(const struct store *s)
{
    const struct journal *j = &s->journal;
    return list_empty(&j->in_flight) ? j->next_seq - 1 : container_of(j->in_flight.next, struct batch, link)->first_seq - 1;
}

uint64_t journal_room(const struct store *s)
{
    return s->super.journal_blocks - (s->journal.next_seq - s->journal.tail);
}

bool journal_must_flush(const struct store *s) { return s->journal.next_seq - 1 - s->journal.durable >= UNFLUSHED_JBLOCKS; }

/* ---- Building ---- */

/* All that was written since a flush was last asked for has completed: what comes next, a flush or a write? */
static bool is_lull(const struct journal *j) { return list_empty(&j->in_flight) && j->next_seq > j->flush_asked; }

static struct batch *take_batch(struct store *s)
{
    struct journal *j = &s->journal;
    struct list_node *n = list_pop(&j->idle);
    if (!n)
        return NULL;
    struct batch *b = container_of(n, struct batch, link);
    if (is_lull(j))
        j->flush_habit = 0;
    b->first_seq = j->next_seq++;
    b->jblocks = 1;
    b->used = b->records = 0;
    b->pending = b->change_count = b->range_count = b->extent_count = b->iov_count = 0;
    b->data_error = b->journal_error = 0;
    b->cancels = NULL;
    list_init(&b->requests);
    list_add_tail(&j->in_flight, &b->link);
    return b;
}

static struct batch *begin(struct store *s, unsigned most)
{
    struct journal *j = &s->journal;
    unsigned in_flight = 0;
    list_for_each(n, &j->in_flight)
        in_flight++;
    if (in_flight >= most || journal_room(s) < JOURNAL_RESERVE + BATCH_JBLOCKS || journal_must_flush(s))
        return NULL;
    return take_batch(s);
}

struct batch *batch_begin(struct store *s) { return begin(s, BATCHES_IN_FLIGHT); }
struct batch *batch_begin_share(struct store *s) { return begin(s, BATCHES_IN_FLIGHT + SHARES_IN_FLIGHT); }

bool batch_has_room(const struct batch *b, uint32_t blocks)
{
    /* The worst request alternates between zero and data blocks: a record each. */
    uint32_t left = (BATCH_JBLOCKS - b->jblocks) * JBLOCK_PAYLOAD;
    return b->change_count + blocks <= BATCH_BLOCKS && b->range_count < BATCH_RANGES && left >= (blocks + 1) * 32 && b->extent_count + blocks <= BATCH_BLOCKS;
}

static void close_jblock(struct batch *b)
{
    b->headers[b->jblocks - 1].used = (uint16_t)b->used;
    b->headers[b->jblocks - 1].records = (uint16_t)b->records;
}

/* Where a record of that size goes; *ticket is its place in the order. */
static uint8_t *record_space(struct batch *b, uint32_t size, uint64_t *ticket)
{
    if (b->used + size > JBLOCK_PAYLOAD) {
        close_jblock(b);
        assert(b->jblocks < BATCH_JBLOCKS);
        b->jblocks++;
        b->store->journal.next_seq++;
        b->used = b->records = 0;
    }
    uint8_t *p = b->jbuf + (size_t)(b->jblocks - 1) * BDEV_BLOCK_SIZE + JBLOCK_HEADER + b->used;
    *ticket = (b->first_seq + b->jblocks - 1) << TICKET_SHIFT | b->records;
    b->used += size;
    b->records++;
    return p;
}

uint64_t batch_add_write(struct batch *b, uint32_t line, uint32_t first, uint32_t count, uint64_t address, const uint32_t *crcs)
{
    uint64_t ticket;
    uint8_t *p = record_space(b, jrecord_write_size(count), &ticket);
    jrecord_put_write(p, line, first, count, address, crcs);
    return ticket;
}

uint64_t batch_add_share(struct batch *b, uint32_t line, uint32_t first, uint32_t count, uint64_t address, const uint32_t *crcs)
{
    uint64_t ticket;
    uint8_t *p = record_space(b, jrecord_write_size(count), &ticket);
    jrecord_put_share(p, line, first, count, address, crcs);
    return ticket;
}

uint64_t batch_add_zero(struct batch *b, uint32_t line, uint64_t first, uint64_t count)
{
    uint64_t ticket;
    uint8_t *p = record_space(b, JRECORD_ZERO_SIZE, &ticket);
    jrecord_put_zero(p, line, first, count);
    return ticket;
}

void batch_add_extent(struct batch *b, uint64_t address, void *block)
{
    struct bdev_req *last = b->extent_count ? &b->extents[b->extent_count - 1].req : NULL;
    if (last && last->block + last->blocks == address) {
        struct iovec *v = &b->iov[b->iov_count - 1];
        if ((char *)v->iov_base + v->iov_len == block) {
            v->iov_len += BDEV_BLOCK_SIZE;
        } else {
            b->iov[b->iov_count++] = (struct iovec){ block, BDEV_BLOCK_SIZE };
            last->iov_count++;
        }
        last->blocks++;
        return;
    }
    struct iovec *v = &b->iov[b->iov_count++];
    *v = (struct iovec){ block, BDEV_BLOCK_SIZE };
    b->extents[b->extent_count++].req = (struct bdev_req){ .op = BDEV_WRITE, .block = address, .blocks = 1, .iov = v, .iov_count = 1 };
}

/* ---- Submitting and completing ---- */

static void batch_complete(struct batch *b);

static void part_done(struct bdev_req *r, int error, bool is_journal)
{
    struct batch *b = container_of(r, struct batch_req, req)->batch;
    int *first = is_journal ? &b->journal_error : &b->data_error;
    if (error && !*first)
        *first = error;
    if (--b->pending == 0)
        batch_complete(b);
}

static void extent_done(struct bdev_req *r, int error) { part_done(r, error, false); }
static void journal_done(struct bdev_req *r, int error) { part_done(r, error, true); }

static void seal_headers(struct batch *b)
{
    struct store *s = b->store;
    close_jblock(b);
    for (uint32_t i = 0; i < b->jblocks; i++) {
        struct jheader *h = &b->headers[i];
        h->epoch = s->journal.epoch;
        h->seq = b->first_seq + i;
        h->durable = s->journal.durable;
        jblock_seal(b->jbuf + (size_t)i * BDEV_BLOCK_SIZE, s->super.seed, h);
    }
}

static void submit_journal_part(struct batch *b, unsigned part, uint32_t from, uint32_t count)
{
    struct store *s = b->store;
    b->journal_iov[part] = (struct iovec){ b->jbuf + (size_t)from * BDEV_BLOCK_SIZE, (size_t)count * BDEV_BLOCK_SIZE };
    b->journal[part].batch = b;
    b->journal[part].req = (struct bdev_req){ .op = BDEV_WRITE, .blocks = count, .iov = &b->journal_iov[part], .iov_count = 1, .done = journal_done,
                                              .block = s->super.journal_start + (b->first_seq + from) % s->super.journal_blocks };
    s->stats.device_writes++;
    s->stats.device_write_bytes += (uint64_t)count * BDEV_BLOCK_SIZE;
    bdev_submit(s->blocks, &b->journal[part].req);
}

void batch_submit(struct batch *b)
{
    struct store *s = b->store;
    seal_headers(b);
    uint64_t until_wrap = s->super.journal_blocks - b->first_seq % s->super.journal_blocks;
    uint32_t head = b->jblocks <= until_wrap ? b->jblocks : (uint32_t)until_wrap;
    b->pending = b->extent_count + 1 + (head < b->jblocks);
    for (uint32_t i = 0; i < b->extent_count; i++) {
        b->extents[i].batch = b;
        b->extents[i].req.done = extent_done;
        s->journal.unflushed_blocks += b->extents[i].req.blocks;
        s->stats.device_writes++;
        s->stats.device_write_bytes += (uint64_t)b->extents[i].req.blocks * BDEV_BLOCK_SIZE;
        bdev_submit(s->data, &b->extents[i].req);
    }
    submit_journal_part(b, 0, 0, head);
    if (head < b->jblocks)
        submit_journal_part(b, 1, head, b->jblocks - head);
}

static void publish(struct batch *b)
{
    struct store *s = b->store;
    struct index *ix = index_for_seq(s, b->first_seq);
    struct line *l = NULL;
    for (uint32_t i = 0; i < b->change_count; i++) {
        const struct index_entry *e = &b->changes[i];
        if (!l || l->id != e->line)
            l = tree_line(&s->tree, e->line);
        uint64_t low, high;
        line_interval(l, e->ticket, &low, &high);
        index_insert(ix, e, low, high);
    }
    for (uint32_t i = 0; i < b->range_count; i++)
        if (line_add_range(tree_line(&s->tree, b->ranges[i].line), &b->ranges[i].range))
            store_fail(s, -ENOMEM, "memory for a discarded range");
    ix->reserved -= b->change_count;
}

/* What was taken back: its blocks are free after the checkpoint behind which its record lies. */
static void unpublish(struct batch *b)
{
    struct store *s = b->store;
    struct index *ix = index_for_seq(s, b->first_seq);
    ix->reserved -= b->change_count;
    s->range_count -= b->range_count;
    for (uint32_t i = 0; i < b->change_count; i++)
        index_hold(ix, &b->changes[i]);
}

/* Writes the record that takes b's writes back; b ends when it is written. */
static int cancel(struct batch *b)
{
    struct batch *c = take_batch(b->store);
    if (!c)
        return -EAGAIN;
    uint64_t ticket;
    jrecord_put_cancel(record_space(c, JRECORD_CANCEL_SIZE, &ticket), b->first_seq, (uint16_t)b->jblocks);
    c->cancels = b;
    batch_submit(c);
    return 0;
}

static void batch_end(struct batch *b, int error)
{
    struct store *s = b->store;
    struct list_node answered = LIST_INIT(answered), *n;
    if (error)
        unpublish(b);
    else
        publish(b);
    list_splice_tail(&answered, &b->requests);
    list_remove(&b->link);
    list_add_tail(&s->journal.idle, &b->link);
    s->journal.ended++;
    while ((n = list_pop(&answered)))
        write_done(container_of(n, struct image_req, link), error);
}

static void journal_progress(struct store *s);

static void batch_complete(struct batch *b)
{
    struct store *s = b->store;
    if (b->journal_error)
        store_fail(s, b->journal_error, "the journal");
    if (b->data_error && !b->journal_error && !s->failed) {
        log_error("data write failed, taken back store=%s seq=%llu error=%d", store_name(s), (unsigned long long)b->first_seq, b->data_error);
        if (cancel(b) == 0)
            return;
        store_fail(s, b->data_error, "a batch that could not be cancelled");
    }
    struct batch *cancelled = b->cancels;
    batch_end(b, s->failed ? s->failed : b->data_error);
    if (cancelled)
        batch_end(cancelled, s->failed ? s->failed : cancelled->data_error);
    journal_progress(s);
}

/* ---- Changes ---- */

/* How far back the change lies on which one in this journal block may have been made; 0: that is durable, or there is none. */
static uint32_t blocks_since_change(const struct store *s, uint64_t seq)
{
    const struct journal *j = &s->journal;
    return j->last_change > j->durable ? (uint32_t)(seq - j->last_change) : 0;
}

int journal_append_change(struct store *s, const void *payload, uint32_t length, uint64_t *ticket)
{
    const uint32_t piece_max = JBLOCK_PAYLOAD - JRECORD_CHANGE_HEAD;
    uint32_t pieces = (length + piece_max - 1) / piece_max, batches = (pieces + BATCH_JBLOCKS - 1) / BATCH_JBLOCKS, idle = 0;
    list_for_each(n, &s->journal.idle)
        idle++;
    if (idle < batches + 1 || journal_room(s) < pieces + BATCHES)
        return -EAGAIN;
    const uint8_t *p = payload;
    struct batch *b = NULL;
    for (uint32_t i = 0; i < pieces; i++) {
        if (b && i % BATCH_JBLOCKS == 0) {
            batch_submit(b);
            b = NULL;
        }
        if (!b)
            b = take_batch(s);
        uint16_t n = (uint16_t)(length - i * piece_max < piece_max ? length - i * piece_max : piece_max);
        uint8_t *at = record_space(b, JRECORD_CHANGE_HEAD + ((n + 7u) & ~7u), ticket);
        jrecord_put_change(at, p + (size_t)i * piece_max, n, i ? 0 : blocks_since_change(s, ticket_seq(*ticket)), i == 0, i + 1 == pieces);
    }
    s->journal.last_change = ticket_seq(*ticket);
    batch_submit(b);
    return 0;
}

/* ---- Flushing ---- */

static void answer_durable(struct store *s, int error)
{
    struct journal *j = &s->journal;
    struct list_node ops = LIST_INIT(ops), requests = LIST_INIT(requests), *n;
    list_for_each_safe(i, &j->waiters)
        if (error || container_of(i, struct store_op, link)->target_seq <= j->durable) {
            list_remove(i);
            list_add_tail(&ops, i);
        }
    list_for_each_safe(i, &j->flush_requests)
        if (error || container_of(i, struct image_req, link)->first_block <= j->ended_durable) {
            list_remove(i);
            list_add_tail(&requests, i);
        }
    while ((n = list_pop(&requests)))
        request_complete(container_of(n, struct image_req, link), error);
    while ((n = list_pop(&ops))) {
        struct store_op *op = container_of(n, struct store_op, link);
        if (error)
            error_set(&op->error, error, "store '%s': cannot write to its device; see the log, then open it again", store_name(s));
        op->finish(op);
    }
}

static void flush_done(struct bdev_req *r, int error)
{
    struct store *s = container_of(r, struct store, journal.flush);
    struct journal *j = &s->journal;
    j->flushing = false;
    if (error)
        store_fail(s, error, "a device flush");
    if (!s->failed) {
        if (j->flush_covers > j->durable)
            j->durable = j->flush_covers;
        j->ended_durable = j->flush_covers_ended;
    }
    answer_durable(s, s->failed);
    journal_progress(s);
}

static void flush_start(struct store *s)
{
    struct journal *j = &s->journal;
    j->flushing = true;
    j->flush_covers = journal_completed(s);
    j->flush_covers_ended = j->ended;
    j->unflushed_blocks = 0;
    j->flush = (struct bdev_req){ .op = BDEV_FLUSH, .done = flush_done };
    s->stats.device_flushes++;
    bdev_submit(s->blocks, &j->flush);
}

/* Does a device flush that begins now end somebody's waiting, or is it time for one? */
static bool is_flush_due(const struct store *s, uint64_t completed)
{
    const struct journal *j = &s->journal;
    return !list_empty(&j->flush_requests)
           || (!list_empty(&j->waiters) && container_of(j->waiters.next, struct store_op, link)->target_seq <= completed)
           || j->unflushed_blocks >= FLUSH_EVERY_BLOCKS || completed - j->durable >= FLUSH_EVERY_JBLOCKS
           || (j->flush_habit >= FLUSH_HABIT && is_lull(j) && completed > j->durable);
}

/* Starts what can start and ends what can end, without waking anything up. */
void journal_poll(struct store *s)
{
    struct journal *j = &s->journal;
    answer_durable(s, s->failed);
    uint64_t completed = journal_completed(s);
    if (!j->flushing && !s->failed && is_flush_due(s, completed))
        flush_start(s);
    while (!list_empty(&j->barriers)) {
        struct store_op *op = container_of(j->barriers.next, struct store_op, link);
        if (op->target_seq > completed)
            break;
        list_remove(&op->link);
        op->finish(op);
    }
    checkpoint_poll(s);
}

/* After a completion: also those who waited for a batch or for room may go on. */
static void journal_progress(struct store *s)
{
    journal_poll(s);
    loop_defer_last(s->loop, &s->pump);
}

void journal_wait_durable(struct store *s, struct store_op *op)
{
    op->target_seq = s->journal.next_seq - 1;
    list_add_tail(&s->journal.waiters, &op->link);
    loop_defer_last(s->loop, &s->pump);
}

void journal_wait_complete(struct store *s, struct store_op *op)
{
    op->target_seq = s->journal.next_seq - 1;
    list_add_tail(&s->journal.barriers, &op->link);
    loop_defer_last(s->loop, &s->pump);
}

void journal_flush_request(struct store *s, struct image_req *req)
{
    struct journal *j = &s->journal;
    if (is_lull(j))
        j->flush_habit++;
    j->flush_asked = j->next_seq;
    req->first_block = j->ended;
    list_add_tail(&j->flush_requests, &req->link);
    loop_defer_last(s->loop, &s->pump);
}
