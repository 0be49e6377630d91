/* server_bench.c - bench: what the store does in its place, by a scratch image.
 *
 * 1. Data goes to an image without a name (an import that is never finished): it vanishes when it is closed, when its client
 *    goes away, or when the process dies.
 * 2. Snapshots and clones need names. They are taken of an empty image whose name has the client's pid, in a moment at the end;
 *    whatever comes between, it is deleted before the operation ends. Only a kill -9 in that moment leaves it.
 * 3. It is load as any guest's: through image_submit, on the loop, beside whoever uses the store.
 * 4. Everything is bounded: each phase by time, the first one also by the image's size; the later ones use what it has written. */
#include "tools/common/session.h"

#include "base/bdev.h"
#include "base/clock.h"
#include "base/hash.h"
#include "base/latency.h"
#include "tools/common/size.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LARGE (128u << 10) /* bytes of one sequential request */
#define DEPTH_MAX 32u
#define FILL_PATIENCE 10u  /* the first phase may take so many times what another one takes */
#define VERSIONS 20u       /* snapshots, and clones */
#define NAME_TEXT 64u

static const struct phase {
    const char *name;
    enum image_op op;
    bool random;
    uint32_t bytes;
    unsigned depth, flags;
} phases[] = {
    { "write-128k-qd8", IMAGE_WRITE, false, LARGE, 8, 0 },
    { "read-128k-qd8", IMAGE_READ, false, LARGE, 8, 0 },
    { "randread-4k-qd32", IMAGE_READ, true, BDEV_BLOCK_SIZE, 32, 0 },
    { "randread-4k-qd1", IMAGE_READ, true, BDEV_BLOCK_SIZE, 1, 0 },
    { "randwrite-4k-qd32", IMAGE_WRITE, true, BDEV_BLOCK_SIZE, 32, 0 },
    { "randwrite-4k-qd1", IMAGE_WRITE, true, BDEV_BLOCK_SIZE, 1, 0 },
    { "randwrite-4k-durable", IMAGE_WRITE, true, BDEV_BLOCK_SIZE, 1, IMAGE_FUA },
};
#define PHASES (sizeof phases / sizeof *phases)

struct bench;

struct slot {
    struct image_req req;
    struct iovec iov;
    void *memory; /* LARGE bytes */
    struct bench *owner;
    uint64_t began_ns;
};

struct bench {
    struct operation base;
    struct store_op op;
    struct image_req flush;
    struct slot slots[DEPTH_MAX];
    struct image *image;
    uint64_t phase_ns, size, written; /* size: bytes of the image; written: of them, by the first phase */
    uint64_t position, serial, began_ns, step_ns;
    const struct phase *phase;
    unsigned running; /* slots with a request under way */
    struct latency took;
    unsigned clones;
    bool named;
    char names[1 + VERSIONS][NAME_TEXT], target[NAME_TEXT + 16]; /* the image's and its clones'; a snapshot's */
    const char *name_list[1 + VERSIONS], *targets[1];
    struct error error;
};

static void bench_destroy(struct operation *o)
{
    struct bench *b = container_of(o, struct bench, base);
    for (unsigned i = 0; i < DEPTH_MAX; i++)
        free(b->slots[i].memory);
    free(b);
}

static bool stopped(const struct bench *b) { return b->error.code || b->base.session->gone; }

/* Tells what the present measure found, and begins anew. bytes: of one operation, 0 if it moves none. */
static void report(struct bench *b, const char *name, uint64_t bytes)
{
    double seconds = (double)(clock_monotonic_ns() - b->began_ns) / 1e9;
    json_t *item = json_pack("{s:s,s:I,s:f,s:f,s:I,s:f,s:f,s:f}", "name", name, "operations", (json_int_t)b->took.count, "seconds", seconds, "per-second",
                             (double)b->took.count / seconds, "bytes-per-second", (json_int_t)((double)(b->took.count * bytes) / seconds), "p50-us",
                             (double)latency_percentile_ns(&b->took, 0.5) / 1e3, "p99-us", (double)latency_percentile_ns(&b->took, 0.99) / 1e3, "max-us",
                             (double)b->took.max_ns / 1e3);
    session_item(b->base.session, json_pack("[o]", item));
}

static void begin_measure(struct bench *b)
{
    b->took = (struct latency){ 0 };
    b->began_ns = clock_monotonic_ns();
}

/* ---- The end ---- */

static void finish(struct bench *b)
{
    if (b->error.code)
        session_answer_error(b->base.session, &b->error);
    else
        session_answer(b->base.session, json_pack("{s:I,s:I}", "size", (json_int_t)b->size, "written", (json_int_t)b->written));
    operation_end(&b->base);
}

