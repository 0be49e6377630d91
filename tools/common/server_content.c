/* server_content.c - commands about what blocks hold: digest, dedup, scrub. They take long, and end soon when their client goes
 * away. */
#include "tools/common/session.h"

#include <errno.h>
#include <stdlib.h>

struct content {
    struct operation base;
    struct store_op op;
    struct image_digest digest;
    struct image_dedup dedup;
    struct batch batch; /* findings */
    struct store_scrub_options scrub_options;
    struct store_scrub_result scrub;
};

static void content_destroy(struct operation *o)
{
    struct content *c = container_of(o, struct content, base);
    json_decref(c->batch.list);
    free(c);
}
static void content_abort(struct operation *o) { store_op_cancel(&container_of(o, struct content, base)->op); }

static const struct operation_ops content_ops = { .abort = content_abort, .destroy = content_destroy };

static struct content *content_begin(struct session *s, void (*done)(struct store_op *op))
{
    struct content *c = calloc(1, sizeof *c);
    if (!c) {
        session_answer_error(s, &(struct error){ -ENOMEM, "out of memory" });
        return NULL;
    }
    c->op.done = done;
    operation_begin(s, &c->base, &content_ops, false);
    return c;
}

/* Answers with the operation's error or, stealing it, with result; then ends. */
static void content_finish(struct content *c, json_t *result)
{
    if (c->op.error.code) {
        json_decref(result);
        session_answer_error(c->base.session, &c->op.error);
    } else {
        session_answer(c->base.session, result);
    }
    operation_end(&c->base);
}

static void digest_done(struct store_op *op)
{
    struct content *c = container_of(op, struct content, op);
    static const char digits[] = "0123456789abcdef";
    char text[2 * IMAGE_DIGEST_BYTES + 1] = "";
    for (unsigned i = 0; i < IMAGE_DIGEST_BYTES; i++) {
        text[2 * i] = digits[c->digest.sha256[i] >> 4];
        text[2 * i + 1] = digits[c->digest.sha256[i] & 15];
    }
    content_finish(c, json_pack("{s:s,s:I}", "digest", text, "hashed", (json_int_t)c->digest.hashed_bytes));
}

static void digest(struct session *s, json_t *request)
{
    const char *target;
    int whole = 0;
    if (!session_arguments(s, request, "{s:s,s?b}", "target", &target, "whole", &whole))
        return;
    struct content *c = content_begin(s, digest_done);
    if (c)
        (whole ? image_verify_digest : image_get_digest)(session_store(s), &c->op, target, &c->digest);
}

static void dedup_done(struct store_op *op)
{
    struct content *c = container_of(op, struct content, op);
    content_finish(c, json_pack("{s:I,s:I}", "examined", (json_int_t)c->dedup.examined_bytes, "shared", (json_int_t)c->dedup.shared_bytes));
}

static void dedup(struct session *s, json_t *request)
{
    const char *name;
    if (!session_arguments(s, request, "{s:s}", "name", &name))
        return;
    struct content *c = content_begin(s, dedup_done);
    if (c)
        image_dedup(session_store(s), &c->op, name, &c->dedup);
}

/* ---- scrub: findings are strings, progress is a number ---- */

static void scrub_finding(void *ctx, const char *line)
{
    struct content *c = ctx;
    json_t *text = json_string(line);
    batch_add(&c->batch, text ? text : json_string("a finding that is not text"));
    batch_flush(&c->batch);
}

static void scrub_progress(void *ctx, uint64_t bytes)
{
    struct content *c = ctx;
    batch_add(&c->batch, json_integer((json_int_t)bytes));
    batch_flush(&c->batch);
}

static void scrub_done(struct store_op *op)
{
    struct content *c = container_of(op, struct content, op);
    const struct store_scrub_result *r = &c->scrub;
    content_finish(c, json_pack("{s:I,s:I,s:I}", "bytes", (json_int_t)r->bytes, "damaged", (json_int_t)r->damaged, "resumed", (json_int_t)r->resumed_bytes));
}

static void scrub(struct session *s, json_t *request)
{
    json_int_t rate;
    if (!session_arguments(s, request, "{s:I}", "rate", &rate))
        return;
    struct content *c = content_begin(s, scrub_done);
    if (!c)
        return;
    c->batch.session = s;
    c->scrub_options = (struct store_scrub_options){ .rate_bytes = rate > 0 ? (uint64_t)rate : 0, .finding = scrub_finding, .progress = scrub_progress, .ctx = c };
    store_scrub(session_store(s), &c->op, &c->scrub_options, &c->scrub);
}

const struct server_command server_content_commands[] = { { "digest", digest }, { "dedup", dedup }, { "scrub", scrub }, { NULL, NULL } };
