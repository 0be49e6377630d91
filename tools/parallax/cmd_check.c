/* cmd_check.c - check, gc, and the table of what else looks at blocks.
 *
 * Exit status, as of fsck's kind: 0 sound, 1 not checked (wrong usage included), 2 corrupt, 3 leaked space only. */
#include "tools/common/size.h"
#include "tools/parallax/commands.h"
#include "tools/parallax/content.h"

#include <stdio.h>

#define CHECK_SOUND 0
#define CHECK_FAILED 1
#define CHECK_CORRUPT 2
#define CHECK_LEAKED 3

struct findings {
    const struct cli *cli;
    json_t *list; /* with --json */
    struct progress *progress; /* of a scrub */
};

static void take_finding(void *ctx, json_t *element)
{
    struct findings *f = ctx;
    if (json_is_integer(element))
        progress_at(f->progress, (uint64_t)json_integer_value(element));
    else if (f->list)
        json_array_append(f->list, element);
    else
        printf("%s\n", json_string_value(element) ? json_string_value(element) : "");
}

static int verdict(const json_t *result)
{
    if (json_count(result, "damaged") || json_count(result, "wrongly-free") || json_count(result, "undercounted"))
        return CHECK_CORRUPT;
    static const char *const space[] = { "leaked-blocks", "overcounted", "lost-pages", "damaged-dead-lists" };
    for (unsigned i = 0; i < sizeof space / sizeof *space; i++)
        if (json_count(result, space[i]))
            return CHECK_LEAKED;
    return CHECK_SOUND;
}

static void say_verdict(const struct cli *cli, const json_t *result, int status)
{
    if (json_count(result, "mended"))
        cli_say(cli, "put right %llu findings about free space; no data was given up", (unsigned long long)json_count(result, "mended"));
    cli_say(cli, "checked %llu blocks and %llu map nodes: %s (damaged %llu, in use but free %llu, leaked %llu blocks)",
            (unsigned long long)json_count(result, "blocks-checked"), (unsigned long long)json_count(result, "nodes-checked"),
            status == CHECK_SOUND ? "sound" : status == CHECK_LEAKED ? "sound, with leaked space" : "corrupt",
            (unsigned long long)json_count(result, "damaged"), (unsigned long long)json_count(result, "wrongly-free"),
            (unsigned long long)json_count(result, "leaked-blocks"));
}

/* After a repair the map is walked again; what it says of free space counts, beside the damage that was found before. */
static int check_again(struct cli *cli, json_t *result)
{
    static const char *const keys[] = { "wrongly-free", "undercounted", "overcounted", "leaked-blocks", "lost-pages", "damaged-dead-lists" };
    json_t *after = NULL;
    int status = cli_call(cli, json_pack("{s:s,s:b}", "command", "check", "data", 0), NULL, NULL, &after);
    for (unsigned i = 0; i < sizeof keys / sizeof *keys && status == EXIT_DONE; i++)
        json_object_set(result, keys[i], json_object_get(after, keys[i]));
    json_decref(after);
    return status;
}

static int run_check(struct cli *cli, const struct args *a)
{
    static const char *const words[] = { "sound", "not checked", "corrupt", "leaked" };
    struct findings f = { .cli = cli, .list = cli->json ? json_array() : NULL };
    json_t *result = NULL;
    cli->accept_loss = option_set(a, "accept-loss");
    int status = cli_call(cli, json_pack("{s:s,s:b,s:b}", "command", "check", "data", !option_set(a, "quick"), "repair", option_set(a, "repair")), take_finding, &f,
                          &result);
    if (status == EXIT_DONE && json_count(result, "mended"))
        status = check_again(cli, result);
    if (status != EXIT_DONE) {
        json_decref(f.list);
        json_decref(result);
        return CHECK_FAILED;
    }
    status = verdict(result);
    json_object_set_new(result, "verdict", json_string(words[status]));
    if (f.list)
        json_object_set_new(result, "findings", f.list);
    if (!cli_json(cli, result))
        say_verdict(cli, result, status);
    json_decref(result);
    return status;
}

/* ---- gc ---- */

static int run_gc(struct cli *cli, const struct args *a)
{
    struct findings f = { .cli = cli, .list = cli->json ? json_array() : NULL };
    char freed[SIZE_TEXT_MAX], hidden[SIZE_TEXT_MAX];
    json_t *result = NULL;
    (void)a;
    int status = cli_call(cli, json_pack("{s:s}", "command", "gc"), take_finding, &f, &result);
    if (status == EXIT_DONE && f.list)
        json_object_set(result, "findings", f.list);
    if (status == EXIT_DONE) {
        cli_done(cli, result, "walked %llu blocks and %llu map nodes: %llu leaked, %llu put right; %s came back", (unsigned long long)json_count(result, "blocks-checked"),
                (unsigned long long)json_count(result, "nodes-checked"), (unsigned long long)json_count(result, "leaked-blocks"),
                (unsigned long long)json_count(result, "mended"), json_size(result, "freed", freed));
        if (json_count(result, "hidden"))
            cli_say(cli, "%s are held by deleted images or snapshots from which two or more others branch", json_size(result, "hidden", hidden));
        if (json_count(result, "damaged"))
            cli_say(cli, "there is damage, so nothing was freed that could belong to it: see 'parallax check'");
    }
    json_decref(f.list);
    json_decref(result);
    return status;
}

