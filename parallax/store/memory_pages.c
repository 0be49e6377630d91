/* memory_pages.c - see memory_private.h. */
#include "parallax/store/memory_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define GARBAGE 0xdb

static unsigned char hole; /* its address stands for a page that is not there */

uint64_t memory_random(uint64_t *s)
{
    *s ^= *s >> 12;
    *s ^= *s << 25;
    *s ^= *s >> 27;
    return *s * 0x2545f4914f6cdd1du;
}

void memory_pages_fini(struct memory_pages *p)
{
    for (uint64_t i = 0; i < p->count; i++)
        memory_pages_fill(p, i);
    free(p->page);
    *p = (struct memory_pages){ NULL, 0 };
}

int memory_pages_resize(struct memory_pages *p, uint64_t count)
{
    if (count <= p->count)
        return 0;
    if (count > SIZE_MAX / sizeof *p->page)
        return -ENOSPC;
    unsigned char **page = realloc(p->page, count * sizeof *page);
    if (!page)
        return -ENOSPC;
    memset(page + p->count, 0, (count - p->count) * sizeof *page);
    p->page = page;
    p->count = count;
    return 0;
}

int memory_pages_copy(const struct memory_pages *from, struct memory_pages *to)
{
    *to = (struct memory_pages){ NULL, 0 };
    int err = memory_pages_resize(to, from->count);
    for (uint64_t i = 0; !err && i < from->count; i++)
        if (memory_pages_is_hole(from, i))
            memory_pages_punch(to, i);
        else if (from->page[i])
            err = memory_pages_write(to, i, from->page[i], ~0u);
    if (err)
        memory_pages_fini(to);
    return err;
}

void memory_pages_read(const struct memory_pages *p, uint64_t block, void *data)
{
    if (memory_pages_is_hole(p, block))
        memset(data, GARBAGE, BDEV_BLOCK_SIZE);
    else if (p->page[block])
        memcpy(data, p->page[block], BDEV_BLOCK_SIZE);
    else
        memset(data, 0, BDEV_BLOCK_SIZE);
}

int memory_pages_write(struct memory_pages *p, uint64_t block, const void *data, unsigned sector_mask)
{
    if (memory_pages_is_hole(p, block))
        return -ENOSPC;
    if (!p->page[block])
        p->page[block] = calloc(1, BDEV_BLOCK_SIZE);
    if (!p->page[block])
        return -ENOMEM;
    for (unsigned s = 0; s < MEMORY_SECTORS; s++)
        if (sector_mask & 1u << s)
            memcpy(p->page[block] + s * MEMORY_SECTOR, (const unsigned char *)data + s * MEMORY_SECTOR, MEMORY_SECTOR);
    return 0;
}

bool memory_pages_is_hole(const struct memory_pages *p, uint64_t block) { return p->page[block] == &hole; }

void memory_pages_fill(struct memory_pages *p, uint64_t block)
{
    if (!memory_pages_is_hole(p, block))
        free(p->page[block]);
    p->page[block] = NULL;
}

void memory_pages_punch(struct memory_pages *p, uint64_t block)
{
    memory_pages_fill(p, block);
    p->page[block] = &hole;
}
