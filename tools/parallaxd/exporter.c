/* exporter.c - see exporter.h. The one place that knows libmicrohttpd.
 *
 * 1. The thread runs a loop, and libmicrohttpd inside it (external polling): one thread, no lock.
 * 2. A request that finds no fresh page is suspended, and one question goes to the store's loop, however many wait; the answer
 *    wakes them all. A page younger than FRESH_MS is given again, so clients cannot make the store's loop work more often.
 * 3. Everything is bounded: connections, memory of each, pages (one for each connection that still sends an old one). A connection
 *    serves one request and lives DEADLINE_MS at most, however slowly its client reads or writes. */
#include "tools/parallaxd/exporter.h"

#include "base/clock.h"
#include "base/log.h"
#include "tools/common/prometheus.h"

#include <arpa/inet.h>
#include <errno.h>
#include <microhttpd.h>
#include <netdb.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#define CONNECTIONS_MAX 16u
#define CONNECTION_MEMORY (16u << 10)
#define FRESH_MS 100u
#define DEADLINE_MS 10000u
#define SWEEP_MS 500u

struct connection {
    int fd;
    uint64_t began_ms; /* 0: free */
};

struct exporter {
    char url[EXPORTER_URL_MAX];
    pthread_t thread;
    struct loop *store_loop, *loop;
    json_t *(*make)(void *ctx);
    void *ctx;
    struct loop_task ask, told; /* to the store's loop, and back */
    json_t *doc;                /* whose task runs */
    /* the thread's */
    struct MHD_Daemon *http;
    struct loop_fd http_ready;
    struct loop_timer timer;
    struct MHD_Response *page;  /* NULL: none yet, or no memory for it */
    uint64_t page_ms;
    bool asked;
    struct MHD_Connection *waiting[CONNECTIONS_MAX];
    unsigned waiting_count;
    struct connection connections[CONNECTIONS_MAX];
    unsigned closed;            /* connections, in all */
};

/* ---- Where ---- */

int exporter_parse(const char *text, struct exporter_address *out, struct error *err)
{
    char host[64], port[16] = EXPORTER_PORT;
    const char *colon = strrchr(text, ':'), *close = strchr(text, ']'), *from = text;
    size_t length = strlen(text);
    struct addrinfo hints = { .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | AI_PASSIVE, .ai_socktype = SOCK_STREAM }, *found;
    bool six = *text != '[' && colon && strchr(text, ':') != colon; /* an IPv6 address alone */
    bool with_port = !six && colon && (*text != '[' || (close && colon == close + 1));
    if (length && strspn(text, "0123456789") == length) {
        snprintf(port, sizeof port, "%.15s", text);
        from = "127.0.0.1";
        length = strlen(from);
    } else if (with_port) {
        snprintf(port, sizeof port, "%.15s", colon + 1);
        length = (size_t)(colon - text);
    }
    if (*from == '[' && length > 1 && from[length - 1] == ']') {
        from++;
        length -= 2;
    }
    snprintf(host, sizeof host, "%.*s", (int)(length < sizeof host ? length : sizeof host - 1), from);
    if (!strcmp(host, "localhost"))
        strcpy(host, "127.0.0.1");
    unsigned long number = strspn(port, "0123456789") == strlen(port) && *port ? strtoul(port, NULL, 10) : 65536;
    if (number > 65535 || !*host || getaddrinfo(host, port, &hints, &found))
        return error_set(err, -EINVAL, "--metrics takes a port, a numeric address, or ADDR:PORT (IPv6 as [ADDR]:PORT), not '%.64s'", text);
    memcpy(&out->at, found->ai_addr, found->ai_addrlen);
    out->length = found->ai_addrlen;
    freeaddrinfo(found);
    return 0;
}

/* Fills url with where fd listens. */
static void tell_url(int fd, char url[EXPORTER_URL_MAX])
{
    struct sockaddr_storage at;
    socklen_t length = sizeof at;
    char host[INET6_ADDRSTRLEN] = "", port[8] = "";
    if (getsockname(fd, (struct sockaddr *)&at, &length) == 0)
        getnameinfo((struct sockaddr *)&at, length, host, sizeof host, port, sizeof port, NI_NUMERICHOST | NI_NUMERICSERV);
    snprintf(url, EXPORTER_URL_MAX, strchr(host, ':') ? "http://[%s]:%s/metrics" : "http://%s:%s/metrics", host, port);
}

