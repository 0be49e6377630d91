/* snapshot_latency.c - how long taking or deleting a snapshot takes, from the request on an open control connection to the
 * durable reply.
 *
 *   snapshot_latency take|delete SOCKET IMAGE COUNT PERIOD-MS [FIRST]
 * One each PERIOD-MS, or as fast as they are answered if that takes longer; they are called
 * IMAGE@tFIRST and so on. SIGTERM ends it early.
 * Prints one JSON line with their number, the seconds it took, the median, the 99th percentile and the longest, in microseconds. */
#include "base/clock.h"
#include "control/control.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static volatile sig_atomic_t stop;

static void on_signal(int number)
{
    (void)number;
    stop = 1;
}

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* Receives up to the reply (or, before any request, the greeting). */
static int await(struct control_client *c, enum control_type type)
{
    for (;;) {
        struct control_frame f;
        int err = control_client_receive(c, &f);
        if (err)
            return err;
        bool failed = f.doc && json_object_get(f.doc, "error");
        if (failed)
            json_dumpf(f.doc, stderr, 0);
        json_decref(f.doc);
        if (f.type == type)
            return failed ? -1 : 0;
    }
}

static void wait_until(uint64_t ns)
{
    struct timespec t = { .tv_sec = (time_t)(ns / 1000000000u), .tv_nsec = (long)(ns % 1000000000u) };
    while (!stop && clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) != 0)
        ;
}

int main(int argc, char **argv)
{
    struct control_client c;
    int fd;
    bool take = argc > 1 && !strcmp(argv[1], "take");
    if (argc < 6 || argc > 7 || (!take && strcmp(argv[1], "delete")))
        return fprintf(stderr, "usage: snapshot_latency take|delete SOCKET IMAGE COUNT PERIOD-MS [FIRST]\n"), 2;
    struct sigaction end = { .sa_handler = on_signal };
    sigaction(SIGTERM, &end, NULL);
    unsigned count = (unsigned)atoi(argv[4]), done = 0, number = argc > 6 ? (unsigned)atoi(argv[6]) : 0;
    uint64_t *took = calloc(count + 1, sizeof *took), period_ns = (uint64_t)atoi(argv[5]) * 1000000u;
    if (!took || !count || control_connect(argv[2], &fd) || control_client_init(&c, fd, -1) || await(&c, CONTROL_HELLO))
        return fprintf(stderr, "snapshot_latency: cannot talk to %s\n", argv[2]), 1;
    uint64_t first = clock_monotonic_ns();
    for (; done < count && !stop; done++) {
        char target[300];
        wait_until(first + done * period_ns);
        snprintf(target, sizeof target, "%s@t%u", argv[3], number + done);
        json_t *request = json_pack("{s:s,s:[s],s:b}", "command", take ? "snap-create" : "snap-rm", "targets", target, "dry-run", 0);
        uint64_t began = clock_monotonic_ns();
        if (control_client_send_json(&c, CONTROL_REQUEST, request) || await(&c, CONTROL_REPLY))
            return fprintf(stderr, "snapshot_latency: %s failed\n", target), 1;
        took[done] = (clock_monotonic_ns() - began) / 1000;
        json_decref(request);
    }
    double seconds = (double)(clock_monotonic_ns() - first) / 1e9;
    qsort(took, done, sizeof *took, by_value);
    printf("{\"snapshots\":%u,\"seconds\":%.3f,\"p50-us\":%llu,\"p99-us\":%llu,\"max-us\":%llu}\n", done, seconds, (unsigned long long)took[done / 2],
           (unsigned long long)took[done * 99ull / 100], (unsigned long long)(done ? took[done - 1] : 0));
    control_client_fini(&c);
    free(took);
    return 0;
}
