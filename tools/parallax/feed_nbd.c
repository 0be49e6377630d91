/* feed_nbd.c - see feed_nbd.h.
 *
 * Slots are read ahead of the sending: as long as there is a free one, the next piece of data is asked for; whichever is
 * there first is sent first, since the store takes data in any order. */
#include "tools/parallax/feed_nbd.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SLOTS 16u
#define UNIT_MIN 4096u
#define STATUS_BYTES (256u << 20) /* asked about at once */
#define RANGES_MAX 4096u

enum slot_state { SLOT_FREE, SLOT_READING, SLOT_READ };

struct slot {
    enum slot_state state;
    int error;
    uint64_t offset;
    size_t length;
    unsigned char *data; /* LIBNBD_MOST_MAX bytes */
};

struct range {
    uint64_t begin, end;
};

struct reader {
    struct feed feed;
    struct nbd_handle *nbd;
    const char *name;
    uint64_t length;
    struct libnbd_limits limits;
    uint32_t unit; /* of what data is told by, and read by but for the most that is read at once */
    struct slot slots[SLOTS];
    unsigned char *memory;
    unsigned reading;
    /* Where data lies: known up to `known`, read up to `at`. */
    struct range ranges[RANGES_MAX];
    unsigned count, next;
    uint64_t known, at;
};

/* bad: of libnbd_turn and the like. end: of what was asked. */
static int nbd_failed(struct reader *r, int bad, const char *what, uint64_t end)
{
    if (bad == -ECANCELED)
        return error_set(r->feed.err, bad, "interrupted; nothing was changed");
    if (bad == -EPIPE)
        return feed_lost(&r->feed);
    return error_set(r->feed.err, bad, "%s %.200s failed: %s%s", what, r->name, libnbd_complaint(), libnbd_limits_hint(&r->limits, end));
}

static struct libnbd_wait wait_of(const struct reader *r)
{
    return (struct libnbd_wait){ .cancel_fd = r->feed.cli->cancel_fd, .peer_fd = r->feed.cli->client.fd };
}

/* ---- Where there is data ---- */

/* Whole units, none told twice; ranges that touch become one. */
static void add_range(struct reader *r, uint64_t begin, uint64_t end)
{
    struct range *last = r->count ? &r->ranges[r->count - 1] : NULL;
    begin -= begin % r->unit;
    end += (r->unit - end % r->unit) % r->unit;
    if (last && begin <= last->end)
        last->end = end > last->end ? end : last->end;
    else
        r->ranges[r->count++] = (struct range){ begin < r->at ? r->at : begin, end };
}

static int take_status(void *ctx, const char *context, uint64_t offset, uint32_t *entries, size_t count, int *error)
{
    struct reader *r = ctx;
    (void)error;
    if (strcmp(context, LIBNBD_CONTEXT_BASE_ALLOCATION) || offset != r->known)
        return 0;
    for (size_t i = 0; i + 1 < count && r->count < RANGES_MAX && r->known < r->length; i += 2) {
        if (!(entries[i + 1] & LIBNBD_STATE_ZERO))
            add_range(r, r->known, r->known + entries[i]);
        r->known += entries[i];
    }
    return 0;
}

/* The next question begins with a whole unit, whatever the server has told: one of which it told a part only is data. */
static void round_known(struct reader *r, uint64_t before)
{
    uint64_t rest = r->known % r->unit;
    if (r->known >= r->length || !rest)
        return;
    r->known -= rest;
    if (r->known > before)
        return;
    add_range(r, r->known, r->known + r->unit);
    r->known += r->unit;
}

static int look_ahead(struct reader *r)
{
    uint64_t left = r->length - r->known, n = left < STATUS_BYTES ? left : STATUS_BYTES, before = r->known;
    r->count = r->next = 0;
    if (libnbd.can_meta_context(r->nbd, LIBNBD_CONTEXT_BASE_ALLOCATION) != 1) {
        add_range(r, 0, r->length);
        r->known = r->length;
        return 0;
    }
    int64_t asked = libnbd.aio_block_status(r->nbd, n, r->known, (nbd_extent_callback){ .callback = take_status, .user_data = r }, NBD_NULL_COMPLETION, 0);
    int bad = libnbd_finish(r->nbd, asked, wait_of(r));
    if (bad)
        return nbd_failed(r, bad, "asking", before + n);
    round_known(r, before);
    return r->known == before ? error_set(r->feed.err, -EPROTO, "the server of %.200s does not tell where data are", r->name) : 0;
}

