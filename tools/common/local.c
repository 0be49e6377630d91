/* local.c - see local.h. */
#include "tools/common/local.h"

#include "control/control.h"
#include "tools/common/server.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

struct local {
    struct local_options opt;
    pthread_t thread;
    struct loop *loop;
    int fd;     /* the server's end */
    int result; /* of closing the store */
};

static void client_left(void *ctx)
{
    struct local *l = ctx;
    loop_stop(l->loop);
}

/* Tells a client that waits for HELLO why there will be none. */
static void report(int fd, const struct error *err)
{
    struct control_client c;
    if (control_client_init(&c, fd, -1) == 0) {
        json_t *doc = server_refusal(err);
        if (doc)
            control_client_send_json(&c, CONTROL_HELLO, doc);
        json_decref(doc);
    }
    control_client_fini(&c);
}

static void serve(struct local *l, struct store *store)
{
    struct server *v;
    struct server_options opt = { .store = store, .loop = l->loop, .key = l->opt.key, .guests_wait = l->opt.guests_wait, .emptied = client_left, .ctx = l };
    if (server_create(&opt, &v)) {
        report(l->fd, &(struct error){ -ENOMEM, "out of memory" });
        return;
    }
    if (server_adopt(v, l->fd) == 0)
        loop_run(l->loop);
    server_destroy(v);
}

static void *run(void *arg)
{
    struct local *l = arg;
    struct error err = ERROR_NONE;
    struct store *store;
    if (store_open(l->opt.url, l->loop, &l->opt.store, &store, &err)) {
        report(l->fd, &err);
        return NULL;
    }
    serve(l, store);
    l->result = store_close(store);
    return NULL;
}

int local_start(const struct local_options *opt, struct local **out, int *fd)
{
    int pair[2];
    struct local *l = calloc(1, sizeof *l);
    if (!l)
        return -ENOMEM;
    l->opt = *opt;
    int err = loop_create(&l->loop);
    if (!err && socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
        err = -errno;
        loop_destroy(l->loop);
    }
    if (err) {
        free(l);
        return err;
    }
    l->fd = pair[0];
    /* Signals belong to the client's thread. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    err = -pthread_create(&l->thread, NULL, run, l);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (err) {
        close(pair[0]);
        close(pair[1]);
        loop_destroy(l->loop);
        free(l);
        return err;
    }
    *out = l;
    *fd = pair[1];
    return 0;
}

int local_finish(struct local *l)
{
    pthread_join(l->thread, NULL);
    int err = l->result;
    loop_destroy(l->loop);
    free(l);
    return err;
}
