/* What the engine writes: encoded and decoded again, and refused when any bit of it is wrong. */
#include "parallax/dead.h"
#include "parallax/disk.h"
#include "parallax/parallax_private.h"
#include "tests/support/unit.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SEED 0x1234567u

static uint8_t block[BDEV_BLOCK_SIZE];

/* Every bit of the block is flipped once; the decoder must refuse each. */
static unsigned survivors(int (*decode)(void))
{
    unsigned n = 0;
    for (unsigned i = 0; i < BDEV_BLOCK_SIZE * 8; i++) {
        block[i / 8] ^= (uint8_t)(1u << i % 8);
        n += decode() == 0;
        block[i / 8] ^= (uint8_t)(1u << i % 8);
    }
    return n;
}

static int decode_super(void)
{
    struct super s;
    return super_decode(block, &s);
}

static void a_superblock_comes_back_and_no_flipped_bit_passes(void)
{
    struct super s = { .seed = SEED, .journal_start = JOURNAL_START, .journal_blocks = 1024, .zone_start = 1040, .limit_blocks = 77777 }, got;
    memset(s.uuid, 0xab, 16);
    super_encode(&s, block);
    CU_ASSERT_EQUAL_FATAL(super_decode(block, &got), 0);
    CU_ASSERT_EQUAL(memcmp(s.uuid, got.uuid, sizeof s.uuid), 0);
    CU_ASSERT(got.seed == s.seed && got.journal_start == s.journal_start && got.journal_blocks == s.journal_blocks);
    CU_ASSERT(got.zone_start == s.zone_start && got.limit_blocks == s.limit_blocks);
    CU_ASSERT_EQUAL(survivors(decode_super), 0);
}

static struct jheader header;

static int decode_jblock(void) { return jblock_open(block, SEED, &header); }

static void a_journal_block_comes_back_and_no_flipped_bit_passes(void)
{
    uint32_t crcs[3] = { 1, 2, 3 }, at = 0;
    struct jheader h = { .epoch = 5, .seq = 99, .durable = 88, .records = 5 };
    uint8_t *p = block + JBLOCK_HEADER;
    p += jrecord_put_write(p, 7, 1000, 3, 555555, crcs);
    p += jrecord_put_zero(p, 7, 1ull << 31, 1ull << 30);
    p += jrecord_put_change(p, "hello", 5, 9, true, false);
    p += jrecord_put_cancel(p, 42, 4);
    p += jrecord_put_share(p, 8, 1001, 2, 666666, crcs);
    h.used = (uint16_t)(p - block - JBLOCK_HEADER);
    jblock_seal(block, SEED, &h);
    CU_ASSERT_EQUAL_FATAL(decode_jblock(), 0);
    CU_ASSERT(header.epoch == 5 && header.seq == 99 && header.durable == 88 && header.records == 5);
    struct jrecord r;
    CU_ASSERT_EQUAL(jrecord_get(block + JBLOCK_HEADER, header.used, &at, &r), 0);
    CU_ASSERT(r.type == JRECORD_WRITE && r.line == 7 && r.first == 1000 && r.count == 3 && r.address == 555555 && !memcmp(r.crcs, crcs, 12));
    CU_ASSERT_EQUAL(jrecord_get(block + JBLOCK_HEADER, header.used, &at, &r), 0);
    CU_ASSERT(r.type == JRECORD_ZERO && r.first == 1ull << 31 && r.count == 1ull << 30);
    CU_ASSERT_EQUAL(jrecord_get(block + JBLOCK_HEADER, header.used, &at, &r), 0);
    CU_ASSERT(r.type == JRECORD_CHANGE && r.length == 5 && !memcmp(r.payload, "hello", 5) && r.first_piece && !r.last_piece && r.back == 9);
    CU_ASSERT_EQUAL(jrecord_get(block + JBLOCK_HEADER, header.used, &at, &r), 0);
    CU_ASSERT(r.type == JRECORD_CANCEL && r.first == 42 && r.count == 4);
    CU_ASSERT_EQUAL(jrecord_get(block + JBLOCK_HEADER, header.used, &at, &r), 0);
    CU_ASSERT(r.type == JRECORD_SHARE && r.line == 8 && r.first == 1001 && r.count == 2 && r.address == 666666 && !memcmp(r.crcs, crcs, 8) && at == header.used);
    CU_ASSERT_EQUAL(jrecord_get(block + JBLOCK_HEADER, header.used, &at, &r), -EBADMSG);
    CU_ASSERT_EQUAL(survivors(decode_jblock), 0);
    CU_ASSERT_EQUAL(jblock_open(block, SEED + 1, &header), -EBADMSG); /* another store's */
}

