/* server_content.c - commands about what blocks hold: digest, dedup. They take long, and end soon when their client goes away. */
#include "tools/common/session.h"

#include <errno.h>
#include <stdlib.h>

struct content {
    struct operation base;
    struct store_op op;
    struct image_digest digest;
    struct image_dedup dedup;
};

static void content_destroy(struct operation *o) { free(container_of(o, struct content, base)); }
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
    if (!session_arguments(s, request, "{s:s}", "target", &target))
        return;
    struct content *c = content_begin(s, digest_done);
    if (c)
        image_get_digest(session_store(s), &c->op, target, &c->digest);
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

const struct server_command server_content_commands[] = { { "digest", digest }, { "dedup", dedup }, { NULL, NULL } };
