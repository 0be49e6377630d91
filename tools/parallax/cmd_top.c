/* cmd_top.c - top: what the daemon's images and guests do now. All numbers are differences of two looks (rates.h). */
#include "tools/parallax/commands.h"

#include "base/clock.h"
#include "tools/common/rates.h"
#include "tools/common/size.h"
#include "tools/parallax/screen.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#define DEFAULT_INTERVAL_MS 2000u
#define INTERVAL_MAX_S 3600
#define CELL 24u

struct top {
    struct cli *cli;
    const char *sort;
    unsigned interval_ms;
    bool live;
};

/* ---- Order ---- */

static double real(const json_t *doc, const char *key) { return json_number_value(json_object_get(doc, key)); }
static double slowest_ns(const json_t *element)
{
    const json_t *latency = json_object_get(element, "latency");
    double read = real(json_object_get(latency, "read"), "p99-ns"), write = real(json_object_get(latency, "write"), "p99-ns");
    return read > write ? read : write;
}
static double by_iops(const json_t *e) { return real(e, "iops"); }
static double by_read(const json_t *e) { return real(e, "read-bytes-per-second"); }
static double by_write(const json_t *e) { return real(e, "write-bytes-per-second"); }
static double by_bytes(const json_t *e) { return by_read(e) + by_write(e); }
static double by_name(const json_t *e)
{
    (void)e;
    return 0;
}

static const struct {
    const char *name;
    double (*value)(const json_t *element);
} orders[] = { { "iops", by_iops }, { "bytes", by_bytes }, { "read", by_read }, { "write", by_write }, { "latency", slowest_ns }, { "name", by_name } };

static double (*order)(const json_t *element);

static bool choose_order(const char *name)
{
    for (size_t i = 0; i < sizeof orders / sizeof *orders; i++)
        if (!strcmp(name, orders[i].name)) {
            order = orders[i].value;
            return true;
        }
    return false;
}

static int compare(const void *a, const void *b)
{
    const json_t *x = *(json_t *const *)a, *y = *(json_t *const *)b;
    double vx = order(x), vy = order(y);
    return vx != vy ? (vx < vy) - (vx > vy) : strcmp(json_text(x, "image"), json_text(y, "image"));
}

static void sort_list(json_t *doc, const char *name)
{
    json_t *list = json_object_get(doc, name), *sorted = json_array();
    size_t n = json_array_size(list);
    json_t **all = calloc(n + 1, sizeof(json_t *));
    for (size_t i = 0; all && i < n; i++)
        all[i] = json_array_get(list, i);
    if (all)
        qsort(all, n, sizeof *all, compare);
    for (size_t i = 0; all && i < n; i++)
        json_array_append(sorted, all[i]);
    if (all)
        json_object_set(doc, name, sorted);
    json_decref(sorted);
    free(all);
}

/* ---- For people ---- */

static const char *rate_text(double per_second, char out[CELL])
{
    snprintf(out, CELL, per_second == 0 ? "-" : per_second < 10 ? "%.1f" : "%.0f", per_second);
    return out;
}

static const char *bytes_text(const json_t *e, const char *key, char out[SIZE_TEXT_MAX])
{
    double n = real(e, key);
    return n >= 1 ? size_format((uint64_t)n, out) : strcpy(out, "-");
}

static const char *time_text(const json_t *e, const char *op, const char *key, char out[CELL])
{
    const json_t *l = json_object_get(json_object_get(e, "latency"), op);
    double ns = real(l, key);
    if (!json_is_object(l))
        strcpy(out, "-");
    else if (ns < 1e6)
        snprintf(out, CELL, "%.0f us", ns / 1e3);
    else if (ns < 1e9)
        snprintf(out, CELL, "%.1f ms", ns / 1e6);
    else
        snprintf(out, CELL, "%.1f s", ns / 1e9);
    return out;
}

static const char *ratio_text(const json_t *e, const char *key, char out[CELL])
{
    const json_t *v = json_object_get(e, key);
    snprintf(out, CELL, json_is_number(v) ? "%.2f" : "-", json_number_value(v));
    return out;
}

static const char *percent_text(const json_t *e, const char *key, char out[CELL])
{
    const json_t *v = json_object_get(e, key);
    snprintf(out, CELL, json_is_number(v) ? "%.0f %%" : "-", 100 * json_number_value(v));
    return out;
}

