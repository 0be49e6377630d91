/* hypervisor_domains_test.c - domains of the embedded hypervisor: who may be what, what outlives a process and what does not. */
#include "tests/unit/hypervisor_test.h"

#include "hypervisor/local/wire.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>

static void domids_grow_and_are_never_used_twice(void)
{
    hv_domid last = 0;
    for (int i = 0; i < 20; i++) {
        struct hv *a = open_as(HV_GUEST, "a", 0), *b = open_as(HV_GUEST, "b", 0);
        CU_ASSERT_TRUE(hv_own_domid(a) > last && hv_own_domid(b) > hv_own_domid(a));
        last = hv_own_domid(b);
        hv_close(a);
        hv_close(b);
    }
}

static void several_processes_may_be_the_toolstack(void)
{
    struct hv *a = open_as(HV_TOOLSTACK, NULL, 0), *b = open_as(HV_TOOLSTACK, NULL, 0);
    CU_ASSERT_EQUAL(hv_own_domid(a), 0);
    CU_ASSERT_EQUAL(hv_own_domid(b), 0);
    CU_ASSERT_STRING_EQUAL(hv_kind(a), "local");
    hv_close(a);
    hv_close(b);
}

static void the_name_of_a_hypervisor_decides(void)
{
    struct hv *hv;
    struct hv_identity who = { .kind = HV_TOOLSTACK };
    struct error err = ERROR_NONE;
    CU_ASSERT_EQUAL(hv_open("vmware", &who, &hv, &err), -EINVAL);
    CU_ASSERT_TRUE(strstr(err.text, "vmware") != NULL);
}

static void a_second_process_cannot_take_a_name_in_use(void)
{
    struct hv *first = open_as(HV_NAMED, "storage", 0), *second = NULL, *other;
    struct hv_identity who = { .kind = HV_NAMED, .name = "storage" };
    struct error err = ERROR_NONE;
    char pid[32];
    CU_ASSERT_EQUAL(hv_open("local", &who, &second, &err), -EBUSY);
    CU_ASSERT_PTR_NULL(second);
    snprintf(pid, sizeof pid, "process %ld", (long)getpid());
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, pid));
    other = open_as(HV_NAMED, "other", 0);
    CU_ASSERT_TRUE(hv_own_domid(other) != hv_own_domid(first));
    hv_domid id = hv_own_domid(first);
    hv_close(first);
    first = open_as(HV_NAMED, "storage", 0);
    CU_ASSERT_EQUAL(hv_own_domid(first), id);
    hv_close(first);
    hv_close(other);
}

/* ---- the storage domain's process dies ---- */

struct served {
    hv_domid guest;
    hv_gref refs[2];
    hv_evtchn port;
};

struct found {
    hv_domid domid;
    int mapped, bound;
};

/* A storage domain that waits for its guest to grant, then maps and binds. The guest's side comes through a pipe. */
static int to_storage[2];

static void storage_process(int out, const void *argument)
{
    (void)argument;
    struct hv *hv = open_as(HV_NAMED, "storage", 0);
    struct hv_ports *ports;
    struct found f = { .domid = hv_own_domid(hv) };
    struct served s;
    void *map;
    hv_evtchn port;
    if (hv_ports_open(hv, &ports) || write(out, &f, sizeof f) != sizeof f || read(to_storage[0], &s, sizeof s) != sizeof s)
        abort();
    f.mapped = hv_grant_map(ports, s.guest, s.refs, 2, true, &map);
    f.bound = hv_event_bind(ports, s.guest, s.port, &port);
    if (write(out, &f, sizeof f) != sizeof f)
        abort();
}

static void wait_until_unshared(struct hv *guest, hv_gref ref)
{
    int r = -EBUSY;
    for (int i = 0; i < 500 && r == -EBUSY; i++) {
        r = hv_grant_unshare(guest, ref);
        if (r == -EBUSY)
            usleep(2000);
    }
    CU_ASSERT_EQUAL(r, 0);
}

