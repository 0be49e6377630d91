/* engine_verify.c - reading whole images and comparing them with the oracle.
 *
 * All tracked blocks are read, window by window, and in an image larger than those a few places beside them, which must be
 * zero. */
#include "tests/support/engine.h"
#include "tests/support/engine_pattern.h"
#include "tests/support/engine_tasks.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct one_read {
    struct image_req req;
    struct iovec iov;
    int error;
    bool done;
};

static void read_done(struct image_req *req, int error)
{
    struct one_read *r = container_of(req, struct one_read, req);
    r->error = error;
    r->done = true;
}

static bool read_is_done(struct engine *e, void *ctx)
{
    (void)e;
    return ((struct one_read *)ctx)->done;
}

int engine_read(struct engine *e, struct image *img, uint64_t first_sector, uint64_t sectors, void *buf)
{
    struct one_read r = { .iov = { buf, sectors * 512 } };
    if (!e->store)
        return -EIO;
    r.req.op = IMAGE_READ;
    r.req.offset = first_sector * 512;
    r.req.length = sectors * 512;
    r.req.iov = &r.iov;
    r.req.iov_count = 1;
    r.req.done = read_done;
    image_submit(img, &r.req);
    engine_wait(e, read_is_done, &r, "a read");
    return e->store && r.done ? r.error : -EIO;
}

/* The image's tracked blocks as ids, 8 a block: a new array, or NULL with the error. */
static uint32_t *read_ids(struct engine *e, struct image *img, uint64_t size_bytes, int *error)
{
    uint32_t count = content_index_below((size_bytes + 4095) / 4096);
    uint32_t *ids = engine_alloc((count * CONTENT_SECTORS + 1) * sizeof *ids);
    uint8_t *buf = NULL;
    if (posix_memalign((void **)&buf, 4096, IMAGE_REQUEST_MAX))
        engine_fail("out of memory");
    *error = 0;
    for (uint32_t i = 0, run; i < count && !*error; i += run) {
        uint64_t block = content_block_of(i), first = block * CONTENT_SECTORS;
        for (run = 1; run < 256 && i + run < count && content_block_of(i + run) == block + run; run++)
            ;
        uint64_t sectors = run * CONTENT_SECTORS;
        if (sectors > size_bytes / 512 - first)
            sectors = size_bytes / 512 - first;
        *error = engine_read(e, img, first, sectors, buf);
        for (uint64_t s = 0; s < sectors && !*error; s++)
            ids[i * CONTENT_SECTORS + s] = pattern_id(buf + s * 512, first + s);
    }
    free(buf);
    if (!*error)
        return ids;
    free(ids);
    return NULL;
}

static void read_beside(struct engine *e, struct image *img, const char *target, uint64_t size_bytes)
{
    uint8_t *buf = NULL;
    if (posix_memalign((void **)&buf, 4096, 65536))
        engine_fail("out of memory");
    for (unsigned i = 0; i < 3 && size_bytes > 64ull << 20; i++) {
        uint64_t sector = world_random(&e->world, size_bytes / 512 - 128) & ~7ull;
        uint32_t below = content_index_below(sector / 8);
        if (content_index_below(sector / 8 + 16) != below)
            continue;
        memset(buf, 0xee, 65536);
        int err = engine_read(e, img, sector, 128, buf);
        if (err && !e->faulty && !engine_is_dead(e))
            engine_fail("'%s' cannot be read at sector %llu: %d", target, (unsigned long long)sector, err);
        for (unsigned s = 0; s < 128 && !err; s++)
            if (pattern_id(buf + s * 512, sector + s) != 0)
                engine_fail("'%s' is not zero at sector %llu, where nothing was written", target, (unsigned long long)sector + s);
    }
    free(buf);
}

static void wrong_block(const char *target, const struct content *c, uint32_t index, const uint32_t *ids)
{
    const struct content_block *b = &c->block[index];
    const uint32_t *wanted = content_newest(b)->id;
    engine_fail("'%s', block %llu, holds ids %u %u %u %u %u %u %u %u; the newest of its %u possible versions (%u to %u, acknowledged %u, durable %u) is "
                "%u %u %u %u %u %u %u %u",
                target, (unsigned long long)content_block_of(index), ids[0], ids[1], ids[2], ids[3], ids[4], ids[5], ids[6], ids[7], b->count, b->first,
                b->first + b->count - 1, b->acked, b->durable, wanted[0], wanted[1], wanted[2], wanted[3], wanted[4], wanted[5], wanted[6], wanted[7]);
}

/* NULL: it could not be, by order. */
static struct image *open_for_reading(struct engine *e, struct object *o, const char *target, bool *opened)
{
    *opened = false;
    if (o->reader || o->writer)
        return o->reader ? o->reader->img : o->writer->img;
    struct image_open_options opt = { .mode = IMAGE_READ_ONLY, .holder = "a look" };
    struct image *img;
    struct error err = ERROR_NONE;
    int rc = image_open(e->store, target, &opt, &img, &err);
    if (rc && e->faulty && rc != -ENOENT)
        return NULL;
    if (rc)
        engine_fail("'%s' cannot be opened for reading: %s", target, err.text);
    *opened = true;
    return img;
}

