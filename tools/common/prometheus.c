/* prometheus.c - see prometheus.h; docs/metrics.md lists what is told.
 *
 * 1. All samples of a name stand together, under one HELP and one TYPE.
 * 2. Units are base units: bytes and seconds. A count that only grows ends in _total.
 * 3. Of the histograms' bounds every second one is told, the powers of two: half the lines, and sums of whole buckets. Kinds of
 *    requests that an image has not had yet are left out: a thousand open images would be mostly zeroes. */
#include "tools/common/prometheus.h"

#include "base/bdev.h"
#include "tools/common/status.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct page {
    FILE *f;
    const json_t *doc, *counters;
};

static const char COUNTER[] = "counter", GAUGE[] = "gauge", HISTOGRAM[] = "histogram";

static void head(struct page *p, const char *name, const char *type, const char *help)
{
    fprintf(p->f, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

/* NAME="TEXT", escaped. */
static void label(struct page *p, const char *name, const char *text)
{
    fprintf(p->f, "%s=\"", name);
    for (; *text; text++) {
        if (*text == '\n')
            fputs("\\n", p->f);
        else if (*text == '"' || *text == '\\')
            fprintf(p->f, "\\%c", *text);
        else
            fputc(*text, p->f);
    }
    fputc('"', p->f);
}

static const char *text_of(const json_t *doc, const char *key)
{
    const char *text = json_string_value(json_object_get(doc, key));
    return text ? text : "";
}

static unsigned long long number(const json_t *doc, const char *key) { return (unsigned long long)json_integer_value(json_object_get(doc, key)); }

static void nanoseconds(struct page *p, unsigned long long ns) { fprintf(p->f, "%llu.%09llu", ns / 1000000000u, ns % 1000000000u); }

/* ---- The store ---- */

static void store_information(struct page *p)
{
    head(p, "parallax_store_info", GAUGE, "The store that is served; always 1.");
    fputs("parallax_store_info{", p->f);
    label(p, "store", text_of(p->doc, "store"));
    fputc(',', p->f);
    label(p, "uuid", text_of(p->doc, "uuid"));
    fputs("} 1\n", p->f);
    head(p, "parallax_store_failed", GAUGE, "1 after a metadata write failed: nothing can be changed until the store is opened again.");
    fprintf(p->f, "parallax_store_failed %d\n", json_is_true(json_object_get(p->doc, "failed")));
    head(p, "parallax_recovery_duration_seconds", GAUGE, "How long the recovery took when the store was opened; 0 after an orderly end.");
    fprintf(p->f, "parallax_recovery_duration_seconds %.3f\n", (double)number(p->counters, "recovery-ms") / 1e3);
}

struct plain {
    const char *name, *type, *key, *help;
    unsigned scale; /* the document's unit, in ours */
};

static const struct plain of_store[] = {
    { "parallax_store_limit_bytes", GAUGE, "size", "How large the store may grow; 0: as large as the file system lets it.", 1 },
    { "parallax_store_capacity_bytes", GAUGE, "capacity", "What could be stored in all, now.", 1 },
    { "parallax_store_used_bytes", GAUGE, "used", "Blocks in use, of data and metadata.", 1 },
    { "parallax_store_present_bytes", GAUGE, "present", "Allocated on the file system or device: used and spare blocks.", 1 },
    { "parallax_store_provisioned_bytes", GAUGE, "provisioned", "Sum of the sizes of all images.", 1 },
    { "parallax_store_trimmed_bytes_total", COUNTER, "trimmed", "Given back to the file system or device.", 1 },
    { "parallax_images", GAUGE, "images", "Images, without templates.", 1 },
    { "parallax_templates", GAUGE, "templates", "Templates.", 1 },
    { "parallax_snapshots", GAUGE, "snapshots", "Snapshots.", 1 },
    { "parallax_open_handles", GAUGE, "open-images", "Users of images: devices of guests, transfers, walks.", 1 },
};

static const struct plain of_counters[] = {
    { "parallax_checkpoints_total", COUNTER, "checkpoints", "Checkpoints committed.", 1 },
    { "parallax_journal_size_bytes", GAUGE, "journal-bytes", "Size of the journal.", 1 },
    { "parallax_journal_used_bytes", GAUGE, "journal-used-bytes", "Journal that the last checkpoint does not cover.", 1 },
    { "parallax_index_capacity_entries", GAUGE, "index-entries", "Changes that may wait for a checkpoint.", 1 },
    { "parallax_index_used_entries", GAUGE, "index-used", "Changes that wait for a checkpoint.", 1 },
    { "parallax_held_bytes", GAUGE, "held-blocks", "Freed, and not to be used again before a checkpoint and the reads that began before it.", BDEV_BLOCK_SIZE },
    { "parallax_deletions_pending", GAUGE, "deletions-pending", "Versions that are deleted in the background.", 1 },
    { "parallax_recovered_records", GAUGE, "recovered-records", "Journal records that counted when the store was opened.", 1 },
    { "parallax_rejected_records", GAUGE, "rejected-records", "Journal records that did not count when the store was opened.", 1 },
    { "parallax_request_errors_total", COUNTER, "errors", "Requests to images that ended with an error or were refused.", 1 },
};

static void plain(struct page *p, const json_t *from, const struct plain *list, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        head(p, list[i].name, list[i].type, list[i].help);
        fprintf(p->f, "%s %llu\n", list[i].name, number(from, list[i].key) * list[i].scale);
    }
}

#define PARTS 5u
/* One name whose samples differ in one label, or has one sample alone (label NULL). */
struct split {
    const char *name, *help, *label;
    struct {
        const char *value, *key;
    } part[PARTS];
};

static const struct split of_parts[] = {
    { "parallax_cache_hits_total", "Found in memory: blocks of data, nodes of the map.", "cache", { { "blocks", "cache-hits" }, { "map", "map-hits" } } },
    { "parallax_cache_misses_total", "Not found in memory: blocks of data, nodes of the map.", "cache", { { "blocks", "cache-misses" }, { "map", "map-misses" } } },
    { "parallax_device_requests_total", "Requests to the file or device below.", "op",
      { { "read", "device-reads" }, { "write", "device-writes" }, { "flush", "device-flushes" } } },
    { "parallax_device_bytes_total", "Bytes read from and written to the file or device below.", "op", { { "read", "device-read-bytes" }, { "write", "device-write-bytes" } } },
    { "parallax_request_bytes_total", "Bytes of requests to images that ended without an error.", "op",
      { { "read", "read-bytes" }, { "write", "write-bytes" }, { "discard", "discard-bytes" } } },
};

static void parts(struct page *p, const struct split *s)
{
    head(p, s->name, COUNTER, s->help);
    for (unsigned i = 0; i < PARTS && s->part[i].key; i++)
        fprintf(p->f, "%s{%s=\"%s\"} %llu\n", s->name, s->label, s->part[i].value, number(p->counters, s->part[i].key));
}

/* ---- Latencies ---- */

static void sample(struct page *p, const char *name, const char *suffix, const char *image, unsigned op)
{
    fprintf(p->f, "%s%s{", name, suffix);
    if (image) {
        label(p, "image", image);
        fputc(',', p->f);
    }
    fprintf(p->f, "op=\"%s\"", status_ops[op]);
}

static void latency(struct page *p, const char *name, const char *image, unsigned op, const struct histogram *h)
{
    uint64_t seen = 0;
    for (unsigned i = 0; i < HISTOGRAM_BOUNDS; i++) {
        seen += h->bucket[i];
        if (i % 2)
            continue;
        sample(p, name, "_bucket", image, op);
        fprintf(p->f, ",le=\"%.12g\"} %llu\n", (double)histogram_bound_ns(i) / 1e9, (unsigned long long)seen);
    }
    unsigned long long all = histogram_count(h);
    sample(p, name, "_bucket", image, op);
    fprintf(p->f, ",le=\"+Inf\"} %llu\n", all);
    sample(p, name, "_sum", image, op);
    fputs("} ", p->f);
    nanoseconds(p, h->sum_ns);
    fputc('\n', p->f);
    sample(p, name, "_count", image, op);
    fprintf(p->f, "} %llu\n", all);
}

static void latencies(struct page *p, const char *name, const json_t *of, const char *image)
{
    for (unsigned op = 0; op < IMAGE_OPS; op++) {
        struct histogram h;
        status_latency(json_object_get(json_object_get(of, "latency"), status_ops[op]), &h);
        if (!image || histogram_count(&h))
            latency(p, name, image, op, &h);
    }
}

/* ---- Open images and the devices of guests ---- */

/* All samples of a name for all elements of a list, with the labels that tell the elements apart. */
static void split_list(struct page *p, const char *type, const struct split *s, const json_t *list, void (*labels)(struct page *p, const json_t *element))
{
    size_t k;
    json_t *element;
    head(p, s->name, type, s->help);
    json_array_foreach(list, k, element)
        for (unsigned i = 0; i < PARTS && s->part[i].key; i++) {
            fprintf(p->f, "%s{", s->name);
            labels(p, element);
            if (s->label)
                fprintf(p->f, ",%s=\"%s\"", s->label, s->part[i].value);
            fprintf(p->f, "} %llu\n", number(element, s->part[i].key));
        }
}

static const struct split of_images[] = {
    { "parallax_image_request_bytes_total", "Bytes of an open image's requests that ended without an error.", "op",
      { { "read", "read-bytes" }, { "write", "write-bytes" }, { "discard", "discard-bytes" } } },
    { "parallax_image_request_errors_total", "An open image's requests that ended with an error or were refused.", NULL, { { NULL, "errors" } } },
};

static void image_labels(struct page *p, const json_t *image) { label(p, "image", text_of(image, "image")); }

static void images(struct page *p, const json_t *list)
{
    static const char duration[] = "parallax_image_request_duration_seconds";
    size_t k;
    json_t *image;
    head(p, duration, HISTOGRAM, "From an open image's request to its answer.");
    json_array_foreach(list, k, image)
        latencies(p, duration, image, text_of(image, "image"));
    for (size_t i = 0; i < sizeof of_images / sizeof *of_images; i++)
        split_list(p, COUNTER, &of_images[i], list, image_labels);
}

static const struct {
    const char *type;
    struct split s;
} of_devices[] = {
    { COUNTER, { "parallax_vbd_requests_total", "Requests of a guest, as they were on its ring.", "op",
                 { { "read", "reads" }, { "write", "writes" }, { "flush", "flushes" }, { "barrier", "barriers" }, { "discard", "discards" } } } },
    { COUNTER, { "parallax_vbd_bytes_total", "Bytes of a guest's requests that ended without an error.", "op", { { "read", "read-bytes" }, { "write", "write-bytes" } } } },
    { COUNTER, { "parallax_vbd_segments_total", "Segments of a guest's requests: pieces of its pages.", NULL, { { NULL, "segments" } } } },
    { COUNTER, { "parallax_vbd_indirect_requests_total", "A guest's requests whose segments stand in a page of their own.", NULL, { { NULL, "indirect" } } } },
    { COUNTER, { "parallax_vbd_errors_total", "A guest's requests that were answered with an error.", NULL, { { NULL, "errors" } } } },
    { COUNTER, { "parallax_vbd_grants_copied_total", "Copies from and to a guest's pages by grant.", NULL, { { NULL, "grants-copied" } } } },
    { COUNTER, { "parallax_vbd_grants_mapped_total", "A guest's pages that were mapped to stay.", NULL, { { NULL, "grants-mapped" } } } },
    { COUNTER, { "parallax_vbd_notifications_total", "Notifications between a guest and the storage domain.", "direction",
                 { { "received", "events-received" }, { "sent", "events-sent" } } } },
    { COUNTER, { "parallax_vbd_batches_total", "Times that requests were taken from a guest's ring.", NULL, { { NULL, "batches" } } } },
    { GAUGE, { "parallax_vbd_in_flight_requests", "A guest's requests that are not answered yet.", NULL, { { NULL, "in-flight" } } } },
};

static void device_labels(struct page *p, const json_t *d)
{
    fprintf(p->f, "domain=\"%llu\",vdev=\"%llu\",", number(d, "domid"), number(d, "vdev"));
    label(p, "image", text_of(d, "image"));
}

static void devices(struct page *p, const json_t *list)
{
    size_t k;
    json_t *d;
    head(p, "parallax_vbd_connected", GAUGE, "1 while a guest's device is connected.");
    json_array_foreach(list, k, d) {
        fputs("parallax_vbd_connected{", p->f);
        device_labels(p, d);
        fprintf(p->f, "} %d\n", !strcmp(text_of(d, "state"), "connected"));
    }
    for (size_t i = 0; i < sizeof of_devices / sizeof *of_devices; i++)
        split_list(p, of_devices[i].type, &of_devices[i].s, list, device_labels);
}

char *prometheus_text(const json_t *status, size_t *length)
{
    char *text = NULL;
    struct page p = { .f = open_memstream(&text, length), .doc = status, .counters = json_object_get(status, "counters") };
    const json_t *open = json_object_get(status, "open"), *guests = json_object_get(status, "devices");
    if (!p.f)
        return NULL;
    store_information(&p);
    plain(&p, p.doc, of_store, sizeof of_store / sizeof *of_store);
    plain(&p, p.counters, of_counters, sizeof of_counters / sizeof *of_counters);
    for (size_t i = 0; i < sizeof of_parts / sizeof *of_parts; i++)
        parts(&p, &of_parts[i]);
    head(&p, "parallax_request_duration_seconds", HISTOGRAM, "From a request to an image to its answer.");
    latencies(&p, "parallax_request_duration_seconds", p.counters, NULL);
    if (json_array_size(open))
        images(&p, open);
    if (json_array_size(guests))
        devices(&p, guests);
    bool whole = !ferror(p.f);
    if (fclose(p.f) || !whole) {
        free(text);
        return NULL;
    }
    return text;
}
