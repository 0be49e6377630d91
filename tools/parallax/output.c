/* output.c - what people and programs get to read. */
#include "tools/parallax/cli.h"

#include "base/clock.h"
#include "tools/common/size.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* One line, whatever is in the text. */
static void print_error_line(const char *text)
{
    char line[1024];
    snprintf(line, sizeof line, "%s", text);
    for (char *p = line; *p; p++)
        if ((unsigned char)*p < ' ' || *p == 0x7f)
            *p = '?';
    fprintf(stderr, "parallax: %s\n", line);
}

int cli_fail(const struct error *err)
{
    print_error_line(err->text);
    return EXIT_FAILED;
}

int cli_fail_text(const char *fmt, ...)
{
    char text[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    print_error_line(text);
    return EXIT_FAILED;
}

int cli_usage(const struct args *a, const char *fmt, ...)
{
    char text[800], line[1024];
    const char *name = a->command ? a->command->name : NULL;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    snprintf(line, sizeof line, "%s; see parallax %s%s--help", text, name ? name : "", name ? " " : "");
    print_error_line(line);
    return a->command && a->command->usage_status ? a->command->usage_status : EXIT_USAGE;
}

static void print_line(FILE *to, const char *fmt, va_list ap)
{
    vfprintf(to, fmt, ap);
    fputc('\n', to);
}

void cli_say(const struct cli *cli, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    if (!cli->quiet && !cli->json)
        print_line(stdout, fmt, ap);
    va_end(ap);
}

void cli_done(struct cli *cli, const json_t *doc, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    if (!(doc && cli_json(cli, doc)) && !cli->quiet && !cli->json)
        print_line(stdout, fmt, ap);
    va_end(ap);
    size_t at = strlen(cli->done), room = sizeof cli->done - at;
    if (at && room > 2)
        at += (size_t)snprintf(cli->done + at, room, "; ");
    va_start(ap, fmt);
    vsnprintf(cli->done + at, sizeof cli->done - at, fmt, ap);
    va_end(ap);
}

void cli_note(const struct cli *cli, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    if (!cli->quiet)
        print_line(stderr, fmt, ap);
    va_end(ap);
}

bool cli_json(const struct cli *cli, const json_t *doc)
{
    if (cli->json) {
        json_dumpf(doc, stdout, JSON_INDENT(2) | JSON_ENCODE_ANY);
        putchar('\n');
    }
    return cli->json;
}

void cli_flush(struct cli *cli)
{
    if ((fflush(stdout) != 0 || ferror(stdout)) && !cli->output_errno)
        cli->output_errno = errno ? errno : EIO;
}

const char *json_text(const json_t *doc, const char *key)
{
    const char *text = json_string_value(json_object_get(doc, key));
    return text ? text : "";
}

uint64_t json_count(const json_t *doc, const char *key) { return (uint64_t)json_integer_value(json_object_get(doc, key)); }
bool json_flag(const json_t *doc, const char *key) { return json_is_true(json_object_get(doc, key)); }
char *json_size(const json_t *doc, const char *key, char *out) { return size_format(json_count(doc, key), out); }

/* ---- Tables ---- */

struct table {
    const char *const *headings;
    unsigned columns;
    char **cells; /* row after row */
    size_t count, room;
};

struct table *table_create(const char *const *headings, unsigned columns)
{
    struct table *t = calloc(1, sizeof *t);
    if (t)
        *t = (struct table){ .headings = headings, .columns = columns };
    return t;
}

void table_row(struct table *t, const char *const *cells)
{
    if (t->count + t->columns > t->room) {
        size_t room = t->room ? 2 * t->room : 64u * t->columns;
        char **more = realloc(t->cells, room * sizeof *more);
        if (!more)
            return;
        t->cells = more;
        t->room = room;
    }
    for (unsigned i = 0; i < t->columns; i++)
        t->cells[t->count++] = strdup(cells[i]);
}

static void print_cell(const struct table *t, FILE *to, unsigned column, const char *text, size_t width)
{
    const char *gap = column ? "  " : "";
    if (column + 1 == t->columns && !*text)
        return;
    if (t->headings[column][0] == '>')
        fprintf(to, "%s%*s", gap, (int)width, text);
    else if (column + 1 == t->columns)
        fprintf(to, "%s%s", gap, text);
    else
        fprintf(to, "%s%-*s", gap, (int)width, text);
}

void table_print(const struct table *t) { table_write(t, stdout); }

void table_write(const struct table *t, FILE *to)
{
    size_t *widths = calloc(t->columns, sizeof *widths);
    if (!widths)
        return;
    for (unsigned i = 0; i < t->columns; i++)
        widths[i] = strlen(t->headings[i]) - (t->headings[i][0] == '>');
    for (size_t i = 0; i < t->count; i++)
        if (t->cells[i] && strlen(t->cells[i]) > widths[i % t->columns])
            widths[i % t->columns] = strlen(t->cells[i]);
    for (unsigned i = 0; i < t->columns; i++)
        print_cell(t, to, i, t->headings[i] + (t->headings[i][0] == '>'), widths[i]);
    fputc('\n', to);
    for (size_t i = 0; i < t->count; i++) {
        unsigned column = (unsigned)(i % t->columns);
        print_cell(t, to, column, t->cells[i] ? t->cells[i] : "", widths[column]);
        if (column + 1 == t->columns)
            fputc('\n', to);
    }
    free(widths);
}

void table_destroy(struct table *t)
{
    for (size_t i = 0; i < t->count; i++)
        free(t->cells[i]);
    free(t->cells);
    free(t);
}

/* ---- Progress ---- */

#define PROGRESS_EVERY_MS 200u
#define RATE_AFTER_MS 500u
#define RATE_TEXT_MAX (SIZE_TEXT_MAX + 40u)

void progress_begin(struct progress *p, const struct cli *cli, const char *what, uint64_t total)
{
    *p = (struct progress){ .on = cli->progress || (!cli->quiet && isatty(STDERR_FILENO)), .what = what, .total = total };
    p->began_ms = p->shown_ms = clock_monotonic_ms();
}

/* ", 120 MiB/s, 3 s left" since the beginning, once there is something to tell from. */
static const char *progress_rate(const struct progress *p, uint64_t bytes, uint64_t now_ms, char out[RATE_TEXT_MAX])
{
    char each[SIZE_TEXT_MAX];
    uint64_t spent_ms = now_ms - p->began_ms, per_second = spent_ms ? bytes * 1000 / spent_ms : 0;
    *out = '\0';
    if (spent_ms < RATE_AFTER_MS || !per_second)
        return out;
    int n = snprintf(out, RATE_TEXT_MAX, ", %s/s", size_format(per_second, each));
    if (p->total > bytes)
        snprintf(out + n, RATE_TEXT_MAX - (size_t)n, ", %llu s left", (unsigned long long)((p->total - bytes) / per_second + 1));
    return out;
}

void progress_at(struct progress *p, uint64_t bytes)
{
    uint64_t now = clock_monotonic_ms();
    char at[SIZE_TEXT_MAX], total[SIZE_TEXT_MAX], rate[RATE_TEXT_MAX];
    if (!p->on || now - p->shown_ms < PROGRESS_EVERY_MS)
        return;
    p->shown_ms = now;
    p->shown = true;
    if (p->total)
        fprintf(stderr, "\r%s: %s of %s (%u %%)%s   ", p->what, size_format(bytes, at), size_format(p->total, total),
                (unsigned)((unsigned __int128)bytes * 100 / p->total), progress_rate(p, bytes, now, rate));
    else
        fprintf(stderr, "\r%s: %s%s   ", p->what, size_format(bytes, at), progress_rate(p, bytes, now, rate));
}

void progress_end(struct progress *p, bool done)
{
    if (p->on && done)
        fprintf(stderr, "\r%s: done%*s\n", p->what, 64, "");
    else if (p->on && p->shown)
        fputc('\n', stderr);
}

json_t *args_list(const struct args *a)
{
    json_t *list = json_array();
    for (unsigned i = 0; i < a->count; i++)
        if (json_array_append_new(list, json_string(a->words[i]))) {
            json_decref(list);
            return NULL;
        }
    return list;
}

int args_size(const struct args *a, const char *what, const char *text, uint64_t *out)
{
    struct error err = ERROR_NONE;
    return size_parse(what, text, out, &err) ? cli_usage(a, "%s", err.text) : EXIT_DONE;
}
