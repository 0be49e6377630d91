/* parallax_pressure_test.c - a small store that is always full: writes, discards, snapshots, clones, sizes, deletions, shares,
 * checks and crashes at random, beside an oracle. Whatever comes, no checkpoint may lack room, every request is answered, nothing
 * leaks, and what is read is what was written (docs/consistency.md, S1).
 *
 * An image has SLOTS blocks that are written, in clusters that lie near each other or as far apart as maps have branches.
 * SEED, STEPS (of each session), SESSIONS. */
#include "base/clock.h"
#include "tests/support/bare.h"
#include "tests/support/engine_fail.h"
#include "tests/support/unit.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SLOTS = 256, CLUSTER = 32, IMAGES = 40, SNAPSHOTS = 6, TOGETHER = 48 };

struct frozen {
    char name[64];
    uint64_t blocks;
    uint32_t ids[SLOTS];
};

struct disk {
    bool alive;
    char name[32];
    uint64_t blocks, stride;
    uint32_t ids[SLOTS];
    struct image *img;
    struct frozen snapshots[SNAPSHOTS];
    unsigned snapshot_count;
    bool busy[SLOTS];
};

static struct bare b;
static struct disk disks[IMAGES];
static uint64_t rnd;
static uint32_t next_id, next_name;
static uint64_t refused, done_count, crashes;

static uint64_t pick(uint64_t n) { return unit_random(&rnd) % n; }
static uint64_t slot_block(const struct disk *d, unsigned s) { return s / CLUSTER * d->stride + s % CLUSTER; }

static void alive(void)
{
    struct store_status st;
    store_get_status(b.store, &st);
    if (st.failed)
        engine_fail("the store has failed");
    if (st.overdrawn_blocks)
        engine_fail("checkpoints took %llu blocks more than had been kept for them", (unsigned long long)st.overdrawn_blocks);
}

static int wait_run(struct bare_run *run, bool full_allowed)
{
    int err = bare_wait(&b, run);
    alive();
    if (err && !(full_allowed && err == -ENOSPC))
        engine_fail("an operation ended with %d: %s", err, b.err.text);
    return err;
}

static struct disk *some_disk(void)
{
    for (unsigned i = 0; i < 200; i++) {
        struct disk *d = &disks[pick(IMAGES)];
        if (d->alive)
            return d;
    }
    return &disks[0];
}

/* Named, and not alive yet; NULL: there are as many as there may be. */
static struct disk *new_disk(void)
{
    for (unsigned i = 1; i < IMAGES; i++) {
        struct disk *d = &disks[i];
        if (d->alive)
            continue;
        memset(d, 0, sizeof *d);
        snprintf(d->name, sizeof d->name, "i%u", next_name++);
        return d;
    }
    return NULL;
}

static void open_disk(struct disk *d)
{
    struct image_open_options io = { .mode = IMAGE_READ_WRITE };
    if (!d->img && image_open(b.store, d->name, &io, &d->img, &b.err))
        engine_fail("%s does not open: %s", d->name, b.err.text);
}

static void close_disk(struct disk *d)
{
    if (d->img)
        image_close(d->img);
    d->img = NULL;
}

static void expect(const char *name, const uint32_t *ids, const struct disk *d, uint64_t blocks, struct image *img, unsigned samples)
{
    b.img = img;
    for (unsigned i = 0; i < samples; i++) {
        unsigned s = samples == SLOTS ? i : (unsigned)pick(SLOTS);
        if (slot_block(d, s) >= blocks)
            continue;
        int64_t got = bare_read(&b, slot_block(d, s));
        if (got != ids[s])
            engine_fail("%s: block %llu holds %lld instead of %u", name, (unsigned long long)slot_block(d, s), (long long)got, ids[s]);
    }
    b.img = disks[0].img;
}

static void verify_all(unsigned samples)
{
    struct image_open_options io = { .mode = IMAGE_READ_ONLY };
    for (unsigned i = 0; i < IMAGES; i++) {
        struct disk *d = &disks[i];
        struct image *img;
        if (!d->alive)
            continue;
        open_disk(d);
        expect(d->name, d->ids, d, d->blocks, d->img, samples);
        for (unsigned k = 0; k < d->snapshot_count; k++) {
            if (image_open(b.store, d->snapshots[k].name, &io, &img, &b.err))
                engine_fail("%s does not open: %s", d->snapshots[k].name, b.err.text);
            expect(d->snapshots[k].name, d->snapshots[k].ids, d, d->snapshots[k].blocks, img, samples);
            image_close(img);
        }
        if (pick(2) && i)
            close_disk(d);
    }
}

