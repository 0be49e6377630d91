/* blkfront_private.h - the frontend's own structs and the functions its files share. All on the frontend's loop. */
#ifndef BLKFRONT_PRIVATE_H
#define BLKFRONT_PRIVATE_H
#include "base/list.h"
#include "base/loop.h"
#include "blkfront/blkfront.h"
#include "hypervisor/blkif.h"
#include "hypervisor/hypervisor.h"

#define BLKFRONT_MAX_QUEUES 8u
#define BLKFRONT_MAX_SEGMENTS 256u
#define BLKFRONT_PATH_SIZE 256u

/* Contiguous arena pages, each granted to the backend for reading and writing. */
struct blkfront_region {
    struct list_node link;
    uint8_t *base;
    unsigned pages;
    hv_gref refs[];
};

/* Where a segment's bytes come from when they are not granted memory. */
struct blkfront_bounce {
    uint32_t page;   /* index in the bounce region */
    uint32_t length; /* bytes, from the page's start */
    uint8_t *user;
};

/* A request on the ring; its index is the id. */
struct blkfront_shadow {
    struct blkfront_req *req;  /* NULL: free */
    uint32_t next_free;
    uint32_t indirect_page;    /* index in the bounce region, or BLKFRONT_NO_PAGE */
    uint8_t response_op;
    uint16_t bounces;
    struct blkfront_bounce *bounce; /* max_segments of them */
};
#define BLKFRONT_NO_PAGE UINT32_MAX

struct blkfront_queue {
    struct blkif_ring_header *shared;
    uint8_t *slots;
    hv_gref refs[1u << BLKIF_MAX_RING_ORDER];
    uint32_t size, req_prod, req_pushed, rsp_cons;
    uint32_t first_free, in_flight;
    struct blkfront_shadow *shadow;
    struct blkfront_bounce *bounce_memory;
    hv_evtchn port;
    bool has_port;
    unsigned ref_count;
};

struct blkfront {
    struct hv *hv;
    struct loop *loop;
    struct hv_ports *ports;
    struct hv_xs *xs;
    struct blkfront_options opt;
    struct blkfront_info info;
    char frontend[BLKFRONT_PATH_SIZE], backend[BLKFRONT_PATH_SIZE];
    enum blkif_abi abi;
    uint32_t slot_bytes;
    unsigned ring_order, queue_count, next_queue;
    struct blkfront_queue queue[BLKFRONT_MAX_QUEUES];
    struct loop_fd events, watches;
    struct loop_task pump_task;
    struct list_node pending; /* requests not yet wholly on a ring */
    struct list_node failed;  /* to be ended with their error at the next pump */
    struct list_node regions;
    struct blkfront_region *bounce;
    uint32_t *bounce_free;
    unsigned bounce_count;
    bool watching, gone, left;  /* gone: no more requests; left: Closed was written */
};

/* ---- blkfront_memory.c ---- */
int blkfront_region_create(struct blkfront *f, unsigned pages, struct blkfront_region **out);
/* A page that the backend still has mapped stays granted and is never used again. */
void blkfront_region_destroy(struct blkfront *f, struct blkfront_region *r);
/* The grant of the page at p, if p lies in a region and is aligned to 512. */
bool blkfront_region_find(struct blkfront *f, const void *p, hv_gref *out);
int blkfront_bounce_create(struct blkfront *f);
void blkfront_bounce_destroy(struct blkfront *f);

/* ---- blkfront_xenbus.c ---- */
int blkfront_xenbus_connect(struct blkfront *f, struct error *err);
void blkfront_xenbus_disconnect(struct blkfront *f);
/* Once the backend closes: says Closed when nothing is in flight. */
void blkfront_xenbus_leave(struct blkfront *f);

/* ---- blkfront_ring.c ---- */
int blkfront_ring_create(struct blkfront *f, struct blkfront_queue *q, struct error *err);
void blkfront_ring_destroy(struct blkfront *f, struct blkfront_queue *q);
void blkfront_ring_events(struct loop_fd *w, uint32_t epoll_events);
void blkfront_ring_pump(struct loop_task *t);
unsigned blkfront_ring_in_flight(const struct blkfront *f);
/* No request is sent any more; those not yet sent fail with -ENODEV. */
void blkfront_ring_refuse(struct blkfront *f);
#endif