static void a_storage_domain_killed_under_its_guest_comes_back_as_itself(void)
{
    CU_ASSERT_EQUAL_FATAL(pipe(to_storage), 0);
    struct child c = start_child(storage_process, NULL);
    struct found f;
    struct served s;
    CU_ASSERT_EQUAL_FATAL(read(c.in, &f, sizeof f), sizeof f);
    hv_domid domid = f.domid;
    struct hv *guest = open_as(HV_GUEST, "guest", 8), *storage = NULL;
    struct hv_ports *guest_ports, *ports;
    CU_ASSERT_EQUAL_FATAL(hv_ports_open(guest, &guest_ports), 0);
    char *pages = hv_arena_alloc(guest, 3);
    s.guest = hv_own_domid(guest);
    hv_gref spare;
    for (int i = 0; i < 2; i++)
        CU_ASSERT_EQUAL_FATAL(hv_grant_share(guest, domid, pages + 4096 * i, false, &s.refs[i]), 0);
    CU_ASSERT_EQUAL_FATAL(hv_grant_share(guest, domid, pages + 8192, false, &spare), 0);
    CU_ASSERT_EQUAL_FATAL(hv_event_alloc(guest_ports, domid, &s.port), 0);
    CU_ASSERT_EQUAL_FATAL(write(to_storage[1], &s, sizeof s), sizeof s);
    CU_ASSERT_EQUAL_FATAL(read(c.in, &f, sizeof f), sizeof f);
    CU_ASSERT_EQUAL(f.mapped, 0);
    CU_ASSERT_EQUAL(f.bound, 0);
    CU_ASSERT_EQUAL(hv_grant_unshare(guest, s.refs[0]), -EBUSY);
    CU_ASSERT_EQUAL(hv_event_notify(guest_ports, s.port), 0);

    kill_child(&c);
    /* The guest lives on; what it says now is dropped, or refused without harm. */
    int r = hv_event_notify(guest_ports, s.port);
    CU_ASSERT_TRUE(r == 0 || r == -ENOTCONN);
    storage = open_as(HV_NAMED, "storage", 0); /* at once: nobody waits for the hypervisor to notice the death */
    CU_ASSERT_EQUAL(hv_own_domid(storage), domid);
    CU_ASSERT_EQUAL(hv_event_notify(guest_ports, s.port), -ENOTCONN);
    CU_ASSERT_EQUAL_FATAL(hv_ports_open(storage, &ports), 0);
    char *map;
    hv_evtchn port, got;
    pages[0] = 'g';
    CU_ASSERT_EQUAL_FATAL(hv_grant_map(ports, s.guest, s.refs, 2, true, (void **)&map), 0);
    CU_ASSERT_EQUAL(map[0], 'g');
    CU_ASSERT_EQUAL_FATAL(hv_event_bind(ports, s.guest, s.port, &port), 0);
    CU_ASSERT_EQUAL(next_event(ports, 1000), port);
    CU_ASSERT_EQUAL(hv_event_unmask(ports, port), 0);
    CU_ASSERT_EQUAL(hv_event_pending(ports, &got), -EAGAIN);
    CU_ASSERT_EQUAL(hv_event_notify(guest_ports, s.port), 0);
    CU_ASSERT_EQUAL(next_event(ports, 1000), port);
    CU_ASSERT_EQUAL(hv_event_notify(ports, port), 0);
    CU_ASSERT_EQUAL(next_event(guest_ports, 1000), s.port);
    /* In use by the new process, and free again after it. */
    CU_ASSERT_EQUAL(hv_grant_unshare(guest, s.refs[1]), -EBUSY);
    hv_ports_close(ports);
    hv_close(storage);
    CU_ASSERT_EQUAL(hv_grant_unshare(guest, s.refs[1]), 0);
    hv_ports_close(guest_ports);
    hv_close(guest);
    close(to_storage[0]);
    close(to_storage[1]);
}

static void marks_of_a_killed_backend_are_taken_off(void)
{
    CU_ASSERT_EQUAL_FATAL(pipe(to_storage), 0);
    struct child c = start_child(storage_process, NULL);
    struct found f;
    struct served s;
    CU_ASSERT_EQUAL_FATAL(read(c.in, &f, sizeof f), sizeof f);
    struct hv *guest = open_as(HV_GUEST, "guest", 8);
    struct hv_ports *guest_ports;
    CU_ASSERT_EQUAL_FATAL(hv_ports_open(guest, &guest_ports), 0);
    char *pages = hv_arena_alloc(guest, 2);
    s.guest = hv_own_domid(guest);
    for (int i = 0; i < 2; i++)
        CU_ASSERT_EQUAL_FATAL(hv_grant_share(guest, f.domid, pages + 4096 * i, false, &s.refs[i]), 0);
    CU_ASSERT_EQUAL_FATAL(hv_event_alloc(guest_ports, f.domid, &s.port), 0);
    CU_ASSERT_EQUAL_FATAL(write(to_storage[1], &s, sizeof s), sizeof s);
    CU_ASSERT_EQUAL_FATAL(read(c.in, &f, sizeof f), sizeof f);
    CU_ASSERT_EQUAL(hv_grant_unshare(guest, s.refs[0]), -EBUSY);
    kill_child(&c);
    wait_until_unshared(guest, s.refs[0]);
    wait_until_unshared(guest, s.refs[1]);
    hv_ports_close(guest_ports);
    hv_close(guest);
    close(to_storage[0]);
    close(to_storage[1]);
}

