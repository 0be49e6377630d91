/* converter.h - a qemu-nbd that speaks a file's format, as a confined child (confine.h), reached over libnbd. */
#ifndef TOOLS_PARALLAX_CONVERTER_H
#define TOOLS_PARALLAX_CONVERTER_H
#include "tools/parallax/cli.h"
#include "tools/parallax/libnbd.h"

#include <limits.h>
#include <sys/types.h>

struct converter {
    pid_t pid; /* 0: none */
    int error_fd;
    struct nbd_handle *nbd;
};
/* Opens the file behind fd, of a format as this program calls it, for reading or writing. path: where it stands, for relative
 * names of backing files. Backing files are ignored unless with_backing, then every file that it names is read.
 * The caller has looked that it does not lie in other files (format_outside). */
int converter_open(struct converter *v, int fd, const char *format, const char *path, bool writable, bool with_backing, struct cli *cli, struct error *err);
/* Makes an empty file of that format in the file behind fd. */
int converter_create(int fd, const char *format, uint64_t size_bytes, struct error *err);
/* Ends it. With finish it is waited for, and its failure to write everything is an error. */
int converter_close(struct converter *v, bool finish, struct error *err);
/* What qemu-nbd complained about, for a message; "" if nothing. out holds 200 characters. */
const char *converter_complaint(struct converter *v, char out[200]);
/* How the file behind fd is named to QEMU (--image-opts): by path, which is absolute, or if that is NULL as CONFINE_FILE. alone:
 * its backing file is left out. */
#define CONVERTER_OPTIONS_SIZE (2 * PATH_MAX + 128)
void converter_options(int fd, const char *format, const char *path, bool alone, char out[CONVERTER_OPTIONS_SIZE]);
#endif
