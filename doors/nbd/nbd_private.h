/* nbd_private.h - what the files of the nbdkit plugin share.
 *
 * An export is an image or snapshot under its own name. It is attached when a client first needs it, shared by all
 * connections that name it, and detached after the last one; the images that the server was started for stay attached. */
#ifndef DOORS_NBD_NBD_PRIVATE_H
#define DOORS_NBD_NBD_PRIVATE_H
#include "doors/common/door.h"

#include <pthread.h>

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

struct nbd_export {
    struct nbd_export *next;
    pthread_mutex_t lock; /* of what follows */
    char target[260];
    struct door_disk *disk;
    unsigned users;
};

/* ---- nbd_exports.c: any thread ---- */
/* Names an image that the server is for; none: every image of the store. */
int nbd_exports_name(const char *target, struct error *err);
/* The export that clients get who name none, or NULL. */
const char *nbd_exports_default(void);
/* Whether all named images exist. */
int nbd_exports_check(struct door *d, struct error *err);
/* Attaches them for as long as the server runs. */
int nbd_exports_attach(struct door *d, bool read_only, struct error *err);
int nbd_exports_list(struct door *d, struct nbdkit_exports *out, struct error *err);
/* Attaches the export, or uses its attachment. */
int nbd_exports_get(struct door *d, const char *target, bool read_only, struct nbd_export **out, struct error *err);
void nbd_exports_put(struct nbd_export *x);
/* Detaches all; no connection is left. */
void nbd_exports_close(void);

/* ---- nbd_io.c: the callbacks that move data ---- */
void nbd_io_fill(struct nbdkit_plugin *p);

extern struct door *nbd_door;
#endif
