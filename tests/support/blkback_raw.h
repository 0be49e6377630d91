/* blkback_raw.h - a frontend without manners: puts whatever a test likes into its nodes and on its ring.
 *
 * Threads: one. Errors: 0 or negative errno. Waiting is the caller's: raw_wait calls `turn` until a condition holds. */
#ifndef TESTS_SUPPORT_BLKBACK_RAW_H
#define TESTS_SUPPORT_BLKBACK_RAW_H
#include "hypervisor/blkif.h"
#include "hypervisor/hypervisor.h"

#include <stdbool.h>

#define RAW_PAGES_MAX 16u
#define RAW_LATE_TURNS 500u /* of waiting when the time is up: the machine may have stood still */

struct raw {
    struct hv *hv;
    struct hv_xs *xs;
    struct hv_ports *ports;
    hv_domid backend;
    unsigned vdev;
    void (*turn)(void);
    enum blkif_abi abi;
    unsigned order;
    uint32_t size, slot_bytes;
    struct blkif_ring_header *shared;
    uint8_t *slots;
    hv_gref refs[RAW_PAGES_MAX];
    hv_evtchn port;
    uint32_t req_prod, rsp_cons;
    char frontend[64];
};

/* Allocates ring and channel and fills nodes; does not write the state. */
int raw_prepare(struct raw *r);
int raw_put(struct raw *r, const char *name, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
void raw_delete(struct raw *r, const char *name);
/* prepare, nodes, state 3, and waits for the backend's state 4. */
int raw_connect(struct raw *r);
unsigned raw_backend_state(struct raw *r);
int raw_wait_backend(struct raw *r, unsigned state, unsigned timeout_ms);
/* Ends grants, channel and memory; the nodes stay. False if the backend still has something mapped. */
bool raw_release(struct raw *r);
/* Copies `bytes` into the next slot; raw_push shows it and kicks. */
void raw_slot(struct raw *r, const void *bytes, size_t length);
void raw_push(struct raw *r);
void raw_kick(struct raw *r);
struct raw_response {
    uint64_t id;
    uint8_t op;
    int16_t status;
    bool clean; /* all padding is zero */
};
/* The next response, waiting for it; -ETIMEDOUT. */
int raw_response(struct raw *r, unsigned timeout_ms, struct raw_response *out);
/* A read or write of `count` pages with one segment each; in the ring's layout. */
void raw_rw(struct raw *r, uint8_t op, uint64_t id, uint64_t sector, const struct blkif_segment *segments, unsigned count);
void raw_discard(struct raw *r, uint64_t id, uint64_t sector, uint64_t count, uint8_t flag);
void raw_indirect(struct raw *r, uint8_t inner, uint64_t id, uint64_t sector, hv_gref page, unsigned count);
#endif
