/* pool.c - see pool.h. */
#include "parallax/pool.h"

#include "base/endian.h"
#include "parallax/tree.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

struct group {
    struct hash_node node; /* by number */
    uint64_t number;
    uint32_t counts[POOL_GROUP];
    bool changed;
};

int pool_init(struct pool *p, struct catalog *catalog, uint64_t max_blocks)
{
    *p = (struct pool){ .catalog = catalog, .words = (max_blocks + 63) / 64 };
    void *m = mmap(NULL, p->words * 8, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    p->shared = m == MAP_FAILED ? NULL : m;
    return p->shared ? 0 : -ENOMEM;
}

static void forget_groups(struct pool *p)
{
    for (uint64_t b = 0; p->groups.buckets && b <= p->groups.mask; b++)
        for (struct hash_node *n = p->groups.buckets[b], *next; n; n = next) {
            next = n->next;
            free(container_of(n, struct group, node));
        }
    hash_fini(&p->groups);
}

void pool_fini(struct pool *p)
{
    forget_groups(p);
    if (p->shared)
        munmap(p->shared, p->words * 8);
    p->shared = NULL;
}

static void mark(struct pool *p, uint64_t address, bool on)
{
    uint64_t bit = 1ull << address % 64, *word = &p->shared[address / 64];
    __atomic_store_n(word, on ? *word | bit : *word & ~bit, __ATOMIC_RELAXED);
}

/* ---- The stored form ---- */

int pool_decode(const void *value, size_t length, uint32_t counts[POOL_GROUP])
{
    const uint8_t *v = value;
    memset(counts, 0, POOL_GROUP * sizeof *counts);
    if (!length || length % 4 || length > POOL_VALUE_MAX)
        return -EBADMSG;
    for (size_t i = 0; i < length; i += 4) {
        if (v[i] >= POOL_GROUP || (i && v[i] <= v[i - 4]) || !(get_le32(v + i) >> 8))
            return -EBADMSG;
        counts[v[i]] = get_le32(v + i) >> 8;
    }
    return 0;
}

static uint32_t encode(const struct group *g, uint8_t *v)
{
    uint32_t length = 0;
    for (unsigned i = 0; i < POOL_GROUP; i++)
        if (g->counts[i]) {
            put_le32(v + length, g->counts[i] << 8 | i);
            length += 4;
        }
    return length;
}

int pool_load(struct pool *p, uint64_t group, const void *value, size_t length)
{
    uint32_t counts[POOL_GROUP];
    int err = group >= p->words ? -EBADMSG : pool_decode(value, length, counts);
    for (unsigned i = 0; i < POOL_GROUP && !err; i++)
        if (counts[i])
            mark(p, group * POOL_GROUP + i, true);
    return err;
}

/* ---- Counting ---- */

static struct group *find_group(struct pool *p, uint64_t number)
{
    for (struct hash_node *n = hash_first(&p->groups, hash_u64(number)); n; n = hash_next(n))
        if (container_of(n, struct group, node)->number == number)
            return container_of(n, struct group, node);
    return NULL;
}

static int read_group(struct pool *p, struct group *g)
{
    uint8_t key[9], value[POOL_VALUE_MAX];
    size_t length;
    key_encode(key, KEY_POOL, g->number);
    int err = catalog_get(p->catalog, "store", key, sizeof key, value, sizeof value, &length);
    return err == -ENOENT ? 0 : err ? err : pool_decode(value, length, g->counts);
}

/* The group of an address, for changing; NULL: p->error says why not. */
static struct group *take_group(struct pool *p, uint64_t address)
{
    uint64_t number = address / POOL_GROUP;
    struct group *g = p->error ? NULL : find_group(p, number);
    if (g || p->error)
        return g;
    g = calloc(1, sizeof *g);
    if (g) {
        g->number = number;
        p->error = hash_reserve(&p->groups) ? -ENOMEM : read_group(p, g);
    } else {
        p->error = -ENOMEM;
    }
    if (p->error) {
        free(g);
        return NULL;
    }
    hash_insert(&p->groups, &g->node, hash_u64(number));
    return g;
}

void pool_add(struct pool *p, uint64_t address)
{
    struct group *g = take_group(p, address);
    if (!g)
        return;
    uint32_t *count = &g->counts[address % POOL_GROUP];
    if (*count == POOL_COUNT_MAX) {
        p->error = -EOVERFLOW;
        return;
    }
    if ((*count)++ == 0)
        mark(p, address, true);
    g->changed = true;
}

bool pool_drop(struct pool *p, uint64_t address)
{
    if (!pool_shared(p, address))
        return false;
    struct group *g = take_group(p, address);
    uint32_t *count = g ? &g->counts[address % POOL_GROUP] : NULL;
    if (g && !*count)
        p->error = -EBADMSG; /* what was counted when the store was opened is not there any more */
    if (p->error)
        return true;
    if (--*count == 0)
        mark(p, address, false);
    g->changed = true;
    return true;
}

void pool_adjust(struct pool *p, uint64_t address, int64_t difference)
{
    struct group *g = take_group(p, address);
    if (!g)
        return;
    uint32_t *count = &g->counts[address % POOL_GROUP];
    int64_t right = *count + difference;
    *count = right < 0 ? 0 : right > POOL_COUNT_MAX ? POOL_COUNT_MAX : (uint32_t)right;
    mark(p, address, *count > 0);
    g->changed = true;
}

int pool_write(struct pool *p, int (*put)(void *ctx, const void *key, size_t key_length, const void *value, size_t length), void *ctx)
{
    uint8_t key[9], value[POOL_VALUE_MAX];
    int err = p->error;
    for (uint64_t b = 0; p->groups.buckets && b <= p->groups.mask && !err; b++)
        for (struct hash_node *n = p->groups.buckets[b]; n && !err; n = n->next) {
            const struct group *g = container_of(n, struct group, node);
            if (!g->changed)
                continue;
            uint32_t length = encode(g, value);
            key_encode(key, KEY_POOL, g->number);
            err = put(ctx, key, sizeof key, length ? value : NULL, length);
        }
    forget_groups(p);
    p->error = 0;
    return err;
}
