/* blkback_device_test.c - both ends together over the embedded hypervisor: handshake, layouts, data, ends of a device. */
#include "tests/support/blkback_world.h"

#include <errno.h>

#define DISK_BYTES (8u << 20)

static void fill(uint8_t *at, size_t length, uint64_t *seed)
{
    for (size_t i = 0; i < length; i += 8) {
        uint64_t v = unit_random(seed);
        memcpy(at + i, &v, 8);
    }
}

/* Random reads, writes and discards against a copy of the disk. */
static void exercise(struct blkfront *f, uint64_t seed, unsigned rounds)
{
    static uint8_t oracle[DISK_BYTES], buffer[1 << 20];
    memcpy(oracle, fake.data, DISK_BYTES);
    for (unsigned i = 0; i < rounds; i++) {
        uint64_t length = (1 + unit_random(&seed) % (i % 8 ? 64 : 2048)) * 512, offset = unit_random(&seed) % ((DISK_BYTES - length) / 512) * 512;
        switch (unit_random(&seed) % 8) {
        case 0:
            CU_ASSERT_EQUAL(blkfront_flush(f), 0);
            break;
        case 1:
            CU_ASSERT_EQUAL(blkfront_discard(f, offset, length), 0);
            memset(oracle + offset, 0, length);
            break;
        case 2: case 3: case 4:
            fill(buffer, length, &seed);
            CU_ASSERT_EQUAL(blkfront_write(f, offset, buffer, length), 0);
            memcpy(oracle + offset, buffer, length);
            break;
        default:
            memset(buffer, 0xee, length);
            CU_ASSERT_EQUAL(blkfront_read(f, offset, buffer, length), 0);
            CU_ASSERT_FALSE_FATAL(memcmp(buffer, oracle + offset, length));
        }
    }
    CU_ASSERT_FALSE(memcmp(oracle, fake.data, DISK_BYTES));
    CU_ASSERT_FALSE(fake.unaligned);
}

static void one_shape(enum blkfront_layout layout, unsigned order, unsigned queues, unsigned segments, bool persistent, uint64_t seed)
{
    world_begin(&(struct blkback_options){ .persistent = persistent }, DISK_BYTES);
    world_attach();
    struct blkfront *f = world_open(&(struct blkfront_options){ .ring_order = order, .queues = queues, .max_segments = segments, .layout = layout,
                                                                .persistent = persistent });
    struct blkfront_info info;
    blkfront_get_info(f, &info);
    CU_ASSERT_EQUAL(info.size_bytes, DISK_BYTES);
    CU_ASSERT_EQUAL(info.ring_pages, 1u << order);
    CU_ASSERT_EQUAL(info.queues, queues);
    CU_ASSERT(info.flush && info.discard && info.barrier && !info.read_only);
    exercise(f, seed, 300);
    struct blkback_device_info back = world_info();
    CU_ASSERT_EQUAL(back.errors, 0);
    CU_ASSERT_EQUAL(back.queues, queues);
    CU_ASSERT_EQUAL(back.ring_pages, 1u << order);
    CU_ASSERT_EQUAL(back.indirect > 0, segments > 11);
    CU_ASSERT_EQUAL(back.grants_mapped > 0, persistent);
    blkfront_close(f);
    CU_ASSERT(world_until(toolstack_backend_state(world.xs, &world.device) == 6));
    CU_ASSERT_EQUAL(fake.opens, fake.closes);
    world_end();
}

static void every_layout_order_and_segment_limit_carries_random_data(void)
{
    uint64_t seed = unit_seed();
    for (int layout = BLKFRONT_NATIVE; layout <= BLKFRONT_UNNAMED; layout++)
        one_shape((enum blkfront_layout)layout, (unsigned)layout % 5, 1, layout % 2 ? 11 : 256, false, seed + (uint64_t)layout);
}

static void several_queues_carry_random_data(void) { one_shape(BLKFRONT_X86_64, 4, 4, 32, false, unit_seed()); }
static void persistent_grants_carry_random_data(void) { one_shape(BLKFRONT_X86_64, 0, 1, 32, true, unit_seed()); }

