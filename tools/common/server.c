/* server.c - accepts clients and gives their requests to the commands.
 *
 * 1. A session has at most one operation. While it runs, and unless it takes data, no frame is read: the socket's own
 *    buffer is the only queue.
 * 2. A session is freed from the loop, never from inside a callback of its connection, and only when it has no operation.
 * 3. Sessions are bounded. When there are too many, a client that waits takes the place of the one that has asked for nothing for longest,
 *    if that is IDLE_MS or more; else it stays in the listen queue. Doors keep a connection for their whole life, and make another.
 * 4. A client names the store by its directory. Where another one has that name by now it means that one, so it is refused. */
#include "tools/common/server.h"

#include "base/clock.h"
#include "base/log.h"
#include "tools/common/session.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define SESSIONS_MAX 64u
#define IDLE_MS 1000u
#define ANSWER_ROOM 256u /* bytes of an answer beside the result as it was at the beginning */
#define REST_MS 200u /* until who waits is looked at again */

struct server {
    struct server_options opt;
    struct loop_fd listener; /* fd -1: none */
    struct loop_timer rest;
    struct list_node sessions; /* who has asked for something last comes last */
    unsigned count;
    bool has_directory;
    struct stat directory; /* which one had the store's name at the beginning */
    struct log_limit complaints;
};

static const struct server_command *const families[] = { server_image_commands, server_snap_commands,    server_look_commands,
                                                         server_slow_commands,  server_content_commands, server_receive_commands,
                                                         server_send_commands, server_bench_commands };

struct store *session_store(struct session *s) { return s->server->opt.store; }
struct loop *session_loop(struct session *s) { return s->server->opt.loop; }

void session_describe(struct session *s, json_t *status)
{
    if (s->server->opt.describe)
        s->server->opt.describe(s->server->opt.ctx, status);
}

/* ---- Answers ---- */

static void send_document(struct session *s, enum control_type type, json_t *doc)
{
    int err = s->gone ? 0 : doc ? control_peer_send_json(&s->peer, type, doc) : -ENOMEM;
    json_decref(doc);
    if (err)
        log_limited(&s->server->complaints, LOG_LEVEL_WARNING, "an answer could not be sent error=%s", strerror(-err));
    if (err && type == CONTROL_REPLY) {
        json_t *sorry = json_pack("{s:{s:i,s:s}}", "error", "code", err, "text", "the answer is too large to be sent");
        if (sorry)
            control_peer_send_json(&s->peer, type, sorry);
        json_decref(sorry);
    }
}

void session_item(struct session *s, json_t *doc) { send_document(s, CONTROL_ITEM, doc); }
void session_answer(struct session *s, json_t *result) { send_document(s, CONTROL_REPLY, json_pack("{s:o}", "result", result)); }

void session_answer_error(struct session *s, const struct error *err)
{
    json_t *text = json_string(err->text);
    if (!text)
        text = json_string(strerror(-err->code));
    send_document(s, CONTROL_REPLY, json_pack("{s:{s:i,s:o}}", "error", "code", err->code, "text", text));
}

bool session_arguments(struct session *s, json_t *request, const char *format, ...)
{
    json_error_t problem;
    va_list ap;
    va_start(ap, format);
    int bad = json_vunpack_ex(request, &problem, 0, format, ap);
    va_end(ap);
    if (!bad)
        return true;
    struct error err = ERROR_NONE;
    error_set(&err, -EINVAL, "the request is malformed: %s", problem.text);
    session_answer_error(s, &err);
    return false;
}

const char **session_names(struct session *s, const json_t *list, unsigned *count)
{
    size_t n = json_array_size(list);
    const char **names = n ? calloc(n, sizeof *names) : NULL;
    for (size_t i = 0; names && i < n; i++) {
        names[i] = json_string_value(json_array_get(list, i));
        if (!names[i]) {
            free(names);
            names = NULL;
        }
    }
    if (!names)
        session_answer_error(s, &(struct error){ -EINVAL, "the request is malformed: a list of names was expected" });
    *count = (unsigned)n;
    return names;
}

/* ---- Operations ---- */

static void note_use(struct session *s)
{
    s->used_ms = clock_monotonic_ms();
    list_remove(&s->link);
    list_add_tail(&s->server->sessions, &s->link);
}

static void update_pause(struct session *s, bool takes_data)
{
    if (!s->gone)
        control_peer_pause(&s->peer, s->operation && !takes_data);
}

void operation_begin(struct session *s, struct operation *o, const struct operation_ops *ops, bool takes_data)
{
    o->ops = ops;
    o->session = s;
    s->operation = o;
    update_pause(s, takes_data);
}

void operation_end(struct operation *o)
{
    struct session *s = o->session;
    s->operation = NULL;
    note_use(s);
    o->ops->destroy(o);
    json_decref(s->request);
    s->request = NULL;
    update_pause(s, false);
    if (s->gone)
        loop_defer(session_loop(s), &s->reap);
}

