/* catalog_witness.c - see catalog_witness.h.
 *
 * Two slots, in blocks of their own, written in turn: a slot that tears leaves the other, which is one behind.
 *   0 magic (8)   8 sequence (8)   16 count (8)   24 log file (4)   28 log offset (4)   32 CRC-32C of that log record (4)
 *   36 CRC-32C of the 36 bytes before (4) */
#include "parallax/store/catalog_witness.h"

#include "base/crc32c.h"
#include "base/endian.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <unistd.h>

#define FILE_NAME "witness"
#define SLOT_STEP 4096
#define SLOT_BYTES 40u
static const char magic[8] = "PlxWitn2";

static bool read_slot(int fd, unsigned index, uint64_t *sequence, struct catalog_testimony *t)
{
    unsigned char slot[SLOT_BYTES];
    if (pread(fd, slot, sizeof slot, (off_t)index * SLOT_STEP) != (ssize_t)sizeof slot)
        return false;
    *sequence = get_le64(slot + 8);
    *t = (struct catalog_testimony){ .count = get_le64(slot + 16), .log_file = get_le32(slot + 24), .log_offset = get_le32(slot + 28),
                                     .record_crc = get_le32(slot + 32) };
    return memcmp(slot, magic, sizeof magic) == 0 && get_le32(slot + 36) == crc32c(0, slot, 36);
}

int catalog_witness_create(int directory_fd, struct catalog_witness *w)
{
    static const unsigned char zeroes[2 * SLOT_STEP];
    w->sequence = 0;
    w->fd = openat(directory_fd, FILE_NAME, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_DSYNC | O_NOFOLLOW, 0600);
    if (w->fd < 0)
        return -errno;
    ssize_t n = pwrite(w->fd, zeroes, sizeof zeroes, 0);
    int rc = n == (ssize_t)sizeof zeroes ? 0 : n < 0 ? -errno : -EIO;
    if (!rc && fsync(directory_fd) < 0)
        rc = -errno;
    if (rc)
        catalog_witness_close(w);
    return rc;
}

int catalog_witness_open(int directory_fd, struct catalog_witness *w, struct catalog_testimony *t)
{
    w->fd = openat(directory_fd, FILE_NAME, O_RDWR | O_CLOEXEC | O_DSYNC | O_NOFOLLOW);
    int missing = w->fd < 0 ? -errno : 0;
    if (missing && missing != -ENOENT)
        return missing;
    uint64_t sequence[2];
    struct catalog_testimony slot[2];
    bool whole[2] = { !missing && read_slot(w->fd, 0, &sequence[0], &slot[0]), !missing && read_slot(w->fd, 1, &sequence[1], &slot[1]) };
    if (!whole[0] && !whole[1]) {
        catalog_witness_close(w);
        int rc = catalog_witness_create(directory_fd, w);
        return rc ? rc : missing ? missing : -EBADMSG;
    }
    unsigned newest = whole[0] && (!whole[1] || sequence[0] > sequence[1]) ? 0 : 1;
    *t = slot[newest];
    w->sequence = sequence[newest];
    return 0;
}

int catalog_witness_record(struct catalog_witness *w, const struct catalog_testimony *t)
{
    unsigned char slot[SLOT_BYTES];
    uint64_t sequence = w->sequence + 1;
    memcpy(slot, magic, sizeof magic);
    put_le64(slot + 8, sequence);
    put_le64(slot + 16, t->count);
    put_le32(slot + 24, t->log_file);
    put_le32(slot + 28, t->log_offset);
    put_le32(slot + 32, t->record_crc);
    put_le32(slot + 36, crc32c(0, slot, 36));
    ssize_t n = pwrite(w->fd, slot, sizeof slot, (off_t)(sequence % 2) * SLOT_STEP);
    if (n != (ssize_t)sizeof slot)
        return n < 0 ? -errno : -EIO;
    w->sequence = sequence;
    return 0;
}

void catalog_witness_close(struct catalog_witness *w)
{
    if (w->fd >= 0)
        close(w->fd);
    w->fd = -1;
}
