/* server_receive.c - commands that take data: import, write.
 *
 * 1. A fixed number of slots holds the data in flight; the client has a credit for each free one. A frame without a free
 *    slot means that the client ignored its credits, and ends the connection.
 * 2. The first error stops everything: it is answered at once, and what the client had under way is dropped until END.
 * 3. An import has no name until every byte is in the store, and durable: a client that goes away until then, and be it in the
 *    flush, which can take long, takes it along. A write is not atomic: its range was checked before the first byte, and what
 *    was written stays. */
#include "tools/common/session.h"

#include "base/bdev.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SLOTS 16u

struct receive;

struct slot {
    struct image_req req;
    struct iovec iov;
    void *memory; /* CONTROL_DATA_MAX bytes */
    struct receive *owner;
    bool busy;
};

struct receive {
    struct operation base;
    struct store_op op;
    struct image_req flush;
    struct slot slots[SLOTS];
    struct image *image;
    bool import, seal;
    const char *name;
    uint64_t offset, length, received; /* bytes */
    unsigned in_flight;                /* requests and operations given to the engine */
    bool ended, finishing, answered;
    struct error error;
};

static void receive_destroy(struct operation *o)
{
    struct receive *r = container_of(o, struct receive, base);
    for (unsigned i = 0; i < SLOTS; i++)
        free(r->slots[i].memory);
    free(r);
}

static void close_image(struct receive *r)
{
    if (r->image)
        image_close(r->image);
    r->image = NULL;
}

static void answer(struct receive *r)
{
    uint64_t size = r->import || !r->image ? r->length : image_size(r->image);
    close_image(r);
    r->answered = true;
    if (r->error.code)
        session_answer_error(r->base.session, &r->error);
    else
        session_answer(r->base.session, json_pack("{s:s,s:I,s:I,s:b}", "name", r->name, "size", (json_int_t)size, "written",
                                                  (json_int_t)r->received, "template", r->seal));
}

static void finish(struct receive *r);

/* Goes on when nothing is in flight: ends, answers or finishes. */
static void settle(struct receive *r)
{
    if (r->in_flight)
        return;
    if (!r->answered && !r->base.session->gone) {
        if (!r->error.code && r->ended && !r->finishing) {
            finish(r);
            return;
        }
        if (r->error.code || r->finishing)
            answer(r);
    }
    if (r->base.session->gone)
        close_image(r);
    if (r->base.session->gone || (r->answered && r->ended))
        operation_end(&r->base);
}

static void note_error(struct receive *r, int error, const char *doing, uint64_t offset)
{
    if (error)
        error_set(&r->error, error, "%s '%s' failed at byte %llu: %s", doing, r->name, (unsigned long long)offset, strerror(-error));
}

/* ---- Finishing ---- */

static void named(struct store_op *op)
{
    struct receive *r = container_of(op, struct receive, op);
    r->in_flight--;
    if (op->error.code)
        r->error = op->error;
    settle(r);
}

static void flushed(struct image_req *req, int error)
{
    struct receive *r = container_of(req, struct receive, flush);
    r->in_flight--;
    note_error(r, error, "flushing", r->offset + r->length);
    if (r->import && !r->error.code && !r->base.session->gone) {
        r->in_flight++;
        r->op = (struct store_op){ .done = named };
        image_import_finish(r->image, &r->op, r->name, r->seal);
    } else {
        settle(r);
    }
}

static void finish(struct receive *r)
{
    r->finishing = true;
    r->in_flight++;
    r->flush = (struct image_req){ .op = IMAGE_FLUSH, .done = flushed };
    image_submit(r->image, &r->flush);
}

/* ---- Data ---- */

static void written(struct image_req *req, int error)
{
    struct slot *slot = container_of(req, struct slot, req);
    struct receive *r = slot->owner;
    slot->busy = false;
    r->in_flight--;
    if (error == -ENOSPC)
        error_set(&r->error, error, "the store is full: %s '%s' stopped at byte %llu; delete images or snapshots, make room on its file system, or enlarge it (parallax resize-store)",
                  r->import ? "the import of" : "the write to", r->name, (unsigned long long)req->offset);
    note_error(r, error, "writing", req->offset);
    if (!r->error.code && !r->base.session->gone)
        control_peer_send_credit(&r->base.session->peer, 1);
    settle(r);
}

static void *receive_buffer(struct operation *o, uint32_t length)
{
    struct receive *r = container_of(o, struct receive, base);
    (void)length;
    if (r->ended || (!r->image && !r->answered))
        return NULL; /* it is over, or not begun: no credit was given yet */
    for (unsigned i = 0; i < SLOTS; i++)
        if (!r->slots[i].busy)
            return r->slots[i].memory;
    return NULL;
}

static struct slot *slot_of(struct receive *r, const void *memory)
{
    unsigned i = 0;
    while (r->slots[i].memory != memory)
        i++;
    return &r->slots[i];
}

static void receive_data(struct operation *o, uint64_t offset, void *buffer, uint32_t length)
{
    struct receive *r = container_of(o, struct receive, base);
    if (r->error.code || r->answered)
        return;
    if (offset % IMAGE_SECTOR || length % IMAGE_SECTOR || offset < r->offset || length > r->length || offset - r->offset > r->length - length) {
        error_set(&r->error, -EINVAL, "the data for '%s' do not fit: %u bytes at %llu", r->name, length, (unsigned long long)offset);
        settle(r);
        return;
    }
    struct slot *slot = slot_of(r, buffer);
    slot->busy = true;
    slot->iov = (struct iovec){ buffer, length };
    slot->req = (struct image_req){ .op = IMAGE_WRITE, .offset = offset, .length = length, .iov = &slot->iov, .iov_count = 1, .done = written };
    r->received += length;
    r->in_flight++;
    image_submit(r->image, &slot->req);
}

