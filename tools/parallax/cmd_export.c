/* cmd_export.c - export. */
#include "tools/parallax/commands.h"

#include "tools/common/size.h"
#include "tools/parallax/drain.h"

#include <string.h>

static int run_export(struct cli *cli, const struct args *a)
{
    struct sink s;
    struct progress progress;
    struct error err = ERROR_NONE;
    json_t *result = NULL;
    char size[SIZE_TEXT_MAX];
    bool to_stdout = !strcmp(a->words[1], "-");
    const char *format = option_value(a, "format");
    if (format && strcmp(format, "raw") && strcmp(format, "qcow2") && strcmp(format, "vhd"))
        return cli_usage(a, "unknown format '%.64s'; there are raw, qcow2 and vhd", format);
    if (format && !strcmp(format, "raw"))
        format = NULL;
    if (to_stdout && cli->json)
        return cli_usage(a, "--json and an export to standard output exclude each other");
    if (sink_open(&s, cli, a->words[1], option_set(a, "force"), format, &err) == 0) {
        progress_begin(&progress, cli, "export", 0);
        json_t *request = json_pack("{s:s,s:s}", "command", "export", "target", a->words[0]);
        if (drain_to_sink(cli, request, &s, 0, 0, &progress, &result, &err) == 0)
            sink_finish(&s, &err);
        progress_end(&progress, !err.code);
    }
    sink_close(&s);
    if (err.code)
        return cli_fail(&err);
    json_object_set_new(result, "destination", json_string(a->words[1]));
    if (!to_stdout)
        cli_done(cli, result, "exported %s to %s: %s%s%s", a->words[0], a->words[1], json_size(result, "size", size), format ? ", " : "", format ? format : "");
    json_decref(result);
    return EXIT_DONE;
}

const struct command export_commands[] = {
    { .name = "export", .arguments = "NAME[@SNAP] DST", .summary = "Write an image as a sparse file, to a device or to standard output (-)",
      .run = run_export, .least = 2, .most = 2, .options = { { "force", 0, NULL, "replace an existing file, or overwrite a device" },
                                         { "format", 0, "F", "raw (default), qcow2 or vhd" } },
      .examples = "  parallax export vm1 vm1.raw                 # sparse; of a running guest: as of this instant\n"
                  "  parallax export vm1@nightly - | zstd >vm1.zst\n"
                  "  parallax export vm1 vm1.qcow2 --format qcow2\n"
                  "  parallax export vm1 /dev/vg0/copy --force   # over what is there\n" },
    { 0 },
};