void engine_verify(struct engine *e, struct object *o, bool settle)
{
    if (!e->store)
        return;
    char target[IMAGE_TARGET_SIZE];
    world_target(o, target);
    bool opened;
    int error;
    struct content *c = o->content;
    struct image *img = open_for_reading(e, o, target, &opened);
    if (!img)
        return;
    if (image_size(img) != c->size_bytes)
        engine_fail("'%s' opens with %llu bytes, has %llu", target, (unsigned long long)image_size(img), (unsigned long long)c->size_bytes);
    bool frozen = o->kind == OBJECT_SNAPSHOT || o->kind == OBJECT_FROZEN;
    uint32_t *since = content_cut(c), *ids = read_ids(e, img, c->size_bytes, &error);
    if (error && !e->faulty && !engine_is_dead(e))
        engine_fail("'%s' cannot be read: %d", target, error);
    for (uint32_t i = 0; !error && i < c->count; i++) {
        const uint32_t *found = ids + i * CONTENT_SECTORS;
        if (settle || frozen ? !content_settle(c, i, found) : !content_allows(c, i, since[i], found))
            wrong_block(target, c, i, found);
    }
    if (!error)
        read_beside(e, img, target, c->size_bytes);
    if (opened && !engine_is_dead(e))
        image_close(img);
    free(since);
    free(ids);
}

unsigned engine_verify_damaged(struct engine *e, struct object *o)
{
    char target[IMAGE_TARGET_SIZE];
    bool opened;
    unsigned errors = 0;
    struct content *c = o->content;
    static uint8_t buf[4096] __attribute__((aligned(4096)));
    world_target(o, target);
    struct image *img = open_for_reading(e, o, target, &opened);
    if (!img)
        return 1;
    for (uint32_t i = 0; i < c->count; i++) {
        uint64_t first = content_block_of(i) * CONTENT_SECTORS, sectors = c->size_bytes / 512 - first;
        uint32_t ids[CONTENT_SECTORS] = { 0 };
        sectors = sectors < CONTENT_SECTORS ? sectors : CONTENT_SECTORS;
        if (engine_read(e, img, first, sectors, buf)) {
            errors++;
            continue;
        }
        for (uint64_t s = 0; s < sectors; s++)
            ids[s] = pattern_id(buf + s * 512, first + s);
        if (!content_allows(c, i, 0, ids))
            wrong_block(target, c, i, ids);
    }
    image_close(img);
    return errors;
}

bool engine_is(struct engine *e, const char *target, const struct content *c, const uint32_t *since)
{
    struct image_open_options opt = { .mode = IMAGE_READ_ONLY, .holder = "a look" };
    struct image *img;
    struct error err = ERROR_NONE;
    if (image_open(e->store, target, &opt, &img, &err))
        engine_fail("'%s' cannot be opened for reading: %s", target, err.text);
    bool same = image_size(img) == c->size_bytes;
    int error = 0;
    uint32_t *ids = same ? read_ids(e, img, c->size_bytes, &error) : NULL;
    if (error)
        engine_fail("'%s' cannot be read: %d", target, error);
    for (uint32_t i = 0; same && i < c->count; i++)
        same = content_allows(c, i, since ? since[i] : 0, ids + i * CONTENT_SECTORS);
    image_close(img);
    free(ids);
    return same;
}

void engine_verify_all(struct engine *e, bool settle)
{
    list_for_each(n, &e->world.images) {
        struct object *o = container_of(n, struct object, link);
        list_for_each(m, &o->snapshots)
            if (!engine_is_dead(e))
                engine_verify(e, container_of(m, struct object, link), settle);
        if (!engine_is_dead(e))
            engine_verify(e, o, settle);
    }
}

static void finding(void *ctx, const char *line)
{
    (void)ctx;
    printf("# check: %s\n", line);
}

void engine_check(struct engine *e)
{
    struct engine_run run;
    struct store_check_result result = { 0 };
    struct store_status st;
    store_get_status(e->store, &st);
    if (st.overdrawn_blocks)
        engine_fail("checkpoints took %llu blocks more than had been kept for them", (unsigned long long)st.overdrawn_blocks);
    engine_run_arm(&run);
    store_check(e->store, &run.op, true, finding, NULL, &result);
    int err = engine_run(e, &run, "a check");
    if (engine_is_dead(e) || (err && e->faulty))
        return;
    if (err)
        engine_fail("check: %s", run.op.error.text);
    if (result.damaged || result.leaked_blocks || result.wrongly_free || result.overcounted || result.undercounted)
        engine_fail("check: %llu damaged, %llu leaked, %llu wrongly free", (unsigned long long)result.damaged, (unsigned long long)result.leaked_blocks,
                    (unsigned long long)result.wrongly_free);
}
