/* recovery.c - the journal is read, judged and replayed (consistency.md, 6 to 8).
 *
 * Ranges that an earlier recovery sealed are replayed by its verdict. The present epoch is scanned for the durable mark H
 * first; what is missing at or below H is damage; above H a block of a write counts if its data verifies. The verdict
 * becomes durable, with a new epoch, before the store allocates anything. That holds also if nothing was found but a torn or
 * unreadable block: a later write of the same place could be torn so that it completes the old block.
 * Replay goes in order of tickets and uses the functions that running uses. */
#include "base/clock.h"
#include "base/endian.h"
#include "base/log.h"
#include "parallax/parallax_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK_BLOCKS 256u
#define CHUNK_BYTES (CHUNK_BLOCKS * BDEV_BLOCK_SIZE)

struct cancelled {
    uint64_t first, count;
};

struct recovery {
    struct store *s;
    struct error *err;
    uint8_t *chunk;              /* journal blocks chunk_seq … */
    uint64_t chunk_seq;
    uint32_t chunk_count;
    uint8_t *data;               /* to verify */
    struct sealed_range now;     /* the verdict on the present epoch */
    uint32_t hole_capacity, rejected_capacity;
    uint64_t durable;            /* H */
    bool torn;                   /* some block is there in part, or could not be read */
    struct cancelled *cancelled;
    uint32_t cancelled_count, cancelled_capacity;
    uint8_t *change;             /* pieces gathered so far */
    uint32_t change_length, change_capacity;
    uint64_t change_next;        /* journal block in which the next piece must stand; 0: none is expected */
    uint64_t last_change;        /* in which the last change ended that counts; 0: there was none */
};

static int grow(void *array, uint32_t *capacity, uint32_t need, size_t size)
{
    if (need < *capacity)
        return 0;
    uint32_t n = *capacity ? *capacity * 2 : 64;
    void **p = array, *grown = realloc(*p, n * size);
    if (!grown)
        return -ENOMEM;
    *p = grown;
    *capacity = n;
    return 0;
}

/* Journal block seq, from a chunk read ahead; NULL: unreadable. */
static const uint8_t *jblock(struct recovery *r, uint64_t seq)
{
    struct store *s = r->s;
    if (!r->chunk_count || seq < r->chunk_seq || seq >= r->chunk_seq + r->chunk_count) {
        uint64_t slot = seq % s->super.journal_blocks, left = s->super.journal_blocks - slot;
        r->chunk_seq = seq;
        r->chunk_count = left < CHUNK_BLOCKS ? (uint32_t)left : CHUNK_BLOCKS;
        if (bdev_read(s->blocks, s->super.journal_start + slot, r->chunk, r->chunk_count)) {
            /* A bad sector must not take its neighbours with it. */
            r->chunk_count = 1;
            if (bdev_read(s->blocks, s->super.journal_start + slot, r->chunk, 1)) {
                memset(r->chunk, 0, BDEV_BLOCK_SIZE);
                r->torn = true;
            }
        }
    }
    return r->chunk + (size_t)(seq - r->chunk_seq) * BDEV_BLOCK_SIZE;
}

static bool open_jblock(struct recovery *r, uint64_t epoch, uint64_t seq, struct jheader *h, const uint8_t **payload)
{
    const uint8_t *b = jblock(r, seq);
    *payload = b + JBLOCK_HEADER;
    return jblock_open(b, r->s->super.seed, h) == 0 && h->epoch == epoch && h->seq == seq;
}

static bool is_hole(const struct sealed_range *v, uint64_t seq)
{
    for (uint32_t i = 0; i < v->hole_count; i++)
        if (v->holes[i] == seq)
            return true;
    return false;
}

static bool is_rejected(const struct sealed_range *v, uint64_t ticket, uint32_t block)
{
    for (uint32_t i = 0; i < v->rejected_count; i++)
        if (v->rejected[i].ticket == ticket && v->rejected[i].block == block)
            return true;
    return false;
}

static bool is_cancelled(const struct recovery *r, uint64_t seq)
{
    for (uint32_t i = 0; i < r->cancelled_count; i++)
        if (seq - r->cancelled[i].first < r->cancelled[i].count)
            return true;
    return false;
}

static int damaged(struct recovery *r, uint64_t seq, const char *what)
{
    return error_set(r->err, -EBADMSG, "store '%s': journal block %llu %s; restore the store from a copy", store_name(r->s), (unsigned long long)seq, what);
}

