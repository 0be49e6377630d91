/* engine_content.c - see engine_content.h.
 *
 * 1. first <= durable <= acked <= newest, where newest = first + count - 1.
 * 2. A frozen content never gets versions; its blocks only lose them, as they are seen. */
#include "tests/support/engine_content.h"

#include "tests/support/engine_fail.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK_BYTES 4096u

static const struct {
    uint64_t block;
    uint32_t count;
} windows[] = { { 0, 2048 }, { 65536 - 16, 32 }, { (1u << 24) - 16, 32 }, { (1ull << 32) - 32, 32 } };
#define WINDOWS (sizeof windows / sizeof windows[0])

uint64_t content_block_of(uint32_t index)
{
    unsigned w = 0;
    while (index >= windows[w].count)
        index -= windows[w++].count;
    return windows[w].block + index;
}

uint32_t content_index_below(uint64_t block)
{
    uint32_t below = 0;
    for (unsigned w = 0; w < WINDOWS && windows[w].block < block; w++) {
        uint64_t inside = block - windows[w].block;
        below += inside < windows[w].count ? (uint32_t)inside : windows[w].count;
    }
    return below;
}

bool content_tracked(uint64_t block, uint32_t *index)
{
    uint32_t i = content_index_below(block);
    if (content_index_below(block + 1) == i)
        return false;
    *index = i;
    return true;
}

static uint64_t blocks_of(uint64_t bytes) { return (bytes + BLOCK_BYTES - 1) / BLOCK_BYTES; }

static void block_init(struct content_block *b)
{
    memset(b, 0, sizeof *b);
    b->first = b->acked = b->durable = 1;
    b->count = 1;
}

/* The array may have moved: the inline version is found again. */
static struct version *versions(struct content_block *b) { return b->room ? b->version : &b->one; }
static const struct version *versions_const(const struct content_block *b) { return b->room ? b->version : &b->one; }
static uint32_t newest(const struct content_block *b) { return b->first + b->count - 1; }

const struct version *content_newest(const struct content_block *b) { return versions_const(b) + b->count - 1; }
bool content_block_exact(const struct content_block *b) { return b->count == 1; }

static void block_set_exact(struct content_block *b, const struct version *v)
{
    struct version keep = *v;
    if (b->room)
        free(b->version);
    b->version = NULL;
    b->room = 0;
    b->first = newest(b);
    b->count = 1;
    b->acked = b->durable = b->first;
    b->one = keep;
}

static struct version *block_push(struct content_block *b)
{
    if (b->room ? b->count == b->room : b->count == 1) {
        uint16_t room = b->room ? (uint16_t)(b->room * 2) : 4;
        if (room > 16384)
            engine_fail("the oracle remembers too many versions of one block");
        struct version *more = engine_alloc(room * sizeof *more);
        memcpy(more, versions_const(b), b->count * sizeof *more);
        if (b->room)
            free(b->version);
        b->version = more;
        b->room = room;
    }
    struct version *v = &b->version[b->count++];
    *v = v[-1];
    return v;
}

struct content *content_new(uint64_t size_bytes)
{
    struct content *c = engine_alloc(sizeof *c);
    content_resize(c, size_bytes);
    return c;
}

void content_free(struct content *c)
{
    if (!c)
        return;
    for (uint32_t i = 0; i < c->count; i++)
        if (c->block[i].room)
            free(c->block[i].version);
    free(c->block);
    free(c);
}

/* Calls each tracked block that the sectors touch, with the touched sectors of it. */
static void for_range(struct content *c, uint64_t first, uint64_t sectors, void (*each)(struct content_block *, unsigned from, unsigned to, void *), void *ctx,
                      size_t step)
{
    uint64_t end = first + sectors, begin_block = first / CONTENT_SECTORS, end_block = (end + CONTENT_SECTORS - 1) / CONTENT_SECTORS;
    uint32_t i = content_index_below(begin_block), stop = content_index_below(end_block);
    for (; i < stop && i < c->count; i++) {
        uint64_t base = content_block_of(i) * CONTENT_SECTORS;
        each(&c->block[i], first > base ? (unsigned)(first - base) : 0, end - base < CONTENT_SECTORS ? (unsigned)(end - base) : CONTENT_SECTORS, ctx);
        ctx = (char *)ctx + step;
    }
}

static uint32_t present_id; /* of the write that for_range applies; the tests have one thread */

static void write_block(struct content_block *b, unsigned from, unsigned to, void *number)
{
    struct version *v = block_push(b);
    for (unsigned s = from; s < to; s++)
        v->id[s] = present_id;
    *(uint32_t *)number = newest(b);
}

static void ack_block(struct content_block *b, unsigned from, unsigned to, void *number)
{
    (void)from, (void)to;
    uint32_t n = *(uint32_t *)number;
    if (n > b->acked)
        b->acked = n;
}

void content_write(struct content *c, uint64_t first_sector, uint64_t sectors, uint32_t id, uint32_t *numbers)
{
    present_id = id;
    for_range(c, first_sector, sectors, write_block, numbers, sizeof *numbers);
}

