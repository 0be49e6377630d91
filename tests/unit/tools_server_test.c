/* tools_server_test.c - the server of commands on a real store, with clients that ask wrongly, leave at any moment, or do not
 * read; after each the store is sound, nothing is held open, and the next client is served. */
#include "base/clock.h"
#include "base/endian.h"
#include "control/control.h"
#include "parallax/parallax.h"
#include "tests/support/unit.h"
#include "control/contact.h"
#include "tools/common/server.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CHUNK (256u << 10)

/* The server is made by the first test that needs it and ended by the last test. */
static struct {
    bool started, stopping;
    char directory[64], socket[80];
    struct loop *loop;
    struct store *store;
    struct server *server;
    pthread_t thread;
    struct loop_task stop;
} host;

static void host_stop(struct loop_task *t)
{
    (void)t;
    host.stopping = true;
    if (!server_stop(host.server))
        loop_stop(host.loop);
}

static void emptied(void *ctx)
{
    /* Sessions come and go; only after server_stop is the last one the end. */
    (void)ctx;
    if (host.stopping)
        loop_stop(host.loop);
}

static void *host_run(void *arg)
{
    (void)arg;
    loop_run(host.loop);
    return NULL;
}

static void host_start(void)
{
    struct error err = ERROR_NONE;
    struct store_create_options create = { .size_bytes = 256u << 20 };
    struct store_options open = { .command = "test" };
    int fd;
    strcpy(host.directory, "/var/tmp/tools_server.XXXXXX");
    CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(host.directory));
    snprintf(host.socket, sizeof host.socket, "%s.sock", host.directory);
    CU_ASSERT_EQUAL_FATAL(store_create(host.directory, &create, &err), 0);
    CU_ASSERT_EQUAL_FATAL(loop_create(&host.loop), 0);
    CU_ASSERT_EQUAL_FATAL(store_open(host.directory, host.loop, &open, &host.store, &err), 0);
    struct server_options opt = { .store = host.store, .loop = host.loop, .key = host.directory, .emptied = emptied };
    CU_ASSERT_EQUAL_FATAL(server_create(&opt, &host.server), 0);
    CU_ASSERT_EQUAL_FATAL(control_listen(host.socket, NULL, &fd), 0);
    CU_ASSERT_EQUAL_FATAL(server_listen(host.server, fd), 0);
    host.stop.run = host_stop;
    CU_ASSERT_EQUAL_FATAL(pthread_create(&host.thread, NULL, host_run, NULL), 0);
    host.started = true;
}

static void host_end(void)
{
    char command[128];
    loop_post(host.loop, &host.stop);
    pthread_join(host.thread, NULL);
    server_destroy(host.server);
    CU_ASSERT_EQUAL(store_close(host.store), 0);
    loop_destroy(host.loop);
    unlink(host.socket);
    snprintf(command, sizeof command, "rm -rf %s", host.directory);
    CU_ASSERT_EQUAL(system(command), 0);
}

static void client_open(struct control_client *c)
{
    int fd, pid, bad;
    struct error err = ERROR_NONE;
    if (!host.started)
        host_start();
    while ((bad = control_connect(host.socket, &fd)) == -EAGAIN)
        sched_yield(); /* it takes in those that came before */
    CU_ASSERT_EQUAL_FATAL(bad, 0);
    CU_ASSERT_EQUAL_FATAL(control_client_init(c, fd, -1), 0);
    CU_ASSERT_EQUAL_FATAL(contact_greet(c, host.directory, &pid, &err), 0);
    CU_ASSERT_EQUAL(pid, (int)getpid());
}

/* The code of the reply to a request (stolen): 0, or its error; result may be NULL. Items and data are dropped. */
static int ask(struct control_client *c, json_t *request, json_t **result)
{
    struct control_frame f;
    CU_ASSERT_PTR_NOT_NULL_FATAL(request);
    CU_ASSERT_EQUAL(control_client_send_json(c, CONTROL_REQUEST, request), 0);
    json_decref(request);
    for (;;) {
        int bad = control_client_receive(c, &f);
        CU_ASSERT_EQUAL(bad, 0);
        if (bad)
            return bad;
        if (f.type == CONTROL_REPLY)
            break;
        json_decref(f.doc);
    }
    json_t *problem = json_object_get(f.doc, "error");
    int code = problem ? (int)json_integer_value(json_object_get(problem, "code")) : 0;
    CU_ASSERT_TRUE(!problem || (code < 0 && json_string_length(json_object_get(problem, "text")) > 0));
    if (result)
        *result = json_incref(json_object_get(f.doc, "result"));
    json_decref(f.doc);
    return code;
}

