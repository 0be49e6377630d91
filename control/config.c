/* config.c - see config.h. */
#include "control/config.h"

#include "control/place.h"

#include <ctype.h>
#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LINE_MAX_BYTES 1024
#define PATH_BYTES 1024

/* Bit i of a set says that the key keys[i] stands in a file that was read before. */
static const char *const keys[] = { "store", "hypervisor", "name", "socket", "map-cache", "block-cache", "on-full", "grants", "hide", "metrics" };
#define KEYS (sizeof keys / sizeof *keys)

struct reading {
    int (*take)(void *ctx, const char *key, char *value, struct error *err);
    void *ctx;
    unsigned earlier, now; /* sets of keys: of earlier files, of this one */
};

bool config_of_system(void)
{
    if (geteuid() == 0)
        return true;
    struct group *g = getgrnam(PLACE_GROUP);
    if (!g)
        return false;
    gid_t groups[256];
    int n = getgroups(256, groups);
    bool found = getegid() == g->gr_gid;
    for (int i = 0; i < n; i++)
        found = found || groups[i] == g->gr_gid;
    return found;
}

static char *trim(char *text)
{
    while (isspace((unsigned char)*text))
        text++;
    size_t n = strlen(text);
    while (n && isspace((unsigned char)text[n - 1]))
        n--;
    text[n] = '\0';
    return text;
}

static int find_key(const char *key, struct error *err)
{
    char list[256] = "";
    for (unsigned i = 0; i < KEYS; i++) {
        if (!strcmp(key, keys[i]))
            return (int)i;
        snprintf(list + strlen(list), sizeof list - strlen(list), "%s%s", i ? ", " : "", keys[i]);
    }
    return error_set(err, -EINVAL, "there is no setting '%.64s'; there are %s", key, list);
}

static int take_line(struct reading *r, char *line, struct error *err)
{
    char *key = trim(line), *equals = strchr(key, '=');
    if (!*key || *key == '#')
        return 0;
    if (!equals)
        return error_set(err, -EINVAL, "'%.64s' is no setting; write key = value", key);
    *equals = '\0';
    key = trim(key);
    char *value = trim(equals + 1);
    int index = find_key(key, err);
    if (index < 0)
        return index;
    if (!*value)
        return error_set(err, -EINVAL, "'%s' has no value; remove the line for the default", key);
    if (strlen(value) >= CONFIG_VALUE_MAX)
        return error_set(err, -EINVAL, "the value of '%s' is too long: at most %u bytes", key, CONFIG_VALUE_MAX - 1);
    r->now |= 1u << index;
    return r->earlier & 1u << index ? 0 : r->take(r->ctx, keys[index], value, err);
}

static int read_file(struct reading *r, const char *path, bool must_be, struct error *err)
{
    char line[LINE_MAX_BYTES];
    struct error why = ERROR_NONE;
    FILE *f = fopen(path, "re");
    if (!f && (errno == ENOENT || errno == ENOTDIR) && !must_be)
        return 0;
    if (!f)
        return error_set(err, -errno, "cannot read the configuration %.200s: %s", path, strerror(errno));
    unsigned number = 0;
    while (!why.code && fgets(line, sizeof line, f)) {
        number++;
        if (!strchr(line, '\n') && !feof(f))
            error_set(&why, -EINVAL, "the line is too long: at most %d bytes", LINE_MAX_BYTES - 2);
        else
            take_line(r, line, &why);
    }
    bool failed = ferror(f);
    fclose(f);
    if (failed)
        return error_set(err, -EIO, "cannot read the configuration %.200s: %s", path, strerror(EIO));
    r->earlier |= r->now;
    return why.code ? error_set(err, why.code, "%.160s:%u: %s", path, number, why.text) : 0;
}

/* false: this user has no home. */
static bool own_file(char path[PATH_BYTES])
{
    const char *configs = getenv("XDG_CONFIG_HOME"), *home = getenv("HOME");
    struct passwd *pw = home && *home ? NULL : getpwuid(geteuid());
    if (pw)
        home = pw->pw_dir;
    int n = configs && *configs == '/' ? snprintf(path, PATH_BYTES, "%s/parallax/parallax.conf", configs)
            : home && *home            ? snprintf(path, PATH_BYTES, "%s/.config/parallax/parallax.conf", home)
                                       : -1;
    return n > 0 && n < PATH_BYTES;
}

int config_read(int (*take)(void *ctx, const char *key, char *value, struct error *err), void *ctx, struct error *err)
{
    struct reading r = { .take = take, .ctx = ctx };
    const char *only = getenv("PARALLAX_CONFIG");
    char own[PATH_BYTES];
    int bad = 0;
    if (only && *only)
        return read_file(&r, only, true, err);
    if (geteuid() != 0 && own_file(own))
        bad = read_file(&r, own, false, err);
    if (!bad && config_of_system())
        bad = read_file(&r, CONFIG_SYSTEM_FILE, false, err);
    return bad;
}

struct search {
    const char *key;
    char *out;
};

static int match(void *ctx, const char *key, char *value, struct error *err)
{
    const struct search *s = ctx;
    (void)err;
    if (!strcmp(key, s->key))
        snprintf(s->out, CONFIG_VALUE_MAX, "%s", value);
    return 0;
}

int config_value(const char *key, char out[CONFIG_VALUE_MAX], struct error *err)
{
    struct search s = { key, out };
    *out = '\0';
    return config_read(match, &s, err);
}
