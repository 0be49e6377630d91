/* hypervisor_hostile_test.c - guests that send nonsense, do not read, or change what was checked: the hypervisor and the
 * backends live on, and others are served. */
#include "tests/unit/hypervisor_test.h"

#include "base/clock.h"
#include "hypervisor/local/wire.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <xen/io/xs_wire.h>

static int connect_to(const char *name, int type)
{
    struct sockaddr_un a = { .sun_family = AF_UNIX };
    snprintf(a.sun_path, sizeof a.sun_path, "%s/%s", getenv("PARALLAX_HYPERVISOR_DIR"), name);
    int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
    int r = connect(fd, (struct sockaddr *)&a, sizeof a);
    if (r < 0)
        printf("# %s: %s\n", a.sun_path, strerror(errno));
    CU_ASSERT_EQUAL_FATAL(r, 0);
    return fd;
}

static ssize_t send_with(int fd, const void *data, size_t bytes, const int *fds, unsigned count)
{
    struct iovec iov = { (void *)data, bytes };
    char space[CMSG_SPACE(8 * sizeof(int))] __attribute__((aligned(8))) = { 0 };
    struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };
    if (count) {
        m.msg_control = space;
        m.msg_controllen = CMSG_SPACE(count * sizeof(int));
        struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(count * sizeof(int));
        memcpy(CMSG_DATA(c), fds, count * sizeof(int));
    }
    return sendmsg(fd, &m, MSG_NOSIGNAL);
}

/* One request of a hand-made client; its reply, and the first descriptor that came with it (or -1). */
static struct wire_reply call(int fd, struct wire_request r, int *got)
{
    struct wire_reply reply = { .error = -EPIPE };
    struct iovec iov = { &reply, sizeof reply };
    char space[CMSG_SPACE(2 * sizeof(int))] __attribute__((aligned(8)));
    struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space };
    r.magic = WIRE_MAGIC;
    int first = -1;
    if (send(fd, &r, sizeof r, MSG_NOSIGNAL) == sizeof r && recvmsg(fd, &m, MSG_CMSG_CLOEXEC) == sizeof reply)
        for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c))
            memcpy(&first, CMSG_DATA(c), sizeof first);
    if (got)
        *got = first;
    else if (first >= 0)
        close(first);
    return reply;
}

static long hypervisor_number(const char *what, const char *file)
{
    char path[128], line[256];
    long pid = 0, n = -1;
    snprintf(path, sizeof path, "%s/hypervisor.pid", getenv("PARALLAX_HYPERVISOR_DIR"));
    FILE *f = fopen(path, "r");
    if (!f || fscanf(f, "%ld", &pid) != 1)
        return -1;
    fclose(f);
    snprintf(path, sizeof path, "/proc/%ld/%s", pid, file);
    f = fopen(path, "r");
    while (f && fgets(line, sizeof line, f))
        if (!strncmp(line, what, strlen(what)))
            n = atol(line + strlen(what));
    if (f)
        fclose(f);
    return n;
}

static long hypervisor_rss_kib(void) { return hypervisor_number("VmRSS:", "status"); }

static void expect_service(void)
{
    struct pair p = open_pair(4);
    hv_evtchn port, bound;
    CU_ASSERT_EQUAL(hv_event_alloc(p.guest_ports, p.backend_id, &port), 0);
    CU_ASSERT_EQUAL(hv_event_bind(p.backend_ports, p.guest_id, port, &bound), 0);
    CU_ASSERT_EQUAL(next_event(p.backend_ports, 1000), bound);
    close_pair(&p);
}

