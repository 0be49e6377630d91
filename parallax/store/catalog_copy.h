/* catalog_copy.h - a copy of one object of a catalog, as a log in two regions of a device or file (docs/disk-format.md).
 *
 * A region holds a dump of the object and then the changes made since, each durable before the next is written. A new dump goes
 * to the other region and counts when it is complete; then the region before it is made void. So at every instant at most one
 * region holds a copy that can be taken for a newer one than it is.
 * Threads: one at a time; every call blocks. Memory: a record, about 1 MiB, or one value if that is longer.
 * Errors: 0 or negative errno; -EFBIG: there is no room for it in a region (nothing that counts has changed). */
#ifndef PARALLAX_STORE_CATALOG_COPY_H
#define PARALLAX_STORE_CATALOG_COPY_H
#include "parallax/store/catalog.h"

#include <stdbool.h>

struct catalog_copy;

/* Reads both regions, the first at offset_bytes, the second behind it; sizes are multiples of 4096. Records of another uuid are
 * none. epoch: stands in what is written; revisions of one epoch alone can be compared. What cannot be read is no error here,
 * but then the copy is not whole. fd is the copy's if this succeeds. */
int catalog_copy_open(int fd, uint64_t offset_bytes, uint64_t region_bytes, const char *uuid, uint64_t epoch, struct catalog_copy **out);
void catalog_copy_close(struct catalog_copy *c);

/* Whether there is a whole copy, and of which revision of the object. */
bool catalog_copy_whole(const struct catalog_copy *c, uint64_t *revision);
/* Whether it is a copy of another epoch: to be read, and to be replaced by a dump before a change is added. */
bool catalog_copy_foreign(const struct catalog_copy *c);
/* For one who has nothing but the copy. -EBADMSG: its end is no end: a change that was durable cannot be read. */
int catalog_copy_check_end(struct catalog_copy *c);
/* Calls piece with the contents of a whole copy, in changes to make one after the other to an empty object. Not zero ends it and
 * is returned. */
int catalog_copy_replay(struct catalog_copy *c, int (*piece)(void *ctx, const struct catalog_change *changes, unsigned count), void *ctx);

/* Makes the copy what the object is in that catalog. */
int catalog_copy_dump(struct catalog_copy *c, struct catalog *from, const char *object);
/* Adds a change to a whole copy, which is of the next revision then. After an error but -EFBIG and -EINVAL it is not whole. */
int catalog_copy_append(struct catalog_copy *c, const struct catalog_change *changes, unsigned count);
/* There is no copy then, for whoever looks. */
int catalog_copy_invalidate(struct catalog_copy *c);
#endif
