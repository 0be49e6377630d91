/* match.c - which blocks of an image are stored already (share.h; consistency.md, 28 and 29): one pass, on the walker's thread.
 *
 * 1. Blocks of the image go into a table by the checksum that their entries carry.
 * 2. The maps of the holders are walked; each entry whose checksum is in the table is a candidate there, up to CANDIDATES of
 *    them. No data is read so far.
 * 3. The block and its candidates are read, verified and compared byte by byte.
 * What cannot be read is left alone: finding damage is others' business. */
#include "parallax/share.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define CANDIDATES 3u
#define COMPARE_BLOCKS 128u
#define SELF (1ull << 63)

struct row {
    uint64_t address;
    uint32_t block, crc;
    uint32_t same;   /* the first row with this checksum; itself: it has the candidates */
    uint32_t next;   /* in the bucket: row number + 1 */
    uint64_t candidates[CANDIDATES]; /* addresses, with SELF; 0: none */
};

struct table {
    struct match *m;
    struct row *rows;
    uint32_t *buckets; /* row number + 1 */
    uint32_t count;
    const struct holder *holder;
    uint8_t *buffer;   /* COMPARE_BLOCKS twice */
};

static uint32_t find(const struct table *t, uint32_t crc)
{
    uint32_t i = t->buckets[hash_u64(crc) % MATCH_BLOCKS];
    while (i && t->rows[i - 1].crc != crc)
        i = t->rows[i - 1].next;
    return i;
}

static int add_row(void *ctx, uint64_t block, const struct radix_entry *e)
{
    struct table *t = ctx;
    if (t->count == MATCH_BLOCKS || op_stopped(t->m->op)) {
        t->m->cursor = block;
        return 1;
    }
    uint32_t same = find(t, e->crc), number = t->count++, *bucket = &t->buckets[hash_u64(e->crc) % MATCH_BLOCKS];
    t->rows[number] = (struct row){ .address = e->address, .block = (uint32_t)block, .crc = e->crc, .same = same ? same - 1 : number, .next = *bucket };
    if (!same) /* only first rows are found by bucket */
        *bucket = number + 1;
    return 0;
}

static int add_candidate(void *ctx, uint64_t block, const struct radix_entry *e)
{
    struct table *t = ctx;
    uint32_t i = find(t, e->crc);
    (void)block;
    if (op_stopped(t->m->op))
        return -ECANCELED;
    for (unsigned k = 0; i && k < CANDIDATES; k++) {
        uint64_t *c = &t->rows[i - 1].candidates[k];
        if (!*c)
            *c = e->address | (t->holder->self ? SELF : 0);
        if ((*c & ~SELF) == e->address)
            break;
    }
    return 0;
}

static int pass_over(void *ctx, unsigned level, uint64_t first_block, const struct radix_entry *e, int error)
{
    (void)ctx;
    (void)level;
    (void)first_block;
    (void)e;
    (void)error;
    return 0;
}

static int fill(struct table *t)
{
    struct match *m = t->m;
    struct radix_io io = { .device = m->store->blocks, .seed = m->store->super.seed };
    struct radix_visit rows = { .ctx = t, .from = m->cursor, .min_birth = m->min_birth, .data = add_row, .damaged = pass_over };
    m->cursor = UINT64_MAX;
    int err = m->root.height ? radix_walk(&io, &m->root, &rows) : 0;
    for (uint32_t i = 0; i < m->holder_count && err >= 0 && t->count; i++) {
        t->holder = &m->holders[i];
        struct radix_visit candidates = { .ctx = t, .min_birth = t->holder->min_birth, .data = add_candidate, .damaged = pass_over };
        err = t->holder->root.height ? radix_walk(&io, &t->holder->root, &candidates) : 0;
    }
    return err < 0 ? err : 0;
}

/* ---- Comparing ---- */

/* Counts have a limit; half of it is more than can be under way. */
static bool count_is_low(struct store *s, uint64_t address)
{
    uint8_t key[9], value[POOL_VALUE_MAX];
    uint32_t counts[POOL_GROUP];
    size_t length;
    if (!pool_shared(&s->pool, address))
        return true;
    key_encode(key, KEY_POOL, address / POOL_GROUP);
    int err = catalog_get(s->backing.catalog, "store", key, sizeof key, value, sizeof value, &length);
    return err == -ENOENT || (!err && !pool_decode(value, length, counts) && counts[address % POOL_GROUP] < POOL_COUNT_MAX / 2);
}