static void simple_destroy(struct operation *o)
{
    struct simple_operation *p = container_of(o, struct simple_operation, base);
    json_decref(p->result);
    free(p->names);
    free(p);
}

static const struct operation_ops simple_ops = { .destroy = simple_destroy };

static void simple_done(struct store_op *op)
{
    struct simple_operation *p = container_of(op, struct simple_operation, op);
    if (op->error.code) {
        session_answer_error(p->base.session, &op->error);
    } else {
        if (p->succeeded)
            p->succeeded(p);
        session_answer(p->base.session, json_incref(p->result));
    }
    operation_end(&p->base);
}

struct simple_operation *simple_begin(struct session *s, json_t *result)
{
    struct simple_operation *p = calloc(1, sizeof *p);
    if (!p || !result) {
        free(p);
        json_decref(result);
        session_answer_error(s, &(struct error){ -ENOMEM, "out of memory" });
        return NULL;
    }
    /* Not when all is done: then it could not be told that it was. */
    if (json_dumpb(result, NULL, 0, JSON_COMPACT) > CONTROL_JSON_MAX - ANSWER_ROOM) {
        free(p);
        json_decref(result);
        session_answer_error(s, &(struct error){ -EMSGSIZE, "too many names at once: the answer would be too long; name fewer" });
        return NULL;
    }
    p->op.done = simple_done;
    p->result = result;
    operation_begin(s, &p->base, &simple_ops, false);
    return p;
}

/* ---- Sessions ---- */

static const struct server_command *find_command(const char *name)
{
    for (unsigned f = 0; f < sizeof families / sizeof *families; f++)
        for (const struct server_command *c = families[f]; c->name; c++)
            if (!strcmp(c->name, name))
                return c;
    return NULL;
}

/* Whether the command would change a disk under a guest that has it in use: the daemon refuses that, or tells the guest. Of what was
 * removed a guest is told in any case. */
static bool changes_a_disk(const char *command)
{
    static const char *const commands[] = { "resize", "template", "snap-rollback" };
    for (unsigned i = 0; i < sizeof commands / sizeof *commands; i++)
        if (!strcmp(command, commands[i]))
            return true;
    return false;
}

static void on_request(struct control_peer *peer, json_t *doc)
{
    struct session *s = container_of(peer, struct session, peer);
    const char *name = json_string_value(json_object_get(doc, "command"));
    const struct server_command *c = name ? find_command(name) : NULL;
    struct error err = ERROR_NONE;
    note_use(s);
    if (s->operation)
        error_set(&err, -EBUSY, "the connection is busy with another command");
    else if (!c)
        error_set(&err, -ENOSYS, "this server knows no command '%.64s'; is the daemon older than the client?", name ? name : "");
    if (err.code) {
        session_answer_error(s, &err);
        return;
    }
    if (s->server->opt.guests_wait && changes_a_disk(name)) {
        session_answer_error(s, &(struct error){ -EBUSY, "guests wait for the daemon of this store, which knows what they have in use; start parallaxd, then try again" });
        return;
    }
    s->request = json_incref(doc);
    c->start(s, doc);
    if (!s->operation) {
        json_decref(s->request);
        s->request = NULL;
    }
}

static void *on_buffer(struct control_peer *peer, uint32_t length)
{
    struct operation *o = container_of(peer, struct session, peer)->operation;
    return o && o->ops->buffer ? o->ops->buffer(o, length) : NULL;
}

static void on_data(struct control_peer *peer, uint64_t offset, void *buffer, uint32_t length)
{
    struct operation *o = container_of(peer, struct session, peer)->operation;
    o->ops->data(o, offset, buffer, length);
}

static void on_end(struct control_peer *peer)
{
    struct operation *o = container_of(peer, struct session, peer)->operation;
    if (o && o->ops->end)
        o->ops->end(o);
}

static void end_session(struct session *s)
{
    s->gone = true;
    if (!s->operation)
        loop_defer(session_loop(s), &s->reap);
    else if (s->operation->ops->abort)
        s->operation->ops->abort(s->operation);
}

static void on_closed(struct control_peer *peer, int error)
{
    struct session *s = container_of(peer, struct session, peer);
    if (error && error != -ECONNRESET)
        log_limited(&s->server->complaints, LOG_LEVEL_WARNING, "a client was disconnected pid=%d error=%s", s->pid, strerror(-error));
    end_session(s);
}

static const struct control_peer_ops peer_ops = {
    .request = on_request, .buffer = on_buffer, .data = on_data, .end = on_end, .closed = on_closed,
};

static void rest(struct server *v)
{
    loop_fd_remove(v->opt.loop, &v->listener);
    loop_timer_start(v->opt.loop, &v->rest, REST_MS);
}

