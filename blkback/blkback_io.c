/* blkback_io.c - carries a checked request out on the image, step by step of its plan.
 *
 * 1. The data of a write is in the request's own buffer before this begins: the guest cannot change it any more.
 * 2. The first error ends the plan; a later step cannot hide it. */
#include "blkback/blkback_private.h"

static void step_done(struct image_req *io, int error);

static void next_step(struct blkback_request *r)
{
    uint8_t op = r->plan[r->step];
    if (op == BLKBACK_PLAN_END) {
        blkback_ring_finish(r, 0);
        return;
    }
    r->io.op = (enum image_op)op;
    r->io.flags = 0;
    r->io.offset = op == IMAGE_FLUSH ? 0 : r->sector * IMAGE_SECTOR;
    r->io.length = op == IMAGE_FLUSH ? 0 : r->sectors * IMAGE_SECTOR;
    r->io.iov = &r->iov;
    r->io.iov_count = op == IMAGE_READ || op == IMAGE_WRITE ? 1 : 0;
    r->io.done = step_done;
    image_submit(r->ring->disk->image, &r->io);
}

static void step_done(struct image_req *io, int error)
{
    struct blkback_request *r = container_of(io, struct blkback_request, io);
    r->step++;
    if (error)
        blkback_ring_finish(r, error);
    else
        next_step(r);
}

void blkback_io_start(struct blkback_request *r)
{
    r->iov = (struct iovec){ r->buffer, r->sectors * IMAGE_SECTOR };
    next_step(r);
}