static void random_control_messages_do_no_harm(void)
{
    uint64_t seed = unit_seed();
    struct hv *keep = open_as(HV_TOOLSTACK, NULL, 0);
    int null = open("/dev/null", O_RDWR), sealed = memfd_create("m", MFD_ALLOW_SEALING);
    CU_ASSERT_EQUAL(ftruncate(sealed, 1 << 20), 0);
    CU_ASSERT_EQUAL(fcntl(sealed, F_ADD_SEALS, F_SEAL_SHRINK), 0);
    int fds[8] = { null, sealed, sealed, null, null, null, null, null }, connections = 0;
    for (int i = 0; i < 6000;) {
        int fd = connect_to(WIRE_CONTROL_SOCKET, SOCK_SEQPACKET);
        connections++;
        /* Most connections say a proper hello first, to get past the first gate. */
        if (unit_random(&seed) % 4)
            call(fd, (struct wire_request){ .op = WIRE_HELLO, .kind = HV_GUEST }, NULL);
        for (int k = 0; k < 60; k++, i++) {
            union { struct wire_request r; uint64_t words[64]; } m;
            for (unsigned w = 0; w < 64; w++)
                m.words[w] = unit_random(&seed);
            size_t bytes = sizeof m.r;
            if (unit_random(&seed) % 8)
                m.r.magic = WIRE_MAGIC;
            if (unit_random(&seed) % 8) {
                m.r.op = (uint32_t)(unit_random(&seed) % 12);
                m.r.dom = (uint32_t)(unit_random(&seed) % 8);
                m.r.port = (uint32_t)(unit_random(&seed) % 8);
                m.r.kind = (uint32_t)(unit_random(&seed) % 4);
                if (m.r.op == WIRE_HELLO && m.r.kind != HV_GUEST)
                    m.r.kind = 9; /* this user may claim names; the other tests use them */
            }
            if (unit_random(&seed) % 16 == 0)
                bytes = unit_random(&seed) % sizeof m;
            if (send_with(fd, &m, bytes, fds, (unsigned)(unit_random(&seed) % 9)) < 0)
                break;
            struct pollfd p = { .fd = fd, .events = POLLIN };
            char sink[512];
            if (poll(&p, 1, 1000) == 1 && recv(fd, sink, sizeof sink, 0) <= 0)
                break;
        }
        close(fd);
    }
    printf("# %d connections\n", connections);
    expect_service();
    close(null);
    close(sealed);
    hv_close(keep);
}

static void random_xenstore_bytes_do_no_harm(void)
{
    uint64_t seed = unit_seed();
    struct hv *guest = open_as(HV_GUEST, "noisy", 0);
    struct hv_xs *xs;
    char socket_name[64], buffer[sizeof(struct xsd_sockmsg) + XENSTORE_PAYLOAD_MAX + 64];
    static const char *const words[] = { "data", "/", "/local", "@releaseDomain", "T", "F", "0", "1", "n1", "r0", "x", "", "//", "token", "4294967296" };
    CU_ASSERT_EQUAL_FATAL(hv_xs_open(guest, &xs), 0);
    snprintf(socket_name, sizeof socket_name, "xenstore-%u.sock", hv_own_domid(guest));
    for (int i = 0; i < 400; i++) {
        int fd = connect_to(socket_name, SOCK_STREAM);
        fcntl(fd, F_SETFL, O_NONBLOCK);
        for (int k = 0; k < 100; k++) {
            struct xsd_sockmsg h = { .type = (uint32_t)(unit_random(&seed) % 24), .req_id = 1, .tx_id = (uint32_t)(unit_random(&seed) % 3) };
            size_t at = sizeof h;
            if (unit_random(&seed) % 4) {
                for (unsigned n = (unsigned)(unit_random(&seed) % 5); n; n--) {
                    const char *w = words[unit_random(&seed) % (sizeof words / sizeof *words)];
                    memcpy(buffer + at, w, strlen(w) + 1);
                    at += strlen(w) + unit_random(&seed) % 2;
                }
            } else {
                for (size_t n = unit_random(&seed) % 4096; n; n--)
                    buffer[at++] = (char)unit_random(&seed);
            }
            h.len = (uint32_t)(at - sizeof h);
            if (unit_random(&seed) % 32 == 0)
                h.len = (uint32_t)unit_random(&seed); /* a length that is not true */
            memcpy(buffer, &h, sizeof h);
            if (send(fd, buffer, at, MSG_NOSIGNAL) < 0)
                break;
            if (unit_random(&seed) % 2)
                while (recv(fd, buffer, sizeof buffer, 0) > 0)
                    ;
        }
        close(fd);
    }
    char *value;
    CU_ASSERT_EQUAL_FATAL(hv_xs_read(xs, 0, "domid", &value, NULL), 0);
    free(value);
    hv_xs_close(xs);
    hv_close(guest);
    expect_service();
}

