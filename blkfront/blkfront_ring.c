/* blkfront_ring.c - the frontend's data path: requests onto rings, responses off them.
 *
 * 1. Requests submitted during a turn go out at its end, as one push and at most one notification a queue.
 * 2. A request's id is the index of its shadow, which is taken until its one response has come. A response with another id,
 *    or rsp_prod out of range, means that the backend is broken: the device is refused from then on.
 * 3. A caller's request longer than a ring request is sent in pieces; it ends when all pieces sent have ended, with the first
 *    error.
 * 4. Memory that is not granted is copied through bounce pages; when there is none left, requests wait for responses. */
#include "blkfront/blkfront_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

static uint32_t load(const uint32_t *shared) { return __atomic_load_n(shared, __ATOMIC_ACQUIRE); }

/* Shows ours before theirs is read; otherwise both sides could go to sleep. */
static uint32_t store_then_load(uint32_t *ours, uint32_t value, const uint32_t *theirs)
{
    __atomic_store_n(ours, value, __ATOMIC_SEQ_CST);
    return __atomic_load_n(theirs, __ATOMIC_SEQ_CST);
}

/* ---- Life ---- */

static int make_shadows(struct blkfront *f, struct blkfront_queue *q)
{
    q->shadow = calloc(q->size, sizeof *q->shadow);
    q->bounce_memory = calloc((size_t)q->size * f->info.max_segments, sizeof *q->bounce_memory);
    if (!q->shadow || !q->bounce_memory)
        return -ENOMEM;
    for (uint32_t i = 0; i < q->size; i++) {
        q->shadow[i].next_free = i + 1;
        q->shadow[i].bounce = q->bounce_memory + (size_t)i * f->info.max_segments;
    }
    q->first_free = 0;
    return 0;
}

int blkfront_ring_create(struct blkfront *f, struct blkfront_queue *q, struct error *err)
{
    unsigned pages = 1u << f->ring_order;
    q->size = blkif_ring_slots(f->abi, f->ring_order);
    q->shared = hv_arena_alloc(f->hv, pages);
    if (!q->shared || make_shadows(f, q))
        return error_set(err, -ENOMEM, "no memory for a ring of %u pages", pages);
    q->slots = (uint8_t *)(q->shared + 1);
    q->shared->req_event = q->shared->rsp_event = 1;
    for (unsigned i = 0; i < pages; i++) {
        int rc = hv_grant_share(f->hv, f->info.backend_domid, (uint8_t *)q->shared + (size_t)i * HV_PAGE_SIZE, false, &q->refs[i]);
        if (rc)
            return error_set(err, rc, "cannot grant the ring: %s", strerror(-rc));
        q->ref_count = i + 1;
    }
    int rc = hv_event_alloc(f->ports, f->info.backend_domid, &q->port);
    q->has_port = rc == 0;
    return rc ? error_set(err, rc, "cannot allocate an event channel: %s", strerror(-rc)) : 0;
}

void blkfront_ring_destroy(struct blkfront *f, struct blkfront_queue *q)
{
    bool busy = false;
    if (q->has_port)
        hv_event_close(f->ports, q->port);
    for (unsigned i = 0; i < q->ref_count; i++)
        if (hv_grant_unshare(f->hv, q->refs[i]))
            busy = true; /* the backend still has it mapped: the page can never be used for anything else */
    if (q->shared && !busy)
        hv_arena_free(f->hv, q->shared, 1u << f->ring_order);
    free(q->shadow);
    free(q->bounce_memory);
    memset(q, 0, sizeof *q);
}

/* ---- Send ---- */

struct segments {
    unsigned count;
    uint64_t bytes;
    struct blkif_segment *at; /* in the slot or in an indirect page */
};

static unsigned segment_limit(const struct blkfront *f, const struct blkfront_shadow *s)
{
    return s->indirect_page != BLKFRONT_NO_PAGE ? f->info.max_segments : f->info.max_segments < BLKIF_MAX_SEGMENTS ? f->info.max_segments : BLKIF_MAX_SEGMENTS;
}