/* ---- a guest's process dies ---- */

static hv_domid storage_domid;

static void guest_process(int out, const void *argument)
{
    (void)argument;
    struct hv *hv = open_as(HV_GUEST, "doomed", 8);
    struct hv_ports *ports;
    struct served s = { .guest = hv_own_domid(hv) };
    if (hv_ports_open(hv, &ports) || hv_grant_share(hv, storage_domid, hv_arena_alloc(hv, 1), false, &s.refs[0]) ||
        hv_event_alloc(ports, storage_domid, &s.port) || write(out, &s, sizeof s) != sizeof s)
        abort();
}

static int exists(struct hv_xs *xs, const char *path)
{
    char *value;
    int r = hv_xs_read(xs, 0, path, &value, NULL);
    if (!r)
        free(value);
    return r;
}

static void a_dead_guest_is_destroyed(void)
{
    struct hv *storage = open_as(HV_NAMED, "storage", 0), *toolstack = open_as(HV_TOOLSTACK, NULL, 0);
    storage_domid = hv_own_domid(storage);
    struct child c = start_child(guest_process, NULL);
    struct hv_ports *ports;
    struct hv_xs *xs;
    struct served s;
    char home[64], *path, *token;
    void *map;
    hv_evtchn port;
    CU_ASSERT_EQUAL_FATAL(hv_ports_open(storage, &ports), 0);
    CU_ASSERT_EQUAL_FATAL(hv_xs_open(toolstack, &xs), 0);
    CU_ASSERT_EQUAL_FATAL(read(c.in, &s, sizeof s), sizeof s);
    CU_ASSERT_EQUAL_FATAL(hv_grant_map(ports, s.guest, s.refs, 1, true, &map), 0);
    CU_ASSERT_EQUAL_FATAL(hv_event_bind(ports, s.guest, s.port, &port), 0);
    CU_ASSERT_EQUAL(next_event(ports, 1000), port);
    CU_ASSERT_EQUAL(hv_event_unmask(ports, port), 0);
    snprintf(home, sizeof home, "/local/domain/%u", s.guest);
    CU_ASSERT_EQUAL(exists(xs, home), 0);
    CU_ASSERT_EQUAL(hv_xs_watch(xs, home, "gone?"), 0);
    CU_ASSERT_EQUAL(hv_xs_watch(xs, "@releaseDomain", "released"), 0);
    for (int first = 0; first < 2 && readable(hv_xs_fd(xs), 1000);)
        while (hv_xs_check_watch(xs, &path, &token) == 0) {
            free(path);
            first++;
        }

    kill_child(&c);
    bool gone = false, released = false;
    for (int i = 0; i < 100 && !(gone && released); i++) {
        readable(hv_xs_fd(xs), 50);
        while (hv_xs_check_watch(xs, &path, &token) == 0) {
            gone = gone || !strcmp(token, "gone?");
            released = released || !strcmp(token, "released");
            free(path);
        }
    }
    CU_ASSERT_TRUE(gone);
    CU_ASSERT_TRUE(released);
    CU_ASSERT_EQUAL(exists(xs, home), -ENOENT);
    CU_ASSERT_EQUAL(hv_event_notify(ports, port), -ENOTCONN);
    CU_ASSERT_EQUAL(hv_event_bind(ports, s.guest, s.port, &port), -ENOENT);
    /* Memory that is mapped stays readable until it is unmapped. */
    CU_ASSERT_EQUAL(*(volatile char *)map, 0);
    CU_ASSERT_EQUAL(hv_grant_unmap(ports, map, 1), 0);
    hv_event_close(ports, port);
    CU_ASSERT_EQUAL(hv_grant_map(ports, s.guest, s.refs, 1, true, &map), -ENOENT);
    hv_xs_close(xs);
    hv_ports_close(ports);
    hv_close(storage);
    hv_close(toolstack);
}

/* ---- memory that could fault ---- */

