/* cmd_image.c - create, template, clone, rm, mv, resize, protect, unprotect. */
#include "tools/parallax/commands.h"

#include "tools/common/size.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SMALL_BYTES (1u << 20)

/* "10 GiB (10737418240 bytes)" */
static char *spell_size(uint64_t bytes, char *out, size_t room)
{
    char text[SIZE_TEXT_MAX];
    snprintf(out, room, "%s (%llu bytes)", size_format(bytes, text), (unsigned long long)bytes);
    return out;
}

/* A number without a unit may have been meant as something larger. */
static void hint_bare(const struct cli *cli, const char *text, uint64_t bytes)
{
    if (size_is_bare(text) && bytes < SMALL_BYTES)
        cli_note(cli, "parallax: note: '%s' means bytes; write %sM or %sG for more", text, text, text);
}

/* Checks what the engine would refuse anyway, with the hint that belongs to it. */
static int image_size_argument(const struct args *a, const char *text, uint64_t *out)
{
    int status = args_size(a, "size", text, out);
    if (status == EXIT_DONE && *out == 0)
        return cli_usage(a, "size '%.64s' is zero", text);
    if (status == EXIT_DONE && *out % 512)
        return cli_usage(a, "size '%.64s' means %llu bytes, which is not a multiple of 512%s", text, (unsigned long long)*out,
                         size_is_bare(text) && *out < SMALL_BYTES ? "; add K, M, G, T or P for larger units" : "");
    return status;
}

static int run_create(struct cli *cli, const struct args *a)
{
    uint64_t size;
    char spelled[96];
    json_t *result = NULL;
    int status = image_size_argument(a, a->words[1], &size);
    if (status == EXIT_DONE)
        status = cli_call(cli, json_pack("{s:s,s:s,s:I}", "command", "create", "name", a->words[0], "size", (json_int_t)size), NULL, NULL, &result);
    if (status == EXIT_DONE) {
        hint_bare(cli, a->words[1], size);
        cli_done(cli, result, "created %s: %s", a->words[0], spell_size(size, spelled, sizeof spelled));
    }
    json_decref(result);
    return status;
}

/* Sends a request whose answer people read as one line. */
static int call_and_say(struct cli *cli, json_t *request, const char *line)
{
    json_t *result = NULL;
    int status = cli_call(cli, request, NULL, NULL, &result);
    if (status == EXIT_DONE)
        cli_done(cli, result, "%s", line);
    json_decref(result);
    return status;
}

static int run_template(struct cli *cli, const struct args *a)
{
    char line[400];
    snprintf(line, sizeof line, "sealed %.200s: a template", a->words[0]);
    return call_and_say(cli, json_pack("{s:s,s:s}", "command", "template", "name", a->words[0]), line);
}

static int parse_number(const struct args *a, const char *option, const char *text, long long least, long long most, long long *out)
{
    char *end;
    errno = 0;
    long long n = strtoll(text, &end, 10);
    if (errno || end == text || *end || n < least || n > most)
        return cli_usage(a, "--%s is a number from %lld to %lld, not '%.64s'", option, least, most, text);
    *out = n;
    return EXIT_DONE;
}

static int run_clone(struct cli *cli, const struct args *a)
{
    const char *count_text = option_value(a, "count"), *first_text = option_value(a, "first");
    const char *source = a->words[0], *name = a->words[1];
    long long count = 1, first = 0;
    char line[600];
    if (first_text && !count_text)
        return cli_usage(a, "--first belongs to --count");
    if (!count_text) {
        snprintf(line, sizeof line, "cloned %.250s to %.250s", source, name);
        return call_and_say(cli, json_pack("{s:s,s:s,s:s}", "command", "clone", "source", source, "name", name), line);
    }
    int status = parse_number(a, "count", count_text, 1, 100000, &count);
    if (status == EXIT_DONE && first_text)
        status = parse_number(a, "first", first_text, 0, INT32_MAX, &first);
    if (status != EXIT_DONE)
        return status;
    snprintf(line, sizeof line, "cloned %.200s to %lld images, %.150s%lld to %.150s%lld", source, count, name, first, name, first + count - 1);
    return call_and_say(cli, json_pack("{s:s,s:s,s:s,s:I,s:I}", "command", "clone-many", "source", source, "prefix", name, "first",
                                       (json_int_t)first, "count", (json_int_t)count), line);
}

/* ---- rm ---- */

static int run_rm(struct cli *cli, const struct args *a)
{
    char freed[SIZE_TEXT_MAX];
    json_t *result = NULL, *name, *list = args_list(a);
    size_t i;
    for (unsigned k = 0; k < a->count; k++)
        if (strchr(a->words[k], '@')) {
            json_decref(list);
            return cli_usage(a, "'%.200s' is a snapshot; remove it with parallax snap rm", a->words[k]);
        }
    int status = cli_call(cli, list ? json_pack("{s:s,s:o,s:b,s:b}", "command", "rm", "names", list, "snapshots", option_set(a, "snapshots"),
                                                "dry-run", option_set(a, "dry-run")) : NULL, NULL, NULL, &result);
    if (status == EXIT_DONE) {
        bool dry = option_set(a, "dry-run");
        char what[300];
        snprintf(what, sizeof what, a->count == 1 ? "%.250s" : "%.250s and %u more", a->words[0], a->count - 1);
        if (!dry)
            cli_done(cli, result, "removed %s", what);
        else if (!cli_json(cli, result))
            cli_say(cli, "would remove %s and give back %s", what, json_size(result, "freed", freed));
        json_array_foreach(json_object_get(result, "kept-by-clones"), i, name)
            cli_say(cli, "%s has clones: the blocks they share stay until the last of them is removed", json_string_value(name));
    }
    json_decref(result);
    return status;
}

