/* prometheus.h - the document of status.h in Prometheus' text format, version 0.0.4.
 *
 * Any thread: it looks at nothing but the document. */
#ifndef TOOLS_COMMON_PROMETHEUS_H
#define TOOLS_COMMON_PROMETHEUS_H
#include <jansson.h>
#include <stddef.h>

#define PROMETHEUS_CONTENT_TYPE "text/plain; version=0.0.4; charset=utf-8"

/* Bytes for the caller to free (with a NUL behind them), or NULL: out of memory. */
char *prometheus_text(const json_t *status, size_t *length);
#endif
