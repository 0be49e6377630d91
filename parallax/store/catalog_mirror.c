/* catalog_mirror.c - see catalog_mirror.h.
 *
 * 1. A change is in the copy, durably, before the catalog beneath gets it: a copy is never behind.
 * 2. After a change that failed anywhere nobody knows which of the two has it. The next one begins with a dump of what the
 *    catalog beneath has; so does settling, if the revisions differed when it was opened.
 * 3. A copy that cannot follow is made void, durably, before the catalog goes on without it. */
#include "parallax/store/catalog_mirror.h"

#include "base/list.h"
#include "base/log.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

static const char copied_object[] = "store";

struct catalog_mirror {
    struct catalog catalog;
    struct catalog *inner;
    struct catalog_copy *copy;
    bool stale;       /* a dump is due */
    atomic_bool held; /* the copy is whole, unless stale */
    int copy_age;     /* when it was opened */
};

static struct catalog_mirror *mirror_of(struct catalog *c) { return container_of(c, struct catalog_mirror, catalog); }

/* Goes on without a copy. */
static int let_go(struct catalog_mirror *m)
{
    int rc = catalog_copy_invalidate(m->copy);
    if (!rc && atomic_exchange(&m->held, false))
        log_warning("the catalog's copy does not fit into its place on the device any more; the device has none now");
    return rc;
}

static int refresh(struct catalog_mirror *m)
{
    int rc = catalog_copy_dump(m->copy, m->inner, copied_object);
    if (rc == -EFBIG)
        rc = let_go(m);
    else if (!rc)
        atomic_store(&m->held, true);
    m->stale = rc != 0;
    return rc;
}

static int append(struct catalog_mirror *m, uint64_t expected, const struct catalog_change *changes, unsigned count)
{
    uint64_t revision;
    if (!catalog_copy_whole(m->copy, &revision))
        return 0;
    return revision == expected ? catalog_copy_append(m->copy, changes, count) : -ESTALE;
}

/* A change for which there is no room behind a fresh dump either costs the copy until the next one. */
static int record(struct catalog_mirror *m, uint64_t expected, const struct catalog_change *changes, unsigned count)
{
    bool fresh = m->stale;
    int rc = fresh ? refresh(m) : 0;
    if (!rc)
        rc = append(m, expected, changes, count);
    if (rc == -EFBIG && !fresh && !(rc = refresh(m)))
        rc = append(m, expected, changes, count);
    if (rc == -EFBIG && !(rc = let_go(m)))
        m->stale = true;
    else if (rc && rc != -ESTALE)
        m->stale = true;
    return rc;
}

static int apply(struct catalog *c, const char *object, uint64_t expected_revision, const struct catalog_change *changes, unsigned count)
{
    struct catalog_mirror *m = mirror_of(c);
    if (strcmp(object, copied_object) != 0)
        return catalog_apply(m->inner, object, expected_revision, changes, count);
    int rc = record(m, expected_revision, changes, count);
    if (rc)
        return rc;
    rc = catalog_apply(m->inner, object, expected_revision, changes, count);
    if (rc)
        m->stale = true;
    return rc;
}

static int scan(struct catalog *c, const char *object, uint64_t *revision,
                int (*item)(void *ctx, const void *key, size_t key_length, const void *value, size_t value_length), void *ctx)
{
    return catalog_scan(mirror_of(c)->inner, object, revision, item, ctx);
}

static int get(struct catalog *c, const char *object, const void *key, size_t key_length, void *value, size_t size, size_t *value_length)
{
    return catalog_get(mirror_of(c)->inner, object, key, key_length, value, size, value_length);
}

static int lease_take(struct catalog *c, const char *name, const char *holder, uint32_t ttl_ms, char *other, size_t other_size)
{
    return catalog_lease_take(mirror_of(c)->inner, name, holder, ttl_ms, other, other_size);
}

static int lease_drop(struct catalog *c, const char *name, const char *holder) { return catalog_lease_drop(mirror_of(c)->inner, name, holder); }

static void close_mirror(struct catalog *c)
{
    struct catalog_mirror *m = mirror_of(c);
    catalog_close(m->inner);
    catalog_copy_close(m->copy);
    free(m);
}

static const struct catalog_ops mirror_ops = {
    .scan = scan, .get = get, .apply = apply, .lease_take = lease_take, .lease_drop = lease_drop, .close = close_mirror,
};

int catalog_mirror_check(struct catalog *inner, const struct catalog_copy *copy)
{
    uint64_t own, copied;
    int rc = catalog_scan(inner, copied_object, &own, NULL, NULL);
    return !rc && !catalog_copy_foreign(copy) && catalog_copy_whole(copy, &copied) && copied > own + 1 ? -ESTALE : rc;
}

int catalog_mirror_open(struct catalog *inner, struct catalog_copy *copy, bool anew, struct catalog **out)
{
    uint64_t own, copied;
    struct catalog_mirror *m = calloc(1, sizeof *m);
    if (!m)
        return -ENOMEM;
    *m = (struct catalog_mirror){ .catalog = { &mirror_ops }, .inner = inner, .copy = copy };
    bool whole = catalog_copy_whole(copy, &copied);
    anew = anew || catalog_copy_foreign(copy);
    atomic_init(&m->held, whole);
    int rc = anew ? 0 : catalog_mirror_check(inner, copy);
    if (!rc)
        rc = catalog_scan(inner, copied_object, &own, NULL, NULL);
    if (rc) {
        free(m);
        return rc;
    }
    m->stale = anew || !whole || copied != own;
    m->copy_age = anew || !whole ? 0 : (copied > own) - (copied < own);
    *out = &m->catalog;
    return 0;
}

int catalog_mirror_settle(struct catalog *c)
{
    struct catalog_mirror *m = mirror_of(c);
    return m->stale ? refresh(m) : 0;
}

int catalog_mirror_copy_age(const struct catalog *c) { return container_of(c, struct catalog_mirror, catalog)->copy_age; }

bool catalog_mirror_held(const struct catalog *c) { return atomic_load(&container_of(c, struct catalog_mirror, catalog)->held); }
