/* radix_damage_test.c - nodes made wrong in every way a disk can: each is an error, never wrong data and never a crash. */
#include "radix/radix_disk.h"
#include "tests/support/radix_world.h"
#include "tests/support/unit.h"

#include <errno.h>
#include <string.h>

#define DEVICE_BLOCKS (1u << 14)
#define SEED 0x5eedu

static const uint64_t mapped[] = { 0, 255, 256, 70000, 1 << 24, RADIX_MAX_BLOCKS - 1 };

static void make(struct radix_world *w)
{
    radix_world_open(w, DEVICE_BLOCKS, 1);
    for (unsigned i = 0; i < sizeof mapped / sizeof *mapped; i++)
        radix_world_map(w, mapped[i]);
    CU_ASSERT_EQUAL_FATAL(radix_world_merge(w, RADIX_MAX_BLOCKS), 0);
}

/* ---- What is gone with a node ---- */

struct node_list {
    struct radix_entry entry[64];
    unsigned level[64];
    uint64_t first[64];
    unsigned count;
};

static int list_node(void *ctx, unsigned level, uint64_t first, const struct radix_entry *e)
{
    struct node_list *l = ctx;
    l->entry[l->count] = *e;
    l->level[l->count] = level;
    l->first[l->count++] = first;
    return 0;
}

static void list_nodes(struct radix_world *w, struct node_list *l)
{
    *l = (struct node_list){ .count = 0 };
    struct radix_visit v = { .ctx = l, .node = list_node };
    CU_ASSERT_EQUAL_FATAL(radix_walk(&w->io, &w->root, &v), 0);
}

static void answered(struct radix_lookup *l, int error) { l->root.height = error ? (unsigned)-error : 1000; }

static int look(struct radix_world *w, struct radix_cache *c, uint64_t block, struct radix_entry *e)
{
    struct radix_lookup l = { .root = w->root, .first = block, .count = 1, .entries = e, .done = answered };
    int err = radix_lookup(c, &l);
    while (err == -EINPROGRESS && l.root.height == w->root.height)
        loop_turn(w->loop, 0);
    return err != -EINPROGRESS ? err : l.root.height == 1000 ? 0 : -(int)l.root.height;
}

/* Looks every mapped block up through a cold path: those below the damaged node fail, all others are right. */
static bool lookups_are_sound(struct radix_world *w, struct radix_cache *c, uint64_t first, uint64_t end, int expected)
{
    bool sound = true;
    for (unsigned i = 0; i < w->oracle.count; i++) {
        uint64_t block = w->oracle.map[i].block;
        struct radix_entry e;
        int err = look(w, c, block, &e);
        if (block >= first && block < end)
            sound &= err == expected;
        else
            sound &= err == 0 && e.address == w->oracle.map[i].entry.address && e.crc == w->oracle.map[i].entry.crc;
    }
    return sound;
}

struct damage {
    unsigned damaged, data;
    uint64_t first;
    int error;
};

static int count_damaged(void *ctx, unsigned level, uint64_t first, const struct radix_entry *e, int error)
{
    struct damage *d = ctx;
    (void)level;
    (void)e;
    d->damaged++;
    d->first = first;
    d->error = error;
    return 0;
}

static int count_data(void *ctx, uint64_t block, const struct radix_entry *e)
{
    (void)block;
    (void)e;
    ((struct damage *)ctx)->data++;
    return 0;
}

static bool walk_is_sound(struct radix_world *w, uint64_t first, uint64_t end, int expected)
{
    unsigned lost = 0;
    for (unsigned i = 0; i < w->oracle.count; i++)
        lost += w->oracle.map[i].block >= first && w->oracle.map[i].block < end;
    struct damage d = { .damaged = 0 };
    struct radix_visit v = { .ctx = &d, .data = count_data, .damaged = count_damaged };
    bool sound = radix_walk(&w->io, &w->root, &v) == 0 && d.damaged == 1 && d.first == first && d.error == expected;
    sound &= d.data == w->oracle.count - lost;
    v.damaged = NULL;
    return sound && radix_walk(&w->io, &w->root, &v) == expected;
}

