/* disk_fault_test.c - every I/O and every allocation of every operation fails once, under the real code.
 *
 * A random session makes a store with some history, on a test disk. Then for each operation and each manner of failing, for
 * N = 1, 2, … until the operation meets no fault: a child process opens a copy of the store, has the Nth call from then on
 * fail, begins the operation and waits for its answer. It may be an error or success. What can be read then must be right; and
 * after the process has ended, or the power been cut, the store must open on a disk that works, and be sound: what was
 * acknowledged is there, what failed happened wholly or not at all, nothing is leaked.
 *
 * STRIDE: only every STRIDE-th N (usual: 12; 1 is all). OPERATION, MANNER: only those whose name matches. SEED as ever. */
#include "base/log.h"
#include "parallax/store_backing.h"
#include "tests/disk/disk.h"
#include "tests/support/engine.h"
#include "tests/support/engine_tasks.h"
#include "tests/support/unit.h"

#include <errno.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define SESSION_STEPS 500u
#define ATTEMPTS 8000u
#define NTH_MOST 5000u
#define IMAGES_MOST 6u    /* all of them are read after each crash */
#define SNAPSHOTS_MOST 3u
#define JUDGE_SECONDS 240u
#define DATA_SECTORS 64u

static const struct manner {
    const char *name;
    struct disk_fault fault;
} manners[] = {
    { "a write, flush, allocation or name fails", { .kinds = DISK_WRITE | DISK_FLUSH | DISK_SPACE | DISK_NAME, .error = EIO, .manner = DISK_FAILS } },
    { "a read fails", { .kinds = DISK_READ, .error = EIO, .manner = DISK_FAILS } },
    { "a read or write is short", { .kinds = DISK_READ | DISK_WRITE, .error = EIO, .manner = DISK_SHORT } },
    { "there is no space", { .kinds = DISK_WRITE | DISK_SPACE | DISK_NAME, .error = ENOSPC, .manner = DISK_FAILS } },
    { "an error comes late", { .kinds = DISK_WRITE | DISK_FLUSH | DISK_SPACE, .error = EIO, .manner = DISK_LATE } },
    { "there is no memory", { .kinds = DISK_MEMORY, .error = ENOMEM, .manner = DISK_FAILS } },
};
#define MANNERS (sizeof manners / sizeof *manners)

static const struct request {
    const char *name;
    enum image_op op;
    uint64_t sectors;
    unsigned flags;
} requests[] = {
    { "write of a block", IMAGE_WRITE, 8, 0 },      { "write of a sector", IMAGE_WRITE, 1, 0 },  { "FUA write", IMAGE_WRITE, 8, IMAGE_FUA },
    { "write of many blocks", IMAGE_WRITE, 1000, 0 }, { "flush", IMAGE_FLUSH, 0, 0 },            { "discard of blocks", IMAGE_DISCARD, 64, 0 },
    { "discard of sectors", IMAGE_DISCARD, 3, 0 },  { "read", IMAGE_READ, DATA_SECTORS, 0 },
};
#define REQUESTS (sizeof requests / sizeof *requests)

/* Shared by all processes; one runs at a time: faults that this operation has met in this manner. */
static struct shared {
    uint64_t met;
    bool last_met;
} *shared;

static struct engine engine;
static char place[200];
static uint64_t random_state, children, stride, all_faults;

/* ---- Operations ---- */

struct operation {
    const char *name;
    void (*run)(const struct operation *o, const struct disk_fault *f);
    const struct request *request;
};

static void run_task(const struct operation *o, const struct disk_fault *f)
{
    if (strcmp(o->name, "import finish") == 0)
        engine_begin_import(&engine);
    for (unsigned i = 0; i < ATTEMPTS; i++) {
        engine.faulty = true;
        disk_order_fault(f);
        bool begun = engine_begin_task(&engine, o->name);
        if (!begun)
            disk_order_fault(NULL);
        if (begun || disk_faults_met()) { /* without it: by the preparation, or by work in the background */
            engine_drain(&engine);
            return;
        }
        engine.faulty = false;
        engine_step(&engine);
        engine_drain(&engine);
    }
    engine_fail("'%s' was never possible", o->name);
}

