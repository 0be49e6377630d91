/* parallax_chaos_test.c - operations that know nothing of each other, on the same few names at once, and crashes.
 *
 * What any of them answers is nobody's business here, but: the store opens after each crash and the checker finds nothing; a
 * snapshot has the digest that it had; what an image's only writer has written is what it reads; everything ends.
 * SEED repeats a run (up to the timing of threads); ROUNDS and SECONDS set its length. */
#include "parallax/parallax.h"
#include "parallax/store/memory.h"
#include "parallax/store_backing.h"
#include "tests/support/engine_fail.h"
#include "tests/support/unit.h"

#include "base/bdev.h"
#include "base/clock.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STORE_BYTES (256ull << 20)
#define IMAGES 5u
#define SNAPS 3u
#define TASKS 10u
#define HANDLES 5u
#define IMAGE_MAX (3u << 20)
#define KNOWN 4096u

struct chaos;

struct task {
    struct store_op op;
    struct chaos *c;
    struct list_node link;
    const char *kind;
    char a[IMAGE_TARGET_SIZE], b[IMAGE_TARGET_SIZE], identity[IMAGE_TARGET_SIZE];
    char many[3][IMAGE_TARGET_SIZE];
    const char *names[3];
    uint64_t began_ms;
    struct image_digest digest;
    struct image_dedup dedup;
    struct image_usage usage;
    struct store_check_result check;
    struct store_scrub_options scrub;
    struct store_scrub_result scrubbed;
    bool exact;
};

struct handle {
    struct chaos *c;
    struct list_node link;
    struct image *img;
    struct image_req req;
    struct iovec iov;
    uint8_t *buffer, *shadow; /* shadow: of a writer */
    uint64_t shadow_bytes;
    uint64_t loaded;          /* of the shadow, as it is read at first */
    bool busy, closing, writer, loading;
    uint64_t began_ms;
};

struct known {
    char identity[IMAGE_TARGET_SIZE];
    uint8_t digest[IMAGE_DIGEST_BYTES];
};

struct chaos {
    struct loop *loop;
    struct backing backing;
    struct store *store;
    uint64_t seed, renamed, first_seed;
    struct list_node tasks, handles;
    unsigned task_count, handle_count;
    struct known known[KNOWN];
    unsigned known_count;
    uint64_t done, failed, ios, crashes, compared;
    bool faulty; /* a fault has been ordered since the store was opened: who reads then may find damage that is none */
};

static uint64_t rnd(struct chaos *c, uint64_t n) { return unit_random(&c->seed) % n; }

static void image_text(struct chaos *c, char *out) { sprintf(out, rnd(c, 6) ? "i%u" : "r%u", (unsigned)rnd(c, IMAGES)); }
static void snap_text(struct chaos *c, char *out) { sprintf(out, "i%u@s%u", (unsigned)rnd(c, IMAGES), (unsigned)rnd(c, SNAPS)); }

/* ---- Operations ---- */

static void learn(struct chaos *c, const char *identity, const uint8_t *digest, const char *what)
{
    for (unsigned i = 0; i < c->known_count; i++)
        if (!strcmp(c->known[i].identity, identity)) {
            c->compared++;
            if (memcmp(c->known[i].digest, digest, IMAGE_DIGEST_BYTES))
                engine_fail("%s (%s) has changed; seed %llu", what, identity, (unsigned long long)c->first_seed);
            return;
        }
    if (c->known_count == KNOWN)
        c->known_count = 0;
    struct known *k = &c->known[c->known_count++];
    snprintf(k->identity, sizeof k->identity, "%s", identity);
    memcpy(k->digest, digest, IMAGE_DIGEST_BYTES);
}

