/* door_io.c - requests of many threads onto one ring.
 *
 * 1. A request's bytes pass through a slot of granted memory, which its caller fills and empties in its own thread, outside the lock.
 * 2. Who holds the disk's lock may use the ring. A caller puts its requests there itself. Of the callers that wait, one is the leader:
 *    it waits for the ring's events, takes all responses, and wakes those whose requests have ended. So one that waits alone needs no
 *    other thread, and of many each is woken once. A leader whose own requests have ended makes a leader of the one that came last,
 *    who has longest to wait.
 * 3. A caller that waits has been taken off `waiting` by whoever ended its requests, and is woken by the same, or it is the leader,
 *    and is not asleep but at the descriptors. It cannot go before that, so that nothing is known of it afterwards.
 * 4. Nothing is on the ring for which no caller waits, but for what was abandoned; so without a leader nobody looks. */
#include "doors/common/door_private.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SLOTS_A_CALL 8u /* 1 MiB at once */

static void slot_done(struct blkfront_req *req, int error);

int door_slots_create(struct door_disk *k)
{
    k->slots = calloc(k->slot_count, sizeof *k->slots);
    k->memory = blkfront_buffer_alloc(k->front, k->slot_count * DOOR_SLOT_PAGES);
    if (!k->slots || !k->memory)
        return -ENOMEM;
    for (unsigned i = 0; i < k->slot_count; i++) {
        struct door_slot *s = &k->slots[i];
        s->disk = k;
        s->memory = (uint8_t *)k->memory + (size_t)i * DOOR_SLOT_BYTES;
        list_add_tail(&k->idle, &s->link);
    }
    return 0;
}

void door_slots_destroy(struct door_disk *k)
{
    if (k->memory)
        blkfront_buffer_free(k->front, k->memory, k->slot_count * DOOR_SLOT_PAGES);
    k->memory = NULL;
}

/* ---- Requests that have ended: under the lock ---- */

static void end_one(struct door_disk *k, struct door_waiter *w, int error)
{
    if (!w->error)
        w->error = error;
    if (--w->pending)
        return;
    list_remove(&w->link);
    if (w != k->leader)
        list_add_tail(&k->ended, &w->link);
}

static void slot_done(struct blkfront_req *req, int error)
{
    struct door_slot *s = container_of(req, struct door_slot, req);
    list_remove(&s->link);
    if (s->waiter)
        end_one(s->disk, s->waiter, error);
}

void door_requests_abandon(struct door_disk *k, int error)
{
    k->refuse = true;
    pthread_cond_broadcast(&k->slot_free);
    list_for_each(n, &k->out) {
        struct door_slot *s = container_of(n, struct door_slot, link);
        if (s->waiter)
            end_one(k, s->waiter, error);
        s->waiter = NULL;
    }
}

static void wake_all(struct list_node *ended)
{
    struct list_node *n;
    while ((n = list_pop(ended)))
        sem_post(&container_of(n, struct door_waiter, link)->woken);
}

void door_wake_ended(struct door_disk *k)
{
    uint64_t one = 1;
    wake_all(&k->ended);
    if (k->leader && !k->leader->pending && write(k->wake_fd, &one, sizeof one) < 0)
        return; /* it is readable already */
}

/* ---- Waiting: under the lock, which is let go meanwhile ---- */

/* The leader's way: without the lock, because those who wake up want it. */
static void wake_unlocked(struct door_disk *k)
{
    struct list_node ended = LIST_INIT(ended);
    list_splice_tail(&ended, &k->ended);
    if (list_empty(&ended))
        return;
    pthread_mutex_unlock(&k->lock);
    wake_all(&ended);
    pthread_mutex_lock(&k->lock);
}

static void await_event(struct door_disk *k)
{
    struct pollfd p[] = { { .fd = blkfront_event_fd(k->front), .events = POLLIN }, { .fd = k->wake_fd, .events = POLLIN } };
    uint64_t unused;
    pthread_mutex_unlock(&k->lock);
    poll(p, 2, -1);
    pthread_mutex_lock(&k->lock);
    if (p[1].revents && read(k->wake_fd, &unused, sizeof unused) < 0)
        return; /* somebody else's wake-up was taken with an earlier one */
}

static void lead(struct door_disk *k, struct door_waiter *w)
{
    while (w->pending) {
        await_event(k);
        if (!w->pending)
            break;
        blkfront_pull(k->front);
        if (w->pending)
            wake_unlocked(k);
    }
    k->leader = list_empty(&k->waiting) ? NULL : container_of(k->waiting.prev, struct door_waiter, link);
    if (k->leader)
        sem_post(&k->leader->woken);
    wake_unlocked(k);
}

