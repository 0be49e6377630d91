/* encoder.h - writing an image file of another format, through a confined qemu-nbd with many writes in flight. */
#ifndef TOOLS_PARALLAX_ENCODER_H
#define TOOLS_PARALLAX_ENCODER_H
#include "tools/parallax/converter.h"

struct encoder;
/* Makes an image of size_bytes in the empty file behind fd: "qcow2" or "vhd". */
int encoder_open(int fd, const char *format, uint64_t size_bytes, struct cli *cli, struct encoder **out, struct error *err);
/* data is copied; what is zero stays unwritten. A write that fails is told by this or a later call. */
int encoder_write(struct encoder *e, uint64_t offset, const void *data, size_t length, struct error *err);
/* Waits until all of it is in the file, complete (not yet durable). */
int encoder_finish(struct encoder *e, struct error *err);
/* Always the last call, also after encoder_finish. */
void encoder_close(struct encoder *e);
#endif
