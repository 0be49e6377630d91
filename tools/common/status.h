/* status.h - what a store tells of itself, as one document: the command `status`, the page of metrics and `top` are made of it.
 *
 * A latency is a histogram: "count", "sum-ns", and "buckets", how many took at most the bound that stands at the same place of
 * the document's "latency-bounds-ns" and more than the bound before it; behind the last bound, all that took longer. Buckets
 * at the end that are empty are left out. */
#ifndef TOOLS_COMMON_STATUS_H
#define TOOLS_COMMON_STATUS_H
#include "base/histogram.h"
#include "parallax/parallax.h"

#include <jansson.h>

extern const char *const status_ops[IMAGE_OPS]; /* "read" … by enum image_op */

/* On the store's loop. The caller's; NULL: out of memory. */
json_t *status_document(struct store *s);
/* A latency of the document back as a histogram; zeroes where there is none, or doc is NULL. Any thread. */
void status_latency(const json_t *latency, struct histogram *out);
#endif