static void task_end(struct store_op *op)
{
    struct task *t = container_of(op, struct task, op);
    struct chaos *c = t->c;
    struct image_info info;
    c->done++;
    c->failed += op->error.code != 0;
    engine_trace("%p %s %s %s ended: %d %s", (void *)t, t->kind, t->a, t->b, op->error.code, op->error.text);
    if (t->exact && !op->error.code && !store_find(c->store, t->a, &info, NULL) && !strcmp(info.identity, t->identity))
        learn(c, t->identity, t->digest.sha256, t->a);
    if (t->exact && op->error.code == -EIO && !c->faulty)
        engine_fail("%s: %s", t->a, op->error.text);
    if (!strcmp(t->kind, "check") && !op->error.code && !c->faulty && (t->check.damaged || t->check.dead_damaged || t->check.leaked_blocks || t->check.wrongly_free || t->check.overcounted || t->check.undercounted))
        engine_fail("a check finds damaged=%llu leaked=%llu free=%llu over=%llu under=%llu; seed %llu", (unsigned long long)t->check.damaged,
                    (unsigned long long)t->check.leaked_blocks, (unsigned long long)t->check.wrongly_free, (unsigned long long)t->check.overcounted,
                    (unsigned long long)t->check.undercounted, (unsigned long long)c->first_seed);
    if (!strcmp(t->kind, "scrub") && !c->faulty && t->scrubbed.damaged)
        engine_fail("a scrub finds damage; seed %llu", (unsigned long long)c->first_seed);
    if (op->image)
        image_close(op->image);
    list_remove(&t->link);
    c->task_count--;
    free(t);
}

static int ignore_run(void *ctx, uint64_t offset, uint64_t length, bool data)
{
    (void)ctx, (void)offset, (void)length, (void)data;
    return 0;
}

static void finding(void *ctx, const char *line)
{
    (void)ctx;
    printf("# finding: %s\n", line);
}

static void begin_task(struct chaos *c)
{
    struct task *t = calloc(1, sizeof *t);
    struct image_info info;
    struct store *s = c->store;
    t->c = c;
    t->op.done = task_end;
    t->began_ms = clock_monotonic_ms();
    for (unsigned i = 0; i < 3; i++)
        t->names[i] = t->many[i];
    list_add_tail(&c->tasks, &t->link);
    c->task_count++;
    image_text(c, t->a);
    image_text(c, t->b);
    uint64_t size = 512 * (1 + rnd(c, IMAGE_MAX / 512));
    unsigned count = 1 + (unsigned)rnd(c, 2);
    switch (rnd(c, 34)) {
    case 0: case 1: case 2: case 3: t->kind = "create"; image_create(s, &t->op, t->a, size); break;
    case 4: t->kind = "clone"; image_clone(s, &t->op, t->a, t->b); break;
    case 5: case 6: t->kind = "clone"; snap_text(c, t->a); image_clone(s, &t->op, t->a, t->b); break;
    case 7: case 8: case 9: case 10:
        t->kind = "snap";
        for (unsigned i = 0; i < count; i++)
            snap_text(c, t->many[i]);
        strcpy(t->a, t->many[0]);
        snapshot_create(s, &t->op, t->names, count);
        break;
    case 11: case 12:
        t->kind = "snap-rm";
        for (unsigned i = 0; i < count; i++)
            snap_text(c, t->many[i]);
        strcpy(t->a, t->many[0]);
        snapshot_delete(s, &t->op, t->names, count, rnd(c, 5) == 0);
        break;
    case 13: t->kind = "purge"; snapshot_purge(s, &t->op, t->a); break;
    case 14: case 15: t->kind = "rollback"; snap_text(c, t->a); snapshot_rollback(s, &t->op, t->a, rnd(c, 2) ? "s0" : NULL); break;
    case 16: case 17:
        t->kind = "rm";
        strcpy(t->many[0], t->a);
        image_delete(s, &t->op, t->names, 1, rnd(c, 2), rnd(c, 6) == 0);
        break;
    case 18: t->kind = "mv"; sprintf(t->a, "i%u", (unsigned)rnd(c, IMAGES)); sprintf(t->b, "r%u", (unsigned)rnd(c, IMAGES)); image_rename(s, &t->op, t->a, t->b); break;
    case 19: case 20: t->kind = "resize"; image_resize(s, &t->op, t->a, size, rnd(c, 2)); break;
    case 21: t->kind = "seal"; if (rnd(c, 3)) image_protect(s, &t->op, t->a, rnd(c, 3) == 0); else image_seal(s, &t->op, t->a); break;
    case 22: case 23: t->kind = "dedup"; image_dedup(s, &t->op, t->a, &t->dedup); break;
    case 24: case 25: case 26:
        t->kind = "digest";
        snap_text(c, t->a);
        if (!store_find(s, t->a, &info, NULL)) {
            t->exact = true;
            strcpy(t->identity, info.identity);
        }
        (rnd(c, 2) ? image_verify_digest : image_get_digest)(s, &t->op, t->a, &t->digest);
        break;
    case 27: t->kind = "digest"; image_get_digest(s, &t->op, t->a, &t->digest); break;
    case 28: t->kind = "usage"; image_get_usage(s, &t->op, t->a, &t->usage); break;
    case 29: t->kind = "diff"; snap_text(c, t->b); image_diff(s, &t->op, t->b, t->a, ignore_run, NULL); break;
    case 30: t->kind = "frozen"; image_open_frozen(s, &t->op, t->a); break;
    case 31: t->kind = "check"; store_check(s, &t->op, rnd(c, 2) ? STORE_CHECK_COLLECT : STORE_CHECK_DATA, finding, NULL, &t->check); break;
    case 32:
        t->kind = "scrub";
        t->scrub.finding = finding;
        store_scrub(s, &t->op, &t->scrub, &t->scrubbed);
        if (rnd(c, 2))
            store_op_cancel(&t->op);
        break;
    default: t->kind = "import"; image_import_begin(s, &t->op, size); break;
    }
    engine_trace("%p %s %s %s %llu", (void *)t, t->kind, t->a, t->b, (unsigned long long)size);
}

