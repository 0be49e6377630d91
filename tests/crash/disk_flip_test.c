/* disk_flip_test.c - a bit of the store rots, and everything is read: an error or no effect, never wrong bytes, never a crash.
 *
 * A random session ends with everything flushed but a last write, whose journal block says so. A child process opens the
 * store once and reads all there is, which tells what bytes are in use, and as what: every stretch read is of a kind. Then for
 * each flip another child turns one bit of one of those bytes over, opens the store, reads everything block by block, has it
 * checked and closes it. Refusing to open is an error too.
 *
 * FLIPS: how many of each kind (usual: 15). SEED as ever. */
#include "base/log.h"
#include "parallax/disk.h"
#include "tests/disk/disk.h"
#include "tests/support/engine.h"
#include "tests/support/engine_inside.h"
#include "tests/support/engine_pattern.h"
#include "tests/support/unit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define STRETCHES 200000u
#define SESSION_STEPS 600u
#define FLIPS_A_SESSION 100u /* of each kind */
#define SPARE_SESSIONS 8u
#define IMAGES_MOST 6u    /* all of them are read after each crash */
#define SNAPSHOTS_MOST 3u
#define JUDGE_SECONDS 120u

enum kind { DATA, NODES, JOURNAL, SUPERBLOCK, PAGES, LOG, SPACE_MAP, OTHER_BLOCKS, OTHER_FILES, KINDS };
static const char *const kind_names[KINDS] = { "data", "nodes", "journal", "superblock", "catalog pages", "catalog log", "space map",
                                               "dead runs and other blocks", "witness, identity and other files" };

enum outcome { REFUSED, READ_ERROR, FOUND, NO_EFFECT, OUTCOMES };
static const char *const outcome_names[OUTCOMES] = { "refused to open", "read errors", "found by check only", "no effect" };

/* Shared by all processes; one runs at a time. */
static struct shared {
    uint64_t outcomes[KINDS][OUTCOMES];
    uint32_t count[KINDS];
    struct stretch {
        char name[40];
        uint64_t offset;
        uint32_t length;
    } stretch[KINDS][STRETCHES / KINDS];
} *shared;

static struct engine engine;
static char place[200];
static uint64_t random_state, children;
static struct super layout;
static struct engine_inside inside;
static bool walking; /* images have been read; what is read now only a check reads */

static uint64_t below(uint64_t n) { return (unit_random(&random_state) >> 11) % n; }

/* ---- What is in use ---- */

static bool is_data(uint64_t offset)
{
    unsigned char block[4096];
    for (unsigned i = 0; i < sizeof block; i++)
        block[i] = disk_byte("blocks", offset + i);
    for (unsigned s = 0; s < CONTENT_SECTORS; s++) { /* some sector is of a write, whatever its place in the image */
        uint64_t head;
        memcpy(&head, block + s * 512, sizeof head);
        if ((uint32_t)head && pattern_id(block + s * 512, head >> 32) == (uint32_t)head)
            return true;
    }
    return false;
}

static enum kind kind_of_block(uint64_t block)
{
    if (block < JOURNAL_START)
        return SUPERBLOCK;
    if (block < layout.zone_start)
        return JOURNAL;
    if ((block - layout.zone_start) % ZONE_BLOCKS < ZONE_HEAD_BLOCKS)
        return SPACE_MAP;
    return is_data(block * 4096) ? DATA : walking ? OTHER_BLOCKS : NODES;
}

/* Of the journal, only what recovery believes: not what earlier rounds of the ring left. */
static bool journal_in_use(uint64_t block)
{
    uint64_t at = block - layout.journal_start, used = inside.journal_next - inside.journal_tail;
    return (at + inside.journal_blocks - inside.journal_tail % inside.journal_blocks) % inside.journal_blocks < used;
}

static bool blank(const char *name, uint64_t offset, uint64_t length)
{
    for (uint64_t i = 0; i < length; i++)
        if (disk_byte(name, offset + i))
            return false;
    return true;
}

static void add(enum kind k, const char *name, uint64_t offset, uint64_t length)
{
    uint64_t size = disk_size(name);
    length = offset >= size ? 0 : length < size - offset ? length : size - offset;
    if (shared->count[k] == STRETCHES / KINDS || blank(name, offset, length))
        return;
    for (uint32_t i = 0; i < shared->count[k]; i++)
        if (shared->stretch[k][i].offset == offset && strcmp(shared->stretch[k][i].name, name) == 0)
            return;
    for (unsigned other = 0; other < KINDS; other++) /* a node that a check reads again stays one */
        for (uint32_t i = 0; other != k && k == OTHER_BLOCKS && i < shared->count[other]; i++)
            if (shared->stretch[other][i].offset == offset && strcmp(shared->stretch[other][i].name, name) == 0)
                return;
    struct stretch *s = &shared->stretch[k][shared->count[k]++];
    snprintf(s->name, sizeof s->name, "%s", name);
    s->offset = offset;
    s->length = (uint32_t)length;
}

