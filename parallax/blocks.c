/* blocks.c - data blocks read and verified in number, for walks: all of a window at once, so that the device is kept at work and
 * the reader sleeps once a window, not once a block. If the device reports an error for a window, each block is read alone. */
#include "parallax/parallax_private.h"

#include <errno.h>
#include <string.h>

#define WINDOW 256u

static int verify(struct store *s, const struct radix_entry *e, const uint8_t *block)
{
    return radix_checksum(s->super.seed, block) == e->crc ? 0 : -EBADMSG;
}

static bool lies_inside(struct store *s, const struct radix_entry *e) { return e->address < bdev_blocks(s->blocks); }

/* What a second attempt reads is not damaged. */
static int read_alone(struct store *s, const struct radix_entry *e, uint8_t *block)
{
    int err = lies_inside(s, e) ? bdev_read(s->blocks, e->address, block, 1) : -EBADMSG;
    return err ? err : verify(s, e, block);
}

static bool are_neighbours(const struct radix_entry *entries, uint32_t n)
{
    for (uint32_t i = 1; i < n; i++)
        if (entries[i].kind != RADIX_DATA || entries[i].address != entries[i - 1].address + 1)
            return false;
    return entries[0].kind == RADIX_DATA;
}

static int read_window(struct store *s, const struct radix_entry *entries, uint32_t n, uint8_t *buffer)
{
    uint64_t addresses[WINDOW];
    void *buffers[WINDOW];
    uint32_t count = 0;
    if (are_neighbours(entries, n))
        return bdev_read(s->blocks, entries[0].address, buffer, n);
    for (uint32_t i = 0; i < n; i++) {
        uint8_t *at = buffer + (size_t)i * BDEV_BLOCK_SIZE;
        if (entries[i].kind != RADIX_DATA)
            memset(at, 0, BDEV_BLOCK_SIZE);
        else if (lies_inside(s, &entries[i])) {
            addresses[count] = entries[i].address;
            buffers[count++] = at;
        }
    }
    return count ? bdev_read_many(s->blocks, addresses, buffers, count) : 0;
}

uint32_t blocks_read(struct store *s, const struct radix_entry *entries, uint32_t n, uint8_t *buffer, int *errors)
{
    uint32_t bad = 0;
    for (uint32_t first = 0; first < n; first += WINDOW) {
        uint32_t end = n - first < WINDOW ? n : first + WINDOW;
        int err = read_window(s, entries + first, end - first, buffer + (size_t)first * BDEV_BLOCK_SIZE);
        for (uint32_t i = first; i < end; i++) {
            uint8_t *block = buffer + (size_t)i * BDEV_BLOCK_SIZE;
            errors[i] = entries[i].kind == RADIX_LOST ? -EBADMSG : 0;
            if (entries[i].kind == RADIX_DATA && (err || !lies_inside(s, &entries[i]) || verify(s, &entries[i], block)))
                errors[i] = read_alone(s, &entries[i], block);
            bad += errors[i] != 0;
        }
    }
    return bad;
}
