/* cmd_mount.c - mount, umount.
 *
 * mount starts the door, a process of its own, and leaves it behind when the directory shows the store. If no daemon serves
 * the store, it starts one, stays, and takes both along when it is told to end or the directory is unmounted. */
#include "tools/parallax/commands.h"

#include "base/clock.h"
#include "control/contact.h"
#include "tools/parallax/child.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <mntent.h>
#include <poll.h>
#include <pwd.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define DOOR "parallax-mount"
#define DOOR_ARGUMENTS 16
#define LOOK_EVERY_MS 50
#define NOTICE_MS 1000u

/* ---- Options ---- */

struct owner {
    char uid[16], gid[16]; /* "" : not said */
};

static bool is_number(const char *text) { return *text && strspn(text, "0123456789") == strlen(text) && strlen(text) < 11; }

/* USER[:GROUP], names or numbers; a user's name alone brings the user's own group. */
static int parse_owner(const struct args *a, struct owner *out)
{
    const char *text = option_value(a, "owner");
    char user[64];
    if (!text)
        return EXIT_DONE;
    const char *colon = strchr(text, ':'), *group = colon ? colon + 1 : NULL;
    snprintf(user, sizeof user, "%.*s", (int)(colon ? colon - text : (long)strlen(text)), text);
    const struct passwd *pw = is_number(user) ? NULL : getpwnam(user);
    const struct group *gr = !group || is_number(group) ? NULL : getgrnam(group);
    if (!pw && !is_number(user))
        return cli_usage(a, "--owner: there is no user '%s'", user);
    if (group && !gr && !is_number(group))
        return cli_usage(a, "--owner: there is no group '%.63s'", group);
    /* is_number bounds what is taken as it stands */
    if (pw)
        snprintf(out->uid, sizeof out->uid, "%u", (unsigned)pw->pw_uid);
    else
        snprintf(out->uid, sizeof out->uid, "%.10s", user);
    if (group && !gr)
        snprintf(out->gid, sizeof out->gid, "%.10s", group);
    else if (gr || pw)
        snprintf(out->gid, sizeof out->gid, "%u", gr ? (unsigned)gr->gr_gid : (unsigned)pw->pw_gid);
    return EXIT_DONE;
}

static int check_mode(const struct args *a)
{
    const char *mode = option_value(a, "mode");
    bool good = !mode || (*mode && strspn(mode, "01234567") == strlen(mode) && strtoul(mode, NULL, 8) <= 0777);
    return good ? EXIT_DONE : cli_usage(a, "--mode is octal permissions such as 660, not '%.32s'", mode);
}

static int find_directory(const char *text, char out[PATH_MAX])
{
    struct stat st;
    bool there = realpath(text, out) && stat(out, &st) == 0;
    if (!there && errno == ENOTCONN)
        return cli_fail_text("what was mounted on '%s' has died; 'parallax umount %s' takes it away", text, text);
    if (!there)
        return cli_fail_text("cannot mount on '%s': %s", text, strerror(errno));
    return S_ISDIR(st.st_mode) ? EXIT_DONE : cli_fail_text("cannot mount on '%s': it is not a directory", text);
}

static bool lies_in(const char *path, const char *directory)
{
    size_t length = strlen(directory);
    length -= length && directory[length - 1] == '/';
    return !strncmp(path, directory, length) && (path[length] == '/' || !path[length]);
}

/* Where the store is mounted that the directory is part of; false: it is part of none. */
static bool find_mounted(const char *directory, char at[PATH_MAX])
{
    const struct mntent *e;
    bool found = false;
    FILE *f = setmntent("/proc/self/mounts", "re");
    *at = 0;
    while (f && (e = getmntent(f)))
        if (lies_in(directory, e->mnt_dir) && strlen(e->mnt_dir) >= strlen(at)) { /* of two in one place the last one is on top */
            snprintf(at, PATH_MAX, "%s", e->mnt_dir);
            found = !strcmp(e->mnt_type, "fuse.parallax");
        }
    if (f)
        endmntent(f);
    return found;
}

/* Nothing else is unmounted by mistake. */
static bool shows_store(const char *directory)
{
    char at[PATH_MAX];
    return find_mounted(directory, at) && !strcmp(at, directory);
}

/* ---- mount ---- */

