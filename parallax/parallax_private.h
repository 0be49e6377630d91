/* parallax_private.h - the store object and what the engine's files share. Included only in parallax/. Rules by number are
 * those of docs/consistency.md. Everything is the loop's unless it says otherwise. */
#ifndef PARALLAX_PRIVATE_H
#define PARALLAX_PRIVATE_H
#include "base/log.h"
#include "cache/cache.h"
#include "parallax/change.h"
#include "parallax/disk.h"
#include "parallax/index.h"
#include "parallax/parallax.h"
#include "parallax/pool.h"
#include "parallax/space.h"
#include "parallax/store/store.h"
#include "parallax/tree.h"

#include <pthread.h>

/* ---- Journal and batches (journal.c) ---- */
#define BATCH_BLOCKS 512u  /* image blocks a batch changes one by one */
#define BATCH_JBLOCKS 4u
#define BATCH_RANGES 32u
#define BATCHES 32u
#define BATCHES_IN_FLIGHT 16u /* of writes; more wait, and grow */
#define SHARES_IN_FLIGHT 4u   /* besides, of shares: under a load there are always as many as writes may have */
#define JOURNAL_RESERVE 256u  /* journal blocks that only changes and cancels may use */
#define FLUSH_EVERY_BLOCKS (64u << 20 >> BDEV_BLOCK_SHIFT)
#define FLUSH_EVERY_JBLOCKS 1024u
#define FLUSH_HABIT 4u /* flushes that each followed a write which had ended, before they are foreseen */
#define UNFLUSHED_JBLOCKS 2048u /* with so many beyond the durable mark, nothing begins but what is under way (F3) */
#define SCAN_WINDOW (UNFLUSHED_JBLOCKS + BATCHES * BATCH_JBLOCKS) /* more missing in a row than a power cut can leave */

struct batch;

struct batch_req {
    struct bdev_req req;
    struct batch *batch;
};

struct batch {
    struct store *store;
    struct list_node link;             /* in journal.in_flight by seq, or journal.idle */
    uint64_t first_seq;
    uint32_t jblocks, used, records;   /* used, records: of the last journal block */
    uint32_t pending;                  /* device requests */
    int data_error, journal_error;
    struct batch *cancels;             /* this batch's record cancels that one */
    struct list_node requests;         /* image_req.link: answered when the batch is */
    uint32_t change_count, range_count, extent_count, iov_count;
    struct index_entry changes[BATCH_BLOCKS];
    struct { uint32_t line; struct zero_range range; } ranges[BATCH_RANGES];
    struct batch_req extents[BATCH_BLOCKS];
    struct iovec iov[BATCH_BLOCKS];
    struct batch_req journal[2];       /* two where the ring wraps */
    struct iovec journal_iov[2];
    uint8_t *jbuf;
    struct jheader headers[BATCH_JBLOCKS];
};

struct journal {
    struct batch *batches;
    uint8_t *jbufs;
    struct list_node idle, in_flight;
    uint64_t epoch, next_seq, tail, durable;
    uint64_t ended, ended_durable;     /* batches that ended, in whatever order; so many of them are durable */
    uint64_t flush_covers, flush_covers_ended; /* of the device flush under way */
    bool flushing;
    struct bdev_req flush;
    struct list_node waiters;          /* store_op.link, by target_seq: done when durable reaches it */
    struct list_node flush_requests;   /* image_req.link: done when ended_durable reaches first_block */
    struct list_node barriers;         /* store_op.link: done when everything up to target_seq has completed */
    uint64_t unflushed_blocks;
    uint64_t flush_asked;              /* next_seq when a flush was last asked for */
    unsigned flush_habit;              /* so many flushes in a row were what came after all that was written had completed */
    uint64_t last_change;              /* where the last change ends that was appended since the store was opened; 0: none was */
};

/* ---- Worker threads (worker.c) ---- */
struct job {
    struct list_node link;
    void (*work)(struct job *j);  /* on the worker */
    struct loop_task done;        /* run on the loop after work */
};

