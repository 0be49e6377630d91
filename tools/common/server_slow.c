/* server_slow.c - commands that look for a while: info, du, diff, map, check, gc.
 *
 * Their findings are sent as they come. A diff is stopped when too much of it waits to be sent. */
#include "tools/common/session.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define DU_NAMES 1024u           /* looked at together: what they share is walked once */
#define WAITING_MAX (256u << 20) /* bytes queued for one client */

/* One operation that walks; names and at are du's. */
struct slow {
    struct operation base;
    struct store_op op;
    struct batch batch;
    json_t *result;
    struct image_usage usage;
    struct store_check_result check;
    json_t *names;
    size_t at;
    const char *group[DU_NAMES];
    struct image_usage usages[DU_NAMES];
    unsigned group_count;
};

static void slow_destroy(struct operation *o)
{
    struct slow *w = container_of(o, struct slow, base);
    json_decref(w->batch.list);
    json_decref(w->result);
    json_decref(w->names);
    free(w);
}

static void slow_abort(struct operation *o) { store_op_cancel(&container_of(o, struct slow, base)->op); }

static const struct operation_ops slow_ops = { .abort = slow_abort, .destroy = slow_destroy };

static struct slow *slow_begin(struct session *s, void (*done)(struct store_op *op))
{
    struct slow *w = calloc(1, sizeof *w);
    if (!w) {
        session_answer_error(s, &(struct error){ -ENOMEM, "out of memory" });
        return NULL;
    }
    w->op.done = done;
    w->batch.session = s;
    operation_begin(s, &w->base, &slow_ops, false);
    return w;
}

/* Answers with the operation's error or, stealing it, with result; then ends. */
static void slow_finish(struct slow *w, const struct error *err, json_t *result)
{
    struct session *s = w->base.session;
    batch_flush(&w->batch);
    if (err->code) {
        json_decref(result);
        session_answer_error(s, err);
    } else {
        session_answer(s, result);
    }
    operation_end(&w->base);
}

/* ---- info ---- */

static int add_snapshot(void *ctx, const struct image_info *info)
{
    batch_add(ctx, doc_snapshot(info));
    return 0;
}

static void info_done(struct store_op *op)
{
    struct slow *w = container_of(op, struct slow, op);
    json_object_set_new(w->result, "data", json_integer((json_int_t)w->usage.data_bytes));
    json_object_set_new(w->result, "used", json_integer((json_int_t)w->usage.used_bytes));
    slow_finish(w, &op->error, json_incref(w->result));
}

static void info(struct session *s, json_t *request)
{
    const char *target;
    struct image_info found;
    struct error err = ERROR_NONE;
    if (!session_arguments(s, request, "{s:s}", "target", &target))
        return;
    if (store_find(session_store(s), target, &found, &err)) {
        session_answer_error(s, &err);
        return;
    }
    struct slow *w = slow_begin(s, info_done);
    if (!w)
        return;
    w->result = doc_image(&found);
    if (!found.is_snapshot)
        store_list_snapshots(session_store(s), target, add_snapshot, &w->batch, NULL);
    json_object_set_new(w->result, "snapshot", json_boolean(found.is_snapshot));
    image_get_usage(session_store(s), &w->op, target, &w->usage);
}

/* ---- du ---- */

static void du_next(struct slow *w)
{
    w->op = (struct store_op){ .done = w->op.done };
    for (w->group_count = 0; w->group_count < DU_NAMES && w->at < json_array_size(w->names); w->at++)
        w->group[w->group_count++] = json_string_value(json_array_get(w->names, w->at));
    if (w->group_count && !w->base.session->gone)
        image_get_usages(session_store(w->base.session), &w->op, w->group, w->group_count, w->usages);
    else
        slow_finish(w, &(struct error)ERROR_NONE, json_null());
}

/* An image that was deleted meanwhile is left out, unless it was asked for by name. */
static void du_done(struct store_op *op)
{
    struct slow *w = container_of(op, struct slow, op);
    struct image_info found;
    for (unsigned i = 0; i < w->group_count && !op->error.code; i++) {
        const struct image_usage *u = &w->usages[i];
        int gone = store_find(session_store(w->base.session), w->group[i], &found, json_array_size(w->names) == 1 ? &op->error : NULL);
        if (!gone && !u->missing)
            batch_add(&w->batch, json_pack("{s:s,s:I,s:I,s:I}", "name", w->group[i], "size", (json_int_t)found.size_bytes, "data",
                                           (json_int_t)u->data_bytes, "used", (json_int_t)u->used_bytes));
    }
    if (op->error.code)
        slow_finish(w, &op->error, NULL);
    else
        du_next(w);
}

static int add_name(void *ctx, const struct image_info *info)
{
    json_array_append_new(ctx, json_string(info->name));
    return 0;
}

