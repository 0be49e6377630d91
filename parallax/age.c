/* age.c - whether the blocks and the catalog are of one time, before anything is written (consistency.md, R4 and R5).
 *
 * The time is how often the catalog was committed: by checkpoints and by verdicts of recovery.
 * 1. The time that a commit makes is announced on the device before, durably with what the commit names (C1), and written down once
 *    more after it. That is not flushed: it tells more when it is there, and nothing depends on it.
 * 2. Two announcements alternate, so that the one of the catalog's time is whole while the next is written.
 * 3. So blocks that tell of no time but earlier ones are older than the catalog; and the catalog is older than the blocks if the
 *    announcements go further than to its next commit, or if that was committed. Of the three blocks any one may rot: opening
 *    writes once more what is not as a commit leaves it.
 * 4. A store of which one half was put back may reach the same time twice: each commit has a random tag, in the catalog and beside
 *    its time.
 * 5. Blocks whose age was accepted keep their times until the catalog says that their space map is not believed: who dies before
 *    that finds them refused again. */
#include "parallax/parallax_private.h"

#include "base/log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

static uint64_t time_of(const struct stored_state *st) { return st->checkpoint + st->epoch; }

uint32_t store_new_tag(void)
{
    uint32_t tag;
    return getrandom(&tag, sizeof tag, 0) == sizeof tag ? tag : 0;
}

static int write_time(struct bdev *blocks, const struct super *super, uint64_t address, const struct stored_state *st)
{
    uint8_t *block = bdev_buffer_alloc(1);
    if (!block)
        return -ENOMEM;
    time_encode(block, super->seed, time_of(st), st->tag);
    int err = bdev_write(blocks, address, block, 1);
    free(block);
    return err;
}

int store_announce(struct store *s, const struct stored_state *st)
{
    return s->super.timed && !s->age_accepted ? write_time(s->blocks, &s->super, TIME_ANNOUNCED + time_of(st) % 2, st) : 0;
}

void store_committed(struct store *s, const struct stored_state *st)
{
    int err = s->super.timed && !s->age_accepted ? write_time(s->blocks, &s->super, TIME_COMMITTED, st) : 0;
    if (err)
        log_warning("the time of a commit is not written down: an older catalog that is put back might not be noticed store=%s error=%d", store_name(s), err);
}

int store_begin_time(struct bdev *blocks, const struct super *super, const struct stored_state *st)
{
    int err = 0;
    for (uint64_t address = TIME_ANNOUNCED; address <= TIME_COMMITTED && !err; address++)
        err = write_time(blocks, super, address, st);
    return err;
}

/* What the catalog says now is durable. Should a time be missing after a crash, the others are no later: it is refused again. */
void store_end_acceptance(struct store *s, const struct stored_state *st)
{
    if (!s->age_accepted)
        return;
    int err = store_begin_time(s->blocks, &s->super, st);
    if (!err)
        err = bdev_flush(s->blocks);
    s->age_accepted = err != 0;
    if (err)
        log_warning("the time of blocks that were accepted is not written down: they will be refused again store=%s error=%d", store_name(s), err);
}

struct told {
    uint64_t time; /* 0: nothing */
    uint32_t tag;
};

/* What the blocks say. */
struct times {
    struct told announced[2], committed;
    uint64_t last; /* that was announced */
};

/* What cannot be read, at a second attempt too, tells nothing. */
static struct told read_time(struct bdev *blocks, const struct super *super, uint64_t address, uint8_t *block)
{
    bool read = !bdev_read(blocks, address, block, 1) || !bdev_read(blocks, address, block, 1);
    return read ? (struct told){ time_decode(block, super->seed), time_tag(block) } : (struct told){ 0 };
}

static int read_times(struct bdev *blocks, const struct super *super, struct times *t)
{
    uint8_t *block = bdev_buffer_alloc(1);
    if (!block)
        return -ENOMEM;
    for (unsigned i = 0; i < 2; i++)
        t->announced[i] = read_time(blocks, super, TIME_ANNOUNCED + i, block);
    t->committed = read_time(blocks, super, TIME_COMMITTED, block);
    t->last = t->announced[0].time > t->announced[1].time ? t->announced[0].time : t->announced[1].time;
    free(block);
    return 0;
}

static bool blocks_are_older(const struct times *t, const struct stored_state *st)
{
    uint64_t reached = t->last > t->committed.time ? t->last : t->committed.time;
    return reached && reached < time_of(st);
}

