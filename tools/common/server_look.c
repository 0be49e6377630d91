/* server_look.c - commands that look and answer at once: ls, snap-ls, find, status.
 *
 * A list is taken in one pass, so that it is the state of one instant; it waits in the connection's queue as text, a few
 * hundred bytes an image. A snapshot follows its image as an element with the key "of"; in status it names the element's list. */
#include "tools/common/session.h"
#include "tools/common/status.h"

#include <errno.h>

struct lister {
    struct batch batch;
    struct store *store;
    const char *image;
};

static int add_snapshot(void *ctx, const struct image_info *info)
{
    struct lister *l = ctx;
    json_t *doc = doc_snapshot(info);
    json_object_set_new(doc, "of", json_string(l->image));
    batch_add(&l->batch, doc);
    return 0;
}

static int add_image(void *ctx, const struct image_info *info)
{
    struct lister *l = ctx;
    batch_add(&l->batch, doc_image(info));
    l->image = info->name;
    return info->snapshots ? store_list_snapshots(l->store, info->name, add_snapshot, l, NULL) : 0;
}

static void ls(struct session *s, json_t *request)
{
    (void)request;
    struct lister l = { .batch.session = s, .store = session_store(s) };
    store_list(l.store, add_image, &l);
    batch_flush(&l.batch);
    session_answer(s, json_null());
}

static void snap_ls(struct session *s, json_t *request)
{
    const char *name;
    struct image_info info;
    struct error err = ERROR_NONE;
    if (!session_arguments(s, request, "{s:s}", "name", &name))
        return;
    struct lister l = { .batch.session = s, .store = session_store(s), .image = name };
    if (store_find(l.store, name, &info, &err) == 0 && info.is_snapshot)
        error_set(&err, -EINVAL, "'%s' is a snapshot; name the image alone", name);
    if (!err.code)
        store_list_snapshots(l.store, name, add_snapshot, &l, &err);
    batch_flush(&l.batch);
    if (err.code)
        session_answer_error(s, &err);
    else
        session_answer(s, json_null());
}

static void find(struct session *s, json_t *request)
{
    const char *target;
    struct image_info info;
    struct error err = ERROR_NONE;
    if (!session_arguments(s, request, "{s:s}", "target", &target))
        return;
    if (store_find(session_store(s), target, &info, &err)) {
        session_answer_error(s, &err);
        return;
    }
    json_t *doc = doc_image(&info);
    json_object_set_new(doc, "snapshot", json_boolean(info.is_snapshot));
    json_object_set_new(doc, "identity", json_string(info.identity));
    session_answer(s, doc);
}

/* Sends the list of that name as elements of their own, because there may be more of them than one document holds. */
static void send_list(struct session *s, json_t *doc, const char *name)
{
    struct batch batch = { .session = s };
    json_t *element;
    size_t i;
    json_array_foreach(json_object_get(doc, name), i, element)
    {
        json_object_set_new(element, "of", json_string(name));
        batch_add(&batch, json_incref(element));
    }
    batch_flush(&batch);
    json_object_del(doc, name);
}

static void status(struct session *s, json_t *request)
{
    (void)request;
    json_t *doc = status_document(session_store(s));
    if (doc)
        session_describe(s, doc);
    send_list(s, doc, "devices");
    send_list(s, doc, "open");
    session_answer(s, doc);
}

const struct server_command server_look_commands[] = { { "ls", ls }, { "snap-ls", snap_ls }, { "find", find }, { "status", status }, { NULL, NULL } };
