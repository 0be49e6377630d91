/* vbd.h - a virtual block device in xenstore, as a toolstack writes it.
 *
 * The backend reads `params` as the image's name; the frontend finds its disk by the virtual device number. Threads: hv_xs_*
 * block, so everything here belongs to the thread of the
 * xenstore handle, which is never a data loop's. Errors: 0 or negative errno. */
#ifndef VBD_VBD_H
#define VBD_VBD_H
#include "base/error.h"
#include "hypervisor/hypervisor.h"

#include <stdbool.h>

#define VBD_STATE_INIT_WAIT 2u
#define VBD_STATE_CONNECTED 4u
#define VBD_STATE_CLOSING 5u
#define VBD_STATE_CLOSED 6u

struct vbd {
    hv_domid backend, frontend;
    unsigned vdev;
    char name[16]; /* "xvda" */
};

/* "xvda", "xvdb2", "xvdaa" or a plain number. */
int vbd_parse_name(const char *text, struct vbd *out, struct error *err);
/* The device of that number, with its xvd name if it has one. */
void vbd_set_number(struct vbd *v, unsigned vdev);
/* The domain of a domid or of a name. */
int vbd_find_domain(struct hv_xs *xs, const char *text, hv_domid *out, struct error *err);
/* The first xvd name that the frontend does not use. */
int vbd_choose_free(struct hv_xs *xs, struct vbd *v, struct error *err);
/* What the backend has attached, whatever it is called (an identity: docs/control-protocol.md), for the caller to free();
 * NULL: nothing yet. */
char *vbd_identity(struct hv_xs *xs, const struct vbd *v);

int vbd_write_nodes(struct hv_xs *xs, const struct vbd *v, const char *image, bool read_only, struct error *err);
/* online 0 and state Closing: asks both ends to let go. */
int vbd_ask_close(struct hv_xs *xs, const struct vbd *v);
/* Removes both ends' nodes. */
void vbd_remove_nodes(struct hv_xs *xs, const struct vbd *v);
/* XenbusState of the backend; 0: its nodes are gone. */
unsigned vbd_backend_state(struct hv_xs *xs, const struct vbd *v);
/* Whether the toolstack still wants it; false also of one that is gone. */
bool vbd_online(struct hv_xs *xs, const struct vbd *v);
/* What the backend complains about, for the caller to free(); NULL: nothing. */
char *vbd_problem(struct hv_xs *xs, const struct vbd *v);
#endif
