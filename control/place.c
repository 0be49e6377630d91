/* place.c - see place.h. */
#include "control/place.h"

#include "control/config.h"

#include <dirent.h>
#include <errno.h>
#include <jansson.h>
#include <limits.h>
#include <pwd.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SYSTEM_STORE "/var/lib/parallax"
#define SYSTEM_SOCKETS "/run/parallax"
#define SERVICE_SOCKET SYSTEM_SOCKETS "/parallaxd.sock"
#define LINK_NAME "daemon.sock"

static int put(char out[PLACE_MAX], struct error *err, const char *fmt, const char *a, const char *b)
{
    int n = snprintf(out, PLACE_MAX, fmt, a, b);
    return n < 0 || n >= PLACE_MAX ? error_set(err, -ENAMETOOLONG, "path '%.64s…' is too long", a) : 0;
}

int place_default_url(char out[PLACE_MAX], struct error *err)
{
    const char *env = getenv("PARALLAX_STORE");
    if (env && *env)
        return put(out, err, "%s%s", env, "");
    char configured[CONFIG_VALUE_MAX];
    if (config_value("store", configured, err))
        return err->code;
    if (*configured)
        return put(out, err, "%s%s", configured, "");
    if (config_of_system())
        return put(out, err, "%s%s", SYSTEM_STORE, "");
    const char *home = getenv("HOME");
    struct passwd *pw = home && *home ? NULL : getpwuid(geteuid());
    if (pw)
        home = pw->pw_dir;
    if (!home || !*home)
        return error_set(err, -ENOENT, "there is no home directory to look for a store in; name one with --store DIR");
    return put(out, err, "%s%s", home, "/.local/share/parallax");
}

static int find_key(const char *url, char out[PLACE_MAX], struct error *err)
{
    if (!strncmp(url, "rados:", 6))
        return put(out, err, "%s%s", url, "");
    if (!strncmp(url, "file:", 5))
        url += 5;
    char directory[PLACE_MAX], real[PATH_MAX];
    if (put(directory, err, "%s%s", url, ""))
        return err ? err->code : -ENAMETOOLONG;
    char *query = strchr(directory, '?');
    if (query)
        *query = '\0';
    if (!*directory)
        return error_set(err, -EINVAL, "store '%.64s' names no directory", url);
    if (realpath(directory, real))
        return put(out, err, "%s%s", real, "");
    if (*directory == '/' || !getcwd(real, sizeof real))
        return put(out, err, "%s%s", directory, "");
    char joined[PATH_MAX + PLACE_MAX];
    snprintf(joined, sizeof joined, "%s/%s", real, directory);
    return put(out, err, "%s%s", joined, "");
}

int place_store_key(const char *url, char out[PLACE_MAX], struct error *err)
{
    int bad = find_key(url, out, err);
    json_t *text = bad ? NULL : json_string(out);
    json_decref(text);
    /* Whoever serves it could not say so. */
    return bad || text ? bad : error_set(err, -EINVAL, "the directory of the store has a name that is not valid UTF-8; give it another");
}

/* FNV-1a; a collision is harmless, because HELLO names the store and the client compares. */
static uint64_t key_hash(const char *key)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (; *key; key++)
        h = (h ^ (unsigned char)*key) * 0x100000001b3u;
    return h;
}

static bool derived_path(const char *directory, const char *suffix, const char *key, char out[PLACE_MAX])
{
    int n = snprintf(out, PLACE_MAX, "%s%s/%016llx.sock", directory, suffix, (unsigned long long)key_hash(key));
    return n > 0 && n < PLACE_MAX;
}

static bool linked_path(const char *key, char out[PLACE_MAX])
{
    char path[PLACE_MAX];
    if (put(path, NULL, "%s/%s", key, LINK_NAME))
        return false;
    ssize_t n = readlink(path, out, PLACE_MAX - 1);
    if (n <= 0 || n >= PLACE_MAX - 1)
        return false;
    out[n] = '\0';
    return true;
}

/* To ask there for another store would start a daemon for nothing. */
static bool is_systems(const char *key)
{
    char configured[CONFIG_VALUE_MAX], of_system[PLACE_MAX];
    if (!config_of_system())
        return false;
    if (!config_value("store", configured, NULL) && *configured && !place_store_key(configured, of_system, NULL) && !strcmp(key, of_system))
        return true;
    return !place_store_key(SYSTEM_STORE, of_system, NULL) && !strcmp(key, of_system);
}

unsigned place_socket_candidates(const char *key, char out[PLACE_CANDIDATES][PLACE_MAX])
{
    unsigned n = 0;
    const char *runtime = getenv("XDG_RUNTIME_DIR");
    if (linked_path(key, out[n]))
        n++;
    if (is_systems(key) && put(out[n], NULL, "%s%s", SERVICE_SOCKET, "") == 0)
        n++;
    if (derived_path(SYSTEM_SOCKETS, "", key, out[n]))
        n++;
    if (runtime && *runtime && derived_path(runtime, "/parallax", key, out[n]))
        n++;
    if (*key == '/' && put(out[n], NULL, "%s%s", key, "/control.sock") == 0)
        n++;
    return n;
}

