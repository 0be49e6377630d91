/* catalog_bdb.c - see catalog_bdb.h.
 *
 * One btree holds all objects. The record OBJECT has the object's revision (8 bytes); the records OBJECT NUL KEY have its
 * contents. NUL sorts first, so an object's records are neighbours and come in the order of their keys.
 * 1. A change is one transaction: revision compared, records put and removed, revision put, log synced. So an object is at
 *    its old revision or whole at its new one.
 * 2. Berkeley DB supposes that a page write is not torn: pages are 512 bytes, a sector's size, and carry checksums.
 * 3. The environment is private to the process (no shared regions, no locks: the store's lock and `lock` serialise), and is
 *    recovered at every open.
 * 4. The first failure that leaves the environment in doubt is latched; nothing is written after it. */
#include "parallax/store/catalog_bdb.h"

#include "base/endian.h"
#include "base/log.h"
#include "parallax/store/lease_table.h"

#include <db.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DATABASE_FILE "catalog.db"
#define PAGE_BYTES 512u
#define CACHE_BYTES (4u << 20)
#define LOG_FILE_BYTES (4u << 20)
#define LOG_BUFFER_BYTES (512u << 10)
#define CHECKPOINT_BYTES (4u << 20)
#define RECORD_KEY_MAX (CATALOG_OBJECT_NAME_MAX + 1 + CATALOG_KEY_MAX)

struct catalog_bdb {
    struct catalog catalog;
    pthread_mutex_t lock;
    DB_ENV *env;
    DB *db;
    struct lease_table leases;
    int latched;             /* 0, or the error that every further call gets */
    bool damaged;            /* Berkeley DB spoke of a checksum */
    bool opening;            /* its messages go to first_message, for the caller's error */
    char first_message[256];
    int directory_fd;
    uint64_t unsaved_bytes;  /* applied since the last checkpoint */
    uint32_t log_file;       /* whose directory entry is durable */
};

static struct catalog_bdb *bdb_of(struct catalog *c) { return (struct catalog_bdb *)c; }

static void message(const DB_ENV *env, const char *prefix, const char *text)
{
    (void)prefix;
    struct catalog_bdb *b = env->app_private;
    if (strstr(text, "checksum") || strstr(text, "past end of log"))
        b->damaged = true;
    if (!b->first_message[0])
        snprintf(b->first_message, sizeof b->first_message, "%s", text);
    if (!b->opening)
        log_error("catalog: %s", text);
}

/* Positive codes are the system's. Of Berkeley DB's own, those about contents mean damage; a panic means what caused it. */
static int map_error(const struct catalog_bdb *b, int rc)
{
    switch (rc) {
    case 0:
        return 0;
    case DB_RUNRECOVERY:
        return b->damaged ? -EBADMSG : -EIO;
    case DB_PAGE_NOTFOUND:
    case DB_VERIFY_BAD:
    case DB_LOG_VERIFY_BAD:
    case DB_OLD_VERSION:
    case DB_VERSION_MISMATCH:
    case DB_SECONDARY_BAD:
        return -EBADMSG;
    case DB_LOCK_NOTGRANTED:
    case DB_LOCK_DEADLOCK:
    case DB_TIMEOUT:
        return -ETIMEDOUT;
    default:
        return rc > 0 ? -rc : -EIO;
    }
}

/* Maps rc and latches whatever is not a plain refusal. */
static int fail(struct catalog_bdb *b, int rc)
{
    int err = map_error(b, rc);
    if (err && err != -ENOMEM && !b->latched) {
        b->latched = err;
        log_error("catalog: failed and is closed to further changes error=%d", err);
    }
    return err;
}

static size_t object_key(char *buf, const char *object, const void *key, size_t key_length)
{
    size_t n = strlen(object);
    memcpy(buf, object, n);
    if (!key)
        return n;
    buf[n++] = 0;
    memcpy(buf + n, key, key_length);
    return n + key_length;
}

static bool object_valid(const char *object)
{
    size_t n = strlen(object);
    return n && n <= CATALOG_OBJECT_NAME_MAX;
}

