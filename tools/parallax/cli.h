/* cli.h - what the commands of `parallax` share: options, the connection to a store, output.
 *
 * A command is a row in a table: its words, options and a function. main parses the command line by that table, so that every
 * usage error looks alike; the function asks the server (a daemon, or this process's own thread) and prints.
 * Errors: a function that returns "status" returns the program's exit status and has printed its one line on stderr.
 * Threads: the main thread. */
#ifndef TOOLS_PARALLAX_CLI_H
#define TOOLS_PARALLAX_CLI_H
#include "base/error.h"
#include "control/control.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#define EXIT_DONE 0
#define EXIT_FAILED 1
#define EXIT_USAGE 2
#define OPTIONS_MAX 8u

struct cli;
struct args;

struct option_spec {
    const char *name;  /* "force"; NULL ends the list */
    char letter;       /* 'n', or 0 */
    const char *value; /* what the value is called in the help; NULL: a flag */
    const char *help;
};

struct command {
    const char *name; /* one or two words */
    const char *arguments, *summary, *examples;
    int (*run)(struct cli *cli, const struct args *a);
    unsigned least, most; /* positional arguments */
    struct option_spec options[OPTIONS_MAX];
    int usage_status;     /* exit status of wrong usage if not 2 */
};

struct args {
    const struct command *command;
    const char *values[OPTIONS_MAX]; /* by index of options; "" for a flag that is set, NULL if absent */
    unsigned count;
    char **words; /* positional arguments */
};
/* The value of an option of this command, or NULL. */
const char *option_value(const struct args *a, const char *name);
static inline bool option_set(const struct args *a, const char *name) { return option_value(a, name) != NULL; }

struct cli {
    const char *url; /* --store, or NULL */
    bool json, quiet, progress;
    bool accept_loss;         /* of what blocks miss that are older than their catalog */
    unsigned lock_timeout_ms; /* 0: the default */
    char program[64];         /* "parallax COMMAND": what others read who wait for the store */
    int cancel_fd;            /* readable after SIGINT, SIGTERM or SIGHUP */
    /* The connection; cli_connect fills it on first use. */
    struct control_client client;
    bool connected;
    struct local *local; /* NULL: a daemon's */
    int daemon_pid;
    char store_url[512], store_key[512];
    char done[600]; /* what was done, as cli_done was told, and stays so whether or not it can be printed */
    int output_errno; /* why standard output could not be written; 0: it could */
};

/* ---- The command line (options.c, help.c) ---- */
extern const struct command *const command_families[];
/* Parses everything; a status other than EXIT_DONE, or *done, means that nothing is left to run. */
int options_parse(struct cli *cli, int argc, char **argv, struct args *a, bool *done);
/* first: only commands whose name begins with this word; NULL: all. */
void help_overview(const char *first);
void help_command(const struct command *c);

/* Called, in a signal handler, before a second signal ends the program at once; NULL: nothing is to be put right. */
extern void (*volatile cli_before_abort)(void);

/* ---- The store (connect.c) ---- */
/* Fills store_url and store_key. */
int cli_locate(struct cli *cli);
/* Connects to the store's daemon; -ENOENT: there is none. */
int cli_connect_daemon(struct cli *cli, struct error *err);
/* Connects to the daemon, or serves the store from this process. */
int cli_connect(struct cli *cli, struct error *err);
void cli_disconnect(struct cli *cli);
/* Whether a signal asked to end. */
bool cli_cancelled(const struct cli *cli);

/* ---- Requests (call.c) ---- */
typedef void cli_item(void *ctx, json_t *element); /* element is borrowed */
/* Sends request (stolen; NULL is an argument that is no text) and waits for the reply. item gets the elements of the lists
 * that come before it (may be NULL). *result is the caller's, and may be NULL if it is not wanted. */
int cli_request(struct cli *cli, json_t *request, cli_item *item, void *ctx, json_t **result, struct error *err);
/* The same, printing the error: status. */
int cli_call(struct cli *cli, json_t *request, cli_item *item, void *ctx, json_t **result);
/* What ls says of an image, the caller's to json_decref; NULL: there is none, or err. The store is let go again. */
json_t *cli_find_image(struct cli *cli, const char *name, struct error *err);
/* What status says, its lists in it; the caller's. */
int cli_status(struct cli *cli, json_t **doc, struct error *err);
/* For transfers: connects and sends request. */
int cli_begin(struct cli *cli, json_t *request, struct error *err);
/* Receives until something else than CREDIT or DATA comes; f->doc is the caller's. A REPLY with an error is returned as that
 * error; of any other, *result is the caller's. */
int cli_receive(struct cli *cli, struct control_frame *f, json_t **result, struct error *err);

/* ---- Output (output.c) ---- */
/* "parallax: text" on stderr: EXIT_FAILED. */
int cli_fail(const struct error *err);
int cli_fail_text(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* The same with a pointer to the command's help: EXIT_USAGE. */
int cli_usage(const struct args *a, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* A line on stdout for people: nothing with --quiet or --json. */
void cli_say(const struct cli *cli, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* The same of a change that was made, or with --json doc, if there is one; should the output not reach its file, the error says so too. */
void cli_done(struct cli *cli, const json_t *doc, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* A line on stderr for people: nothing with --quiet. */
void cli_note(const struct cli *cli, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Prints one document with --json and gives it back; returns whether it did. Steals nothing. */
bool cli_json(const struct cli *cli, const json_t *doc);
/* What was printed is out, or it is kept why not. For commands that stay when they have told what they did. */
void cli_flush(struct cli *cli);
const char *json_text(const json_t *doc, const char *key);  /* "" if absent or null */
uint64_t json_count(const json_t *doc, const char *key);    /* 0 if absent */
bool json_flag(const json_t *doc, const char *key);
/* "1.5 GiB" of a number in doc, in a buffer of SIZE_TEXT_MAX. */
char *json_size(const json_t *doc, const char *key, char *out);

/* A table for people: columns are padded; those whose heading starts with '>' are aligned to the right. */
struct table;
struct table *table_create(const char *const *headings, unsigned columns);
void table_row(struct table *t, const char *const *cells);
void table_print(const struct table *t);
void table_write(const struct table *t, FILE *to);
void table_destroy(struct table *t);

/* ---- Progress on stderr ---- */
struct progress {
    bool on, shown;
    const char *what;
    uint64_t total, began_ms, shown_ms; /* total in bytes; 0: unknown */
};
void progress_begin(struct progress *p, const struct cli *cli, const char *what, uint64_t total_bytes);
void progress_at(struct progress *p, uint64_t bytes);
void progress_end(struct progress *p, bool done);

/* ---- Parsing shared by commands ---- */
/* The positional arguments as a JSON list; NULL if one is no UTF-8 text. */
json_t *args_list(const struct args *a);
/* Sizes and offsets from the command line; on failure a usage error has been printed. */
int args_size(const struct args *a, const char *what, const char *text, uint64_t *out);
#endif