static void a_guest_that_does_not_read_is_cut_off(void)
{
    struct hv *guest = open_as(HV_GUEST, "deaf", 0), *toolstack = open_as(HV_TOOLSTACK, NULL, 0);
    struct hv_xs *xs, *own;
    char name[64], path[128], watch[128];
    CU_ASSERT_EQUAL_FATAL(hv_xs_open(guest, &own), 0);
    CU_ASSERT_EQUAL_FATAL(hv_xs_open(toolstack, &xs), 0);
    snprintf(name, sizeof name, "xenstore-%u.sock", hv_own_domid(guest));
    int fd = connect_to(name, SOCK_STREAM);
    for (int i = 0; i < 100; i++) {
        int n = snprintf(watch, sizeof watch, "data") + 1;
        n += snprintf(watch + n, sizeof watch - (size_t)n, "token%d", i) + 1;
        struct xsd_sockmsg h = { .type = XS_WATCH, .len = (uint32_t)n };
        CU_ASSERT_EQUAL(send(fd, &h, sizeof h, 0), sizeof h);
        CU_ASSERT_EQUAL(send(fd, watch, (size_t)n, 0), n);
    }
    usleep(50000);
    long before = hypervisor_rss_kib();
    for (int i = 0; i < 3000; i++) {
        snprintf(path, sizeof path, "/local/domain/%u/data/node%d", hv_own_domid(guest), i % 500);
        CU_ASSERT_EQUAL_FATAL(hv_xs_write(xs, 0, path, "x"), 0);
    }
    long after = hypervisor_rss_kib();
    printf("# resident before %ld KiB, after %ld KiB\n", before, after);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    CU_ASSERT_TRUE(after - before < 4096);
#endif
    /* What was queued can be read; then the connection has ended. */
    char sink[4096];
    ssize_t n;
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &(struct timeval){ .tv_sec = 2 }, sizeof(struct timeval));
    while ((n = recv(fd, sink, sizeof sink, 0)) > 0)
        ;
    CU_ASSERT_EQUAL(n, 0);
    close(fd);
    /* The guest's other connection is served all the time. */
    char *value;
    CU_ASSERT_EQUAL_FATAL(hv_xs_read(own, 0, "domid", &value, NULL), 0);
    free(value);
    hv_xs_close(own);
    hv_xs_close(xs);
    hv_close(guest);
    hv_close(toolstack);
}

static void junk_in_an_event_channel_is_just_an_event(void)
{
    struct hv *backend = open_as(HV_NAMED, "storage", 0);
    struct hv_ports *ports;
    hv_evtchn bound, got;
    char junk[4096];
    int channel, null = open("/dev/null", O_RDONLY), big = 1 << 20;
    CU_ASSERT_EQUAL_FATAL(hv_ports_open(backend, &ports), 0);
    int fd = connect_to(WIRE_CONTROL_SOCKET, SOCK_SEQPACKET);
    hv_domid guest = call(fd, (struct wire_request){ .op = WIRE_HELLO, .kind = HV_GUEST }, NULL).dom;
    uint32_t port = call(fd, (struct wire_request){ .op = WIRE_ALLOC, .dom = hv_own_domid(backend) }, &channel).port;
    CU_ASSERT_TRUE_FATAL(channel >= 0);
    CU_ASSERT_EQUAL_FATAL(hv_event_bind(ports, guest, port, &bound), 0);
    CU_ASSERT_EQUAL(next_event(ports, 1000), bound);
    CU_ASSERT_EQUAL(hv_event_unmask(ports, bound), 0);
    memset(junk, 0xa5, sizeof junk);
    setsockopt(channel, SOL_SOCKET, SO_SNDBUF, &big, sizeof big);
    fcntl(channel, F_SETFL, O_NONBLOCK);
    for (int round = 0; round < 100; round++) {
        while (send_with(channel, junk, sizeof junk, (int[3]){ null, null, null }, 3) > 0)
            ;
        for (int i = 0; i < 100 && next_event(ports, 0); i++)
            hv_event_unmask(ports, bound);
    }
    char fds[64];
    snprintf(fds, sizeof fds, "/proc/self/fd/%d", channel + 40);
    CU_ASSERT_TRUE(access(fds, F_OK) < 0); /* its descriptors did not arrive here */
    shutdown(channel, SHUT_RDWR);
    for (int i = 0; i < 1000 && next_event(ports, 20); i++)
        hv_event_unmask(ports, bound);
    CU_ASSERT_EQUAL(hv_event_pending(ports, &got), -EAGAIN);
    CU_ASSERT_FALSE(readable(hv_event_fd(ports), 0));
    CU_ASSERT_EQUAL(hv_event_notify(ports, bound), -ENOTCONN);
    close(channel);
    close(null);
    close(fd);
    hv_ports_close(ports);
    hv_close(backend);
    expect_service();
}

