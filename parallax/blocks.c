/* blocks.c - data blocks read and verified in number, for walks: neighbours on the device in one read. */
#include "parallax/parallax_private.h"

#include <errno.h>
#include <string.h>

static int verify(struct store *s, const struct radix_entry *e, const uint8_t *block)
{
    return radix_checksum(s->super.seed, block) == e->crc ? 0 : -EBADMSG;
}

/* What a second attempt reads is not damaged. */
static int read_alone(struct store *s, const struct radix_entry *e, uint8_t *block)
{
    if (e->address >= bdev_blocks(s->blocks))
        return -EBADMSG;
    int err = bdev_read(s->blocks, e->address, block, 1);
    return err ? err : verify(s, e, block);
}

uint32_t blocks_read(struct store *s, const struct radix_entry *entries, uint32_t n, uint8_t *buffer, int *errors)
{
    uint32_t bad = 0;
    for (uint32_t i = 0, k; i < n; i = k) {
        uint8_t *at = buffer + (size_t)i * BDEV_BLOCK_SIZE;
        for (k = i + 1; k < n && entries[i].kind == RADIX_DATA && entries[k].kind == RADIX_DATA && entries[k].address == entries[k - 1].address + 1;)
            k++;
        if (entries[i].kind != RADIX_DATA) {
            memset(at, 0, BDEV_BLOCK_SIZE);
            errors[i] = 0;
            continue;
        }
        int err = entries[k - 1].address < bdev_blocks(s->blocks) ? bdev_read(s->blocks, entries[i].address, at, k - i) : -EBADMSG;
        for (uint32_t b = i; b < k; b++) {
            uint8_t *block = buffer + (size_t)b * BDEV_BLOCK_SIZE;
            errors[b] = err ? err : verify(s, &entries[b], block);
            if (errors[b])
                errors[b] = read_alone(s, &entries[b], block);
            bad += errors[b] != 0;
        }
    }
    return bad;
}
