/* catalog_copy.c - see catalog_copy.h; the records' layout is in docs/disk-format.md.
 *
 * 1. A set of records (a dump, or one change) counts if all of it is there, from the first to the last. Each record names the
 *    checksum of the one before it, and the first of a dump a random number, so that what an earlier life of the region left
 *    never goes on what is there now.
 * 2. A set is durable before the next is begun. So what does not check is the torn end of the last set, or rot; a later change
 *    of the same dump behind it tells that it is rot.
 * 3. Order of a dump: its records, flush, the other region's first block void, flush. Until the second flush both regions say
 *    the same; no change is written before it. Order of making void: the older region, flush, the newer, flush. */
#include "parallax/store/catalog_copy.h"

#include "base/bdev.h"
#include "base/crc32c.h"
#include "base/endian.h"
#include "parallax/store/host_file.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#define MAGIC 0x54414350u /* PCAT */
#define HEAD 64u
#define ENTRY_HEAD 8u
#define PIECE_BYTES (1u << 20)
#define USED_MAX (HEAD + ENTRY_HEAD + CATALOG_KEY_MAX + CATALOG_VALUE_MAX)
#define REMOVED UINT32_MAX
/* A log this much longer than four dumps is begun anew: reading it is what opening a store waits for. */
#define TAIL_BYTES (16u << 20)

enum { AT_MAGIC = 0, AT_CRC = 4, AT_GENERATION = 8, AT_REVISION = 16, AT_INDEX = 24, AT_PREVIOUS = 28, AT_FLAGS = 32, AT_COUNT = 36, AT_USED = 40, AT_EPOCH = 48 };
enum { DUMP = 1, FIRST = 2, LAST = 4 };

struct record {
    uint64_t generation, revision, epoch;
    uint32_t index, previous, flags, count, used, crc;
};

/* Where a log ends: what its next record must say, and where it goes. */
struct place {
    uint64_t end, dump_end; /* bytes */
    uint64_t generation, revision, epoch;
    uint32_t index, previous;
};

struct catalog_copy {
    int fd;
    uint64_t offset, region_bytes, epoch;
    uint32_t seed;
    bool whole;
    bool older;      /* the other region holds a whole copy too: a crash came before it was made void */
    unsigned active; /* the region that place is of */
    struct place place;
    unsigned char *buffer;
    size_t room;
};

static uint64_t padded(uint64_t bytes) { return (bytes + BDEV_BLOCK_SIZE - 1) & ~(uint64_t)(BDEV_BLOCK_SIZE - 1); }

static int reserve(struct catalog_copy *c, size_t bytes)
{
    if (bytes <= c->room)
        return 0;
    unsigned char *longer = realloc(c->buffer, bytes);
    if (!longer)
        return -ENOMEM;
    c->buffer = longer;
    c->room = bytes;
    return 0;
}

static int transfer(const struct catalog_copy *c, bool writing, unsigned region, uint64_t at, void *buf, size_t left)
{
    return host_file_transfer(c->fd, writing, buf, left, (off_t)(c->offset + region * c->region_bytes + at));
}

static int sync_copy(const struct catalog_copy *c) { return fdatasync(c->fd) < 0 ? -errno : 0; }

static int make_void(const struct catalog_copy *c, unsigned region)
{
    unsigned char zeroes[BDEV_BLOCK_SIZE] = { 0 };
    int rc = transfer(c, true, region, 0, zeroes, sizeof zeroes);
    return rc ? rc : sync_copy(c);
}

/* ---- Reading ---- */

