/* notify.h - telling the service manager how we are (sd_notify(3)'s protocol: one datagram to NOTIFY_SOCKET). */
#ifndef TOOLS_COMMON_NOTIFY_H
#define TOOLS_COMMON_NOTIFY_H

/* state: "READY=1", "STOPPING=1". Does nothing where nobody asked; failures are of no consequence. */
void notify_state(const char *state);
#endif
