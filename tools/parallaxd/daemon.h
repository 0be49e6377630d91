/* daemon.h - parallaxd: one store, its control socket, and the backend for guests, on one loop. */
#ifndef TOOLS_PARALLAXD_DAEMON_H
#define TOOLS_PARALLAXD_DAEMON_H
#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>

struct blkback_hiding;
struct exporter_address;

struct daemon_options {
    const char *url;        /* of the store */
    const char *hypervisor; /* "auto", "xen" or "local" */
    const char *name;       /* of the storage domain with the embedded hypervisor */
    const char *socket;     /* NULL: derived from the store */
    const struct exporter_address *metrics; /* where the page of metrics is served; NULL: nowhere */
    uint64_t map_cache_bytes, block_cache_bytes; /* 0: the store's default */
    bool wait_when_full;
    bool map_grants;        /* keep guests' pages mapped instead of copying by grant */
    const struct blkback_hiding *hidings;
    unsigned hiding_count;
};
/* Serves until SIGTERM or SIGINT. 0, or an error with a line for a person. */
int daemon_run(const struct daemon_options *opt, struct error *err);
#endif
