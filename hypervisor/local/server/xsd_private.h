/* xsd_private.h - the xenstore server: the shared tree of small values, for the domains of this hypervisor.
 *
 * Words: a node has a name, a value, permissions and children; a view is the tree that a request works on: the store itself,
 * or a transaction's private one; a generation is a number that grows with every change, and a node carries that of its own
 * last change (value, permissions, or its set of children).
 * Files, bottom up: xsd_node.c (the tree as a persistent structure), xsd_path.c (names), xsd_store.c (reading and changing a
 * view under permissions and quotas), xsd_watch.c, xsd_tx.c, xsd_conn.c (sockets and queues), xsd_ops.c (the wire protocol).
 * Threads: one, the server's loop. Errors: 0 or negative errno; nothing that a client sends can be an assert.
 * Source: docs/misc/xenstore.txt of Xen and the behaviour of its C xenstored; xen/io/xs_wire.h. */
#ifndef HYPERVISOR_LOCAL_SERVER_XSD_PRIVATE_H
#define HYPERVISOR_LOCAL_SERVER_XSD_PRIVATE_H
#include "base/list.h"
#include "base/loop.h"

#include <errno.h> /* before xs_wire.h, which names the errors only then */
#include <stddef.h>
#include <stdint.h>
#include <xen/io/xs_wire.h>

/* ---- nodes ---- */

#define XSD_READ 1u
#define XSD_WRITE 2u

struct xsd_perm {
    uint32_t domid;
    uint32_t access; /* XSD_READ | XSD_WRITE */
};

/* The first entry names the owner, and what all domains not listed may do. Immutable and counted. */
struct xsd_perms {
    unsigned refs, count;
    struct xsd_perm list[];
};

/* Shared between the store and the transactions that began with it: only a node with refs == 1, reached through nodes with
 * refs == 1, is changed in place. */
struct xsd_node {
    uint32_t refs;
    uint16_t name_bytes, value_bytes;
    uint64_t generation;
    struct xsd_perms *perms;
    struct xsd_node **children; /* sorted by name */
    uint32_t count, room;
    char data[]; /* name, value */
};

struct xsd_perms *xsd_perms_create(const struct xsd_perm *list, unsigned count);
struct xsd_perms *xsd_perms_get(struct xsd_perms *p);
void xsd_perms_put(struct xsd_perms *p);

struct xsd_node *xsd_node_create(const char *name, size_t name_bytes, struct xsd_perms *perms, uint64_t generation);
struct xsd_node *xsd_node_get(struct xsd_node *n);
void xsd_node_put(struct xsd_node *n);
/* Makes *slot a node that only slot refers to; NULL when out of memory. */
struct xsd_node *xsd_node_own(struct xsd_node **slot);
/* The slot of an owned node gets another value. */
int xsd_node_set_value(struct xsd_node **slot, const void *value, size_t bytes);
/* The child's slot, or NULL; *index is where it is or belongs. */
struct xsd_node **xsd_node_child(const struct xsd_node *n, const char *name, size_t name_bytes, uint32_t *index);
/* n is owned; the child's reference moves. */
int xsd_node_insert(struct xsd_node *n, uint32_t index, struct xsd_node *child);
void xsd_node_erase(struct xsd_node *n, uint32_t index);
const struct xsd_node *xsd_node_lookup(const struct xsd_node *root, const char *path);
/* The slot of the node at path with everything above it owned, or NULL: no such node, or no memory. */
struct xsd_node **xsd_node_own_path(struct xsd_node **root, const char *path);

/* ---- paths ---- */

#define XSD_HOME_BYTES sizeof "/local/domain/4294967295"

void xsd_home_path(char home[XSD_HOME_BYTES], uint32_t domid);
/* Writes the absolute form of a client's path into out (XENSTORE_ABS_PATH_MAX + 1 bytes): -EINVAL if it is none. Special
 * paths ("@…") pass if special is true. *relative_bytes (may be NULL): how much of out the client did not say. */
int xsd_path_canonical(const char *path, uint32_t domid, bool special, char *out, size_t *relative_bytes);
/* Cuts the last component off; false for "/". */
bool xsd_path_parent(char *path);

/* ---- domains as the store knows them ---- */

struct xsd_quota {
    unsigned nodes, watches, transactions, connections; /* 0: no limit */
    unsigned value_bytes, perms, transaction_nodes;
    size_t queue_bytes;
};

struct xsd_domain {
    struct list_node link;
    uint32_t domid;
    bool privileged, sees_special; /* sees_special: @introduceDomain and @releaseDomain */
    struct xsd_quota quota;
    unsigned nodes, watches, transactions, connections;
    struct list_node conns;
};

#define XSD_DOMAIN_BUCKETS 256u
#define XSD_WATCH_BUCKETS 4096u

struct xsd {
    struct loop *loop;
    struct xsd_node *root;
    uint64_t generation;
    struct list_node domains[XSD_DOMAIN_BUCKETS];
    struct list_node watches[XSD_WATCH_BUCKETS]; /* by path */
    unsigned connections;
    struct loop_timer aging; /* dooms transactions that guests leave open */
    void (*idle)(struct xsd *x); /* the last connection has gone */
};

int xsd_init(struct xsd *x, struct loop *loop);
void xsd_fini(struct xsd *x);
enum xsd_class { XSD_TOOLSTACK, XSD_NAMED, XSD_GUEST };
/* A domain joins: its home is made (not for the toolstack), @introduceDomain fires. */
int xsd_domain_join(struct xsd *x, uint32_t domid, enum xsd_class class, const char *name);
/* Ends the domain's connections; the domain itself and its nodes stay. */
void xsd_domain_disconnect(struct xsd *x, uint32_t domid);
/* A domain is gone for good: its connections and home go, @releaseDomain fires. */
void xsd_domain_leave(struct xsd *x, uint32_t domid);
struct xsd_domain *xsd_domain_find(struct xsd *x, uint32_t domid);
/* Takes over a connected socket; it is closed if the domain's quota says so. */
int xsd_conn_open(struct xsd *x, struct xsd_domain *who, int fd, void (*closed)(void *context), void *context);

