/* cmd_history.c - history: what the store remembers of its images' past, by time.
 *
 * Only what still exists is remembered: an image or snapshot that was deleted, and the states that a rollback left, are not told. */
#include "tools/parallax/commands.h"

#include <stdlib.h>
#include <string.h>

struct history {
    const char *only;   /* NULL: all images */
    bool found;
    json_t *events;
};

/* Whether target is the image, or a snapshot of it. */
static bool is_of(const char *target, const char *image)
{
    size_t n = strlen(image);
    return !strncmp(target, image, n) && (target[n] == '\0' || target[n] == '@');
}

static void add(struct history *h, const char *time, const char *event, const char *name, const char *from)
{
    if (*time)
        json_array_append_new(h->events, json_pack("{s:s,s:s,s:s,s:s*}", "time", time, "event", event, "name", name, "from", *from ? from : NULL));
}

static void take(void *ctx, json_t *e)
{
    struct history *h = ctx;
    const char *name = json_text(e, "name"), *parent = json_text(e, "parent");
    if (json_object_get(e, "of")) {
        char target[512];
        snprintf(target, sizeof target, "%s@%s", json_text(e, "of"), name);
        if (!h->only || !strcmp(h->only, json_text(e, "of")))
            add(h, json_text(e, "created"), "snapshot", target, "");
        return;
    }
    bool ours = !h->only || !strcmp(h->only, name);
    h->found = h->found || ours;
    if (ours || (*parent && is_of(parent, h->only)))
        add(h, json_text(e, "created"), *parent ? "cloned" : "created", name, parent);
    if (ours)
        add(h, json_text(e, "last-write"), "last-write", name, "");
}

static int by_time(const void *a, const void *b)
{
    const json_t *x = *(json_t *const *)a, *y = *(json_t *const *)b;
    int order = strcmp(json_text(x, "time"), json_text(y, "time"));
    return order ? order : strcmp(json_text(x, "name"), json_text(y, "name"));
}

static void sort_events(struct history *h)
{
    size_t n = json_array_size(h->events);
    json_t **all = calloc(n + 1, sizeof(json_t *)), *sorted = json_array();
    for (size_t i = 0; all && i < n; i++)
        all[i] = json_array_get(h->events, i);
    if (all)
        qsort(all, n, sizeof *all, by_time);
    for (size_t i = 0; all && i < n; i++)
        json_array_append(sorted, all[i]);
    free(all);
    json_decref(h->events);
    h->events = sorted;
}

static void print(const json_t *events)
{
    static const char *const headings[] = { "TIME", "EVENT", "NAME", "FROM" };
    struct table *t = table_create(headings, 4);
    size_t i;
    json_t *e;
    json_array_foreach(events, i, e) {
        bool written = !strcmp(json_text(e, "event"), "last-write");
        table_row(t, (const char *[]){ json_text(e, "time"), written ? "last write" : json_text(e, "event"), json_text(e, "name"), json_text(e, "from") });
    }
    table_print(t);
    table_destroy(t);
}

static int run_history(struct cli *cli, const struct args *a)
{
    struct history h = { .only = a->count ? a->words[0] : NULL, .events = json_array() };
    int status = cli_call(cli, json_pack("{s:s}", "command", "ls"), take, &h, NULL);
    if (status == EXIT_DONE && h.only && !h.found) /* the engine knows how to say it, with what is called alike */
        status = cli_call(cli, json_pack("{s:s,s:s}", "command", "snap-ls", "name", h.only), NULL, NULL, NULL);
    if (status == EXIT_DONE) {
        sort_events(&h);
        if (!cli_json(cli, h.events))
            print(h.events);
    }
    json_decref(h.events);
    return status;
}

const struct command history_commands[] = {
    { .name = "history", .arguments = "[NAME]", .summary = "Tell when images and snapshots that exist were made, cloned and last written", .run = run_history,
      .least = 0, .most = 1, .examples = "  parallax history\n  parallax history vm1\n  parallax history --json vm1\n" },
    { 0 },
};