static const char *guests_text(const json_t *image, char out[64])
{
    const json_t *list = json_object_get(image, "guests");
    size_t at = 0;
    *out = '\0';
    for (size_t i = 0; i < json_array_size(list) && at < 48; i++)
        at += (size_t)snprintf(out + at, 64 - at, "%s%lld", i ? "," : "", (long long)json_integer_value(json_array_get(list, i)));
    return out;
}

static void image_row(struct table *t, const json_t *e, const char *name, double seconds)
{
    char r[CELL], w[CELL], f[CELL], rb[SIZE_TEXT_MAX], wb[SIZE_TEXT_MAX], times[6][CELL], guests[64];
    table_row(t, (const char *[]){ name, rate_text((double)json_count(e, "reads") / seconds, r), rate_text((double)json_count(e, "writes") / seconds, w),
                                   rate_text((double)json_count(e, "flushes") / seconds, f), bytes_text(e, "read-bytes-per-second", rb),
                                   bytes_text(e, "write-bytes-per-second", wb), time_text(e, "read", "average-ns", times[0]),
                                   time_text(e, "read", "p99-ns", times[1]), time_text(e, "write", "average-ns", times[2]),
                                   time_text(e, "write", "p99-ns", times[3]), time_text(e, "flush", "average-ns", times[4]),
                                   time_text(e, "flush", "p99-ns", times[5]), guests_text(e, guests) });
}

static void write_images(const json_t *doc, FILE *to)
{
    static const char *const headings[] = { "IMAGE", ">READS/s", ">WRITES/s", ">FLUSHES/s", ">READ/s", ">WRITTEN/s", ">READ AVG", ">p99", ">WRITE AVG", ">p99",
                                            ">FLUSH AVG", ">p99", "DOMAINS" };
    struct table *t = table_create(headings, sizeof headings / sizeof *headings);
    size_t i;
    json_t *e;
    image_row(t, json_object_get(doc, "total"), "(all)", real(doc, "seconds"));
    json_array_foreach(json_object_get(doc, "images"), i, e)
        image_row(t, e, json_text(e, "image"), real(doc, "seconds"));
    table_write(t, to);
    table_destroy(t);
}

static void write_devices(const json_t *doc, FILE *to)
{
    static const char *const headings[] = { "DOMAIN", ">VDEV", "IMAGE", "STATE", ">REQUESTS/s", ">READ/s", ">WRITTEN/s", ">SEGMENTS EACH", ">INDIRECT", ">NOTIFIED EACH", ">IN FLIGHT" };
    struct table *t = table_create(headings, sizeof headings / sizeof *headings);
    size_t i;
    json_t *e;
    json_array_foreach(json_object_get(doc, "devices"), i, e) {
        char cells[7][CELL], rb[SIZE_TEXT_MAX], wb[SIZE_TEXT_MAX];
        snprintf(cells[0], CELL, "%llu", (unsigned long long)json_count(e, "domid"));
        snprintf(cells[1], CELL, "%llu", (unsigned long long)json_count(e, "vdev"));
        snprintf(cells[2], CELL, "%llu", (unsigned long long)json_count(e, "in-flight"));
        table_row(t, (const char *[]){ cells[0], cells[1], json_text(e, "image"), json_text(e, "state"), rate_text(real(e, "iops"), cells[3]),
                                       bytes_text(e, "read-bytes-per-second", rb), bytes_text(e, "write-bytes-per-second", wb),
                                       ratio_text(e, "segments-per-request", cells[4]), percent_text(e, "indirect-share", cells[5]),
                                       ratio_text(e, "notifications-per-request", cells[6]), cells[2] });
    }
    table_write(t, to);
    table_destroy(t);
}

static void write_text(const json_t *doc, FILE *to)
{
    char used[SIZE_TEXT_MAX], capacity[SIZE_TEXT_MAX], blocks[CELL], map[CELL], journal[CELL];
    fprintf(to, "%s: %s of %s in use, over %.1f s\n", json_text(doc, "store"), json_size(doc, "used", used), json_size(doc, "capacity", capacity), real(doc, "seconds"));
    fprintf(to, "cache hits: %s of blocks, %s of the map; journal %s full, %llu checkpoints\n\n", percent_text(doc, "cache-hit-share", blocks),
            percent_text(doc, "map-hit-share", map), percent_text(doc, "journal-used-share", journal), (unsigned long long)json_count(doc, "checkpoints"));
    write_images(doc, to);
    if (json_array_size(json_object_get(doc, "devices"))) {
        fputc('\n', to);
        write_devices(doc, to);
    }
}

