/* parallax_repair_test.c - damage made by hand in the file of a closed store, and what check, repair and collection make of it.
 * Whatever is damaged, nothing is given up that could be data, and what the damage does not touch goes on. */
#include "parallax/parallax_private.h"
#include "parallax/store_backing.h"
#include "tests/support/engine_fail.h"
#include "tests/support/rig.h"
#include "tests/support/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MIB (1ull << 20)
#define BLOCKS 1024u /* of the image that is kept */

/* ---- The file below ---- */

static void transfer(const struct rig *r, uint64_t address, void *block, bool writes)
{
    char path[300];
    snprintf(path, sizeof path, "%s/blocks", r->directory);
    int fd = open(path, writes ? O_WRONLY : O_RDONLY);
    off_t at = (off_t)(address * BDEV_BLOCK_SIZE);
    if ((writes ? pwrite(fd, block, BDEV_BLOCK_SIZE, at) : pread(fd, block, BDEV_BLOCK_SIZE, at)) != BDEV_BLOCK_SIZE)
        engine_fail("the file of the blocks cannot be used");
    close(fd);
}

static void spoil(const struct rig *r, uint64_t address)
{
    uint8_t block[BDEV_BLOCK_SIZE];
    transfer(r, address, block, false);
    block[100] ^= 0x40;
    block[4000] ^= 1;
    transfer(r, address, block, true);
}

static struct super super_of(const struct rig *r)
{
    uint8_t block[BDEV_BLOCK_SIZE];
    struct super s;
    transfer(r, 0, block, false);
    if (super_decode(block, &s))
        engine_fail("no superblock");
    return s;
}

/* Changes both copies of the first page of the space map, as far as they are pages. */
static void edit_first_page(const struct rig *r, void (*edit)(uint64_t *words, uint64_t address), uint64_t address)
{
    struct super s = super_of(r);
    for (unsigned copy = 0; copy < 2; copy++) {
        uint8_t block[BDEV_BLOCK_SIZE];
        uint64_t words[PAGE_WORDS], at = s.zone_start + copy * ZONE_PAGES;
        transfer(r, at, block, false);
        if (page_decode(block, s.seed, 0, 0, words))
            continue;
        edit(words, address - s.zone_start);
        page_encode(block, s.seed, 0, 0, 1, words);
        transfer(r, at, block, true);
    }
}

#define LEAKED 100u

static void count_free_ones_as_used(uint64_t *words, uint64_t i)
{
    unsigned done = 0;
    for (; i < PAGE_BLOCKS && done < LEAKED; i++)
        if (!(words[i / 64] >> (i % 64) & 1)) {
            words[i / 64] |= 1ull << (i % 64);
            done++;
        }
}

static void count_as_free(uint64_t *words, uint64_t i) { words[i / 64] &= ~(1ull << (i % 64)); }

/* ---- The store ---- */

static void start_with(struct rig *r, const char *test, uint64_t size_bytes)
{
    engine_where = (struct engine_where){ test, 0, 0 };
    rig_start(r, NULL, size_bytes);
    rig_create(r, "kept", BLOCKS * BDEV_BLOCK_SIZE);
    struct image *img = rig_image(r, "kept", IMAGE_READ_WRITE);
    rig_write(r, img, 0, BLOCKS, 1);
    image_close(img);
}

static void start(struct rig *r, const char *test) { start_with(r, test, 64 * MIB); }

static void expect_kept(struct rig *r)
{
    struct image *img = rig_image(r, "kept", IMAGE_READ_ONLY);
    rig_expect(r, img, 0, BLOCKS, 1);
    image_close(img);
}

static struct radix_root root_of(struct rig *r, const char *name)
{
    rig_checkpoint(r);
    return *lookup_root(tree_image_named(&r->store->tree, name)->head);
}

/* Address of the data block of image block 0. */
static int first(void *ctx, uint64_t block, const struct radix_entry *e)
{
    *(uint64_t *)ctx = block ? 0 : e->address;
    return -ECANCELED;
}

