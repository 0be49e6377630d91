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
#include "base/uuid.h"
#include "parallax/store/catalog_copy.h"
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
    char uuid[UUID_TEXT_SIZE];
    char machine_id[65];
    char host[65];               /* its name, for messages */
    char device[LOCAL_PATH_MAX]; /* empty: blocks are in the file */
    unsigned long long adoption; /* how often the device had been adopted when this directory came to it */
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

/* local_device.c. The first LOCAL_DEVICE_HEADER_BYTES of a device tell whose it is and what lies where (docs/disk-format.md). */
#define LOCAL_DEVICE_HEADER_BYTES (1u << 20)

struct local_device_header {
    uint64_t blocks;      /* in use */
    uint64_t start_bytes; /* where block 0 lies */
    uint64_t copy_bytes;  /* of each of the two regions of the catalog's copy, which lie before that; 0: of version 1, which has none */
    uint64_t sequence, adoption;
    char uuid[UUID_TEXT_SIZE], machine_id[65], host[65];
};

/* Refuses a device that is not a block device, is in use, carries a store, or, without force, holds anything recognisable. */
int local_device_check(const char *device, bool force, struct error *err);
/* The header of a new store's device, with nothing in use and without an owner, and how many bytes there are for blocks. Writes nothing. */
int local_device_lay_out(const char *device, struct local_device_header *h, uint64_t *room_bytes, struct error *err);
/* Zeroes the header range, durably. */
int local_device_wipe(const char *device, struct error *err);
/* -ENODEV: it has no header. claim: -EBUSY if it is in use. */
int local_device_read(const char *device, bool claim, struct local_device_header *h, struct error *err);
/* Refuses a header that is not of this store in this directory: -ENODEV another store's, -EXDEV adopted by another directory. */
int local_device_check_owner(const struct local_device_header *h, const struct local_identity *id, const char *directory, struct error *err);
/* Makes that store, on this host, in its present directory, the device's owner; of version 2 only. */
void local_device_own(struct local_device_header *h, const struct local_identity *id);
/* Writes the header, durably, as the newest. */
int local_device_write(const char *device, struct local_device_header *h);

/* local.c: what a store in a directory consists of while it is open or being made, and the steps that opening, making and
 * adopting (local_adopt.c) have in common. */
struct local {
    char directory[LOCAL_PATH_MAX];
    struct local_identity id;
    struct local_device_header header;
    int directory_fd, lock_fd;
    bool making;         /* not a store yet: close takes it away */
    bool made_directory;
};

/* Fills b, to be closed whatever fails later. */
int local_begin(const char *url, struct backing *b, char device[LOCAL_PATH_MAX], struct error *err);
int local_open_directory(struct local *l, struct error *err);
/* Takes the directory for a new store: refusals first, then the lock, then refusals again, for what came in between. */
int local_claim_directory(struct local *l, bool force, struct error *err);
/* A device's header is read before. */
int local_open_blocks(struct backing *b, struct loop *loop, bool lazy, bool create, struct error *err);
int local_open_database(struct backing *b, bool create, struct error *err);
/* The copy of the catalog on the device, or NULL where none has its place. */
int local_open_copy(const struct local *l, struct catalog_copy **copy, struct error *err);
/* -ESTALE and its line: the device's copy is newer than the catalog. */
int local_refuse_older(const struct local *l, struct error *err);
/* Makes STORE.new the directory's STORE, durably. */
int local_publish(struct local *l);
#endif
