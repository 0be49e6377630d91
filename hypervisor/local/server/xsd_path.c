/* xsd_path.c - which names a client may say, and what they stand for.
 *
 * A path is absolute, or relative to the caller's home; components of [A-Za-z0-9-/_@], none empty, no slash at the end; at
 * most XENSTORE_ABS_PATH_MAX bytes absolute and XENSTORE_REL_PATH_MAX relative. Special paths begin with "@" and only watches
 * know them. */
#include "hypervisor/local/server/xsd_private.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

void xsd_home_path(char home[XSD_HOME_BYTES], uint32_t domid) { snprintf(home, XSD_HOME_BYTES, "/local/domain/%u", domid); }

static bool valid(const char *path)
{
    size_t bytes = strlen(path);
    if (strspn(path, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-/_@") != bytes)
        return false;
    if (bytes > 1 && path[bytes - 1] == '/')
        return false;
    return bytes > 0 && !strstr(path, "//");
}

int xsd_path_canonical(const char *path, uint32_t domid, bool special, char *out, size_t *relative_bytes)
{
    size_t bytes = strlen(path), home_bytes = 0;
    char home[XSD_HOME_BYTES] = "";
    if (path[0] == '@' && !special)
        return -EINVAL;
    if (path[0] != '/' && path[0] != '@') {
        if (bytes > XENSTORE_REL_PATH_MAX)
            return -EINVAL;
        xsd_home_path(home, domid);
        home_bytes = strlen(home) + 1;
    }
    if (!valid(path) || home_bytes + bytes > XENSTORE_ABS_PATH_MAX)
        return -EINVAL;
    if (home_bytes) {
        memcpy(out, home, home_bytes - 1);
        out[home_bytes - 1] = '/';
    }
    memcpy(out + home_bytes, path, bytes + 1);
    if (relative_bytes)
        *relative_bytes = home_bytes;
    return 0;
}

bool xsd_path_parent(char *path)
{
    char *slash = strrchr(path, '/');
    if (!slash || !path[1])
        return false;
    slash[slash == path ? 1 : 0] = 0;
    return true;
}
