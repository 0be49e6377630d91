/* server_snap.c - commands on snapshots. */
#include "tools/common/session.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* A name for a snapshot that the user gave none: the time in UTC, and a number if several fall into one second. taken has the
 * names of the request as keys, and of those without a number the next one. */
static json_t *name_by_time(struct store *store, const char *image, json_t *taken)
{
    time_t now = time(NULL);
    struct tm tm;
    char stamp[32], target[IMAGE_TARGET_SIZE + 64], first[IMAGE_TARGET_SIZE + 64];
    struct image_info info;
    gmtime_r(&now, &tm);
    strftime(stamp, sizeof stamp, "%Y%m%dT%H%M%SZ", &tm);
    snprintf(first, sizeof first, "%.*s@%s", (int)IMAGE_NAME_MAX + 1, image, stamp);
    strcpy(target, first);
    json_int_t next = json_integer_value(json_object_get(taken, first));
    for (next = next ? next : 1; json_object_get(taken, target) || store_find(store, target, &info, NULL) == 0; next++)
        snprintf(target, sizeof target, "%.*s@%s-%lld", (int)IMAGE_NAME_MAX + 1, image, stamp, (long long)next + 1);
    json_object_set_new(taken, target, json_integer(1));
    json_object_set_new(taken, first, json_integer(next));
    return json_string(target);
}

static json_t *complete_targets(struct store *store, const json_t *list)
{
    json_t *targets = json_array(), *taken = json_object();
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *text = json_string_value(json_array_get(list, i));
        if (text && strchr(text, '@'))
            json_object_set_new(taken, text, json_integer(1));
    }
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *text = json_string_value(json_array_get(list, i));
        json_array_append_new(targets, !text ? json_null() : strchr(text, '@') ? json_string(text) : name_by_time(store, text, taken));
    }
    json_decref(taken);
    return targets;
}

static void create(struct session *s, json_t *request)
{
    json_t *list;
    unsigned count;
    if (!session_arguments(s, request, "{s:o}", "targets", &list))
        return;
    json_t *targets = complete_targets(session_store(s), list);
    const char **names = session_names(s, targets, &count);
    if (!names) {
        json_decref(targets);
        return;
    }
    struct simple_operation *p = simple_begin(s, json_pack("{s:o}", "names", targets));
    if (!p) {
        free(names);
        return;
    }
    p->names = names;
    snapshot_create(session_store(s), &p->op, names, count);
}

/* Only a dry run knows at once what comes back; a removal gives it back in the background. */
static void deleted(struct simple_operation *p)
{
    json_object_set_new(p->result, "freed", json_integer((json_int_t)p->op.freed_bytes));
}

static void delete(struct session *s, json_t *request)
{
    json_t *list;
    int dry_run;
    unsigned count;
    if (!session_arguments(s, request, "{s:o,s:b}", "targets", &list, "dry-run", &dry_run))
        return;
    const char **names = session_names(s, list, &count);
    if (!names)
        return;
    struct simple_operation *p = simple_begin(s, json_pack("{s:O,s:b}", "names", list, "dry-run", dry_run));
    if (!p) {
        free(names);
        return;
    }
    p->names = names;
    p->succeeded = dry_run ? deleted : NULL;
    snapshot_delete(session_store(s), &p->op, names, count, dry_run);
}

static void purge(struct session *s, json_t *request)
{
    const char *name;
    if (!session_arguments(s, request, "{s:s}", "name", &name))
        return;
    struct simple_operation *p = simple_begin(s, json_pack("{s:s}", "name", name));
    if (p)
        snapshot_purge(session_store(s), &p->op, name);
}

static void rename_snapshot(struct session *s, json_t *request)
{
    const char *image, *from, *to;
    if (!session_arguments(s, request, "{s:s,s:s,s:s}", "image", &image, "from", &from, "to", &to))
        return;
    struct simple_operation *p = simple_begin(s, json_pack("{s:s++,s:s++}", "name", image, "@", to, "was", image, "@", from));
    if (p)
        snapshot_rename(session_store(s), &p->op, image, from, to);
}

static void rollback(struct session *s, json_t *request)
{
    const char *target, *keep = NULL;
    if (!session_arguments(s, request, "{s:s,s?s}", "target", &target, "keep", &keep))
        return;
    struct simple_operation *p = simple_begin(s, json_pack("{s:s,s:s?}", "name", target, "kept", keep));
    if (p)
        snapshot_rollback(session_store(s), &p->op, target, keep);
}

const struct server_command server_snap_commands[] = {
    { "snap-create", create },      { "snap-rm", delete },         { "snap-purge", purge },
    { "snap-mv", rename_snapshot }, { "snap-rollback", rollback }, { NULL, NULL },
};
