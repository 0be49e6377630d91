/* cmd_store.c - init, status, resize-store, doctor. */
#include "tools/parallax/commands.h"

#include "parallax/parallax.h"
#include "tools/common/prometheus.h"
#include "tools/common/size.h"
#include "tools/parallax/doctor.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Opening the store tells what was adopted, and that it can be used. */
static int tell_adopted(struct cli *cli, const struct store_adopted *s)
{
    struct error err = ERROR_NONE;
    json_t *status = NULL;
    cli_done(cli, NULL, "adopted %s%s for this host into %s; host %s must not use it any more", *s->device ? "the device " : "the store", s->device, cli->store_key,
            s->previous_host);
    if (cli_request(cli, json_pack("{s:s}", "command", "status"), NULL, NULL, &status, &err))
        return cli_fail_text("the store belongs to this host now, but it cannot be used: %s", err.text);
    json_t *doc = json_pack("{s:s,s:s,s:s,s:o,s:I,s:I}", "store", cli->store_key, "uuid", json_text(status, "uuid"), "previous-host", s->previous_host, "device",
                            *s->device ? json_string(s->device) : json_null(), "images", (json_int_t)json_count(status, "images"), "templates",
                            (json_int_t)json_count(status, "templates"));
    if (!cli_json(cli, doc))
        cli_say(cli, "store %s: %llu images and %llu templates", json_text(status, "uuid"), (unsigned long long)json_count(status, "images"),
                (unsigned long long)json_count(status, "templates"));
    json_decref(doc);
    json_decref(status);
    return EXIT_DONE;
}

static int run_adopt(struct cli *cli, const struct args *a, const char *what)
{
    struct store_adopted adopted;
    struct error err = ERROR_NONE;
    if (option_value(a, "size"))
        return cli_usage(a, "--size and --adopt exclude each other: a store that is adopted has its size");
    if (strstr(cli->store_url, "?device="))
        return cli_usage(a, "--adopt names the device; --store is the new directory alone");
    if (store_adopt(cli->store_url, what, option_set(a, "force"), &adopted, &err))
        return cli_fail(&err);
    return tell_adopted(cli, &adopted);
}

static int run_init(struct cli *cli, const struct args *a)
{
    if (option_value(a, "adopt"))
        return run_adopt(cli, a, option_value(a, "adopt"));
    struct store_create_options opt = { .force = option_set(a, "force") };
    struct error err = ERROR_NONE;
    char given[SIZE_TEXT_MAX];
    const char *size = strstr(cli->store_url, "?device=") ? "what the device holds" : "what the file system gives, less max(1 GiB, 5 %)";
    const char *text = option_value(a, "size");
    int status = text ? args_size(a, "size", text, &opt.size_bytes) : EXIT_DONE;
    if (status == EXIT_DONE && text && opt.size_bytes == 0)
        status = cli_usage(a, "size '%.64s' is zero", text);
    if (status != EXIT_DONE)
        return status;
    if (store_create(cli->store_url, &opt, &err))
        return cli_fail(&err);
    if (text)
        size = size_format(opt.size_bytes, given);
    json_t *doc = json_pack("{s:s,s:I}", "store", cli->store_key, "size", (json_int_t)opt.size_bytes);
    cli_done(cli, doc, "created a store in %s: %s", cli->store_key, size);
    json_decref(doc);
    return EXIT_DONE;
}

/* ---- status ---- */

static void print_size(const char *label, const json_t *doc, const char *key)
{
    char size[SIZE_TEXT_MAX];
    printf("%-14s %s\n", label, json_size(doc, key, size));
}

static void print_devices(const json_t *devices)
{
    static const char *const headings[] = { "DOMAIN", "VDEV", "IMAGE", "STATE", ">READS", ">WRITES", ">FLUSHES", ">ERRORS", "PROBLEM" };
    struct table *t = table_create(headings, 9);
    size_t i;
    json_t *d;
    json_array_foreach(devices, i, d) {
        char cells[6][24];
        const char *keys[] = { "domid", "vdev", "reads", "writes", "flushes", "errors" };
        for (unsigned k = 0; k < 6; k++)
            snprintf(cells[k], sizeof cells[k], "%llu", (unsigned long long)json_count(d, keys[k]));
        table_row(t, (const char *[]){ cells[0], cells[1], json_text(d, "image"), json_text(d, "state"), cells[2], cells[3], cells[4], cells[5],
                                       json_text(d, "problem") });
    }
    table_print(t);
    table_destroy(t);
}