/* ---- Requests ---- */

static void handle_end(struct handle *h)
{
    struct chaos *c = h->c;
    engine_trace("%p closes", (void *)h);
    if (h->img)
        image_close(h->img);
    list_remove(&h->link);
    c->handle_count--;
    free(h->buffer);
    free(h->shadow);
    free(h);
}

static void load(struct handle *h);

static void io_done(struct image_req *req, int error)
{
    struct handle *h = container_of(req, struct handle, req);
    struct chaos *c = h->c;
    h->busy = false;
    c->ios++;
    engine_trace("%p request %d %llu %llu ended: %d", (void *)h, (int)req->op, (unsigned long long)req->offset, (unsigned long long)req->length, error);
    if (error && error != -ENOSPC && error != -EROFS && !c->faulty)
        engine_fail("a request (op %d) ends with %d; seed %llu", (int)req->op, error, (unsigned long long)c->first_seed);
    if (error) { /* whatever it left */
        h->closing = true;
        return;
    }
    if (h->loading) {
        memcpy(h->shadow + req->offset, h->buffer, req->length);
        h->loaded = req->offset + req->length;
        load(h);
        return;
    }
    if (!h->writer)
        return;
    if (req->op == IMAGE_WRITE)
        memcpy(h->shadow + req->offset, h->buffer, req->length);
    if (req->op == IMAGE_DISCARD)
        memset(h->shadow + req->offset, 0, req->length);
    if (req->op == IMAGE_READ && memcmp(h->shadow + req->offset, h->buffer, req->length)) {
        uint64_t at = 0;
        while (h->shadow[req->offset + at] == h->buffer[at])
            at++;
        char name[IMAGE_TARGET_SIZE];
        image_name(h->img, name);
        engine_fail("'%s' reads otherwise than it was written at byte %llu of %llu: %02x, not %02x; seed %llu", name, (unsigned long long)(req->offset + at),
                    (unsigned long long)image_size(h->img), h->buffer[at], h->shadow[req->offset + at], (unsigned long long)c->first_seed);
    }
}

