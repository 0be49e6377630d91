/* image_check.h - whether an image file of a foreign format is whole and sound, before it is read.
 *
 * QEMU reads what lies beyond the end of a file as zeroes; here it is missing, and an error. */
#ifndef TOOLS_PARALLAX_IMAGE_CHECK_H
#define TOOLS_PARALLAX_IMAGE_CHECK_H
#include "tools/parallax/cli.h"

/* Looks at the file behind fd, of a format as this program calls it. path NULL: it stands alone. Otherwise it is the file's name,
 * and the files that it refers to, and they in turn, are looked at as well; raw ones may end anywhere, as QEMU lets them.
 * -EINVAL: damaged or incomplete; err says "it is …" or "its file X is …". -ECANCELED: interrupted. */
int image_check(int fd, const char *format, const char *path, struct cli *cli, struct error *err);
#endif