static void du(struct session *s, json_t *request)
{
    const char *target = NULL;
    struct image_info found;
    struct error err = ERROR_NONE;
    if (!session_arguments(s, request, "{s?s}", "target", &target))
        return;
    if (target && store_find(session_store(s), target, &found, &err)) {
        session_answer_error(s, &err);
        return;
    }
    struct slow *w = slow_begin(s, du_done);
    if (!w)
        return;
    w->names = json_array();
    if (target)
        json_array_append_new(w->names, json_string(target));
    else
        store_list(session_store(s), add_name, w->names);
    du_next(w);
}

/* ---- diff ---- */

static int diff_run(void *ctx, uint64_t offset, uint64_t length, bool is_data)
{
    struct slow *w = ctx;
    struct session *s = w->base.session;
    if (s->gone)
        return -ECANCELED;
    if (s->peer.queued_bytes > WAITING_MAX)
        return -ENOBUFS;
    batch_add(&w->batch, json_pack("[I,I,b]", (json_int_t)offset, (json_int_t)length, is_data));
    return 0;
}

static void diff_done(struct store_op *op)
{
    struct slow *w = container_of(op, struct slow, op);
    struct error err = op->error;
    if (err.code == -ENOBUFS)
        err = (struct error){ -ENOBUFS, "too many differences wait to be sent; compare with a snapshot that is nearer" };
    slow_finish(w, &err, json_null());
}

static void diff(struct session *s, json_t *request)
{
    const char *from = NULL, *target;
    struct image_info found;
    struct error err = ERROR_NONE;
    if (!session_arguments(s, request, "{s?s,s:s}", "from", &from, "target", &target))
        return;
    if (store_find(session_store(s), target, &found, &err) || (from && store_find(session_store(s), from, &found, &err))) {
        session_answer_error(s, &err);
        return;
    }
    struct slow *w = slow_begin(s, diff_done);
    if (w)
        image_diff(session_store(s), &w->op, from, target, diff_run, w);
}

/* ---- map ---- */

static void map_done(struct store_op *op)
{
    slow_finish(container_of(op, struct slow, op), &op->error, json_null());
}

static void map(struct session *s, json_t *request)
{
    const char *target;
    json_int_t offset, length;
    if (!session_arguments(s, request, "{s:s,s:I,s:I}", "target", &target, "offset", &offset, "length", &length))
        return;
    if (offset < 0 || length < 0 || offset > (json_int_t)IMAGE_SIZE_MAX) {
        session_answer_error(s, &(struct error){ -EINVAL, "a range outside any image" });
        return;
    }
    struct slow *w = slow_begin(s, map_done);
    if (w)
        image_map(session_store(s), &w->op, target, (uint64_t)offset, (uint64_t)length, diff_run, w);
}

/* ---- check ---- */

static void check_finding(void *ctx, const char *line)
{
    struct slow *w = ctx;
    json_t *text = json_string(line);
    batch_add(&w->batch, text ? text : json_string("a finding that is not text"));
}

static void check_done(struct store_op *op)
{
    struct slow *w = container_of(op, struct slow, op);
    const struct store_check_result *c = &w->check;
    slow_finish(w, &op->error,
                json_pack("{s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I}", "blocks-checked", (json_int_t)c->blocks_checked, "nodes-checked",
                          (json_int_t)c->nodes_checked, "damaged", (json_int_t)c->damaged, "damaged-dead-lists", (json_int_t)c->dead_damaged,
                          "leaked-blocks", (json_int_t)c->leaked_blocks, "wrongly-free", (json_int_t)c->wrongly_free, "overcounted",
                          (json_int_t)c->overcounted, "undercounted", (json_int_t)c->undercounted, "lost-pages",
                          (json_int_t)c->lost_pages, "hidden", (json_int_t)c->hidden_bytes, "mended", (json_int_t)c->mended, "freed",
                          (json_int_t)c->freed_bytes));
}

static void check(struct session *s, json_t *request)
{
    int data, repair = 0;
    if (!session_arguments(s, request, "{s:b,s?b}", "data", &data, "repair", &repair))
        return;
    struct slow *w = slow_begin(s, check_done);
    if (w)
        store_check(session_store(s), &w->op, (data ? STORE_CHECK_DATA : 0u) | (repair ? STORE_CHECK_REPAIR : 0u), check_finding, w, &w->check);
}

static void gc(struct session *s, json_t *request)
{
    (void)request;
    struct slow *w = slow_begin(s, check_done);
    if (w)
        store_check(session_store(s), &w->op, STORE_CHECK_COLLECT, check_finding, w, &w->check);
}

const struct server_command server_slow_commands[] = { { "info", info }, { "du", du }, { "diff", diff }, { "map", map }, { "check", check },
                                                       { "gc", gc }, { NULL, NULL } };