/* 1: a record that checks, in the buffer; 0: none; or a negative errno. */
static int read_record(struct catalog_copy *c, unsigned region, uint64_t at, struct record *r)
{
    if (at >= c->region_bytes)
        return 0;
    int rc = reserve(c, BDEV_BLOCK_SIZE);
    if (!rc)
        rc = transfer(c, false, region, at, c->buffer, BDEV_BLOCK_SIZE);
    if (rc)
        return rc;
    *r = (struct record){ get_le64(c->buffer + AT_GENERATION), get_le64(c->buffer + AT_REVISION), get_le64(c->buffer + AT_EPOCH),
                          get_le32(c->buffer + AT_INDEX), get_le32(c->buffer + AT_PREVIOUS), get_le32(c->buffer + AT_FLAGS),
                          get_le32(c->buffer + AT_COUNT), get_le32(c->buffer + AT_USED), get_le32(c->buffer + AT_CRC) };
    uint64_t size = padded(r->used);
    if (get_le32(c->buffer + AT_MAGIC) != MAGIC || r->used < HEAD || r->used > USED_MAX || size > c->region_bytes - at)
        return 0;
    rc = reserve(c, size);
    if (!rc)
        rc = transfer(c, false, region, at + BDEV_BLOCK_SIZE, c->buffer + BDEV_BLOCK_SIZE, size - BDEV_BLOCK_SIZE);
    if (rc)
        return rc;
    put_le32(c->buffer + AT_CRC, 0);
    return crc32c(c->seed, c->buffer, size) == r->crc;
}

static void advance(struct place *p, const struct record *r)
{
    p->generation = r->generation;
    p->revision = r->revision;
    p->epoch = r->epoch;
    p->index = r->index + 1;
    p->previous = r->crc;
    p->end += padded(r->used);
}

/* Whether r may stand at p. inside: of a set; dumped: after the dump. */
static bool follows(const struct place *p, const struct record *r, bool inside, bool dumped)
{
    bool first = r->flags & FIRST, dump = r->flags & DUMP;
    if (r->index != p->index || first == inside || dump == dumped)
        return false;
    return !p->index || (r->generation == p->generation && r->epoch == p->epoch && r->previous == p->previous && r->revision == p->revision + first);
}

/* *whole: there is a complete dump; *found: the end of the last complete set. An error: what was found may lack its end. */
static int find_end(struct catalog_copy *c, unsigned region, struct place *found, bool *whole)
{
    struct place p = { 0 };
    struct record r;
    bool inside = false;
    int rc;
    *whole = false;
    while ((rc = read_record(c, region, p.end, &r)) > 0 && follows(&p, &r, inside, *whole)) {
        advance(&p, &r);
        inside = !(r.flags & LAST);
        if (inside)
            continue;
        if (!*whole)
            p.dump_end = p.end;
        *whole = true;
        *found = p;
    }
    return rc < 0 ? rc : 0;
}

static int look(struct catalog_copy *c)
{
    bool readable = true;
    for (unsigned region = 0; region < 2; region++) {
        struct place p;
        bool whole;
        int rc = find_end(c, region, &p, &whole);
        if (rc == -ENOMEM)
            return rc;
        readable = readable && !rc;
        c->older = whole && c->whole;
        if (!whole || (c->whole && p.generation < c->place.generation))
            continue;
        c->whole = true;
        c->active = region;
        c->place = p;
    }
    c->whole = c->whole && readable;
    return 0;
}

int catalog_copy_open(int fd, uint64_t offset_bytes, uint64_t region_bytes, const char *uuid, uint64_t epoch, struct catalog_copy **out)
{
    struct catalog_copy *c = calloc(1, sizeof *c);
    if (!c)
        return -ENOMEM;
    *c = (struct catalog_copy){ .fd = -1, .offset = offset_bytes, .region_bytes = region_bytes, .epoch = epoch,
                                .seed = crc32c(0, uuid, strlen(uuid)) };
    c->fd = fd;
    int rc = look(c);
    if (rc) {
        c->fd = -1;
        catalog_copy_close(c);
        return rc;
    }
    *out = c;
    return 0;
}

void catalog_copy_close(struct catalog_copy *c)
{
    if (c->fd >= 0)
        close(c->fd);
    free(c->buffer);
    free(c);
}

bool catalog_copy_whole(const struct catalog_copy *c, uint64_t *revision)
{
    if (c->whole)
        *revision = c->place.revision;
    return c->whole;
}

