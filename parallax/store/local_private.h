/* local_private.h - what the files of the local backing share: its directory's lock, its identity file, its device.
 *
 * Layout of a store's directory (mode 0700):
 *   STORE      makes it a store: format version, uuid, host, device; written last, by rename
 *   STORE.new  stands in its place while the store is being made
 *   lock       carries the kernel's lock, and who holds it
 *   catalog/   Berkeley DB
 *   blocks     the blocks, unless they are on a device */
#ifndef PARALLAX_STORE_LOCAL_PRIVATE_H
#define PARALLAX_STORE_LOCAL_PRIVATE_H
#include "base/bdev.h"
#include "base/error.h"
#include "parallax/store/store.h"

#define LOCAL_PATH_MAX 512u
#define LOCAL_STORE_FILE "STORE"
#define LOCAL_STORE_NEW_FILE "STORE.new"
#define LOCAL_LOCK_FILE "lock"
#define LOCAL_CATALOG_DIRECTORY "catalog"
#define LOCAL_BLOCKS_FILE "blocks"

/* local_lock.c. Makes the lock file in directory_fd if there is none, waits as opt says, notes pid and command in it. Returns a
 * descriptor that holds the lock until it is closed in every process that shares it, or -EBUSY or another error with a line
 * in err. */
int local_lock_take(int directory_fd, const char *directory, const struct backing_open_options *opt, struct error *err);

/* local_identity.c. What STORE says. */
struct local_identity {
    char uuid[37];
    char machine_id[65];
    char host[65];               /* its name, for messages */
    char device[LOCAL_PATH_MAX]; /* empty: blocks are in the file */
};

/* A fresh uuid, this host's id and name; device is borrowed and may be empty. */
int local_identity_make(struct local_identity *id, const char *device, struct error *err);
/* Writes id to `file` in the directory, durably. */
int local_identity_write(int directory_fd, const char *directory, const char *file, const struct local_identity *id, struct error *err);
/* Reads and checks STORE. -ENOENT: none; -EBADMSG: damaged; -EPROTONOSUPPORT: of a newer version. */
int local_identity_read(int directory_fd, const char *directory, struct local_identity *id, struct error *err);
/* -EXDEV: the store belongs to another host. */
int local_identity_check_host(const struct local_identity *id, const char *directory, struct error *err);

/* local_machine.c. This host's id, 32 hexadecimal digits as a rule; made and kept if the host has none. */
int local_machine_id(char id[65], struct error *err);

/* local_device.c. The first LOCAL_DEVICE_HEADER_BYTES of a device tell whose it is and how much of it is in use. */
#define LOCAL_DEVICE_HEADER_BYTES (1u << 20)

/* Refuses a device that is not a block device, is in use, carries a store, or, without force, holds anything recognisable. */
int local_device_check(const char *device, bool force, struct error *err);
/* Zeroes the header range, durably. */
int local_device_wipe(const char *device, struct error *err);
/* Blocks in use according to the header. -ENODEV: the device is another store's, or none's. */
int local_device_read(const char *device, const char *uuid, uint64_t *blocks, struct error *err);
/* Makes the device the store's, with `blocks` in use; durable on return. */
int local_device_record(const char *device, const char *uuid, uint64_t blocks);
#endif
