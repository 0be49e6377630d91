/* store_times.c - what some of a store's promises measure: STORE WHAT [SIZE-MiB [COUNT]]. STORE must be new; one JSON line.
 *
 *   metadata  an image of SIZE is fully written, in order: what a new store uses (most of it its journal), and what the store
 *             uses beyond that and the data after a checkpoint
 *   delete    COUNT snapshots, 1,000 random writes before each; then all are deleted, in random order, beside random reads and
 *             writes: how long each deletion takes to be durable
 *   recover   an image of 1 TiB of which SIZE is written at random; the process that did it kills itself; how long opening and a
 *             first read take then, and what the journal held */
#include "base/bdev.h"
#include "base/clock.h"
#include "tests/support/store_load.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *url;

static void metadata(uint64_t bytes)
{
    load_open(url, "store_times");
    uint64_t before = load_settle().used_bytes;
    load_open_image("disk", bytes);
    load_run(LOAD_FILL, bytes / BDEV_BLOCK_SIZE);
    uint64_t used = load_settle().used_bytes;
    printf("{\"what\":\"metadata\",\"data\":%llu,\"used\":%llu,\"empty-store\":%llu,\"map-percent\":%.3f}\n", (unsigned long long)bytes,
           (unsigned long long)used, (unsigned long long)before, 100.0 * ((double)used - (double)before - (double)bytes) / (double)bytes);
    load_close();
}

static const char *snapshot(unsigned i)
{
    static char name[64];
    snprintf(name, sizeof name, "disk@s%u", i);
    return name;
}

static void deletions(uint64_t bytes, unsigned count)
{
    struct store *store = load_open(url, "store_times");
    load_open_image("disk", bytes);
    load_run(LOAD_FILL, bytes / BDEV_BLOCK_SIZE);
    unsigned *order = malloc(count * sizeof *order);
    double *latency = malloc(count * sizeof *latency);
    for (unsigned i = 0; i < count; i++) {
        const char *names[] = { snapshot(i) };
        load_run(LOAD_WRITES, 1000);
        snapshot_create(store, load_op(), names, 1);
        load_wait();
        order[i] = i;
    }
    load_settle();
    load_begin(LOAD_MIXED, UINT64_MAX);
    for (unsigned i = 0; i < count; i++) {
        unsigned k = i + (unsigned)load_random(count - i);
        const char *names[] = { snapshot(order[k]) };
        order[k] = order[i];
        snapshot_delete(store, load_op(), names, 1, false);
        latency[i] = load_wait() * 1e3;
    }
    load_end();
    printf("{\"what\":\"delete\",\"snapshots\":%u,\"p50-ms\":%.2f,\"p99-ms\":%.2f,\"longest-ms\":%.2f}\n", count, load_percentile(latency, count, 50),
           load_percentile(latency, count, 99), load_percentile(latency, count, 100));
    load_settle();
    free(order);
    free(latency);
    load_close();
}

static void recover(uint64_t bytes)
{
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        load_open(url, "store_times");
        load_open_image("disk", 1ull << 40);
        load_run(LOAD_WRITES, bytes / BDEV_BLOCK_SIZE);
        kill(getpid(), SIGKILL);
    }
    waitpid(pid, NULL, 0);
    uint64_t began = clock_monotonic_ns();
    struct store *store = load_open(url, "store_times");
    double opened = (double)(clock_monotonic_ns() - began) / 1e9;
    load_open_image("disk", 0);
    load_run(LOAD_MIXED, 2);
    double served = (double)(clock_monotonic_ns() - began) / 1e9;
    struct store_status st;
    store_get_status(store, &st);
    printf("{\"what\":\"recover\",\"written\":%llu,\"opened-s\":%.3f,\"served-s\":%.3f,\"journal-used\":%llu,\"changes\":%llu}\n",
           (unsigned long long)bytes, opened, served, (unsigned long long)st.journal_used_bytes, (unsigned long long)st.index_used);
    load_close();
}

int main(int argc, char **argv)
{
    uint64_t bytes = (argc > 3 ? strtoull(argv[3], NULL, 10) : 1024) << 20;
    unsigned count = argc > 4 ? (unsigned)atoi(argv[4]) : 1000;
    const char *what = argc > 2 ? argv[2] : "";
    bool known = !strcmp(what, "metadata") || !strcmp(what, "delete") || !strcmp(what, "recover");
    if (!known || !bytes || !count) {
        fprintf(stderr, "usage: store_times STORE metadata|delete|recover [SIZE-MiB [COUNT]]\n");
        return 2;
    }
    url = argv[1];
    if (!strcmp(what, "metadata"))
        metadata(bytes);
    else if (!strcmp(what, "delete"))
        deletions(bytes, count);
    else
        recover(bytes);
    return 0;
}
