/* control_protocol_test.c - both ends of the control protocol, and peers that do not keep it. */
#include "base/endian.h"
#include "control/control.h"
#include "tests/support/unit.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define WINDOW 4u

/* A server that echoes requests, keeps DATA in a file's place, and counts everything. */
struct host {
    struct control_peer peer;
    struct loop *loop;
    pthread_t thread;
    int client; /* the other end */
    bool closed;
    int error;
    unsigned requests, ends;
    unsigned char *store, *buffer;
    bool takes_data;
};

#define STORE_SIZE (8u << 20)

static void host_request(struct control_peer *p, json_t *doc)
{
    struct host *h = container_of(p, struct host, peer);
    h->requests++;
    control_peer_send_json(p, CONTROL_ITEM, doc);
    control_peer_send_json(p, CONTROL_REPLY, doc);
    if (h->takes_data)
        control_peer_send_credit(p, WINDOW);
}

static void *host_buffer(struct control_peer *p, uint32_t length)
{
    struct host *h = container_of(p, struct host, peer);
    CU_ASSERT_TRUE(length >= 1 && length <= CONTROL_DATA_MAX);
    return h->takes_data ? h->buffer : NULL;
}

static void host_data(struct control_peer *p, uint64_t offset, void *buffer, uint32_t length)
{
    struct host *h = container_of(p, struct host, peer);
    if (offset <= STORE_SIZE && length <= STORE_SIZE - offset)
        memcpy(h->store + offset, buffer, length);
    control_peer_send_credit(p, 1);
}

static void host_end(struct control_peer *p)
{
    struct host *h = container_of(p, struct host, peer);
    h->ends++;
    json_t *doc = json_object();
    CU_ASSERT_EQUAL(control_peer_send_json(p, CONTROL_REPLY, doc), 0);
    json_decref(doc);
}

static void host_closed(struct control_peer *p, int error)
{
    struct host *h = container_of(p, struct host, peer);
    CU_ASSERT_FALSE(h->closed);
    h->closed = true;
    h->error = error;
    loop_stop(h->loop);
}

static const struct control_peer_ops host_ops = {
    .request = host_request, .buffer = host_buffer, .data = host_data, .end = host_end, .closed = host_closed,
};

static void host_open(struct host *h)
{
    int pair[2];
    memset(h, 0, sizeof *h);
    h->store = calloc(1, STORE_SIZE);
    h->buffer = malloc(CONTROL_DATA_MAX);
    CU_ASSERT_EQUAL_FATAL(loop_create(&h->loop), 0);
    CU_ASSERT_EQUAL_FATAL(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    CU_ASSERT_EQUAL_FATAL(control_peer_init(&h->peer, h->loop, pair[0], &host_ops), 0);
    h->client = pair[1];
}

static void *host_run(void *arg)
{
    loop_run(((struct host *)arg)->loop);
    return NULL;
}

static void host_start(struct host *h) { CU_ASSERT_EQUAL_FATAL(pthread_create(&h->thread, NULL, host_run, h), 0); }

static void host_free(struct host *h)
{
    control_peer_close(&h->peer);
    loop_destroy(h->loop);
    free(h->store);
    free(h->buffer);
}

/* ---- Frames ---- */

static void lengths_and_types_out_of_bounds_are_refused(void)
{
    CU_ASSERT_TRUE(control_frame_valid(CONTROL_REQUEST, 2));
    CU_ASSERT_TRUE(control_frame_valid(CONTROL_REQUEST, CONTROL_JSON_MAX));
    CU_ASSERT_FALSE(control_frame_valid(CONTROL_REQUEST, CONTROL_JSON_MAX + 1));
    CU_ASSERT_FALSE(control_frame_valid(CONTROL_REQUEST, 0));
    CU_ASSERT_FALSE(control_frame_valid(CONTROL_DATA, 8));
    CU_ASSERT_TRUE(control_frame_valid(CONTROL_DATA, 9));
    CU_ASSERT_TRUE(control_frame_valid(CONTROL_DATA, CONTROL_DATA_MAX + 8));
    CU_ASSERT_FALSE(control_frame_valid(CONTROL_DATA, CONTROL_DATA_MAX + 9));
    CU_ASSERT_FALSE(control_frame_valid(CONTROL_END, 1));
    CU_ASSERT_FALSE(control_frame_valid(CONTROL_CREDIT, 5));
    CU_ASSERT_FALSE(control_frame_valid(0, 4));
    CU_ASSERT_FALSE(control_frame_valid(8, 4));
    CU_ASSERT_FALSE(control_frame_valid(UINT32_MAX, UINT32_MAX));
}

static void a_header_is_decoded_as_it_was_encoded(void)
{
    unsigned char head[CONTROL_HEADER_SIZE];
    uint32_t type, length;
    control_header_encode(head, CONTROL_CREDIT, 0x12345678);
    CU_ASSERT_EQUAL(head[0], 0x78);
    control_header_decode(head, &type, &length);
    CU_ASSERT_EQUAL(type, CONTROL_CREDIT);
    CU_ASSERT_EQUAL(length, 0x12345678);
}

static void documents_that_are_no_json_are_refused(void)
{
    const char *bad[] = { "", "{", "{\"a\":1,\"a\":2}", "\"\\u0000\"", "{\"a\":\"\xff\xfe\"}", "nul", "{}x" };
    for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++)
        CU_ASSERT_PTR_NULL(control_json_decode(bad[i], strlen(bad[i])));
    char *deep = malloc(100000);
    memset(deep, '[', 100000);
    CU_ASSERT_PTR_NULL(control_json_decode(deep, 100000));
    free(deep);
    json_t *good = control_json_decode("{\"a\":1}", 7);
    CU_ASSERT_PTR_NOT_NULL(good);
    json_decref(good);
}

