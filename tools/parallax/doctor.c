/* doctor.c - see doctor.h.
 *
 * It looks and changes nothing: no store is made and no hypervisor is started. What needs the store itself is asked of the
 * daemon, or of the store opened here. */
#include "tools/parallax/doctor.h"

#include "tools/common/size.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define AIO_WANTED 65536u
#define SPACE_WANTED (1ull << 30)

enum verdict { OK, WARN, FAIL };

struct doctor {
    struct cli *cli;
    json_t *list;
    bool failed;
};

static void report(struct doctor *d, enum verdict v, const char *what, const char *fmt, ...) __attribute__((format(printf, 4, 5)));
static void report(struct doctor *d, enum verdict v, const char *what, const char *fmt, ...)
{
    static const char *const words[] = { "ok", "warn", "fail" };
    char text[900];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    d->failed = d->failed || v == FAIL;
    json_t *doc = json_pack("{s:s,s:s,s:s}", "verdict", words[v], "subject", what, "text", text);
    if (doc)
        json_array_append_new(d->list, doc);
    if (!d->cli->json)
        printf("%-4s  %-11s %s\n", words[v], what, text);
}

static bool look_at_directory(struct doctor *d)
{
    struct stat st;
    const char *key = d->cli->store_key;
    if (stat(key, &st) < 0) {
        report(d, FAIL, "directory", "%s: %s; create a store with parallax init, or name one with --store", key, strerror(errno));
        return false;
    }
    if (!S_ISDIR(st.st_mode)) {
        report(d, FAIL, "directory", "%s is not a directory; name the store's directory with --store", key);
        return false;
    }
    if (st.st_mode & 077)
        report(d, WARN, "directory", "%s can be reached by others (mode %04o); run chmod 700 on it", key, (unsigned)(st.st_mode & 07777));
    else if (access(key, R_OK | W_OK | X_OK) < 0 && errno == EROFS)
        report(d, FAIL, "directory", "%s is on a file system that is mounted read-only; mount it for writing", key);
    else if (access(key, R_OK | W_OK | X_OK) < 0)
        report(d, WARN, "directory", "%s is not this user's; work through its daemon, or as its owner", key);
    else
        report(d, OK, "directory", "%s", key);
    return true;
}

static void look_at_daemon(struct doctor *d)
{
    struct error err = ERROR_NONE;
    int bad = cli_connect_daemon(d->cli, &err);
    if (!bad)
        report(d, OK, "daemon", "pid %d serves this store", d->cli->daemon_pid);
    else if (bad == -ENOENT)
        report(d, OK, "daemon", "none runs: commands open the store themselves; start parallaxd to serve guests");
    else
        report(d, FAIL, "daemon", "%s", err.text);
}

static void look_at_store(struct doctor *d)
{
    struct error err = ERROR_NONE;
    json_t *status = NULL;
    char used[SIZE_TEXT_MAX], capacity[SIZE_TEXT_MAX];
    if (cli_request(d->cli, json_pack("{s:s}", "command", "status"), NULL, NULL, &status, &err)) {
        report(d, FAIL, "store", "%s", err.text);
        return;
    }
    report(d, OK, "lock", d->cli->daemon_pid ? "held by the daemon" : "free");
    if (json_flag(status, "failed"))
        report(d, FAIL, "store", "a metadata write failed; look at the log, mend the device, and open the store again");
    else
        report(d, OK, "store", "opened: %llu images and %llu templates", (unsigned long long)json_count(status, "images"),
               (unsigned long long)json_count(status, "templates"));
    if (json_flag(status, "direct"))
        report(d, OK, "O_DIRECT", "in use");
    else
        report(d, WARN, "O_DIRECT", "the file system has none: slower; put the store on ext4 or xfs, or on a device");
    if (json_flag(status, "catalog-copy"))
        report(d, OK, "catalog", "the device carries a copy of it");
    else if (json_is_false(json_object_get(status, "catalog-copy")))
        report(d, WARN, "catalog", "the device carries no copy of it: back the directory up, no other host can adopt the device");
    uint64_t all = json_count(status, "capacity"), taken = json_count(status, "used");
    json_size(status, "used", used);
    json_size(status, "capacity", capacity);
    if (all && taken > all - all / 10)
        report(d, WARN, "fill", "%s of %s are used; remove images or snapshots before it is full", used, capacity);
    else
        report(d, OK, "fill", "%s of %s are used", used, capacity);
    json_decref(status);
}

static void look_at_space(struct doctor *d)
{
    struct statvfs v;
    char size[SIZE_TEXT_MAX];
    if (statvfs(d->cli->store_key, &v) < 0 || !v.f_blocks)
        return; /* some file systems tell no size */
    uint64_t available = (uint64_t)v.f_bavail * v.f_frsize;
    size_format(available, size);
    if (available < SPACE_WANTED)
        report(d, WARN, "space", "%s free in the file system; make room, or the store cannot grow", size);
    else
        report(d, OK, "space", "%s free in the file system", size);
}

static uint64_t read_number(const char *path)
{
    unsigned long long n = 0;
    FILE *f = fopen(path, "re");
    if (f) {
        if (fscanf(f, "%llu", &n) != 1)
            n = 0;
        fclose(f);
    }
    return n;
}

static void look_at_aio(struct doctor *d)
{
    uint64_t used = read_number("/proc/sys/fs/aio-nr"), most = read_number("/proc/sys/fs/aio-max-nr");
    if (!most)
        report(d, WARN, "aio", "/proc/sys/fs/aio-max-nr cannot be read: how much asynchronous I/O there is stays unknown");
    else if (most < used + 4096)
        report(d, FAIL, "aio", "%llu of %llu asynchronous requests are taken; raise fs.aio-max-nr with sysctl", (unsigned long long)used,
               (unsigned long long)most);
    else if (most < AIO_WANTED)
        report(d, WARN, "aio", "at most %llu asynchronous requests; raise fs.aio-max-nr with sysctl for many devices", (unsigned long long)most);
    else
        report(d, OK, "aio", "%llu of %llu asynchronous requests are taken", (unsigned long long)used, (unsigned long long)most);
}

static void look_at_hypervisor(struct doctor *d)
{
    if (access("/dev/xen/gntdev", F_OK) == 0 && access("/dev/xen/gntdev", R_OK | W_OK) < 0)
        report(d, WARN, "hypervisor", "Xen, but /dev/xen/gntdev: %s; serve guests as root", strerror(errno));
    else if (access("/dev/xen/gntdev", F_OK) == 0)
        report(d, OK, "hypervisor", "Xen");
    else
        report(d, OK, "hypervisor", "no Xen here: the embedded hypervisor serves local guests");
}

int doctor_run(struct cli *cli, const struct args *a)
{
    struct doctor d = { .cli = cli, .list = json_array() };
    (void)a;
    if (look_at_directory(&d)) {
        look_at_daemon(&d);
        look_at_store(&d);
        look_at_space(&d);
    }
    look_at_aio(&d);
    look_at_hypervisor(&d);
    cli_json(cli, d.list);
    json_decref(d.list);
    return d.failed ? EXIT_FAILED : EXIT_DONE;
}
