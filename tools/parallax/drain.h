/* drain.h - receiving data from the server into a sink. */
#ifndef TOOLS_PARALLAX_DRAIN_H
#define TOOLS_PARALLAX_DRAIN_H
#include "tools/parallax/sink.h"

/* Sends request (stolen), writes what comes and takes the reply: *result is the caller's. offset and length: the range that
 * was asked for, relative to which the sink writes; length 0: the whole image. The sink is not finished. */
int drain_to_sink(struct cli *cli, json_t *request, struct sink *s, uint64_t offset, uint64_t length, struct progress *progress,
                  json_t **result, struct error *err);
#endif
