/* local_start.c - finds the running hypervisor, or starts one.
 *
 * 1. Whoever finds no listener takes DIR/start.lock, looks again, and only then starts the program; so of many starters one
 *    does it. The program makes its sockets before it leaves its first process, so when that one ended with 0, connecting
 *    works.
 * 2. The new process gets nothing of ours but the directory: descriptors are closed, output goes to DIR/log, signals are
 *    reset. A pipe of the starter's must not stay open because a hypervisor lives on. */
#include "hypervisor/local/local_private.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define PROGRAM "parallax-hypervisor"

extern char **environ;

/* A plain user's who has no runtime directory. Everybody may make names in /dev/shm, so it must be looked at who made this one. */
static int directory_in_memory(char dir[LOCAL_DIR_BYTES], struct error *err)
{
    struct stat st;
    snprintf(dir, LOCAL_DIR_BYTES, "/dev/shm/parallax-%u", (unsigned)geteuid());
    if ((mkdir(dir, 0700) < 0 && errno != EEXIST) || lstat(dir, &st) < 0)
        return error_set(err, -errno, "cannot make %s: %s; set PARALLAX_HYPERVISOR_DIR", dir, strerror(errno));
    if (!S_ISDIR(st.st_mode) || st.st_uid != geteuid())
        return error_set(err, -EPERM, "%s is not a directory of this user; remove it, or set PARALLAX_HYPERVISOR_DIR", dir);
    strcat(dir, "/hypervisor");
    return 0;
}

int local_directory(char dir[LOCAL_DIR_BYTES], struct error *err)
{
    const char *set = getenv("PARALLAX_HYPERVISOR_DIR"), *runtime = getenv("XDG_RUNTIME_DIR");
    int n;
    if (set && *set)
        n = snprintf(dir, LOCAL_DIR_BYTES, "%s", set);
    else if (geteuid() == 0)
        n = snprintf(dir, LOCAL_DIR_BYTES, "/run/parallax/hypervisor");
    else if (runtime && *runtime)
        n = snprintf(dir, LOCAL_DIR_BYTES, "%s/parallax/hypervisor", runtime);
    else
        return directory_in_memory(dir, err);
    if (n >= LOCAL_DIR_BYTES)
        return error_set(err, -ENAMETOOLONG, "the embedded hypervisor's directory has too long a name (more than %d bytes): set a shorter PARALLAX_HYPERVISOR_DIR", LOCAL_DIR_BYTES - 1);
    if (dir[0] != '/')
        return error_set(err, -EINVAL, "PARALLAX_HYPERVISOR_DIR must be an absolute path, not '%s'", dir);
    return 0;
}

int local_make_directory(const char *dir)
{
    mode_t mode = geteuid() == 0 ? 0755 : 0700;
    char path[LOCAL_DIR_BYTES];
    if (snprintf(path, sizeof path, "%s", dir) >= (int)sizeof path)
        return -ENAMETOOLONG;
    for (char *p = path + 1; ; p++) {
        if (*p && *p != '/')
            continue;
        char end = *p;
        *p = 0;
        if (mkdir(path, mode) < 0 && errno != EEXIST)
            return -errno;
        if (!end)
            return 0;
        *p = end;
    }
}

static int try_connect(const char *dir, int *out)
{
    struct sockaddr_un a = { .sun_family = AF_UNIX };
    snprintf(a.sun_path, sizeof a.sun_path, "%s/" WIRE_CONTROL_SOCKET, dir);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    int r;
    do
        r = connect(fd, (struct sockaddr *)&a, sizeof a);
    while (r < 0 && errno == EINTR);
    if (r < 0) {
        r = -errno;
        close(fd);
        return r;
    }
    *out = fd;
    return 0;
}

/* The program stands beside the running one, two directories up (tests), in ../libexec/parallax (installed), or where the
 * environment says. */
