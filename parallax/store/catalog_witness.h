/* catalog_witness.h - remembers, outside the catalog, how many changes the catalog has acknowledged.
 *
 * Berkeley DB takes the first log record that does not check for the end of its log. After a crash that is right, after rot
 * it drops acknowledged changes without a word; the number kept here tells the two apart.
 * Threads: one at a time. Errors: 0 or negative errno. */
#ifndef PARALLAX_STORE_CATALOG_WITNESS_H
#define PARALLAX_STORE_CATALOG_WITNESS_H
#include <stdint.h>

struct catalog_witness {
    int fd;
};

/* Makes the file with its space. */
int catalog_witness_create(int directory_fd, struct catalog_witness *w);
/* *count: the last one recorded that can be read. -ENOENT or -EBADMSG: there is none; the file is then made anew, at 0. */
int catalog_witness_open(int directory_fd, struct catalog_witness *w, uint64_t *count);
/* Durable on return. Only ever more. */
int catalog_witness_record(struct catalog_witness *w, uint64_t count);
void catalog_witness_close(struct catalog_witness *w);
#endif
