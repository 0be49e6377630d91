/* loop.c - the event loop over epoll.
 *
 * 1. A descriptor removed during a turn is not called later in that turn: its pending event is cleared from the array.
 * 2. Timers are a list sorted by due time: there are few of them.
 * 3. Posted tasks cross threads through one mutex and one eventfd; nothing else is shared.
 * 4. A time once read is good until the next callback, and outside of a turn not at all. To timers the last one read is good
 *    enough, while the loop does not wait: they are late by what was done since, never early. */
#include "base/loop.h"

#include "base/clock.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define EVENTS_PER_TURN 256
#define LAST_ROUNDS 3

struct loop {
    int epoll_fd, wake_fd;
    atomic_bool stop;
    struct list_node timers, deferred, last, next;
    struct epoll_event events[EVENTS_PER_TURN];
    int event_count;
    bool in_turn;
    uint64_t monotonic_ns, real_ns; /* as read in this callback; 0: not yet */
    uint64_t last_ns;               /* monotonic, as last read since the loop waited; 0: not since */
    pthread_mutex_t post_lock;
    struct list_node posted; /* under post_lock */
};

int loop_create(struct loop **out)
{
    struct loop *l = calloc(1, sizeof *l);
    if (!l)
        return -ENOMEM;
    list_init(&l->timers);
    list_init(&l->deferred);
    list_init(&l->last);
    list_init(&l->next);
    list_init(&l->posted);
    pthread_mutex_init(&l->post_lock, NULL);
    int err = 0;
    l->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    l->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event ev = { .events = EPOLLIN, .data.ptr = NULL };
    if (l->wake_fd < 0 || l->epoll_fd < 0 || epoll_ctl(l->epoll_fd, EPOLL_CTL_ADD, l->wake_fd, &ev) < 0) {
        err = -errno;
        loop_destroy(l);
        return err;
    }
    *out = l;
    return 0;
}

void loop_destroy(struct loop *l)
{
    if (l->wake_fd >= 0)
        close(l->wake_fd);
    if (l->epoll_fd >= 0)
        close(l->epoll_fd);
    pthread_mutex_destroy(&l->post_lock);
    free(l);
}

static void wake(struct loop *l)
{
    uint64_t one = 1;
    ssize_t n = write(l->wake_fd, &one, sizeof one);
    (void)n; /* a full eventfd wakes as well */
}

void loop_stop(struct loop *l)
{
    atomic_store(&l->stop, true);
    wake(l);
}

int loop_fd_add(struct loop *l, struct loop_fd *w, uint32_t events)
{
    struct epoll_event ev = { .events = events, .data.ptr = w };
    if (epoll_ctl(l->epoll_fd, EPOLL_CTL_ADD, w->fd, &ev) < 0)
        return -errno;
    w->active = true;
    return 0;
}

int loop_fd_modify(struct loop *l, struct loop_fd *w, uint32_t events)
{
    struct epoll_event ev = { .events = events, .data.ptr = w };
    return epoll_ctl(l->epoll_fd, EPOLL_CTL_MOD, w->fd, &ev) < 0 ? -errno : 0;
}

void loop_fd_remove(struct loop *l, struct loop_fd *w)
{
    if (!w->active)
        return;
    w->active = false;
    epoll_ctl(l->epoll_fd, EPOLL_CTL_DEL, w->fd, NULL);
    for (int i = 0; i < l->event_count; i++)
        if (l->events[i].data.ptr == w)
            l->events[i].events = 0;
}

void loop_timer_start(struct loop *l, struct loop_timer *t, uint64_t delay_ms)
{
    loop_timer_stop(l, t);
    t->due_ms = loop_monotonic_ns(l) / 1000000u + delay_ms;
    struct list_node *at = l->timers.prev;
    while (at != &l->timers && container_of(at, struct loop_timer, link)->due_ms > t->due_ms)
        at = at->prev;
    list_add_head(at, &t->link);
}

void loop_timer_stop(struct loop *l, struct loop_timer *t)
{
    (void)l;
    if (t->link.next)
        list_remove(&t->link);
}

static void queue(struct list_node *list, struct loop_task *t)
{
    if (t->queued)
        return;
    t->queued = true;
    list_add_tail(list, &t->link);
}

void loop_defer(struct loop *l, struct loop_task *t) { queue(&l->deferred, t); }
void loop_defer_last(struct loop *l, struct loop_task *t) { queue(&l->last, t); }
void loop_defer_next(struct loop *l, struct loop_task *t) { queue(&l->next, t); }

void loop_cancel(struct loop *l, struct loop_task *t)
{
    (void)l;
    if (!t->queued)
        return;
    t->queued = false;
    list_remove(&t->link);
}

void loop_unpost(struct loop *l, struct loop_task *t)
{
    pthread_mutex_lock(&l->post_lock);
    loop_cancel(l, t);
    pthread_mutex_unlock(&l->post_lock);
}