static uint64_t first_data(struct rig *r, const char *name)
{
    uint64_t address = 0;
    struct radix_root root = root_of(r, name);
    struct radix_io io = { .device = r->store->blocks, .seed = r->store->super.seed };
    struct radix_visit visit = { .ctx = &address, .data = first };
    radix_walk(&io, &root, &visit);
    return address;
}

static void fill_up(struct rig *r)
{
    rig_create(r, "filler", 64 * MIB);
    struct image *img = rig_image(r, "filler", IMAGE_READ_WRITE);
    CU_ASSERT_EQUAL(rig_write(r, img, 0, 64 * MIB / BDEV_BLOCK_SIZE, 7), -ENOSPC);
    image_close(img);
}

static void leaked_blocks_are_found_and_freed(void)
{
    struct rig r;
    start(&r, __func__);
    rig_settle(&r);
    uint64_t used = rig_status(&r).used_bytes;
    rig_close(&r);
    edit_first_page(&r, count_free_ones_as_used, super_of(&r).zone_start);
    rig_open(&r);
    CU_ASSERT_EQUAL(rig_status(&r).used_bytes, used + LEAKED * BDEV_BLOCK_SIZE);
    struct store_check_result c = rig_check(&r, 0);
    CU_ASSERT(c.leaked_blocks == LEAKED && !c.mended && !c.damaged && !c.wrongly_free);
    c = rig_check(&r, STORE_CHECK_COLLECT);
    CU_ASSERT(c.leaked_blocks == LEAKED && c.mended == LEAKED);
    CU_ASSERT_EQUAL(c.freed_bytes, LEAKED * BDEV_BLOCK_SIZE);
    CU_ASSERT(rig_is_sound(&r));
    CU_ASSERT_EQUAL(rig_status(&r).used_bytes, used);
    rig_close(&r);
    rig_open(&r);
    CU_ASSERT(rig_is_sound(&r));
    expect_kept(&r);
    rig_end(&r);
}

static void a_block_in_use_that_counts_as_free_is_not_given_away_after_a_repair(void)
{
    struct rig r;
    start(&r, __func__);
    uint64_t address = first_data(&r, "kept");
    rig_close(&r);
    edit_first_page(&r, count_as_free, address);
    rig_open(&r);
    CU_ASSERT_EQUAL(rig_check(&r, 0).wrongly_free, 1);
    struct store_check_result c = rig_check(&r, STORE_CHECK_REPAIR);
    CU_ASSERT(c.wrongly_free == 1 && c.mended == 1);
    CU_ASSERT(rig_is_sound(&r));
    fill_up(&r);
    expect_kept(&r);
    CU_ASSERT(rig_is_sound(&r));
    rig_end(&r);
}

static void an_unreadable_page_of_the_space_map_is_made_anew(void)
{
    struct rig r;
    start(&r, __func__);
    rig_settle(&r);
    uint64_t used = rig_status(&r).used_bytes;
    rig_close(&r);
    struct super s = super_of(&r);
    spoil(&r, s.zone_start);
    spoil(&r, s.zone_start + ZONE_PAGES);
    rig_open(&r);
    expect_kept(&r);
    struct store_check_result c = rig_check(&r, STORE_CHECK_DATA);
    CU_ASSERT(c.lost_pages == 1 && !c.damaged && !c.wrongly_free && !c.leaked_blocks);
    CU_ASSERT_EQUAL(rig_check(&r, STORE_CHECK_REPAIR).mended, 1);
    CU_ASSERT(rig_is_sound(&r));
    CU_ASSERT_EQUAL(rig_status(&r).used_bytes, used);
    fill_up(&r);
    rig_close(&r);
    rig_open(&r);
    expect_kept(&r);
    CU_ASSERT(rig_is_sound(&r));
    rig_end(&r);
}

