/* engine_blocks.h - few operations and whole blocks with contents of their own, for tests about what blocks hold: every call
 * waits for its end, and ends the test if it fails.
 *
 * A content is a number: the same number is the same 4096 bytes, wherever they are written. Threads: one. */
#ifndef TESTS_SUPPORT_ENGINE_BLOCKS_H
#define TESTS_SUPPORT_ENGINE_BLOCKS_H
#include "tests/support/engine.h"

/* Runs function(store, op, …) to its end; its error. */
#define engine_do(e, function, ...)                                     \
    ({                                                                  \
        struct engine_run do_run;                                       \
        engine_run_arm(&do_run);                                        \
        function((e)->store, &do_run.op, ##__VA_ARGS__);                \
        int do_error = engine_run(e, &do_run, #function);               \
        if (do_error)                                                   \
            engine_trace("%s: %s", #function, do_run.op.error.text);    \
        do_error;                                                       \
    })
#define engine_must(e, function, ...)                                   \
    do {                                                                \
        int must_error = engine_do(e, function, ##__VA_ARGS__);         \
        if (must_error)                                                 \
            engine_fail("%s: %d", #function, must_error);               \
    } while (0)

/* The twin of a content has other bytes and the same checksum, whatever the store's seed. */
#define CONTENT_TWIN (1ull << 63)
void block_fill(uint8_t *block, uint64_t content);
/* Whether a block of the image holds that content. */
bool blocks_hold(struct engine *e, struct image *img, uint64_t block, uint64_t content);
/* Writes count blocks with the contents content, content + step, …, and flushes. */
void blocks_write(struct engine *e, const char *image, uint64_t first, uint64_t count, uint64_t content, uint64_t step);
void blocks_write_open(struct engine *e, struct image *img, uint64_t first, uint64_t count, uint64_t content, uint64_t step);
void engine_write_sector(struct engine *e, struct image *img, uint64_t sector, void *bytes);
void blocks_flush(struct engine *e, struct image *img);
/* Flushed, too. */
void blocks_discard(struct engine *e, const char *image, uint64_t first, uint64_t count);
/* Fails unless each of these blocks holds content, content + step, …; content 0: zeroes. */
void blocks_expect(struct engine *e, const char *target, uint64_t first, uint64_t count, uint64_t content, uint64_t step);
/* The address of a block of the device with that content, from `from` on; 0: there is none. */
uint64_t blocks_find(struct engine *e, uint64_t content, uint64_t from);
/* Flips a bit of a block of the device. */
void blocks_flip(struct engine *e, uint64_t address, unsigned bit);
/* Blocks that are not free, after a checkpoint; once nothing more comes back. */
uint64_t blocks_used(struct engine *e);
#endif
