/* disk_powercut_test.c - power cuts under the real code: local store, asynchronous I/O and Berkeley DB, on a test disk.
 *
 * A random session runs on a store below a watched directory (tests/disk). Where the disk stops at a boundary this process
 * forks; the child is the machine after a power cut: it makes what the disk may then hold, opens the store on it with the
 * oracle of that instant, and compares everything (engine_land). The parent waits, and goes on as if nothing had happened: so
 * one session is cut many times. At boundaries of the child's recovery the child itself is cut.
 *
 * 1. The oracle must not be in the middle of a change when its process forks. A thread other than the loop's therefore asks
 *    the loop's for the fork and waits, unless that one is inside the opening or closing of the store.
 * 2. A cut counts for every path that was under way. Paths with few cuts so far are cut with greater odds.
 * 3. Only distinct images count: by a hash of all names and bytes.
 *
 * CUTS: how many distinct images (usual: 500); PER_PATH: how many at least on each path (usual: CUTS / 50). SEED as ever, but
 * the timing of threads is not repeated. */
#include "base/clock.h"
#include "base/log.h"
#include "tests/disk/disk.h"
#include "tests/support/engine.h"
#include "tests/support/engine_inside.h"
#include "tests/support/engine_tasks.h"
#include "tests/support/unit.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define SEEN_MAX (1u << 18)
#define SESSION_STEPS 700u
#define IMAGES_MOST 6u    /* all of them are read after each crash */
#define SNAPSHOTS_MOST 3u
#define WRAP_LEFT 24u /* journal blocks */
#define JUDGE_SECONDS 120u
#define ASK_MS 3000u
#define RECOVERY_CUTS 2u

enum path { WRITE, FLUSH, FUA, DISCARD, WRITE_ZEROES, SNAPSHOT, GROUP, CLONE, DELETE, ROLLBACK, RESIZE, IMPORT, DEDUP, CHECKPOINT, WRAP, RELINK,
            RECOVERY, PATHS };

static const char *const path_names[PATHS] = { "write", "flush", "FUA", "discard", "write-zeroes", "snapshot", "group snapshot", "clone", "delete",
                                               "rollback", "resize", "import", "dedup", "checkpoint", "journal wrap", "dead-list relink", "recovery" };

static const struct {
    const char *kind;
    enum path path;
} task_paths[] = { { "snapshot", SNAPSHOT }, { "clone", CLONE }, { "clone many", CLONE }, { "delete", DELETE }, { "snapshot delete", DELETE },
                   { "purge", DELETE }, { "rollback", ROLLBACK }, { "resize", RESIZE }, { "import finish", IMPORT }, { "dedup", DEDUP } };

/* Shared by all processes of the test; one of them runs at a time. */
static struct results {
    uint64_t cuts, distinct, subset, mixed, between; /* subset: something was lost; mixed: and something came through */
    uint64_t path[PATHS];
    uint64_t seen[SEEN_MAX];
} *results;

static struct engine engine;
static char place[200];
static uint64_t random_state, wanted, wanted_per_path;
static unsigned depth;           /* 0: the session, 1: after a cut, 2: after a cut of the recovery */
static bool stable;              /* the loop's thread is inside the opening or closing of the store */
static pthread_t loop_thread;
static bool asked;               /* another thread waits for a cut */
static unsigned recovery_cuts;

/* True once in n. */
static bool chance(uint64_t n) { return (unit_random(&random_state) >> 11) % n == 0; }

/* ---- What is under way ---- */

static void each_io(void *ctx, const struct image_req *req, const struct object *o)
{
    uint32_t *paths = ctx;
    bool whole = !((req->offset | req->length) & 4095);
    switch (req->op) {
    case IMAGE_WRITE:
        *paths |= 1u << (req->flags & IMAGE_FUA ? FUA : WRITE);
        break;
    case IMAGE_FLUSH:
        *paths |= 1u << FLUSH;
        break;
    case IMAGE_DISCARD:
        *paths |= 1u << DISCARD | (whole ? 0 : 1u << WRITE_ZEROES); /* parts of blocks are written */
        break;
    default:
        break;
    }
    if (o->kind == OBJECT_IMPORT && req->op != IMAGE_READ)
        *paths |= 1u << IMPORT;
}

static void each_task(void *ctx, const char *kind, unsigned count)
{
    uint32_t *paths = ctx;
    for (unsigned i = 0; i < sizeof task_paths / sizeof *task_paths; i++)
        if (strcmp(kind, task_paths[i].kind) == 0)
            *paths |= 1u << (task_paths[i].path == SNAPSHOT && count > 1 ? GROUP : task_paths[i].path);
}

static uint32_t paths_under_way(void)
{
    uint32_t paths = 0;
    if (depth)
        return 1u << RECOVERY;
    engine_each_io(&engine, each_io, &paths);
    engine_each_task(&engine, each_task, &paths);
    if (!engine.store)
        return paths;
    struct engine_inside in = engine_inside(engine.store);
    return paths | (in.checkpoint ? 1u << CHECKPOINT : 0) | (in.relink ? 1u << RELINK : 0) | (in.wrap ? 1u << WRAP : 0);
}

