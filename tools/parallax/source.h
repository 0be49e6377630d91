/* source.h - where data for the store come from: a file, a block device or standard input.
 *
 * A source has a known length and can be read anywhere. Standard input is copied to an unnamed temporary file first if its
 * length is not known (it is no regular file, and no --size was given): an image needs its size when it is begun, and bad
 * input must be noticed before anything is changed. */
#ifndef TOOLS_PARALLAX_SOURCE_H
#define TOOLS_PARALLAX_SOURCE_H
#include "base/error.h"
#include "tools/parallax/cli.h"

struct source {
    int fd;
    const char *name;     /* for messages */
    uint64_t length;      /* bytes */
    uint64_t start;       /* standard input that is a file may stand at an offset */
    bool streamed;        /* can only be read on: length was announced with --size */
    bool holes;           /* SEEK_DATA works */
};
/* path "-": standard input. announced: its length, or 0 if unknown; then more than most bytes are refused. */
int source_open(struct source *s, const char *path, uint64_t announced, uint64_t most, struct cli *cli, struct error *err);
void source_close(struct source *s);
/* The next range with data at or after offset; false: nothing but a hole follows. What a source lost since it was opened counts as
 * data, and source_read tells. */
bool source_data(const struct source *s, uint64_t offset, uint64_t *begin, uint64_t *end);
/* Exactly length bytes at offset, which a streamed source must have reached. A source that became shorter is -ENODATA. */
int source_read(struct source *s, struct cli *cli, uint64_t offset, void *buf, size_t length, struct error *err);
/* For a streamed source: that nothing follows its announced length. */
int source_at_end(struct source *s, struct cli *cli, struct error *err);

#define FORMAT_HEAD 4096u /* bytes at the beginning that tell a format */
#define FORMAT_TAIL 512u  /* bytes at the end that tell a fixed VHD */
/* What import takes: "raw", "qcow2", "vhd", "vhdx", "vmdk", "vdi". */
bool format_is_read(const char *format);
/* One of these, the name of a format that is only recognised (of disks, or of compressed files), or NULL for anything else, which
 * is raw; missing bytes are zero. */
const char *format_of_head(const unsigned char head[FORMAT_HEAD]);
const char *format_of_tail(const unsigned char tail[FORMAT_TAIL]);
const char *format_of_ends(const unsigned char head[FORMAT_HEAD], const unsigned char tail[FORMAT_TAIL]);
/* Why its content is not in the file alone ("has a backing file"), or NULL. What this overlooks the confinement stops. */
const char *format_outside(const char *format, const unsigned char head[FORMAT_HEAD]);
/* Whether QEMU reads the other files that an image of that format refers to: parents of VHD and VDI it does not. */
bool format_chains(const char *format);
#endif