static void receive_end(struct operation *o)
{
    struct receive *r = container_of(o, struct receive, base);
    if (r->ended)
        return;
    r->ended = true;
    if (!r->import && r->received != r->length && !r->answered)
        error_set(&r->error, -EINVAL, "the data for '%s' ended after %llu of %llu bytes", r->name, (unsigned long long)r->received,
                  (unsigned long long)r->length);
    settle(r);
}

static void receive_abort(struct operation *o) { settle(container_of(o, struct receive, base)); }

static const struct operation_ops receive_ops = {
    .buffer = receive_buffer, .data = receive_data, .end = receive_end, .abort = receive_abort, .destroy = receive_destroy,
};

/* ---- Starting ---- */

static struct receive *receive_begin(struct session *s, const char *name)
{
    struct receive *r = calloc(1, sizeof *r);
    bool whole = r != NULL;
    for (unsigned i = 0; whole && i < SLOTS; i++) {
        r->slots[i].owner = r;
        r->slots[i].memory = bdev_buffer_alloc(CONTROL_DATA_MAX / BDEV_BLOCK_SIZE);
        whole = r->slots[i].memory != NULL;
    }
    if (!whole) {
        if (r)
            receive_destroy(&r->base);
        session_answer_error(s, &(struct error){ -ENOMEM, "out of memory" });
        return NULL;
    }
    r->name = name;
    operation_begin(s, &r->base, &receive_ops, true);
    return r;
}

static void begun(struct store_op *op)
{
    struct receive *r = container_of(op, struct receive, op);
    r->in_flight--;
    r->image = op->image;
    r->error = op->error;
    if (!r->error.code && !r->base.session->gone)
        control_peer_send_credit(&r->base.session->peer, SLOTS);
    settle(r);
}

static void import(struct session *s, json_t *request)
{
    const char *name;
    json_int_t size;
    int seal;
    struct image_info found;
    struct error err = ERROR_NONE;
    if (!session_arguments(s, request, "{s:s,s:I,s:b}", "name", &name, "size", &size, "template", &seal))
        return;
    if (size <= 0 || size % IMAGE_SECTOR || (uint64_t)size > IMAGE_SIZE_MAX)
        error_set(&err, -EINVAL, "an image cannot have %lld bytes; a multiple of 512 up to 16 TiB is possible", (long long)size);
    else if (store_check_name(name, &err) == 0 && store_find(session_store(s), name, &found, NULL) == 0)
        error_set(&err, -EEXIST, "an image '%s' exists; choose another name or remove it first", name);
    if (err.code) {
        session_answer_error(s, &err);
        return;
    }
    struct receive *r = receive_begin(s, name);
    if (!r)
        return;
    r->import = true;
    r->seal = seal;
    r->length = (uint64_t)size;
    r->op.done = begun;
    r->in_flight++;
    image_import_begin(session_store(s), &r->op, r->length);
}

/* Opens the image and checks the range. */
static int open_range(struct session *s, const char *name, uint64_t offset, uint64_t length, struct image **out, struct error *err)
{
    char holder[64];
    snprintf(holder, sizeof holder, "parallax write, pid %d", s->pid);
    struct image_open_options opt = { .mode = IMAGE_READ_WRITE, .impatient = true, .holder = holder };
    if (offset % IMAGE_SECTOR || length % IMAGE_SECTOR || length == 0)
        return error_set(err, -EINVAL, "offset and length must be multiples of %u bytes, and the length not zero", IMAGE_SECTOR);
    struct image *image;
    int bad = image_open(session_store(s), name, &opt, &image, err);
    if (bad)
        return bad;
    uint64_t size = image_size(image);
    if (length > size || offset > size - length) {
        image_close(image);
        return error_set(err, -EINVAL, "%llu bytes at %llu reach beyond the end of '%s' (%llu bytes)", (unsigned long long)length,
                         (unsigned long long)offset, name, (unsigned long long)size);
    }
    *out = image;
    return 0;
}

static void write_range(struct session *s, json_t *request)
{
    const char *name;
    json_int_t offset, length;
    struct image *image = NULL;
    struct error err = ERROR_NONE;
    if (!session_arguments(s, request, "{s:s,s:I,s:I}", "name", &name, "offset", &offset, "length", &length))
        return;
    if (offset < 0 || length < 0)
        error_set(&err, -EINVAL, "offset and length must not be negative");
    else
        open_range(s, name, (uint64_t)offset, (uint64_t)length, &image, &err);
    if (err.code) {
        session_answer_error(s, &err);
        return;
    }
    struct receive *r = receive_begin(s, name);
    if (!r) {
        image_close(image);
        return;
    }
    r->image = image;
    r->offset = (uint64_t)offset;
    r->length = (uint64_t)length;
    control_peer_send_credit(&s->peer, SLOTS);
}

const struct server_command server_receive_commands[] = { { "import", import }, { "write", write_range }, { NULL, NULL } };
