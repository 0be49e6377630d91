/* hypervisor_test.h - what the tests of the embedded hypervisor share: a hypervisor of their own in a fresh directory, and
 * processes that are domains. */
#ifndef TESTS_UNIT_HYPERVISOR_TEST_H
#define TESTS_UNIT_HYPERVISOR_TEST_H
#include "hypervisor/hypervisor.h"
#include "tests/support/unit.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* Before any test: a directory that other users may enter, and a hypervisor that will be started in it. */
__attribute__((unused)) static int with_own_hypervisor(int argc, char **argv, const char *suite, const struct unit_test *tests)
{
    char dir[] = "/tmp/hvtest.XXXXXX", command[128];
    if (!mkdtemp(dir) || chmod(dir, 0755) < 0 || setenv("PARALLAX_HYPERVISOR_DIR", dir, 1) < 0)
        return 2;
    int r = unit_main(argc, argv, suite, tests);
    snprintf(command, sizeof command, "%s/hypervisor.pid", dir);
    FILE *f = fopen(command, "r");
    long pid;
    if (f && fscanf(f, "%ld", &pid) == 1)
        kill((pid_t)pid, SIGTERM);
    if (f)
        fclose(f);
    snprintf(command, sizeof command, "rm -rf %s", dir);
    return system(command) ? 2 : r;
}

__attribute__((unused)) static struct hv *open_as(int kind, const char *name, unsigned pages)
{
    struct error err = ERROR_NONE;
    struct hv *hv = NULL;
    struct hv_identity who = { .kind = kind, .name = name, .arena_pages = pages };
    if (hv_open("local", &who, &hv, &err))
        printf("# %s\n", err.text);
    CU_ASSERT_PTR_NOT_NULL_FATAL(hv);
    return hv;
}

/* A guest and a backend, each with a port set. */
struct pair {
    struct hv *guest, *backend;
    struct hv_ports *guest_ports, *backend_ports;
    hv_domid guest_id, backend_id;
};

__attribute__((unused)) static struct pair open_pair(unsigned pages)
{
    struct pair p;
    p.backend = open_as(HV_NAMED, "storage", 0);
    p.guest = open_as(HV_GUEST, "guest", pages);
    CU_ASSERT_EQUAL_FATAL(hv_ports_open(p.guest, &p.guest_ports), 0);
    CU_ASSERT_EQUAL_FATAL(hv_ports_open(p.backend, &p.backend_ports), 0);
    p.guest_id = hv_own_domid(p.guest);
    p.backend_id = hv_own_domid(p.backend);
    return p;
}

__attribute__((unused)) static void close_pair(struct pair *p)
{
    hv_ports_close(p->guest_ports);
    hv_ports_close(p->backend_ports);
    hv_close(p->guest);
    hv_close(p->backend);
}

__attribute__((unused)) static bool readable(int fd, int timeout_ms)
{
    struct pollfd p = { .fd = fd, .events = POLLIN };
    return poll(&p, 1, timeout_ms) == 1;
}

/* Waits for the next event and returns its port, or 0. */
__attribute__((unused)) static hv_evtchn next_event(struct hv_ports *p, int timeout_ms)
{
    hv_evtchn port;
    while (readable(hv_event_fd(p), timeout_ms))
        if (hv_event_pending(p, &port) == 0)
            return port;
    return 0;
}

/* Runs body in a process of its own, which writes its findings to `out` and then waits to be killed. */
struct child {
    pid_t pid;
    int in;
};

__attribute__((unused)) static struct child start_child(void (*body)(int out, const void *argument), const void *argument)
{
    struct child c;
    int ends[2];
    fflush(stdout);
    if (pipe(ends) < 0 || (c.pid = fork()) < 0)
        abort();
    if (c.pid == 0) {
        close(ends[0]);
        body(ends[1], argument);
        for (;;)
            pause();
    }
    close(ends[1]);
    c.in = ends[0];
    return c;
}

__attribute__((unused)) static void kill_child(struct child *c)
{
    kill(c->pid, SIGKILL);
    waitpid(c->pid, NULL, 0);
    close(c->in);
}
#endif
