/* feed.h - sending a source's data to the server. */
#ifndef TOOLS_PARALLAX_FEED_H
#define TOOLS_PARALLAX_FEED_H
#include "tools/parallax/source.h"

struct feed_options {
    uint64_t target_offset; /* bytes: where the source's first byte goes */
    bool keep_zeroes;       /* send zeroes too, because what lies there may be something else */
    const char *refuse_format; /* NULL; else a name for messages: a format recognised in the bytes is refused */
    struct progress *progress;
};
/* Sends all data of s after the request was sent, then END, and takes the reply: *result is the caller's. A failure of the
 * source leaves the transfer unfinished: the caller disconnects, and the server drops it. */
int feed_source(struct cli *cli, struct source *s, const struct feed_options *opt, json_t **result, struct error *err);
#endif
