/* blkback_ring.c - the data path of one ring: take requests, start them, publish their responses.
 *
 * 1. Every index in shared memory is read once and checked against our own; a ring that breaks the rules
 *    (rsp_prod <= req_cons <= req_prod <= rsp_prod + size) is stopped, and its device disconnected.
 * 2. A request is copied out of its slot once, into its line of the restart table, and only that copy is looked at.
 * 3. A poll takes whatever is on the ring, but of writes half a MiB or so: the device begins with those while the next turn copies more.
 *    What is in flight never exceeds the ring's size. A ring that ends is taken whole.
 * 4. Requests end during a turn and are answered at its end: one batch of copies, one push, at most one notification. Of reads, too,
 *    half a MiB or so a turn: the guest goes on with those.
 * 5. A request that finds no buffer waits, without holding anything, until its pool's turn comes to this ring; what comes after it and
 *    needs none, or one of the other pool, passes it. So writes that wait for a full store hold up no read and no discard.
 * 6. A barrier is taken when nothing else is in flight, and nothing else is taken until it has ended.
 * 7. A ring with much in flight asks for no notifications: it is looked at whenever something ends, and by a timer, in case that
 *    what is in flight waits for long. */
#include "blkback/blkback_private.h"

#include <errno.h>
#include <string.h>

#define BUSY 8u    /* requests in flight */
#define LOOK_MS 1 /* so long at most does a request wait that came without a notification */
#define TURN_PAGES 128u /* of data, more or less, that a turn copies each way */

static uint32_t load(const uint32_t *shared) { return __atomic_load_n(shared, __ATOMIC_ACQUIRE); }
static void store(uint32_t *shared, uint32_t value) { __atomic_store_n(shared, value, __ATOMIC_RELEASE); }

/* Shows ours before theirs is read; otherwise both sides could go to sleep. */
static uint32_t store_then_load(uint32_t *ours, uint32_t value, const uint32_t *theirs)
{
    __atomic_store_n(ours, value, __ATOMIC_SEQ_CST);
    return __atomic_load_n(theirs, __ATOMIC_SEQ_CST);
}

/* ---- Take ---- */

static void break_ring(struct blkback_ring *ring, uint32_t req_prod)
{
    struct blkback_disk *disk = ring->disk;
    log_limited(&disk->log_limit, LOG_LEVEL_ERROR, "ring broken: domid=%u vdev=%u req_prod=%u req_cons=%u rsp_prod=%u size=%u", disk->domid,
                disk->vdev, req_prod, ring->req_cons, ring->rsp_prod, ring->size);
    blkback_disk_break(disk);
}

static void look_later(struct blkback_ring *ring)
{
    ring->unasked = true;
    if (list_empty(&ring->look_timer.link))
        loop_timer_start(ring->disk->b->loop, &ring->look_timer, LOOK_MS);
}

/* Whether there is a request to take; asks for a notification of the next one if there is none. */
static bool available(struct blkback_ring *ring)
{
    if (ring->ending && ring->req_cons == ring->end)
        return false;
    uint32_t prod = load(&ring->shared->req_prod);
    if (prod == ring->req_cons && ring->in_flight >= BUSY)
        look_later(ring);
    else if (prod == ring->req_cons)
        prod = store_then_load(&ring->shared->req_event, ring->req_cons + 1, &ring->shared->req_prod);
    if (prod - ring->rsp_prod > ring->size || prod - ring->req_cons > ring->size) {
        break_ring(ring, prod);
        return false;
    }
    return prod != ring->req_cons;
}

/* Whether r may be taken now; else it has to wait on the ring. */
static bool admit(struct blkback_ring *ring, struct blkback_request *r)
{
    bool barrier = !r->error && r->op == BLKIF_OP_WRITE_BARRIER;
    if (barrier && ring->in_flight) {
        ring->held = true;
        return false;
    }
    ring->barrier = barrier;
    return true;
}

