/* radix_disk.c - encode, decode and check of entries and nodes; nothing else touches their bytes. See radix_disk.h. */
#include "radix/radix_disk.h"

#include "base/crc32c.h"

#include <errno.h>
#include <string.h>

unsigned radix_height_for(uint64_t blocks)
{
    unsigned height = 0;
    while (height < RADIX_MAX_HEIGHT && radix_capacity(height) < blocks)
        height++;
    return height;
}

uint32_t radix_checksum(uint32_t seed, const void *block) { return crc32c(seed, block, BDEV_BLOCK_SIZE); }

uint32_t radix_node_checksum(uint32_t seed, const struct radix_disk_node *n, unsigned level, uint64_t birth, uint64_t address)
{
    unsigned char identity[17];
    identity[0] = (unsigned char)level;
    put_le64(identity + 1, birth);
    put_le64(identity + 9, address);
    return crc32c(radix_checksum(seed, n), identity, sizeof identity);
}

void radix_entry_encode(const struct radix_entry *e, void *bytes16)
{
    if (e->kind == RADIX_NONE) {
        memset(bytes16, 0, RADIX_ENTRY_BYTES);
        return;
    }
    put_le64(bytes16, e->address | (uint64_t)e->kind << 48 | e->birth << 56);
    put_le64((char *)bytes16 + 8, e->birth >> 8 | (uint64_t)e->crc << 32);
}

static bool all_zero(const void *bytes16) { return (get_le64(bytes16) | get_le64((const char *)bytes16 + 8)) == 0; }

int radix_entry_decode(const void *bytes16, struct radix_entry *out)
{
    const struct radix_disk_entry *d = bytes16;
    if (d->kind > RADIX_LOST || (d->kind == RADIX_NONE && !all_zero(d)))
        return -EBADMSG;
    struct radix_entry e;
    radix_entry_unpack(d, &e);
    if ((e.kind != RADIX_NONE && e.address == 0) || (e.kind == RADIX_LOST && e.crc))
        return -EBADMSG;
    *out = e;
    return 0;
}

int radix_node_entry_check(const struct radix_entry *e, unsigned level, uint64_t device_blocks)
{
    bool legal = level >= 1 && level <= RADIX_MAX_HEIGHT && e->kind == RADIX_NODE && e->address != 0
                 && e->address < RADIX_ADDRESS_LIMIT && e->address < device_blocks && e->birth < RADIX_BIRTH_LIMIT;
    return legal ? 0 : -EBADMSG;
}

int radix_node_check(const struct radix_disk_node *n, uint32_t seed, const struct radix_entry *e, unsigned level, uint64_t device_blocks)
{
    if (radix_node_checksum(seed, n, level, e->birth, e->address) != e->crc)
        return -EBADMSG;
    enum radix_kind legal = level == 1 ? RADIX_DATA : RADIX_NODE;
    for (unsigned i = 0; i < RADIX_FANOUT; i++) {
        struct radix_entry x;
        if (radix_entry_decode(&n->entry[i], &x))
            return -EBADMSG;
        if (x.kind != RADIX_NONE && ((x.kind != legal && x.kind != RADIX_LOST) || x.address >= device_blocks || x.birth > e->birth))
            return -EBADMSG;
    }
    return 0;
}

int radix_root_check(const struct radix_root *root, uint64_t device_blocks)
{
    if (root->node.kind == RADIX_NONE)
        return root->height <= RADIX_MAX_HEIGHT ? 0 : -EBADMSG;
    return radix_node_entry_check(&root->node, root->height, device_blocks);
}
