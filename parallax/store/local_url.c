/* local_url.c - store URLs: DIR, file:DIR, file:DIR?device=/dev/X; rados: is known and refused.
 *
 * A bare DIR is taken as it is written; only file: has parameters, and a bare one that seems to name a device is refused. The canonical directory is absolute, with its symbolic
 * links resolved as far as it exists, so that one store has one name. */
#include "parallax/store/local_private.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Length of a leading "word:", or 0. */
static size_t scheme_length(const char *url)
{
    size_t n = 0;
    while (islower((unsigned char)url[n]) || (n && (isdigit((unsigned char)url[n]) || url[n] == '+')))
        n++;
    return n && url[n] == ':' ? n + 1 : 0;
}

/* Cuts the last component off path, which keeps no slash at its end, and returns it; an empty one of "/". */
static const char *cut_last(char *path, char component[PATH_MAX])
{
    char *slash = strrchr(path, '/');
    strcpy(component, slash + 1);
    while (slash > path && slash[-1] == '/')
        slash--;
    slash[slash == path] = 0;
    return component;
}

/* The longest existing part is resolved, the rest appended; the absolute path is cut in place. ".." below what does not exist
 * means nothing. */
static int resolve(char *path, char out[PATH_MAX])
{
    char real[PATH_MAX], rest[PATH_MAX] = "", longer[PATH_MAX], component[PATH_MAX];
    while (!realpath(path, real)) {
        if (errno != ENOENT)
            return -errno;
        if (strcmp(cut_last(path, component), "..") == 0)
            return -ENOENT;
        if (!*component || strcmp(component, ".") == 0)
            continue;
        if (snprintf(longer, sizeof longer, "/%s%s", component, rest) >= (int)sizeof longer)
            return -ENAMETOOLONG;
        strcpy(rest, longer);
    }
    int length = snprintf(out, PATH_MAX, "%s%s", strcmp(real, "/") == 0 && *rest ? "" : real, rest);
    return length < PATH_MAX ? 0 : -ENAMETOOLONG;
}

static int canonical_directory(const char *text, char *directory, struct error *err)
{
    char absolute[PATH_MAX], cwd[PATH_MAX], out[PATH_MAX];
    if (!*text)
        return error_set(err, -EINVAL, "the store URL names no directory");
    if (*text != '/' && !getcwd(cwd, sizeof cwd))
        return error_set(err, -errno, "cannot tell the current directory: %s", strerror(errno));
    int n = *text == '/' ? snprintf(absolute, sizeof absolute, "%s", text) : snprintf(absolute, sizeof absolute, "%s/%s", cwd, text);
    int rc = n < (int)sizeof absolute ? resolve(absolute, out) : -ENAMETOOLONG;
    if (!rc && strlen(out) >= LOCAL_PATH_MAX)
        rc = -ENAMETOOLONG;
    if (rc == -ENAMETOOLONG)
        return error_set(err, rc, "the store's path is too long: at most %u bytes", LOCAL_PATH_MAX - 1);
    if (rc)
        return error_set(err, rc, "cannot use %s as a store: %s", text, strerror(-rc));
    strcpy(directory, out);
    return 0;
}

/* The part after '?': the one parameter there is. */
static int parse_parameters(const char *text, char *device, struct error *err)
{
    static const char key[] = "device=";
    if (strncmp(text, key, sizeof key - 1) != 0)
        return error_set(err, -EINVAL, "unknown store parameter '%.100s'; there is only device=/dev/X", text);
    text += sizeof key - 1;
    if (*text != '/' || strchr(text, '&') || strchr(text, '\n'))
        return error_set(err, -EINVAL, "'%.100s' is not a device; give its absolute path, like /dev/sdb", text);
    if (strlen(text) >= LOCAL_PATH_MAX)
        return error_set(err, -ENAMETOOLONG, "the device's path is too long: at most %u bytes", LOCAL_PATH_MAX - 1);
    strcpy(device, text);
    return 0;
}

int backing_parse_url(const char *url, char *directory, char *device, struct error *err)
{
    size_t scheme = scheme_length(url);
    if (scheme && strncmp(url, "rados:", scheme) == 0)
        return error_set(err, -ENOTSUP, "cannot open %.200s: this program is not built with RADOS; use a directory", url);
    if (scheme && strncmp(url, "file:", scheme) != 0)
        return error_set(err, -EINVAL, "unknown kind of store '%.*s'; use a directory or file:DIR (a directory of that name: ./%.200s)",
                         (int)scheme, url, url);
    char text[PATH_MAX], found[LOCAL_PATH_MAX] = "";
    if (strlen(url) >= sizeof text || strchr(url, '\n'))
        return error_set(err, -EINVAL, "the store URL is too long or has a line break in it");
    strcpy(text, url + scheme);
    if (!scheme && strstr(text, "?device="))
        return error_set(err, -EINVAL, "a store on a device is written file:%.200s", url);
    char *parameters = scheme ? strchr(text, '?') : NULL;
    if (parameters) {
        *parameters++ = 0;
        int rc = parse_parameters(parameters, found, err);
        if (rc)
            return rc;
    }
    int rc = canonical_directory(text, directory, err);
    if (!rc)
        strcpy(device, found);
    return rc;
}
