/* parallax.h - the store and its images: what the ring backend, the daemon and the command line stand on.
 *
 * Words: docs/glossary.md. An image is a virtual disk; IMAGE@SNAP names a frozen state of it; a target is either, as text.
 * Threads: a store belongs to one loop. Everything here is called on that loop's thread; store_open and store_close block and
 * are called on it while the loop does not run. Completions run on the loop, exactly once, never from inside the call.
 * Errors: 0 or negative errno; where a struct error is filled it is one line for a person: what, which object, why, what to do.
 * -ENOENT no such image or snapshot; -EEXIST name taken; -EBUSY held or open; -EROFS read-only; -EPERM protected; -EINVAL bad
 * argument; -ENOSPC store full; -EIO device or damaged data, or a store that has failed (W5), for want of space too; -EBADMSG
 * checksum or format damage; -ENOMEM.
 * Durability: a store_op that ends without error is durable. A write that ends without error survives the end of this
 * process; a flush (or a write with IMAGE_FUA) that ends without error makes all writes that had ended when it was submitted
 * survive a power cut. After a power cut an unflushed write is, per 4096-byte block, whole or absent.
 * Ownership: requests and operations belong to the caller, are zero-initialised by it and borrowed until done, with the
 * strings and arrays that they were begun with. */
#ifndef PARALLAX_PARALLAX_H
#define PARALLAX_PARALLAX_H
#include "base/error.h"
#include "base/histogram.h"
#include "base/list.h"
#include "base/loop.h"
#include "base/uuid.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#define IMAGE_NAME_MAX 128u                              /* characters: [A-Za-z0-9][A-Za-z0-9._-]{0,127} */
#define IMAGE_TARGET_SIZE (2 * IMAGE_NAME_MAX + 2)       /* NAME@SNAP and its NUL */
#define IMAGE_SECTOR 512u                                /* the unit of offsets and lengths of requests */
#define IMAGE_SIZE_MAX (16ull << 40)                     /* bytes */
#define IMAGE_REQUEST_MAX (1u << 20)                     /* bytes of one read or write */
#define IMAGE_DIGEST_BYTES 32u
#define STORE_UUID_SIZE UUID_TEXT_SIZE

struct store;
struct image; /* an image or snapshot opened */

/* ---- Store ---- */

struct store_create_options {
    uint64_t size_bytes; /* 0: as much as the file system gives while max(1 GiB, 5 %) of it stays free */
    bool force;
};
int store_create(const char *url, const struct store_create_options *opt, struct error *err);

/* Makes a store, or this host's store, of what another directory or host has left: a device that carries a copy of the store's
 * catalog, which goes into the new directory that url names, or the directory of url itself. Nobody sees a process that still
 * runs on the former host: whoever adopts a device has seen to it that there is none. */
struct store_adopted {
    char previous_host[65];
    char device[512]; /* empty: its blocks are in a file */
};
int store_adopt(const char *url, const char *what, bool force, struct store_adopted *out, struct error *err);

struct store_options {
    uint64_t map_cache_bytes;   /* 0: 64 MiB */
    uint64_t block_cache_bytes; /* 0: 128 MiB */
    uint32_t index_entries;     /* bound of changes since the last checkpoint; 0: 524288 */
    uint64_t spare_bytes;       /* free space kept allocated for writes to come; 0: an eighth of the store, 16 … 256 MiB */
    uint32_t trim_after_ms;     /* what was free for so long, and is not spare, goes back to the file system or device; 0: 5 s */
    uint32_t reclaim_blocks;    /* freed by deletions in one checkpoint; 0: 262144 */
    unsigned closing_ms;        /* how long closing goes on with deletions, whose rest the next opening does; 0: until they have ended */
    bool accept_loss;           /* blocks that are older than their catalog are opened too: what they miss is lost */
    bool wait_when_full;        /* a guest's write waits for space instead of failing with -ENOSPC */
    bool lazy;                  /* for a process that may have nothing to do with data: as of backing_open */
    unsigned lock_timeout_ms;   /* 0: 10 s */
    const char *command;        /* named to others that wait for the lock */
    void (*lock_waiting)(void *ctx, int pid, const char *command);
    void *ctx;
};
#define STORE_COMMAND_SIZE 256u
/* The process that has the store open at this moment, and the command that it named; 0: nobody. Any thread. */
int store_holder(const char *url, char command[static STORE_COMMAND_SIZE]);
/* Recovers if the last end was not clean. */
int store_open(const char *url, struct loop *loop, const struct store_options *opt, struct store **out, struct error *err);
/* Waits for what is in flight, checkpoints and closes. Open images are closed first by their users. -ESTALE: the store was removed
 * meanwhile, and is lost. */