/* The next piece to read; false: there is none. */
static bool next_piece(struct reader *r, uint64_t *begin, size_t *length)
{
    while (!r->feed.err->code) {
        if (r->next == r->count) {
            if (r->known >= r->length || look_ahead(r))
                return false;
            continue;
        }
        const struct range *range = &r->ranges[r->next];
        uint64_t end = range->end < r->length ? range->end : r->length;
        *begin = r->at > range->begin ? r->at : range->begin;
        if (*begin < end) {
            *length = end - *begin < r->limits.most ? (size_t)(end - *begin) : r->limits.most;
            r->at = *begin + *length;
            return true;
        }
        r->next++;
    }
    return false;
}

/* ---- Reading and sending ---- */

static int read_done(void *ctx, int *error)
{
    struct slot *s = ctx;
    s->error = *error;
    s->state = SLOT_READ;
    return 1;
}

static void fill(struct reader *r)
{
    for (unsigned i = 0; i < SLOTS; i++) {
        struct slot *s = &r->slots[i];
        if (s->state != SLOT_FREE)
            continue;
        if (!next_piece(r, &s->offset, &s->length))
            return;
        s->state = SLOT_READING;
        r->reading++;
        if (libnbd.aio_pread(r->nbd, s->data, s->length, s->offset, (nbd_completion_callback){ .callback = read_done, .user_data = s }, 0) < 0) {
            nbd_failed(r, -EIO, "reading", s->offset + s->length);
            return;
        }
    }
}

static void send_read(struct reader *r)
{
    for (unsigned i = 0; i < SLOTS && !r->feed.err->code; i++) {
        struct slot *s = &r->slots[i];
        if (s->state != SLOT_READ)
            continue;
        size_t padded = (s->length + 511) & ~(size_t)511;
        s->state = SLOT_FREE;
        r->reading--;
        if (s->error)
            error_set(r->feed.err, -EIO, "reading %.200s failed at byte %llu: %s%s", r->name, (unsigned long long)s->offset, strerror(s->error),
                      libnbd_limits_hint(&r->limits, s->offset + s->length));
        memset(s->data + s->length, 0, padded - s->length);
        if (!s->error)
            feed_chunk(&r->feed, s->offset, s->data, padded);
        progress_at(r->feed.opt->progress, s->offset + s->length);
    }
}

static bool any_read(const struct reader *r)
{
    for (unsigned i = 0; i < SLOTS; i++)
        if (r->slots[i].state == SLOT_READ)
            return true;
    return false;
}

static int read_all(struct reader *r)
{
    int bad;
    for (;;) {
        fill(r);
        while (!r->feed.err->code && r->reading && !any_read(r))
            if ((bad = libnbd_turn(r->nbd, wait_of(r))))
                nbd_failed(r, bad, "reading", 0);
        if (r->feed.err->code || !r->reading)
            return r->feed.err->code;
        send_read(r);
    }
}

int feed_nbd(struct cli *cli, struct nbd_handle **nbd, const struct libnbd_limits *limits, const char *name, uint64_t length, const struct feed_options *opt,
             json_t **result, struct error *err)
{
    struct reader *r = calloc(1, sizeof *r);
    if (r)
        r->memory = malloc((size_t)SLOTS * LIBNBD_MOST_MAX);
    if (!r || !r->memory) {
        free(r);
        return error_set(err, -ENOMEM, "out of memory");
    }
    r->feed = (struct feed){ .cli = cli, .opt = opt, .result = result, .err = err };
    r->nbd = *nbd;
    r->name = name;
    r->length = length;
    r->limits = *limits;
    r->unit = limits->least > UNIT_MIN ? limits->least : UNIT_MIN;
    for (unsigned i = 0; i < SLOTS; i++)
        r->slots[i].data = r->memory + (size_t)i * LIBNBD_MOST_MAX;
    if (feed_begin(&r->feed) && read_all(r) == 0)
        feed_conclude(&r->feed);
    else if (r->feed.answered)
        feed_conclude(&r->feed);
    if (err->code) { /* there may be commands in flight that point to what goes now */
        libnbd.close(*nbd);
        *nbd = NULL;
    }
    free(r->memory);
    free(r);
    return err->code;
}