/* The candidates that a row may take: those not from the image itself, or that come before it there. 0: no further one. */
static uint64_t candidate(const struct table *t, const struct row *r, unsigned *k)
{
    const uint64_t *all = t->rows[r->same].candidates;
    for (; *k < CANDIDATES && all[*k]; ++*k) {
        uint64_t address = all[*k] & ~SELF;
        if ((!(all[*k] & SELF) || address < r->address) && count_is_low(t->m->store, address)) {
            ++*k;
            return address;
        }
    }
    return 0;
}

static bool is_shared_already(const struct table *t, const struct row *r)
{
    for (unsigned k = 0; k < CANDIDATES; k++)
        if ((t->rows[r->same].candidates[k]) == r->address)
            return true;
    return false;
}

static void found(struct match *m, const struct row *r, uint64_t address)
{
    m->shares[m->share_count++] = (struct share){ .block = r->block, .old_address = r->address, .address = address, .crc = r->crc };
}

static void compare(struct table *t, const uint32_t *rows, uint32_t n)
{
    struct match *m = t->m;
    struct radix_entry mine[COMPARE_BLOCKS] = { 0 }, theirs[COMPARE_BLOCKS] = { 0 };
    uint8_t *a = t->buffer, *b = t->buffer + COMPARE_BLOCKS * BDEV_BLOCK_SIZE;
    int mine_errors[COMPARE_BLOCKS], errors[COMPARE_BLOCKS];
    unsigned next[COMPARE_BLOCKS] = { 0 };
    for (uint32_t i = 0; i < n; i++) {
        const struct row *r = &t->rows[rows[i]];
        mine[i] = (struct radix_entry){ .address = r->address, .crc = r->crc, .kind = RADIX_DATA };
        theirs[i] = (struct radix_entry){ .address = candidate(t, r, &next[i]), .crc = r->crc };
        theirs[i].kind = theirs[i].address ? RADIX_DATA : RADIX_NONE;
    }
    blocks_read(m->store, mine, n, a, mine_errors);
    blocks_read(m->store, theirs, n, b, errors);
    for (uint32_t i = 0; i < n; i++) {
        const uint8_t *block = a + (size_t)i * BDEV_BLOCK_SIZE;
        uint8_t *other = b + (size_t)i * BDEV_BLOCK_SIZE;
        while (!mine_errors[i] && theirs[i].kind == RADIX_DATA) {
            if (!errors[i] && !memcmp(block, other, BDEV_BLOCK_SIZE)) {
                found(m, &t->rows[rows[i]], theirs[i].address);
                break;
            }
            theirs[i].address = candidate(t, &t->rows[rows[i]], &next[i]);
            theirs[i].kind = theirs[i].address ? RADIX_DATA : RADIX_NONE;
            blocks_read(m->store, &theirs[i], 1, other, &errors[i]);
        }
    }
}

static int compare_all(struct table *t)
{
    uint32_t rows[COMPARE_BLOCKS], n = 0;
    for (uint32_t i = 0; i < t->count; i++) {
        const struct row *r = &t->rows[i];
        if (t->rows[r->same].candidates[0] && !is_shared_already(t, r))
            rows[n++] = i;
        if (n == COMPARE_BLOCKS || (n && i + 1 == t->count)) {
            if (op_stopped(t->m->op))
                return -ECANCELED;
            compare(t, rows, n);
            n = 0;
        }
    }
    return 0;
}

void match_pass(struct match *m)
{
    struct table t = { .m = m, .rows = malloc(MATCH_BLOCKS * sizeof *t.rows), .buckets = calloc(MATCH_BLOCKS, sizeof *t.buckets),
                       .buffer = bdev_buffer_alloc(2 * COMPARE_BLOCKS) };
    m->share_count = 0;
    m->error = t.rows && t.buckets && t.buffer ? fill(&t) : -ENOMEM;
    if (!m->error)
        m->error = compare_all(&t);
    m->examined_blocks += t.count;
    free(t.rows);
    free(t.buckets);
    free(t.buffer);
}
