/* ring_hostile.c - a guest that does everything wrong, at random, with a seed.
 *
 *   ring_hostile [--rounds N] [--seed N] [--die]
 *
 * Joins as a domain, prints "guest pid=… domid=…", waits for device 51712, and then in each round connects in some shape and
 * misbehaves: garbage on the ring, indices that run away, grants that are wrong or revoked while in use, pages and slots that
 * change after they were shown, events without end, nodes full of nonsense, states in any order. After each round it goes
 * back to state 1 and demands that the backend comes back to InitWait: a backend that does not is stuck, and that is the
 * failure this program can see. Every tenth round is honest and must work. --die ends with a kill in the middle of a round.
 * Exit: 0 all rounds done; 1 the backend was stuck or refused an honest round; 2 wrong usage. */
#include "base/clock.h"
#include "tests/support/blkback_raw.h"
#include "tests/support/unit.h"

#include <getopt.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define VDEV 51712u
#define DATA_PAGES 64u
#define ARENA_PAGES 2048u
#define STUCK_MS 60000u

static uint64_t state;
static struct raw ring;
static uint8_t *data;
static hv_gref data_ref[DATA_PAGES];
static atomic_bool scribbling, scribbler_ends;

static uint64_t rnd(uint64_t below) { return unit_random(&state) % below; }
static void turn(void) { usleep(200); }

/* A value that somebody may have forgotten: edges, powers of two, or anything. */
static uint64_t edge(void)
{
    switch (rnd(6)) {
    case 0: return 0;
    case 1: return UINT64_MAX - rnd(16);
    case 2: return 1ull << rnd(64);
    case 3: return (1ull << rnd(64)) - 1;
    case 4: return rnd(200000);
    default: return unit_random(&state);
    }
}

static hv_gref some_ref(void)
{
    switch (rnd(6)) {
    case 0: return (hv_gref)edge();
    case 1: return ring.refs[0]; /* the ring itself as data */
    default: return data_ref[rnd(DATA_PAGES)];
    }
}

/* ---- Other hands on the shared memory ---- */

static void *scribble(void *arg)
{
    uint64_t seed = 0x123456789abcdefull ^ (uint64_t)(uintptr_t)arg;
    while (!atomic_load(&scribbler_ends)) {
        struct blkif_ring_header *shared = ring.shared;
        if (!atomic_load(&scribbling)) {
            usleep(100);
            continue;
        }
        uint64_t dice = unit_random(&seed), value = unit_random(&seed);
        uint8_t *page = data + dice / 256 % (DATA_PAGES * HV_PAGE_SIZE);
        *page = (uint8_t)value;
        if (dice % 4 == 0)
            ring.slots[dice / 16 % (ring.size * ring.slot_bytes)] = (uint8_t)value;
        if (dice % 64 == 0)
            __atomic_store_n(&shared->req_prod, ring.req_prod + (uint32_t)(value % 3), __ATOMIC_RELAXED);
        if (dice % 64 == 1)
            __atomic_store_n(&shared->rsp_event, (uint32_t)value, __ATOMIC_RELAXED);
        if (dice % 256 == 2)
            __atomic_store_n(&shared->rsp_prod, (uint32_t)value, __ATOMIC_RELAXED);
        if (dice % 256 == 3)
            __atomic_store_n(&shared->req_event, (uint32_t)value, __ATOMIC_RELAXED);
    }
    return NULL;
}

/* ---- Requests: as many as the ring has slots and one more, whether the backend has answered the earlier ones or not ---- */

static void random_segments(struct blkif_segment *s, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        s[i] = (struct blkif_segment){ .gref = some_ref(), .first_sect = (uint8_t)(rnd(4) ? rnd(8) : edge()), .last_sect = (uint8_t)(rnd(4) ? 7 : edge()) };
}

static void random_request(void)
{
    struct blkif_segment s[BLKIF_MAX_SEGMENTS];
    uint64_t sector = rnd(3) ? rnd(131072) : edge();
    unsigned page = (unsigned)rnd(DATA_PAGES);
    random_segments(s, BLKIF_MAX_SEGMENTS);
    switch (rnd(8)) {
    case 0: case 1: case 2:
        raw_rw(&ring, (uint8_t)rnd(4), edge(), sector, s, (unsigned)(rnd(8) ? rnd(12) : rnd(256)));
        break;
    case 3:
        raw_discard(&ring, edge(), rnd(2) ? sector & ~7ull : sector, rnd(2) ? rnd(4096) : edge(), (uint8_t)rnd(3));
        break;
    case 4: case 5:
        random_segments((struct blkif_segment *)(data + page * HV_PAGE_SIZE), 512);
        raw_indirect(&ring, (uint8_t)(rnd(4) ? rnd(2) : rnd(256)), edge(), sector, rnd(4) ? data_ref[page] : some_ref(), (unsigned)(rnd(4) ? rnd(257) : edge() % 65536));
        break;
    case 6: {
        uint64_t garbage[14];
        for (unsigned i = 0; i < 14; i++)
            garbage[i] = edge();
        raw_slot(&ring, garbage, ring.slot_bytes);
        break;
    }
    default:
        raw_rw(&ring, (uint8_t)edge(), edge(), sector, s, (unsigned)rnd(256));
    }
}

