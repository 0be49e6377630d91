/* age.c - whether the blocks and the catalog are of one time, before anything is written (consistency.md, R4 and R5).
 *
 * 1. Blocks that are older miss the journal blocks before the tail, which a checkpoint's flush made durable before the catalog named
 *    that tail.
 * 2. A catalog that is older is known by the space map: a checkpoint writes the copy of a page that is not valid, so a valid one is
 *    never newer than the catalog (space_load tells). */
#include "parallax/parallax_private.h"

#include "base/log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Whether the journal's place for seq holds what was there before that was written: nothing, or a block of an earlier round. */
static bool is_older(struct store *s, uint64_t seq, uint8_t *block)
{
    struct jheader h;
    if (bdev_read(s->blocks, s->super.journal_start + seq % s->super.journal_blocks, block, 1))
        return false;
    return (*block == 0 && memcmp(block, block + 1, BDEV_BLOCK_SIZE - 1) == 0) || (jblock_open(block, s->super.seed, &h) == 0 && h.seq < seq);
}

/* Whether a map's root is not there. One whose deletion has begun may be gone. */
static bool misses_root(struct store *s)
{
    const struct hash *h = &s->tree.versions;
    struct radix_io io = { .device = s->blocks, .seed = s->super.seed };
    struct radix_entry entries[RADIX_FANOUT];
    for (uint64_t i = 0; h->buckets && i <= h->mask; i++)
        for (struct hash_node *n = h->buckets[i]; n; n = n->next) {
            const struct version *v = container_of(n, struct version, node);
            if (v->root.node.kind == RADIX_NODE && !v->delete_cursor && radix_read_node(&io, &v->root.node, v->root.height, entries))
                return true;
        }
    return false;
}

/* Makes the journal as old as the catalog: empty blocks in the two places, below the tail, where nobody replays them. */
static int accept_age(struct store *s, const struct stored_state *st, uint8_t *block)
{
    int err = 0;
    for (uint64_t seq = st->tail - 2; seq < st->tail && !err; seq++) {
        struct jheader h = { .epoch = st->epoch, .seq = seq, .durable = seq };
        memset(block, 0, BDEV_BLOCK_SIZE);
        jblock_seal(block, s->super.seed, &h);
        err = bdev_write(s->blocks, s->super.journal_start + seq % s->super.journal_blocks, block, 1);
    }
    log_warning("blocks older than their catalog were accepted: what they miss is lost store=%s", store_name(s));
    return err ? err : bdev_flush(s->blocks);
}

/* Two of them, so that one block that was lost since, and that nobody needs, is not taken for it. Of a time that differs by one, a
 * write of data shows in the map that it changed. */
int store_check_age(struct store *s, const struct stored_state *st, struct error *err)
{
    bool adoptable = backing_catalog_copy(&s->backing) == BACKING_COPY_HELD;
    uint8_t *block = bdev_buffer_alloc(1);
    if (!block)
        return -ENOMEM;
    bool older = st->tail > 1 && is_older(s, st->tail - 1, block) && ((st->tail > 2 && is_older(s, st->tail - 2, block)) || misses_root(s));
    int rc = 0;
    if (older && s->opt.accept_loss && !adoptable)
        rc = accept_age(s, st, block);
    else if (older)
        rc = error_set(err, -ESTALE, "store '%s': its blocks are older than its catalog: they were put back from a copy; %s", store_name(s),
                       adoptable ? "the device has the catalog of that time too: 'init --adopt DEVICE' with a new directory takes over both"
                                 : "put back the catalog of the same time, or these blocks' newest state; if there is neither, 'parallax check --accept-loss' opens it without what they miss");
    free(block);
    return rc;
}

void store_refuse_catalog(struct store *s, struct error *err)
{
    error_set(err, -ESTALE, "store '%s': its catalog is older than its blocks: it was put back from a copy; %s", store_name(s),
              backing_catalog_copy(&s->backing) == BACKING_COPY_HELD ? "the device has a newer one: 'init --adopt DEVICE' with a new directory takes over both"
                                                                     : "put back the newest catalog, or the blocks of the same time");
}
