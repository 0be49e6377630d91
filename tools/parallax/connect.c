/* connect.c - finding the store: its daemon if one runs, else this process itself. */
#include "control/contact.h"
#include "control/place.h"
#include "tools/common/local.h"
#include "tools/parallax/cli.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int cli_locate(struct cli *cli)
{
    struct error err = ERROR_NONE;
    if (cli->url)
        snprintf(cli->store_url, sizeof cli->store_url, "%s", cli->url);
    if (cli->url && strlen(cli->url) >= sizeof cli->store_url)
        return cli_fail_text("the store's name is too long: at most %zu bytes", sizeof cli->store_url - 1);
    if (!cli->url && place_default_url(cli->store_url, &err))
        return cli_fail(&err);
    return place_store_key(cli->store_url, cli->store_key, &err) ? cli_fail(&err) : EXIT_DONE;
}

bool cli_cancelled(const struct cli *cli)
{
    struct pollfd p = { .fd = cli->cancel_fd, .events = POLLIN };
    return poll(&p, 1, 0) > 0;
}

static void tell_waiting(void *ctx, int pid, const char *command)
{
    cli_note(ctx, "parallax: waiting for pid %d (%s)", pid, command);
}

static int connect_self(struct cli *cli, struct error *err)
{
    int fd;
    struct local_options opt = {
        .url = cli->store_url,
        .key = cli->store_key,
        .store = { .lazy = true, .lock_timeout_ms = cli->lock_timeout_ms, .command = cli->program, .lock_waiting = tell_waiting, .ctx = cli },
    };
    int bad = local_start(&opt, &cli->local, &fd);
    if (bad)
        return error_set(err, bad, "cannot start: %s", strerror(-bad));
    bad = control_client_init(&cli->client, fd, cli->cancel_fd);
    if (!bad)
        bad = contact_greet(&cli->client, cli->store_key, &cli->daemon_pid, err);
    if (bad == -ECANCELED) {
        /* The thread waits for a lock or recovers; both may be left at any instant. */
        cli_fail(err);
        _exit(EXIT_FAILED);
    }
    if (bad) {
        control_client_fini(&cli->client);
        local_finish(cli->local);
        cli->local = NULL;
        return error_set(err, bad, "cannot open the store %s: %s", cli->store_key, strerror(-bad));
    }
    cli->daemon_pid = 0;
    cli->connected = true;
    return 0;
}

int cli_connect_daemon(struct cli *cli, struct error *err)
{
    int bad = contact_daemon(cli->store_key, cli->cancel_fd, cli->lock_timeout_ms ? cli->lock_timeout_ms : CONTACT_MS, &cli->client, &cli->daemon_pid, err);
    cli->connected = !bad;
    return bad;
}

int cli_connect(struct cli *cli, struct error *err)
{
    if (cli->connected)
        return 0;
    struct error self = ERROR_NONE;
    int bad = cli_connect_daemon(cli, err);
    if (bad != -ENOENT)
        return bad;
    bad = connect_self(cli, &self);
    /* A daemon that was just starting has the lock, and may be ready by now. */
    if (bad == -EBUSY && (bad = cli_connect_daemon(cli, err)) != -ENOENT)
        return bad;
    return self.code ? error_set(err, self.code, "%s", self.text) : bad;
}

void cli_disconnect(struct cli *cli)
{
    if (!cli->connected)
        return;
    cli->connected = false;
    control_client_fini(&cli->client);
    int err = cli->local ? local_finish(cli->local) : 0;
    cli->local = NULL;
    if (err)
        cli_note(cli, "parallax: the store did not close cleanly (%s); it recovers when it is opened again", strerror(-err));
}
