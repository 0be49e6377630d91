/* catalog_bdb_log.c - the catalog's log: its files' durability, and what the witness is told of it.
 *
 * 1. A testimony names a log record that is durable. Every page of the database was changed last by that record or an older
 *    one, but for a change that is under way and not acknowledged.
 * 2. So, if that record is still in the log when recovery is done, recovery has seen all that the pages have seen, and they
 *    are right. If it is not, the log was cut short before it, and pages may be half undone: their contents prove nothing,
 *    not even the count of changes, whose own page may be newer than the cut.
 * 3. A log file is removed only when both slots of the witness name a record of a newer one, or of the same checkpoint. */
#include "parallax/store/catalog_bdb_private.h"

#include "base/crc32c.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int catalog_bdb_sync_directory(struct catalog_bdb *b)
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

/* which: DB_LAST, or DB_SET to read the one at *lsn. */
static int read_record(struct catalog_bdb *b, u_int32_t which, DB_LSN *lsn, uint32_t *crc)
{
    DB_LOGC *cursor;
    DBT record = { 0 };
    int rc = b->env->log_cursor(b->env, &cursor, 0);
    if (rc)
        return rc;
    rc = cursor->get(cursor, lsn, &record, which);
    if (!rc)
        *crc = crc32c(0, record.data, record.size);
    int closed = cursor->close(cursor, 0);
    return rc ? rc : closed;
}

int catalog_bdb_testify(struct catalog_bdb *b, uint64_t count)
{
    DB_LSN last;
    struct catalog_testimony t = { .count = count };
    int rc = read_record(b, DB_LAST, &last, &t.record_crc);
    if (!rc)
        rc = b->env->log_flush(b->env, &last);
    if (!rc)
        rc = catalog_bdb_sync_directory(b);
    if (rc)
        return rc;
    t.log_file = last.file;
    t.log_offset = last.offset;
    return -catalog_witness_record(&b->witness, &t);
}

int catalog_bdb_trim_log(struct catalog_bdb *b)
{
    int rc = catalog_bdb_testify(b, b->applied);
    if (!rc)
        rc = catalog_bdb_testify(b, b->applied);
    return rc ? rc : b->env->log_archive(b->env, NULL, DB_ARCH_REMOVE);
}

int catalog_bdb_confirm(struct catalog_bdb *b, const struct catalog_testimony *t, bool *confirmed)
{
    DB_LOG_STAT *st;
    *confirmed = false;
    int rc = b->env->log_stat(b->env, &st, 0);
    if (rc)
        return rc;
    DB_LSN lsn = { .file = t->log_file, .offset = t->log_offset }, end = { .file = st->st_cur_file, .offset = st->st_cur_offset };
    free(st);
    if (log_compare(&lsn, &end) >= 0)
        return 0;
    uint32_t crc;
    rc = read_record(b, DB_SET, &lsn, &crc);
    /* Where no record begins Berkeley DB finds nothing, or nonsense; either way it is not the one. */
    if (rc && rc != ENOMEM && rc != EIO)
        return 0;
    *confirmed = !rc && crc == t->record_crc;
    return rc;
}
