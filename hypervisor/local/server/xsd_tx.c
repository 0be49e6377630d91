/* xsd_tx.c - transactions: a private root to work on, a note of all that was seen, a log of all that was changed.
 *
 * 1. The private root is the store's at the beginning; it costs one reference, and copies only what either side changes.
 * 2. At commit every noted node must still have the generation that the transaction saw; else -EAGAIN, and nothing happens.
 *    Creating or removing a node counts as a change of its parent.
 * 3. Then the log is done again on a copy of the store's root, which takes the store's place only if every step succeeded,
 *    quotas included; so a commit is all or nothing. Watches fire after that.
 * 4. Notes and log are bounded by quota. A transaction holds on to what it began with, so one that a guest leaves open is
 *    given up after a while; its commit then says -EAGAIN. */
#include "hypervisor/local/server/xsd_private.h"

#include "base/clock.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define TX_PATIENCE_MS 30000u
#define TX_LOG_BYTES (256u * 1024)

struct note {
    char *path;
    uint64_t generation; /* as seen; 0: absent */
};

struct entry {
    struct list_node link;
    enum xsd_log_op op;
    struct xsd_perms *perms;
    char *path; /* behind the value */
    size_t bytes, cost;
    char value[];
};

struct xsd_tx {
    struct list_node link; /* of the connection */
    uint32_t id;
    struct xsd_domain *who;
    uint64_t start_generation, start_ms;
    struct xsd_node *root; /* NULL: given up */
    struct xsd_view view;
    struct note *notes; /* sorted by path */
    size_t note_count, note_room;
    struct list_node log;
    size_t log_bytes;
};

uint64_t xsd_tx_start_generation(const struct xsd_tx *tx) { return tx->start_generation; }

static struct xsd_tx *find(struct xsd_conn *c, uint32_t id)
{
    list_for_each(n, &c->transactions) {
        struct xsd_tx *tx = container_of(n, struct xsd_tx, link);
        if (tx->id == id)
            return tx;
    }
    return NULL;
}

int xsd_tx_start(struct xsd_conn *c, uint32_t *id)
{
    if (c->who->quota.transactions && c->who->transactions >= c->who->quota.transactions)
        return -ENOSPC;
    struct xsd_tx *tx = calloc(1, sizeof *tx);
    if (!tx)
        return -ENOMEM;
    do
        tx->id = c->next_tx++;
    while (tx->id == 0 || find(c, tx->id));
    tx->who = c->who;
    tx->start_generation = c->xsd->generation;
    tx->start_ms = clock_monotonic_ms();
    tx->root = xsd_node_get(c->xsd->root);
    list_init(&tx->log);
    xsd_view_init(&tx->view, c->xsd, &tx->root);
    tx->view.tx = tx;
    tx->view.collect = false;
    list_add_tail(&c->transactions, &tx->link);
    c->who->transactions++;
    *id = tx->id;
    return 0;
}

int xsd_tx_view(struct xsd_conn *c, uint32_t id, struct xsd_view **out)
{
    struct xsd_tx *tx = find(c, id);
    if (!tx)
        return -ENOENT;
    if (!tx->root)
        return -EAGAIN;
    *out = &tx->view;
    return 0;
}

int xsd_tx_note(struct xsd_tx *tx, const char *path, uint64_t generation)
{
    size_t low = 0, high = tx->note_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int c = strcmp(tx->notes[middle].path, path);
        if (c == 0)
            return 0;
        if (c < 0)
            low = middle + 1;
        else
            high = middle;
    }
    if (tx->who->quota.transaction_nodes && tx->note_count >= tx->who->quota.transaction_nodes)
        return -ENOSPC;
    if (tx->note_count == tx->note_room) {
        size_t room = tx->note_room ? tx->note_room * 2 : 16;
        struct note *notes = realloc(tx->notes, room * sizeof *notes);
        if (!notes)
            return -ENOMEM;
        tx->notes = notes;
        tx->note_room = room;
    }
    char *copy = strdup(path);
    if (!copy)
        return -ENOMEM;
    memmove(tx->notes + low + 1, tx->notes + low, (tx->note_count - low) * sizeof *tx->notes);
    tx->notes[low] = (struct note){ copy, generation };
    tx->note_count++;
    return 0;
}