/* As the end of the process does it: nothing more is written. */
static void kill_store(struct rig *r)
{
    struct backing b = r->store->backing;
    store_abandon(r->store);
    b.close(&b);
    r->store = NULL;
}

/* A page that could not be read for a while lacks what was changed meanwhile. */
static void a_page_of_the_space_map_that_comes_back_is_not_believed(void)
{
    struct rig r;
    uint8_t pages[2][BDEV_BLOCK_SIZE];
    start_with(&r, __func__, 256 * MIB); /* more than one page: the lost one gives no space to a checkpoint */
    rig_create(&r, "other", BLOCKS * BDEV_BLOCK_SIZE);
    struct image *img = rig_image(&r, "other", IMAGE_READ_WRITE);
    rig_write(&r, img, 0, BLOCKS, 1);
    rig_checkpoint(&r);
    rig_write(&r, img, 0, BLOCKS / 2, 2);
    image_close(img);
    kill_store(&r); /* what was written last stands in the journal only */
    struct super s = super_of(&r);
    for (unsigned i = 0; i < 2; i++) {
        transfer(&r, s.zone_start + i * ZONE_PAGES, pages[i], false);
        spoil(&r, s.zone_start + i * ZONE_PAGES);
    }
    rig_open(&r);
    rig_checkpoint(&r);
    rig_close(&r);
    for (unsigned i = 0; i < 2; i++)
        transfer(&r, s.zone_start + i * ZONE_PAGES, pages[i], true);
    rig_open(&r);
    struct store_check_result c = rig_check(&r, STORE_CHECK_DATA);
    CU_ASSERT(c.lost_pages == 1 && !c.damaged && !c.wrongly_free && !c.leaked_blocks);
    CU_ASSERT_EQUAL(rig_check(&r, STORE_CHECK_REPAIR).mended, 1);
    CU_ASSERT(rig_is_sound(&r));
    expect_kept(&r);
    img = rig_image(&r, "other", IMAGE_READ_ONLY);
    rig_expect(&r, img, 0, BLOCKS / 2, 2);
    rig_expect(&r, img, BLOCKS / 2, BLOCKS / 2, 1);
    image_close(img);
    rig_end(&r);
}

/* Two snapshots and a head, all different: the head's dead list names what the second snapshot alone holds. */
static void a_damaged_dead_list_costs_space_until_the_next_collection_and_nothing_else(void)
{
    struct rig r;
    start(&r, __func__);
    rig_create(&r, "disk", 8 * MIB);
    struct image *img = rig_image(&r, "disk", IMAGE_READ_WRITE);
    rig_write(&r, img, 0, 512, 1);
    rig_snapshot(&r, "disk@a");
    rig_write(&r, img, 0, 512, 2);
    rig_snapshot(&r, "disk@b");
    rig_write(&r, img, 0, 512, 3);
    image_close(img);
    rig_checkpoint(&r);
    const struct version *head = tree_image_named(&r.store->tree, "disk")->head;
    CU_ASSERT_FATAL(head->runs.count > 0);
    uint64_t address = head->runs.runs[0].address;
    rig_close(&r);
    spoil(&r, address);
    rig_open(&r);
    struct store_check_result c = rig_check(&r, STORE_CHECK_DATA);
    CU_ASSERT(c.dead_damaged == 1 && !c.damaged && !c.leaked_blocks);
    rig_unsnapshot(&r, "disk@b");
    rig_settle(&r);
    CU_ASSERT(!rig_status(&r).failed);
    c = rig_check(&r, STORE_CHECK_DATA);
    CU_ASSERT(!c.dead_damaged && !c.damaged && c.leaked_blocks > 200);
    CU_ASSERT_EQUAL(rig_check(&r, STORE_CHECK_COLLECT).mended, c.leaked_blocks);
    CU_ASSERT(rig_is_sound(&r));
    img = rig_image(&r, "disk", IMAGE_READ_ONLY);
    rig_expect(&r, img, 0, 512, 3);
    image_close(img);
    img = rig_image(&r, "disk@a", IMAGE_READ_ONLY);
    rig_expect(&r, img, 0, 512, 1);
    image_close(img);
    expect_kept(&r);
    rig_end(&r);
}

