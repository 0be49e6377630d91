/* rig.c - see rig.h. */
#include "tests/support/rig.h"

#include "base/bdev.h"
#include "base/clock.h"
#include "tests/support/engine_fail.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PATIENCE_MS 300000u
#define REQUEST_BLOCKS 64u
#define REQUESTS 16u

/* ---- The store's life ---- */

int rig_try_open(struct rig *r, struct error *err) { return store_open(r->directory, r->loop, &r->options, &r->store, err); }

void rig_open(struct rig *r)
{
    struct error err = ERROR_NONE;
    if (rig_try_open(r, &err))
        engine_fail("opening the store: %s", err.text);
}

void rig_close(struct rig *r)
{
    int err = store_close(r->store);
    r->store = NULL;
    if (err)
        engine_fail("closing the store: %d", err);
}

void rig_start(struct rig *r, const char *parent, uint64_t size_bytes)
{
    struct error err = ERROR_NONE;
    struct store_create_options opt = { .size_bytes = size_bytes };
    char scratch[200];
    *r = (struct rig){ .store = NULL };
    snprintf(scratch, sizeof scratch, "%s/parallax-rig.XXXXXX", parent ? parent : "/var/tmp");
    if (!mkdtemp(scratch) || loop_create(&r->loop))
        engine_fail("no scratch directory in %s", parent ? parent : "/var/tmp");
    snprintf(r->directory, sizeof r->directory, "%s/store", scratch);
    if (store_create(r->directory, &opt, &err))
        engine_fail("creating the store: %s", err.text);
    rig_open(r);
}

/* Files two levels deep, which is all that a store has. */
static void remove_all(const char *path)
{
    DIR *d = opendir(path);
    for (struct dirent *e; d && (e = readdir(d));) {
        char name[600];
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
            continue;
        snprintf(name, sizeof name, "%s/%s", path, e->d_name);
        if (unlink(name))
            remove_all(name);
    }
    if (d)
        closedir(d);
    rmdir(path);
}

void rig_end(struct rig *r)
{
    if (r->store)
        rig_close(r);
    loop_destroy(r->loop);
    *strrchr(r->directory, '/') = 0;
    remove_all(r->directory);
}

void rig_wait(struct rig *r, bool (*condition)(struct rig *r, void *ctx), void *ctx, const char *what)
{
    uint64_t begun_ms = clock_monotonic_ms();
    while (!condition(r, ctx)) {
        loop_turn(r->loop, 20);
        if (clock_monotonic_ms() - begun_ms > PATIENCE_MS)
            engine_fail("%s does not come", what);
    }
}

/* ---- Operations ---- */

void rig_arm(struct store_op *op) { *op = (struct store_op){ .done = NULL }; }

static bool op_is_over; /* operations are waited for one at a time */

static void op_ended(struct store_op *op)
{
    (void)op;
    op_is_over = true;
}

static bool is_over(struct rig *r, void *ctx)
{
    (void)r;
    (void)ctx;
    return op_is_over;
}

int rig_run(struct rig *r, struct store_op *op)
{
    op_is_over = false;
    op->done = op_ended;
    rig_wait(r, is_over, NULL, "the end of an operation");
    return op->error.code;
}

static void must_run(struct rig *r, struct store_op *op, const char *what)
{
    if (rig_run(r, op))
        engine_fail("%s: %s", what, op->error.text);
}

void rig_create(struct rig *r, const char *name, uint64_t size_bytes)
{
    struct store_op op;
    rig_arm(&op);
    image_create(r->store, &op, name, size_bytes);
    must_run(r, &op, name);
}

void rig_delete(struct rig *r, const char *name)
{
    struct store_op op;
    rig_arm(&op);
    image_delete(r->store, &op, &name, 1, true, false);
    must_run(r, &op, name);
}

void rig_snapshot(struct rig *r, const char *target)
{
    struct store_op op;
    rig_arm(&op);
    snapshot_create(r->store, &op, &target, 1);
    must_run(r, &op, target);
}

void rig_unsnapshot(struct rig *r, const char *target)
{
    struct store_op op;
    rig_arm(&op);
    snapshot_delete(r->store, &op, &target, 1, false);
    must_run(r, &op, target);
}

void rig_clone(struct rig *r, const char *source, const char *name)
{
    struct store_op op;
    rig_arm(&op);
    image_clone(r->store, &op, source, name);
    must_run(r, &op, name);
}

void rig_checkpoint(struct rig *r)
{
    struct store_op op;
    rig_arm(&op);
    store_checkpoint(r->store, &op);
    must_run(r, &op, "a checkpoint");
}

static void finding(void *ctx, const char *line)
{
    (void)ctx;
    printf("# check: %s\n", line);
}

struct store_check_result rig_check(struct rig *r, unsigned flags)
{
    struct store_op op;
    struct store_check_result result;
    rig_arm(&op);
    store_check(r->store, &op, flags, finding, NULL, &result);
    must_run(r, &op, "a check");
    return result;
}

bool rig_is_sound(struct rig *r)
{
    struct store_check_result c = rig_check(r, STORE_CHECK_DATA);
    return !c.damaged && !c.dead_damaged && !c.leaked_blocks && !c.wrongly_free && !c.lost_pages && !c.overcounted && !c.undercounted;
}

struct store_status rig_status(struct rig *r)
{
    struct store_status st;
    memset(&st, 0, sizeof st);
    store_get_status(r->store, &st);
    return st;
}

static bool is_settled(struct rig *r, void *ctx)
{
    (void)ctx;
    struct store_status st = rig_status(r);
    return !st.deletions_pending && !st.held_blocks;
}