static struct blkback_request *take_replay(struct blkback_ring *ring)
{
    struct blkback_request *r = container_of(ring->replay.next, struct blkback_request, link);
    r->error = blkback_request_parse(r);
    if (!admit(ring, r))
        return NULL;
    list_remove(&r->link);
    return r;
}

static struct blkback_request *take(struct blkback_ring *ring)
{
    if (ring->barrier) {
        ring->held = true;
        return NULL;
    }
    if (!list_empty(&ring->replay))
        return take_replay(ring);
    if (!available(ring))
        return NULL;
    struct blkback_request *r = container_of(ring->free.next, struct blkback_request, link);
    memcpy(r->saved->raw, ring->slots + (size_t)(ring->req_cons & (ring->size - 1)) * ring->slot_bytes, ring->slot_bytes);
    atomic_signal_fence(memory_order_seq_cst); /* nothing below may be read from the slot again */
    r->error = blkback_request_parse(r);
    if (!admit(ring, r))
        return NULL;
    list_remove(&r->link);
    r->saved->req_index = ring->req_cons;
    store(&r->saved->state, BLKBACK_TAKEN);
    store(&ring->table->req_cons, ++ring->req_cons);
    return r;
}

/* ---- Buffers ---- */

static enum blkback_direction direction(const struct blkback_request *r) { return r->op == BLKIF_OP_READ ? BLKBACK_TO_GUEST : BLKBACK_FROM_GUEST; }

static bool get_buffer(struct blkback_request *r)
{
    enum blkback_direction d = direction(r);
    r->buffer = blkback_pool_get(r->ring->disk->b->pool[d], r->segment_count, &r->ring->starved[d].waiter);
    return r->buffer;
}

/* Gives r its buffer, if it needs one; false: it waits for that, behind those that wait already. */
static bool equip(struct blkback_request *r)
{
    struct list_node *starved = &r->ring->starved[direction(r)].requests;
    r->buffer = NULL;
    if (r->error || !r->segment_count || (list_empty(starved) && get_buffer(r)))
        return true;
    list_add_tail(starved, &r->link);
    return false;
}

static void equip_starved(struct blkback_starved *s, struct list_node *batch)
{
    while (!list_empty(&s->requests)) {
        struct blkback_request *r = container_of(s->requests.next, struct blkback_request, link);
        if (!get_buffer(r))
            return;
        list_remove(&r->link);
        list_add_tail(batch, &r->link);
    }
}

void blkback_ring_drop_starved(struct blkback_ring *ring, int error)
{
    for (unsigned i = 0; i < BLKBACK_DIRECTIONS; i++) {
        struct list_node *n;
        while ((n = list_pop(&ring->starved[i].requests)))
            blkback_ring_finish(container_of(n, struct blkback_request, link), error);
        blkback_pool_leave(ring->disk->b->pool[i], &ring->starved[i].waiter);
    }
}

/* ---- Start ---- */

static void run_batch(struct blkback_ring *ring, struct list_node *batch)
{
    struct blkback *b = ring->disk->b;
    list_for_each (n, batch) {
        struct blkback_request *r = container_of(n, struct blkback_request, link);
        if (!r->error && r->indirect && r->segment_count)
            blkback_copy_indirect(r);
    }
    blkback_copy_run(b);
    list_for_each (n, batch) {
        struct blkback_request *r = container_of(n, struct blkback_request, link);
        if (!r->error)
            r->error = blkback_request_check(r);
        if (!r->error && r->op != BLKIF_OP_READ && r->buffer)
            blkback_copy_data(r, false);
    }
    blkback_copy_run(b);
    struct list_node *n;
    while ((n = list_pop(batch))) {
        struct blkback_request *r = container_of(n, struct blkback_request, link);
        if (r->error)
            blkback_ring_finish(r, r->error);
        else
            blkback_io_start(r);
    }
}

