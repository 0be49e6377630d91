/* memory_catalog.c - the catalog of the memory store: a list of objects, each a sorted array of entries.
 *
 * A change first allocates all it needs, then cannot fail: so it is whole or absent, as catalog.h asks. */
#include "parallax/store/lease_table.h"
#include "parallax/store/memory_private.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct entry {
    size_t key_length, value_length;
    unsigned char data[]; /* key, then value */
};

struct object {
    struct list_node link;
    char name[CATALOG_OBJECT_NAME_MAX + 1];
    uint64_t revision;
    struct entry **entries;
    size_t count, room;
};

struct memory_catalog {
    struct catalog catalog;
    pthread_mutex_t lock;
    struct list_node objects;
    struct lease_table leases;
    bool dead;
    uint64_t applies, fail_at; /* fail_at: counted like applies; 0: none */
    int fail_error;
    bool fail_after;
};

static struct memory_catalog *memory_of(struct catalog *c) { return (struct memory_catalog *)c; }

static struct object *find(struct memory_catalog *m, const char *name)
{
    list_for_each(n, &m->objects) {
        struct object *o = container_of(n, struct object, link);
        if (strcmp(o->name, name) == 0)
            return o;
    }
    return NULL;
}

static struct object *find_or_add(struct memory_catalog *m, const char *name)
{
    struct object *o = find(m, name);
    if (o)
        return o;
    o = calloc(1, sizeof *o);
    if (!o)
        return NULL;
    strcpy(o->name, name);
    list_add_tail(&m->objects, &o->link);
    return o;
}

static struct entry *entry_make(const void *key, size_t key_length, const void *value, size_t value_length)
{
    struct entry *e = malloc(sizeof *e + key_length + value_length);
    if (!e)
        return NULL;
    e->key_length = key_length;
    e->value_length = value_length;
    memcpy(e->data, key, key_length);
    if (value_length)
        memcpy(e->data + key_length, value, value_length);
    return e;
}

static int compare(const struct entry *e, const void *key, size_t key_length)
{
    size_t n = e->key_length < key_length ? e->key_length : key_length;
    int c = memcmp(e->data, key, n);
    return c ? c : (e->key_length > key_length) - (e->key_length < key_length);
}

