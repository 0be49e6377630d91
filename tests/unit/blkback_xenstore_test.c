/* blkback_xenstore_test.c - the backend when the xenstore refuses: quotas, conflicts, want of memory, at every single call.
 *
 * The functions of libxenstore that the backend uses are defined here, before the library's own: those that its control thread calls
 * are counted, and one of them fails. */
#include "tests/support/blkback_world.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <xenstore.h>

#define DISK_BYTES (1u << 20)

static pthread_t test_thread;
static atomic_uint calls, fail_at; /* fail_at 0: none */
static atomic_int fail_with;
static atomic_bool no_writes; /* every write of the control thread fails for want of quota */
static atomic_bool slow; /* the xenstore does not answer the backend for now */

static bool fails(void)
{
    if (pthread_equal(pthread_self(), test_thread))
        return false;
    while (atomic_load(&slow))
        usleep(1000);
    if (atomic_fetch_add(&calls, 1) + 1 != atomic_load(&fail_at))
        return false;
    errno = atomic_load(&fail_with);
    return true;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

void *xs_read(struct xs_handle *h, xs_transaction_t t, const char *path, unsigned int *length) { return fails() ? NULL : REAL(xs_read)(h, t, path, length); }
char **xs_directory(struct xs_handle *h, xs_transaction_t t, const char *path, unsigned int *count) { return fails() ? NULL : REAL(xs_directory)(h, t, path, count); }
bool xs_rm(struct xs_handle *h, xs_transaction_t t, const char *path) { return !fails() && REAL(xs_rm)(h, t, path); }
bool xs_watch(struct xs_handle *h, const char *path, const char *token) { return !fails() && REAL(xs_watch)(h, path, token); }
bool xs_unwatch(struct xs_handle *h, const char *path, const char *token) { return !fails() && REAL(xs_unwatch)(h, path, token); }
xs_transaction_t xs_transaction_start(struct xs_handle *h) { return fails() ? XBT_NULL : REAL(xs_transaction_start)(h); }

bool xs_write(struct xs_handle *h, xs_transaction_t t, const char *path, const void *data, unsigned int length)
{
    if (atomic_load(&no_writes) && !pthread_equal(pthread_self(), test_thread)) {
        atomic_fetch_add(&calls, 1);
        errno = ENOSPC;
        return false;
    }
    return !fails() && REAL(xs_write)(h, t, path, data, length);
}

bool xs_transaction_end(struct xs_handle *h, xs_transaction_t t, bool abort)
{
    int wish = atomic_load(&fail_with);
    if (!fails())
        return REAL(xs_transaction_end)(h, t, abort);
    REAL(xs_transaction_end)(h, t, true);
    errno = wish;
    return false;
}

/* ---- One life of a device ---- */

static int find_problem(void *ctx, const struct blkback_device_info *info) { return info->vdev == *(unsigned *)ctx && *info->problem ? (*(unsigned *)ctx = 0, 1) : 0; }

static bool problem_of(unsigned vdev)
{
    blkback_each_device(world.backend, find_problem, &vdev);
    return !vdev;
}

static bool use(struct raw *r)
{
    return raw_prepare(r) == 0 && raw_put(r, "state", "3") == 0 && world_until(world_state() == 4) && raw_put(r, "state", "4") == 0 && world_write_block(r, 1);
}

static bool reason_is(const char *want)
{
    char *text = toolstack_backend_node(world.xs, &world.device, "hotplug-error");
    bool is = text && strstr(text, want);
    free(text);
    return is;
}

static unsigned calls_until_used; /* when none fails */

/* What went wrong, or NULL. */
static const char *live(void)
{
    struct raw r = world_raw(BLKIF_ABI_X86_64, 0);
    r.backend = world.device.backend;
    bool in_dom0 = r.backend == HV_DOMID_TOOLSTACK;
    if (toolstack_attach(world.xs, &world.device))
        return "the toolstack cannot attach";
    /* What cannot be read or written is tried again. */
    if (!world_until(world_state() == 2))
        return "not offered";
    if (!use(&r))
        return "the frontend cannot use it";
    if (!atomic_load(&fail_at))
        calls_until_used = atomic_load(&calls);
    toolstack_ask_detach(world.xs, &world.device);
    raw_put(&r, "state", "6");
    if (in_dom0) {
        if (!world_until(world_state() == 6))
            return "not closed";
        toolstack_remove(world.xs, &world.device);
    }
    if (!world_until(world_state() == 0))
        return "its directory stays";
    if (!world_until(world_info().vdev == 0))
        return "the device is not forgotten";
    if (fake.opens != fake.closes)
        return "the image stays open";
    if (!raw_release(&r))
        return "the ring stays mapped";
    toolstack_remove(world.xs, &world.device);
    return NULL;
}

/* The same of one that does not come up: the reason stands where the toolstack waits for it. */
static const char *be_refused(void)
{
    bool in_dom0 = world.device.backend == HV_DOMID_TOOLSTACK;
    world.device.params = "nothing";
    if (toolstack_attach(world.xs, &world.device))
        return "the toolstack cannot attach";
    if (!world_until(reason_is("no image 'nothing'")))
        return "no reason is given";
    if (!world_until(world_state() == (in_dom0 ? 2 : 1)))
        return "not in the state in which the toolstack looks";
    if (!atomic_load(&fail_at))
        calls_until_used = atomic_load(&calls);
    toolstack_ask_detach(world.xs, &world.device);
    if (in_dom0 && !world_until(world_state() == 6))
        return "not closed";
    if (in_dom0)
        toolstack_remove(world.xs, &world.device);
    if (!world_until(world_state() == 0))
        return "its directory stays";
    toolstack_remove(world.xs, &world.device);
    return world_until(world_info().vdev == 0) ? NULL : "the device is not forgotten";
}

/* And of one whose frontend asks for what cannot be. */
static const char *be_disconnected(void)
{
    struct raw r = world_raw(BLKIF_ABI_X86_64, 0);
    r.backend = world.device.backend;
    if (toolstack_attach(world.xs, &world.device))
        return "the toolstack cannot attach";
    if (!world_until(world_state() == 2))
        return "not offered";
    raw_prepare(&r);
    raw_put(&r, "ring-ref", "%s", "nonsense");
    raw_put(&r, "state", "3");
    if (!world_until(world_state() == 5))
        return "not disconnected";
    if (!world_until(reason_is("ring-ref")))
        return "no reason is given";
    if (!atomic_load(&fail_at))
        calls_until_used = atomic_load(&calls);
    raw_release(&r);
    toolstack_remove(world.xs, &world.device);
    return world_until(world_info().vdev == 0) ? NULL : "the device is not forgotten";
}

static void every_call_may_fail(bool in_dom0, int error, const char *(*body)(void))
{
    test_thread = pthread_self();
    world_begin(&(struct blkback_options){ 0 }, DISK_BYTES);
    if (in_dom0) {
        struct error err = ERROR_NONE;
        blkback_stop(world.backend, false);
        CU_ASSERT_EQUAL_FATAL(blkback_start(world.toolstack, NULL, world.loop, &world.options, &world.backend, &err), 0);
        world.device.backend = HV_DOMID_TOOLSTACK;
    }
    atomic_store(&calls, 0);
    CU_ASSERT_PTR_NULL_FATAL(body());
    /* In a storage domain a device takes its time to go, and until then nothing is other than in dom0. */
    for (unsigned at = in_dom0 || body != live ? 1 : calls_until_used;; at++) {
        atomic_store(&calls, 0);
        atomic_store(&fail_with, error);
        atomic_store(&fail_at, at);
        const char *wrong = body();
        atomic_store(&fail_at, 0);
        if (wrong)
            fprintf(stderr, "call %u, error %d: %s; state %u, problem '%s'\n", at, error, wrong, world_state(), world_info().problem);
        CU_ASSERT_PTR_NULL_FATAL(wrong);
        if (atomic_load(&calls) < at || (body != live && at > calls_until_used))
            break;
    }
    world_end();
}

static void in_dom0_no_call_that_fails_for_want_of_quota_leaves_anything(void) { every_call_may_fail(true, ENOSPC, live); }
static void in_dom0_no_call_that_meets_a_conflict_leaves_anything(void) { every_call_may_fail(true, EAGAIN, live); }
static void in_a_storage_domain_no_call_that_fails_leaves_anything(void) { every_call_may_fail(false, E2BIG, live); }
static void in_dom0_no_call_that_fails_costs_the_reason(void) { every_call_may_fail(true, ENOSPC, be_refused); }
static void no_call_that_fails_costs_the_reason_of_a_disconnection(void) { every_call_may_fail(false, ENOSPC, be_disconnected); }

#define RETRY_MS 200u

/* As long as they are refused they are tried again, but at the timer's pace. */
static void what_cannot_be_written_is_tried_again_in_peace(void)
{
    test_thread = pthread_self();
    world_begin(&(struct blkback_options){ 0 }, DISK_BYTES);
    world.device.params = "nothing";
    atomic_store(&no_writes, true);
    world_attach();
    CU_ASSERT(world_until(*world_info().problem));
    atomic_store(&calls, 0);
    uint64_t begun_ms = clock_monotonic_ms();
    while (clock_monotonic_ms() < begun_ms + 5 * RETRY_MS)
        world_turn();
    /* At most: a slow machine makes it fewer. */
    unsigned made = atomic_load(&calls), turns = (unsigned)((clock_monotonic_ms() - begun_ms) / RETRY_MS) + 2;
    CU_ASSERT(made > 0);
    CU_ASSERT(made <= turns * 50);
    atomic_store(&no_writes, false);
    CU_ASSERT(world_until(reason_is("no image 'nothing'")));
    toolstack_remove(world.xs, &world.device);
    world_end();
}

/* Whether nothing is asked of the xenstore for some rounds of the timer. */
static bool at_rest(void)
{
    uint64_t begun_ms = clock_monotonic_ms();
    atomic_store(&calls, 0);
    while (clock_monotonic_ms() < begun_ms + 4 * RETRY_MS)
        world_turn();
    return atomic_load(&calls) == 0;
}

/* What could not be said to a frontend is not owed to the one that closed. */
static void a_device_that_is_closed_rests(void)
{
    test_thread = pthread_self();
    world_begin(&(struct blkback_options){ 0 }, DISK_BYTES);
    struct toolstack_device other = world.device;
    other.vdev += 16;
    CU_ASSERT_EQUAL_FATAL(toolstack_attach(world.xs, &other), 0);
    CU_ASSERT(world_until(toolstack_backend_state(world.xs, &other) == 2)); /* it holds the image */
    atomic_store(&no_writes, true);
    world_attach();
    CU_ASSERT(world_until(problem_of(WORLD_VDEV)));
    struct raw r = world_raw(BLKIF_ABI_X86_64, 0);
    raw_put(&r, "state", "6");
    atomic_store(&calls, 0);
    CU_ASSERT(world_until(atomic_load(&calls) > 0));
    for (unsigned i = 0; i < 500; i++)
        world_turn();
    atomic_store(&no_writes, false);
    CU_ASSERT(world_until(at_rest()));
    toolstack_remove(world.xs, &world.device);
    toolstack_remove(world.xs, &other);
    world_end();
}

static void no_call_that_fails_at_a_restart_costs_the_guest_its_disk(void)
{
    struct error err = ERROR_NONE;
    test_thread = pthread_self();
    world_begin(&(struct blkback_options){ 0 }, DISK_BYTES);
    world_attach();
    struct raw r = world_raw(BLKIF_ABI_X86_64, 1);
    CU_ASSERT_FATAL(world_until(world_state() == 2) && use(&r));
    unsigned made = 0;
    for (unsigned at = 1; made + 1 >= at; at++) {
        blkback_stop(world.backend, true);
        atomic_store(&calls, 0);
        atomic_store(&fail_with, ENOMEM);
        atomic_store(&fail_at, at);
        if (blkback_start(world.storage, NULL, world.loop, &world.options, &world.backend, &err))
            world_backend_start(); /* as a service manager would */
        CU_ASSERT_FATAL(world_write_block(&r, 1));
        made = atomic_load(&calls);
        atomic_store(&fail_at, 0);
        CU_ASSERT_EQUAL_FATAL(world_state(), 4);
    }
    raw_put(&r, "state", "6");
    CU_ASSERT(world_until(world_state() == 6));
    CU_ASSERT(raw_release(&r));
    world_end();
}

/* Events wait in a queue of libxenstore's that has no bound: so they are taken from it whatever they are, and acted upon afterwards. */
static void a_frontend_that_writes_its_state_without_end_costs_a_look(void)
{
    enum { WRITES = 3000 };
    test_thread = pthread_self();
    world_begin(&(struct blkback_options){ 0 }, DISK_BYTES);
    world_attach();
    struct raw r = world_raw(BLKIF_ABI_X86_64, 0);
    CU_ASSERT_FATAL(world_until(world_state() == 2) && use(&r));
    atomic_store(&calls, 0);
    atomic_store(&slow, true);
    for (unsigned i = 0; i < WRITES; i++)
        raw_put(&r, "state", "4");
    atomic_store(&slow, false);
    CU_ASSERT(world_write_block(&r, 1));
    struct toolstack_device first = world.device;
    world.device.vdev = 51728;
    world.device.mode = "r";
    world_attach(); /* its events come behind all of those */
    CU_ASSERT(world_until(world_state() == 2));
    CU_ASSERT(atomic_load(&calls) < WRITES / 10);
    world.device = first;
    raw_put(&r, "state", "6");
    CU_ASSERT(world_until(world_state() == 6));
    CU_ASSERT(raw_release(&r));
    world_end();
}

/* Xen's own limits, which the embedded hypervisor has for guests: so this backend is one. */
static void what_a_quota_lets_in_can_be_used(void)
{
    struct error err = ERROR_NONE;
    test_thread = pthread_self();
    world_begin(&(struct blkback_options){ 0 }, DISK_BYTES);
    blkback_stop(world.backend, false);
    struct hv *small = world_join(HV_GUEST, 0);
    CU_ASSERT_EQUAL_FATAL(blkback_start(small, NULL, world.loop, &world.options, &world.backend, &err), 0);
    world.device.backend = hv_own_domid(small);
    world.device.mode = "r";
    unsigned offered = 0;
    do {
        world.device.vdev = (1u << 28) + (offered << 8);
        world_attach();
        CU_ASSERT_FATAL(world_until(world_state() == 2 || problem_of(world.device.vdev)));
    } while (world_state() == 2 && ++offered < 100);
    CU_ASSERT(offered > 10 && offered < 100);
    for (unsigned i = 0; i < offered; i++) {
        struct raw r = world_raw(BLKIF_ABI_X86_64, 0);
        world.device.vdev = r.vdev = (1u << 28) + (i << 8);
        r.backend = world.device.backend;
        CU_ASSERT_FATAL(raw_prepare(&r) == 0 && raw_put(&r, "state", "3") == 0);
        CU_ASSERT_FATAL(world_until(world_state() == 4));
        raw_put(&r, "state", "6");
        CU_ASSERT(world_until(world_state() == 6));
        CU_ASSERT(raw_release(&r));
    }
    /* With room again, the one that was refused comes up by itself. */
    for (unsigned i = 0; i < 3; i++) {
        world.device.vdev = (1u << 28) + (i << 8);
        toolstack_remove(world.xs, &world.device);
    }
    world.device.vdev = (1u << 28) + (offered << 8);
    CU_ASSERT(world_until(world_state() == 2));
    blkback_stop(world.backend, false);
    world.backend = NULL;
    hv_close(small);
    world_end();
}

int main(int argc, char **argv)
{
    return unit_main(argc, argv, "blkback_xenstore", (struct unit_test[]){
        UNIT(in_dom0_no_call_that_fails_for_want_of_quota_leaves_anything),
        UNIT(in_dom0_no_call_that_meets_a_conflict_leaves_anything), UNIT(in_a_storage_domain_no_call_that_fails_leaves_anything),
        UNIT(in_dom0_no_call_that_fails_costs_the_reason), UNIT(no_call_that_fails_costs_the_reason_of_a_disconnection), UNIT(what_cannot_be_written_is_tried_again_in_peace),
        UNIT(a_device_that_is_closed_rests),
        UNIT(no_call_that_fails_at_a_restart_costs_the_guest_its_disk), UNIT(a_frontend_that_writes_its_state_without_end_costs_a_look), UNIT(what_a_quota_lets_in_can_be_used), { 0 } });
}