/* What is below a damaged node is not met by the walk, and must not be taken for leaked. */
static void nothing_is_freed_that_a_damaged_node_may_hold(void)
{
    struct rig r;
    start(&r, __func__);
    uint64_t root = root_of(&r, "kept").node.address;
    rig_close(&r);
    uint8_t before[BDEV_BLOCK_SIZE];
    transfer(&r, root, before, false);
    spoil(&r, root);
    rig_open(&r);
    struct store_check_result c = rig_check(&r, STORE_CHECK_DATA);
    CU_ASSERT(c.damaged == 1 && c.leaked_blocks >= BLOCKS);
    c = rig_check(&r, STORE_CHECK_REPAIR);
    CU_ASSERT_EQUAL(c.mended, 0);
    CU_ASSERT_EQUAL(rig_check(&r, STORE_CHECK_COLLECT).mended, 0);
    fill_up(&r);
    rig_close(&r);
    transfer(&r, root, before, true); /* the damage was of the medium's reading, say */
    rig_open(&r);
    expect_kept(&r);
    CU_ASSERT(rig_is_sound(&r));
    rig_end(&r);
}

/* The address of the leaf that holds image block 0. */
static int first_leaf(void *ctx, unsigned level, uint64_t first_block, const struct radix_entry *e)
{
    *(uint64_t *)ctx = level == 1 && first_block == 0 ? e->address : 0;
    return -ECANCELED;
}

static uint64_t leaf_of(struct rig *r, const char *name)
{
    uint64_t address = 0;
    struct radix_root root = root_of(r, name);
    struct radix_io io = { .device = r->store->blocks, .seed = r->store->super.seed };
    struct radix_visit visit = { .ctx = &address, .node = first_leaf };
    radix_walk(&io, &root, &visit);
    return address;
}

static void expect(struct rig *r, const char *target, uint64_t first_block, uint64_t count, uint32_t version)
{
    struct image *img = rig_image(r, target, IMAGE_READ_ONLY);
    rig_expect(r, img, first_block, count, version);
    image_close(img);
}

static bool reads(struct rig *r, const char *target, uint64_t block)
{
    bool same;
    struct image *img = rig_image(r, target, IMAGE_READ_ONLY);
    int err = rig_read(r, img, block, 1, 1, &same);
    image_close(img);
    return !err;
}

static void write_to(struct rig *r, const char *name, uint64_t first_block, uint64_t count, uint32_t version)
{
    struct image *img = rig_image(r, name, IMAGE_READ_WRITE);
    CU_ASSERT_EQUAL(rig_write(r, img, first_block, count, version), 0);
    CU_ASSERT_EQUAL(rig_flush(r, img), 0);
    image_close(img);
}

#define HURT 512u /* blocks of the image whose map is damaged: two leaves */

/* An image with a snapshot; its first leaf, which both share, is spoilt while the store is closed. */
static void start_hurt(struct rig *r, const char *test)
{
    start(r, test);
    rig_create(r, "hurt", HURT * BDEV_BLOCK_SIZE);
    write_to(r, "hurt", 0, HURT, 1);
    rig_snapshot(r, "hurt@before");
    rig_snapshot(r, "kept@before");
    uint64_t leaf = leaf_of(r, "hurt");
    CU_ASSERT_FATAL(leaf != 0);
    rig_close(r);
    spoil(r, leaf);
    rig_open(r);
}

