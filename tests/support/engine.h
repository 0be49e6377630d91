/* engine.h - the storage engine under random use, beside its oracle: what the model, crash and fault tests are made of.
 *
 * A struct engine is one store in memory, the loop that turns it, the oracle's world, and the requests (struct io) and
 * operations (struct task) under way. A session is: engine_start; then any number of random steps, looks, reopenings and
 * crashes; then engine_end. Whatever the engine answers is checked when it answers; a wrong answer ends the program
 * (engine_fail.h).
 * Threads: one, which turns the loop. */
#ifndef TESTS_SUPPORT_ENGINE_H
#define TESTS_SUPPORT_ENGINE_H
#include "parallax/parallax.h"
#include "parallax/store/store.h"
#include "tests/support/engine_fail.h"
#include "tests/support/engine_world.h"

#define ENGINE_NEVER UINT64_MAX

struct engine {
    struct loop *loop;
    struct backing backing;
    char url[256];        /* where a store on disk is; empty: in memory */
    struct store *store; /* NULL: an armed crash has come */
    struct store_options options;
    uint64_t store_bytes, fresh_used_bytes; /* as created, after a checkpoint */
    struct world world;
    struct list_node ios, tasks; /* under way */
    unsigned io_count, task_count;
    uint32_t ids;                /* pattern ids given out */
    bool overlap;                /* several writes to one block may be under way at once */
    bool may_fill;               /* -ENOSPC is a proper answer */
    bool faulty;                 /* any error is a proper answer: the device has been told to fail */
    enum content_crash armed_kind;
    uint64_t armed_writes, armed_hits; /* engine_arm_crash; faults of the device before it was armed */
    uint64_t finished_tasks, finished_ios, crashes, shared_bytes; /* shared_bytes: by dedup */
    const char *preferred_task;  /* the kind of every other operation; NULL: none */
    bool may_be_cut;             /* a crash may come inside any call: no helpers that the oracle does not know */
    uint64_t paused_ms;          /* for how long the session stood still; does not count as waiting */
    void (*turned)(struct engine *e);               /* after each turn of the loop; may be NULL */
    void (*opening)(struct engine *e);              /* before each opening of the store: may change the backing; may be NULL */
    void (*blocking)(struct engine *e, bool begins); /* around the opening and closing of the store; may be NULL */
};

/* ---- engine_store.c: the store's life ---- */

/* Creates and opens an empty store of that size on a new memory backing. index_entries as in struct store_options. */
void engine_start(struct engine *e, uint64_t seed, uint64_t store_bytes, uint32_t index_entries);
/* The same with a store on disk, made at that URL. For crashes see engine_land. */
void engine_start_at(struct engine *e, uint64_t seed, uint64_t store_bytes, uint32_t index_entries, const char *url);
/* Closes and frees everything. */
void engine_end(struct engine *e);
/* One turn of the loop, waiting up to timeout_ms. */
void engine_turn(struct engine *e, int timeout_ms);
/* Turns until condition says yes; fails the test if that takes longer than a loaded machine may need. */
void engine_wait(struct engine *e, bool (*condition)(struct engine *, void *), void *ctx, const char *what);
/* Waits until no request and no operation is under way. */
void engine_drain(struct engine *e);
/* Drains, closes handles and store in order, and opens the store again. */
void engine_reopen(struct engine *e);
/* The process or the power dies now, unless an armed crash has come already (whose kind then holds); the store is opened
 * again. cuts_in_recovery: how many times the recovery itself is cut by another crash before it may end. Then every name and
 * every byte is compared with what the crash allows. */
void engine_crash(struct engine *e, enum content_crash kind, unsigned cuts_in_recovery);
/* In a forked process, whose parent has the store open and a loop that turns it: this process is the one after the crash. It
 * leaves its parent's store and loop alone, opens what the crash left at that URL, and compares as engine_crash does. */
