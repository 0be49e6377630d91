/* runs.c - see runs.h. */
#include "tools/common/runs.h"

#include <errno.h>
#include <stdlib.h>

int runs_init(struct runs *r)
{
    *r = (struct runs){ .list = calloc(RUNS_MAX, sizeof *r->list) };
    return r->list ? 0 : -ENOMEM;
}

void runs_fini(struct runs *r)
{
    free(r->list);
    r->list = NULL;
}

static int joins(const struct runs *r, uint64_t offset)
{
    if (r->count == 0)
        return 0;
    const struct run *last = &r->list[r->count - 1];
    return offset - (last->offset + last->length) <= r->gap;
}

static void append(struct runs *r, uint64_t offset, uint64_t length)
{
    if (joins(r, offset))
        r->list[r->count - 1].length = offset + length - r->list[r->count - 1].offset;
    else
        r->list[r->count++] = (struct run){ offset, length };
}

void runs_add(struct runs *r, uint64_t offset, uint64_t length)
{
    while (r->count == RUNS_MAX && !joins(r, offset)) {
        r->gap = r->gap ? 2 * r->gap : 4096;
        unsigned count = r->count;
        r->count = 0;
        for (unsigned i = 0; i < count; i++)
            append(r, r->list[i].offset, r->list[i].length);
    }
    append(r, offset, length);
}
