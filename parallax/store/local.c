/* local.c - a store in a directory of this host, its blocks in a file there or on a device.
 *
 * Creation: lock, STORE.new, catalog, blocks, (the caller's contents,) then STORE by rename and a sync of the directory. A
 * crash anywhere before the rename leaves something that is not a store and that the next creation replaces; a creation that
 * fails or is given up takes it away itself. A device gets its header just before the rename: after a crash between the two
 * the device claims a store that is not there; it can be adopted, and the next creation wants it wiped by hand. */
#include "parallax/store/bdev_file.h"
#include "parallax/store/catalog_bdb.h"
#include "parallax/store/catalog_mirror.h"
#include "parallax/store/local_directory.h"
#include "parallax/store/local_private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int record_blocks(void *ctx, uint64_t blocks)
{
    struct local *l = ctx;
    uint64_t before = l->header.blocks;
    l->header.blocks = blocks;
    if (l->making)
        return 0; /* backing_created writes the header */
    int rc = local_device_write(l->id.device, &l->header);
    if (rc)
        l->header.blocks = before;
    return rc;
}

static void close_local(struct backing *b)
{
    struct local *l = b->implementation;
    if (b->blocks)
        bdev_close(b->blocks);
    if (b->catalog)
        catalog_close(b->catalog);
    if (l->making) {
        local_directory_clear(l->directory_fd);
        if (l->made_directory && unlinkat(l->directory_fd, LOCAL_LOCK_FILE, 0) == 0)
            rmdir(l->directory);
    }
    if (l->lock_fd >= 0)
        close(l->lock_fd);
    if (l->directory_fd >= 0)
        close(l->directory_fd);
    free(l);
    memset(b, 0, sizeof *b);
}

static int free_bytes(struct backing *b, uint64_t *free, uint64_t *total) { return bdev_file_space(b->blocks, free, total); }

static enum backing_copy catalog_copy(const struct backing *b)
{
    const struct local *l = b->implementation;
    if (!*l->id.device)
        return BACKING_COPY_NEEDLESS;
    return l->header.copy_bytes && catalog_mirror_held(b->catalog) ? BACKING_COPY_HELD : BACKING_COPY_MISSING;
}

static int copy_age(const struct backing *b)
{
    const struct local *l = b->implementation;
    return l->header.copy_bytes ? catalog_mirror_copy_age(b->catalog) : 0;
}

static int settle(struct backing *b, struct error *err)
{
    const struct local *l = b->implementation;
    int rc = l->header.copy_bytes ? catalog_mirror_settle(b->catalog) : 0;
    return rc ? error_set(err, rc, "cannot keep the catalog's copy on %s: %s", l->id.device, strerror(-rc)) : 0;
}

/* One that was moved has its links and its files. */
static bool removed(const struct backing *b)
{
    const struct local *l = b->implementation;
    struct stat st;
    if (fstat(l->directory_fd, &st) == 0 && st.st_nlink == 0)
        return true;
    return fstatat(l->directory_fd, LOCAL_STORE_FILE, &st, AT_SYMLINK_NOFOLLOW) < 0 && errno == ENOENT;
}

int local_begin(const char *url, struct backing *b, char device[LOCAL_PATH_MAX], struct error *err)
{
    struct local *l = calloc(1, sizeof *l);
    memset(b, 0, sizeof *b);
    if (!l)
        return error_set(err, -ENOMEM, "cannot open the store: out of memory");
    l->directory_fd = l->lock_fd = -1;
    int rc = backing_parse_url(url, l->directory, device, err);
    if (rc) {
        free(l);
        return rc;
    }
    b->implementation = l;
    b->close = close_local;
    b->free_bytes = free_bytes;
    b->catalog_copy = catalog_copy;
    b->copy_age = copy_age;
    b->settle = settle;
    b->removed = removed;
    snprintf(b->name, sizeof b->name, "%s", l->directory);
    return 0;
}

