/* local_adopt.c - taking over what another host, or another directory, has left.
 *
 * A device. Order: the new directory, not a store yet; the catalog filled from the copy; the header with the new owner, from
 * which on the former directory is refused; STORE by rename. Of the device only the header is written, so after a crash
 * anywhere it can be adopted again. The copy is of the former epoch until the first opening makes a dump of what the new
 * catalog is.
 * A directory. Order: its catalog is found to be no older than the device's copy, for the former owner may have the newest
 * and must not lose the device to an old one; the header of its device, if it has one; STORE by rename. A crash in between
 * leaves a store that still names the other host, and the next adoption finds the header done. */
#include "parallax/store/catalog_mirror.h"
#include "parallax/store/local_private.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

struct filling {
    struct catalog *catalog;
    uint64_t revision;
};

static int fill_piece(void *ctx, const struct catalog_change *changes, unsigned count)
{
    struct filling *f = ctx;
    int rc = catalog_apply(f->catalog, "store", f->revision, changes, count);
    f->revision++;
    return rc;
}

static int check_copy(const struct local *l, struct catalog_copy *copy, struct error *err)
{
    uint64_t revision;
    if (!catalog_copy_whole(copy, &revision))
        return error_set(err, -EBADMSG, "the device %s has no whole copy of its catalog; open the store with its own directory, on host %s", l->id.device,
                         l->header.host);
    int rc = catalog_copy_check_end(copy);
    return rc ? error_set(err, rc, "the copy of the catalog on %s is damaged; open the store with its own directory, on host %s", l->id.device,
                          l->header.host)
              : 0;
}

static int fill_catalog(struct backing *b, struct catalog_copy *copy, struct error *err)
{
    const struct local *l = b->implementation;
    int rc = check_copy(l, copy, err);
    if (!rc)
        rc = local_open_database(b, true, err);
    if (rc)
        return rc;
    struct filling f = { .catalog = b->catalog };
    rc = catalog_copy_replay(copy, fill_piece, &f);
    return rc ? error_set(err, rc, "cannot fill the catalog in %s from its copy on %s: %s", l->directory, l->id.device, strerror(-rc)) : 0;
}

/* Its last change may have rotted. The former directory has it, and must not lose the device to who has not. */
static int check_blocks(struct backing *b, int (*check)(struct bdev *blocks, struct catalog *catalog), struct error *err)
{
    const struct local *l = b->implementation;
    int rc = check ? check(b->blocks, b->catalog) : 0;
    if (rc == -ESTALE)
        return error_set(err, rc, "the copy of the catalog on %s is older than the blocks there: its last change is damaged; open the store with its own directory, on host %s",
                         l->id.device, l->header.host);
    return rc ? error_set(err, rc, "cannot read the store on %s: %s", l->id.device, strerror(-rc)) : 0;
}

static int become_owner(struct local *l, struct error *err)
{
    local_device_own(&l->header, &l->id);
    int rc = local_device_write(l->id.device, &l->header);
    if (!rc)
        rc = local_publish(l);
    return rc ? error_set(err, rc, "cannot finish the store %s: %s", l->directory, strerror(-rc)) : 0;
}

/* The device is claimed by the open blocks. */
static int take_over(struct backing *b, int (*check)(struct bdev *blocks, struct catalog *catalog), struct error *err)
{
    struct catalog_copy *copy;
    int rc = local_open_copy(b->implementation, &copy, err);
    if (rc)
        return rc;
    rc = fill_catalog(b, copy, err);
    catalog_copy_close(copy);
    if (!rc)
        rc = check_blocks(b, check, err);
    return rc ? rc : become_owner(b->implementation, err);
}

static int adopt_device(struct backing *b, const char *device, bool force, int (*check)(struct bdev *blocks, struct catalog *catalog), struct backing_adopted *out, struct error *err)
{
    struct local *l = b->implementation;
    if (*device != '/' || strlen(device) >= LOCAL_PATH_MAX || strchr(device, '\n'))
        return error_set(err, -EINVAL, "'%.100s' is not a device; give its absolute path, like /dev/sdb", device);
    int rc = local_device_read(device, true, &l->header, err);
    if (!rc && !l->header.copy_bytes)
        rc = error_set(err, -ENOTSUP, "the device %s carries no copy of its store's catalog: an older Parallax made it; open it with its own directory", device);
    if (!rc)
        rc = local_identity_make(&l->id, device, err);
    if (rc)
        return rc;
    snprintf(out->previous_host, sizeof out->previous_host, "%s", l->header.host);
    snprintf(out->device, sizeof out->device, "%s", device);
    snprintf(l->id.uuid, sizeof l->id.uuid, "%s", l->header.uuid);
    l->id.adoption = l->header.adoption + 1;
    rc = local_claim_directory(l, force, err);
    if (!rc)
        rc = local_identity_write(l->directory_fd, l->directory, LOCAL_STORE_NEW_FILE, &l->id, err);
    if (!rc)
        rc = local_open_blocks(b, NULL, false, false, err);
    return rc ? rc : take_over(b, check, err);
}

