/* status.c - see status.h. */
#include "tools/common/status.h"

#include <string.h>

const char *const status_ops[IMAGE_OPS] = { "read", "write", "flush", "discard" };

static json_t *latency_document(const struct histogram *h)
{
    json_t *buckets = json_array();
    unsigned used = HISTOGRAM_BUCKETS;
    while (used && !h->bucket[used - 1])
        used--;
    for (unsigned i = 0; i < used; i++)
        json_array_append_new(buckets, json_integer((json_int_t)h->bucket[i]));
    return json_pack("{s:I,s:I,s:o}", "count", (json_int_t)histogram_count(h), "sum-ns", (json_int_t)h->sum_ns, "buckets", buckets);
}

void status_latency(const json_t *latency, struct histogram *out)
{
    const json_t *buckets = json_object_get(latency, "buckets");
    *out = (struct histogram){ .sum_ns = (uint64_t)json_integer_value(json_object_get(latency, "sum-ns")) };
    for (unsigned i = 0; i < HISTOGRAM_BUCKETS && i < json_array_size(buckets); i++)
        out->bucket[i] = (uint64_t)json_integer_value(json_array_get(buckets, i));
}

static json_t *bounds(void)
{
    json_t *list = json_array();
    for (unsigned i = 0; i < HISTOGRAM_BOUNDS; i++)
        json_array_append_new(list, json_integer((json_int_t)histogram_bound_ns(i)));
    return list;
}

/* The keys of requests: of the whole store and of one image alike. */
static void put_requests(json_t *doc, const struct image_counters *c)
{
    static const char *const counts[IMAGE_OPS] = { "reads", "writes", "flushes", "discards" };
    json_t *latency = json_object();
    for (unsigned op = 0; op < IMAGE_OPS; op++) {
        json_object_set_new(doc, counts[op], json_integer((json_int_t)histogram_count(&c->latency[op])));
        json_object_set_new(latency, status_ops[op], latency_document(&c->latency[op]));
    }
    json_object_set_new(doc, "read-bytes", json_integer((json_int_t)c->bytes[IMAGE_READ]));
    json_object_set_new(doc, "write-bytes", json_integer((json_int_t)c->bytes[IMAGE_WRITE]));
    json_object_set_new(doc, "discard-bytes", json_integer((json_int_t)c->bytes[IMAGE_DISCARD]));
    json_object_set_new(doc, "errors", json_integer((json_int_t)c->errors));
    json_object_set_new(doc, "latency", latency);
}

static json_t *counters(const struct store_status *st, const struct image_counters *c)
{
    const struct {
        const char *key;
        uint64_t value;
    } fields[] = {
        { "checkpoints", st->checkpoints }, { "journal-bytes", st->journal_bytes }, { "journal-used-bytes", st->journal_used_bytes },
        { "index-entries", st->index_entries }, { "index-used", st->index_used }, { "held-blocks", st->held_blocks },
        { "deletions-pending", st->deletions_pending }, { "map-hits", st->map_hits }, { "map-misses", st->map_misses },
        { "cache-hits", st->cache_hits }, { "cache-misses", st->cache_misses }, { "device-reads", st->device_reads },
        { "device-writes", st->device_writes }, { "device-read-bytes", st->device_read_bytes }, { "device-write-bytes", st->device_write_bytes },
        { "device-flushes", st->device_flushes }, { "recovered-records", st->recovered_records },
        { "rejected-records", st->rejected_records }, { "recovery-ms", st->recovery_ms },
    };
    json_t *doc = json_object();
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        json_object_set_new(doc, fields[i].key, json_integer((json_int_t)fields[i].value));
    put_requests(doc, c);
    return doc;
}

static int add_open(void *ctx, const char *name, const char *identity, const struct image_counters *c)
{
    json_t *image = json_pack("{s:s,s:s}", "image", name, "identity", identity);
    put_requests(image, c);
    json_array_append_new(ctx, image);
    return 0;
}

json_t *status_document(struct store *s)
{
    struct store_status st;
    memset(&st, 0, sizeof st);
    store_get_status(s, &st);
    json_t *open = json_array();
    json_t *doc = json_pack("{s:s,s:s,s:b,s:b,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:o,s:o,s:o,s:n}", "store", st.name, "uuid", st.uuid, "direct",
                            st.direct, "failed", st.failed, "size", (json_int_t)st.size_bytes, "capacity",
                            (json_int_t)st.capacity_bytes, "used", (json_int_t)st.used_bytes, "provisioned",
                            (json_int_t)st.provisioned_bytes, "images", (json_int_t)st.images, "templates", (json_int_t)st.templates,
                            "snapshots", (json_int_t)st.snapshots, "open-images", (json_int_t)st.open_images, "counters",
                            counters(&st, store_get_counters(s)), "latency-bounds-ns", bounds(), "open", open, "daemon");
    if (!doc)
        return NULL;
    json_object_set_new(doc, "catalog-copy", st.on_device ? json_boolean(st.catalog_copied) : json_null());
    json_object_set_new(doc, "present", json_integer((json_int_t)st.present_bytes));
    json_object_set_new(doc, "trimmed", json_integer((json_int_t)st.trimmed_bytes));
    json_object_set_new(doc, "used-percent", json_integer(st.used_percent));
    json_object_set_new(doc, "warning", st.warned_percent ? json_integer(st.warned_percent) : json_null());
    store_each_counted(s, add_open, open);
    return doc;
}
