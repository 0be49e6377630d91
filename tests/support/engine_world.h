/* engine_world.h - the oracle's names: which images and snapshots exist, what each may hold, who has it open.
 *
 * An object is an image, a snapshot, an import without a name or a frozen view. Objects are counted in by the operations and
 * handles that use them (`users`): a used object is not deleted, renamed or rolled back by the generator, because the engine
 * may answer such a request either way.
 * Threads: one. */
#ifndef TESTS_SUPPORT_ENGINE_WORLD_H
#define TESTS_SUPPORT_ENGINE_WORLD_H
#include "parallax/parallax.h"
#include "tests/support/engine_content.h"

enum object_kind { OBJECT_IMAGE, OBJECT_SNAPSHOT, OBJECT_IMPORT, OBJECT_FROZEN };

struct object {
    struct list_node link;       /* world.images, world.unnamed, or the image's snapshots */
    enum object_kind kind;
    char name[IMAGE_NAME_MAX];   /* of the image, or SNAP alone */
    struct object *image;        /* of a snapshot */
    struct list_node snapshots;  /* of an image, in order of creation */
    unsigned snapshot_count;
    struct content *content;
    bool is_template, is_protected;
    uint64_t origin;             /* serial of the snapshot or template that it was cloned from; 0: not to be compared */
    uint64_t serial;
    bool held;                   /* no new requests: an operation under way forbids them */
    unsigned operations;         /* metadata operations under way that name it */
    struct handle *writer, *reader;
};

/* An open image and its place in the oracle. */
struct handle {
    struct list_node link; /* world.handles */
    struct image *img;
    struct object *object;
    bool writable;
    unsigned inflight;
};

struct world {
    struct list_node images, unnamed, handles;
    unsigned image_count, handle_count;
    uint64_t serials, names;
    uint64_t random;
};

void world_init(struct world *w, uint64_t seed);
void world_free(struct world *w);

/* 0 … below - 1. */
uint64_t world_random(struct world *w, uint64_t below);
/* True once in n, on average. */
bool world_chance(struct world *w, unsigned n);
/* A name that was never used. */
void world_new_name(struct world *w, char *name, const char *prefix);

/* Takes the content over. */
struct object *world_add_image(struct world *w, const char *name, struct content *content);
struct object *world_add_snapshot(struct world *w, struct object *image, const char *name, struct content *content);
struct object *world_add_unnamed(struct world *w, enum object_kind kind, struct content *content);
void world_name_import(struct world *w, struct object *import, const char *name, bool is_template);
/* With its snapshots. */
void world_remove(struct world *w, struct object *o);

/* NAME or NAME@SNAP. */
void world_target(const struct object *o, char target[IMAGE_TARGET_SIZE]);
/* A random image for which usable says yes, or NULL; likewise among all snapshots. */
struct object *world_pick_image(struct world *w, bool (*usable)(const struct object *));
struct object *world_pick_snapshot(struct world *w, bool (*usable)(const struct object *));

struct handle *world_add_handle(struct world *w, struct image *img, struct object *o, bool writable);
void world_remove_handle(struct world *w, struct handle *h);

/* Fails the test unless the store lists exactly these images and snapshots, with these sizes, flags and parents. */
void world_compare_names(struct world *w, struct store *s);
#endif
