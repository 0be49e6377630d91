/* aio_batch.h - many single-block reads or writes at once, for callers that block until all are done.
 *
 * Any thread may call aio_batch_transfer; calls on one batch take turns. */
#ifndef PARALLAX_STORE_AIO_BATCH_H
#define PARALLAX_STORE_AIO_BATCH_H
#include <stdbool.h>
#include <stdint.h>

struct aio_batch;

/* fd stays the caller's and must outlive the batch; block 0 lies at offset_bytes. */
int aio_batch_open(int fd, uint64_t offset_bytes, struct aio_batch **out);
void aio_batch_close(struct aio_batch *b);

/* Reads block blocks[i] into bufs[i], or writes it from there, in any order. Returns the first error met, after all that was begun
 * has ended. */
int aio_batch_transfer(struct aio_batch *b, bool write, const uint64_t *blocks, void *const *bufs, unsigned count);
#endif
