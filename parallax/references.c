/* references.c - see references.h. */
#include "parallax/references.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

int references_init(struct references *r, struct store *s)
{
    *r = (struct references){ .store = s, .words = s->pool.words };
    void *m = mmap(NULL, r->words * 8, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    r->met = m == MAP_FAILED ? NULL : m;
    return r->met ? 0 : -ENOMEM;
}

void references_fini(struct references *r)
{
    if (r->met)
        munmap(r->met, r->words * 8);
    free(r->further);
    free(r->stored);
    free(r->wrong);
}

static void *make_room(void *items, uint64_t count, uint64_t *capacity, size_t size)
{
    if (count < *capacity)
        return items;
    uint64_t more = *capacity ? *capacity * 2 : 1024;
    void *grown = realloc(items, more * size);
    if (grown)
        *capacity = more;
    return grown;
}

static int add_count(struct reference_count **list, uint64_t *n, uint64_t *capacity, uint64_t address, int64_t count)
{
    void *grown = make_room(*list, *n, capacity, sizeof **list);
    if (!grown)
        return -ENOMEM;
    *list = grown;
    (*list)[(*n)++] = (struct reference_count){ address, count };
    return 0;
}

/* Keys of groups, and places in a group, ascend. */
static int load_group(void *ctx, const void *key, size_t key_length, const void *value, size_t length)
{
    struct references *r = ctx;
    uint32_t counts[POOL_GROUP];
    if (key_length != 9 || *(const uint8_t *)key != KEY_POOL)
        return 0;
    int err = pool_decode(value, length, counts);
    for (unsigned i = 0; i < POOL_GROUP && !err; i++)
        if (counts[i])
            err = add_count(&r->stored, &r->stored_count, &r->stored_capacity, key_id(key) * POOL_GROUP + i, counts[i]);
    return err;
}

void references_load(struct references *r) { r->error = catalog_scan(r->store->backing.catalog, "store", NULL, load_group, r); }

void references_add(struct references *r, uint64_t address)
{
    if (address / 64 >= r->words || r->error)
        return; /* outside of the store, which the walk reports */
    uint64_t bit = 1ull << address % 64;
    if (!(r->met[address / 64] & bit)) {
        r->met[address / 64] |= bit;
        return;
    }
    uint64_t *grown = make_room(r->further, r->further_count, &r->further_capacity, sizeof *r->further);
    if (!grown) {
        r->error = -ENOMEM;
        return;
    }
    r->further = grown;
    r->further[r->further_count++] = address;
}

static int by_address(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

int references_compare(struct references *r, bool blind, void (*tell)(void *ctx, uint64_t address, uint64_t counted, uint64_t met), void *ctx)
{
    uint64_t i = 0, k = 0;
    if (r->further_count)
        qsort(r->further, r->further_count, sizeof *r->further, by_address);
    while (!r->error && (i < r->further_count || k < r->stored_count)) {
        bool is_counted = k < r->stored_count && (i == r->further_count || r->stored[k].address <= r->further[i]);
        uint64_t address = is_counted ? r->stored[k].address : r->further[i];
        int64_t counted = is_counted ? r->stored[k++].count : 0, met = 0;
        for (; i < r->further_count && r->further[i] == address; i++)
            met++;
        if (met == counted || (met < counted && blind))
            continue;
        bool any = r->met[address / 64] >> address % 64 & 1;
        tell(ctx, address, (uint64_t)counted + 1, (uint64_t)met + any);
        r->error = add_count(&r->wrong, &r->wrong_count, &r->wrong_capacity, address, met - counted);
    }
    return r->error;
}

void references_mend(struct references *r)
{
    for (uint64_t i = 0; i < r->wrong_count; i++)
        pool_adjust(&r->store->pool, r->wrong[i].address, r->wrong[i].count);
}
