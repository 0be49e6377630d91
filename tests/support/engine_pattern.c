/* engine_pattern.c - see engine_pattern.h.
 *
 * The first eight bytes hold id and sector number as they are; the rest is derived from them, so that any damaged byte shows. */
#include "tests/support/engine_pattern.h"

#include <string.h>

#define WORDS 64u

static void fill_sector(uint64_t *words, uint64_t head)
{
    for (unsigned i = 0; i < WORDS; i++)
        words[i] = head + i * (head | 1) * 0x9e3779b97f4a7c15u;
}

static uint64_t head_of(uint32_t id, uint64_t sector) { return (uint64_t)id | sector << 32; }

void pattern_fill(void *buf, uint32_t id, uint64_t first_sector, uint64_t sectors)
{
    uint64_t *words = buf;
    if (id == 0)
        memset(buf, 0, sectors * 512);
    else
        for (uint64_t s = 0; s < sectors; s++)
            fill_sector(words + s * WORDS, head_of(id, first_sector + s));
}

uint32_t pattern_id(const void *buf, uint64_t sector)
{
    const uint64_t *words = buf;
    uint64_t wanted[WORDS];
    uint32_t id = (uint32_t)words[0];
    if (id == 0)
        memset(wanted, 0, sizeof wanted);
    else
        fill_sector(wanted, head_of(id, sector));
    return memcmp(words, wanted, sizeof wanted) == 0 ? id : PATTERN_BAD;
}
