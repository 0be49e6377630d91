/* blkback_private.h - the backend's own structs and the functions its files share.
 *
 * Words: the disk is the loop's half of a device (image, rings, counters); the device is the control thread's half (nodes,
 * state machine). A command goes from the device to its disk, at most one at a time, and its reply comes back.
 * Threads: each field says or inherits from its heading whose it is. Functions are called on the thread of their first
 * argument's half: blkback_device_*, blkback_nodes_* on the control thread; blkback_disk_*, blkback_ring_*, blkback_io_*,
 * blkback_request_*, blkback_copy_*, blkback_restart_* on the loop. */
#ifndef BLKBACK_PRIVATE_H
#define BLKBACK_PRIVATE_H
#include "base/list.h"
#include "base/log.h"
#include "base/loop.h"
#include "blkback/blkback.h"
#include "blkback/blkback_pool.h"
#include "blkback/blkback_restart.h"
#include "hypervisor/blkif.h"
#include "hypervisor/hypervisor.h"
#include "parallax/parallax.h"

#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>

#define BLKBACK_MAX_SEGMENTS 256u /* of an indirect request; they fit one indirect page */
#define BLKBACK_MAX_QUEUES 4u
#define BLKBACK_COPY_BATCH 512u
#define BLKBACK_DISCARD_SECTORS 8u /* discard-granularity: 4096 bytes */
#define BLKBACK_PATH_SIZE 256u

/* Which pool a request's buffer comes from. What a guest writes may wait long, for room in a full store; so it has a pool of its own,
 * and can never take what reads need. */
enum blkback_direction { BLKBACK_TO_GUEST, BLKBACK_FROM_GUEST, BLKBACK_DIRECTIONS };

/* How one frontend asked to be connected. */
struct blkback_connection {
    enum blkif_abi abi;
    unsigned order, queues;
    bool persistent;
    bool no_space; /* it knows BLKIF_RSP_PARALLAX_NO_SPACE */
    struct {
        hv_gref refs[BLKBACK_MAX_RING_PAGES];
        uint32_t event_channel;
    } queue[BLKBACK_MAX_QUEUES];
};

/* A request, from the ring until its response is published. */
struct blkback_request {
    struct image_req io;
    struct iovec iov;
    struct blkback_ring *ring;
    struct list_node link;        /* in one of the ring's lists, or in a batch */
    struct blkback_saved *saved;  /* its line in the restart table; holds the only copy of the ring's bytes */
    uint64_t id, sector;
    uint64_t sectors;             /* length: of all segments, or of the discard */
    uint8_t response_op;          /* what the response names: the inner operation of an indirect request */
    uint8_t op;                   /* enum blkif_op to carry out */
    bool indirect;
    uint8_t step;                 /* index in plan */
    uint8_t plan[4];              /* enum image_op, in order, ended by BLKBACK_PLAN_END */
    unsigned segment_count;
    const struct blkif_segment *segments; /* private memory: direct, or fetched */
    struct blkif_segment *fetched;        /* room for BLKBACK_MAX_SEGMENTS, in the ring's segment_memory */
    hv_gref indirect_ref;
    uint8_t *buffer;              /* segment_count pages of a pool, or NULL */
    int error;                    /* the first */
    struct blkif_segment direct[BLKIF_MAX_SEGMENTS];
};
#define BLKBACK_PLAN_END 0xffu

/* Requests of one ring that were taken and wait for a buffer, in order. */
struct blkback_starved {
    struct blkback_pool_waiter waiter;
    struct list_node requests;
    struct blkback_ring *ring;
};

struct blkback_ring {
    struct blkback_disk *disk;
    struct blkif_ring_header *shared; /* the guest may change it at any moment */
    uint8_t *slots;
    enum blkif_abi abi;
    unsigned pages;
    uint32_t size, slot_bytes;
    uint32_t req_cons, rsp_prod;      /* ours; the shared ones are only checked against these */
    hv_evtchn port;
    bool bound;
    bool running;                     /* requests are taken */
    bool ending;                      /* up to `end` alone: a barrier holds up what is to be answered before the ring stops */
    uint32_t end;
    bool discarding;                  /* nobody is told any more */
    bool held;                        /* a barrier waits, or is carried out: poll again when something ended */
    bool barrier;                     /* one is being carried out */
    bool unasked;                     /* the frontend will not tell of its next request; look_timer runs */
    bool unmask_late;                 /* the timer will unmask the port */
    unsigned idle_events;             /* in a row, with no request taken since the first */
    unsigned in_flight;
    struct blkback_request *requests; /* size of them */
    struct blkif_segment *segment_memory; /* indirect segments of each request; touched only when used */
    struct list_node free, replay, done;
    struct list_node finishing;       /* in blkback.finishing while done is not empty */
    struct blkback_starved starved[BLKBACK_DIRECTIONS];
    struct loop_task poll_task;
    struct loop_timer unmask_timer, look_timer;
    struct blkback_table *table;
    struct blkback_persistent *persistent; /* NULL: copy by grant */
};