/* ---- Both ends ---- */

static void a_request_gets_its_items_and_its_reply(void)
{
    struct host h;
    struct control_client c;
    struct control_frame f;
    host_open(&h);
    host_start(&h);
    CU_ASSERT_EQUAL_FATAL(control_client_init(&c, h.client, -1), 0);
    for (int i = 0; i < 100; i++) {
        json_t *doc = json_pack("{s:s,s:i}", "command", "x", "i", i);
        CU_ASSERT_EQUAL(control_client_send_json(&c, CONTROL_REQUEST, doc), 0);
        CU_ASSERT_EQUAL_FATAL(control_client_receive(&c, &f), 0);
        CU_ASSERT_EQUAL(f.type, CONTROL_ITEM);
        CU_ASSERT_TRUE(json_equal(f.doc, doc));
        json_decref(f.doc);
        CU_ASSERT_EQUAL_FATAL(control_client_receive(&c, &f), 0);
        CU_ASSERT_EQUAL(f.type, CONTROL_REPLY);
        json_decref(f.doc);
        json_decref(doc);
    }
    control_client_fini(&c);
    pthread_join(h.thread, NULL);
    CU_ASSERT_TRUE(h.closed);
    CU_ASSERT_EQUAL(h.error, 0);
    CU_ASSERT_EQUAL(h.requests, 100);
    host_free(&h);
}

static void start_transfer(struct control_client *c)
{
    struct control_frame f;
    json_t *doc = json_object();
    CU_ASSERT_EQUAL(control_client_send_json(c, CONTROL_REQUEST, doc), 0);
    json_decref(doc);
    while (c->credits == 0) {
        CU_ASSERT_EQUAL_FATAL(control_client_receive(c, &f), 0);
        json_decref(f.doc);
    }
}

static void data_arrive_whole_and_only_against_credits(void)
{
    struct host h;
    struct control_client c;
    struct control_frame f = { .type = CONTROL_CREDIT };
    uint64_t seed = unit_seed(), at = 0;
    unsigned char *data = malloc(STORE_SIZE);
    for (size_t i = 0; i < STORE_SIZE; i += 8)
        put_le64(data + i, unit_random(&seed));
    host_open(&h);
    h.takes_data = true;
    host_start(&h);
    CU_ASSERT_EQUAL_FATAL(control_client_init(&c, h.client, -1), 0);
    CU_ASSERT_EQUAL(control_client_send_data(&c, 0, data, 512), -EAGAIN);
    start_transfer(&c);
    CU_ASSERT_EQUAL(c.credits, WINDOW);
    while (at < STORE_SIZE) {
        uint64_t n = 1 + unit_random(&seed) % CONTROL_DATA_MAX;
        n = n < STORE_SIZE - at ? n : STORE_SIZE - at;
        while (c.credits == 0)
            CU_ASSERT_EQUAL_FATAL(control_client_receive(&c, &f), 0);
        CU_ASSERT_EQUAL_FATAL(control_client_send_data(&c, at, data + at, (uint32_t)n), 0);
        at += n;
    }
    CU_ASSERT_EQUAL(control_client_send_end(&c), 0);
    do {
        CU_ASSERT_EQUAL_FATAL(control_client_receive(&c, &f), 0);
    } while (f.type == CONTROL_CREDIT);
    CU_ASSERT_EQUAL(f.type, CONTROL_REPLY);
    json_decref(f.doc);
    control_client_fini(&c);
    pthread_join(h.thread, NULL);
    CU_ASSERT_EQUAL(h.ends, 1);
    CU_ASSERT_EQUAL(memcmp(h.store, data, STORE_SIZE), 0);
    host_free(&h);
    free(data);
}

