/* blkback_nodes.c - the xenstore nodes of one device: read, checked, written.
 *
 * 1. Nodes of the frontend are the guest's: every number is parsed strictly and bounded here.
 * 2. A write looks first, in the same transaction, that the backend directory is still there: xenstore would otherwise make
 *    it anew, and a device that was removed would come back as a ghost.
 * 3. The nodes are those that Linux's xen-blkfront reads; docs/blkif.md lists them.
 * 4. What was attached stays attached: `params` is a name, which may change or come to mean another image, so our own nodes
 *    keep the image's identity, and of which name it was. It counts for rings that are taken up again whatever `params` says;
 *    for a frontend that connects anew until the toolstack changes `params`. */
#include "blkback/blkback_private.h"

#include <errno.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TRANSACTION_TRIES 100
#define IDENTITY_NODE "parallax-image"
#define NAME_NODE "parallax-params"

static void join(char out[static BLKBACK_PATH_SIZE + 64], const char *dir, const char *name)
{
    snprintf(out, BLKBACK_PATH_SIZE + 64, "%s/%s", dir, name);
}

/* ---- Read ---- */

/* A node's text into buf, or -ENOENT; -EINVAL if it does not fit. */
static int read_text(struct blkback *b, hv_xs_tx tx, const char *dir, const char *name, char *buf, size_t size)
{
    char path[BLKBACK_PATH_SIZE + 64], *value;
    size_t length;
    join(path, dir, name);
    int err = hv_xs_read(b->xs, tx, path, &value, &length);
    if (err)
        return err == -EACCES ? -ENOENT : err;
    if (length >= size || memchr(value, 0, length))
        err = -EINVAL;
    else
        memcpy(buf, value, length + 1);
    free(value);
    return err;
}

/* Decimal digits only, at most max. */
static int parse_number(const char *text, uint64_t max, uint64_t *out)
{
    uint64_t n = 0;
    if (!*text || strlen(text) > 19)
        return -EINVAL;
    for (; *text; text++) {
        if (*text < '0' || *text > '9')
            return -EINVAL;
        n = n * 10 + (unsigned)(*text - '0');
    }
    if (n > max)
        return -ERANGE;
    *out = n;
    return 0;
}

static int read_number(struct blkback *b, const char *dir, const char *name, uint64_t max, uint64_t *out)
{
    char text[32];
    int err = read_text(b, 0, dir, name, text, sizeof text);
    return err ? err : parse_number(text, max, out);
}

/* As read_number, with a value for a node that is missing; any other fault is told. */
static int read_optional(struct blkback *b, const char *dir, const char *name, uint64_t max, uint64_t missing, uint64_t *out, struct error *err)
{
    int rc = read_number(b, dir, name, max, out);
    if (rc == -ENOENT) {
        *out = missing;
        return 0;
    }
    return rc ? error_set(err, rc, "%s/%s is not a number up to %llu", dir, name, (unsigned long long)max) : 0;
}

bool blkback_nodes_unanswered(int err) { return err && err != -ENOENT && err != -EINVAL && err != -ERANGE; }

int blkback_nodes_look(struct blkback_device *d, struct blkback_seen *out)
{
    struct blkback *b = d->disk.b;
    uint64_t n;
    char path[BLKBACK_PATH_SIZE];
    int err = read_text(b, 0, d->path, "frontend", path, sizeof path);
    *out = (struct blkback_seen){ .exists = err != -ENOENT };
    if (blkback_nodes_unanswered(err) || !out->exists)
        return out->exists ? err : 0;
    err = read_number(b, d->path, "state", XENBUS_RECONFIGURED, &n);
    out->state = err ? XENBUS_UNKNOWN : (unsigned)n;
    if (!blkback_nodes_unanswered(err)) {
        err = read_number(b, d->path, "online", 1, &n);
        out->online = err ? true : n == 1;
    }
    if (!blkback_nodes_unanswered(err) && *d->frontend) {
        err = read_number(b, d->frontend, "state", XENBUS_RECONFIGURED, &n);
        out->frontend_exists = err != -ENOENT;
        out->frontend_state = err ? XENBUS_UNKNOWN : (unsigned)n;
    }
    return blkback_nodes_unanswered(err) ? err : 0;
}