/* ---- mv, resize, protect ---- */

static int run_mv(struct cli *cli, const struct args *a)
{
    char line[600];
    snprintf(line, sizeof line, "renamed %.250s to %.250s", a->words[0], a->words[1]);
    return call_and_say(cli, json_pack("{s:s,s:s,s:s}", "command", "mv", "name", a->words[0], "to", a->words[1]), line);
}

static int run_resize(struct cli *cli, const struct args *a)
{
    const char *text = a->words[1];
    bool relative = *text == '+';
    uint64_t size;
    char spelled[96];
    json_t *result = NULL;
    int status = image_size_argument(a, text + relative, &size);
    if (status != EXIT_DONE)
        return status;
    status = cli_call(cli, json_pack("{s:s,s:s,s:I,s:b,s:b}", "command", "resize", "name", a->words[0], "size", (json_int_t)size, "relative",
                                     relative, "shrink", option_set(a, "shrink")), NULL, NULL, &result);
    if (status == EXIT_DONE) {
        hint_bare(cli, text + relative, size);
        cli_done(cli, result, "resized %s: %s", a->words[0], spell_size(json_count(result, "size"), spelled, sizeof spelled));
    }
    json_decref(result);
    return status;
}

static int set_protection(struct cli *cli, const struct args *a, bool on)
{
    char line[400];
    snprintf(line, sizeof line, "%s %.250s", on ? "protected" : "no longer protected:", a->words[0]);
    return call_and_say(cli, json_pack("{s:s,s:s,s:b}", "command", "protect", "target", a->words[0], "on", on), line);
}

static int run_protect(struct cli *cli, const struct args *a) { return set_protection(cli, a, true); }
static int run_unprotect(struct cli *cli, const struct args *a) { return set_protection(cli, a, false); }

const struct command image_commands[] = {
    { .name = "create", .arguments = "NAME SIZE", .summary = "Make an empty image", .run = run_create, .least = 2, .most = 2,
      .examples = "  parallax create vm1 20G   # takes no space until it is written\n"
                  "  parallax create scratch 512M\n" },
    { .name = "template", .arguments = "NAME", .summary = "Seal an image as a template: read-only, meant to be cloned", .run = run_template,
      .least = 1, .most = 1,
      .examples = "  parallax template debian-12   # from now on it can be cloned and not be written\n" },
    { .name = "clone", .arguments = "SRC[@SNAP] NEW|PREFIX", .summary = "Make images that begin as SRC is, without copying", .run = run_clone,
      .least = 2, .most = 2,
      .options = { { "count", 0, "N", "make N clones PREFIX0, PREFIX1, … in one step: all or none" },
                   { "first", 0, "M", "with --count: the number of the first (default: 0)" } },
      .examples = "  parallax clone debian-12 vm1\n"
                  "  parallax clone vm1 vm1-copy                             # of a running guest: as of this instant\n"
                  "  parallax clone vm1@before-upgrade test\n"
                  "  parallax clone --count 1000 --first 1 debian-12 node-   # node-1 to node-1000 in one step\n" },
    { .name = "rm", .arguments = "NAME …", .summary = "Remove images, all or none", .run = run_rm, .least = 1, .most = 100000,
      .options = { { "snapshots", 0, NULL, "remove their snapshots too" }, { "dry-run", 'n', NULL, "only say what would come back" } },
      .examples = "  parallax rm -n vm1 vm2        # only says what they would give back\n"
                  "  parallax rm vm1 vm2           # both or none\n"
                  "  parallax rm --snapshots vm3   # with all its snapshots\n" },
    { .name = "mv", .arguments = "NAME NEW", .summary = "Rename an image", .run = run_mv, .least = 2, .most = 2,
      .examples = "  parallax mv vm1 web1   # also while a guest has it\n" },
    { .name = "resize", .arguments = "NAME [+]SIZE", .summary = "Change an image's size", .run = run_resize, .least = 2, .most = 2,
      .options = { { "shrink", 0, NULL, "allow a smaller size: what lies behind is lost" } },
      .examples = "  parallax resize vm1 40G\n"
                  "  parallax resize vm1 +10G          # a running guest sees it at once\n"
                  "  parallax resize --shrink vm1 5G   # what lies behind is lost\n" },
    { .name = "protect", .arguments = "NAME[@SNAP]", .summary = "Refuse to remove an image or snapshot", .run = run_protect, .least = 1, .most = 1,
      .examples = "  parallax protect golden\n"
                  "  parallax protect vm1@audit\n" },
    { .name = "unprotect", .arguments = "NAME[@SNAP]", .summary = "Allow to remove it again", .run = run_unprotect, .least = 1, .most = 1,
      .examples = "  parallax unprotect golden\n" },
    { 0 },
};