static int listen_at(const struct exporter_address *a, int *out)
{
    int one = 1, fd = socket(a->at.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, (const struct sockaddr *)&a->at, a->length) < 0 || listen(fd, 16) < 0) {
        int err = -errno;
        close(fd);
        return err;
    }
    *out = fd;
    return 0;
}

static bool is_loopback(const struct exporter_address *a)
{
    if (a->at.ss_family == AF_INET)
        return ntohl(((const struct sockaddr_in *)&a->at)->sin_addr.s_addr) >> 24 == 127;
    return IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)&a->at)->sin6_addr);
}

/* ---- The page ---- */

/* On the store's loop. */
static void on_ask(struct loop_task *t)
{
    struct exporter *e = container_of(t, struct exporter, ask);
    e->doc = e->make(e->ctx);
    loop_post(e->loop, &e->told);
}

static void drive(struct exporter *e);

static void resume_waiting(struct exporter *e)
{
    for (unsigned i = 0; i < e->waiting_count; i++)
        MHD_resume_connection(e->waiting[i]);
    e->waiting_count = 0;
}

static struct MHD_Response *make_page(const json_t *doc)
{
    size_t length;
    char *text = doc ? prometheus_text(doc, &length) : NULL;
    struct MHD_Response *page = text ? MHD_create_response_from_buffer(length, text, MHD_RESPMEM_MUST_FREE) : NULL;
    if (text && !page)
        free(text);
    if (page) {
        MHD_add_response_header(page, MHD_HTTP_HEADER_CONTENT_TYPE, PROMETHEUS_CONTENT_TYPE);
        MHD_add_response_header(page, MHD_HTTP_HEADER_CONNECTION, "close");
    }
    return page;
}

static void on_told(struct loop_task *t)
{
    struct exporter *e = container_of(t, struct exporter, told);
    if (e->page)
        MHD_destroy_response(e->page); /* who still sends it keeps it */
    e->page = make_page(e->doc);
    e->page_ms = clock_monotonic_ms();
    json_decref(e->doc);
    e->doc = NULL;
    e->asked = false;
    resume_waiting(e);
    drive(e);
}

/* ---- HTTP ---- */

static enum MHD_Result answer_text(struct MHD_Connection *c, unsigned status, const char *text)
{
    struct MHD_Response *r = MHD_create_response_from_buffer(strlen(text), (void *)text, MHD_RESPMEM_PERSISTENT);
    if (!r)
        return MHD_NO;
    MHD_add_response_header(r, MHD_HTTP_HEADER_CONTENT_TYPE, "text/plain; charset=utf-8");
    MHD_add_response_header(r, MHD_HTTP_HEADER_CONNECTION, "close");
    if (status == MHD_HTTP_METHOD_NOT_ALLOWED)
        MHD_add_response_header(r, MHD_HTTP_HEADER_ALLOW, "GET, HEAD");
    enum MHD_Result result = MHD_queue_response(c, status, r);
    MHD_destroy_response(r);
    return result;
}

/* *state: set once the request has waited for a page. */
static enum MHD_Result on_request(void *ctx, struct MHD_Connection *c, const char *url, const char *method, const char *version, const char *upload,
                                  size_t *upload_size, void **state)
{
    struct exporter *e = ctx;
    (void)version;
    (void)upload;
    (void)upload_size;
    if (strcmp(method, MHD_HTTP_METHOD_GET) && strcmp(method, MHD_HTTP_METHOD_HEAD))
        return answer_text(c, MHD_HTTP_METHOD_NOT_ALLOWED, "only GET and HEAD\n");
    if (strcmp(url, "/metrics"))
        return answer_text(c, MHD_HTTP_NOT_FOUND, "the metrics are at /metrics\n");
    bool waited = *state != NULL, fresh = e->page && clock_monotonic_ms() - e->page_ms < FRESH_MS;
    if (waited && !e->page)
        return answer_text(c, MHD_HTTP_SERVICE_UNAVAILABLE, "no memory for the metrics, or the end has come\n");
    if (waited || fresh)
        return MHD_queue_response(c, MHD_HTTP_OK, e->page);
    *state = e;
    MHD_suspend_connection(c);
    e->waiting[e->waiting_count++] = c;
    if (!e->asked) {
        e->asked = true;
        loop_post(e->store_loop, &e->ask);
    }
    return MHD_YES;
}