/* What a node's reader tells of: that nobody answered, or that it makes no sense. */
static int fault(int err) { return blkback_nodes_unanswered(err) ? err : -EINVAL; }

static void choose_offer(struct blkback_device *d)
{
    const struct blkback_options *o = &d->disk.b->options;
    d->disk.offers_persistent = o->persistent;
    d->disk.hidden = 0;
    for (unsigned i = 0; i < o->hiding_count; i++)
        if (fnmatch(o->hidings[i].glob, d->target, 0) == 0)
            d->disk.hidden |= o->hidings[i].features;
}

/* A node of ours, "" while it was not written. No other fault may look like that: the name would decide. */
static int read_own(struct blkback_device *d, const char *node, char out[static IMAGE_TARGET_SIZE], struct error *err)
{
    int rc = read_text(d->disk.b, 0, d->path, node, out, IMAGE_TARGET_SIZE);
    if (rc == -ENOENT)
        *out = 0;
    return rc && rc != -ENOENT ? error_set(err, rc, "%s/%s cannot be read", d->path, node) : 0;
}

/* What kind of disk the toolstack wants. */
static int read_kind(struct blkback_device *d, struct error *err)
{
    struct blkback *b = d->disk.b;
    uint64_t n;
    char text[16];
    int rc = read_text(b, 0, d->path, "device-type", text, sizeof text);
    d->cdrom = !rc && !strcmp(text, "cdrom");
    if (!blkback_nodes_unanswered(rc)) {
        rc = read_text(b, 0, d->path, "mode", text, sizeof text);
        d->read_only = d->cdrom || rc || strcmp(text, "w"); /* unless asked otherwise in so many words */
    }
    if (!blkback_nodes_unanswered(rc)) {
        rc = read_number(b, d->path, "discard-enable", 1, &n);
        d->discard = rc || n == 1;
    }
    if (!blkback_nodes_unanswered(rc)) {
        rc = read_number(b, d->path, "removable", 1, &n);
        d->removable = !rc && n == 1;
    }
    choose_offer(d);
    return blkback_nodes_unanswered(rc) ? error_set(err, rc, "%s cannot be read", d->path) : 0;
}

int blkback_nodes_identify(struct blkback_device *d, struct error *err)
{
    struct blkback *b = d->disk.b;
    uint64_t n;
    char text[IMAGE_TARGET_SIZE];
    int rc = read_number(b, d->path, "frontend-id", UINT32_MAX, &n);
    if (rc || n != d->disk.domid)
        return error_set(err, fault(rc), "%s/frontend-id is not %u", d->path, d->disk.domid);
    char prefix[64], frontend[BLKBACK_PATH_SIZE];
    snprintf(prefix, sizeof prefix, "/local/domain/%u/", d->disk.domid);
    rc = read_text(b, 0, d->path, "frontend", frontend, sizeof frontend);
    if (rc || strncmp(frontend, prefix, strlen(prefix)))
        return error_set(err, fault(rc), "%s/frontend is not a path of domain %u", d->path, d->disk.domid);
    memcpy(d->frontend, frontend, sizeof d->frontend);
    int named = read_text(b, 0, d->path, "params", text, sizeof text);
    if (!named) {
        pthread_mutex_lock(&b->lock);
        memcpy(d->target, text, sizeof d->target);
        pthread_mutex_unlock(&b->lock);
        memcpy(d->params, text, sizeof d->params);
    }
    if (read_kind(d, err) || read_own(d, IDENTITY_NODE, d->identity, err) || read_own(d, NAME_NODE, text, err))
        return err->code;
    if (strcmp(text, d->params))
        *d->identity = 0;
    return named ? error_set(err, fault(named), "%s/params does not name an image", d->path) : 0;
}

