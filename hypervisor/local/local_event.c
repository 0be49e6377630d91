/* local_event.c - event channels: sockets from the hypervisor's broker, gathered behind one epoll descriptor a port set.
 *
 * A port is idle, queued (pending, in `ready`) or masked (handed to the caller); while masked, an event that comes is
 * remembered in `again`.
 * 1. Each socket is registered edge-triggered and emptied when its edge is taken. A sender that finds the socket full drops
 *    its event, which is right: what fills it is an event not yet taken. So no event is lost and none piles up.
 * 2. Neither masking nor unmasking costs a system call, unless an event came while masked: then the port is queued, and an
 *    eventfd keeps the set readable as long as anything is queued.
 * 3. What the peer sends is counted as "something came" and never looked at; descriptors that it attaches are not received.
 * 4. The hypervisor keeps the backend's end of every channel, so a channel outlives a backend process; a hang-up here means
 *    that the other domain closed its port or is gone. */
#include "hypervisor/local/local_private.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define EVENTS_PER_HARVEST 64
#define READY_TOKEN 0u /* port 0 does not exist, so its number stands for the eventfd */

struct port {
    struct list_node link; /* in ready */
    uint32_t number;
    int fd;
    hv_domid view_dom;  /* bound ports: whose memory we hold */
    bool bound;         /* made by event_bind, else by event_alloc */
    bool holds_view;
    bool queued, masked, again;
    bool hung_up;
};

int local_ports_open(struct hv *hv, struct hv_ports **out)
{
    struct ports *p = calloc(1, sizeof *p);
    if (!p)
        return -ENOMEM;
    p->hv.ops = hv->ops;
    p->local = local_of(hv);
    list_init(&p->ready);
    local_views_init(&p->views, p->local);
    p->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    p->ready_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct epoll_event ev = { .events = EPOLLIN, .data.u32 = READY_TOKEN };
    if (p->epoll_fd < 0 || p->ready_fd < 0 || epoll_ctl(p->epoll_fd, EPOLL_CTL_ADD, p->ready_fd, &ev) < 0) {
        int err = -errno;
        local_ports_close(&p->hv);
        return err;
    }
    *out = &p->hv;
    return 0;
}

void local_ports_close(struct hv_ports *hp)
{
    struct ports *p = ports_of(hp);
    for (uint32_t i = 0; i < p->numbers; i++)
        if (p->by_number[i])
            local_event_close(hp, i);
    local_views_fini(&p->views);
    free(p->by_number);
    if (p->ready_fd >= 0)
        close(p->ready_fd);
    if (p->epoll_fd >= 0)
        close(p->epoll_fd);
    free(p);
}

static struct port *find(struct ports *p, hv_evtchn number) { return number < p->numbers ? p->by_number[number] : NULL; }

static int make_room(struct ports *p, uint32_t number)
{
    if (number < p->numbers)
        return 0;
    uint32_t n = p->numbers ? p->numbers : 64;
    while (n <= number)
        n *= 2;
    struct port **t = realloc(p->by_number, n * sizeof *t);
    if (!t)
        return -ENOMEM;
    for (uint32_t i = p->numbers; i < n; i++)
        t[i] = NULL;
    p->by_number = t;
    p->numbers = n;
    return 0;
}

/* The eventfd is readable exactly while `ready` is not empty, except inside event_pending. */
static void show_readiness(struct ports *p)
{
    bool want = !list_empty(&p->ready);
    if (want == p->ready_raised)
        return;
    uint64_t value = 1;
    ssize_t n = want ? write(p->ready_fd, &value, sizeof value) : read(p->ready_fd, &value, sizeof value);
    (void)n; /* the counter is 0 or 1, so neither can fail */
    p->ready_raised = want;
}

static void make_pending(struct ports *p, struct port *t)
{
    if (t->masked) {
        t->again = true;
    } else if (!t->queued) {
        t->queued = true;
        list_add_tail(&p->ready, &t->link);
    }
}

/* Takes a port that the hypervisor made for us; the socket is ours from here on. */
static int add(struct ports *p, uint32_t number, int fd, struct port **out)
{
    int err = make_room(p, number);
    struct port *t = NULL;
    if (!err && (number == READY_TOKEN || fd < 0 || p->by_number[number]))
        err = -EIO;
    if (!err && !(t = calloc(1, sizeof *t)))
        err = -ENOMEM;
    struct epoll_event ev = { .events = EPOLLIN | EPOLLRDHUP | EPOLLET, .data.u32 = number };
    if (!err && epoll_ctl(p->epoll_fd, EPOLL_CTL_ADD, fd, &ev) < 0)
        err = -errno;
    if (err) {
        free(t);
        if (fd >= 0)
            close(fd);
        local_call(p->local, &(struct wire_request){ .op = WIRE_CLOSE, .port = number }, NULL, 0, NULL, NULL, 0);
        return err;
    }
    t->number = number;
    t->fd = fd;
    p->by_number[number] = t;
    *out = t;
    return 0;
}

