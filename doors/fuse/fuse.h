/* fuse.h - the images of a store as files: what `parallax mount` runs.
 *
 *   images/NAME            an image; written through the storage domain, one writer at a time
 *   snapshots/NAME/SNAP    a snapshot, read-only; NAME is listed while it has snapshots
 *   templates/NAME         a template, read-only
 *
 * docs/mount.md says what each operation does. Errors: 0 or negative errno, with a line for a person. */
#ifndef DOORS_FUSE_FUSE_H
#define DOORS_FUSE_FUSE_H
#include "base/error.h"

#include <stdbool.h>
#include <sys/types.h>

struct fuse_door_options {
    const char *store;     /* URL; NULL: the default */
    const char *directory; /* where to mount */
    bool manage;           /* rename, removal and growth are allowed */
    bool read_only;
    bool cached;           /* the kernel caches file contents; else every request reaches the store */
    uid_t uid;             /* of all files */
    gid_t gid;
    mode_t mode;           /* of images: permission bits; snapshots and templates have them without w */
    void (*ready)(void);   /* called when the file system is mounted; may be NULL */
};
/* Mounts, serves until unmounted or told by SIGTERM, SIGINT or SIGHUP, unmounts. Call it before there are other threads. */
int fuse_door_run(const struct fuse_door_options *opt, struct error *err);
#endif
