/* engine_content.h - the oracle: what one image or snapshot may hold, block by block.
 *
 * Words: a version of a block is the ids of its eight sectors after one write; versions of a block are numbered in the order
 * in which their writes were submitted, and each contains those before it. A block's `acked` is the newest version whose
 * write was acknowledged, `durable` the newest that a flush or an operation has made safe from a power cut. What may be read
 * is any version from the acknowledged one to the newest; after kill -9 the same; after a power cut, any from the durable one.
 * A content is exact when each block has one version left.
 *
 * Tracked blocks: the first 2048 of an image and three windows far out, each across a border of map nodes. Nothing is ever
 * written elsewhere, and elsewhere only zeroes may be read. An index counts tracked blocks.
 * Threads: one. Memory failure ends the test program. */
#ifndef TESTS_SUPPORT_ENGINE_CONTENT_H
#define TESTS_SUPPORT_ENGINE_CONTENT_H
#include <stdbool.h>
#include <stdint.h>

#define CONTENT_SECTORS 8u /* of a block */

struct version {
    uint32_t id[CONTENT_SECTORS];
};

struct content_block {
    uint32_t first;          /* number of version[0] */
    uint16_t count, room;
    uint32_t acked, durable; /* numbers */
    struct version *version; /* points at `one` while room is 0 */
    struct version one;
};

struct content {
    uint64_t size_bytes;
    uint32_t count; /* tracked blocks within the size */
    unsigned pins;  /* requests and operations under way that remember version numbers; no version is forgotten meanwhile */
    struct content_block *block;
};

/* Which versions a crash leaves possible. */
enum content_crash { CONTENT_KILL, CONTENT_POWER_CUT };

struct content *content_new(uint64_t size_bytes); /* all zero */
void content_free(struct content *c);

/* The tracked block of that index, as a block number in the image. */
uint64_t content_block_of(uint32_t index);
/* How many tracked blocks lie below block. */
uint32_t content_index_below(uint64_t block);
/* Whether block is tracked; *index is set if so. */
bool content_tracked(uint64_t block, uint32_t *index);

/* A write (or, with id 0, a discard) of sectors [first, first + count) begins: numbers[i] gets the version that it makes in
 * the i-th tracked block of the range. content_acked says that it was acknowledged. */
void content_write(struct content *c, uint64_t first_sector, uint64_t sectors, uint32_t id, uint32_t *numbers);
void content_acked(struct content *c, uint64_t first_sector, uint64_t sectors, const uint32_t *numbers);

/* The present acknowledged numbers of all tracked blocks, a new array; to be given to content_durable when what was begun
 * now has made them safe, or to content_copy. */
uint32_t *content_cut(const struct content *c);
void content_durable(struct content *c, const uint32_t *cut, uint32_t count);

/* Whether id may be read in that sector by a request before which the version `since` was acknowledged. */
bool content_may_read(const struct content *c, uint64_t sector, uint32_t since, uint32_t id);

/* A frozen copy: each block holds any one of the versions from the cut's to the newest. */
struct content *content_copy(const struct content *c, const uint32_t *cut);
/* Whether block `index` may hold ids in a state that kept at least version `since`. */
bool content_allows(const struct content *c, uint32_t index, uint32_t since, const uint32_t *ids);
/* Block `index` was found to hold ids while no write was under way: the other versions that could have been found are
 * forgotten. False if none of them is that. */
bool content_settle(struct content *c, uint32_t index, const uint32_t *ids);
/* Whether the block has one version; whether each block has one that can be found while no write is under way. */
bool content_block_exact(const struct content_block *b);
bool content_settled(const struct content *c);
/* The newest version of a block. */
const struct version *content_newest(const struct content_block *b);
/* A crash happened: versions below acked (or durable) are gone, all newer ones possible. */
void content_crash(struct content *c, enum content_crash kind);
/* Forgets versions that nothing may show any more; call when convenient. */
void content_prune(struct content *c);

/* Grown space is zero; cut-off sectors are gone for good. The content must be exact in what is cut off. */
void content_resize(struct content *c, uint64_t size_bytes);
#endif
