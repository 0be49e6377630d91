/* lease_table.c - see lease_table.h. A list: a host attaches hundreds of images, not millions. */
#include "parallax/store/lease_table.h"

#include "base/clock.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct lease {
    struct list_node link;
    uint64_t expires_ms; /* monotonic */
    char name[LEASE_NAME_MAX + 1], holder[LEASE_NAME_MAX + 1];
};

void lease_table_init(struct lease_table *t) { list_init(&t->leases); }

void lease_table_fini(struct lease_table *t)
{
    struct list_node *n;
    while ((n = list_pop(&t->leases)))
        free(container_of(n, struct lease, link));
}

static struct lease *find(struct lease_table *t, const char *name)
{
    list_for_each(n, &t->leases) {
        struct lease *l = container_of(n, struct lease, link);
        if (strcmp(l->name, name) == 0)
            return l;
    }
    return NULL;
}

int lease_table_take(struct lease_table *t, const char *name, const char *holder, uint32_t ttl_ms, char *other, size_t other_size)
{
    if (!*name || strlen(name) > LEASE_NAME_MAX || !*holder || strlen(holder) > LEASE_NAME_MAX)
        return -EINVAL;
    uint64_t now = clock_monotonic_ms();
    struct lease *l = find(t, name);
    if (l && l->expires_ms > now && strcmp(l->holder, holder) != 0) {
        if (other)
            snprintf(other, other_size, "%s", l->holder);
        return -EBUSY;
    }
    if (!l) {
        l = calloc(1, sizeof *l);
        if (!l)
            return -ENOMEM;
        strcpy(l->name, name);
        list_add_tail(&t->leases, &l->link);
    }
    strcpy(l->holder, holder);
    l->expires_ms = now + ttl_ms;
    return 0;
}

int lease_table_drop(struct lease_table *t, const char *name, const char *holder)
{
    struct lease *l = find(t, name);
    if (!l || strcmp(l->holder, holder) != 0 || l->expires_ms <= clock_monotonic_ms())
        return -ENOENT;
    list_remove(&l->link);
    free(l);
    return 0;
}
