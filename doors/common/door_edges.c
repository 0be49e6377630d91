/* door_edges.c - reads, writes, zeroes and trims of any bytes, made of requests of whole sectors and blocks.
 *
 * A write of part of a sector reads it, changes it and writes it back; no other write runs meanwhile, because it could be of
 * the same sector. Whole sectors need no such care: the storage domain orders parts of blocks itself. */
#include "doors/common/door_private.h"

#include <errno.h>
#include <string.h>

#define SECTOR 512u
#define BLOCK 4096u
#define PIECE 65536u

static bool inside(const struct door_disk *k, uint64_t length, uint64_t offset)
{
    uint64_t size = atomic_load(&k->size_bytes);
    return offset <= size && length <= size - offset;
}

static bool sectors_only(uint64_t length, uint64_t offset) { return offset % SECTOR == 0 && length % SECTOR == 0; }

static uint64_t down(uint64_t n, uint64_t unit) { return n - n % unit; }
static uint64_t up(uint64_t n, uint64_t unit) { return down(n + unit - 1, unit); }
static uint64_t least(uint64_t a, uint64_t b) { return a < b ? a : b; }

/* ---- Reading ---- */

static int read_any(struct door_disk *k, uint8_t *buffer, uint64_t length, uint64_t offset)
{
    uint8_t piece[PIECE];
    while (length) {
        uint64_t begin = down(offset, SECTOR), end = least(up(offset + length, SECTOR), begin + PIECE);
        uint64_t n = least(length, end - offset);
        int bad = door_transfer(k, BLKFRONT_READ, piece, end - begin, begin);
        if (bad)
            return bad;
        memcpy(buffer, piece + (offset - begin), n);
        buffer += n;
        offset += n;
        length -= n;
    }
    return 0;
}

int door_disk_read(struct door_disk *k, void *buffer, size_t length, uint64_t offset)
{
    if (!inside(k, length, offset))
        return -EINVAL;
    return sectors_only(length, offset) ? door_transfer(k, BLKFRONT_READ, buffer, length, offset) : read_any(k, buffer, length, offset);
}

/* ---- Writing ---- */

/* data NULL: zeroes. Nothing else writes. */
static int write_any(struct door_disk *k, const uint8_t *data, uint64_t length, uint64_t offset)
{
    uint8_t piece[PIECE];
    while (length) {
        uint64_t begin = down(offset, SECTOR), end = least(up(offset + length, SECTOR), begin + PIECE);
        uint64_t n = least(length, end - offset);
        int bad = 0;
        if (offset != begin)
            bad = door_transfer(k, BLKFRONT_READ, piece, SECTOR, begin);
        if (!bad && (offset + n) % SECTOR && (offset == begin || end - begin > SECTOR))
            bad = door_transfer(k, BLKFRONT_READ, piece + (end - SECTOR - begin), SECTOR, end - SECTOR);
        if (bad)
            return bad;
        if (data)
            memcpy(piece + (offset - begin), data, n);
        else
            memset(piece + (offset - begin), 0, n);
        if ((bad = door_transfer(k, BLKFRONT_WRITE, piece, end - begin, begin)))
            return bad;
        data = data ? data + n : NULL;
        offset += n;
        length -= n;
    }
    return 0;
}

static int refuse_change(const struct door_disk *k, uint64_t length, uint64_t offset)
{
    return k->read_only ? -EROFS : inside(k, length, offset) ? 0 : -EINVAL;
}

static int settle(struct door_disk *k, int bad, bool fua) { return bad || !fua ? bad : door_disk_flush(k); }

int door_disk_write(struct door_disk *k, const void *buffer, size_t length, uint64_t offset, bool fua)
{
    int bad = refuse_change(k, length, offset);
    if (bad)
        return bad;
    if (sectors_only(length, offset)) {
        pthread_rwlock_rdlock(&k->edges);
        bad = door_transfer(k, BLKFRONT_WRITE, (void *)(uintptr_t)buffer, length, offset);
    } else {
        pthread_rwlock_wrlock(&k->edges);
        bad = write_any(k, buffer, length, offset);
    }
    pthread_rwlock_unlock(&k->edges);
    return settle(k, bad, fua);
}

int door_disk_flush(struct door_disk *k) { return k->read_only ? 0 : door_transfer(k, BLKFRONT_FLUSH, NULL, 0, 0); }

/* The blocks wholly inside the range; the last of the disk may be short. */
static int discard_inside(struct door_disk *k, uint64_t begin, uint64_t end)
{
    return begin < end ? door_transfer(k, BLKFRONT_DISCARD, NULL, end - begin, begin) : 0;
}

static uint64_t whole_end(const struct door_disk *k, uint64_t end) { return end == atomic_load(&k->size_bytes) ? end : down(end, BLOCK); }

int door_disk_zero(struct door_disk *k, uint64_t length, uint64_t offset, bool fua)
{
    int bad = refuse_change(k, length, offset);
    if (bad)
        return bad;
    uint64_t end = offset + length, first = least(up(offset, BLOCK), end), last = whole_end(k, end);
    if (last < first)
        last = first;
    bool whole = sectors_only(first - offset, offset) && sectors_only(end - last, last);
    if (whole)
        pthread_rwlock_rdlock(&k->edges);
    else
        pthread_rwlock_wrlock(&k->edges);
    bad = write_any(k, NULL, first - offset, offset);
    if (!bad)
        bad = discard_inside(k, first, last);
    if (!bad)
        bad = write_any(k, NULL, end - last, last);
    pthread_rwlock_unlock(&k->edges);
    return settle(k, bad, fua);
}

int door_disk_trim(struct door_disk *k, uint64_t length, uint64_t offset, bool fua)
{
    int bad = refuse_change(k, length, offset);
    if (bad)
        return bad;
    pthread_rwlock_rdlock(&k->edges);
    bad = discard_inside(k, up(offset, BLOCK), whole_end(k, offset + length));
    pthread_rwlock_unlock(&k->edges);
    return settle(k, bad, fua);
}