/* The next piece of req's memory as one segment; false when a bounce page is needed and there is none. */
static bool add_segment(struct blkfront *f, struct blkfront_shadow *s, struct blkfront_req *req, struct segments *out)
{
    const struct iovec *v = &req->iov[req->iov_index];
    uint8_t *user = (uint8_t *)v->iov_base + req->iov_offset;
    size_t left = v->iov_len - req->iov_offset, offset = (uintptr_t)user % HV_PAGE_SIZE, length;
    hv_gref ref;
    if (blkfront_region_find(f, user, &ref)) {
        length = left < HV_PAGE_SIZE - offset ? left : HV_PAGE_SIZE - offset;
    } else {
        if (!f->bounce_count)
            return false;
        uint32_t page = f->bounce_free[--f->bounce_count];
        length = left < HV_PAGE_SIZE ? left : HV_PAGE_SIZE;
        offset = 0;
        ref = f->bounce->refs[page];
        s->bounce[s->bounces++] = (struct blkfront_bounce){ page, (uint32_t)length, user };
        if (req->op != BLKFRONT_READ)
            memcpy(f->bounce->base + (size_t)page * HV_PAGE_SIZE, user, length);
        f->info.bounced_bytes += length;
    }
    out->at[out->count++] = (struct blkif_segment){ .gref = ref, .first_sect = (uint8_t)(offset / BLKIF_SECTOR_SIZE),
                                                    .last_sect = (uint8_t)((offset + length) / BLKIF_SECTOR_SIZE - 1) };
    out->bytes += length;
    req->iov_offset += length;
    if (req->iov_offset == v->iov_len) {
        req->iov_index++;
        req->iov_offset = 0;
    }
    return true;
}

static uint8_t ring_op(enum blkfront_op op)
{
    static const uint8_t ops[] = { [BLKFRONT_READ] = BLKIF_OP_READ, [BLKFRONT_WRITE] = BLKIF_OP_WRITE,
                                   [BLKFRONT_FLUSH] = BLKIF_OP_FLUSH_DISKCACHE, [BLKFRONT_BARRIER] = BLKIF_OP_WRITE_BARRIER,
                                   [BLKFRONT_DISCARD] = BLKIF_OP_DISCARD };
    return ops[op];
}

/* Writes the slot of a request whose segments, if it has any, stand in list; three layouts are two shapes. */
static void write_slot(struct blkfront *f, uint8_t *slot, uint32_t id, struct blkfront_shadow *s, uint64_t sector, uint64_t discard_sectors,
                       const struct blkif_segment *list, unsigned count)
{
    bool indirect = s->indirect_page != BLKFRONT_NO_PAGE;
    uint8_t op = s->response_op;
#define WRITE_SLOT(bits)                                                                                                         \
    do {                                                                                                                         \
        if (op == BLKIF_OP_DISCARD) {                                                                                            \
            struct blkif##bits##_discard d = { .operation = op, .id = id, .sector_number = sector, .nr_sectors = discard_sectors }; \
            memcpy(slot, &d, sizeof d);                                                                                          \
        } else if (indirect) {                                                                                                   \
            struct blkif##bits##_indirect d = { .operation = BLKIF_OP_INDIRECT, .indirect_op = op, .nr_segments = (uint16_t)count, \
                                                .id = id, .sector_number = sector,                                               \
                                                .indirect_grefs = { f->bounce->refs[s->indirect_page] } };                      \
            memcpy(slot, &d, sizeof d);                                                                                          \
        } else {                                                                                                                 \
            struct blkif##bits##_request *d = (void *)slot;                                                                      \
            d->operation = op;                                                                                                   \
            d->nr_segments = (uint8_t)count;                                                                                     \
            d->handle = 0;                                                                                                       \
            d->id = id;                                                                                                          \
            d->sector_number = sector;                                                                                           \
            memcpy(d->seg, list, count * sizeof *list);                                                                          \
        }                                                                                                                        \
    } while (0)
    if (f->abi == BLKIF_ABI_X86_32)
        WRITE_SLOT(32);
    else
        WRITE_SLOT(64);
#undef WRITE_SLOT
}

static void give_back(struct blkfront *f, struct blkfront_shadow *s)
{
    for (unsigned i = 0; i < s->bounces; i++)
        f->bounce_free[f->bounce_count++] = s->bounce[i].page;
    if (s->indirect_page != BLKFRONT_NO_PAGE)
        f->bounce_free[f->bounce_count++] = s->indirect_page;
    s->bounces = 0;
    s->indirect_page = BLKFRONT_NO_PAGE;
}

