/* domain.c - the registry of domains: their making, what they own, and their end.
 *
 * 1. Domids grow and are never used twice; 0 is the toolstack, which always exists.
 * 2. A named domain outlives its process: channels that the process bound return to unbound, its marks on others' grants
 *    are cleared, its nodes and its domid stay for the next process that claims the name.
 * 3. A guest ends with its process, and nothing of it stays but nodes that it made outside its home.
 * 4. A domain's memory is given only to domains that it has named, by a grant or by a channel. */
#include "hypervisor/local/server/server_private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct domain *domain_find(struct server *s, uint32_t domid)
{
    list_for_each(n, &s->domains[domid % DOMAIN_BUCKETS]) {
        struct domain *d = container_of(n, struct domain, link);
        if (d->domid == domid)
            return d;
    }
    return NULL;
}

struct domain *domain_named(struct server *s, const char *name)
{
    for (unsigned i = 0; i < DOMAIN_BUCKETS; i++)
        list_for_each(n, &s->domains[i]) {
            struct domain *d = container_of(n, struct domain, link);
            if (d->kind == HV_NAMED && !strcmp(d->name, name))
                return d;
        }
    return NULL;
}

/* The page in which the domain sees which of its ports are bound; only we can write it. */
static int make_status(struct domain *d)
{
    d->status_fd = memfd_create("parallax-ports", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (d->status_fd < 0 || ftruncate(d->status_fd, d->port_limit) < 0)
        return -errno;
    void *m = mmap(NULL, d->port_limit, PROT_READ | PROT_WRITE, MAP_SHARED, d->status_fd, 0);
    if (m == MAP_FAILED)
        return -errno;
    d->status = m;
    return fcntl(d->status_fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL) < 0 ? -errno : 0;
}

static void free_domain(struct domain *d)
{
    if (d->status)
        munmap(d->status, d->port_limit);
    if (d->status_fd >= 0) {
        close(d->status_fd);
        user_discharge(d->server, d->user, 1);
    }
    list_remove(&d->link);
    free(d->ports);
    free(d);
}

int domain_create(struct server *s, const struct control *by, uint32_t kind, const char *name, struct domain **out)
{
    static const enum xsd_class classes[] = { [HV_TOOLSTACK] = XSD_TOOLSTACK, [HV_GUEST] = XSD_GUEST, [HV_NAMED] = XSD_NAMED };
    if (s->next_domid > INT32_MAX || (kind == HV_NAMED && s->next_domid > WIRE_MAX_GRANTEE))
        return -ENOSPC;
    struct domain *d = calloc(1, sizeof *d);
    if (!d)
        return -ENOMEM;
    *d = (struct domain){ .server = s, .domid = s->next_domid, .kind = kind, .uid = by ? by->uid : s->owner, .user = by ? by->user : NULL,
                          .arena_fd = -1, .table_fd = -1, .status_fd = -1, .next_port = 1, .port_limit = kind == HV_GUEST ? GUEST_PORTS : BIG_PORTS };
    strcpy(d->name, name);
    list_init(&d->link);
    int err = user_charge(s, d->user, 1);
    if (!err) {
        err = make_status(d);
        if (err && d->status_fd < 0)
            user_discharge(s, d->user, 1);
    }
    if (!err && kind != HV_TOOLSTACK)
        err = xsd_domain_join(&s->xsd, d->domid, classes[kind], name);
    if (err) {
        free_domain(d);
        return err;
    }
    s->next_domid++;
    list_add_tail(&s->domains[d->domid % DOMAIN_BUCKETS], &d->link);
    *out = d;
    return 0;
}

int domain_take_memory(struct domain *d, struct control *by, const struct wire_request *r, const int fds[2])
{
    if (r->arena_pages > WIRE_MAX_ARENA_PAGES || r->table_entries > WIRE_MAX_TABLE_ENTRIES || r->table_entries <= GRANT_RESERVED_ENTRIES)
        return -EINVAL;
    if (fds[0] < 0 || fds[1] < 0)
        return -EINVAL;
    int err = memory_check(fds[0], (uint64_t)r->arena_pages * HV_PAGE_SIZE);
    if (!err)
        err = memory_check(fds[1], (uint64_t)r->table_entries * sizeof(struct grant_entry));
    if (!err)
        err = user_charge(d->server, d->user, 2);
    if (err)
        return err;
    d->memory_control = by;
    d->arena_fd = fds[0];
    d->table_fd = fds[1];
    d->arena_pages = r->arena_pages;
    d->table_entries = r->table_entries;
    return 0;
}

static void drop_memory(struct domain *d)
{
    if (d->arena_fd < 0)
        return;
    close(d->arena_fd);
    close(d->table_fd);
    user_discharge(d->server, d->user, 2);
    d->arena_fd = d->table_fd = -1;
    d->arena_pages = d->table_entries = 0;
    d->memory_control = NULL;
    d->grantee_count = 0;
}

bool domain_authorises(const struct domain *d, uint32_t domid)
{
    for (unsigned i = 0; i < d->grantee_count; i++)
        if (d->grantees[i] == domid)
            return true;
    return false;
}

/* Forgets grantees that no longer exist, so that a long life with many peers does not fill the list. */
static void forget_gone(struct domain *d)
{
    unsigned kept = 0;
    for (unsigned i = 0; i < d->grantee_count; i++)
        if (domain_find(d->server, d->grantees[i]))
            d->grantees[kept++] = d->grantees[i];
    d->grantee_count = kept;
}

int domain_authorise(struct domain *d, uint32_t domid)
{
    if (!domain_find(d->server, domid))
        return -ENOENT;
    if (domain_authorises(d, domid))
        return 0;
    if (d->grantee_count == MAX_GRANTEES)
        forget_gone(d);
    if (d->grantee_count == MAX_GRANTEES)
        return -ENOSPC;
    d->grantees[d->grantee_count++] = domid;
    return 0;
}

static void drop_xenstore(struct domain *d)
{
    if (!d->xenstore)
        return;
    listener_close(d->xenstore);
    user_discharge(d->server, d->user, 1);
    free(d->xenstore);
    d->xenstore = NULL;
}

void domain_detach(struct domain *d, struct control *c)
{
    channel_close_all(d, c);
    if (d->memory_control == c)
        drop_memory(d);
    d->controls--;
    server_count_live(d->server, -1);
    if (d->controls)
        return;
    grants_release(d->server, d->domid);
    if (d->kind == HV_TOOLSTACK)
        return;
    drop_xenstore(d);
    xsd_domain_disconnect(&d->server->xsd, d->domid);
    if (d->kind == HV_GUEST)
        domain_destroy(d);
}

void domain_destroy(struct domain *d)
{
    drop_memory(d);
    drop_xenstore(d);
    if (d->kind != HV_TOOLSTACK)
        xsd_domain_leave(&d->server->xsd, d->domid);
    free_domain(d);
}
