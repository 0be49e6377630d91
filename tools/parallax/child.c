/* child.c - see child.h.
 *
 * The program is the one beside this one (as built), else beside it in sbin (as installed), else the one in PATH. It says that
 * it is ready as it says it to systemd: by a datagram to NOTIFY_SOCKET. */
#include "tools/parallax/child.h"

#include "base/clock.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define READY_TIMEOUT_MS 60000u /* recovery may take a while */

static void find_program(char out[PATH_MAX])
{
    char self[PATH_MAX - 32];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    self[n > 0 ? n : 0] = '\0';
    char *slash = strrchr(self, '/');
    if (slash)
        *slash = '\0';
    snprintf(out, PATH_MAX, "%s/parallaxd", self);
    if (!slash || access(out, X_OK) < 0)
        snprintf(out, PATH_MAX, "%s/../sbin/parallaxd", self);
    if (!slash || access(out, X_OK) < 0)
        snprintf(out, PATH_MAX, "parallaxd");
}

/* A socket with a name of the kernel's choice, in the abstract name space. */
static int open_notify(char name[64])
{
    struct sockaddr_un sa = { .sun_family = AF_UNIX };
    socklen_t length = sizeof sa;
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    if (bind(fd, (struct sockaddr *)&sa, sizeof(sa_family_t)) < 0 || getsockname(fd, (struct sockaddr *)&sa, &length) < 0) {
        int err = -errno;
        close(fd);
        return err;
    }
    snprintf(name, 64, "@%.*s", (int)(length - sizeof(sa_family_t) - 1), sa.sun_path + 1);
    return fd;
}

static void run_program(struct cli *cli, const char *hypervisor, const char *notify)
{
    char program[PATH_MAX];
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    /* Ctrl-C goes to the whole group; this command decides when its daemon ends, and takes it along if it is killed. */
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    setenv("NOTIFY_SOCKET", notify, 1);
    find_program(program);
    execlp(program, "parallaxd", "--store", cli->store_url, "--hypervisor", hypervisor, (char *)NULL);
    _exit(127);
}

bool child_ended(pid_t pid) { return waitpid(pid, NULL, WNOHANG) != 0; }

static int wait_ready(struct cli *cli, int fd, pid_t pid, struct error *err)
{
    uint64_t until = clock_monotonic_ms() + READY_TIMEOUT_MS;
    char text[256];
    while (clock_monotonic_ms() < until) {
        struct pollfd p[2] = { { .fd = fd, .events = POLLIN }, { .fd = cli->cancel_fd, .events = POLLIN } };
        int n = poll(p, 2, 200);
        if (n > 0 && p[1].revents)
            return error_set(err, -ECANCELED, "interrupted; nothing was attached");
        ssize_t got = n > 0 && p[0].revents ? recv(fd, text, sizeof text - 1, 0) : 0;
        text[got > 0 ? got : 0] = '\0';
        if (strstr(text, "READY=1"))
            return 0;
        if (child_ended(pid))
            return error_set(err, -ECHILD, "parallaxd could not be started; its message is above");
    }
    return error_set(err, -ETIMEDOUT, "parallaxd was not ready after %u s", READY_TIMEOUT_MS / 1000);
}

int child_start(struct cli *cli, const char *hypervisor, pid_t *out, struct error *err)
{
    char notify[64];
    int fd = open_notify(notify);
    if (fd < 0)
        return error_set(err, fd, "cannot make a socket: %s", strerror(-fd));
    pid_t pid = fork();
    if (pid == 0)
        run_program(cli, hypervisor, notify);
    if (pid < 0)
        error_set(err, -errno, "cannot start parallaxd: %s", strerror(errno));
    else if (wait_ready(cli, fd, pid, err) == 0 && cli_connect_daemon(cli, err) == -ENOENT)
        error_set(err, -ENOENT, "parallaxd started and cannot be found");
    close(fd);
    if (err->code && pid > 0)
        child_stop(pid);
    if (!err->code)
        *out = pid;
    return err->code;
}

void child_stop(pid_t pid)
{
    kill(pid, SIGTERM);
    while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
        ;
}