static void deleted(struct store_op *op)
{
    struct bench *b = container_of(op, struct bench, op);
    if (op->error.code && !b->error.code)
        error_set(&b->error, op->error.code, "the scratch image '%s' was not removed: %.400s", b->names[0], op->error.text);
    finish(b);
}

static void clean_up(struct bench *b)
{
    if (b->image)
        image_close(b->image);
    b->image = NULL;
    if (!b->named) {
        finish(b);
        return;
    }
    b->op = (struct store_op){ .done = deleted };
    image_delete(session_store(b->base.session), &b->op, b->name_list, 1 + b->clones, true, false);
}

/* ---- Clones, then snapshots ---- */

static void take_snapshot(struct bench *b);
static void take_clone(struct bench *b);

/* Whether the operation went well and another is to follow. */
static bool version_taken(struct bench *b, const char *what)
{
    if (b->op.error.code)
        error_set(&b->error, b->op.error.code, "a %s of the scratch image failed: %.400s", what, b->op.error.text);
    else
        latency_add(&b->took, clock_monotonic_ns() - b->step_ns);
    return !stopped(b);
}

static void snapshot_taken(struct store_op *op)
{
    struct bench *b = container_of(op, struct bench, op);
    bool goes_on = version_taken(b, "snapshot");
    if (goes_on && b->took.count < VERSIONS) {
        take_snapshot(b);
        return;
    }
    if (goes_on)
        report(b, "snapshot", 0);
    clean_up(b);
}

static void take_snapshot(struct bench *b)
{
    snprintf(b->target, sizeof b->target, "%s@s%u", b->names[0], (unsigned)b->took.count);
    b->targets[0] = b->target;
    b->op = (struct store_op){ .done = snapshot_taken };
    b->step_ns = clock_monotonic_ns();
    snapshot_create(session_store(b->base.session), &b->op, b->targets, 1);
}

static void clone_taken(struct store_op *op)
{
    struct bench *b = container_of(op, struct bench, op);
    bool goes_on = version_taken(b, "clone");
    b->clones += !op->error.code;
    if (goes_on && b->clones < VERSIONS) {
        take_clone(b);
        return;
    }
    if (!goes_on) {
        clean_up(b);
        return;
    }
    report(b, "clone", 0);
    begin_measure(b);
    take_snapshot(b);
}

static void take_clone(struct bench *b)
{
    b->op = (struct store_op){ .done = clone_taken };
    b->step_ns = clock_monotonic_ns();
    image_clone(session_store(b->base.session), &b->op, b->names[0], b->names[1 + b->clones]);
}

static void created(struct store_op *op)
{
    struct bench *b = container_of(op, struct bench, op);
    b->named = !op->error.code;
    b->error = op->error;
    if (stopped(b)) {
        clean_up(b);
        return;
    }
    begin_measure(b);
    take_clone(b);
}

static void create_named(struct bench *b)
{
    image_close(b->image);
    b->image = NULL;
    for (unsigned i = 0; i < 1 + VERSIONS; i++) {
        snprintf(b->names[i], NAME_TEXT, i ? "parallax-bench-%d-%u" : "parallax-bench-%d", b->base.session->pid, i);
        b->name_list[i] = b->names[i];
    }
    b->op = (struct store_op){ .done = created };
    image_create(session_store(b->base.session), &b->op, b->names[0], b->size);
}

/* ---- Data ---- */

static void begin_phase(struct bench *b);

static void end_phase(struct bench *b)
{
    if (stopped(b)) {
        clean_up(b);
        return;
    }
    report(b, b->phase->name, b->phase->bytes);
    if (b->phase == phases)
        b->written = b->position * LARGE;
    if (++b->phase < phases + PHASES)
        begin_phase(b);
    else
        create_named(b);
}

static void note_error(struct bench *b, int error)
{
    if (error && !b->error.code)
        error_set(&b->error, error, "%s: a request to the scratch image failed: %s", b->phase->name, strerror(-error));
}

static void flushed(struct image_req *req, int error)
{
    struct bench *b = container_of(req, struct bench, flush);
    note_error(b, error);
    end_phase(b);
}

/* The last request of a phase is back. What was written counts when it is durable. */
static void drained(struct bench *b)
{
    if (b->phase->op != IMAGE_WRITE || stopped(b)) {
        end_phase(b);
        return;
    }
    b->flush = (struct image_req){ .op = IMAGE_FLUSH, .done = flushed };
    image_submit(b->image, &b->flush);
}

static bool over(const struct bench *b, uint64_t now)
{
    bool fills = b->phase == phases;
    return stopped(b) || now - b->began_ns >= b->phase_ns * (fills ? FILL_PATIENCE : 1) || (fills && (b->position + 1) * LARGE > b->size);
}

static void requested(struct image_req *req, int error);

