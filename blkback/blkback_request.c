/* blkback_request.c - from a ring's bytes to a checked request.
 *
 * 1. Only private memory is read here: the bytes were copied out of the ring once, indirect segments out of their page once.
 * 2. Parsing sets what a response needs (id, operation) before it can refuse anything.
 * 3. After blkback_request_check said 0, every access that the request makes lies inside the disk and inside its pages. */
#include "blkback/blkback_private.h"

#include <errno.h>
#include <string.h>

/* The fields of all layouts, in one shape. */
struct fields {
    uint64_t id, sector, discard_sectors;
    uint32_t indirect_ref;
    uint16_t indirect_segments;
    uint8_t segments, indirect_op, flag;
    const struct blkif_segment *seg;
};

#define READ_LAYOUT(bits)                                                                                              \
    static void read_##bits(const uint8_t *raw, struct fields *f)                                                      \
    {                                                                                                                  \
        const struct blkif##bits##_request *rw = (const void *)raw;                                                    \
        const struct blkif##bits##_discard *discard = (const void *)raw;                                               \
        const struct blkif##bits##_indirect *indirect = (const void *)raw;                                             \
        *f = (struct fields){ .id = rw->id, .sector = rw->sector_number, .discard_sectors = discard->nr_sectors,       \
                              .indirect_ref = indirect->indirect_grefs[0], .indirect_segments = indirect->nr_segments, \
                              .segments = rw->nr_segments, .indirect_op = indirect->indirect_op,                       \
                              .flag = discard->flag, .seg = rw->seg };                                                 \
    }
READ_LAYOUT(64)
READ_LAYOUT(32)

static void plan(struct blkback_request *r, uint8_t first, uint8_t second, uint8_t third)
{
    r->plan[0] = first;
    r->plan[1] = second;
    r->plan[2] = third;
    r->plan[3] = BLKBACK_PLAN_END;
}

static int parse_direct(struct blkback_request *r, const struct fields *f)
{
    if (f->segments > BLKIF_MAX_SEGMENTS)
        return -EINVAL;
    memcpy(r->direct, f->seg, f->segments * sizeof *r->direct);
    r->segments = r->direct;
    r->segment_count = f->segments;
    return 0;
}

static int parse_indirect(struct blkback_request *r, const struct fields *f)
{
    r->op = r->response_op = f->indirect_op;
    r->indirect = true;
    if (r->ring->disk->hidden & BLKBACK_INDIRECT)
        return -EOPNOTSUPP;
    if (f->indirect_op != BLKIF_OP_READ && f->indirect_op != BLKIF_OP_WRITE)
        return -EINVAL;
    if (f->indirect_segments > BLKBACK_MAX_SEGMENTS)
        return -EINVAL;
    r->indirect_ref = f->indirect_ref;
    r->segments = r->fetched;
    r->segment_count = f->indirect_segments;
    return 0;
}

static int parse_discard(struct blkback_request *r, const struct fields *f)
{
    if (!r->ring->disk->discard || f->flag & BLKIF_DISCARD_SECURE)
        return -EOPNOTSUPP;
    r->sectors = f->discard_sectors;
    plan(r, IMAGE_DISCARD, BLKBACK_PLAN_END, BLKBACK_PLAN_END);
    return 0;
}

/* What the image does for the operation, in order. Barriers are alone in their ring besides (blkback_ring.c). */
static int make_plan(struct blkback_request *r)
{
    bool data = r->segment_count > 0, read_only = r->ring->disk->read_only;
    switch (r->op) {
    case BLKIF_OP_READ:
        plan(r, IMAGE_READ, BLKBACK_PLAN_END, BLKBACK_PLAN_END);
        return data ? 0 : -EINVAL;
    case BLKIF_OP_WRITE:
        plan(r, IMAGE_WRITE, BLKBACK_PLAN_END, BLKBACK_PLAN_END);
        return data ? 0 : -EINVAL;
    case BLKIF_OP_FLUSH_DISKCACHE:
        if (data)
            plan(r, IMAGE_FLUSH, IMAGE_WRITE, BLKBACK_PLAN_END);
        else /* On a disk that takes no writes there is nothing to flush. */
            plan(r, read_only ? BLKBACK_PLAN_END : IMAGE_FLUSH, BLKBACK_PLAN_END, BLKBACK_PLAN_END);
        return 0;
    default: /* BLKIF_OP_WRITE_BARRIER */
        if (data)
            plan(r, IMAGE_FLUSH, IMAGE_WRITE, IMAGE_FLUSH);
        else
            plan(r, read_only ? BLKBACK_PLAN_END : IMAGE_FLUSH, BLKBACK_PLAN_END, BLKBACK_PLAN_END);
        return 0;
    }
}

int blkback_request_parse(struct blkback_request *r)
{
    struct fields f;
    unsigned hidden = r->ring->disk->hidden;
    if (r->ring->abi == BLKIF_ABI_X86_32)
        read_32(r->saved->raw, &f);
    else
        read_64(r->saved->raw, &f);
    r->id = f.id;
    r->sector = f.sector;
    r->op = r->response_op = r->saved->raw[0];
    r->indirect = false;
    r->segment_count = 0;
    r->sectors = 0;
    r->step = 0;
    r->error = 0;
    plan(r, BLKBACK_PLAN_END, BLKBACK_PLAN_END, BLKBACK_PLAN_END);
    int err;
    switch (r->op) {
    case BLKIF_OP_WRITE_BARRIER:
        if (hidden & BLKBACK_BARRIER)
            return -EOPNOTSUPP;
        err = parse_direct(r, &f);
        break;
    case BLKIF_OP_FLUSH_DISKCACHE:
        if (hidden & BLKBACK_FLUSH)
            return -EOPNOTSUPP;
        err = parse_direct(r, &f);
        break;
    case BLKIF_OP_READ:
    case BLKIF_OP_WRITE:
        err = parse_direct(r, &f);
        break;
    case BLKIF_OP_INDIRECT:
        err = parse_indirect(r, &f);
        break;
    case BLKIF_OP_DISCARD:
        return parse_discard(r, &f);
    default:
        return -EOPNOTSUPP;
    }
    return err ? err : make_plan(r);
}

static int check_range(const struct blkback_request *r)
{
    uint64_t size = r->ring->disk->sectors;
    return r->sector > size || r->sectors > size - r->sector ? -EINVAL : 0;
}

static bool writes(const struct blkback_request *r) { return r->op == BLKIF_OP_DISCARD || (r->op != BLKIF_OP_READ && r->segment_count); }

int blkback_request_check(struct blkback_request *r)
{
    if (r->ring->disk->read_only && writes(r))
        return -EROFS;
    if (r->op == BLKIF_OP_DISCARD)
        return !r->sectors ? -EINVAL : check_range(r);
    for (unsigned i = 0; i < r->segment_count; i++) {
        const struct blkif_segment *s = &r->segments[i];
        if (s->last_sect < s->first_sect || s->last_sect >= BLKIF_SECTORS_PER_PAGE)
            return -EINVAL;
        r->sectors += s->last_sect - s->first_sect + 1u;
    }
    return r->segment_count ? check_range(r) : 0;
}
