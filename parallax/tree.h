/* tree.h - images, versions and lines in memory, and their catalog records.
 *
 * The rules are those of consistency.md, "Versions". A version object keeps its identity when it is frozen (V1).
 * Threads: the loop's. While a checkpoint runs, its thread owns `root`, `runs` and `delete_cursor` of the versions of its
 * job; the loop looks at `live_root`.
 * Memory: one object a version and an image, with their names. */
#ifndef PARALLAX_TREE_H
#define PARALLAX_TREE_H
#include "base/hash.h"
#include "base/list.h"
#include "parallax/dead.h"
#include "parallax/parallax.h"
#include "radix/radix.h"

#define TICKET_MAX UINT64_MAX

enum { IMAGE_FLAG_TEMPLATE = 1, IMAGE_FLAG_PROTECTED = 2, IMAGE_FLAG_IMPORT = 4 };
enum { VERSION_FLAG_PROTECTED = 2, VERSION_FLAG_TEMPORARY = 4, VERSION_FLAG_SNAPSHOT = 8 };

struct vdisk;
struct version;

/* A run of blocks of a line that read as zeroes since a ticket. */
struct zero_range {
    uint64_t first, count, ticket;
};

/* The series of heads of one image: the key of its changes. */
struct line {
    struct hash_node node; /* by id */
    uint32_t id, versions;
    uint64_t made;           /* ticket of the change that made it, or let its head grow; 0: the catalog had it */
    struct version *base;    /* its live_root is what unmerged versions of this line stand on; NULL: */
    struct version *origin;  /* made from this version, which is not in a tree yet */
    struct list_node unmerged; /* versions (line_link), oldest first; the head is the last */
    struct zero_range *ranges; /* in order of tickets */
    uint32_t range_count, range_capacity;
};

struct version {
    struct hash_node node; /* by id */
    uint64_t id, generation;
    struct version *parent;
    struct list_node children, sibling;
    uint32_t child_count;
    struct line *line;
    uint64_t cut;              /* its writes have tickets below; TICKET_MAX: it is a head */
    struct list_node line_link; /* in line->unmerged; empty once its root is final */
    struct radix_root root, live_root;
    struct dead_runs runs;
    uint64_t delete_cursor;
    uint64_t size_bytes, created_ns;
    unsigned flags;
    char *name;                /* of a snapshot */
    struct vdisk *image;       /* of a head or snapshot; NULL once nobody owns it */
    struct list_node snapshot_link; /* in image->snapshots, by creation */
    uint32_t readers;          /* open handles on this frozen version */
    uint32_t clones;           /* as query.c counted last */
    uint32_t pins;             /* walks of it under way: it is not deleted meanwhile */
    bool dirty;                /* record or root will differ from the catalog's */
    uint64_t changing_nodes, changing_inner; /* that its map can have, if blocks of it have changed since the last cut */
    uint8_t plan_mark;         /* in the checkpoint being planned: PLAN_… */
    struct list_node orphan_link; /* in tree->orphans while nobody owns it */
    struct list_node dirty_link;
    bool in_catalog;
    bool is_going;             /* its deletion has begun, as of the last commit; the loop's, unlike delete_cursor */
    uint64_t parent_id, image_id, last_write_ns; /* as loaded, until tree_link */
};

/* What the public header calls an image when it is named, not opened. */
struct vdisk {
    struct hash_node node, name_node; /* by id; by name */
    uint64_t id, created_ns, last_write_ns;
    uint64_t origin_image, origin_version; /* 0: none */
    char *name;                /* NULL while it is being imported */
    unsigned flags;
    struct version *head;
    struct list_node snapshots, all_link;
    uint32_t snapshot_count, readers;
    uint32_t clones;           /* as query.c counted last */
    bool doomed;               /* scratch of query.c: not to be counted */
    struct image *writer;
    struct list_node handles;
    bool dirty;
    struct list_node dirty_link;
    bool in_catalog;
    uint64_t head_id; /* as loaded, until tree_link */
};