/* ---- Requests ---- */

struct change {
    struct bare_io io;
    struct disk *d;
    uint64_t first, count;
    uint32_t id;
};

static bool is_idle(struct disk *d, uint64_t first, uint64_t count, bool mark)
{
    for (unsigned s = 0; s < SLOTS; s++) {
        uint64_t at = slot_block(d, s);
        if (at < first || at - first >= count)
            continue;
        if (d->busy[s])
            return false;
        d->busy[s] |= mark;
    }
    return true;
}

static void submit_change(struct change *c, bool discard)
{
    is_idle(c->d, c->first, c->count, true);
    open_disk(c->d);
    b.img = c->d->img;
    bare_submit(&b, &c->io, discard ? IMAGE_DISCARD : IMAGE_WRITE, c->first, (uint32_t)c->count, c->id);
    b.img = disks[0].img;
}

static bool begin_change(struct change *c)
{
    struct disk *d = c->d = some_disk();
    unsigned s = (unsigned)pick(SLOTS), n = 1 + (unsigned)pick(CLUSTER - s % CLUSTER);
    bool discard = pick(100) < 18;
    c->first = slot_block(d, s);
    c->count = pick(3) ? n : 1;
    c->id = discard || pick(30) == 0 ? 0 : ++next_id;
    if (discard && pick(3) == 0) {
        uint64_t last = slot_block(d, s + (unsigned)pick(SLOTS - s));
        c->first -= c->first ? pick(c->first < 300 ? c->first : 300) : 0;
        c->count = last - c->first + 1 + pick(300);
    }
    if (c->first >= d->blocks)
        return false;
    c->count = c->count > d->blocks - c->first ? d->blocks - c->first : c->count;
    if (!is_idle(d, c->first, c->count, false))
        return false;
    submit_change(c, discard);
    return true;
}

static void end_changes(struct change *all, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        struct change *c = &all[i];
        uint64_t until_ms = clock_monotonic_ms() + 30000;
        while (c->io.error == BARE_PENDING) {
            bare_turn(&b, 1);
            if (clock_monotonic_ms() > until_ms)
                engine_fail("a request is not answered: %s %llu+%llu id %u", c->d->name, (unsigned long long)c->first, (unsigned long long)c->count, c->id);
        }
        alive();
        if (c->io.error && c->io.error != -ENOSPC)
            engine_fail("a request ended with %d", c->io.error);
        refused += c->io.error != 0;
        done_count += c->io.error == 0;
        for (unsigned s = 0; s < SLOTS; s++) {
            uint64_t at = slot_block(c->d, s);
            if (at >= c->first && at - c->first < c->count) {
                c->d->busy[s] = false;
                if (!c->io.error)
                    c->d->ids[s] = c->id;
            }
        }
        bare_io_fini(&c->io);
    }
}

static void changes_together(void)
{
    static struct change all[TOGETHER];
    unsigned n = 0, most = pick(4) ? 1 + (unsigned)pick(6) : TOGETHER;
    for (unsigned tries = 0; tries < 2 * most && n < most; tries++)
        n += begin_change(&all[n]);
    if (pick(8) == 0)
        bare_flush(&b);
    end_changes(all, n);
}

/* As a file system is made: all is discarded, and something is written here and there. */
static void make_anew(void)
{
    static struct change discard, all[SLOTS];
    struct disk *d = some_disk();
    unsigned n = 0, apart = 1 + (unsigned)pick(CLUSTER);
    if (d == &disks[0])
        return;
    discard = (struct change){ .d = d, .count = d->blocks > UINT32_MAX ? UINT32_MAX : d->blocks };
    submit_change(&discard, true);
    for (unsigned s = (unsigned)pick(apart); s < SLOTS && slot_block(d, s) < d->blocks; s += apart) {
        all[n] = (struct change){ .d = d, .first = slot_block(d, s), .count = 1, .id = ++next_id };
        submit_change(&all[n++], false);
    }
    end_changes(&discard, 1);
    end_changes(all, n);
}

/* ---- Operations ---- */

