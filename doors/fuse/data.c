/* data.c - operations on open files.
 *
 * Every request waits in the worker that has it, for the ring and for the storage domain if that is away; others go on beside
 * it. Bytes may begin and end anywhere: the door library reads around what is no whole sector. */
#include "doors/fuse/fuse_private.h"

#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fuse.h>
#include <stdlib.h>
#include <unistd.h>

static struct handle *handle_of(const struct fuse_file_info *fi) { return (struct handle *)(uintptr_t)fi->fh; }
static void reply(fuse_req_t req, int err) { fuse_reply_err(req, fuse_errno(err)); }

/* What the door knows of the file's map is old; called when a change is done and before anybody is told. */
static void note_change(struct handle *h) { __atomic_add_fetch(&h->node->changes, 1, __ATOMIC_SEQ_CST); }

/* How much of [offset, offset + length) lies in the file. */
static uint64_t clip(const struct handle *h, uint64_t offset, uint64_t length)
{
    uint64_t size = door_disk_size(h->disk);
    return offset >= size ? 0 : length < size - offset ? length : size - offset;
}

/* ---- Open and close ---- */

/* libfuse's own reply has no way to allow writes in parallel, so the kernel's structure is filled in here. */
static int reply_open(fuse_req_t req, const struct fuse_mount *m, struct handle *h)
{
    struct fuse_open_out out = { .fh = (uintptr_t)h };
    if (!m->opt.cached)
        out.open_flags = FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES;
    else if (kind_is_fixed_content(h->node->kind))
        out.open_flags = FOPEN_KEEP_CACHE;
    return fuse_reply_buf(req, (const char *)&out, sizeof out);
}

void data_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct fuse_mount *m = mount_of(req);
    struct node *n = node_of(m, ino);
    struct error err = ERROR_NONE;
    struct handle *h;
    bool writing = (fi->flags & O_ACCMODE) != O_RDONLY;
    if (kind_is_directory(n->kind)) {
        reply(req, -EISDIR);
        return;
    }
    if (writing && kind_is_fixed_content(n->kind)) {
        reply(req, -EROFS);
        return;
    }
    if (file_open(m, n, writing, &h, &err)) {
        if (err.code != -ESHUTDOWN)
            log_warning("cannot open a file: %s", err.text);
        reply(req, err.code);
        return;
    }
    if (reply_open(req, m, h))
        file_close(m, h);
}

void data_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    (void)ino;
    file_close(mount_of(req), handle_of(fi));
    reply(req, 0);
}

/* ---- Data ---- */

static pthread_key_t buffer_key;
static pthread_once_t buffer_once = PTHREAD_ONCE_INIT;
static void make_buffer_key(void) { pthread_key_create(&buffer_key, free); }

/* The worker's own, for one read at a time; it stays from read to read. NULL: no memory. */
static void *read_buffer(void)
{
    pthread_once(&buffer_once, make_buffer_key);
    void *buffer = pthread_getspecific(buffer_key);
    if (!buffer && (buffer = aligned_alloc(4096, FUSE_DOOR_TRANSFER_BYTES)))
        pthread_setspecific(buffer_key, buffer);
    return buffer;
}

void data_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *fi)
{
    (void)ino;
    struct handle *h = handle_of(fi);
    uint64_t length = clip(h, (uint64_t)offset, size < FUSE_DOOR_TRANSFER_BYTES ? size : FUSE_DOOR_TRANSFER_BYTES);
    void *buffer = read_buffer();
    int err = !buffer ? -ENOMEM : length ? door_disk_read(h->disk, buffer, length, (uint64_t)offset) : 0;
    if (err)
        reply(req, err);
    else
        fuse_reply_buf(req, buffer, length);
}

void data_write(fuse_req_t req, fuse_ino_t ino, const char *data, size_t size, off_t offset, struct fuse_file_info *fi)
{
    (void)ino;
    struct handle *h = handle_of(fi);
    uint64_t length = clip(h, (uint64_t)offset, size);
    if (!length && size) {
        reply(req, -ENOSPC); /* as behind the end of a block device */
        return;
    }
    int err = length ? door_disk_write(h->disk, data, length, (uint64_t)offset, fi->flags & (O_SYNC | O_DSYNC)) : 0;
    note_change(h);
    if (err)
        reply(req, err);
    else
        fuse_reply_write(req, length);
}

/* Who opened the file for reading may flush what others write into it. */
static int flush(struct fuse_mount *m, struct handle *h)
{
    struct slot *s = &h->node->slots[SLOT_WRITE];
    pthread_mutex_lock(&m->lock);
    bool open = s->state == SLOT_OPEN;
    if (open)
        s->users++;
    pthread_mutex_unlock(&m->lock);
    if (!open)
        return 0;
    int err = door_disk_flush(s->disk);
    file_slot_put(m, s);
    return err;
}

void data_fsync(fuse_req_t req, fuse_ino_t ino, int data_only, struct fuse_file_info *fi)
{
    (void)ino;
    (void)data_only;
    struct handle *h = handle_of(fi);
    reply(req, h->slot == SLOT_WRITE ? door_disk_flush(h->disk) : flush(mount_of(req), h));
}

/* A hole reads as zeroes and holds no storage, and so does a range of zeroes. The file's size never changes. */
void data_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t offset, off_t length, struct fuse_file_info *fi)
{
    (void)ino;
    struct handle *h = handle_of(fi);
    bool punch = mode == (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE), zero = (mode & ~FALLOC_FL_KEEP_SIZE) == FALLOC_FL_ZERO_RANGE;
    uint64_t inside = clip(h, (uint64_t)offset, (uint64_t)length);
    if (!punch && !zero) {
        reply(req, -EOPNOTSUPP);
        return;
    }
    if (mode == FALLOC_FL_ZERO_RANGE && inside < (uint64_t)length) {
        reply(req, -ENOSPC);
        return;
    }
    int err = inside ? door_disk_zero(h->disk, inside, (uint64_t)offset, false) : 0;
    note_change(h);
    reply(req, err);
}

void data_lseek(fuse_req_t req, fuse_ino_t ino, off_t offset, int whence, struct fuse_file_info *fi)
{
    (void)ino;
    uint64_t at;
    if (whence != SEEK_DATA && whence != SEEK_HOLE) {
        reply(req, -EINVAL);
        return;
    }
    int err = offset < 0 ? -ENXIO : file_seek(handle_of(fi), (uint64_t)offset, whence == SEEK_HOLE, &at);
    if (err)
        reply(req, err);
    else
        fuse_reply_lseek(req, (off_t)at);
}