struct tree {
    struct hash images, names, versions, lines;
    struct list_node all_images;
    struct list_node dirty_images, dirty_versions;
    uint64_t dirty_version_count;
    uint64_t changing_nodes, changing_inner; /* sums over the versions */
    struct list_node orphans;  /* versions without an image */
    struct list_node gone;     /* struct gone_key: catalog keys to remove at the next checkpoint */
    uint64_t next_version, next_image;
    uint32_t next_line;
    bool clones_counted;       /* nothing has changed since */
    uint64_t image_count, template_count, snapshot_count, provisioned_bytes;
};

struct gone_key {
    struct list_node link;
    uint8_t key[9];
};

void tree_init(struct tree *t);
void tree_fini(struct tree *t);

struct vdisk *tree_image(const struct tree *t, uint64_t id);
struct vdisk *tree_image_named(const struct tree *t, const char *name);
struct version *tree_version(const struct tree *t, uint64_t id);
struct version *tree_snapshot(const struct vdisk *d, const char *name);
struct line *tree_line(const struct tree *t, uint32_t id);
/* A name much like this one, or NULL. */
const char *tree_similar_name(const struct tree *t, const char *name);

/* NULL: no memory. The new object is dirty. */
struct line *tree_add_line(struct tree *t, uint32_t id);
struct version *tree_add_version(struct tree *t, uint64_t id, struct version *parent, struct line *line);
struct vdisk *tree_add_image(struct tree *t, uint64_t id);
void tree_set_parent(struct version *v, struct version *parent);
/* Who has it as a head or snapshot; NULL: nobody. */
void tree_set_owner(struct tree *t, struct version *v, struct vdisk *d);
int tree_set_image_name(struct tree *t, struct vdisk *d, const char *name);
void tree_dirty_image(struct tree *t, struct vdisk *d);
void tree_dirty_version(struct tree *t, struct version *v);
/* Blocks of it change: it is dirty, and the next checkpoint writes no more nodes for it than its map can have. */
void tree_changing(struct tree *t, struct version *v);
/* Forget; the catalog key goes with the next checkpoint. */
int tree_remove_image(struct tree *t, struct vdisk *d);
void tree_remove_version(struct tree *t, struct version *v);
int tree_attach_snapshot(struct tree *t, struct version *v, struct vdisk *d, const char *name);
void tree_detach_snapshot(struct tree *t, struct version *v);
/* Its root is in a tree and will not change: lookups need no index. */
static inline bool version_final(const struct version *v) { return v->cut != TICKET_MAX && list_empty(&v->line_link); }
/* Nobody needs it by name, and at most one child stands on it. */
static inline bool version_unwanted(const struct version *v)
{
    return !v->image && !(v->flags & VERSION_FLAG_TEMPORARY) && v->child_count <= 1;
}
/* IMAGE, IMAGE@SNAPSHOT, or that it has no name; for people. The loop's. */
void version_describe(const struct version *v, char *out, size_t size);
static inline uint64_t version_blocks(const struct version *v) { return (v->size_bytes + BDEV_BLOCK_SIZE - 1) / BDEV_BLOCK_SIZE; }
static inline uint64_t parent_generation(const struct version *v) { return v->parent ? v->parent->generation : 0; }

/* ---- Catalog records ---- */
#define RECORD_MAX 512u
#define KEY_IMAGE 'I'
#define KEY_VERSION 'V'
#define KEY_RUN 'D'
uint32_t image_record_encode(const struct vdisk *d, uint8_t *out);
uint32_t version_record_encode(const struct version *v, uint8_t *out);
/* Fields that a checkpoint changes after the record was encoded at its cut. */
void version_record_patch(uint8_t *record, const struct radix_root *root, uint64_t parent_id, uint64_t delete_cursor);
/* While opening: add what the record says. Links between objects are made by tree_link once all are there. */
int image_record_load(struct tree *t, uint64_t id, const uint8_t *value, size_t length);
int version_record_load(struct tree *t, uint64_t id, const uint8_t *value, size_t length);
int tree_link(struct tree *t);
void key_encode(uint8_t *key, char kind, uint64_t id);
uint64_t key_id(const uint8_t *key);
#endif
