/* blkback_restart.h - the restart table: what a new process must know of a ring to go on where the old one was killed.
 *
 * One file a ring, in memory (tmpfs), mapped shared, so that it holds every store made before a kill -9. The guest can
 * write the ring's shared indices and a response overwrites a request's slot; so the table, not the ring, tells which
 * requests are unanswered and which answers are out.
 * Order of stores (a killed process leaves a prefix of them, in program order):
 *   take:    line {req_index, raw}, line.state = TAKEN, then req_cons
 *   answer:  line {rsp_index, status}, line.state = ANSWERED, then the ring's slot … for the batch, then the ring's
 *            rsp_prod, then rsp_prod here, then line.state = FREE …
 * Hence on re-attaching: TAKEN at or after req_cons was not taken; ANSWERED before rsp_prod is out; the ring's rsp_prod is
 * either ours or ours plus the number of ANSWERED lines after it.
 * Threads: the store's loop. Trust: the directory belongs to the daemon; still a table that does not fit is refused. */
#ifndef BLKBACK_RESTART_H
#define BLKBACK_RESTART_H
#include "base/error.h"
#include "hypervisor/blkif.h"
#include "hypervisor/hypervisor.h"

#include <stdbool.h>
#include <stdint.h>

#define BLKBACK_MAX_RING_PAGES (1u << BLKIF_MAX_RING_ORDER)

enum blkback_saved_state { BLKBACK_FREE, BLKBACK_TAKEN, BLKBACK_ANSWERED };

struct blkback_saved {
    uint32_t state; /* enum blkback_saved_state */
    uint32_t req_index, rsp_index;
    int32_t status;
    uint8_t raw[sizeof(struct blkif64_request)];
};

/* What the ring is; a table is used again only for the very same one. */
struct blkback_table_key {
    uint32_t domid, vdev, queue, abi, order, event_channel;
    uint32_t refs[BLKBACK_MAX_RING_PAGES];
};

struct blkback_table {
    uint64_t magic; /* written last */
    uint32_t slots, reserved;
    struct blkback_table_key key;
    uint32_t req_cons, rsp_prod;
    struct blkback_saved saved[]; /* slots of them */
};

/* A new table, over an old one of that queue if there is one; magic is not yet set. */
int blkback_restart_create(const char *dir, const struct blkback_table_key *key, struct blkback_table **out);
/* From now on the table counts. */
void blkback_restart_publish(struct blkback_table *t);
/* The table that an earlier process left: -ENOENT none, -EBADMSG not sound, -ESTALE of another ring, so that this one was never served. */
int blkback_restart_open(const char *dir, const struct blkback_table_key *key, struct blkback_table **out);
void blkback_restart_close(const char *dir, struct blkback_table *t, bool keep);
/* Whether a table of queue 0 of that device is there. */
bool blkback_restart_exists(const char *dir, hv_domid domid, unsigned vdev);
/* Removes the tables of devices for which wanted says no. */
void blkback_restart_sweep(const char *dir, bool (*wanted)(void *ctx, hv_domid domid, unsigned vdev), void *ctx);
#endif