void content_acked(struct content *c, uint64_t first_sector, uint64_t sectors, const uint32_t *numbers)
{
    for_range(c, first_sector, sectors, ack_block, (void *)(uintptr_t)numbers, sizeof *numbers);
}

uint32_t *content_cut(const struct content *c)
{
    uint32_t *cut = engine_alloc((c->count ? c->count : 1) * sizeof *cut);
    for (uint32_t i = 0; i < c->count; i++)
        cut[i] = c->block[i].acked;
    return cut;
}

void content_durable(struct content *c, const uint32_t *cut, uint32_t count)
{
    for (uint32_t i = 0; i < count && i < c->count; i++)
        if (cut[i] > c->block[i].durable)
            c->block[i].durable = cut[i];
}

bool content_may_read(const struct content *c, uint64_t sector, uint32_t since, uint32_t id)
{
    uint32_t index;
    if (!content_tracked(sector / CONTENT_SECTORS, &index) || index >= c->count)
        return id == 0;
    const struct content_block *b = &c->block[index];
    for (unsigned v = 0; v < b->count; v++)
        if (b->first + v >= since && versions_const(b)[v].id[sector % CONTENT_SECTORS] == id)
            return true;
    return false;
}

struct content *content_copy(const struct content *c, const uint32_t *cut)
{
    struct content *copy = content_new(c->size_bytes);
    for (uint32_t i = 0; i < c->count; i++) {
        const struct content_block *from = &c->block[i];
        struct content_block *to = &copy->block[i];
        for (unsigned v = 0; v < from->count; v++)
            if (from->first + v >= cut[i])
                *block_push(to) = versions_const(from)[v];
        if (to->count == 2) {
            block_set_exact(to, &to->version[1]);
        } else { /* forget the zero version that every new block begins with */
            to->count--;
            memmove(to->version, to->version + 1, to->count * sizeof *to->version);
            to->first++;
            to->acked = to->durable = to->first;
        }
    }
    return copy;
}

bool content_allows(const struct content *c, uint32_t index, uint32_t since, const uint32_t *ids)
{
    const struct content_block *b = &c->block[index];
    for (unsigned v = 0; v < b->count; v++)
        if (b->first + v >= since && memcmp(versions_const(b)[v].id, ids, sizeof versions_const(b)[v].id) == 0)
            return true;
    return false;
}

bool content_settle(struct content *c, uint32_t index, const uint32_t *ids)
{
    struct content_block *b = &c->block[index];
    unsigned lowest = b->acked - b->first;
    for (unsigned v = b->count; v-- > lowest;) {
        if (memcmp(versions(b)[v].id, ids, sizeof b->one.id) != 0)
            continue;
        if (lowest == 0) {
            block_set_exact(b, &versions(b)[v]);
        } else {
            versions(b)[lowest] = versions(b)[v];
            b->count = (uint16_t)(lowest + 1);
        }
        return true;
    }
    return false;
}

bool content_settled(const struct content *c)
{
    for (uint32_t i = 0; i < c->count; i++)
        if (c->block[i].acked != newest(&c->block[i]))
            return false;
    return true;
}

static void block_forget_below(struct content_block *b, uint32_t number)
{
    if (number <= b->first)
        return;
    unsigned gone = number - b->first;
    assert(gone < b->count);
    if (b->count - gone == 1) {
        block_set_exact(b, &versions(b)[b->count - 1]);
        return;
    }
    b->count = (uint16_t)(b->count - gone);
    memmove(b->version, b->version + gone, b->count * sizeof *b->version);
    b->first = number;
}

void content_crash(struct content *c, enum content_crash kind)
{
    c->pins = 0;
    for (uint32_t i = 0; i < c->count; i++) {
        struct content_block *b = &c->block[i];
        block_forget_below(b, kind == CONTENT_KILL ? b->acked : b->durable);
        b->acked = b->durable = b->first;
    }
}

void content_prune(struct content *c)
{
    if (c->pins)
        return;
    for (uint32_t i = 0; i < c->count; i++)
        block_forget_below(&c->block[i], c->block[i].durable);
}

static void zero_tail(struct content_block *b, unsigned from)
{
    for (unsigned v = 0; v < b->count; v++)
        for (unsigned s = from; s < CONTENT_SECTORS; s++)
            versions(b)[v].id[s] = 0;
}

void content_resize(struct content *c, uint64_t size_bytes)
{
    uint32_t count = content_index_below(blocks_of(size_bytes)), last;
    for (uint32_t i = count; i < c->count; i++)
        if (c->block[i].room)
            free(c->block[i].version);
    struct content_block *more = engine_alloc((count ? count : 1) * sizeof *more);
    if (c->block)
        memcpy(more, c->block, (count < c->count ? count : c->count) * sizeof *more);
    for (uint32_t i = c->count; i < count; i++)
        block_init(&more[i]);
    free(c->block);
    c->block = more;
    c->count = count;
    c->size_bytes = size_bytes;
    if (size_bytes % BLOCK_BYTES && content_tracked(size_bytes / BLOCK_BYTES, &last) && last < count)
        zero_tail(&c->block[last], (unsigned)(size_bytes % BLOCK_BYTES / 512));
}
