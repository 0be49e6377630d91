/* wire.h - the embedded hypervisor's control protocol: one request, one reply, each one datagram on DIR/hv.sock.
 *
 * The socket is SOCK_SEQPACKET; both ends are one host and one build, so the structs travel as they are. A client sends HELLO
 * first, then one request at a time; the server never speaks unasked. Descriptors travel as SCM_RIGHTS with the datagram, in
 * the order each operation names. The server believes nothing: a datagram of another size or with a wrong magic ends the
 * connection, and every number is checked against what the sender owns. */
#ifndef HYPERVISOR_LOCAL_WIRE_H
#define HYPERVISOR_LOCAL_WIRE_H
#include <stdint.h>

#define WIRE_MAGIC 0x31765850u /* "PXv1" */
#define WIRE_NAME_BYTES 64
#define WIRE_MAX_FDS 2
#define WIRE_CONTROL_SOCKET "hv.sock"
#define WIRE_XENSTORE_SOCKET "xenstore.sock"

/* The domids that a grant entry can name end where Xen's reserved ones begin. */
#define WIRE_MAX_GRANTEE 0x7fefu
#define WIRE_MAX_ARENA_PAGES (1u << 20)
#define WIRE_MAX_TABLE_ENTRIES (1u << 21)

enum wire_op {
    WIRE_HELLO = 1, /* kind, name, arena_pages, table_entries; descriptors: arena, table if arena_pages > 0. Reply: dom, status_ports; the status page */
    WIRE_BYE,       /* the domain (or this process of it) is done; the reply comes when everything is given back */
    WIRE_ALLOC,     /* dom: who may bind. Reply: port; its socket */
    WIRE_BIND,      /* dom, port: the remote port. Reply: our port; its socket */
    WIRE_CLOSE,     /* port: ours */
    WIRE_MEMORY,    /* dom: whose. Reply: arena_pages, table_entries; arena, table */
    WIRE_AUTHORISE, /* dom: who may have our memory */
    WIRE_XENSTORE,  /* makes sure that this domain's xenstore socket exists. Reply: text: its file name in DIR */
};

struct wire_request {
    uint32_t magic, op;
    uint32_t dom, port;
    uint32_t kind; /* HELLO: of struct hv_identity */
    uint32_t arena_pages, table_entries;
    uint32_t reserved; /* 0 */
    char name[WIRE_NAME_BYTES]; /* NUL-terminated */
};

struct wire_reply {
    int32_t error; /* 0 or -errno; text then says why */
    uint32_t dom, port;
    uint32_t arena_pages, table_entries;
    uint32_t status_ports;
    char text[232];
};

_Static_assert(sizeof(struct wire_request) == 96, "request layout");
_Static_assert(sizeof(struct wire_reply) == 256, "reply layout");

/* ---- Grant table, version 1 as Xen's: written by the granter, read by the mapper, in-use bits set by the mapper ---- */

struct grant_entry {
    _Atomic uint32_t head;  /* flags in the low half, the grantee's domid in the high half */
    _Atomic uint32_t frame; /* page of the arena */
};
_Static_assert(sizeof(struct grant_entry) == 8, "grant entry layout");

#define GRANT_TYPE_MASK 0x0003u
#define GRANT_PERMIT_ACCESS 0x0001u
#define GRANT_READONLY 0x0004u
#define GRANT_READING 0x0008u /* in use by the grantee */
#define GRANT_WRITING 0x0010u /* in use by the grantee for writing */
#define GRANT_SUB_PAGE 0x0100u /* not supported: refused */
#define GRANT_RESERVED_ENTRIES 8u /* as Xen keeps them; never given out, so 0 is never a valid reference */

/* ---- Status page: one byte a port, written by the hypervisor, read by the port's owner ---- */
#define STATUS_UNBOUND 0
#define STATUS_BOUND 1
#endif