/* The device was not claimed yet when its header was read. */
static int check_unchanged(const struct local *l, struct error *err)
{
    struct local_device_header now;
    int rc = local_device_read(l->id.device, false, &now, err);
    return rc || now.sequence == l->header.sequence ? rc : error_set(err, -EBUSY, "the device %s was in use a moment ago; try again", l->id.device);
}

int local_open_blocks(struct backing *b, struct loop *loop, bool lazy, bool create, struct error *err)
{
    struct local *l = b->implementation;
    char path[LOCAL_PATH_MAX + 16];
    bool device = *l->id.device;
    struct bdev_file_options opt = { .loop = loop, .lazy = lazy, .blocks = l->header.blocks, .create = create && !device };
    if (device) {
        opt.offset_bytes = l->header.start_bytes;
        opt.grown = record_blocks;
        opt.grown_ctx = l;
    }
    snprintf(path, sizeof path, "%s%s", device ? l->id.device : l->directory, device ? "" : "/" LOCAL_BLOCKS_FILE);
    int rc = bdev_file_open(path, &opt, &b->blocks, &b->direct);
    if (rc == -EAGAIN)
        return error_set(err, rc, "cannot open %s: the host's asynchronous I/O is used up; raise fs.aio-max-nr with sysctl", path);
    if (rc == -ENOSYS)
        return error_set(err, rc, "cannot open %s: the kernel has no asynchronous I/O, or a sandbox hides it; serve the store where io_setup(2) works", path);
    if (rc == -ENOMEM)
        return error_set(err, rc, "cannot open %s: there is no memory for it, or none in the kernel for asynchronous I/O; free some and try again", path);
    if (rc == -EBUSY)
        return error_set(err, rc, "the device %s is in use (mounted, swap, part of a volume, or open by another Parallax); release it first", path);
    if (rc == -ERANGE)
        return error_set(err, rc, "the device %s has become smaller than what the store %s has on it; give it its former size", path, l->directory);
    if (rc)
        return error_set(err, rc, "cannot open %s: %s", path, strerror(-rc));
    return device && !create ? check_unchanged(l, err) : 0;
}

int local_open_database(struct backing *b, bool create, struct error *err)
{
    struct local *l = b->implementation;
    char path[LOCAL_PATH_MAX + 16];
    snprintf(path, sizeof path, "%s/" LOCAL_CATALOG_DIRECTORY, l->directory);
    if (create && mkdirat(l->directory_fd, LOCAL_CATALOG_DIRECTORY, 0700) < 0)
        return error_set(err, -errno, "cannot make %s: %s", path, strerror(errno));
    struct error why = ERROR_NONE;
    int rc = create ? catalog_bdb_create(path, &b->catalog, &why) : catalog_bdb_open(path, &b->catalog, &why);
    if ((rc == -EBADMSG || rc == -ENOENT || rc == -ENOTDIR) && l->header.copy_bytes)
        return error_set(err, rc, "%s; the device has a copy of the catalog: 'init --adopt %s' with a new directory takes over both", why.text, l->id.device);
    return rc ? error_set(err, rc, "%s", why.text) : 0;
}

int local_open_copy(const struct local *l, struct catalog_copy **copy, struct error *err)
{
    *copy = NULL;
    if (!l->header.copy_bytes)
        return 0;
    int fd = open(l->id.device, O_RDWR | O_CLOEXEC);
    if (fd >= 0)
        posix_fadvise(fd, LOCAL_DEVICE_HEADER_BYTES, (off_t)(2 * l->header.copy_bytes), POSIX_FADV_DONTNEED); /* as the header */
    int rc = fd < 0 ? -errno : catalog_copy_open(fd, LOCAL_DEVICE_HEADER_BYTES, l->header.copy_bytes, l->id.uuid, l->header.adoption, copy);
    if (rc && fd >= 0)
        close(fd);
    return rc ? error_set(err, rc, "cannot read the catalog's copy on %s: %s", l->id.device, strerror(-rc)) : 0;
}

int local_refuse_older(const struct local *l, struct error *err)
{
    return error_set(err, -ESTALE, "the catalog in %s is older than what %s carries: it was put back from a copy, or is damaged; adopt the device in a new "
                     "directory with 'init --adopt'", l->directory, l->id.device);
}

