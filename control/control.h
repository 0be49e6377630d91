/* control.h - the control protocol: how `parallax` and whoever serves a store talk over a stream socket.
 *
 * Words: a frame is a length, a type and a payload; the server is the side that holds the store, the client the side that
 * asks. A credit is the client's right to send one DATA frame. docs/control-protocol.md is the format's description.
 * Threads: a struct control_client blocks and belongs to one thread; a struct control_peer belongs to a loop.
 * Errors: 0 or negative errno. -ECONNRESET: the other side is gone; -EPROTO: it does not keep the protocol; -ECANCELED: the
 * caller's cancel descriptor became readable. Nothing a peer sends is trusted: lengths and types are checked before memory
 * is taken for them, and a JSON document must be valid UTF-8 without duplicate keys.
 * Ownership: descriptors given to init belong to the client or peer from then on. */
#ifndef CONTROL_CONTROL_H
#define CONTROL_CONTROL_H
#include "base/error.h"
#include "base/list.h"
#include "base/loop.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CONTROL_PROTOCOL 1           /* told in HELLO; a client of another number does not go on */
#define CONTROL_HEADER_SIZE 8u       /* bytes: length, type */
#define CONTROL_JSON_MAX (1u << 20)  /* bytes of one document */
#define CONTROL_DATA_MAX (1u << 20)  /* bytes of one DATA frame, without its offset */
#define CONTROL_OFFSET_SIZE 8u       /* bytes before the bytes of a DATA frame */

enum control_type {
    CONTROL_HELLO = 1, /* server, once, first: JSON */
    CONTROL_REQUEST,   /* client: JSON */
    CONTROL_ITEM,      /* server: JSON, any number of times before the reply */
    CONTROL_REPLY,     /* server: JSON, once a request */
    CONTROL_DATA,      /* both: u64 offset, then 1 … CONTROL_DATA_MAX bytes */
    CONTROL_END,       /* client: no more DATA follows */
    CONTROL_CREDIT,    /* server: u32, how many more DATA frames the client may send */
};

/* Whether a frame of this type may have a payload of this many bytes. */
bool control_frame_valid(uint32_t type, uint32_t length);
void control_header_encode(unsigned char out[CONTROL_HEADER_SIZE], enum control_type type, uint32_t length);
void control_header_decode(const unsigned char in[CONTROL_HEADER_SIZE], uint32_t *type, uint32_t *length);
/* A new reference, or NULL if the bytes are no valid document. */
json_t *control_json_decode(const void *bytes, size_t length);
/* Bytes for the caller to free, or NULL (no memory, or longer than CONTROL_JSON_MAX). */
char *control_json_encode(const json_t *doc, uint32_t *length);

/* ---- Sockets ---- */

/* Never waits. -ENOENT or -ECONNREFUSED: nobody serves there; -EAGAIN: somebody does, and as many as may wait for that wait already;
 * -EACCES; -ENAMETOOLONG: longer than a socket's path can be. */
int control_connect(const char *path, int *fd);
/* 0: there is no socket, or nobody has it open; -EADDRINUSE: a process has, whatever kind of socket it is; else why that cannot be told. */
int control_socket_unused(const char *path);
/* Serves path, also where a stale socket stands (one in use is -EADDRINUSE, anything else -EEXIST); mode 0660, of group `group` if that exists (NULL: the process's group). The
 * name appears only when the socket is ready. */
int control_listen(const char *path, const char *group, int *fd);
/* The process at the other end of a connected socket, or -1. */
int control_peer_pid(int fd);

/* ---- Client: blocking ---- */

struct control_client {
    int fd, cancel_fd;     /* cancel_fd: readable when the caller wants out, or -1; stays the caller's */
    unsigned char *buffer; /* of the last received frame */
    uint32_t credits;      /* DATA frames that may be sent now */
    uint64_t deadline_ms;  /* of the monotonic clock: what has to be waited for beyond it is -ETIMEDOUT; 0: none */
};
int control_client_init(struct control_client *c, int fd, int cancel_fd);
void control_client_fini(struct control_client *c);

struct control_frame {
    enum control_type type;
    json_t *doc;          /* HELLO, ITEM, REPLY: the receiver's to json_decref; else NULL */
    uint64_t offset;      /* DATA */
    const void *data;     /* DATA: valid until the next call */
    uint32_t length;      /* DATA: bytes */
};
/* Waits for one frame. A CREDIT is added to c->credits and returned as well. */
int control_client_receive(struct control_client *c, struct control_frame *out);
int control_client_send_json(struct control_client *c, enum control_type type, const json_t *doc);
/* Takes one credit; with none it is -EAGAIN: receive until there is one. */
int control_client_send_data(struct control_client *c, uint64_t offset, const void *data, uint32_t length);
int control_client_send_end(struct control_client *c);

/* ---- Server: one connection on a loop ---- */

struct control_peer;

/* Called on the loop, never from inside control_peer_send. */
struct control_peer_ops {
    /* A REQUEST; doc is borrowed. */
    void (*request)(struct control_peer *p, json_t *doc);
    /* Where to put the length bytes of a DATA frame; NULL: none was expected, which ends the connection. */
    void *(*buffer)(struct control_peer *p, uint32_t length);
    void (*data)(struct control_peer *p, uint64_t offset, void *buffer, uint32_t length);
    void (*end)(struct control_peer *p);
    /* The connection is gone (0: closed by the client); runs once, unless control_peer_close came first. A buffer that was
     * handed out and not yet filled is the owner's again. */
    void (*closed)(struct control_peer *p, int error);
};

/* A frame on its way out; the caller's until sent runs. sent runs exactly once: 0, or -ECONNRESET. */
struct control_out {
    void (*sent)(struct control_out *o, int error);
    /* private */
    struct list_node link;
    unsigned char head[CONTROL_HEADER_SIZE + CONTROL_OFFSET_SIZE];
    uint32_t head_length, body_length, done;
    const void *body;
};

struct control_peer {
    const struct control_peer_ops *ops;
    size_t queued_bytes; /* waiting to be sent: what an owner that produces without end looks at */
    /* private */
    struct loop *loop;
    struct loop_fd watch;
    struct loop_task flush;
    struct list_node out;
    bool open, paused;
    uint32_t events;
    unsigned char head[CONTROL_HEADER_SIZE + CONTROL_OFFSET_SIZE];
    uint32_t head_have, type, length, body_have;
    unsigned char *body;
};
int control_peer_init(struct control_peer *p, struct loop *l, int fd, const struct control_peer_ops *ops);
/* Closes without calling closed; frames not yet sent are told -ECONNRESET. Closing twice is harmless. */
void control_peer_close(struct control_peer *p);
/* Whether frames are read; a paused peer still notices that the client is gone. */
void control_peer_pause(struct control_peer *p, bool paused);
/* -EMSGSIZE if doc is too long; the document itself is not kept. */
int control_peer_send_json(struct control_peer *p, enum control_type type, const json_t *doc);
int control_peer_send_credit(struct control_peer *p, uint32_t frames);
/* Sends length bytes of data, which stay unchanged until o->sent. Only while the connection stands: not after closed. */
void control_peer_send_data(struct control_peer *p, struct control_out *o, uint64_t offset, const void *data, uint32_t length);
#endif