/* Notes what a journal block cancels. */
static int collect_cancels(struct recovery *r, const struct jheader *h, const uint8_t *payload)
{
    struct jrecord rec;
    uint32_t at = 0;
    for (unsigned i = 0; i < h->records; i++) {
        if (jrecord_get(payload, h->used, &at, &rec))
            return damaged(r, h->seq, "holds a record that makes no sense");
        if (rec.type != JRECORD_CANCEL)
            continue;
        if (grow(&r->cancelled, &r->cancelled_capacity, r->cancelled_count, sizeof *r->cancelled))
            return -ENOMEM;
        r->cancelled[r->cancelled_count++] = (struct cancelled){ rec.first, rec.count };
    }
    return 0;
}

/* Looks how far the present epoch goes, and for H and holes. */
static int scan(struct recovery *r, uint64_t epoch, uint64_t from)
{
    struct jheader h;
    const uint8_t *payload;
    r->now = (struct sealed_range){ .epoch = epoch, .first = from, .last = from - 1 };
    for (uint64_t seq = from; seq < from + r->s->super.journal_blocks && seq <= r->now.last + SCAN_WINDOW; seq++) {
        if (!open_jblock(r, epoch, seq, &h, &payload)) {
            r->torn |= jblock_is_torn(jblock(r, seq), r->s->super.seed, epoch, seq);
            continue;
        }
        for (uint64_t missing = r->now.last + 1; missing < seq; missing++) {
            if (grow(&r->now.holes, &r->hole_capacity, r->now.hole_count, sizeof *r->now.holes))
                return -ENOMEM;
            r->now.holes[r->now.hole_count++] = missing;
        }
        r->now.last = seq;
        if (h.durable > r->durable)
            r->durable = h.durable;
        int err = collect_cancels(r, &h, payload);
        if (err)
            return err;
    }
    if (r->now.hole_count && r->now.holes[0] <= r->durable)
        return damaged(r, r->now.holes[0], "is missing although it was known to be on the device");
    return 0;
}

static int reject(struct recovery *r, uint64_t ticket, uint32_t block)
{
    if (grow(&r->now.rejected, &r->rejected_capacity, r->now.rejected_count, sizeof *r->now.rejected))
        return -ENOMEM;
    r->now.rejected[r->now.rejected_count].ticket = ticket;
    r->now.rejected[r->now.rejected_count++].block = block;
    r->s->stats.rejected_records++;
    return 0;
}

/* A block whose run could not be read, on its own and up to twice: a bad sector must not condemn its neighbours, which hold
 * what was acknowledged, nor an attempt that failed a block that can be read. */
static bool readable(struct store *s, uint64_t address, void *buffer)
{
    return address < bdev_blocks(s->blocks) && (!bdev_read(s->blocks, address, buffer, 1) || !bdev_read(s->blocks, address, buffer, 1));
}

/* Above H: reads the data of a write and rejects the blocks that are not what the record says. */
static int judge(struct recovery *r, const struct jrecord *rec, uint64_t ticket)
{
    struct store *s = r->s;
    for (uint32_t at = 0; at < rec->count; at += CHUNK_BLOCKS) {
        uint32_t n = rec->count - at < CHUNK_BLOCKS ? (uint32_t)rec->count - at : CHUNK_BLOCKS;
        int err = rec->address + at + n <= bdev_blocks(s->blocks) ? bdev_read(s->blocks, rec->address + at, r->data, n) : -EIO;
        for (uint32_t i = 0; i < n; i++) {
            uint8_t *block = r->data + (size_t)i * BDEV_BLOCK_SIZE;
            bool good = (!err || readable(s, rec->address + at + i, block)) && radix_checksum(s->super.seed, block) == get_le32(rec->crcs + 4 * (at + i));
            if (!good && reject(r, ticket, at + i))
                return -ENOMEM;
        }
    }
    return 0;
}

static struct line *replay_line(struct recovery *r, uint32_t id)
{
    struct line *l = tree_line(&r->s->tree, id);
    if (!l || list_empty(&l->unmerged))
        return NULL;
    tree_changing(&r->s->tree, container_of(l->unmerged.prev, struct version, line_link));
    return l;
}

/* Whether a power cut may have taken a change before it, in its time, and so what it names. */
static bool may_miss_a_change(const struct sealed_range *v, uint64_t seq) { return v->hole_count && v->holes[0] < seq; }

