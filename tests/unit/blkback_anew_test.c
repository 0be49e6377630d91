/* blkback_anew_test.c - frontends that begin anew, by every way that a boot loader, a kernel after kexec or a crash kernel takes.
 *
 * The backend's writes of its state are seen here before the library's own function does them: a stock frontend that is told of Closing
 * or Closed while it connects gives its disk up for good, so that no moment of it is allowed. */
#include "tests/support/blkback_world.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <xenstore.h>

#define DISK_BYTES (1u << 20)

static pthread_t test_thread;
static pthread_mutex_t said_lock = PTHREAD_MUTEX_INITIALIZER;
static char said[256]; /* the states that the backend wrote, a digit each */

bool xs_write(struct xs_handle *h, xs_transaction_t t, const char *path, const void *data, unsigned int length)
{
    size_t n = strlen(path);
    pthread_mutex_lock(&said_lock);
    if (!pthread_equal(pthread_self(), test_thread) && n > 6 && !strcmp(path + n - 6, "/state") && strlen(said) < sizeof said - 1)
        strncat(said, data, 1);
    pthread_mutex_unlock(&said_lock);
    return ((__typeof__(&xs_write))dlsym(RTLD_NEXT, "xs_write"))(h, t, path, data, length);
}

static void listen_anew(void)
{
    pthread_mutex_lock(&said_lock);
    *said = 0;
    pthread_mutex_unlock(&said_lock);
}

static bool told_of_an_end(void)
{
    pthread_mutex_lock(&said_lock);
    bool any = strpbrk(said, "56");
    pthread_mutex_unlock(&said_lock);
    return any;
}

/* When a second device is offered, all that was to be seen of the first has been seen. */
static void let_it_look(void)
{
    struct toolstack_device other = world.device;
    other.vdev += 16;
    other.mode = "r";
    CU_ASSERT_EQUAL(toolstack_attach(world.xs, &other), 0);
    CU_ASSERT(world_until(toolstack_backend_state(world.xs, &other) == 2));
    toolstack_remove(world.xs, &other);
    CU_ASSERT(world_until(fake.opens == fake.closes + 1));
}

static struct raw old, next;

/* A kernel's frontend is connected. Its successor has made its ring; its nodes are written, but no state yet. */
static void begin(void)
{
    test_thread = pthread_self();
    world_begin(&(struct blkback_options){ 0 }, DISK_BYTES);
    world_attach();
    old = world_raw(BLKIF_ABI_X86_64, 0);
    CU_ASSERT_EQUAL_FATAL(raw_connect(&old), 0);
    raw_put(&old, "state", "4");
    CU_ASSERT_FATAL(world_write_block(&old, 1));
}

static void succeed(void)
{
    next = world_raw(BLKIF_ABI_X86_32, 1);
    raw_delete(&old, "ring-ref");
    CU_ASSERT_EQUAL_FATAL(raw_prepare(&next), 0);
}

/* The successor uses its ring, and nothing of its predecessor's is held any more. */
static void end(void)
{
    CU_ASSERT(world_write_block(&next, 2));
    CU_ASSERT(world_until(world_state() == 4));
    CU_ASSERT_EQUAL(world_info().ring_pages, 2);
    CU_ASSERT(raw_release(&old));
    raw_put(&next, "state", "6");
    CU_ASSERT(world_until(world_state() == 6));
    CU_ASSERT(raw_release(&next));
    world_end();
}

static void close_old(void)
{
    raw_put(&old, "state", "6");
    CU_ASSERT_FATAL(world_until(world_state() == 6));
}

/* How Linux's frontend begins in a kernel that was started by kexec: it ends its predecessor's connection, step by step. */
static void a_kernel_that_closes_for_its_predecessor_is_connected(void)
{
    begin();
    raw_put(&old, "state", "5");
    CU_ASSERT(world_until(world_state() == 5));
    close_old();
    raw_put(&old, "state", "1");
    CU_ASSERT(world_until(world_state() == 2));
    succeed();
    listen_anew();
    raw_put(&next, "state", "3");
    CU_ASSERT(world_until(world_state() == 4));
    raw_put(&next, "state", "4");
    CU_ASSERT_FALSE(told_of_an_end());
    end();
}

