/* door_load.c - requests of many threads on one disk of a door, and what they cost this process.
 *
 *   door_load STORE IMAGE THREADS OPERATIONS [read]
 *
 * Each thread has a part of the disk to itself: it writes blocks, whole and in part, flushes, trims, and reads them back; with
 * "read" it only reads, what is there. OPERATIONS: of each thread. Prints a line: what was done, and how often a thread of this
 * process went to sleep, for each operation. Exit 1 at the first error or wrong byte, which is described. */
#include "doors/common/door.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#define BLOCK 4096u
#define BLOCKS 64u /* of a thread's part */
#define THREADS_MAX 256u

static struct door_disk *disk;
static unsigned operations;
static bool only_read;
static atomic_bool failed;

struct worker {
    pthread_t thread;
    uint64_t first, state; /* of its part, bytes; of its random numbers */
    uint8_t is[BLOCKS * BLOCK], buffer[2 * BLOCK];
};

/* xorshift64*. */
static uint64_t next_random(struct worker *w)
{
    w->state ^= w->state >> 12;
    w->state ^= w->state << 25;
    w->state ^= w->state >> 27;
    return w->state * 0x2545f4914f6cdd1du;
}

static void fail(struct worker *w, const char *what, uint64_t at, int error)
{
    fprintf(stderr, "door_load: %s at %" PRIu64 ": %s\n", what, w->first + at, error ? strerror(-error) : "other bytes than were written");
    atomic_store(&failed, true);
}

static void read_back(struct worker *w, uint64_t at, size_t length)
{
    int bad = door_disk_read(disk, w->buffer, length, w->first + at);
    if (bad || (!only_read && memcmp(w->buffer, w->is + at, length)))
        fail(w, "read", at, bad);
}

static void write_some(struct worker *w, uint64_t at, size_t length, bool fua)
{
    for (size_t i = 0; i < length; i++)
        w->is[at + i] = (uint8_t)next_random(w);
    int bad = door_disk_write(disk, w->is + at, length, w->first + at, fua);
    if (bad)
        fail(w, "write", at, bad);
}

static void trim_block(struct worker *w, uint64_t at)
{
    memset(w->is + at, 0, BLOCK);
    int bad = door_disk_trim(disk, BLOCK, w->first + at, false);
    if (bad)
        fail(w, "trim", at, bad);
}

static void *work(void *arg)
{
    struct worker *w = arg;
    for (unsigned i = 0; i < operations && !atomic_load(&failed); i++) {
        uint64_t r = next_random(w), at = r / 16 % (BLOCKS - 1) * BLOCK;
        if (only_read || r % 16 < 7)
            read_back(w, at, BLOCK);
        else if (r % 16 < 12)
            write_some(w, at, BLOCK, r % 16 == 11);
        else if (r % 16 == 12)
            write_some(w, at + 512, BLOCK, false);
        else if (r % 16 == 13)
            write_some(w, at + 100, 700, false);
        else if (r % 16 == 14)
            trim_block(w, at);
        else if (door_disk_flush(disk))
            fail(w, "flush", at, -EIO);
    }
    return NULL;
}

static void run(struct worker *workers, unsigned count)
{
    struct rusage before, after;
    getrusage(RUSAGE_SELF, &before);
    for (unsigned i = 0; i < count; i++)
        if (pthread_create(&workers[i].thread, NULL, work, &workers[i]))
            abort();
    for (unsigned i = 0; i < count; i++)
        pthread_join(workers[i].thread, NULL);
    getrusage(RUSAGE_SELF, &after);
    double all = (double)count * operations;
    printf("threads %u operations %.0f sleeps-each %.3f\n", count, all, (double)(after.ru_nvcsw - before.ru_nvcsw) / all);
}

int main(int argc, char **argv)
{
    struct error err = ERROR_NONE;
    struct door *door;
    unsigned count = argc > 4 ? (unsigned)strtoul(argv[3], NULL, 10) : 0;
    if (!count || count > THREADS_MAX) {
        fprintf(stderr, "usage: door_load STORE IMAGE THREADS OPERATIONS [read]\n");
        return 2;
    }
    operations = (unsigned)strtoul(argv[4], NULL, 10);
    only_read = argc > 5;
    struct worker *workers = calloc(count, sizeof *workers);
    if (!workers)
        abort();
    if (door_open(&(struct door_options){ .store = argv[1] }, &door, &err) ||
        door_disk_open(door, &(struct door_disk_options){ .target = argv[2], .read_only = only_read }, &disk, &err)) {
        fprintf(stderr, "door_load: %s\n", err.text);
        return 1;
    }
    for (unsigned i = 0; i < count; i++) {
        workers[i].first = (uint64_t)i * sizeof workers[i].is;
        workers[i].state = i + 1;
        if (!only_read && door_disk_read(disk, workers[i].is, sizeof workers[i].is, workers[i].first)) /* its part may hold anything */
            fail(&workers[i], "read", 0, -EIO);
    }
    run(workers, count);
    door_disk_close(disk);
    door_close(door);
    free(workers);
    return atomic_load(&failed);
}
