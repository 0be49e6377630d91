/* connect.c - finding the store: its daemon if one runs, else this process itself. */
#include "base/clock.h"
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

#define NOTICE_MS 1000u
#define LOOK_EVERY_MS 50

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
        .guests_wait = place_any_guests_wait(cli->store_key),
        .store = { .lazy = true, .accept_loss = cli->accept_loss, .lock_timeout_ms = cli->lock_timeout_ms, .command = cli->program, .lock_waiting = tell_waiting, .ctx = cli },
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

/* A daemon that has the store and cannot be found yet, or not any more: it begins or ends. */
static int daemon_between(const struct cli *cli)
{
    char command[STORE_COMMAND_SIZE];
    int pid = store_holder(cli->store_url, command);
    return pid && strcmp(command, "parallaxd") == 0 ? pid : 0;
}

int cli_connect_daemon(struct cli *cli, struct error *err)
{
    unsigned limit_ms = cli->lock_timeout_ms ? cli->lock_timeout_ms : CONTACT_MS;
    uint64_t began_ms = clock_monotonic_ms();
    struct pollfd cancel = { .fd = cli->cancel_fd, .events = POLLIN };
    bool told = false;
    int bad, pid;
    while ((bad = contact_daemon(cli->store_key, cli->cancel_fd, limit_ms, &cli->client, &cli->daemon_pid, err)) == -ENOENT && (pid = daemon_between(cli))) {
        uint64_t waited_ms = clock_monotonic_ms() - began_ms;
        if (waited_ms >= limit_ms)
            return error_set(err, -EBUSY, "the store %s is in use by process %d (parallaxd), which cannot be reached: it begins, ends, or runs elsewhere; wait for it, or stop it", cli->store_key, pid);
        if (waited_ms >= NOTICE_MS && !told) {
            tell_waiting(cli, pid, "parallaxd");
            told = true;
        }
        if (poll(&cancel, 1, LOOK_EVERY_MS) > 0)
            return error_set(err, -ECANCELED, "interrupted");
    }
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
    /* A daemon that waited for the lock as well may have got it, and serve by now. */
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
    if (err == -ESTALE)
        cli_note(cli, "parallax: the store %s was removed meanwhile: what was written to it is lost", cli->store_key);
    else if (err)
        cli_note(cli, "parallax: the store did not close cleanly (%s); it recovers when it is opened again", strerror(-err));
}
