/* parallax_full_test.c - a store that is filled until nothing goes in and freed again, many times, and killed in between: by its
 * own limit, and by a file system that somebody else fills as well; with writes that fail and with writes that wait.
 *
 * A child process fills and frees and tells each cycle through a pipe; the parent kills it with SIGKILL at random moments, and
 * sometimes lets it end by itself. After each end another child opens the store: check must find it sound as it
 * is, without any repair, and an image that was flushed before must be whole.
 * CYCLES: of each kind (1,000 in make check-full). */
#include "base/bdev.h"
#include "base/clock.h"
#include "base/loop.h"
#include "tests/support/engine_fail.h"
#include "tests/support/rig.h"
#include "tests/support/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB (1ull << 20)
#define BLOCKS(mib) ((uint64_t)(mib) * MIB / BDEV_BLOCK_SIZE)
#define KEPT BLOCKS(4)
#define FILLER_MIB 128u /* more than the store can hold */
#define WRITERS 8u
#define PIECE 64u /* blocks */
#define STUCK_MS 200u /* writes that have made no progress for so long wait for space */

/* ---- The child: filling and freeing ---- */

struct writer {
    struct image_req req;
    struct iovec iov;
    struct filling *f;
    bool busy;
};

struct filling {
    struct rig *r;
    struct image *img;
    struct writer writers[WRITERS];
    void *memory;
    uint64_t next, moved_ms;
    unsigned under_way;
    bool stop; /* full, or told to */
};

static bool crowded; /* another process fills the file system */

/* The other process may take what was set aside for the catalog too, the moment it is let go. Then the store takes no more changes and
 * says so, and goes on when it is opened again: the end of a life, and no repair. */
static void give_up(struct rig *r, const char *what, int error)
{
    struct store_status st;
    store_get_status(r->store, &st);
    if (crowded && st.failed)
        _exit(0);
    engine_fail("%s in a full store: %d", what, error);
}

static void submit(struct writer *w);

static void written(struct image_req *req, int error)
{
    struct writer *w = container_of(req, struct writer, req);
    struct filling *f = w->f;
    w->busy = false;
    f->under_way--;
    f->moved_ms = clock_monotonic_ms();
    if (error && error != -ENOSPC)
        give_up(f->r, "a write", error);
    f->stop |= error != 0;
    if (!f->stop && f->next < BLOCKS(FILLER_MIB))
        submit(w);
}

static void submit(struct writer *w)
{
    struct filling *f = w->f;
    w->iov = (struct iovec){ f->memory, (uint64_t)PIECE * BDEV_BLOCK_SIZE };
    w->req = (struct image_req){ .op = IMAGE_WRITE, .offset = f->next * BDEV_BLOCK_SIZE, .length = w->iov.iov_len, .iov = &w->iov, .iov_count = 1, .done = written };
    w->busy = true;
    f->next += PIECE;
    f->under_way++;
    image_submit(f->img, &w->req);
}

/* What lies before every write that waits: a discard of it overtakes them. */
static uint64_t free_end(const struct filling *f)
{
    uint64_t end = f->next;
    for (unsigned i = 0; i < WRITERS; i++)
        if (f->writers[i].busy && f->writers[i].req.offset / BDEV_BLOCK_SIZE < end)
            end = f->writers[i].req.offset / BDEV_BLOCK_SIZE;
    return end;
}

static bool is_full(struct rig *r, void *ctx)
{
    struct filling *f = ctx;
    (void)r;
    return !f->under_way || clock_monotonic_ms() - f->moved_ms > STUCK_MS;
}

static bool is_idle(struct rig *r, void *ctx)
{
    (void)r;
    return !((struct filling *)ctx)->under_way;
}

