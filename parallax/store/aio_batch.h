/* aio_batch.h - many single-block reads at once, for callers that block until all are done.
 *
 * Any thread may call aio_batch_read; calls on one batch take turns. */
#ifndef PARALLAX_STORE_AIO_BATCH_H
#define PARALLAX_STORE_AIO_BATCH_H
#include <stdint.h>

struct aio_batch;

/* fd stays the caller's and must outlive the batch; block 0 lies at offset_bytes. */
int aio_batch_open(int fd, uint64_t offset_bytes, struct aio_batch **out);
void aio_batch_close(struct aio_batch *b);

/* Reads block blocks[i] into bufs[i]. Returns the first error met, after all reads have ended. */
int aio_batch_read(struct aio_batch *b, const uint64_t *blocks, void *const *bufs, unsigned count);
#endif
