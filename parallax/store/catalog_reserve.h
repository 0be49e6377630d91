/* catalog_reserve.h - file-system space set aside for the catalog, so that it still works when the host's disk is full.
 *
 * A file of RESERVE_BYTES that holds nothing. It is cut to nothing when the catalog needs room, and filled again, as far as it
 * can be, when there is and when the catalog is opened and closed. Between the two another program may take the space; then
 * the catalog says -ENOSPC.
 * Threads: one at a time. Errors: 0 or negative errno. */
#ifndef PARALLAX_STORE_CATALOG_RESERVE_H
#define PARALLAX_STORE_CATALOG_RESERVE_H
#include <stdbool.h>
#include <stdint.h>

/* More than two log files, and the growth of the database in between. */
#define CATALOG_RESERVE_BYTES (16u << 20)

#define CATALOG_RESERVE_MIN_BYTES (1u << 20)

/* Allocates the reserve, or what there is of it (in MiB, from at_least on); with nothing half-done: -ENOSPC. Doing it again is
 * cheap. */
int catalog_reserve_fill(int directory_fd, uint64_t at_least);
/* True if that gave space back. */
bool catalog_reserve_release(int directory_fd);
/* True if the file system has fewer bytes left than that. */
bool catalog_reserve_needed(int directory_fd, uint64_t bytes);
#endif
