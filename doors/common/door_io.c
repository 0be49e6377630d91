/* door_io.c - requests of many threads onto one ring.
 *
 * A request's bytes pass through a slot of granted memory: the caller copies, in its own thread, so that the disk's thread
 * only moves descriptors. Callers queue slots under a lock; only the one that finds the queue empty wakes the disk's thread,
 * which takes all that has gathered. What a caller waits for is counted in its own waiter; nothing of the caller's memory is
 * known to the disk's thread but that, and a caller that is sent away leaves its slots behind. */
#include "doors/common/door_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

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

/* ---- The disk's thread ---- */

static void tell(struct door_waiter *w, int error)
{
    int none = 0;
    if (error)
        atomic_compare_exchange_strong(&w->error, &none, error);
    if (atomic_fetch_sub(&w->pending, 1) == 1)
        sem_post(&w->done);
}

static void slot_done(struct blkfront_req *req, int error)
{
    struct door_slot *s = container_of(req, struct door_slot, req);
    list_remove(&s->link);
    if (s->waiter)
        tell(s->waiter, error);
}

void door_submit_run(struct loop_task *t)
{
    struct door_disk *k = container_of(t, struct door_disk, submit_task);
    struct list_node all, *n;
    list_init(&all);
    pthread_mutex_lock(&k->lock);
    list_splice_tail(&all, &k->queued);
    pthread_mutex_unlock(&k->lock);
    while ((n = list_pop(&all))) {
        struct door_slot *s = container_of(n, struct door_slot, link);
        list_add_tail(&k->out, &s->link);
        blkfront_submit(k->front, &s->req);
    }
}

void door_requests_abandon(struct door_disk *k, int error)
{
    pthread_mutex_lock(&k->lock);
    k->refuse = true;
    list_splice_tail(&k->out, &k->queued);
    pthread_cond_broadcast(&k->slot_free);
    pthread_mutex_unlock(&k->lock);
    list_for_each(n, &k->out) {
        struct door_slot *s = container_of(n, struct door_slot, link);
        if (s->waiter)
            tell(s->waiter, error);
        s->waiter = NULL;
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

/* The last used comes first again: its memory is in the processor's cache. */
static void put_slots(struct door_disk *k, struct door_slot *const slots[], unsigned count)
{
    pthread_mutex_lock(&k->lock);
    for (unsigned i = 0; i < count; i++)
        list_add_head(&k->idle, &slots[i]->link);
    if (k->slots_wanted)
        pthread_cond_broadcast(&k->slot_free);
    pthread_mutex_unlock(&k->lock);
}

/* False: refused, nothing was queued. */
static bool queue_slots(struct door_disk *k, struct door_slot *const slots[], unsigned count)
{
    pthread_mutex_lock(&k->lock);
    bool refused = k->refuse, wake = list_empty(&k->queued);
    for (unsigned i = 0; i < count && !refused; i++)
        list_add_tail(&k->queued, &slots[i]->link);
    pthread_mutex_unlock(&k->lock);
    if (!refused && wake)
        loop_post(k->loop, &k->submit_task);
    return !refused;
}

static void wait_for(struct door_waiter *w)
{
    while (sem_wait(&w->done) < 0 && errno == EINTR)
        ;
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
    sem_init(&w.done, 0, 0);
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
    int error = -ESHUTDOWN;
    if (queue_slots(k, slots, count)) {
        wait_for(&w);
        error = atomic_load(&w.error);
    }
    for (unsigned i = 0; i < count && op == BLKFRONT_READ && !error; i++)
        memcpy(data + (size_t)i * DOOR_SLOT_BYTES, slots[i]->memory, slots[i]->iov.iov_len);
    if (error != -ESHUTDOWN)
        put_slots(k, slots, count);
    sem_destroy(&w.done);
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
