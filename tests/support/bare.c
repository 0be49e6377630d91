/* bare.c - see bare.h.
 *
 * Calls are held up by replacing some of the device's operations; the others are its own. One store at a time can be held. */
#include "tests/support/bare.h"

#include "base/clock.h"
#include "parallax/disk.h"
#include "parallax/store/memory.h"
#include "parallax/store_backing.h"
#include "tests/support/engine_fail.h"
#include "tests/support/engine_pattern.h"
#include "tests/support/unit.h"

#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define IMAGE_BYTES (1ull << 30)
#define PATIENCE_MS 60000u

static struct {
    struct bdev_ops ops;
    const struct bdev_ops *own;
    bool reads, writes, submitted_flushes, walks, flushes;
    struct list_node waiting;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    unsigned flushing, walking, writes_held;
    atomic_uint walk_ms;
} held = { .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER };

/* ---- Holding up ---- */

static void submit(struct bdev *d, struct bdev_req *req)
{
    held.writes_held += held.writes && req->op == BDEV_WRITE;
    if ((held.reads && req->op == BDEV_READ) || (held.writes && req->op == BDEV_WRITE) || (held.submitted_flushes && req->op == BDEV_FLUSH))
        list_add_tail(&held.waiting, &req->link);
    else
        held.own->submit(d, req);
}

static int flush(struct bdev *d)
{
    pthread_mutex_lock(&held.lock);
    held.flushing++;
    while (held.flushes)
        pthread_cond_wait(&held.changed, &held.lock);
    held.flushing--;
    pthread_mutex_unlock(&held.lock);
    return held.own->flush(d);
}

static void wait_to_walk(void)
{
    poll(NULL, 0, (int)atomic_load(&held.walk_ms));
    pthread_mutex_lock(&held.lock);
    held.walking++;
    while (held.walks)
        pthread_cond_wait(&held.changed, &held.lock);
    held.walking--;
    pthread_mutex_unlock(&held.lock);
}

static int read_blocking(struct bdev *d, uint64_t block, void *buffer, uint32_t blocks)
{
    wait_to_walk();
    return held.own->read(d, block, buffer, blocks);
}

static int read_many(struct bdev *d, const uint64_t *blocks, void *const *buffers, unsigned count)
{
    wait_to_walk();
    return held.own->read_many(d, blocks, buffers, count);
}

static void interpose(struct bare *b)
{
    held.own = b->backing.blocks->ops;
    held.ops = *held.own;
    held.ops.submit = submit;
    held.ops.flush = flush;
    held.ops.read = read_blocking;
    held.ops.read_many = read_many;
    held.reads = held.writes = held.submitted_flushes = held.walks = held.flushes = false;
    atomic_store(&held.walk_ms, 0);
    list_init(&held.waiting);
    b->backing.blocks->ops = &held.ops;
}

static void set_blocking(bool *kind, bool wait)
{
    pthread_mutex_lock(&held.lock);
    *kind = wait;
    pthread_cond_broadcast(&held.changed);
    pthread_mutex_unlock(&held.lock);
}

void bare_hold_reads(struct bare *b)
{
    (void)b;
    held.reads = true;
}

void bare_hold_writes(struct bare *b)
{
    (void)b;
    held.writes = true;
    held.writes_held = 0;
}

void bare_let_writes(struct bare *b)
{
    (void)b;
    held.writes = false;
}

unsigned bare_writes_held(struct bare *b)
{
    (void)b;
    return held.writes_held;
}

void bare_hold_submitted_flushes(struct bare *b)
{
    (void)b;
    held.submitted_flushes = true;
}

void bare_hold_flushes(struct bare *b)
{
    (void)b;
    set_blocking(&held.flushes, true);
}

bool bare_flush_held(struct bare *b)
{
    (void)b;
    pthread_mutex_lock(&held.lock);
    bool is = held.flushes && held.flushing;
    pthread_mutex_unlock(&held.lock);
    return is;
}

void bare_hold_walks(struct bare *b)
{
    (void)b;
    set_blocking(&held.walks, true);
}

void bare_slow_walks(struct bare *b, unsigned ms)
{
    (void)b;
    atomic_store(&held.walk_ms, ms);
}

void bare_release_walks(struct bare *b)
{
    (void)b;
    set_blocking(&held.walks, false);
}

bool bare_walk_held(struct bare *b)
{
    (void)b;
    pthread_mutex_lock(&held.lock);
    bool is = held.walks && held.walking;
    pthread_mutex_unlock(&held.lock);
    return is;
}

/* Those that the device gets now, of what was held. */
static void release(struct bare *b, bool writes_only)
{
    struct list_node now = LIST_INIT(now), *n;
    list_for_each_safe(i, &held.waiting)
        if (!writes_only || container_of(i, struct bdev_req, link)->op == BDEV_WRITE) {
            list_remove(i);
            list_add_tail(&now, i);
        }
    while ((n = list_pop(&now)))
        held.own->submit(b->backing.blocks, container_of(n, struct bdev_req, link));
}

void bare_release_writes(struct bare *b)
{
    held.writes = false;
    release(b, true);
}

