/* child.h - programs that a command starts: a parallaxd for its lifetime, and doors. */
#ifndef TOOLS_PARALLAX_CHILD_H
#define TOOLS_PARALLAX_CHILD_H
#include "tools/parallax/cli.h"

#include <sys/types.h>

/* Starts the program of this package that argv[0] names, and waits until it says READY=1 to NOTIFY_SOCKET. lives_on: it is
 * not ended with this command. */
int child_run(struct cli *cli, char *const argv[], bool lives_on, pid_t *out, struct error *err);
/* Starts parallaxd on the store, waits until it is ready and connects to it. hypervisor NULL: as it is configured. */
int child_start(struct cli *cli, const char *hypervisor, pid_t *pid, struct error *err);
/* Asks it to end and waits for that; its exit status, or -1 if it was killed. */
int child_stop(pid_t pid);
/* Whether it has ended by itself. */
bool child_ended(pid_t pid);
/* The same, with its exit status; -1 if it was killed. */
bool child_ended_with(pid_t pid, int *status);
#endif