static void submit(struct handle *h, enum image_op op, uint64_t offset, uint64_t length, unsigned flags)
{
    h->busy = true;
    h->began_ms = clock_monotonic_ms();
    h->iov = (struct iovec){ h->buffer, length };
    h->req = (struct image_req){ .op = op, .flags = flags, .offset = offset, .length = op == IMAGE_FLUSH ? 0 : length, .done = io_done };
    if (op == IMAGE_READ || op == IMAGE_WRITE) {
        h->req.iov = &h->iov;
        h->req.iov_count = 1;
    }
    engine_trace("%p request %d %llu %llu of %llu", (void *)h, (int)op, (unsigned long long)offset, (unsigned long long)length, (unsigned long long)image_size(h->img));
    image_submit(h->img, &h->req);
}

/* The shadow of a writer: what is there at first. */
static void load(struct handle *h)
{
    uint64_t left = h->shadow_bytes - h->loaded, length = left < (1u << 20) ? left : 1u << 20;
    h->loading = left > 0;
    if (left)
        submit(h, IMAGE_READ, h->loaded, length, 0);
}

static void open_handle(struct chaos *c)
{
    char name[IMAGE_TARGET_SIZE];
    bool writer = rnd(c, 4) != 0;
    struct error err = ERROR_NONE;
    if (!writer && rnd(c, 2))
        snap_text(c, name);
    else
        image_text(c, name);
    struct image_open_options opt = { .mode = writer ? IMAGE_READ_WRITE : IMAGE_READ_ONLY, .impatient = true };
    struct image *img;
    if (image_open(c->store, name, &opt, &img, &err))
        return;
    struct handle *h = calloc(1, sizeof *h);
    h->c = c;
    h->img = img;
    h->writer = writer;
    h->buffer = bdev_buffer_alloc(257);
    h->shadow = calloc(1, IMAGE_MAX + 4096);
    h->shadow_bytes = image_size(img);
    list_add_tail(&c->handles, &h->link);
    c->handle_count++;
    engine_trace("%p opens %s %d size %llu", (void *)h, name, writer, (unsigned long long)image_size(img));
    if (writer)
        load(h);
}

static void drive(struct chaos *c, struct handle *h)
{
    if (h->busy)
        return;
    if (h->closing || rnd(c, 60) == 0) {
        handle_end(h);
        return;
    }
    uint64_t size = image_size(h->img), sectors = size / 512, first = rnd(c, sectors), most = sectors - first, n = 1 + rnd(c, rnd(c, 2) ? 24 : 300);
    if (rnd(c, 3) == 0) { /* whole blocks */
        first &= ~7ull;
        most = sectors - first;
        n = (n + 7) & ~7ull;
    }
    n = n < most ? n : most;
    uint64_t what = rnd(c, 20);
    if (!h->writer || what < 9) {
        submit(h, IMAGE_READ, first * 512, n * 512, 0);
    } else if (what < 16) {
        uint8_t fill = (uint8_t)rnd(c, 256);
        for (uint64_t i = 0; i < n; i++)
            memset(h->buffer + i * 512, rnd(c, 4) ? fill : (uint8_t)(fill + i), 512);
        if (rnd(c, 3)) { /* else blocks that others have as well */
            uint64_t mark = unit_random(&c->seed);
            for (uint64_t i = 0; i < n; i++)
                memcpy(h->buffer + i * 512, &mark, sizeof mark);
        }
        submit(h, IMAGE_WRITE, first * 512, n * 512, rnd(c, 6) ? 0 : IMAGE_FUA);
    } else if (what < 19) {
        if (rnd(c, 3) == 0)
            n = most;
        submit(h, IMAGE_DISCARD, first * 512, n * 512, 0);
    } else {
        submit(h, IMAGE_FLUSH, 0, 0, 0);
    }
}

/* ---- The store's life ---- */

static void finding_late(void *ctx, const char *line)
{
    (void)ctx;
    printf("# check after a crash: %s\n", line);
}

static void wait_for(struct chaos *c, bool *done, const char *what)
{
    for (uint64_t until = clock_monotonic_ms() + 60000; !*done;) {
        loop_turn(c->loop, 20);
        if (clock_monotonic_ms() > until)
            engine_fail("%s does not end; seed %llu", what, (unsigned long long)c->first_seed);
    }
}