static int ask_once(json_t *request)
{
    struct control_client c;
    client_open(&c);
    int code = ask(&c, request, NULL);
    control_client_fini(&c);
    return code;
}

/* Waits until nothing is open; then checks the store. */
static void expect_at_rest(void)
{
    struct control_client c;
    json_t *status = NULL;
    uint64_t until = clock_monotonic_ms() + 5000;
    json_int_t left;
    client_open(&c);
    do {
        CU_ASSERT_EQUAL(ask(&c, json_pack("{s:s}", "command", "status"), &status), 0);
        left = json_integer_value(json_object_get(status, "open-images"));
        json_decref(status);
    } while (left && clock_monotonic_ms() < until);
    CU_ASSERT_EQUAL(left, 0);
    CU_ASSERT_EQUAL(ask(&c, json_pack("{s:s,s:b}", "command", "check", "data", 1), &status), 0);
    CU_ASSERT_EQUAL(json_integer_value(json_object_get(status, "damaged")), 0);
    CU_ASSERT_EQUAL(json_integer_value(json_object_get(status, "wrongly-free")), 0);
    json_decref(status);
    control_client_fini(&c);
}

/* ---- Tests ---- */

static const char *const commands[] = { "create", "template", "clone", "clone-many", "mv", "resize", "protect", "rm", "snap-create", "snap-rm",
                                        "snap-purge", "snap-mv", "snap-rollback", "ls", "snap-ls", "info", "du", "status", "diff", "check",
                                        "import", "write", "export", "read", "", "no-such-command" };
static const char *const keys[] = { "name", "size", "source", "prefix", "first", "count", "to", "relative", "shrink", "target", "on", "names",
                                    "snapshots", "dry-run", "targets", "image", "from", "keep", "data", "template", "offset", "length" };
#define COUNT(array) (sizeof(array) / sizeof *(array))

static json_t *random_value(uint64_t *seed)
{
    static const char *const texts[] = { "", "vm", "vm@s", "@", "vm@", "no-such", "a/b", "%s%n", "vm@s@t", "\xc3\xa4" };
    switch (unit_random(seed) % 9) {
    case 0: return json_integer((json_int_t)unit_random(seed));
    case 1: return json_integer((json_int_t)(unit_random(seed) % 5) * 512);
    case 2: return json_integer(-1);
    case 3: return json_boolean((int)(unit_random(seed) % 2));
    case 4: return json_null();
    case 5: return json_pack("[s,s]", texts[unit_random(seed) % COUNT(texts)], texts[unit_random(seed) % COUNT(texts)]);
    case 6: return json_pack("[i]", 7);
    default: return json_string(texts[unit_random(seed) % COUNT(texts)]);
    }
}

/* Takes a reply and, if the command wants data, leaves. */
static void ask_loosely(json_t *request)
{
    struct control_client c;
    struct control_frame f = { .type = CONTROL_ITEM };
    client_open(&c);
    CU_ASSERT_EQUAL(control_client_send_json(&c, CONTROL_REQUEST, request), 0);
    while (f.type != CONTROL_REPLY && f.type != CONTROL_CREDIT) {
        CU_ASSERT_EQUAL_FATAL(control_client_receive(&c, &f), 0);
        json_decref(f.doc);
    }
    control_client_fini(&c);
    json_decref(request);
}

static void any_arguments_get_an_answer(void)
{
    uint64_t seed = unit_seed();
    ask_once(json_pack("{s:s,s:s,s:i}", "command", "create", "name", "vm", "size", 1 << 20));
    for (int round = 0; round < 1500; round++) {
        json_t *request = json_pack("{s:s}", "command", commands[unit_random(&seed) % COUNT(commands)]);
        for (unsigned k = 0; k < COUNT(keys); k++)
            if (unit_random(&seed) % 4)
                json_object_set_new(request, keys[k], random_value(&seed));
        ask_loosely(request);
    }
    expect_at_rest();
}

