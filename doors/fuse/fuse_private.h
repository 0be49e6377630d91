/* fuse_private.h - the door's own structs and what its files share.
 *
 * Threads: libfuse's workers run the operations in parallel; they block where the store or the ring makes them wait. One lock,
 * fuse_mount.lock, guards nodes, their disks and the listing; it is never held while anything waits but on `changed`.
 * Errors: 0 or negative errno inside; the operations turn them into FUSE's positive ones. */
#ifndef DOORS_FUSE_FUSE_PRIVATE_H
#define DOORS_FUSE_FUSE_PRIVATE_H
#define FUSE_USE_VERSION 312
#include "base/hash.h"
#include "base/list.h"
#include "doors/common/door.h"
#include "doors/fuse/fuse.h"
#include "doors/fuse/listing.h"

#include <fuse3/fuse_lowlevel.h>
#include <pthread.h>

#define FUSE_DOOR_TRANSFER_BYTES (1u << 20) /* of one read or write */
#define FUSE_DOOR_THREADS 128u              /* that wait at once; further requests wait in the kernel */
#define FUSE_DOOR_VALID_SECONDS 1.0         /* how long the kernel may believe names and attributes */

/* ---- Nodes: what the kernel knows by number (node.c) ---- */

enum node_kind { NODE_ROOT, NODE_IMAGES, NODE_SNAPSHOTS, NODE_TEMPLATES, NODE_FIXED, NODE_OF_IMAGE = NODE_FIXED, NODE_IMAGE, NODE_TEMPLATE, NODE_SNAPSHOT };

static inline bool kind_is_directory(enum node_kind k) { return k <= NODE_OF_IMAGE; }
static inline bool kind_is_fixed_content(enum node_kind k) { return k == NODE_TEMPLATE || k == NODE_SNAPSHOT; }

/* One attachment of a file's image, shared by the handles that are open in its mode. */
struct slot {
    enum { SLOT_CLOSED, SLOT_CHANGING, SLOT_OPEN } state;
    struct door_disk *disk; /* SLOT_OPEN */
    unsigned users;
};
enum { SLOT_READ, SLOT_WRITE, SLOTS };

struct node {
    struct hash_node by_name; /* in fuse_mount.names while named */
    struct list_node link;    /* in fuse_mount.nodes */
    enum node_kind kind;
    bool named;
    char image[LISTING_NAME_SIZE], snapshot[LISTING_NAME_SIZE]; /* as far as the kind has them */
    time_t created;           /* tells a new thing of an old name from the old one; 0 for directories */
    time_t modified;          /* as the store said last */
    uint64_t number;          /* st_ino */
    uint64_t lookups, handles; /* while either is left the node lives */
    struct slot slots[SLOTS];
    uint64_t changes;         /* writes through this door so far: what was learnt of the map before is old; atomic */
    struct {
        bool known;
        uint64_t bytes, at_ms, changes; /* node.changes when it was asked */
        time_t last_write;              /* as the listing had it then */
    } mapped;
};

struct fuse_mount {
    struct fuse_door_options opt;
    struct door *door;
    struct fuse_session *session;
    time_t mounted;
    pthread_mutex_t lock;
    pthread_cond_t changed;   /* a slot's state, the listing */
    struct listing *listing;  /* the newest, or NULL */
    bool listing_wanted;      /* somebody is asking for a newer one */
    uint64_t capacity_bytes, free_bytes; /* of the store, as statfs was told last */
    struct hash names;
    struct list_node nodes;   /* all but the fixed ones */
    uint64_t next_number;
    struct node fixed[NODE_FIXED];
};

/* The mount of a request, and the node of a number that the kernel was given. */
static inline struct fuse_mount *mount_of(fuse_req_t req) { return fuse_req_userdata(req); }
struct node *node_of(struct fuse_mount *m, fuse_ino_t ino);
fuse_ino_t node_ino(const struct fuse_mount *m, const struct node *n);
void nodes_init(struct fuse_mount *m);
void nodes_fini(struct fuse_mount *m);
/* A copy of what names a node, taken under the lock. */
struct node_name {
    enum node_kind kind;
    char image[LISTING_NAME_SIZE], snapshot[LISTING_NAME_SIZE];
};
void node_get_name(struct fuse_mount *m, const struct node *n, struct node_name *out);
/* "NAME" or "NAME@SNAP". */
#define TARGET_SIZE (2 * LISTING_NAME_SIZE)
void name_target(const struct node_name *name, char out[TARGET_SIZE]);
/* The name that a file of this name in this directory has; false: there can be none. */
bool name_child(const struct node_name *directory, const char *file, struct node_name *out);