static DBT dbt(void *data, size_t length)
{
    return (DBT){ .data = data, .size = (u_int32_t)length, .ulen = (u_int32_t)length, .flags = DB_DBT_USERMEM };
}

/* A Berkeley DB code. An object that was never written has revision 0. */
static int read_revision(struct catalog_bdb *b, DB_TXN *txn, const char *object, uint64_t *revision)
{
    char name[RECORD_KEY_MAX];
    unsigned char value[8];
    DBT k = dbt(name, object_key(name, object, NULL, 0)), v = dbt(value, sizeof value);
    int rc = b->db->get(b->db, txn, &k, &v, 0);
    if (rc == DB_NOTFOUND) {
        *revision = 0;
        return 0;
    }
    if (rc == 0 && v.size != sizeof value)
        rc = DB_VERIFY_BAD;
    if (rc == DB_BUFFER_SMALL)
        rc = DB_VERIFY_BAD;
    if (rc == 0)
        *revision = get_le64(value);
    return rc;
}

static int scan_items(struct catalog_bdb *b, const char *object,
                      int (*item)(void *ctx, const void *key, size_t key_length, const void *value, size_t value_length), void *ctx)
{
    char prefix[RECORD_KEY_MAX];
    size_t n = object_key(prefix, object, "", 0);
    DBT k = { .flags = DB_DBT_REALLOC }, v = { .flags = DB_DBT_REALLOC };
    DBC *cursor;
    int rc = b->db->cursor(b->db, NULL, &cursor, 0), stopped = 0;
    if (rc)
        return fail(b, rc);
    k.data = malloc(n);
    if (!k.data) {
        cursor->close(cursor);
        return -ENOMEM;
    }
    memcpy(k.data, prefix, n);
    k.size = (u_int32_t)n;
    for (rc = cursor->get(cursor, &k, &v, DB_SET_RANGE); rc == 0; rc = cursor->get(cursor, &k, &v, DB_NEXT)) {
        if (k.size < n || memcmp(k.data, prefix, n) != 0)
            break;
        stopped = item(ctx, (char *)k.data + n, k.size - n, v.data ? v.data : "", v.size);
        if (stopped)
            break;
    }
    int closed = cursor->close(cursor);
    free(k.data);
    free(v.data);
    if (rc == 0 || rc == DB_NOTFOUND)
        rc = closed;
    return rc ? fail(b, rc) : stopped;
}

static int scan(struct catalog *c, const char *object, uint64_t *revision,
                int (*item)(void *ctx, const void *key, size_t key_length, const void *value, size_t value_length), void *ctx)
{
    struct catalog_bdb *b = bdb_of(c);
    if (!object_valid(object))
        return -EINVAL;
    pthread_mutex_lock(&b->lock);
    uint64_t now = 0;
    int err = b->latched;
    if (!err)
        err = fail(b, read_revision(b, NULL, object, &now));
    if (!err && item)
        err = scan_items(b, object, item, ctx);
    if (!err && revision)
        *revision = now;
    pthread_mutex_unlock(&b->lock);
    return err;
}

/* A Berkeley DB code. */
static int put_changes(struct catalog_bdb *b, DB_TXN *txn, const char *object, const struct catalog_change *changes, unsigned count)
{
    char key[RECORD_KEY_MAX];
    for (unsigned i = 0; i < count; i++) {
        DBT k = dbt(key, object_key(key, object, changes[i].key, changes[i].key_length));
        DBT v = dbt((void *)(uintptr_t)changes[i].value, changes[i].value_length);
        int rc = changes[i].value ? b->db->put(b->db, txn, &k, &v, 0) : b->db->del(b->db, txn, &k, 0);
        if (rc && !(rc == DB_NOTFOUND && !changes[i].value))
            return rc;
    }
    return 0;
}

static int put_revision(struct catalog_bdb *b, DB_TXN *txn, const char *object, uint64_t revision)
{
    char name[RECORD_KEY_MAX];
    unsigned char value[8];
    put_le64(value, revision);
    DBT k = dbt(name, object_key(name, object, NULL, 0)), v = dbt(value, sizeof value);
    return b->db->put(b->db, txn, &k, &v, 0);
}