void loop_post(struct loop *l, struct loop_task *t)
{
    pthread_mutex_lock(&l->post_lock);
    queue(&l->posted, t);
    pthread_mutex_unlock(&l->post_lock);
    wake(l);
}

uint64_t loop_monotonic_ns(struct loop *l)
{
    if (!l->monotonic_ns || !l->in_turn)
        l->monotonic_ns = l->last_ns = clock_monotonic_ns();
    return l->monotonic_ns;
}

uint64_t loop_real_ns(struct loop *l)
{
    if (!l->real_ns || !l->in_turn)
        l->real_ns = clock_real_ns();
    return l->real_ns;
}

static uint64_t last_read_ms(struct loop *l)
{
    if (!l->last_ns)
        l->last_ns = clock_monotonic_ns();
    return l->last_ns / 1000000u;
}

static void forget_time(struct loop *l) { l->monotonic_ns = l->real_ns = 0; }

static void run(struct loop *l, struct loop_task *t)
{
    forget_time(l);
    t->run(t);
}

static void run_posted(struct loop *l)
{
    uint64_t n;
    ssize_t got = read(l->wake_fd, &n, sizeof n);
    (void)got; /* level-triggered: an unread wake-up only costs a turn */
    struct list_node *node;
    for (;;) {
        pthread_mutex_lock(&l->post_lock);
        node = list_pop(&l->posted);
        struct loop_task *t = node ? container_of(node, struct loop_task, link) : NULL;
        if (t)
            t->queued = false;
        pthread_mutex_unlock(&l->post_lock);
        if (!t)
            break;
        run(l, t);
    }
}

static void run_timers(struct loop *l)
{
    if (list_empty(&l->timers))
        return;
    uint64_t now = last_read_ms(l);
    while (!list_empty(&l->timers)) {
        struct loop_timer *t = container_of(l->timers.next, struct loop_timer, link);
        if (t->due_ms > now)
            break;
        list_remove(&t->link);
        forget_time(l);
        t->expired(t);
    }
}

static void run_tasks(struct loop *l, struct list_node *list)
{
    struct list_node *node;
    while ((node = list_pop(list))) {
        struct loop_task *t = container_of(node, struct loop_task, link);
        t->queued = false;
        run(l, t);
    }
}

static int wait_ms(struct loop *l, int timeout_ms)
{
    if (!list_empty(&l->deferred) || !list_empty(&l->last) || !list_empty(&l->next) || atomic_load(&l->stop))
        return 0;
    if (list_empty(&l->timers))
        return timeout_ms;
    uint64_t now = last_read_ms(l), due = container_of(l->timers.next, struct loop_timer, link)->due_ms;
    uint64_t left = due > now ? due - now : 0;
    if (left > 1u << 30)
        left = 1u << 30;
    return timeout_ms >= 0 && (uint64_t)timeout_ms < left ? timeout_ms : (int)left;
}

/* What a wait of its epoll descriptor that returned n found. */
static void work(struct loop *l, int n)
{
    l->event_count = n > 0 ? n : 0;
    l->last_ns = 0;
    l->in_turn = true;
    list_splice_tail(&l->deferred, &l->next);
    for (int i = 0; i < l->event_count; i++) {
        struct loop_fd *w = l->events[i].data.ptr;
        if (!w)
            run_posted(l);
        else if (l->events[i].events) {
            forget_time(l);
            w->ready(w, l->events[i].events);
        }
    }
    l->event_count = 0;
    run_timers(l);
    run_tasks(l, &l->deferred);
    /* What is sent out at the end may gather once more below: a write becomes a journal write becomes an io_submit. The rounds
     * are counted, so that a task that queues itself again cannot keep the turn from ending. */
    for (int round = 0; round < LAST_ROUNDS && !list_empty(&l->last); round++) {
        struct list_node last = LIST_INIT(last);
        list_splice_tail(&last, &l->last);
        run_tasks(l, &last);
    }
    run_tasks(l, &l->deferred);
    l->in_turn = false;
}

static int wait_events(struct loop *l, int timeout_ms) { return epoll_wait(l->epoll_fd, l->events, EVENTS_PER_TURN, timeout_ms); }
static void turn(struct loop *l, int timeout_ms) { work(l, wait_events(l, wait_ms(l, timeout_ms))); }

void loop_turn(struct loop *l, int timeout_ms)
{
    l->last_ns = 0;
    turn(l, timeout_ms);
}

void loop_turn_locked(struct loop *l, int timeout_ms, pthread_mutex_t *lock)
{
    l->last_ns = 0;
    timeout_ms = wait_ms(l, timeout_ms);
    pthread_mutex_unlock(lock);
    int n = wait_events(l, timeout_ms);
    pthread_mutex_lock(lock);
    work(l, n);
}

void loop_run(struct loop *l)
{
    while (!atomic_load(&l->stop))
        turn(l, -1);
    atomic_store(&l->stop, false);
}
