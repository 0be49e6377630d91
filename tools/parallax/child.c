/* child.c - see child.h.
 *
 * A program is the one beside this one (as built), else the one where it is installed, else the one in PATH. It says that it is
 * ready as it says it to systemd: by a datagram to NOTIFY_SOCKET. */
#include "tools/parallax/child.h"

#include "base/clock.h"
#include "control/config.h"
#include "control/place.h"

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

static void find_program(const char *name, char out[PATH_MAX])
{
    static const char *const places[] = { ".", "../sbin", "../libexec/parallax" };
    char self[PATH_MAX - 128];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    self[n > 0 ? n : 0] = '\0';
    char *slash = strrchr(self, '/');
    if (slash)
        *slash = '\0';
    for (unsigned i = 0; slash && i < sizeof places / sizeof *places; i++) {
        snprintf(out, PATH_MAX, "%s/%s/%.64s", self, places[i], name);
        if (access(out, X_OK) == 0)
            return;
    }
    snprintf(out, PATH_MAX, "%.64s", name);
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

static void run_program(char *const argv[], bool lives_on, const char *notify)
{
    char program[PATH_MAX];
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    /* Ctrl-C goes to the whole group; this command decides when its child ends, and takes it along if it is killed. */
    setpgid(0, 0);
    if (!lives_on)
        prctl(PR_SET_PDEATHSIG, SIGTERM);
    setenv("NOTIFY_SOCKET", notify, 1);
    find_program(argv[0], program);
    execvp(program, argv);
    _exit(127);
}

static int exit_status(int status) { return WIFEXITED(status) ? WEXITSTATUS(status) : -1; }

bool child_ended_with(pid_t pid, int *status)
{
    int how = -1;
    if (waitpid(pid, &how, WNOHANG) == 0)
        return false;
    *status = exit_status(how);
    return true;
}

bool child_ended(pid_t pid)
{
    int status;
    return child_ended_with(pid, &status);
}

static int wait_ready(struct cli *cli, const char *name, int fd, pid_t pid, struct error *err)
{
    uint64_t until = clock_monotonic_ms() + READY_TIMEOUT_MS;
    char text[256];
    while (clock_monotonic_ms() < until) {
        struct pollfd p[2] = { { .fd = fd, .events = POLLIN }, { .fd = cli->cancel_fd, .events = POLLIN } };
        int n = poll(p, 2, 200);
        if (n > 0 && p[1].revents)
            return error_set(err, -ECANCELED, "interrupted before %s was ready", name);
        ssize_t got = n > 0 && p[0].revents ? recv(fd, text, sizeof text - 1, 0) : 0;
        text[got > 0 ? got : 0] = '\0';
        if (strstr(text, "READY=1"))
            return 0;
        if (child_ended(pid))
            return error_set(err, -ECHILD, "%s could not be started; its message is above", name);
    }
    return error_set(err, -ETIMEDOUT, "%s was not ready after %u s", name, READY_TIMEOUT_MS / 1000);
}

int child_run(struct cli *cli, char *const argv[], bool lives_on, pid_t *out, struct error *err)
{
    char notify[64];
    int fd = open_notify(notify);
    if (fd < 0)
        return error_set(err, fd, "cannot make a socket: %s", strerror(-fd));
    pid_t pid = fork();
    if (pid == 0)
        run_program(argv, lives_on, notify);
    if (pid < 0)
        error_set(err, -errno, "cannot start %s: %s", argv[0], strerror(errno));
    else if (wait_ready(cli, argv[0], fd, pid, err))
        child_stop(pid);
    else
        *out = pid;
    close(fd);
    return err->code;
}

/* The configured domain may serve another store, but guests of this one may wait for it: then it is the one to start again. */
static int choose_domain(const struct cli *cli, char name[static CONFIG_VALUE_MAX], struct error *err)
{
    if (config_value("name", name, err))
        return err->code;
    if (!*name)
        snprintf(name, CONFIG_VALUE_MAX, "%s", PLACE_DOMAIN);
    if (!place_guests_wait(cli->store_key, name))
        place_domain_name(cli->store_key, name);
    return 0;
}

int child_start(struct cli *cli, const char *hypervisor, pid_t *out, struct error *err)
{
    char name[CONFIG_VALUE_MAX];
    char *argv[] = { "parallaxd", "--store", cli->store_url, "--name", name, hypervisor ? "--hypervisor" : NULL, (char *)hypervisor, NULL };
    pid_t pid;
    if (choose_domain(cli, name, err) || child_run(cli, argv, false, &pid, err))
        return err->code;
    if (cli_connect_daemon(cli, err) == -ENOENT)
        error_set(err, -ENOENT, "parallaxd started and cannot be found");
    if (err->code)
        child_stop(pid);
    else
        *out = pid;
    return err->code;
}

int child_stop(pid_t pid)
{
    int status;
    kill(pid, SIGTERM);
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return -1;
    return exit_status(status);
}