static int raw_connect(void)
{
    struct sockaddr_un a = { .sun_family = AF_UNIX };
    snprintf(a.sun_path, sizeof a.sun_path, "%s/" WIRE_CONTROL_SOCKET, getenv("PARALLAX_HYPERVISOR_DIR"));
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    CU_ASSERT_EQUAL_FATAL(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
    return fd;
}

static int hello_with(int arena, int table, uint32_t pages, uint32_t entries)
{
    int fd = raw_connect();
    struct wire_request r = { .magic = WIRE_MAGIC, .op = WIRE_HELLO, .kind = HV_GUEST, .arena_pages = pages, .table_entries = entries };
    struct wire_reply reply = { .error = 1 };
    struct iovec iov = { &r, sizeof r };
    char space[CMSG_SPACE(2 * sizeof(int))] __attribute__((aligned(8))) = { 0 };
    struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space };
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(2 * sizeof(int));
    memcpy(CMSG_DATA(c), (int[2]){ arena, table }, 2 * sizeof(int));
    CU_ASSERT_EQUAL(sendmsg(fd, &m, 0), sizeof r);
    CU_ASSERT_EQUAL(recv(fd, &reply, sizeof reply, 0), sizeof reply);
    close(fd);
    return reply.error;
}

static int memory(size_t bytes, int seals, unsigned flags)
{
    int fd = memfd_create("test", MFD_ALLOW_SEALING | flags);
    CU_ASSERT_EQUAL_FATAL(ftruncate(fd, (off_t)bytes), 0);
    if (seals)
        CU_ASSERT_EQUAL(fcntl(fd, F_ADD_SEALS, seals), 0);
    return fd;
}

static void memory_that_can_shrink_is_refused(void)
{
    struct hv *keep = open_as(HV_TOOLSTACK, NULL, 0);
    int sealed = memory(65536, F_SEAL_SHRINK, 0), open_ended = memory(65536, 0, 0), growing = memory(65536, F_SEAL_GROW, 0);
    int file = open("/tmp", O_TMPFILE | O_RDWR, 0600), null = open("/dev/null", O_RDWR);
    CU_ASSERT_EQUAL(hello_with(sealed, sealed, 16, 512), 0);
    CU_ASSERT_EQUAL(hello_with(open_ended, sealed, 16, 512), -EPERM);
    CU_ASSERT_EQUAL(hello_with(sealed, open_ended, 16, 512), -EPERM);
    CU_ASSERT_EQUAL(hello_with(growing, sealed, 16, 512), -EPERM);
    CU_ASSERT_EQUAL(hello_with(sealed, sealed, 17, 512), -EINVAL);
    CU_ASSERT_EQUAL(hello_with(sealed, sealed, 16, 8193), -EINVAL);
    CU_ASSERT_EQUAL(hello_with(sealed, sealed, UINT32_MAX, 512), -EINVAL);
    CU_ASSERT_EQUAL(hello_with(sealed, sealed, 16, 8), -EINVAL);
    CU_ASSERT_EQUAL(hello_with(null, sealed, 16, 512), -EPERM);
    if (file >= 0)
        CU_ASSERT_EQUAL(hello_with(file, sealed, 16, 512), -EPERM);
    close(file);
    close(null);
    close(growing);
    close(open_ended);
    close(sealed);
    hv_close(keep);
}

/* ---- another user ---- */

struct stranger {
    int guest, toolstack, named, toolstack_xenstore, own_xenstore, foreign_xenstore;
};

static int try_connect(const char *name)
{
    struct sockaddr_un a = { .sun_family = AF_UNIX };
    snprintf(a.sun_path, sizeof a.sun_path, "%s/%s", getenv("PARALLAX_HYPERVISOR_DIR"), name);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(fd, (struct sockaddr *)&a, sizeof a) < 0)
        return -errno;
    /* Refused means that the other side hangs up. */
    char c;
    struct pollfd p = { .fd = fd, .events = POLLIN };
    int r = poll(&p, 1, 1000) == 1 && recv(fd, &c, 1, 0) <= 0 ? -EACCES : 0;
    close(fd);
    return r;
}

static void stranger_process(int out, const void *argument)
{
    const char *foreign = argument;
    struct stranger s;
    struct hv *hv, *guest = NULL;
    struct hv_xs *xs;
    char *domid = NULL;
    if (setgid(65534) || setuid(65534))
        abort();
    s.toolstack = hv_open("local", &(struct hv_identity){ .kind = HV_TOOLSTACK }, &hv, NULL);
    s.named = hv_open("local", &(struct hv_identity){ .kind = HV_NAMED, .name = "storage" }, &hv, NULL);
    s.guest = hv_open("local", &(struct hv_identity){ .kind = HV_GUEST, .name = "stranger", .arena_pages = 4 }, &guest, NULL);
    s.own_xenstore = guest ? hv_xs_open(guest, &xs) : -1;
    if (!s.own_xenstore)
        s.own_xenstore = hv_xs_read(xs, 0, "domid", &domid, NULL);
    if (!s.own_xenstore && (hv_domid)atoi(domid) != hv_own_domid(guest))
        s.own_xenstore = -1;
    s.toolstack_xenstore = try_connect(WIRE_XENSTORE_SOCKET);
    s.foreign_xenstore = try_connect(foreign);
    if (write(out, &s, sizeof s) != sizeof s)
        abort();
}

