/* catalog_bdb.c - see catalog_bdb.h.
 *
 * One btree holds all objects. The record OBJECT has the object's revision (8 bytes); the records OBJECT NUL KEY have its
 * contents. NUL sorts first, so an object's records are neighbours and come in the order of their keys. The record NUL (no
 * object's name) counts all changes ever made.
 * 1. A change is one transaction: revision compared, records put and removed, revision and count put, log synced. So an
 *    object is at its old revision or whole at its new one.
 * 2. After the transaction and before the change is acknowledged, the witness records the count and the log's last record. A
 *    catalog that counts fewer than its witness when it is opened has lost acknowledged changes, and is damaged; so is one
 *    whose log has not that record any more, whatever it counts.
 * 3. The first failure that leaves the environment in doubt is latched; nothing is written after it. But for a full disk:
 *    then the reserve is released, the environment recovered, and the change tried once more; and if that fails, every later
 *    call begins by trying to recover. */
#include "parallax/store/catalog_bdb.h"

#include "base/endian.h"
#include "base/log.h"
#include "parallax/store/catalog_bdb_private.h"
#include "parallax/store/catalog_reserve.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CHECKPOINT_BYTES (4u << 20)
#define LOG_FILES_KEPT 8u /* at an opening */
/* What a change may cost: its pages in the log and in the database, and a new log file with the checkpoint. */
#define ROOM_FIXED_BYTES (8u << 20)
#define ROOM_FACTOR 4u
#define RECORD_KEY_MAX (CATALOG_OBJECT_NAME_MAX + 1 + CATALOG_KEY_MAX)

static const char count_key[1] = "";

static struct catalog_bdb *bdb_of(struct catalog *c) { return (struct catalog_bdb *)c; }