static void a_frontend_that_died_is_followed_by_one_that_begins_in_order(void)
{
    begin();
    fake.hold = true; /* what the dead one asked for is in flight */
    struct blkif_segment none = { .gref = old.refs[0], .last_sect = 7 };
    raw_rw(&old, BLKIF_OP_WRITE, 5, 64, &none, 1);
    raw_push(&old);
    CU_ASSERT_FATAL(world_until(fake.in_flight == 1));
    listen_anew();
    raw_put(&old, "state", "1");
    for (unsigned i = 0; i < 50; i++)
        world_turn();
    CU_ASSERT_EQUAL(fake.closes, 0);
    uint32_t told = old.shared->rsp_prod;
    fake_release();
    CU_ASSERT(world_until(world_state() == 2));
    CU_ASSERT_EQUAL(old.shared->rsp_prod, told); /* the page may be the next one's by now */
    succeed();
    raw_put(&next, "state", "3");
    CU_ASSERT(world_until(world_state() == 4));
    CU_ASSERT_FALSE(told_of_an_end());
    end();
}

static void from_closed_it_may_go_straight_to(const char *next_state)
{
    begin();
    close_old();
    succeed();
    listen_anew();
    raw_put(&next, "state", "%s", next_state);
    CU_ASSERT(world_until(world_state() == 4));
    CU_ASSERT_FALSE(told_of_an_end());
    end();
}

static void a_closed_frontend_may_go_straight_to_initialised(void) { from_closed_it_may_go_straight_to("3"); }
static void a_closed_frontend_may_go_straight_to_connected(void) { from_closed_it_may_go_straight_to("4"); }

/* Its predecessor is connected, and nothing but what is written now tells that it is gone. */
static void without_an_end(const char *const *states)
{
    begin();
    succeed();
    listen_anew();
    for (; *states; states++)
        raw_put(&next, "state", "%s", *states);
    end();
    CU_ASSERT_STRING_EQUAL(said + strlen(said) - 1, "6"); /* of the end alone */
    CU_ASSERT_PTR_EQUAL(strpbrk(said, "56"), said + strlen(said) - 1);
}

static void one_that_does_not_wait_is_connected(void) { without_an_end((const char *const[]){ "1", "3", NULL }); }
static void one_whose_beginning_was_not_seen_is_connected(void) { without_an_end((const char *const[]){ "3", NULL }); }
static void one_of_which_only_new_nodes_are_seen_is_connected(void) { without_an_end((const char *const[]){ "4", NULL }); }

static void one_that_follows_a_closing_one_is_connected(void)
{
    begin();
    raw_put(&old, "state", "5");
    CU_ASSERT(world_until(world_state() == 5));
    succeed();
    listen_anew();
    raw_put(&next, "state", "3");
    CU_ASSERT(world_until(world_state() == 4));
    CU_ASSERT_FALSE(told_of_an_end());
    end();
}

/* The predecessor had not gone on to state 4 when it died. */
static void one_that_follows_another_of_the_same_state_is_connected(void)
{
    test_thread = pthread_self();
    world_begin(&(struct blkback_options){ 0 }, DISK_BYTES);
    world_attach();
    old = world_raw(BLKIF_ABI_X86_64, 0);
    CU_ASSERT_EQUAL_FATAL(raw_connect(&old), 0);
    succeed();
    raw_put(&next, "state", "3");
    end();
}

/* Numbers say little: a kernel that begins as its predecessor began takes the same ones. */
static void one_that_uses_the_same_numbers_is_connected(void)
{
    begin();
    let_it_look();
    unsigned opens = fake.opens;
    memset(old.shared, 0, HV_PAGE_SIZE);
    old.shared->req_event = old.shared->rsp_event = 1;
    old.req_prod = old.rsp_cons = 0;
    listen_anew();
    raw_put(&old, "state", "3");
    CU_ASSERT(world_until(fake.opens == opens + 1));
    CU_ASSERT(world_until(world_state() == 4));
    raw_put(&old, "state", "4");
    CU_ASSERT(world_write_block(&old, 2));
    CU_ASSERT_FALSE(told_of_an_end());
    close_old();
    CU_ASSERT(raw_release(&old));
    world_end();
}

