/* listing.h - what a store holds at one instant: images, templates and snapshots by name.
 *
 * A listing is filled once from the answer to `ls` and never changed after; whoever has it may read it from any thread.
 * Ownership: counted; the strings are the listing's. Errors: 0 or negative errno. */
#ifndef DOORS_FUSE_LISTING_H
#define DOORS_FUSE_LISTING_H
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#define LISTING_NAME_SIZE 129u /* of an image or a snapshot, with its NUL */

struct listing_snapshot {
    char name[LISTING_NAME_SIZE];
    uint64_t size_bytes;
    time_t created;
};
struct listing_image {
    char name[LISTING_NAME_SIZE];
    uint64_t size_bytes;
    time_t created, last_write; /* last_write 0: never */
    bool is_template;
    unsigned first_snapshot, snapshots; /* in listing.snapshots */
};
struct listing {
    unsigned references; /* atomic */
    uint64_t taken_ms;   /* monotonic clock, before the store was asked */
    struct listing_image *images; /* in order of name */
    unsigned image_count, image_room;
    struct listing_snapshot *snapshots;
    unsigned snapshot_count, snapshot_room;
    int error;
};

/* Empty, with one reference; NULL: no memory. */
struct listing *listing_create(uint64_t taken_ms);
/* One element of `ls`: an image, or a snapshot ("of") of the image before it. What fails is kept for listing_finish. */
void listing_add(struct listing *l, const json_t *element);
/* Sorts; 0, or why the listing is not whole. */
int listing_finish(struct listing *l);

struct listing *listing_get(struct listing *l);
void listing_put(struct listing *l); /* NULL is nothing */

/* NULL: there is none. */
const struct listing_image *listing_find(const struct listing *l, const char *image);
const struct listing_snapshot *listing_find_snapshot(const struct listing *l, const struct listing_image *image, const char *snapshot);
#endif