/* ---- a grant table that changes all the time ---- */

static struct grant_entry *table;
static atomic_bool stop;

static void *scribble(void *argument)
{
    uint64_t seed = 42;
    uint32_t good = *(uint32_t *)argument;
    while (!atomic_load(&stop)) {
        uint64_t r = unit_random(&seed);
        struct grant_entry *e = &table[8 + r % 4];
        atomic_store(&e->frame, (uint32_t)(r >> 40 & 1 ? r >> 8 & 7 : r >> 8));
        atomic_store(&e->head, r >> 41 & 1 ? good : (uint32_t)(r >> 16));
    }
    return NULL;
}

static void a_grant_table_that_changes_under_the_check_does_no_harm(void)
{
    struct hv *guest = open_as(HV_GUEST, "liar", 8);
    FILE *f = fopen("/proc/self/maps", "r");
    char line[512], buffer[4096];
    unsigned long start = 0;
    while (fgets(line, sizeof line, f))
        if (strstr(line, "parallax-grants") && sscanf(line, "%lx", &start) == 1)
            break;
    fclose(f);
    table = (struct grant_entry *)start;
    struct hv *backend = open_as(HV_NAMED, "storage", 0);
    struct hv_ports *ports;
    CU_ASSERT_EQUAL_FATAL(hv_ports_open(backend, &ports), 0);
    hv_gref ref;
    uint32_t good = GRANT_PERMIT_ACCESS | hv_own_domid(backend) << 16;
    CU_ASSERT_EQUAL_FATAL(hv_grant_share(guest, hv_own_domid(backend), hv_arena_alloc(guest, 1), false, &ref), 0);
    atomic_store(&stop, false);
    pthread_t thread;
    pthread_create(&thread, NULL, scribble, &good);
    unsigned worked = 0, refused = 0, mapped = 0, i = 0;
    for (uint64_t begin = clock_monotonic_ms(); clock_monotonic_ms() - begin < 1500; i++) {
        struct hv_copy c = { .dom = hv_own_domid(guest), .ref = 8 + i % 4, .length = 64, .local = buffer, .to_guest = i & 1 };
        hv_grant_copy(ports, &c, 1);
        worked += c.status == 0;
        refused += c.status == -EACCES || c.status == -EINVAL;
        void *map;
        if (i % 16 == 0 && hv_grant_map(ports, hv_own_domid(guest), (hv_gref[2]){ 8, 9 + i / 16 % 3 }, 2, i & 16, &map) == 0) {
            buffer[0] = *(volatile char *)map;
            buffer[1] = *((volatile char *)map + 8191);
            mapped++;
            CU_ASSERT_EQUAL(hv_grant_unmap(ports, map, 2), 0);
        }
    }
    atomic_store(&stop, true);
    pthread_join(thread, NULL);
    printf("# %u copies worked, %u refused, %u mappings\n", worked, refused, mapped);
    CU_ASSERT_EQUAL(worked + refused, i);
    CU_ASSERT_TRUE(worked > 0 && refused > 0 && mapped > 0);
    hv_ports_close(ports);
    hv_close(backend);
    hv_close(guest);
}