static void a_damaged_map_node_costs_its_image_alone(void)
{
    struct rig r;
    start_hurt(&r, __func__);
    for (uint32_t version = 2; version < 6; version++) { /* many checkpoints, all of which have to change what is damaged */
        write_to(&r, "hurt", 7, 3, version);
        write_to(&r, "kept", 0, 32, version);
        rig_checkpoint(&r);
        CU_ASSERT(!rig_status(&r).failed);
        expect(&r, "hurt", 7, 3, version);
        expect(&r, "hurt", 256, HURT - 256, 1);
        CU_ASSERT(!reads(&r, "hurt", 6) && !reads(&r, "hurt", 10));
        expect(&r, "kept", 0, 32, version);
        expect(&r, "kept@before", 0, BLOCKS, 1);
        rig_snapshot(&r, version % 2 ? "hurt@odd" : "hurt@even");
        rig_unsnapshot(&r, version % 2 ? "hurt@odd" : "hurt@even");
    }
    rig_close(&r);
    rig_open(&r);
    expect(&r, "hurt", 7, 3, 5);
    CU_ASSERT(!reads(&r, "hurt", 0) && !reads(&r, "hurt", 255) && !reads(&r, "hurt@before", 7));
    struct store_check_result c = rig_check(&r, STORE_CHECK_DATA);
    CU_ASSERT(c.damaged >= 3 && !c.wrongly_free); /* two ranges of the head, the leaf of the snapshot */
    CU_ASSERT_EQUAL(rig_check(&r, STORE_CHECK_COLLECT).mended, 0);
    rig_unsnapshot(&r, "hurt@before");
    rig_settle(&r);
    c = rig_check(&r, STORE_CHECK_COLLECT); /* what is lost may be below the node still */
    CU_ASSERT(c.damaged == 2 && c.leaked_blocks && !c.mended);
    write_to(&r, "hurt", 0, 256, 9);
    rig_settle(&r);
    expect(&r, "hurt", 0, 256, 9);
    c = rig_check(&r, STORE_CHECK_COLLECT);
    CU_ASSERT(!c.damaged && c.leaked_blocks && c.mended == c.leaked_blocks);
    CU_ASSERT(rig_is_sound(&r));
    rig_end(&r);
}

/* Else an export would leave it out, and give zeroes. */
static void what_cannot_be_read_counts_as_stored(void)
{
    struct rig r;
    struct store_op op;
    struct image_range range;
    struct image_stored stored = { .ranges = &range, .room = 1 };
    start_hurt(&r, __func__);
    write_to(&r, "hurt", 7, 1, 2);
    for (unsigned lost = 0; lost < 2; lost++) {
        if (lost)
            rig_snapshot(&r, "hurt@later");
        struct image *img = rig_image(&r, lost ? "hurt@later" : "hurt@before", IMAGE_READ_ONLY);
        stored.next = 0;
        rig_arm(&op);
        image_get_stored(img, &op, &stored);
        CU_ASSERT_EQUAL(rig_run(&r, &op), 0);
        CU_ASSERT(stored.count == 1 && range.offset == 0 && range.length == HURT * BDEV_BLOCK_SIZE);
        CU_ASSERT_EQUAL(stored.next, image_size(img));
        image_close(img);
    }
    rig_end(&r);
}

static void what_was_lost_is_gone_with_a_discard_or_with_its_image(void)
{
    struct rig r;
    start_hurt(&r, __func__);
    write_to(&r, "hurt", 7, 1, 2);
    rig_clone(&r, "hurt", "clone");
    rig_checkpoint(&r);
    struct image *img = rig_image(&r, "clone", IMAGE_READ_WRITE);
    CU_ASSERT_EQUAL(rig_discard(&r, img, 0, 200), 0);
    image_close(img);
    rig_settle(&r);
    expect(&r, "clone", 0, 200, 0);
    CU_ASSERT(!reads(&r, "clone", 200) && !reads(&r, "hurt", 0));
    rig_delete(&r, "hurt");
    rig_settle(&r);
    CU_ASSERT(rig_check(&r, STORE_CHECK_DATA).damaged > 0);
    rig_delete(&r, "clone");
    rig_settle(&r);
    rig_check(&r, STORE_CHECK_COLLECT);
    CU_ASSERT(rig_is_sound(&r));
    expect_kept(&r);
    rig_end(&r);
}