/* Puts the next piece of req on q; false when there was no room for any of it. */
static bool send_piece(struct blkfront *f, struct blkfront_queue *q, struct blkfront_req *req)
{
    if (q->first_free == q->size)
        return false;
    uint32_t id = q->first_free;
    struct blkfront_shadow *s = &q->shadow[id];
    struct blkif_segment direct[BLKIF_MAX_SEGMENTS];
    struct segments list = { .at = direct };
    bool data = req->length && req->op != BLKFRONT_DISCARD && req->op != BLKFRONT_FLUSH;
    s->bounces = 0;
    s->indirect_page = BLKFRONT_NO_PAGE;
    s->response_op = ring_op(req->op);
    if (data && req->op != BLKFRONT_BARRIER && f->info.max_segments > BLKIF_MAX_SEGMENTS && f->bounce_count > 1 &&
        req->length - req->sent > BLKIF_MAX_SEGMENTS * HV_PAGE_SIZE) {
        s->indirect_page = f->bounce_free[--f->bounce_count];
        list.at = (struct blkif_segment *)(f->bounce->base + (size_t)s->indirect_page * HV_PAGE_SIZE);
    }
    while (data && req->sent + list.bytes < req->length && list.count < segment_limit(f, s) && add_segment(f, s, req, &list))
        ;
    if (data && !list.count) {
        give_back(f, s);
        return false;
    }
    f->info.indirect += s->indirect_page != BLKFRONT_NO_PAGE;
    write_slot(f, q->slots + (size_t)(q->req_prod & (q->size - 1)) * f->slot_bytes, id, s, (req->offset + req->sent) / BLKIF_SECTOR_SIZE,
               req->length / BLKIF_SECTOR_SIZE, list.at, list.count);
    q->req_prod++;
    q->first_free = s->next_free;
    q->in_flight++;
    s->req = req;
    req->pending++;
    req->sent = data ? req->sent + list.bytes : req->length;
    f->info.requests++;
    return true;
}

static void push(struct blkfront *f, struct blkfront_queue *q)
{
    uint32_t old = q->req_pushed, now = q->req_prod;
    if (old == now)
        return;
    uint32_t wish = store_then_load(&q->shared->req_prod, now, &q->shared->req_event);
    q->req_pushed = now;
    if ((uint32_t)(now - wish) < (uint32_t)(now - old)) {
        hv_event_notify(f->ports, q->port); /* a backend that is away looks at the ring when it is back */
        f->info.events_sent++;
    }
}

static void fail_waiting(struct blkfront *f)
{
    struct list_node *n;
    while ((n = list_pop(&f->failed))) {
        struct blkfront_req *req = container_of(n, struct blkfront_req, link);
        req->done(req, req->error);
    }
}

void blkfront_ring_pump(struct loop_task *t)
{
    struct blkfront *f = container_of(t, struct blkfront, pump_task);
    fail_waiting(f);
    unsigned refused = 0;
    while (!list_empty(&f->pending) && refused < f->queue_count) {
        struct blkfront_req *req = container_of(f->pending.next, struct blkfront_req, link);
        struct blkfront_queue *q = &f->queue[f->next_queue];
        f->next_queue = (f->next_queue + 1) % f->queue_count;
        if (!send_piece(f, q, req)) {
            refused++;
            continue;
        }
        refused = 0;
        if (req->sent == req->length)
            list_remove(&req->link);
    }
    for (unsigned i = 0; i < f->queue_count; i++)
        push(f, &f->queue[i]);
}

static int check(const struct blkfront *f, const struct blkfront_req *req)
{
    uint64_t length = 0;
    if (f->gone)
        return -ENODEV;
    if (req->op == BLKFRONT_FLUSH)
        return req->length ? -EINVAL : 0;
    if (req->offset % BLKIF_SECTOR_SIZE || req->length % BLKIF_SECTOR_SIZE)
        return -EINVAL;
    if (req->op == BLKFRONT_DISCARD || (req->op == BLKFRONT_BARRIER && !req->length))
        return 0;
    for (unsigned i = 0; i < req->iov_count; i++) {
        if (!req->iov[i].iov_len || req->iov[i].iov_len % BLKIF_SECTOR_SIZE)
            return -EINVAL;
        length += req->iov[i].iov_len;
    }
    if (req->op == BLKFRONT_BARRIER && (length > (BLKIF_MAX_SEGMENTS - 1) * HV_PAGE_SIZE || req->iov_count > 1))
        return -EINVAL; /* a barrier is one ring request */
    return !length || length != req->length ? -EINVAL : 0;
}

void blkfront_submit(struct blkfront *f, struct blkfront_req *req)
{
    req->sent = req->iov_offset = 0;
    req->iov_index = req->pending = 0;
    req->error = check(f, req);
    list_add_tail(req->error ? &f->failed : &f->pending, &req->link);
    loop_defer_last(f->loop, &f->pump_task);
}

/* ---- Receive ---- */

unsigned blkfront_ring_in_flight(const struct blkfront *f)
{
    unsigned n = 0;
    for (unsigned i = 0; i < f->queue_count; i++)
        n += f->queue[i].in_flight;
    return n;
}