static void on_connection(void *ctx, struct MHD_Connection *c, void **slot, enum MHD_ConnectionNotificationCode what)
{
    struct exporter *e = ctx;
    if (what == MHD_CONNECTION_NOTIFY_CLOSED) {
        e->closed++;
        if (*slot)
            ((struct connection *)*slot)->began_ms = 0;
        return;
    }
    for (unsigned i = 0; i < CONNECTIONS_MAX; i++)
        if (!e->connections[i].began_ms) {
            e->connections[i] = (struct connection){ MHD_get_connection_info(c, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd, clock_monotonic_ms() };
            *slot = &e->connections[i];
            return;
        }
}

/* Ends the connections whose time is up; whether there are others. */
static bool sweep(struct exporter *e)
{
    uint64_t now = clock_monotonic_ms();
    bool any = false;
    for (unsigned i = 0; i < CONNECTIONS_MAX; i++) {
        const struct connection *c = &e->connections[i];
        if (c->began_ms && now - c->began_ms >= DEADLINE_MS)
            shutdown(c->fd, SHUT_RDWR);
        any = any || c->began_ms;
    }
    return any;
}

/* Lets libmicrohttpd do what there is to do, and looks again when it or a deadline wants it. */
static void drive(struct exporter *e)
{
    MHD_UNSIGNED_LONG_LONG wanted_ms;
    unsigned closed = e->closed;
    MHD_run(e->http);
    if (e->closed != closed) /* it listens again, after too many, only when it is run again */
        MHD_run(e->http);
    uint64_t delay = sweep(e) ? SWEEP_MS : UINT64_MAX;
    if (MHD_get_timeout(e->http, &wanted_ms) == MHD_YES && wanted_ms < delay)
        delay = wanted_ms;
    if (delay == UINT64_MAX)
        loop_timer_stop(e->loop, &e->timer);
    else
        loop_timer_start(e->loop, &e->timer, delay);
}

static void on_timer(struct loop_timer *t) { drive(container_of(t, struct exporter, timer)); }

static void on_ready(struct loop_fd *w, uint32_t events)
{
    (void)events;
    drive(container_of(w, struct exporter, http_ready));
}

/* ---- Life ---- */

static void *serve(void *arg)
{
    struct exporter *e = arg;
    loop_run(e->loop);
    resume_waiting(e);
    return NULL;
}

static void destroy(struct exporter *e)
{
    if (e->loop) {
        loop_fd_remove(e->loop, &e->http_ready);
        loop_timer_stop(e->loop, &e->timer);
    }
    if (e->http)
        MHD_stop_daemon(e->http);
    if (e->page)
        MHD_destroy_response(e->page);
    if (e->loop)
        loop_destroy(e->loop);
    json_decref(e->doc);
    free(e);
}

static int open_http(struct exporter *e, int fd)
{
    e->http = MHD_start_daemon(MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME, 0, NULL, NULL, on_request, e, MHD_OPTION_LISTEN_SOCKET, fd,
                               MHD_OPTION_CONNECTION_LIMIT, CONNECTIONS_MAX, MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)CONNECTION_MEMORY,
                               MHD_OPTION_NOTIFY_CONNECTION, on_connection, e, MHD_OPTION_END);
    if (!e->http) {
        close(fd);
        return -ENOMEM;
    }
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(e->http, MHD_DAEMON_INFO_EPOLL_FD);
    e->http_ready = (struct loop_fd){ .ready = on_ready, .fd = info->epoll_fd };
    return loop_fd_add(e->loop, &e->http_ready, EPOLLIN);
}

int exporter_start(const struct exporter_address *address, struct loop *loop, json_t *(*make)(void *ctx), void *ctx, struct exporter **out,
                   struct error *err)
{
    int fd = -1, bad;
    struct exporter *e = calloc(1, sizeof *e);
    if (!e)
        return error_set(err, -ENOMEM, "no memory for the metrics");
    *e = (struct exporter){ .store_loop = loop, .make = make, .ctx = ctx, .ask.run = on_ask, .told.run = on_told, .timer.expired = on_timer };
    bad = loop_create(&e->loop);
    if (!bad && !(bad = listen_at(address, &fd))) {
        tell_url(fd, e->url);
        bad = open_http(e, fd);
    }
    if (!bad)
        bad = -pthread_create(&e->thread, NULL, serve, e);
    if (bad) {
        destroy(e);
        return error_set(err, bad, "cannot serve metrics: %s; name another address or port with --metrics", strerror(-bad));
    }
    if (!is_loopback(address))
        log_warning("whoever reaches %s reads the metrics: there is no authentication", e->url);
    *out = e;
    return 0;
}

void exporter_stop(struct exporter *e)
{
    loop_stop(e->loop);
    pthread_join(e->thread, NULL);
    loop_unpost(e->store_loop, &e->ask);
    destroy(e);
}

const char *exporter_url(const struct exporter *e) { return e->url; }