static void granted_buffers_go_without_bounce(void)
{
    world_begin(&(struct blkback_options){ 0 }, DISK_BYTES);
    world_attach();
    struct blkfront *f = world_open(&(struct blkfront_options){ 0 });
    uint8_t *buffer = blkfront_buffer_alloc(f, 16);
    CU_ASSERT_PTR_NOT_NULL_FATAL(buffer);
    uint64_t seed = unit_seed();
    fill(buffer, 16 * 4096, &seed);
    CU_ASSERT_EQUAL(blkfront_write(f, 4096, buffer, 16 * 4096), 0);
    CU_ASSERT_FALSE(memcmp(buffer, fake.data + 4096, 16 * 4096));
    CU_ASSERT_EQUAL(blkfront_read(f, 8192, buffer + 512, 1024), 0); /* unaligned to pages, still ours */
    CU_ASSERT_FALSE(memcmp(buffer + 512, fake.data + 8192, 1024));
    struct blkfront_info info;
    blkfront_get_info(f, &info);
    CU_ASSERT_EQUAL(info.bounced_bytes, 0);
    blkfront_buffer_free(f, buffer, 16);
    blkfront_close(f);
    world_end();
}

static void a_read_only_disk_refuses_writes(void)
{
    world_begin(&(struct blkback_options){ 0 }, DISK_BYTES);
    world.device.mode = "r";
    world_attach();
    struct blkfront *f = world_open(&(struct blkfront_options){ 0 });
    struct blkfront_info info;
    uint8_t buffer[4096] = { 1 };
    blkfront_get_info(f, &info);
    CU_ASSERT(info.read_only && !info.discard);
    CU_ASSERT_EQUAL(blkfront_write(f, 0, buffer, 4096), -EIO);
    CU_ASSERT_EQUAL(blkfront_discard(f, 0, 4096), -EOPNOTSUPP);
    CU_ASSERT_EQUAL(blkfront_flush(f), 0);
    CU_ASSERT_EQUAL(blkfront_read(f, 0, buffer, 4096), 0);
    CU_ASSERT_EQUAL(buffer[0], 0);
    blkfront_close(f);
    world_end();
}

static bool node_is(const char *name, const char *want)
{
    char *text = toolstack_backend_node(world.xs, &world.device, name);
    bool same = text && want ? !strcmp(text, want) : text == want;
    free(text);
    return same;
}

static void a_snapshot_asked_for_writing_is_refused(void)
{
    world_begin(&(struct blkback_options){ 0 }, DISK_BYTES);
    world.device.params = "disk@monday";
    world_attach();
    CU_ASSERT(world_until(node_is("hotplug-error", "'disk@monday' is a snapshot")));
    CU_ASSERT_EQUAL(toolstack_backend_state(world.xs, &world.device), 1);
    toolstack_remove(world.xs, &world.device);
    CU_ASSERT(world_until(world_info().vdev == 0));
    world.device.mode = "r";
    world_attach();
    struct blkfront *f = world_open(&(struct blkfront_options){ 0 });
    struct blkfront_info info;
    blkfront_get_info(f, &info);
    CU_ASSERT(info.read_only);
    blkfront_close(f);
    world_end();
}

/* libxl in dom0 waits for state 2 before it runs the script that reads the verdict. */
static void in_dom0_a_refusal_waits_for_the_script(void)
{
    struct error err = ERROR_NONE;
    world_begin(&(struct blkback_options){ 0 }, DISK_BYTES);
    blkback_stop(world.backend, false);
    CU_ASSERT_EQUAL_FATAL(blkback_start(world.toolstack, NULL, world.loop, &world.options, &world.backend, &err), 0);
    world.device.backend = HV_DOMID_TOOLSTACK;
    world.device.params = "nothing";
    world_attach();
    CU_ASSERT(world_until(toolstack_backend_state(world.xs, &world.device) == 2));
    CU_ASSERT(node_is("hotplug-status", "error"));
    CU_ASSERT(node_is("hotplug-error", "no image 'nothing'"));
    toolstack_ask_detach(world.xs, &world.device);
    CU_ASSERT(world_until(toolstack_backend_state(world.xs, &world.device) == 6));
    toolstack_remove(world.xs, &world.device);
    CU_ASSERT(world_until(world_info().vdev == 0));
    world.device.params = "disk";
    world_attach();
    struct blkfront *f = world_open(&(struct blkfront_options){ 0 });
    CU_ASSERT(node_is("hotplug-status", "connected"));
    CU_ASSERT(node_is("hotplug-error", NULL));
    blkfront_close(f);
    toolstack_remove(world.xs, &world.device);
    CU_ASSERT(world_until(world_info().vdev == 0));
    world_end();
}