/* Under the lock: the node of a name, or NULL. */
struct node *node_find(const struct fuse_mount *m, const struct node_name *name);

/* What a listing says of a name. */
struct node_facts {
    struct node_name name;
    uint64_t size_bytes;
    time_t created, modified, last_write;
};
/* -ENOENT: there is no such thing. */
int name_look(const struct listing *l, const struct node_name *name, struct node_facts *out);
/* The node of these facts, with one lookup more. NULL: no memory. */
struct node *node_take(struct fuse_mount *m, const struct node_facts *facts);
void node_forget(struct fuse_mount *m, struct node *n, uint64_t lookups);
/* Keeps it for a handle, which node_leave gives back. */
void node_hold(struct fuse_mount *m, struct node *n);
void node_leave(struct fuse_mount *m, struct node *n);
/* What had this name is gone. */
void node_gone(struct fuse_mount *m, const struct node_name *name);
/* After a rename in the store: nodes go by their new names. */
void node_rename(struct fuse_mount *m, const struct node_name *from, const struct node_name *to);

/* ---- The store (look.c) ---- */

/* A listing not older than age_ms; the caller's to put. */
int look_listing(struct fuse_mount *m, unsigned age_ms, struct listing **out);
/* Facts of a name, asking again before it is said that there is none. */
int look_name(struct fuse_mount *m, const struct node_name *name, struct node_facts *out);
/* Something was changed through this door: what is known is old. */
void look_forget(struct fuse_mount *m);
/* The attributes of a node; for files the mapped bytes are looked up if they may have changed. */
int look_attributes(struct fuse_mount *m, struct node *n, struct stat *out);
/* Those of a file that is open, whatever has its name in the store by now. False: it is not open. */
bool look_open_attributes(struct fuse_mount *m, struct node *n, struct stat *out);
void look_fill(const struct fuse_mount *m, const struct node *n, const struct node_facts *facts, struct stat *out);

/* ---- Open files (file.c) ---- */

/* Parts of a file that are data or zeroes, as far as they were looked at. */
#define MAP_RANGES 1024u
struct map_window {
    uint64_t from, to;     /* bytes; from == to: nothing is known */
    uint64_t changes;      /* node.changes when it was learnt */
    unsigned count;
    struct map_range {
        uint64_t offset, length;
        bool data;
    } ranges[MAP_RANGES];
};
struct handle {
    struct node *node;
    struct door_disk *disk;
    unsigned slot;
    pthread_mutex_t map_lock;
    struct map_window *map; /* NULL until lseek asks */
};
int file_open(struct fuse_mount *m, struct node *n, bool writing, struct handle **out, struct error *err);
void file_close(struct fuse_mount *m, struct handle *h);
/* Ends one use of an attachment; the last one takes it away. */
void file_slot_put(struct fuse_mount *m, struct slot *s);
/* Closes whatever is still attached; no operation runs any more. */
void file_abandon(struct fuse_mount *m);
/* Waits until files of this name that were closed are closed; whether one is still open. */
bool file_is_open(struct fuse_mount *m, const struct node_name *name);
/* The next data (or, with hole, the next hole; the end of the file is one) at or after offset. -ENXIO: none. */
int file_seek(struct handle *h, uint64_t offset, bool hole, uint64_t *out);

/* ---- Operations ---- */
/* The positive errno that FUSE is told; what is no refusal of the request itself is also logged. */
int fuse_errno(int err);
void data_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *fi);
void data_write(fuse_req_t req, fuse_ino_t ino, const char *data, size_t size, off_t offset, struct fuse_file_info *fi);
void data_fsync(fuse_req_t req, fuse_ino_t ino, int data_only, struct fuse_file_info *fi);
void data_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t offset, off_t length, struct fuse_file_info *fi);
void data_lseek(fuse_req_t req, fuse_ino_t ino, off_t offset, int whence, struct fuse_file_info *fi);
void data_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void data_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void change_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set, struct fuse_file_info *fi);
void change_unlink(fuse_req_t req, fuse_ino_t parent, const char *name);
void change_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t new_parent, const char *new_name, unsigned flags);
void change_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t device);
void change_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode);
void change_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name);
void change_symlink(fuse_req_t req, const char *link, fuse_ino_t parent, const char *name);
void change_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t new_parent, const char *new_name);
void tree_lookup(fuse_req_t req, fuse_ino_t parent, const char *name);
void tree_forget(fuse_req_t req, fuse_ino_t ino, uint64_t lookups);
void tree_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void tree_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void tree_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *fi);
void tree_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void tree_statfs(fuse_req_t req, fuse_ino_t ino);
#endif
