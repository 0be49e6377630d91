/* libnbd.c - see libnbd.h. */
#include "tools/parallax/libnbd.h"

#include <dlfcn.h>
#include <errno.h>
#include <stddef.h>

#define FILE_NAME "libnbd.so.0"

struct libnbd libnbd;

static int load(struct error *err)
{
    void *library = dlopen(FILE_NAME, RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return error_set(err, -ENOPKG, "cannot load " FILE_NAME ": %s (it is in Debian's package libnbd0)", dlerror());
#define LOOK_UP(function)                                                                                                             \
    if (!(libnbd.function = (__typeof__(libnbd.function))dlsym(library, "nbd_" #function)))                                             \
        return error_set(err, -ENOPKG, FILE_NAME " has no nbd_" #function "; install a newer one (Debian's package libnbd0)");
    LIBNBD_FUNCTIONS(LOOK_UP)
#undef LOOK_UP
    return 0;
}

struct nbd_handle *libnbd_open(struct error *err)
{
    if (!libnbd.shutdown && load(err)) /* the last one looked up */
        return NULL;
    struct nbd_handle *h = libnbd.create();
    if (!h)
        error_set(err, -ENOMEM, "out of memory");
    return h;
}