static void a_frontend_that_closed_may_connect_again(void)
{
    world_begin(&(struct blkback_options){ 0 }, DISK_BYTES);
    world_attach();
    for (unsigned i = 0; i < 5; i++) {
        struct blkfront *f = world_open(&(struct blkfront_options){ .ring_order = i % 3, .queues = 1 + i % 2 });
        uint8_t buffer[512];
        memset(buffer, (int)i + 1, sizeof buffer);
        CU_ASSERT_EQUAL(blkfront_write(f, i * 512, buffer, 512), 0);
        blkfront_close(f);
        CU_ASSERT_EQUAL(fake.data[i * 512], i + 1);
    }
    world_end();
}

/* The image may have been renamed meanwhile, and its name be another's: what was attached is opened, not what is called so. */
static void what_was_attached_is_opened_again_whatever_its_name(void)
{
    world_begin(&(struct blkback_options){ 0 }, DISK_BYTES);
    world_attach();
    blkfront_close(world_open(&(struct blkfront_options){ 0 }));
    CU_ASSERT_STRING_EQUAL(fake.opened, "disk");
    struct blkfront *f = world_open(&(struct blkfront_options){ 0 });
    CU_ASSERT_STRING_EQUAL(fake.opened, FAKE_IDENTITY);
    CU_ASSERT_STRING_EQUAL(world_info().image, "renamed");
    blkfront_close(f);
    /* Another name is the toolstack's wish for another image. */
    CU_ASSERT_EQUAL(toolstack_set_params(world.xs, &world.device, "disk2"), 0);
    f = world_open(&(struct blkfront_options){ 0 });
    CU_ASSERT_STRING_EQUAL(fake.opened, "disk2");
    /* But not under a guest that goes on. */
    CU_ASSERT_EQUAL(toolstack_set_params(world.xs, &world.device, "disk3"), 0);
    blkback_stop(world.backend, true);
    world_backend_start();
    CU_ASSERT(world_until(fake.opens == 4));
    CU_ASSERT_STRING_EQUAL(fake.opened, FAKE_IDENTITY);
    uint8_t buffer[512] = { 7 };
    CU_ASSERT_EQUAL(blkfront_write(f, 0, buffer, 512), 0);
    blkfront_close(f);
    world_end();
}

static void detaching_ends_in_an_empty_tree(void)
{
    world_begin(&(struct blkback_options){ 0 }, DISK_BYTES);
    world_attach();
    struct blkfront *f = world_open(&(struct blkfront_options){ 0 });
    CU_ASSERT_EQUAL(toolstack_ask_detach(world.xs, &world.device), 0);
    /* libxl looks when it is told of the state: it is to find it, and not an empty place. */
    CU_ASSERT(world_until(toolstack_backend_state(world.xs, &world.device) == 6));
    CU_ASSERT(world_until(toolstack_backend_state(world.xs, &world.device) == 0));
    CU_ASSERT_EQUAL(toolstack_frontend_state(world.xs, &world.device), 6);
    uint8_t buffer[512];
    CU_ASSERT_EQUAL(blkfront_read(f, 0, buffer, 512), -ENODEV);
    CU_ASSERT(world_until(world_info().vdev == 0));
    blkfront_close(f);
    world_end();
}

