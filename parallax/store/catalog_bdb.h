/* catalog_bdb.h - the catalog in a Berkeley DB environment of its own, in one directory.
 *
 * Threads: as catalog.h; calls from several threads are serialised. A scan's item function must not call the catalog.
 * Errors: as catalog.h. After -EIO or -EBADMSG every further call fails: only opening it again, with recovery, goes on. After
 * -ENOSPC the next call tries whether there is room again. */
#ifndef PARALLAX_STORE_CATALOG_BDB_H
#define PARALLAX_STORE_CATALOG_BDB_H
#include "base/error.h"
#include "parallax/store/catalog.h"

#include <stdbool.h>

/* Makes an empty catalog in `directory`, which must exist and hold none. */
int catalog_bdb_create(const char *directory, struct catalog **out, struct error *err);
/* Recovers and opens the catalog in `directory`. -EBADMSG: it is damaged; -ENOENT: there is none. */
int catalog_bdb_open(const char *directory, struct catalog **out, struct error *err);
#endif
