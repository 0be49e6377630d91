/* contact.h - finding and greeting the daemon of a store. */
#ifndef CONTROL_CONTACT_H
#define CONTROL_CONTACT_H
#include "base/error.h"
#include "control/control.h"

#define CONTACT_MS 10000u /* how long to wait for the greeting of a daemon that accepted */

/* Connects to the daemon that serves the store of this key and reads its HELLO. -ENOENT: there is none (stale sockets and
 * daemons of other stores count as none); -EACCES: there is one and this user may not talk to it; -ETIMEDOUT: it did not greet
 * within timeout_ms (0: for as long as it takes), because it is stopped or has too many connections. */
int contact_daemon(const char *key, int cancel_fd, unsigned timeout_ms, struct control_client *out, int *pid, struct error *err);
/* Reads HELLO on a connected client; an error in it is returned. */
int contact_greet(struct control_client *c, const char *key, int *pid, struct error *err);
#endif