/* Linux's frontend waits for the answers after it has written Closed, or its device is gone. */
static void what_a_frontend_sent_is_answered_though_it(bool vanishes)
{
    world_begin(&(struct blkback_options){ 0 }, DISK_BYTES);
    world_attach();
    struct raw r = world_raw(BLKIF_ABI_X86_64, 0);
    CU_ASSERT_EQUAL_FATAL(raw_connect(&r), 0);
    uint8_t *page = hv_arena_alloc(world.guest, 1);
    struct blkif_segment s = { .last_sect = 7 };
    CU_ASSERT_EQUAL_FATAL(hv_grant_share(world.guest, r.backend, page, false, &s.gref), 0);
    memset(fake.data, 0x5a, 4096);
    fake.hold = true;
    raw_rw(&r, BLKIF_OP_READ, 1, 0, &s, 1);
    raw_push(&r);
    CU_ASSERT_FATAL(world_until(fake.in_flight == 1));
    char path[64];
    snprintf(path, sizeof path, "/local/domain/%u/device", hv_own_domid(world.guest));
    if (vanishes) {
        CU_ASSERT_EQUAL(hv_xs_remove(world.xs, 0, path), 0);
    } else {
        raw_put(&r, "state", "6");
    }
    for (unsigned i = 0; i < 50; i++)
        world_turn();
    CU_ASSERT_EQUAL(fake.closes, 0);
    fake_release();
    struct raw_response rsp;
    CU_ASSERT_EQUAL(raw_response(&r, WORLD_PATIENCE_MS, &rsp), 0);
    CU_ASSERT_EQUAL(rsp.status, BLKIF_RSP_OKAY);
    CU_ASSERT_EQUAL(page[4095], 0x5a);
    CU_ASSERT(world_until(fake.closes == 1));
    CU_ASSERT(world_until(toolstack_backend_state(world.xs, &world.device) == (vanishes ? 0 : 6)));
    hv_grant_unshare(world.guest, s.gref);
    hv_arena_free(world.guest, page, 1);
    CU_ASSERT(raw_release(&r));
    world_end();
}

static void what_a_closed_frontend_sent_is_answered(void) { what_a_frontend_sent_is_answered_though_it(false); }
static void what_a_frontend_that_vanished_sent_is_answered(void) { what_a_frontend_sent_is_answered_though_it(true); }

static void a_barrier_and_what_follows_it_are_answered_when_a_frontend_closes(void)
{
    world_begin(&(struct blkback_options){ 0 }, DISK_BYTES);
    world_attach();
    struct raw r = world_raw(BLKIF_ABI_X86_64, 0);
    CU_ASSERT_EQUAL_FATAL(raw_connect(&r), 0);
    uint8_t *page = hv_arena_alloc(world.guest, 1);
    struct blkif_segment s = { .last_sect = 7 };
    CU_ASSERT_EQUAL_FATAL(hv_grant_share(world.guest, r.backend, page, false, &s.gref), 0);
    fake.hold = true;
    raw_rw(&r, BLKIF_OP_WRITE, 0, 0, &s, 1);
    raw_push(&r);
    CU_ASSERT_FATAL(world_until(fake.in_flight == 1));
    raw_rw(&r, BLKIF_OP_WRITE_BARRIER, 1, 8, &s, 1);
    raw_rw(&r, BLKIF_OP_WRITE_BARRIER, 2, 16, &s, 1);
    raw_rw(&r, BLKIF_OP_READ, 3, 24, &s, 1);
    raw_push(&r);
    raw_put(&r, "state", "6");
    for (unsigned i = 0; i < 50; i++)
        world_turn();
    CU_ASSERT_EQUAL(fake.closes, 0);
    fake_release();
    for (uint64_t id = 0; id < 4; id++) {
        struct raw_response rsp;
        CU_ASSERT_EQUAL_FATAL(raw_response(&r, 2000, &rsp), 0);
        CU_ASSERT_EQUAL(rsp.id, id);
        CU_ASSERT_EQUAL(rsp.status, BLKIF_RSP_OKAY);
    }
    CU_ASSERT(world_until(fake.closes == 1));
    CU_ASSERT(world_until(toolstack_backend_state(world.xs, &world.device) == 6));
    hv_grant_unshare(world.guest, s.gref);
    hv_arena_free(world.guest, page, 1);
    CU_ASSERT(raw_release(&r));
    world_end();
}

