/* host_file.h - which parts of a file the file system has allocated. */
#ifndef PARALLAX_STORE_HOST_FILE_H
#define PARALLAX_STORE_HOST_FILE_H
#include <stdint.h>

/* The first stretch within [from, end) (bytes) that is not allocated, as *start and *stop; -ENOENT: none, or the file system does
 * not tell. What is allocated and was never written is no hole, where the file system tells the two apart (FIEMAP); elsewhere it
 * may be (SEEK_HOLE). Any thread. */
int host_file_hole(int fd, uint64_t from, uint64_t end, uint64_t *start, uint64_t *stop);
#endif