struct check_run {
    struct store_op op;
    bool done;
    struct store_check_result result;
};

static void check_done(struct store_op *op) { container_of(op, struct check_run, op)->done = true; }

static void open_store(struct chaos *c, bool check)
{
    struct error err = ERROR_NONE;
    struct store_options opt = { .map_cache_bytes = 256u << 10, .block_cache_bytes = 1u << 20, .index_entries = 2048, .reclaim_blocks = 64 + (uint32_t)rnd(c, 2000), .trim_after_ms = 20 };
    int rc = store_open_backing(&c->backing, c->loop, &opt, &c->store, &err);
    if (rc)
        engine_fail("the store does not open: %s (%d); seed %llu", err.text, rc, (unsigned long long)c->first_seed);
    if (!check)
        return;
    struct check_run run = { .op.done = check_done };
    store_check(c->store, &run.op, STORE_CHECK_DATA, finding_late, NULL, &run.result);
    wait_for(c, &run.done, "a check after a crash");
    if (run.op.error.code || run.result.damaged || run.result.dead_damaged || run.result.leaked_blocks || run.result.wrongly_free || run.result.overcounted || run.result.undercounted)
        engine_fail("after a crash a check finds %d damaged=%llu leaked=%llu free=%llu over=%llu under=%llu; seed %llu", run.op.error.code, (unsigned long long)run.result.damaged,
                    (unsigned long long)run.result.leaked_blocks, (unsigned long long)run.result.wrongly_free, (unsigned long long)run.result.overcounted,
                    (unsigned long long)run.result.undercounted, (unsigned long long)c->first_seed);
}

static void crash(struct chaos *c)
{
    struct backing left;
    struct list_node *n;
    bool power = rnd(c, 2);
    engine_trace("crash %d", power);
    if ((power ? memory_power_cut : memory_kill)(&c->backing, unit_random(&c->seed), c->loop, &left))
        engine_fail("no crash");
    store_abandon(c->store);
    c->backing.close(&c->backing);
    c->backing = left;
    while ((n = list_pop(&c->tasks)))
        free(container_of(n, struct task, link));
    while ((n = list_pop(&c->handles))) {
        struct handle *h = container_of(n, struct handle, link);
        free(h->buffer);
        free(h->shadow);
        free(h);
    }
    c->task_count = c->handle_count = 0;
    c->crashes++;
    c->faulty = false;
    open_store(c, rnd(c, 3) == 0);
}

static void watch(struct chaos *c)
{
    uint64_t now = clock_monotonic_ms();
    list_for_each(n, &c->tasks) {
        struct task *t = container_of(n, struct task, link);
        if (now - t->began_ms > 60000)
            engine_fail("%s %s does not end; seed %llu", t->kind, t->a, (unsigned long long)c->first_seed);
    }
    list_for_each(n, &c->handles) {
        struct handle *h = container_of(n, struct handle, link);
        if (h->busy && now - h->began_ms > 60000)
            engine_fail("a request does not end; seed %llu", (unsigned long long)c->first_seed);
    }
}

static bool is_idle(struct chaos *c)
{
    bool idle = list_empty(&c->tasks);
    list_for_each(n, &c->handles)
        idle &= !container_of(n, struct handle, link)->busy;
    return idle;
}

static void drain(struct chaos *c)
{
    for (uint64_t until = clock_monotonic_ms() + 60000; !is_idle(c);) {
        loop_turn(c->loop, 5);
        watch(c);
        if (clock_monotonic_ms() > until)
            engine_fail("something does not end; seed %llu", (unsigned long long)c->first_seed);
    }
    while (!list_empty(&c->handles))
        handle_end(container_of(c->handles.next, struct handle, link));
}