/* One cycle. Writes that wait are let in by what the discard behind them frees. */
static void fill_and_free(struct rig *r, struct image *img, unsigned number)
{
    struct filling f = { .r = r, .img = img, .memory = bdev_buffer_alloc(PIECE), .moved_ms = clock_monotonic_ms() };
    for (uint64_t b = 0; b < PIECE; b++)
        rig_fill_block((char *)f.memory + b * BDEV_BLOCK_SIZE, b, number + 1);
    for (unsigned i = 0; i < WRITERS; i++) {
        f.writers[i].f = &f;
        submit(&f.writers[i]);
    }
    rig_wait(r, is_full, &f, "a full store");
    f.stop = true;
    if (f.under_way && free_end(&f) && rig_discard(r, img, 0, free_end(&f)))
        give_up(r, "a discard", 0);
    rig_wait(r, is_idle, &f, "space for the writes that waited");
    free(f.memory);
    if (number % 3 == 0) {
        struct store_op op;
        const char *snapshot = "filler@s";
        rig_arm(&op);
        snapshot_create(r->store, &op, &snapshot, 1);
        int err = rig_run(r, &op);
        rig_arm(&op);
        if (!err) {
            snapshot_delete(r->store, &op, &snapshot, 1, false);
            err = rig_run(r, &op);
        }
        if (err)
            give_up(r, "a snapshot", err);
    }
    if (rig_flush(r, img) || rig_discard(r, img, 0, BLOCKS(FILLER_MIB)))
        give_up(r, "a flush or a discard", 0);
}

/* In a child: with a loop of its own. */
static void open_again(struct rig *r)
{
    struct error err = ERROR_NONE;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (loop_create(&r->loop))
        engine_fail("no loop");
    if (rig_try_open(r, &err))
        engine_fail("opening after a kill: %s", err.text);
}

/* What a kill left behind; the store may be full. */
static void empty(struct rig *r, struct image *img)
{
    struct store_op op;
    const char *snapshot = "filler@s";
    rig_arm(&op);
    snapshot_delete(r->store, &op, &snapshot, 1, false);
    int err = rig_run(r, &op);
    if ((err && err != -ENOENT) || rig_discard(r, img, 0, BLOCKS(FILLER_MIB)))
        give_up(r, "a deletion or a discard", err);
}

static void fill_for_ever(struct rig *r, int tell)
{
    open_again(r);
    struct image *img = rig_image(r, "filler", IMAGE_READ_WRITE);
    empty(r, img);
    for (unsigned number = 0;; number++) {
        fill_and_free(r, img, number);
        if (write(tell, "", 1) != 1)
            break;
    }
    image_close(img);
    rig_close(r);
    _exit(0);
}

static void look(struct rig *r)
{
    open_again(r);
    struct image *kept = rig_image(r, "kept", IMAGE_READ_ONLY);
    rig_expect(r, kept, 0, KEPT, 1);
    image_close(kept);
    bool sound = rig_is_sound(r);
    rig_close(r);
    if (!sound)
        engine_fail("the store needs a repair");
    _exit(0);
}

/* ---- The parent ---- */

struct course {
    struct rig r;
    char hog[300]; /* a file that fills the file system; "": none does */
    unsigned cycles, kills, ends;
    uint64_t random;
};

/* Another process takes what the file system has, or gives it back. */
static void fill_file_system(struct course *c)
{
    static char zeroes[1 << 16];
    if (!c->hog[0])
        return;
    unlink(c->hog);
    if (unit_random(&c->random) % 3 == 0)
        return;
    int fd = open(c->hog, O_CREAT | O_WRONLY, 0600);
    while (fd >= 0 && write(fd, zeroes, sizeof zeroes) > 0)
        ;
    close(fd);
}

