/* host_file.h - a file of the host: which parts the file system has allocated, and transfers that are whole. */
#ifndef PARALLAX_STORE_HOST_FILE_H
#define PARALLAX_STORE_HOST_FILE_H
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* The first stretch within [from, end) (bytes) that is not allocated, as *start and *stop; -ENOENT: none, or the file system does
 * not tell. What is allocated and was never written is no hole, where the file system tells the two apart (FIEMAP); elsewhere it
 * may be (SEEK_HOLE). Any thread. */
int host_file_hole(int fd, uint64_t from, uint64_t end, uint64_t *start, uint64_t *stop);
/* The first stretch of it that is allocated and was never written; -ENOENT: none, or the file system does not tell. */
int host_file_unwritten(int fd, uint64_t from, uint64_t end, uint64_t *start, uint64_t *stop);
/* Reads or writes all of it. 0 or negative errno; -EIO: the file ends before. */
int host_file_transfer(int fd, bool writing, void *buf, size_t left, off_t at);
/* Of the file system below, in bytes: free to root, available to anybody, and in all. -ENOTSUP: it does not tell (ramfs, some network file
 * systems), and only a write finds out. Any thread. */
struct host_file_space {
    uint64_t free, available, total;
};
int host_file_space(int fd, struct host_file_space *out);
#endif
