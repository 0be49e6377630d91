/* disk.c - see disk.h; the layouts are those of docs/disk-format.md. */
#include "parallax/disk.h"

#include "base/crc32c.h"
#include "base/endian.h"

#include <errno.h>

_Static_assert(PAGE_BLOCKS / 8 + 64 == BDEV_BLOCK_SIZE, "a space-map page fills a block");
_Static_assert(ZONE_PAGES * PAGE_BLOCKS == ZONE_BLOCKS, "pages cover their zone");
_Static_assert(PAGE_BLOCKS % 64 == 0, "pages are made of whole words");

#define FEATURE_TIMED 1u /* of those that forbid writing to who does not know them */

static const char super_magic[8] = "PARALLAX";
#define TIME_MAGIC 0x4d495450u /* PTIM */
#define PAGE_MAGIC 0x4d505350u /* PSPM */
#define JBLOCK_MAGIC 0x4c4e4a50u /* PJNL */

/* Checksum of a block whose own checksum lies at offset `at`. */
static uint32_t block_crc(const uint8_t *block, uint32_t seed, uint32_t at)
{
    static const uint8_t zero[4];
    uint32_t c = crc32c(seed, block, at);
    c = crc32c(c, zero, 4);
    return crc32c(c, block + at + 4, BDEV_BLOCK_SIZE - at - 4);
}

void super_encode(const struct super *s, uint8_t *b)
{
    memset(b, 0, BDEV_BLOCK_SIZE);
    memcpy(b, super_magic, 8);
    put_le32(b + 8, SUPER_VERSION);
    put_le64(b + 24, s->timed ? FEATURE_TIMED : 0);
    memcpy(b + 40, s->uuid, 16);
    put_le32(b + 56, s->seed);
    put_le32(b + 60, ZONE_BLOCKS);
    put_le64(b + 64, s->journal_start);
    put_le64(b + 72, s->journal_blocks);
    put_le64(b + 80, s->zone_start);
    put_le64(b + 88, s->limit_blocks);
    put_le32(b + 12, block_crc(b, 0, 12));
}

int super_decode(const uint8_t *b, struct super *s)
{
    if (memcmp(b, super_magic, 8) || get_le32(b + 12) != block_crc(b, 0, 12))
        return -EBADMSG;
    if (get_le32(b + 8) != SUPER_VERSION || get_le64(b + 16) || get_le64(b + 24) & ~(uint64_t)FEATURE_TIMED)
        return -EPROTONOSUPPORT;
    s->timed = get_le64(b + 24) & FEATURE_TIMED;
    memcpy(s->uuid, b + 40, 16);
    s->seed = get_le32(b + 56);
    s->journal_start = get_le64(b + 64);
    s->journal_blocks = get_le64(b + 72);
    s->zone_start = get_le64(b + 80);
    s->limit_blocks = get_le64(b + 88);
    if (get_le32(b + 60) != ZONE_BLOCKS || s->journal_start != JOURNAL_START || s->journal_blocks < 64
        || s->journal_blocks > 1u << 24 || s->zone_start < s->journal_start + s->journal_blocks
        || s->zone_start > s->journal_start + s->journal_blocks + 64)
        return -EBADMSG;
    return 0;
}

void time_encode(uint8_t *b, uint32_t seed, uint64_t time, uint32_t tag)
{
    memset(b, 0, BDEV_BLOCK_SIZE);
    put_le32(b, TIME_MAGIC);
    put_le64(b + 8, time);
    put_le32(b + 16, tag);
    put_le32(b + 4, block_crc(b, seed, 4));
}

uint32_t time_tag(const uint8_t *b) { return get_le32(b + 16); }

uint64_t time_decode(const uint8_t *b, uint32_t seed) { return get_le32(b) == TIME_MAGIC && get_le32(b + 4) == block_crc(b, seed, 4) ? get_le64(b + 8) : 0; }

