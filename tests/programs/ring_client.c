/* ring_client.c - a guest of the embedded hypervisor (or of Xen) that uses its disk through a blkif ring.
 *
 *   ring_client [options] verify --log FILE [--seconds N] [--depth N] [--no-discard]
 *   ring_client [options] check --log FILE [--power-cut]
 *   ring_client [options] bench --rw randread|randwrite|read|write [--bs BYTES] [--depth N] [--seconds N]
 *     --operations N  --once  --stride BYTES  --flush-every N
 *     --vdev xvda|NUMBER  --wait SECONDS  --order N  --queues N  --segments N  --persistent  --layout x86_64|x86_32|arm
 *     --region BYTES  --seed N  --stay (after the job, until SIGTERM or SIGINT)
 *
 * Joins as a domain and prints "guest pid=… domid=…" at once, waits for its disk, prints "disk vdev=… bytes=…", does the job,
 * prints the job's JSON line and then the ring's counters as another. SIGTERM and SIGINT end a job early and in order.
 * Exit: 0 the job is done and all was right; 1 it was not; 2 wrong usage. */
#include "tests/support/ring_jobs.h"
#include "tests/support/unit.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ARENA_SPARE_PAGES 4096u /* rings of any size, bounce pages, and what a depth of 64 of verify needs */

static volatile sig_atomic_t stop;

static void on_signal(int number)
{
    (void)number;
    stop = 1;
}

static const struct option options[] = {
    { "vdev", required_argument, NULL, 'v' }, { "wait", required_argument, NULL, 'w' }, { "order", required_argument, NULL, 'o' },
    { "queues", required_argument, NULL, 'q' }, { "segments", required_argument, NULL, 'g' }, { "persistent", no_argument, NULL, 'p' },
    { "layout", required_argument, NULL, 'l' }, { "region", required_argument, NULL, 'r' }, { "seed", required_argument, NULL, 's' },
    { "log", required_argument, NULL, 'L' }, { "seconds", required_argument, NULL, 't' }, { "depth", required_argument, NULL, 'd' },
    { "no-discard", no_argument, NULL, 'D' }, { "power-cut", no_argument, NULL, 'P' }, { "rw", required_argument, NULL, 'R' },
    { "bs", required_argument, NULL, 'b' }, { "operations", required_argument, NULL, 'n' }, { "once", no_argument, NULL, '1' },
    { "stride", required_argument, NULL, 'S' }, { "flush-every", required_argument, NULL, 'f' }, { "stay", no_argument, NULL, 'K' }, { 0 } };

static int usage(const char *what)
{
    fprintf(stderr, "ring_client: %s\nusage: ring_client [--vdev xvda] [--wait S] … verify|check|bench …\n", what);
    return 2;
}

static int parse(int argc, char **argv, struct blkfront_options *ring, struct ring_job *j)
{
    int c;
    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        unsigned long long n = optarg ? strtoull(optarg, NULL, 10) : 0;
        switch (c) {
        case 'v': ring->vdev = blkfront_vdev_number(optarg); break;
        case 'w': ring->timeout_ms = (unsigned)n * 1000; break;
        case 'o': ring->ring_order = (unsigned)n; break;
        case 'q': ring->queues = (unsigned)n; break;
        case 'g': ring->max_segments = (unsigned)n; break;
        case 'p': ring->persistent = true; break;
        case 'l': ring->layout = !strcmp(optarg, "x86_32") ? BLKFRONT_X86_32 : !strcmp(optarg, "arm") ? BLKFRONT_ARM : BLKFRONT_X86_64; break;
        case 'r': j->region_bytes = n; break;
        case 's': j->seed = n; break;
        case 'L': j->log = optarg; break;
        case 't': j->seconds = n; break;
        case 'd': j->depth = (unsigned)n; break;
        case 'D': j->discards = false; break;
        case 'P': j->power_cut = true; break;
        case 'R': j->rw = optarg; break;
        case 'b': j->block_bytes = n; break;
        case 'n': j->operations = n; break;
        case '1': j->once = true; break;
        case 'S': j->stride_bytes = n; break;
        case 'f': j->flush_every = (unsigned)n; break;
        case 'K': j->stay = true; break;
        default: return usage("unknown option");
        }
    }
    const char *job = optind + 1 == argc ? argv[optind] : "";
    bool bench = !strcmp(job, "bench");
    if (!bench && strcmp(job, "verify") && strcmp(job, "check"))
        return usage("name one job: verify, check or bench");
    if (!bench && !j->log)
        return usage("--log FILE is needed");
    if (!j->depth || j->depth > 1024 || j->block_bytes % 512 || !j->block_bytes || j->block_bytes > 1 << 20)
        return usage("depth is 1 to 1024, bs a multiple of 512 up to 1 MiB");
    if (j->stride_bytes % 512 || (j->stride_bytes && j->stride_bytes < j->block_bytes))
        return usage("stride is a multiple of 512, and not less than bs");
    return 0;
}

