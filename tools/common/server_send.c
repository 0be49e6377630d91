/* server_send.c - commands that give data: export, read.
 *
 * 1. Slots form a ring: reads are submitted in the order of offsets, complete in any order, and are sent in order. A slot is
 *    used again when its bytes are in the socket, so memory is bounded by the ring and a slow client slows the reading.
 * 2. What is all zero is not sent: the client knows the size and that everything it was not told is zero.
 * 3. An export of an image that may be written reads a frozen state; a snapshot or a template is frozen already. The map of such
 *    a state tells, a piece at a time, where there is data, and nothing else is read.
 * 4. What needs no device (holes, blocks in the cache) is read within a turn of the loop, and a socket may take as much as is
 *    put into it: so a turn begins only so many reads, and leaves the rest to the next one. */
#include "tools/common/session.h"

#include "base/bdev.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SLOTS 8u
#define RANGES 4096u
#define READS_PER_TURN 4u

enum slot_state { SLOT_FREE, SLOT_READING, SLOT_READ, SLOT_SENDING };

struct sender;

struct slot {
    struct image_req req;
    struct control_out out;
    struct iovec iov;
    void *memory; /* CONTROL_DATA_MAX bytes */
    struct sender *owner;
    enum slot_state state;
};

struct sender {
    struct operation base;
    struct store_op op;
    struct slot slots[SLOTS];
    unsigned head, tail;     /* next slot to send, next slot to read into */
    unsigned in_flight;      /* requests and operations given to the engine */
    unsigned sending;        /* slots given to the connection */
    struct image *image;
    const char *target;
    uint64_t size;           /* bytes of the image */
    struct image_stored stored; /* what to read, up to stored.next */
    uint32_t range;          /* index of the range being read */
    uint64_t done_in_range;  /* bytes of it submitted */
    struct loop_task next_turn;
    unsigned begun;          /* reads, since next_turn ran */
    bool looking;            /* for what to read next */
    struct error error;
};

static void sender_destroy(struct operation *o)
{
    struct sender *w = container_of(o, struct sender, base);
    for (unsigned i = 0; i < SLOTS; i++)
        free(w->slots[i].memory);
    loop_unpost(session_loop(w->base.session), &w->next_turn);
    free(w->stored.ranges);
    free(w);
}

static bool stopped(const struct sender *w) { return w->error.code || w->base.session->gone; }

static bool is_zero(const void *p, size_t length)
{
    const unsigned char *b = p;
    return length == 0 || (b[0] == 0 && memcmp(b, b + 1, length - 1) == 0);
}

/* Sends what is read and next in order. */
static void emit(struct sender *w)
{
    struct slot *slot;
    while (!stopped(w) && (slot = &w->slots[w->head])->state == SLOT_READ) {
        w->head = (w->head + 1) % SLOTS;
        if (is_zero(slot->memory, slot->req.length)) {
            slot->state = SLOT_FREE;
            continue;
        }
        slot->state = SLOT_SENDING;
        w->sending++;
        control_peer_send_data(&w->base.session->peer, &slot->out, slot->req.offset, slot->memory, (uint32_t)slot->req.length);
    }
}

/* Reads into free slots. */
static void fill(struct sender *w)
{
    while (!stopped(w) && w->range < w->stored.count && w->slots[w->tail].state == SLOT_FREE && w->begun < READS_PER_TURN) {
        struct slot *slot = &w->slots[w->tail];
        const struct image_range *range = &w->stored.ranges[w->range];
        uint64_t left = range->length - w->done_in_range, length = left < CONTROL_DATA_MAX ? left : CONTROL_DATA_MAX;
        slot->iov = (struct iovec){ slot->memory, length };
        slot->req = (struct image_req){
            .op = IMAGE_READ, .offset = range->offset + w->done_in_range, .length = length, .iov = &slot->iov, .iov_count = 1, .done = slot->req.done
        };
        w->done_in_range += length;
        if (w->done_in_range == range->length) {
            w->range++;
            w->done_in_range = 0;
        }
        w->tail = (w->tail + 1) % SLOTS;
        slot->state = SLOT_READING;
        w->in_flight++;
        if (w->begun++ == 0)
            loop_post(session_loop(w->base.session), &w->next_turn);
        image_submit(w->image, &slot->req);
    }
}

static bool all_free(const struct sender *w)
{
    for (unsigned i = 0; i < SLOTS; i++)
        if (w->slots[i].state != SLOT_FREE)
            return false;
    return true;
}

static void finish(struct sender *w)
{
    if (w->image)
        image_close(w->image);
    if (w->error.code)
        session_answer_error(w->base.session, &w->error);
    else
        session_answer(w->base.session, json_pack("{s:s,s:I}", "name", w->target, "size", (json_int_t)w->size));
    operation_end(&w->base);
}

static void look_further(struct sender *w);

/* Goes on after anything has come back. */
static void advance(struct sender *w)
{
    emit(w);
    fill(w);
    if (!stopped(w) && w->range == w->stored.count && w->stored.next < w->size && !w->looking)
        look_further(w);
    if (w->in_flight || w->sending)
        return;
    if (stopped(w) || (w->range == w->stored.count && all_free(w)))
        finish(w);
}

static void looked(struct store_op *op)
{
    struct sender *w = container_of(op, struct sender, op);
    w->in_flight--;
    w->looking = false;
    if (op->error.code)
        w->error = op->error;
    advance(w);
}