struct worker {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct list_node jobs, finished; /* finished: done has not run yet */
    struct loop_task deliver;
    bool stop, started;
    struct loop *loop;
};
int worker_start(struct worker *w, struct loop *loop);
void worker_stop(struct worker *w); /* finishes queued jobs; what the loop has not heard of by then it never will */
void worker_submit(struct worker *w, struct job *j);

/* ---- The store ---- */

/* Memory that an operation needs for longer than a call. What is left when a store is abandoned goes with it. */
struct owned {
    struct list_node link;
    void (*release)(struct owned *o);
};

struct checkpoint; /* checkpoint.c */

struct store {
    struct backing backing;
    bool owns_backing;
    struct bdev *blocks;   /* the device */
    struct bdev *data;     /* the device with a cache of blocks before it */
    struct loop *loop;
    struct store_options opt;
    struct super super;
    struct space space;
    struct pool pool;
    struct tree tree;
    struct index index[2];
    unsigned active;       /* which index takes new changes; the other is empty or being merged */
    uint64_t range_count;  /* of discarded ranges that are not in trees, in flight ones too */
    uint64_t frozen_seq;   /* journal blocks up to it belong to the other index */
    struct journal journal;
    struct radix_cache *map;
    uint64_t catalog_revision, checkpoint_number;
    int failed;            /* -EIO since a metadata write failed (W5); 0: none has */
    bool has_lost;         /* some map may have lost entries */
    bool age_accepted;     /* the blocks were older than the catalog when this was opened, and the catalog does not say so yet */
    bool time_gone, commit_unnoted; /* of the blocks that tell the time: what opening is to write once more */
    bool closing;

    struct list_node write_queue;  /* image_req.link: whole-block writes and discards without a ticket yet */
    bool full;                     /* a write waits until somebody makes room */
    struct list_node parked;       /* image_req.link: wait for a block lock */
    struct list_node late;         /* image_req.link: to be completed by late_task */
    struct loop_task late_task;
    struct list_node op_queue;     /* store_op.link: changes that wait for journal room */
    struct loop_task pump;
    struct space_run run, ahead;   /* where data goes next, and after that */
    bool readying;                 /* ahead is being written: not to be had yet */

    struct read_pool *reads;
    struct partial_pool *partials;

    struct worker checkpointer;
    struct worker grower;                /* space, which guests wait for: no walk may come before it */
    struct worker helper, walker;        /* walker: walks that take long and need no moment of their own */
    bool stop_walks;                     /* read by other threads */
    struct known_digest *known_digests;  /* digest.c; the walker's */
    struct checkpoint *checkpoint;
    struct loop_timer idle_timer, reclaim_timer;
    uint64_t hurries_until_ms;           /* the store is being closed: deletions are not spread out, and end at this; 0: it is not. The checkpointer reads it */
    struct list_node checkpoint_waiters; /* store_op.link */
    struct list_node owned;              /* struct owned */
    struct list_node dedups;             /* dedup.c: under way, and waiting */
    struct list_node checks;             /* check.c: store_op.link, waiting for the one under way */
    bool checking;                       /* the same */
    bool scrubbing;                      /* scrub.c */
    uint64_t old_readers, new_readers;   /* reads that began before, since the last install */
    uint32_t walkers;                    /* walks of live roots under way */
    bool growing;
    int grow_error;                      /* why the device could not be grown; cleared when space may have appeared */
    uint64_t grow_retry_ms;
    struct loop_timer full_timer;        /* writes wait for space */
    struct grow *grow;
    struct runs *runs;
    struct log_limit grow_complaints;
    unsigned warned_percent;             /* the highest of 80, 90, 95 that was reached and told */
    bool stops_waiting;
    struct trim *trim;

    struct store_status stats;
    struct image_counters count;
    struct list_node counted;            /* struct counted */
};

/* What is counted of one image while it is open. */
struct counted {
    struct list_node link; /* in store.counted */
    struct vdisk *disk;
    uint32_t users;        /* handles */
    struct image_counters count;
};

static inline struct index *index_for_seq(struct store *s, uint64_t seq) { return &s->index[seq > s->frozen_seq ? s->active : 1 - s->active]; }
static inline uint64_t ticket_seq(uint64_t ticket) { return ticket >> TICKET_SHIFT; }