void page_encode(uint8_t *b, uint32_t seed, uint32_t zone, uint32_t page, uint64_t checkpoint, const uint64_t *words)
{
    memset(b, 0, 64);
    put_le32(b, PAGE_MAGIC);
    put_le32(b + 8, zone);
    put_le32(b + 12, page);
    put_le64(b + 16, checkpoint);
    for (uint32_t i = 0; i < PAGE_WORDS; i++)
        put_le64(b + 64 + 8 * i, words[i]);
    put_le32(b + 4, block_crc(b, seed, 4));
}

int page_decode(const uint8_t *b, uint32_t seed, uint32_t zone, uint32_t page, uint64_t *words)
{
    if (get_le32(b) != PAGE_MAGIC || get_le32(b + 4) != block_crc(b, seed, 4) || get_le32(b + 8) != zone || get_le32(b + 12) != page)
        return -EBADMSG;
    for (uint32_t i = 0; i < PAGE_WORDS; i++)
        words[i] = get_le64(b + 64 + 8 * i);
    return 0;
}

void jblock_seal(uint8_t *b, uint32_t seed, const struct jheader *h)
{
    memset(b, 0, JBLOCK_HEADER);
    memset(b + JBLOCK_HEADER + h->used, 0, JBLOCK_PAYLOAD - h->used);
    put_le32(b, JBLOCK_MAGIC);
    put_le64(b + 8, h->epoch);
    put_le64(b + 16, h->seq);
    put_le64(b + 24, h->durable);
    put_le16(b + 32, h->used);
    put_le16(b + 34, h->records);
    put_le32(b + 4, block_crc(b, seed, 4));
}

int jblock_open(const uint8_t *b, uint32_t seed, struct jheader *h)
{
    if (get_le32(b) != JBLOCK_MAGIC || get_le32(b + 4) != block_crc(b, seed, 4))
        return -EBADMSG;
    h->epoch = get_le64(b + 8);
    h->seq = get_le64(b + 16);
    h->durable = get_le64(b + 24);
    h->used = get_le16(b + 32);
    h->records = get_le16(b + 34);
    return h->used <= JBLOCK_PAYLOAD && h->records < 1u << TICKET_SHIFT ? 0 : -EBADMSG;
}

bool jblock_is_torn(const uint8_t *b, uint32_t seed, uint64_t epoch, uint64_t seq)
{
    return get_le32(b) == JBLOCK_MAGIC && get_le64(b + 8) == epoch && get_le64(b + 16) == seq && get_le32(b + 4) != block_crc(b, seed, 4);
}

uint32_t jrecord_put_write(uint8_t *p, uint32_t line, uint32_t first, uint32_t count, uint64_t address, const uint32_t *crcs)
{
    uint32_t size = jrecord_write_size(count);
    memset(p, 0, JRECORD_WRITE_HEAD);
    p[0] = JRECORD_WRITE;
    put_le16(p + 2, (uint16_t)count);
    put_le32(p + 4, line);
    put_le32(p + 8, first);
    put_le64(p + 16, address);
    memset(p + size - 8, 0, 8);
    for (uint32_t i = 0; i < count; i++)
        put_le32(p + JRECORD_WRITE_HEAD + 4 * i, crcs[i]);
    return size;
}

uint32_t jrecord_put_share(uint8_t *p, uint32_t line, uint32_t first, uint32_t count, uint64_t address, const uint32_t *crcs)
{
    uint32_t size = jrecord_put_write(p, line, first, count, address, crcs);
    p[0] = JRECORD_SHARE;
    return size;
}

uint32_t jrecord_put_zero(uint8_t *p, uint32_t line, uint64_t first, uint64_t count)
{
    memset(p, 0, JRECORD_ZERO_SIZE);
    p[0] = JRECORD_ZERO;
    put_le32(p + 4, line);
    put_le64(p + 8, first);
    put_le64(p + 16, count);
    return JRECORD_ZERO_SIZE;
}

uint32_t jrecord_put_change(uint8_t *p, const void *payload, uint16_t length, uint32_t back, bool first_piece, bool last_piece)
{
    uint32_t padded = (length + 7u) & ~7u;
    memset(p, 0, JRECORD_CHANGE_HEAD);
    p[0] = JRECORD_CHANGE;
    p[1] = (uint8_t)(first_piece | last_piece << 1);
    put_le16(p + 2, length);
    put_le32(p + 4, back);
    memcpy(p + JRECORD_CHANGE_HEAD, payload, length);
    memset(p + JRECORD_CHANGE_HEAD + length, 0, padded - length);
    return JRECORD_CHANGE_HEAD + padded;
}