int local_event_bind(struct hv_ports *hp, hv_domid dom, uint32_t remote_port, hv_evtchn *out)
{
    struct ports *p = ports_of(hp);
    struct wire_reply reply;
    int fd;
    int err = local_call(p->local, &(struct wire_request){ .op = WIRE_BIND, .dom = dom, .port = remote_port }, NULL, 0, &reply, &fd, 1);
    if (err)
        return err;
    struct port *t;
    err = add(p, reply.port, fd, &t);
    if (err)
        return err;
    t->bound = true;
    t->view_dom = dom;
    /* A domain without memory of its own can still send events. */
    t->holds_view = local_view_hold(&p->views, dom) == 0;
    make_pending(p, t);
    show_readiness(p);
    *out = t->number;
    return 0;
}

int local_event_alloc(struct hv_ports *hp, hv_domid dom, hv_evtchn *out)
{
    struct ports *p = ports_of(hp);
    struct wire_reply reply;
    int fd;
    int err = local_call(p->local, &(struct wire_request){ .op = WIRE_ALLOC, .dom = dom }, NULL, 0, &reply, &fd, 1);
    if (err)
        return err;
    struct port *t;
    err = add(p, reply.port, fd, &t);
    if (!err)
        *out = t->number;
    return err;
}

void local_event_close(struct hv_ports *hp, hv_evtchn port)
{
    struct ports *p = ports_of(hp);
    struct port *t = find(p, port);
    if (!t)
        return;
    p->by_number[port] = NULL;
    if (t->queued)
        list_remove(&t->link);
    show_readiness(p);
    /* The hypervisor keeps the same open socket, so closing ours would not end its registration. */
    epoll_ctl(p->epoll_fd, EPOLL_CTL_DEL, t->fd, NULL);
    close(t->fd);
    local_call(p->local, &(struct wire_request){ .op = WIRE_CLOSE, .port = port }, NULL, 0, NULL, NULL, 0);
    if (t->holds_view)
        local_view_release(&p->views, t->view_dom);
    free(t);
}

int local_event_fd(struct hv_ports *hp) { return ports_of(hp)->epoll_fd; }

/* Empties the socket; true if there was an event in it. */
static bool drain(struct port *t)
{
    char sink[256];
    bool any = false;
    /* An honest peer's events fit in one read; one that keeps the socket full only loses events of its own. */
    for (int i = 0; i < 4; i++) {
        ssize_t n = recv(t->fd, sink, sizeof sink, MSG_DONTWAIT);
        any = any || n > 0;
        if (n == 0)
            t->hung_up = true;
        if (n < (ssize_t)sizeof sink)
            break;
    }
    return any;
}

static void harvest(struct ports *p)
{
    struct epoll_event events[EVENTS_PER_HARVEST];
    int n = epoll_wait(p->epoll_fd, events, EVENTS_PER_HARVEST, 0);
    for (int i = 0; i < n; i++) {
        struct port *t = events[i].data.u32 == READY_TOKEN ? NULL : find(p, events[i].data.u32);
        if (!t)
            continue;
        if (drain(t))
            make_pending(p, t);
        if (events[i].events & (EPOLLHUP | EPOLLRDHUP | EPOLLERR)) {
            t->hung_up = true;
            epoll_ctl(p->epoll_fd, EPOLL_CTL_DEL, t->fd, NULL);
        }
    }
}

int local_event_pending(struct hv_ports *hp, hv_evtchn *out)
{
    struct ports *p = ports_of(hp);
    if (list_empty(&p->ready))
        harvest(p);
    struct list_node *n = list_pop(&p->ready);
    show_readiness(p);
    if (!n)
        return -EAGAIN;
    struct port *t = container_of(n, struct port, link);
    t->queued = false;
    t->masked = true;
    *out = t->number;
    return 0;
}

int local_event_unmask(struct hv_ports *hp, hv_evtchn port)
{
    struct ports *p = ports_of(hp);
    struct port *t = find(p, port);
    if (!t)
        return -EINVAL;
    t->masked = false;
    if (t->again) {
        t->again = false;
        make_pending(p, t);
        show_readiness(p);
    }
    return 0;
}

int local_event_notify(struct hv_ports *hp, hv_evtchn port)
{
    struct ports *p = ports_of(hp);
    struct port *t = find(p, port);
    if (!t)
        return -EINVAL;
    if (t->hung_up)
        return -ENOTCONN;
    if (!t->bound && port < p->local->status_ports && atomic_load_explicit(&p->local->status[port], memory_order_acquire) != STATUS_BOUND)
        return -ENOTCONN;
    ssize_t n;
    do
        n = send(t->fd, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    if (n >= 0 || errno == EAGAIN || errno == ENOBUFS || errno == ENOMEM)
        return 0;
    t->hung_up = true;
    return -ENOTCONN;
}
