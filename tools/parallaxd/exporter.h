/* exporter.h - the page of metrics over HTTP: GET /metrics, in Prometheus' text format.
 *
 * A thread of its own serves it, and never touches what belongs to the store's loop: it asks that loop by message for the
 * document of a moment, at most ten times a second, and makes the page of it.
 * Whoever connects may read the page, and do nothing else: there is no authentication, and no TLS. */
#ifndef TOOLS_PARALLAXD_EXPORTER_H
#define TOOLS_PARALLAXD_EXPORTER_H
#include "base/error.h"
#include "base/loop.h"

#include <jansson.h>
#include <sys/socket.h>

#define EXPORTER_PORT "9752" /* where an address is given without one */
#define EXPORTER_URL_MAX 96

struct exporter_address {
    struct sockaddr_storage at;
    socklen_t length;
};
/* "PORT" (of 127.0.0.1), "ADDR" or "ADDR:PORT"; ADDR is numeric, or localhost; with a port, IPv6 stands in brackets. Port 0: any
 * free one. -EINVAL with a line. */
int exporter_parse(const char *text, struct exporter_address *out, struct error *err);

struct exporter;
/* make runs on loop, and returns the document of status.h (the exporter's then), or NULL. */
int exporter_start(const struct exporter_address *address, struct loop *loop, json_t *(*make)(void *ctx), void *ctx, struct exporter **out,
                   struct error *err);
/* Called while loop does not run. */
void exporter_stop(struct exporter *e);
const char *exporter_url(const struct exporter *e);
#endif