void blkback_ring_poll(struct blkback_ring *ring)
{
    struct list_node batch = LIST_INIT(batch);
    struct blkback_request *r;
    if (ring->poll_task.queued && !ring->ending)
        return; /* it comes to that soon */
    ring->held = ring->unasked = false;
    for (unsigned i = 0; i < BLKBACK_DIRECTIONS; i++)
        equip_starved(&ring->starved[i], &batch);
    unsigned pages = 0;
    while (ring->running && (pages < TURN_PAGES || ring->ending) && (r = take(ring))) {
        ring->in_flight++;
        ring->idle_events = 0;
        pages += direction(r) == BLKBACK_FROM_GUEST ? r->segment_count : 0;
        if (equip(r))
            list_add_tail(&batch, &r->link);
    }
    if (pages >= TURN_PAGES)
        loop_defer_next(ring->disk->b->loop, &ring->poll_task);
    if (list_empty(&batch))
        return;
    ring->disk->count.batches++;
    run_batch(ring, &batch);
}

/* ---- Publish ---- */

void blkback_ring_finish(struct blkback_request *r, int error)
{
    struct blkback_ring *ring = r->ring;
    struct blkback *b = ring->disk->b;
    r->error = error;
    list_add_tail(&ring->done, &r->link);
    if (list_empty(&ring->finishing))
        list_add_tail(&b->finishing, &ring->finishing);
    loop_defer_last(b->loop, &b->finish_task);
}

void blkback_ring_answer(struct blkback_ring *ring, struct blkback_saved *saved, uint64_t id, uint8_t op, int status)
{
    uint8_t *slot = ring->slots + (size_t)(ring->rsp_prod & (ring->size - 1)) * ring->slot_bytes;
    saved->rsp_index = ring->rsp_prod++;
    saved->status = status;
    store(&saved->state, BLKBACK_ANSWERED); /* before the slot: it may hold a request in flight */
    atomic_signal_fence(memory_order_seq_cst);
    if (ring->abi == BLKIF_ABI_X86_32) {
        struct blkif32_response rsp = { .id = id, .operation = op, .status = (int16_t)status };
        memcpy(slot, &rsp, sizeof rsp);
    } else {
        struct blkif64_response rsp = { .id = id, .operation = op, .status = (int16_t)status };
        memcpy(slot, &rsp, sizeof rsp);
    }
}

void blkback_ring_push(struct blkback_ring *ring, bool always)
{
    uint32_t old = ring->table->rsp_prod, now = ring->rsp_prod;
    uint32_t wish = store_then_load(&ring->shared->rsp_prod, now, &ring->shared->rsp_event);
    store(&ring->table->rsp_prod, now);
    if (always || (uint32_t)(now - wish) < (uint32_t)(now - old)) {
        hv_event_notify(ring->disk->b->ports, ring->port); /* a frontend that left is seen through its state node */
        ring->disk->count.events_sent++;
    }
}

static void count(struct blkback_request *r, int status)
{
    struct blkback_counters *c = &r->ring->disk->count;
    switch (r->op) {
    case BLKIF_OP_READ:
        c->reads++;
        c->read_bytes += status ? 0 : r->sectors * IMAGE_SECTOR;
        break;
    case BLKIF_OP_WRITE:
        c->writes++;
        c->write_bytes += status ? 0 : r->sectors * IMAGE_SECTOR;
        break;
    case BLKIF_OP_FLUSH_DISKCACHE:
        c->flushes++;
        break;
    case BLKIF_OP_WRITE_BARRIER:
        c->barriers++;
        break;
    case BLKIF_OP_DISCARD:
        c->discards++;
        break;
    }
    c->indirect += r->indirect;
    c->segments += r->segment_count;
    c->errors += status != BLKIF_RSP_OKAY;
}

/* It waited for space in the store, or for a buffer, when the backend was stopped: it stays in the tables, for the next one. */
static bool is_left(const struct blkback_request *r) { return r->error == -ECANCELED && !r->ring->running; }

