/* disk_private.h - between the files of the test disk. Everything here wants the lock held. */
#ifndef TESTS_DISK_DISK_PRIVATE_H
#define TESTS_DISK_DISK_PRIVATE_H
#include "base/list.h"
#include "tests/disk/disk.h"

#include <sys/types.h>

#define DISK_PAGE 4096u

/* A file: what of it is durable. Kept for as long as it has a name, durable or not, or is open. */
struct disk_file {
    struct list_node link;
    ino_t inode;          /* 0: no name leads to it any more */
    char *durable_name;   /* relative to the directory watched; NULL: none */
    char *name;           /* now */
    uint64_t durable_size;
    unsigned char **page; /* NULL: zeroes */
    uint64_t pages;
};

enum disk_change_kind { DISK_DATA, DISK_TRUNCATE, DISK_ALLOCATE, DISK_PUNCH, DISK_CREATE, DISK_REMOVE, DISK_RENAME };

/* Something that is not durable yet. */
struct disk_change {
    struct list_node link;
    enum disk_change_kind kind;
    struct disk_file *file;
    uint64_t offset, length; /* TRUNCATE: length is the new size */
    unsigned char *data;     /* NULL: zeroes */
    uint64_t completed;      /* moment; 0: under way */
    char *name, *to;         /* of CREATE, REMOVE and RENAME */
    struct disk_file *replaced;
    bool dropped;            /* by the cut */
};

extern struct list_node disk_files, disk_pending;
extern char disk_directory[512];
extern bool disk_watching;

/* disk_record.c */
uint64_t disk_now(void); /* a new moment */
uint64_t disk_random(uint64_t *state);
struct disk_file *disk_file_new(const char *name, ino_t inode);
struct disk_file *disk_file_by_inode(ino_t inode);
struct disk_file *disk_file_by_name(const char *name);
struct disk_change *disk_change_new(enum disk_change_kind kind, struct disk_file *f, uint64_t offset, uint64_t length, const void *data);
void disk_change_free(struct disk_change *c);
void disk_put(struct disk_file *f, uint64_t offset, const unsigned char *data, uint64_t length);
void disk_resize(struct disk_file *f, uint64_t size);
/* Applies a change in whole to the durable contents. */
void disk_apply(struct disk_change *c);
/* What of the file had completed before `begun` is durable now. */
void disk_flushed(struct disk_file *f, uint64_t begun);
void disk_directory_flushed(const char *name);
/* Forgets files and changes. */
void disk_clear(void);

/* disk_calls.c: the file behind a descriptor, or NULL. */
struct disk_file *disk_file_of(int fd);
void disk_forget_descriptors(void);
void disk_boundary(bool flush);
void disk_note_read(const struct disk_file *f, uint64_t offset, uint64_t length);
ssize_t disk_real_pread(int fd, void *buf, size_t length, off_t at);
ssize_t disk_real_pwrite(int fd, const void *buf, size_t length, off_t at);
/* disk_aio.c */
void disk_aio_seed(uint64_t seed);

/* disk_fault.c: whether this call is to fail, and then how. */
bool disk_meets_fault(unsigned kind, struct disk_fault *fault);
/* Without the lock: whether a failing allocation is ordered at all. */
bool disk_memory_may_fail(void);
#endif