/* ---- Peers that misbehave ---- */

/* Writes bytes to a fresh server, closes, and returns what the server made of it. */
static int feed_bytes(const void *bytes, size_t length, bool takes_data)
{
    struct host h;
    host_open(&h);
    h.takes_data = takes_data;
    host_start(&h);
    for (size_t done = 0; done < length;) {
        ssize_t n = send(h.client, (const char *)bytes + done, length - done, MSG_NOSIGNAL);
        if (n <= 0)
            break;
        done += (size_t)n;
    }
    shutdown(h.client, SHUT_WR);
    pthread_join(h.thread, NULL);
    close(h.client);
    CU_ASSERT_TRUE(h.closed);
    int error = h.error;
    host_free(&h);
    return error;
}

static void a_frame_of_a_server_ends_the_connection(void)
{
    unsigned char head[CONTROL_HEADER_SIZE + 4] = { 0 };
    control_header_encode(head, CONTROL_CREDIT, 4);
    CU_ASSERT_EQUAL(feed_bytes(head, sizeof head, true), -EPROTO);
    control_header_encode(head, CONTROL_REPLY, 4);
    CU_ASSERT_EQUAL(feed_bytes(head, sizeof head, true), -EPROTO);
}

static void a_frame_too_long_ends_the_connection(void)
{
    unsigned char head[CONTROL_HEADER_SIZE];
    control_header_encode(head, CONTROL_REQUEST, CONTROL_JSON_MAX + 1);
    CU_ASSERT_EQUAL(feed_bytes(head, sizeof head, true), -EPROTO);
    control_header_encode(head, CONTROL_DATA, UINT32_MAX);
    CU_ASSERT_EQUAL(feed_bytes(head, sizeof head, true), -EPROTO);
}

static void data_that_nobody_asked_for_end_the_connection(void)
{
    unsigned char frame[CONTROL_HEADER_SIZE + 8 + 512] = { 0 };
    control_header_encode(frame, CONTROL_DATA, 8 + 512);
    CU_ASSERT_EQUAL(feed_bytes(frame, sizeof frame, false), -EPROTO);
    CU_ASSERT_EQUAL(feed_bytes(frame, sizeof frame, true), 0);
}

static void a_client_that_leaves_within_a_frame_is_only_gone(void)
{
    unsigned char frame[CONTROL_HEADER_SIZE + 8 + 512] = { 0 };
    control_header_encode(frame, CONTROL_DATA, 8 + 512);
    for (size_t n = 0; n < sizeof frame; n += 7)
        CU_ASSERT_EQUAL(feed_bytes(frame, n, true), 0);
}

static void random_bytes_never_do_more_than_end_the_connection(void)
{
    uint64_t seed = unit_seed();
    unsigned char bytes[256];
    for (int round = 0; round < 400; round++) {
        size_t n = unit_random(&seed) % sizeof bytes;
        for (size_t i = 0; i < n; i++)
            bytes[i] = (unsigned char)unit_random(&seed);
        if (round % 2 && n >= CONTROL_HEADER_SIZE)
            control_header_encode(bytes, (enum control_type)(1 + unit_random(&seed) % 7), (uint32_t)(unit_random(&seed) % 64));
        int error = feed_bytes(bytes, n, round % 3);
        CU_ASSERT_TRUE(error == 0 || error == -EPROTO || error == -ECONNRESET);
    }
}