int blkback_nodes_recall(struct blkback_device *d, struct error *err)
{
    static const struct {
        const char *node;
        enum blkback_feature feature;
    } offers[] = {
        { "feature-flush-cache", BLKBACK_FLUSH },                { "feature-barrier", BLKBACK_BARRIER },
        { "feature-discard", BLKBACK_DISCARD },                  { "feature-max-indirect-segments", BLKBACK_INDIRECT },
        { "multi-queue-max-queues", BLKBACK_MULTI_QUEUE },       { "max-ring-page-order", BLKBACK_MULTI_PAGE },
    };
    struct blkback *b = d->disk.b;
    uint64_t n;
    d->disk.hidden = 0;
    for (unsigned i = 0; i < sizeof offers / sizeof *offers; i++) {
        int rc = read_number(b, d->path, offers[i].node, UINT32_MAX, &n);
        if (blkback_nodes_unanswered(rc))
            return error_set(err, rc, "%s/%s cannot be read", d->path, offers[i].node);
        if (rc || !n)
            d->disk.hidden |= offers[i].feature;
    }
    int rc = read_number(b, d->path, "feature-persistent", 1, &n);
    if (blkback_nodes_unanswered(rc))
        return error_set(err, rc, "%s/feature-persistent cannot be read", d->path);
    d->disk.offers_persistent = !rc && n == 1;
    return read_own(d, IDENTITY_NODE, d->identity, err);
}

static int read_abi(struct blkback_device *d, enum blkif_abi *out, struct error *err)
{
    char text[32];
    int rc = read_text(d->disk.b, 0, d->frontend, "protocol", text, sizeof text);
    if (rc == -ENOENT) {
        /* The header says "native"; what frontends without the node really are is 32-bit ones on x86. */
#if defined(__x86_64__) || defined(__i386__)
        *out = BLKIF_ABI_X86_32;
#else
        *out = BLKIF_ABI_ARM;
#endif
        return 0;
    }
    if (rc || blkif_abi_parse(text, out))
        return error_set(err, fault(rc), "%s/protocol names no known layout", d->frontend);
    return 0;
}

static int read_order(struct blkback_device *d, unsigned *out, struct error *err)
{
    struct blkback *b = d->disk.b;
    uint64_t n, max = d->disk.hidden & BLKBACK_MULTI_PAGE ? 0 : BLKIF_MAX_RING_ORDER;
    int rc = read_number(b, d->frontend, "ring-page-order", max, &n);
    if (rc == -ENOENT) {
        rc = read_optional(b, d->frontend, "num-ring-pages", 1u << max, 1, &n, err);
        if (!rc && (!n || n & (n - 1)))
            return error_set(err, -EINVAL, "%s/num-ring-pages is not a power of two", d->frontend);
        n = rc ? 0 : (uint64_t)__builtin_ctzll(n);
    }
    if (rc)
        return error_set(err, rc, "%s/ring-page-order is not a number up to %llu", d->frontend, (unsigned long long)max);
    *out = (unsigned)n;
    return 0;
}

static int read_queue(struct blkback_device *d, const char *dir, struct blkback_connection *c, unsigned queue, struct error *err)
{
    struct blkback *b = d->disk.b;
    uint64_t n = 0;
    for (unsigned i = 0; i < 1u << c->order; i++) {
        char name[24];
        snprintf(name, sizeof name, "ring-ref%u", i);
        int rc = -ENOENT;
        if (c->order == 0)
            rc = read_number(b, dir, "ring-ref", UINT32_MAX, &n);
        if (rc == -ENOENT)
            rc = read_number(b, dir, name, UINT32_MAX, &n);
        if (rc)
            return error_set(err, fault(rc), "%s/ring-ref of page %u is missing or not a number", dir, i);
        c->queue[queue].refs[i] = (hv_gref)n;
    }
    int rc = read_number(b, dir, "event-channel", UINT32_MAX, &n);
    if (rc)
        return error_set(err, fault(rc), "%s/event-channel is missing or not a number", dir);
    c->queue[queue].event_channel = (uint32_t)n;
    return 0;
}