/* Open and locked until the mount is there, so that of two at a time the second sees the first; *fd is -1 if it cannot be opened. Others
 * may lock a directory for reasons of their own, and for long. */
static int lock_directory(struct cli *cli, const char *directory, int *fd, struct error *err)
{
    unsigned limit_ms = cli->lock_timeout_ms ? cli->lock_timeout_ms : CONTACT_MS;
    uint64_t began_ms = clock_monotonic_ms(), waited_ms;
    struct pollfd cancel = { .fd = cli->cancel_fd, .events = POLLIN };
    bool told = false;
    *fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    while (*fd >= 0 && flock(*fd, LOCK_EX | LOCK_NB) < 0 && (errno == EWOULDBLOCK || errno == EINTR)) {
        if ((waited_ms = clock_monotonic_ms() - began_ms) >= limit_ms)
            return error_set(err, -EBUSY, "cannot mount on %s: another process, which lslocks tells, has it locked; wait for it, or end it", directory);
        if (waited_ms >= NOTICE_MS && !told) {
            cli_note(cli, "parallax: waiting for who has %s locked", directory);
            told = true;
        }
        if (poll(&cancel, 1, LOOK_EVERY_MS) > 0)
            return error_set(err, -ECANCELED, "interrupted; nothing was mounted");
    }
    return 0;
}

struct mounted {
    struct cli *cli;
    pid_t daemon, door; /* 0: none of ours (any more) */
};

static void door_arguments(const struct cli *cli, const struct args *a, const struct owner *owner, char *directory, bool detach, char *argv[DOOR_ARGUMENTS])
{
    static const char *const flags[] = { "manage", "read-only", "cached" };
    static char *const words[] = { "--manage", "--read-only", "--cached" };
    unsigned n = 0;
    argv[n++] = DOOR;
    argv[n++] = "--store";
    argv[n++] = (char *)cli->store_url;
    for (unsigned i = 0; i < sizeof flags / sizeof *flags; i++)
        if (option_set(a, flags[i]))
            argv[n++] = words[i];
    if (*owner->uid) {
        argv[n++] = "--uid";
        argv[n++] = (char *)owner->uid;
    }
    if (*owner->gid) {
        argv[n++] = "--gid";
        argv[n++] = (char *)owner->gid;
    }
    if (option_set(a, "mode")) {
        argv[n++] = "--mode";
        argv[n++] = (char *)option_value(a, "mode");
    }
    if (detach)
        argv[n++] = "--detach";
    argv[n++] = "--";
    argv[n++] = directory;
    argv[n] = NULL;
}

/* Until the directory is unmounted, a process of ours ends or the user wants out. */
static void stay(struct mounted *w, struct error *err)
{
    struct pollfd p = { .fd = w->cli->cancel_fd, .events = POLLIN };
    int status = 0;
    while (poll(&p, 1, LOOK_EVERY_MS) <= 0) {
        if (child_ended_with(w->door, &status)) {
            w->door = 0;
            break;
        }
        if (w->daemon && child_ended(w->daemon)) {
            w->daemon = 0;
            error_set(err, -ECHILD, "the daemon ended, and what was mounted with it");
            break;
        }
    }
    if (w->door)
        status = child_stop(w->door);
    if (status)
        error_set(err, -ECHILD, "%s failed; its message is above", DOOR);
}

static void print_mounted(const struct mounted *w, const char *directory)
{
    json_t *doc = json_pack("{s:s,s:s,s:i}", "directory", directory, "store", w->cli->store_key, "pid", (int)w->door);
    cli_done(w->cli, doc, "mounted %s on %s; 'parallax umount %s' ends it", w->cli->store_key, directory, directory);
    json_decref(doc);
    cli_flush(w->cli);
}

