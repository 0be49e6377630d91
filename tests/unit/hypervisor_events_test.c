/* hypervisor_events_test.c - event channels of the embedded hypervisor: pending, masks, missing peers. */
#include "tests/unit/hypervisor_test.h"

static hv_evtchn guest_port, backend_port;

/* A pair with one channel, its first pending taken and unmasked. */
static struct pair connected(void)
{
    struct pair p = open_pair(4);
    CU_ASSERT_EQUAL_FATAL(hv_event_alloc(p.guest_ports, p.backend_id, &guest_port), 0);
    CU_ASSERT_EQUAL_FATAL(hv_event_bind(p.backend_ports, p.guest_id, guest_port, &backend_port), 0);
    CU_ASSERT_EQUAL_FATAL(next_event(p.backend_ports, 1000), backend_port);
    CU_ASSERT_EQUAL_FATAL(hv_event_unmask(p.backend_ports, backend_port), 0);
    return p;
}

static void a_new_binding_is_pending(void)
{
    struct pair p = open_pair(4);
    hv_evtchn port, bound, got;
    CU_ASSERT_EQUAL_FATAL(hv_event_alloc(p.guest_ports, p.backend_id, &port), 0);
    CU_ASSERT_EQUAL(hv_event_pending(p.guest_ports, &got), -EAGAIN);
    CU_ASSERT_EQUAL(hv_event_bind(p.backend_ports, p.guest_id, port + 1, &bound), -EINVAL);
    CU_ASSERT_EQUAL(hv_event_bind(p.backend_ports, 999, port, &bound), -ENOENT);
    CU_ASSERT_EQUAL_FATAL(hv_event_bind(p.backend_ports, p.guest_id, port, &bound), 0);
    CU_ASSERT_EQUAL(hv_event_bind(p.backend_ports, p.guest_id, port, &got), -EBUSY);
    CU_ASSERT_TRUE(readable(hv_event_fd(p.backend_ports), 0));
    CU_ASSERT_EQUAL(hv_event_pending(p.backend_ports, &got), 0);
    CU_ASSERT_EQUAL(got, bound);
    CU_ASSERT_EQUAL(hv_event_pending(p.backend_ports, &got), -EAGAIN);
    CU_ASSERT_FALSE(readable(hv_event_fd(p.backend_ports), 0));
    close_pair(&p);
}

static void only_the_named_domain_may_bind(void)
{
    struct pair p = open_pair(4);
    struct hv *other = open_as(HV_GUEST, "other", 0);
    struct hv_ports *ports;
    hv_evtchn port, bound;
    CU_ASSERT_EQUAL_FATAL(hv_ports_open(other, &ports), 0);
    CU_ASSERT_EQUAL_FATAL(hv_event_alloc(p.guest_ports, p.backend_id, &port), 0);
    CU_ASSERT_EQUAL(hv_event_bind(ports, p.guest_id, port, &bound), -EACCES);
    CU_ASSERT_EQUAL(hv_event_alloc(p.guest_ports, 12345, &bound), -ENOENT);
    hv_ports_close(ports);
    hv_close(other);
    close_pair(&p);
}

static void events_go_both_ways(void)
{
    struct pair p = connected();
    CU_ASSERT_EQUAL(hv_event_notify(p.guest_ports, guest_port), 0);
    CU_ASSERT_EQUAL(next_event(p.backend_ports, 1000), backend_port);
    CU_ASSERT_EQUAL(hv_event_notify(p.backend_ports, backend_port), 0);
    CU_ASSERT_EQUAL(next_event(p.guest_ports, 1000), guest_port);
    close_pair(&p);
}

static void an_event_that_comes_while_masked_is_delivered_after_unmask(void)
{
    struct pair p = connected();
    hv_evtchn got;
    CU_ASSERT_EQUAL(hv_event_notify(p.guest_ports, guest_port), 0);
    CU_ASSERT_EQUAL_FATAL(next_event(p.backend_ports, 1000), backend_port);
    for (int i = 0; i < 3; i++) {
        CU_ASSERT_EQUAL(hv_event_notify(p.guest_ports, guest_port), 0);
        CU_ASSERT_EQUAL(hv_event_pending(p.backend_ports, &got), -EAGAIN);
    }
    /* Masked and nothing to give: the descriptor does not make its loop spin. */
    CU_ASSERT_FALSE(readable(hv_event_fd(p.backend_ports), 0));
    CU_ASSERT_EQUAL(hv_event_unmask(p.backend_ports, backend_port), 0);
    CU_ASSERT_TRUE(readable(hv_event_fd(p.backend_ports), 0));
    CU_ASSERT_EQUAL(hv_event_pending(p.backend_ports, &got), 0);
    CU_ASSERT_EQUAL(got, backend_port);
    /* However many came, they were one. */
    CU_ASSERT_EQUAL(hv_event_unmask(p.backend_ports, backend_port), 0);
    CU_ASSERT_EQUAL(hv_event_pending(p.backend_ports, &got), -EAGAIN);
    close_pair(&p);
}