static int insert(struct recovery *r, const struct line *l, uint64_t block, uint64_t ticket, uint64_t address, uint32_t crc, bool shared)
{
    struct index *ix = &r->s->index[r->s->active];
    uint64_t low, high;
    if (ix->used + ix->held_used >= ix->capacity && index_grow(ix))
        return -ENOMEM;
    line_interval(l, ticket, &low, &high);
    index_insert(ix, &(struct index_entry){ .line = l->id, .block = (uint32_t)block, .ticket = ticket, .address = address, .shared = shared, .crc = crc }, low, high);
    return 0;
}

static int replay_write(struct recovery *r, const struct sealed_range *v, const struct jrecord *rec, uint64_t ticket)
{
    struct line *l = replay_line(r, rec->line);
    bool may_miss = may_miss_a_change(v, ticket_seq(ticket));
    if (!l)
        return may_miss ? 0 : damaged(r, ticket_seq(ticket), "writes to an image that does not exist");
    uint64_t end = may_miss ? version_blocks(container_of(l->unmerged.prev, struct version, line_link)) : UINT64_MAX; /* it may have been about to grow */
    for (uint32_t i = 0; i < rec->count && rec->first + i < end; i++) {
        if (v->rejected_count && is_rejected(v, ticket, i))
            continue;
        uint64_t address = rec->address + i;
        bool shared = rec->type == JRECORD_SHARE; /* of what the committed space map holds, as nothing else is (P4) */
        if (!space_covers(&r->s->space, address) || (!space_image_lost(&r->s->space, address) && space_image_test(&r->s->space, address) != shared))
            return damaged(r, ticket_seq(ticket), "names blocks that belong to something else");
        if (!shared)
            space_mark_taken(&r->s->space, address);
        int err = insert(r, l, rec->first + i, ticket, address, get_le32(rec->crcs + 4 * i), shared);
        if (err)
            return err;
    }
    return 0;
}

static int replay_zero(struct recovery *r, const struct sealed_range *v, const struct jrecord *rec, uint64_t ticket)
{
    struct line *l = replay_line(r, rec->line);
    if (!l)
        return may_miss_a_change(v, ticket_seq(ticket)) ? 0 : damaged(r, ticket_seq(ticket), "discards in an image that does not exist");
    if (rec->count > 64) {
        r->s->range_count++;
        return line_add_range(l, &(struct zero_range){ rec->first, rec->count, ticket });
    }
    int err = 0;
    for (uint64_t i = 0; i < rec->count && !err; i++)
        err = insert(r, l, rec->first + i, ticket, 0, 0, false);
    return err;
}

/* The change before it is there, on which it may have been made. */
static bool has_its_ground(const struct recovery *r, const struct jrecord *rec, uint64_t seq)
{
    uint64_t before = seq - rec->back;
    return !rec->back || before < r->s->journal.tail || before == r->last_change;
}

static int replay_change(struct recovery *r, const struct jrecord *rec, uint64_t ticket)
{
    uint64_t seq = ticket_seq(ticket);
    if (rec->first_piece) {
        r->change_length = 0;
        r->change_next = has_its_ground(r, rec, seq) ? seq : 0;
    }
    if (r->change_next != seq)
        return 0; /* an earlier piece is missing, or the change before it: this one was never acknowledged */
    while (r->change_length + rec->length > r->change_capacity)
        if (grow(&r->change, &r->change_capacity, r->change_capacity, 1))
            return -ENOMEM;
    memcpy(r->change + r->change_length, rec->payload, rec->length);
    r->change_length += rec->length;
    r->change_next = rec->last_piece ? 0 : seq + 1;
    if (!rec->last_piece)
        return 0;
    r->last_change = seq;
    int err = change_apply(r->s, ticket, r->change, r->change_length);
    return err == -EBADMSG ? damaged(r, seq, "holds a change that does not fit the catalog") : err;
}

static int replay_block(struct recovery *r, const struct sealed_range *v, bool verify, const struct jheader *h, const uint8_t *payload)
{
    struct jrecord rec;
    uint32_t at = 0;
    int err = 0;
    for (unsigned i = 0; i < h->records && !err; i++) {
        uint64_t ticket = h->seq << TICKET_SHIFT | i;
        if (jrecord_get(payload, h->used, &at, &rec))
            return damaged(r, h->seq, "holds a record that makes no sense");
        if (rec.type == JRECORD_CHANGE) {
            err = replay_change(r, &rec, ticket);
        } else if (rec.type != JRECORD_CANCEL && !is_cancelled(r, h->seq)) {
            if (rec.type == JRECORD_WRITE && verify)
                err = judge(r, &rec, ticket);
            if (!err)
                err = rec.type == JRECORD_ZERO ? replay_zero(r, v, &rec, ticket) : replay_write(r, v, &rec, ticket);
        }
        r->s->stats.recovered_records++;
    }
    return err;
}

