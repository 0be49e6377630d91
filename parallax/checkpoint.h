/* checkpoint.h - the plan of one checkpoint: made on the loop at the cut, carried out by the checkpointer's thread (commit.c,
 * merge.c, reclaim.c), installed on the loop. Included only by those files. */
#ifndef PARALLAX_CHECKPOINT_H
#define PARALLAX_CHECKPOINT_H
#include "parallax/parallax_private.h"

#define DELETIONS_MAX 256u
#define LOAN_BLOCKS 1024u       /* lent to the thread at a time, */
#define LOAN_RUNS 256u          /* in so many runs at most */
#define RECLAIM_DEAD_BLOCKS 192u /* of dead runs that deletions may write in one checkpoint: less than their part of the fixed reserve (S1) */

enum { PLAN_NONE, PLAN_DELETED, PLAN_NEIGHBOUR };

struct planned_version {
    struct version *v;
    uint64_t cut, blocks;  /* as of the checkpoint's cut: the version itself may be resized meanwhile */
    uint32_t line;
    uint64_t parent_id;    /* after the checkpoint */
    uint8_t *record;       /* malloc'ed to its length: there may be very many */
    uint32_t record_length;
    uint32_t change_first, change_count; /* in checkpoint.order */
    bool merge;            /* its root is made by this checkpoint; else only its record is written */
    bool deleted;
};

struct planned_line {
    uint32_t id;
    struct line *line;
    const struct radix_root *base;     /* what its first planned version stands on */
    uint32_t first, count;             /* planned versions */
    struct zero_range *ranges;         /* a copy */
    uint32_t range_count;
};

struct deletion {
    struct version *v, *child, *parent;
    bool finished;
};

/* What a version lost because a map node could not be read when it had to be changed. */
#define LOSSES_TOLD 16u
struct loss {
    struct version *v;
    uint64_t block, address;
    unsigned level;
};

struct change_order {
    uint32_t version, entry;           /* planned version, entry of the frozen index */
    uint32_t block;
};

enum checkpoint_state { CHECKPOINT_IDLE, CHECKPOINT_CUTTING, CHECKPOINT_RUNNING };

struct checkpoint {
    struct store *store;
    enum checkpoint_state state;
    bool wanted, touched;
    bool resting; /* one for deletions comes when reclaim_timer expires */
    uint64_t cut_seq, cut_ticket;
    uint64_t began_ms, took_ms; /* the cut of the one under way; from the cut to the end of the last one */

    struct planned_version *versions;
    struct planned_line *lines;
    struct deletion *deletions;
    uint32_t version_count, line_count, deletion_count; /* versions: those to merge first, by line and cut */
    uint64_t changing_nodes, changing_inner; /* of the maps of versions to merge, at most */
    struct change_order *order;
    uint32_t order_count;
    struct loss losses[LOSSES_TOLD];
    uint32_t loss_count;
    struct stored_state state_record;

    struct catalog_change *changes; /* of the catalog; each value and key malloc'ed in one piece with it */
    uint32_t change_count, change_capacity;

    struct job job;
    int error;
    const char *error_what;
    struct space_run loan[LOAN_RUNS]; /* the thread's blocks: those of loan[loan_at] next */
    uint32_t loan_at, loan_count;
    struct dead_gather gather;
    uint64_t budget;               /* blocks that may still be freed by deletions; while merging: no bound */
    uint32_t dead_blocks;          /* of dead runs written by deletions */
    uint64_t taken_blocks, kept_blocks; /* by it in all; for its merge */

    pthread_mutex_t lock;          /* the thread asks the loop for a loan */
    pthread_cond_t lent;
    struct loop_task lend_task;
    bool lend_done, abandoned;
    int lend_error;
};

/* ---- plan.c, on the loop ---- */
int plan_make(struct checkpoint *c);
/* When all writes before the cut have completed, before the thread starts. */
int plan_copy_ranges(struct checkpoint *c);
void plan_end(struct checkpoint *c);
/* Whether a checkpoint would go on with its deletion now. */
bool plan_may_delete(const struct version *v);

/* ---- On the thread ---- */
void checkpoint_work(struct job *j);
int checkpoint_allocate(struct checkpoint *c, uint32_t want, uint64_t *address, uint32_t *got);
void checkpoint_free_block(struct checkpoint *c, uint64_t address);
/* Drops from version v: free, or into v's dead list (the rule DROP). */
int checkpoint_drop(struct checkpoint *c, struct version *v, uint64_t limit, enum radix_drop what, const struct radix_entry *e, unsigned level);
int checkpoint_dead_flush(struct checkpoint *c, struct version *v);
int checkpoint_add_change(struct checkpoint *c, const void *key, size_t key_length, const void *value, size_t value_length);
int checkpoint_merge_lines(struct checkpoint *c);
int checkpoint_reclaim(struct checkpoint *c);
struct radix_io checkpoint_io(struct checkpoint *c);
#endif