static void remember(struct disk *d)
{
    struct frozen *f = &d->snapshots[d->snapshot_count++];
    char image[sizeof d->name];
    memcpy(image, d->name, sizeof image);
    snprintf(f->name, sizeof f->name, "%s@s%u", image, next_name++);
    f->blocks = d->blocks;
    memcpy(f->ids, d->ids, sizeof f->ids);
}

static void make_snapshots(void)
{
    const char *names[8];
    struct bare_run run;
    unsigned n = 0, most = 1 + (unsigned)pick(8);
    for (unsigned i = (unsigned)pick(IMAGES), k = 0; k < IMAGES && n < most; k++, i = (i + 1) % IMAGES)
        if (disks[i].alive && disks[i].snapshot_count < SNAPSHOTS) {
            remember(&disks[i]);
            names[n++] = disks[i].snapshots[disks[i].snapshot_count - 1].name;
        }
    if (!n)
        return;
    bare_arm(&run);
    snapshot_create(b.store, &run.op, names, n);
    wait_run(&run, false);
}

static void delete_snapshots(void)
{
    for (unsigned tries = 0, most = 1 + (unsigned)pick(30); tries < most; tries++) {
        struct disk *d = some_disk();
        if (!d->snapshot_count)
            continue;
        unsigned k = (unsigned)pick(d->snapshot_count);
        const char *name = d->snapshots[k].name;
        struct bare_run run;
        bare_arm(&run);
        snapshot_delete(b.store, &run.op, &name, 1, false);
        wait_run(&run, false);
        d->snapshots[k] = d->snapshots[--d->snapshot_count];
    }
}

static void create_disk(uint64_t blocks)
{
    static const uint64_t strides[] = { 32, 32, 64, 256, 256, 4096, 65536, 1u << 24 };
    struct disk *d = new_disk();
    struct bare_run run;
    if (!d)
        return;
    d->stride = strides[pick(sizeof strides / sizeof *strides)];
    d->blocks = blocks ? blocks : 1 + pick(slot_block(d, SLOTS - 1) + 1000);
    bare_arm(&run);
    image_create(b.store, &run.op, d->name, d->blocks * BDEV_BLOCK_SIZE);
    wait_run(&run, false);
    d->alive = true;
}

static void clone_disks(void)
{
    struct disk *source = some_disk();
    unsigned k = source->snapshot_count ? (unsigned)pick(source->snapshot_count + 1) : 0;
    const struct frozen *f = k ? &source->snapshots[k - 1] : NULL;
    for (unsigned n = 1 + (unsigned)pick(6); n; n--) {
        struct disk *d = new_disk();
        struct bare_run run;
        if (!d)
            return;
        d->stride = source->stride;
        d->blocks = f ? f->blocks : source->blocks;
        memcpy(d->ids, f ? f->ids : source->ids, sizeof d->ids);
        bare_arm(&run);
        image_clone(b.store, &run.op, f ? f->name : source->name, d->name);
        wait_run(&run, false);
        d->alive = true;
    }
}

static void delete_disk(void)
{
    struct disk *d = some_disk();
    struct bare_run run;
    const char *name = d->name;
    if (d == &disks[0])
        return;
    close_disk(d);
    bare_arm(&run);
    image_delete(b.store, &run.op, &name, 1, true, false);
    wait_run(&run, false);
    d->alive = false;
}

static void resize_disk(void)
{
    struct disk *d = some_disk();
    struct bare_run run;
    if (d == &disks[0])
        return;
    uint64_t most = slot_block(d, SLOTS - 1) + 1000, blocks = pick(5) ? 1 + pick(most) : pick(2) ? 1ull << 32 : 1;
    close_disk(d);
    bare_arm(&run);
    image_resize(b.store, &run.op, d->name, blocks * BDEV_BLOCK_SIZE, true);
    if (wait_run(&run, true))
        return;
    for (unsigned s = 0; s < SLOTS; s++)
        if (slot_block(d, s) >= blocks)
            d->ids[s] = 0;
    d->blocks = blocks;
}

static void roll_back(void)
{
    struct disk *d = some_disk();
    struct bare_run run;
    if (d == &disks[0] || !d->snapshot_count)
        return;
    const struct frozen *f = &d->snapshots[pick(d->snapshot_count)];
    close_disk(d);
    bare_arm(&run);
    snapshot_rollback(b.store, &run.op, f->name, NULL);
    wait_run(&run, false);
    memcpy(d->ids, f->ids, sizeof d->ids);
    d->blocks = f->blocks;
}