static void print_ring(struct blkfront *disk)
{
    struct blkfront_info i;
    blkfront_get_info(disk, &i);
    printf("{\"ring\":{\"vdev\":%u,\"pages\":%u,\"queues\":%u,\"segments\":%u,\"persistent\":%s,\"requests\":%llu,\"responses\":%llu,"
           "\"events-sent\":%llu,\"events-received\":%llu,\"indirect\":%llu,\"bounced-bytes\":%llu}}\n",
           i.vdev, i.ring_pages, i.queues, i.max_segments, i.persistent ? "true" : "false", (unsigned long long)i.requests,
           (unsigned long long)i.responses, (unsigned long long)i.events_sent, (unsigned long long)i.events_received,
           (unsigned long long)i.indirect, (unsigned long long)i.bounced_bytes);
}

static int run(const char *name, const struct blkfront_options *ring, struct ring_job *j)
{
    struct error err = ERROR_NONE;
    int status = 1;
    if (blkfront_open(j->hv, j->loop, ring, &j->disk, &err)) {
        fprintf(stderr, "ring_client: %s\n", err.text);
        return 1;
    }
    blkfront_get_info(j->disk, &j->info);
    printf("disk vdev=%u bytes=%llu read-only=%d\n", j->info.vdev, (unsigned long long)j->info.size_bytes, j->info.read_only);
    if (!strcmp(name, "verify"))
        status = ring_verify(j);
    else if (!strcmp(name, "check"))
        status = ring_check(j);
    else
        status = ring_bench(j);
    print_ring(j->disk);
    while (j->stay && !*j->stop)
        loop_turn(j->loop, 100);
    blkfront_close(j->disk);
    return status;
}

int main(int argc, char **argv)
{
    struct blkfront_options ring = { .timeout_ms = 30000 };
    struct ring_job j = { .stop = &stop, .depth = 32, .seconds = 10, .discards = true, .rw = "randread", .block_bytes = 4096, .seed = 1 };
    int status = parse(argc, argv, &ring, &j);
    if (status)
        return status;
    struct error err = ERROR_NONE;
    struct hv_identity who = { .kind = HV_GUEST, .name = "ring_client",
                               .arena_pages = ARENA_SPARE_PAGES + (uint32_t)(j.depth * ((j.block_bytes + 4095) / 4096)) };
    setvbuf(stdout, NULL, _IOLBF, 0);
    signal(SIGTERM, on_signal);
    signal(SIGINT, on_signal);
    if (hv_open("auto", &who, &j.hv, &err) || loop_create(&j.loop)) {
        fprintf(stderr, "ring_client: %s\n", err.text);
        return 1;
    }
    printf("guest pid=%d domid=%u\n", (int)getpid(), hv_own_domid(j.hv));
    status = run(argv[optind], &ring, &j);
    loop_destroy(j.loop);
    hv_close(j.hv);
    return status;
}
