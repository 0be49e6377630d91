/* catalog.h - the transactional home of metadata: a few named objects, each a sorted map from keys to values.
 *
 * The interface is what both one host (Berkeley DB) and a cluster (RADOS omaps) can give: a change is atomic within one
 * object and conditional on its revision (compare-and-set); nothing spans two objects; every wait is finite.
 * Threads: every call blocks; one thread at a time.
 * Errors: 0 or negative errno: -ESTALE the object's revision is not the expected one (nothing changed); -EIO; -ENOSPC;
 * -EBADMSG the catalog is damaged; -ETIMEDOUT; -EINVAL: a name, key or value is empty where it must not be, or too long.
 * Ownership: keys and values are borrowed for the call, those given to a callback for that callback. */
#ifndef PARALLAX_STORE_CATALOG_H
#define PARALLAX_STORE_CATALOG_H
#include <stddef.h>
#include <stdint.h>

#define CATALOG_OBJECT_NAME_MAX 63u
#define CATALOG_KEY_MAX 512u
#define CATALOG_VALUE_MAX (16u << 20)

struct catalog;

struct catalog_change {
    const void *key;
    size_t key_length;   /* 1 … CATALOG_KEY_MAX */
    const void *value;   /* NULL removes the key; removing an absent key is fine */
    size_t value_length;
};

struct catalog_ops {
    int (*scan)(struct catalog *c, const char *object, uint64_t *revision,
                int (*item)(void *ctx, const void *key, size_t key_length, const void *value, size_t value_length), void *ctx);
    int (*get)(struct catalog *c, const char *object, const void *key, size_t key_length, void *value, size_t size, size_t *value_length);
    int (*apply)(struct catalog *c, const char *object, uint64_t expected_revision, const struct catalog_change *changes, unsigned count);
    int (*lease_take)(struct catalog *c, const char *name, const char *holder, uint32_t ttl_ms, char *other, size_t other_size);
    int (*lease_drop)(struct catalog *c, const char *name, const char *holder);
    void (*close)(struct catalog *c);
};

struct catalog {
    const struct catalog_ops *ops;
};

/* Calls item for every key in order of its bytes (memcmp, shorter first); a non-zero return ends the scan and is returned. item
 * must not call the catalog; it and revision may be NULL. An object that was never written is empty and of revision 0. */
static inline int catalog_scan(struct catalog *c, const char *object, uint64_t *revision,
                               int (*item)(void *ctx, const void *key, size_t key_length, const void *value, size_t value_length), void *ctx)
{
    return c->ops->scan(c, object, revision, item, ctx);
}

/* The value of one key, of which there is room for size bytes. -ENOENT: no such key; -EMSGSIZE: it is longer. */
static inline int catalog_get(struct catalog *c, const char *object, const void *key, size_t key_length, void *value, size_t size, size_t *value_length)
{
    return c->ops->get(c, object, key, key_length, value, size, value_length);
}

/* Makes all changes to one object, in order, durable on return, and sets its revision to expected_revision + 1; or none of them.
 * After -ESTALE and -EINVAL nothing has changed; after another error the object's revision tells whether it has. */
static inline int catalog_apply(struct catalog *c, const char *object, uint64_t expected_revision, const struct catalog_change *changes, unsigned count)
{
    return c->ops->apply(c, object, expected_revision, changes, count);
}

/* Takes or renews the lease of that name. -EBUSY: held by somebody else, whose name is put into other (may be NULL). On one
 * host leases live with the open catalog: the store's lock is what keeps other processes out. */
static inline int catalog_lease_take(struct catalog *c, const char *name, const char *holder, uint32_t ttl_ms, char *other, size_t other_size)
{
    return c->ops->lease_take(c, name, holder, ttl_ms, other, other_size);
}
/* -ENOENT: not held by holder. */
static inline int catalog_lease_drop(struct catalog *c, const char *name, const char *holder) { return c->ops->lease_drop(c, name, holder); }
static inline void catalog_close(struct catalog *c) { c->ops->close(c); }
#endif