bool catalog_copy_foreign(const struct catalog_copy *c) { return c->whole && c->place.epoch != c->epoch; }

int catalog_copy_check_end(struct catalog_copy *c)
{
    struct record r;
    for (uint64_t at = c->place.end; at < c->region_bytes; at += BDEV_BLOCK_SIZE) {
        int rc = read_record(c, c->active, at, &r);
        if (rc == -ENOMEM)
            return rc;
        if (rc > 0 && r.generation == c->place.generation && r.epoch == c->place.epoch && r.revision > c->place.revision + 1)
            return -EBADMSG;
    }
    return 0;
}

/* The entries of the record in the buffer. */
static int decode(const unsigned char *p, const struct record *r, struct catalog_change *changes)
{
    const unsigned char *end = p + r->used;
    p += HEAD;
    for (uint32_t i = 0; i < r->count; i++) {
        if (end - p < (ptrdiff_t)ENTRY_HEAD)
            return -EBADMSG;
        uint32_t key_length = get_le32(p), value_length = get_le32(p + 4);
        bool removed = value_length == REMOVED;
        value_length = removed ? 0 : value_length;
        p += ENTRY_HEAD;
        if ((uint64_t)key_length + value_length > (uint64_t)(end - p))
            return -EBADMSG;
        changes[i] = (struct catalog_change){ p, key_length, removed ? NULL : p + key_length, value_length };
        p += key_length + value_length;
    }
    return 0;
}

int catalog_copy_replay(struct catalog_copy *c, int (*piece)(void *ctx, const struct catalog_change *changes, unsigned count), void *ctx)
{
    struct record r;
    int rc = 0;
    for (uint64_t at = 0; at < c->place.end && !rc; at += padded(r.used)) {
        rc = read_record(c, c->active, at, &r);
        if (rc <= 0)
            return rc ? rc : -EBADMSG;
        struct catalog_change *changes = r.count <= r.used / ENTRY_HEAD ? malloc((r.count + 1) * sizeof *changes) : NULL;
        if (!changes)
            return r.count <= r.used / ENTRY_HEAD ? -ENOMEM : -EBADMSG;
        rc = decode(c->buffer, &r, changes);
        if (!rc)
            rc = piece(ctx, changes, r.count);
        free(changes);
    }
    return rc;
}

/* ---- Writing ---- */

struct writer {
    struct catalog_copy *copy;
    unsigned region;
    uint64_t limit;  /* the log may not be longer */
    bool dry;        /* nothing is written: only the place moves */
    struct place p;
    struct record r; /* being filled, in the copy's buffer */
};

static struct writer begin(struct catalog_copy *c, unsigned region, struct place p, uint64_t revision, uint32_t flags, uint64_t limit)
{
    return (struct writer){ .copy = c, .region = region, .limit = limit, .p = p,
                            .r = { .generation = p.generation, .revision = revision, .epoch = c->epoch, .flags = flags | FIRST, .used = HEAD } };
}

static void encode_head(unsigned char *b, const struct record *r)
{
    memset(b, 0, HEAD);
    put_le32(b + AT_MAGIC, MAGIC);
    put_le64(b + AT_GENERATION, r->generation);
    put_le64(b + AT_REVISION, r->revision);
    put_le64(b + AT_EPOCH, r->epoch);
    put_le32(b + AT_INDEX, r->index);
    put_le32(b + AT_PREVIOUS, r->previous);
    put_le32(b + AT_FLAGS, r->flags);
    put_le32(b + AT_COUNT, r->count);
    put_le32(b + AT_USED, r->used);
}

static int write_record(struct writer *w)
{
    struct catalog_copy *c = w->copy;
    size_t size = padded(w->r.used);
    int rc = w->p.end > w->limit || size > w->limit - w->p.end ? -EFBIG : 0;
    w->r.index = w->p.index;
    w->r.previous = w->p.previous;
    if (!rc && !w->dry && !(rc = reserve(c, size))) {
        memset(c->buffer + w->r.used, 0, size - w->r.used);
        encode_head(c->buffer, &w->r);
        w->r.crc = crc32c(c->seed, c->buffer, size);
        put_le32(c->buffer + AT_CRC, w->r.crc);
        rc = transfer(c, true, w->region, w->p.end, c->buffer, size);
    }
    if (rc)
        return rc;
    advance(&w->p, &w->r);
    w->r.flags &= ~FIRST;
    w->r.count = 0;
    w->r.used = HEAD;
    return 0;
}