int blkback_nodes_read_connection(struct blkback_device *d, struct blkback_connection *out, struct error *err)
{
    struct blkback *b = d->disk.b;
    uint64_t queues, persistent, no_space;
    uint64_t max = d->disk.hidden & BLKBACK_MULTI_QUEUE ? 1 : BLKBACK_MAX_QUEUES;
    memset(out, 0, sizeof *out);
    int rc = read_abi(d, &out->abi, err);
    if (!rc)
        rc = read_order(d, &out->order, err);
    if (!rc)
        rc = read_optional(b, d->frontend, "multi-queue-num-queues", max, 1, &queues, err);
    if (!rc && !queues)
        rc = error_set(err, -EINVAL, "%s/multi-queue-num-queues is 0", d->frontend);
    if (!rc)
        rc = read_optional(b, d->frontend, "feature-persistent", 1, 0, &persistent, err);
    if (!rc)
        rc = read_optional(b, d->frontend, "parallax-no-space", 1, 0, &no_space, err);
    if (rc)
        return rc;
    out->queues = (unsigned)queues;
    out->persistent = persistent && d->disk.offers_persistent;
    out->no_space = no_space;
    for (unsigned q = 0; q < queues && !rc; q++) {
        char dir[BLKBACK_PATH_SIZE + 64];
        snprintf(dir, sizeof dir, queues == 1 ? "%s" : "%s/queue-%u", d->frontend, q);
        rc = read_queue(d, dir, out, q, err);
    }
    return rc;
}

/* ---- Write ---- */

struct batch {
    struct blkback_device *d;
    hv_xs_tx tx;
    int err;
};

static void put(struct batch *t, const char *name, const char *value)
{
    char path[BLKBACK_PATH_SIZE + 64];
    join(path, t->d->path, name);
    if (!t->err)
        t->err = hv_xs_write(t->d->disk.b->xs, t->tx, path, value);
}

static void put_number(struct batch *t, const char *name, uint64_t value)
{
    char text[24];
    snprintf(text, sizeof text, "%llu", (unsigned long long)value);
    put(t, name, text);
}

/* Runs body in a transaction in which the directory exists, until it meets no conflict. */
static int transact(struct blkback_device *d, void (*body)(struct batch *t, const void *arg), const void *arg)
{
    struct blkback *b = d->disk.b;
    char text[BLKBACK_PATH_SIZE];
    for (int i = 0; i < TRANSACTION_TRIES; i++) {
        struct batch t = { .d = d };
        int err = hv_xs_begin(b->xs, &t.tx);
        if (err)
            return err;
        t.err = read_text(b, t.tx, d->path, "frontend", text, sizeof text);
        if (!t.err)
            body(&t, arg);
        err = hv_xs_end(b->xs, t.tx, !t.err);
        if (t.err)
            return t.err;
        if (err != -EAGAIN)
            return err;
    }
    return -EAGAIN;
}

/* What the toolstack's script in dom0 waits for (tools/xen/block-parallax), and why it is what it is. */
static void put_verdict(struct batch *t, const char *verdict, const char *reason)
{
    static const char *const names[] = { "error", "hotplug-error" };
    put(t, "hotplug-status", verdict);
    for (unsigned i = 0; i < 2; i++) {
        char path[BLKBACK_PATH_SIZE + 64];
        join(path, t->d->path, names[i]);
        if (reason)
            put(t, names[i], reason);
        else /* of an earlier attempt */
            hv_xs_remove(t->d->disk.b->xs, t->tx, path);
    }
}

/* The image is open. */
static void put_image(struct batch *t)
{
    put(t, IDENTITY_NODE, t->d->identity);
    put(t, NAME_NODE, t->d->params);
}

/* What the frontend reads when we are connected. */
static void put_properties(struct batch *t)
{
    struct blkback_device *d = t->d;
    unsigned hidden = d->disk.hidden;
    bool discard = d->discard && !d->read_only && !(hidden & BLKBACK_DISCARD);
    put_number(t, "feature-barrier", !(hidden & BLKBACK_BARRIER));
    put_number(t, "feature-flush-cache", !(hidden & BLKBACK_FLUSH));
    put_number(t, "feature-discard", discard);
    if (discard) {
        put_number(t, "discard-granularity", BLKBACK_DISCARD_SECTORS * IMAGE_SECTOR);
        put_number(t, "discard-alignment", 0);
        put_number(t, "discard-secure", 0);
    }
    put_number(t, "feature-persistent", d->disk.offers_persistent);
    put_number(t, "sectors", d->sectors);
    put_number(t, "sector-size", hidden & BLKBACK_SMALL_SECTORS && d->sectors % (BLKIF_PAGE_SIZE / IMAGE_SECTOR) == 0 ? BLKIF_PAGE_SIZE : IMAGE_SECTOR);
    put_number(t, "physical-sector-size", 4096);
    put_number(t, "info", (d->cdrom ? BLKIF_INFO_CDROM : 0) | (d->removable ? BLKIF_INFO_REMOVABLE : 0) | (d->read_only ? BLKIF_INFO_READONLY : 0));
}

