/* radix_disk.h - the on-disk form of map entries and nodes.
 *
 * A node is RADIX_FANOUT entries and nothing else: 4096 bytes, no header. What a header would say is bound by the checksum in
 * the entry that leads to the node: it covers the content, the node's level, its birth and its own address, so that a node
 * found at another level or place than its parent says is refused. All integers are little-endian.
 *
 * Entry, 16 bytes:
 *    0   6  address       block number on the device; 0 is never a target
 *    6   1  kind          low 4 bits: enum radix_kind; high 4 bits: reserved, zero
 *    7   5  birth         generation the target was written in; never after the birth of the node that holds the entry
 *   12   4  crc           of the target: radix_checksum of a data block, radix_node_checksum of a node
 * An entry that leads nowhere (RADIX_NONE) is 16 zero bytes. A lost one has no crc (zero). */
#ifndef RADIX_RADIX_DISK_H
#define RADIX_RADIX_DISK_H
#include "base/endian.h"
#include "radix/radix.h"

#define RADIX_ENTRY_BYTES 16u
#define RADIX_ADDRESS_LIMIT (1ull << 48)
#define RADIX_BIRTH_LIMIT (1ull << 40)

struct radix_disk_entry {
    uint8_t address[6]; /*  0 */
    uint8_t kind;       /*  6 */
    uint8_t birth[5];   /*  7 */
    uint8_t crc[4];     /* 12 */
};

struct radix_disk_node {
    struct radix_disk_entry entry[RADIX_FANOUT];
};

_Static_assert(offsetof(struct radix_disk_entry, kind) == 6, "kind at 6");
_Static_assert(offsetof(struct radix_disk_entry, birth) == 7, "birth at 7");
_Static_assert(offsetof(struct radix_disk_entry, crc) == 12, "crc at 12");
_Static_assert(sizeof(struct radix_disk_entry) == RADIX_ENTRY_BYTES, "an entry is 16 bytes");
_Static_assert(sizeof(struct radix_disk_node) == BDEV_BLOCK_SIZE, "a node is one block");

/* Image blocks below a node of that level; level 0 is one data block. */
static inline uint64_t radix_span(unsigned level) { return 1ull << 8 * level; }
/* Image blocks that a root of that height maps. */
static inline uint64_t radix_capacity(unsigned height) { return height ? radix_span(height) : 0; }
/* Which entry of a node of that level leads to the image block. */
static inline unsigned radix_index(unsigned level, uint64_t block) { return (unsigned)(block >> 8 * (level - 1)) & (RADIX_FANOUT - 1); }
/* First image block below the node of that level that holds the block. */
static inline uint64_t radix_first(unsigned level, uint64_t block) { return block & ~(radix_span(level) - 1); }

/* Takes the fields apart without judging them: for entries of a node that was checked. */
static inline void radix_entry_unpack(const struct radix_disk_entry *d, struct radix_entry *out)
{
    uint64_t low = get_le64(d), high = get_le64((const char *)d + 8);
    out->address = low & (RADIX_ADDRESS_LIMIT - 1);
    out->kind = (enum radix_kind)(low >> 48 & 15);
    out->birth = low >> 56 | (high & 0xffffffffu) << 8;
    out->crc = (uint32_t)(high >> 32);
}

static inline enum radix_kind radix_entry_kind(const struct radix_disk_entry *d) { return (enum radix_kind)(d->kind & 15); }

/* Whether two entries lead to the same target; the births may differ. */
static inline bool radix_same_target(const struct radix_entry *a, const struct radix_entry *b)
{
    return a->kind == b->kind && (a->kind == RADIX_NONE || (a->address == b->address && a->crc == b->crc));
}

static inline bool radix_same_entry(const struct radix_entry *a, const struct radix_entry *b)
{
    return radix_same_target(a, b) && (a->kind == RADIX_NONE || a->birth == b->birth);
}

/* Checksum of a node as its parent's entry carries it. */
uint32_t radix_node_checksum(uint32_t seed, const struct radix_disk_node *n, unsigned level, uint64_t birth, uint64_t address);

/* Whether e can lead to a node of that level on a device of so many blocks: to be asked before reading. 0 or -EBADMSG. */
int radix_node_entry_check(const struct radix_entry *e, unsigned level, uint64_t device_blocks);
/* Whether what was read is the node that e leads to, and every entry in it is legal. 0 or -EBADMSG. */
int radix_node_check(const struct radix_disk_node *n, uint32_t seed, const struct radix_entry *e, unsigned level, uint64_t device_blocks);
/* Whether a root as given by someone else's storage is one. 0 or -EBADMSG. */
int radix_root_check(const struct radix_root *root, uint64_t device_blocks);
#endif
