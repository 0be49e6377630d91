/* options.c - the command line: global options anywhere, the command's own after its name. */
#include "tools/parallax/cli.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define VERSION "0.1"
#define LOCK_TIMEOUT_MAX_S 86400u

struct parser {
    struct cli *cli;
    struct args *args;
    int argc, at;
    char **argv;
    const char *family; /* the first word of commands that have two, if the second is missing */
    bool help, version;
};

const char *option_value(const struct args *a, const char *name)
{
    for (unsigned i = 0; i < OPTIONS_MAX && a->command->options[i].name; i++)
        if (!strcmp(a->command->options[i].name, name))
            return a->values[i];
    return NULL;
}

/* The value of the option at argv[at]: after '=', or the next word. */
static int take_value(struct parser *p, const char *inlined, const char **out)
{
    if (inlined)
        *out = inlined;
    else if (p->at + 1 < p->argc)
        *out = p->argv[++p->at];
    else
        return cli_usage(p->args, "option '%.64s' needs a value", p->argv[p->at]);
    return EXIT_DONE;
}

static int set_lock_timeout(struct parser *p, const char *text)
{
    char *end;
    double seconds = strtod(text, &end);
    if (end == text || *end || !(seconds >= 0) || seconds > LOCK_TIMEOUT_MAX_S)
        return cli_usage(p->args, "--lock-timeout is a number of seconds, not '%.64s'", text);
    /* The engine takes 0 for its default. */
    p->cli->lock_timeout_ms = seconds < 0.001 ? 1 : (unsigned)(seconds * 1000);
    return EXIT_DONE;
}

/* -1: no global option. */
static int global_option(struct parser *p, const char *name, const char *inlined)
{
    const struct {
        const char *name;
        bool *flag;
    } flags[] = { { "json", &p->cli->json }, { "quiet", &p->cli->quiet }, { "progress", &p->cli->progress }, { "help", &p->help }, { "version", &p->version } };
    for (unsigned i = 0; i < sizeof flags / sizeof *flags; i++)
        if (!strcmp(name, flags[i].name)) {
            if (inlined)
                return cli_usage(p->args, "option '--%s' takes no value", name);
            *flags[i].flag = true;
            return EXIT_DONE;
        }
    const char *value;
    if (!strcmp(name, "store")) {
        int status = take_value(p, inlined, &value);
        if (status == EXIT_DONE && !*value)
            status = cli_usage(p->args, "--store names no store");
        if (status == EXIT_DONE)
            p->cli->url = value;
        return status;
    }
    if (!strcmp(name, "lock-timeout")) {
        int status = take_value(p, inlined, &value);
        return status == EXIT_DONE ? set_lock_timeout(p, value) : status;
    }
    return -1;
}

static int command_option(struct parser *p, const char *name, char letter, const char *inlined)
{
    const struct command *c = p->args->command;
    for (unsigned i = 0; c && i < OPTIONS_MAX && c->options[i].name; i++) {
        const struct option_spec *o = &c->options[i];
        if (letter ? o->letter != letter : strcmp(o->name, name) != 0)
            continue;
        if (o->value)
            return take_value(p, inlined, &p->args->values[i]);
        if (inlined)
            return cli_usage(p->args, "option '--%s' takes no value", o->name);
        p->args->values[i] = "";
        return EXIT_DONE;
    }
    return cli_usage(p->args, "unknown option '%.64s'", p->argv[p->at]);
}

static int long_option(struct parser *p, char *word)
{
    char *inlined = strchr(word, '='), name[64];
    size_t length = inlined ? (size_t)(inlined - word) : strlen(word);
    snprintf(name, sizeof name, "%.*s", (int)(length < 63 ? length : 63), word);
    int status = global_option(p, name, inlined ? inlined + 1 : NULL);
    return status >= 0 ? status : command_option(p, name, 0, inlined ? inlined + 1 : NULL);
}

static int short_options(struct parser *p, const char *letters)
{
    for (; *letters; letters++) {
        int status = EXIT_DONE;
        if (*letters == 'q')
            p->cli->quiet = true;
        else if (*letters == 'h')
            p->help = true;
        else
            status = command_option(p, "", *letters, NULL);
        if (status != EXIT_DONE)
            return status;
    }
    return EXIT_DONE;
}

/* Finds the command of one or two words. */
static const struct command *find_command(const char *first, const char *second, bool *two_words)
{
    for (unsigned f = 0; command_families[f]; f++)
        for (const struct command *c = command_families[f]; c->name; c++) {
            size_t n = strlen(first);
            if (!strcmp(c->name, first)) {
                *two_words = false;
                return c;
            }
            if (!strncmp(c->name, first, n) && c->name[n] == ' ') {
                *two_words = true;
                if (second && !strcmp(c->name + n + 1, second))
                    return c;
            }
        }
    return NULL;
}

static int needs_second_word(const struct parser *p) { return cli_usage(p->args, "'%.64s' needs one of its commands after it", p->family); }

static int take_command(struct parser *p)
{
    const char *first = p->argv[p->at], *second = p->at + 1 < p->argc ? p->argv[p->at + 1] : NULL;
    bool two_words = false;
    if (p->family)
        return needs_second_word(p);
    const struct command *c = find_command(first, second, &two_words);
    if (c && two_words)
        p->at++;
    p->args->command = c;
    if (c)
        return EXIT_DONE;
    if (!two_words)
        return cli_usage(p->args, "unknown command '%.64s'", first);
    if (second && *second != '-')
        return cli_usage(p->args, "unknown command '%.64s %.64s'", first, second);
    p->family = first; /* no command yet, and still `parallax snap --help` is a question for help */
    return EXIT_DONE;
}

static int parse_words(struct parser *p)
{
    bool only_words = false;
    for (p->at = 1; p->at < p->argc; p->at++) {
        char *word = p->argv[p->at];
        int status = EXIT_DONE;
        if (!only_words && !strcmp(word, "--"))
            only_words = true;
        else if (!only_words && !strncmp(word, "--", 2))
            status = long_option(p, word + 2);
        else if (!only_words && word[0] == '-' && word[1] && !isdigit((unsigned char)word[1])) /* -5M is a size, if a wrong one */
            status = short_options(p, word + 1);
        else if (!p->args->command)
            status = take_command(p);
        else
            p->args->words[p->args->count++] = word;
        if (status != EXIT_DONE)
            return status;
    }
    return EXIT_DONE;
}

static int print_version(const struct cli *cli)
{
    json_t *doc = json_pack("{s:s, s:s}", "program", "parallax", "version", VERSION);
    if (!doc)
        return cli_fail_text("out of memory");
    if (!cli_json(cli, doc))
        puts("parallax " VERSION);
    json_decref(doc);
    return EXIT_DONE;
}

int options_parse(struct cli *cli, int argc, char **argv, struct args *a, bool *done)
{
    struct parser p = { .cli = cli, .args = a, .argc = argc, .argv = argv };
    int status = parse_words(&p);
    if (status != EXIT_DONE)
        return status;
    *done = p.help || p.version;
    if (p.version)
        return print_version(cli);
    if (p.help && a->command)
        help_command(a->command);
    else if (p.help)
        help_overview(p.family);
    else if (p.family)
        return needs_second_word(&p);
    else if (!a->command)
        return cli_usage(a, "a command is missing");
    else if (a->count < a->command->least)
        return cli_usage(a, "'%s' needs more arguments: %s", a->command->name, a->command->arguments);
    else if (a->count > a->command->most)
        return cli_usage(a, "'%.64s' is one argument too many", a->words[a->command->most]);
    return EXIT_DONE;
}
