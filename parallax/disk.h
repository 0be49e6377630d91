/* disk.h - what the engine writes to the block device and the catalog, apart from map nodes: layouts of docs/disk-format.md,
 * with encode, decode and check side by side. Nothing else touches the bytes.
 *
 * Decoders return 0 or -EBADMSG and believe nothing: every length and range is checked. */
#ifndef PARALLAX_DISK_H
#define PARALLAX_DISK_H
#include "base/bdev.h"
#include "radix/radix.h"

#include <stdbool.h>
#include <stdint.h>

/* ---- Superblock ---- */
#define SUPER_VERSION 1u
#define SUPER_COPIES 2u
#define JOURNAL_START 16u

struct super {
    uint8_t uuid[16];
    uint32_t seed;
    uint64_t journal_start, journal_blocks; /* blocks */
    uint64_t zone_start;
    uint64_t limit_blocks; /* 0: none */
    bool timed;            /* commits are timed (below); stores of an older Parallax are not */
};
void super_encode(const struct super *s, uint8_t *block);
/* -EBADMSG damaged or not a superblock; -EPROTONOSUPPORT made by a newer version. */
int super_decode(const uint8_t *block, struct super *out);

/* ---- Times of commits ---- */
/* The first two are written before a commit, the even times to the first, the odd to the second; the third after it. */
#define TIME_ANNOUNCED 2u
#define TIME_COMMITTED 4u

/* tag: tells this commit from another of that time; 0: it has none. */
void time_encode(uint8_t *block, uint32_t seed, uint64_t time, uint32_t tag);
/* 0: nothing that can be believed stands there. */
uint64_t time_decode(const uint8_t *block, uint32_t seed);
/* Of a block that can be believed. */
uint32_t time_tag(const uint8_t *block);

/* ---- Space-map page ---- */
#define ZONE_BLOCKS 258048u
#define ZONE_HEAD_BLOCKS 16u
#define ZONE_PAGES 8u
#define PAGE_LOST 3u /* the state of a page whose content is not to be believed */
#define PAGE_BLOCKS 32256u /* blocks that one page covers */
#define PAGE_WORDS (PAGE_BLOCKS / 64u)

void page_encode(uint8_t *block, uint32_t seed, uint32_t zone, uint32_t page, uint64_t checkpoint, const uint64_t *words);
int page_decode(const uint8_t *block, uint32_t seed, uint32_t zone, uint32_t page, uint64_t *words);

/* ---- Journal block ---- */
#define JBLOCK_HEADER 64u
#define JBLOCK_PAYLOAD (BDEV_BLOCK_SIZE - JBLOCK_HEADER)
#define TICKET_SHIFT 10u /* ticket = seq << TICKET_SHIFT | index of the record in its block */

struct jheader {
    uint64_t epoch, seq, durable;
    uint16_t used, records;
};
/* The payload is in place; fills the header and the checksum. */
void jblock_seal(uint8_t *block, uint32_t seed, const struct jheader *h);
/* Whether it is a journal block at all, and whole. */
int jblock_open(const uint8_t *block, uint32_t seed, struct jheader *out);
/* Whether it is not whole, but begins like that journal block. */
bool jblock_is_torn(const uint8_t *block, uint32_t seed, uint64_t epoch, uint64_t seq);

enum jrecord_type { JRECORD_WRITE = 1, JRECORD_ZERO = 2, JRECORD_CHANGE = 3, JRECORD_CANCEL = 4, JRECORD_SHARE = 5 };

struct jrecord {
    enum jrecord_type type;
    uint32_t line;
    uint64_t first, count;     /* write, share, zero: image blocks; cancel: journal blocks */
    uint64_t address;          /* write, share */
    const uint8_t *crcs;       /* write, share: count little-endian u32 */
    const uint8_t *payload;    /* change */
    uint16_t length;
    uint32_t back;             /* so many journal blocks before it the change before it ends; 0: not told */
    bool first_piece, last_piece;
};
#define JRECORD_WRITE_HEAD 24u
static inline uint32_t jrecord_write_size(uint32_t count) { return (JRECORD_WRITE_HEAD + 4 * count + 7) & ~7u; }
#define JRECORD_ZERO_SIZE 24u
#define JRECORD_CHANGE_HEAD 8u
#define JRECORD_CANCEL_SIZE 16u
/* Write r at p, which has room; return the bytes used. */
uint32_t jrecord_put_write(uint8_t *p, uint32_t line, uint32_t first, uint32_t count, uint64_t address, const uint32_t *crcs);
uint32_t jrecord_put_share(uint8_t *p, uint32_t line, uint32_t first, uint32_t count, uint64_t address, const uint32_t *crcs);
uint32_t jrecord_put_zero(uint8_t *p, uint32_t line, uint64_t first, uint64_t count);
uint32_t jrecord_put_change(uint8_t *p, const void *payload, uint16_t length, uint32_t back, bool first_piece, bool last_piece);
uint32_t jrecord_put_cancel(uint8_t *p, uint64_t first_seq, uint16_t count);
/* Reads the record at *at of a block's payload and moves *at behind it. */
int jrecord_get(const uint8_t *payload, uint32_t used, uint32_t *at, struct jrecord *out);

/* ---- Dead run entry ---- */
struct dead_entry {
    struct radix_entry block; /* address, birth, crc */
    enum radix_drop what;
    uint8_t level;
};
#define DEAD_PER_BLOCK (BDEV_BLOCK_SIZE / 16u)
void dead_entry_encode(const struct dead_entry *e, uint8_t *bytes);
int dead_entry_decode(const uint8_t *bytes, struct dead_entry *out);
#endif
