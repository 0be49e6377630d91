/* blkback_ring_open.c - a ring's life: mapped and bound, taken up again after a restart, polled on events, closed.
 *
 * 1. A fresh ring starts at its shared rsp_prod, as Linux's backend does; a ring taken up again starts at its restart table,
 *    and the shared indices are only checked against that.
 * 2. A port is unmasked after its ring was polled. A frontend that keeps sending events without requests gets its port
 *    unmasked later and later no more often than every IDLE_DELAY_MS. */
#include "blkback/blkback_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define PORTS_MAX (1u << 20)
#define EVENTS_PER_TURN 256u
#define IDLE_EVENTS_MAX 64u
#define IDLE_DELAY_MS 2u

/* ---- Events ---- */

static void ring_event(struct blkback_ring *ring)
{
    struct blkback_disk *disk = ring->disk;
    disk->count.events_received++;
    ring->idle_events++;
    blkback_ring_poll(ring);
    if (!ring->running)
        return; /* stays masked: nobody will look at it again */
    if (ring->idle_events > IDLE_EVENTS_MAX) {
        ring->unmask_late = true;
        loop_timer_start(disk->b->loop, &ring->unmask_timer, IDLE_DELAY_MS);
    } else {
        hv_event_unmask(disk->b->ports, ring->port);
    }
}

static void look_now(struct loop_timer *t)
{
    struct blkback_ring *ring = container_of(t, struct blkback_ring, look_timer);
    if (ring->unasked)
        blkback_ring_poll(ring);
}

static void unmask_now(struct loop_timer *t)
{
    struct blkback_ring *ring = container_of(t, struct blkback_ring, unmask_timer);
    ring->unmask_late = false;
    blkback_ring_poll(ring);
    if (ring->running)
        hv_event_unmask(ring->disk->b->ports, ring->port);
}

void blkback_ring_events(struct loop_fd *w, uint32_t epoll_events)
{
    struct blkback *b = container_of(w, struct blkback, events);
    hv_evtchn port;
    (void)epoll_events;
    for (unsigned i = 0; i < EVENTS_PER_TURN && hv_event_pending(b->ports, &port) == 0; i++)
        if (port < b->port_limit && b->ring_by_port[port])
            ring_event(b->ring_by_port[port]);
}

static int register_port(struct blkback_ring *ring)
{
    struct blkback *b = ring->disk->b;
    if (ring->port >= PORTS_MAX)
        return -EMFILE;
    if (ring->port >= b->port_limit) {
        uint32_t limit = b->port_limit ? b->port_limit : 64;
        while (limit <= ring->port)
            limit *= 2;
        struct blkback_ring **grown = realloc(b->ring_by_port, limit * sizeof *grown);
        if (!grown)
            return -ENOMEM;
        memset(grown + b->port_limit, 0, (limit - b->port_limit) * sizeof *grown);
        b->ring_by_port = grown;
        b->port_limit = limit;
    }
    b->ring_by_port[ring->port] = ring;
    return 0;
}

/* ---- Open and close ---- */

static void buffer_ready(struct blkback_pool_waiter *w)
{
    struct blkback_ring *ring = container_of(w, struct blkback_starved, waiter)->ring;
    loop_defer(ring->disk->b->loop, &ring->poll_task);
}

static void poll_now(struct loop_task *t) { blkback_ring_poll(container_of(t, struct blkback_ring, poll_task)); }

static size_t segment_bytes(const struct blkback_ring *ring) { return (size_t)ring->size * BLKBACK_MAX_SEGMENTS * sizeof(struct blkif_segment); }

