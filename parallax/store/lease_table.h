/* lease_table.h - the leases of one open catalog on one host: name, holder, time of expiry, in memory.
 *
 * They end with the process: the store's lock keeps other processes out, so nothing is left to fence.
 * Threads: the owner serialises. Errors: as catalog.h's lease functions; -EINVAL: an empty or over-long name or holder. */
#ifndef PARALLAX_STORE_LEASE_TABLE_H
#define PARALLAX_STORE_LEASE_TABLE_H
#include "base/list.h"

#include <stddef.h>
#include <stdint.h>

#define LEASE_NAME_MAX 255u

struct lease_table {
    struct list_node leases;
};

void lease_table_init(struct lease_table *t);
void lease_table_fini(struct lease_table *t);
int lease_table_take(struct lease_table *t, const char *name, const char *holder, uint32_t ttl_ms, char *other, size_t other_size);
int lease_table_drop(struct lease_table *t, const char *name, const char *holder);
#endif
