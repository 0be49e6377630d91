/* door_control.c - control requests from many threads over a few connections that are made anew when the daemon was away. */
#include "doors/common/door_private.h"

#include "base/clock.h"
#include "control/contact.h"

#include <errno.h>
#include <poll.h>
#include <string.h>

#define LOOK_AGAIN_MS 100u

static int stopped(struct error *err) { return error_set(err, -ESHUTDOWN, "this door is closing"); }

bool door_pause(struct door *d, unsigned ms)
{
    struct pollfd p = { .fd = d->cancel_fd, .events = POLLIN };
    return poll(&p, 1, (int)ms) <= 0;
}

static void tell_away(struct door *d, bool away)
{
    pthread_mutex_lock(&d->lock);
    bool changed = d->away != away;
    d->away = away;
    pthread_mutex_unlock(&d->lock);
    if (changed && d->opt.tell)
        d->opt.tell(d->opt.ctx, away ? "the storage domain does not answer; waiting for it" : "the storage domain is back");
}

/* ---- Connections ---- */

/* Takes an idle connection, or the right to make one (which is then -1). Waits while all are in use. */
static bool take_client(struct door *d, struct control_client *out)
{
    pthread_mutex_lock(&d->lock);
    while (!d->idle_count && d->client_count == DOOR_CLIENTS && !atomic_load(&d->stopped))
        pthread_cond_wait(&d->client_free, &d->lock);
    bool may = !atomic_load(&d->stopped);
    if (may && d->idle_count)
        *out = d->idle[--d->idle_count];
    else if (may) {
        d->client_count++;
        *out = (struct control_client){ .fd = -1 };
    }
    pthread_mutex_unlock(&d->lock);
    return may;
}

/* Gives it back: whole, or closed (fd -1). */
static void put_client(struct door *d, const struct control_client *c)
{
    pthread_mutex_lock(&d->lock);
    if (c->fd >= 0)
        d->idle[d->idle_count++] = *c;
    else
        d->client_count--;
    pthread_cond_signal(&d->client_free);
    pthread_mutex_unlock(&d->lock);
}

static void drop_client(struct control_client *c)
{
    control_client_fini(c);
    c->fd = -1;
}

void door_clients_close(struct door *d)
{
    while (d->idle_count)
        control_client_fini(&d->idle[--d->idle_count]);
}

/* Connects, for as long as it takes. */
static int connect_client(struct door *d, struct control_client *c, struct error *err)
{
    while (c->fd < 0) {
        int pid, bad = contact_daemon(d->key, d->cancel_fd, 0, c, &pid, err);
        if (!bad)
            break;
        c->fd = -1;
        if (atomic_load(&d->stopped) || bad == -ECANCELED) {
            *err = (struct error)ERROR_NONE;
            return stopped(err);
        }
        if (bad != -ENOENT)
            return bad;
        tell_away(d, true);
        if (!door_pause(d, LOOK_AGAIN_MS))
            return stopped(err);
    }
    tell_away(d, false);
    return 0;
}

/* ---- One request ---- */

static void add_items(json_t *all, json_t *list)
{
    if (all && json_is_array(list))
        json_array_extend(all, list);
}

/* 0 with *reply set, or why the connection is of no use any more. */
static int exchange(struct control_client *c, const json_t *request, json_t *all, json_t **reply)
{
    struct control_frame f = { .doc = NULL };
    int bad = control_client_send_json(c, CONTROL_REQUEST, request);
    if (bad == -ECONNRESET)
        return -EPIPE; /* it never got the request whole */
    while (!bad && (bad = control_client_receive(c, &f)) == 0) {
        if (f.type == CONTROL_REPLY) {
            *reply = f.doc;
            return 0;
        }
        if (f.type == CONTROL_ITEM)
            add_items(all, f.doc);
        else
            bad = -EPROTO;
        json_decref(f.doc);
    }
    return bad;
}

/* Takes the reply, which is stolen, apart. */
static int finish(json_t *reply, json_t **result, struct error *err)
{
    json_t *problem = json_object_get(reply, "error");
    int code = (int)json_integer_value(json_object_get(problem, "code"));
    const char *text = json_string_value(json_object_get(problem, "text"));
    if (problem)
        error_set(err, code < 0 ? code : -EIO, "%s", text ? text : "the storage domain refused");
    else if (result)
        *result = json_incref(json_object_get(reply, "result"));
    json_decref(reply);
    return problem ? err->code : 0;
}

