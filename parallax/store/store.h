/* store.h - where blocks and metadata live: one block device and one catalog, opened together from a URL.
 *
 * The engine (parallax/) sees only bdev.h, catalog.h and this header. Implementations: local (a directory; blocks in a file
 * or on a device; libaio; Berkeley DB) and memory (with faults to order, for tests); a cluster's comes beside them.
 * Threads: open, create and close block. Errors: a line for a person in err. */
#ifndef PARALLAX_STORE_STORE_H
#define PARALLAX_STORE_STORE_H
#include "base/bdev.h"
#include "base/error.h"
#include "base/loop.h"
#include "parallax/store/catalog.h"

#include <stdbool.h>

/* Whether the catalog can be had where the blocks are, should the rest of the host be lost. */
enum backing_copy {
    BACKING_COPY_NEEDLESS, /* both are in one place */
    BACKING_COPY_MISSING,
    BACKING_COPY_HELD,
};

struct backing {
    struct bdev *blocks;
    struct catalog *catalog;
    bool direct; /* false: the file system has no O_DIRECT, so the page cache is between us and the device (slower) */
    char name[512]; /* the URL as opened, absolute: what messages call the store */
    uint8_t uuid[16]; /* of a store that is being made: what it is called; all zero if this kind calls it nothing */
    void *implementation;
    void (*close)(struct backing *b); /* closes blocks, catalog and gives the lock back */
    int (*free_bytes)(struct backing *b, uint64_t *free_bytes, uint64_t *total_bytes);
    int (*settle)(struct backing *b, struct error *err);        /* backing_settle; NULL: nothing to do */
    enum backing_copy (*catalog_copy)(const struct backing *b); /* any thread; NULL: needless */
    int (*copy_age)(const struct backing *b);                   /* backing_copy_age; NULL: there is none */
    bool (*removed)(const struct backing *b);                   /* backing_removed; NULL: it never is */
};

/* Any thread: what bdev_grow can still take from the file system or device below (a file system's reserve for root is not
 * counted), and the size of all of it. */
static inline int backing_free_bytes(struct backing *b, uint64_t *free_bytes, uint64_t *total_bytes)
{
    return b->free_bytes(b, free_bytes, total_bytes);
}

/* To be called once, by whoever has found that the catalog is of these blocks, and before anything is written to them: what is
 * kept beside the catalog may be made equal to it now. */
static inline int backing_settle(struct backing *b, struct error *err) { return b->settle ? b->settle(b, err) : 0; }

/* Whether somebody has removed the store from under us, so that nobody will find again what is written to it. */
static inline bool backing_removed(const struct backing *b) { return b->removed && b->removed(b); }

static inline enum backing_copy backing_catalog_copy(const struct backing *b) { return b->catalog_copy ? b->catalog_copy(b) : BACKING_COPY_NEEDLESS; }

/* Before backing_settle: -1 if the device's copy is of an older state than the catalog, 1 of a newer one; 0: of the same, or
 * nobody knows. */
static inline int backing_copy_age(const struct backing *b) { return b->copy_age ? b->copy_age(b) : 0; }

struct backing_create_options {
    uint64_t size_bytes; /* the store's --size; 0: what the file system or device gives */
    bool force;          /* use a device or directory that holds something else; never an existing store */
};

struct backing_open_options {
    unsigned lock_timeout_ms;
    const char *command;  /* what this process does, named to others that wait for the lock */
    void (*waiting)(void *ctx, int pid, const char *command); /* called once after 1 s of waiting; may be NULL */
    void *waiting_ctx;
    bool lazy;            /* nothing for asynchronous requests is made before there is one, and none but this may do without (aio_queue_open) */
};

/* Creates an empty backing; half-made remains of an interrupted creation are not a store and are replaced. The block device
 * has `initial_blocks` blocks usable, zero-filled and physically allocated (fails with -ENOSPC otherwise); write() may then
 * be used to lay out the store, and backing_created makes it a store. */
int backing_create(const char *url, const struct backing_create_options *opt, uint64_t initial_blocks, struct backing *out, struct error *err);
int backing_created(struct backing *b, struct error *err);

/* Makes a store of what another directory or host has left: `what` is a device with a store's blocks and the copy of its
 * catalog, for which url names a new directory (force as in backing_create); or it is the directory of url, a store of another
 * host, which becomes this host's. A device that was adopted is refused to the directory that had it before. check: NULL, or whether a
 * device's copy is right for its blocks: -ESTALE if it is older. */
struct backing_adopted {
    char previous_host[65];
    char device[512]; /* empty: its blocks are in a file */
};
int backing_adopt(const char *url, const char *what, bool force, int (*check)(struct bdev *blocks, struct catalog *catalog), struct backing_adopted *out, struct error *err);

#define BACKING_COMMAND_SIZE 256u
/* The process that has the store open at this moment, and `command` as it named it (backing_open_options); 0: nobody, or nobody who
 * can be named. Takes and changes nothing. */
int backing_holder(const char *url, char command[static BACKING_COMMAND_SIZE]);

/* Takes the store's lock, recovers the catalog, opens the device. loop: where asynchronous requests complete; NULL for a
 * user that makes only blocking calls. */
int backing_open(const char *url, struct loop *loop, const struct backing_open_options *opt, struct backing *out, struct error *err);

/* The URL's canonical form (absolute directory, file: prefix dropped) and its directory. Buffers of at least 512 bytes. */
int backing_parse_url(const char *url, char *directory, char *device, struct error *err);
#endif