static bool catalog_is_older(const struct times *t, const struct stored_state *st) { return t->last > time_of(st) + 1 || t->committed.time > time_of(st); }

/* Of the catalog's time, but of another commit. */
static bool is_other(const struct told *t, const struct stored_state *st) { return t->time == time_of(st) && t->tag && st->tag && t->tag != st->tag; }

/* The first checkpoint says so in the catalog; then the times agree. What the catalog names may lie behind the end of shorter blocks:
 * they are made as long as it may ask for, or what is put there later would have two users. */
static int accept_blocks(struct store *s, struct error *err)
{
    uint64_t end = space_stored_end(&s->space);
    end = end < s->blocks->max_blocks ? end : s->blocks->max_blocks;
    int rc = end > bdev_blocks(s->blocks) ? bdev_grow(s->blocks, end) : 0;
    if (rc)
        return error_set(err, rc, "store '%s': its blocks are older than its catalog, and cannot be made as long as that knows them (%llu bytes): %s", store_name(s),
                         (unsigned long long)end * BDEV_BLOCK_SIZE, strerror(-rc));
    log_warning("blocks older than their catalog are accepted: what they miss is lost, and no free block is known store=%s", store_name(s));
    space_lose_pages(&s->space);
    space_set_usable(&s->space, bdev_blocks(s->blocks));
    s->age_accepted = true;
    return 0;
}

static int refuse_blocks(struct store *s, struct error *err)
{
    bool adoptable = backing_copy_age(&s->backing) < 0;
    if (s->opt.accept_loss && !adoptable)
        return accept_blocks(s, err);
    return error_set(err, -ESTALE, "store '%s': its blocks are older than its catalog: they were put back from a copy; %s", store_name(s),
                     adoptable ? "the device has the catalog of that time too: 'init --adopt DEVICE' with a new directory takes over both"
                               : "put back the catalog of the same time, or these blocks' newest state; if there is neither, 'parallax check --accept-loss' opens it without what they miss");
}

static int refuse_catalog(struct store *s, struct error *err)
{
    return error_set(err, -ESTALE, "store '%s': its catalog is older than its blocks: it was put back from a copy; %s", store_name(s),
                     backing_copy_age(&s->backing) > 0 ? "the device has a newer one: 'init --adopt DEVICE' with a new directory takes over both"
                                                       : "put back the newest catalog, or the blocks of the same time");
}

static int refuse_both(struct store *s, struct error *err)
{
    return error_set(err, -ESTALE, "store '%s': its blocks and its catalog are of different histories: one of them was put back from a copy; put back both from one copy, "
                     "or the one that belongs to the other", store_name(s));
}

int store_check_age(struct store *s, const struct stored_state *st, struct error *err)
{
    struct times t;
    int rc = s->super.timed ? read_times(s->blocks, &s->super, &t) : 0;
    if (rc || !s->super.timed)
        return rc;
    if (blocks_are_older(&t, st))
        return refuse_blocks(s, err);
    if (catalog_is_older(&t, st))
        return refuse_catalog(s, err);
    if (is_other(&t.announced[time_of(st) % 2], st) || is_other(&t.committed, st))
        return refuse_both(s, err);
    s->time_gone = t.announced[time_of(st) % 2].time != time_of(st);
    s->commit_unnoted = t.committed.time != time_of(st);
    return 0;
}

static int take_state(void *ctx, const void *key, size_t key_length, const void *value, size_t length)
{
    struct stored_state *st = ctx;
    if (key_length != 1 || *(const uint8_t *)key != 'S')
        return 0;
    state_fini(st);
    return state_decode(value, length, st);
}

int age_check_adopted(struct bdev *blocks, struct catalog *catalog)
{
    struct stored_state st = { 0 };
    struct super super;
    struct times t;
    int rc = super_read(blocks, &super);
    if (!rc && super.timed)
        rc = catalog_scan(catalog, "store", NULL, take_state, &st);
    if (!rc && super.timed)
        rc = read_times(blocks, &super, &t);
    if (!rc && super.timed && catalog_is_older(&t, &st))
        rc = -ESTALE;
    state_fini(&st);
    return rc;
}

void store_settle_age(struct store *s, const struct stored_state *st)
{
    if (s->time_gone) {
        int err = write_time(s->blocks, &s->super, TIME_ANNOUNCED + time_of(st) % 2, st);
        log_warning("a block that tells the time of the last commit was damaged and is written anew store=%s error=%d", store_name(s), err);
    }
    if (s->commit_unnoted)
        store_committed(s, st);
}