void bare_release(struct bare *b)
{
    held.reads = held.writes = held.submitted_flushes = false;
    release(b, false);
    set_blocking(&held.flushes, false);
    set_blocking(&held.walks, false);
}

/* ---- Life ---- */

static void must(int err, const char *what, const struct error *why)
{
    if (err)
        engine_fail("%s: %s (%d)", what, why ? why->text : "", err);
}

int bare_open(struct bare *b)
{
    struct store_options opt = { .map_cache_bytes = 256u << 10, .block_cache_bytes = 1u << 20, .index_entries = b->index_entries,
                                 .reclaim_blocks = b->reclaim_blocks, .closing_ms = b->closing_ms, .accept_loss = b->accept_loss };
    struct image_open_options io = { .mode = IMAGE_READ_WRITE, .holder = "the test" };
    b->err = (struct error){ 0 };
    int rc = store_open_backing(&b->backing, b->loop, &opt, &b->store, &b->err);
    if (rc)
        b->store = NULL;
    else
        rc = image_open(b->store, "a", &io, &b->img, &b->err);
    return rc;
}

static uint64_t begun;

void bare_begin(struct bare *b, uint64_t store_bytes)
{
    struct error err = ERROR_NONE;
    struct store_options opt = { 0 };
    memset(b, 0, sizeof *b);
    b->store_bytes = store_bytes;
    b->index_entries = 65536;
    b->seed = unit_seed() + begun++; /* a test that begins several times means different ones, also by a given seed */
    must(loop_create(&b->loop), "making a loop", NULL);
    struct memory_options mo = { .loop = b->loop, .seed = b->seed, .initial_blocks = store_initial_blocks(store_bytes) };
    must(memory_create(&mo, &b->backing), "making a store in memory", NULL);
    interpose(b);
    must(store_create_backing(&b->backing, store_bytes, &err), "laying the store out", &err);
    must(store_open_backing(&b->backing, b->loop, &opt, &b->store, &err), "opening the store", &err);
    struct bare_run run;
    bare_arm(&run);
    image_create(b->store, &run.op, "a", IMAGE_BYTES);
    must(bare_wait(b, &run), "creating the image", &run.op.error);
    must(store_close(b->store), "closing the store", NULL);
    must(bare_open(b), "opening the store", &b->err);
}

static void close_store(struct bare *b)
{
    if (!b->store)
        return;
    image_close(b->img);
    must(store_close(b->store), "closing the store", NULL);
    b->store = NULL;
}

/* What the store has borrowed of its callers is still there; nothing turns the loop any more. */
static void die(struct bare *b, int (*crash)(struct backing *, uint64_t, struct loop *, struct backing *))
{
    struct backing left;
    uint64_t seed = unit_random(&b->seed);
    must(crash(&b->backing, seed, b->loop, &left), "ending the device", NULL);
    list_init(&held.waiting);
    held.reads = held.writes = held.submitted_flushes = false;
    set_blocking(&held.flushes, false);
    set_blocking(&held.walks, false);
    store_abandon(b->store);
    b->store = NULL;
    b->backing.close(&b->backing);
    b->backing = left;
    interpose(b);
}

void bare_kill(struct bare *b) { die(b, memory_kill); }
void bare_power_cut(struct bare *b) { die(b, memory_power_cut); }

void bare_reopen(struct bare *b)
{
    close_store(b);
    must(bare_open(b), "opening the store", &b->err);
}

void bare_end(struct bare *b)
{
    struct store_status status;
    if (b->store) {
        store_get_status(b->store, &status);
        if (status.failed)
            bare_kill(b);
        else
            close_store(b);
    }
    b->backing.close(&b->backing);
    loop_destroy(b->loop);
}

/* ---- Requests ---- */

static void io_done(struct image_req *req, int error) { container_of(req, struct bare_io, req)->error = error; }

void bare_submit(struct bare *b, struct bare_io *io, enum image_op op, uint64_t block, uint32_t blocks, uint32_t id)
{
    size_t bytes = (size_t)blocks * BDEV_BLOCK_SIZE;
    memset(io, 0, sizeof *io);
    io->error = BARE_PENDING;
    io->req = (struct image_req){ .op = op, .offset = block * BDEV_BLOCK_SIZE, .length = bytes, .done = io_done };
    if (op == IMAGE_READ || op == IMAGE_WRITE) {
        io->memory = bdev_buffer_alloc(blocks);
        if (!io->memory)
            engine_fail("out of memory");
        if (op == IMAGE_WRITE)
            pattern_fill(io->memory, id, block * 8, blocks * 8ull);
        io->iov = (struct iovec){ io->memory, bytes };
        io->req.iov = &io->iov;
        io->req.iov_count = 1;
    }
    image_submit(b->img, &io->req);
}

void bare_io_fini(struct bare_io *io)
{
    free(io->memory);
    io->memory = NULL;
}

int bare_io_wait(struct bare *b, struct bare_io *io)
{
    uint64_t until_ms = clock_monotonic_ms() + PATIENCE_MS;
    while (io->error == BARE_PENDING) {
        loop_turn(b->loop, 20);
        if (clock_monotonic_ms() > until_ms)
            engine_fail("a request is not answered");
    }
    return io->error;
}