static int put(struct writer *w, const struct catalog_change *e)
{
    size_t value_length = e->value ? e->value_length : 0, need = ENTRY_HEAD + e->key_length + value_length;
    if (!e->key || !e->key_length || e->key_length > CATALOG_KEY_MAX || value_length > CATALOG_VALUE_MAX)
        return -EINVAL;
    int rc = w->r.count && w->r.used + need > PIECE_BYTES ? write_record(w) : 0;
    if (!rc && !w->dry)
        rc = reserve(w->copy, padded(w->r.used + need));
    if (rc)
        return rc;
    size_t used = w->r.used;
    w->r.used += need;
    w->r.count++;
    if (w->dry)
        return 0;
    unsigned char *at = w->copy->buffer + used;
    put_le32(at, (uint32_t)e->key_length);
    put_le32(at + 4, e->value ? (uint32_t)value_length : REMOVED);
    memcpy(at + ENTRY_HEAD, e->key, e->key_length);
    if (value_length)
        memcpy(at + ENTRY_HEAD + e->key_length, e->value, value_length);
    return 0;
}

static int finish(struct writer *w)
{
    w->r.flags |= LAST;
    int rc = write_record(w);
    return rc || w->dry ? rc : sync_copy(w->copy);
}

static int put_item(void *ctx, const void *key, size_t key_length, const void *value, size_t value_length)
{
    return put(ctx, &(struct catalog_change){ key, key_length, value, value_length });
}

static int write_dump(struct writer *w, struct catalog *from, const char *object)
{
    int rc = catalog_scan(from, object, NULL, put_item, w);
    return rc ? rc : finish(w);
}

/* An eighth is for changes: else each of them would ask for a dump. */
int catalog_copy_dump(struct catalog_copy *c, struct catalog *from, const char *object)
{
    struct place p = { .generation = c->place.generation + 1 };
    uint64_t revision;
    if (getrandom(&p.previous, sizeof p.previous, 0) != sizeof p.previous)
        return -EIO;
    int rc = catalog_scan(from, object, &revision, NULL, NULL);
    if (rc)
        return rc;
    struct writer dry = begin(c, 1 - c->active, p, revision, DUMP, c->region_bytes - c->region_bytes / 8), w = dry;
    dry.dry = true;
    rc = write_dump(&dry, from, object);
    if (!rc)
        rc = write_dump(&w, from, object);
    if (rc)
        return rc;
    c->whole = false;
    c->active = 1 - c->active;
    c->place = w.p;
    c->place.dump_end = w.p.end;
    rc = make_void(c, 1 - c->active);
    c->whole = !rc;
    c->older = false;
    return rc;
}

int catalog_copy_append(struct catalog_copy *c, const struct catalog_change *changes, unsigned count)
{
    uint64_t limit = 4 * c->place.dump_end + TAIL_BYTES;
    struct writer w = begin(c, c->active, c->place, c->place.revision + 1, 0, limit < c->region_bytes ? limit : c->region_bytes);
    int rc = c->older ? make_void(c, 1 - c->active) : 0;
    c->older = c->older && rc;
    for (unsigned i = 0; i < count && !rc; i++)
        rc = put(&w, &changes[i]);
    if (!rc)
        rc = finish(&w);
    if (!rc)
        c->place = w.p;
    else if (rc != -EFBIG && rc != -EINVAL)
        c->whole = false;
    return rc;
}

int catalog_copy_invalidate(struct catalog_copy *c)
{
    c->whole = false;
    int rc = make_void(c, 1 - c->active);
    return rc ? rc : make_void(c, c->active);
}