static void malformed_requests_are_refused(void)
{
    CU_ASSERT_EQUAL(ask_once(json_array()), -ENOSYS);
    CU_ASSERT_EQUAL(ask_once(json_pack("{s:i}", "command", 3)), -ENOSYS);
    CU_ASSERT_EQUAL(ask_once(json_pack("{s:s}", "command", "create")), -EINVAL);
    CU_ASSERT_EQUAL(ask_once(json_pack("{s:s,s:s,s:s}", "command", "create", "name", "x", "size", "1G")), -EINVAL);
    CU_ASSERT_EQUAL(ask_once(json_pack("{s:s,s:[],s:b,s:b}", "command", "rm", "names", "snapshots", 0, "dry-run", 0)), -EINVAL);
    CU_ASSERT_EQUAL(ask_once(json_pack("{s:s,s:s,s:i,s:b}", "command", "import", "name", "x", "size", 511, "template", 0)), -EINVAL);
    CU_ASSERT_EQUAL(ask_once(json_pack("{s:s,s:s,s:i}", "command", "create", "name", "there", "size", 1 << 20)), 0);
    CU_ASSERT_EQUAL(ask_once(json_pack("{s:s,s:s,s:I,s:I}", "command", "read", "target", "there", "offset", (json_int_t)INT64_MAX - 511, "length",
                                       (json_int_t)512)), -EINVAL);
}

/* Begins an import of `size` bytes; true when credits came. */
static bool begin_import(struct control_client *c, const char *name, json_int_t size)
{
    struct control_frame f = { .type = CONTROL_ITEM };
    json_t *request = json_pack("{s:s,s:s,s:I,s:b}", "command", "import", "name", name, "size", size, "template", 0);
    CU_ASSERT_EQUAL(control_client_send_json(c, CONTROL_REQUEST, request), 0);
    json_decref(request);
    while (f.type != CONTROL_CREDIT && f.type != CONTROL_REPLY) {
        CU_ASSERT_EQUAL_FATAL(control_client_receive(c, &f), 0);
        json_decref(f.doc);
    }
    return f.type == CONTROL_CREDIT;
}

static void an_import_left_at_any_moment_vanishes(void)
{
    unsigned char *data = malloc(CHUNK);
    memset(data, 0x5a, CHUNK);
    for (unsigned frames = 0; frames < 40; frames += 3) {
        struct control_client c;
        struct control_frame f;
        client_open(&c);
        CU_ASSERT_TRUE_FATAL(begin_import(&c, "half", 64u << 20));
        for (unsigned i = 0; i < frames; i++) {
            while (c.credits == 0)
                CU_ASSERT_EQUAL_FATAL(control_client_receive(&c, &f), 0);
            CU_ASSERT_EQUAL(control_client_send_data(&c, (uint64_t)i * CHUNK, data, CHUNK), 0);
        }
        control_client_fini(&c);
        CU_ASSERT_EQUAL(ask_once(json_pack("{s:s,s:s}", "command", "info", "target", "half")), -ENOENT);
    }
    free(data);
    expect_at_rest();
}

/* All is there, and only the flush is under way. Now and then its answer is there before the client could leave. */
static void an_import_left_in_its_flush_vanishes(void)
{
    unsigned char *data = malloc(CHUNK);
    unsigned vanished = 0;
    memset(data, 0x5a, CHUNK);
    for (unsigned round = 0; round < 20; round++) {
        struct control_client c;
        struct control_frame f;
        client_open(&c);
        CU_ASSERT_TRUE_FATAL(begin_import(&c, "whole", CHUNK));
        uint32_t all = c.credits;
        CU_ASSERT_EQUAL(control_client_send_data(&c, 0, data, CHUNK), 0);
        while (c.credits < all)
            CU_ASSERT_EQUAL_FATAL(control_client_receive(&c, &f), 0);
        CU_ASSERT_EQUAL(control_client_send_end(&c), 0);
        control_client_fini(&c);
        expect_at_rest();
        vanished += ask_once(json_pack("{s:s,s:[s],s:b,s:b}", "command", "rm", "names", "whole", "snapshots", 0, "dry-run", 0)) == -ENOENT;
    }
    CU_ASSERT_TRUE(vanished > 0);
    free(data);
}