uint32_t jrecord_put_cancel(uint8_t *p, uint64_t first_seq, uint16_t count)
{
    memset(p, 0, JRECORD_CANCEL_SIZE);
    p[0] = JRECORD_CANCEL;
    put_le16(p + 2, count);
    put_le64(p + 8, first_seq);
    return JRECORD_CANCEL_SIZE;
}

static int get_write(const uint8_t *p, uint32_t left, struct jrecord *r, uint32_t *size)
{
    r->count = get_le16(p + 2);
    r->line = get_le32(p + 4);
    r->first = get_le32(p + 8);
    r->address = left >= JRECORD_WRITE_HEAD ? get_le64(p + 16) : 0;
    r->crcs = p + JRECORD_WRITE_HEAD;
    *size = jrecord_write_size((uint32_t)r->count);
    return r->count > 0 && r->first + r->count <= RADIX_MAX_BLOCKS ? 0 : -EBADMSG;
}

int jrecord_get(const uint8_t *payload, uint32_t used, uint32_t *at, struct jrecord *r)
{
    uint32_t left = used - *at, size;
    const uint8_t *p = payload + *at;
    int err = 0;
    if (*at > used || left < JRECORD_CANCEL_SIZE)
        return -EBADMSG;
    *r = (struct jrecord){ .type = p[0] };
    switch (r->type) {
    case JRECORD_WRITE:
    case JRECORD_SHARE:
        err = get_write(p, left, r, &size);
        break;
    case JRECORD_ZERO:
        if (left < JRECORD_ZERO_SIZE)
            return -EBADMSG;
        r->line = get_le32(p + 4);
        r->first = get_le64(p + 8);
        r->count = get_le64(p + 16);
        size = JRECORD_ZERO_SIZE;
        if (r->count == 0 || r->first >= RADIX_MAX_BLOCKS || r->count > RADIX_MAX_BLOCKS - r->first)
            err = -EBADMSG;
        break;
    case JRECORD_CHANGE:
        r->first_piece = p[1] & 1;
        r->last_piece = p[1] >> 1 & 1;
        r->length = get_le16(p + 2);
        r->back = get_le32(p + 4);
        r->payload = p + JRECORD_CHANGE_HEAD;
        size = JRECORD_CHANGE_HEAD + ((r->length + 7u) & ~7u);
        break;
    case JRECORD_CANCEL:
        r->count = get_le16(p + 2);
        r->first = get_le64(p + 8);
        size = JRECORD_CANCEL_SIZE;
        break;
    default:
        return -EBADMSG;
    }
    if (err || size > left)
        return -EBADMSG;
    *at += size;
    return 0;
}

void dead_entry_encode(const struct dead_entry *e, uint8_t *b)
{
    put_le64(b, e->block.address);
    b[6] = (uint8_t)((unsigned)(e->what + 1) | (unsigned)e->level << 4);
    uint8_t birth[8];
    put_le64(birth, e->block.birth);
    memcpy(b + 7, birth, 5);
    put_le32(b + 12, e->block.crc);
}

int dead_entry_decode(const uint8_t *b, struct dead_entry *e)
{
    uint8_t birth[8] = { 0 };
    memcpy(birth, b + 7, 5);
    e->block.address = get_le64(b) & 0xffffffffffffu;
    e->block.birth = get_le64(birth);
    e->block.crc = get_le32(b + 12);
    e->level = b[6] >> 4;
    unsigned what = b[6] & 15;
    if (what < 1 || what > 3 || !e->block.address || (what > 1 && (e->level < 1 || e->level > RADIX_MAX_HEIGHT)))
        return -EBADMSG;
    e->what = (enum radix_drop)(what - 1);
    e->block.kind = what == 1 ? RADIX_DATA : RADIX_NODE;
    return 0;
}
