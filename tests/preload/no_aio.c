/* no_aio.c - a host whose asynchronous I/O is used up (fs.aio-max-nr), for the program that this is loaded into. */
#include <errno.h>
#include <libaio.h>

__attribute__((visibility("default"))) int io_setup(int depth, io_context_t *out)
{
    (void)depth;
    (void)out;
    return -EAGAIN;
}
