/* cache.h - a block device over a block device that keeps recently read blocks in memory.
 *
 * It supposes what holds for stored blocks: a published block never changes, so one copy serves every image that reaches it and
 * no coherence is needed; an address that is used again is announced. Callers verify what they read by their own checksums;
 * the cache adds none and passes errors on.
 *
 * Reads: a request whose blocks are all in memory is answered from there (done runs later in the same turn of the loop);
 * any other is read whole from the lower device, and its blocks are kept if it is no longer than CACHE_KEEP_BLOCKS.
 * Writes go through to the lower device and are not kept: their addresses are forgotten before the write is submitted and again
 * when it completes, so that no read on either side of it, or in flight with it, leaves an old copy.
 * Scans: a block read once passes through a tenth of the memory; it gets a place in the rest only if it is read again while
 * there, or soon after it left. While that hardly ever happens, most blocks read once are not kept at all.
 *
 * Threads: cache_open, close, submit and the functions below belong to the loop. The blocking calls of the device may come
 * from any other thread, as with every bdev; they go to the lower device and never look at the memory.
 * RULE: what another thread writes or punches by a blocking call is not seen by the cache. Before an address that may have
 * been read earlier is written so, cache_forget is to be called on the loop, and no read of it submitted until the write has completed.
 * Errors: 0 or negative errno.
 * Memory: fixed at open and touched only as blocks come in; a request allocates nothing. When CACHE_OPS requests are under way,
 * further reads go straight to the lower device and are not kept; further writes wait for one of them to end.
 *
 *   cache_open(loop, lower, 256 << 20, &cached); … bdev_submit(cached, &req); … bdev_close(cached); bdev_close(lower); */
#ifndef CACHE_CACHE_H
#define CACHE_CACHE_H
#include "base/bdev.h"
#include "base/loop.h"

#include <stdint.h>

#define CACHE_KEEP_BLOCKS 16u /* 64 KiB: longer reads are scans or backups, and are not kept */
#define CACHE_OPS 1024u

/* bytes: bound of all memory used for blocks and their index (at least 64 blocks are kept). lower is borrowed and outlives the
 * cache. *out is closed by bdev_close when no request is under way; that does not close lower. The device's size is lower's
 * at this moment, and follows what is grown through the cache. -ENOMEM. */
int cache_open(struct loop *loop, struct bdev *lower, uint64_t bytes, struct bdev **out);

/* The addresses will be used again, or written by another thread: no read submitted from now on is answered by what was
 * there. Any count. cached: a device made by cache_open. */
void cache_forget(struct bdev *cached, uint64_t address, uint64_t count);

/* The block failed its reader's checksum: forgets it, so that reading once more asks the lower device. */
void cache_drop(struct bdev *cached, uint64_t address);

struct cache_stats {
    uint64_t hit_blocks;      /* answered from memory */
    uint64_t missed_blocks;   /* read from below */
    uint64_t bypassed_blocks; /* of the missed ones: in requests too long to keep, not worth a slot, or beyond CACHE_OPS */
    uint64_t dropped_blocks;  /* by cache_drop */
    uint64_t blocks, capacity_blocks; /* in memory now; at most */
};
void cache_get_stats(const struct bdev *cached, struct cache_stats *out);
#endif