static void listen_again(struct loop_timer *t)
{
    struct server *v = container_of(t, struct server, rest);
    loop_timer_stop(v->opt.loop, t);
    if (v->listener.fd >= 0 && !v->listener.active && loop_fd_add(v->opt.loop, &v->listener, EPOLLIN))
        loop_timer_start(v->opt.loop, t, REST_MS);
}

static void reap(struct loop_task *t)
{
    struct session *s = container_of(t, struct session, reap);
    struct server *v = s->server;
    list_remove(&s->link);
    free(s);
    v->count--;
    listen_again(&v->rest);
    if (v->count == 0 && v->opt.emptied)
        v->opt.emptied(v->opt.ctx);
}

static bool has_moved(const struct server *v)
{
    struct stat now;
    if (!v->has_directory)
        return false;
    if (stat(v->opt.key, &now) < 0)
        return errno == ENOENT || errno == ENOTDIR;
    return now.st_dev != v->directory.st_dev || now.st_ino != v->directory.st_ino;
}

json_t *server_refusal(const struct error *why)
{
    return json_pack("{s:i,s:{s:i,s:s}}", "protocol", CONTROL_PROTOCOL, "error", "code", why->code, "text", why->text);
}

static json_t *make_hello(const struct server *v)
{
    struct error err = ERROR_NONE;
    if (!has_moved(v))
        return json_pack("{s:i,s:s,s:i}", "protocol", CONTROL_PROTOCOL, "store", v->opt.key, "pid", (int)getpid());
    error_set(&err, -ESTALE, "the daemon of store %s, pid %d, serves a directory that was moved away from there, or removed; stop it, or put that back", v->opt.key, (int)getpid());
    return server_refusal(&err);
}

int server_adopt(struct server *v, int fd)
{
    struct session *s = calloc(1, sizeof *s);
    int err = s ? control_peer_init(&s->peer, v->opt.loop, fd, &peer_ops) : -ENOMEM;
    if (err) {
        free(s);
        close(fd);
        return err;
    }
    s->server = v;
    s->pid = control_peer_pid(fd);
    s->reap.run = reap;
    list_init(&s->link);
    note_use(s);
    v->count++;
    send_document(s, CONTROL_HELLO, make_hello(v));
    return 0;
}

/* ---- The listener ---- */

/* Whether the session that has asked for nothing for longest gave way. */
static bool make_room(struct server *v)
{
    uint64_t now = clock_monotonic_ms();
    list_for_each (n, &v->sessions) {
        struct session *s = container_of(n, struct session, link);
        if (now - s->used_ms < IDLE_MS)
            return false;
        if (s->gone || s->operation || s->peer.queued_bytes)
            continue;
        control_peer_close(&s->peer);
        end_session(s);
        return true;
    }
    return false;
}

static void on_accept(struct loop_fd *w, uint32_t events)
{
    (void)events;
    struct server *v = container_of(w, struct server, listener);
    if (v->count >= SESSIONS_MAX) {
        if (!make_room(v)) /* else there is room in the next turn */
            rest(v);
        return;
    }
    int fd = accept4(w->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    int why = errno;
    if (fd < 0) {
        if (why != EAGAIN && why != EINTR && why != ECONNABORTED)
            log_limited(&v->complaints, LOG_LEVEL_WARNING, "cannot accept a client error=%s", strerror(why));
        if (why == EMFILE || why == ENFILE || why == ENOMEM || why == ENOBUFS)
            rest(v); /* the client waits, and would be told of without end */
        return;
    }
    int err = server_adopt(v, fd);
    if (err)
        log_limited(&v->complaints, LOG_LEVEL_WARNING, "cannot serve a client error=%s", strerror(-err));
}

int server_listen(struct server *v, int fd)
{
    v->listener = (struct loop_fd){ .ready = on_accept, .fd = fd };
    return loop_fd_add(v->opt.loop, &v->listener, EPOLLIN);
}

int server_create(const struct server_options *opt, struct server **out)
{
    struct server *v = calloc(1, sizeof *v);
    if (!v)
        return -ENOMEM;
    v->opt = *opt;
    v->listener.fd = -1;
    v->has_directory = stat(opt->key, &v->directory) == 0;
    v->rest.expired = listen_again;
    list_init(&v->sessions);
    *out = v;
    return 0;
}

bool server_stop(struct server *v)
{
    if (v->listener.fd >= 0) {
        loop_timer_stop(v->opt.loop, &v->rest);
        loop_fd_remove(v->opt.loop, &v->listener);
        close(v->listener.fd);
        v->listener.fd = -1;
    }
    list_for_each_safe(n, &v->sessions) {
        struct session *s = container_of(n, struct session, link);
        if (s->gone)
            continue;
        control_peer_close(&s->peer);
        end_session(s);
    }
    return v->count > 0;
}

void server_destroy(struct server *v)
{
    free(v);
}
