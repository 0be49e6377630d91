/* size.h - sizes as people write and read them.
 *
 * A size is bytes, or a number with K M G T P or KiB MiB GiB TiB PiB, all powers of 1024; "1.5G" works. GB and MB mean one
 * thing to disk makers and another to programs, so they are refused with a hint. Any thread. */
#ifndef TOOLS_COMMON_SIZE_H
#define TOOLS_COMMON_SIZE_H
#include "base/error.h"

#include <stddef.h>
#include <stdint.h>

#define SIZE_TEXT_MAX 48

/* Bytes; a fraction is rounded up to a multiple of 512. -EINVAL with a line that names what (e.g. "size") and text; also for
 * negative numbers and more than INT64_MAX. Zero is a size. */
int size_parse(const char *what, const char *text, uint64_t *out_bytes, struct error *err);
/* "1.5 GiB", "512 B"; out holds SIZE_TEXT_MAX characters and is returned. */
char *size_format(uint64_t bytes, char *out);
/* Whether text is digits alone: a number that may have been meant as something larger than bytes. */
int size_is_bare(const char *text);
#endif