/* A program that does not know lost entries must not take their nodes for damaged. */
static void a_store_with_lost_entries_says_so(void)
{
    struct rig r;
    start_hurt(&r, __func__);
    CU_ASSERT(!r.store->has_lost);
    write_to(&r, "hurt", 7, 1, 2);
    rig_checkpoint(&r);
    rig_close(&r);
    rig_open(&r);
    CU_ASSERT(r.store->has_lost);
    struct stored_state st = { .has_lost = true }, back;
    uint32_t length;
    uint8_t *b = state_encode(&st, &length);
    CU_ASSERT_EQUAL(b[0], 2);
    b[0] = 3;
    CU_ASSERT_EQUAL(state_decode(b, length, &back), -EPROTONOSUPPORT);
    free(b);
    rig_end(&r);
}

static int no_read(struct bdev *d, uint64_t block, void *buf, uint32_t blocks)
{
    (void)d, (void)block, (void)buf, (void)blocks;
    return -EIO;
}

static int no_read_many(struct bdev *d, const uint64_t *addresses, void *const *buffers, uint32_t count)
{
    (void)d, (void)addresses, (void)buffers, (void)count;
    return -EIO;
}

/* A cable that is out for a while: what cannot be read then is there afterwards. */
static void a_device_that_reads_nothing_loses_nothing(void)
{
    struct rig r;
    struct store_op op;
    start(&r, __func__);
    rig_settle(&r);
    rig_close(&r);
    rig_open(&r);
    write_to(&r, "kept", 7, 1, 1);
    const struct bdev_ops *ops = r.store->blocks->ops;
    struct bdev_ops out = *ops;
    out.read = no_read;
    out.read_many = no_read_many;
    r.store->blocks->ops = &out;
    rig_arm(&op);
    store_checkpoint(r.store, &op);
    CU_ASSERT_EQUAL(rig_run(&r, &op), -EIO);
    r.store->blocks->ops = ops;
    CU_ASSERT(rig_status(&r).failed);
    CU_ASSERT_EQUAL(store_close(r.store), -EIO);
    rig_open(&r);
    expect_kept(&r);
    CU_ASSERT(rig_is_sound(&r));
    CU_ASSERT(!r.store->has_lost);
    rig_end(&r);
}

static void dedup(struct rig *r, const char *name)
{
    struct store_op op;
    struct image_dedup d;
    rig_arm(&op);
    image_dedup(r->store, &op, name, &d);
    CU_ASSERT_EQUAL(rig_run(r, &op), 0);
    CU_ASSERT_EQUAL(d.shared_bytes, BLOCKS * BDEV_BLOCK_SIZE);
}

/* Nothing else counts meanwhile: no checkpoint runs. */
static void miscount(struct rig *r, uint64_t address, int by)
{
    rig_settle(r);
    pool_adjust(&r->store->pool, address, by);
    rig_checkpoint(r);
}

