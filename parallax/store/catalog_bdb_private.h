/* catalog_bdb_private.h - what the files of the Berkeley DB catalog share. Functions return Berkeley DB codes (0, positive
 * errno, or one of its negative own) unless they say otherwise. */
#ifndef PARALLAX_STORE_CATALOG_BDB_PRIVATE_H
#define PARALLAX_STORE_CATALOG_BDB_PRIVATE_H
#include "base/error.h"
#include "parallax/store/catalog.h"
#include "parallax/store/catalog_witness.h"
#include "parallax/store/lease_table.h"

#include <db.h>
#include <limits.h>
#include <pthread.h>
#include <stdbool.h>

#define CATALOG_BDB_FILE "catalog.db"
#define CATALOG_BDB_PAGE_BYTES 512u

struct catalog_bdb {
    struct catalog catalog;
    pthread_mutex_t lock;
    char directory[PATH_MAX];
    int directory_fd;
    DB_ENV *env;
    DB *db;
    bool quiet;              /* Berkeley DB's messages go to first_message alone, for the caller's error */
    bool damaged;            /* it spoke of a checksum or of a log that is too short */
    char first_message[256];
    uint32_t log_file;       /* whose directory entry is durable */
    uint64_t unsaved_bytes;  /* applied since the last checkpoint, or since it was opened */
    unsigned log_files;      /* when it was opened */
    uint64_t applied;        /* changes in the catalog's whole life */
    struct catalog_witness witness;
    bool reserve_released;
    bool disk_full;          /* a write of Berkeley DB's failed for want of space */
    struct lease_table leases;
    int latched;             /* 0, or the error that every further call gets */
};

/* catalog_bdb_env.c */
int catalog_bdb_env_open(struct catalog_bdb *b, bool create);
/* clean: write everything home first. */
void catalog_bdb_env_close(struct catalog_bdb *b, bool clean);
/* Writes the pages home, so that recovery is short, and trims the log. No change may be under way. */
int catalog_bdb_checkpoint(struct catalog_bdb *b);
/* To a negative errno: for calls on an open catalog, and for opening one. */
int catalog_bdb_map_error(const struct catalog_bdb *b, int rc);
int catalog_bdb_map_open_error(const struct catalog_bdb *b, int rc);

/* catalog_bdb_precheck.c: DB_VERIFY_BAD, with first_message, if Berkeley DB cannot be trusted with the files. */
int catalog_bdb_precheck(struct catalog_bdb *b); /* before it opens them */
int catalog_bdb_check_pages(struct catalog_bdb *b); /* after recovery */

/* catalog_bdb_log.c */
/* A log file's directory entry has to be as durable as what is in it. */
int catalog_bdb_sync_directory(struct catalog_bdb *b);
/* Tells the witness of that many changes and of the log's last record, made durable first. No change may be under way. */
int catalog_bdb_testify(struct catalog_bdb *b, uint64_t count);
/* Testifies anew and removes the log files that the last checkpoint has made needless. */
int catalog_bdb_trim_log(struct catalog_bdb *b);
/* *confirmed: the log still has the record that was testified. */
int catalog_bdb_confirm(struct catalog_bdb *b, const struct catalog_testimony *t, bool *confirmed);
#endif