/* ---- Counting ---- */

static uint64_t goal(enum path p) { return p == RECOVERY ? wanted / 10 : wanted_per_path; }

static bool enough(void)
{
    bool all = results->distinct >= wanted && results->subset * 2 >= wanted;
    for (enum path p = 0; p < PATHS; p++)
        all = all && results->path[p] >= goal(p);
    return all;
}

static bool is_new(uint64_t hash)
{
    uint64_t at = hash % SEEN_MAX;
    for (hash = hash ? hash : 1; results->seen[at] && results->seen[at] != hash; at = (at + 1) % SEEN_MAX)
        ;
    bool added = !results->seen[at];
    results->seen[at] = hash;
    return added;
}

static void count(const struct disk_cut *cut, uint32_t paths, bool flush)
{
    if (results->distinct > SEEN_MAX / 2 || !is_new(cut->hash))
        return;
    results->distinct++;
    results->subset += cut->whole < cut->pending;
    results->mixed += cut->whole < cut->pending && cut->whole + cut->part;
    results->between += !flush;
    for (enum path p = 0; p < PATHS; p++)
        results->path[p] += paths >> p & 1;
}

static void report(void)
{
    printf("# %llu cuts, %llu distinct images, %llu of them between flushes; %llu lost something unflushed, %llu of these not all of it\n",
           (unsigned long long)results->cuts, (unsigned long long)results->distinct, (unsigned long long)results->between,
           (unsigned long long)results->subset, (unsigned long long)results->mixed);
    for (enum path p = 0; p < PATHS; p++)
        printf("# %-18s %6llu images\n", path_names[p], (unsigned long long)results->path[p]);
}

/* ---- Cutting ---- */

/* The machine after the power cut. */
static void after_cut(const char *directory, uint32_t paths, bool flush, uint64_t seed)
{
    struct disk_cut cut;
    depth++;
    loop_thread = pthread_self();
    stable = asked = false;
    random_state = seed;
    recovery_cuts = chance(2) ? RECOVERY_CUTS : 0;
    disk_cut(directory, &seed, &cut);
    disk_unlock();
    alarm(JUDGE_SECONDS);
    count(&cut, paths, flush);
    engine.turned = NULL;
    engine_land(&engine, directory, CONTENT_POWER_CUT);
    if (chance(8)) { /* life goes on, and in the end all space is there again */
        for (unsigned i = 0; i < 40; i++)
            engine_step(&engine);
        engine_delete_all(&engine);
        engine_end(&engine);
    }
    disk_remove_tree(directory);
    fflush(stdout);
    _exit(0);
}

/* With the disk locked, by a thread that sees the oracle whole. */
static void cut(bool flush)
{
    char directory[256];
    uint32_t paths = paths_under_way();
    uint64_t seed = unit_random(&random_state), begun_ms = clock_monotonic_ms(), number = ++results->cuts;
    int status = 0;
    snprintf(directory, sizeof directory, "%s/%llu", place, (unsigned long long)number);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0)
        after_cut(directory, paths, flush, seed);
    if (child < 0 || waitpid(child, &status, 0) < 0 || status) {
        printf("# cut %llu, %s a flush, depth %u, status %x, while:", (unsigned long long)number, flush ? "at" : "not at", depth, (unsigned)status);
        for (enum path p = 0; p < PATHS; p++)
            if (paths >> p & 1)
                printf(" [%s]", path_names[p]);
        printf("\n%s", WIFSIGNALED(status) ? "not ok disk: a_store_cut_anywhere_opens_whole - the process after the cut was killed\n" : "");
        fflush(stdout);
        _exit(1);
    }
    engine.paused_ms += clock_monotonic_ms() - begun_ms;
}

static bool worth_usually(bool flush) { return chance(flush ? wanted < 5000 ? 8 : 1 : 16); }

/* Of a thread that may not look at what the loop's has under way: it asks more often while the paths that it may be on lack cuts. */
static bool worth_asking(bool flush)
{
    static const enum path of_threads[] = { IMPORT, DEDUP, CHECKPOINT, RELINK };
    for (unsigned i = 0; i < sizeof of_threads / sizeof *of_threads; i++)
        if (results->path[of_threads[i]] < goal(of_threads[i]))
            return chance(4);
    return worth_usually(flush);
}

static bool worth(bool flush)
{
    if (depth)
        return recovery_cuts && chance(flush ? 4 : 16) && recovery_cuts--;
    uint32_t paths = paths_under_way();
    for (enum path p = 0; p < PATHS; p++)
        if (paths >> p & 1 && results->path[p] < goal(p))
            return chance(p < SNAPSHOT ? 4 : 2);
    return worth_usually(flush);
}

static void serve(void)
{
    if (!asked)
        return;
    cut(true);
    asked = false;
}

