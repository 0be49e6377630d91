/* main.c - parallax: everything a person does with a store. */
#include "tools/parallax/cli.h"

#include "base/log.h"
#include "tools/common/streams.h"
#include "tools/parallax/commands.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const struct command *const command_families[] = { store_commands, import_commands, export_commands, image_commands,  snap_commands,
                                                   list_commands,  top_commands,    history_commands, data_commands,  check_commands, attach_commands,
                                                   nbd_commands,   mount_commands,  bench_commands,   NULL };

#define LOG_SILENT ((enum log_level)0)

static int cancel_pipe[2] = { -1, -1 };
void (*volatile cli_before_abort)(void);

static void on_signal(int number)
{
    (void)number;
    static volatile sig_atomic_t count;
    int saved = errno;
    ssize_t n = write(cancel_pipe[1], "", 1);
    (void)n; /* a full pipe is readable as well */
    errno = saved;
    /* Who asks twice does not want to wait for what is in flight; the store recovers. */
    if (count++) {
        if (cli_before_abort)
            cli_before_abort();
        _exit(EXIT_FAILED);
    }
}

static int catch_signals(struct cli *cli)
{
    if (pipe2(cancel_pipe, O_CLOEXEC | O_NONBLOCK) < 0)
        return cli_fail_text("cannot make a pipe: %s", strerror(errno));
    struct sigaction end = { .sa_handler = on_signal }, ignore = { .sa_handler = SIG_IGN };
    const int ends[] = { SIGINT, SIGTERM, SIGHUP };
    for (unsigned i = 0; i < sizeof ends / sizeof *ends; i++) {
        struct sigaction before;
        sigaction(ends[i], NULL, &before);
        if (before.sa_handler != SIG_IGN)
            sigaction(ends[i], &end, NULL);
    }
    sigaction(SIGPIPE, &ignore, NULL);
    cli->cancel_fd = cancel_pipe[0];
    return EXIT_DONE;
}

/* Output that did not reach its file is a failure; but what was done is not to be done again. */
static int close_output(struct cli *cli, int status)
{
    cli_flush(cli);
    if (!cli->output_errno || status != EXIT_DONE)
        return status;
    if (*cli->done)
        return cli_fail_text("%s, but cannot write to standard output: %s", cli->done, strerror(cli->output_errno));
    return cli_fail_text("cannot write the output: %s", strerror(cli->output_errno));
}

int main(int argc, char **argv)
{
    streams_hold();
    struct cli cli = { .cancel_fd = -1 };
    struct args a = { .words = calloc((size_t)argc + 1, sizeof(char *)) };
    bool done = false;
    /* A failure is told in one line; the engine's own messages are for a daemon's log. */
    if (!getenv("PARALLAX_DEBUG"))
        log_set_level(LOG_SILENT);
    int status = a.words ? options_parse(&cli, argc, argv, &a, &done) : EXIT_FAILED;
    if (status == EXIT_DONE && !done) {
        snprintf(cli.program, sizeof cli.program, "parallax %s", a.command->name);
        status = catch_signals(&cli);
    }
    if (status == EXIT_DONE && !done)
        status = cli_locate(&cli);
    if (status == EXIT_DONE && !done)
        status = a.command->run(&cli, &a);
    cli_disconnect(&cli);
    status = close_output(&cli, status);
    free(a.words);
    return status;
}