int door_ask(struct door *d, json_t *request, bool repeat, json_t **items, json_t **result, struct error *err)
{
    struct error own = ERROR_NONE;
    struct control_client c;
    json_t *all = items ? json_array() : NULL, *reply = NULL;
    int bad = 0;
    if (!request)
        error_set(&own, -EINVAL, "an argument is not valid UTF-8 text");
    else if (!take_client(d, &c))
        stopped(&own);
    else {
        bool fresh = c.fd < 0;
        while (connect_client(d, &c, &own) == 0) {
            bad = exchange(&c, request, all, &reply);
            if (!bad)
                break;
            drop_client(&c);
            if (items)
                json_array_clear(all);
            /* An idle connection may have died long ago: what the daemon never got was not done. */
            bool lost = bad == -ECONNRESET || bad == -EPIPE;
            if (bad == -ECANCELED)
                stopped(&own);
            else if (!lost || (!repeat && (fresh || bad != -EPIPE)))
                error_set(&own, bad, "the storage domain ended before it answered: %s", strerror(-bad));
            if (own.code)
                break;
            fresh = true;
        }
        put_client(d, &c);
    }
    json_decref(request);
    if (!own.code && !finish(reply, result, &own)) {
        if (items)
            *items = all;
        return 0;
    }
    json_decref(all);
    return error_set(err, own.code, "%s", own.text);
}

/* On a connection of its own: those of the door may all be waiting. */
int door_ask_soon(struct door *d, json_t *request, unsigned within_ms, json_t **result)
{
    struct error own = ERROR_NONE;
    struct control_client c;
    json_t *reply = NULL;
    int pid, bad = request ? contact_daemon(d->key, d->cancel_fd, within_ms, &c, &pid, &own) : -EINVAL;
    if (!bad) {
        c.deadline_ms = clock_monotonic_ms() + within_ms;
        bad = exchange(&c, request, NULL, &reply);
        control_client_fini(&c);
    }
    json_decref(request);
    return bad ? bad : finish(reply, result, &own);
}

/* ---- What doors ask ---- */

int door_find(struct door *d, const char *target, struct door_image *out, struct error *err)
{
    json_t *doc = NULL;
    int bad = door_ask(d, json_pack("{s:s,s:s}", "command", "find", "target", target), true, NULL, &doc, err);
    if (bad)
        return bad;
    const char *holder = json_string_value(json_object_get(doc, "holder")), *identity = json_string_value(json_object_get(doc, "identity"));
    *out = (struct door_image){ .size_bytes = (uint64_t)json_integer_value(json_object_get(doc, "size")) };
    out->fixed = json_is_true(json_object_get(doc, "snapshot")) || json_is_true(json_object_get(doc, "template"));
    if (holder)
        strncpy(out->holder, holder, sizeof out->holder - 1);
    if (identity)
        strncpy(out->identity, identity, sizeof out->identity - 1);
    json_decref(doc);
    return 0;
}

int door_disk_map(struct door_disk *k, uint64_t offset, uint64_t length, int (*each)(void *ctx, uint64_t offset, uint64_t length, bool data),
                  void *ctx, struct error *err)
{
    uint64_t end = offset + length;
    while (offset < end) {
        json_t *ranges = NULL, *range;
        size_t i;
        int told = 0, bad = door_ask(k->door, json_pack("{s:s,s:s,s:I,s:I}", "command", "map", "target", k->identity, "offset", (json_int_t)offset,
                                                       "length", (json_int_t)(end - offset)), true, &ranges, NULL, err);
        if (bad)
            return bad;
        uint64_t before = offset;
        json_array_foreach(ranges, i, range) {
            uint64_t at = (uint64_t)json_integer_value(json_array_get(range, 0)), size = (uint64_t)json_integer_value(json_array_get(range, 1));
            if (at != offset || !size)
                break; /* the image ended, or the daemon is not to be believed */
            told = each(ctx, at, size, json_is_true(json_array_get(range, 2)));
            offset += size;
            if (told)
                break;
        }
        json_decref(ranges);
        if (told || offset == before)
            return told;
    }
    return 0;
}
