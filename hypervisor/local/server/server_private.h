/* server_private.h - the embedded hypervisor's process: domains, event channels, the control sockets.
 *
 * Words: a control is one process's connection, as one domain; a domain usually has one (the toolstack any number, a named
 * domain none while its process is away); a user is another uid than the owner's, with a budget of descriptors.
 * Rule of admission: the process's owner and root may be anything; any other user that the directory's permissions let
 * through may be a guest, and nothing else. A domain's xenstore socket admits the domain's user and root.
 * Threads: one. Errors: 0 or negative errno. */
#ifndef HYPERVISOR_LOCAL_SERVER_SERVER_PRIVATE_H
#define HYPERVISOR_LOCAL_SERVER_SERVER_PRIVATE_H
#include "base/error.h"
#include "base/log.h"
#include "hypervisor/hypervisor_private.h"
#include "hypervisor/local/server/xsd_private.h"
#include "hypervisor/local/wire.h"

#include <sys/types.h>

#define DOMAIN_BUCKETS 256u
#define MAX_GRANTEES 64u        /* domains that one domain may name */
#define GUEST_PORTS 1024u       /* port 0 is none: 1023 channels */
#define BIG_PORTS 16384u        /* toolstack, named */
#define USER_MAX_SHARE 4        /* another user may hold one part in so many of our descriptors */
#define DESCRIPTOR_RESERVE 64   /* the last ones are not for guests */

/* A listening socket, which rests a while when no descriptor is left. */
struct listener {
    struct loop_fd fd;
    struct loop_timer rest;
    struct server *server;
    struct domain *domain; /* whose xenstore socket it is; NULL: the toolstack's or the control socket */
    void (*accepted)(struct listener *l, int fd, pid_t pid, uid_t uid);
    char path[108];
};

struct user {
    struct list_node link;
    struct server *server;
    uid_t uid;
    unsigned descriptors;
};

struct channel {
    struct domain *owner, *binder; /* NULL: closed, not bound */
    struct control *owner_control, *binder_control;
    uint32_t owner_port, binder_port;
    uint32_t remote;  /* who may bind */
    int fd;           /* the binder's end, kept while the owner lives */
    struct user *user; /* whom fd is charged to */
};

struct domain {
    struct list_node link;
    struct server *server;
    uint32_t domid, kind; /* of struct hv_identity */
    uid_t uid;
    struct user *user; /* NULL: the owner's or root's */
    char name[WIRE_NAME_BYTES];
    unsigned controls;
    uint32_t grantees[MAX_GRANTEES];
    unsigned grantee_count;
    struct control *memory_control; /* who brought the memory */
    int arena_fd, table_fd;
    uint32_t arena_pages, table_entries;
    struct channel **ports;
    uint32_t port_room, port_limit, next_port;
    uint8_t *status;
    int status_fd;
    struct listener *xenstore; /* its own socket, or NULL */
};

struct control {
    struct loop_fd fd; /* first */
    struct list_node link;
    struct server *server;
    struct domain *domain; /* NULL before HELLO */
    pid_t pid;
    uid_t uid;
    struct user *user;
    uint64_t since_ms;
};

struct server {
    struct loop *loop;
    const char *dir;
    uid_t owner;
    bool stay;
    unsigned descriptor_limit;
    uint32_t next_domid;
    struct list_node domains[DOMAIN_BUCKETS];
    struct list_node controls, users;
    unsigned live; /* domains that have a process, counted by process */
    struct listener control, xenstore;
    struct xsd xsd;
    struct loop_timer grace, tidy;
    struct log_limit refused;
};

/* ---- server.c ---- */
/* Whether uid may be the toolstack or a named domain. */
bool server_trusts(const struct server *s, uid_t uid);
/* Charges a user's budget; user may be NULL. -EMFILE. A user to whom nothing is charged any more is freed. */
int user_charge(struct server *s, struct user *u, unsigned descriptors);
void user_discharge(struct server *s, struct user *u, unsigned descriptors);
/* The record of another user's uid, or NULL in *out for one that is trusted. */
int user_find(struct server *s, uid_t uid, struct user **out);
/* One domain fewer, or one more, has a process. */
void server_count_live(struct server *s, int change);
int listener_open(struct server *s, struct listener *l, int type, const char *name);
void listener_close(struct listener *l);

/* ---- control.c ---- */
void control_accepted(struct listener *l, int fd, pid_t pid, uid_t uid);
void control_close(struct control *c);

/* ---- domain.c ---- */
struct domain *domain_find(struct server *s, uint32_t domid);
struct domain *domain_named(struct server *s, const char *name);
int domain_create(struct server *s, const struct control *by, uint32_t kind, const char *name, struct domain **out);
/* Checks and keeps memory that a process brings; on success the descriptors are the domain's. */
int domain_take_memory(struct domain *d, struct control *by, const struct wire_request *r, const int fds[2]);
bool domain_authorises(const struct domain *d, uint32_t domid);
int domain_authorise(struct domain *d, uint32_t domid);
/* The process of c has left: what it held is given back; a guest is gone for good. */
void domain_detach(struct domain *d, struct control *c);
void domain_destroy(struct domain *d);

/* ---- channel.c ---- */
/* The socket for the caller goes to *fd: from channel_alloc it is to be closed once sent, from channel_bind it stays ours. */
int channel_alloc(struct control *c, uint32_t remote, uint32_t *port, int *fd);
int channel_bind(struct control *c, uint32_t owner_domid, uint32_t owner_port, uint32_t *port, int *fd);
int channel_close(struct control *c, uint32_t port);
void channel_close_all(struct domain *d, const struct control *c);

/* ---- grants.c ---- */
int memory_check(int fd, uint64_t bytes);
/* Takes back the in-use marks that a domain which has no process any more left in others' tables. */
void grants_release(struct server *s, uint32_t grantee);
#endif