static void a_frontend_that_vanishes_is_cleaned_up(void)
{
    world_begin(&(struct blkback_options){ 0 }, DISK_BYTES);
    world_attach();
    struct raw r = world_raw(BLKIF_ABI_X86_64, 0);
    CU_ASSERT_EQUAL_FATAL(raw_connect(&r), 0);
    char path[64];
    snprintf(path, sizeof path, "/local/domain/%u/device", hv_own_domid(world.guest));
    CU_ASSERT_EQUAL(hv_xs_remove(world.xs, 0, path), 0);
    CU_ASSERT(world_until(toolstack_backend_state(world.xs, &world.device) == 0));
    CU_ASSERT(raw_release(&r));
    world_end();
}

static void a_missing_image_is_told_to_the_toolstack(void)
{
    world_begin(&(struct blkback_options){ 0 }, DISK_BYTES);
    world.device.params = "nothing";
    world_attach();
    CU_ASSERT(world_until(*world_info().problem));
    CU_ASSERT_STRING_EQUAL(world_info().problem, "no image 'nothing'");
    char *text = NULL;
    while ((text = toolstack_backend_node(world.xs, &world.device, "hotplug-error")) == NULL)
        world_turn();
    CU_ASSERT_STRING_EQUAL(text, "no image 'nothing'");
    free(text);
    CU_ASSERT_EQUAL(toolstack_backend_state(world.xs, &world.device), 1);
    toolstack_ask_detach(world.xs, &world.device);
    CU_ASSERT(world_until(toolstack_backend_state(world.xs, &world.device) == 0));
    world_end();
}

static void a_device_without_params_is_told_of_served_later_and_detached(void)
{
    char path[160];
    world_begin(&(struct blkback_options){ 0 }, DISK_BYTES);
    for (unsigned i = 0; i < 2; i++) {
        blkback_stop(world.backend, false);
        world_attach();
        snprintf(path, sizeof path, "/local/domain/%u/backend/vbd/%u/%u/params", world.device.backend, world.device.frontend, WORLD_VDEV);
        CU_ASSERT_EQUAL(hv_xs_remove(world.xs, 0, path), 0);
        world_backend_start();
        CU_ASSERT(world_until(strstr(world_info().problem, "params does not name an image") != NULL));
        if (i == 1) {
            CU_ASSERT_EQUAL(toolstack_set_params(world.xs, &world.device, "disk"), 0);
            CU_ASSERT(world_until(toolstack_backend_state(world.xs, &world.device) == 2));
            blkfront_close(world_open(&(struct blkfront_options){ 0 }));
        }
        toolstack_ask_detach(world.xs, &world.device);
        CU_ASSERT(world_until(toolstack_backend_state(world.xs, &world.device) == 0));
        toolstack_remove(world.xs, &world.device);
        CU_ASSERT(world_until(world_info().vdev == 0));
    }
    /* One that is not a device at all keeps nobody from ending. */
    world_attach();
    CU_ASSERT(world_until(toolstack_backend_state(world.xs, &world.device) == 2));
    blkback_stop(world.backend, false);
    snprintf(path, sizeof path, "/local/domain/%u/backend/vbd/%u/%u/frontend-id", world.device.backend, world.device.frontend, WORLD_VDEV);
    CU_ASSERT_EQUAL(hv_xs_write(world.xs, 0, path, "77"), 0);
    world_backend_start();
    CU_ASSERT(world_until(strstr(world_info().problem, "frontend-id is not") != NULL));
    world_end();
}

static void a_second_writer_waits_for_the_first(void)
{
    world_begin(&(struct blkback_options){ 0 }, DISK_BYTES);
    world_attach();
    struct blkfront *first = world_open(&(struct blkfront_options){ 0 });
    struct toolstack_device second = world.device;
    second.vdev = 51728;
    CU_ASSERT_EQUAL(toolstack_attach(world.xs, &second), 0);
    CU_ASSERT(world_until(toolstack_backend_state(world.xs, &second) == 2));
    for (int i = 0; i < 100; i++)
        world_turn();
    CU_ASSERT_EQUAL(toolstack_backend_state(world.xs, &second), 2);
    CU_ASSERT_EQUAL(fake.opens, 1);
    world.device = second;
    CU_ASSERT(node_is("hotplug-status", "held") && node_is("hotplug-error", "image 'disk' is held by another"));
    blkfront_close(first);
    CU_ASSERT(world_until(node_is("hotplug-status", "connected") && node_is("hotplug-error", NULL)));
    struct error err = ERROR_NONE;
    struct blkfront *f = NULL;
    CU_ASSERT_EQUAL_FATAL(blkfront_open(world.guest, world.loop, &(struct blkfront_options){ .vdev = 51728 }, &f, &err), 0);
    uint8_t buffer[512] = { 9 };
    CU_ASSERT_EQUAL(blkfront_write(f, 0, buffer, 512), 0);
    blkfront_close(f);
    world_end();
}