/* One transaction. *stale: the revision differed, and nothing was changed. */
static int transaction(struct catalog_bdb *b, const char *object, uint64_t expected, const struct catalog_change *changes,
                       unsigned count, bool *stale)
{
    DB_TXN *txn;
    uint64_t now;
    *stale = false;
    int rc = b->env->txn_begin(b->env, NULL, &txn, 0);
    if (rc)
        return rc;
    rc = read_revision(b, txn, object, &now);
    if (!rc && now != expected) {
        *stale = true;
        return txn->abort(txn);
    }
    if (!rc)
        rc = put_changes(b, txn, object, changes, count);
    if (!rc)
        rc = put_revision(b, txn, object, expected + 1);
    if (!rc)
        return txn->commit(txn, 0);
    txn->abort(txn);
    return rc;
}

/* A log file's directory entry has to be as durable as what is in it. */
static int sync_directory(struct catalog_bdb *b)
{
    DB_LOG_STAT *st;
    int rc = b->env->log_stat(b->env, &st, 0);
    if (rc)
        return rc;
    uint32_t file = st->st_cur_file;
    free(st);
    if (file == b->log_file)
        return 0;
    if (fsync(b->directory_fd) < 0)
        return errno;
    b->log_file = file;
    return 0;
}

/* Writes the pages home, so that recovery is short and old log files go. */
static int checkpoint(struct catalog_bdb *b)
{
    int rc = b->env->txn_checkpoint(b->env, 0, 0, DB_FORCE);
    if (!rc)
        b->unsaved_bytes = 0;
    return rc;
}

static uint64_t changes_bytes(const struct catalog_change *changes, unsigned count)
{
    uint64_t bytes = 0;
    for (unsigned i = 0; i < count; i++)
        bytes += changes[i].key_length + changes[i].value_length + 64;
    return bytes;
}

static bool changes_valid(const struct catalog_change *changes, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        if (!changes[i].key || !changes[i].key_length || changes[i].key_length > CATALOG_KEY_MAX ||
            changes[i].value_length > CATALOG_VALUE_MAX)
            return false;
    return true;
}

static int apply(struct catalog *c, const char *object, uint64_t expected_revision, const struct catalog_change *changes, unsigned count)
{
    struct catalog_bdb *b = bdb_of(c);
    if (!object_valid(object) || !changes_valid(changes, count))
        return -EINVAL;
    pthread_mutex_lock(&b->lock);
    int err = b->latched;
    bool stale = false;
    if (!err) {
        int rc = transaction(b, object, expected_revision, changes, count, &stale);
        if (!rc && !stale)
            rc = sync_directory(b);
        b->unsaved_bytes += changes_bytes(changes, count);
        if (!rc && b->unsaved_bytes > CHECKPOINT_BYTES)
            rc = checkpoint(b);
        err = fail(b, rc);
    }
    pthread_mutex_unlock(&b->lock);
    return err ? err : stale ? -ESTALE : 0;
}

static int lease_take(struct catalog *c, const char *name, const char *holder, uint32_t ttl_ms, char *other, size_t other_size)
{
    struct catalog_bdb *b = bdb_of(c);
    pthread_mutex_lock(&b->lock);
    int err = lease_table_take(&b->leases, name, holder, ttl_ms, other, other_size);
    pthread_mutex_unlock(&b->lock);
    return err;
}

static int lease_drop(struct catalog *c, const char *name, const char *holder)
{
    struct catalog_bdb *b = bdb_of(c);
    pthread_mutex_lock(&b->lock);
    int err = lease_table_drop(&b->leases, name, holder);
    pthread_mutex_unlock(&b->lock);
    return err;
}

static void close_catalog(struct catalog *c)
{
    struct catalog_bdb *b = bdb_of(c);
    if (b->db && !b->latched && b->unsaved_bytes)
        fail(b, checkpoint(b));
    /* What a failed environment says while it is taken down adds nothing to what it said when it failed. */
    b->opening = true;
    if (b->db)
        b->db->close(b->db, b->latched ? DB_NOSYNC : 0);
    if (b->env)
        b->env->close(b->env, 0);
    if (b->directory_fd >= 0)
        close(b->directory_fd);
    lease_table_fini(&b->leases);
    pthread_mutex_destroy(&b->lock);
    free(b);
}