static inline void owned_add(struct store *s, struct owned *o, void (*release)(struct owned *o))
{
    o->release = release;
    list_add_tail(&s->owned, &o->link);
}

#define REQUEST_IMPATIENT 2u /* image_req.flags: it never waits for space, whatever its image's user does */

/* Handles on images and frozen versions. */
struct image {
    struct owned owned;        /* a handle ends with the store at the latest */
    struct store *store;
    struct vdisk *disk;        /* NULL: the image was deleted under a frozen handle */
    struct version *frozen;    /* NULL: the image's head */
    enum image_mode mode;
    bool temporary;            /* frozen by image_open_frozen */
    bool impatient;            /* its writes never wait for space */
    char holder[128];
    void (*resized)(void *ctx, uint64_t size_bytes);
    void *ctx;
    struct list_node link;     /* in disk->handles */
    struct list_node writes;   /* image_req.image_link: whole-block writes that are not done */
    struct counted *counted;   /* NULL: closed, or of an operation of the store's own */
    uint32_t in_flight;
    bool closed;               /* by its user; freed with the last request */
};
static inline struct version *image_version(const struct image *img) { return img->frozen ? img->frozen : img->disk->head; }
static inline bool request_is_impatient(const struct image_req *req) { return req->image->impatient || req->flags & REQUEST_IMPATIENT; }

/* A metadata write failed: no more changes, flushes or checkpoints until the store is opened again (W5). Returns -EIO. */
int store_fail(struct store *s, int error, const char *what);

/* ---- lookup.c ---- */
/* What the indexes know of a block of a version: 1 found (*out, kind NONE for zeroes), 0 look in *root. */
int lookup_changes(struct store *s, const struct version *v, uint32_t block, struct radix_entry *out);
/* The tree that holds what the indexes do not know. */
const struct radix_root *lookup_root(const struct version *v);
/* The cuts around a ticket in its line: no cut lies in [low, high). */
void line_interval(const struct line *l, uint64_t ticket, uint64_t *low, uint64_t *high);
int line_add_range(struct line *l, const struct zero_range *r);

/* ---- journal.c ---- */
int journal_init(struct store *s);
void journal_fini(struct store *s);
/* A batch of writes to fill, or NULL: none may start now. */
struct batch *batch_begin(struct store *s);
/* The same of shares, which do not wait for the writes under way. */
struct batch *batch_begin_share(struct store *s);
bool batch_has_room(const struct batch *b, uint32_t blocks);
/* Journal records of a batch; each returns the ticket. */
uint64_t batch_add_write(struct batch *b, uint32_t line, uint32_t first, uint32_t count, uint64_t address, const uint32_t *crcs);
uint64_t batch_add_share(struct batch *b, uint32_t line, uint32_t first, uint32_t count, uint64_t address, const uint32_t *crcs);
uint64_t batch_add_zero(struct batch *b, uint32_t line, uint64_t first, uint64_t count);
void batch_add_extent(struct batch *b, uint64_t address, void *block);
void batch_submit(struct batch *b);
/* Appends a change, in as many journal blocks as it needs. -EAGAIN: no room now. */
int journal_append_change(struct store *s, const void *payload, uint32_t length, uint64_t *ticket);
/* op->finish runs when everything appended so far is durable (or has failed). */
void journal_wait_durable(struct store *s, struct store_op *op);
/* op->finish runs when everything appended so far has completed. */
void journal_wait_complete(struct store *s, struct store_op *op);
void journal_flush_request(struct store *s, struct image_req *req);
void journal_poll(struct store *s);
uint64_t journal_completed(const struct store *s); /* every journal block up to it has completed */
uint64_t journal_room(const struct store *s);      /* blocks */
/* So many journal blocks are beyond the durable mark that no write and no operation may begin (F3). */
bool journal_must_flush(const struct store *s);

/* ---- change.c, record.c ---- */
/* Makes what a change says true in memory, at run time and at replay. -EBADMSG: it does not fit the state. */
int change_apply(struct store *s, uint64_t ticket, const uint8_t *payload, uint32_t length);