struct blkback_counters {
    uint64_t reads, writes, flushes, barriers, discards, indirect, segments, read_bytes, write_bytes, errors;
    uint64_t grants_copied, grants_mapped, events_received, events_sent, batches;
};

/* The loop's half of a device. */
struct blkback_disk {
    struct blkback *b;
    hv_domid domid;
    unsigned vdev;
    struct image *image;       /* NULL unless open */
    bool read_only, discard;
    unsigned hidden;           /* enum blkback_feature; like the next one, the control thread's until the image is open */
    bool offers_persistent;    /* feature-persistent */
    bool closing;              /* a close command waits for the rings to run empty */
    uint64_t sectors;          /* of the open image */
    unsigned queues, ring_pages;
    bool persistent, no_space; /* as in the connection */
    struct blkback_ring *rings[BLKBACK_MAX_QUEUES];
    struct blkback_counters count;
    struct log_limit log_limit; /* outlives the rings: reconnecting buys no new lines */
};

enum blkback_command { BLKBACK_NOTHING, BLKBACK_OPEN, BLKBACK_CONNECT, BLKBACK_REATTACH, BLKBACK_CLOSE };

/* Where the control thread stands with a device. */
enum blkback_stage {
    BLKBACK_NEW,       /* found, nothing done */
    BLKBACK_FAILED,    /* the image cannot be opened; nodes say why */
    BLKBACK_HELD,      /* InitWait, but another writer still holds the image */
    BLKBACK_READY,     /* InitWait, image open */
    BLKBACK_CONNECTED, /* rings mapped */
    BLKBACK_BROKEN,    /* disconnected by us; waits for the frontend to close */
    BLKBACK_CLOSED,    /* image closed; may come back if online */
    BLKBACK_GONE,      /* to be forgotten */
};

struct blkback_device {
    struct blkback_disk disk;
    /* control thread */
    struct list_node link; /* in blkback.devices, under blkback.lock */
    enum blkback_stage stage;
    bool dirty, watched, frontend_seen;
    bool again;                       /* the xenstore refused something: look again soon */
    bool unsaid;                      /* what the frontend waits for could not be written */
    bool unreported;                  /* why it does not go on could not be written */
    bool missed;                      /* an event came while a command was under way */
    bool anew;                        /* the frontend is not the one that we were connected to */
    bool abandoned;                   /* BLKBACK_CLOSE: nobody waits for what is in flight, and its pages may be used for something else */
    unsigned frontend_state;          /* as last seen, if it counts: of the frontend that we are connected to, or one that left state 4 */
    char path[BLKBACK_PATH_SIZE];     /* backend/vbd/DOMID/VDEV */
    char frontend[BLKBACK_PATH_SIZE]; /* /local/domain/… */
    bool read_only, discard, removable, cdrom; /* as the toolstack wrote */
    char params[IMAGE_TARGET_SIZE];            /* likewise: the name by which the image was attached */
    struct log_limit log_limit;
    atomic_int state;                 /* as last read or written */
    /* under blkback.lock */
    char target[IMAGE_TARGET_SIZE]; /* what the image is called, as last read or opened */
    char problem[512];
    /* the command: the sender's until posted, the receiver's until replied */
    enum blkback_command command;
    int result;
    bool image_failed; /* of a reattach: the image, not the ring, is what could not be had */
    struct error error;
    struct blkback_connection connection;
    char identity[IMAGE_TARGET_SIZE]; /* what is, or was, attached (image_identity); "": not known yet, the name decides */
    char holder[64];
    uint64_t sectors;
    uint64_t removal_ms; /* when its directory may be removed (clock_monotonic_ms); 0: nobody has let go of it */
    struct loop_task to_loop, to_control;
    /* from the loop, at any time */
    struct loop_task notice;
    atomic_bool resized, broken;
    atomic_uint_least64_t new_sectors;
};

