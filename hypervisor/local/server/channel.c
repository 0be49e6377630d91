/* channel.c - the broker of event channels.
 *
 * A channel is a socketpair. Its owner (who allocated the port) gets one end; the other end stays here and is lent to the
 * domain that binds, each time it binds.
 * 1. So a channel survives its binder: when the binder's process dies the owner's port is unbound for the same domain again,
 *    and what the owner sends meanwhile is dropped at the next bind.
 * 2. When the owner closes, the pair is shut down: the binder's end then says so.
 * 3. Small send buffers bound what a sender can leave in the kernel. */
#include "hypervisor/local/server/server_private.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

/* A free port number of d, with room for it in the table. */
static int find_port(struct domain *d, uint32_t *out)
{
    for (uint32_t tried = 1; tried < d->port_limit; tried++) {
        uint32_t port = d->next_port;
        d->next_port = port + 1 < d->port_limit ? port + 1 : 1;
        if (port < d->port_room && d->ports[port])
            continue;
        if (port >= d->port_room) {
            uint32_t room = port < 8 ? 16 : (port + 1) * 2;
            if (room > d->port_limit)
                room = d->port_limit;
            struct channel **ports = realloc(d->ports, room * sizeof *ports);
            if (!ports)
                return -ENOMEM;
            for (uint32_t i = d->port_room; i < room; i++)
                ports[i] = NULL;
            d->ports = ports;
            d->port_room = room;
        }
        *out = port;
        return 0;
    }
    return -ENOSPC;
}

static int make_pair(struct server *s, struct user *u, int pair[2])
{
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
        return -errno;
    if (u && (unsigned)pair[1] + DESCRIPTOR_RESERVE > s->descriptor_limit) {
        close(pair[0]);
        close(pair[1]);
        return -EMFILE;
    }
    int small = 1; /* the kernel rounds up to its least */
    for (int i = 0; i < 2; i++)
        setsockopt(pair[i], SOL_SOCKET, SO_SNDBUF, &small, sizeof small);
    return 0;
}

int channel_alloc(struct control *c, uint32_t remote, uint32_t *port, int *fd)
{
    struct domain *d = c->domain;
    if (!domain_find(c->server, remote))
        return -ENOENT;
    int err = domain_authorise(d, remote);
    if (!err)
        err = find_port(d, port);
    if (!err)
        err = user_charge(c->server, d->user, 1);
    if (err)
        return err;
    int pair[2] = { -1, -1 };
    struct channel *ch = calloc(1, sizeof *ch);
    err = ch ? make_pair(c->server, d->user, pair) : -ENOMEM;
    if (err) {
        user_discharge(c->server, d->user, 1);
        free(ch);
        return err;
    }
    *ch = (struct channel){ .owner = d, .owner_control = c, .owner_port = *port, .remote = remote, .fd = pair[0], .user = d->user };
    d->ports[*port] = ch;
    d->status[*port] = STATUS_UNBOUND;
    *fd = pair[1];
    return 0;
}

/* Takes away what was sent while nobody was bound. */
static void drop_events(const struct channel *ch)
{
    char sink[4096];
    for (int i = 0; i < 256; i++)
        if (recv(ch->fd, sink, sizeof sink, MSG_DONTWAIT) <= 0)
            break;
}

int channel_bind(struct control *c, uint32_t owner_domid, uint32_t owner_port, uint32_t *port, int *fd)
{
    struct domain *d = c->domain, *owner = domain_find(c->server, owner_domid);
    if (!owner)
        return -ENOENT;
    struct channel *ch = owner_port < owner->port_room ? owner->ports[owner_port] : NULL;
    if (!ch || ch->owner != owner || ch->owner_port != owner_port)
        return -EINVAL;
    if (ch->remote != d->domid)
        return -EACCES;
    if (ch->binder)
        return -EBUSY;
    int err = find_port(d, port);
    if (err)
        return err;
    drop_events(ch);
    ch->binder = d;
    ch->binder_control = c;
    ch->binder_port = *port;
    d->ports[*port] = ch;
    owner->status[owner_port] = STATUS_BOUND;
    *fd = ch->fd;
    return 0;
}

static bool is_owner(const struct channel *ch, const struct domain *d, uint32_t port) { return ch->owner == d && ch->owner_port == port; }

static void close_port(struct domain *d, uint32_t port)
{
    struct channel *ch = d->ports[port];
    d->ports[port] = NULL;
    if (is_owner(ch, d, port)) {
        shutdown(ch->fd, SHUT_RDWR);
        close(ch->fd);
        user_discharge(d->server, ch->user, 1);
        ch->owner = NULL;
        ch->owner_control = NULL;
        d->status[port] = STATUS_UNBOUND;
    } else {
        if (ch->owner)
            ch->owner->status[ch->owner_port] = STATUS_UNBOUND;
        ch->binder = NULL;
        ch->binder_control = NULL;
    }
    if (!ch->owner && !ch->binder)
        free(ch);
}

static const struct control *holder(const struct channel *ch, const struct domain *d, uint32_t port)
{
    return is_owner(ch, d, port) ? ch->owner_control : ch->binder_control;
}

int channel_close(struct control *c, uint32_t port)
{
    struct domain *d = c->domain;
    if (port >= d->port_room || !d->ports[port] || holder(d->ports[port], d, port) != c)
        return -EINVAL;
    close_port(d, port);
    return 0;
}

void channel_close_all(struct domain *d, const struct control *c)
{
    for (uint32_t port = 0; port < d->port_room; port++)
        if (d->ports[port] && holder(d->ports[port], d, port) == c)
            close_port(d, port);
}