static void note_read(const char *name, uint64_t offset, uint64_t length)
{
    if (strcmp(name, "blocks") == 0) {
        for (uint64_t b = offset / 4096; b * 4096 < offset + length; b++)
            if (kind_of_block(b) != JOURNAL || journal_in_use(b))
                add(kind_of_block(b), name, b * 4096, 4096);
        return;
    }
    enum kind k = strstr(name, "catalog.db") ? PAGES : strstr(name, "/log.") ? LOG : OTHER_FILES;
    for (uint64_t at = offset & ~511ull; at < offset + length; at += 512)
        add(k, name, at, 512);
}

/* ---- The children ---- */

struct flip {
    enum kind kind;
    const struct stretch *stretch;
    uint64_t offset;
    unsigned char bits;
};

static void ignore(void *ctx, const char *line) { (void)ctx, (void)line; }

/* Whether it found anything. */
static bool check(void)
{
    struct engine_run run;
    struct store_check_result result = { 0 };
    engine_run_arm(&run);
    store_check(engine.store, &run.op, true, ignore, NULL, &result);
    return engine_run(&engine, &run, "a check") || result.damaged || result.leaked_blocks || result.wrongly_free;
}

static void end_store(void)
{
    store_close(engine.store);
    engine.backing.close(&engine.backing);
}

static int trace_use(const char *directory, const struct flip *unused)
{
    struct error err = ERROR_NONE;
    (void)unused;
    disk_at_read(note_read);
    if (engine_reach(&engine, directory, &err) || engine_land_damaged(&engine))
        engine_fail("the store is damaged before anything was flipped: %s", err.text);
    walking = true;
    if (check())
        engine_fail("a check finds damage before anything was flipped");
    disk_at_read(NULL);
    end_store();
    return 0;
}

static int look_at_damage(const char *directory, const struct flip *f)
{
    struct error err = ERROR_NONE;
    enum outcome o = REFUSED;
    engine.faulty = true;
    if (!engine_reach(&engine, directory, &err)) {
        unsigned errors = engine_land_damaged(&engine);
        bool found = check();
        o = errors ? READ_ERROR : found ? FOUND : NO_EFFECT;
        end_store();
    }
    shared->outcomes[f->kind][o]++;
    return 0;
}

/* Runs work in a child, for which a copy of the store with that bit flipped is put into a directory of its own. */
static void in_child(int (*work)(const char *directory, const struct flip *f), const struct flip *f)
{
    char directory[256], what[120] = "nothing";
    int status = 0;
    if (f)
        snprintf(what, sizeof what, "bits %02x of %s at %llu, %s", f->bits, f->stretch->name, (unsigned long long)f->offset, kind_names[f->kind]);
    snprintf(directory, sizeof directory, "%s/%llu", place, (unsigned long long)++children);
    fflush(stdout);
    disk_lock(); /* before: in the child no other thread is there to give it back */
    pid_t child = fork();
    if (child == 0) {
        struct disk_cut all;
        alarm(JUDGE_SECONDS);
        if (f)
            disk_flip(f->stretch->name, f->offset, f->bits);
        disk_cut(directory, NULL, &all);
        disk_unlock();
        work(directory, f);
        disk_remove_tree(directory);
        fflush(stdout);
        _exit(0);
    }
    disk_unlock();
    if (child > 0 && waitpid(child, &status, 0) == child && !status)
        return;
    printf("# after a flip of %s: status %x\n", what, (unsigned)status);
    if (WIFSIGNALED(status))
        printf("not ok disk: %s - signal %d (SEED=%llu)\n", engine_where.test, WTERMSIG(status), (unsigned long long)engine_where.seed);
    fflush(stdout);
    _exit(1);
}

static void flip_one(enum kind k)
{
    struct flip f = { .kind = k, .bits = (unsigned char)(1u << below(8)) };
    if (!shared->count[k])
        return;
    do { /* what recovery itself has added is read there, and is not here */
        f.stretch = &shared->stretch[k][below(shared->count[k])];
        f.offset = f.stretch->offset + below(k == SUPERBLOCK && below(2) ? 96 : f.stretch->length);
    } while (f.offset >= disk_size(f.stretch->name));
    in_child(look_at_damage, &f);
}

