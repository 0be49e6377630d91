/* hypervisor.h - domains, grants, event channels and xenstore, the same for real Xen and for the embedded hypervisor.
 *
 * Words: a domain is an isolated party with a domid; a grant (gref) lets one named other domain read or write one 4096-byte
 * page of the granter; an event channel (port) is a notification pipe between two domains; the xenstore is the shared tree
 * of small values by which the two ends of a device find each other.
 * Implementations: "local", where each process is a domain of the embedded hypervisor (a process of its own), and "xen".
 *
 * Threads: a struct hv is one process's connection as one domain; hv_open and hv_close on one thread. Grants and events go
 * through a struct hv_port_set that belongs to one loop (one thread). The xenstore handle belongs to one control thread,
 * because its calls block; data-path loops never use it.
 * Errors: 0 or negative errno; a peer's misbehaviour is always a returned error, never a crash.
 * Facts: Xen public headers grant_table.h, event_channel.h, xs_wire.h; libxengnttab, libxenevtchn, libxenstore. */
#ifndef HYPERVISOR_HYPERVISOR_H
#define HYPERVISOR_HYPERVISOR_H
#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HV_PAGE_SIZE 4096u
#define HV_DOMID_TOOLSTACK 0u

typedef uint32_t hv_domid;
typedef uint32_t hv_gref; /* grant reference; 0 is never a valid one given to a peer */
typedef uint32_t hv_evtchn; /* local port number */

struct hv;

/* Who this process wants to be. */
struct hv_identity {
    enum { HV_TOOLSTACK, HV_GUEST, HV_NAMED } kind; /* HV_NAMED: a storage domain that outlives its process (same user reclaims it) */
    const char *name; /* HV_NAMED: its name, "storage" by default; HV_GUEST: a label for listings; may be NULL otherwise */
    uint32_t arena_pages; /* frontends only: pages of memory to grant from; 0 for a backend */
};

/* kind: "auto", "xen" or "local". The embedded hypervisor is started if none runs (its directory: PARALLAX_HYPERVISOR_DIR, else
 * /run/parallax/hypervisor as root, else $XDG_RUNTIME_DIR/parallax/hypervisor, else /dev/shm/parallax-UID/hypervisor). On failure
 * err holds a line for a person. */
int hv_open(const char *kind, const struct hv_identity *who, struct hv **out, struct error *err);
void hv_close(struct hv *hv);
hv_domid hv_own_domid(const struct hv *hv);
const char *hv_kind(const struct hv *hv); /* "local" or "xen" */

/* ---- Backend side: another domain's grants. Each call names the granting domain. ---- */

struct hv_ports; /* one loop's share of grants and events */
int hv_ports_open(struct hv *hv, struct hv_ports **out);
void hv_ports_close(struct hv_ports *p); /* all mappings must have been unmapped and events closed */

/* Maps count pages of `dom` at consecutive addresses, all or nothing. -EACCES: not granted to us, revoked or read-only when
 * writable was asked; -EINVAL: out of range; -ENOENT: no such domain. The memory may change under the reader at any time. */
int hv_grant_map(struct hv_ports *p, hv_domid dom, const hv_gref *refs, unsigned count, bool writable, void **out);
int hv_grant_unmap(struct hv_ports *p, void *addr, unsigned count);

/* One segment of a copy between our memory and a granted page; offset + length <= HV_PAGE_SIZE. */
struct hv_copy {
    hv_domid dom;
    hv_gref ref;
    uint16_t offset, length; /* bytes within the granted page */
    void *local;
    bool to_guest; /* true: local -> granted page */
    int16_t status; /* set: 0 or negative errno for this segment alone */
};
/* Does all segments; returns 0 if the batch was carried out (look at each status), negative errno if it could not be. */
int hv_grant_copy(struct hv_ports *p, struct hv_copy *segments, unsigned count);

/* Binds to the port that dom allocated for us. The new port starts pending. */
int hv_event_bind(struct hv_ports *p, hv_domid dom, uint32_t remote_port, hv_evtchn *out);

/* ---- Frontend side ---- */

