/* loop.h - the event loop: file descriptors, timers, deferred work and messages from other threads.
 *
 * One thread runs a loop; everything except loop_post and loop_stop belongs to that thread. Callbacks run to completion and
 * never block. A callback never runs from inside the call that registered or queued it.
 *
 * One turn of the loop: ready descriptors, expired timers and posted tasks run; then deferred tasks until none is left;
 * then, once, the tasks deferred to the end of the turn (which may defer again). The end of the turn is where work gathered
 * during it is sent out as one batch: a ring's notifications, a journal write, an io_submit. Who has more than one turn should
 * carry goes on in the next (loop_defer_next).
 *
 * Ownership: the caller embeds loop_fd, loop_timer and loop_task in its own objects and keeps them alive while registered
 * or queued. Errors: 0 or negative errno. */
#ifndef BASE_LOOP_H
#define BASE_LOOP_H
#include "base/list.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h> /* pthread_mutex_t */

struct loop;

struct loop_fd {
    void (*ready)(struct loop_fd *w, uint32_t epoll_events);
    int fd;      /* set by the caller before loop_fd_add */
    bool active; /* kept by the loop */
};

struct loop_timer {
    void (*expired)(struct loop_timer *t);
    uint64_t due_ms; /* kept by the loop */
    struct list_node link;
};

struct loop_task {
    void (*run)(struct loop_task *t);
    struct list_node link; /* kept by the loop; zero-initialise */
    bool queued;
};

int loop_create(struct loop **out);
/* Nothing may be registered any more, except posted tasks, which are dropped. */
void loop_destroy(struct loop *l);

/* Runs turns until loop_stop. */
void loop_run(struct loop *l);
/* Runs one turn, waiting up to timeout_ms for something to happen (-1: without limit, 0: not at all). */
void loop_turn(struct loop *l, int timeout_ms);
/* The same for a loop whose objects are used by other threads too, all of them under `lock`: the caller holds it, and it is let go
 * for as long as the loop waits. */
void loop_turn_locked(struct loop *l, int timeout_ms, pthread_mutex_t *lock);
/* Any thread or signal handler: makes loop_run return after the current turn. */
void loop_stop(struct loop *l);

/* The time, in nanoseconds: monotonic, and since 1970-01-01 UTC. Within a callback the clock is read once, so that what it does for
 * many requests costs one reading: in some virtual machines that is a system call. */
uint64_t loop_monotonic_ns(struct loop *l);
uint64_t loop_real_ns(struct loop *l);

/* events: EPOLLIN and friends, level-triggered. Removing inside any callback is allowed: a descriptor that was ready in the
 * same turn is not called after its removal. The descriptor itself stays the caller's. */
int loop_fd_add(struct loop *l, struct loop_fd *w, uint32_t events);
int loop_fd_modify(struct loop *l, struct loop_fd *w, uint32_t events);
void loop_fd_remove(struct loop *l, struct loop_fd *w);

/* (Re)starts t to expire once, delay_ms from now. Zero-initialise t before its first use. */
void loop_timer_start(struct loop *l, struct loop_timer *t, uint64_t delay_ms);
void loop_timer_stop(struct loop *l, struct loop_timer *t);

/* Queues t for this turn, after the present callback; queueing a queued task changes nothing. */
void loop_defer(struct loop *l, struct loop_task *t);
/* Queues t for the end of this turn. */
void loop_defer_last(struct loop *l, struct loop_task *t);
/* Queues t for the next turn, which then does not wait: when all that this one gathered has been sent out. */
void loop_defer_next(struct loop *l, struct loop_task *t);
/* Takes a deferred task back. */
void loop_cancel(struct loop *l, struct loop_task *t);

/* Any thread: runs t on the loop's thread. A task may be posted again once it has started to run. */
void loop_post(struct loop *l, struct loop_task *t);
/* Takes a posted task back, on the loop's thread; whoever posts it has ended. */
void loop_unpost(struct loop *l, struct loop_task *t);
#endif