static int run_mount(struct cli *cli, const struct args *a)
{
    struct mounted w = { .cli = cli };
    struct owner owner = { 0 };
    struct error err = ERROR_NONE;
    char directory[PATH_MAX], at[PATH_MAX], *argv[DOOR_ARGUMENTS];
    if (option_set(a, "manage") && option_set(a, "read-only"))
        return cli_usage(a, "--manage and --read-only exclude each other");
    int status = parse_owner(a, &owner);
    if (status == EXIT_DONE)
        status = check_mode(a);
    if (status == EXIT_DONE)
        status = find_directory(a->words[0], directory);
    if (status != EXIT_DONE)
        return status;
    if (lies_in(cli->store_key, directory)) /* it would be hidden from all who come later */
        return cli_fail_text("cannot mount on %s: the store itself lies there, and would be hidden", directory);
    int lock;
    if (lock_directory(cli, directory, &lock, &err)) {
        close(lock);
        return cli_fail(&err);
    }
    if (find_mounted(directory, at)) {
        if (lock >= 0)
            close(lock);
        if (strcmp(at, directory))
            return cli_fail_text("cannot mount on %s: it is part of the store that is mounted on %s, whose images would be hidden", directory, at);
        return cli_fail_text("a store is mounted on %s already; 'parallax umount %s' ends that", directory, directory);
    }
    int bad = cli_connect_daemon(cli, &err);
    if (bad == -ENOENT && child_start(cli, "local", &w.daemon, &err) == 0)
        cli_note(cli, "parallax: no daemon serves this store: started one, pid %d; it ends with this command", (int)w.daemon);
    cli_disconnect(cli); /* the door has a connection of its own */
    bool stays = w.daemon || option_set(a, "foreground");
    door_arguments(cli, a, &owner, directory, !stays, argv);
    if (!err.code && child_run(cli, argv, !stays, &w.door, &err) == 0) {
        if (lock >= 0)
            close(lock);
        lock = -1;
        print_mounted(&w, directory);
        if (stays)
            stay(&w, &err);
    }
    if (lock >= 0)
        close(lock);
    if (w.daemon)
        child_stop(w.daemon);
    return err.code ? cli_fail(&err) : EXIT_DONE;
}

/* ---- umount ---- */

/* Root unmounts by itself, others by the helper that may. */
static int unmount(const char *directory)
{
    char *argv[] = { "fusermount3", "-u", "-q", "--", (char *)directory, NULL };
    pid_t pid;
    int status;
    if (geteuid() == 0)
        return umount2(directory, UMOUNT_NOFOLLOW) < 0 ? -errno : 0;
    int bad = -posix_spawnp(&pid, argv[0], NULL, NULL, argv, environ);
    if (bad)
        return bad;
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return -errno;
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -EBUSY;
}

static int run_umount(struct cli *cli, const struct args *a)
{
    char directory[PATH_MAX];
    if (!realpath(a->words[0], directory))
        return cli_fail_text("cannot unmount '%s': %s", a->words[0], strerror(errno));
    if (!shows_store(directory))
        return cli_fail_text("no store is mounted on %s", directory);
    int bad = unmount(directory);
    if (bad == -EBUSY)
        return cli_fail_text("cannot unmount %s: it is in use; see fuser -vm %s", directory, directory);
    if (bad)
        return cli_fail_text("cannot unmount %s: %s", directory, strerror(-bad));
    json_t *doc = json_pack("{s:s}", "directory", directory);
    cli_done(cli, doc, "unmounted %s", directory);
    json_decref(doc);
    return EXIT_DONE;
}

const struct command mount_commands[] = {
    { .name = "mount", .arguments = "DIR", .summary = "Show images, snapshots and templates as files below DIR", .run = run_mount, .least = 1, .most = 1,
      .options = { { "manage", 0, NULL, "let mv rename, rm remove and truncate enlarge images" },
                   { "read-only", 0, NULL, "nothing can be written" },
                   { "cached", 0, NULL, "let the kernel cache contents (default: each request reaches the store)" },
                   { "owner", 0, "U[:G]", "user and group of the files (default: who mounts)" },
                   { "mode", 0, "MODE", "permissions of images (default: 600)" },
                   { "foreground", 'f', NULL, "stay until DIR is unmounted" } },
      .examples = "  parallax mount /mnt/images\n"
                  "  losetup --find --show --direct-io=on /mnt/images/images/vm1\n"
                  "  parallax mount --owner libvirt-qemu:kvm --mode 660 /mnt/images   # for QEMU under libvirt\n"
                  "  parallax mount --read-only --cached /mnt/images                  # to look into snapshots\n"
                  "  parallax mount --manage /mnt/images                              # mv renames, rm removes\n" },
    { .name = "umount", .arguments = "DIR", .summary = "End what mount began", .run = run_umount, .least = 1, .most = 1,
      .examples = "  parallax umount /mnt/images   # when nothing there is open\n" },
    { 0 },
};