int store_close(struct store *s);
const char *store_name(const struct store *s);

struct store_status {
    char name[512], uuid[STORE_UUID_SIZE];
    bool direct;                 /* false: no O_DIRECT here, slower */
    bool on_device;              /* the blocks are not where the catalog is */
    bool catalog_copied;         /* then: the device carries a copy of the catalog, so that it can be adopted */
    bool failed;                 /* a metadata write failed: the store takes no more changes until it is opened again */
    uint64_t size_bytes;         /* limit; 0 if only the file system limits it */
    uint64_t capacity_bytes;     /* what could be stored in all, now */
    uint64_t used_bytes;         /* blocks not free, metadata included */
    uint64_t present_bytes;      /* allocated on the file system or device: used and spare ones */
    unsigned used_percent;       /* of capacity_bytes */
    unsigned warned_percent;     /* 0, or the highest of 80, 90, 95 that is reached */
    uint64_t trimmed_bytes;      /* given back since the store was opened */
    uint64_t provisioned_bytes;  /* sum of the sizes of images */
    uint64_t images, templates, snapshots, open_images;
    uint64_t checkpoints, journal_bytes, journal_used_bytes, index_entries, index_used, held_blocks, deletions_pending;
    uint64_t overdrawn_blocks;   /* taken by checkpoints beyond what had been kept free for them: 0, or too little is kept */
    uint64_t map_hits, map_misses, cache_hits, cache_misses, device_reads, device_writes, device_read_bytes, device_write_bytes, device_flushes;
    uint64_t recovered_records, rejected_records, recovery_ms;
};
void store_get_status(struct store *s, struct store_status *out);

/* ---- Looking ---- */

struct image_info {
    char name[IMAGE_TARGET_SIZE];   /* NAME or NAME@SNAP */
    char parent[IMAGE_TARGET_SIZE]; /* NAME@SNAP, NAME, or "" : what it was cloned from, if that still has a name */
    uint64_t size_bytes, created_ns, last_write_ns /* 0: never */;
    uint32_t snapshots;             /* of an image */
    bool is_snapshot, is_template, is_protected;
    uint32_t clones;                /* images whose parent this is */
    char holder[128];               /* who writes it, or "" */
    uint32_t readers;               /* open read-only handles */
    char identity[IMAGE_TARGET_SIZE]; /* see image_identity; of store_find alone */
};
/* Fills out, or says which name does not exist and what similar name does. */
int store_find(struct store *s, const char *target, struct image_info *out, struct error *err);
/* Images (not snapshots) in order of name; a non-zero return stops. */
int store_list(struct store *s, int (*each)(void *ctx, const struct image_info *info), void *ctx);
/* Snapshots of one image in order of creation. */
int store_list_snapshots(struct store *s, const char *image, int (*each)(void *ctx, const struct image_info *info), void *ctx, struct error *err);
/* Which of the named images would have clones left if all of them went; names that are none are passed over. */
void store_list_survived(struct store *s, const char *const *names, unsigned count, void (*each)(void *ctx, const char *name), void *ctx);
/* Whether text is a legal NAME, else err says what is wrong with it. */
int store_check_name(const char *text, struct error *err);

/* ---- Data: requests on an open image ---- */

enum image_mode { IMAGE_READ_ONLY, IMAGE_READ_WRITE };

struct image_open_options {
    enum image_mode mode;
    bool impatient;                       /* its writes fail when the store is full, whatever wait_when_full says */
    const char *holder;                   /* e.g. "domain 7 xvda"; named to a second writer */
    void (*resized)(void *ctx, uint64_t size_bytes); /* may be NULL */
    void *ctx;
};
/* target may be an identity too. A snapshot or template opens read-only only (-EROFS). A second writer gets -EBUSY and the
 * holder's name. Readers of an image's current state see its writer's writes. */