static void data_outside_the_image_end_the_import_alone(void)
{
    const struct { uint64_t offset; uint32_t length; } wrong[] = { { 1u << 20, 512 }, { (1u << 20) - 512, 1024 }, { 1, 512 }, { 0, 100 },
                                                                    { UINT64_MAX - 511, 512 }, { UINT64_MAX, 1024 } };
    unsigned char data[1024] = { 1 };
    for (unsigned i = 0; i < COUNT(wrong); i++) {
        struct control_client c;
        struct control_frame f = { .type = CONTROL_CREDIT };
        client_open(&c);
        CU_ASSERT_TRUE_FATAL(begin_import(&c, "wrong", 1 << 20));
        CU_ASSERT_EQUAL(control_client_send_data(&c, wrong[i].offset, data, wrong[i].length), 0);
        while (f.type == CONTROL_CREDIT)
            CU_ASSERT_EQUAL_FATAL(control_client_receive(&c, &f), 0);
        CU_ASSERT_EQUAL(json_integer_value(json_object_get(json_object_get(f.doc, "error"), "code")), -EINVAL);
        json_decref(f.doc);
        /* The connection is at rest after END, and usable. */
        CU_ASSERT_EQUAL(control_client_send_data(&c, 0, data, 512), 0);
        CU_ASSERT_EQUAL(control_client_send_end(&c), 0);
        CU_ASSERT_EQUAL(ask(&c, json_pack("{s:s,s:s}", "command", "info", "target", "wrong"), NULL), -ENOENT);
        control_client_fini(&c);
    }
    expect_at_rest();
}

/* The image may be sealed by then. */
static void data_after_the_end_end_the_connection(void)
{
    struct control_client c;
    struct control_frame f;
    unsigned char bytes[2 * CONTROL_HEADER_SIZE + CONTROL_OFFSET_SIZE + 512] = { 0 }; /* sent at once */
    int bad;
    client_open(&c);
    CU_ASSERT_TRUE_FATAL(begin_import(&c, "ended", 1 << 20));
    control_header_encode(bytes, CONTROL_END, 0);
    control_header_encode(bytes + CONTROL_HEADER_SIZE, CONTROL_DATA, CONTROL_OFFSET_SIZE + 512);
    CU_ASSERT_EQUAL(write(c.fd, bytes, sizeof bytes), (ssize_t)sizeof bytes);
    while ((bad = control_client_receive(&c, &f)) == 0) {
        CU_ASSERT_NOT_EQUAL(f.type, CONTROL_REPLY);
        json_decref(f.doc);
        if (f.type == CONTROL_REPLY)
            break;
    }
    CU_ASSERT_TRUE(bad < 0);
    control_client_fini(&c);
    expect_at_rest();
}

static void data_without_credit_end_the_connection(void)
{
    struct control_client c;
    struct control_frame f;
    unsigned char data[512] = { 1 };
    client_open(&c);
    c.credits = 1;
    CU_ASSERT_EQUAL(control_client_send_data(&c, 0, data, 512), 0);
    CU_ASSERT_TRUE(control_client_receive(&c, &f) < 0);
    control_client_fini(&c);
    expect_at_rest();
}

/* A 32 MiB image full of data, called "big". */
static void make_big(void)
{
    struct control_client c;
    struct control_frame f = { .type = CONTROL_CREDIT };
    unsigned char *data = malloc(CONTROL_DATA_MAX);
    memset(data, 0xa5, CONTROL_DATA_MAX);
    client_open(&c);
    CU_ASSERT_TRUE_FATAL(begin_import(&c, "big", 32u << 20));
    for (uint64_t at = 0; at < 32u << 20; at += CONTROL_DATA_MAX) {
        while (c.credits == 0)
            CU_ASSERT_EQUAL_FATAL(control_client_receive(&c, &f), 0);
        CU_ASSERT_EQUAL(control_client_send_data(&c, at, data, CONTROL_DATA_MAX), 0);
    }
    CU_ASSERT_EQUAL(control_client_send_end(&c), 0);
    do {
        CU_ASSERT_EQUAL_FATAL(control_client_receive(&c, &f), 0);
    } while (f.type == CONTROL_CREDIT);
    CU_ASSERT_PTR_NOT_NULL(json_object_get(f.doc, "result"));
    json_decref(f.doc);
    control_client_fini(&c);
    free(data);
}

