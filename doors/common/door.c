/* door.c - finding a store's daemon and its hypervisor; stopping. */
#include "doors/common/door_private.h"

#include "control/contact.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

static int locate(struct door *d, struct error *err)
{
    const char *store = d->opt.store;
    if (!store && place_default_url(d->url, err))
        return err->code;
    if (store && snprintf(d->url, sizeof d->url, "%s", store) >= (int)sizeof d->url)
        return error_set(err, -ENAMETOOLONG, "the store's name is too long: at most %zu bytes", sizeof d->url - 1);
    return place_store_key(d->url, d->key, err);
}

/* The daemon must be there now; later it may come and go. */
static int greet(struct door *d, struct error *err)
{
    int pid, bad = contact_daemon(d->key, d->cancel_fd, CONTACT_MS, &d->idle[0], &pid, err);
    if (bad == -ENOENT)
        return error_set(err, bad, "no daemon serves the store %s; start parallaxd --store %s", d->key, d->url);
    if (!bad)
        d->idle_count = d->client_count = 1;
    return bad;
}

static int join_toolstack(struct door *d, struct error *err)
{
    json_t *status = NULL;
    if (door_ask(d, json_pack("{s:s}", "command", "status"), true, NULL, &status, err))
        return err->code;
    const json_t *daemon = json_object_get(status, "daemon");
    const char *kind = json_string_value(json_object_get(daemon, "hypervisor"));
    struct hv_identity who = { .kind = HV_TOOLSTACK };
    int bad = 0;
    d->backend = (hv_domid)json_integer_value(json_object_get(daemon, "domid"));
    if (!kind)
        error_set(err, -ENOENT, "the daemon of store %s serves no hypervisor", d->key);
    else if (strcmp(kind, "local"))
        error_set(err, -ENOTSUP, "the daemon of store %s serves hypervisor %s; a door needs the embedded one (parallaxd --hypervisor local)", d->key, kind);
    else if (hv_open(kind, &who, &d->toolstack, err) == 0 && (bad = hv_xs_open(d->toolstack, &d->xs)))
        error_set(err, bad, "cannot reach xenstore: %s", strerror(-bad));
    json_decref(status);
    return err->code;
}

int door_open(const struct door_options *opt, struct door **out, struct error *err)
{
    struct error own = ERROR_NONE;
    struct door *d = calloc(1, sizeof *d);
    if (!d)
        return error_set(err, -ENOMEM, "out of memory");
    d->opt = *opt;
    list_init(&d->disks);
    pthread_mutex_init(&d->lock, NULL);
    pthread_mutex_init(&d->toolstack_lock, NULL);
    pthread_cond_init(&d->client_free, NULL);
    d->cancel_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (d->cancel_fd < 0)
        error_set(&own, -errno, "cannot make an eventfd: %s", strerror(errno));
    if (own.code || locate(d, &own) || greet(d, &own) || join_toolstack(d, &own)) {
        door_close(d);
        return error_set(err, own.code, "%s", own.text);
    }
    *out = d;
    return 0;
}

void door_stop(struct door *d, unsigned grace_ms)
{
    uint64_t one = 1;
    if (atomic_exchange(&d->stopped, true))
        return;
    ssize_t n = write(d->cancel_fd, &one, sizeof one);
    (void)n; /* its counter is far from full */
    pthread_mutex_lock(&d->lock);
    pthread_cond_broadcast(&d->client_free);
    list_for_each(i, &d->disks) {
        struct door_disk *k = container_of(i, struct door_disk, link);
        atomic_store(&k->grace_ms, grace_ms);
        loop_post(k->loop, &k->stop_task);
    }
    pthread_mutex_unlock(&d->lock);
}

void door_close(struct door *d)
{
    door_clients_close(d);
    if (d->xs)
        hv_xs_close(d->xs);
    if (d->toolstack)
        hv_close(d->toolstack);
    if (d->cancel_fd >= 0)
        close(d->cancel_fd);
    pthread_cond_destroy(&d->client_free);
    pthread_mutex_destroy(&d->toolstack_lock);
    pthread_mutex_destroy(&d->lock);
    free(d);
}
