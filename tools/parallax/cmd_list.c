/* cmd_list.c - ls, info, du, tree. */
#include "tools/parallax/commands.h"

#include "tools/common/size.h"
#include "tools/parallax/paste.h"
#include "tools/parallax/tree.h"
#include "tools/parallax/xl.h"

#include <errno.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Builds the list of images that match; a snapshot follows its image. */
struct selection {
    const char *glob; /* NULL: all */
    json_t *list, *current;
};

static void gather(void *ctx, json_t *element)
{
    struct selection *s = ctx;
    if (json_object_get(element, "of")) {
        if (s->current) {
            json_object_del(element, "of");
            json_array_append(json_object_get(s->current, "snapshots"), element);
        }
        return;
    }
    s->current = NULL;
    if (s->glob && fnmatch(s->glob, json_text(element, "name"), 0))
        return;
    json_object_set_new(element, "snapshots", json_array());
    json_array_append(s->list, element);
    s->current = element;
}

static int select_images(struct cli *cli, const char *glob, json_t **list)
{
    struct selection s = { .glob = glob, .list = json_array() };
    int status = cli_call(cli, json_pack("{s:s}", "command", "ls"), gather, &s, NULL);
    *list = s.list;
    return status;
}

static void print_long(const json_t *list)
{
    static const char *const headings[] = { "NAME", ">SIZE", ">SNAPSHOTS", "PARENT", "CREATED", "STATE" };
    struct table *t = table_create(headings, 6);
    size_t i;
    json_t *image;
    json_array_foreach(list, i, image) {
        char size[SIZE_TEXT_MAX], snapshots[24], state[256];
        const char *holder = json_text(image, "holder");
        snprintf(snapshots, sizeof snapshots, "%zu", json_array_size(json_object_get(image, "snapshots")));
        snprintf(state, sizeof state, "%s%s%s%s", json_flag(image, "template") ? "template " : "", json_flag(image, "protected") ? "protected " : "",
                 *holder ? "written by " : "", holder);
        table_row(t, (const char *[]){ json_text(image, "name"), json_size(image, "size", size), snapshots,
                                       *json_text(image, "parent") ? json_text(image, "parent") : "-", json_text(image, "created"), state });
    }
    table_print(t);
    table_destroy(t);
}

static int run_ls(struct cli *cli, const struct args *a)
{
    json_t *list, *image;
    size_t i;
    int status = select_images(cli, a->count ? a->words[0] : NULL, &list);
    if (status == EXIT_DONE && !cli_json(cli, list)) {
        if (option_set(a, "long"))
            print_long(list);
        else
            json_array_foreach(list, i, image)
                puts(json_text(image, "name"));
    }
    json_decref(list);
    return status;
}

/* ---- info ---- */

static void append(void *ctx, json_t *element) { json_array_append(ctx, element); }

static void print_field(const char *label, const char *value)
{
    if (*value)
        printf("%-12s %s\n", label, value);
}

static void print_size(const char *label, const json_t *doc, const char *key)
{
    char size[SIZE_TEXT_MAX], line[128];
    snprintf(line, sizeof line, "%s (%llu bytes)", json_size(doc, key, size), (unsigned long long)json_count(doc, key));
    print_field(label, line);
}

static void print_info(const json_t *doc)
{
    const json_t *snapshots = json_object_get(doc, "snapshots");
    char number[32];
    size_t i;
    json_t *snap;
    print_field("name", json_text(doc, "name"));
    print_field("kind", json_flag(doc, "snapshot") ? "snapshot" : json_flag(doc, "template") ? "template" : "image");
    print_size("size", doc, "size");
    print_size("data", doc, "data");
    print_size("used", doc, "used");
    print_field("parent", json_text(doc, "parent"));
    print_field("created", json_text(doc, "created"));
    print_field("last write", json_text(doc, "last-write"));
    print_field("protected", json_flag(doc, "protected") ? "yes" : "no");
    print_field("written by", json_text(doc, "holder"));
    snprintf(number, sizeof number, "%llu", (unsigned long long)json_count(doc, "readers"));
    print_field("readers", number);
    snprintf(number, sizeof number, "%llu", (unsigned long long)json_count(doc, "clones"));
    print_field("clones", number);
    json_array_foreach(snapshots, i, snap) {
        char size[SIZE_TEXT_MAX], line[256];
        snprintf(line, sizeof line, "%s  %s  %s", json_text(snap, "name"), json_size(snap, "size", size), json_text(snap, "created"));
        print_field(i ? "" : "snapshots", line);
    }
}

static void note_how_to_serve(const struct cli *cli, const char *target, const char *socket)
{
    char store[PASTE_SHELL_FACTOR * PATH_MAX], path[PASTE_SHELL_FACTOR * PATH_MAX];
    paste_for_shell(cli->url ? cli->url : "", store, sizeof store);
    paste_for_shell(socket, path, sizeof path);
    cli_note(cli, "parallax: note: nobody serves it there yet: parallax%s%s nbd %s --socket %s", cli->url ? " --store " : "", cli->url ? store : "", target, path);
}

