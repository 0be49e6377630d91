/* confine.c - see confine.h. Everything is prepared in the parent; between fork and exec the child makes system calls only. */
#include "tools/parallax/confine.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/landlock.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MEMORY_MAX (4ull << 30)
#define FILES_MAX 64u
#define MESSAGES_MAX 65536u /* bytes: all that a reader can write, and only to its messages */
#define FILE_FD 4
/* What the first Landlock knows: later kinds of access are either harmless to one's own file or refused by the limits. */
#define ALL_ACCESS (LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR | \
                    LANDLOCK_ACCESS_FS_REMOVE_DIR | LANDLOCK_ACCESS_FS_REMOVE_FILE | LANDLOCK_ACCESS_FS_MAKE_CHAR | LANDLOCK_ACCESS_FS_MAKE_DIR | \
                    LANDLOCK_ACCESS_FS_MAKE_REG | LANDLOCK_ACCESS_FS_MAKE_SOCK | LANDLOCK_ACCESS_FS_MAKE_FIFO | LANDLOCK_ACCESS_FS_MAKE_BLOCK | \
                    LANDLOCK_ACCESS_FS_MAKE_SYM)
#define RUN_ACCESS (LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_READ_FILE)

static int allow_fd(int rules, int fd, uint64_t access)
{
    struct landlock_path_beneath_attr a = { .allowed_access = access, .parent_fd = fd };
    return syscall(SYS_landlock_add_rule, rules, LANDLOCK_RULE_PATH_BENEATH, &a, 0) < 0 ? -errno : 0;
}

static int allow(int rules, const char *path, uint64_t access)
{
    int fd = open(path, O_PATH | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? 0 : -errno;
    int bad = allow_fd(rules, fd, access);
    close(fd);
    return bad;
}

/* The rules as a descriptor. */
static int make_rules(const struct confine *c, const char *program, struct error *err)
{
    struct landlock_ruleset_attr attr = { .handled_access_fs = ALL_ACCESS };
    int rules = (int)syscall(SYS_landlock_create_ruleset, &attr, sizeof attr, 0);
    if (rules < 0)
        return error_set(err, -ENOSYS, "this kernel has no Landlock (%s), without which %s is not let near a foreign file; convert it with qemu-img",
                         strerror(errno), c->program);
    uint64_t file = LANDLOCK_ACCESS_FS_READ_FILE | (c->writable ? LANDLOCK_ACCESS_FS_WRITE_FILE : 0);
    int bad = allow(rules, program, RUN_ACCESS);
    const char *const needed[] = { "/usr/lib", "/usr/lib64", "/lib", "/lib64" };
    for (unsigned i = 0; i < sizeof needed / sizeof *needed && !bad; i++)
        bad = allow(rules, needed[i], RUN_ACCESS);
    if (!bad)
        bad = allow(rules, "/etc/ld.so.cache", LANDLOCK_ACCESS_FS_READ_FILE);
    if (!bad && c->other_files)
        bad = allow(rules, "/", LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR);
    if (!bad)
        bad = allow_fd(rules, c->file_fd, file);
    if (!bad)
        return rules;
    close(rules);
    return error_set(err, bad, "cannot confine %s: %s", c->program, strerror(-bad));
}

/* ---- In the child ---- */

static void limit(int what, rlim_t most)
{
    struct rlimit r = { most, most };
    setrlimit(what, &r);
}

/* Root's power over everybody's files is not handed on. */
static bool drop_identity(const struct confine *c, const struct stat *st)
{
    if (geteuid() != 0 || c->other_files)
        return true;
    return setgroups(0, NULL) == 0 && setresgid(st->st_gid, st->st_gid, st->st_gid) == 0 && setresuid(st->st_uid, st->st_uid, st->st_uid) == 0;
}

static void place_descriptors(const struct confine *c, int rules)
{
    /* Out of the way first: they may stand where others are to go. */
    int file = fcntl(c->file_fd, F_DUPFD_CLOEXEC, 16), sock = c->socket_fd < 0 ? -1 : fcntl(c->socket_fd, F_DUPFD_CLOEXEC, 16);
    int output = c->output_fd < 0 ? -1 : fcntl(c->output_fd, F_DUPFD_CLOEXEC, 16);
    int error = fcntl(c->error_fd, F_DUPFD_CLOEXEC, 16), keep = fcntl(rules, F_DUPFD_CLOEXEC, 16);
    int null = open("/dev/null", O_RDWR);
    if (file < 0 || error < 0 || keep < 0 || null < 0 || dup2(null, STDIN_FILENO) < 0 || dup2(output < 0 ? null : output, STDOUT_FILENO) < 0 || dup2(error, STDERR_FILENO) < 0)
        _exit(126);
    if (sock >= 0 ? dup2(sock, CONFINE_SOCKET_FD) < 0 : dup2(null, CONFINE_SOCKET_FD) < 0)
        _exit(126);
    if (dup2(file, FILE_FD) < 0 || dup2(keep, FILE_FD + 1) < 0)
        _exit(126);
    close_range(FILE_FD + 2, ~0u, 0);
}

static void run(const struct confine *c, const char *program, int rules, const struct stat *st, char *const *environment, char *pid_text)
{
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    signal(SIGINT, SIG_IGN); /* Ctrl-C is the parent's to handle */
    place_descriptors(c, rules);
    if (!drop_identity(c, st))
        _exit(126);
    unshare(CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWIPC); /* where it is forbidden the rest must do */
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    limit(RLIMIT_AS, MEMORY_MAX);
    limit(RLIMIT_NOFILE, FILES_MAX);
    limit(RLIMIT_CORE, 0);
    if (!c->writable)
        limit(RLIMIT_FSIZE, MESSAGES_MAX);
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || syscall(SYS_landlock_restrict_self, FILE_FD + 1, 0) < 0)
        _exit(126);
    close(FILE_FD + 1);
    int n = (int)getpid(), digits = 0;
    char reversed[16];
    do
        reversed[digits++] = (char)('0' + n % 10);
    while (n /= 10);
    while (digits)
        *pid_text++ = reversed[--digits];
    *pid_text = '\0';
    execve(program, c->argv, environment);
    _exit(127);
}

int confine_start(const struct confine *c, pid_t *out, struct error *err)
{
    char program[64], listen_pid[32] = "LISTEN_PID=";
    char *environment[] = { "LC_ALL=C", "PATH=/usr/bin", "LISTEN_FDS=1", listen_pid, NULL };
    struct stat st;
    if (c->socket_fd < 0)
        environment[2] = NULL;
    snprintf(program, sizeof program, "/usr/bin/%s", c->program);
    if (access(program, X_OK) < 0)
        return error_set(err, -ENOENT, "%s is needed for this format; install the package qemu-utils", c->program);
    if (fstat(c->file_fd, &st) < 0)
        return error_set(err, -errno, "cannot look at the file: %s", strerror(errno));
    int rules = make_rules(c, program, err);
    if (rules < 0)
        return rules;
    pid_t pid = fork();
    if (pid == 0)
        run(c, program, rules, &st, environment, listen_pid + strlen(listen_pid));
    if (pid < 0)
        error_set(err, -errno, "cannot start %s: %s", c->program, strerror(errno));
    close(rules);
    *out = pid;
    return pid < 0 ? err->code : 0;
}