static void sleep_until_woken(struct door_disk *k, struct door_waiter *w)
{
    pthread_mutex_unlock(&k->lock);
    while (sem_wait(&w->woken) < 0 && errno == EINTR)
        ;
    pthread_mutex_lock(&k->lock);
}

static void wait_for(struct door_disk *k, struct door_waiter *w)
{
    while (w->pending || k->leader == w) {
        if (!k->leader)
            k->leader = w;
        if (k->leader == w)
            lead(k, w);
        else
            sleep_until_woken(k, w);
    }
}

/* ---- Callers ---- */

/* At least one slot, and up to `most` if they are there; 0: refused. */
static unsigned take_slots(struct door_disk *k, unsigned most, struct door_slot *out[SLOTS_A_CALL])
{
    unsigned n = 0;
    pthread_mutex_lock(&k->lock);
    k->slots_wanted++;
    while (list_empty(&k->idle) && !k->refuse)
        pthread_cond_wait(&k->slot_free, &k->lock);
    k->slots_wanted--;
    while (n < most && !k->refuse && !list_empty(&k->idle) && (n == 0 || !k->slots_wanted))
        out[n++] = container_of(list_pop(&k->idle), struct door_slot, link);
    pthread_mutex_unlock(&k->lock);
    return n;
}

/* The last used comes first again: its memory is in the processor's cache. What was abandoned is the ring's until that answers. */
static void put_slots(struct door_disk *k, struct door_slot *const slots[], unsigned count)
{
    pthread_mutex_lock(&k->lock);
    for (unsigned i = 0; i < count; i++)
        if (slots[i]->waiter)
            list_add_head(&k->idle, &slots[i]->link);
    if (k->slots_wanted)
        pthread_cond_broadcast(&k->slot_free);
    pthread_mutex_unlock(&k->lock);
}

/* Sends them and waits for their end; the first error. */
static int exchange(struct door_disk *k, struct door_slot *const slots[], unsigned count, struct door_waiter *w)
{
    pthread_mutex_lock(&k->lock);
    bool refused = k->refuse;
    if (!refused) {
        list_add_tail(&k->waiting, &w->link);
        for (unsigned i = 0; i < count; i++) {
            list_add_tail(&k->out, &slots[i]->link);
            blkfront_submit(k->front, &slots[i]->req);
        }
        blkfront_push(k->front);
        if (!w->pending) /* refused by the ring at once */
            list_remove(&w->link);
        door_wake_ended(k);
        wait_for(k, w);
    }
    pthread_mutex_unlock(&k->lock);
    return refused ? -ESHUTDOWN : w->error;
}

/* Does one round: as much of [data, length) as slots were had for. *did is what it covered. */
static int round_trip(struct door_disk *k, enum blkfront_op op, uint8_t *data, uint64_t length, uint64_t offset, uint64_t *did)
{
    struct door_slot *slots[SLOTS_A_CALL];
    uint64_t wanted = data ? (length + DOOR_SLOT_BYTES - 1) / DOOR_SLOT_BYTES : 1, done = 0;
    unsigned count = take_slots(k, wanted < SLOTS_A_CALL ? (unsigned)wanted : SLOTS_A_CALL, slots);
    struct door_waiter w = { .pending = count };
    if (!count)
        return -ESHUTDOWN;
    sem_init(&w.woken, 0, 0);
    for (unsigned i = 0; i < count; i++) {
        struct door_slot *s = slots[i];
        uint64_t piece = !data || length - done < DOOR_SLOT_BYTES ? length - done : DOOR_SLOT_BYTES;
        s->waiter = &w;
        s->iov = (struct iovec){ s->memory, (size_t)piece };
        s->req = (struct blkfront_req){ .op = op, .offset = offset + done, .length = piece, .iov = data ? &s->iov : NULL, .iov_count = data ? 1 : 0, .done = slot_done };
        if (op == BLKFRONT_WRITE)
            memcpy(s->memory, data + done, (size_t)piece);
        done += piece;
    }
    int error = exchange(k, slots, count, &w);
    for (unsigned i = 0; i < count && op == BLKFRONT_READ && !error; i++)
        memcpy(data + (size_t)i * DOOR_SLOT_BYTES, slots[i]->memory, slots[i]->iov.iov_len);
    put_slots(k, slots, count);
    sem_destroy(&w.woken);
    *did = done;
    return error;
}

int door_transfer(struct door_disk *k, enum blkfront_op op, void *data, uint64_t length, uint64_t offset)
{
    for (uint64_t at = 0, did = 0; at < length || op == BLKFRONT_FLUSH; at += did) {
        int bad = round_trip(k, op, data ? (uint8_t *)data + at : NULL, length - at, offset + at, &did);
        if (bad || op == BLKFRONT_FLUSH)
            return bad;
    }
    return 0;
}
