/* door_disk.c - one image attached to this process: a domain, a device, a ring and the thread that turns its loop.
 *
 * 1. The disk's thread becomes a domain, writes the device's nodes as the toolstack, connects, then turns the loop under the disk's
 *    lock. The ring is none of its business: the callers serve that (door_io.c).
 * 2. A domain ends with its process, so whatever happens to the process, its devices are taken away.
 * 3. When the door is stopped, or requests were abandoned, the thread leaves without the handshake: it could wait for a
 *    storage domain that is away. Ending the domain says the same. */
#include "doors/common/door_private.h"

#include "base/clock.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define VDEV_NAME "xvda"
#define DEFAULT_DEPTH 64u
#define RING_ORDER 2u          /* 128 requests */
#define SPARE_PAGES 64u        /* rings and what the allocator loses */
#define CONNECT_MS 30000u
#define HOLDER_MS 2000u        /* an earlier door's attachment may be on its way out */
#define RELEASE_MS 5000u
#define RELEASE_STOPPED_MS 300u
#define LOOK_EVERY_MS 20u

/* ---- The disk's thread ---- */

static void resized(void *ctx, uint64_t size_bytes)
{
    struct door_disk *k = ctx;
    atomic_store(&k->size_bytes, size_bytes);
    if (k->opt.resized)
        k->opt.resized(k->opt.ctx, size_bytes);
}

static int become_domain(struct door_disk *k, struct error *err)
{
    struct hv_identity who = { .kind = HV_GUEST, .name = "door",
                               .arena_pages = k->slot_count * (DOOR_SLOT_PAGES + 1) + (1u << RING_ORDER) + SPARE_PAGES };
    struct door *d = k->door;
    if (hv_open(hv_kind(d->toolstack), &who, &k->hv, err))
        return err->code;
    k->vbd = (struct vbd){ .backend = d->backend, .frontend = hv_own_domid(k->hv) };
    if (vbd_parse_name(VDEV_NAME, &k->vbd, err))
        return err->code;
    pthread_mutex_lock(&d->toolstack_lock);
    vbd_write_nodes(d->xs, &k->vbd, k->target, k->read_only, err);
    pthread_mutex_unlock(&d->toolstack_lock);
    return err->code;
}

static int connect_ring(struct door_disk *k, struct error *err)
{
    struct blkfront_options ring = { .vdev = k->vbd.vdev, .timeout_ms = CONNECT_MS, .held_ms = HOLDER_MS, .ring_order = RING_ORDER, .bounce_pages = k->slot_count,
                                     .pulled = true, .resized = resized, .ctx = k };
    struct blkfront_info info;
    if (blkfront_open(k->hv, k->loop, &ring, &k->front, err))
        return err->code;
    blkfront_get_info(k->front, &info);
    atomic_store(&k->size_bytes, info.size_bytes);
    pthread_mutex_lock(&k->door->toolstack_lock);
    k->identity = vbd_identity(k->door->xs, &k->vbd);
    pthread_mutex_unlock(&k->door->toolstack_lock);
    if (!k->identity)
        return error_set(err, -EPROTO, "the storage domain does not tell what '%s' is; it is of another version", k->target);
    int bad = door_slots_create(k);
    return bad ? error_set(err, bad, "no memory for %u requests", k->slot_count) : 0;
}

static void tell_opened(struct door_disk *k, const struct error *err)
{
    pthread_mutex_lock(&k->lock);
    k->error = *err;
    k->opened = true;
    pthread_cond_signal(&k->opened_cond);
    pthread_mutex_unlock(&k->lock);
}

static void leave(struct door_disk *k)
{
    bool orderly = !atomic_load(&k->door->stopped) && list_empty(&k->out);
    if (k->front && orderly) {
        door_slots_destroy(k);
        blkfront_close(k->front);
    }
    if (k->hv)
        hv_close(k->hv);
}

static void grace_over(struct loop_timer *t) { door_requests_abandon(container_of(t, struct door_disk, grace), -ESHUTDOWN); }

static void stop_run(struct loop_task *t)
{
    struct door_disk *k = container_of(t, struct door_disk, stop_task);
    loop_timer_start(k->loop, &k->grace, atomic_load(&k->grace_ms));
}

static void close_run(struct loop_task *t) { container_of(t, struct door_disk, close_task)->closing = true; }

static void turn_loop(struct door_disk *k)
{
    pthread_mutex_lock(&k->lock);
    while (!k->closing) {
        loop_turn_locked(k->loop, -1, &k->lock);
        door_wake_ended(k);
    }
    pthread_mutex_unlock(&k->lock);
}

static void *disk_thread(void *arg)
{
    struct door_disk *k = arg;
    struct error err = ERROR_NONE;
    if (become_domain(k, &err) == 0)
        connect_ring(k, &err);
    tell_opened(k, &err);
    if (!err.code)
        turn_loop(k);
    leave(k);
    return NULL;
}

/* ---- Opening ---- */

