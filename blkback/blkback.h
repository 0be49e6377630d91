/* blkback.h - the backend of the blkif protocol: serves images to the frontends that xenstore names.
 *
 * What it does: watches backend/vbd of its own domain; for each device opens the image that `params` names, goes through
 * the XenbusState handshake with the frontend, and then answers the requests on its rings until the frontend or the
 * toolstack ends it. The protocol, as kept here, is docs/blkif.md.
 * Words: a device is one backend directory, one image and one or more queues; a queue is one ring and one event channel.
 * Threads: xenstore and the handshake live on a control thread that blkback_start makes. Rings, grants, events and images
 * live on the store's loop. All functions below are called on the loop's thread.
 * Errors: 0 or negative errno. What a guest does wrong never shows here: it gets an error response, or its ring is
 * disconnected and logged, and the rest goes on.
 * Ownership: hv, store and loop are borrowed until blkback_stop has returned.
 * Caveat: memory for data in flight is two pools for all devices, of reads and of writes; when one is used up, its requests wait in turn.
 *
 *   struct blkback *b;
 *   int err = blkback_start(hv, store, loop, &(struct blkback_options){ .state_dir = "/run/parallax" }, &b, &e);
 *   loop_run(loop);
 *   blkback_stop(b, true); */
#ifndef BLKBACK_BLKBACK_H
#define BLKBACK_BLKBACK_H
#include "base/error.h"
#include "base/loop.h"
#include "hypervisor/hypervisor.h"
#include "parallax/parallax.h"

#include <stdbool.h>
#include <stdint.h>

/* Features that can be hidden from frontends although they would work; a frontend then falls back as its kind does. */
enum blkback_feature {
    BLKBACK_FLUSH = 1,
    BLKBACK_BARRIER = 2,
    BLKBACK_DISCARD = 4,
    BLKBACK_INDIRECT = 8,
    BLKBACK_MULTI_QUEUE = 16,
    BLKBACK_MULTI_PAGE = 32,
    BLKBACK_SMALL_SECTORS = 64, /* the disk's sectors are of 4096 bytes then, if its size is a multiple */
};

/* What is hidden from the frontends of some images. */
struct blkback_hiding {
    const char *glob;        /* of the image, IMAGE or IMAGE@SNAP (fnmatch) */
    unsigned features;       /* enum blkback_feature, or-ed */
};

struct blkback_options {
    const char *state_dir;   /* an existing directory in memory (tmpfs) for the restart tables; copied */
    const struct blkback_hiding *hidings; /* all that match an image count; borrowed until blkback_stop */
    unsigned hiding_count;
    bool persistent;         /* map guests' pages and keep them mapped (feature-persistent), instead of copying by grant.
                                This and what is hidden holds for devices that connect; those taken up again keep what they had */
    /* Called on the loop, once a second: the hypervisor has ended, and no frontend is left whose rings could still be served. */
    void (*useless)(void *ctx);
    void *ctx;
    unsigned mapped_pages;   /* that may be kept mapped, of all guests; beyond, pages are copied by grant. 0: what this host allows */
    uint64_t buffer_bytes;   /* data in flight, half of it reads; rounded down to a power of two; at least 2 MiB; 0: 64 MiB */
};

struct blkback;

/* Begins to serve, and takes up again the rings that an earlier process of this domain left. Returns when the control
 * thread watches xenstore; devices come and go while the loop runs. err holds one line on failure. */
int blkback_start(struct hv *hv, struct store *store, struct loop *loop, const struct blkback_options *options,
                  struct blkback **out, struct error *err);

/* Ends it; called while the loop does not run, and runs turns of it until nothing is in flight. With leave_rings the
 * responses of what was in flight are published, and rings, restart tables and nodes stay as they are, so that guests wait
 * for the next process. Without it every device is closed towards its frontend (state Closed) first. */
void blkback_stop(struct blkback *b, bool leave_rings);

/* XenbusState of the backend, or 0 while its directory has just been found. */
struct blkback_device_info {
    hv_domid domid;                   /* of the frontend */
    unsigned vdev;                    /* virtual device number, e.g. 51712 for xvda */
    char image[IMAGE_TARGET_SIZE];
    char problem[512];                /* why it does not go on, or "" */
    unsigned state;
    bool read_only, persistent;
    unsigned queues, ring_pages;      /* pages of one ring; both 0 unless connected */
    uint64_t reads, writes, flushes, barriers, discards; /* requests */
    uint64_t indirect;                /* of reads and writes, those with indirect segments */
    uint64_t segments, read_bytes, write_bytes;
    uint64_t errors;                  /* error responses */
    uint64_t grants_copied, grants_mapped;
    uint64_t events_received, events_sent, batches; /* batches: times that requests were taken from a ring */
    unsigned in_flight;
};

/* Calls each for every device; a non-zero return stops. */
void blkback_each_device(struct blkback *b, int (*each)(void *ctx, const struct blkback_device_info *info), void *ctx);
#endif
