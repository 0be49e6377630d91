/* catalog_witness.c - see catalog_witness.h.
 *
 * Two slots, in blocks of their own, written in turn: a slot that tears leaves the other, which is one behind.
 *   0 magic (8)   8 count (8)   16 CRC-32C of the 16 bytes before (4) */
#include "parallax/store/catalog_witness.h"

#include "base/crc32c.h"
#include "base/endian.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <unistd.h>

#define FILE_NAME "witness"
#define SLOT_STEP 4096
#define SLOT_BYTES 20u
static const char magic[8] = "PlxWitn1";

static int write_slot(int fd, uint64_t count)
{
    unsigned char slot[SLOT_BYTES];
    memcpy(slot, magic, sizeof magic);
    put_le64(slot + 8, count);
    put_le32(slot + 16, crc32c(0, slot, 16));
    ssize_t n = pwrite(fd, slot, sizeof slot, (off_t)(count % 2) * SLOT_STEP);
    return n == (ssize_t)sizeof slot ? 0 : n < 0 ? -errno : -EIO;
}

static bool read_slot(int fd, unsigned index, uint64_t *count)
{
    unsigned char slot[SLOT_BYTES];
    if (pread(fd, slot, sizeof slot, (off_t)index * SLOT_STEP) != (ssize_t)sizeof slot)
        return false;
    *count = get_le64(slot + 8);
    return memcmp(slot, magic, sizeof magic) == 0 && get_le32(slot + 16) == crc32c(0, slot, 16);
}

int catalog_witness_create(int directory_fd, struct catalog_witness *w)
{
    static const unsigned char zeroes[2 * SLOT_STEP];
    w->fd = openat(directory_fd, FILE_NAME, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_DSYNC | O_NOFOLLOW, 0600);
    if (w->fd < 0)
        return -errno;
    ssize_t n = pwrite(w->fd, zeroes, sizeof zeroes, 0);
    int rc = n == (ssize_t)sizeof zeroes ? write_slot(w->fd, 0) : n < 0 ? -errno : -EIO;
    if (!rc && fsync(directory_fd) < 0)
        rc = -errno;
    if (rc)
        catalog_witness_close(w);
    return rc;
}

int catalog_witness_open(int directory_fd, struct catalog_witness *w, uint64_t *count)
{
    w->fd = openat(directory_fd, FILE_NAME, O_RDWR | O_CLOEXEC | O_DSYNC | O_NOFOLLOW);
    int missing = w->fd < 0 ? -errno : 0;
    if (missing && missing != -ENOENT)
        return missing;
    uint64_t slot[2];
    bool whole[2] = { !missing && read_slot(w->fd, 0, &slot[0]), !missing && read_slot(w->fd, 1, &slot[1]) };
    if (!whole[0] && !whole[1]) {
        catalog_witness_close(w);
        int rc = catalog_witness_create(directory_fd, w);
        return rc ? rc : missing ? missing : -EBADMSG;
    }
    *count = whole[0] && (!whole[1] || slot[0] > slot[1]) ? slot[0] : slot[1];
    return 0;
}

int catalog_witness_record(struct catalog_witness *w, uint64_t count) { return write_slot(w->fd, count); }

void catalog_witness_close(struct catalog_witness *w)
{
    if (w->fd >= 0)
        close(w->fd);
    w->fd = -1;
}
