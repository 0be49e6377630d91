/* snapshot_depth.c - how an image with many snapshots reads: STORE [SNAPSHOTS [WRITES [IMAGE-MiB [IMAGE]]]].
 *
 * Fills a new image, reads it at random (4 KiB, depth 32), then takes SNAPSHOTS snapshots with WRITES uniform random 4 KiB
 * writes before each, and reads again. Prints one JSON line: reads a second before and after, snapshot latency, checkpoints. */
#include "base/bdev.h"
#include "tests/support/store_load.h"

#include <stdio.h>
#include <stdlib.h>

#define WARM_UP 20000u
#define READS 200000u

static double reads_per_s(void)
{
    load_run(LOAD_READS, WARM_UP);
    return READS / load_run(LOAD_READS, READS);
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: snapshot_depth STORE [SNAPSHOTS [WRITES [IMAGE-MiB [IMAGE]]]]\n");
        return 2;
    }
    unsigned snapshots = argc > 2 ? (unsigned)atoi(argv[2]) : 1000, writes = argc > 3 ? (unsigned)atoi(argv[3]) : 1000;
    uint64_t mib = argc > 4 ? strtoull(argv[4], NULL, 10) : 1024;
    const char *image = argc > 5 ? argv[5] : "deep";
    struct store *store = load_open(argv[1], "snapshot_depth");
    load_open_image(image, mib << 20);
    double fill = load_run(LOAD_FILL, mib << 8);
    store_checkpoint(store, load_op());
    load_wait();
    double before = reads_per_s(), *latency = malloc((snapshots + 1) * sizeof *latency), wrote = 0;
    for (unsigned i = 0; i < snapshots; i++) {
        char name[IMAGE_TARGET_SIZE];
        const char *names[] = { name };
        wrote += load_run(LOAD_WRITES, writes);
        snprintf(name, sizeof name, "%s@t%u", image, i);
        snapshot_create(store, load_op(), names, 1);
        latency[i] = load_wait() * 1e6;
    }
    store_checkpoint(store, load_op());
    double checkpoint = load_wait(), after = reads_per_s();
    struct store_status st;
    store_get_status(store, &st);
    printf("{\"fill-mib-per-s\":%.0f,\"reads-before\":%.0f,\"reads-after\":%.0f,\"writes\":%.0f,\"snapshot-p50-us\":%.0f,\"snapshot-p99-us\":%.0f,"
           "\"last-checkpoint-s\":%.2f,\"checkpoints\":%llu,\"used-mib\":%llu}\n",
           (double)mib / fill, before, after, wrote > 0 ? snapshots * (double)writes / wrote : 0, load_percentile(latency, snapshots, 50),
           load_percentile(latency, snapshots, 99), checkpoint, (unsigned long long)st.checkpoints, (unsigned long long)(st.used_bytes >> 20));
    free(latency);
    load_close();
    return 0;
}
