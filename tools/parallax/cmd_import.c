/* cmd_import.c - import. */
#include "tools/parallax/commands.h"

#include "tools/common/size.h"
#include "tools/parallax/feed.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define IMAGE_MAX_BYTES (16ull << 40)

static int check_format_option(const struct args *a, const char *format)
{
    static const char *const known[] = { "qcow2", "vhd", "vhdx", "vmdk", "vdi" };
    if (!format || !strcmp(format, "raw"))
        return EXIT_DONE;
    for (unsigned i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(format, known[i]))
            return cli_usage(a, "format '%s' cannot be imported yet; convert the file with qemu-img convert -O raw", format);
    return cli_usage(a, "unknown format '%.64s'; there is only raw", format);
}

/* Formats are told from the first and last bytes before anything is sent, unless the source can be read only once. */
static int refuse_formats(struct cli *cli, struct source *s, struct error *err)
{
    unsigned char head[FORMAT_HEAD] = { 0 }, tail[FORMAT_TAIL] = { 0 };
    if (s->streamed)
        return 0;
    uint64_t tail_at = s->length > FORMAT_TAIL ? s->length - FORMAT_TAIL : 0;
    if (source_read(s, cli, 0, head, s->length < FORMAT_HEAD ? (size_t)s->length : FORMAT_HEAD, err) ||
        source_read(s, cli, tail_at, tail, (size_t)(s->length - tail_at), err))
        return err->code;
    const char *format = format_of_head(head);
    if (!format)
        format = format_of_tail(tail);
    if (!format)
        return 0;
    return error_set(err, -ENOTSUP, "'%.200s' is a %s file, which cannot be imported yet; convert it with qemu-img convert -O raw, or store its bytes as they are with --format raw",
                     s->name, format);
}

static int transfer(struct cli *cli, const struct args *a, struct source *s, json_t **result, struct error *err)
{
    struct progress progress;
    uint64_t padded = (s->length + 511) & ~(uint64_t)511;
    bool raw = option_set(a, "format");
    if (!raw && refuse_formats(cli, s, err))
        return err->code;
    json_t *request = json_pack("{s:s,s:s,s:I,s:b}", "command", "import", "name", a->words[1], "size", (json_int_t)padded, "template",
                                option_set(a, "template"));
    if (cli_begin(cli, request, err))
        return err->code;
    struct feed_options opt = { .refuse_format = raw ? NULL : s->name, .progress = &progress };
    progress_begin(&progress, cli, "import", s->length);
    feed_source(cli, s, &opt, result, err);
    progress_end(&progress, !err->code);
    return err->code;
}

static int run_import(struct cli *cli, const struct args *a)
{
    struct source s;
    struct error err = ERROR_NONE;
    json_t *result = NULL;
    uint64_t announced = 0;
    char size[SIZE_TEXT_MAX];
    const char *size_text = option_value(a, "size");
    int status = check_format_option(a, option_value(a, "format"));
    if (status == EXIT_DONE && size_text)
        status = args_size(a, "size", size_text, &announced);
    if (status == EXIT_DONE && size_text && !announced)
        status = cli_usage(a, "size '%.64s' is zero", size_text);
    if (status != EXIT_DONE)
        return status;
    /* An input without end must not be read for a name that cannot be given. */
    json_t *taken = strcmp(a->words[0], "-") ? NULL : cli_find_image(cli, a->words[1], &err);
    if (taken)
        error_set(&err, -EEXIST, "image '%.200s' exists already; choose another name", a->words[1]);
    json_decref(taken);
    if (err.code || source_open(&s, a->words[0], announced, IMAGE_MAX_BYTES, cli, &err))
        return cli_fail(&err);
    transfer(cli, a, &s, &result, &err);
    source_close(&s);
    if (err.code) {
        cli_disconnect(cli);
        return cli_fail(&err);
    }
    if (!cli_json(cli, result))
        cli_say(cli, "imported %s: %s, %s", a->words[1], json_size(result, "size", size), option_set(a, "template") ? "raw, a template" : "raw");
    json_decref(result);
    return EXIT_DONE;
}

const struct command import_commands[] = {
    { .name = "import", .arguments = "SRC NAME", .summary = "Make an image from a file, a device or standard input (-)", .run = run_import,
      .least = 2, .most = 2,
      .options = { { "template", 0, NULL, "seal it as a template" },
                   { "format", 0, "raw", "store the bytes as they are, whatever format they look like" },
                   { "size", 0, "SIZE", "how long standard input is: saves a temporary copy" } },
      .examples = "  parallax import debian-12.raw debian-12 --template\n  xzcat disk.raw.xz | parallax import - vm1\n"
                  "  parallax import /dev/vg0/old-disk vm2\n" },
    { 0 },
};
