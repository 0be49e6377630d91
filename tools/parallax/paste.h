/* paste.h - what an operator of QEMU or libvirt pastes to give a machine an image that `parallax nbd` serves. */
#ifndef TOOLS_PARALLAX_PASTE_H
#define TOOLS_PARALLAX_PASTE_H
#include <limits.h>
#include <stdbool.h>
#include <stddef.h>

/* text as it stands in a URI, where a character takes up to PASTE_URI_FACTOR; what has no room in out is left off. */
#define PASTE_URI_FACTOR 3
void paste_for_uri(const char *text, char *out, size_t size);
/* text as one word for a shell: as it stands if nothing in it means anything to one, else quoted; as above. */
#define PASTE_SHELL_FACTOR 4
void paste_for_shell(const char *text, char *out, size_t size);
/* Where the unit parallax-nbd@TARGET.service serves it. */
void paste_default_socket(const char *target, char out[PATH_MAX]);
/* Options for qemu-system-…, quoted for a shell. socket is an absolute path. */
void paste_qemu(const char *target, const char *socket, bool read_only);
/* The element <disk> of a domain's XML. */
void paste_libvirt(const char *target, const char *socket, bool read_only);
#endif
