/* main.c - parallax-mount: the door that `parallax mount` starts. One process is one mounted store. */
#include "base/flusher.h"
#include "base/notify.h"
#include "doors/fuse/fuse.h"
#include "tools/common/streams.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char usage[] =
    "usage: parallax-mount [OPTION …] DIR\n\n"
    "Shows the images, snapshots and templates of a store that a daemon serves as files below DIR, until it is unmounted\n"
    "(fusermount3 -u DIR) or ended by SIGTERM. `parallax mount` starts it, and a daemon too if there is none.\n\n"
    "  --store URL      the store (default: as parallax finds it)\n"
    "  --manage         let rename rename, unlink remove and truncate enlarge images\n"
    "  --read-only      nothing can be written\n"
    "  --cached         let the kernel cache what is in the files\n"
    "  --uid N          owner of all files (default: this user)\n"
    "  --gid N          group of all files (default: this group)\n"
    "  --mode MODE      permissions of images, octal (default: 600)\n"
    "  --detach         when mounted, leave the terminal: messages are lost\n"
    "  --help, --version\n\n"
    "READY=1 to NOTIFY_SOCKET says that DIR is mounted. Exit: 0 unmounted, 1 failed, 2 wrong usage.\n\n"
    "Examples:\n"
    "  parallax-mount --store /srv/images /mnt/images\n"
    "  parallax-mount --uid 64055 --gid 64055 --mode 660 /mnt/images\n";

enum { OPT_STORE = 256, OPT_MANAGE, OPT_READ_ONLY, OPT_CACHED, OPT_UID, OPT_GID, OPT_MODE, OPT_DETACH, OPT_HELP, OPT_VERSION };

static const struct option long_options[] = {
    { "store", required_argument, NULL, OPT_STORE }, { "manage", no_argument, NULL, OPT_MANAGE },
    { "read-only", no_argument, NULL, OPT_READ_ONLY }, { "cached", no_argument, NULL, OPT_CACHED },
    { "uid", required_argument, NULL, OPT_UID },     { "gid", required_argument, NULL, OPT_GID },
    { "mode", required_argument, NULL, OPT_MODE },   { "help", no_argument, NULL, OPT_HELP },
    { "detach", no_argument, NULL, OPT_DETACH },
    { "version", no_argument, NULL, OPT_VERSION },{ NULL, 0, NULL, 0 },
};

static void tell_ready(void) { notify_state("READY=1"); }

static void tell_ready_detached(void)
{
    int nothing = open("/dev/null", O_RDWR | O_CLOEXEC);
    setsid();
    for (int fd = 0; nothing >= 0 && fd < 3; fd++)
        dup2(nothing, fd);
    if (nothing > 2)
        close(nothing);
    if (chdir("/") < 0)
        return; /* there is always a root */
    tell_ready();
}

static int fail(int status, const char *text)
{
    fprintf(stderr, "parallax-mount: %s%s\n", text, status == 2 ? "; see parallax-mount --help" : "");
    return status;
}

static int parse_number(const char *option, const char *text, int base, unsigned long most, unsigned long *out, struct error *err)
{
    char *end;
    errno = 0;
    *out = strtoul(text, &end, base);
    if (*text < '0' || *text > '9' || *end || errno || *out > most)
        return error_set(err, -EINVAL, "%s: '%.32s' is no %s", option, text, base == 8 ? "octal mode" : "number of a user or group");
    return 0;
}

static int take_option(struct fuse_door_options *o, int option, const char *value, struct error *err)
{
    unsigned long number = 0;
    switch (option) {
    case OPT_STORE:
        o->store = value;
        return *value ? 0 : error_set(err, -EINVAL, "--store names no store");
    case OPT_MANAGE:
        o->manage = true;
        return 0;
    case OPT_READ_ONLY:
        o->read_only = true;
        return 0;
    case OPT_CACHED:
        o->cached = true;
        return 0;
    case OPT_DETACH:
        o->ready = tell_ready_detached;
        return 0;
    case OPT_UID:
        parse_number("--uid", value, 10, (uid_t)-2, &number, err);
        o->uid = (uid_t)number;
        return err->code;
    case OPT_GID:
        parse_number("--gid", value, 10, (gid_t)-2, &number, err);
        o->gid = (gid_t)number;
        return err->code;
    default:
        parse_number("--mode", value, 8, 0777, &number, err);
        o->mode = (mode_t)number;
        return err->code;
    }
}

int main(int argc, char **argv)
{
    streams_hold();
    struct fuse_door_options o = { .uid = geteuid(), .gid = getegid(), .mode = 0600, .ready = tell_ready };
    struct error err = ERROR_NONE;
    char text[256];
    int option;
    opterr = 0;
    while ((option = getopt_long(argc, argv, ":", long_options, NULL)) != -1) {
        if (option == OPT_HELP)
            return fputs(usage, stdout) < 0;
        if (option == OPT_VERSION)
            return puts("parallax-mount 0.1") < 0;
        if (option == '?' || option == ':') {
            snprintf(text, sizeof text, option == '?' ? "unknown option '%.64s'" : "option '%.64s' needs a value", argv[optind - 1]);
            return fail(2, text);
        }
        if (take_option(&o, option, optarg, &err))
            return fail(2, err.text);
    }
    if (o.manage && o.read_only)
        return fail(2, "--manage and --read-only exclude each other");
    if (optind + 1 != argc)
        return fail(2, optind == argc ? "the directory to mount on is missing" : "there is one argument too many");
    o.directory = argv[optind];
    flusher_begin();
    return fuse_door_run(&o, &err) ? fail(1, err.text) : 0;
}