/* Claims the device until b is closed. */
static int check_age(struct backing *b, struct error *err)
{
    const struct local *l = b->implementation;
    struct catalog_copy *copy;
    int rc = local_open_blocks(b, NULL, false, false, err);
    if (!rc)
        rc = local_open_database(b, false, err);
    if (!rc)
        rc = local_open_copy(l, &copy, err);
    if (rc)
        return rc;
    rc = catalog_mirror_check(b->catalog, copy);
    catalog_copy_close(copy);
    if (rc == -ESTALE)
        return local_refuse_older(l, err);
    return rc ? error_set(err, rc, "cannot read the catalog in %s: %s", l->directory, strerror(-rc)) : 0;
}

/* The header may name this host already: an earlier adoption was cut short. */
static int own_device(struct backing *b, const struct local_identity *mine, struct error *err)
{
    struct local *l = b->implementation;
    int rc = local_device_read(l->id.device, true, &l->header, err);
    if (rc || !l->header.copy_bytes)
        return rc ? rc : local_device_check_owner(&l->header, &l->id, l->directory, err);
    if (local_device_check_owner(&l->header, mine, l->directory, NULL) == 0)
        return 0;
    rc = local_device_check_owner(&l->header, &l->id, l->directory, err);
    if (!rc)
        rc = check_age(b, err);
    if (rc)
        return rc;
    local_device_own(&l->header, mine);
    rc = local_device_write(l->id.device, &l->header);
    return rc ? error_set(err, rc, "cannot write the device %s: %s", l->id.device, strerror(-rc)) : 0;
}

static int adopt_directory(struct backing *b, struct backing_adopted *out, struct error *err)
{
    static const struct backing_open_options at_once = { .command = "init --adopt" };
    struct local *l = b->implementation;
    struct local_identity mine;
    int rc = local_open_directory(l, err);
    if (!rc)
        rc = local_identity_read(l->directory_fd, l->directory, &l->id, err);
    if (rc)
        return rc;
    l->lock_fd = local_lock_take(l->directory_fd, l->directory, &at_once, err);
    rc = l->lock_fd < 0 ? l->lock_fd : local_identity_read(l->directory_fd, l->directory, &l->id, err);
    if (!rc)
        rc = local_identity_make(&mine, l->id.device, err);
    if (!rc && strcmp(mine.machine_id, l->id.machine_id) == 0)
        rc = error_set(err, -EALREADY, "the store %s belongs to this host already; there is nothing to adopt", l->directory);
    if (rc)
        return rc;
    memcpy(mine.uuid, l->id.uuid, sizeof mine.uuid);
    mine.adoption = l->id.adoption;
    snprintf(out->previous_host, sizeof out->previous_host, "%s", l->id.host);
    snprintf(out->device, sizeof out->device, "%s", l->id.device);
    if (*l->id.device)
        rc = own_device(b, &mine, err);
    if (!rc)
        rc = local_identity_write(l->directory_fd, l->directory, LOCAL_STORE_NEW_FILE, &mine, err);
    if (!rc && (rc = local_publish(l)))
        error_set(err, rc, "cannot write the store %s: %s", l->directory, strerror(-rc));
    return rc;
}

static int adopt(struct backing *b, const char *what, bool force, int (*check)(struct bdev *blocks, struct catalog *catalog), struct backing_adopted *out, struct error *err)
{
    const struct local *l = b->implementation;
    struct stat st, own;
    if (stat(what, &st) < 0)
        return error_set(err, -errno, "cannot adopt %s: %s", what, strerror(errno));
    if (S_ISBLK(st.st_mode))
        return adopt_device(b, what, force, check, out, err);
    if (!S_ISDIR(st.st_mode))
        return error_set(err, -ENOTBLK, "%s is neither a block device nor a store's directory", what);
    if (stat(l->directory, &own) < 0 || own.st_dev != st.st_dev || own.st_ino != st.st_ino)
        return error_set(err, -EINVAL, "only the directory of the store itself can be adopted: --store and --adopt name the same one (%s is another)", l->directory);
    return adopt_directory(b, out, err);
}

int backing_adopt(const char *url, const char *what, bool force, int (*check)(struct bdev *blocks, struct catalog *catalog), struct backing_adopted *out, struct error *err)
{
    struct backing b;
    struct backing_adopted adopted = { .device = "" };
    char device[LOCAL_PATH_MAX];
    int rc = local_begin(url, &b, device, err);
    if (rc)
        return rc;
    rc = *device ? error_set(err, -EINVAL, "--adopt names the device; --store is the new directory alone") : adopt(&b, what, force, check, &adopted, err);
    b.close(&b);
    if (!rc)
        *out = adopted;
    return rc;
}