/* Whether directory exists (made if need be) and this process may make files in it. */
static bool usable_directory(const char *directory, mode_t mode)
{
    if (mkdir(directory, mode) < 0 && errno != EEXIST)
        return false;
    return access(directory, W_OK | X_OK) == 0;
}

static int link_socket(const char *key, const char *path, struct error *err)
{
    char name[PLACE_MAX], real[PATH_MAX];
    if (*path != '/') {
        if (!getcwd(real, sizeof real))
            return error_set(err, -errno, "cannot tell the working directory: %s", strerror(errno));
    } else {
        *real = '\0';
    }
    char target[PATH_MAX + PLACE_MAX];
    snprintf(target, sizeof target, "%s%s%s", real, *real ? "/" : "", path);
    int bad = put(name, err, "%s/%s", key, LINK_NAME);
    if (bad)
        return bad;
    unlink(name);
    if (symlink(target, name) < 0)
        return error_set(err, -errno, "cannot link '%s' to the control socket: %s", name, strerror(errno));
    return 0;
}

int place_socket_to_serve(const char *key, const char *explicit_path, char out[PLACE_MAX], struct error *err)
{
    if (explicit_path) {
        int bad = put(out, err, "%s%s", explicit_path, "");
        return bad ? bad : link_socket(key, out, err);
    }
    const char *runtime = getenv("XDG_RUNTIME_DIR");
    char directory[PLACE_MAX];
    if (geteuid() == 0 && usable_directory(SYSTEM_SOCKETS, 0755) && derived_path(SYSTEM_SOCKETS, "", key, out))
        return 0;
    if (runtime && *runtime && put(directory, NULL, "%s%s", runtime, "/parallax") == 0 && usable_directory(directory, 0700) &&
        derived_path(directory, "", key, out))
        return 0;
    return put(out, err, "%s%s", key, "/control.sock");
}

/* Nobody else may have made it: in /dev/shm everyone can. */
static int own_directory(const char *path, mode_t mode, struct error *err)
{
    struct stat st;
    if ((mkdir(path, mode) < 0 && errno != EEXIST) || lstat(path, &st) < 0)
        return error_set(err, -errno, "cannot make %s: %s", path, strerror(errno));
    if (!S_ISDIR(st.st_mode) || st.st_uid != geteuid())
        return error_set(err, -EPERM, "%s is not a directory of this user; remove it", path);
    return 0;
}

static void state_parent(char out[static PLACE_MAX - 48])
{
    const char *runtime = getenv("XDG_RUNTIME_DIR");
    if (geteuid() == 0)
        snprintf(out, PLACE_MAX - 48, "%s", SYSTEM_SOCKETS);
    else if (runtime && *runtime && strlen(runtime) < PLACE_MAX - 64)
        snprintf(out, PLACE_MAX - 48, "%s/parallax", runtime);
    else
        snprintf(out, PLACE_MAX - 48, "/dev/shm/parallax-%u", (unsigned)geteuid());
}

static void state_path(const char *parent, const char *key, const char *domain, char out[PLACE_MAX])
{
    char other[24] = "";
    if (domain && strcmp(domain, PLACE_DOMAIN))
        snprintf(other, sizeof other, "-%016llx", (unsigned long long)key_hash(domain));
    snprintf(out, PLACE_MAX, "%s/%016llx%s.state", parent, (unsigned long long)key_hash(key), other);
}

int place_state_directory(const char *key, const char *domain, char out[PLACE_MAX], struct error *err)
{
    char parent[PLACE_MAX - 48];
    state_parent(parent);
    /* As root the way to the control socket is open to its group. */
    if (own_directory(parent, geteuid() ? 0700 : 0755, err))
        return err->code;
    state_path(parent, key, domain, out);
    return own_directory(out, 0700, err);
}

static bool has_entries(const char *path)
{
    DIR *d = opendir(path);
    struct dirent *e;
    bool any = false;
    while (d && !any && (e = readdir(d)))
        any = *e->d_name != '.';
    if (d)
        closedir(d);
    return any;
}

bool place_guests_wait(const char *key, const char *domain)
{
    char parent[PLACE_MAX - 48], path[PLACE_MAX];
    state_parent(parent);
    state_path(parent, key, domain, path);
    return has_entries(path);
}

bool place_any_guests_wait(const char *key)
{
    char parent[PLACE_MAX - 48], path[PLACE_MAX + 256], hash[24];
    state_parent(parent);
    snprintf(hash, sizeof hash, "%016llx", (unsigned long long)key_hash(key));
    DIR *d = opendir(parent);
    struct dirent *e;
    bool any = false;
    while (d && !any && (e = readdir(d))) {
        snprintf(path, sizeof path, "%s/%s", parent, e->d_name);
        any = !strncmp(e->d_name, hash, strlen(hash)) && strstr(e->d_name, ".state") && has_entries(path);
    }
    if (d)
        closedir(d);
    return any;
}

void place_domain_name(const char *key, char out[static PLACE_NAME_MAX])
{
    snprintf(out, PLACE_NAME_MAX, "storage-%016llx", (unsigned long long)key_hash(key));
}

void place_forget_socket(const char *key)
{
    char name[PLACE_MAX];
    if (put(name, NULL, "%s/%s", key, LINK_NAME) == 0)
        unlink(name);
}
