/* tree.c - operations on names: look-up, attributes, directories, the file system's size. */
#include "doors/fuse/fuse_private.h"

#include "base/log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#define LIST_FRESH_MS 100u       /* a directory that is opened shows what the store held this long ago at most */
#define STATFS_MS 1000u          /* how long statfs waits for the store */
#define UNKNOWN_INODE 0xffffffff /* of names not looked up yet */

int fuse_errno(int err)
{
    switch (err) {
    case -ESHUTDOWN: return ENOTCONN;
    case -ECONNRESET:
    case -EPROTO:
    case -EBADMSG: return EIO;
    default: return -err;
    }
}

void tree_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    struct fuse_mount *m = mount_of(req);
    struct fuse_entry_param e = { .attr_timeout = FUSE_DOOR_VALID_SECONDS, .entry_timeout = FUSE_DOOR_VALID_SECONDS };
    struct node_name directory, wanted;
    struct node_facts facts;
    node_get_name(m, node_of(m, parent), &directory);
    int err = name_child(&directory, name, &wanted) ? look_name(m, &wanted, &facts) : -ENOENT;
    struct node *n = err ? NULL : node_take(m, &facts);
    if (!err && !n)
        err = -ENOMEM;
    if (!err && (err = look_attributes(m, n, &e.attr)))
        node_forget(m, n, 1);
    if (err) {
        fuse_reply_err(req, fuse_errno(err));
        return;
    }
    e.ino = node_ino(m, n);
    if (fuse_reply_entry(req, &e))
        node_forget(m, n, 1); /* the kernel did not take it */
}

void tree_forget(fuse_req_t req, fuse_ino_t ino, uint64_t lookups)
{
    struct fuse_mount *m = mount_of(req);
    node_forget(m, node_of(m, ino), lookups);
    fuse_reply_none(req);
}

void tree_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    (void)fi;
    struct fuse_mount *m = mount_of(req);
    struct node *n = node_of(m, ino);
    struct stat st;
    int err = look_attributes(m, n, &st);
    if (err == -ENOENT && look_open_attributes(m, n, &st))
        err = 0;
    if (err)
        fuse_reply_err(req, fuse_errno(err));
    else
        fuse_reply_attr(req, &st, FUSE_DOOR_VALID_SECONDS);
}

/* ---- Directories: an open one holds a listing, so that it stays as it was when it was opened ---- */

void tree_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct fuse_mount *m = mount_of(req);
    struct node_name name;
    struct node_facts facts;
    struct listing *l = NULL;
    node_get_name(m, node_of(m, ino), &name);
    int err = look_listing(m, LIST_FRESH_MS, &l);
    if (!err)
        err = name_look(l, &name, &facts);
    if (err) {
        listing_put(l);
        fuse_reply_err(req, fuse_errno(err));
        return;
    }
    fi->fh = (uintptr_t)l;
    if (fuse_reply_open(req, fi))
        listing_put(l);
}

void tree_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    (void)ino;
    listing_put((struct listing *)(uintptr_t)fi->fh);
    fuse_reply_err(req, 0);
}

/* The name at a position of the directory, "" for one that is passed over; false: there is none any more. */
static bool name_at(const struct listing *l, const struct node_name *directory, uint64_t at, const char **name, bool *is_directory)
{
    static const char *const fixed[] = { "images", "snapshots", "templates" };
    const struct listing_image *i;
    *is_directory = directory->kind == NODE_ROOT || directory->kind == NODE_SNAPSHOTS;
    switch (directory->kind) {
    case NODE_ROOT:
        *name = at < 3 ? fixed[at] : NULL;
        break;
    case NODE_OF_IMAGE:
        i = listing_find(l, directory->image);
        *name = i && at < i->snapshots ? l->snapshots[i->first_snapshot + at].name : NULL;
        break;
    default:
        i = at < l->image_count ? &l->images[at] : NULL;
        *name = i ? i->name : NULL;
        if (i && (directory->kind == NODE_SNAPSHOTS ? !i->snapshots : i->is_template != (directory->kind == NODE_TEMPLATES)))
            *name = "";
    }
    return *name;
}

void tree_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *fi)
{
    struct fuse_mount *m = mount_of(req);
    const struct listing *l = (const struct listing *)(uintptr_t)fi->fh;
    struct node_name directory;
    struct stat st = { .st_ino = UNKNOWN_INODE };
    char *list = malloc(size);
    size_t used = 0;
    const char *name;
    bool is_directory;
    node_get_name(m, node_of(m, ino), &directory);
    for (uint64_t at = (uint64_t)offset; list; at++) {
        if (at < 2) {
            name = at ? ".." : ".";
            is_directory = true;
        } else if (!name_at(l, &directory, at - 2, &name, &is_directory)) {
            break;
        }
        st.st_mode = is_directory ? S_IFDIR : S_IFREG;
        size_t need = *name ? fuse_add_direntry(req, list + used, size - used, name, &st, (off_t)at + 1) : 0;
        if (need > size - used)
            break;
        used += need;
    }
    if (list)
        fuse_reply_buf(req, list, used);
    else
        fuse_reply_err(req, ENOMEM);
    free(list);
}

/* What the store can hold and what of it is free. umount(8) asks for this too, and must not wait for a storage domain that is
 * away: then it is what was known last. */
void tree_statfs(fuse_req_t req, fuse_ino_t ino)
{
    (void)ino;
    struct fuse_mount *m = mount_of(req);
    json_t *status = NULL;
    bool known = door_ask_soon(m->door, json_pack("{s:s}", "command", "status"), STATFS_MS, &status) == 0;
    uint64_t capacity = (uint64_t)json_integer_value(json_object_get(status, "capacity")), used = (uint64_t)json_integer_value(json_object_get(status, "used"));
    json_decref(status);
    pthread_mutex_lock(&m->lock);
    if (known) {
        m->capacity_bytes = capacity;
        m->free_bytes = capacity > used ? capacity - used : 0;
    }
    struct statvfs v = { .f_bsize = 4096, .f_frsize = 4096, .f_blocks = m->capacity_bytes / 4096, .f_bfree = m->free_bytes / 4096,
                         .f_bavail = m->free_bytes / 4096, .f_namemax = LISTING_NAME_SIZE - 1 };
    pthread_mutex_unlock(&m->lock);
    fuse_reply_statfs(req, &v);
}