static void one(uint64_t seed, uint64_t ms, unsigned crash_in, bool faults)
{
    struct chaos *c = calloc(1, sizeof *c);
    struct error err = ERROR_NONE;
    c->seed = c->first_seed = seed;
    list_init(&c->tasks);
    list_init(&c->handles);
    loop_create(&c->loop);
    struct memory_options mo = { .loop = c->loop, .seed = seed, .initial_blocks = store_initial_blocks(STORE_BYTES), .delay_max_ms = (unsigned)rnd(c, 3) };
    if (memory_create(&mo, &c->backing) || store_create_backing(&c->backing, STORE_BYTES, &err))
        engine_fail("no store: %s", err.text);
    open_store(c, false);
    for (uint64_t until = clock_monotonic_ms() + ms; clock_monotonic_ms() < until;) {
        if (c->task_count < TASKS && rnd(c, 3) == 0)
            begin_task(c);
        if (c->handle_count < HANDLES && rnd(c, 8) == 0)
            open_handle(c);
        list_for_each_safe(n, &c->handles)
            drive(c, container_of(n, struct handle, link));
        if (rnd(c, 3))
            loop_turn(c->loop, 0);
        watch(c);
        if (faults && rnd(c, 150) == 0) {
            static const unsigned kinds[] = { MEMORY_WRITE, MEMORY_WRITE, MEMORY_READ, MEMORY_FLUSH };
            unsigned kind = kinds[rnd(c, rnd(c, 8) ? 3 : 4)];
            memory_fail_io(&c->backing, &(struct memory_fault){ .kinds = kind, .nth = 1 + rnd(c, 100), .error = rnd(c, 2) ? -EIO : -ENOSPC, .partial = rnd(c, 2) });
            c->faulty = true;
        }
        if (faults) {
            struct store_status status;
            store_get_status(c->store, &status);
            if (status.failed && rnd(c, 50) == 0) {
                memory_fail_io(&c->backing, NULL);
                crash(c);
                continue;
            }
        }
        if (crash_in && rnd(c, crash_in) == 0)
            crash(c);
        else if (rnd(c, 4000) == 0 && !c->faulty) {
            drain(c);
            if (store_close(c->store))
                engine_fail("the store does not close; seed %llu", (unsigned long long)c->first_seed);
            open_store(c, true);
        }
    }
    memory_fail_io(&c->backing, NULL);
    if (faults)
        crash(c);
    drain(c);
    struct check_run run = { .op.done = check_done };
    store_check(c->store, &run.op, STORE_CHECK_DATA | STORE_CHECK_COLLECT, finding_late, NULL, &run.result);
    wait_for(c, &run.done, "the last check");
    if (run.op.error.code || run.result.damaged || run.result.leaked_blocks || run.result.wrongly_free || run.result.overcounted || run.result.undercounted)
        engine_fail("the last check finds something; seed %llu", (unsigned long long)c->first_seed);
    store_close(c->store);
    c->backing.close(&c->backing);
    printf("# seed %llu: %llu operations (%llu refused), %llu requests, %llu crashes, %llu digests compared\n", (unsigned long long)seed, (unsigned long long)c->done,
           (unsigned long long)c->failed, (unsigned long long)c->ios, (unsigned long long)c->crashes, (unsigned long long)c->compared);
    fflush(stdout);
    loop_destroy(c->loop);
    free(c);
}

static void rounds(const char *test, unsigned crash_in, bool faults)
{
    uint64_t seed = unit_seed();
    engine_where = (struct engine_where){ test, seed, 0 };
    for (uint64_t i = 0; i < unit_number("ROUNDS", 2); i++)
        one(seed + i * 7919, unit_number("SECONDS", 2) * 1000, crash_in, faults);
}

static void operations_that_know_nothing_of_each_other_leave_a_sound_store(void) { rounds(__func__, 0, false); }
static void crashes_beside_them_leave_a_sound_store(void) { rounds(__func__, 400, false); }
static void faults_beside_them_leave_a_sound_store(void) { rounds(__func__, 2000, true); }

int main(int argc, char **argv)
{
    return unit_main(argc, argv, "chaos", (struct unit_test[]){ UNIT(operations_that_know_nothing_of_each_other_leave_a_sound_store), UNIT(crashes_beside_them_leave_a_sound_store), UNIT(faults_beside_them_leave_a_sound_store), { 0 } });
}
