/* cmd_data.c - read, write, diff. */
#include "tools/parallax/commands.h"

#include "tools/parallax/drain.h"
#include "tools/parallax/feed.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static int range_argument(const struct args *a, const char *what, const char *text, uint64_t *out)
{
    int status = args_size(a, what, text, out);
    if (status == EXIT_DONE && *out % 512)
        return cli_usage(a, "%s '%.64s' is not a multiple of 512", what, text);
    return status;
}

static int run_read(struct cli *cli, const struct args *a)
{
    uint64_t offset, length;
    struct sink s;
    struct progress silent = { 0 };
    struct error err = ERROR_NONE;
    json_t *result = NULL;
    int status = range_argument(a, "offset", a->words[1], &offset);
    if (status == EXIT_DONE)
        status = range_argument(a, "length", a->words[2], &length);
    if (status == EXIT_DONE && length == 0)
        status = cli_usage(a, "length '%.64s' is zero", a->words[2]);
    if (status == EXIT_DONE && cli->json)
        status = cli_usage(a, "read gives bytes, not a document; leave --json out");
    if (status != EXIT_DONE)
        return status;
    json_t *request = json_pack("{s:s,s:s,s:I,s:I}", "command", "read", "target", a->words[0], "offset", (json_int_t)offset, "length", (json_int_t)length);
    if (sink_open(&s, cli, "-", false, NULL, &err))
        json_decref(request);
    else if (drain_to_sink(cli, request, &s, offset, length, &silent, &result, &err) == 0)
        sink_finish(&s, &err);
    sink_close(&s);
    json_decref(result);
    return err.code ? cli_fail(&err) : EXIT_DONE;
}

static int write_source(struct cli *cli, const struct args *a, struct source *s, uint64_t offset, json_t **result, struct error *err)
{
    struct progress silent = { 0 };
    struct feed_options opt = { .target_offset = offset, .keep_zeroes = true, .progress = &silent };
    if (s->length % 512)
        return error_set(err, -EINVAL, "standard input has %llu bytes, which is not a multiple of 512; nothing was written", (unsigned long long)s->length);
    json_t *request = json_pack("{s:s,s:s,s:I,s:I}", "command", "write", "name", a->words[0], "offset", (json_int_t)offset, "length", (json_int_t)s->length);
    if (cli_begin(cli, request, err))
        return err->code;
    struct error why = ERROR_NONE;
    int bad = feed_source(cli, s, &opt, result, &why);
    if (bad == -ECANCELED) /* as it was for an import, nothing would have changed */
        return error_set(err, bad, "interrupted; '%.200s' may have part of it: each block of 4096 bytes is old or new", a->words[0]);
    return bad ? error_set(err, bad, "%s", why.text) : 0;
}

/* How much of the input can be meant: looked at before an input without end is read. The server judges the rest. */
static int room_behind(struct cli *cli, const char *name, uint64_t offset, uint64_t *room, struct error *err)
{
    json_t *image = cli_find_image(cli, name, err);
    if (err->code)
        return err->code;
    if (!image) /* for the server's words */
        return cli_request(cli, json_pack("{s:s,s:s}", "command", "snap-ls", "name", name), NULL, NULL, NULL, err);
    uint64_t size = json_count(image, "size");
    if (json_is_true(json_object_get(image, "template")))
        error_set(err, -EROFS, "'%.200s' is a template and cannot be written; clone it", name);
    json_decref(image);
    *room = size > offset ? size - offset : 0;
    return err->code;
}

static int run_write(struct cli *cli, const struct args *a)
{
    uint64_t offset;
    struct source s;
    struct error err = ERROR_NONE;
    json_t *result = NULL;
    int status = range_argument(a, "offset", a->words[1], &offset);
    if (status != EXIT_DONE)
        return status;
    uint64_t room = 0;
    if (room_behind(cli, a->words[0], offset, &room, &err) == 0 && source_open(&s, "-", 0, room, cli, &err) == 0) {
        write_source(cli, a, &s, offset, &result, &err);
        source_close(&s);
    }
    if (err.code)
        return cli_fail(&err);
    cli_done(cli, result, "wrote %llu bytes to %s", (unsigned long long)json_count(result, "written"), a->words[0]);
    json_decref(result);
    return EXIT_DONE;
}

/* ---- diff ---- */

struct diff_output {
    bool json;
    unsigned long count;
};

/* Lines are printed as they come, so that a long list needs no memory. */
static void print_run(void *ctx, json_t *run)
{
    struct diff_output *o = ctx;
    unsigned long long offset = (unsigned long long)json_integer_value(json_array_get(run, 0));
    unsigned long long length = (unsigned long long)json_integer_value(json_array_get(run, 1));
    const char *type = json_is_true(json_array_get(run, 2)) ? "data" : "zero";
    if (o->json)
        printf("%s\n  {\"offset\": %llu, \"length\": %llu, \"type\": \"%s\"}", o->count ? "," : "[", offset, length, type);
    else
        printf("%llu %llu %s\n", offset, length, type);
    o->count++;
}

/* FROM may be given as SNAP alone: then it is one of the same image. */
static void from_target(const char *from, const char *target, char *out, size_t room)
{
    const char *at = strchr(target, '@');
    int name = at ? (int)(at - target) : (int)strlen(target);
    if (from && !strchr(from, '@'))
        snprintf(out, room, "%.*s@%s", name, target, from);
    else
        snprintf(out, room, "%s", from ? from : "");
}

static int run_diff(struct cli *cli, const struct args *a)
{
    struct diff_output o = { .json = cli->json };
    char from[512];
    from_target(option_value(a, "from"), a->words[0], from, sizeof from);
    json_t *request = json_pack("{s:s,s:s,s:s*}", "command", "diff", "target", a->words[0], "from", *from ? from : NULL);
    int status = cli_call(cli, request, print_run, &o, NULL);
    if (cli->json && status == EXIT_DONE)
        puts(o.count ? "\n]" : "[]");
    return status;
}

const struct command data_commands[] = {
    { .name = "read", .arguments = "NAME[@SNAP] OFFSET LENGTH", .summary = "Print bytes of an image on standard output", .run = run_read,
      .least = 3, .most = 3,
      .examples = "  parallax read vm1 0 512 | xxd   # the first sector\n"
                  "  parallax read vm1@before 1M 4K >block\n" },
    { .name = "write", .arguments = "NAME OFFSET", .summary = "Write standard input into an image that nobody else writes", .run = run_write,
      .least = 2, .most = 2,
      .examples = "  parallax write vm1 0 <bootsector   # multiples of 512 bytes\n" },
    { .name = "diff", .arguments = "NAME[@SNAP]", .summary = "List where an image differs from a snapshot, or from nothing", .run = run_diff,
      .least = 1, .most = 1, .options = { { "from", 0, "SNAP", "compare with this snapshot of the image, or with NAME@SNAP" } },
      .examples = "  parallax diff vm1                         # what is stored, and where\n"
                  "  parallax diff --from monday vm1@tuesday   # what changed in between\n" },
    { 0 },
};
