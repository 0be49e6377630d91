/* disk_fault.c - the nth call of the chosen kinds fails. See disk.h. */
#include "tests/disk/disk_private.h"

#include <stdatomic.h>

static struct disk_fault ordered;
static uint64_t seen, met;
static atomic_bool memory;

void disk_order_fault(const struct disk_fault *fault)
{
    disk_lock();
    ordered = fault ? *fault : (struct disk_fault){ 0 };
    seen = 0;
    if (fault)
        met = 0;
    atomic_store(&memory, ordered.kinds & DISK_MEMORY);
    disk_unlock();
}

uint64_t disk_faults_met(void)
{
    disk_lock();
    uint64_t n = met;
    disk_unlock();
    return n;
}

bool disk_memory_may_fail(void) { return atomic_load(&memory); }

bool disk_meets_fault(unsigned kind, struct disk_fault *fault)
{
    if (!disk_watching || !(ordered.kinds & kind))
        return false;
    seen++;
    if (seen < ordered.nth || (seen > ordered.nth && !ordered.lasting))
        return false;
    met++;
    *fault = ordered;
    return true;
}
