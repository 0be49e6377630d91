/* call.c - one request and its answer. */
#include "tools/parallax/cli.h"

#include <errno.h>
#include <string.h>

static int lost(const struct cli *cli, int code, struct error *err)
{
    if (code == -ECANCELED)
        return error_set(err, code, "interrupted");
    if (code == -ECONNRESET)
        return error_set(err, code, cli->local ? "the store's thread ended" : "the daemon ended before it answered; see its log and try again");
    if (code == -EMSGSIZE)
        return error_set(err, code, "the request is too long");
    return error_set(err, code, "talking to the daemon failed: %s", strerror(-code));
}

int cli_begin(struct cli *cli, json_t *request, struct error *err)
{
    int bad = 0;
    if (!request)
        error_set(err, -EINVAL, "an argument is not valid UTF-8 text");
    else if (cli_connect(cli, err) == 0 && (bad = control_client_send_json(&cli->client, CONTROL_REQUEST, request)))
        lost(cli, bad, err);
    json_decref(request);
    return err->code;
}

/* Takes the reply apart. */
static int take_reply(json_t *doc, json_t **result, struct error *err)
{
    json_t *problem = json_object_get(doc, "error");
    int code = (int)json_integer_value(json_object_get(problem, "code"));
    if (problem)
        error_set(err, code < 0 ? code : -EIO, "%s", json_text(problem, "text"));
    else if (result)
        *result = json_incref(json_object_get(doc, "result"));
    return err->code;
}

int cli_receive(struct cli *cli, struct control_frame *f, json_t **result, struct error *err)
{
    int bad = control_client_receive(&cli->client, f);
    if (bad)
        return lost(cli, bad, err);
    if (f->type != CONTROL_REPLY)
        return 0;
    bad = take_reply(f->doc, result, err);
    json_decref(f->doc);
    f->doc = NULL;
    return bad;
}

int cli_request(struct cli *cli, json_t *request, cli_item *item, void *ctx, json_t **result, struct error *err)
{
    if (cli_begin(cli, request, err))
        return err->code;
    for (;;) {
        struct control_frame f;
        if (cli_receive(cli, &f, result, err))
            return err->code;
        if (f.type == CONTROL_REPLY)
            return 0;
        for (size_t i = 0; item && f.type == CONTROL_ITEM && i < json_array_size(f.doc); i++)
            item(ctx, json_array_get(f.doc, i));
        json_decref(f.doc);
    }
}

int cli_call(struct cli *cli, json_t *request, cli_item *item, void *ctx, json_t **result)
{
    struct error err = ERROR_NONE;
    return cli_request(cli, request, item, ctx, result, &err) ? cli_fail(&err) : EXIT_DONE;
}

struct looked_for {
    const char *name;
    json_t *found;
};

static void match_name(void *ctx, json_t *image)
{
    struct looked_for *l = ctx;
    if (!strcmp(json_text(image, "name"), l->name))
        l->found = json_incref(image);
}

json_t *cli_find_image(struct cli *cli, const char *name, struct error *err)
{
    struct looked_for l = { name, NULL };
    cli_request(cli, json_pack("{s:s}", "command", "ls"), match_name, &l, NULL, err);
    cli_disconnect(cli);
    return l.found;
}

struct lists {
    json_t *devices, *open;
};

static void gather_lists(void *ctx, json_t *element)
{
    const struct lists *l = ctx;
    json_t *list = strcmp(json_text(element, "of"), "open") ? l->devices : l->open;
    json_object_del(element, "of");
    json_array_append(list, element);
}

int cli_status(struct cli *cli, json_t **doc, struct error *err)
{
    struct lists l = { json_array(), json_array() };
    if (cli_request(cli, json_pack("{s:s}", "command", "status"), gather_lists, &l, doc, err) == 0) {
        json_object_set(*doc, "devices", l.devices);
        json_object_set(*doc, "open", l.open);
    }
    json_decref(l.devices);
    json_decref(l.open);
    return err->code;
}
