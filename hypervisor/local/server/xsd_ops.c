/* xsd_ops.c - the wire protocol's requests.
 *
 * A payload is NUL-terminated strings, except the value of XS_WRITE. It is split under its length only: a string without its
 * NUL, or too few or too many strings, is EINVAL. Every request gets exactly one reply of its own type, or XS_ERROR with the
 * name of an error. */
#include "hypervisor/local/server/xsd_private.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_PERMS 64

struct request {
    struct xsd_conn *c;
    const struct xsd_sockmsg *header;
    char *payload;
    struct xsd_view *view;
    char path[XENSTORE_ABS_PATH_MAX + 1];
};

static void reply(const struct request *r, const void *data, size_t bytes)
{
    xsd_conn_send(r->c, r->header->type, r->header->req_id, r->header->tx_id, data, bytes, NULL, 0);
}

static void acknowledge(const struct request *r) { reply(r, "OK", sizeof "OK"); }

static void refuse(const struct request *r, int err)
{
    const char *name = "EINVAL";
    for (size_t i = 0; i < sizeof xsd_errors / sizeof *xsd_errors; i++)
        if (xsd_errors[i].errnum == -err)
            name = xsd_errors[i].errstring;
    xsd_conn_send(r->c, XS_ERROR, r->header->req_id, r->header->tx_id, name, strlen(name) + 1, NULL, 0);
}

/* Finds the first `count` strings; *rest_bytes (may be NULL: then nothing may follow) is what comes after them. */
static int split(const struct request *r, char **strings, unsigned count, size_t *rest_bytes)
{
    size_t at = 0;
    for (unsigned i = 0; i < count; i++) {
        char *end = memchr(r->payload + at, 0, r->header->len - at);
        if (!end)
            return -EINVAL;
        strings[i] = r->payload + at;
        at = (size_t)(end - r->payload) + 1;
    }
    if (rest_bytes)
        *rest_bytes = r->header->len - at;
    else if (at != r->header->len)
        return -EINVAL;
    return 0;
}

/* The only string of the payload as a path. */
static int one_path(struct request *r)
{
    char *said;
    int err = split(r, &said, 1, NULL);
    return err ? err : xsd_path_canonical(said, r->c->who->domid, false, r->path, NULL);
}

static int node_for_reading(struct request *r, const struct xsd_node **out)
{
    int err = one_path(r);
    return err ? err : xsd_get(r->view, r->c->who, r->path, XSD_READ, out);
}

/* ---- reading ---- */

static int op_read(struct request *r)
{
    const struct xsd_node *n;
    int err = node_for_reading(r, &n);
    if (!err)
        reply(r, n->data + n->name_bytes, n->value_bytes);
    return err;
}

static size_t names_bytes(const struct xsd_node *n)
{
    size_t bytes = 0;
    for (uint32_t i = 0; i < n->count; i++)
        bytes += n->children[i]->name_bytes + 1u;
    return bytes;
}

static char *put_name(char *to, const struct xsd_node *n)
{
    memcpy(to, n->data, n->name_bytes);
    to[n->name_bytes] = 0;
    return to + n->name_bytes + 1;
}

static int op_directory(struct request *r)
{
    const struct xsd_node *n;
    char names[XENSTORE_PAYLOAD_MAX];
    int err = node_for_reading(r, &n);
    if (err)
        return err;
    if (names_bytes(n) > sizeof names)
        return -E2BIG;
    char *to = names;
    for (uint32_t i = 0; i < n->count; i++)
        to = put_name(to, n->children[i]);
    reply(r, names, (size_t)(to - names));
    return 0;
}

/* A part of a long directory: the node's generation, then whole names from a byte offset on; one more NUL ends the last. */
static int op_directory_part(struct request *r)
{
    char *said[2], out[XENSTORE_PAYLOAD_MAX], *end;
    const struct xsd_node *n;
    int err = split(r, said, 2, NULL);
    if (!err)
        err = xsd_path_canonical(said[0], r->c->who->domid, false, r->path, NULL);
    if (!err)
        err = xsd_get(r->view, r->c->who, r->path, XSD_READ, &n);
    if (err)
        return err;
    unsigned long offset = strtoul(said[1], &end, 10);
    if (*end || end == said[1])
        return -EINVAL;
    char *to = out + snprintf(out, sizeof out, "%llu", (unsigned long long)n->generation) + 1;
    size_t at = 0;
    uint32_t i = 0;
    for (; i < n->count && at < offset; i++)
        at += n->children[i]->name_bytes + 1u;
    for (; i < n->count && (size_t)(out + sizeof out - to) > n->children[i]->name_bytes + 2u; i++)
        to = put_name(to, n->children[i]);
    if (i == n->count)
        *to++ = 0;
    reply(r, out, (size_t)(to - out));
    return 0;
}

