/* ops_nbd.c - an export of an NBD server as a disk, through libnbd. */
#include "tests/support/ops_disk.h"

#include <errno.h>
#include <libnbd.h>
#include <stdio.h>
#include <string.h>

#define BLOCK 4096u /* what a trim of our server clears whole */

static int answer(int result)
{
    if (result >= 0)
        return 0;
    fprintf(stderr, "file_ops: %s\n", nbd_get_error());
    return nbd_get_errno() ? -nbd_get_errno() : -EIO;
}

static int ops_nbd_open(struct ops_disk *d)
{
    d->nbd = nbd_create();
    if (!d->nbd || nbd_add_meta_context(d->nbd, LIBNBD_CONTEXT_BASE_ALLOCATION) < 0 || nbd_connect_uri(d->nbd, d->name) < 0)
        return answer(-1);
    int64_t size = nbd_get_size(d->nbd);
    d->size_bytes = size > 0 ? (uint64_t)size : 0;
    d->punch_grain = BLOCK;
    return answer(size > 0 ? 0 : -1);
}

static void ops_nbd_close(struct ops_disk *d)
{
    nbd_shutdown(d->nbd, 0);
    nbd_close(d->nbd);
}

static uint32_t fua(uint64_t dice) { return dice % 16 ? 0 : LIBNBD_CMD_FLAG_FUA; }

static int ops_nbd_read(struct ops_disk *d, uint8_t *buffer, uint64_t offset, uint64_t length)
{
    return answer(nbd_pread(d->nbd, buffer, length, offset, 0));
}

static int ops_nbd_write(struct ops_disk *d, const uint8_t *data, uint64_t offset, uint64_t length, uint64_t dice)
{
    return answer(nbd_pwrite(d->nbd, data, length, offset, fua(dice)));
}

static int ops_nbd_trim(struct ops_disk *d, uint64_t offset, uint64_t length, uint64_t dice)
{
    return answer(nbd_trim(d->nbd, length, offset, fua(dice)));
}

static int ops_nbd_zero(struct ops_disk *d, uint64_t offset, uint64_t length, uint64_t dice)
{
    static const uint32_t ways[] = { 0, LIBNBD_CMD_FLAG_FAST_ZERO, LIBNBD_CMD_FLAG_NO_HOLE };
    return answer(nbd_zero(d->nbd, length, offset, fua(dice) | ways[dice / 16 % 3]));
}

static int ops_nbd_flush(struct ops_disk *d) { return answer(nbd_flush(d->nbd, 0)); }

struct search {
    uint64_t at, begin, end;
    bool found, ended;
};

static int look(void *ctx, const char *context, uint64_t offset, uint32_t *entries, size_t count, int *error)
{
    struct search *s = ctx;
    (void)error;
    if (strcmp(context, LIBNBD_CONTEXT_BASE_ALLOCATION) || offset != s->at)
        return 0;
    for (size_t i = 0; i + 1 < count; i += 2) {
        bool hole = entries[i + 1] & LIBNBD_STATE_ZERO;
        if (hole && !s->found)
            s->begin = s->at;
        if (!s->ended && (hole || s->found)) {
            s->ended = !hole;
            s->end = hole ? s->at + entries[i] : s->end;
        }
        s->found |= hole;
        s->at += entries[i];
    }
    return 0;
}

static int ops_nbd_hole(struct ops_disk *d, uint64_t offset, uint64_t *begin, uint64_t *end)
{
    struct search s = { .at = offset, .begin = d->size_bytes, .end = d->size_bytes };
    while (!s.ended && s.at < d->size_bytes) {
        uint64_t before = s.at;
        int bad = answer(nbd_block_status(d->nbd, d->size_bytes - s.at, s.at, (nbd_extent_callback){ .callback = look, .user_data = &s }, 0));
        if (bad || s.at == before)
            return bad ? bad : -EPROTO;
    }
    *begin = s.begin;
    *end = s.end;
    return 0;
}

const struct ops_disk_ops ops_nbd = { .open = ops_nbd_open, .close = ops_nbd_close, .read = ops_nbd_read, .write = ops_nbd_write,
                                      .punch = ops_nbd_trim, .zero = ops_nbd_zero, .flush = ops_nbd_flush, .hole = ops_nbd_hole };
