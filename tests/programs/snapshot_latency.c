/* snapshot_latency.c - how long a snapshot takes, from the request on an open control connection to the durable reply.
 *
 *   snapshot_latency SOCKET IMAGE COUNT PAUSE-MS
 * Prints one JSON line with the median, the 99th percentile and the longest, in microseconds. */
#include "base/clock.h"
#include "control/control.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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

int main(int argc, char **argv)
{
    struct control_client c;
    int fd;
    if (argc != 5)
        return fprintf(stderr, "usage: snapshot_latency SOCKET IMAGE COUNT PAUSE-MS\n"), 2;
    unsigned count = (unsigned)atoi(argv[3]), pause_us = (unsigned)atoi(argv[4]) * 1000;
    uint64_t *took = calloc(count + 1, sizeof *took);
    if (!took || !count || control_connect(argv[1], &fd) || control_client_init(&c, fd, -1) || await(&c, CONTROL_HELLO))
        return fprintf(stderr, "snapshot_latency: cannot talk to %s\n", argv[1]), 1;
    for (unsigned i = 0; i < count; i++) {
        char target[300];
        snprintf(target, sizeof target, "%s@t%d-%u", argv[2], (int)getpid(), i);
        json_t *request = json_pack("{s:s,s:[s]}", "command", "snap-create", "targets", target);
        uint64_t began = clock_monotonic_ns();
        if (control_client_send_json(&c, CONTROL_REQUEST, request) || await(&c, CONTROL_REPLY))
            return fprintf(stderr, "snapshot_latency: %s failed\n", target), 1;
        took[i] = (clock_monotonic_ns() - began) / 1000;
        json_decref(request);
        usleep(pause_us);
    }
    qsort(took, count, sizeof *took, by_value);
    printf("{\"snapshots\":%u,\"p50-us\":%llu,\"p99-us\":%llu,\"max-us\":%llu}\n", count, (unsigned long long)took[count / 2],
           (unsigned long long)took[count * 99 / 100], (unsigned long long)took[count - 1]);
    control_client_fini(&c);
    free(took);
    return 0;
}
