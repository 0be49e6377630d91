/* describe.h - what `status` tells about the daemon and its devices. */
#ifndef TOOLS_PARALLAXD_DESCRIBE_H
#define TOOLS_PARALLAXD_DESCRIBE_H
#include "blkback/blkback.h"

#include <jansson.h>

/* The list "devices". */
json_t *describe_devices(struct blkback *b);
#endif