/* Prints the socket's path in full, and says how to serve the image there if nobody does. */
static int print_paste(const struct cli *cli, const struct args *a, bool read_only, void (*print)(const char *, const char *, bool))
{
    const char *target = a->words[0], *path = option_value(a, "socket");
    char socket[PATH_MAX], directory[PATH_MAX] = "";
    if (!path)
        paste_default_socket(target, socket);
    else if (*path != '/' && !getcwd(directory, sizeof directory))
        return cli_fail_text("cannot tell the working directory: %s", strerror(errno));
    else if (snprintf(socket, sizeof socket, "%s%s%s", directory, *directory ? "/" : "", path) >= (int)sizeof socket)
        return cli_usage(a, "--socket is too long");
    print(target, socket, read_only);
    if (access(socket, F_OK) && path)
        note_how_to_serve(cli, target, socket);
    else if (access(socket, F_OK))
        cli_note(cli, "parallax: note: nobody serves it there yet: systemctl start parallax-nbd@%s", target);
    return EXIT_DONE;
}

static int run_info(struct cli *cli, const struct args *a)
{
    bool xl = option_set(a, "xl"), qemu = option_set(a, "qemu"), libvirt = option_set(a, "libvirt");
    const char *socket = option_value(a, "socket");
    json_t *result = NULL, *snapshots;
    if (xl + qemu + libvirt + cli->json > 1)
        return cli_usage(a, "--xl, --qemu, --libvirt and --json exclude each other");
    if (socket && !qemu && !libvirt)
        return cli_usage(a, "--socket belongs to --qemu or --libvirt");
    if (socket && !*socket)
        return cli_usage(a, "--socket names no path");
    snapshots = json_array();
    int status = cli_call(cli, json_pack("{s:s,s:s}", "command", "info", "target", a->words[0]), append, snapshots, &result);
    if (status == EXIT_DONE) {
        bool read_only = json_flag(result, "snapshot") || json_flag(result, "template");
        json_object_set(result, "snapshots", snapshots);
        if (xl)
            xl_print(a->words[0], read_only);
        else if (qemu || libvirt)
            status = print_paste(cli, a, read_only, qemu ? paste_qemu : paste_libvirt);
        else if (!cli_json(cli, result))
            print_info(result);
    }
    json_decref(snapshots);
    json_decref(result);
    return status;
}

/* ---- du ---- */

static int run_du(struct cli *cli, const struct args *a)
{
    static const char *const headings[] = { "NAME", ">SIZE", ">DATA", ">USED" };
    json_t *list = json_array(), *row, *request = json_pack("{s:s,s:s*}", "command", "du", "target", a->count ? a->words[0] : NULL);
    size_t i;
    int status = cli_call(cli, request, append, list, NULL);
    if (status == EXIT_DONE && !cli_json(cli, list)) {
        struct table *t = table_create(headings, 4);
        json_array_foreach(list, i, row) {
            char size[SIZE_TEXT_MAX], data[SIZE_TEXT_MAX], used[SIZE_TEXT_MAX];
            table_row(t, (const char *[]){ json_text(row, "name"), json_size(row, "size", size), json_size(row, "data", data), json_size(row, "used", used) });
        }
        table_print(t);
        table_destroy(t);
    }
    json_decref(list);
    return status;
}

/* ---- tree ---- */

static int run_tree(struct cli *cli, const struct args *a)
{
    json_t *list;
    bool dot = option_set(a, "dot");
    if (dot && cli->json)
        return cli_usage(a, "--dot and --json exclude each other");
    int status = select_images(cli, NULL, &list);
    if (status == EXIT_DONE && !cli_json(cli, list)) {
        if (dot)
            tree_print_dot(list);
        else
            tree_print(list);
    }
    json_decref(list);
    return status;
}

const struct command list_commands[] = {
    { .name = "ls", .arguments = "[GLOB]", .summary = "List images", .run = run_ls, .least = 0, .most = 1,
      .options = { { "long", 'l', NULL, "with size, parent, snapshots and state" } },
      .examples = "  parallax ls\n"
                  "  parallax ls -l 'node-*'                                   # size, parent, snapshots, who writes it\n"
                  "  parallax ls --json | jq -r '.[]|select(.template).name'   # the templates\n" },
    { .name = "info", .arguments = "NAME[@SNAP]", .summary = "Tell everything about an image or snapshot", .run = run_info, .least = 1, .most = 1,
      .options = { { "qemu", 0, NULL, "print the option of QEMU for it instead, as parallax nbd serves it" },
                   { "libvirt", 0, NULL, "print the <disk> of a libvirt domain instead" },
                   { "socket", 0, "PATH", "with these: where it is served (default: /run/parallax/nbd/NAME.sock)" },
                   { "xl", 0, NULL, "print the disk line of an xl.cfg instead" } },
      .examples = "  parallax info vm1\n"
                  "  parallax info --json vm1@before-upgrade\n"
                  "  parallax info --qemu vm1 --socket /run/vm1.sock   # to paste behind qemu-system-x86_64\n"
                  "  parallax info --libvirt vm1 >disk.xml             # for virsh attach-device\n"
                  "  parallax info --xl vm1 >>guest.cfg\n" },
    { .name = "tree", .arguments = "", .summary = "Show which image comes from which", .run = run_tree, .least = 0, .most = 0,
      .options = { { "dot", 0, NULL, "as a graph for dot(1)" } },
      .examples = "  parallax tree\n"
                  "  parallax tree --dot | dot -Tsvg >tree.svg   # a picture, by Graphviz\n" },
    { .name = "du", .arguments = "[NAME[@SNAP]]", .summary = "Tell how much images map, and how much only they hold", .run = run_du, .least = 0,
      .most = 1,
      .examples = "  parallax du   # USED is what only that image holds\n"
                  "  parallax du vm1\n" },
    { 0 },
};
