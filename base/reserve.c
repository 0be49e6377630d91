/* reserve.c - see reserve.h. */
#include "base/reserve.h"

#include <sys/mman.h>

#define HUGE_PAGE_BYTES ((size_t)2 << 20)

void *reserve_memory(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return NULL;
    if (bytes >= HUGE_PAGE_BYTES)
        madvise(p, bytes, MADV_HUGEPAGE); /* a kernel without them says no, and nothing is lost */
    return p;
}

void reserve_release(void *memory, size_t bytes)
{
    if (memory)
        munmap(memory, bytes);
}