/* ---- views ---- */

/* What a change did, kept until watches may fire. */
struct xsd_change {
    char *path;
    struct xsd_perms *old_perms; /* of a removed node or of one whose permissions changed; or NULL */
    bool exact;                  /* part of a removed tree: only watches on this very path */
};

struct xsd_delta {
    uint32_t domid;
    int nodes;
};

struct xsd_tx;

struct xsd_view {
    struct xsd *xsd;
    struct xsd_node **root;
    struct xsd_tx *tx;  /* accesses are noted there, or NULL */
    bool collect;       /* changes are kept for watches */
    struct xsd_change *changes;
    size_t change_count, change_room;
    struct xsd_delta *deltas; /* node counts by owner, relative to the domains' own */
    size_t delta_count;
};

void xsd_view_init(struct xsd_view *v, struct xsd *x, struct xsd_node **root);
void xsd_view_fini(struct xsd_view *v);
/* Makes the view's node counts those of the domains, then fires the watches of its changes. */
void xsd_view_publish(struct xsd_view *v);

/* The node at path if who may do `want` with it. -EACCES, -ENOENT. */
int xsd_get(struct xsd_view *v, const struct xsd_domain *who, const char *path, unsigned want, const struct xsd_node **out);
bool xsd_allowed(const struct xsd_domain *who, const struct xsd_perms *perms, unsigned want);
/* value NULL: mkdir, which leaves an existing node as it is. */
int xsd_write(struct xsd_view *v, const struct xsd_domain *who, const char *path, const void *value, size_t bytes);
int xsd_remove(struct xsd_view *v, const struct xsd_domain *who, const char *path);
int xsd_set_perms(struct xsd_view *v, const struct xsd_domain *who, const char *path, struct xsd_perms *perms);

/* ---- watches ---- */

struct xsd_conn;
struct xsd_msg;

struct xsd_watch {
    struct list_node by_path, of_conn;
    struct xsd_conn *conn;
    struct xsd_msg *pending; /* its latest event, while none of it is sent */
    size_t relative_bytes;
    char *token; /* behind path in the same allocation */
    char path[];
};

int xsd_watch_add(struct xsd_conn *c, const char *path, size_t relative_bytes, const char *token);
int xsd_watch_remove(struct xsd_conn *c, const char *path, const char *token);
void xsd_watch_remove_all(struct xsd_conn *c);
/* The event that every new watch begins with. */
void xsd_watch_fire_first(struct xsd_conn *c, const char *path, const char *token);
bool xsd_watch_exists(struct xsd *x, const char *path);
void xsd_watch_fire(struct xsd *x, const struct xsd_change *change);

/* ---- transactions ---- */

int xsd_tx_start(struct xsd_conn *c, uint32_t *id);
/* -EAGAIN: something it saw has changed. The transaction is gone in any case. */
int xsd_tx_end(struct xsd_conn *c, uint32_t id, bool commit);
void xsd_tx_end_all(struct xsd_conn *c);
/* The view of transaction id; -ENOENT. */
int xsd_tx_view(struct xsd_conn *c, uint32_t id, struct xsd_view **out);
/* Notes that the transaction saw path with this generation (0: absent). */
int xsd_tx_note(struct xsd_tx *tx, const char *path, uint64_t generation);
/* Notes what is to be done again on the store at commit; xsd_tx_unlog takes the latest note back. */
enum xsd_log_op { XSD_LOG_WRITE, XSD_LOG_MKDIR, XSD_LOG_REMOVE, XSD_LOG_PERMS };
int xsd_tx_log(struct xsd_tx *tx, enum xsd_log_op op, const char *path, const void *value, size_t bytes, struct xsd_perms *perms);
void xsd_tx_unlog(struct xsd_tx *tx);
/* Gives up transactions that a guest has left open too long. */
void xsd_tx_age(struct xsd_conn *c, uint64_t now_ms);
uint64_t xsd_tx_start_generation(const struct xsd_tx *tx);

/* ---- connections ---- */

/* A message out; data holds its header and payload. */
struct xsd_msg {
    struct list_node link;
    struct xsd_watch *watch; /* the watch whose latest event this is, or NULL */
    size_t bytes, sent;
    char data[];
};

struct xsd_conn {
    struct loop_fd fd; /* first */
    struct list_node of_domain;
    struct xsd *xsd;
    struct xsd_domain *who;
    void (*closed)(void *context);
    void *context;
    bool broken;          /* shut down; its own callback will close it */
    uint32_t events;      /* what the loop watches for */
    char *rx;             /* a message that is not complete yet, or NULL */
    size_t rx_bytes;
    struct list_node out; /* struct xsd_msg */
    size_t out_bytes;
    struct list_node watches, transactions;
    uint32_t next_tx;
};

/* Queues a message of two parts and sends what can be sent. */
struct xsd_msg *xsd_conn_send(struct xsd_conn *c, uint32_t type, uint32_t request, uint32_t tx, const void *a, size_t a_bytes, const void *b,
                              size_t b_bytes);
void xsd_conn_close(struct xsd_conn *c);
/* One complete request. */
void xsd_request(struct xsd_conn *c, const struct xsd_sockmsg *header, char *payload);
#endif