/* ---- Looking ---- */

struct look {
    json_t *doc;
    uint64_t at_ns;
};

static int look(struct top *t, struct look *out, struct error *err)
{
    int bad = cli_status(t->cli, &out->doc, err);
    out->at_ns = clock_monotonic_ns();
    return bad;
}

static int print(struct top *t, json_t *doc)
{
    char *text = NULL;
    size_t length;
    sort_list(doc, "images");
    sort_list(doc, "devices");
    if (cli_json(t->cli, doc))
        return EXIT_DONE;
    FILE *to = open_memstream(&text, &length);
    if (!to)
        return cli_fail_text("no memory for the table");
    write_text(doc, to);
    fclose(to);
    if (t->live)
        screen_draw(text);
    else
        fputs(text, stdout);
    free(text);
    return EXIT_DONE;
}

/* Whether to go on. */
static bool pause_between(struct top *t)
{
    struct pollfd cancel = { .fd = t->cli->cancel_fd, .events = POLLIN };
    if (t->live)
        return screen_wait(t->cli->cancel_fd, t->interval_ms);
    while (poll(&cancel, 1, (int)t->interval_ms) < 0)
        ;
    return !cancel.revents;
}

/* 0: it was to end. */
static int watch(struct top *t, struct error *err)
{
    struct look before = { 0 }, now = { 0 };
    if (t->live)
        screen_draw("measuring ...\n");
    int bad = look(t, &before, err);
    bool again = true;
    while (!bad && again) {
        if (!pause_between(t)) {
            bad = t->live ? 0 : error_set(err, -ECANCELED, "interrupted");
            break;
        }
        if ((bad = look(t, &now, err)))
            break;
        json_t *doc = rates_document(before.doc, now.doc, (double)(now.at_ns - before.at_ns) / 1e9);
        bad = doc ? print(t, doc) : error_set(err, -ENOMEM, "no memory for the table");
        json_decref(doc);
        json_decref(before.doc);
        before = now;
        now.doc = NULL;
        again = t->live;
    }
    json_decref(before.doc);
    return bad;
}

static int parse_interval(const struct args *a, unsigned *out_ms)
{
    const char *text = option_value(a, "interval");
    char *end;
    double seconds = text ? strtod(text, &end) : 0;
    if (!text)
        return EXIT_DONE;
    if (end == text || *end || !(seconds >= 0.1) || seconds > INTERVAL_MAX_S)
        return cli_usage(a, "--interval is a number of seconds from 0.1 to %d, not '%.64s'", INTERVAL_MAX_S, text);
    *out_ms = (unsigned)(seconds * 1000);
    return EXIT_DONE;
}

static int run_top(struct cli *cli, const struct args *a)
{
    struct error err = ERROR_NONE;
    struct top t = { .cli = cli, .interval_ms = DEFAULT_INTERVAL_MS, .sort = option_set(a, "sort") ? option_value(a, "sort") : "iops" };
    int status = parse_interval(a, &t.interval_ms);
    if (status == EXIT_DONE && !choose_order(t.sort))
        status = cli_usage(a, "--sort is iops, bytes, read, write, latency or name, not '%.64s'", t.sort);
    if (status != EXIT_DONE)
        return status;
    int bad = cli_connect_daemon(cli, &err);
    if (bad == -ENOENT)
        return cli_fail_text("no daemon serves the store %s, so nothing happens in it that could be shown; start parallaxd", cli->store_key);
    if (bad)
        return cli_fail(&err);
    t.live = !option_set(a, "once") && !cli->json && screen_possible();
    if (t.live)
        screen_begin();
    bad = watch(&t, &err);
    if (t.live)
        screen_end();
    if (bad && !(t.live && err.code == -ECANCELED))
        return err.code ? cli_fail(&err) : bad;
    return EXIT_DONE;
}

const struct command top_commands[] = {
    { .name = "top", .arguments = "", .summary = "Watch what images and guests do: requests, throughput, latency", .run = run_top, .least = 0, .most = 0,
      .options = { { "once", 0, NULL, "print one table and end; so it is with --json and where there is no terminal" },
                   { "interval", 0, "SECONDS", "time that the numbers are of (default: 2)" },
                   { "sort", 0, "KEY", "iops (default), bytes, read, write, latency (the 99th percentile) or name" } },
      .examples = "  parallax top\n  parallax top --sort latency --interval 10\n  parallax top --json | jq '.images[0]'\n" },
    { 0 },
};