static void random_bytes_never_make_a_record_that_reaches_outside(void)
{
    uint64_t seed = unit_seed();
    uint8_t payload[512];
    for (unsigned round = 0; round < 200000; round++) {
        for (unsigned i = 0; i < sizeof payload; i += 8) {
            uint64_t v = unit_random(&seed);
            memcpy(payload + i, &v, 8);
        }
        payload[0] = (uint8_t)(round % 5);
        uint32_t used = (uint32_t)(unit_random(&seed) % sizeof payload), at = 0;
        struct jrecord r;
        while (at < used && jrecord_get(payload, used, &at, &r) == 0) {
            CU_ASSERT_FATAL(at <= used);
            if (r.type == JRECORD_WRITE || r.type == JRECORD_SHARE)
                CU_ASSERT_FATAL(r.crcs + 4 * r.count <= payload + used);
            if (r.type == JRECORD_CHANGE)
                CU_ASSERT_FATAL(r.payload + r.length <= payload + used);
        }
    }
}

static uint64_t words[PAGE_WORDS];

static int decode_page(void)
{
    uint64_t got[PAGE_WORDS];
    return page_decode(block, SEED, 3, 4, got);
}

static void a_space_map_page_comes_back_and_no_flipped_bit_passes(void)
{
    uint64_t got[PAGE_WORDS], seed = 1;
    for (unsigned i = 0; i < PAGE_WORDS; i++)
        words[i] = unit_random(&seed);
    page_encode(block, SEED, 3, 4, 17, words);
    CU_ASSERT_EQUAL_FATAL(page_decode(block, SEED, 3, 4, got), 0);
    CU_ASSERT_EQUAL(memcmp(words, got, sizeof got), 0);
    CU_ASSERT_EQUAL(survivors(decode_page), 0);
    CU_ASSERT_EQUAL(page_decode(block, SEED, 3, 5, got), -EBADMSG); /* another page's place */
}

static void dead_entries_of_every_kind_come_back(void)
{
    uint8_t bytes[16];
    for (int what = RADIX_DROP_DATA; what <= RADIX_DROP_SUBTREE; what++) {
        struct dead_entry e = { .block = { .address = 0xfedcba987654, .birth = 0x9876543210, .crc = 0xdeadbeef, .kind = what ? RADIX_NODE : RADIX_DATA },
                                .what = (enum radix_drop)what, .level = what ? 3 : 0 }, got;
        dead_entry_encode(&e, bytes);
        CU_ASSERT_EQUAL_FATAL(dead_entry_decode(bytes, &got), 0);
        CU_ASSERT(got.block.address == e.block.address && got.block.birth == e.block.birth && got.block.crc == e.block.crc && got.what == e.what && got.level == e.level);
    }
    memset(bytes, 0, sizeof bytes);
    struct dead_entry got;
    CU_ASSERT_EQUAL(dead_entry_decode(bytes, &got), -EBADMSG);
}

static void the_state_record_comes_back_with_its_verdicts(void)
{
    uint64_t holes[2] = { 7, 9 };
    struct sealed_range range = { .epoch = 3, .first = 5, .last = 12, .hole_count = 2, .holes = holes };
    struct stored_state st = { .checkpoint = 1, .epoch = 4, .tail = 5, .next_version = 6, .next_image = 7, .next_line = 8, .sealed_count = 1, .sealed = &range }, got;
    uint32_t length;
    uint8_t *value = state_encode(&st, &length);
    CU_ASSERT_PTR_NOT_NULL_FATAL(value);
    CU_ASSERT_EQUAL_FATAL(state_decode(value, length, &got), 0);
    CU_ASSERT(got.epoch == 4 && got.tail == 5 && got.next_line == 8 && got.sealed_count == 1 && got.sealed[0].last == 12 && got.sealed[0].holes[1] == 9);
    state_fini(&got);
    for (uint32_t n = 0; n < length; n++)
        CU_ASSERT_EQUAL(state_decode(value, n, &got), -EBADMSG);
    free(value);
}

int main(int argc, char **argv)
{
    return unit_main(argc, argv, "disk",
                     (struct unit_test[]){ UNIT(a_superblock_comes_back_and_no_flipped_bit_passes), UNIT(a_journal_block_comes_back_and_no_flipped_bit_passes),
                                           UNIT(random_bytes_never_make_a_record_that_reaches_outside), UNIT(a_space_map_page_comes_back_and_no_flipped_bit_passes),
                                           UNIT(dead_entries_of_every_kind_come_back), UNIT(the_state_record_comes_back_with_its_verdicts), { 0 } });
}