static void while_no_process_was_here(const char *states)
{
    begin();
    blkback_stop(world.backend, true);
    world.backend = NULL;
    listen_anew();
    if (*states == '3')
        succeed();
    for (const char *s = states; *s; s++)
        raw_put(&old, "state", "%c", *s);
    world_backend_start();
    if (*states == '1') {
        CU_ASSERT(world_until(world_state() == 2));
        succeed();
        raw_put(&next, "state", "3");
        CU_ASSERT(world_until(world_state() == 4));
    }
    CU_ASSERT(world_write_block(&next, 3));
    CU_ASSERT_FALSE(told_of_an_end());
    end();
}

static void one_that_began_while_no_process_was_here_is_connected(void) { while_no_process_was_here("1"); }
static void one_that_made_its_rings_while_no_process_was_here_is_connected(void) { while_no_process_was_here("3"); }
static void one_that_found_its_predecessors_connection_while_no_process_was_here_is_connected(void) { while_no_process_was_here("34"); }

/* ---- What is no beginning ---- */

static void the_state_of_a_connection_that_was_closed_is_no_beginning(void)
{
    begin();
    blkback_stop(world.backend, false); /* closes it towards the frontend, which says nothing */
    CU_ASSERT_EQUAL(world_state(), 6);
    world_backend_start();
    for (unsigned i = 0; i < 300; i++)
        world_turn();
    CU_ASSERT_EQUAL(world_state(), 6);
    CU_ASSERT_EQUAL(fake.opens, 1);
    succeed();
    raw_put(&next, "state", "3");
    CU_ASSERT(world_until(world_state() == 4));
    end();
}

static void a_device_that_is_being_detached_is_not_connected_again(void)
{
    begin();
    toolstack_ask_detach(world.xs, &world.device);
    raw_put(&old, "state", "3");
    for (unsigned i = 0; i < 100; i++)
        world_turn();
    raw_put(&old, "state", "6");
    CU_ASSERT(world_until(world_state() == 0));
    CU_ASSERT_EQUAL(fake.opens, 1);
    CU_ASSERT(raw_release(&old));
    world_end();
}

/* A new size that the frontend which closed was not told of is not the next one's. */
static void a_size_that_came_too_late_is_not_told_to_the_next(void)
{
    begin();
    raw_put(&old, "state", "5");
    CU_ASSERT(world_until(world_state() == 5));
    fake.last->opt.resized(fake.last->opt.ctx, DISK_BYTES / 2);
    close_old();
    succeed();
    raw_put(&next, "state", "3");
    CU_ASSERT(world_until(world_state() == 4));
    let_it_look();
    char *sectors = toolstack_backend_node(world.xs, &world.device, "sectors"), want[24];
    snprintf(want, sizeof want, "%u", DISK_BYTES / 512);
    CU_ASSERT_PTR_NOT_NULL_FATAL(sectors);
    CU_ASSERT_STRING_EQUAL(sectors, want);
    free(sectors);
    raw_put(&next, "state", "6");
    CU_ASSERT(world_until(world_state() == 6));
    CU_ASSERT(raw_release(&old) && raw_release(&next));
    world_end();
}

int main(int argc, char **argv)
{
    return unit_main(argc, argv, "blkback_anew", (struct unit_test[]){
        UNIT(a_kernel_that_closes_for_its_predecessor_is_connected), UNIT(a_frontend_that_died_is_followed_by_one_that_begins_in_order),
        UNIT(a_closed_frontend_may_go_straight_to_initialised), UNIT(a_closed_frontend_may_go_straight_to_connected),
        UNIT(one_that_does_not_wait_is_connected), UNIT(one_whose_beginning_was_not_seen_is_connected),
        UNIT(one_of_which_only_new_nodes_are_seen_is_connected), UNIT(one_that_follows_a_closing_one_is_connected),
        UNIT(one_that_follows_another_of_the_same_state_is_connected), UNIT(one_that_began_while_no_process_was_here_is_connected),
        UNIT(one_that_uses_the_same_numbers_is_connected),
        UNIT(one_that_found_its_predecessors_connection_while_no_process_was_here_is_connected), UNIT(one_that_made_its_rings_while_no_process_was_here_is_connected),
        UNIT(the_state_of_a_connection_that_was_closed_is_no_beginning), UNIT(a_device_that_is_being_detached_is_not_connected_again),
        UNIT(a_size_that_came_too_late_is_not_told_to_the_next), { 0 } });
}