static void take_responses(void)
{
    uint32_t prod = __atomic_load_n(&ring.shared->rsp_prod, __ATOMIC_ACQUIRE);
    ring.rsp_cons = prod;
    __atomic_store_n(&ring.shared->rsp_event, prod + 1, __ATOMIC_SEQ_CST);
}

static void flood(void)
{
    for (unsigned batches = 1 + (unsigned)rnd(20); batches; batches--) {
        for (unsigned n = (unsigned)rnd(ring.size + 2); n; n--)
            random_request();
        raw_push(&ring);
        if (rnd(2))
            turn();
        take_responses();
    }
}

static void revoke_grants(void)
{
    for (unsigned n = 1 + (unsigned)rnd(20); n; n--) {
        for (unsigned i = 0; i < 8; i++)
            random_request();
        raw_push(&ring);
        unsigned page = (unsigned)rnd(DATA_PAGES);
        hv_gref fresh;
        /* A page in use stays granted; else its reference dies with requests for it on the way. */
        if (hv_grant_unshare(ring.hv, data_ref[page]) == 0 && hv_grant_share(ring.hv, ring.backend, data + page * HV_PAGE_SIZE, rnd(2), &fresh) == 0)
            data_ref[page] = fresh;
        take_responses();
    }
}

static void storm(void)
{
    for (unsigned n = (unsigned)rnd(20000); n; n--)
        raw_kick(&ring);
}

static void run_away(void)
{
    __atomic_store_n(&ring.shared->req_prod, (uint32_t)edge(), __ATOMIC_SEQ_CST);
    raw_kick(&ring);
    turn();
}

static void with_other_hands(void)
{
    atomic_store(&scribbling, true);
    flood();
    atomic_store(&scribbling, false);
}

/* ---- Nodes ---- */

static const char *nonsense(char buf[64])
{
    static const char *const texts[] = { "", "-1", "0", "4294967296", "18446744073709551616", "1e3", "0x10", " 1", "1 ", "%s%n", "\xff\xfe", "ring", "31", "4", "5",
                                         "999999999999999999999999999999999999999999999999999999" };
    if (rnd(3) == 0)
        snprintf(buf, 64, "%llu", (unsigned long long)edge());
    else
        snprintf(buf, 64, "%s", texts[rnd(sizeof texts / sizeof *texts)]);
    return buf;
}

static void bogus_nodes(void)
{
    static const char *const names[] = { "ring-ref", "ring-ref0", "ring-ref1", "event-channel", "ring-page-order", "num-ring-pages", "protocol",
                                         "multi-queue-num-queues", "feature-persistent", "queue-0/ring-ref", "queue-1/event-channel", "state" };
    char buf[64];
    for (unsigned n = 1 + (unsigned)rnd(5); n; n--)
        raw_put(&ring, names[rnd(sizeof names / sizeof *names)], "%s", nonsense(buf));
    raw_put(&ring, "state", "3");
    for (unsigned n = (unsigned)rnd(5); n; n--)
        turn();
}

static void states_in_any_order(void)
{
    for (unsigned n = 1 + (unsigned)rnd(40); n; n--) {
        raw_put(&ring, "state", "%u", (unsigned)rnd(9));
        if (rnd(3) == 0)
            turn();
    }
}

static void clear_nodes(void)
{
    static const char *const names[] = { "ring-ref", "ring-ref0", "ring-ref1", "num-ring-pages", "multi-queue-num-queues", "feature-persistent", "queue-0", "queue-1" };
    for (unsigned i = 0; i < sizeof names / sizeof *names; i++)
        raw_delete(&ring, names[i]);
}

static bool close_and_begin(void)
{
    raw_put(&ring, "state", "6");
    uint64_t end = clock_monotonic_ms() + STUCK_MS;
    unsigned late = 0;
    for (unsigned s = raw_backend_state(&ring); s != 6 && s != 1; s = raw_backend_state(&ring)) {
        if (clock_monotonic_ms() > end && late++ >= RAW_LATE_TURNS)
            return false;
        turn();
    }
    clear_nodes();
    raw_put(&ring, "state", "1");
    return raw_wait_backend(&ring, XENBUS_INIT_WAIT, STUCK_MS) == 0;
}

/* Back to where a decent frontend begins; false if the backend never offers the device again. Twice: the first time, states that were
 * written in disorder may look like answers (an old Closed, before ours was seen); the second time the backend's 2 was seen before. */
static bool start_over(void) { return close_and_begin() && close_and_begin(); }

/* ---- Rounds ---- */

