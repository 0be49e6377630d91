/* no_aio.c - a host whose asynchronous I/O is used up (fs.aio-max-nr), or with NO_AIO=ERRNO not to be had for another reason, for the
 * program that this is loaded into. */
#include <errno.h>
#include <libaio.h>
#include <stdlib.h>

__attribute__((visibility("default"))) int io_setup(int depth, io_context_t *out)
{
    const char *why = getenv("NO_AIO");
    (void)depth;
    (void)out;
    return why ? -atoi(why) : -EAGAIN;
}
