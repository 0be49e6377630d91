/* server.h - every command of a store, done once: parallaxd serves it on its socket, and `parallax` without a daemon serves
 * it to itself.
 *
 * A connection is a session; a session does one request at a time, in order. A client that goes away in the middle of a
 * transfer takes the transfer with it (an import vanishes); any other operation runs to its end, because each is atomic.
 * Threads: the loop's. Errors: 0 or negative errno. Ownership: the store, the loop and the strings outlive the server. */
#ifndef TOOLS_COMMON_SERVER_H
#define TOOLS_COMMON_SERVER_H
#include "base/loop.h"
#include "parallax/parallax.h"

#include <jansson.h>

struct server_options {
    struct store *store;
    struct loop *loop;
    const char *key;                              /* the store's, told in HELLO; its directory, if it has one */
    void (*describe)(void *ctx, json_t *status);  /* adds to the document of `status`; may be NULL */
    void (*emptied)(void *ctx);                   /* the last session has ended; may be NULL */
    void *ctx;
    bool guests_wait;                             /* for a daemon: no disk is changed that they may have in use */
};
struct server;

/* What is sent in place of HELLO. */
json_t *server_refusal(const struct error *why);

int server_create(const struct server_options *opt, struct server **out);
/* No session may be left. */
void server_destroy(struct server *v);
/* Accepts clients from fd, which becomes the server's. */
int server_listen(struct server *v, int fd);
/* Serves one connected socket, which becomes the server's, also on failure. */
int server_adopt(struct server *v, int fd);
/* Takes no new clients and ends the present ones; emptied tells when operations in flight have ended too. Whether any
 * session is left is returned. */
bool server_stop(struct server *v);
#endif
