/* change.c - operations that would change what the store holds: allowed with `manage`, else EPERM.
 *
 * 1. Nothing that programs do to files in passing may destroy a disk: opening with O_TRUNC and truncating a path to nothing
 *    have no effect, a file is never made smaller, a rename never replaces.
 * 2. What is open in this door is neither renamed nor removed; what is open elsewhere the store refuses to remove.
 * 3. If the storage domain goes away in the middle of a change, the change is asked for again; that what was to go is not there
 *    then means that the first attempt was done. */
#include "doors/fuse/fuse_private.h"

#include "base/log.h"

#include <errno.h>
#include <string.h>

#define ATTEMPTS 100 /* each waits for a storage domain that answers */

static void reply(fuse_req_t req, int err) { fuse_reply_err(req, fuse_errno(err)); }

/* Asks for a change; request is stolen. */
static int ask(struct fuse_mount *m, json_t *request)
{
    struct error err;
    int tries = 0;
    do {
        err = (struct error)ERROR_NONE;
        door_ask(m->door, json_incref(request), false, NULL, NULL, &err);
    } while ((err.code == -ECONNRESET || err.code == -EPIPE) && ++tries < ATTEMPTS);
    if (err.code == -ENOENT && tries)
        err = (struct error)ERROR_NONE;
    json_decref(request);
    look_forget(m);
    if (err.code)
        log_warning("refused: %s", err.text);
    return err.code;
}

/* ---- Size ---- */

static int resize(struct fuse_mount *m, struct node *n, uint64_t size_bytes, bool by_handle)
{
    struct node_name name;
    struct node_facts facts;
    node_get_name(m, n, &name);
    int err = look_name(m, &name, &facts);
    if (err || facts.size_bytes == size_bytes || (size_bytes == 0 && !by_handle)) /* 0 of a path: as O_TRUNC comes */
        return err;
    if (name.kind != NODE_IMAGE)
        return -EROFS;
    if (!m->opt.manage || size_bytes < facts.size_bytes)
        return -EPERM;
    return ask(m, json_pack("{s:s,s:s,s:I,s:b,s:b}", "command", "resize", "name", name.image, "size", (json_int_t)size_bytes, "relative", 0, "shrink", 0));
}

void change_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set, struct fuse_file_info *fi)
{
    struct fuse_mount *m = mount_of(req);
    struct node *n = node_of(m, ino);
    struct stat st;
    int err = 0;
    /* Times are the store's: setting them is accepted, as on a block device, and has no effect. */
    if (to_set & (FUSE_SET_ATTR_MODE | FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID))
        err = -EPERM;
    else if (to_set & FUSE_SET_ATTR_SIZE)
        err = kind_is_directory(n->kind) ? -EISDIR : resize(m, n, (uint64_t)attr->st_size, fi != NULL);
    if (!err)
        err = look_attributes(m, n, &st);
    if (err)
        reply(req, err);
    else
        fuse_reply_attr(req, &st, FUSE_DOOR_VALID_SECONDS);
}

/* ---- Names ---- */

/* The name of a file in a directory of this door, if it may be changed at all. */
static int changeable(struct fuse_mount *m, fuse_ino_t parent, const char *file, struct node_name *out)
{
    struct node_name directory;
    node_get_name(m, node_of(m, parent), &directory);
    if (!name_child(&directory, file, out))
        return -ENOENT;
    return !m->opt.manage || kind_is_directory(out->kind) ? -EPERM : 0;
}

static json_t *removal(const struct node_name *name)
{
    char target[TARGET_SIZE];
    name_target(name, target);
    if (name->kind == NODE_SNAPSHOT)
        return json_pack("{s:s,s:[s],s:b}", "command", "snap-rm", "targets", target, "dry-run", 0);
    return json_pack("{s:s,s:[s],s:b,s:b}", "command", "rm", "names", target, "snapshots", 0, "dry-run", 0);
}

void change_unlink(fuse_req_t req, fuse_ino_t parent, const char *file)
{
    struct fuse_mount *m = mount_of(req);
    struct node_name name;
    int err = changeable(m, parent, file, &name);
    if (!err && file_is_open(m, &name))
        err = -EBUSY;
    if (!err)
        err = ask(m, removal(&name));
    if (!err)
        node_gone(m, &name);
    reply(req, err);
}

static json_t *renaming(const struct node_name *from, const struct node_name *to)
{
    if (from->kind == NODE_SNAPSHOT)
        return json_pack("{s:s,s:s,s:s,s:s}", "command", "snap-mv", "image", from->image, "from", from->snapshot, "to", to->snapshot);
    return json_pack("{s:s,s:s,s:s}", "command", "mv", "name", from->image, "to", to->image);
}

void change_rename(fuse_req_t req, fuse_ino_t parent, const char *file, fuse_ino_t new_parent, const char *new_file, unsigned flags)
{
    struct fuse_mount *m = mount_of(req);
    struct node_name from, to;
    int err = changeable(m, parent, file, &from);
    if (!err)
        err = parent != new_parent || flags & ~(unsigned)RENAME_NOREPLACE ? -EPERM : changeable(m, new_parent, new_file, &to);
    if (!err && file_is_open(m, &from))
        err = -EBUSY;
    if (!err)
        err = ask(m, renaming(&from, &to)); /* a name that is taken is refused there */
    if (!err)
        node_rename(m, &from, &to);
    reply(req, err);
}

/* ---- What there is no room for here: images are made with `parallax create`, `clone`, `import` and `snap create` ---- */

void change_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t device)
{
    (void)parent, (void)name, (void)mode, (void)device;
    reply(req, -EPERM);
}

void change_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
    (void)parent, (void)name, (void)mode;
    reply(req, -EPERM);
}

void change_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    (void)parent, (void)name;
    reply(req, -EPERM);
}

void change_symlink(fuse_req_t req, const char *link, fuse_ino_t parent, const char *name)
{
    (void)link, (void)parent, (void)name;
    reply(req, -EPERM);
}

void change_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t new_parent, const char *new_name)
{
    (void)ino, (void)new_parent, (void)new_name;
    reply(req, -EPERM);
}