/* ---- write.c, partial.c, read.c ---- */
void write_queue_request(struct store *s, struct image_req *req);
void write_pump(struct store *s);
void write_done(struct image_req *req, int error);
bool write_overlaps(const struct image *img, uint64_t first, uint64_t count);
/* Ends a request; request_complete_later does so from a task of its own, for use inside image_submit. */
void request_complete(struct image_req *req, int error);
void request_complete_later(struct image_req *req, int error);
/* Whether the request's memory is made of whole, aligned blocks. */
bool request_is_aligned(const struct image_req *req);
void request_dispatch(struct image_req *req);
int partial_init(struct store *s);
void partial_fini(struct store *s);
/* Whether a whole-block write must wait for a partial one. */
bool partial_blocks(struct store *s, const struct image_req *req);
void partial_submit(struct store *s, struct image_req *req);
void partial_retry(struct store *s);
/* The store is full: who is impatient and waits for blocks, or for what writing parts of them needs, hears of it, as that may be held by
 * those who wait for room. */
void partial_refuse_impatient(struct store *s);
int read_init(struct store *s);
void read_fini(struct store *s);
void read_submit(struct store *s, struct image_req *req);
/* Whether that state could still be another one a moment later (V7). */
bool read_is_early(const struct store *s, const struct version *v);
/* Tries the reads that wait for the journal. */
void read_retry(struct store *s);

/* ---- checkpoint.c ---- */
int checkpoint_init(struct store *s);
void checkpoint_abandon(struct store *s); /* a thread that waits for the loop gives up */
void checkpoint_fini(struct store *s);
/* Asks for one, at once if none is under way. */
void checkpoint_request(struct store *s);
/* Asks for one because a version is to be deleted. Nobody waits for that, and a checkpoint takes the device's time from those
 * who wait for something else: so not at once, and the more seldom the longer they take. */
void checkpoint_reclaim_soon(struct store *s);
/* Looks whether the one asked for can begin, or the cut is complete. */
void checkpoint_poll(struct store *s);
void checkpoint_release(struct store *s);
bool checkpoint_busy(const struct store *s);
/* Versions that the checkpoint under way and the next one write. */
uint64_t checkpoint_versions(const struct store *s);
/* Likewise the nodes that they write at most if so many changes begin that are known to be theirs: a leaf for each change and all
 * that are no leaves, or all that the maps of the versions can have. */
uint64_t checkpoint_nodes(const struct store *s, uint64_t changes);
/* Some deletion can go on. */
bool checkpoint_deletions_wait(const struct store *s);
/* Something changed: checkpoint when idle. */
void checkpoint_touch(struct store *s);
static inline void reader_begin(struct store *s, uint64_t *era) { *era = s->checkpoint_number; s->new_readers++; }
void reader_end(struct store *s, uint64_t era);
/* Blocks that may be taken now, those that are lent to data included; and those that are in use. */
static inline uint64_t space_at_hand(const struct store *s)
{
    return s->space.free_blocks + (s->run.end - s->run.next) + (s->readying ? 0 : s->ahead.end - s->ahead.next);
}
static inline uint64_t space_used(const struct store *s)
{
    return space_present(&s->space) - space_at_hand(s) - (s->readying ? s->ahead.end - s->ahead.next : 0);
}
/* Blocks that must stay free for the next checkpoint if `more` blocks change, and `ranges` ranges more (S1). */
uint64_t space_reserve(const struct store *s, uint64_t more, uint64_t ranges);
/* The part of it that merging takes. */
uint64_t space_needed(const struct store *s);
/* Room for `blocks` of data now? 0, -EAGAIN (wait: growing or checkpointing, or for space if may_wait), -ENOSPC; -ECANCELED:
 * nobody waits any more. */
