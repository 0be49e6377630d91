/* The foundation: checksum, lists, errors, hash table, event loop. */
#include "base/crc32c.h"
#include "base/error.h"
#include "base/hash.h"
#include "base/latency.h"
#include "base/loop.h"
#include "tests/support/unit.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

/* The definition, bit by bit. */
static uint32_t crc_by_definition(const unsigned char *p, size_t n)
{
    uint32_t c = ~0u;
    while (n--) {
        c ^= *p++;
        for (int k = 0; k < 8; k++)
            c = c & 1 ? c >> 1 ^ 0x82f63b78u : c >> 1;
    }
    return ~c;
}

static void crc32c_is_that_of_its_definition_at_every_length(void)
{
    static unsigned char bytes[9000];
    uint64_t seed = 3;
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (unsigned char)unit_random(&seed);
    CU_ASSERT_EQUAL(crc32c(0, "123456789", 9), 0xe3069283);
    for (size_t n = 0; n < 300; n++)
        CU_ASSERT_EQUAL(crc32c(0, bytes, n), crc_by_definition(bytes, n));
    for (size_t n = 4000; n < sizeof bytes; n += 113)
        CU_ASSERT_EQUAL(crc32c(0, bytes, n), crc_by_definition(bytes, n));
    CU_ASSERT_EQUAL(crc32c(crc32c(0, bytes, 1000), bytes + 1000, 5000), crc32c(0, bytes, 6000));
}

static void the_first_error_is_kept(void)
{
    struct error e = ERROR_NONE;
    CU_ASSERT_EQUAL(error_set(&e, -EIO, "disk %d", 7), -EIO);
    CU_ASSERT_EQUAL(error_set(&e, -ENOMEM, "later"), -EIO);
    CU_ASSERT_STRING_EQUAL(e.text, "disk 7");
    CU_ASSERT_EQUAL(error_set(NULL, -EPERM, "nobody listens"), -EPERM);
}

struct item {
    struct hash_node node;
    uint64_t key;
};

static void a_hash_table_finds_what_is_in_it_and_nothing_else(void)
{
    static struct item items[5000];
    struct hash h = { 0 };
    for (uint64_t i = 0; i < 5000; i++) {
        items[i].key = i;
        CU_ASSERT_EQUAL_FATAL(hash_reserve(&h), 0);
        hash_insert(&h, &items[i].node, hash_u64(i));
    }
    for (uint64_t i = 0; i < 5000; i += 2)
        hash_remove(&h, &items[i].node);
    for (uint64_t i = 0; i < 5000; i++)
        CU_ASSERT_EQUAL(hash_first(&h, hash_u64(i)) != NULL, i % 2 == 1);
    CU_ASSERT_EQUAL(h.count, 2500);
    hash_fini(&h);
}

static char trace[64];

static void note(char c)
{
    size_t n = strlen(trace);
    trace[n] = c;
    trace[n + 1] = 0;
}

static struct loop *loop;
static struct loop_task first, second, last;

static void run_first(struct loop_task *t)
{
    (void)t;
    note('1');
    loop_defer_last(loop, &last);
}
static void run_second(struct loop_task *t)
{
    (void)t;
    note('2');
}

static void run_last(struct loop_task *t)
{
    (void)t;
    note('L');
}

static void deferred_tasks_run_in_order_and_the_last_ones_last(void)
{
    trace[0] = 0;
    first.run = run_first;
    second.run = run_second;
    last.run = run_last;
    CU_ASSERT_EQUAL_FATAL(loop_create(&loop), 0);
    loop_defer(loop, &first);
    loop_defer(loop, &first); /* queued already */
    loop_defer(loop, &second);
    CU_ASSERT_STRING_EQUAL(trace, ""); /* nothing runs from inside the call */
    loop_turn(loop, 0);
    CU_ASSERT_STRING_EQUAL(trace, "12L");
    loop_defer(loop, &first);
    loop_cancel(loop, &first);
    loop_turn(loop, 0);
    CU_ASSERT_STRING_EQUAL(trace, "12L");
    loop_destroy(loop);
}

static struct loop_fd ends[2];

static void ready(struct loop_fd *w, uint32_t events)
{
    (void)events;
    note(w == &ends[0] ? 'a' : 'b');
    /* Both are ready in this turn; the other one must not be called after its removal. */
    loop_fd_remove(loop, &ends[w == &ends[0]]);
}

static void a_descriptor_removed_in_a_turn_is_not_called_in_it(void)
{
    int a[2], b[2];
    trace[0] = 0;
    CU_ASSERT_EQUAL_FATAL(loop_create(&loop), 0);
    CU_ASSERT_EQUAL_FATAL(pipe(a) | pipe(b), 0);
    ends[0] = (struct loop_fd){ .ready = ready, .fd = a[0] };
    ends[1] = (struct loop_fd){ .ready = ready, .fd = b[0] };
    CU_ASSERT_EQUAL(loop_fd_add(loop, &ends[0], EPOLLIN) | loop_fd_add(loop, &ends[1], EPOLLIN), 0);
    CU_ASSERT_EQUAL(write(a[1], "x", 1) + write(b[1], "x", 1), 2);
    loop_turn(loop, 0);
    CU_ASSERT_EQUAL(strlen(trace), 1);
    loop_fd_remove(loop, &ends[0]);
    loop_fd_remove(loop, &ends[1]);
    for (int i = 0; i < 2; i++) {
        close(a[i]);
        close(b[i]);
    }
    loop_destroy(loop);
}