static int check_image(struct door_disk *k, struct error *err)
{
    struct door_image image;
    uint64_t until = clock_monotonic_ms() + HOLDER_MS;
    do {
        if (door_find(k->door, k->target, &image, err))
            return err->code;
        if (k->read_only)
            return 0;
        if (image.fixed)
            return error_set(err, -EROFS, "'%s' is a %s and can only be read", k->target, strchr(k->target, '@') ? "snapshot" : "template");
        if (!*image.holder)
            return 0;
    } while (door_pause(k->door, LOOK_EVERY_MS) && clock_monotonic_ms() < until);
    return error_set(err, -EBUSY, "'%s' is written by %s; detach it there first, or open it read-only", k->target, image.holder);
}

static int start_thread(struct door_disk *k, struct error *err)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int bad = -pthread_create(&k->thread, NULL, disk_thread, k);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (bad)
        return error_set(err, bad, "cannot start a thread: %s", strerror(-bad));
    pthread_mutex_lock(&k->lock);
    while (!k->opened)
        pthread_cond_wait(&k->opened_cond, &k->lock);
    pthread_mutex_unlock(&k->lock);
    if (!k->error.code)
        return 0;
    pthread_join(k->thread, NULL);
    return error_set(err, k->error.code, "%s", k->error.text);
}

static void destroy(struct door_disk *k)
{
    if (k->loop)
        loop_destroy(k->loop);
    if (k->wake_fd >= 0)
        close(k->wake_fd);
    pthread_rwlock_destroy(&k->edges);
    pthread_cond_destroy(&k->opened_cond);
    pthread_cond_destroy(&k->slot_free);
    pthread_mutex_destroy(&k->lock);
    free(k->identity);
    free(k->slots);
    free(k);
}

static struct door_disk *create(struct door *d, const struct door_disk_options *opt)
{
    struct door_disk *k = calloc(1, sizeof *k);
    if (!k)
        return NULL;
    k->door = d;
    k->opt = *opt;
    k->read_only = opt->read_only;
    k->slot_count = opt->depth && opt->depth <= DOOR_DEPTH_MAX ? opt->depth : DEFAULT_DEPTH;
    snprintf(k->target, sizeof k->target, "%s", opt->target);
    list_init(&k->idle);
    list_init(&k->out);
    list_init(&k->waiting);
    list_init(&k->ended);
    k->stop_task.run = stop_run;
    k->close_task.run = close_run;
    k->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    k->grace.expired = grace_over;
    pthread_mutex_init(&k->lock, NULL);
    pthread_cond_init(&k->slot_free, NULL);
    pthread_cond_init(&k->opened_cond, NULL);
    pthread_rwlock_init(&k->edges, NULL);
    return k;
}

/* False: the door was stopped meanwhile. */
static bool enlist(struct door_disk *k)
{
    struct door *d = k->door;
    pthread_mutex_lock(&d->lock);
    list_add_tail(&d->disks, &k->link);
    bool stopped = atomic_load(&d->stopped);
    pthread_mutex_unlock(&d->lock);
    return !stopped;
}

int door_disk_open(struct door *d, const struct door_disk_options *opt, struct door_disk **out, struct error *err)
{
    struct error own = ERROR_NONE;
    struct door_disk *k = create(d, opt);
    if (!k || k->wake_fd < 0 || loop_create(&k->loop)) {
        error_set(&own, -ENOMEM, "no memory for a disk");
    } else if (strlen(opt->target) >= sizeof k->target) {
        error_set(&own, -ENAMETOOLONG, "'%.64s…' is no name of an image", opt->target);
    } else if (check_image(k, &own) == 0 && start_thread(k, &own) == 0) {
        if (enlist(k)) {
            *out = k;
            return 0;
        }
        door_disk_close(k);
        return error_set(err, -ESHUTDOWN, "this door is closing");
    }
    if (k)
        destroy(k);
    return error_set(err, own.code, "%s", own.text);
}

/* ---- Closing ---- */

/* The backend removes its nodes when it has let the image go. */
static void await_release(struct door *d, const struct vbd *v, unsigned ms)
{
    uint64_t until = clock_monotonic_ms() + ms;
    unsigned state;
    do {
        pthread_mutex_lock(&d->toolstack_lock);
        state = vbd_backend_state(d->xs, v);
        pthread_mutex_unlock(&d->toolstack_lock);
        struct timespec moment = { .tv_nsec = LOOK_EVERY_MS / 4 * 1000000 };
        if (state)
            nanosleep(&moment, NULL);
    } while (state && clock_monotonic_ms() < until);
}

void door_disk_close(struct door_disk *k)
{
    struct door *d = k->door;
    struct vbd v = k->vbd;
    pthread_mutex_lock(&d->lock);
    list_remove(&k->link);
    pthread_mutex_unlock(&d->lock);
    loop_post(k->loop, &k->close_task);
    pthread_join(k->thread, NULL);
    destroy(k);
    await_release(d, &v, atomic_load(&d->stopped) ? RELEASE_STOPPED_MS : RELEASE_MS);
}

uint64_t door_disk_size(const struct door_disk *k) { return atomic_load(&k->size_bytes); }
bool door_disk_read_only(const struct door_disk *k) { return k->read_only; }
const char *door_disk_target(const struct door_disk *k) { return k->target; }
const char *door_disk_identity(const struct door_disk *k) { return k->identity; }