/* The first place whose key is not smaller; *equal: it has that key. */
static size_t place_of(const struct object *o, const void *key, size_t key_length, bool *equal)
{
    size_t low = 0, high = o->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (compare(o->entries[middle], key, key_length) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    *equal = low < o->count && compare(o->entries[low], key, key_length) == 0;
    return low;
}

/* fresh: the entry to put, or NULL to remove. There is room. */
static void change_one(struct object *o, const struct catalog_change *c, struct entry *fresh)
{
    bool equal;
    size_t at = place_of(o, c->key, c->key_length, &equal);
    if (equal)
        free(o->entries[at]);
    if (equal && fresh) {
        o->entries[at] = fresh;
    } else if (equal) {
        memmove(o->entries + at, o->entries + at + 1, (--o->count - at) * sizeof *o->entries);
    } else if (fresh) {
        memmove(o->entries + at + 1, o->entries + at, (o->count++ - at) * sizeof *o->entries);
        o->entries[at] = fresh;
    }
}

static int reserve(struct object *o, size_t more)
{
    if (o->count + more <= o->room)
        return 0;
    size_t room = (o->count + more) * 2;
    struct entry **entries = realloc(o->entries, room * sizeof *entries);
    if (!entries)
        return -ENOMEM;
    o->entries = entries;
    o->room = room;
    return 0;
}

static int apply_changes(struct object *o, const struct catalog_change *changes, unsigned count)
{
    struct entry **fresh = calloc(count ? count : 1, sizeof *fresh);
    int err = fresh ? reserve(o, count) : -ENOMEM;
    for (unsigned i = 0; !err && i < count; i++) {
        if (!changes[i].value)
            continue;
        fresh[i] = entry_make(changes[i].key, changes[i].key_length, changes[i].value, changes[i].value_length);
        if (!fresh[i])
            err = -ENOMEM;
    }
    for (unsigned i = 0; i < count && fresh; i++)
        if (err)
            free(fresh[i]);
        else
            change_one(o, &changes[i], fresh[i]);
    free(fresh);
    return err;
}

static bool valid(const char *object, const struct catalog_change *changes, unsigned count)
{
    if (!*object || strlen(object) > CATALOG_OBJECT_NAME_MAX)
        return false;
    for (unsigned i = 0; i < count; i++)
        if (!changes[i].key || !changes[i].key_length || changes[i].key_length > CATALOG_KEY_MAX ||
            changes[i].value_length > CATALOG_VALUE_MAX)
            return false;
    return true;
}

static int apply_locked(struct memory_catalog *m, const char *object, uint64_t expected, const struct catalog_change *changes, unsigned count)
{
    if (m->dead)
        return -EIO;
    bool fails = ++m->applies == m->fail_at;
    if (fails && !m->fail_after)
        return m->fail_error;
    struct object *o = find(m, object);
    if ((o ? o->revision : 0) != expected)
        return -ESTALE;
    o = find_or_add(m, object);
    int err = o ? apply_changes(o, changes, count) : -ENOMEM;
    if (err)
        return err;
    o->revision++;
    return fails ? m->fail_error : 0;
}

static int apply(struct catalog *c, const char *object, uint64_t expected_revision, const struct catalog_change *changes, unsigned count)
{
    struct memory_catalog *m = memory_of(c);
    if (!valid(object, changes, count))
        return -EINVAL;
    pthread_mutex_lock(&m->lock);
    int err = apply_locked(m, object, expected_revision, changes, count);
    pthread_mutex_unlock(&m->lock);
    return err;
}

static int get(struct catalog *c, const char *object, const void *key, size_t key_length, void *value, size_t size, size_t *value_length)
{
    struct memory_catalog *m = memory_of(c);
    bool found = false;
    if (!valid(object, NULL, 0) || !key_length || key_length > CATALOG_KEY_MAX)
        return -EINVAL;
    pthread_mutex_lock(&m->lock);
    const struct object *o = find(m, object);
    size_t at = o ? place_of(o, key, key_length, &found) : 0;
    const struct entry *e = found ? o->entries[at] : NULL;
    int err = m->dead ? -EIO : !e ? -ENOENT : e->value_length > size ? -EMSGSIZE : 0;
    if (!err) {
        memcpy(value, e->data + e->key_length, e->value_length);
        *value_length = e->value_length;
    }
    pthread_mutex_unlock(&m->lock);
    return err;
}

static int scan(struct catalog *c, const char *object, uint64_t *revision,
                int (*item)(void *ctx, const void *key, size_t key_length, const void *value, size_t value_length), void *ctx)
{
    struct memory_catalog *m = memory_of(c);
    if (!valid(object, NULL, 0))
        return -EINVAL;
    pthread_mutex_lock(&m->lock);
    struct object *o = find(m, object);
    int err = m->dead ? -EIO : 0;
    for (size_t i = 0; !err && item && o && i < o->count; i++) {
        struct entry *e = o->entries[i];
        err = item(ctx, e->data, e->key_length, e->data + e->key_length, e->value_length);
    }
    if (!err && revision)
        *revision = o ? o->revision : 0;
    pthread_mutex_unlock(&m->lock);
    return err;
}

static int lease_take(struct catalog *c, const char *name, const char *holder, uint32_t ttl_ms, char *other, size_t other_size)
{
    struct memory_catalog *m = memory_of(c);
    pthread_mutex_lock(&m->lock);
    int err = m->dead ? -EIO : lease_table_take(&m->leases, name, holder, ttl_ms, other, other_size);
    pthread_mutex_unlock(&m->lock);
    return err;
}

static int lease_drop(struct catalog *c, const char *name, const char *holder)
{
    struct memory_catalog *m = memory_of(c);
    pthread_mutex_lock(&m->lock);
    int err = m->dead ? -EIO : lease_table_drop(&m->leases, name, holder);
    pthread_mutex_unlock(&m->lock);
    return err;
}

static void close_catalog(struct catalog *c)
{
    struct memory_catalog *m = memory_of(c);
    struct list_node *n;
    while ((n = list_pop(&m->objects))) {
        struct object *o = container_of(n, struct object, link);
        for (size_t i = 0; i < o->count; i++)
            free(o->entries[i]);
        free(o->entries);
        free(o);
    }
    lease_table_fini(&m->leases);
    pthread_mutex_destroy(&m->lock);
    free(m);
}

static const struct catalog_ops memory_ops = {
    .scan = scan, .get = get, .apply = apply, .lease_take = lease_take, .lease_drop = lease_drop, .close = close_catalog,
};

int memory_catalog_create(struct catalog **out)
{
    struct memory_catalog *m = calloc(1, sizeof *m);
    if (!m)
        return -ENOMEM;
    m->catalog.ops = &memory_ops;
    pthread_mutex_init(&m->lock, NULL);
    list_init(&m->objects);
    lease_table_init(&m->leases);
    *out = &m->catalog;
    return 0;
}

static int copy_object(struct memory_catalog *to, const struct object *from)
{
    struct object *o = find_or_add(to, from->name);
    int err = o ? reserve(o, from->count) : -ENOMEM;
    for (size_t i = 0; !err && i < from->count; i++) {
        const struct entry *e = from->entries[i];
        o->entries[i] = entry_make(e->data, e->key_length, e->data + e->key_length, e->value_length);
        if (o->entries[i])
            o->count++;
        else
            err = -ENOMEM;
    }
    if (!err)
        o->revision = from->revision;
    return err;
}

int memory_catalog_copy(struct catalog *from, struct catalog **out)
{
    struct memory_catalog *m = memory_of(from);
    struct catalog *copy;
    int err = memory_catalog_create(&copy);
    if (err)
        return err;
    pthread_mutex_lock(&m->lock);
    list_for_each(n, &m->objects)
        if (!err)
            err = copy_object(memory_of(copy), container_of(n, struct object, link));
    pthread_mutex_unlock(&m->lock);
    if (err)
        catalog_close(copy);
    else
        *out = copy;
    return err;
}

void memory_catalog_die(struct catalog *c)
{
    struct memory_catalog *m = memory_of(c);
    pthread_mutex_lock(&m->lock);
    m->dead = true;
    pthread_mutex_unlock(&m->lock);
}

void memory_catalog_fail_apply(struct catalog *c, uint64_t nth, int error, bool after_effect)
{
    struct memory_catalog *m = memory_of(c);
    pthread_mutex_lock(&m->lock);
    m->fail_at = nth ? m->applies + nth : 0;
    m->fail_error = error;
    m->fail_after = after_effect;
    pthread_mutex_unlock(&m->lock);
}

uint64_t memory_catalog_apply_count(struct catalog *c)
{
    struct memory_catalog *m = memory_of(c);
    pthread_mutex_lock(&m->lock);
    uint64_t n = m->applies;
    pthread_mutex_unlock(&m->lock);
    return n;
}