/* ---- Sessions ---- */

static struct handle *writable_handle(void)
{
    for (;;) {
        list_for_each(n, &engine.world.handles) {
            struct handle *h = container_of(n, struct handle, link);
            if (h->writable && h->object->content->count && !h->object->held)
                return h;
        }
        engine_step(&engine);
        engine_drain(&engine);
    }
}

/* What was written is flushed, and a journal block after it says so. */
static void flush_all(void)
{
    struct handle *h = writable_handle();
    engine_drain(&engine);
    list_for_each(n, &engine.world.handles)
        if (container_of(n, struct handle, link)->writable)
            engine_submit_io(&engine, container_of(n, struct handle, link), IMAGE_FLUSH, 0, 0, 0);
    engine_drain(&engine);
    engine_submit_io(&engine, h, IMAGE_WRITE, 0, 1, 0);
    engine_drain(&engine);
}

static void read_layout(void)
{
    uint8_t block[4096];
    for (unsigned i = 0; i < sizeof block; i++)
        block[i] = disk_byte("blocks", i);
    if (super_decode(block, &layout))
        engine_fail("the superblock cannot be decoded");
    inside = engine_inside(engine.store);
}

static void rot_session(uint64_t flips)
{
    char url[256];
    snprintf(url, sizeof url, "%s/live", place);
    if (mkdir(url, 0700) < 0)
        engine_fail("making '%s' failed", url);
    disk_watch(url, unit_random(&random_state));
    engine_start_at(&engine, unit_random(&random_state), 256ull << 20, 2000, url);
    for (unsigned i = 0; i < SESSION_STEPS; i++)
        engine_step(&engine);
    engine_reopen(&engine);
    for (unsigned i = 0; i < SESSION_STEPS / 4; i++)
        engine_step(&engine);
    flush_all();
    disk_settle();
    read_layout();
    memset(shared->count, 0, sizeof shared->count);
    in_child(trace_use, NULL);
    for (uint64_t i = 0; i < flips; i++)
        for (enum kind k = 0; k < KINDS; k++)
            flip_one(k);
    engine_delete_all(&engine);
    engine_end(&engine);
    disk_unwatch();
    disk_remove_tree(url);
}

static uint64_t flips_of(enum kind k)
{
    uint64_t sum = 0;
    for (unsigned o = 0; o < OUTCOMES; o++)
        sum += shared->outcomes[k][o];
    return sum;
}

/* Of the kinds that are always there, but for a store that lost all its data again as the session went. */
static uint64_t fewest_flips(void)
{
    uint64_t fewest = UINT64_MAX;
    for (enum kind k = 0; k < SPACE_MAP; k++)
        fewest = flips_of(k) < fewest ? flips_of(k) : fewest;
    return fewest;
}

static void a_flipped_bit_is_an_error_or_nothing(void)
{
    const char *s = getenv("FLIPS");
    uint64_t wanted = s ? strtoull(s, NULL, 0) : 15, done, all = 0;
    engine_where = (struct engine_where){ __func__, unit_seed(), 0 };
    random_state = engine_where.seed;
    for (unsigned session = 0; (done = fewest_flips()) < wanted && session < wanted / FLIPS_A_SESSION + SPARE_SESSIONS; session++)
        rot_session(wanted - done < FLIPS_A_SESSION ? wanted - done : FLIPS_A_SESSION);
    for (enum kind k = 0; k < KINDS; k++) {
        printf("# %-34s", kind_names[k]);
        for (unsigned o = 0; o < OUTCOMES; o++)
            printf(" %5llu %s%s", (unsigned long long)shared->outcomes[k][o], outcome_names[o], o + 1 < OUTCOMES ? "," : "\n");
        all += flips_of(k);
    }
    CU_ASSERT(fewest_flips() >= wanted); /* the rest is there or not, as the session went */
    printf("# %llu flips\n", (unsigned long long)all);
}

int main(int argc, char **argv)
{
    static const struct unit_test tests[] = { UNIT(a_flipped_bit_is_an_error_or_nothing), { 0 } };
    const char *room = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : getenv("TMPDIR") ? getenv("TMPDIR") : "/var/tmp";
    snprintf(place, sizeof place, "%.150s/parallax-flip-XXXXXX", room);
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (!mkdtemp(place) || shared == MAP_FAILED) {
        perror(place);
        return 1;
    }
    engine_limit(IMAGES_MOST, SNAPSHOTS_MOST);
    log_set_level(0); /* all damage here is ordered */
    int rc = unit_main(argc, argv, "disk", tests);
    disk_remove_tree(place);
    return rc;
}