static void the_descriptor_stays_readable_until_the_last_port_is_taken(void)
{
    struct pair p = open_pair(4);
    hv_evtchn front[10], back[10], got;
    unsigned seen = 0;
    for (int i = 0; i < 10; i++) {
        CU_ASSERT_EQUAL_FATAL(hv_event_alloc(p.guest_ports, p.backend_id, &front[i]), 0);
        CU_ASSERT_EQUAL_FATAL(hv_event_bind(p.backend_ports, p.guest_id, front[i], &back[i]), 0);
    }
    for (int round = 0; round < 3; round++) {
        for (int i = 0; round && i < 10; i++)
            CU_ASSERT_EQUAL(hv_event_notify(p.guest_ports, front[i]), 0);
        for (int i = 0; i < 10; i++) {
            CU_ASSERT_TRUE(readable(hv_event_fd(p.backend_ports), 0));
            CU_ASSERT_EQUAL_FATAL(hv_event_pending(p.backend_ports, &got), 0);
            CU_ASSERT_EQUAL(hv_event_unmask(p.backend_ports, got), 0);
            seen++;
        }
        CU_ASSERT_EQUAL(hv_event_pending(p.backend_ports, &got), -EAGAIN);
        CU_ASSERT_FALSE(readable(hv_event_fd(p.backend_ports), 0));
    }
    CU_ASSERT_EQUAL(seen, 30);
    close_pair(&p);
}

static void a_storm_of_events_blocks_nobody_and_loses_none(void)
{
    struct pair p = connected();
    hv_evtchn got;
    for (int round = 0; round < 50; round++) {
        for (int i = 0; i < 1000; i++)
            if (hv_event_notify(p.guest_ports, guest_port))
                CU_FAIL("notify failed");
        CU_ASSERT_EQUAL_FATAL(next_event(p.backend_ports, 1000), backend_port);
        CU_ASSERT_EQUAL(hv_event_unmask(p.backend_ports, backend_port), 0);
        while (hv_event_pending(p.backend_ports, &got) == 0)
            hv_event_unmask(p.backend_ports, got);
    }
    CU_ASSERT_EQUAL(hv_event_notify(p.guest_ports, guest_port), 0);
    CU_ASSERT_EQUAL(next_event(p.backend_ports, 1000), backend_port);
    close_pair(&p);
}

static void notify_says_when_nobody_is_there(void)
{
    struct pair p = open_pair(4);
    hv_evtchn port, bound;
    CU_ASSERT_EQUAL(hv_event_notify(p.guest_ports, 77), -EINVAL);
    CU_ASSERT_EQUAL_FATAL(hv_event_alloc(p.guest_ports, p.backend_id, &port), 0);
    CU_ASSERT_EQUAL(hv_event_notify(p.guest_ports, port), -ENOTCONN);
    CU_ASSERT_EQUAL_FATAL(hv_event_bind(p.backend_ports, p.guest_id, port, &bound), 0);
    CU_ASSERT_EQUAL(hv_event_notify(p.guest_ports, port), 0);
    hv_event_close(p.backend_ports, bound);
    CU_ASSERT_EQUAL(hv_event_notify(p.guest_ports, port), -ENOTCONN);
    /* The port is unbound again, for the same domain. */
    CU_ASSERT_EQUAL_FATAL(hv_event_bind(p.backend_ports, p.guest_id, port, &bound), 0);
    CU_ASSERT_EQUAL(next_event(p.backend_ports, 1000), bound);
    CU_ASSERT_EQUAL(hv_event_unmask(p.backend_ports, bound), 0);
    hv_evtchn got;
    CU_ASSERT_EQUAL(hv_event_pending(p.backend_ports, &got), -EAGAIN);
    hv_event_close(p.guest_ports, port);
    CU_ASSERT_EQUAL(hv_event_notify(p.backend_ports, bound), -ENOTCONN);
    CU_ASSERT_EQUAL(hv_event_pending(p.backend_ports, &got), -EAGAIN);
    CU_ASSERT_FALSE(readable(hv_event_fd(p.backend_ports), 0));
    close_pair(&p);
}

static void a_guest_has_1023_channels_and_not_one_more(void)
{
    struct pair p = open_pair(4);
    hv_evtchn first = 0, port;
    unsigned n = 0;
    int r;
    while ((r = hv_event_alloc(p.guest_ports, p.backend_id, &port)) == 0 && n < 2000) {
        first = n ? first : port;
        n++;
    }
    CU_ASSERT_EQUAL(r, -ENOSPC);
    CU_ASSERT_EQUAL(n, 1023);
    hv_event_close(p.guest_ports, first);
    CU_ASSERT_EQUAL(hv_event_alloc(p.guest_ports, p.backend_id, &port), 0);
    close_pair(&p);
}

int main(int argc, char **argv)
{
    return with_own_hypervisor(argc, argv, "events", (struct unit_test[]){
        UNIT(a_new_binding_is_pending),
        UNIT(only_the_named_domain_may_bind),
        UNIT(events_go_both_ways),
        UNIT(an_event_that_comes_while_masked_is_delivered_after_unmask),
        UNIT(the_descriptor_stays_readable_until_the_last_port_is_taken),
        UNIT(a_storm_of_events_blocks_nobody_and_loses_none),
        UNIT(notify_says_when_nobody_is_there),
        UNIT(a_guest_has_1023_channels_and_not_one_more),
        { 0 },
    });
}