struct blkback_copies {
    struct hv_copy copy[BLKBACK_COPY_BATCH];
    struct blkback_request *owner[BLKBACK_COPY_BATCH];
    unsigned count;
};

struct blkback {
    struct hv *hv;
    struct store *store;
    struct loop *loop;
    struct blkback_options options;
    char state_dir[BLKBACK_PATH_SIZE];
    /* loop */
    struct hv_ports *ports;
    struct loop_fd events;
    struct blkback_ring **ring_by_port;
    uint32_t port_limit;
    struct blkback_pool *pool[BLKBACK_DIRECTIONS];
    struct list_node finishing; /* rings with requests that are done */
    struct loop_task usefulness_task;
    struct loop_task finish_task;
    struct blkback_copies copies;
    unsigned mapped_pages;       /* kept mapped, of all rings; at most options.mapped_pages */
    bool mapped_out;             /* there was no room for one, and that was said */
    struct log_limit mapped_limit;
    /* control thread */
    struct loop *control;
    struct hv_xs *xs;
    struct loop_fd watches;
    struct loop_timer retry_timer, connection_timer;
    bool cut;         /* the xenstore's connection has ended */
    int cut_reason;   /* why there is no other, as was told last */
    pthread_t thread;
    struct loop_task shutdown_task;
    sem_t ready;
    int started; /* what the control thread's beginning came to, before ready is posted */
    bool shutting_down, scan_due;
    /* both */
    atomic_bool shut_down;
    pthread_mutex_t lock;
    struct list_node devices;
};

/* ---- blkback_manager.c: the control thread ---- */
int blkback_manager_start(struct blkback *b, struct error *err);
/* Closes all devices towards their frontends; b->shut_down tells when. Any thread. */
void blkback_manager_shut_down(struct blkback *b);
/* Ends the thread; its loop stays for replies that are still posted, until loop_destroy. */
void blkback_manager_stop(struct blkback *b);
/* Takes the events that have come, and steps the devices that they are of. */
void blkback_manager_look(struct blkback *b);
/* Looks at the devices that wait for an image again, soon. */
void blkback_manager_retry(struct blkback *b);
/* Ends the watch of a device that is gone; it is freed by the next reap. */
void blkback_manager_forget(struct blkback_device *d);
/* Frees the devices that are gone; called where nothing up the call chain uses one any more. */
void blkback_manager_reap(struct blkback *b);

/* ---- blkback_connection.c: the xenstore's connection, on the control thread ---- */
#define BLKBACK_BACKEND_TOKEN "backend"
/* Opens it and watches the backend's directory. -EPIPE: the hypervisor has ended. */
int blkback_connection_open(struct blkback *b, struct hv_xs **out);
/* From now on its end is noticed and it is made anew. */
void blkback_connection_begin(struct blkback *b);
/* It has ended. */
void blkback_connection_lost(struct blkback *b);
/* On the loop: tells if no frontend is left that could be served. */
void blkback_connection_useful(struct loop_task *t);

/* ---- blkback_device.c: the state machine ---- */
void blkback_device_init(struct blkback_device *d, struct blkback *b, hv_domid domid, unsigned vdev);
/* Reads the nodes and goes as far as it can; forgets d if it is gone. */
void blkback_device_step(struct blkback_device *d);
bool blkback_device_has_image(const struct blkback_device *d);
/* Whether d waits for something that no watch tells of. */
bool blkback_device_waits(const struct blkback_device *d);

/* ---- blkback_nodes.c: what stands in xenstore ---- */
struct blkback_seen {
    bool exists, online, frontend_exists;
    unsigned state, frontend_state;
};
/* An error means that the xenstore did not answer, and says nothing about the device. */
int blkback_nodes_look(struct blkback_device *d, struct blkback_seen *out);
/* Whether a function below that reads failed because the xenstore did not answer, and not because of what stands there. */
bool blkback_nodes_unanswered(int err);
/* Reads what the toolstack wrote; -EINVAL and a line if it makes no sense. Without `params` the rest is read all the same: a frontend
 * that is connected, or is to be detached, does not need it. */
