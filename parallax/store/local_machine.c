/* local_machine.c - which host this is.
 *
 * /etc/machine-id, else D-Bus's, else one that is made once and kept in the user's own state directory: a host without either
 * (a small container) still recognises its stores, and one user's id says nothing about another's. */
#include "parallax/store/local_private.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

/* True if the file's first line is an id. */
static bool read_id(const char *path, char id[65])
{
    char text[128];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    if (n <= 0)
        return false;
    text[n] = 0;
    size_t length = strcspn(text, "\n");
    if (length < 16 || length > 64)
        return false;
    for (size_t i = 0; i < length; i++)
        if (!isxdigit((unsigned char)text[i]))
            return false;
    memcpy(id, text, length);
    id[length] = 0;
    return true;
}

static int state_directory(char path[LOCAL_PATH_MAX])
{
    const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    int n;
    if (geteuid() == 0)
        n = snprintf(path, LOCAL_PATH_MAX, "/var/lib/parallax-host");
    else if (state && *state == '/')
        n = snprintf(path, LOCAL_PATH_MAX, "%s/parallax", state);
    else if (home && *home == '/')
        n = snprintf(path, LOCAL_PATH_MAX, "%s/.local/state/parallax", home);
    else
        return -ENOENT;
    return n < (int)LOCAL_PATH_MAX ? 0 : -ENAMETOOLONG;
}

static int make_directories(const char *path)
{
    char part[LOCAL_PATH_MAX];
    snprintf(part, sizeof part, "%s", path);
    for (char *p = part + 1;; p++) {
        if (*p && *p != '/')
            continue;
        char end = *p;
        *p = 0;
        if (mkdir(part, 0700) < 0 && errno != EEXIST)
            return -errno;
        if (!end)
            return 0;
        *p = end;
    }
}

/* By a link from a complete file, so that of several processes that make an id at once the first wins, whole. */
static int keep_id(const char *directory, const char *path)
{
    unsigned char random[16];
    char text[34], temporary[LOCAL_PATH_MAX + 32];
    if (getrandom(random, sizeof random, 0) != sizeof random)
        return -EIO;
    for (unsigned i = 0; i < sizeof random; i++)
        snprintf(text + 2 * i, 3, "%02x", random[i]);
    text[32] = '\n';
    int rc = make_directories(directory);
    if (rc)
        return rc;
    snprintf(temporary, sizeof temporary, "%s.%d", path, (int)getpid());
    int fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return -errno;
    if (write(fd, text, 33) != 33 || fsync(fd) < 0)
        rc = -EIO;
    close(fd);
    if (!rc && link(temporary, path) < 0 && errno != EEXIST)
        rc = -errno;
    unlink(temporary);
    return rc;
}

int local_machine_id(char id[65], struct error *err)
{
    char directory[LOCAL_PATH_MAX], path[LOCAL_PATH_MAX + 16];
    if (read_id("/etc/machine-id", id) || read_id("/var/lib/dbus/machine-id", id))
        return 0;
    int rc = state_directory(directory);
    if (!rc) {
        snprintf(path, sizeof path, "%s/machine-id", directory);
        if (read_id(path, id))
            return 0;
        rc = keep_id(directory, path);
    }
    if (!rc && !read_id(path, id))
        rc = -EIO;
    return rc ? error_set(err, rc, "this host has no /etc/machine-id, and none could be kept (%s); make one with systemd-machine-id-setup",
                          strerror(-rc))
              : 0;
}
