/* dead.c - see dead.h. */
#include "parallax/dead.h"

#include "base/crc32c.h"
#include "base/endian.h"

#include <errno.h>
#include <stdlib.h>

void dead_runs_fini(struct dead_runs *d)
{
    for (uint32_t i = 0; i < d->count; i++)
        free(d->runs[i].crcs);
    free(d->runs);
    *d = (struct dead_runs){ 0 };
}

int dead_runs_add(struct dead_runs *d, const struct dead_run *run)
{
    if (d->count == d->capacity) {
        uint32_t capacity = d->capacity ? d->capacity * 2 : 4;
        struct dead_run *grown = realloc(d->runs, capacity * sizeof *grown);
        if (!grown)
            return -ENOMEM;
        d->runs = grown;
        d->capacity = capacity;
    }
    d->runs[d->count] = *run;
    d->runs[d->count].number = d->next_number++;
    d->runs[d->count++].dirty = true;
    return 0;
}

static int by_birth(const void *a, const void *b)
{
    const struct dead_entry *x = a, *y = b;
    return x->block.birth < y->block.birth ? -1 : x->block.birth > y->block.birth;
}

int dead_gather_write(struct dead_gather *g, struct bdev *device, uint32_t seed, uint64_t address, uint32_t blocks, struct dead_run *out)
{
    uint32_t n = g->count < blocks * DEAD_PER_BLOCK ? g->count : blocks * DEAD_PER_BLOCK;
    blocks = (n + DEAD_PER_BLOCK - 1) / DEAD_PER_BLOCK;
    uint8_t *bytes = bdev_buffer_alloc(blocks);
    uint32_t *crcs = malloc(blocks * sizeof *crcs);
    int err = bytes && crcs ? 0 : -ENOMEM;
    if (!err) {
        qsort(g->entries, n, sizeof *g->entries, by_birth);
        for (uint32_t i = 0; i < n; i++)
            dead_entry_encode(&g->entries[i], bytes + 16 * (size_t)i);
        for (uint32_t b = 0; b < blocks; b++)
            crcs[b] = crc32c(seed, bytes + (size_t)b * BDEV_BLOCK_SIZE, BDEV_BLOCK_SIZE);
        err = bdev_write(device, address, bytes, blocks);
    }
    free(bytes);
    if (err) {
        free(crcs);
        return err;
    }
    *out = (struct dead_run){ .address = address, .count = n, .max_birth = g->entries[n - 1].block.birth, .crcs = crcs };
    g->count -= n;
    memmove(g->entries, g->entries + n, g->count * sizeof *g->entries);
    return 0;
}

int dead_run_read(const struct dead_run *r, struct bdev *device, uint32_t seed, uint32_t block, struct dead_entry *entries, uint32_t *count, uint8_t *buffer)
{
    int err = bdev_read(device, r->address + block, buffer, 1);
    if (err)
        return err;
    if (crc32c(seed, buffer, BDEV_BLOCK_SIZE) != r->crcs[block])
        return -EBADMSG;
    uint32_t n = r->count - block * DEAD_PER_BLOCK;
    if (n > DEAD_PER_BLOCK)
        n = DEAD_PER_BLOCK;
    for (uint32_t i = 0; i < n; i++)
        if ((err = dead_entry_decode(buffer + 16 * (size_t)i, &entries[i])))
            return err;
    *count = n;
    return 0;
}

uint32_t dead_run_encode(const struct dead_run *r, uint8_t *v)
{
    uint32_t blocks = dead_run_blocks(r);
    put_le64(v, r->address);
    put_le32(v + 8, r->count);
    put_le64(v + 12, r->max_birth);
    for (uint32_t b = 0; b < blocks; b++)
        put_le32(v + 20 + 4 * b, r->crcs[b]);
    return 20 + 4 * blocks;
}

int dead_run_decode(const uint8_t *v, size_t length, uint64_t number, struct dead_run *r)
{
    if (length < 24)
        return -EBADMSG;
    *r = (struct dead_run){ .number = number, .address = get_le64(v), .count = get_le32(v + 8), .max_birth = get_le64(v + 12) };
    if (!r->count || r->count > DEAD_RUN_ENTRIES || length != 20 + 4 * (size_t)dead_run_blocks(r))
        return -EBADMSG;
    r->crcs = malloc(length - 20);
    if (!r->crcs)
        return -ENOMEM;
    for (uint32_t b = 0; b < dead_run_blocks(r); b++)
        r->crcs[b] = get_le32(v + 20 + 4 * b);
    return 0;
}