static const struct catalog_ops bdb_ops = {
    .scan = scan, .apply = apply, .lease_take = lease_take, .lease_drop = lease_drop, .close = close_catalog,
};

/* A Berkeley DB code. */
static int open_environment(struct catalog_bdb *b, const char *directory, bool create)
{
    int rc = db_env_create(&b->env, 0);
    if (rc) {
        b->env = NULL;
        return rc;
    }
    DB_ENV *env = b->env;
    env->app_private = b;
    env->set_errcall(env, message);
    if ((rc = env->set_cachesize(env, 0, CACHE_BYTES, 1)) || (rc = env->set_lg_max(env, LOG_FILE_BYTES)) ||
        (rc = env->set_lg_bsize(env, LOG_BUFFER_BYTES)) || (rc = env->log_set_config(env, DB_LOG_AUTO_REMOVE, 1)))
        return rc;
    rc = env->open(env, directory, DB_CREATE | DB_PRIVATE | DB_INIT_TXN | DB_INIT_LOG | DB_INIT_MPOOL | DB_RECOVER | DB_THREAD, 0600);
    if (!rc)
        rc = db_create(&b->db, env, 0);
    if (rc) {
        b->db = NULL;
        return rc;
    }
    if (create && ((rc = b->db->set_pagesize(b->db, PAGE_BYTES)) || (rc = b->db->set_flags(b->db, DB_CHKSUM))))
        return rc;
    return b->db->open(b->db, NULL, DATABASE_FILE, NULL, DB_BTREE, DB_AUTO_COMMIT | DB_THREAD | (create ? DB_CREATE | DB_EXCL : 0), 0600);
}

/* While opening, whatever is not the system's word about the device, memory or rights is about the contents. */
static int map_open_error(int rc)
{
    switch (rc) {
    case ENOSPC: case EIO: case ENOMEM: case EACCES: case EPERM: case EROFS: case EMFILE: case ENFILE: case EDQUOT:
        return -rc;
    default:
        return -EBADMSG;
    }
}

static int open_catalog(const char *directory, bool create, struct catalog **out, struct error *err)
{
    struct catalog_bdb *b = calloc(1, sizeof *b);
    if (!b)
        return error_set(err, -ENOMEM, "cannot open the catalog in %s: out of memory", directory);
    b->catalog.ops = &bdb_ops;
    b->opening = true;
    pthread_mutex_init(&b->lock, NULL);
    lease_table_init(&b->leases);
    int rc = 0, code = 0;
    b->directory_fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (b->directory_fd < 0) {
        code = error_set(err, -errno, "cannot open the catalog directory %s: %s", directory, strerror(errno));
    } else if (!create && faccessat(b->directory_fd, DATABASE_FILE, F_OK, 0) < 0 && errno == ENOENT) {
        code = error_set(err, -ENOENT, "there is no catalog in %s: the file " DATABASE_FILE " is missing", directory);
    } else if ((rc = open_environment(b, directory, create)) || (rc = sync_directory(b)) || (create && (rc = checkpoint(b)))) {
        code = map_open_error(rc);
        error_set(err, code, code == -EBADMSG ? "the catalog in %s is damaged: %s" : "cannot open the catalog in %s: %s", directory,
                  b->first_message[0] ? b->first_message : db_strerror(rc));
        b->latched = code;
    }
    if (code) {
        b->latched = code;
        close_catalog(&b->catalog);
        return code;
    }
    b->opening = false;
    b->first_message[0] = 0;
    *out = &b->catalog;
    return 0;
}

int catalog_bdb_create(const char *directory, struct catalog **out, struct error *err) { return open_catalog(directory, true, out, err); }
int catalog_bdb_open(const char *directory, struct catalog **out, struct error *err) { return open_catalog(directory, false, out, err); }
