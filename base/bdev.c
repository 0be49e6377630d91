/* bdev.c - see bdev.h. */
#include "base/bdev.h"

#include <stdlib.h>
#include <string.h>

void *bdev_buffer_alloc(size_t blocks)
{
    void *p = NULL;
    if (posix_memalign(&p, BDEV_BLOCK_SIZE, blocks * BDEV_BLOCK_SIZE))
        return NULL;
    memset(p, 0, blocks * BDEV_BLOCK_SIZE);
    return p;
}