int blkback_nodes_identify(struct blkback_device *d, struct error *err);
/* Sets image and offer as our own nodes tell that an earlier process served and offered them. */
int blkback_nodes_recall(struct blkback_device *d, struct error *err);
int blkback_nodes_read_connection(struct blkback_device *d, struct blkback_connection *out, struct error *err);
/* Each of these changes nothing if the directory is gone. */
/* held: who holds the image, so that the frontend has to wait; or NULL. */
int blkback_nodes_write_features(struct blkback_device *d, const char *held);
/* The image that was held is ours now. */
int blkback_nodes_write_available(struct blkback_device *d);
int blkback_nodes_write_connected(struct blkback_device *d);
int blkback_nodes_write_size(struct blkback_device *d);
int blkback_nodes_write_state(struct blkback_device *d, unsigned state);
int blkback_nodes_write_problem(struct blkback_device *d, const char *text);
/* Removes the backend directory, and its parent when it was the last in it and is ours. -EBUSY: its state is not Closed, so that the
 * toolstack has begun to use it anew. */
int blkback_nodes_remove(struct blkback_device *d);

/* ---- blkback_disk.c: commands, on the loop ---- */
void blkback_disk_run(struct blkback_device *d);
/* A ring ran empty. */
void blkback_disk_ring_idle(struct blkback_disk *disk);
void blkback_disk_break(struct blkback_disk *disk);
/* Unmaps everything and closes the image; nothing is in flight. */
void blkback_disk_detach(struct blkback_disk *disk, bool keep_tables);

/* ---- blkback_ring_open.c ---- */
int blkback_ring_open(struct blkback_disk *disk, const struct blkback_connection *c, unsigned queue, bool reattach,
                      struct blkback_ring **out, struct error *err);
/* Nothing is in flight. */
void blkback_ring_close(struct blkback_ring *ring, bool keep_table);
/* Replays what an earlier process left and takes requests from now on. */
void blkback_ring_start(struct blkback_ring *ring);
/* Takes no more requests. What becomes of those that were taken: */
enum blkback_stop {
    BLKBACK_STOP_LEAVE,   /* they end and are answered; what waits for room or a buffer stays for the next process */
    BLKBACK_STOP_ANSWER,  /* all that is on the ring is taken, and all are answered: a frontend in state 6 waits for that before it goes */
    BLKBACK_STOP_DISCARD, /* they end, and nobody is told: the frontend is another's, or does not keep to the rules */
};
void blkback_ring_stop(struct blkback_ring *ring, enum blkback_stop ending);
void blkback_ring_events(struct loop_fd *w, uint32_t epoll_events);

/* ---- blkback_ring.c ---- */
/* Takes all requests that are on the ring, and starts those that have a buffer or need none. */
void blkback_ring_poll(struct blkback_ring *ring);
/* Ends the requests that wait for a buffer; the ring takes no more. */
void blkback_ring_drop_starved(struct blkback_ring *ring, int error);
/* r has ended; its response goes out at the end of the turn. */
void blkback_ring_finish(struct blkback_request *r, int error);
void blkback_ring_finish_all(struct loop_task *task);
/* Writes the response of r, with its line in the restart table before it, into the next slot; not yet visible. */
void blkback_ring_answer(struct blkback_ring *ring, struct blkback_saved *saved, uint64_t id, uint8_t op, int status);
/* Shows the responses up to rsp_prod to the frontend, and tells it if it asked for that or always is set. */
void blkback_ring_push(struct blkback_ring *ring, bool always);

/* ---- blkback_request.c ---- */
/* Reads r->saved->raw into r. 0, or the error to answer with; id and response_op are set in any case. */
int blkback_request_parse(struct blkback_request *r);
/* Checks segments and range against the disk, when the segments are in private memory; fills sectors. */
int blkback_request_check(struct blkback_request *r);

/* ---- blkback_io.c ---- */
void blkback_io_start(struct blkback_request *r);

/* ---- blkback_grants.c ---- */
/* Queues the copies of all data segments of r; an error of one stands in r->error after blkback_copy_run. */
void blkback_copy_data(struct blkback_request *r, bool to_guest);
/* Queues the copy of r's indirect page. */
void blkback_copy_indirect(struct blkback_request *r);
void blkback_copy_run(struct blkback *b);
/* Pages of guests that a process of this host may keep mapped. */
unsigned blkback_persistent_budget(void);
int blkback_persistent_create(struct blkback_persistent **out);
void blkback_persistent_destroy(struct blkback_ring *ring);
#endif
