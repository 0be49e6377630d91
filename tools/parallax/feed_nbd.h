/* feed_nbd.h - sending what an NBD server has to the server of the store. */
#ifndef TOOLS_PARALLAX_FEED_NBD_H
#define TOOLS_PARALLAX_FEED_NBD_H
#include "tools/parallax/feed.h"
#include "tools/parallax/libnbd.h"

/* As feed_source, with many reads in flight; ranges that the NBD server knows to be zero are not read. name: for messages.
 * length: bytes of the export. After a failure *nbd may have been closed, and is then NULL. */
int feed_nbd(struct cli *cli, struct nbd_handle **nbd, const struct libnbd_limits *limits, const char *name, uint64_t length, const struct feed_options *opt, json_t **result, struct error *err);
#endif
