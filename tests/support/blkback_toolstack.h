/* blkback_toolstack.h - the toolstack of tests: writes a block device's nodes as xl does, and takes them away again.
 *
 * Threads: those of the xenstore handle. Errors: 0 or negative errno. */
#ifndef TESTS_SUPPORT_BLKBACK_TOOLSTACK_H
#define TESTS_SUPPORT_BLKBACK_TOOLSTACK_H
#include "hypervisor/hypervisor.h"

#include <stdbool.h>

struct toolstack_device {
    hv_domid backend, frontend;
    unsigned vdev;
    const char *params; /* image or image@snapshot */
    const char *mode;   /* "w" or "r" */
};
int toolstack_attach(struct hv_xs *xs, const struct toolstack_device *d);
/* Names another image, to be attached when the frontend connects next. */
int toolstack_set_params(struct hv_xs *xs, const struct toolstack_device *d, const char *params);
/* Asks for the end (online 0, state 5); the frontend answers. */
int toolstack_ask_detach(struct hv_xs *xs, const struct toolstack_device *d);
/* Removes both directories, whatever the ends think of it. */
void toolstack_remove(struct hv_xs *xs, const struct toolstack_device *d);
/* The XenbusState at one end; 0 if there is none. */
unsigned toolstack_backend_state(struct hv_xs *xs, const struct toolstack_device *d);
unsigned toolstack_frontend_state(struct hv_xs *xs, const struct toolstack_device *d);
/* A node of the backend's directory as a string to free, or NULL. */
char *toolstack_backend_node(struct hv_xs *xs, const struct toolstack_device *d, const char *name);
#endif
