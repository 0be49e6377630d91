/* server_look.c - commands that look and answer at once: ls, snap-ls, find, status.
 *
 * A list is taken in one pass, so that it is the state of one instant; it waits in the connection's queue as text, a few
 * hundred bytes an image. A snapshot follows its image as an element with the key "of". */
#include "tools/common/session.h"

#include <errno.h>
#include <string.h>

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

static json_t *counters(const struct store_status *st)
{
    const struct {
        const char *key;
        uint64_t value;
    } fields[] = {
        { "checkpoints", st->checkpoints }, { "journal-bytes", st->journal_bytes }, { "journal-used-bytes", st->journal_used_bytes },
        { "index-entries", st->index_entries }, { "index-used", st->index_used }, { "held-blocks", st->held_blocks },
        { "deletions-pending", st->deletions_pending }, { "reads", st->reads }, { "writes", st->writes }, { "flushes", st->flushes },
        { "discards", st->discards }, { "read-bytes", st->read_bytes }, { "write-bytes", st->write_bytes },
        { "map-hits", st->map_hits }, { "map-misses", st->map_misses }, { "cache-hits", st->cache_hits },
        { "cache-misses", st->cache_misses }, { "device-reads", st->device_reads }, { "device-writes", st->device_writes },
        { "device-read-bytes", st->device_read_bytes }, { "device-write-bytes", st->device_write_bytes },
        { "device-flushes", st->device_flushes }, { "recovered-records", st->recovered_records },
        { "rejected-records", st->rejected_records }, { "recovery-ms", st->recovery_ms },
    };
    json_t *doc = json_object();
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        json_object_set_new(doc, fields[i].key, json_integer((json_int_t)fields[i].value));
    return doc;
}

/* Devices are elements of their own, because there may be more than one document holds. */
static void send_devices(struct session *s, json_t *doc)
{
    struct batch batch = { .session = s };
    json_t *device;
    size_t i;
    json_array_foreach(json_object_get(doc, "devices"), i, device)
        batch_add(&batch, json_incref(device));
    batch_flush(&batch);
    json_object_del(doc, "devices");
}

static void status(struct session *s, json_t *request)
{
    (void)request;
    struct store_status st;
    memset(&st, 0, sizeof st);
    store_get_status(session_store(s), &st);
    json_t *doc = json_pack("{s:s,s:s,s:b,s:b,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:o,s:n}", "store", st.name, "uuid", st.uuid, "direct",
                            st.direct, "failed", st.failed, "size", (json_int_t)st.size_bytes, "capacity",
                            (json_int_t)st.capacity_bytes, "used", (json_int_t)st.used_bytes, "provisioned",
                            (json_int_t)st.provisioned_bytes, "images", (json_int_t)st.images, "templates", (json_int_t)st.templates,
                            "snapshots", (json_int_t)st.snapshots, "open-images", (json_int_t)st.open_images, "counters", counters(&st), "daemon");
    if (doc) {
        json_object_set_new(doc, "present", json_integer((json_int_t)st.present_bytes));
        json_object_set_new(doc, "trimmed", json_integer((json_int_t)st.trimmed_bytes));
        json_object_set_new(doc, "used-percent", json_integer(st.used_percent));
        json_object_set_new(doc, "warning", st.warned_percent ? json_integer(st.warned_percent) : json_null());
    }
    if (doc)
        session_describe(s, doc);
    send_devices(s, doc);
    session_answer(s, doc);
}

const struct server_command server_look_commands[] = { { "ls", ls }, { "snap-ls", snap_ls }, { "find", find }, { "status", status }, { NULL, NULL } };
