/* disk_memory.c - the allocations of the libraries under test, which are linked with these names in place of the C library's
 * (see the Makefile): they fail where that is ordered. Berkeley DB's own do not: see docs/testing.md. */
#include "tests/disk/disk_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

void *disk_malloc(size_t bytes);
void *disk_calloc(size_t count, size_t bytes);
void *disk_realloc(void *p, size_t bytes);
char *disk_strdup(const char *text);
int disk_posix_memalign(void **p, size_t alignment, size_t bytes);
void *disk_aligned_alloc(size_t alignment, size_t bytes);

static bool fails(void)
{
    struct disk_fault f;
    if (!disk_memory_may_fail())
        return false;
    disk_lock();
    bool bad = disk_meets_fault(DISK_MEMORY, &f);
    disk_unlock();
    if (bad)
        errno = ENOMEM;
    return bad;
}

void *disk_malloc(size_t bytes) { return fails() ? NULL : malloc(bytes); }
void *disk_calloc(size_t count, size_t bytes) { return fails() ? NULL : calloc(count, bytes); }
void *disk_realloc(void *p, size_t bytes) { return fails() ? NULL : realloc(p, bytes); }
char *disk_strdup(const char *text) { return fails() ? NULL : strdup(text); }
int disk_posix_memalign(void **p, size_t alignment, size_t bytes) { return fails() ? ENOMEM : posix_memalign(p, alignment, bytes); }
void *disk_aligned_alloc(size_t alignment, size_t bytes) { return fails() ? NULL : aligned_alloc(alignment, bytes); }