/* The loop's thread is asked for a cut, and given time; if it waits for this thread, there is none. */
static void ask(void)
{
    uint64_t begun_ms = clock_monotonic_ms();
    if (asked)
        return;
    for (asked = true; asked && !stable && clock_monotonic_ms() - begun_ms < ASK_MS;) {
        disk_unlock();
        usleep(200);
        disk_lock();
    }
    asked = false;
}

static void boundary(bool flush)
{
    bool mine = pthread_equal(pthread_self(), loop_thread);
    if (depth > 1 || (depth && !stable))
        return;
    if (mine)
        serve();
    if (!mine && !stable) {
        if (worth_asking(flush))
            ask();
    } else if (worth(flush)) {
        cut(flush);
    }
}

static void turned(struct engine *e)
{
    (void)e;
    disk_lock();
    serve();
    disk_unlock();
}

/* What ends the session, the oracle does not follow; a thread that still asks goes on without a cut. */
static void no_more_cuts(void)
{
    disk_lock();
    engine.turned = NULL;
    asked = false;
    disk_unlock();
}

static void blocking(struct engine *e, bool begins)
{
    (void)e;
    disk_lock();
    stable = begins;
    disk_unlock();
}

/* ---- Sessions ---- */

/* The kind of operation whose path has the fewest cuts yet. */
static const char *scarcest_task(void)
{
    unsigned best = 0;
    for (unsigned i = 1; i < sizeof task_paths / sizeof *task_paths; i++)
        if (results->path[task_paths[i].path] < results->path[task_paths[best].path])
            best = i;
    return task_paths[best].kind;
}

static struct handle *writable_handle(void)
{
    for (;;) {
        list_for_each(n, &engine.world.handles) {
            struct handle *h = container_of(n, struct handle, link);
            if (h->writable && h->object->content->size_bytes >= 4096)
                return h;
        }
        engine_step(&engine);
        engine_drain(&engine);
    }
}

/* Writes until the journal is about to wrap. */
static void fill_journal(void)
{
    struct handle *h = writable_handle();
    for (;;) {
        struct engine_inside in = engine_inside(engine.store);
        if (in.journal_blocks - in.journal_next % in.journal_blocks <= WRAP_LEFT)
            return;
        engine_drain(&engine);
        engine_submit_io(&engine, h, IMAGE_WRITE, 0, 8, 0);
    }
}

static void run_session(void)
{
    char url[256];
    bool small = results->path[WRAP] < goal(WRAP) || chance(3);
    snprintf(url, sizeof url, "%s/live", place);
    if (mkdir(url, 0700) < 0)
        engine_fail("making '%s' failed", url);
    disk_watch(url, unit_random(&random_state));
    engine_start_at(&engine, unit_random(&random_state), small ? 48ull << 20 : 256ull << 20, small ? 8192 : 300, url);
    engine.may_fill = small;
    engine.overlap = chance(2);
    engine.may_be_cut = true;
    engine.turned = turned;
    engine.blocking = blocking;
    if (small)
        fill_journal();
    disk_at_boundary(boundary);
    for (unsigned i = 0; i < SESSION_STEPS && !enough(); i++) {
        engine.preferred_task = scarcest_task();
        engine_step(&engine);
        if (chance(100))
            engine_reopen(&engine);
    }
    disk_at_boundary(NULL);
    no_more_cuts();
    engine_delete_all(&engine);
    engine_end(&engine);
    disk_unwatch();
    disk_remove_tree(url);
    if (getenv("VERBOSE"))
        report();
}

static uint64_t number(const char *name, uint64_t usual)
{
    const char *s = getenv(name);
    return s ? strtoull(s, NULL, 0) : usual;
}

static void a_store_cut_anywhere_opens_whole(void)
{
    wanted = number("CUTS", 500);
    wanted_per_path = number("PER_PATH", wanted / 50);
    engine_where = (struct engine_where){ __func__, unit_seed(), 0 };
    random_state = engine_where.seed;
    while (!enough() && results->cuts < 20 * wanted)
        run_session();
    report();
    CU_ASSERT(results->distinct >= wanted);
    CU_ASSERT(results->subset * 2 >= wanted);
    for (enum path p = 0; p < PATHS; p++)
        CU_ASSERT(results->path[p] >= goal(p));
}

int main(int argc, char **argv)
{
    static const struct unit_test tests[] = { UNIT(a_store_cut_anywhere_opens_whole), { 0 } };
    const char *room = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : getenv("TMPDIR") ? getenv("TMPDIR") : "/var/tmp";
    snprintf(place, sizeof place, "%.150s/parallax-cut-XXXXXX", room);
    results = mmap(NULL, sizeof *results, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (!mkdtemp(place) || results == MAP_FAILED) {
        perror(place);
        return 1;
    }
    engine_limit(IMAGES_MOST, SNAPSHOTS_MOST);
    log_set_level(0); /* every crash here is ordered */
    loop_thread = pthread_self();
    int rc = unit_main(argc, argv, "disk", tests);
    disk_remove_tree(place);
    return rc;
}
