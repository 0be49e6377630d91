/* paste.h - what an operator of QEMU or libvirt pastes to give a machine an image that `parallax nbd` serves. */
#ifndef TOOLS_PARALLAX_PASTE_H
#define TOOLS_PARALLAX_PASTE_H
#include <limits.h>
#include <stdbool.h>

/* Where the unit parallax-nbd@TARGET.service serves it. */
void paste_default_socket(const char *target, char out[PATH_MAX]);
/* Options for qemu-system-…, quoted for a shell. socket is an absolute path. */
void paste_qemu(const char *target, const char *socket, bool read_only);
/* The element <disk> of a domain's XML. */
void paste_libvirt(const char *target, const char *socket, bool read_only);
#endif