void blkfront_ring_refuse(struct blkfront *f)
{
    f->gone = true;
    list_for_each_safe (n, &f->pending) {
        struct blkfront_req *req = container_of(n, struct blkfront_req, link);
        list_remove(n);
        req->error = req->error ? req->error : -ENODEV;
        req->sent = req->length;
        if (!req->pending) /* else its last response ends it */
            list_add_tail(&f->failed, n);
    }
    loop_defer_last(f->loop, &f->pump_task);
}

static int error_of(int status)
{
    switch (status) {
    case BLKIF_RSP_OKAY:
        return 0;
    case BLKIF_RSP_EOPNOTSUPP:
        return -EOPNOTSUPP;
    case BLKIF_RSP_PARALLAX_NO_SPACE:
        return -ENOSPC;
    default:
        return -EIO;
    }
}

static void end_piece(struct blkfront *f, struct blkfront_queue *q, uint32_t id, int status)
{
    struct blkfront_shadow *s = &q->shadow[id];
    struct blkfront_req *req = s->req;
    int error = error_of(status);
    if (req->op == BLKFRONT_READ && !error)
        for (unsigned i = 0; i < s->bounces; i++)
            memcpy(s->bounce[i].user, f->bounce->base + (size_t)s->bounce[i].page * HV_PAGE_SIZE, s->bounce[i].length);
    give_back(f, s);
    s->req = NULL;
    s->next_free = q->first_free;
    q->first_free = id;
    q->in_flight--;
    f->info.responses++;
    if (error && !req->error)
        req->error = error;
    if (--req->pending == 0 && req->sent == req->length)
        req->done(req, req->error);
}

static bool take_response(struct blkfront *f, struct blkfront_queue *q)
{
    const uint8_t *slot = q->slots + (size_t)(q->rsp_cons & (q->size - 1)) * f->slot_bytes;
    uint64_t id;
    uint8_t op;
    int16_t status;
    if (f->abi == BLKIF_ABI_X86_32) {
        struct blkif32_response rsp;
        memcpy(&rsp, slot, sizeof rsp);
        id = rsp.id, op = rsp.operation, status = rsp.status;
    } else {
        struct blkif64_response rsp;
        memcpy(&rsp, slot, sizeof rsp);
        id = rsp.id, op = rsp.operation, status = rsp.status;
    }
    if (id >= q->size || !q->shadow[id].req || op != q->shadow[id].response_op)
        return false;
    q->rsp_cons++;
    end_piece(f, q, (uint32_t)id, status);
    return true;
}

/* A backend that cannot be trusted any more: what is in flight ends with an error. */
static void abandon(struct blkfront *f)
{
    blkfront_ring_refuse(f);
    for (unsigned i = 0; i < f->queue_count; i++)
        for (uint32_t id = 0; id < f->queue[i].size; id++)
            if (f->queue[i].shadow[id].req)
                end_piece(f, &f->queue[i], id, BLKIF_RSP_ERROR);
    if (f->opt.gone)
        f->opt.gone(f->opt.ctx);
}

static void receive(struct blkfront *f, struct blkfront_queue *q)
{
    for (;;) {
        uint32_t prod = load(&q->shared->rsp_prod);
        if (prod == q->rsp_cons) {
            prod = store_then_load(&q->shared->rsp_event, q->rsp_cons + 1, &q->shared->rsp_prod);
            if (prod == q->rsp_cons)
                return;
        }
        bool sound = prod - q->rsp_cons <= q->req_pushed - q->rsp_cons;
        while (sound && q->rsp_cons != prod)
            sound = take_response(f, q);
        if (!sound) {
            abandon(f);
            return;
        }
    }
}

void blkfront_ring_events(struct loop_fd *w, uint32_t epoll_events)
{
    struct blkfront *f = container_of(w, struct blkfront, events);
    hv_evtchn port;
    (void)epoll_events;
    /* A port for each queue: looking for one more would cost a system call, and what came meanwhile keeps the descriptor readable. */
    for (unsigned i = 0; i < f->queue_count && hv_event_pending(f->ports, &port) == 0; i++) {
        f->info.events_received++;
        for (unsigned k = 0; k < f->queue_count; k++)
            if (f->queue[k].port == port)
                receive(f, &f->queue[k]);
        hv_event_unmask(f->ports, port);
    }
    if (!list_empty(&f->pending))
        loop_defer_last(f->loop, &f->pump_task);
    if (f->gone)
        blkfront_xenbus_leave(f);
}

/* ---- Pulled ---- */

void blkfront_push(struct blkfront *f)
{
    loop_cancel(f->loop, &f->pump_task);
    blkfront_ring_pump(&f->pump_task);
}

int blkfront_event_fd(const struct blkfront *f) { return f->events.fd; }

void blkfront_pull(struct blkfront *f)
{
    blkfront_ring_events(&f->events, EPOLLIN);
    blkfront_push(f);
}
