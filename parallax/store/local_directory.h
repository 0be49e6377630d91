/* local_directory.h - the directory of a local store: made, looked at, cleared. Blocks; errors are negative errno with a line. */
#ifndef PARALLAX_STORE_LOCAL_DIRECTORY_H
#define PARALLAX_STORE_LOCAL_DIRECTORY_H
#include "base/error.h"

#include <stdbool.h>

/* Makes the directory with its parents unless it exists (*made says which). Returns a descriptor of it. */
int local_directory_make(const char *directory, bool *made, struct error *err);
/* -EEXIST: it is a store; -ENOTEMPTY: it holds something that is not ours, and force is not set. */
int local_directory_check(int directory_fd, const char *directory, bool force, struct error *err);
/* Removes what a store that is half-made consists of; not the lock. */
int local_directory_clear(int directory_fd);
#endif