static bool ends_well(pid_t pid)
{
    int status = 1;
    return waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

/* Lets the child work for some cycles or a part of one, and ends it. Whether all was well. */
static bool one_life(struct course *c)
{
    int tell[2];
    char byte;
    fflush(stdout);
    if (pipe(tell))
        return false;
    fill_file_system(c);
    pid_t pid = fork();
    if (pid == 0) {
        close(tell[0]);
        signal(SIGPIPE, SIG_IGN);
        fill_for_ever(&c->r, tell[1]);
    }
    close(tell[1]);
    uint64_t until = clock_monotonic_ms() + unit_random(&c->random) % 700;
    bool ended = unit_random(&c->random) % 8 == 0, dead = false;
    for (uint64_t now; !dead && (now = clock_monotonic_ms()) < until;) {
        struct pollfd p = { .fd = tell[0], .events = POLLIN };
        if (poll(&p, 1, (int)(until - now)) > 0) {
            dead = read(tell[0], &byte, 1) != 1;
            c->cycles += !dead;
            if (unit_random(&c->random) % 4 == 0)
                fill_file_system(c);
        }
    }
    if (!ended)
        kill(pid, SIGKILL);
    while (!ended && !dead && read(tell[0], &byte, 1) == 1)
        c->cycles++;
    close(tell[0]); /* the next cycle is the last one */
    bool well = ends_well(pid);
    c->kills += !ended && !dead;
    c->ends += ended;
    if (c->hog[0])
        unlink(c->hog);
    if ((dead || ended) && !well)
        return false;
    fflush(stdout);
    pid = fork();
    if (pid == 0)
        look(&c->r);
    return ends_well(pid);
}

static void run(struct course *c, const char *test, const char *parent, uint64_t size_bytes, bool waits)
{
    const char *cycles = getenv("CYCLES");
    unsigned most = cycles ? (unsigned)atoi(cycles) : 6;
    engine_where = (struct engine_where){ test, unit_seed(), 0 };
    c->random = unit_seed();
    crowded = parent != NULL;
    rig_start(&c->r, parent, size_bytes);
    rig_create(&c->r, "kept", KEPT * BDEV_BLOCK_SIZE);
    rig_create(&c->r, "filler", FILLER_MIB * MIB);
    struct image *kept = rig_image(&c->r, "kept", IMAGE_READ_WRITE);
    rig_write(&c->r, kept, 0, KEPT, 1);
    CU_ASSERT_EQUAL(rig_flush(&c->r, kept), 0);
    image_close(kept);
    rig_close(&c->r);
    c->r.options.wait_when_full = waits;
    c->r.options.trim_after_ms = 50;
    bool well = true;
    while (well && (c->cycles < most || c->kills < most / 4)) {
        engine_where.step++;
        well = one_life(c);
    }
    printf("# %s: filled and freed %u times, %u kills, %u clean ends\n", test, c->cycles, c->kills, c->ends);
    CU_ASSERT(well);
    rig_end(&c->r);
}

static void filling_and_freeing_by_its_own_limit_never_needs_a_repair(void)
{
    struct course c = { .cycles = 0 };
    run(&c, __func__, NULL, 64 * MIB, false);
}

static void writes_that_wait_for_its_own_limit_never_need_a_repair(void)
{
    struct course c = { .cycles = 0 };
    run(&c, __func__, NULL, 64 * MIB, true);
}

static bool sh(const char *format, const char *directory)
{
    char command[900];
    snprintf(command, sizeof command, format, directory, directory);
    return system(command) == 0;
}

/* A small file system of its own, which the parent fills as well. */
static char small[] = "/var/tmp/parallax-full.XXXXXX";

static bool mount_small(void)
{
    return mkdtemp(small) && sh("cd %s && truncate -s 160M disk && mke2fs -q -F -m 0 -t ext4 disk && mkdir mnt && mount -o loop disk mnt 2>/dev/null", small);
}

static pid_t owner;

static void clean_up(void)
{
    if (getpid() == owner)
        sh("umount -q %s/mnt; rm -rf --one-file-system %s", small);
}

static void on_a_file_system(const char *test, bool waits)
{
    struct course c = { .cycles = 0 };
    char mount[64];
    snprintf(mount, sizeof mount, "%s/mnt", small);
    snprintf(c.hog, sizeof c.hog, "%s/hog", mount);
    run(&c, test, mount, 256 * MIB, waits); /* more than the file system has */
}

static void a_file_system_that_others_fill_never_brings_a_repair(void) { on_a_file_system(__func__, false); }
static void writes_that_wait_for_a_full_file_system_never_need_a_repair(void) { on_a_file_system(__func__, true); }

int main(int argc, char **argv)
{
    const struct unit_test tests[] = {
        UNIT(filling_and_freeing_by_its_own_limit_never_needs_a_repair),
        UNIT(writes_that_wait_for_its_own_limit_never_need_a_repair),
        UNIT(a_file_system_that_others_fill_never_brings_a_repair),
        UNIT(writes_that_wait_for_a_full_file_system_never_need_a_repair),
        { 0 },
    }, without[] = { tests[0], tests[1], { 0 } };
    bool mounted = mount_small();
    if (!mounted)
        printf("skip parallax full: a file system that others fill - mounting a small file system needs root and a loop device\n");
    owner = getpid();
    atexit(clean_up);
    return unit_main(argc, argv, "parallax full", mounted ? tests : without);
}
