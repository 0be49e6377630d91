/* hash.h - intrusive hash table: buckets of singly linked nodes that elements embed; grows by doubling.
 *
 * The caller computes the hash and compares keys; nothing but the bucket array is allocated. Threads: the owner's. */
#ifndef BASE_HASH_H
#define BASE_HASH_H
#include <stdint.h>
#include <stdlib.h>

struct hash_node {
    struct hash_node *next;
    uint64_t hash;
};

struct hash {
    struct hash_node **buckets;
    uint64_t mask, count;
};

static inline uint64_t hash_u64(uint64_t x)
{
    x ^= x >> 32;
    x *= 0xd6e8feb86659fd93u;
    x ^= x >> 32;
    x *= 0xd6e8feb86659fd93u;
    return x ^ x >> 32;
}

static inline uint64_t hash_bytes(const void *p, size_t n)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (const unsigned char *c = p; n--; c++)
        h = (h ^ *c) * 0x100000001b3u;
    return hash_u64(h);
}

static inline void hash_fini(struct hash *h)
{
    free(h->buckets);
    *h = (struct hash){ 0 };
}

static inline struct hash_node *hash_first(const struct hash *h, uint64_t hash)
{
    struct hash_node *n = h->buckets ? h->buckets[hash & h->mask] : NULL;
    while (n && n->hash != hash)
        n = n->next;
    return n;
}

static inline struct hash_node *hash_next(const struct hash_node *n)
{
    uint64_t hash = n->hash;
    do
        n = n->next;
    while (n && n->hash != hash);
    return (struct hash_node *)n;
}

/* Makes room for one more, so that the next hash_insert cannot fail. -1: no memory. */
static inline int hash_reserve(struct hash *h)
{
    if (h->buckets && h->count <= h->mask)
        return 0;
    uint64_t size = h->buckets ? (h->mask + 1) * 2 : 64;
    struct hash_node **b = calloc(size, sizeof *b);
    if (!b)
        return h->buckets ? 0 : -1; /* a fuller table is slower, not wrong */
    for (uint64_t i = 0; h->buckets && i <= h->mask; i++)
        for (struct hash_node *n = h->buckets[i], *next; n; n = next) {
            next = n->next;
            n->next = b[n->hash & (size - 1)];
            b[n->hash & (size - 1)] = n;
        }
    free(h->buckets);
    h->buckets = b;
    h->mask = size - 1;
    return 0;
}

static inline void hash_insert(struct hash *h, struct hash_node *n, uint64_t hash)
{
    n->hash = hash;
    n->next = h->buckets[hash & h->mask];
    h->buckets[hash & h->mask] = n;
    h->count++;
}

static inline void hash_remove(struct hash *h, struct hash_node *n)
{
    struct hash_node **at = &h->buckets[n->hash & h->mask];
    while (*at != n)
        at = &(*at)->next;
    *at = n->next;
    h->count--;
}
#endif
