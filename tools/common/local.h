/* local.h - the server for a process that finds no daemon: it opens the store itself and serves one client, over a pair of
 * sockets, from a thread of its own.
 *
 * HELLO comes when the store is open; if it cannot be opened, HELLO holds "error" instead, as a reply does. */
#ifndef TOOLS_COMMON_LOCAL_H
#define TOOLS_COMMON_LOCAL_H
#include "parallax/parallax.h"

struct local;

struct local_options {
    const char *url, *key; /* borrowed until local_finish */
    struct store_options store;
    bool guests_wait; /* as of the server's options */
};
/* Starts the thread; *fd is the client's end. */
int local_start(const struct local_options *opt, struct local **out, int *fd);
/* Waits until the store is closed; the client's end must be closed before. 0, or why closing failed. */
int local_finish(struct local *l);
#endif