static void look_further(struct sender *w)
{
    w->op = (struct store_op){ .done = looked };
    w->range = 0;
    w->looking = true;
    w->in_flight++;
    image_get_stored(w->image, &w->op, &w->stored);
}

static void turn_begins(struct loop_task *t)
{
    struct sender *w = container_of(t, struct sender, next_turn);
    w->begun = 0;
    advance(w);
}

static void read_done(struct image_req *req, int error)
{
    struct slot *slot = container_of(req, struct slot, req);
    struct sender *w = slot->owner;
    w->in_flight--;
    slot->state = SLOT_READ;
    if (error)
        error_set(&w->error, error, "reading '%s' failed at byte %llu: %s", w->target, (unsigned long long)req->offset,
                  error == -EBADMSG || error == -EIO ? "the device fails, or the stored data are damaged; run parallax check" : strerror(-error));
    advance(w);
}

static void data_sent(struct control_out *o, int error)
{
    struct slot *slot = container_of(o, struct slot, out);
    struct sender *w = slot->owner;
    slot->state = SLOT_FREE;
    w->sending--;
    if (!error)
        advance(w);
}

static void sender_abort(struct operation *o)
{
    struct sender *w = container_of(o, struct sender, base);
    if (w->in_flight == 0 && w->sending == 0)
        finish(w);
}

static const struct operation_ops sender_ops = { .abort = sender_abort, .destroy = sender_destroy };

static struct sender *sender_begin(struct session *s, const char *target)
{
    struct sender *w = calloc(1, sizeof *w);
    bool whole = w != NULL;
    for (unsigned i = 0; whole && i < SLOTS; i++) {
        w->slots[i].owner = w;
        w->slots[i].req.done = read_done;
        w->slots[i].out.sent = data_sent;
        w->slots[i].memory = bdev_buffer_alloc(CONTROL_DATA_MAX / BDEV_BLOCK_SIZE);
        whole = w->slots[i].memory != NULL;
    }
    if (whole) {
        w->base.session = s;
        w->next_turn.run = turn_begins;
        whole = (w->stored.ranges = calloc(RANGES, sizeof *w->stored.ranges)) != NULL;
        w->stored.room = RANGES;
    }
    if (!whole) {
        if (w)
            sender_destroy(&w->base);
        session_answer_error(s, &(struct error){ -ENOMEM, "out of memory" });
        return NULL;
    }
    w->target = target;
    operation_begin(s, &w->base, &sender_ops, false);
    return w;
}

static void announce(struct sender *w)
{
    session_item(w->base.session, json_pack("{s:I}", "size", (json_int_t)w->size));
    advance(w);
}

/* ---- export ---- */

static void frozen(struct store_op *op)
{
    struct sender *w = container_of(op, struct sender, op);
    w->in_flight--;
    w->error = op->error;
    w->image = op->image;
    if (w->image)
        w->size = image_size(w->image);
    announce(w);
}

static void export(struct session *s, json_t *request)
{
    const char *target;
    struct image_info info;
    struct image *image = NULL;
    struct error err = ERROR_NONE;
    if (!session_arguments(s, request, "{s:s}", "target", &target))
        return;
    bool fixed = store_find(session_store(s), target, &info, &err) == 0 && (info.is_snapshot || info.is_template);
    struct image_open_options opt = { .mode = IMAGE_READ_ONLY };
    if (fixed)
        image_open(session_store(s), target, &opt, &image, &err);
    if (err.code) {
        session_answer_error(s, &err);
        return;
    }
    struct sender *w = sender_begin(s, target);
    if (!w) {
        if (image)
            image_close(image);
        return;
    }
    w->image = image;
    if (fixed) {
        w->size = image_size(image);
        announce(w);
    } else {
        w->in_flight++;
        w->op.done = frozen;
        image_open_frozen(session_store(s), &w->op, target);
    }
}

/* ---- read ---- */

static void read_range(struct session *s, json_t *request)
{
    const char *target;
    json_int_t offset, length;
    struct image *image = NULL;
    struct error err = ERROR_NONE;
    if (!session_arguments(s, request, "{s:s,s:I,s:I}", "target", &target, "offset", &offset, "length", &length))
        return;
    struct image_open_options opt = { .mode = IMAGE_READ_ONLY };
    if (offset < 0 || length <= 0 || offset % IMAGE_SECTOR || length % IMAGE_SECTOR)
        error_set(&err, -EINVAL, "offset and length must be multiples of %u bytes, and the length not zero", IMAGE_SECTOR);
    else
        image_open(session_store(s), target, &opt, &image, &err);
    if (image && ((uint64_t)length > image_size(image) || (uint64_t)offset > image_size(image) - (uint64_t)length)) {
        error_set(&err, -EINVAL, "%lld bytes at %lld reach beyond the end of '%s' (%llu bytes)", (long long)length, (long long)offset, target,
                  (unsigned long long)image_size(image));
        image_close(image);
    }
    if (err.code) {
        session_answer_error(s, &err);
        return;
    }
    struct sender *w = sender_begin(s, target);
    if (!w) {
        image_close(image);
        return;
    }
    w->image = image;
    w->size = image_size(image);
    w->stored.ranges[w->stored.count++] = (struct image_range){ (uint64_t)offset, (uint64_t)length };
    w->stored.next = w->size;
    announce(w);
}

const struct server_command server_send_commands[] = { { "export", export }, { "read", read_range }, { NULL, NULL } };
