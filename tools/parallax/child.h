/* child.h - a parallaxd for the lifetime of one command. */
#ifndef TOOLS_PARALLAX_CHILD_H
#define TOOLS_PARALLAX_CHILD_H
#include "tools/parallax/cli.h"

#include <sys/types.h>

/* Starts parallaxd on the store, waits until it is ready and connects to it. */
int child_start(struct cli *cli, const char *hypervisor, pid_t *pid, struct error *err);
/* Asks it to end and waits for that. */
void child_stop(pid_t pid);
/* Whether it has ended by itself. */
bool child_ended(pid_t pid);
#endif