void rig_settle(struct rig *r)
{
    rig_checkpoint(r);
    rig_wait(r, is_settled, NULL, "the end of deletions");
    rig_checkpoint(r);
}

/* ---- Requests ---- */

struct image *rig_image(struct rig *r, const char *target, enum image_mode mode)
{
    struct error err = ERROR_NONE;
    struct image *img;
    struct image_open_options opt = { .mode = mode, .holder = "a test" };
    if (image_open(r->store, target, &opt, &img, &err))
        engine_fail("opening '%s': %s", target, err.text);
    return img;
}

struct transfer {
    struct image_req req;
    struct iovec iov;
    uint8_t *buffer;
    struct transfers *all;
};

struct transfers {
    struct image *img;
    enum image_op op;
    uint64_t next, end;
    uint32_t version;
    unsigned under_way;
    int error;
    bool differs;
    struct transfer slots[REQUESTS];
};

void rig_fill_block(void *block, uint64_t image_block, uint32_t version)
{
    uint64_t *w = block, x = (image_block + 1) * 0x9e3779b97f4a7c15u ^ version;
    for (unsigned i = 0; i < BDEV_BLOCK_SIZE / 8; i++)
        w[i] = version ? x += 0x9e3779b97f4a7c15u : 0;
}

static void transfer_next(struct transfer *t);

static void compare(struct transfer *t)
{
    uint64_t expected[BDEV_BLOCK_SIZE / 8];
    for (uint64_t i = 0; i < t->req.length / BDEV_BLOCK_SIZE; i++) {
        rig_fill_block(expected, t->req.offset / BDEV_BLOCK_SIZE + i, t->all->version);
        t->all->differs |= memcmp(expected, t->buffer + i * BDEV_BLOCK_SIZE, BDEV_BLOCK_SIZE) != 0;
    }
}

static void transferred(struct image_req *req, int error)
{
    struct transfer *t = container_of(req, struct transfer, req);
    t->all->under_way--;
    if (error && !t->all->error)
        t->all->error = error;
    else if (req->op == IMAGE_READ)
        compare(t);
    if (!t->all->error)
        transfer_next(t);
}

static void transfer_next(struct transfer *t)
{
    struct transfers *a = t->all;
    uint64_t n = a->end - a->next < REQUEST_BLOCKS ? a->end - a->next : REQUEST_BLOCKS;
    if (!n)
        return;
    t->iov = (struct iovec){ t->buffer, n * BDEV_BLOCK_SIZE };
    t->req = (struct image_req){ .op = a->op, .offset = a->next * BDEV_BLOCK_SIZE, .length = n * BDEV_BLOCK_SIZE, .iov = &t->iov, .iov_count = 1, .done = transferred };
    for (uint64_t i = 0; a->op == IMAGE_WRITE && i < n; i++)
        rig_fill_block(t->buffer + i * BDEV_BLOCK_SIZE, a->next + i, a->version);
    a->next += n;
    a->under_way++;
    image_submit(a->img, &t->req);
}

static bool all_over(struct rig *r, void *ctx)
{
    (void)r;
    return ((struct transfers *)ctx)->under_way == 0;
}

static int transfer_all(struct rig *r, struct transfers *a)
{
    for (unsigned i = 0; i < REQUESTS; i++) {
        a->slots[i].all = a;
        a->slots[i].buffer = bdev_buffer_alloc(REQUEST_BLOCKS);
        transfer_next(&a->slots[i]);
    }
    rig_wait(r, all_over, a, "the end of requests");
    for (unsigned i = 0; i < REQUESTS; i++)
        free(a->slots[i].buffer);
    return a->error;
}

int rig_write(struct rig *r, struct image *img, uint64_t first, uint64_t count, uint32_t version)
{
    struct transfers a = { .img = img, .op = IMAGE_WRITE, .next = first, .end = first + count, .version = version };
    return transfer_all(r, &a);
}

int rig_read(struct rig *r, struct image *img, uint64_t first, uint64_t count, uint32_t version, bool *same)
{
    struct transfers a = { .img = img, .op = IMAGE_READ, .next = first, .end = first + count, .version = version };
    int err = transfer_all(r, &a);
    *same = !a.differs;
    return err;
}

void rig_expect(struct rig *r, struct image *img, uint64_t first, uint64_t count, uint32_t version)
{
    bool same = false;
    int err = rig_read(r, img, first, count, version, &same);
    if (err || !same)
        engine_fail("blocks %llu … %llu: %s (%d)", (unsigned long long)first, (unsigned long long)(first + count - 1), err ? "cannot be read" : "wrong bytes", err);
}

/* One request of any kind without data. */
static int submit_one(struct rig *r, struct image *img, enum image_op op, uint64_t first, uint64_t count)
{
    struct transfers a = { .img = img, .under_way = 1 };
    a.slots[0] = (struct transfer){ .all = &a, .req = { .op = op, .offset = first * BDEV_BLOCK_SIZE, .length = count * BDEV_BLOCK_SIZE, .done = transferred } };
    image_submit(img, &a.slots[0].req);
    rig_wait(r, all_over, &a, "the end of a request");
    return a.error;
}

int rig_discard(struct rig *r, struct image *img, uint64_t first, uint64_t count) { return submit_one(r, img, IMAGE_DISCARD, first, count); }
int rig_flush(struct rig *r, struct image *img) { return submit_one(r, img, IMAGE_FLUSH, 0, 0); }

uint64_t rig_allocated_bytes(const struct rig *r)
{
    char path[300];
    struct stat st;
    snprintf(path, sizeof path, "%s/blocks", r->directory);
    return stat(path, &st) ? 0 : (uint64_t)st.st_blocks * 512;
}
