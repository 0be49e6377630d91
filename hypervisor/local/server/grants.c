/* grants.c - the memory that domains bring: which descriptors are acceptable, and clearing marks that the dead left.
 *
 * A backend's in-use marks live in the granter's table. A process that was killed cannot take them back, so the hypervisor
 * does when the domain has no process left: its mappings are gone by then, because the kernel drops a process's memory
 * before its sockets. */
#include "hypervisor/local/server/server_private.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>

/* Shared memory that can never become smaller, and of ordinary pages, which are always there when touched. */
int memory_check(int fd, uint64_t bytes)
{
    struct stat st;
    struct statfs fs;
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0 || !(seals & F_SEAL_SHRINK))
        return -EPERM;
    if (fstatfs(fd, &fs) < 0 || fs.f_type != TMPFS_MAGIC)
        return -EPERM;
    return fstat(fd, &st) == 0 && (uint64_t)st.st_size >= bytes ? 0 : -EINVAL;
}

static void release_in(const struct domain *d, uint32_t grantee)
{
    size_t bytes = (size_t)d->table_entries * sizeof(struct grant_entry);
    struct grant_entry *table = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, d->table_fd, 0);
    if (table == MAP_FAILED)
        return; /* sealed against writing by its owner, who then has no use of the marks either */
    for (uint32_t i = GRANT_RESERVED_ENTRIES; i < d->table_entries; i++) {
        uint32_t head = table[i].head;
        if (head >> 16 == grantee && head & (GRANT_READING | GRANT_WRITING))
            atomic_fetch_and(&table[i].head, ~(GRANT_READING | GRANT_WRITING));
    }
    munmap(table, bytes);
}

void grants_release(struct server *s, uint32_t grantee)
{
    for (unsigned i = 0; i < DOMAIN_BUCKETS; i++)
        list_for_each(n, &s->domains[i]) {
            const struct domain *d = container_of(n, struct domain, link);
            if (d->table_fd >= 0 && domain_authorises(d, grantee))
                release_in(d, grantee);
        }
}