static void a_hundred_domains_with_a_thousand_devices_stay_small(void)
{
    enum { DOMAINS = 100, DEVICES = 10, NODES = 40 };
    struct hv *storage = open_as(HV_NAMED, "storage", 0), *toolstack = open_as(HV_TOOLSTACK, NULL, 0);
    struct hv *guests[DOMAINS];
    struct hv_ports *ports[DOMAINS];
    struct hv_xs *xs;
    char path[160];
    CU_ASSERT_EQUAL_FATAL(hv_xs_open(toolstack, &xs), 0);
    for (int i = 0; i < DOMAINS; i++) {
        guests[i] = open_as(HV_GUEST, "guest", 4);
        CU_ASSERT_EQUAL_FATAL(hv_ports_open(guests[i], &ports[i]), 0);
        hv_evtchn port;
        for (int d = 0; d < DEVICES; d++) {
            CU_ASSERT_EQUAL_FATAL(hv_event_alloc(ports[i], hv_own_domid(storage), &port), 0);
            for (int n = 0; n < NODES; n++) {
                snprintf(path, sizeof path, "/local/domain/%u/backend/vbd/%u/%d/some-feature-%d", hv_own_domid(storage), hv_own_domid(guests[i]), d, n);
                CU_ASSERT_EQUAL_FATAL(hv_xs_write(xs, 0, path, "1"), 0);
            }
        }
    }
    long rss = hypervisor_rss_kib();
    printf("# the hypervisor's memory with %d domains, %d devices, %d nodes: %ld KiB\n", DOMAINS, DOMAINS * DEVICES, DOMAINS * DEVICES * NODES, rss);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    CU_ASSERT_TRUE(rss > 0 && rss < 16384);
#endif
    for (int i = 0; i < DOMAINS; i++) {
        hv_ports_close(ports[i]);
        hv_close(guests[i]);
    }
    hv_xs_close(xs);
    hv_close(toolstack);
    hv_close(storage);
}

/* ---- another user takes all it can get ---- */

static void greedy_process(int out, const void *argument)
{
    (void)argument;
    unsigned connections = 0, channels = 0;
    if (setgid(65534) || setuid(65534))
        abort();
    for (;; connections++) {
        int fd = connect_to(WIRE_CONTROL_SOCKET, SOCK_SEQPACKET);
        if (call(fd, (struct wire_request){ .op = WIRE_HELLO, .kind = HV_GUEST }, NULL).error)
            break;
        for (int i = 0; i < 100; i++)
            channels += call(fd, (struct wire_request){ .op = WIRE_ALLOC, .dom = 0 }, NULL).error == 0;
    }
    unsigned found[2] = { connections, channels };
    if (write(out, found, sizeof found) != sizeof found)
        abort();
}

static void another_user_cannot_take_all_descriptors(void)
{
    struct hv *keep = open_as(HV_TOOLSTACK, NULL, 0);
    struct child c = start_child(greedy_process, NULL);
    unsigned found[2];
    CU_ASSERT_EQUAL_FATAL(read(c.in, found, sizeof found), sizeof found);
    printf("# %u domains and %u channels before it was refused\n", found[0], found[1]);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    CU_ASSERT_TRUE(found[0] > 1);
    CU_ASSERT_TRUE(found[0] * 2 + found[1] <= files.rlim_max / 4);
    expect_service();
    kill_child(&c);
    expect_service();
    hv_close(keep);
}

int main(int argc, char **argv)
{
    struct unit_test tests[] = {
        UNIT(random_control_messages_do_no_harm),
        UNIT(random_xenstore_bytes_do_no_harm),
        UNIT(a_guest_that_does_not_read_is_cut_off),
        UNIT(junk_in_an_event_channel_is_just_an_event),
        UNIT(a_grant_table_that_changes_under_the_check_does_no_harm),
        UNIT(a_hundred_domains_with_a_thousand_devices_stay_small),
        UNIT(another_user_cannot_take_all_descriptors),
        { 0 },
    };
    if (geteuid() != 0) {
        tests[sizeof tests / sizeof *tests - 2].name = NULL;
        printf("skip hostile: another_user_cannot_take_all_descriptors - only root can become another user\n");
    }
    return with_own_hypervisor(argc, argv, "hostile", tests);
}