static void every_flipped_bit_is_found(void)
{
    struct radix_world w;
    struct radix_cache *c;
    struct node_list l;
    make(&w);
    list_nodes(&w, &l);
    CU_ASSERT_EQUAL(l.count, 4 + 4 + 2 + 1 + 2);
    CU_ASSERT_EQUAL_FATAL(radix_cache_create(&w.device->bdev, SEED, 1, &c), 0);
    unsigned unsound = 0;
    for (unsigned n = 0; n < l.count; n++) {
        unsigned char *bytes = memory_bdev_block(w.device, l.entry[n].address);
        uint64_t end = l.first[n] + radix_span(l.level[n]);
        for (unsigned i = n; i < 8 * BDEV_BLOCK_SIZE; i += l.count) { /* every bit position in some node */
            bytes[i / 8] ^= (unsigned char)(1u << i % 8);
            radix_cache_forget(c, l.entry[n].address);
            unsound += !lookups_are_sound(&w, c, l.first[n], end, -EBADMSG);
            if (i % 8 == 0)
                unsound += !walk_is_sound(&w, l.first[n], end, -EBADMSG);
            bytes[i / 8] ^= (unsigned char)(1u << i % 8);
        }
        radix_cache_forget(c, l.entry[n].address);
    }
    CU_ASSERT_EQUAL(unsound, 0);
    CU_ASSERT(lookups_are_sound(&w, c, 0, 0, 0));
    radix_cache_destroy(c);
    radix_world_close(&w);
}

static void an_unreadable_node_costs_only_what_is_below_it(void)
{
    struct radix_world w;
    struct radix_cache *c;
    struct node_list l;
    make(&w);
    list_nodes(&w, &l);
    CU_ASSERT_EQUAL_FATAL(radix_cache_create(&w.device->bdev, SEED, 1, &c), 0);
    for (unsigned n = 0; n < l.count; n++) {
        uint64_t end = l.first[n] + radix_span(l.level[n]);
        w.device->bad_block = l.entry[n].address;
        radix_cache_forget(c, l.entry[n].address);
        CU_ASSERT(lookups_are_sound(&w, c, l.first[n], end, -EIO));
        CU_ASSERT(walk_is_sound(&w, l.first[n], end, -EIO));
    }
    radix_cache_destroy(c);
    radix_world_close(&w);
}

/* A whole, valid node in another's place, or one from an earlier time at the same address. */
static void a_misplaced_node_is_refused(void)
{
    struct radix_world w;
    struct radix_cache *c;
    struct node_list l;
    make(&w);
    list_nodes(&w, &l);
    CU_ASSERT_EQUAL_FATAL(radix_cache_create(&w.device->bdev, SEED, 1, &c), 0);
    for (unsigned to = 0; to < l.count; to++)
        for (unsigned from = 0; from < l.count; from++) {
            unsigned char kept[BDEV_BLOCK_SIZE], *bytes = memory_bdev_block(w.device, l.entry[to].address);
            memcpy(kept, bytes, BDEV_BLOCK_SIZE);
            memcpy(bytes, memory_bdev_block(w.device, l.entry[from].address), BDEV_BLOCK_SIZE);
            radix_cache_forget(c, l.entry[to].address);
            if (memcmp(kept, bytes, BDEV_BLOCK_SIZE) != 0) {
                uint64_t end = l.first[to] + radix_span(l.level[to]);
                CU_ASSERT(lookups_are_sound(&w, c, l.first[to], end, -EBADMSG));
                CU_ASSERT(walk_is_sound(&w, l.first[to], end, -EBADMSG));
            }
            memcpy(bytes, kept, BDEV_BLOCK_SIZE);
            radix_cache_forget(c, l.entry[to].address);
        }
    radix_cache_destroy(c);
    radix_world_close(&w);
}

