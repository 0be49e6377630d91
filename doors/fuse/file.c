/* file.c - open files: attachments of images, and what is known of their holes.
 *
 * 1. A file has at most two attachments in this door: one to read, shared by all that opened it for reading, one to write.
 *    Each is made by the first that opens and ends with the last that closes; who comes meanwhile waits.
 * 2. Before the last writer lets go, what it wrote is flushed: an fsync of somebody who opens the file later has nothing of
 *    theirs to flush, and must not have.
 * 3. What was learnt of the map is believed while nothing can have changed it: in what is frozen always, in an image that this
 *    door writes until it writes again, in any other not at all. */
#include "doors/fuse/fuse_private.h"

#include <errno.h>
#include <stdlib.h>

/* ---- Attachments ---- */

/* Under the lock: waits until it is open or closed. */
static void settle(struct fuse_mount *m, struct slot *s)
{
    while (s->state == SLOT_CHANGING)
        pthread_cond_wait(&m->changed, &m->lock);
}

static void set_state(struct fuse_mount *m, struct slot *s, int state)
{
    s->state = state;
    pthread_cond_broadcast(&m->changed);
}

static int attach(struct fuse_mount *m, struct node *n, unsigned which, struct door_disk **out, struct error *err)
{
    struct node_name name;
    char target[TARGET_SIZE];
    node_get_name(m, n, &name);
    name_target(&name, target);
    struct door_disk_options opt = { .target = target, .read_only = which == SLOT_READ, .depth = DOOR_DEPTH_MAX };
    return door_disk_open(m->door, &opt, out, err);
}

static int slot_get(struct fuse_mount *m, struct node *n, unsigned which, struct door_disk **out, struct error *err)
{
    struct slot *s = &n->slots[which];
    int bad = 0;
    pthread_mutex_lock(&m->lock);
    settle(m, s);
    if (s->state == SLOT_CLOSED) {
        struct door_disk *disk = NULL;
        set_state(m, s, SLOT_CHANGING);
        pthread_mutex_unlock(&m->lock);
        bad = attach(m, n, which, &disk, err);
        pthread_mutex_lock(&m->lock);
        s->disk = disk;
        set_state(m, s, bad ? SLOT_CLOSED : SLOT_OPEN);
    }
    if (!bad) {
        s->users++;
        *out = s->disk;
    }
    pthread_mutex_unlock(&m->lock);
    return bad;
}

void file_slot_put(struct fuse_mount *m, struct slot *s)
{
    pthread_mutex_lock(&m->lock);
    if (--s->users == 0) {
        set_state(m, s, SLOT_CHANGING);
        pthread_mutex_unlock(&m->lock);
        if (!door_disk_read_only(s->disk))
            door_disk_flush(s->disk); /* a failure was one of the last fsync's, or nobody asked */
        door_disk_close(s->disk);
        pthread_mutex_lock(&m->lock);
        s->disk = NULL;
        set_state(m, s, SLOT_CLOSED);
    }
    pthread_mutex_unlock(&m->lock);
}

/* ---- Handles ---- */

int file_open(struct fuse_mount *m, struct node *n, bool writing, struct handle **out, struct error *err)
{
    struct handle *h = calloc(1, sizeof *h);
    if (!h)
        return error_set(err, -ENOMEM, "out of memory");
    h->node = n;
    h->slot = writing ? SLOT_WRITE : SLOT_READ;
    pthread_mutex_init(&h->map_lock, NULL);
    node_hold(m, n);
    if (slot_get(m, n, h->slot, &h->disk, err)) {
        node_leave(m, n);
        pthread_mutex_destroy(&h->map_lock);
        free(h);
        return err->code;
    }
    *out = h;
    return 0;
}

void file_close(struct fuse_mount *m, struct handle *h)
{
    file_slot_put(m, &h->node->slots[h->slot]);
    node_leave(m, h->node);
    pthread_mutex_destroy(&h->map_lock);
    free(h->map);
    free(h);
}

void file_abandon(struct fuse_mount *m)
{
    list_for_each (at, &m->nodes)
        for (unsigned i = 0; i < SLOTS; i++) {
            struct slot *s = &container_of(at, struct node, link)->slots[i];
            if (s->state == SLOT_OPEN) {
                s->users = 1;
                file_slot_put(m, s);
            }
        }
}

bool file_is_open(struct fuse_mount *m, const struct node_name *name)
{
    bool open = false;
    pthread_mutex_lock(&m->lock);
    struct node *n = node_find(m, name);
    if (n)
        n->handles++; /* it stays while we wait */
    for (unsigned i = 0; n && i < SLOTS; i++) {
        settle(m, &n->slots[i]);
        open = open || n->slots[i].state == SLOT_OPEN;
    }
    pthread_mutex_unlock(&m->lock);
    if (n)
        node_leave(m, n);
    return open;
}

/* ---- Holes ---- */

static int learn_range(void *ctx, uint64_t offset, uint64_t length, bool data)
{
    struct map_window *w = ctx;
    w->ranges[w->count++] = (struct map_range){ offset, length, data };
    w->to = offset + length;
    return w->count == MAP_RANGES;
}

static int learn(struct handle *h, uint64_t from, uint64_t size)
{
    struct map_window *w = h->map;
    w->from = w->to = from;
    w->count = 0;
    w->changes = __atomic_load_n(&h->node->changes, __ATOMIC_SEQ_CST); /* before the store is asked */
    int err = door_disk_map(h->disk, from, size - from, learn_range, w, NULL);
    if (err < 0)
        w->to = from;
    return err < 0 ? err : w->to == from ? -EIO : 0;
}

static bool is_believed(const struct handle *h, uint64_t at)
{
    const struct map_window *w = h->map;
    bool unchanged = kind_is_fixed_content(h->node->kind) ||
                     (h->slot == SLOT_WRITE && w->changes == __atomic_load_n(&h->node->changes, __ATOMIC_SEQ_CST));
    return unchanged && at >= w->from && at < w->to;
}

/* Where the window has what is wanted at or after `at`; its end if it has none. */
static uint64_t find_in_window(const struct map_window *w, uint64_t at, bool data, bool *found)
{
    for (unsigned i = 0; i < w->count; i++) {
        const struct map_range *r = &w->ranges[i];
        if (r->data != data || r->offset + r->length <= at)
            continue;
        *found = true;
        return r->offset > at ? r->offset : at;
    }
    return w->to;
}

int file_seek(struct handle *h, uint64_t offset, bool hole, uint64_t *out)
{
    uint64_t size = door_disk_size(h->disk), at = offset;
    bool found = false;
    int err = 0;
    if (offset >= size)
        return -ENXIO;
    pthread_mutex_lock(&h->map_lock);
    if (!h->map && !(h->map = calloc(1, sizeof *h->map)))
        err = -ENOMEM;
    while (!err && !found && at < size) {
        if (!is_believed(h, at))
            err = learn(h, at, size);
        if (!err)
            at = find_in_window(h->map, at, !hole, &found);
    }
    pthread_mutex_unlock(&h->map_lock);
    if (!err && !found && !hole)
        err = -ENXIO;
    if (!err)
        *out = found ? at : size;
    return err;
}
