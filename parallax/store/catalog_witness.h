/* catalog_witness.h - remembers, outside the catalog, how many changes the catalog has acknowledged and where its log had got to.
 *
 * Berkeley DB takes the first log record that does not check for the end of its log. After a crash that is right. After rot
 * it drops acknowledged changes without a word, or undoes in some pages the change that the rot has cut in two, and leaves
 * the pages that have been changed since. The testimony kept here tells the two apart.
 * Threads: one at a time. Errors: 0 or negative errno. */
#ifndef PARALLAX_STORE_CATALOG_WITNESS_H
#define PARALLAX_STORE_CATALOG_WITNESS_H
#include <stdint.h>

struct catalog_witness {
    int fd;
    uint64_t sequence; /* of the newest testimony */
};

struct catalog_testimony {
    uint64_t count;                 /* of changes acknowledged */
    uint32_t log_file, log_offset;  /* a log record that was durable, and not older than any page's newest change */
    uint32_t record_crc;            /* CRC-32C of that record */
};

/* Makes the file with its space, without a testimony. */
int catalog_witness_create(int directory_fd, struct catalog_witness *w);
/* *t: the newest one that can be read. -ENOENT or -EBADMSG: there is none; the file is then made anew. */
int catalog_witness_open(int directory_fd, struct catalog_witness *w, struct catalog_testimony *t);
/* Durable on return. The one before it is kept, for when this one cannot be read. */
int catalog_witness_record(struct catalog_witness *w, const struct catalog_testimony *t);
void catalog_witness_close(struct catalog_witness *w);
#endif
