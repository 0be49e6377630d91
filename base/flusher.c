/* flusher.c - see flusher.h. */
#include "base/flusher.h"

#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif

void flusher_begin(void)
{
    const struct rlimit all = { RLIM_INFINITY, RLIM_INFINITY };
    prctl(PR_SET_IO_FLUSHER, 1ul, 0ul, 0ul, 0ul); /* it is refused unless the rest is 0 */
    /* Under a limit, locking what comes later would make allocations fail. */
    if (setrlimit(RLIMIT_MEMLOCK, &all) == 0)
        mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT);
}