static struct handle *writable_handle(uint64_t sectors)
{
    for (unsigned i = 0; i < ATTEMPTS; i++) {
        list_for_each(n, &engine.world.handles) {
            struct handle *h = container_of(n, struct handle, link);
            if (h->writable && h->object->content->count >= sectors / 8 + 1 && h->object->content->size_bytes >= sectors * 512)
                return h;
        }
        engine_step(&engine);
        engine_drain(&engine);
    }
    engine_fail("no image to write to");
}

static void run_request(const struct operation *o, const struct disk_fault *f)
{
    bool needs_data = o->request->op == IMAGE_FLUSH || o->request->op == IMAGE_READ; /* else it asks nothing of the disk */
    struct handle *h = writable_handle(needs_data ? DATA_SECTORS : o->request->sectors);
    if (needs_data) {
        engine_submit_io(&engine, h, IMAGE_WRITE, 0, DATA_SECTORS, 0);
        engine_drain(&engine);
    }
    engine.faulty = true;
    disk_order_fault(f);
    engine_submit_io(&engine, h, o->request->op, 0, o->request->sectors, o->request->flags);
    engine_drain(&engine);
}

static void run_checkpoint(const struct operation *o, const struct disk_fault *f)
{
    (void)o;
    for (unsigned i = 0; i < 40; i++)
        engine_step(&engine);
    engine_drain(&engine);
    engine.faulty = true;
    disk_order_fault(f);
    engine_checkpoint(&engine);
}

static void close_handles(void)
{
    while (!list_empty(&engine.world.handles))
        engine_close_handle(&engine, container_of(engine.world.handles.next, struct handle, link));
}

static void run_close(const struct operation *o, const struct disk_fault *f)
{
    (void)o;
    close_handles();
    engine.faulty = true;
    disk_order_fault(f);
    store_close(engine.store);
    engine.backing.close(&engine.backing);
    engine.store = NULL;
}

static const struct disk_fault *of_opening;

static void opening(struct engine *e, bool begins)
{
    (void)e;
    if (begins)
        disk_order_fault(of_opening);
}

static void open_under_fault(const struct disk_fault *f)
{
    struct error err = ERROR_NONE;
    char url[256];
    snprintf(url, sizeof url, "%s", engine.url);
    engine.faulty = true;
    engine.blocking = opening;
    of_opening = f;
    engine_reach(&engine, url, &err);
    engine.blocking = NULL;
}

static void run_open(const struct operation *o, const struct disk_fault *f)
{
    (void)o;
    close_handles();
    store_close(engine.store);
    engine.backing.close(&engine.backing);
    open_under_fault(f);
}

/* What the end of the process left is opened: the disk is the same, the old store is given up. */
static void run_recovery(const struct operation *o, const struct disk_fault *f)
{
    (void)o;
    for (unsigned i = 0; i < 40; i++)
        engine_step(&engine);
    engine_drain(&engine);
    close_handles();
    store_abandon(engine.store);
    engine.backing.close(&engine.backing);
    open_under_fault(f);
}

/* ---- One fault ---- */

static void enter(const char *which, bool cut)
{
    char directory[256];
    struct disk_cut unused;
    uint64_t seed = unit_random(&random_state);
    snprintf(directory, sizeof directory, "%s/%llu%s", place, (unsigned long long)children, which);
    disk_lock();
    disk_cut(directory, cut ? &seed : NULL, &unused);
    disk_unlock();
    engine_land(&engine, directory, cut ? CONTENT_POWER_CUT : CONTENT_KILL);
}

static void child(const struct operation *o, const struct disk_fault *f)
{
    alarm(JUDGE_SECONDS);
    enter("", false);
    o->run(o, f);
    shared->last_met = disk_faults_met() != 0;
    shared->met += shared->last_met;
    disk_order_fault(NULL);
    if (engine.store && list_empty(&engine.tasks)) /* what a failed operation left behind shows after the next opening */
        engine_verify_all(&engine, false);
    engine.faulty = false;
    if (engine.store) /* what has failed must be possible to take down too */
        store_abandon(engine.store);
    engine.store = NULL;
    enter("after", f->nth & 1);
    if (children % 4 == 0) {
        for (unsigned i = 0; i < 20; i++)
            engine_step(&engine);
        engine_delete_all(&engine);
        engine_end(&engine);
    }
    for (unsigned i = 0; i < 2; i++) {
        char directory[256];
        snprintf(directory, sizeof directory, "%s/%llu%s", place, (unsigned long long)children, i ? "after" : "");
        disk_remove_tree(directory);
    }
    fflush(stdout);
    _exit(0);
}

