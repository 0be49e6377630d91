/* blkback_connection_test.c - the backend when its xenstore goes: the connection alone, the whole hypervisor, and one that comes back
 * empty. What is connected goes on; nothing is asked more often than a timer allows; nothing that was not answered is believed.
 *
 * The calls that the control thread makes are counted here before the library's own functions do them. */
#include "tests/support/blkback_world.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <xenstore.h>

#define DISK_BYTES (1u << 20)

static pthread_t test_thread;
static atomic_uint calls;
static atomic_bool empty; /* the backend's xenstore knows nothing */
static unsigned told_useless;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static bool counted(void)
{
    bool backend = !pthread_equal(pthread_self(), test_thread);
    atomic_fetch_add(&calls, backend);
    return backend;
}

void *xs_read(struct xs_handle *h, xs_transaction_t t, const char *path, unsigned int *length)
{
    bool hide = counted() && atomic_load(&empty);
    void *value = REAL(xs_read)(h, t, path, length);
    if (!hide || (!value && errno != EACCES))
        return value;
    free(value);
    errno = ENOENT;
    return NULL;
}

char **xs_check_watch(struct xs_handle *h)
{
    counted();
    return REAL(xs_check_watch)(h);
}

/* Ends the connections to a domain's xenstore socket that this process holds; how many there were. */
static unsigned cut(hv_domid domid)
{
    char want[96];
    unsigned n = 0;
    snprintf(want, sizeof want, "%s/xenstore-%u.sock", world.dir, domid);
    DIR *d = opendir("/proc/self/fd");
    for (struct dirent *e; (e = readdir(d));) {
        struct sockaddr_un a = { 0 };
        socklen_t length = sizeof a;
        int fd = atoi(e->d_name);
        if (getpeername(fd, (struct sockaddr *)&a, &length) == 0 && a.sun_family == AF_UNIX && !strcmp(a.sun_path, want))
            n += shutdown(fd, SHUT_RDWR) == 0;
    }
    closedir(d);
    return n;
}

static void kill_hypervisor(void)
{
    char path[96];
    int pid = 0;
    snprintf(path, sizeof path, "%s/hypervisor.pid", world.dir);
    FILE *f = fopen(path, "r");
    CU_ASSERT_FATAL(f && fscanf(f, "%d", &pid) == 1 && pid > 1);
    fclose(f);
    CU_ASSERT_EQUAL(kill(pid, SIGKILL), 0);
}

static void useless(void *ctx)
{
    (void)ctx;
    told_useless++;
}

static struct raw ring;

static void begin(void)
{
    test_thread = pthread_self();
    told_useless = 0;
    world_begin(&(struct blkback_options){ .useless = useless }, DISK_BYTES);
    world_attach();
    ring = world_raw(BLKIF_ABI_X86_64, 0);
    CU_ASSERT_EQUAL_FATAL(raw_connect(&ring), 0);
    raw_put(&ring, "state", "4");
    CU_ASSERT_FATAL(world_write_block(&ring, 1));
}

/* Turns for some time. Nothing but the timer makes calls then, a few each time; a slow machine makes it fewer. */
static void expect_peace(void)
{
    uint64_t begun_ms = clock_monotonic_ms();
    atomic_store(&calls, 0);
    while (clock_monotonic_ms() < begun_ms + 2500)
        world_turn();
    CU_ASSERT(atomic_load(&calls) <= 20 * ((clock_monotonic_ms() - begun_ms) / 1000 + 2));
}

static void a_connection_that_ends_is_made_anew(void)
{
    begin();
    for (unsigned i = 0; i < 2; i++) { /* and anew */
        CU_ASSERT_EQUAL_FATAL(cut(hv_own_domid(world.storage)), 1);
        CU_ASSERT(world_write_block(&ring, 1));
        /* What is written before there is another is seen when there is. */
        raw_put(&ring, "state", "6");
        CU_ASSERT_FATAL(world_until(world_state() == 6));
        CU_ASSERT(raw_release(&ring));
        raw_put(&ring, "state", "1");
        CU_ASSERT_EQUAL_FATAL(raw_connect(&ring), 0);
        raw_put(&ring, "state", "4");
        CU_ASSERT(world_write_block(&ring, 1));
    }
    toolstack_ask_detach(world.xs, &world.device);
    raw_put(&ring, "state", "6");
    CU_ASSERT(world_until(world_state() == 0));
    CU_ASSERT(raw_release(&ring));
    CU_ASSERT_EQUAL(told_useless, 0);
    world_end();
}

static void a_guest_survives_the_hypervisor(void)
{
    begin();
    kill_hypervisor();
    CU_ASSERT(world_write_block(&ring, 1));
    expect_peace();
    CU_ASSERT(world_write_block(&ring, 1));
    CU_ASSERT_EQUAL(told_useless, 0);
    CU_ASSERT_EQUAL(fake.closes, 0);
    hv_event_close(ring.ports, ring.port); /* the guest ends */
    CU_ASSERT(world_until(told_useless));
    world_end();
}

static void without_guests_a_backend_is_of_no_use_without_hypervisor(void)
{
    test_thread = pthread_self();
    told_useless = 0;
    world_begin(&(struct blkback_options){ .useless = useless }, DISK_BYTES);
    world_attach();
    CU_ASSERT(world_until(world_state() == 2));
    kill_hypervisor();
    CU_ASSERT(world_until(told_useless));
    expect_peace();
    world_end();
}

static void a_xenstore_that_forgot_all_takes_no_disk_away(void)
{
    begin();
    CU_ASSERT_EQUAL_FATAL(cut(hv_own_domid(world.storage)), 1);
    atomic_store(&empty, true);
    expect_peace();
    CU_ASSERT(world_write_block(&ring, 1));
    CU_ASSERT_EQUAL(fake.closes, 0);
    CU_ASSERT_EQUAL(world_state(), 4);
    atomic_store(&empty, false);
    raw_put(&ring, "state", "6");
    CU_ASSERT(world_until(world_state() == 6));
    CU_ASSERT(raw_release(&ring));
    world_end();
}

/* A detached device is no reason to believe that all is forgotten. */
static void a_device_that_is_detached_meanwhile_is_let_go(void)
{
    begin();
    CU_ASSERT_EQUAL_FATAL(cut(hv_own_domid(world.storage)), 1);
    toolstack_remove(world.xs, &world.device);
    CU_ASSERT(world_until(fake.closes == 1));
    CU_ASSERT(world_until(world_info().vdev == 0));
    CU_ASSERT(raw_release(&ring));
    world_end();
}

int main(int argc, char **argv)
{
    return unit_main(argc, argv, "blkback_connection", (struct unit_test[]){
        UNIT(a_connection_that_ends_is_made_anew), UNIT(a_guest_survives_the_hypervisor),
        UNIT(without_guests_a_backend_is_of_no_use_without_hypervisor), UNIT(a_xenstore_that_forgot_all_takes_no_disk_away),
        UNIT(a_device_that_is_detached_meanwhile_is_let_go), { 0 } });
}