int space_ready(struct store *s, uint32_t blocks, bool may_wait);
/* The same for what needs no data block, a discard: entries of the index, or a range (0). */
int space_ready_to_discard(struct store *s, uint32_t entries, bool may_wait);
/* The same for a range of a version that an operation discards: -EAGAIN: after the next checkpoint perhaps; -ENOSPC. */
int space_ready_to_shrink(struct store *s, const struct version *v);
/* Whether the next checkpoint can write what deletions write. */
bool space_ready_to_delete(const struct store *s);
void space_grow_ahead(struct store *s);
void space_restore_reserve(struct store *s);
/* How many more blocks the limit, or what lies below, lets the store allocate. */
uint64_t space_room(struct store *s);
/* Blocks that the store has beyond its limit: since that was lowered, or for the reserve while pages of the map are lost. */
uint64_t space_above_limit(const struct store *s);
/* Free blocks to be kept allocated ahead of need. */
uint64_t space_spare(const struct store *s);
/* Free blocks that are not given back: as many as are there after the longest growth, and some more. */
uint64_t space_kept(const struct store *s);
int grow_init(struct store *s);
void grow_fini(struct store *s);

/* ---- runs.c ---- */
/* The next run for data; the one in use is used up, and space_ready has promised blocks. */
void runs_next(struct store *s);
/* Gives back what is lent to data and not yet used; what is being made ready is not to be had before readying ends. */
void runs_return(struct store *s);
/* Of it, what is not in use. */
void runs_return_ahead(struct store *s);
int runs_init(struct store *s);
void runs_fini(struct store *s);

/* ---- limit.c ---- */
unsigned limit_percent(struct store *s); /* of the capacity, in use */
/* Tells the log when 80, 90 or 95 % are reached, once. */
void limit_watch(struct store *s);

/* ---- trim.c ---- */
int trim_init(struct store *s);
void trim_fini(struct store *s);
/* Space has become free: what of it is not needed goes back after a while. */
void trim_note(struct store *s);
/* Gives back now what is not needed, a bounded part of it; trim_busy until done. */
void trim_now(struct store *s);
/* The same before the store closes: what was written since it was opened, up to an eighth of what is there, is kept at hand. */
void trim_closing(struct store *s);
bool trim_busy(const struct store *s);
/* Blocks are being given back: they are neither free nor holes. */
bool trim_holds(const struct store *s);
/* While opening: finds what is not allocated below. -ENOSPC: what must be there is not, and cannot be made. */
int trim_find_holes(struct store *s);

/* ---- recovery.c ---- */
struct sealed_range {
    uint64_t epoch, first, last;
    uint32_t hole_count, rejected_count;
    uint64_t *holes;                                     /* sorted */
    struct { uint64_t ticket; uint32_t block; } *rejected; /* sorted */
};
struct stored_state {
    uint8_t uuid[16];
    uint64_t checkpoint, epoch, tail, next_version, next_image;
    uint32_t next_line, sealed_count;
    uint32_t tag;                                        /* of the commit that made it (age.c); 0: it had none */
    bool has_lost;
    struct sealed_range *sealed;
};
uint8_t *state_encode(const struct stored_state *st, uint32_t *length); /* malloc'ed */
int state_decode(const uint8_t *value, size_t length, struct stored_state *out);
void state_fini(struct stored_state *st);
int store_recover(struct store *s, struct stored_state *st, struct error *err);

/* ---- store.c ---- */
/* From whichever copy of it is whole. */
int super_read(struct bdev *blocks, struct super *out);

/* ---- age.c: blocking, on any thread ---- */
/* For the state that is to be committed. */
uint32_t store_new_tag(void);
/* Before and after the commit of that state; the first is durable with the flush that must follow. */
int store_announce(struct store *s, const struct stored_state *st);
void store_committed(struct store *s, const struct stored_state *st);
/* After the commit of a checkpoint: blocks whose age was accepted are of the catalog's time from now on. */
void store_end_acceptance(struct store *s, const struct stored_state *st);
/* Of a new store; its flush follows. */
int store_begin_time(struct bdev *blocks, const struct super *super, const struct stored_state *st);
/* -ESTALE: blocks and catalog are not of one time. Writes nothing, unless that is accepted. */
int store_check_age(struct store *s, const struct stored_state *st, struct error *err);
/* Before a device is taken over with the copy of its catalog: -ESTALE if that is older than the blocks. */
int age_check_adopted(struct bdev *blocks, struct catalog *catalog);
/* After store_check_age: writes down what the blocks lack of their time. */
void store_settle_age(struct store *s, const struct stored_state *st);

