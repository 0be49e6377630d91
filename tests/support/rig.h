/* rig.h - a store in a real directory, driven by blocking calls: for tests of space, damage and limits, where the file system
 * below matters.
 *
 * Blocks are written in patterns: the bytes of a block follow from the image block and a version, so that a reader can tell.
 * What must not fail ends the program (engine_fail.h); what the test asks about is returned.
 * Threads: one, which turns the loop. */
#ifndef TESTS_SUPPORT_RIG_H
#define TESTS_SUPPORT_RIG_H
#include "parallax/parallax.h"

struct rig {
    char directory[256]; /* of the store, in a scratch directory of its own */
    struct loop *loop;
    struct store *store; /* NULL while closed */
    struct store_options options;
};

/* parent: where the scratch directory is made; NULL: /var/tmp. size_bytes as for store_create. Opens it. */
void rig_start(struct rig *r, const char *parent, uint64_t size_bytes);
/* Closes, and takes the directory away. */
void rig_end(struct rig *r);
int rig_try_open(struct rig *r, struct error *err);
void rig_open(struct rig *r);
void rig_close(struct rig *r);
/* Turns the loop until condition holds; ends the program with `what` after five minutes. */
void rig_wait(struct rig *r, bool (*condition)(struct rig *r, void *ctx), void *ctx, const char *what);

/* Begin an operation on op, then: waits for it and returns its error. */
void rig_arm(struct store_op *op);
int rig_run(struct rig *r, struct store_op *op);
void rig_create(struct rig *r, const char *name, uint64_t size_bytes);
void rig_delete(struct rig *r, const char *name); /* with its snapshots */
void rig_snapshot(struct rig *r, const char *target);
void rig_unsnapshot(struct rig *r, const char *target);
void rig_clone(struct rig *r, const char *source, const char *name);
void rig_checkpoint(struct rig *r);
struct store_check_result rig_check(struct rig *r, unsigned flags); /* of enum store_check_flags */
/* rig_check with data; whether it found the store sound. */
bool rig_is_sound(struct rig *r);
struct store_status rig_status(struct rig *r);
/* Until no deletion waits and nothing is held. */
void rig_settle(struct rig *r);

struct image *rig_image(struct rig *r, const char *target, enum image_mode mode);
/* Image blocks first … first+count-1; the first error, if any. Many requests at once. */
int rig_write(struct rig *r, struct image *img, uint64_t first, uint64_t count, uint32_t version);
int rig_discard(struct rig *r, struct image *img, uint64_t first, uint64_t count);
int rig_flush(struct rig *r, struct image *img);
/* Whether all these blocks are of that version (0: zeroes). -EIO and others if they cannot be read. */
int rig_read(struct rig *r, struct image *img, uint64_t first, uint64_t count, uint32_t version, bool *same);
/* The same, ending the program unless they are. */
void rig_expect(struct rig *r, struct image *img, uint64_t first, uint64_t count, uint32_t version);
void rig_fill_block(void *block, uint64_t image_block, uint32_t version);

/* What the file of the blocks takes on its file system. */
uint64_t rig_allocated_bytes(const struct rig *r);
#endif
