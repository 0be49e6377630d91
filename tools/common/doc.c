/* doc.c - images as JSON documents: the keys are part of the command line's contract. */
#include "tools/common/session.h"

#include <time.h>

/* An element has less than 4 KiB, so that a batch stays under CONTROL_JSON_MAX. */
#define BATCH_ELEMENTS 256u

void batch_add(struct batch *b, json_t *element)
{
    if (!b->list)
        b->list = json_array();
    json_array_append_new(b->list, element);
    if (json_array_size(b->list) >= BATCH_ELEMENTS)
        batch_flush(b);
}

void batch_flush(struct batch *b)
{
    if (b->list)
        session_item(b->session, b->list);
    b->list = NULL;
}

json_t *doc_time(uint64_t ns)
{
    time_t seconds = (time_t)(ns / 1000000000u);
    struct tm tm;
    char text[32];
    if (ns == 0 || !gmtime_r(&seconds, &tm) || !strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &tm))
        return json_null();
    return json_string(text);
}

json_t *doc_text(const char *text) { return *text ? json_string(text) : json_null(); }

json_t *doc_snapshot(const struct image_info *info)
{
    const char *at = info->name;
    for (const char *p = info->name; *p; p++)
        if (*p == '@')
            at = p + 1;
    return json_pack("{s:s,s:I,s:o,s:b,s:I}", "name", at, "size", (json_int_t)info->size_bytes, "created", doc_time(info->created_ns),
                     "protected", info->is_protected, "clones", (json_int_t)info->clones);
}

json_t *doc_image(const struct image_info *info)
{
    return json_pack("{s:s,s:I,s:b,s:o,s:o,s:o,s:b,s:o,s:I,s:I}", "name", info->name, "size", (json_int_t)info->size_bytes, "template",
                     info->is_template, "parent", doc_text(info->parent), "created", doc_time(info->created_ns), "last-write",
                     doc_time(info->last_write_ns), "protected", info->is_protected, "holder", doc_text(info->holder), "readers",
                     (json_int_t)info->readers, "clones", (json_int_t)info->clones);
}
