/* rates.c - see rates.h. */
#include "tools/common/rates.h"

#include "tools/common/status.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static uint64_t number(const json_t *doc, const char *key) { return (uint64_t)json_integer_value(json_object_get(doc, key)); }

static uint64_t since(const json_t *before, const json_t *after, const char *key)
{
    uint64_t was = number(before, key), is = number(after, key);
    return is >= was ? is - was : is;
}

static json_t *ratio(uint64_t part, uint64_t whole) { return whole ? json_real((double)part / (double)whole) : json_null(); }
static void put(json_t *doc, const char *key, uint64_t value) { json_object_set_new(doc, key, json_integer((json_int_t)value)); }
static void put_rate(json_t *doc, const char *key, uint64_t value, double seconds) { json_object_set_new(doc, key, json_real((double)value / seconds)); }

/* Counts that fell belong to somebody new. */
static bool fell(const json_t *before, const json_t *after, const char *const *keys)
{
    for (; *keys; keys++)
        if (number(after, *keys) < number(before, *keys))
            return true;
    return false;
}

/* ---- Of requests ---- */

static json_t *latency_since(const json_t *before, const json_t *after, const char *op)
{
    struct histogram was, is;
    status_latency(json_object_get(json_object_get(before, "latency"), op), &was);
    status_latency(json_object_get(json_object_get(after, "latency"), op), &is);
    histogram_since(&is, &was);
    uint64_t n = histogram_count(&is);
    return n ? json_pack("{s:I,s:I}", "average-ns", (json_int_t)(is.sum_ns / n), "p99-ns", (json_int_t)histogram_quantile_ns(&is, 0.99)) : json_null();
}

static void put_requests(json_t *doc, const json_t *before, const json_t *after, double seconds)
{
    static const char *const keys[] = { "reads", "writes", "flushes", "discards", "read-bytes", "write-bytes", "errors", NULL };
    json_t *latency = json_object();
    uint64_t requests = 0;
    if (fell(before, after, keys))
        before = NULL;
    for (unsigned i = 0; keys[i]; i++) {
        uint64_t n = since(before, after, keys[i]);
        put(doc, keys[i], n);
        requests += i < IMAGE_OPS ? n : 0;
    }
    put_rate(doc, "iops", requests, seconds);
    put_rate(doc, "read-bytes-per-second", number(doc, "read-bytes"), seconds);
    put_rate(doc, "write-bytes-per-second", number(doc, "write-bytes"), seconds);
    for (unsigned op = 0; op < IMAGE_OPS; op++)
        json_object_set_new(latency, status_ops[op], latency_since(before, after, status_ops[op]));
    json_object_set_new(doc, "latency", latency);
}

/* ---- Images and devices ---- */

/* By what an element is known in both documents, whatever it is called. */
static void key_of(const json_t *element, char out[80])
{
    const char *identity = json_string_value(json_object_get(element, "identity"));
    if (identity)
        snprintf(out, 80, "%s", identity);
    else
        snprintf(out, 80, "%llu/%llu", (unsigned long long)number(element, "domid"), (unsigned long long)number(element, "vdev"));
}

static json_t *by_key(const json_t *list)
{
    json_t *map = json_object(), *element;
    size_t i;
    char key[80];
    json_array_foreach(list, i, element) {
        key_of(element, key);
        json_object_set(map, key, element);
    }
    return map;
}

static json_t *guests_of(const json_t *devices, const char *image)
{
    json_t *guests = json_array(), *d;
    size_t i, n = strlen(image);
    json_array_foreach(devices, i, d) {
        const char *target = json_string_value(json_object_get(d, "image"));
        if (target && !strncmp(target, image, n) && (target[n] == '\0' || target[n] == '@'))
            json_array_append(guests, json_object_get(d, "domid"));
    }
    return guests;
}

static json_t *image_since(const json_t *before, const json_t *image, const json_t *devices, double seconds)
{
    const char *name = json_string_value(json_object_get(image, "image"));
    json_t *doc = json_pack("{s:s,s:o}", "image", name, "guests", guests_of(devices, name));
    put_requests(doc, before, image, seconds);
    return doc;
}

static json_t *device_since(const json_t *before, const json_t *d, const json_t *devices, double seconds)
{
    static const char *const keys[] = { "reads", "writes", "flushes", "barriers", "discards", "read-bytes", "write-bytes", "segments", "indirect", "events-sent", NULL };
    static const char *const copied[] = { "domid", "vdev", "image", "state", "problem", "in-flight" };
    json_t *doc = json_object();
    (void)devices;
    if (fell(before, d, keys))
        before = NULL;
    for (unsigned i = 0; i < sizeof copied / sizeof *copied; i++)
        json_object_set(doc, copied[i], json_object_get(d, copied[i]));
    for (unsigned i = 0; keys[i]; i++)
        put(doc, keys[i], since(before, d, keys[i]));
    uint64_t transfers = number(doc, "reads") + number(doc, "writes");
    uint64_t requests = transfers + number(doc, "flushes") + number(doc, "barriers") + number(doc, "discards");
    put_rate(doc, "iops", requests, seconds);
    put_rate(doc, "read-bytes-per-second", number(doc, "read-bytes"), seconds);
    put_rate(doc, "write-bytes-per-second", number(doc, "write-bytes"), seconds);
    json_object_set_new(doc, "segments-per-request", ratio(number(doc, "segments"), transfers));
    json_object_set_new(doc, "indirect-share", ratio(number(doc, "indirect"), transfers));
    json_object_set_new(doc, "notifications-per-request", ratio(number(doc, "events-sent"), requests));
    return doc;
}

static json_t *list_since(const json_t *before, const json_t *after, const char *name, double seconds,
                          json_t *(*each)(const json_t *before, const json_t *element, const json_t *devices, double seconds))
{
    json_t *list = json_array(), *was = by_key(json_object_get(before, name)), *element;
    size_t i;
    json_array_foreach(json_object_get(after, name), i, element) {
        char key[80];
        key_of(element, key);
        json_array_append_new(list, each(json_object_get(was, key), element, json_object_get(after, "devices"), seconds));
    }
    json_decref(was);
    return list;
}

json_t *rates_document(const json_t *before, const json_t *after, double seconds)
{
    const json_t *was = json_object_get(before, "counters"), *is = json_object_get(after, "counters");
    json_t *doc = json_object(), *total = json_object();
    uint64_t hits = since(was, is, "cache-hits"), map_hits = since(was, is, "map-hits");
    json_object_set_new(doc, "seconds", json_real(seconds));
    json_object_set(doc, "store", json_object_get(after, "store"));
    json_object_set(doc, "used", json_object_get(after, "used"));
    json_object_set(doc, "capacity", json_object_get(after, "capacity"));
    json_object_set_new(doc, "journal-used-share", ratio(number(is, "journal-used-bytes"), number(is, "journal-bytes")));
    put(doc, "checkpoints", since(was, is, "checkpoints"));
    json_object_set_new(doc, "cache-hit-share", ratio(hits, hits + since(was, is, "cache-misses")));
    json_object_set_new(doc, "map-hit-share", ratio(map_hits, map_hits + since(was, is, "map-misses")));
    put_requests(total, was, is, seconds);
    json_object_set_new(doc, "total", total);
    json_object_set_new(doc, "images", list_since(before, after, "open", seconds, image_since));
    json_object_set_new(doc, "devices", list_since(before, after, "devices", seconds, device_since));
    return doc;
}
