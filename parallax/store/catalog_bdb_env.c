/* catalog_bdb_env.c - the Berkeley DB environment under the catalog: opened with recovery, checkpointed, closed.
 *
 * 1. Berkeley DB supposes that a page write is not torn: pages are 512 bytes, a sector's size, and carry checksums.
 * 2. The environment is private to the process, without shared regions and locks: the store's lock keeps others out, and the
 *    catalog's own serialises.
 * 3. Log files that a checkpoint has made needless are removed when the witness needs them no more: catalog_bdb_log.c.
 * 4. Berkeley DB opens its files by name whenever it needs them. It is given the directory's descriptor as their home, so that
 *    they are this directory's also after it was renamed, whatever has its name then. */
#include "parallax/store/catalog_bdb_private.h"

#include "base/log.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define CACHE_BYTES (4u << 20)
#define LOG_FILE_BYTES (512u << 10) /* recovery fills the last file up with zeroes at every opening */
#define LOG_BUFFER_BYTES (64u << 10)

static void message(const DB_ENV *env, const char *prefix, const char *text)
{
    (void)prefix;
    struct catalog_bdb *b = env->app_private;
    if (strstr(text, "checksum") || strstr(text, "past end of log"))
        b->damaged = true;
    if (strstr(text, strerror(ENOSPC)))
        b->disk_full = true;
    if (!b->first_message[0])
        snprintf(b->first_message, sizeof b->first_message, "%s", text);
    if (!b->quiet)
        log_error("catalog: %s", text);
}

/* Positive codes are the system's. Of Berkeley DB's own, those about contents mean damage; a panic means what caused it. */
int catalog_bdb_map_error(const struct catalog_bdb *b, int rc)
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
    case EINVAL: /* the arguments have been checked, so it is a page of no known type */
        return -EBADMSG;
    case DB_LOCK_NOTGRANTED:
    case DB_LOCK_DEADLOCK:
    case DB_TIMEOUT:
        return -ETIMEDOUT;
    default:
        return rc > 0 ? -rc : -EIO;
    }
}

int catalog_bdb_checkpoint(struct catalog_bdb *b)
{
    int rc = b->env->txn_checkpoint(b->env, 0, 0, DB_FORCE);
    if (rc)
        return rc;
    b->unsaved_bytes = 0;
    return catalog_bdb_trim_log(b);
}

/* Without /proc it is the name. */
static void name_home(const struct catalog_bdb *b, char home[PATH_MAX])
{
    snprintf(home, PATH_MAX, "/proc/self/fd/%d", b->directory_fd);
    if (access(home, F_OK) < 0)
        snprintf(home, PATH_MAX, "%s", b->directory);
}

int catalog_bdb_env_open(struct catalog_bdb *b, bool create)
{
    int rc = create ? 0 : catalog_bdb_precheck(b);
    if (!rc)
        rc = db_env_create(&b->env, 0);
    if (rc) {
        b->env = NULL;
        return rc;
    }
    DB_ENV *env = b->env;
    env->app_private = b;
    env->set_errcall(env, message);
    if ((rc = env->set_cachesize(env, 0, CACHE_BYTES, 1)) || (rc = env->set_lg_max(env, LOG_FILE_BYTES)) ||
        (rc = env->set_lg_bsize(env, LOG_BUFFER_BYTES)))
        return rc;
    char home[PATH_MAX];
    name_home(b, home);
    rc = env->open(env, home, DB_CREATE | DB_PRIVATE | DB_INIT_TXN | DB_INIT_LOG | DB_INIT_MPOOL | DB_RECOVER | DB_THREAD, 0600);
    if (!rc)
        rc = db_create(&b->db, env, 0);
    if (rc) {
        b->db = NULL;
        return rc;
    }
    if (create && ((rc = b->db->set_pagesize(b->db, CATALOG_BDB_PAGE_BYTES)) || (rc = b->db->set_flags(b->db, DB_CHKSUM))))
        return rc;
    return b->db->open(b->db, NULL, CATALOG_BDB_FILE, NULL, DB_BTREE, DB_AUTO_COMMIT | DB_THREAD | (create ? DB_CREATE | DB_EXCL : 0), 0600);
}

/* While opening, whatever is not the system's word about the device, memory or rights is about the contents. Of a full disk
 * recovery makes a panic. */
int catalog_bdb_map_open_error(const struct catalog_bdb *b, int rc)
{
    if (b->disk_full)
        return -ENOSPC;
    switch (rc) {
    case ENOSPC: case EIO: case ENOMEM: case EACCES: case EPERM: case EROFS: case EMFILE: case ENFILE: case EDQUOT:
        return -rc;
    default:
        return -EBADMSG;
    }
}

void catalog_bdb_env_close(struct catalog_bdb *b, bool clean)
{
    /* What a failed environment says while it is taken down adds nothing to what it said when it failed. */
    bool quiet = b->quiet;
    b->quiet = quiet || !clean;
    if (b->db)
        b->db->close(b->db, clean ? 0 : DB_NOSYNC);
    if (b->env)
        b->env->close(b->env, 0);
    b->db = NULL;
    b->env = NULL;
    b->quiet = quiet;
}