static int replay_range(struct recovery *r, const struct sealed_range *v, bool judging)
{
    struct jheader h;
    const uint8_t *payload;
    for (uint64_t seq = v->first; seq <= v->last; seq++) {
        if (!open_jblock(r, v->epoch, seq, &h, &payload)) {
            if (!is_hole(v, seq) && !r->s->age_accepted) /* blocks that are older need not have it */
                return damaged(r, seq, "cannot be read although an earlier recovery had accepted it");
            continue;
        }
        if (is_hole(v, seq))
            continue; /* it was judged missing */
        int err = replay_block(r, v, judging && seq > r->durable, &h, payload);
        if (err)
            return err;
    }
    return 0;
}

static int collect_sealed_cancels(struct recovery *r, const struct sealed_range *v)
{
    struct jheader h;
    const uint8_t *payload;
    int err = 0;
    for (uint64_t seq = v->first; seq <= v->last && !err; seq++)
        if (!is_hole(v, seq) && open_jblock(r, v->epoch, seq, &h, &payload))
            err = collect_cancels(r, &h, payload);
    return err;
}

/* The verdict and a new epoch (R2). */
static int seal_verdict(struct recovery *r, struct stored_state *st)
{
    struct store *s = r->s;
    if (r->now.last >= r->now.first) {
        st->sealed[st->sealed_count++] = r->now;
        r->now.holes = NULL;
        r->now.rejected = NULL;
    }
    st->epoch++;
    st->tag = store_new_tag();
    uint32_t length;
    uint8_t *value = state_encode(st, &length);
    if (!value)
        return -ENOMEM;
    struct catalog_change change = { "S", 1, value, length };
    int err = store_announce(s, st);
    if (!err)
        err = bdev_flush(s->blocks);
    if (!err)
        err = catalog_apply(s->backing.catalog, "store", s->catalog_revision, &change, 1);
    free(value);
    if (err)
        return error_set(r->err, err, "store '%s': cannot make the result of recovery durable: %s", store_name(s), strerror(-err));
    s->catalog_revision++;
    store_committed(s, st);
    return 0;
}

static void recovery_fini(struct recovery *r)
{
    free(r->chunk);
    free(r->data);
    free(r->cancelled);
    free(r->change);
    free(r->now.holes);
    free(r->now.rejected);
}

int store_recover(struct store *s, struct stored_state *st, struct error *err)
{
    /* Not zeroed: most openings recover nothing, and pages that nobody touches cost nothing. */
    struct recovery r = { .s = s, .err = err, .chunk = aligned_alloc(BDEV_BLOCK_SIZE, CHUNK_BYTES), .data = aligned_alloc(BDEV_BLOCK_SIZE, CHUNK_BYTES) };
    uint64_t began = clock_monotonic_ms(), from = st->tail;
    int rc = r.chunk && r.data ? 0 : -ENOMEM;
    s->journal.tail = st->tail;
    for (uint32_t i = 0; i < st->sealed_count && !rc; i++) {
        rc = collect_sealed_cancels(&r, &st->sealed[i]);
        from = st->sealed[i].last + 1;
    }
    if (!rc)
        rc = scan(&r, st->epoch, from);
    for (uint32_t i = 0; i < st->sealed_count && !rc; i++)
        rc = replay_range(&r, &st->sealed[i], false);
    bool found = !rc && r.now.last + 1 > from;
    if (found)
        rc = replay_range(&r, &r.now, true);
    s->journal.next_seq = (found ? r.now.last : from - 1) + 1;
    if (!rc && (found || r.torn))
        rc = seal_verdict(&r, st);
    s->journal.epoch = st->epoch;
    s->journal.durable = s->journal.next_seq - 1;
    s->stats.recovery_ms = clock_monotonic_ms() - began;
    if (!rc && (found || st->sealed_count))
        log_info("recovered store=%s records=%llu rejected=%llu ms=%llu", store_name(s), (unsigned long long)s->stats.recovered_records,
                 (unsigned long long)s->stats.rejected_records, (unsigned long long)s->stats.recovery_ms);
    recovery_fini(&r);
    return rc;
}