int image_open(struct store *s, const char *target, const struct image_open_options *opt, struct image **out, struct error *err);
/* No request may be in flight. */
void image_close(struct image *img);
/* As if it had been opened impatient; writes that wait already fail too. */
void image_stop_waiting(struct image *img);
/* Whether a write of it waits because the store is full. */
bool image_waits(const struct image *img);
uint64_t image_size(const struct image *img); /* bytes */
/* What it is called now: NAME or NAME@SNAP. */
void image_name(const struct image *img, char out[static IMAGE_TARGET_SIZE]);
/* What it is, whatever it is called: a text that image_open and image_map take for this image or snapshot, as long as it is in
 * this store, and for no other ever. A name can be changed, also of what is open, and then be given to another. */
void image_identity(const struct image *img, char out[static IMAGE_TARGET_SIZE]);

enum image_op { IMAGE_READ, IMAGE_WRITE, IMAGE_FLUSH, IMAGE_DISCARD };
#define IMAGE_OPS 4u
#define IMAGE_FUA 1u

struct image_req {
    enum image_op op;
    unsigned flags;
    uint64_t offset, length;  /* bytes, multiples of IMAGE_SECTOR, inside the image; a discard may be of any length */
    const struct iovec *iov;  /* read and write: exactly length bytes, each piece a multiple of 512 and 512-aligned. Whole
                                 blocks in BDEV_BLOCK_SIZE-aligned memory are transferred without a copy. Nobody else may change
                                 the memory until done. */
    unsigned iov_count;
    void (*done)(struct image_req *req, int error);
    /* private */
    struct image *image;
    struct list_node link;         /* the queue it waits in */
    struct list_node image_link;   /* writes of the image that are not done */
    uint64_t first_block, block_count;
    uint64_t begun_ns;             /* when it was submitted; 0: not counted */
    void *context;
    int result;
};
/* Discarded blocks read as zeroes. -EINVAL range or alignment; -EROFS; -ENOSPC; -EIO, -EBADMSG. All through done. */
void image_submit(struct image *img, struct image_req *req);

/* ---- Counters ---- */

/* Of requests that have ended, by enum image_op. Requests that were refused as they came are counted as errors alone. */
struct image_counters {
    struct histogram latency[IMAGE_OPS]; /* from image_submit to done; its count is that of the requests */
    uint64_t bytes[IMAGE_OPS];           /* of those that ended without an error */
    uint64_t errors;
};
/* Of all images since the store was opened. */
const struct image_counters *store_get_counters(const struct store *s);
/* Calls each for every named image that is open, with the counters of it and its snapshots since somebody first opened it; they
 * end when the last user closes. identity: see image_identity. A non-zero return stops. */
int store_each_counted(struct store *s, int (*each)(void *ctx, const char *name, const char *identity, const struct image_counters *count), void *ctx);

struct image_usage;
struct image_digest;
struct image_dedup;
struct store_scrub_options;
struct store_scrub_result;
/* ---- Operations: atomic, durable when done without error ---- */

struct store_op {
    void (*done)(struct store_op *op);
    struct error error;     /* code 0: done */
    uint64_t freed_bytes;   /* deletions: what they give back (or would) */
    struct image *image;    /* image_import_begin, image_open_frozen: the open image */
    /* private */
    struct store *store;
    struct list_node link;
    uint64_t target_seq, subject;
    void (*run)(struct store_op *op);
    void (*finish)(struct store_op *op);
    struct {
        const char *name, *other;
        const char *const *names;
        uint64_t number;
        uint32_t count;
        bool flag, dry_run;
        struct image *image;
        struct image_usage *usage;
        int (*diff_run)(void *ctx, uint64_t offset_bytes, uint64_t length_bytes, bool is_data);
        void *diff_ctx;
        struct image_digest *digest;
        struct image_dedup *dedup;
        const struct store_scrub_options *scrub;
        struct store_scrub_result *scrubbed;
    } args;
    void *work;
    const char *rename_from;
    bool cancelled; /* read by other threads */
};