static void share(void)
{
    struct image_dedup out;
    struct bare_run run;
    bare_arm(&run);
    image_dedup(b.store, &run.op, some_disk()->name, &out);
    wait_run(&run, true);
}

/* A check reads for as long as it lasts: what is freed meanwhile is held. */
static void ignore(void *ctx, const char *line) { (void)ctx, (void)line; }
static struct bare_run check;
static struct store_check_result checked;
static bool checking;

static void end_check(void)
{
    if (!checking)
        return;
    bare_slow_walks(&b, 0);
    checking = false;
    wait_run(&check, false);
    if (checked.damaged || checked.leaked_blocks || checked.wrongly_free || checked.overcounted || checked.undercounted)
        engine_fail("the check found something");
}

static void begin_check(void)
{
    end_check();
    checking = true;
    bare_arm(&check);
    store_check(b.store, &check.op, 0, ignore, NULL, &checked);
    bare_slow_walks(&b, 1);
}

/* ---- Sessions ---- */

static void reopen(void)
{
    if (bare_open(&b))
        engine_fail("the store does not open: %s", b.err.text);
    disks[0].img = b.img;
}

static void crash(void)
{
    bool power = pick(2);
    if (checking && pick(2))
        end_check();
    if (power)
        bare_flush(&b);
    b.index_entries = pick(2) ? 1 : 1024u << pick(6);
    b.reclaim_blocks = pick(3) ? 0 : 50;
    for (unsigned i = 0; i < IMAGES; i++)
        disks[i].img = NULL; /* handles end with the store */
    checking = false;
    (power ? bare_power_cut : bare_kill)(&b);
    reopen();
    crashes++;
    alive();
    verify_all(8);
}

static void step(void)
{
    unsigned what = (unsigned)pick(1000);
    if (what < 670) changes_together();
    else if (what < 700) make_anew();
    else if (what < 770) make_snapshots();
    else if (what < 800) delete_snapshots();
    else if (what < 820) create_disk(0);
    else if (what < 870) clone_disks();
    else if (what < 885) delete_disk();
    else if (what < 930) resize_disk();
    else if (what < 945) roll_back();
    else if (what < 950) share();
    else if (what < 954) begin_check();
    else if (what < 967) end_check();
    else if (what < 970) crash();
    else if (what < 985) bare_slow_walks(&b, checking ? 1 : (unsigned)pick(2));
    else if (pick(2)) bare_checkpoint(&b);
    if (refused > 60) { /* somebody makes room, for a while */
        refused = 0;
        delete_snapshots();
        if (pick(4) == 0)
            delete_disk();
    }
}

static void session(unsigned steps)
{
    memset(disks, 0, sizeof disks);
    bare_begin(&b, (32ull + pick(4) * 8) << 20);
    refused = 0;
    checking = false;
    disks[0] = (struct disk){ .alive = true, .name = "a", .blocks = 1u << 18, .stride = 1024, .img = b.img };
    uint64_t at = 200000, left = 1500 + pick(1500); /* most of it is somebody's who stays */
    for (struct store_status st; store_get_status(b.store, &st), (st.capacity_bytes - st.used_bytes) / BDEV_BLOCK_SIZE > left; at += 64)
        if (bare_write(&b, at, 64, 1) || bare_checkpoint(&b))
            break;
    for (unsigned i = 0; i < 6; i++)
        create_disk(0);
    for (unsigned i = 0; i < steps; i++)
        step();
    end_check();
    verify_all(SLOTS);
    for (unsigned i = 0; i < IMAGES; i++)
        if (i)
            close_disk(&disks[i]);
    if (!bare_is_sound(&b))
        engine_fail("the check found something at the end");
    b.img = disks[0].img;
    bare_end(&b);
}

static void whatever_comes_to_a_full_store_it_goes_on(void)
{
    uint64_t steps = unit_number("STEPS", 400), sessions = unit_number("SESSIONS", 2);
    rnd = unit_seed();
    engine_where = (struct engine_where){ __func__, rnd, 0 };
    for (uint64_t i = 0; i < sessions; i++)
        session((unsigned)steps);
    printf("# %llu changes, %llu crashes\n", (unsigned long long)done_count, (unsigned long long)crashes);
    CU_ASSERT(done_count > 0);
}

int main(int argc, char **argv)
{
    return unit_main(argc, argv, "pressure", (struct unit_test[]){ UNIT(whatever_comes_to_a_full_store_it_goes_on), { 0 } });
}
