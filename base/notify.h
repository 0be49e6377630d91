/* notify.h - what we and the service manager tell each other: the plain protocols of sd_notify(3), sd_watchdog_enabled(3) and
 * sd_listen_fds(3). Each does nothing where nobody asked. */
#ifndef BASE_NOTIFY_H
#define BASE_NOTIFY_H
#include <stdint.h>

/* state: "READY=1", "STOPPING=1", "WATCHDOG=1": one datagram to NOTIFY_SOCKET. Failures are of no consequence. */
void notify_state(const char *state);
/* Within what time WATCHDOG=1 must be said again and again; 0: never. */
uint64_t notify_watchdog_ms(void);
/* The listening socket that was given to this process: non-blocking, not for its children. -ENOENT: none was given; -EINVAL: what
 * was given is not one listening Unix stream socket. Later calls find none. */
int notify_listener(int *out);
#endif