static void print_status(const json_t *doc)
{
    const json_t *daemon = json_object_get(doc, "daemon"), *devices = json_object_get(doc, "devices");
    printf("%-14s %s\n", "store", json_text(doc, "store"));
    printf("%-14s %s\n", "uuid", json_text(doc, "uuid"));
    print_size("capacity", doc, "capacity");
    print_size("used", doc, "used");
    if (json_count(doc, "warning"))
        printf("%-14s %llu %% of the capacity is in use\n", "WARNING", (unsigned long long)json_count(doc, "used-percent"));
    print_size("allocated", doc, "present");
    print_size("provisioned", doc, "provisioned");
    printf("%-14s %llu, templates %llu, snapshots %llu\n", "images", (unsigned long long)json_count(doc, "images"),
           (unsigned long long)json_count(doc, "templates"), (unsigned long long)json_count(doc, "snapshots"));
    printf("%-14s %s\n", "direct I/O", json_flag(doc, "direct") ? "yes" : "no: the file system has no O_DIRECT, which is slower");
    if (!json_is_null(json_object_get(doc, "catalog-copy")))
        printf("%-14s %s\n", "catalog copy", json_flag(doc, "catalog-copy") ? "on the device" : "none on the device: back the directory up, no other host can adopt it");
    if (json_flag(doc, "failed"))
        printf("%-14s %s\n", "state", "FAILED: a metadata write failed, and nothing can be changed until the store is opened again");
    if (!json_is_object(daemon)) {
        printf("%-14s %s\n", "daemon", "none runs");
        return;
    }
    printf("%-14s pid %llu, hypervisor %s, domain %llu, socket %s\n", "daemon", (unsigned long long)json_count(daemon, "pid"),
           json_text(daemon, "hypervisor"), (unsigned long long)json_count(daemon, "domid"), json_text(daemon, "socket"));
    if (json_array_size(devices))
        print_devices(devices);
}

static int print_metrics(const json_t *doc)
{
    size_t length;
    char *text = prometheus_text(doc, &length);
    if (!text)
        return cli_fail_text("no memory for the metrics");
    fwrite(text, 1, length, stdout);
    free(text);
    return EXIT_DONE;
}

/* ---- resize-store ---- */

static int run_resize_store(struct cli *cli, const struct args *a)
{
    uint64_t bytes;
    char size[SIZE_TEXT_MAX];
    json_t *result = NULL;
    int status = args_size(a, "SIZE", a->words[0], &bytes);
    if (status == EXIT_DONE && (bytes == 0 || bytes > INT64_MAX))
        status = cli_usage(a, "'%.64s' is no size for a store", a->words[0]);
    if (status == EXIT_DONE)
        status = cli_call(cli, json_pack("{s:s,s:I}", "command", "resize-store", "size", (json_int_t)bytes), NULL, NULL, &result);
    if (status == EXIT_DONE)
        cli_done(cli, result, "the store may now grow to %s", json_size(result, "size", size));
    json_decref(result);
    return status;
}

static int run_status(struct cli *cli, const struct args *a)
{
    struct error err = ERROR_NONE;
    json_t *doc = NULL;
    bool prometheus = option_set(a, "prometheus");
    if (prometheus && cli->json)
        return cli_usage(a, "--prometheus and --json exclude each other");
    if (cli_status(cli, &doc, &err))
        return cli_fail(&err);
    int status = EXIT_DONE;
    if (prometheus)
        status = print_metrics(doc);
    else if (!cli_json(cli, doc))
        print_status(doc);
    json_decref(doc);
    return status;
}

const struct command store_commands[] = {
    { .name = "init", .arguments = "", .summary = "Make a store", .run = run_init, .least = 0, .most = 0,
      .options = { { "size", 0, "SIZE", "how large it may grow (default: the file system less max(1 GiB, 5 %))" },
                   { "adopt", 0, "DEVICE|DIR", "take over a device with another host's or directory's store, or the store's own directory" },
                   { "force", 0, NULL, "use a directory or device that holds something else; never a store" } },
      .examples = "  parallax init                                           # uses what the file system has, leaving some free\n"
                  "  parallax --store /srv/images init --size 500G           # bounded, and elsewhere\n"
                  "  parallax --store 'file:/srv/p?device=/dev/vg0/p' init   # blocks on a device, names in a directory\n"
                  "  parallax --store /srv/p init --adopt /dev/vg0/p         # the same device, on another host that the disk was moved to\n" },
    { .name = "resize-store", .arguments = "SIZE", .summary = "Set how large the store may grow, up or down", .run = run_resize_store, .least = 1, .most = 1,
      .examples = "  parallax resize-store 2T     # more, if the file system has it\n"
                  "  parallax resize-store 200G   # less: what is free above goes back at once\n" },
    { .name = "status", .arguments = "", .summary = "Show the store, its daemon and the devices in use", .run = run_status, .least = 0, .most = 0,
      .options = { { "prometheus", 0, NULL, "print everything counted in Prometheus' text format" } },
      .examples = "  parallax status\n"
                  "  parallax status --json | jq '.devices[].image'   # what guests have attached\n"
                  "  parallax status --prometheus >parallax.prom      # for node_exporter's textfile collector\n" },
    { .name = "doctor", .arguments = "", .summary = "Look for what would keep the store from working well", .run = doctor_run, .least = 0, .most = 0,
      .examples = "  parallax doctor   # before the first guest, and when something is slow\n" },
    { 0 },
};