static void seen_size(void *ctx, uint64_t size_bytes) { *(uint64_t *)ctx = size_bytes; }

static void a_resize_reaches_the_frontend(void)
{
    uint64_t size = 0;
    world_begin(&(struct blkback_options){ 0 }, DISK_BYTES);
    world_attach();
    struct blkfront *f = world_open(&(struct blkfront_options){ .resized = seen_size, .ctx = &size });
    fake.size_bytes = DISK_BYTES / 2;
    fake.last->opt.resized(fake.last->opt.ctx, fake.size_bytes);
    CU_ASSERT(world_until(size == DISK_BYTES / 2));
    uint8_t buffer[512];
    CU_ASSERT_EQUAL(blkfront_read(f, DISK_BYTES / 2, buffer, 512), -EIO);
    blkfront_close(f);
    world_end();
}

static void features_that_are_hidden_are_not_offered(void)
{
    static const struct blkback_hiding hidings[] = { { "d*", BLKBACK_FLUSH | BLKBACK_DISCARD | BLKBACK_INDIRECT },
                                                     { "disk", BLKBACK_MULTI_PAGE | BLKBACK_MULTI_QUEUE | BLKBACK_SMALL_SECTORS }, { "disk?", BLKBACK_BARRIER } };
    world_begin(&(struct blkback_options){ .hidings = hidings, .hiding_count = 3 }, DISK_BYTES);
    world_attach();
    struct blkfront *f = world_open(&(struct blkfront_options){ .ring_order = 2, .queues = 2 });
    struct blkfront_info info;
    blkfront_get_info(f, &info);
    CU_ASSERT(!info.flush && !info.discard && info.barrier);
    CU_ASSERT_EQUAL(info.max_segments, 11);
    CU_ASSERT(node_is("sector-size", "4096"));
    CU_ASSERT_EQUAL(info.size_bytes, DISK_BYTES);
    CU_ASSERT_EQUAL(info.ring_pages, 1);
    CU_ASSERT_EQUAL(info.queues, 1);
    CU_ASSERT_EQUAL(blkfront_flush(f), -EOPNOTSUPP);
    CU_ASSERT_EQUAL(blkfront_discard(f, 0, 4096), -EOPNOTSUPP);
    blkfront_close(f);
    world_end();
}

int main(int argc, char **argv)
{
    return unit_main(argc, argv, "blkback_device", (struct unit_test[]){
        UNIT(every_layout_order_and_segment_limit_carries_random_data), UNIT(several_queues_carry_random_data),
        UNIT(persistent_grants_carry_random_data), UNIT(granted_buffers_go_without_bounce), UNIT(a_read_only_disk_refuses_writes),
        UNIT(a_snapshot_asked_for_writing_is_refused),
        UNIT(in_dom0_a_refusal_waits_for_the_script), UNIT(a_frontend_that_closed_may_connect_again),
        UNIT(what_was_attached_is_opened_again_whatever_its_name), UNIT(detaching_ends_in_an_empty_tree),
        UNIT(what_a_closed_frontend_sent_is_answered), UNIT(what_a_frontend_that_vanished_sent_is_answered),
        UNIT(a_barrier_and_what_follows_it_are_answered_when_a_frontend_closes),
        UNIT(a_frontend_that_vanishes_is_cleaned_up), UNIT(a_missing_image_is_told_to_the_toolstack),
        UNIT(a_device_without_params_is_told_of_served_later_and_detached), UNIT(a_second_writer_waits_for_the_first),
        UNIT(a_resize_reaches_the_frontend), UNIT(features_that_are_hidden_are_not_offered), { 0 } });
}
