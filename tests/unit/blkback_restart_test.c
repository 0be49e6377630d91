/* blkback_restart_test.c - every state in which a killed backend can leave a ring and its restart table, made by hand.
 *
 * A backend is stopped with its ring left, the table is put into the state of a kill at a certain store, and a new backend
 * takes the ring up. Each id must be answered exactly once, over both lives. */
#include "blkback/blkback_private.h"
#include "tests/support/blkback_world.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>

#define DISK_BYTES (1u << 20)
#define REQUESTS 8u

static struct raw ring;
static uint8_t *page;
static hv_gref page_ref;
static struct blkback_table *table;
static size_t table_bytes;

static void map_table(void)
{
    char path[128];
    struct stat st;
    snprintf(path, sizeof path, "%s/ring-%u-%u-0", world.dir, hv_own_domid(world.guest), WORLD_VDEV);
    int fd = open(path, O_RDWR);
    CU_ASSERT_FATAL(fd >= 0 && fstat(fd, &st) == 0);
    table_bytes = (size_t)st.st_size;
    table = mmap(NULL, table_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    CU_ASSERT_FATAL(table != MAP_FAILED);
}

/* A ring on which REQUESTS writes of value i + 1 to block i were answered and consumed; the backend is then stopped. */
static void begin(void)
{
    world_begin(&(struct blkback_options){ 0 }, DISK_BYTES);
    world_attach();
    ring = world_raw(BLKIF_ABI_X86_64, 0);
    CU_ASSERT_EQUAL_FATAL(raw_connect(&ring), 0);
    raw_put(&ring, "state", "4");
    page = hv_arena_alloc(world.guest, 1);
    CU_ASSERT_EQUAL_FATAL(hv_grant_share(world.guest, ring.backend, page, false, &page_ref), 0);
    struct blkif_segment s = { .gref = page_ref, .last_sect = 7 };
    struct raw_response rsp;
    for (unsigned i = 0; i < REQUESTS; i++) {
        memset(page, (int)i + 1, 4096);
        raw_rw(&ring, BLKIF_OP_WRITE, 100 + i, i * 8, &s, 1);
        raw_push(&ring);
        CU_ASSERT_EQUAL_FATAL(raw_response(&ring, WORLD_PATIENCE_MS, &rsp), 0);
    }
    blkback_stop(world.backend, true);
    world.backend = NULL;
    CU_ASSERT_EQUAL(toolstack_backend_state(world.xs, &world.device), 4);
    map_table();
}

static void restart(void)
{
    munmap(table, table_bytes);
    memset(fake.data, 0, DISK_BYTES);
    world_backend_start();
}

static void end(void)
{
    raw_put(&ring, "state", "6");
    CU_ASSERT_EQUAL(raw_wait_backend(&ring, 6, WORLD_PATIENCE_MS), 0);
    CU_ASSERT(raw_release(&ring));
    world_end();
}

/* Exactly the ids in `ids` are answered, each once and well, in any order; then an honest request works. */
static void expect_answers(const uint64_t *ids, unsigned count)
{
    struct raw_response rsp;
    uint64_t seen = 0;
    for (unsigned i = 0; i < count; i++) {
        CU_ASSERT_EQUAL_FATAL(raw_response(&ring, WORLD_PATIENCE_MS, &rsp), 0);
        CU_ASSERT_EQUAL(rsp.status, 0);
        CU_ASSERT_EQUAL(rsp.op, BLKIF_OP_WRITE);
        for (unsigned k = 0; k < count; k++)
            if (ids[k] == rsp.id) {
                CU_ASSERT_FALSE(seen & 1ull << k);
                seen |= 1ull << k;
            }
    }
    CU_ASSERT_EQUAL(seen, (1ull << count) - 1);
    struct blkif_segment s = { .gref = page_ref, .last_sect = 7 };
    memset(page, 0x99, 4096);
    raw_rw(&ring, BLKIF_OP_WRITE, 4711, 0, &s, 1);
    raw_push(&ring);
    CU_ASSERT_EQUAL_FATAL(raw_response(&ring, WORLD_PATIENCE_MS, &rsp), 0);
    CU_ASSERT_EQUAL(rsp.id, 4711);
    for (unsigned i = 0; i < 30; i++)
        world_turn();
    CU_ASSERT_EQUAL(raw_response(&ring, 0, &rsp), -ETIMEDOUT); /* nothing beyond that */
    CU_ASSERT_EQUAL(fake.data[0], 0x99);
}

/* Puts a write with id on the ring's slot and, as if taken, into line `line`. */
static void taken(unsigned line, uint64_t id, uint64_t sector)
{
    struct blkif_segment s = { .gref = page_ref, .last_sect = 7 };
    struct blkif64_request q = { .operation = BLKIF_OP_WRITE, .nr_segments = 1, .id = id, .sector_number = sector, .seg = { s } };
    struct blkback_saved *saved = &table->saved[line];
    saved->req_index = ring.req_prod;
    raw_slot(&ring, &q, sizeof q);
    memcpy(saved->raw, &q, sizeof q);
    saved->state = BLKBACK_TAKEN;
    __atomic_store_n(&ring.shared->req_prod, ring.req_prod, __ATOMIC_SEQ_CST);
}

static void answered(unsigned line, uint32_t rsp_index)
{
    table->saved[line].rsp_index = rsp_index;
    table->saved[line].status = 0;
    table->saved[line].state = BLKBACK_ANSWERED;
}

static void an_idle_ring_goes_on(void)
{
    begin();
    restart();
    expect_answers(NULL, 0);
    end();
}

static void requests_made_while_nobody_was_there_are_served(void)
{
    begin();
    struct blkif_segment s = { .gref = page_ref, .last_sect = 7 };
    raw_rw(&ring, BLKIF_OP_WRITE, 7, 8, &s, 1);
    raw_push(&ring);
    restart();
    expect_answers((uint64_t[]){ 7 }, 1);
    end();
}

static void a_request_in_flight_is_done_again(void)
{
    begin();
    memset(page, 0x42, 4096);
    taken(3, 7, 8);
    taken(9, 8, 16);
    table->req_cons = ring.req_prod;
    /* Its slot may have been overwritten by a response of another: only the table's copy counts. */
    memset(ring.slots, 0, ring.size * ring.slot_bytes);
    restart();
    expect_answers((uint64_t[]){ 7, 8 }, 2);
    CU_ASSERT_EQUAL(fake.data[8 * 512], 0x42);
    CU_ASSERT_EQUAL(fake.data[16 * 512], 0x42);
    end();
}

/* A flush or barrier among them covers what came before it. */
static void requests_in_flight_are_done_again_in_the_order_in_which_they_were_taken(void)
{
    begin();
    taken(9, 7, 8);
    taken(3, 8, 16);
    taken(5, 9, 24);
    table->req_cons = ring.req_prod;
    restart();
    fake.logged = 0;
    expect_answers((uint64_t[]){ 7, 8, 9 }, 3);
    CU_ASSERT(fake.log_offset[0] == 8 * 512 && fake.log_offset[1] == 16 * 512 && fake.log_offset[2] == 24 * 512);
    end();
}

/* Linux's waits for them before its disk goes. */
static void a_frontend_that_closed_meanwhile_gets_its_answers(void)
{
    begin();
    taken(3, 7, 8);
    table->req_cons = ring.req_prod;
    raw_put(&ring, "state", "6");
    restart();
    struct raw_response rsp;
    CU_ASSERT_EQUAL(raw_response(&ring, WORLD_PATIENCE_MS, &rsp), 0);
    CU_ASSERT(rsp.id == 7 && rsp.status == 0);
    end();
}

/* Nobody could open its image any more. */
static void a_frontend_that_closed_meanwhile_waits_for_no_image(void)
{
    begin();
    raw_put(&ring, "state", "6");
    fake.open_error = -ENOENT;
    restart();
    end();
}

static void a_line_written_before_req_cons_is_taken_once(void)
{
    begin();
    taken(5, 7, 8);
    restart();
    expect_answers((uint64_t[]){ 7 }, 1);
    end();
}

static void an_answer_written_but_not_shown_is_shown_once(void)
{
    begin();
    taken(1, 7, 8);
    taken(2, 8, 16);
    taken(4, 9, 24);
    table->req_cons = ring.req_prod;
    answered(1, table->rsp_prod + 1);
    answered(2, table->rsp_prod);
    restart();
    expect_answers((uint64_t[]){ 7, 8, 9 }, 3);
    CU_ASSERT_EQUAL(fake.data[8 * 512], 0); /* what was answered is not done again */
    end();
}

static void an_answer_shown_but_not_noted_is_not_repeated(void)
{
    begin();
    uint64_t ids[32];
    for (unsigned i = 0; i < 32; i++) {
        taken(i, 200 + i, i * 8);
        ids[i] = 200 + i;
    }
    table->req_cons = ring.req_prod;
    answered(0, table->rsp_prod);
    struct blkif64_response rsp = { .id = 200, .operation = BLKIF_OP_WRITE };
    memcpy(ring.slots + (size_t)(table->rsp_prod & (ring.size - 1)) * ring.slot_bytes, &rsp, sizeof rsp);
    __atomic_store_n(&ring.shared->rsp_prod, table->rsp_prod + 1, __ATOMIC_SEQ_CST);
    struct raw_response first;
    CU_ASSERT_EQUAL(raw_response(&ring, 100, &first), 0);
    CU_ASSERT_EQUAL(first.id, 200);
    /* The guest has taken it and uses that very slot again: writing the answer once more would destroy a request. */
    struct blkif_segment s = { .gref = page_ref, .last_sect = 7 };
    raw_rw(&ring, BLKIF_OP_WRITE, 50, 32, &s, 1);
    __atomic_store_n(&ring.shared->req_prod, ring.req_prod, __ATOMIC_SEQ_CST);
    ids[0] = 50;
    restart();
    expect_answers(ids, 32);
    end();
}

static void an_answer_noted_but_not_freed_is_not_repeated(void)
{
    begin();
    answered(0, table->rsp_prod - 1);
    answered(1, table->rsp_prod - 2);
    restart();
    expect_answers(NULL, 0);
    end();
}

static void expect_broken(void)
{
    restart();
    CU_ASSERT_EQUAL(raw_wait_backend(&ring, 5, WORLD_PATIENCE_MS), 0);
    end();
}

static void a_ring_that_contradicts_its_table_is_disconnected(void)
{
    begin();
    __atomic_store_n(&ring.shared->rsp_prod, 77, __ATOMIC_SEQ_CST);
    expect_broken();
    begin();
    taken(1, 7, 8);
    table->req_cons = ring.req_prod;
    answered(1, table->rsp_prod + 3); /* a gap */
    expect_broken();
    begin();
    __atomic_store_n(&ring.shared->req_prod, ring.req_prod + 33, __ATOMIC_SEQ_CST);
    expect_broken();
}

static void a_damaged_table_is_refused(void)
{
    begin();
    table->magic ^= 1;
    expect_broken();
    begin();
    table->saved[3].state = 9;
    expect_broken();
    begin();
    char path[128];
    snprintf(path, sizeof path, "%s/ring-%u-%u-0", world.dir, hv_own_domid(world.guest), WORLD_VDEV);
    CU_ASSERT_EQUAL(unlink(path), 0);
    expect_broken();
}

/* What is taken up again is known by its identity; its mode still stands in the toolstack's node, whatever else does not. */
static void a_guest_goes_on_as_it_was_without(const char *node, const char *garbage)
{
    begin();
    char path[160];
    snprintf(path, sizeof path, "/local/domain/%u/backend/vbd/%u/%u/%s", world.device.backend, world.device.frontend, WORLD_VDEV, node);
    CU_ASSERT_EQUAL(garbage ? hv_xs_write(world.xs, 0, path, garbage) : hv_xs_remove(world.xs, 0, path), 0);
    restart();
    expect_answers(NULL, 0);
    end();
}

static void a_guest_goes_on_as_it_was_whatever_its_nodes_lack(void)
{
    static char garbage[1500];
    memset(garbage, 'x', sizeof garbage - 1);
    a_guest_goes_on_as_it_was_without("params", NULL);
    a_guest_goes_on_as_it_was_without("params", garbage);
    a_guest_goes_on_as_it_was_without("parallax-params", garbage);
}

/* Whoever could not read its mode must not write. */
static void a_device_is_read_only_until_its_nodes_say_otherwise(void)
{
    struct blkback_device d = { 0 };
    blkback_device_init(&d, NULL, 1, WORLD_VDEV);
    CU_ASSERT(d.read_only);
}

static void an_image_that_does_not_open_keeps_the_guest_waiting(void)
{
    begin();
    struct blkif_segment s = { .gref = page_ref, .last_sect = 7 };
    raw_rw(&ring, BLKIF_OP_WRITE, 7, 8, &s, 1);
    raw_push(&ring);
    fake.open_error = -EIO;
    restart();
    for (unsigned i = 0; i < 300; i++)
        world_turn();
    CU_ASSERT_EQUAL(toolstack_backend_state(world.xs, &world.device), 4);
    fake.open_error = 0;
    expect_answers((uint64_t[]){ 7 }, 1);
    end();
}

static void what_was_offered_before_holds_whatever_is_offered_now(void)
{
    static const struct blkback_hiding hiding = { "*", BLKBACK_FLUSH };
    begin();
    raw_put(&ring, "feature-persistent", "1"); /* as Linux does, whatever it is offered */
    world.options.persistent = true;
    world.options.hidings = &hiding;
    world.options.hiding_count = 1;
    restart();
    struct blkif64_request q = { .operation = BLKIF_OP_FLUSH_DISKCACHE, .id = 9 };
    struct raw_response rsp;
    raw_slot(&ring, &q, sizeof q);
    raw_push(&ring);
    CU_ASSERT_EQUAL_FATAL(raw_response(&ring, WORLD_PATIENCE_MS, &rsp), 0);
    CU_ASSERT_EQUAL(rsp.status, 0);
    CU_ASSERT_FALSE(world_info().persistent);
    end();
}

static void a_frontend_that_closed_meanwhile_is_closed(void)
{
    begin();
    raw_put(&ring, "state", "6");
    restart();
    CU_ASSERT_EQUAL(raw_wait_backend(&ring, 6, WORLD_PATIENCE_MS), 0);
    end();
}

static void a_device_whose_frontend_vanished_meanwhile_goes(void)
{
    begin();
    char path[64];
    snprintf(path, sizeof path, "/local/domain/%u/device", hv_own_domid(world.guest));
    CU_ASSERT_EQUAL(hv_xs_remove(world.xs, 0, path), 0);
    restart();
    CU_ASSERT(world_until(toolstack_backend_state(world.xs, &world.device) == 0));
    CU_ASSERT(raw_release(&ring));
    world_end();
}

static void tables_of_devices_that_went_are_swept(void)
{
    begin();
    char path[128];
    toolstack_remove(world.xs, &world.device);
    snprintf(path, sizeof path, "%s/ring-%u-%u-0", world.dir, hv_own_domid(world.guest), WORLD_VDEV);
    CU_ASSERT_EQUAL(access(path, F_OK), 0);
    restart();
    CU_ASSERT_NOT_EQUAL(access(path, F_OK), 0);
    CU_ASSERT(raw_release(&ring));
    world_end();
}

int main(int argc, char **argv)
{
    return unit_main(argc, argv, "blkback_restart", (struct unit_test[]){
        UNIT(an_idle_ring_goes_on), UNIT(requests_made_while_nobody_was_there_are_served), UNIT(a_request_in_flight_is_done_again),
        UNIT(requests_in_flight_are_done_again_in_the_order_in_which_they_were_taken),
        UNIT(a_frontend_that_closed_meanwhile_gets_its_answers), UNIT(a_frontend_that_closed_meanwhile_waits_for_no_image),
        UNIT(a_line_written_before_req_cons_is_taken_once), UNIT(an_answer_written_but_not_shown_is_shown_once),
        UNIT(an_answer_shown_but_not_noted_is_not_repeated), UNIT(an_answer_noted_but_not_freed_is_not_repeated),
        UNIT(a_ring_that_contradicts_its_table_is_disconnected), UNIT(a_damaged_table_is_refused),
        UNIT(a_guest_goes_on_as_it_was_whatever_its_nodes_lack), UNIT(a_device_is_read_only_until_its_nodes_say_otherwise),
        UNIT(an_image_that_does_not_open_keeps_the_guest_waiting), UNIT(what_was_offered_before_holds_whatever_is_offered_now),
        UNIT(a_frontend_that_closed_meanwhile_is_closed), UNIT(a_device_whose_frontend_vanished_meanwhile_goes),
        UNIT(tables_of_devices_that_went_are_swept), { 0 } });
}
