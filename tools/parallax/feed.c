/* feed.c - see feed.h.
 *
 * Holes are skipped and blocks of zeroes are left out, block by block: what a new image was never told is zero. Each DATA
 * frame needs a credit, so at most as much is under way as the server has room for. */
#include "tools/parallax/feed.h"

#include "tools/common/size.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK CONTROL_DATA_MAX
#define UNIT 4096u

/* Waits for a credit; true if DATA may be sent. */
static bool get_credit(struct feed *f)
{
    struct control_frame frame = { .type = CONTROL_CREDIT };
    while (!f->cli->client.credits && !f->answered) {
        if (cli_receive(f->cli, &frame, f->result, f->err)) {
            f->answered = frame.type == CONTROL_REPLY;
            return false;
        }
        f->answered = frame.type == CONTROL_REPLY;
        json_decref(frame.doc);
    }
    return !f->answered;
}

static int send_piece(struct feed *f, uint64_t offset, const unsigned char *data, size_t length)
{
    if (!get_credit(f))
        return error_set(f->err, -EPROTO, "the server ended the transfer without a reason");
    int bad = control_client_send_data(&f->cli->client, f->opt->target_offset + offset, data, (uint32_t)length);
    if (bad == -ECANCELED)
        return error_set(f->err, bad, "interrupted; nothing was changed");
    return bad ? error_set(f->err, bad, "the server ended during the transfer: %s", strerror(-bad)) : 0;
}

static bool zero_unit(const unsigned char *p, size_t length) { return *p == 0 && memcmp(p, p + 1, length - 1) == 0; }

int feed_chunk(struct feed *f, uint64_t offset, const unsigned char *data, size_t length)
{
    if (f->opt->keep_zeroes)
        return send_piece(f, offset, data, length);
    size_t begin = 0, at = 0;
    while (at < length) {
        size_t unit = length - at < UNIT ? length - at : UNIT;
        bool zero = zero_unit(data + at, unit);
        if (zero && at > begin && send_piece(f, offset + begin, data + begin, at - begin))
            return f->err->code;
        at += unit;
        if (zero)
            begin = at;
    }
    return at > begin ? send_piece(f, offset + begin, data + begin, at - begin) : 0;
}

static int refuse(struct feed *f, const char *format)
{
    return error_set(f->err, -ENOTSUP, "%s is a %s file, which %s, or store its bytes as they are with --format raw", f->opt->refuse_format, format,
                     format_is_read(format) ? "cannot be read as a stream; leave --size out" : "is not read; unpack or convert it first");
}

static int look_at_format(struct feed *f, const struct source *s, uint64_t offset, const unsigned char *buf, size_t length)
{
    const char *format = NULL;
    uint64_t end = offset + length;
    if (!f->opt->refuse_format)
        return 0;
    if (offset == 0) {
        unsigned char head[FORMAT_HEAD] = { 0 };
        memcpy(head, buf, length < FORMAT_HEAD ? length : FORMAT_HEAD);
        format = format_of_head(head);
    }
    if (!format && end == s->length && length >= FORMAT_TAIL)
        format = format_of_tail(buf + length - FORMAT_TAIL);
    return format ? refuse(f, format) : 0;
}

/* Sends [begin, end) of the source, end rounded up with zeroes. */
static int send_range(struct feed *f, struct source *s, unsigned char *buf, uint64_t begin, uint64_t end)
{
    while (begin < end) {
        size_t length = end - begin < CHUNK ? (size_t)(end - begin) : CHUNK, padded = (length + 511) & ~(size_t)511;
        if (source_read(s, f->cli, begin, buf, length, f->err) || look_at_format(f, s, begin, buf, length))
            return f->err->code;
        memset(buf + length, 0, padded - length);
        if (feed_chunk(f, begin, buf, padded))
            return f->err->code;
        begin += length;
        progress_at(f->opt->progress, begin);
    }
    return 0;
}

/* A hole's edges need not be aligned: a range is widened to whole chunks' units, and never sent twice. */
static int send_all(struct feed *f, struct source *s, unsigned char *buf)
{
    uint64_t at = 0, begin, end, length = s->length;
    while (at < length) {
        bool data = f->opt->keep_zeroes || s->streamed ? (begin = at, end = length, true) : source_data(s, at, &begin, &end);
        if (!data)
            return 0;
        begin &= ~(uint64_t)(UNIT - 1);
        end = (end + UNIT - 1) & ~(uint64_t)(UNIT - 1);
        if (begin < at)
            begin = at;
        if (end > length)
            end = length;
        if (send_range(f, s, buf, begin, end))
            return f->err->code;
        at = end;
    }
    return source_at_end(s, f->cli, f->err);
}

bool feed_begin(struct feed *f) { return get_credit(f); }

/* The reply after END; END also after an early reply, so that the connection is at rest. */
int feed_conclude(struct feed *f)
{
    struct control_frame frame = { .type = CONTROL_CREDIT };
    int bad = control_client_send_end(&f->cli->client);
    if (bad && !f->answered)
        error_set(f->err, bad, bad == -ECANCELED ? "interrupted; nothing was changed" : "the server ended during the transfer");
    while (!f->answered && !f->err->code) {
        if (cli_receive(f->cli, &frame, f->result, f->err) == 0)
            json_decref(frame.doc);
        f->answered = frame.type == CONTROL_REPLY;
    }
    return f->err->code;
}

int feed_lost(struct feed *f)
{
    struct control_frame frame;
    while (cli_receive(f->cli, &frame, NULL, f->err) == 0)
        json_decref(frame.doc);
    return f->err->code;
}

int feed_source(struct cli *cli, struct source *s, const struct feed_options *opt, json_t **result, struct error *err)
{
    struct feed f = { .cli = cli, .opt = opt, .result = result, .err = err };
    unsigned char *buf = malloc(CHUNK);
    if (!buf)
        return error_set(err, -ENOMEM, "out of memory");
    /* The first credit is the server's consent; a refusal must not be hidden by a fault of the source. */
    if (feed_begin(&f) && send_all(&f, s, buf) == 0)
        feed_conclude(&f);
    else if (f.answered)
        feed_conclude(&f);
    free(buf);
    return err->code;
}