static void in_child(const struct operation *o, const struct manner *m, uint64_t nth)
{
    struct disk_fault f = m->fault;
    int status = 0;
    f.nth = nth;
    children++;
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0)
        child(o, &f);
    if (pid > 0 && waitpid(pid, &status, 0) == pid && !status)
        return;
    printf("# %s, where %s, call %llu: status %x\n", o->name, m->name, (unsigned long long)nth, (unsigned)status);
    if (WIFSIGNALED(status))
        printf("not ok disk: %s - signal %d (SEED=%llu)\n", engine_where.test, WTERMSIG(status), (unsigned long long)engine_where.seed);
    fflush(stdout);
    _exit(1);
}

static bool chosen(const char *variable, const char *name)
{
    const char *only = getenv(variable);
    return !only || fnmatch(only, name, 0) == 0;
}

static void fail_each(const struct operation *o)
{
    if (!chosen("OPERATION", o->name))
        return;
    uint64_t faults_before = all_faults;
    printf("# %-22s", o->name);
    for (unsigned i = 0; i < MANNERS; i++) {
        uint64_t nth = 1 + unit_random(&random_state) % stride;
        if (!chosen("MANNER", manners[i].name))
            continue;
        *shared = (struct shared){ .last_met = true };
        for (; shared->last_met && nth < NTH_MOST; nth += stride)
            in_child(o, &manners[i], nth);
        CU_ASSERT(nth < NTH_MOST);
        printf("%s%4llu", i ? " " : "", (unsigned long long)shared->met);
        all_faults += shared->met;
    }
    printf("\n");
    fflush(stdout);
    CU_ASSERT(stride > 1 || all_faults > faults_before || getenv("MANNER")); /* an operation that meets none shows nothing */
}

/* ---- The session ---- */

static void each_fault_leaves_a_sound_store(void)
{
    static const struct operation others[] = {
        { "checkpoint", run_checkpoint, NULL }, { "closing", run_close, NULL }, { "opening", run_open, NULL }, { "recovery", run_recovery, NULL },
    };
    const char *s = getenv("STRIDE");
    char url[256];
    stride = s ? strtoull(s, NULL, 0) : 12;
    engine_where = (struct engine_where){ __func__, unit_seed(), 0 };
    random_state = engine_where.seed;
    snprintf(url, sizeof url, "%s/live", place);
    if (mkdir(url, 0700) < 0)
        engine_fail("making '%s' failed", url);
    disk_watch(url, unit_random(&random_state));
    engine_start_at(&engine, unit_random(&random_state), 256ull << 20, 300, url);
    for (unsigned i = 0; i < SESSION_STEPS; i++)
        engine_step(&engine);
    engine_reopen(&engine);
    disk_settle();
    printf("# faults met:");
    for (unsigned i = 0; i < MANNERS; i++)
        printf(" (%s)", manners[i].name);
    printf("\n");
    for (unsigned i = 0; task_kinds[i].name; i++)
        fail_each(&(struct operation){ task_kinds[i].name, run_task, NULL });
    for (unsigned i = 0; i < REQUESTS; i++)
        fail_each(&(struct operation){ requests[i].name, run_request, &requests[i] });
    for (unsigned i = 0; i < sizeof others / sizeof *others; i++)
        fail_each(&others[i]);
    printf("# %llu faults in %llu runs\n", (unsigned long long)all_faults, (unsigned long long)children);
    CU_ASSERT(all_faults > 0);
    engine_delete_all(&engine);
    engine_end(&engine);
    disk_unwatch();
}

int main(int argc, char **argv)
{
    static const struct unit_test tests[] = { UNIT(each_fault_leaves_a_sound_store), { 0 } };
    const char *room = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : getenv("TMPDIR") ? getenv("TMPDIR") : "/var/tmp";
    snprintf(place, sizeof place, "%.150s/parallax-fault-XXXXXX", room);
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (!mkdtemp(place) || shared == MAP_FAILED) {
        perror(place);
        return 1;
    }
    engine_limit(IMAGES_MOST, SNAPSHOTS_MOST);
    if (!getenv("VERBOSE"))
        log_set_level(0); /* every failure here is ordered */
    int rc = unit_main(argc, argv, "disk", tests);
    disk_remove_tree(place);
    return rc;
}