static int status_of(const struct blkback_request *r)
{
    switch (r->error) {
    case 0:
        return BLKIF_RSP_OKAY;
    case -EOPNOTSUPP:
        return BLKIF_RSP_EOPNOTSUPP;
    case -ENOSPC:
        return r->ring->disk->no_space ? BLKIF_RSP_PARALLAX_NO_SPACE : BLKIF_RSP_ERROR;
    default:
        return BLKIF_RSP_ERROR;
    }
}

static void answer(struct blkback_request *r)
{
    struct blkback_ring *ring = r->ring;
    int status = status_of(r);
    if (status)
        log_limited(&ring->disk->log_limit, LOG_LEVEL_WARNING, "request failed: domid=%u vdev=%u op=%u sector=%llu segments=%u error=%d",
                    ring->disk->domid, ring->disk->vdev, r->op, (unsigned long long)r->sector, r->segment_count, r->error);
    count(r, status);
    blkback_ring_answer(ring, r->saved, r->id, r->response_op, status);
}

static void release(struct blkback_request *r)
{
    struct blkback_ring *ring = r->ring;
    if (r->buffer)
        blkback_pool_put(ring->disk->b->pool[direction(r)], r->buffer, r->segment_count);
    if (r->op == BLKIF_OP_WRITE_BARRIER)
        ring->barrier = false;
    if (!is_left(r))
        store(&r->saved->state, BLKBACK_FREE);
    list_add_head(&ring->free, &r->link);
    ring->in_flight--;
}

/* Takes off what is answered now: whatever ended, but of reads not more than a turn's. */
static void take_ended(struct blkback_ring *ring, struct list_node *ended)
{
    unsigned pages = 0;
    while (!list_empty(&ring->done) && (pages < TURN_PAGES || ring->discarding)) {
        struct blkback_request *r = container_of(list_pop(&ring->done), struct blkback_request, link);
        pages += direction(r) == BLKBACK_TO_GUEST ? r->segment_count : 0;
        list_add_tail(ended, &r->link);
    }
}

static void publish(struct blkback_ring *ring)
{
    struct list_node ended = LIST_INIT(ended);
    take_ended(ring, &ended);
    if (!ring->discarding) {
        list_for_each (n, &ended) {
            struct blkback_request *r = container_of(n, struct blkback_request, link);
            if (!r->error && r->op == BLKIF_OP_READ)
                blkback_copy_data(r, true);
        }
        blkback_copy_run(ring->disk->b);
        list_for_each (n, &ended)
            if (!is_left(container_of(n, struct blkback_request, link)))
                answer(container_of(n, struct blkback_request, link));
        blkback_ring_push(ring, false);
    }
    struct list_node *n;
    while ((n = list_pop(&ended)))
        release(container_of(n, struct blkback_request, link));
}

void blkback_ring_finish_all(struct loop_task *task)
{
    struct blkback *b = container_of(task, struct blkback, finish_task);
    struct list_node rings = LIST_INIT(rings), *n;
    list_splice_tail(&rings, &b->finishing);
    while ((n = list_pop(&rings))) {
        struct blkback_ring *ring = container_of(n, struct blkback_ring, finishing);
        publish(ring);
        if (!list_empty(&ring->done)) {
            list_add_tail(&b->finishing, &ring->finishing);
            loop_defer_next(b->loop, &b->finish_task);
        }
        /* A guest that has seen its first responses may have sent more by now: no need to wait for its notification. */
        if (ring->held || (ring->unasked && ring->in_flight < BUSY) || load(&ring->shared->req_prod) != ring->req_cons)
            blkback_ring_poll(ring);
        if (ring->ending)
            blkback_ring_stop(ring, BLKBACK_STOP_ANSWER);
        if (!ring->in_flight && !ring->running)
            blkback_disk_ring_idle(ring->disk);
    }
}