/* ---- Nodes whose checksum is right and whose content is not ---- */

static struct radix_entry seal(struct radix_world *w, struct radix_disk_node *n, unsigned level, uint64_t birth, uint64_t address)
{
    memcpy(memory_bdev_block(w->device, address), n, sizeof *n);
    uint32_t crc = radix_node_checksum(SEED, n, level, birth, address);
    return (struct radix_entry){ .kind = RADIX_NODE, .address = address, .birth = birth, .crc = crc };
}

static int no_data(void *ctx, uint64_t block, const struct radix_entry *e)
{
    (void)ctx;
    (void)block;
    (void)e;
    return 0;
}

static int no_run(void *ctx, uint64_t first, uint64_t count, bool now_mapped)
{
    (void)ctx;
    (void)first;
    (void)count;
    (void)now_mapped;
    return 0;
}

static int no_change(void *ctx, struct radix_change *out)
{
    bool *given = ctx;
    *out = (struct radix_change){ .first = 0, .count = 1 };
    return *given ? 0 : (*given = true, 1);
}

static int no_drop(void *ctx, enum radix_drop what, const struct radix_entry *e, unsigned level, uint64_t first)
{
    (void)what;
    return no_run(ctx, first, level, e->kind == RADIX_NONE);
}

/* All ways in refuse a root. */
static void refused(struct radix_world *w, const struct radix_root *root)
{
    struct radix_visit v = { .data = no_data };
    CU_ASSERT_EQUAL(radix_walk(&w->io, root, &v), -EBADMSG);
    struct radix_root none = { .height = 0 }, out;
    CU_ASSERT_EQUAL(radix_diff(&w->io, root, &none, no_run, NULL), -EBADMSG);
    CU_ASSERT_EQUAL(radix_diff(&w->io, &none, root, no_run, NULL), -EBADMSG);
    bool given = false;
    struct radix_merge m = { .next = no_change, .drop = no_drop, .ctx = &given, .birth = RADIX_BIRTH_LIMIT - 1 };
    CU_ASSERT_EQUAL(radix_merge(&w->io, root, &m, &out), -EBADMSG);
    struct radix_cache *c;
    struct radix_entry e;
    CU_ASSERT_EQUAL_FATAL(radix_cache_create(&w->device->bdev, SEED, 1, &c), 0);
    struct radix_root kept = w->root;
    w->root = *root;
    CU_ASSERT_EQUAL(look(w, c, 0, &e), -EBADMSG);
    w->root = kept;
    radix_cache_destroy(c);
}

static void sealed_nodes_with_illegal_entries_are_refused(void)
{
    struct radix_world w;
    radix_world_open(&w, DEVICE_BLOCKS, 1);
    struct radix_entry good = { .kind = RADIX_DATA, .address = 100, .birth = 7, .crc = 1 }, e;
    for (unsigned i = 0; i < 10; i++) {
        struct radix_disk_node n;
        memset(&n, 0, sizeof n);
        radix_entry_encode(&good, &n.entry[0]);
        unsigned level = 1;
        e = good;
        switch (i) {
        case 0: e.kind = RADIX_NODE; break;                                      /* a node below a leaf */
        case 1: level = 2; break;                                                /* data above the leaves */
        case 2: e.address = 0; break;
        case 3: e.address = DEVICE_BLOCKS; break;
        case 4: e.birth = 8; break;                                              /* younger than the node that holds it */
        default: break;
        }
        radix_entry_encode(&e, &n.entry[200]);
        switch (i) {
        case 5: n.entry[200].kind |= 0x10; break;                                /* a reserved bit */
        case 6: n.entry[200].kind = 4; break;                                    /* a kind that does not exist */
        case 7: n.entry[200].kind = 0; break;                                    /* nothing, but with an address */
        case 8: memset(&n.entry[200], 0, 15), n.entry[200].crc[3] = 1; break;    /* nothing, but with a checksum */
        case 9: n.entry[200].kind = 3; break;                                    /* lost, but with a checksum */
        default: break;
        }
        struct radix_root root = { .node = seal(&w, &n, level, 7, 50), .height = level };
        refused(&w, &root);
    }
    radix_world_close(&w);
}