/* ---- ops.c, image_ops.c ---- */
void op_done(struct store_op *op);
/* Runs op when there is journal room for a change; op->store is set. run ends op, or commits a change. */
void op_begin(struct store *s, struct store_op *op, void (*run)(struct store_op *op));
/* Appends the change, applies it, and ends op (by op->finish) when it is durable; ends it at once if it holds an error. */
void op_commit(struct store *s, struct store_op *op, struct change_writer *w);
struct change_writer change_begin(enum change_kind kind);
int find_image(struct store *s, const char *name, struct vdisk **d, struct error *err);
/* A legal name that nobody has; a legal size. */
int check_new_name(struct store *s, const char *name, struct error *err);
int check_image_size(uint64_t size, struct error *err);
/* what: "image" or "snapshot". */
int check_named_once(const char *const *names, uint32_t count, const char *what, struct error *err);
/* Commits the creation of an image with IMAGE_FLAG_…; *id is known at once. */
void image_create_flagged(struct store *s, struct store_op *op, const char *name, uint64_t size, unsigned flags, uint64_t *id);
/* Splits NAME[@SNAP] and finds what it names. */
int target_find(struct store *s, const char *target, struct vdisk **d, struct version **snapshot, struct error *err);
/* As target_find, and takes an identity too. */
int identity_find(struct store *s, const char *target, struct vdisk **d, struct version **snapshot, struct error *err);
/* v: the snapshot of d that is meant, or NULL. */
void identity_text(const struct store *s, const struct vdisk *d, const struct version *v, char out[static IMAGE_TARGET_SIZE]);
void store_uuid_text(const struct store *s, char out[static STORE_UUID_SIZE]);
/* Deletes an unnamed image; lets a temporary version go. Nobody waits for it. */
void ops_drop_import(struct store *s, const struct vdisk *d);
void ops_release_version(struct store *s, const struct version *v);
/* Tries the operations that wait for journal room. */
void ops_pump(struct store *s);
/* Deletes what an interrupted run left without a name. */
void ops_clean_up(struct store *s);
int op_check_writable(struct store *s, struct error *err);

/* ---- handle.c ---- */
/* NULL: no memory. frozen: NULL for the head. */
struct image *handle_open(struct store *s, struct vdisk *d, struct version *frozen, enum image_mode mode, const char *holder);
void handle_close(struct image *img);
void handle_free(struct image *img);

/* ---- query.c ---- */
/* finish runs when everything so far is in trees, at a moment when no checkpoint runs. */
void checkpoint_then(struct store *s, struct store_op *op, void (*finish)(struct store_op *op));

/* ---- Walks that take long ---- */
/* A version that is pinned stays, with all it reaches, when its last user lets it go, until it is not. */
static inline struct version *version_pin(struct version *v)
{
    v->pins++;
    return v;
}
static inline void version_unpin(struct store *s, struct version *v)
{
    if (--v->pins == 0 && version_unwanted(v))
        checkpoint_reclaim_soon(s);
}

/* ---- blocks.c ---- */
/* On any thread but the loop: reads the data blocks that entries name (elsewhere zeroes), block i to buffer + i blocks, and
 * verifies them. Returns how many failed; errors[i]: 0, -EIO or -EBADMSG. */
uint32_t blocks_read(struct store *s, const struct radix_entry *entries, uint32_t n, uint8_t *buffer, int *errors);
/* On any thread: whether a long walk for op must end early. */
static inline bool op_stopped(const struct store_op *op)
{
    return __atomic_load_n(&op->cancelled, __ATOMIC_RELAXED) || __atomic_load_n(&op->store->stop_walks, __ATOMIC_RELAXED);
}

/* ---- usage.c ---- */
/* Adds the versions that go with an image to an array that grows. */
int usage_collect(const struct vdisk *d, struct version ***versions, unsigned *count);
/* Ends op with freed_bytes: what would come back if exactly these went. versions is freed. */
void usage_freed(struct store *s, struct store_op *op, struct version **versions, unsigned count);
#endif
