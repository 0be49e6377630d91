/* parallax_check_test.c - what a full walk finds that reading does not: a block that was given to two. */
#include "parallax/parallax_private.h"
#include "tests/support/bare.h"
#include "tests/support/unit.h"

#include <string.h>

#define STORE_BYTES (48ull << 20)

static struct bare b;
static unsigned told_of_two;

static void look_for_two_users(void *ctx, const char *line)
{
    (void)ctx;
    told_of_two += strstr(line, "has another user") != NULL;
}

static struct store_check_result check(unsigned flags)
{
    struct bare_run run;
    struct store_check_result result = { 0 };
    bare_arm(&run);
    told_of_two = 0;
    store_check(b.store, &run.op, flags, look_for_two_users, NULL, &result);
    CU_ASSERT_EQUAL(bare_wait(&b, &run), 0);
    return result;
}

/* What a bug would do: the image's block `block` is said to be at an address that is somebody else's, with its own checksum. */
static void give_away(uint64_t address, uint32_t block)
{
    struct line *l = b.img->disk->head->line;
    struct index *ix = &b.store->index[b.store->active];
    uint64_t ticket = (b.store->journal.next_seq << TICKET_SHIFT) - 1, low, high;
    line_interval(l, ticket, &low, &high);
    index_insert(ix, &(struct index_entry){ .line = l->id, .block = block, .ticket = ticket, .address = address, .crc = 0x12345678 }, low, high);
    tree_dirty_version(&b.store->tree, b.img->disk->head);
}

static void a_block_of_two_users_is_damage_and_frees_nothing(void)
{
    bare_begin(&b, STORE_BYTES);
    CU_ASSERT_EQUAL(bare_write(&b, 0, 200, 7), 0);
    CU_ASSERT_EQUAL(bare_checkpoint(&b), 0);
    struct store_check_result sound = check(STORE_CHECK_DATA);
    CU_ASSERT(sound.damaged == 0 && told_of_two == 0);
    give_away(bare_address(&b, 100, 7), 300);
    CU_ASSERT_EQUAL(bare_write(&b, 500, 1, 8), 0);
    CU_ASSERT_EQUAL(bare_checkpoint(&b), 0);
    for (unsigned quick = 0; quick < 2; quick++) {
        struct store_check_result r = check(quick ? STORE_CHECK_REPAIR : STORE_CHECK_DATA | STORE_CHECK_REPAIR);
        CU_ASSERT(r.damaged > 0);
        CU_ASSERT_EQUAL(r.freed_bytes, 0);
        CU_ASSERT_EQUAL(told_of_two, 1);
    }
    for (uint64_t i = 0; i < 200; i++)
        CU_ASSERT_EQUAL(bare_read(&b, i), 7);
    bare_kill(&b);
    bare_end(&b);
}

int main(int argc, char **argv)
{
    return unit_main(argc, argv, "check", (struct unit_test[]){ UNIT(a_block_of_two_users_is_damage_and_frees_nothing), { 0 } });
}