/* Memory to grant: pages from this domain's arena, zeroed, page-aligned, contiguous. NULL when exhausted. */
void *hv_arena_alloc(struct hv *hv, unsigned pages);
void hv_arena_free(struct hv *hv, void *addr, unsigned pages);
/* Grants the arena page at addr to dom. -ENOSPC: grant table full. */
int hv_grant_share(struct hv *hv, hv_domid dom, void *page, bool readonly, hv_gref *out);
/* Revokes it. -EBUSY: the peer still has it mapped; the grant then stays. (Xen's kernel does not tell a process: there it succeeds,
 * and the grant ends when the peer has unmapped.) */
int hv_grant_unshare(struct hv *hv, hv_gref ref);
/* A new unbound port that only dom may bind. */
int hv_event_alloc(struct hv_ports *p, hv_domid dom, hv_evtchn *out);

/* ---- Events, both sides: one pollable descriptor per hv_ports (level-triggered, EPOLLIN) ---- */
int hv_event_fd(struct hv_ports *p);
/* Takes one pending port, which is masked until unmasked; -EAGAIN when there is none. */
int hv_event_pending(struct hv_ports *p, hv_evtchn *out);
/* Call after the work, then look at the ring once more: an event that came while masked is delivered again. */
int hv_event_unmask(struct hv_ports *p, hv_evtchn port);
/* Never blocks and never fails because the peer is slow. -ENOTCONN: nobody is bound to the other end (any more). */
int hv_event_notify(struct hv_ports *p, hv_evtchn port);
void hv_event_close(struct hv_ports *p, hv_evtchn port);

/* ---- Xenstore: control thread only. Paths are absolute or relative to /local/domain/<own domid>. ---- */
/* -EPIPE, from any call: this connection has ended, and what was asked may or may not have been done. The descriptor does not tell of
 * it; hv_xs_check_watch does, without asking anybody. Another connection may be had, with watches of its own. */
struct hv_xs;
typedef uint32_t hv_xs_tx; /* 0: no transaction */
/* -EPIPE: the hypervisor has ended, and this domain with it. */
int hv_xs_open(struct hv *hv, struct hv_xs **out);
void hv_xs_close(struct hv_xs *xs);
/* A NUL-terminated copy for the caller to free(); length (may be NULL) without the NUL. -ENOENT, -EACCES. */
int hv_xs_read(struct hv_xs *xs, hv_xs_tx tx, const char *path, char **out, size_t *length);
int hv_xs_write(struct hv_xs *xs, hv_xs_tx tx, const char *path, const char *value);
int hv_xs_printf(struct hv_xs *xs, hv_xs_tx tx, const char *path, const char *fmt, ...) __attribute__((format(printf, 4, 5)));
int hv_xs_mkdir(struct hv_xs *xs, hv_xs_tx tx, const char *path);
/* Removes the whole subtree. */
int hv_xs_remove(struct hv_xs *xs, hv_xs_tx tx, const char *path);
/* Names of children as a NULL-terminated array in one block for the caller to free(). */
int hv_xs_directory(struct hv_xs *xs, hv_xs_tx tx, const char *path, char ***out, unsigned *count);
/* The owner has all rights; reader (if >= 0) may read, and every other domain may not. */
int hv_xs_set_owner(struct hv_xs *xs, hv_xs_tx tx, const char *path, hv_domid owner, int reader);
int hv_xs_begin(struct hv_xs *xs, hv_xs_tx *out);
/* commit: -EAGAIN means that another change interfered and the whole transaction is to be done again. */
int hv_xs_end(struct hv_xs *xs, hv_xs_tx tx, bool commit);
/* Fires once at once, and for every change at or below path. */
int hv_xs_watch(struct hv_xs *xs, const char *path, const char *token);
int hv_xs_unwatch(struct hv_xs *xs, const char *path, const char *token);
int hv_xs_fd(struct hv_xs *xs);
/* One fired watch without waiting; path and token are one block for the caller to free (free(*path)). -EAGAIN: none. */
int hv_xs_check_watch(struct hv_xs *xs, char **path, char **token);

/* ---- The embedded hypervisor's own process: what the program parallax-hypervisor runs. ---- */
/* Serves dir (NULL: the default directory) until its last domain is gone, or until SIGTERM if stay is true. With daemonize the
 * calling process ends with status 0 as soon as connections are accepted, and a child of its child serves. */
int hv_server_run(const char *dir, bool stay, bool daemonize, struct error *err);
#endif
