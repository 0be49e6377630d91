/* describe.c - see describe.h. */
#include "tools/parallaxd/describe.h"

#include <stdio.h>

static const char *state_name(unsigned state)
{
    static const char *const names[] = { "found", "initialising", "init-wait", "initialised", "connected", "closing", "closed" };
    return state < sizeof names / sizeof *names ? names[state] : "unknown";
}

/* A toolstack may have written any bytes: what is no UTF-8 is shown with '?' for each byte beyond ASCII. */
static json_t *text(const char *s)
{
    char shown[512];
    json_t *t = json_string(s);
    if (t)
        return t;
    snprintf(shown, sizeof shown, "%s", s);
    for (char *p = shown; *p; p++)
        if ((unsigned char)*p >= 0x80)
            *p = '?';
    return json_string(shown);
}

static void put(json_t *doc, const char *key, uint64_t value) { json_object_set_new(doc, key, json_integer((json_int_t)value)); }

static void put_ratio(json_t *doc, const char *key, uint64_t part, uint64_t whole)
{
    json_object_set_new(doc, key, whole ? json_real((double)part / (double)whole) : json_null());
}

/* What tells at a glance whether a guest uses its ring well; null where nothing was asked for yet. */
static void put_ratios(json_t *doc, const struct blkback_device_info *i)
{
    uint64_t transfers = i->reads + i->writes, requests = transfers + i->flushes + i->barriers + i->discards;
    put_ratio(doc, "segments-per-request", i->segments, transfers);
    put_ratio(doc, "indirect-share", i->indirect, transfers);
    put_ratio(doc, "notifications-per-request", i->events_sent, requests);
    put_ratio(doc, "requests-per-batch", requests, i->batches);
}

static int describe_device(void *ctx, const struct blkback_device_info *i)
{
    json_t *d = json_pack("{s:o,s:s,s:b,s:b}", "image", text(i->image), "state", state_name(i->state), "read-only", i->read_only, "persistent",
                          i->persistent);
    if (!d)
        return 0;
    json_object_set_new(d, "problem", *i->problem ? text(i->problem) : json_null());
    put(d, "domid", i->domid);
    put(d, "vdev", i->vdev);
    put(d, "queues", i->queues);
    put(d, "ring-pages", i->ring_pages);
    put(d, "reads", i->reads);
    put(d, "writes", i->writes);
    put(d, "flushes", i->flushes);
    put(d, "barriers", i->barriers);
    put(d, "discards", i->discards);
    put(d, "indirect", i->indirect);
    put(d, "segments", i->segments);
    put(d, "read-bytes", i->read_bytes);
    put(d, "write-bytes", i->write_bytes);
    put(d, "errors", i->errors);
    put(d, "grants-copied", i->grants_copied);
    put(d, "grants-mapped", i->grants_mapped);
    put(d, "events-received", i->events_received);
    put(d, "events-sent", i->events_sent);
    put(d, "batches", i->batches);
    put_ratios(d, i);
    put(d, "in-flight", i->in_flight);
    json_array_append_new(ctx, d);
    return 0;
}

json_t *describe_devices(struct blkback *b)
{
    json_t *list = json_array();
    blkback_each_device(b, describe_device, list);
    return list;
}
