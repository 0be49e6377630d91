/* engine_tasks.h - what one kind of random operation is; between engine_tasks.c and engine_kinds.c. */
#ifndef TESTS_SUPPORT_ENGINE_TASKS_H
#define TESTS_SUPPORT_ENGINE_TASKS_H
#include "tests/support/engine.h"

#define TASK_SUBJECTS 24u

struct task_kind {
    const char *name;
    unsigned weight;
    bool (*prepare)(struct task *t);  /* false: not possible now; subjects taken so far are given back */
    void (*submit)(struct task *t);
    void (*apply)(struct task *t);    /* it happened: change the oracle. Subjects are unlocked before. */
    bool (*happened)(struct task *t); /* the store was reopened after a crash: did it? */
};

struct task {
    struct store_op op;
    struct list_node link; /* engine.tasks */
    struct engine *engine;
    const struct task_kind *kind;
    struct object *subject[TASK_SUBJECTS];
    unsigned subjects;
    char text[TASK_SUBJECTS][IMAGE_TARGET_SIZE]; /* names and targets that it gives or makes */
    const char *texts[TASK_SUBJECTS];            /* each text, for calls that take an array */
    unsigned count;
    uint64_t number;
    bool flag;
    bool may_be_busy;                            /* -EBUSY is a proper answer */
    bool lenient;                                /* judged after a power cut: unflushed writes may be missing */
    struct object *holds;                        /* gets no new requests meanwhile */
    struct image_dedup found;
    uint32_t *cut[TASK_SUBJECTS], *durable_cut[TASK_SUBJECTS], cut_count[TASK_SUBJECTS];
    struct content *pinned[TASK_SUBJECTS];
    uint64_t step;
};

extern const struct task_kind task_kinds[]; /* ends with a name of NULL */

/* Locks o for this task. */
void task_subject(struct task *t, struct object *o);
/* The state of subject i is taken from now on. */
void task_cut(struct task *t, unsigned i);
/* What that state may be, once the task has happened. */
struct content *task_frozen(struct task *t, unsigned i);

bool task_exists(struct task *t, const char *target, struct image_info *info);
bool task_all_or_none(struct task *t, unsigned count);
#endif