static void an_export_left_at_any_moment_is_released(void)
{
    make_big();
    for (unsigned frames = 0; frames < 34; frames += 3) {
        struct control_client c;
        struct control_frame f;
        json_t *request = json_pack("{s:s,s:s}", "command", "export", "target", "big");
        client_open(&c);
        CU_ASSERT_EQUAL(control_client_send_json(&c, CONTROL_REQUEST, request), 0);
        json_decref(request);
        for (unsigned i = 0; i < frames; i++) {
            CU_ASSERT_EQUAL_FATAL(control_client_receive(&c, &f), 0);
            json_decref(f.doc);
        }
        control_client_fini(&c);
    }
    expect_at_rest();
}

static json_int_t bytes_read(void)
{
    struct control_client c;
    json_t *status = NULL;
    client_open(&c);
    CU_ASSERT_EQUAL(ask(&c, json_pack("{s:s}", "command", "status"), &status), 0);
    json_int_t bytes = json_integer_value(json_object_get(status, "read-bytes"));
    json_decref(status);
    control_client_fini(&c);
    return bytes;
}

static void write_block(const char *name, uint64_t offset)
{
    struct control_client c;
    struct control_frame f = { .type = CONTROL_ITEM };
    unsigned char data[4096];
    memset(data, 0x77, sizeof data);
    json_t *request = json_pack("{s:s,s:s,s:I,s:I}", "command", "write", "name", name, "offset", (json_int_t)offset, "length", (json_int_t)sizeof data);
    client_open(&c);
    CU_ASSERT_EQUAL(control_client_send_json(&c, CONTROL_REQUEST, request), 0);
    json_decref(request);
    while (c.credits == 0)
        CU_ASSERT_EQUAL_FATAL(control_client_receive(&c, &f), 0);
    CU_ASSERT_EQUAL(control_client_send_data(&c, offset, data, sizeof data), 0);
    CU_ASSERT_EQUAL(control_client_send_end(&c), 0);
    do {
        CU_ASSERT_EQUAL_FATAL(control_client_receive(&c, &f), 0);
    } while (f.type == CONTROL_CREDIT);
    CU_ASSERT_PTR_NOT_NULL(json_object_get(f.doc, "result"));
    json_decref(f.doc);
    control_client_fini(&c);
}

/* Bytes that an export of name sends other than zeroes, each of the places among them. */
static uint64_t exported(const char *name, const uint64_t *places, unsigned count)
{
    struct control_client c;
    struct control_frame f = { .type = CONTROL_ITEM };
    uint64_t sum = 0, found = 0;
    json_t *request = json_pack("{s:s,s:s}", "command", "export", "target", name);
    client_open(&c);
    CU_ASSERT_EQUAL(control_client_send_json(&c, CONTROL_REQUEST, request), 0);
    json_decref(request);
    while (f.type != CONTROL_REPLY) {
        CU_ASSERT_EQUAL_FATAL(control_client_receive(&c, &f), 0);
        for (uint32_t i = 0; f.type == CONTROL_DATA && i < f.length; i++)
            sum += ((const unsigned char *)f.data)[i] == 0x77;
        for (unsigned i = 0; f.type == CONTROL_DATA && i < count; i++)
            found += places[i] >= f.offset && places[i] - f.offset < f.length && ((const unsigned char *)f.data)[places[i] - f.offset] == 0x77;
        if (f.type == CONTROL_REPLY)
            CU_ASSERT_PTR_NOT_NULL(json_object_get(f.doc, "result"));
        json_decref(f.doc);
    }
    control_client_fini(&c);
    CU_ASSERT_EQUAL(found, count);
    return sum;
}

static void an_export_reads_what_is_stored_and_no_holes(void)
{
    const uint64_t places[] = { 0, 5ull << 30, (6ull << 30) + 8192, (64ull << 30) - 4096 };
    CU_ASSERT_EQUAL(ask_once(json_pack("{s:s,s:s,s:I}", "command", "create", "name", "wide", "size", (json_int_t)64 << 30)), 0);
    for (unsigned i = 0; i < COUNT(places); i++)
        write_block("wide", places[i]);
    json_int_t before = bytes_read();
    CU_ASSERT_EQUAL(exported("wide", places, COUNT(places)), COUNT(places) * 4096);
    CU_ASSERT_TRUE(bytes_read() - before <= 1 << 20);
    CU_ASSERT_EQUAL(ask_once(json_pack("{s:s,s:s}", "command", "template", "name", "wide")), 0);
    before = bytes_read();
    CU_ASSERT_EQUAL(exported("wide", places, COUNT(places)), COUNT(places) * 4096);
    CU_ASSERT_TRUE(bytes_read() - before <= 1 << 20);
    expect_at_rest();
}