void image_create(struct store *s, struct store_op *op, const char *name, uint64_t size_bytes);
void image_clone(struct store *s, struct store_op *op, const char *source, const char *name);
/* PREFIX<first> … PREFIX<first+count-1>; all or none. count: 1 … 100,000. */
void image_clone_many(struct store *s, struct store_op *op, const char *source, const char *prefix, uint64_t first, uint32_t count);
void image_seal(struct store *s, struct store_op *op, const char *name);
void image_rename(struct store *s, struct store_op *op, const char *name, const char *to);
void image_resize(struct store *s, struct store_op *op, const char *name, uint64_t size_bytes, bool shrink);
/* target may be a snapshot. */
void image_protect(struct store *s, struct store_op *op, const char *target, bool on);
/* All or none. dry_run: only tells freed_bytes. */
void image_delete(struct store *s, struct store_op *op, const char *const *names, unsigned count, bool with_snapshots, bool dry_run);

/* targets: NAME@SNAP each (the caller makes names up where the user gave none); one point in time for all. */
void snapshot_create(struct store *s, struct store_op *op, const char *const *targets, unsigned count);
void snapshot_delete(struct store *s, struct store_op *op, const char *const *targets, unsigned count, bool dry_run);
void snapshot_purge(struct store *s, struct store_op *op, const char *image);
void snapshot_rename(struct store *s, struct store_op *op, const char *image, const char *from, const char *to);
/* keep: name of a snapshot to take first, or NULL. -EBUSY while a writer holds the image. */
void snapshot_rollback(struct store *s, struct store_op *op, const char *target, const char *keep);

/* A new image without a name, open for writing as op->image; it vanishes when closed or at a crash unless finished. */
void image_import_begin(struct store *s, struct store_op *op, uint64_t size_bytes);
/* Names it (and seals it as a template); img stays open until image_close. */
void image_import_finish(struct image *img, struct store_op *op, const char *name, bool seal);
/* Opens the present state of an image, frozen as by a snapshot that vanishes when closed (or at a crash), as op->image. */
void image_open_frozen(struct store *s, struct store_op *op, const char *target);

/* ---- Slow looks: run beside the loop, done on it ---- */

struct image_usage {
    uint64_t data_bytes;  /* mapped */
    uint64_t used_bytes;  /* blocks and nodes that would come back if only this were deleted */
    bool missing;         /* image_get_usages: there is no such target */
};
void image_get_usage(struct store *s, struct store_op *op, const char *target, struct image_usage *out);
/* Of many: what they share is walked once. A target that does not exist is no error. Ends early by store_op_cancel. */
void image_get_usages(struct store *s, struct store_op *op, const char *const *targets, unsigned count, struct image_usage *out);

/* Runs of blocks that differ from `from` (NULL: from an empty image), ascending, delivered on the loop before done.
 * A non-zero return from run stops with that error. `to` an image: as of this instant. */
void image_diff(struct store *s, struct store_op *op, const char *from, const char *to,
                int (*run)(void *ctx, uint64_t offset_bytes, uint64_t length_bytes, bool is_data), void *ctx);

#define IMAGE_MAP_MAX (64ull << 20) /* bytes told by one image_map */
/* Which parts of [offset, offset + length), at most IMAGE_MAP_MAX of it, are mapped, as ascending runs without gaps up to the
 * image's end, told on the loop before done. Exact to the block; each MiB is as of one instant, changes not yet in trees
 * included, so nothing is written for it. A non-zero return from run stops with that error. target may be an identity too. */
void image_map(struct store *s, struct store_op *op, const char *target, uint64_t offset, uint64_t length,
               int (*run)(void *ctx, uint64_t offset_bytes, uint64_t length_bytes, bool is_data), void *ctx);

struct image_range {
    uint64_t offset, length; /* bytes */
};
struct image_stored {
    struct image_range *ranges; /* the caller's; room of them */
    uint32_t room, count;       /* count: filled before done */
    uint64_t next;              /* bytes: where to look from, 0 at first; set to where to go on, at the end to the image's size */
};
/* The next ranges in which an open image that does not change (a snapshot, a template, what image_open_frozen opened) holds
 * data, or may: ascending, not touching. The cost is that of what is mapped. */
void image_get_stored(struct image *img, struct store_op *op, struct image_stored *io);

