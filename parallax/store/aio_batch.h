/* aio_batch.h - many single-block reads or writes at once, for callers that block until all are done.
 *
 * Any thread may call aio_batch_transfer; calls on one batch take turns. */
#ifndef PARALLAX_STORE_AIO_BATCH_H
#define PARALLAX_STORE_AIO_BATCH_H
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>

struct aio_batch;

/* Whether that error of making a context means that there is none to be had: transfers are then waited for one by one. The host's are
 * used up (fs.aio-max-nr); it has no memory for one; the kernel is built without, or whoever confines this process does not allow it. */
static inline bool aio_none_to_be_had(int error) { return error == -EAGAIN || error == -ENOMEM || error == -ENOSYS || error == -EPERM; }

/* fd stays the caller's and must outlive the batch; block 0 lies at offset_bytes. */
int aio_batch_open(int fd, uint64_t offset_bytes, struct aio_batch **out);
void aio_batch_close(struct aio_batch *b);

/* Reads block blocks[i] into bufs[i], or writes it from there, in any order. Returns the first error met, after all that was begun
 * has ended. */
int aio_batch_transfer(struct aio_batch *b, bool write, const uint64_t *blocks, void *const *bufs, unsigned count);
#endif
