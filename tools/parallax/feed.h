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
/* A transfer under way, for those who have the data themselves. */
struct feed {
    struct cli *cli;
    const struct feed_options *opt;
    json_t **result;
    struct error *err;
    bool answered; /* the server has replied before END: it failed */
};
/* Waits for the server's consent, after the request was sent. False: it refused; feed_conclude takes the reason. */
bool feed_begin(struct feed *f);
/* Sends the blocks of a range that are not zero; offset and length are multiples of 512, length at most CONTROL_DATA_MAX. */
int feed_chunk(struct feed *f, uint64_t offset, const unsigned char *data, size_t length);
/* END, and the reply. */
int feed_conclude(struct feed *f);
/* The connection has ended: says so, or what the server said before. */
int feed_lost(struct feed *f);

/* Sends all data of s after the request was sent, then END, and takes the reply: *result is the caller's. A failure of the
 * source leaves the transfer unfinished: the caller disconnects, and the server drops it. */
int feed_source(struct cli *cli, struct source *s, const struct feed_options *opt, json_t **result, struct error *err);
#endif