struct store_check_result {
    uint64_t blocks_checked, nodes_checked;
    uint64_t damaged;       /* data blocks and nodes that cannot be read or are not what their entry says */
    uint64_t dead_damaged;  /* blocks of dead lists likewise: the space they name is found again by a collection, after deletions */
    uint64_t leaked_blocks; /* counted as used, and nothing reaches them */
    uint64_t wrongly_free;  /* counted as free, and something reaches them */
    uint64_t overcounted;   /* blocks for which more references are counted than there are: they would never be freed */
    uint64_t undercounted;  /* fewer: they would be freed while they are in use */
    uint64_t lost_pages;    /* of the space map: their free blocks cannot be used */
    uint64_t hidden_bytes;  /* held only by deleted images and snapshots from which two or more others still branch */
    uint64_t mended;        /* leaked, wrongly free, wrongly counted, pages: put right, durably; the counts above are those before */
    uint64_t freed_bytes;   /* a collection: used bytes less than before */
};
enum store_check_flags {
    STORE_CHECK_DATA = 1,    /* read and verify every data block too */
    STORE_CHECK_REPAIR = 2,  /* put right what can be without giving up data: the space map */
    STORE_CHECK_COLLECT = 4, /* first end all deletions; afterwards give back what is free and not needed */
};
/* Full reachability walk. Findings are told one line each, on the loop, before done. Ends early by store_op_cancel, and has put nothing
 * right then. */
void store_check(struct store *s, struct store_op *op, unsigned flags, void (*finding)(void *ctx, const char *line), void *ctx, struct store_check_result *out);

struct image_digest {
    uint8_t sha256[IMAGE_DIGEST_BYTES];
    uint64_t hashed_bytes; /* read for it: what is shared with what was hashed before, and zeroes, are not */
};
/* The digest of the content (docs/digest.md): the same wherever and however it was written. An image: as of this instant. */
void image_get_digest(struct store *s, struct store_op *op, const char *target, struct image_digest *out);
/* The same, and all of it is read, also what is known already: it may have rotted since. */
void image_verify_digest(struct store *s, struct store_op *op, const char *target, struct image_digest *out);

struct image_dedup {
    uint64_t examined_bytes, shared_bytes;
};
/* Refers to blocks that a sealed image or a snapshot holds already instead of storing them again (consistency.md, "Shared by
 * content"). The image may be in use; what was found until a stop stays shared. An import does this before it gets its name. */
void image_dedup(struct store *s, struct store_op *op, const char *name, struct image_dedup *out);

struct store_scrub_options {
    uint64_t rate_bytes; /* a second; 0: as fast as leaves others in peace */
    void (*finding)(void *ctx, const char *line);    /* a line for each image or snapshot that uses what is damaged */
    void (*progress)(void *ctx, uint64_t bytes);     /* now and then: read so far, earlier parts of this scrub included; may be NULL */
    void *ctx;
};
struct store_scrub_result {
    uint64_t bytes, damaged;  /* by the whole scrub: data read, blocks and nodes found damaged */
    uint64_t resumed_bytes;   /* of them, by parts of it that were stopped */
};
/* Reads and verifies all data and map nodes once, in small steps while the store is in use. A scrub that was stopped, by
 * store_op_cancel or by the end of the process, is gone on with. -EBUSY: one is under way. options: lent until done. */
void store_scrub(struct store *s, struct store_op *op, const struct store_scrub_options *options, struct store_scrub_result *out);

/* Makes a slow look or a search end soon, with -ECANCELED unless it was done already; op->done runs as ever. */
static inline void store_op_cancel(struct store_op *op) { __atomic_store_n(&op->cancelled, true, __ATOMIC_RELAXED); }

/* Changes the limit, up or down, of an open store. -ENOSPC: it holds more, or the device is smaller. Free space above a lower limit
 * goes back in the background. */
void store_resize(struct store *s, struct store_op *op, uint64_t size_bytes);
/* Writes that wait for space end with -ECANCELED, now and later: before the end. */
void store_stop_waiting(struct store *s);

/* Makes everything so far part of the trees; the journal is empty after. */
void store_checkpoint(struct store *s, struct store_op *op);
#endif