static void another_user_may_be_a_guest_and_nothing_else(void)
{
    struct hv *toolstack = open_as(HV_TOOLSTACK, NULL, 0), *guest = open_as(HV_GUEST, "mine", 0);
    struct hv_xs *xs;
    struct stranger s;
    char name[64];
    CU_ASSERT_EQUAL_FATAL(hv_xs_open(guest, &xs), 0);
    snprintf(name, sizeof name, "xenstore-%u.sock", hv_own_domid(guest));
    CU_ASSERT_EQUAL(try_connect(name), 0);
    struct child c = start_child(stranger_process, name);
    CU_ASSERT_EQUAL_FATAL(read(c.in, &s, sizeof s), sizeof s);
    CU_ASSERT_EQUAL(s.toolstack, -EPERM);
    CU_ASSERT_EQUAL(s.named, -EPERM);
    CU_ASSERT_EQUAL(s.guest, 0);
    CU_ASSERT_EQUAL(s.own_xenstore, 0);
    CU_ASSERT_EQUAL(s.toolstack_xenstore, -EACCES);
    CU_ASSERT_EQUAL(s.foreign_xenstore, -EACCES);
    kill_child(&c);
    hv_xs_close(xs);
    hv_close(guest);
    hv_close(toolstack);
}

/* ---- the hypervisor's own life ---- */

static void starter_process(int out, const void *argument)
{
    (void)argument;
    struct hv *hv = open_as(HV_GUEST, "starter", 0);
    hv_domid id = hv_own_domid(hv);
    if (write(out, &id, sizeof id) != sizeof id)
        abort();
}

static void of_many_starters_one_starts_it_and_it_ends_after_the_last(void)
{
    char dir[] = "/tmp/hvtest.XXXXXX", path[64], command[128];
    char *old = strdup(getenv("PARALLAX_HYPERVISOR_DIR"));
    CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(dir));
    setenv("PARALLAX_HYPERVISOR_DIR", dir, 1);
    struct child c[16];
    unsigned seen = 0;
    for (int i = 0; i < 16; i++)
        c[i] = start_child(starter_process, NULL);
    for (int i = 0; i < 16; i++) {
        hv_domid id = 0;
        CU_ASSERT_EQUAL(read(c[i].in, &id, sizeof id), sizeof id);
        CU_ASSERT_TRUE(id >= 1 && id <= 16);
        seen |= 1u << id;
    }
    CU_ASSERT_EQUAL(seen, 0x1fffe);
    for (int i = 0; i < 16; i++)
        kill_child(&c[i]);
    snprintf(path, sizeof path, "%s/" WIRE_CONTROL_SOCKET, dir);
    int waited = 0;
    while (access(path, F_OK) == 0 && waited++ < 100)
        usleep(100000);
    CU_ASSERT_TRUE(waited < 100);
    /* And it can be had again. */
    struct hv *hv = open_as(HV_GUEST, "again", 0);
    CU_ASSERT_EQUAL(hv_own_domid(hv), 1);
    hv_close(hv);
    setenv("PARALLAX_HYPERVISOR_DIR", old, 1);
    free(old);
    snprintf(command, sizeof command, "kill $(cat %s/hypervisor.pid); rm -rf %s", dir, dir);
    CU_ASSERT_EQUAL(system(command), 0);
}

int main(int argc, char **argv)
{
    struct unit_test tests[] = {
        UNIT(domids_grow_and_are_never_used_twice),
        UNIT(several_processes_may_be_the_toolstack),
        UNIT(the_name_of_a_hypervisor_decides),
        UNIT(a_second_process_cannot_take_a_name_in_use),
        UNIT(a_storage_domain_killed_under_its_guest_comes_back_as_itself),
        UNIT(marks_of_a_killed_backend_are_taken_off),
        UNIT(a_dead_guest_is_destroyed),
        UNIT(memory_that_can_shrink_is_refused),
        UNIT(of_many_starters_one_starts_it_and_it_ends_after_the_last),
        UNIT(another_user_may_be_a_guest_and_nothing_else),
        { 0 },
    };
    if (geteuid() != 0) {
        tests[sizeof tests / sizeof *tests - 2].name = NULL;
        printf("skip domains: another_user_may_be_a_guest_and_nothing_else - only root can become another user\n");
    }
    return with_own_hypervisor(argc, argv, "domains", tests);
}