/* All nodes that the device will ever have, so that a quota refuses it now, while the toolstack still waits and can tell. */
static void put_features(struct batch *t, const void *arg)
{
    unsigned hidden = t->d->disk.hidden;
    put_verdict(t, arg ? "held" : "connected", arg);
    put_properties(t);
    if (!arg)
        put_image(t);
    if (!(hidden & BLKBACK_MULTI_PAGE)) {
        put_number(t, "max-ring-page-order", BLKIF_MAX_RING_ORDER);
        put_number(t, "max-ring-pages", BLKBACK_MAX_RING_PAGES);
    }
    if (!(hidden & BLKBACK_MULTI_QUEUE))
        put_number(t, "multi-queue-max-queues", BLKBACK_MAX_QUEUES);
    if (!(hidden & BLKBACK_INDIRECT))
        put_number(t, "feature-max-indirect-segments", BLKBACK_MAX_SEGMENTS);
    put_number(t, "state", XENBUS_INIT_WAIT);
}

static void put_connected(struct batch *t, const void *arg)
{
    (void)arg;
    put_properties(t);
    put_number(t, "state", XENBUS_CONNECTED);
}

static void put_size(struct batch *t, const void *arg)
{
    (void)arg;
    put_number(t, "sectors", t->d->sectors);
    put_number(t, "state", XENBUS_CONNECTED);
}

static void put_state(struct batch *t, const void *arg) { put_number(t, "state", *(const unsigned *)arg); }

static void put_available(struct batch *t, const void *arg)
{
    put_verdict(t, "connected", arg);
    put_image(t);
}

static void put_problem(struct batch *t, const void *arg)
{
    struct blkback_device *d = t->d;
    put_verdict(t, "error", arg);
    /* libxl runs its script only after this state, and the script's end is what makes it print the reason. */
    if (hv_own_domid(d->disk.b->hv) == HV_DOMID_TOOLSTACK && atomic_load(&d->state) == XENBUS_INITIALISING)
        put_number(t, "state", XENBUS_INIT_WAIT);
}

int blkback_nodes_write_features(struct blkback_device *d, const char *held) { return transact(d, put_features, held); }
int blkback_nodes_write_available(struct blkback_device *d) { return transact(d, put_available, NULL); }
int blkback_nodes_write_connected(struct blkback_device *d) { return transact(d, put_connected, NULL); }
int blkback_nodes_write_size(struct blkback_device *d) { return transact(d, put_size, NULL); }
int blkback_nodes_write_state(struct blkback_device *d, unsigned state) { return transact(d, put_state, &state); }
int blkback_nodes_write_problem(struct blkback_device *d, const char *text) { return transact(d, put_problem, text); }

/* ---- Remove ---- */

static int remove_once(struct blkback_device *d, hv_xs_tx tx)
{
    struct hv_xs *xs = d->disk.b->xs;
    char parent[BLKBACK_PATH_SIZE], **names, state[8];
    unsigned count;
    int err = read_text(d->disk.b, tx, d->path, "state", state, sizeof state);
    if (!err && atoi(state) != XENBUS_CLOSED)
        err = -EBUSY;
    if (!err)
        err = hv_xs_remove(xs, tx, d->path);
    if (err)
        return err;
    snprintf(parent, sizeof parent, "backend/vbd/%u", d->disk.domid);
    err = hv_xs_directory(xs, tx, parent, &names, &count);
    if (err)
        return err;
    free(names);
    err = count ? 0 : hv_xs_remove(xs, tx, parent);
    return err == -EACCES ? 0 : err; /* libxl keeps the parent to itself, and removes it */
}

int blkback_nodes_remove(struct blkback_device *d)
{
    struct hv_xs *xs = d->disk.b->xs;
    for (int i = 0; i < TRANSACTION_TRIES; i++) {
        hv_xs_tx tx;
        int err = hv_xs_begin(xs, &tx);
        if (err)
            return err;
        int rc = remove_once(d, tx);
        err = hv_xs_end(xs, tx, !rc);
        if (rc)
            return rc;
        if (err != -EAGAIN)
            return err;
    }
    return -EAGAIN;
}
