/* door.h - what every door stands on: finding the storage domain, attaching its images to this process, requests from many
 * threads, and the control commands of the store.
 *
 * Words: a door is a frontend in a process of its own that offers images by another protocol. A struct door is that process's
 * contact with one store; a struct door_disk is one image attached to it. Each disk is a domain of its own with one ring, so
 * that the attachment ends with the disk or with the process, however that ends.
 * The storage domain's process may go away and come back: requests wait and go on, control requests are repeated. Nothing but
 * door_stop and a detached disk ends a waiting call.
 * Threads: every function may be called on any thread, and blocks; requests of many threads run in parallel. door_stop may
 * also be called while others wait. Each disk has one thread of its own, with all signals blocked, which sees to xenstore; requests
 * are sent, and their answers taken, on the threads of those who wait.
 * Errors: 0 or negative errno; -ESHUTDOWN after door_stop; -ENODEV the disk was taken away; -ENOSPC the store is full; -EIO the storage domain said so.
 * Where a struct error is filled it holds a line for a person.
 * Ownership: disks are closed before their door. Buffers are the caller's, and used only until the call returns.
 *
 *   door_open(&(struct door_options){ .store = NULL }, &door, &err);
 *   door_disk_open(door, &(struct door_disk_options){ .target = "vm1" }, &disk, &err);
 *   door_disk_write(disk, "...", 3, 0, true);
 *   door_disk_close(disk); door_close(door); */
#ifndef DOORS_COMMON_DOOR_H
#define DOORS_COMMON_DOOR_H
#include "base/error.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct door;
struct door_disk;

/* ---- The store ---- */

struct door_options {
    const char *store;                         /* URL; NULL: the default, as the command line's */
    void (*tell)(void *ctx, const char *line); /* for the operator: the storage domain went away, it is back; may be NULL */
    void *ctx;
};
/* Finds the store's daemon and its hypervisor. -ENOENT: no daemon serves the store. */
int door_open(const struct door_options *opt, struct door **out, struct error *err);
/* Ends all waiting: control requests at once, requests for data when they have had grace_ms to end. What comes later is
 * refused. Acknowledged writes are safe; one that was not acknowledged is, per block, done or not done. */
void door_stop(struct door *d, unsigned grace_ms);
void door_close(struct door *d);

/* ---- Control: names, states, changes ---- */

/* Sends request (stolen; see docs/control-protocol.md) and waits for the reply. *items (may be NULL) is the list of all
 * elements that came before it, *result (may be NULL) its result; both are the caller's to json_decref.
 * While no daemon answers it waits. If the daemon goes away in the middle, a request with `repeat` is sent again: right for
 * what only looks; any other is -ECONNRESET, and may have been done or not. */
int door_ask(struct door *d, json_t *request, bool repeat, json_t **items, json_t **result, struct error *err);
/* The same for who cannot wait: -ENOENT if no daemon answers now, -ETIMEDOUT if none does within `within_ms`. For what only looks. */
int door_ask_soon(struct door *d, json_t *request, unsigned within_ms, json_t **result);

struct door_image {
    uint64_t size_bytes;
    bool fixed;         /* a snapshot or a template: can only be read */
    char holder[128];   /* who writes it, or "" */
    char identity[260]; /* what it is, whatever it is called: docs/control-protocol.md */
};
int door_find(struct door *d, const char *target, struct door_image *out, struct error *err);

/* ---- A disk ---- */

#define DOOR_DEPTH_MAX 128u

struct door_disk_options {
    const char *target;     /* NAME or NAME@SNAP; copied */
    bool read_only;
    unsigned depth;         /* requests of the ring at once; 0: 64; at most DOOR_DEPTH_MAX. Further calls wait in turn */
    void (*resized)(void *ctx, uint64_t size_bytes); /* on the disk's thread; may be NULL */
    void *ctx;
};
/* Attaches the image to this process. -EBUSY: another writes it; -EROFS: it cannot be written. */
int door_disk_open(struct door *d, const struct door_disk_options *opt, struct door_disk **out, struct error *err);
/* Detaches it: no call on the disk may be waiting. Waits a moment for the storage domain to let the image go. */
void door_disk_close(struct door_disk *disk);

uint64_t door_disk_size(const struct door_disk *disk); /* bytes, now */
bool door_disk_read_only(const struct door_disk *disk);
const char *door_disk_target(const struct door_disk *disk); /* by which it was opened; it may be called otherwise by now */
const char *door_disk_identity(const struct door_disk *disk); /* what is attached */
/* Tells which parts of [offset, offset + length) hold data and which read as zeroes because nothing is stored, exactly to the
 * block of 4096 bytes, as ascending ranges without gaps, until each returns non-zero (which is returned) or the range or the
 * image ends. Offsets in bytes, any. What each moment's answer covers is bounded; a long range is looked at in pieces. */
int door_disk_map(struct door_disk *disk, uint64_t offset, uint64_t length, int (*each)(void *ctx, uint64_t offset, uint64_t length, bool data),
                  void *ctx, struct error *err);

/* Any offset and length inside the disk; multiples of 4096 are fastest, what is no multiple of 512 costs a read for a write.
 * fua: on return the data survive a power cut. */
int door_disk_read(struct door_disk *disk, void *buffer, size_t length, uint64_t offset);
int door_disk_write(struct door_disk *disk, const void *buffer, size_t length, uint64_t offset, bool fua);
/* What was written before by any thread, and had returned, survives a power cut. */
int door_disk_flush(struct door_disk *disk);
/* The range reads as zeroes and holds no storage but for its edges, which need not be aligned. */
int door_disk_zero(struct door_disk *disk, uint64_t length, uint64_t offset, bool fua);
/* The range's content is not needed any more: blocks wholly inside it read as zeroes, its edges are left alone. */
int door_disk_trim(struct door_disk *disk, uint64_t length, uint64_t offset, bool fua);
#endif
