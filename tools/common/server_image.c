/* server_image.c - commands that make, change and delete images. */
#include "tools/common/session.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static bool valid_size(struct session *s, json_int_t size)
{
    struct error err = ERROR_NONE;
    if (size <= 0)
        error_set(&err, -EINVAL, "a size must be larger than zero");
    else if (size % IMAGE_SECTOR)
        error_set(&err, -EINVAL, "size %lld is not a multiple of %u bytes", (long long)size, IMAGE_SECTOR);
    else if ((uint64_t)size > IMAGE_SIZE_MAX)
        error_set(&err, -EINVAL, "size %lld is more than an image can have (16 TiB)", (long long)size);
    if (err.code)
        session_answer_error(s, &err);
    return !err.code;
}

static void create(struct session *s, json_t *request)
{
    const char *name;
    json_int_t size;
    if (!session_arguments(s, request, "{s:s,s:I}", "name", &name, "size", &size) || !valid_size(s, size))
        return;
    struct simple_operation *p = simple_begin(s, json_pack("{s:s,s:I}", "name", name, "size", size));
    if (p)
        image_create(session_store(s), &p->op, name, (uint64_t)size);
}

static void seal(struct session *s, json_t *request)
{
    const char *name;
    if (!session_arguments(s, request, "{s:s}", "name", &name))
        return;
    struct simple_operation *p = simple_begin(s, json_pack("{s:s,s:b}", "name", name, "template", 1));
    if (p)
        image_seal(session_store(s), &p->op, name);
}

static void clone(struct session *s, json_t *request)
{
    const char *source, *name;
    if (!session_arguments(s, request, "{s:s,s:s}", "source", &source, "name", &name))
        return;
    struct simple_operation *p = simple_begin(s, json_pack("{s:s,s:s}", "name", name, "source", source));
    if (p)
        image_clone(session_store(s), &p->op, source, name);
}

static void clone_many(struct session *s, json_t *request)
{
    const char *source, *prefix;
    json_int_t first, count;
    if (!session_arguments(s, request, "{s:s,s:s,s:I,s:I}", "source", &source, "prefix", &prefix, "first", &first, "count", &count))
        return;
    if (count < 1 || count > 100000 || first < 0 || first > INT32_MAX) {
        session_answer_error(s, &(struct error){ -EINVAL, "the count of clones is 1 to 100000, the first number 0 to 2147483647" });
        return;
    }
    json_t *result = json_pack("{s:s,s:s,s:I,s:I}", "source", source, "prefix", prefix, "first", first, "count", count);
    struct simple_operation *p = simple_begin(s, result);
    if (p)
        image_clone_many(session_store(s), &p->op, source, prefix, (uint64_t)first, (uint32_t)count);
}

static void rename_image(struct session *s, json_t *request)
{
    const char *name, *to;
    if (!session_arguments(s, request, "{s:s,s:s}", "name", &name, "to", &to))
        return;
    struct simple_operation *p = simple_begin(s, json_pack("{s:s,s:s}", "name", to, "was", name));
    if (p)
        image_rename(session_store(s), &p->op, name, to);
}

static void resize(struct session *s, json_t *request)
{
    const char *name;
    json_int_t size;
    int relative, shrink;
    struct image_info info;
    struct error err = ERROR_NONE;
    if (!session_arguments(s, request, "{s:s,s:I,s:b,s:b}", "name", &name, "size", &size, "relative", &relative, "shrink", &shrink))
        return;
    if (store_find(session_store(s), name, &info, &err)) {
        session_answer_error(s, &err);
        return;
    }
    if (relative && size > 0 && size <= (json_int_t)IMAGE_SIZE_MAX)
        size += (json_int_t)info.size_bytes;
    if (!valid_size(s, size))
        return;
    json_t *result = json_pack("{s:s,s:I,s:I}", "name", name, "size", size, "was", (json_int_t)info.size_bytes);
    struct simple_operation *p = simple_begin(s, result);
    if (p)
        image_resize(session_store(s), &p->op, name, (uint64_t)size, shrink);
}

static void protect(struct session *s, json_t *request)
{
    const char *target;
    int on;
    if (!session_arguments(s, request, "{s:s,s:b}", "target", &target, "on", &on))
        return;
    struct simple_operation *p = simple_begin(s, json_pack("{s:s,s:b}", "name", target, "protected", on));
    if (p)
        image_protect(session_store(s), &p->op, target, on);
}

/* ---- delete ---- */

static void append_name(void *ctx, const char *name) { json_array_append_new(ctx, json_string(name)); }

/* Only a dry run knows at once what comes back; a removal gives it back in the background. */
static void deleted(struct simple_operation *p)
{
    json_object_set_new(p->result, "freed", json_integer((json_int_t)p->op.freed_bytes));
}

static void delete(struct session *s, json_t *request)
{
    json_t *list;
    int with_snapshots, dry_run;
    unsigned count;
    if (!session_arguments(s, request, "{s:o,s:b,s:b}", "names", &list, "snapshots", &with_snapshots, "dry-run", &dry_run))
        return;
    const char **names = session_names(s, list, &count);
    if (!names)
        return;
    json_t *kept = json_array();
    store_list_survived(session_store(s), names, count, append_name, kept);
    json_t *result = json_pack("{s:O,s:b,s:o}", "names", list, "dry-run", dry_run, "kept-by-clones", kept);
    struct simple_operation *p = simple_begin(s, result);
    if (!p) {
        free(names);
        return;
    }
    p->names = names;
    p->succeeded = dry_run ? deleted : NULL;
    image_delete(session_store(s), &p->op, names, count, with_snapshots, dry_run);
}

static void resize_store(struct session *s, json_t *request)
{
    json_int_t size;
    if (!session_arguments(s, request, "{s:I}", "size", &size))
        return;
    if (size <= 0) {
        session_answer_error(s, &(struct error){ -EINVAL, "the size of a store is a positive number of bytes" });
        return;
    }
    struct simple_operation *p = simple_begin(s, json_pack("{s:I}", "size", size / 4096 * 4096));
    if (p)
        store_resize(session_store(s), &p->op, (uint64_t)size);
}

const struct server_command server_image_commands[] = {
    { "create", create }, { "template", seal },    { "clone", clone },   { "clone-many", clone_many }, { "mv", rename_image },
    { "resize", resize }, { "protect", protect }, { "rm", delete },     { "resize-store", resize_store }, { NULL, NULL },
};