void engine_land(struct engine *e, const char *url, enum content_crash kind);
/* The first half of engine_land: the error of opening. */
int engine_reach(struct engine *e, const char *url, struct error *err);
/* The second half, after a power cut and with damage in the store: what cannot be read is counted, what can must be right. */
unsigned engine_land_damaged(struct engine *e);
/* The process dies now and the store is opened again, without any comparison: for tests with an oracle of their own. */
void engine_kill(struct engine *e);
/* The device dies by itself after that many more writes and flushes, in whatever thread; ENGINE_NEVER: not at all. The store
 * is taken down at the end of that turn of the loop. */
void engine_arm_crash(struct engine *e, enum content_crash kind, uint64_t writes);
/* Whether an armed crash has come. */
bool engine_is_dead(const struct engine *e);

/* ---- engine_io.c: requests ---- */

/* A random request on a random open image, if there is one. */
void engine_random_io(struct engine *e);
/* Submits one request of that kind; id is that of a write. The range must be inside the image. */
void engine_submit_io(struct engine *e, struct handle *h, enum image_op op, uint64_t first_sector, uint64_t sectors, unsigned flags);
/* Calls each for every request under way. */
void engine_each_io(struct engine *e, void (*each)(void *ctx, const struct image_req *req, const struct object *o), void *ctx);
/* The answers to the requests under way will never come. */
void engine_forget_ios(struct engine *e);

/* ---- engine_verify.c: reading everything ---- */

/* Reads all tracked blocks of o and compares. settle: what is found becomes the only truth; for snapshots always. */
void engine_verify(struct engine *e, struct object *o, bool settle);
void engine_verify_all(struct engine *e, bool settle);
/* The same of a damaged store: how many pieces could not be read. */
unsigned engine_verify_damaged(struct engine *e, struct object *o);
/* Whether the store's image of that name has this size and, in every tracked block, one of the versions from since[] on (from
 * the first on, if since is NULL). */
bool engine_is(struct engine *e, const char *target, const struct content *c, const uint32_t *since);
/* Reads sectors through img, waiting; 0 or negative errno. */
int engine_read(struct engine *e, struct image *img, uint64_t first_sector, uint64_t sectors, void *buf);
/* store_check with data finds nothing. */
void engine_check(struct engine *e);

/* ---- engine_tasks.c: operations ---- */

struct task;
/* Begins a random operation, if one is possible. */
void engine_random_task(struct engine *e);
/* Calls each for every operation under way; count: of its subjects' names. */
void engine_each_task(struct engine *e, void (*each)(void *ctx, const char *kind, unsigned count), void *ctx);
/* Begins one of that kind, with random subjects; false: it is not possible now. */
bool engine_begin_task(struct engine *e, const char *kind);
/* How many images, and how many snapshots of each, the operations make at most (usual: 20 and 10). */
void engine_limit(unsigned images, unsigned snapshots);
/* After a crash: each interrupted operation happened wholly or not at all; the oracle follows. */
void engine_judge_tasks(struct engine *e, enum content_crash kind);
/* Closes random handles or opens one. */
void engine_random_handle(struct engine *e);
void engine_close_handle(struct engine *e, struct handle *h);

/* An operation that is waited for: start it with run->op, then engine_run. */
struct engine_run {
    struct store_op op;
    bool done;
};
/* Zeroes run and sets op.done. */
void engine_run_arm(struct engine_run *run);
int engine_run(struct engine *e, struct engine_run *run, const char *what);
void engine_checkpoint(struct engine *e);

/* ---- engine_looks.c, engine_refusals.c ---- */

/* diff, usage, frozen views, imports, dry runs. Waits; nothing else may be under way on the objects it takes. */
void engine_random_look(struct engine *e);
/* Opens a new import of random size for writing, and waits for that. */
void engine_begin_import(struct engine *e);
/* Asks for something that must be refused, and looks whether anything changed. */
void engine_random_refusal(struct engine *e);

/* ---- engine_session.c ---- */

/* One random step of everything above except crashes. */
void engine_step(struct engine *e);
/* Deletes all there is, waits until the space is free, and compares with the empty store. */
void engine_delete_all(struct engine *e);
#endif
