/* blkback_raw.c - see the header. */
#include "tests/support/blkback_raw.h"

#include "base/clock.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int raw_put(struct raw *r, const char *name, const char *fmt, ...)
{
    char path[160], value[256];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(value, sizeof value, fmt, ap);
    va_end(ap);
    snprintf(path, sizeof path, "device/vbd/%u/%s", r->vdev, name);
    return hv_xs_write(r->xs, 0, path, value);
}

void raw_delete(struct raw *r, const char *name)
{
    char path[160];
    snprintf(path, sizeof path, "device/vbd/%u/%s", r->vdev, name);
    hv_xs_remove(r->xs, 0, path);
}

int raw_prepare(struct raw *r)
{
    unsigned pages = 1u << r->order;
    r->size = blkif_ring_slots(r->abi, r->order);
    r->slot_bytes = blkif_slot_bytes(r->abi);
    r->req_prod = r->rsp_cons = 0;
    r->shared = hv_arena_alloc(r->hv, pages);
    if (!r->shared)
        return -ENOMEM;
    r->slots = (uint8_t *)(r->shared + 1);
    r->shared->req_event = r->shared->rsp_event = 1;
    for (unsigned i = 0; i < pages; i++) {
        int err = hv_grant_share(r->hv, r->backend, (uint8_t *)r->shared + i * HV_PAGE_SIZE, false, &r->refs[i]);
        if (err)
            return err;
    }
    int err = hv_event_alloc(r->ports, r->backend, &r->port);
    if (err)
        return err;
    raw_put(r, "protocol", "%s", blkif_abi_name(r->abi));
    raw_put(r, "event-channel", "%u", r->port);
    if (r->order)
        raw_put(r, "ring-page-order", "%u", r->order);
    else
        raw_delete(r, "ring-page-order");
    for (unsigned i = 0; i < pages; i++) {
        char name[16];
        snprintf(name, sizeof name, r->order ? "ring-ref%u" : "ring-ref", i);
        err = raw_put(r, name, "%u", r->refs[i]);
    }
    return err;
}

unsigned raw_backend_state(struct raw *r)
{
    char path[160], *value, *backend;
    snprintf(path, sizeof path, "device/vbd/%u/backend", r->vdev);
    if (hv_xs_read(r->xs, 0, path, &backend, NULL))
        return 0;
    snprintf(path, sizeof path, "%s/state", backend);
    free(backend);
    if (hv_xs_read(r->xs, 0, path, &value, NULL))
        return 0;
    unsigned state = (unsigned)strtoul(value, NULL, 10);
    free(value);
    return state;
}

int raw_wait_backend(struct raw *r, unsigned state, unsigned timeout_ms)
{
    uint64_t end = clock_monotonic_ms() + timeout_ms;
    unsigned late = 0;
    while (raw_backend_state(r) != state) {
        if (clock_monotonic_ms() > end && late++ >= RAW_LATE_TURNS)
            return -ETIMEDOUT;
        r->turn();
    }
    return 0;
}

int raw_connect(struct raw *r)
{
    int err = raw_wait_backend(r, XENBUS_INIT_WAIT, 60000);
    if (!err)
        err = raw_prepare(r);
    if (!err)
        err = raw_put(r, "state", "3");
    return err ? err : raw_wait_backend(r, XENBUS_CONNECTED, 60000);
}

bool raw_release(struct raw *r)
{
    bool clean = true;
    hv_event_close(r->ports, r->port);
    for (unsigned i = 0; i < 1u << r->order; i++)
        clean &= hv_grant_unshare(r->hv, r->refs[i]) == 0;
    if (clean)
        hv_arena_free(r->hv, r->shared, 1u << r->order);
    return clean;
}

void raw_slot(struct raw *r, const void *bytes, size_t length)
{
    memcpy(r->slots + (size_t)(r->req_prod++ & (r->size - 1)) * r->slot_bytes, bytes, length);
}

void raw_kick(struct raw *r) { hv_event_notify(r->ports, r->port); }

void raw_push(struct raw *r)
{
    __atomic_store_n(&r->shared->req_prod, r->req_prod, __ATOMIC_SEQ_CST);
    raw_kick(r);
}

static void decode(struct raw *r, const uint8_t *slot, struct raw_response *out)
{
    unsigned length = r->abi == BLKIF_ABI_X86_32 ? sizeof(struct blkif32_response) : sizeof(struct blkif64_response);
    memcpy(&out->id, slot, sizeof out->id);
    out->op = slot[8];
    memcpy(&out->status, slot + 10, sizeof out->status);
    out->clean = slot[9] == 0;
    for (unsigned i = 12; i < length; i++)
        out->clean &= slot[i] == 0;
}

int raw_response(struct raw *r, unsigned timeout_ms, struct raw_response *out)
{
    uint64_t end = clock_monotonic_ms() + timeout_ms;
    while (__atomic_load_n(&r->shared->rsp_prod, __ATOMIC_ACQUIRE) == r->rsp_cons) {
        if (clock_monotonic_ms() > end)
            return -ETIMEDOUT;
        r->turn();
    }
    decode(r, r->slots + (size_t)(r->rsp_cons++ & (r->size - 1)) * r->slot_bytes, out);
    __atomic_store_n(&r->shared->rsp_event, r->rsp_cons + 1, __ATOMIC_SEQ_CST);
    return 0;
}

void raw_rw(struct raw *r, uint8_t op, uint64_t id, uint64_t sector, const struct blkif_segment *segments, unsigned count)
{
    unsigned kept = count < BLKIF_MAX_SEGMENTS ? count : BLKIF_MAX_SEGMENTS;
    if (r->abi == BLKIF_ABI_X86_32) {
        struct blkif32_request q = { .operation = op, .nr_segments = (uint8_t)count, .id = id, .sector_number = sector };
        memcpy(q.seg, segments, kept * sizeof *segments);
        raw_slot(r, &q, sizeof q);
    } else {
        struct blkif64_request q = { .operation = op, .nr_segments = (uint8_t)count, .id = id, .sector_number = sector };
        memcpy(q.seg, segments, kept * sizeof *segments);
        raw_slot(r, &q, sizeof q);
    }
}

void raw_discard(struct raw *r, uint64_t id, uint64_t sector, uint64_t count, uint8_t flag)
{
    if (r->abi == BLKIF_ABI_X86_32)
        raw_slot(r, &(struct blkif32_discard){ .operation = BLKIF_OP_DISCARD, .flag = flag, .id = id, .sector_number = sector, .nr_sectors = count },
                 sizeof(struct blkif32_discard));
    else
        raw_slot(r, &(struct blkif64_discard){ .operation = BLKIF_OP_DISCARD, .flag = flag, .id = id, .sector_number = sector, .nr_sectors = count },
                 sizeof(struct blkif64_discard));
}

void raw_indirect(struct raw *r, uint8_t inner, uint64_t id, uint64_t sector, hv_gref page, unsigned count)
{
    if (r->abi == BLKIF_ABI_X86_32)
        raw_slot(r, &(struct blkif32_indirect){ .operation = BLKIF_OP_INDIRECT, .indirect_op = inner, .nr_segments = (uint16_t)count, .id = id,
                                                .sector_number = sector, .indirect_grefs = { page } }, sizeof(struct blkif32_indirect));
    else
        raw_slot(r, &(struct blkif64_indirect){ .operation = BLKIF_OP_INDIRECT, .indirect_op = inner, .nr_segments = (uint16_t)count, .id = id,
                                                .sector_number = sector, .indirect_grefs = { page } }, sizeof(struct blkif64_indirect));
}