static int request(struct bare *b, enum image_op op, uint64_t block, uint32_t blocks, uint32_t id)
{
    struct bare_io io;
    bare_submit(b, &io, op, block, blocks, id);
    int err = bare_io_wait(b, &io);
    bare_io_fini(&io);
    return err;
}

int bare_write(struct bare *b, uint64_t block, uint32_t blocks, uint32_t id) { return request(b, IMAGE_WRITE, block, blocks, id); }
int bare_discard(struct bare *b, uint64_t block, uint32_t blocks) { return request(b, IMAGE_DISCARD, block, blocks, 0); }
int bare_flush(struct bare *b) { return request(b, IMAGE_FLUSH, 0, 0, 0); }

int64_t bare_read(struct bare *b, uint64_t block)
{
    struct bare_io io;
    bare_submit(b, &io, IMAGE_READ, block, 1, 0);
    int64_t answer = bare_io_wait(b, &io);
    if (!answer) {
        answer = pattern_id(io.memory, block * 8);
        for (unsigned s = 1; s < 8; s++)
            if (pattern_id((uint8_t *)io.memory + s * 512, block * 8 + s) != answer)
                answer = PATTERN_BAD;
    }
    bare_io_fini(&io);
    return answer;
}

void bare_turn(struct bare *b, unsigned turns)
{
    while (turns--)
        loop_turn(b->loop, 1);
}

/* ---- Operations ---- */

static void run_done(struct store_op *op) { container_of(op, struct bare_run, op)->done = true; }

void bare_arm(struct bare_run *run)
{
    memset(run, 0, sizeof *run);
    run->op.done = run_done;
}

int bare_wait(struct bare *b, struct bare_run *run)
{
    uint64_t until_ms = clock_monotonic_ms() + PATIENCE_MS;
    while (!run->done) {
        loop_turn(b->loop, 20);
        if (clock_monotonic_ms() > until_ms)
            engine_fail("an operation does not end");
    }
    b->err = run->op.error;
    return run->op.error.code;
}

int bare_checkpoint(struct bare *b)
{
    struct bare_run run;
    bare_arm(&run);
    store_checkpoint(b->store, &run.op);
    return bare_wait(b, &run);
}

int bare_snapshot(struct bare *b, const char *target)
{
    struct bare_run run;
    bare_arm(&run);
    snapshot_create(b->store, &run.op, &target, 1);
    return bare_wait(b, &run);
}

void bare_begin_held_checkpoint(struct bare *b, struct bare_run *run)
{
    uint64_t until_ms = clock_monotonic_ms() + PATIENCE_MS;
    bare_hold_walks(b);
    bare_arm(run);
    store_checkpoint(b->store, &run->op);
    while (!bare_walk_held(b)) {
        loop_turn(b->loop, 5);
        if (clock_monotonic_ms() > until_ms)
            engine_fail("a checkpoint reads no map");
    }
}

static void finding(void *ctx, const char *line)
{
    (void)ctx;
    printf("# check: %s\n", line);
}

bool bare_is_sound(struct bare *b)
{
    struct bare_run run;
    struct store_check_result r = { 0 };
    bare_arm(&run);
    store_check(b->store, &run.op, true, finding, NULL, &r);
    return bare_wait(b, &run) == 0 && !r.damaged && !r.leaked_blocks && !r.wrongly_free && !r.overcounted && !r.undercounted;
}

/* ---- The device ---- */

void bare_get(struct bare *b, uint64_t address, void *block) { must(bdev_read(b->backing.blocks, address, block, 1), "reading the device", NULL); }
void bare_put(struct bare *b, uint64_t address, const void *block) { must(bdev_write(b->backing.blocks, address, block, 1), "writing the device", NULL); }

static struct super superblock(struct bare *b)
{
    uint8_t block[BDEV_BLOCK_SIZE];
    struct super s;
    bare_get(b, 0, block);
    must(super_decode(block, &s), "the superblock", NULL);
    return s;
}

uint64_t bare_address(struct bare *b, uint64_t block, uint32_t id)
{
    uint8_t wanted[BDEV_BLOCK_SIZE], got[BDEV_BLOCK_SIZE];
    pattern_fill(wanted, id, block * 8, 8);
    for (uint64_t a = superblock(b).zone_start; a < bdev_blocks(b->backing.blocks); a++) {
        bare_get(b, a, got);
        if (!memcmp(wanted, got, sizeof got))
            return a;
    }
    return 0;
}

uint64_t bare_journal(struct bare *b, unsigned back)
{
    struct super s = superblock(b);
    uint8_t block[BDEV_BLOCK_SIZE];
    struct jheader h, last = { 0 };
    for (uint64_t i = 0; i < s.journal_blocks; i++) {
        bare_get(b, s.journal_start + i, block);
        if (!jblock_open(block, s.seed, &h) && (h.epoch > last.epoch || (h.epoch == last.epoch && h.seq > last.seq)))
            last = h;
    }
    return last.seq > back ? s.journal_start + (last.seq - back) % s.journal_blocks : 0;
}