int xsd_tx_log(struct xsd_tx *tx, enum xsd_log_op op, const char *path, const void *value, size_t bytes, struct xsd_perms *perms)
{
    size_t path_bytes = strlen(path) + 1;
    struct entry *e = malloc(sizeof *e + bytes + path_bytes);
    if (!e)
        return -ENOMEM;
    e->cost = sizeof *e + bytes + path_bytes;
    if (!tx->who->privileged && tx->log_bytes + e->cost > TX_LOG_BYTES) {
        free(e);
        return -ENOSPC;
    }
    e->op = op;
    e->perms = perms ? xsd_perms_get(perms) : NULL;
    e->bytes = bytes;
    e->path = e->value + bytes;
    if (bytes)
        memcpy(e->value, value, bytes);
    memcpy(e->path, path, path_bytes);
    tx->log_bytes += e->cost;
    list_add_tail(&tx->log, &e->link);
    return 0;
}

void xsd_tx_unlog(struct xsd_tx *tx)
{
    struct entry *e = container_of(tx->log.prev, struct entry, link);
    tx->log_bytes -= e->cost;
    list_remove(&e->link);
    xsd_perms_put(e->perms);
    free(e);
}

/* Gives back all but the transaction's id. */
static void give_up(struct xsd_tx *tx)
{
    while (!list_empty(&tx->log))
        xsd_tx_unlog(tx);
    for (size_t i = 0; i < tx->note_count; i++)
        free(tx->notes[i].path);
    free(tx->notes);
    tx->notes = NULL;
    tx->note_count = tx->note_room = 0;
    xsd_node_put(tx->root);
    tx->root = NULL;
}

static void destroy(struct xsd_tx *tx)
{
    give_up(tx);
    xsd_view_fini(&tx->view);
    tx->who->transactions--;
    list_remove(&tx->link);
    free(tx);
}

static bool undisturbed(const struct xsd_tx *tx, const struct xsd *x)
{
    for (size_t i = 0; i < tx->note_count; i++) {
        const struct xsd_node *n = xsd_node_lookup(x->root, tx->notes[i].path);
        if ((n ? n->generation : 0) != tx->notes[i].generation)
            return false;
    }
    return true;
}

static int replay(struct xsd_tx *tx, struct xsd_view *v)
{
    int err = 0;
    list_for_each(n, &tx->log) {
        struct entry *e = container_of(n, struct entry, link);
        switch (e->op) {
        case XSD_LOG_WRITE: err = xsd_write(v, tx->who, e->path, e->value, e->bytes); break;
        case XSD_LOG_MKDIR: err = xsd_write(v, tx->who, e->path, NULL, 0); break;
        case XSD_LOG_REMOVE: err = xsd_remove(v, tx->who, e->path); break;
        case XSD_LOG_PERMS: err = xsd_set_perms(v, tx->who, e->path, e->perms); break;
        }
        if (err)
            break;
    }
    return err;
}

static int commit(struct xsd_tx *tx, struct xsd *x)
{
    if (!tx->root || !undisturbed(tx, x))
        return -EAGAIN;
    if (list_empty(&tx->log))
        return 0;
    struct xsd_node *root = xsd_node_get(x->root);
    struct xsd_view v;
    xsd_view_init(&v, x, &root);
    int err = replay(tx, &v);
    if (err) {
        xsd_node_put(root);
    } else {
        xsd_node_put(x->root);
        x->root = root;
        xsd_view_publish(&v);
    }
    xsd_view_fini(&v);
    return err;
}

int xsd_tx_end(struct xsd_conn *c, uint32_t id, bool do_commit)
{
    struct xsd_tx *tx = find(c, id);
    if (!tx)
        return -ENOENT;
    int err = do_commit ? commit(tx, c->xsd) : 0;
    destroy(tx);
    return err;
}

void xsd_tx_end_all(struct xsd_conn *c)
{
    list_for_each_safe(n, &c->transactions)
        destroy(container_of(n, struct xsd_tx, link));
}

void xsd_tx_age(struct xsd_conn *c, uint64_t now_ms)
{
    if (c->who->privileged)
        return;
    list_for_each(n, &c->transactions) {
        struct xsd_tx *tx = container_of(n, struct xsd_tx, link);
        if (tx->root && now_ms - tx->start_ms > TX_PATIENCE_MS)
            give_up(tx);
    }
}