static int op_get_perms(struct request *r)
{
    static const char letters[] = "nrwb";
    const struct xsd_node *n;
    char out[XENSTORE_PAYLOAD_MAX];
    size_t at = 0;
    int err = node_for_reading(r, &n);
    if (err)
        return err;
    for (unsigned i = 0; i < n->perms->count; i++)
        at += (size_t)snprintf(out + at, sizeof out - at, "%c%u", letters[n->perms->list[i].access & 3], n->perms->list[i].domid) + 1;
    reply(r, out, at);
    return 0;
}

/* ---- changing ---- */

static int op_write(struct request *r)
{
    char *said;
    size_t bytes;
    int err = split(r, &said, 1, &bytes);
    if (!err)
        err = xsd_path_canonical(said, r->c->who->domid, false, r->path, NULL);
    if (!err)
        err = xsd_write(r->view, r->c->who, r->path, r->payload + r->header->len - bytes, bytes);
    if (!err)
        acknowledge(r);
    return err;
}

static int op_mkdir(struct request *r)
{
    int err = one_path(r);
    if (!err)
        err = xsd_write(r->view, r->c->who, r->path, NULL, 0);
    if (!err)
        acknowledge(r);
    return err;
}

static int op_remove(struct request *r)
{
    int err = one_path(r);
    if (!err)
        err = xsd_remove(r->view, r->c->who, r->path);
    if (!err)
        acknowledge(r);
    return err;
}

static int parse_perm(const char *said, struct xsd_perm *out)
{
    static const char letters[] = "nrwb";
    const char *letter = said[0] ? strchr(letters, said[0]) : NULL;
    if (!letter || said[1] < '0' || said[1] > '9')
        return -EINVAL;
    char *end;
    errno = 0;
    unsigned long domid = strtoul(said + 1, &end, 10);
    if (*end || errno || domid > INT32_MAX)
        return -EINVAL;
    *out = (struct xsd_perm){ (uint32_t)domid, (uint32_t)(letter - letters) };
    return 0;
}

/* The permissions in the last `bytes` bytes of the payload, as a list of its own. */
static int parse_perms(const struct request *r, size_t bytes, struct xsd_perms **out)
{
    struct xsd_perm list[MAX_PERMS];
    unsigned count = 0;
    for (const char *p = r->payload + r->header->len - bytes, *end = r->payload + r->header->len; p < end; p += strlen(p) + 1) {
        if (!memchr(p, 0, (size_t)(end - p)))
            return -EINVAL;
        if (count == MAX_PERMS)
            return -ENOSPC;
        int err = parse_perm(p, &list[count++]);
        if (err)
            return err;
    }
    if (!count)
        return -EINVAL;
    *out = xsd_perms_create(list, count);
    return *out ? 0 : -ENOMEM;
}

static int op_set_perms(struct request *r)
{
    char *said;
    size_t bytes;
    struct xsd_perms *perms;
    int err = split(r, &said, 1, &bytes);
    if (!err)
        err = xsd_path_canonical(said, r->c->who->domid, false, r->path, NULL);
    if (!err)
        err = parse_perms(r, bytes, &perms);
    if (err)
        return err;
    err = xsd_set_perms(r->view, r->c->who, r->path, perms);
    xsd_perms_put(perms);
    if (!err)
        acknowledge(r);
    return err;
}

/* ---- watches and transactions ---- */

/* The two strings of a watch request: a path, special ones too, and a token. */
static int watch_arguments(struct request *r, char **token, size_t *relative_bytes)
{
    char *said[2];
    int err = split(r, said, 2, NULL);
    if (err)
        return err;
    *token = said[1];
    return xsd_path_canonical(said[0], r->c->who->domid, true, r->path, relative_bytes);
}

static int op_watch(struct request *r)
{
    char *token;
    size_t relative_bytes;
    int err = watch_arguments(r, &token, &relative_bytes);
    if (!err)
        err = xsd_watch_add(r->c, r->path, relative_bytes, token);
    if (err)
        return err;
    acknowledge(r);
    xsd_watch_fire_first(r->c, r->path, token);
    return 0;
}

