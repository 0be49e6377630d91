/* state.c - the catalog's state record: encode and decode (docs/disk-format.md, key S). */
#include "base/endian.h"
#include "parallax/parallax_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define STATE_HEAD 72u
#define STATE_FORMAT 1u
#define STATE_FORMAT_LOST 2u /* the same, of a store whose maps may have lost entries */
#define SEALED_HEAD 32u

uint8_t *state_encode(const struct stored_state *st, uint32_t *length)
{
    size_t size = STATE_HEAD;
    for (uint32_t i = 0; i < st->sealed_count; i++)
        size += SEALED_HEAD + 8 * (size_t)st->sealed[i].hole_count + 12 * (size_t)st->sealed[i].rejected_count;
    uint8_t *b = calloc(1, size), *p = b + STATE_HEAD;
    if (!b)
        return NULL;
    put_le32(b, st->has_lost ? STATE_FORMAT_LOST : STATE_FORMAT);
    put_le32(b + 4, st->tag);
    memcpy(b + 8, st->uuid, 16);
    put_le64(b + 24, st->checkpoint);
    put_le64(b + 32, st->epoch);
    put_le64(b + 40, st->tail);
    put_le64(b + 48, st->next_version);
    put_le64(b + 56, st->next_image);
    put_le32(b + 64, st->next_line);
    put_le32(b + 68, st->sealed_count);
    for (uint32_t i = 0; i < st->sealed_count; i++) {
        const struct sealed_range *r = &st->sealed[i];
        put_le64(p, r->epoch);
        put_le64(p + 8, r->first);
        put_le64(p + 16, r->last);
        put_le32(p + 24, r->hole_count);
        put_le32(p + 28, r->rejected_count);
        p += SEALED_HEAD;
        for (uint32_t k = 0; k < r->hole_count; k++, p += 8)
            put_le64(p, r->holes[k]);
        for (uint32_t k = 0; k < r->rejected_count; k++, p += 12) {
            put_le64(p, r->rejected[k].ticket);
            put_le32(p + 8, r->rejected[k].block);
        }
    }
    *length = (uint32_t)size;
    return b;
}

static int decode_range(const uint8_t **at, size_t *left, struct sealed_range *r)
{
    const uint8_t *p = *at;
    if (*left < SEALED_HEAD)
        return -EBADMSG;
    r->epoch = get_le64(p);
    r->first = get_le64(p + 8);
    r->last = get_le64(p + 16);
    r->hole_count = get_le32(p + 24);
    r->rejected_count = get_le32(p + 28);
    size_t need = SEALED_HEAD + 8 * (size_t)r->hole_count + 12 * (size_t)r->rejected_count;
    if (*left < need || r->last < r->first)
        return -EBADMSG;
    r->holes = malloc(8 * (size_t)r->hole_count + 1);
    r->rejected = malloc(sizeof *r->rejected * ((size_t)r->rejected_count + 1));
    if (!r->holes || !r->rejected)
        return -ENOMEM;
    p += SEALED_HEAD;
    for (uint32_t k = 0; k < r->hole_count; k++, p += 8)
        r->holes[k] = get_le64(p);
    for (uint32_t k = 0; k < r->rejected_count; k++, p += 12) {
        r->rejected[k].ticket = get_le64(p);
        r->rejected[k].block = get_le32(p + 8);
    }
    *at += need;
    *left -= need;
    return 0;
}

int state_decode(const uint8_t *b, size_t length, struct stored_state *st)
{
    *st = (struct stored_state){ 0 };
    if (length < STATE_HEAD || get_le32(b) < STATE_FORMAT)
        return -EBADMSG;
    if (get_le32(b) > STATE_FORMAT_LOST)
        return -EPROTONOSUPPORT;
    st->has_lost = get_le32(b) == STATE_FORMAT_LOST;
    st->tag = get_le32(b + 4);
    memcpy(st->uuid, b + 8, 16);
    st->checkpoint = get_le64(b + 24);
    st->epoch = get_le64(b + 32);
    st->tail = get_le64(b + 40);
    st->next_version = get_le64(b + 48);
    st->next_image = get_le64(b + 56);
    st->next_line = get_le32(b + 64);
    uint32_t n = get_le32(b + 68);
    const uint8_t *p = b + STATE_HEAD;
    size_t left = length - STATE_HEAD;
    if (n > left / SEALED_HEAD)
        return -EBADMSG;
    st->sealed = calloc(n + 1, sizeof *st->sealed); /* one more, for the range that recovery may add */
    if (!st->sealed)
        return -ENOMEM;
    int err = 0;
    for (uint32_t i = 0; i < n && !err; i++, st->sealed_count++)
        err = decode_range(&p, &left, &st->sealed[i]);
    if (err)
        state_fini(st);
    return err;
}

void state_fini(struct stored_state *st)
{
    for (uint32_t i = 0; i < st->sealed_count; i++) {
        free(st->sealed[i].holes);
        free(st->sealed[i].rejected);
    }
    free(st->sealed);
    st->sealed = NULL;
    st->sealed_count = 0;
}