static void submit(struct bench *b, struct slot *s, uint64_t now)
{
    const struct phase *p = b->phase;
    uint64_t positions = (p == phases ? b->size : b->written) / p->bytes, at = b->position++;
    if (p->random)
        at = hash_u64(++b->serial);
    /* No two blocks written are alike, so that nothing below can save work on equal ones. */
    for (uint32_t i = 0; p->op == IMAGE_WRITE && i < p->bytes; i += BDEV_BLOCK_SIZE)
        *(uint64_t *)((char *)s->memory + i) = hash_u64(++b->serial);
    s->iov = (struct iovec){ s->memory, p->bytes };
    s->req = (struct image_req){ .op = p->op, .flags = p->flags, .offset = at % positions * p->bytes, .length = p->bytes,
                                 .iov = &s->iov, .iov_count = 1, .done = requested };
    s->began_ns = now;
    image_submit(b->image, &s->req);
}

static void requested(struct image_req *req, int error)
{
    struct slot *s = container_of(req, struct slot, req);
    struct bench *b = s->owner;
    uint64_t now = clock_monotonic_ns();
    latency_add(&b->took, now - s->began_ns);
    note_error(b, error);
    if (!over(b, now))
        submit(b, s, now);
    else if (--b->running == 0)
        drained(b);
}

static void begin_phase(struct bench *b)
{
    b->position = 0;
    begin_measure(b);
    b->running = b->phase->depth;
    for (unsigned i = 0; i < b->phase->depth; i++)
        submit(b, &b->slots[i], b->began_ns);
}

static void opened(struct store_op *op)
{
    struct bench *b = container_of(op, struct bench, op);
    b->image = op->image;
    b->error = op->error;
    if (stopped(b))
        clean_up(b);
    else
        begin_phase(b);
}

/* ---- The beginning ---- */

static void bench_abort(struct operation *o) { (void)o; } /* every step looks whether the client is there */

static const struct operation_ops bench_ops = { .abort = bench_abort, .destroy = bench_destroy };

static struct bench *bench_begin(struct session *s)
{
    struct bench *b = calloc(1, sizeof *b);
    bool whole = b != NULL;
    for (unsigned i = 0; whole && i < DEPTH_MAX; i++) {
        b->slots[i].owner = b;
        b->slots[i].memory = bdev_buffer_alloc(LARGE / BDEV_BLOCK_SIZE);
        whole = b->slots[i].memory != NULL;
        for (uint32_t at = 0; whole && at < LARGE; at += 8)
            *(uint64_t *)((char *)b->slots[i].memory + at) = hash_u64(++b->serial);
    }
    if (!whole) {
        if (b)
            bench_destroy(&b->base);
        session_answer_error(s, &(struct error){ -ENOMEM, "out of memory" });
        return NULL;
    }
    operation_begin(s, &b->base, &bench_ops, false);
    return b;
}

/* Overwriting needs room beside what is overwritten until a checkpoint gives that back. */
static int check_room(struct store *store, uint64_t size, struct error *err)
{
    struct store_status st;
    char needed[SIZE_TEXT_MAX], there[SIZE_TEXT_MAX];
    memset(&st, 0, sizeof st);
    store_get_status(store, &st);
    uint64_t free_bytes = st.capacity_bytes > st.used_bytes ? st.capacity_bytes - st.used_bytes : 0;
    if (free_bytes >= 2 * size)
        return 0;
    return error_set(err, -ENOSPC, "the measurement needs %s of free space, and the store has %s; give a smaller --size", size_format(2 * size, needed),
                     size_format(free_bytes, there));
}

static void bench(struct session *s, json_t *request)
{
    json_int_t size, phase_ms;
    struct error err = ERROR_NONE;
    if (!session_arguments(s, request, "{s:I,s:I}", "size", &size, "phase-ms", &phase_ms))
        return;
    if (size < (json_int_t)LARGE * DEPTH_MAX || (uint64_t)size > IMAGE_SIZE_MAX || size % LARGE || phase_ms < 1 || phase_ms > 60000)
        error_set(&err, -EINVAL, "the request is malformed: a size of %lld bytes for %lld ms", (long long)size, (long long)phase_ms);
    if (!err.code)
        check_room(session_store(s), (uint64_t)size, &err);
    if (err.code) {
        session_answer_error(s, &err);
        return;
    }
    struct bench *b = bench_begin(s);
    if (!b)
        return;
    b->size = (uint64_t)size;
    b->phase_ns = (uint64_t)phase_ms * 1000000u;
    b->phase = phases;
    b->op.done = opened;
    image_import_begin(session_store(s), &b->op, b->size);
}

const struct server_command server_bench_commands[] = { { "bench", bench }, { NULL, NULL } };