static bool honest(void)
{
    struct raw_response rsp;
    hv_gref ref;
    uint8_t *page = hv_arena_alloc(ring.hv, 1);
    if (!page || hv_grant_share(ring.hv, ring.backend, page, false, &ref))
        return false;
    struct blkif_segment s = { .gref = ref, .last_sect = 7 };
    uint8_t value = (uint8_t)(1 + rnd(255));
    bool good = true;
    for (unsigned i = 0; i < 2 && good; i++) {
        memset(page, i ? 0 : value, HV_PAGE_SIZE);
        raw_rw(&ring, i ? BLKIF_OP_READ : BLKIF_OP_WRITE, i, 800, &s, 1);
        raw_push(&ring);
        good = raw_response(&ring, STUCK_MS, &rsp) == 0 && rsp.id == i && rsp.status == 0 && rsp.clean;
    }
    good = good && page[0] == value && page[4095] == value;
    hv_grant_unshare(ring.hv, ref);
    hv_arena_free(ring.hv, page, 1);
    return good;
}

static bool one_round(unsigned number, bool *connected)
{
    static void (*const evils[])(void) = { flood, revoke_grants, storm, run_away, with_other_hands, states_in_any_order };
    bool good = number % 10 == 9;
    ring.abi = (enum blkif_abi)rnd(3);
    ring.order = (unsigned)rnd(5);
    if (!good && rnd(5) == 0) {
        if (raw_prepare(&ring))
            return false;
        *connected = true;
        bogus_nodes();
        return true;
    }
    *connected = true;
    if (raw_connect(&ring)) {
        fprintf(stderr, "round %u: the backend did not connect, its state is %u\n", number, raw_backend_state(&ring));
        return false;
    }
    if (good)
        return honest();
    for (unsigned n = 1 + (unsigned)rnd(3); n; n--)
        evils[rnd(sizeof evils / sizeof *evils)]();
    return true;
}

static int run(unsigned rounds, bool die)
{
    unsigned last = die ? (unsigned)rnd(rounds) : rounds;
    for (unsigned i = 0; i < rounds; i++) {
        bool connected = false, good = one_round(i, &connected);
        if (die && i == last)
            raise(SIGKILL);
        if (!good || !start_over()) {
            fprintf(stderr, "round %u: the backend %s; its state is %u\n", i, good ? "is stuck" : "failed an honest frontend", raw_backend_state(&ring));
            return 1;
        }
        if (connected && !raw_release(&ring)) {
            fprintf(stderr, "round %u: the backend kept the ring mapped after it had closed\n", i);
            return 1;
        }
    }
    printf("rounds %u\n", rounds);
    return 0;
}

static const struct option options[] = { { "rounds", required_argument, NULL, 'r' }, { "seed", required_argument, NULL, 's' }, { "die", no_argument, NULL, 'd' }, { 0 } };

int main(int argc, char **argv)
{
    unsigned rounds = 200;
    bool die = false;
    struct error err = ERROR_NONE;
    state = clock_real_ns() | 1;
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (c) {
        case 'r': rounds = (unsigned)strtoul(optarg, NULL, 10); break;
        case 's': state = strtoull(optarg, NULL, 10) | 1; break;
        case 'd': die = true; break;
        default: return 2;
        }
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    struct hv_identity who = { .kind = HV_GUEST, .name = "hostile", .arena_pages = ARENA_PAGES };
    ring = (struct raw){ .vdev = VDEV, .turn = turn };
    if (hv_open("auto", &who, &ring.hv, &err) || hv_xs_open(ring.hv, &ring.xs) || hv_ports_open(ring.hv, &ring.ports)) {
        fprintf(stderr, "ring_hostile: %s\n", err.text);
        return 1;
    }
    printf("guest pid=%d domid=%u\n# seed %llu\n", (int)getpid(), hv_own_domid(ring.hv), (unsigned long long)state);
    if (raw_wait_backend(&ring, XENBUS_INIT_WAIT, 30000)) {
        fprintf(stderr, "ring_hostile: no device came\n");
        return 1;
    }
    char *domid;
    hv_xs_read(ring.xs, 0, "device/vbd/51712/backend-id", &domid, NULL);
    ring.backend = (hv_domid)strtoul(domid, NULL, 10);
    free(domid);
    data = hv_arena_alloc(ring.hv, DATA_PAGES);
    for (unsigned i = 0; i < DATA_PAGES; i++)
        hv_grant_share(ring.hv, ring.backend, data + i * HV_PAGE_SIZE, i % 8 == 7, &data_ref[i]);
    pthread_t other;
    pthread_create(&other, NULL, scribble, &ring);
    int rc = run(rounds, die);
    atomic_store(&scribbler_ends, true);
    pthread_join(other, NULL);
    hv_ports_close(ring.ports);
    hv_xs_close(ring.xs);
    hv_close(ring.hv);
    return rc;
}
