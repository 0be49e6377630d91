/* sink.h - where an export goes: a file, a block device or a stream.
 *
 * A file has no name until it is complete and durable: it is made with O_TMPFILE where the file system can, so that not even
 * kill -9 leaves anything; elsewhere under a temporary name that begins with a dot. Ranges that are never written are holes in
 * a file and zeroes on a device or in a stream. Data come in ascending order of offsets. */
#ifndef TOOLS_PARALLAX_SINK_H
#define TOOLS_PARALLAX_SINK_H
#include "tools/parallax/cli.h"
#include "tools/parallax/encoder.h"

#include <limits.h>

enum sink_kind { SINK_FILE, SINK_DEVICE, SINK_STREAM };

struct sink {
    enum sink_kind kind;
    int fd;
    bool force, named; /* named: the temporary file has a name to remove */
    char path[PATH_MAX], temporary[PATH_MAX];
    uint64_t size, at; /* bytes of the image; end of what is written */
    struct cli *cli;
    const char *format;      /* NULL: raw */
    struct encoder *encoder; /* of a file of that format */
};

/* Checks and opens the destination; nothing of it changes yet. format: NULL (raw), or one of an image file. */
int sink_open(struct sink *s, struct cli *cli, const char *path, bool force, const char *format, struct error *err);
/* Tells the image's size. */
int sink_begin(struct sink *s, uint64_t size_bytes, struct error *err);
int sink_write(struct sink *s, uint64_t offset, const void *data, size_t length, struct error *err);
/* Makes it durable and gives the file its name. */
int sink_finish(struct sink *s, struct error *err);
/* Takes back what can be: always the last call, also after sink_finish. */
void sink_close(struct sink *s);
#endif