static int make_requests(struct blkback_ring *ring)
{
    ring->requests = calloc(ring->size, sizeof *ring->requests);
    void *m = mmap(NULL, segment_bytes(ring), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    ring->segment_memory = m == MAP_FAILED ? NULL : m;
    if (!ring->requests || !ring->segment_memory)
        return -ENOMEM;
    for (uint32_t i = 0; i < ring->size; i++) {
        struct blkback_request *r = &ring->requests[i];
        r->ring = ring;
        r->fetched = ring->segment_memory + (size_t)i * BLKBACK_MAX_SEGMENTS;
        r->saved = &ring->table->saved[i];
        list_add_tail(&ring->free, &r->link);
    }
    return 0;
}

static int by_req_index(const void *a, const void *b)
{
    const struct blkback_request *const *x = a, *const *y = b;
    return (int32_t)((*x)->saved->req_index - (*y)->saved->req_index) < 0 ? -1 : 1;
}

/* Puts what was taken and not answered into ring->replay, in the order in which it was taken. */
static int restore_taken(struct blkback_ring *ring)
{
    struct blkback_request **taken = calloc(ring->size, sizeof *taken);
    unsigned n = 0;
    if (!taken)
        return -ENOMEM;
    for (uint32_t i = 0; i < ring->size; i++) {
        struct blkback_request *r = &ring->requests[i];
        if (r->saved->state != BLKBACK_TAKEN)
            continue;
        if ((int32_t)(r->saved->req_index - ring->req_cons) >= 0)
            r->saved->state = BLKBACK_FREE;
        else
            taken[n++] = r;
    }
    qsort(taken, n, sizeof *taken, by_req_index);
    for (unsigned i = 0; i < n; i++) {
        list_remove(&taken[i]->link);
        list_add_tail(&ring->replay, &taken[i]->link);
    }
    free(taken);
    return 0;
}

/* Publishes answers that were written down and not yet shown; -EBADMSG if the guest's ring contradicts the table. */
static int restore_answered(struct blkback_ring *ring, uint32_t shared_rsp_prod)
{
    uint32_t answered = 0;
    for (uint32_t i = 0; i < ring->size; i++) {
        struct blkback_saved *s = &ring->table->saved[i];
        if (s->state == BLKBACK_ANSWERED && (int32_t)(s->rsp_index - ring->rsp_prod) < 0)
            s->state = BLKBACK_FREE;
        answered += s->state == BLKBACK_ANSWERED;
    }
    if (shared_rsp_prod != ring->rsp_prod && shared_rsp_prod != ring->rsp_prod + answered)
        return -EBADMSG;
    bool shown = answered && shared_rsp_prod == ring->rsp_prod + answered;
    for (uint32_t k = 0, first = ring->rsp_prod; k < answered; k++) {
        uint32_t i = 0;
        while (i < ring->size && !(ring->table->saved[i].state == BLKBACK_ANSWERED && ring->table->saved[i].rsp_index == first + k))
            i++;
        if (i == ring->size)
            return -EBADMSG;
        struct blkback_request *r = &ring->requests[i];
        (void)blkback_request_parse(r); /* id and operation are set even for a request that was refused */
        if (shown)
            ring->rsp_prod++;
        else
            blkback_ring_answer(ring, r->saved, r->id, r->response_op, r->saved->status);
    }
    return 0;
}

static int restore(struct blkback_ring *ring)
{
    ring->req_cons = ring->table->req_cons;
    ring->rsp_prod = ring->table->rsp_prod;
    int err = restore_answered(ring, __atomic_load_n(&ring->shared->rsp_prod, __ATOMIC_ACQUIRE));
    if (err)
        return err;
    blkback_ring_push(ring, true); /* the notification may have died with the old process */
    for (uint32_t i = 0; i < ring->size; i++)
        if (ring->table->saved[i].state == BLKBACK_ANSWERED)
            ring->table->saved[i].state = BLKBACK_FREE;
    return restore_taken(ring);
}

static void fill_key(struct blkback_table_key *key, const struct blkback_disk *disk, const struct blkback_connection *c, unsigned queue)
{
    memset(key, 0, sizeof *key);
    key->domid = disk->domid;
    key->vdev = disk->vdev;
    key->queue = queue;
    key->abi = c->abi;
    key->order = c->order;
    key->event_channel = c->queue[queue].event_channel;
    memcpy(key->refs, c->queue[queue].refs, (1u << c->order) * sizeof *key->refs);
}

static int open_table(struct blkback_ring *ring, const struct blkback_connection *c, unsigned queue, bool reattach)
{
    struct blkback_table_key key;
    fill_key(&key, ring->disk, c, queue);
    const char *dir = ring->disk->b->state_dir;
    return reattach ? blkback_restart_open(dir, &key, &ring->table) : blkback_restart_create(dir, &key, &ring->table);
}

static int attach(struct blkback_ring *ring, const struct blkback_connection *c, unsigned queue, bool reattach, struct error *err)
{
    struct blkback *b = ring->disk->b;
    hv_domid domid = ring->disk->domid;
    void *shared;
    int rc = hv_grant_map(b->ports, domid, c->queue[queue].refs, ring->pages, true, &shared);
    if (rc)
        return error_set(err, rc, "cannot map the ring of domain %u, queue %u: %s", domid, queue, strerror(-rc));
    ring->shared = shared;
    ring->slots = (uint8_t *)(ring->shared + 1);
    rc = open_table(ring, c, queue, reattach);
    if (rc)
        return error_set(err, rc, "restart table of domain %u vdev %u queue %u in %s: %s", domid, ring->disk->vdev, queue, b->state_dir,
                         strerror(-rc));
    rc = make_requests(ring);
    if (!rc && c->persistent)
        rc = blkback_persistent_create(&ring->persistent);
    if (rc)
        return error_set(err, rc, "no memory for a ring of domain %u", domid);
    rc = hv_event_bind(b->ports, domid, c->queue[queue].event_channel, &ring->port);
    if (rc)
        return error_set(err, rc, "cannot bind event channel %u of domain %u: %s", c->queue[queue].event_channel, domid, strerror(-rc));
    ring->bound = true;
    rc = register_port(ring);
    return rc ? error_set(err, rc, "too many event channels") : 0;
}

/* Where a ring begins that no table tells of. */
static int begin(struct blkback_ring *ring)
{
    ring->req_cons = ring->rsp_prod = __atomic_load_n(&ring->shared->rsp_prod, __ATOMIC_ACQUIRE);
    ring->table->req_cons = ring->table->rsp_prod = ring->rsp_prod;
    blkback_restart_publish(ring->table);
    uint32_t prod = __atomic_load_n(&ring->shared->req_prod, __ATOMIC_ACQUIRE);
    return prod - ring->rsp_prod > ring->size ? -EBADMSG : 0;
}

int blkback_ring_open(struct blkback_disk *disk, const struct blkback_connection *c, unsigned queue, bool reattach,
                      struct blkback_ring **out, struct error *err)
{
    struct blkback_ring *ring = calloc(1, sizeof *ring);
    if (!ring)
        return error_set(err, -ENOMEM, "no memory for a ring of domain %u", disk->domid);
    ring->disk = disk;
    ring->abi = c->abi;
    ring->pages = 1u << c->order;
    ring->size = blkif_ring_slots(c->abi, c->order);
    ring->slot_bytes = blkif_slot_bytes(c->abi);
    list_init(&ring->free);
    list_init(&ring->replay);
    list_init(&ring->done);
    list_init(&ring->finishing);
    for (unsigned i = 0; i < BLKBACK_DIRECTIONS; i++) {
        struct blkback_starved *s = &ring->starved[i];
        s->ring = ring;
        s->waiter.ready = buffer_ready;
        list_init(&s->waiter.link);
        list_init(&s->requests);
    }
    ring->poll_task.run = poll_now;
    ring->unmask_timer.expired = unmask_now;
    ring->look_timer.expired = look_now;
    list_init(&ring->look_timer.link);
    int rc = attach(ring, c, queue, reattach, err);
    if (!rc) {
        rc = reattach ? restore(ring) : begin(ring);
        if (rc)
            error_set(err, rc, "the ring of domain %u vdev %u queue %u holds impossible indices", disk->domid, disk->vdev, queue);
    }
    if (rc) {
        blkback_ring_close(ring, false);
        return rc;
    }
    *out = ring;
    return 0;
}

void blkback_ring_close(struct blkback_ring *ring, bool keep_table)
{
    struct blkback *b = ring->disk->b;
    loop_timer_stop(b->loop, &ring->unmask_timer);
    loop_timer_stop(b->loop, &ring->look_timer);
    loop_cancel(b->loop, &ring->poll_task);
    if (ring->bound) {
        if (ring->port < b->port_limit && b->ring_by_port[ring->port] == ring)
            b->ring_by_port[ring->port] = NULL;
        hv_event_close(b->ports, ring->port);
    }
    blkback_persistent_destroy(ring);
    if (ring->segment_memory)
        munmap(ring->segment_memory, segment_bytes(ring));
    free(ring->requests);
    if (ring->table)
        blkback_restart_close(b->state_dir, ring->table, keep_table);
    if (ring->shared)
        hv_grant_unmap(b->ports, ring->shared, ring->pages);
    free(ring);
}

void blkback_ring_start(struct blkback_ring *ring)
{
    ring->running = true;
    blkback_ring_poll(ring);
}

void blkback_ring_stop(struct blkback_ring *ring, enum blkback_stop ending)
{
    struct blkback *b = ring->disk->b;
    if (ending == BLKBACK_STOP_ANSWER && ring->running) {
        if (!ring->ending)
            ring->end = ring->req_cons + ring->size;
        ring->ending = true;
        blkback_ring_poll(ring);
        if (ring->running && ring->held) {
            blkback_ring_drop_starved(ring, -EIO);
            return; /* until the barrier has ended */
        }
    }
    ring->running = ring->ending = false;
    ring->discarding |= ending == BLKBACK_STOP_DISCARD;
    loop_timer_stop(b->loop, &ring->unmask_timer);
    loop_timer_stop(b->loop, &ring->look_timer);
    loop_cancel(b->loop, &ring->poll_task);
    blkback_ring_drop_starved(ring, ending == BLKBACK_STOP_LEAVE ? -ECANCELED : -EIO);
}