/* Maps rc and latches whatever is not a plain refusal. */
static int fail(struct catalog_bdb *b, int rc)
{
    int err = catalog_bdb_map_error(b, rc);
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

/* The 8-byte record of that key; one that was never written is 0. A Berkeley DB code. */
static int get_number(struct catalog_bdb *b, DB_TXN *txn, const char *key, size_t key_length, uint64_t *number)
{
    unsigned char value[8];
    DBT k = dbt((void *)(uintptr_t)key, key_length), v = dbt(value, sizeof value);
    int rc = b->db->get(b->db, txn, &k, &v, 0);
    if (rc == DB_NOTFOUND) {
        *number = 0;
        return 0;
    }
    if (rc == DB_BUFFER_SMALL || (rc == 0 && v.size != sizeof value))
        return DB_VERIFY_BAD;
    if (rc == 0)
        *number = get_le64(value);
    return rc;
}

static int put_number(struct catalog_bdb *b, DB_TXN *txn, const char *key, size_t key_length, uint64_t number)
{
    unsigned char value[8];
    put_le64(value, number);
    DBT k = dbt((void *)(uintptr_t)key, key_length), v = dbt(value, sizeof value);
    return b->db->put(b->db, txn, &k, &v, 0);
}

static int get_revision(struct catalog_bdb *b, DB_TXN *txn, const char *object, uint64_t *revision)
{
    return get_number(b, txn, object, strlen(object), revision);
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

/* The latched error, but for a full disk: then there may be room by now, and recovery makes the environment usable again.
 * A negative errno. */
static int revive(struct catalog_bdb *b)
{
    if (b->latched != -ENOSPC)
        return b->latched;
    uint64_t count;
    catalog_bdb_env_close(b, false);
    b->quiet = true;
    int rc = catalog_bdb_env_open(b, false);
    b->quiet = false;
    if (!rc)
        rc = get_number(b, NULL, count_key, sizeof count_key, &count);
    if (rc)
        return catalog_bdb_map_error(b, rc);
    /* The change that met the full disk may have been committed; nobody was told that it was not. */
    int err = count > b->applied ? catalog_bdb_map_error(b, catalog_bdb_testify(b, count)) : 0;
    if (!err) {
        b->applied = count;
        b->latched = 0;
        log_info("catalog: usable again");
    }
    return err;
}

static int scan(struct catalog *c, const char *object, uint64_t *revision,
                int (*item)(void *ctx, const void *key, size_t key_length, const void *value, size_t value_length), void *ctx)
{
    struct catalog_bdb *b = bdb_of(c);
    if (!object_valid(object))
        return -EINVAL;
    pthread_mutex_lock(&b->lock);
    uint64_t now = 0;
    int err = revive(b);
    if (!err)
        err = fail(b, get_revision(b, NULL, object, &now));
    if (!err && item)
        err = scan_items(b, object, item, ctx);
    if (!err && revision)
        *revision = now;
    pthread_mutex_unlock(&b->lock);
    return err;
}

static int get(struct catalog *c, const char *object, const void *key, size_t key_length, void *value, size_t size, size_t *value_length)
{
    struct catalog_bdb *b = bdb_of(c);
    char record[RECORD_KEY_MAX];
    if (!object_valid(object) || !key_length || key_length > CATALOG_KEY_MAX)
        return -EINVAL;
    pthread_mutex_lock(&b->lock);
    int err = revive(b);
    if (!err) {
        DBT k = dbt(record, object_key(record, object, key, key_length)), v = dbt(value, size);
        int rc = b->db->get(b->db, NULL, &k, &v, 0);
        err = rc == DB_NOTFOUND ? -ENOENT : rc == DB_BUFFER_SMALL ? -EMSGSIZE : fail(b, rc);
        if (!err)
            *value_length = v.size;
    }
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
    rc = get_revision(b, txn, object, &now);
    if (!rc && now != expected) {
        *stale = true;
        return txn->abort(txn);
    }
    if (!rc)
        rc = put_changes(b, txn, object, changes, count);
    if (!rc)
        rc = put_number(b, txn, object, strlen(object), expected + 1);
    if (!rc)
        rc = put_number(b, txn, count_key, sizeof count_key, b->applied + 1);
    if (!rc)
        return txn->commit(txn, 0);
    txn->abort(txn);
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

/* The rest of a change that has been committed. A Berkeley DB code. */
static int acknowledge(struct catalog_bdb *b)
{
    int rc = catalog_bdb_testify(b, b->applied + 1);
    if (!rc)
        b->applied++;
    return rc;
}

/* Releases the reserve and recovers; *committed: the change had become durable before the disk was found full. */
static int recover_full_disk(struct catalog_bdb *b, bool *committed)
{
    uint64_t count;
    if (!catalog_reserve_release(b->directory_fd))
        return ENOSPC;
    b->reserve_released = true;
    log_warning("catalog: the disk is full; using the space set aside for this");
    catalog_bdb_env_close(b, false);
    int rc = catalog_bdb_env_open(b, false);
    if (!rc)
        rc = get_number(b, NULL, count_key, sizeof count_key, &count);
    if (!rc)
        *committed = count == b->applied + 1;
    return rc;
}

/* A Berkeley DB code. */
static int change(struct catalog_bdb *b, const char *object, uint64_t expected, const struct catalog_change *changes, unsigned count,
                  bool *stale)
{
    bool committed = false;
    b->disk_full = false;
    int rc = transaction(b, object, expected, changes, count, stale);
    if (rc && (rc == ENOSPC || b->disk_full)) {
        rc = recover_full_disk(b, &committed);
        if (!rc && !committed)
            rc = transaction(b, object, expected, changes, count, stale);
    }
    return rc || *stale ? rc : acknowledge(b);
}

/* Before: room, from the reserve if the disk is nearly full. After: a checkpoint when one is due, and the reserve again. */
static int change_within_space(struct catalog_bdb *b, const char *object, uint64_t expected, const struct catalog_change *changes,
                               unsigned count, bool *stale)
{
    uint64_t bytes = changes_bytes(changes, count);
    if (!b->reserve_released && catalog_reserve_needed(b->directory_fd, bytes * ROOM_FACTOR + ROOM_FIXED_BYTES))
        b->reserve_released = catalog_reserve_release(b->directory_fd);
    int rc = change(b, object, expected, changes, count, stale);
    if (rc || *stale)
        return rc;
    b->unsaved_bytes += bytes;
    /* The change stands, whatever the checkpoint meets; only the next one hears of it. */
    if (b->unsaved_bytes > CHECKPOINT_BYTES && fail(b, catalog_bdb_checkpoint(b)))
        return 0;
    if (b->reserve_released && !catalog_reserve_needed(b->directory_fd, 2u * CATALOG_RESERVE_BYTES))
        b->reserve_released = catalog_reserve_fill(b->directory_fd, CATALOG_RESERVE_BYTES) != 0;
    return 0;
}

static int apply(struct catalog *c, const char *object, uint64_t expected_revision, const struct catalog_change *changes, unsigned count)
{
    struct catalog_bdb *b = bdb_of(c);
    if (!object_valid(object) || !changes_valid(changes, count))
        return -EINVAL;
    pthread_mutex_lock(&b->lock);
    int err = revive(b);
    bool stale = false;
    if (!err)
        err = fail(b, change_within_space(b, object, expected_revision, changes, count, &stale));
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
        fail(b, catalog_bdb_checkpoint(b));
    catalog_bdb_env_close(b, !b->latched);
    /* So that nobody else takes it before the catalog is opened again. */
    if (b->reserve_released)
        catalog_reserve_fill(b->directory_fd, CATALOG_RESERVE_MIN_BYTES);
    catalog_witness_close(&b->witness);
    if (b->directory_fd >= 0)
        close(b->directory_fd);
    lease_table_fini(&b->leases);
    pthread_mutex_destroy(&b->lock);
    free(b);
}

static const struct catalog_ops bdb_ops = {
    .scan = scan, .get = get, .apply = apply, .lease_take = lease_take, .lease_drop = lease_drop, .close = close_catalog,
};

/* The first testimony, to a new witness. A negative errno. */
static int call_witness(struct catalog_bdb *b, struct error *err)
{
    int rc = catalog_bdb_map_error(b, catalog_bdb_trim_log(b));
    return rc ? error_set(err, rc, "cannot record the catalog's witness in %s: %s", b->directory, strerror(-rc)) : 0;
}

/* Compares the catalog with what its witness says. A negative errno. A witness that cannot be read accuses nobody: it is begun
 * anew from what is there. */
static int hear_witness(struct catalog_bdb *b, struct error *err)
{
    struct catalog_testimony told;
    bool confirmed;
    int rc = catalog_witness_open(b->directory_fd, &b->witness, &told);
    if (rc == -ENOENT || rc == -EBADMSG) {
        log_warning("catalog: its witness in %s was lost; begun anew", b->directory);
        return call_witness(b, err);
    }
    if (rc)
        return error_set(err, rc, "cannot open the catalog's witness in %s: %s", b->directory, strerror(-rc));
    if (told.count > b->applied)
        return error_set(err, -EBADMSG, "the catalog in %s is damaged: it has lost the last %llu changes; restore it from a backup",
                         b->directory, (unsigned long long)(told.count - b->applied));
    rc = catalog_bdb_map_error(b, catalog_bdb_confirm(b, &told, &confirmed));
    if (rc)
        return error_set(err, rc, "cannot read the catalog's log in %s: %s", b->directory, strerror(-rc));
    if (!confirmed)
        return error_set(err, -EBADMSG, "the catalog in %s is damaged: its log ends before the last change; restore it from a backup",
                         b->directory);
    /* Those that are killed before they have changed enough for a checkpoint leave their log to the next. */
    if (b->log_files > LOG_FILES_KEPT) {
        rc = catalog_bdb_map_error(b, catalog_bdb_checkpoint(b));
        return rc ? error_set(err, rc, "cannot save the catalog in %s: %s", b->directory, strerror(-rc)) : 0;
    }
    /* Recovery's own records come to fill log files, even if nothing is ever changed. */
    return told.count < b->applied || told.log_file != b->log_file ? call_witness(b, err) : 0;
}

/* A negative errno. */
static int open_parts(struct catalog_bdb *b, bool create, struct error *err)
{
    int rc = catalog_bdb_env_open(b, create);
    if (!rc)
        rc = catalog_bdb_check_pages(b);
    if (!rc)
        rc = catalog_bdb_sync_directory(b);
    if (!rc)
        rc = get_number(b, NULL, count_key, sizeof count_key, &b->applied);
    if (rc) {
        int code = catalog_bdb_map_open_error(b, rc);
        if (code == -ENOSPC)
            return error_set(err, code, "cannot open the catalog in %s: its file system is full; make room there", b->directory);
        return error_set(err, code, code == -EBADMSG ? "the catalog in %s is damaged: %s" : "cannot open the catalog in %s: %s", b->directory,
                         b->first_message[0] ? b->first_message : db_strerror(rc));
    }
    if (!create)
        return hear_witness(b, err);
    int code = catalog_witness_create(b->directory_fd, &b->witness);
    if (!code)
        code = catalog_bdb_map_error(b, catalog_bdb_checkpoint(b));
    return code ? error_set(err, code, "cannot make the catalog's witness in %s: %s", b->directory, strerror(-code)) : 0;
}

/* Recovery, and what it is testified by, may need room at a full disk: from the reserve then. What was used up is set aside again
 * as soon as there is room. A negative errno. */
static int open_with_reserve(struct catalog_bdb *b, bool create, struct error *err)
{
    int code = create ? catalog_reserve_fill(b->directory_fd, CATALOG_RESERVE_BYTES) : 0;
    if (code)
        return error_set(err, code, "cannot set room for the catalog aside in %s: %s", b->directory, strerror(-code));
    code = open_parts(b, create, err);
    if (code && (code == -ENOSPC || b->disk_full) && !create && catalog_reserve_release(b->directory_fd)) {
        catalog_bdb_env_close(b, false);
        catalog_witness_close(&b->witness);
        b->reserve_released = true;
        b->disk_full = false;
        b->first_message[0] = 0;
        *err = (struct error)ERROR_NONE;
        code = open_parts(b, create, err);
    }
    if (!code)
        b->reserve_released = catalog_reserve_fill(b->directory_fd, CATALOG_RESERVE_MIN_BYTES) != 0;
    return code;
}

static int open_directory(struct catalog_bdb *b, const char *directory, bool create, struct error *err)
{
    if (snprintf(b->directory, sizeof b->directory, "%s", directory) >= (int)sizeof b->directory)
        return error_set(err, -ENAMETOOLONG, "the catalog's path is too long");
    b->directory_fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (b->directory_fd < 0)
        return error_set(err, -errno, "cannot open the catalog directory %s: %s", directory, strerror(errno));
    if (!create && faccessat(b->directory_fd, CATALOG_BDB_FILE, F_OK, 0) < 0 && errno == ENOENT)
        return error_set(err, -ENOENT, "there is no catalog in %s: the file " CATALOG_BDB_FILE " is missing", directory);
    return 0;
}

static int open_catalog(const char *directory, bool create, struct catalog **out, struct error *err)
{
    struct catalog_bdb *b = calloc(1, sizeof *b);
    if (!b)
        return error_set(err, -ENOMEM, "cannot open the catalog in %s: out of memory", directory);
    b->catalog.ops = &bdb_ops;
    b->quiet = true;
    b->directory_fd = b->witness.fd = -1;
    pthread_mutex_init(&b->lock, NULL);
    lease_table_init(&b->leases);
    int rc = open_directory(b, directory, create, err);
    if (!rc)
        rc = open_with_reserve(b, create, err);
    if (rc) {
        b->latched = rc;
        close_catalog(&b->catalog);
        return rc;
    }
    b->quiet = false;
    b->first_message[0] = 0;
    *out = &b->catalog;
    return 0;
}

int catalog_bdb_create(const char *directory, struct catalog **out, struct error *err) { return open_catalog(directory, true, out, err); }
int catalog_bdb_open(const char *directory, struct catalog **out, struct error *err) { return open_catalog(directory, false, out, err); }