static int run_scrub(struct cli *cli, const struct args *a)
{
    struct progress progress;
    struct findings f = { .cli = cli, .list = cli->json ? json_array() : NULL, .progress = &progress };
    const char *rate_text = option_value(a, "rate");
    char bytes[SIZE_TEXT_MAX], resumed[SIZE_TEXT_MAX];
    uint64_t rate = 0;
    json_t *result = NULL;
    int status = rate_text ? args_size(a, "rate", rate_text, &rate) : EXIT_DONE;
    if (status == EXIT_DONE && rate_text && !rate)
        status = cli_usage(a, "rate '%.64s' is zero", rate_text);
    if (status == EXIT_DONE) {
        progress_begin(&progress, cli, "scrub", 0);
        status = cli_call(cli, json_pack("{s:s,s:I}", "command", "scrub", "rate", (json_int_t)rate), take_finding, &f, &result);
        progress_end(&progress, status == EXIT_DONE);
    }
    if (status != EXIT_DONE) {
        json_decref(f.list);
        return CHECK_FAILED;
    }
    status = json_count(result, "damaged") ? CHECK_CORRUPT : CHECK_SOUND;
    json_object_set_new(result, "verdict", json_string(status == CHECK_SOUND ? "sound" : "corrupt"));
    if (f.list)
        json_object_set_new(result, "findings", f.list);
    if (!cli_json(cli, result)) {
        if (json_count(result, "resumed"))
            cli_say(cli, "went on with a scrub that had read %s when it was stopped", json_size(result, "resumed", resumed));
        cli_say(cli, "scrubbed %s: %s (damaged %llu)", json_size(result, "bytes", bytes), status == CHECK_SOUND ? "sound" : "corrupt",
                (unsigned long long)json_count(result, "damaged"));
    }
    json_decref(result);
    return status;
}

const struct command check_commands[] = {
    { .name = "check", .arguments = "", .summary = "Walk the whole store and verify every block and the map", .run = run_check, .least = 0,
      .most = 0, .usage_status = CHECK_FAILED, .options = { { "quick", 0, NULL, "verify the map, and leave the data unread" },
                   { "repair", 0, NULL, "put the space map right; data is never given up: what is lost is listed and left" },
                   { "accept-loss", 0, NULL, "open a store whose blocks are older than its catalog: what they miss is lost" } },
      .examples = "  parallax check                  # also while guests run\n"
                  "  parallax check --quick --json   # the map alone, and no data\n"
                  "  parallax check --repair         # frees leaked space; never gives up data\n" },
    { .name = "gc", .arguments = "", .summary = "End deletions, free what leaked, give free space back", .run = run_gc, .least = 0, .most = 0,
      .examples = "  parallax gc   # what else happens by and by, now\n" },
    { .name = "scrub", .arguments = "", .summary = "Read and verify all data while the store is in use; goes on where it was stopped", .run = run_scrub,
      .least = 0, .most = 0, .usage_status = CHECK_FAILED,
      .options = { { "rate", 0, "R", "bytes a second at most, such as 50M (default: as much as leaves others in peace)" } },
      .examples = "  parallax scrub --rate 50M   # beside running guests\n"
                  "  parallax scrub --json\n" },
    { .name = "dedup", .arguments = "NAME", .summary = "Share blocks that a template or snapshot holds already", .run = content_dedup, .least = 1,
      .most = 1,
      .examples = "  parallax dedup vm1   # with what templates and snapshots hold\n"
                  "  parallax dedup debian-12 --json\n" },
    { .name = "digest", .arguments = "NAME[@SNAP]", .summary = "Print the digest (SHA-256) of what an image holds", .run = content_digest, .least = 1,
      .most = 1,
      .examples = "  parallax digest debian-12 >debian-12.digest\n"
                  "  parallax digest vm1@monday --json\n" },
    { .name = "verify", .arguments = "NAME[@SNAP] DIGEST", .summary = "Read an image whole and compare its digest", .run = content_verify, .least = 2,
      .most = 2,
      .examples = "  parallax verify debian-12 $(cut -c1-64 debian-12.digest)   # exit 0: the same bytes\n" },
    { 0 },
};