/* Reading holes waits for nothing, and what is zero is not sent: such a read could go on for ever without giving way. */
static void a_long_read_of_nothing_lets_others_in_between(void)
{
    struct control_client reader, other;
    struct control_frame f;
    json_int_t length = (json_int_t)256 << 30;
    CU_ASSERT_EQUAL(ask_once(json_pack("{s:s,s:s,s:I}", "command", "create", "name", "nothing", "size", length)), 0);
    json_t *request = json_pack("{s:s,s:s,s:i,s:I}", "command", "read", "target", "nothing", "offset", 0, "length", length);
    client_open(&reader);
    client_open(&other);
    CU_ASSERT_EQUAL(control_client_send_json(&reader, CONTROL_REQUEST, request), 0);
    json_decref(request);
    CU_ASSERT_EQUAL_FATAL(control_client_receive(&reader, &f), 0);
    json_decref(f.doc);
    CU_ASSERT_EQUAL(f.type, CONTROL_ITEM);
    CU_ASSERT_EQUAL(ask(&other, json_pack("{s:s,s:s}", "command", "info", "target", "nothing"), NULL), 0);
    reader.deadline_ms = clock_monotonic_ms();
    CU_ASSERT_EQUAL(control_client_receive(&reader, &f), -ETIMEDOUT); /* not ended */
    control_client_fini(&reader);
    control_client_fini(&other);
    expect_at_rest();
}

static void clients_that_do_not_read_do_not_hold_up_others(void)
{
    struct control_client idle[20];
    for (unsigned i = 0; i < COUNT(idle); i++) {
        json_t *request = json_pack("{s:s,s:s}", "command", "export", "target", "big");
        client_open(&idle[i]);
        CU_ASSERT_EQUAL(control_client_send_json(&idle[i], CONTROL_REQUEST, request), 0);
        json_decref(request);
    }
    for (int i = 0; i < 20; i++)
        CU_ASSERT_EQUAL(ask_once(json_pack("{s:s,s:s}", "command", "info", "target", "big")), 0);
    for (unsigned i = 0; i < COUNT(idle); i++)
        control_client_fini(&idle[i]);
    expect_at_rest();
}

static void more_clients_than_are_served_at_once_wait_their_turn(void)
{
    int fds[100];
    struct control_client c;
    for (unsigned i = 0; i < COUNT(fds); i++) {
        int bad;
        while ((bad = control_connect(host.socket, &fds[i])) == -EAGAIN)
            sched_yield(); /* it takes in those that came before */
        CU_ASSERT_EQUAL_FATAL(bad, 0);
    }
    for (unsigned i = 0; i < COUNT(fds); i++)
        close(fds[i]);
    client_open(&c);
    control_client_fini(&c);
}

/* Each answer is larger than what asks for it. */
static void a_client_that_only_asks_is_not_heard_without_end(void)
{
    struct control_client c;
    json_t *request = json_pack("{s:s}", "command", "status");
    int bad = 0;
    client_open(&c);
    c.deadline_ms = clock_monotonic_ms() + 5000;
    for (unsigned i = 0; i < 8000 && !bad; i++)
        bad = control_client_send_json(&c, CONTROL_REQUEST, request);
    CU_ASSERT_EQUAL(bad, -ETIMEDOUT);
    CU_ASSERT_EQUAL(ask_once(json_pack("{s:s}", "command", "ls")), 0);
    json_decref(request);
    control_client_fini(&c);
    expect_at_rest();
}

static json_t *names_of_one(const char *name, unsigned count)
{
    json_t *list = json_array();
    for (unsigned i = 0; i < count; i++)
        json_array_append_new(list, json_string(name));
    return list;
}

/* Each of them gets a name of its own, and the daemon serves guests from the same loop. */
static void many_snapshots_without_names_are_named_soon(void)
{
    uint64_t began_ms = clock_monotonic_ms();
    CU_ASSERT_EQUAL(ask_once(json_pack("{s:s,s:o}", "command", "snap-create", "targets", names_of_one("absent", 20000))), -ENOENT);
    CU_ASSERT_TRUE(clock_monotonic_ms() - began_ms < 20000);
}