static int op_unwatch(struct request *r)
{
    char *token;
    int err = watch_arguments(r, &token, NULL);
    if (!err)
        err = xsd_watch_remove(r->c, r->path, token);
    if (!err)
        acknowledge(r);
    return err;
}

static int op_reset_watches(struct request *r)
{
    xsd_watch_remove_all(r->c);
    xsd_tx_end_all(r->c);
    acknowledge(r);
    return 0;
}

static int op_transaction_start(struct request *r)
{
    uint32_t id;
    char text[16];
    if (r->header->tx_id)
        return -EBUSY;
    int err = xsd_tx_start(r->c, &id);
    if (!err)
        reply(r, text, (size_t)snprintf(text, sizeof text, "%u", id) + 1);
    return err;
}

static int op_transaction_end(struct request *r)
{
    char *said;
    int err = split(r, &said, 1, NULL);
    if (!err && strcmp(said, "T") && strcmp(said, "F"))
        err = -EINVAL;
    if (!err)
        err = xsd_tx_end(r->c, r->header->tx_id, said[0] == 'T');
    if (!err)
        acknowledge(r);
    return err;
}

/* ---- domains ---- */

static int one_domid(const struct request *r, uint32_t *out)
{
    char *said, *end;
    int err = split(r, &said, 1, NULL);
    if (err)
        return err;
    errno = 0;
    unsigned long domid = strtoul(said, &end, 10);
    if (*said < '0' || *said > '9' || *end || errno || domid > UINT32_MAX)
        return -EINVAL;
    *out = (uint32_t)domid;
    return 0;
}

static int op_get_domain_path(struct request *r)
{
    uint32_t domid;
    char home[XSD_HOME_BYTES];
    int err = one_domid(r, &domid);
    if (err)
        return err;
    xsd_home_path(home, domid);
    reply(r, home, strlen(home) + 1);
    return 0;
}

static int op_is_domain_introduced(struct request *r)
{
    uint32_t domid;
    int err = one_domid(r, &domid);
    if (!err)
        reply(r, xsd_domain_find(r->c->xsd, domid) ? "T" : "F", 2);
    return err;
}

/* ---- dispatch ---- */

enum { IN_VIEW = 1 }; /* works on the store or on the transaction that the header names */

static const struct operation {
    int (*run)(struct request *r);
    unsigned flags;
} operations[XS_TYPE_COUNT] = {
    [XS_DIRECTORY] = { op_directory, IN_VIEW },
    [XS_DIRECTORY_PART] = { op_directory_part, IN_VIEW },
    [XS_READ] = { op_read, IN_VIEW },
    [XS_GET_PERMS] = { op_get_perms, IN_VIEW },
    [XS_WRITE] = { op_write, IN_VIEW },
    [XS_MKDIR] = { op_mkdir, IN_VIEW },
    [XS_RM] = { op_remove, IN_VIEW },
    [XS_SET_PERMS] = { op_set_perms, IN_VIEW },
    [XS_WATCH] = { op_watch, 0 },
    [XS_UNWATCH] = { op_unwatch, 0 },
    [XS_RESET_WATCHES] = { op_reset_watches, 0 },
    [XS_TRANSACTION_START] = { op_transaction_start, 0 },
    [XS_TRANSACTION_END] = { op_transaction_end, 0 },
    [XS_GET_DOMAIN_PATH] = { op_get_domain_path, 0 },
    [XS_IS_DOMAIN_INTRODUCED] = { op_is_domain_introduced, 0 },
};

void xsd_request(struct xsd_conn *c, const struct xsd_sockmsg *header, char *payload)
{
    struct request r = { .c = c, .header = header, .payload = payload };
    const struct operation *op = header->type < XS_TYPE_COUNT && operations[header->type].run ? &operations[header->type] : NULL;
    struct xsd_view direct;
    int err = op ? 0 : -ENOSYS;
    bool in_store = op && (op->flags & IN_VIEW) && !header->tx_id;
    if (in_store) {
        xsd_view_init(&direct, c->xsd, &c->xsd->root);
        r.view = &direct;
    } else if (op && op->flags & IN_VIEW) {
        err = xsd_tx_view(c, header->tx_id, &r.view);
    }
    if (!err)
        err = op->run(&r);
    if (err)
        refuse(&r, err);
    if (in_store) {
        if (!err)
            xsd_view_publish(&direct);
        xsd_view_fini(&direct);
    }
}
