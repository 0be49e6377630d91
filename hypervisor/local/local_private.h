/* local_private.h - the client side of the embedded hypervisor: what its files share.
 *
 * Threads: struct local is used by every thread of the process: its control socket and its memory are each under a lock.
 * struct ports belongs to one thread. */
#ifndef HYPERVISOR_LOCAL_LOCAL_PRIVATE_H
#define HYPERVISOR_LOCAL_LOCAL_PRIVATE_H
#include "base/list.h"
#include "hypervisor/arena.h"
#include "hypervisor/hypervisor_private.h"
#include "hypervisor/local/wire.h"

#include <pthread.h>
#include <stdatomic.h>

#define LOCAL_DIR_BYTES 80 /* so that DIR/xenstore-4294967295.sock fits in a socket address */

/* A frontend's own memory: the arena and its grant table. */
struct memory {
    pthread_mutex_t lock;
    struct arena arena;
    struct grant_entry *table;
    uint32_t entries;
    uint32_t *free_refs; /* a stack */
    uint32_t free_count;
    hv_domid authorised[64]; /* whom the hypervisor was told about, so that it is asked once */
    unsigned authorised_count;
};

struct local {
    struct hv hv;
    pthread_mutex_t call_lock;
    int control;
    hv_domid domid;
    char dir[LOCAL_DIR_BYTES];
    const _Atomic uint8_t *status; /* by port: STATUS_… of the ports this domain allocated */
    uint32_t status_ports;
    struct memory memory;
};

static inline struct local *local_of(struct hv *hv) { return container_of(hv, struct local, hv); }

/* ---- local_start.c ---- */
/* The directory by environment and user. */
int local_directory(char dir[LOCAL_DIR_BYTES], struct error *err);
/* Makes dir and its parents. As root the way is open to other users, who may join as guests; else it is the user's own. */
int local_make_directory(const char *dir);
/* A connection to the hypervisor in dir, which is started if it does not run and this user may. */
int local_connect(const char *dir, int *fd, struct error *err);

/* ---- local.c ---- */
/* One request and its reply. Returns the reply's error; descriptors that came are the caller's, -1 where none did. The reply
 * may be NULL. -EPIPE: the hypervisor is gone. */
int local_call(struct local *l, const struct wire_request *request, const int *send_fds, unsigned send_count, struct wire_reply *reply,
               int *got_fds, unsigned got_count);

/* ---- local_memory.c ---- */
/* Makes sealed memory for a domain; descriptors for HELLO go to fds (arena, table). pages may be 0. */
int local_memory_init(struct memory *m, uint32_t pages, int fds[2]);
void local_memory_fini(struct memory *m);
void *local_arena_alloc(struct hv *hv, unsigned pages);
void local_arena_free(struct hv *hv, void *addr, unsigned pages);
int local_grant_share(struct hv *hv, hv_domid dom, void *page, bool readonly, hv_gref *out);
int local_grant_unshare(struct hv *hv, hv_gref ref);

/* ---- local_grant.c: other domains' memory as one port set sees it ---- */
#define VIEW_BUCKETS 256u

struct views {
    struct local *local;
    struct view *last; /* the one used last, or NULL */
    struct list_node by_domid[VIEW_BUCKETS];
    struct list_node maps[VIEW_BUCKETS]; /* mappings by address */
    unsigned idle; /* views that nothing refers to */
};

void local_views_init(struct views *v, struct local *l);
void local_views_fini(struct views *v);
/* A bound event channel keeps the peer's memory at hand, from bind to close. */
int local_view_hold(struct views *v, hv_domid dom);
void local_view_release(struct views *v, hv_domid dom);
int local_grant_map(struct hv_ports *p, hv_domid dom, const hv_gref *refs, unsigned count, bool writable, void **out);
int local_grant_unmap(struct hv_ports *p, void *addr, unsigned count);
int local_grant_copy(struct hv_ports *p, struct hv_copy *segments, unsigned count);

/* ---- local_event.c ---- */
struct ports {
    struct hv_ports hv;
    struct local *local;
    int epoll_fd;
    int ready_fd;      /* an eventfd in epoll_fd: readable while `ready` holds ports that no socket announces */
    bool ready_raised;
    struct list_node ready; /* pending and not masked */
    struct port **by_number;
    uint32_t numbers; /* length of by_number */
    struct views views;
};

static inline struct ports *ports_of(struct hv_ports *p) { return container_of(p, struct ports, hv); }

int local_ports_open(struct hv *hv, struct hv_ports **out);
void local_ports_close(struct hv_ports *p);
int local_event_bind(struct hv_ports *p, hv_domid dom, uint32_t remote_port, hv_evtchn *out);
int local_event_alloc(struct hv_ports *p, hv_domid dom, hv_evtchn *out);
int local_event_fd(struct hv_ports *p);
int local_event_pending(struct hv_ports *p, hv_evtchn *out);
int local_event_unmask(struct hv_ports *p, hv_evtchn port);
int local_event_notify(struct hv_ports *p, hv_evtchn port);
void local_event_close(struct hv_ports *p, hv_evtchn port);
#endif