/* The copy is taken, whatever happens. */
static int mirror(struct backing *b, struct catalog_copy *copy, bool anew, struct error *err)
{
    const struct local *l = b->implementation;
    int rc = copy ? catalog_mirror_open(b->catalog, copy, anew, &b->catalog) : 0;
    if (rc)
        catalog_copy_close(copy);
    if (rc == -ESTALE)
        return local_refuse_older(l, err);
    return rc ? error_set(err, rc, "cannot read the catalog in %s: %s", l->directory, strerror(-rc)) : 0;
}

static int open_catalog(struct backing *b, bool create, struct error *err)
{
    struct catalog_copy *copy;
    int rc = local_open_database(b, create, err);
    if (!rc)
        rc = local_open_copy(b->implementation, &copy, err);
    return rc ? rc : mirror(b, copy, create, err);
}

int local_open_directory(struct local *l, struct error *err)
{
    l->directory_fd = open(l->directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (l->directory_fd >= 0)
        return 0;
    return errno == ENOENT ? error_set(err, -ENOENT, "%s is not a Parallax store: there is no such directory; create one with 'parallax init'", l->directory)
                           : error_set(err, -errno, "cannot open the store %s: %s", l->directory, strerror(errno));
}

int local_claim_directory(struct local *l, bool force, struct error *err)
{
    static const struct backing_open_options at_once = { .command = "init" };
    int fd = local_directory_make(l->directory, &l->made_directory, err);
    if (fd < 0)
        return fd;
    l->directory_fd = fd;
    int rc = local_directory_check(fd, l->directory, force, err);
    if (rc)
        return rc;
    fd = local_lock_take(l->directory_fd, l->directory, &at_once, err);
    if (fd < 0)
        return fd;
    l->lock_fd = fd;
    rc = local_directory_check(l->directory_fd, l->directory, force, err);
    if (rc)
        return rc;
    l->making = true;
    rc = local_directory_clear(l->directory_fd);
    if (rc)
        return error_set(err, rc, "cannot clear the remains of an earlier creation in %s: %s", l->directory, strerror(-rc));
    if (fchmod(l->directory_fd, 0700) < 0)
        return error_set(err, -errno, "cannot make %s private to its owner: %s", l->directory, strerror(errno));
    return 0;
}

/* A device that cannot be used keeps what it holds. */
static int lay_out_device(const char *device, const struct backing_create_options *opt, uint64_t initial_blocks, struct local_device_header *h, struct error *err)
{
    uint64_t room, least = initial_blocks * BDEV_BLOCK_SIZE;
    int rc = local_device_check(device, opt->force, err);
    if (!rc)
        rc = local_device_lay_out(device, h, &room, err);
    if (!rc && room < opt->size_bytes)
        rc = error_set(err, -ENOSPC, "the device %s has %llu bytes for blocks, fewer than the size asked for", device, (unsigned long long)room);
    if (!rc && room < least)
        rc = error_set(err, -ENOSPC, "the device %s has %llu bytes for blocks, and a store without --size needs %llu: say --size", device,
                       (unsigned long long)room, (unsigned long long)least);
    return rc;
}

static int lay_out(struct backing *b, uint64_t initial_blocks, struct error *err)
{
    struct local *l = b->implementation;
    int rc = local_identity_write(l->directory_fd, l->directory, LOCAL_STORE_NEW_FILE, &l->id, err);
    if (!rc)
        rc = local_open_blocks(b, NULL, false, true, err);
    if (!rc)
        rc = open_catalog(b, true, err);
    if (!rc && *l->id.device)
        rc = local_device_wipe(l->id.device, err); /* not before the device is known to be needed */
    if (!rc)
        rc = settle(b, err);
    if (rc)
        return rc;
    rc = bdev_grow(b->blocks, initial_blocks);
    rc = rc ? rc : bdev_zero(b->blocks, 0, initial_blocks); /* the journal is flushed often */
    return rc ? error_set(err, rc, "cannot allocate %llu bytes for the store %s: %s", (unsigned long long)initial_blocks * BDEV_BLOCK_SIZE,
                          l->directory, strerror(-rc))
              : 0;
}

int backing_create(const char *url, const struct backing_create_options *opt, uint64_t initial_blocks, struct backing *out, struct error *err)
{
    struct backing b;
    char device[LOCAL_PATH_MAX];
    int rc = local_begin(url, &b, device, err);
    if (rc)
        return rc;
    struct local *l = b.implementation;
    if (*device)
        rc = lay_out_device(device, opt, initial_blocks, &l->header, err);
    if (!rc)
        rc = local_identity_make(&l->id, device, err);
    if (!rc) {
        uuid_read(l->id.uuid, b.uuid);
        rc = local_claim_directory(l, opt->force, err);
    }
    if (!rc)
        rc = lay_out(&b, initial_blocks, err);
    if (rc)
        b.close(&b);
    else
        *out = b;
    return rc;
}

int local_publish(struct local *l)
{
    if (renameat(l->directory_fd, LOCAL_STORE_NEW_FILE, l->directory_fd, LOCAL_STORE_FILE) < 0)
        return -errno;
    l->making = false;
    return fsync(l->directory_fd) < 0 ? -errno : 0;
}

/* Order: blocks durable, then the device's header, then STORE, then the directory that names it. */
int backing_created(struct backing *b, struct error *err)
{
    struct local *l = b->implementation;
    int rc = bdev_flush(b->blocks);
    if (!rc && *l->id.device) {
        local_device_own(&l->header, &l->id);
        rc = local_device_write(l->id.device, &l->header);
    }
    if (!rc)
        rc = local_publish(l);
    return rc ? error_set(err, rc, "cannot finish the store %s: %s", l->directory, strerror(-rc)) : 0;
}

/* A URL that names a device must name the store's. */
static int check_device(const struct local *l, const char *device, struct error *err)
{
    struct stat asked, own;
    if (!*device || strcmp(device, l->id.device) == 0)
        return 0;
    if (*l->id.device && stat(device, &asked) == 0 && stat(l->id.device, &own) == 0 && asked.st_rdev == own.st_rdev)
        return 0;
    return error_set(err, -EINVAL, "the blocks of store %s are %s%s, not on %s", l->directory, *l->id.device ? "on " : "in a file",
                     l->id.device, device);
}

static int open_locked(struct backing *b, struct loop *loop, bool lazy, const char *device, struct error *err)
{
    struct local *l = b->implementation;
    int rc = local_identity_read(l->directory_fd, l->directory, &l->id, err);
    if (!rc)
        rc = local_identity_check_host(&l->id, l->directory, err);
    if (!rc)
        rc = check_device(l, device, err);
    if (!rc && *l->id.device)
        rc = local_device_read(l->id.device, false, &l->header, err);
    if (!rc && *l->id.device)
        rc = local_device_check_owner(&l->header, &l->id, l->directory, err);
    if (!rc)
        rc = local_open_blocks(b, loop, lazy, false, err);
    if (!rc)
        rc = open_catalog(b, false, err);
    return rc;
}

int backing_open(const char *url, struct loop *loop, const struct backing_open_options *opt, struct backing *out, struct error *err)
{
    struct backing b;
    char device[LOCAL_PATH_MAX];
    int rc = local_begin(url, &b, device, err);
    if (rc)
        return rc;
    struct local *l = b.implementation;
    struct local_identity seen;
    rc = local_open_directory(l, err);
    /* A look before the lock, so that nothing is put into a directory that is no store. */
    if (!rc)
        rc = local_identity_read(l->directory_fd, l->directory, &seen, err);
    if (!rc) {
        l->lock_fd = local_lock_take(l->directory_fd, l->directory, opt, err);
        rc = l->lock_fd < 0 ? l->lock_fd : open_locked(&b, loop, opt->lazy, device, err);
    }
    if (rc)
        b.close(&b);
    else
        *out = b;
    return rc;
}
