/* cmd_snap.c - snap create, ls, rm, mv, purge, rollback. */
#include "tools/parallax/commands.h"

#include "tools/common/size.h"

#include <stdio.h>
#include <string.h>

/* Snapshots are named NAME@SNAP; says so otherwise. */
static int need_snapshots(const struct args *a, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        if (!strchr(a->words[i], '@'))
            return cli_usage(a, "'%.200s' names no snapshot; write NAME@SNAP", a->words[i]);
    return EXIT_DONE;
}

static void say_names(struct cli *cli, const char *what, bool done, const json_t *result)
{
    size_t i;
    json_t *name;
    cli_json(cli, result);
    json_array_foreach(json_object_get(result, "names"), i, name)
        if (done)
            cli_done(cli, NULL, "%s %s", what, json_string_value(name));
        else
            cli_say(cli, "%s %s", what, json_string_value(name));
}

static int run_create(struct cli *cli, const struct args *a)
{
    json_t *result = NULL, *list = args_list(a);
    int status = cli_call(cli, list ? json_pack("{s:s,s:o}", "command", "snap-create", "targets", list) : NULL, NULL, NULL, &result);
    if (status == EXIT_DONE)
        say_names(cli, "created", true, result);
    json_decref(result);
    return status;
}

/* ---- ls ---- */

static void gather(void *ctx, json_t *element)
{
    json_object_del(element, "of");
    json_array_append(ctx, element);
}

static int run_ls(struct cli *cli, const struct args *a)
{
    static const char *const headings[] = { "NAME", ">SIZE", "CREATED", "" };
    json_t *list = json_array(), *snap;
    size_t i;
    int status = cli_call(cli, json_pack("{s:s,s:s}", "command", "snap-ls", "name", a->words[0]), gather, list, NULL);
    if (status == EXIT_DONE && !cli_json(cli, list) && json_array_size(list)) {
        struct table *t = table_create(headings, 4);
        json_array_foreach(list, i, snap) {
            char size[SIZE_TEXT_MAX];
            table_row(t, (const char *[]){ json_text(snap, "name"), json_size(snap, "size", size), json_text(snap, "created"),
                                           json_flag(snap, "protected") ? "protected" : "" });
        }
        table_print(t);
        table_destroy(t);
    }
    json_decref(list);
    return status;
}

/* ---- rm, purge ---- */

static int run_rm(struct cli *cli, const struct args *a)
{
    bool dry = option_set(a, "dry-run");
    char freed[SIZE_TEXT_MAX];
    json_t *result = NULL;
    int status = need_snapshots(a, a->count);
    if (status != EXIT_DONE)
        return status;
    json_t *list = args_list(a);
    status = cli_call(cli, list ? json_pack("{s:s,s:o,s:b}", "command", "snap-rm", "targets", list, "dry-run", dry) : NULL, NULL, NULL, &result);
    if (status == EXIT_DONE)
        say_names(cli, dry ? "would remove" : "removed", !dry, result);
    if (status == EXIT_DONE && dry)
        cli_say(cli, "that would give back %s", json_size(result, "freed", freed));
    json_decref(result);
    return status;
}

static int run_purge(struct cli *cli, const struct args *a)
{
    json_t *result = NULL;
    int status = cli_call(cli, json_pack("{s:s,s:s}", "command", "snap-purge", "name", a->words[0]), NULL, NULL, &result);
    if (status == EXIT_DONE)
        cli_done(cli, result, "removed all snapshots of %s", a->words[0]);
    json_decref(result);
    return status;
}

/* ---- mv, rollback ---- */

static int run_mv(struct cli *cli, const struct args *a)
{
    json_t *result = NULL;
    int status = need_snapshots(a, 1);
    if (status != EXIT_DONE)
        return status;
    const char *at = strchr(a->words[0], '@'), *to = a->words[1], *to_at = strchr(to, '@');
    /* NAME@B is understood as well as B. */
    if (to_at && (size_t)(to_at - to) == (size_t)(at - a->words[0]) && !strncmp(to, a->words[0], (size_t)(to_at - to)))
        to = to_at + 1;
    json_t *image = json_stringn(a->words[0], (size_t)(at - a->words[0]));
    status = cli_call(cli, json_pack("{s:s,s:o,s:s,s:s}", "command", "snap-mv", "image", image, "from", at + 1, "to", to), NULL, NULL, &result);
    if (status == EXIT_DONE)
        cli_done(cli, result, "renamed %s to %s", a->words[0], json_text(result, "name"));
    json_decref(result);
    return status;
}

static int run_rollback(struct cli *cli, const struct args *a)
{
    const char *keep = option_value(a, "keep");
    json_t *result = NULL;
    int status = need_snapshots(a, 1);
    if (status != EXIT_DONE)
        return status;
    status = cli_call(cli, json_pack("{s:s,s:s,s:s*}", "command", "snap-rollback", "target", a->words[0], "keep", keep), NULL, NULL, &result);
    if (status == EXIT_DONE) {
        cli_done(cli, result, "rolled back to %s%s%s", a->words[0], keep ? "; the state before is kept as snapshot " : "", keep ? keep : "");
    }
    json_decref(result);
    return status;
}

const struct command snap_commands[] = {
    { .name = "snap create", .arguments = "NAME[@SNAP] …", .summary = "Freeze images, all at one point in time", .run = run_create, .least = 1,
      .most = 10000,
      .examples = "  parallax snap create vm1@before-upgrade\n"
                  "  parallax snap create vm1                    # named by the time in UTC\n"
                  "  parallax snap create db-data@b1 db-log@b1   # both frozen at the same instant\n" },
    { .name = "snap ls", .arguments = "NAME", .summary = "List the snapshots of an image", .run = run_ls, .least = 1, .most = 1,
      .examples = "  parallax snap ls vm1\n"
                  "  parallax snap ls --json vm1 | jq -r '.[].name'\n" },
    { .name = "snap rm", .arguments = "NAME@SNAP …", .summary = "Remove snapshots, all or none", .run = run_rm, .least = 1, .most = 10000,
      .options = { { "dry-run", 'n', NULL, "only say what would come back" } },
      .examples = "  parallax snap rm -n vm1@old          # only says what it would give back\n"
                  "  parallax snap rm vm1@old vm1@older   # in any order, also under clones\n" },
    { .name = "snap mv", .arguments = "NAME@A B", .summary = "Rename a snapshot", .run = run_mv, .least = 2, .most = 2,
      .examples = "  parallax snap mv vm1@a before-upgrade   # now vm1@before-upgrade\n" },
    { .name = "snap purge", .arguments = "NAME", .summary = "Remove all snapshots of an image", .run = run_purge, .least = 1, .most = 1,
      .examples = "  parallax snap purge vm1   # the image itself stays as it is\n" },
    { .name = "snap rollback", .arguments = "NAME@SNAP", .summary = "Put an image back to a snapshot", .run = run_rollback, .least = 1, .most = 1,
      .options = { { "keep", 0, "SNAP", "first take a snapshot SNAP of the state that is thrown away" } },
      .examples = "  parallax snap rollback vm1@before-upgrade    # its guest must be off; newer snapshots stay\n"
                  "  parallax snap rollback vm1@good --keep bad   # what is thrown away stays as vm1@bad\n" },
    { 0 },
};