static void roots_that_lead_nowhere_are_refused(void)
{
    struct radix_world w;
    struct radix_disk_node n;
    radix_world_open(&w, DEVICE_BLOCKS, 1);
    memset(&n, 0, sizeof n);
    struct radix_root good = { .node = seal(&w, &n, 1, 7, 50), .height = 1 }, bad = good;
    struct radix_visit v = { .data = no_data };
    CU_ASSERT_EQUAL(radix_walk(&w.io, &good, &v), 0);
    bad.height = 0;
    refused(&w, &bad);
    bad.height = 5;
    refused(&w, &bad);
    bad.height = 2;
    refused(&w, &bad);
    bad = good;
    bad.node.birth = 6;
    refused(&w, &bad);
    bad = good;
    bad.node.kind = RADIX_DATA;
    refused(&w, &bad);
    bad = good;
    bad.node.address = 0;
    refused(&w, &bad);
    bad.node.address = UINT64_MAX;
    refused(&w, &bad);
    bad.node.address = DEVICE_BLOCKS;
    refused(&w, &bad);
    bad.node.address = 51; /* the same content elsewhere */
    memcpy(memory_bdev_block(w.device, 51), &n, sizeof n);
    refused(&w, &bad);
    radix_world_close(&w);
}

static void entries_are_encoded_as_documented(void)
{
    struct radix_entry e = { .kind = RADIX_NODE, .address = 0x665544332211, .birth = 0xa5a4a3a2a1, .crc = 0xc4c3c2c1 }, back;
    static const unsigned char want[16] = { 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 2, 0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xc1, 0xc2, 0xc3, 0xc4 };
    unsigned char bytes[16];
    radix_entry_encode(&e, bytes);
    CU_ASSERT_EQUAL(memcmp(bytes, want, 16), 0);
    CU_ASSERT_EQUAL(radix_entry_decode(bytes, &back), 0);
    CU_ASSERT(back.kind == e.kind && back.address == e.address && back.birth == e.birth && back.crc == e.crc);
    e.kind = RADIX_NONE;
    radix_entry_encode(&e, bytes);
    for (unsigned i = 0; i < 16; i++)
        CU_ASSERT_EQUAL(bytes[i], 0);
    CU_ASSERT_EQUAL(radix_entry_decode(bytes, &back), 0);
    CU_ASSERT_EQUAL(back.kind, RADIX_NONE);
    for (unsigned i = 0; i < 128; i++) { /* nothing else is "nothing" */
        memset(bytes, 0, 16);
        bytes[i / 8] = (unsigned char)(1u << i % 8);
        CU_ASSERT_EQUAL(radix_entry_decode(bytes, &back), -EBADMSG);
    }
    unsigned char block[BDEV_BLOCK_SIZE] = { 0 };
    CU_ASSERT_EQUAL(radix_checksum(0, block), 0x98f94189); /* CRC-32C of 4096 zero bytes */
}

int main(int argc, char **argv)
{
    return unit_main(argc, argv, "radix damage",
                     (struct unit_test[]){ UNIT(every_flipped_bit_is_found), UNIT(an_unreadable_node_costs_only_what_is_below_it),
                                           UNIT(a_misplaced_node_is_refused), UNIT(sealed_nodes_with_illegal_entries_are_refused),
                                           UNIT(roots_that_lead_nowhere_are_refused), UNIT(entries_are_encoded_as_documented), { 0 } });
}
