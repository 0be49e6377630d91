/* catalog_mirror.h - a catalog of which a copy is kept beside the blocks (docs/consistency.md, "A copy on the device").
 *
 * The object "store" is copied, each change before the catalog beneath gets it; other objects are not.
 * Threads and errors as catalog.h; an error of the copy is an error of the change, which has then not reached the catalog
 * beneath. If the object does not fit into the copy's regions there is none, and the catalog goes on without. */
#ifndef PARALLAX_STORE_CATALOG_MIRROR_H
#define PARALLAX_STORE_CATALOG_MIRROR_H
#include "parallax/store/catalog.h"
#include "parallax/store/catalog_copy.h"

#include <stdbool.h>

/* -ESTALE: the copy is newer than inner by more than a crash explains. */
int catalog_mirror_check(struct catalog *inner, const struct catalog_copy *copy);
/* Writes nothing. anew: whatever the regions hold has no meaning. -ESTALE: as from the check. Both belong to the mirror if this
 * succeeds. */
int catalog_mirror_open(struct catalog *inner, struct catalog_copy *copy, bool anew, struct catalog **out);
/* Makes the copy equal to the catalog beneath where it is not, durably. The first change does so at the latest. */
int catalog_mirror_settle(struct catalog *c);
/* Before it: -1 if the copy is older than the catalog beneath, 1 if it is newer; 0: neither, or there is none to compare. */
int catalog_mirror_copy_age(const struct catalog *c);
/* Any thread: whether there is a copy now. */
bool catalog_mirror_held(const struct catalog *c);
#endif