static int find_program(char *path, size_t bytes)
{
    const char *set = getenv("PARALLAX_HYPERVISOR_BIN");
    if (set && *set) {
        snprintf(path, bytes, "%s", set);
        return access(path, X_OK) == 0 ? 0 : -errno;
    }
    char self[4096];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n < 0)
        return -errno;
    self[n] = 0;
    char *slash = strrchr(self, '/');
    *slash = 0;
    static const char *const places[] = { "/" PROGRAM, "/../../" PROGRAM, "/../libexec/parallax/" PROGRAM };
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        if (snprintf(path, bytes, "%s%s", self, places[i]) < (int)bytes && access(path, X_OK) == 0)
            return 0;
    }
    snprintf(path, bytes, "/usr/libexec/parallax/" PROGRAM);
    return access(path, X_OK) == 0 ? 0 : -errno;
}

static int spawn(const char *program, const char *dir, pid_t *pid)
{
    char log[LOCAL_DIR_BYTES + 8];
    snprintf(log, sizeof log, "%s/log", dir);
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t none, all;
    sigemptyset(&none);
    sigfillset(&all);
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attributes);
    posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, log, O_WRONLY | O_CREAT | O_APPEND, 0600);
    posix_spawn_file_actions_adddup2(&actions, STDOUT_FILENO, STDERR_FILENO);
    posix_spawn_file_actions_addclosefrom_np(&actions, 3);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setsigdefault(&attributes, &all);
    char *argv[] = { (char *)PROGRAM, (char *)"--daemon", (char *)dir, NULL };
    int r = -posix_spawn(pid, program, &actions, &attributes, argv, environ);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    return r;
}

static int start(const char *dir, struct error *err)
{
    char program[4200];
    int r = find_program(program, sizeof program);
    if (r)
        return error_set(err, r, "cannot find the program %s to start (%s): set PARALLAX_HYPERVISOR_BIN", PROGRAM, program);
    pid_t pid;
    r = spawn(program, dir, &pid);
    if (r)
        return error_set(err, r, "cannot run %s: %s", program, strerror(-r));
    int status = 0;
    pid_t got;
    do
        got = waitpid(pid, &status, 0);
    while (got < 0 && errno == EINTR);
    /* Where the caller ignores SIGCHLD there is no status to be had; the connection attempt that follows tells. */
    if (got == pid && (!WIFEXITED(status) || WEXITSTATUS(status) != 0))
        return error_set(err, -EIO, "the embedded hypervisor did not start: see %s/log", dir);
    return 0;
}

static int connect_or_start(const char *dir, int *fd, struct error *err)
{
    int r = local_make_directory(dir);
    if (r)
        return error_set(err, r, "cannot make the embedded hypervisor's directory %s: %s", dir, strerror(-r));
    char path[LOCAL_DIR_BYTES + 16];
    snprintf(path, sizeof path, "%s/start.lock", dir);
    int lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (lock < 0)
        return error_set(err, -errno, "no embedded hypervisor runs in %s, and only its owner can start one: %s", dir, strerror(errno));
    do
        r = flock(lock, LOCK_EX);
    while (r < 0 && errno == EINTR);
    r = try_connect(dir, fd);
    if (r == -ENOENT || r == -ECONNREFUSED) {
        r = start(dir, err);
        if (!r) {
            r = try_connect(dir, fd);
            if (r)
                error_set(err, r, "cannot reach the embedded hypervisor just started in %s: %s", dir, strerror(-r));
        }
    } else if (r) {
        error_set(err, r, "cannot reach the embedded hypervisor in %s: %s", dir, strerror(-r));
    }
    close(lock);
    return r;
}

int local_connect(const char *dir, int *fd, struct error *err)
{
    int r = try_connect(dir, fd);
    if (r == -ENOENT || r == -ECONNREFUSED)
        return connect_or_start(dir, fd, err);
    if (r)
        return error_set(err, r, "cannot reach the embedded hypervisor in %s: %s", dir, strerror(-r));
    return 0;
}