static void what_could_not_be_answered_is_not_done(void)
{
    char name[IMAGE_NAME_MAX + 1];
    memset(name, 'x', IMAGE_NAME_MAX);
    name[IMAGE_NAME_MAX] = 0;
    CU_ASSERT_EQUAL(ask_once(json_pack("{s:s,s:s,s:i}", "command", "create", "name", name, "size", 512)), 0);
    CU_ASSERT_EQUAL(ask_once(json_pack("{s:s,s:o}", "command", "snap-create", "targets", names_of_one(name, 7600))), -EMSGSIZE);
    CU_ASSERT_EQUAL(ask_once(json_pack("{s:s,s:[s],s:b,s:b}", "command", "rm", "names", name, "snapshots", 0, "dry-run", 0)), 0);
}

/* Doors keep a connection as long as they live, and there may be more of them than are served at once. */
static void clients_that_ask_for_nothing_give_way(void)
{
    struct control_client idle[80], busy;
    struct control_frame f;
    struct error err = ERROR_NONE;
    unsigned char data[512] = { 1 };
    int fd, pid, bad = 0;
    client_open(&busy);
    CU_ASSERT_TRUE(begin_import(&busy, "long", 512));
    for (unsigned i = 0; i < COUNT(idle); i++) {
        while ((bad = control_connect(host.socket, &fd)) == -EAGAIN)
            sched_yield();
        CU_ASSERT_EQUAL_FATAL(bad, 0);
        CU_ASSERT_EQUAL_FATAL(control_client_init(&idle[i], fd, -1), 0);
        idle[i].deadline_ms = clock_monotonic_ms() + 20000;
        CU_ASSERT_EQUAL(contact_greet(&idle[i], host.directory, &pid, &err), 0);
    }
    CU_ASSERT_EQUAL(control_client_receive(&idle[0], &f), -ECONNRESET); /* it was served first */
    CU_ASSERT_EQUAL(ask(&idle[COUNT(idle) - 1], json_pack("{s:s}", "command", "ls"), NULL), 0);
    CU_ASSERT_EQUAL(control_client_send_data(&busy, 0, data, 512), 0);
    CU_ASSERT_EQUAL(control_client_send_end(&busy), 0);
    do {
        bad = control_client_receive(&busy, &f);
    } while (!bad && f.type == CONTROL_CREDIT);
    CU_ASSERT_EQUAL(bad, 0);
    if (!bad)
        json_decref(f.doc);
    for (unsigned i = 0; i < COUNT(idle); i++)
        control_client_fini(&idle[i]);
    control_client_fini(&busy);
    expect_at_rest();
}

static void a_server_that_stops_ends_transfers_and_keeps_the_store_sound(void)
{
    struct control_client c, reader;
    json_t *request = json_pack("{s:s,s:s}", "command", "export", "target", "big");
    client_open(&c);
    CU_ASSERT_TRUE(begin_import(&c, "half", 64u << 20));
    client_open(&reader);
    CU_ASSERT_EQUAL(control_client_send_json(&reader, CONTROL_REQUEST, request), 0);
    json_decref(request);
    host_end();
    control_client_fini(&c);
    control_client_fini(&reader);
}

int main(int argc, char **argv)
{
    return unit_main(argc, argv, "tools", (struct unit_test[]){
        UNIT(any_arguments_get_an_answer),
        UNIT(malformed_requests_are_refused),
        UNIT(an_import_left_at_any_moment_vanishes),
        UNIT(an_import_left_in_its_flush_vanishes),
        UNIT(data_outside_the_image_end_the_import_alone),
        UNIT(data_after_the_end_end_the_connection),
        UNIT(data_without_credit_end_the_connection),
        UNIT(an_export_left_at_any_moment_is_released),
        UNIT(an_export_reads_what_is_stored_and_no_holes),
        UNIT(a_long_read_of_nothing_lets_others_in_between),
        UNIT(clients_that_do_not_read_do_not_hold_up_others),
        UNIT(more_clients_than_are_served_at_once_wait_their_turn),
        UNIT(a_client_that_only_asks_is_not_heard_without_end),
        UNIT(many_snapshots_without_names_are_named_soon),
        UNIT(what_could_not_be_answered_is_not_done),
        UNIT(clients_that_ask_for_nothing_give_way),
        UNIT(a_server_that_stops_ends_transfers_and_keeps_the_store_sound),
        { 0 },
    });
}
