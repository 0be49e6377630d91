/* local_directory.c - making a store's directory, and taking a half-made one away.
 *
 * Half-made: STORE.new is there, or nothing but the lock. Then the names of the layout are ours and are removed; any other
 * name belongs to somebody. With force the directory may hold other names, which are left alone; but where no half-made store
 * is, nothing may have a name of the layout. */
#include "parallax/store/local_directory.h"

#include "parallax/store/local_private.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static bool in_layout(const char *name)
{
    static const char *const names[] = { LOCAL_STORE_NEW_FILE, LOCAL_LOCK_FILE, LOCAL_CATALOG_DIRECTORY, LOCAL_BLOCKS_FILE };
    for (unsigned i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(name, names[i]) == 0)
            return true;
    return false;
}

static bool made_by_catalog(const char *name)
{
    return strncmp(name, "log.", 4) == 0 || strncmp(name, "__db.", 5) == 0 || strncmp(name, "catalog.", 8) == 0 ||
           strcmp(name, "witness") == 0 || strcmp(name, "reserve") == 0;
}

static bool exists(int directory_fd, const char *name)
{
    return faccessat(directory_fd, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

/* Opens another descriptor's directory for reading its names. */
static DIR *read_names(int directory_fd, const char *name)
{
    int fd = openat(directory_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    if (!d && fd >= 0)
        close(fd);
    return d;
}

/* The first name that would stand in the way, or an empty string; *taken: it is one of the layout's own. */
static int find_foreign(int directory_fd, char foreign[256], bool *taken)
{
    DIR *d = read_names(directory_fd, ".");
    if (!d)
        return -errno;
    bool marked = exists(directory_fd, LOCAL_STORE_NEW_FILE);
    *foreign = 0;
    *taken = false;
    for (struct dirent *e; !*taken && (e = readdir(d));) {
        const char *n = e->d_name;
        if (strcmp(n, ".") == 0 || strcmp(n, "..") == 0 || strcmp(n, "lost+found") == 0)
            continue;
        *taken = in_layout(n) && !marked && strcmp(n, LOCAL_LOCK_FILE) != 0;
        if (!in_layout(n) || *taken)
            snprintf(foreign, 256, "%s", n);
    }
    closedir(d);
    return 0;
}

int local_directory_check(int directory_fd, const char *directory, bool force, struct error *err)
{
    char foreign[256];
    bool taken = false;
    if (exists(directory_fd, LOCAL_STORE_FILE))
        return error_set(err, -EEXIST, "%s is already a Parallax store; nothing was changed", directory);
    int rc = find_foreign(directory_fd, foreign, &taken);
    if (rc)
        return error_set(err, rc, "cannot read the directory %s: %s", directory, strerror(-rc));
    if (taken)
        return error_set(err, -ENOTEMPTY, "the directory %s holds '%s', a name that a store needs; move it away", directory, foreign);
    if (*foreign && !force)
        return error_set(err, -ENOTEMPTY, "the directory %s is not empty (it holds '%s'); choose another, or use --force to put a store beside it",
                         directory, foreign);
    return 0;
}

static int remove_catalog(int directory_fd)
{
    DIR *d = read_names(directory_fd, LOCAL_CATALOG_DIRECTORY);
    if (!d)
        return errno == ENOENT ? 0 : -errno;
    int rc = 0;
    for (struct dirent *e; (e = readdir(d));)
        if (made_by_catalog(e->d_name) && unlinkat(dirfd(d), e->d_name, 0) < 0)
            rc = -errno;
    closedir(d);
    if (!rc && unlinkat(directory_fd, LOCAL_CATALOG_DIRECTORY, AT_REMOVEDIR) < 0)
        rc = -errno;
    return rc;
}

int local_directory_clear(int directory_fd)
{
    int rc = remove_catalog(directory_fd);
    if (!rc && unlinkat(directory_fd, LOCAL_BLOCKS_FILE, 0) < 0 && errno != ENOENT)
        rc = -errno;
    /* The marker goes last: until then what is left is still known as half-made. */
    if (!rc && unlinkat(directory_fd, LOCAL_STORE_NEW_FILE, 0) < 0 && errno != ENOENT)
        rc = -errno;
    return rc;
}

static int make_parents(const char *directory)
{
    char part[LOCAL_PATH_MAX];
    snprintf(part, sizeof part, "%s", directory);
    for (char *p = strchr(part + 1, '/'); p; p = strchr(p + 1, '/')) {
        *p = 0;
        if (mkdir(part, 0755) < 0 && errno != EEXIST)
            return -errno;
        *p = '/';
    }
    return 0;
}

int local_directory_make(const char *directory, bool *made, struct error *err)
{
    int rc = make_parents(directory);
    *made = !rc && mkdir(directory, 0700) == 0;
    if (!rc && !*made && errno != EEXIST)
        rc = -errno;
    int fd = rc ? -1 : open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (!rc && fd < 0)
        rc = -errno;
    return rc ? error_set(err, rc, "cannot make the store's directory %s: %s", directory, strerror(-rc)) : fd;
}