static void a_client_refuses_what_is_no_frame(void)
{
    int pair[2];
    struct control_client c;
    struct control_frame f;
    unsigned char head[CONTROL_HEADER_SIZE + 2] = { 0 };
    const uint32_t lengths[] = { 0, 2, UINT32_MAX };
    for (unsigned i = 0; i < 3; i++) {
        CU_ASSERT_EQUAL_FATAL(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
        control_header_encode(head, CONTROL_REPLY, lengths[i]);
        CU_ASSERT_EQUAL(write(pair[0], head, sizeof head), (ssize_t)sizeof head);
        CU_ASSERT_EQUAL_FATAL(control_client_init(&c, pair[1], -1), 0);
        CU_ASSERT_EQUAL(control_client_receive(&c, &f), -EPROTO);
        close(pair[0]);
        control_client_fini(&c);
    }
}

static void a_client_can_be_called_off(void)
{
    int pair[2], cancel[2];
    struct control_client c;
    struct control_frame f;
    CU_ASSERT_EQUAL_FATAL(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    CU_ASSERT_EQUAL_FATAL(pipe(cancel), 0);
    CU_ASSERT_EQUAL_FATAL(control_client_init(&c, pair[1], cancel[0]), 0);
    CU_ASSERT_EQUAL(write(cancel[1], "", 1), 1);
    CU_ASSERT_EQUAL(control_client_receive(&c, &f), -ECANCELED);
    control_client_fini(&c);
    close(pair[0]);
    close(cancel[0]);
    close(cancel[1]);
}

/* ---- Sending without a reader ---- */

struct outgoing {
    struct control_out out;
    unsigned *ok, *lost;
};

static void count_sent(struct control_out *o, int error)
{
    struct outgoing *g = container_of(o, struct outgoing, out);
    ++*(error ? g->lost : g->ok);
}

static void frames_that_cannot_be_sent_are_given_back_once(void)
{
    struct host h;
    unsigned ok = 0, lost = 0;
    struct outgoing out[8];
    unsigned char *data = calloc(1, CONTROL_DATA_MAX);
    host_open(&h);
    for (unsigned i = 0; i < 8; i++) {
        out[i] = (struct outgoing){ .out.sent = count_sent, .ok = &ok, .lost = &lost };
        control_peer_send_data(&h.peer, &out[i].out, i, data, CONTROL_DATA_MAX);
    }
    CU_ASSERT_EQUAL(ok + lost, 0);
    CU_ASSERT_TRUE(h.peer.queued_bytes > 8u * CONTROL_DATA_MAX);
    for (int i = 0; i < 3; i++)
        loop_turn(h.loop, 0);
    CU_ASSERT_TRUE(ok + lost < 8);
    close(h.client);
    for (int i = 0; i < 3 && !h.closed; i++)
        loop_turn(h.loop, 0);
    CU_ASSERT_TRUE(h.closed);
    CU_ASSERT_EQUAL(ok + lost, 8);
    CU_ASSERT_EQUAL(h.peer.queued_bytes, 0);
    host_free(&h);
    free(data);
}

static void a_paused_peer_reads_nothing_and_still_sees_the_end(void)
{
    struct host h;
    unsigned char head[CONTROL_HEADER_SIZE + 2];
    host_open(&h);
    control_peer_pause(&h.peer, true);
    control_header_encode(head, CONTROL_REQUEST, 2);
    memcpy(head + CONTROL_HEADER_SIZE, "{}", 2);
    CU_ASSERT_EQUAL(write(h.client, head, sizeof head), (ssize_t)sizeof head);
    for (int i = 0; i < 3; i++)
        loop_turn(h.loop, 0);
    CU_ASSERT_EQUAL(h.requests, 0);
    control_peer_pause(&h.peer, false);
    loop_turn(h.loop, 0);
    CU_ASSERT_EQUAL(h.requests, 1);
    control_peer_pause(&h.peer, true);
    close(h.client);
    for (int i = 0; i < 3 && !h.closed; i++)
        loop_turn(h.loop, 10);
    CU_ASSERT_TRUE(h.closed);
    host_free(&h);
}

/* ---- Sockets ---- */

static void a_socket_replaces_a_stale_one_and_is_private_to_its_group(void)
{
    char directory[] = "/tmp/ctl.XXXXXX", path[64], too_long[300];
    struct stat st;
    int fd, other;
    CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(directory));
    snprintf(path, sizeof path, "%s/s.sock", directory);
    CU_ASSERT_EQUAL(control_connect(path, &other), -ENOENT);
    CU_ASSERT_EQUAL_FATAL(control_listen(path, NULL, &fd), 0);
    close(fd);
    CU_ASSERT_EQUAL(control_connect(path, &other), -ECONNREFUSED);
    CU_ASSERT_EQUAL_FATAL(control_listen(path, NULL, &fd), 0);
    CU_ASSERT_EQUAL(stat(path, &st), 0);
    CU_ASSERT_EQUAL(st.st_mode & 07777, 0660);
    CU_ASSERT_EQUAL_FATAL(control_connect(path, &other), 0);
    CU_ASSERT_EQUAL(control_peer_pid(other), (int)getpid());
    close(other);
    close(fd);
    memset(too_long, 'x', sizeof too_long - 1);
    too_long[sizeof too_long - 1] = '\0';
    CU_ASSERT_EQUAL(control_listen(too_long, NULL, &fd), -ENAMETOOLONG);
    CU_ASSERT_EQUAL(control_connect(too_long, &fd), -ENAMETOOLONG);
    unlink(path);
    rmdir(directory);
}

/* A socket of any kind that a process has open, and of a server that takes no connection. */
static void a_socket_in_use_is_replaced_by_nobody_and_waited_for_by_nobody(void)
{
    char directory[] = "/tmp/ctl.XXXXXX";
    struct sockaddr_un sa = { .sun_family = AF_UNIX };
    struct stat before, after;
    const int kinds[] = { SOCK_DGRAM, SOCK_SEQPACKET, SOCK_STREAM };
    CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(directory));
    snprintf(sa.sun_path, sizeof sa.sun_path, "%s/s.sock", directory);
    CU_ASSERT_EQUAL(control_socket_unused(sa.sun_path), 0);
    for (unsigned i = 0; i < 3; i++) {
        int fd = socket(AF_UNIX, kinds[i], 0), ours, waiting;
        CU_ASSERT_EQUAL_FATAL(bind(fd, (struct sockaddr *)&sa, sizeof sa), 0);
        if (kinds[i] == SOCK_STREAM) {
            CU_ASSERT_EQUAL(listen(fd, 0), 0);
            CU_ASSERT_EQUAL(control_connect(sa.sun_path, &waiting), 0);
            CU_ASSERT_EQUAL(control_connect(sa.sun_path, &ours), -EAGAIN);
        }
        CU_ASSERT_EQUAL(stat(sa.sun_path, &before), 0);
        CU_ASSERT_EQUAL(control_socket_unused(sa.sun_path), -EADDRINUSE);
        CU_ASSERT_EQUAL(control_listen(sa.sun_path, NULL, &ours), -EADDRINUSE);
        CU_ASSERT(stat(sa.sun_path, &after) == 0 && after.st_ino == before.st_ino);
        close(fd);
        CU_ASSERT_EQUAL(control_socket_unused(sa.sun_path), 0);
        if (kinds[i] == SOCK_STREAM)
            close(waiting);
        unlink(sa.sun_path);
    }
    rmdir(directory);
}