static unsigned posted;
static struct loop_task messages[1000];

static void count_message(struct loop_task *t)
{
    (void)t;
    if (++posted == 1000)
        loop_stop(loop);
}

static void *post_all(void *arg)
{
    (void)arg;
    for (int i = 0; i < 1000; i++) {
        messages[i].run = count_message;
        loop_post(loop, &messages[i]);
    }
    return NULL;
}

static void messages_of_another_thread_all_arrive(void)
{
    pthread_t t;
    CU_ASSERT_EQUAL_FATAL(loop_create(&loop), 0);
    CU_ASSERT_EQUAL_FATAL(pthread_create(&t, NULL, post_all, NULL), 0);
    loop_run(loop);
    pthread_join(t, NULL);
    CU_ASSERT_EQUAL(posted, 1000);
    loop_destroy(loop);
}

static struct loop_timer early, late;

static void timer_expired(struct loop_timer *t) { note(t == &early ? 'e' : 'l'); }

static void timers_expire_in_order_and_a_stopped_one_never(void)
{
    struct loop_timer stopped = { .expired = timer_expired };
    trace[0] = 0;
    early.expired = late.expired = timer_expired;
    CU_ASSERT_EQUAL_FATAL(loop_create(&loop), 0);
    loop_timer_start(loop, &late, 20);
    loop_timer_start(loop, &early, 5);
    loop_timer_start(loop, &stopped, 1);
    loop_timer_stop(loop, &stopped);
    for (int i = 0; i < 1000 && strlen(trace) < 2; i++)
        loop_turn(loop, -1);
    CU_ASSERT_STRING_EQUAL(trace, "el");
    loop_destroy(loop);
}

static uint64_t seen[2];

static void note_time(struct loop_task *t)
{
    uint64_t now = loop_monotonic_ns(loop);
    usleep(1000);
    CU_ASSERT_EQUAL(loop_monotonic_ns(loop), now);
    CU_ASSERT_EQUAL(loop_real_ns(loop), loop_real_ns(loop));
    seen[t == &second] = now;
}

static void time_stands_still_in_a_callback_and_nowhere_else(void)
{
    first = (struct loop_task){ .run = note_time };
    second = (struct loop_task){ .run = note_time };
    CU_ASSERT_EQUAL_FATAL(loop_create(&loop), 0);
    uint64_t before = loop_monotonic_ns(loop);
    usleep(1000);
    CU_ASSERT_TRUE(loop_monotonic_ns(loop) >= before + 1000000);
    loop_defer(loop, &first);
    loop_defer_last(loop, &second);
    loop_turn(loop, 0);
    CU_ASSERT_TRUE(seen[0] >= before + 1000000 && seen[1] >= seen[0] + 1000000);
    CU_ASSERT_TRUE(loop_monotonic_ns(loop) >= seen[1] + 1000000);
    loop_destroy(loop);
}

static void a_percentile_is_right_to_six_percent(void)
{
    static struct latency l;
    CU_ASSERT_EQUAL(latency_percentile_ns(&l, 0.5), 0);
    for (uint64_t ns = 1; ns <= 1000000; ns++)
        latency_add(&l, ns);
    for (unsigned part = 1; part < 100; part++) {
        double is = (double)latency_percentile_ns(&l, part / 100.0), wanted = part * 10000.0;
        CU_ASSERT_TRUE(is >= wanted && is <= wanted * 1.0626);
    }
    CU_ASSERT_EQUAL(latency_percentile_ns(&l, 1), 1000000);
    latency_add(&l, UINT64_MAX);
    CU_ASSERT_EQUAL(latency_percentile_ns(&l, 1), UINT64_MAX);
}

int main(int argc, char **argv)
{
    return unit_main(argc, argv, "base",
                     (struct unit_test[]){ UNIT(crc32c_is_that_of_its_definition_at_every_length), UNIT(the_first_error_is_kept),
                                           UNIT(a_hash_table_finds_what_is_in_it_and_nothing_else), UNIT(deferred_tasks_run_in_order_and_the_last_ones_last),
                                           UNIT(a_descriptor_removed_in_a_turn_is_not_called_in_it), UNIT(messages_of_another_thread_all_arrive),
                                           UNIT(timers_expire_in_order_and_a_stopped_one_never),
                                           UNIT(time_stands_still_in_a_callback_and_nowhere_else), UNIT(a_percentile_is_right_to_six_percent), { 0 } });
}
