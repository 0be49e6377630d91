/* nbd_io.c - an export's data: every callback is one call on the disk, from as many threads as nbdkit has. */
#include "doors/nbd/nbd_private.h"

#include <errno.h>
#include <string.h>

#define PREFERRED_BLOCK 4096u
#define MAXIMUM_BLOCK 0xffffffffu /* what nbdkit itself takes is the bound */

static struct door_disk *disk_of(void *handle) { return ((struct nbd_export *)handle)->disk; }

/* What the protocol has no number for, nbdkit would give to clients as the one for a request that makes no sense. */
static int client_errno(int error)
{
    switch (error) {
    case -EPERM:
    case -EROFS:
    case -ENOMEM:
    case -EINVAL:
    case -ENOSPC:
    case -ESHUTDOWN:
        return -error;
    default:
        return EIO;
    }
}

static const char *reason(int error) { return error == -ENODEV ? "it was detached from this server, which is of no use any more; end it" : strerror(-error); }

static int answer(const char *what, void *handle, int error, uint64_t offset)
{
    if (!error)
        return 0;
    nbdkit_error("%s '%s' at %llu: %s", what, door_disk_target(disk_of(handle)), (unsigned long long)offset, reason(error));
    nbdkit_set_error(client_errno(error));
    return -1;
}

static int nbd_pread(void *handle, void *buf, uint32_t count, uint64_t offset, uint32_t flags)
{
    (void)flags;
    return answer("reading", handle, door_disk_read(disk_of(handle), buf, count, offset), offset);
}

static int nbd_pwrite(void *handle, const void *buf, uint32_t count, uint64_t offset, uint32_t flags)
{
    return answer("writing", handle, door_disk_write(disk_of(handle), buf, count, offset, flags & NBDKIT_FLAG_FUA), offset);
}

static int nbd_flush(void *handle, uint32_t flags)
{
    (void)flags;
    return answer("flushing", handle, door_disk_flush(disk_of(handle)), 0);
}

static int nbd_trim(void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
    return answer("trimming", handle, door_disk_trim(disk_of(handle), count, offset, flags & NBDKIT_FLAG_FUA), offset);
}

static int nbd_zero(void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
    return answer("zeroing", handle, door_disk_zero(disk_of(handle), count, offset, flags & NBDKIT_FLAG_FUA), offset);
}

/* ---- Block status ---- */

struct status {
    struct nbdkit_extents *extents;
    bool one;
};

static int add_extent(void *ctx, uint64_t offset, uint64_t length, bool data)
{
    struct status *s = ctx;
    if (nbdkit_add_extent(s->extents, offset, length, data ? 0 : NBDKIT_EXTENT_HOLE | NBDKIT_EXTENT_ZERO))
        return -errno;
    return s->one;
}

static int nbd_extents(void *handle, uint32_t count, uint64_t offset, uint32_t flags, struct nbdkit_extents *extents)
{
    struct error err = ERROR_NONE;
    struct status s = { extents, flags & NBDKIT_FLAG_REQ_ONE };
    int told = door_disk_map(disk_of(handle), offset, count, add_extent, &s, &err);
    if (told >= 0)
        return 0;
    nbdkit_error("%s", *err.text ? err.text : strerror(-told));
    nbdkit_set_error(client_errno(told));
    return -1;
}

/* ---- What an export can do ---- */

static int64_t nbd_get_size(void *handle) { return (int64_t)door_disk_size(disk_of(handle)); }
static int nbd_can_write(void *handle) { return !door_disk_read_only(disk_of(handle)); }
static int yes(void *handle) { return handle != NULL; }
static int no(void *handle) { return handle == NULL; }

static int nbd_can_fua(void *handle)
{
    (void)handle;
    return NBDKIT_FUA_NATIVE;
}

/* By reading: what was read is in the storage domain's cache. */
static int nbd_can_cache(void *handle)
{
    (void)handle;
    return NBDKIT_CACHE_EMULATE;
}

static int nbd_block_size(void *handle, uint32_t *minimum, uint32_t *preferred, uint32_t *maximum)
{
    (void)handle;
    *minimum = 1;
    *preferred = PREFERRED_BLOCK;
    *maximum = MAXIMUM_BLOCK;
    return 0;
}

void nbd_io_fill(struct nbdkit_plugin *p)
{
    p->get_size = nbd_get_size;
    p->can_write = nbd_can_write;
    p->can_flush = yes;
    p->is_rotational = no;
    p->can_trim = yes;
    p->can_zero = yes;
    p->can_fast_zero = yes;
    p->can_fua = nbd_can_fua;
    p->can_multi_conn = yes;
    p->can_extents = yes;
    p->can_cache = nbd_can_cache;
    p->block_size = nbd_block_size;
    p->pread = nbd_pread;
    p->pwrite = nbd_pwrite;
    p->flush = nbd_flush;
    p->trim = nbd_trim;
    p->zero = nbd_zero;
    p->extents = nbd_extents;
}