static void a_socket_replaces_nothing_but_sockets(void)
{
    char directory[] = "/tmp/ctl.XXXXXX", path[64], beside[80], command[160];
    int fd;
    CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(directory));
    snprintf(path, sizeof path, "%s/s", directory);
    snprintf(beside, sizeof beside, "%s.new", path);
    snprintf(command, sizeof command, "printf kept >%s", path);
    CU_ASSERT_EQUAL_FATAL(system(command), 0);
    CU_ASSERT_EQUAL(control_listen(path, NULL, &fd), -EEXIST);
    CU_ASSERT_EQUAL(rename(path, beside), 0);
    CU_ASSERT_EQUAL(control_listen(path, NULL, &fd), -EEXIST);
    snprintf(command, sizeof command, "test \"$(cat %s)\" = kept", beside);
    CU_ASSERT_EQUAL(system(command), 0);
    unlink(beside);
    rmdir(directory);
}

int main(int argc, char **argv)
{
    return unit_main(argc, argv, "control", (struct unit_test[]){
        UNIT(lengths_and_types_out_of_bounds_are_refused),
        UNIT(a_header_is_decoded_as_it_was_encoded),
        UNIT(documents_that_are_no_json_are_refused),
        UNIT(a_request_gets_its_items_and_its_reply),
        UNIT(data_arrive_whole_and_only_against_credits),
        UNIT(a_frame_of_a_server_ends_the_connection),
        UNIT(a_frame_too_long_ends_the_connection),
        UNIT(data_that_nobody_asked_for_end_the_connection),
        UNIT(a_client_that_leaves_within_a_frame_is_only_gone),
        UNIT(random_bytes_never_do_more_than_end_the_connection),
        UNIT(a_client_refuses_what_is_no_frame),
        UNIT(a_client_can_be_called_off),
        UNIT(frames_that_cannot_be_sent_are_given_back_once),
        UNIT(a_paused_peer_reads_nothing_and_still_sees_the_end),
        UNIT(a_socket_replaces_a_stale_one_and_is_private_to_its_group),
        UNIT(a_socket_in_use_is_replaced_by_nobody_and_waited_for_by_nobody), UNIT(a_socket_replaces_nothing_but_sockets),
        { 0 },
    });
}