static void wrong_counts_of_references_are_found_and_put_right(void)
{
    struct rig r;
    start(&r, __func__);
    rig_settle(&r);
    uint64_t used = rig_status(&r).used_bytes;
    rig_snapshot(&r, "kept@s");
    rig_create(&r, "twin", BLOCKS * BDEV_BLOCK_SIZE);
    write_to(&r, "twin", 0, BLOCKS, 1);
    dedup(&r, "twin");
    rig_snapshot(&r, "twin@s");
    write_to(&r, "twin", 0, 300, 2);
    rig_clone(&r, "twin@s", "third");
    CU_ASSERT(rig_is_sound(&r));
    uint64_t address = first_data(&r, "kept");
    miscount(&r, address, 2);
    struct store_check_result c = rig_check(&r, 0);
    CU_ASSERT(c.overcounted == 1 && !c.undercounted && !c.damaged && !c.mended);
    CU_ASSERT_EQUAL(rig_check(&r, STORE_CHECK_COLLECT).mended, 1);
    CU_ASSERT(rig_is_sound(&r));
    miscount(&r, address, -1);
    c = rig_check(&r, STORE_CHECK_REPAIR);
    CU_ASSERT(c.undercounted == 1 && !c.overcounted && c.mended == 1);
    rig_close(&r);
    rig_open(&r);
    CU_ASSERT(rig_is_sound(&r));
    rig_delete(&r, "twin");
    rig_delete(&r, "third");
    rig_settle(&r);
    expect_kept(&r);
    miscount(&r, address, 2); /* a block with a count left over is leaked when it is dropped */
    write_to(&r, "kept", 0, BLOCKS, 1);
    rig_unsnapshot(&r, "kept@s");
    rig_settle(&r);
    c = rig_check(&r, STORE_CHECK_COLLECT);
    CU_ASSERT(c.overcounted == 1 && c.leaked_blocks == 1 && c.mended == 2);
    CU_ASSERT(rig_is_sound(&r));
    CU_ASSERT_EQUAL(rig_status(&r).used_bytes, used);
    expect_kept(&r);
    rig_end(&r);
}

static struct bdev_ops counting;
static int (*plain_read)(struct bdev *d, uint64_t block, void *buf, uint32_t blocks);
static unsigned reads_alone;

static int count_read(struct bdev *d, uint64_t block, void *buf, uint32_t blocks)
{
    reads_alone++;
    return plain_read(d, block, buf, blocks);
}

#define SCATTERED 512u

/* A leaf a block, and no two blocks that follow each other on the device: read one by one, they would be 1,024 reads. */
static void a_check_does_not_wait_for_each_block(void)
{
    struct rig r;
    start(&r, __func__);
    rig_create(&r, "wide", SCATTERED * 257ull * BDEV_BLOCK_SIZE);
    struct image *img = rig_image(&r, "wide", IMAGE_READ_WRITE);
    for (uint64_t i = SCATTERED; i--;)
        rig_write(&r, img, i * 257, 1, 1);
    image_close(img);
    uint64_t address = first_data(&r, "wide");
    rig_close(&r);
    spoil(&r, address);
    rig_open(&r);
    const struct bdev_ops *ops = r.store->blocks->ops;
    counting = *ops;
    counting.read = count_read;
    plain_read = ops->read;
    r.store->blocks->ops = &counting;
    struct store_check_result c = rig_check(&r, STORE_CHECK_DATA);
    r.store->blocks->ops = ops;
    CU_ASSERT(c.damaged == 1 && c.blocks_checked >= SCATTERED && c.nodes_checked >= SCATTERED);
    CU_ASSERT(reads_alone < SCATTERED / 16);
    rig_end(&r);
}

int main(int argc, char **argv)
{
    static const struct unit_test tests[] = {
        UNIT(leaked_blocks_are_found_and_freed),
        UNIT(a_block_in_use_that_counts_as_free_is_not_given_away_after_a_repair),
        UNIT(an_unreadable_page_of_the_space_map_is_made_anew),
        UNIT(a_page_of_the_space_map_that_comes_back_is_not_believed),
        UNIT(a_damaged_dead_list_costs_space_until_the_next_collection_and_nothing_else),
        UNIT(nothing_is_freed_that_a_damaged_node_may_hold),
        UNIT(a_damaged_map_node_costs_its_image_alone),
        UNIT(what_cannot_be_read_counts_as_stored),
        UNIT(what_was_lost_is_gone_with_a_discard_or_with_its_image),
        UNIT(a_store_with_lost_entries_says_so),
        UNIT(a_device_that_reads_nothing_loses_nothing),
        UNIT(wrong_counts_of_references_are_found_and_put_right),
        UNIT(a_check_does_not_wait_for_each_block),
        { 0 },
    };
    return unit_main(argc, argv, "parallax repair", tests);
}
