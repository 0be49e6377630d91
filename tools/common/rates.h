/* rates.h - what happened between two looks at a store: the difference of two documents of status.h.
 *
 * {"seconds", "store", "used", "capacity", "journal-used-share", "checkpoints", "cache-hit-share", "map-hit-share", "total": R,
 * "images": [R and "image", "guests": [domid …]], "devices": [D]}
 * R: "reads", "writes", "flushes", "discards", "read-bytes", "write-bytes", "errors" of that time, "iops" (all requests a
 * second), "read-bytes-per-second", "write-bytes-per-second", "latency": {"read": {"average-ns", "p99-ns"}, …}, null without requests.
 * D: "domid", "vdev", "image", "state", "in-flight", "iops", bytes as above, "segments-per-request", "indirect-share",
 * "notifications-per-request". A share or ratio of nothing is null.
 * What was not there before, or was closed and opened again, began from zero. Any thread. */
#ifndef TOOLS_COMMON_RATES_H
#define TOOLS_COMMON_RATES_H
#include <jansson.h>

/* The caller's; NULL: out of memory. */
json_t *rates_document(const json_t *before, const json_t *after, double seconds);
#endif
