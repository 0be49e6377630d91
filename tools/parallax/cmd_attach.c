/* cmd_attach.c - attach, detach.
 *
 * The command acts as the toolstack: it writes the device's nodes and watches what the backend makes of them. If no daemon
 * serves the store, attach starts one and stays until it is told to end; then it detaches and the daemon ends with it. */
#include "tools/parallax/commands.h"

#include "base/clock.h"
#include "hypervisor/hypervisor.h"
#include "tools/parallax/child.h"
#include "vbd/vbd.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define WAIT_MS 10000u
#define LOOK_EVERY_MS 50
#define REMOVED_LOOKS 20u /* libxl removes the device of a domain that ends before the domain */

struct toolstack {
    struct cli *cli;
    struct hv *hv;
    struct hv_xs *xs;
    hv_domid backend;
    pid_t child; /* 0: the daemon was there before */
};

/* The daemon's domain and its hypervisor. */
static int find_backend(struct toolstack *t, char hypervisor[16], struct error *err)
{
    json_t *status = NULL;
    if (cli_request(t->cli, json_pack("{s:s}", "command", "status"), NULL, NULL, &status, err))
        return err->code;
    const json_t *daemon = json_object_get(status, "daemon");
    t->backend = (hv_domid)json_count(daemon, "domid");
    snprintf(hypervisor, 16, "%s", json_text(daemon, "hypervisor"));
    json_decref(status);
    return *hypervisor ? 0 : error_set(err, -ENOENT, "the daemon of this store serves no hypervisor");
}

static int toolstack_open(struct toolstack *t, bool may_start, struct error *err)
{
    char hypervisor[16] = "";
    int bad = cli_connect_daemon(t->cli, err);
    if (bad == -ENOENT && may_start && child_start(t->cli, NULL, &t->child, err) == 0)
        cli_note(t->cli, "parallax: no daemon serves this store: started one, pid %d; it ends with this command", (int)t->child);
    else if (bad == -ENOENT && !may_start)
        error_set(err, -ENOENT, "no daemon serves this store, so nothing of it is attached");
    if (err->code || find_backend(t, hypervisor, err))
        return err->code;
    struct hv_identity who = { .kind = HV_TOOLSTACK };
    if (hv_open(hypervisor, &who, &t->hv, err))
        return err->code;
    bad = hv_xs_open(t->hv, &t->xs);
    return bad ? error_set(err, bad, "cannot reach xenstore: %s", strerror(-bad)) : 0;
}

static void toolstack_close(struct toolstack *t)
{
    if (t->xs)
        hv_xs_close(t->xs);
    if (t->hv)
        hv_close(t->hv);
    cli_disconnect(t->cli);
    if (t->child)
        child_stop(t->child);
}

/* Waits a moment; false when the user wants out. */
static bool pause_briefly(const struct cli *cli)
{
    struct pollfd p = { .fd = cli->cancel_fd, .events = POLLIN };
    return poll(&p, 1, LOOK_EVERY_MS) <= 0;
}

/* ---- attach ---- */

/* Refuses what the backend would only keep waiting: a second writer. Also tells early that the image does not exist. */
static int check_image(struct cli *cli, const char *target, bool *read_only, struct error *err)
{
    json_t *info = NULL;
    if (cli_request(cli, json_pack("{s:s,s:s}", "command", "find", "target", target), NULL, NULL, &info, err))
        return err->code;
    const char *holder = json_text(info, "holder");
    bool fixed = json_flag(info, "snapshot") || json_flag(info, "template");
    if (!*read_only && fixed)
        error_set(err, -EROFS, "'%s' is a %s and cannot be written; attach it with --mode r, or clone it", target,
                  json_flag(info, "snapshot") ? "snapshot" : "template");
    else if (!*read_only && *holder)
        error_set(err, -EBUSY, "'%s' is written by %s; detach it there first, or attach it with --mode r", target, holder);
    json_decref(info);
    return err->code;
}

static bool domain_ended(struct toolstack *t, const struct vbd *v)
{
    char path[32], *value = NULL;
    snprintf(path, sizeof path, "/local/domain/%u", v->frontend);
    int bad = hv_xs_read(t->xs, 0, path, &value, NULL);
    free(value);
    return bad == -ENOENT; /* and not that nothing can be read */
}

/* Waits until the backend serves the device or refuses it. A guest may have used it and let go of it, or ended, between two looks. */
static int wait_attached(struct toolstack *t, const struct vbd *v, unsigned *state, struct error *err)
{
    uint64_t until = clock_monotonic_ms() + WAIT_MS;
    unsigned removed = 0;
    do {
        *state = vbd_backend_state(t->xs, v);
        char *problem = vbd_problem(t->xs, v);
        if (problem)
            error_set(err, -EIO, "%s", problem);
        free(problem);
        if (err->code || *state == VBD_STATE_CONNECTED)
            return err->code;
        if (*state >= VBD_STATE_CLOSING ? vbd_online(t->xs, v) : *state == 0 && domain_ended(t, v))
            return 0;
        if (*state == 0 && ++removed > REMOVED_LOOKS)
            break;
        if (!pause_briefly(t->cli))
            return error_set(err, -ECANCELED, "interrupted; nothing was attached");
    } while (clock_monotonic_ms() < until);
    if (!*state)
        return error_set(err, -ENOENT, "the device was removed by somebody else");
    if (*state < VBD_STATE_INIT_WAIT)
        return error_set(err, -ETIMEDOUT, "the daemon did not take the device up within 10 s; see its log");
    return 0;
}

static int parse_mode(const struct args *a, bool *read_only)
{
    const char *mode = option_value(a, "mode");
    if (mode && strcmp(mode, "r") && strcmp(mode, "w"))
        return cli_usage(a, "--mode is w or r, not '%.64s'", mode);
    *read_only = mode && *mode == 'r';
    return EXIT_DONE;
}

static int attach_nodes(struct toolstack *t, const struct args *a, struct vbd *v, bool read_only, unsigned *state, struct error *err)
{
    v->backend = t->backend;
    if (vbd_find_domain(t->xs, a->words[1], &v->frontend, err))
        return err->code;
    if (v->frontend == t->backend)
        return error_set(err, -EINVAL, "domain %u is the storage domain itself", v->frontend);
    if (!v->vdev && vbd_choose_free(t->xs, v, err))
        return err->code;
    if (vbd_write_nodes(t->xs, v, a->words[0], read_only, err))
        return err->code;
    if (wait_attached(t, v, state, err)) {
        vbd_ask_close(t->xs, v);
        vbd_remove_nodes(t->xs, v);
    }
    return err->code;
}

static int let_go(struct toolstack *t, const struct vbd *v, bool force, struct error *err);

/* With a daemon of our own: serves until told to end, then takes the disk away. */
static void stay(struct toolstack *t, const struct vbd *v, struct error *err)
{
    while (pause_briefly(t->cli)) {
        if (child_ended(t->child)) {
            t->child = 0;
            error_set(err, -ECHILD, "the daemon ended; the disk %s is gone from domain %u", v->name, v->frontend);
            return;
        }
        if (vbd_backend_state(t->xs, v) == 0)
            return; /* detached by another command, or its domain ended */
    }
    let_go(t, v, true, err);
}

static const char *what_became(struct toolstack *t, const struct vbd *v, unsigned state)
{
    if (state == VBD_STATE_CONNECTED)
        return "";
    if (state && state < VBD_STATE_CLOSING)
        return "; the guest has not connected to it yet";
    return domain_ended(t, v) ? "; the domain has ended" : "; the guest has let go of it again";
}

static int run_attach(struct cli *cli, const struct args *a)
{
    struct toolstack t = { .cli = cli };
    struct vbd v = { 0 };
    struct error err = ERROR_NONE;
    bool read_only = false;
    unsigned state = 0;
    const char *name = option_value(a, "vdev");
    int status = parse_mode(a, &read_only);
    if (status != EXIT_DONE)
        return status;
    if (name && vbd_parse_name(name, &v, &err))
        return cli_usage(a, "%s", err.text);
    if (toolstack_open(&t, true, &err) == 0 && check_image(cli, a->words[0], &read_only, &err) == 0 &&
        attach_nodes(&t, a, &v, read_only, &state, &err) == 0) {
        json_t *doc = json_pack("{s:s,s:I,s:s,s:I,s:b,s:b}", "name", a->words[0], "domid", (json_int_t)v.frontend, "device", v.name, "vdev",
                                (json_int_t)v.vdev, "read-only", read_only, "connected", state == VBD_STATE_CONNECTED);
        cli_done(cli, doc, "attached %s to domain %u as %s%s%s", a->words[0], v.frontend, v.name, read_only ? ", read-only" : "", what_became(&t, &v, state));
        json_decref(doc);
        cli_flush(cli);
        if (t.child)
            stay(&t, &v, &err);
    }
    toolstack_close(&t);
    return err.code ? cli_fail(&err) : EXIT_DONE;
}

/* ---- detach ---- */

struct trouble {
    const struct vbd *v;
    char text[512]; /* empty: none that the daemon knows */
};

static void take_trouble(void *ctx, json_t *device)
{
    struct trouble *p = ctx;
    if (!strcmp(json_text(device, "of"), "devices") && (hv_domid)json_count(device, "domid") == p->v->frontend && json_count(device, "vdev") == p->v->vdev)
        snprintf(p->text, sizeof p->text, "%s", json_text(device, "problem"));
}

static int held_on(struct toolstack *t, const struct vbd *v, struct error *err)
{
    struct trouble p = { .v = v };
    json_t *status = NULL;
    cli_request(t->cli, json_pack("{s:s}", "command", "status"), take_trouble, &p, &status, &(struct error)ERROR_NONE);
    json_decref(status);
    if (*p.text)
        return error_set(err, -ETIMEDOUT, "domain %u was asked to let %s go and has not yet: %s; or use --force, and what is under way fails", v->frontend,
                         v->name, p.text);
    return error_set(err, -ETIMEDOUT, "domain %u does not let %s go (is it mounted there?); unmount it, or use --force", v->frontend, v->name);
}

static int let_go(struct toolstack *t, const struct vbd *v, bool force, struct error *err)
{
    uint64_t until = clock_monotonic_ms() + WAIT_MS;
    unsigned state = vbd_backend_state(t->xs, v);
    if (state && state != VBD_STATE_CLOSED)
        vbd_ask_close(t->xs, v);
    while (state && state != VBD_STATE_CLOSED && clock_monotonic_ms() < until) {
        struct timespec moment = { .tv_nsec = LOOK_EVERY_MS * 1000000 };
        nanosleep(&moment, NULL);
        if (!force && cli_cancelled(t->cli))
            return error_set(err, -ECANCELED, "interrupted; domain %u was asked to let %s go", v->frontend, v->name);
        state = vbd_backend_state(t->xs, v);
    }
    if (state && state != VBD_STATE_CLOSED && !force)
        return held_on(t, v, err);
    vbd_remove_nodes(t->xs, v);
    return 0;
}

struct search {
    const char *target;
    struct vbd *v;
};

static void match_device(void *ctx, json_t *device)
{
    const struct search *s = ctx;
    if (!s->v->vdev && !strcmp(json_text(device, "of"), "devices") && (hv_domid)json_count(device, "domid") == s->v->frontend && !strcmp(json_text(device, "image"), s->target))
        vbd_set_number(s->v, (unsigned)json_count(device, "vdev"));
}

/* By what the image is called now, as status tells it: the nodes keep the name by which it was attached. */
static int find_attached(struct toolstack *t, const char *target, hv_domid domid, struct vbd *v, struct error *err)
{
    json_t *status = NULL;
    *v = (struct vbd){ .backend = t->backend, .frontend = domid };
    if (cli_request(t->cli, json_pack("{s:s}", "command", "status"), match_device, &(struct search){ target, v }, &status, err))
        return err->code;
    json_decref(status);
    return v->vdev ? 0 : error_set(err, -ENOENT, "'%.260s' is not attached to domain %u", target, domid);
}

static int run_detach(struct cli *cli, const struct args *a)
{
    struct toolstack t = { .cli = cli };
    struct vbd v = { 0 };
    struct error err = ERROR_NONE;
    hv_domid domid = 0;
    if (toolstack_open(&t, false, &err) == 0 && vbd_find_domain(t.xs, a->words[1], &domid, &err) == 0 &&
        find_attached(&t, a->words[0], domid, &v, &err) == 0)
        let_go(&t, &v, option_set(a, "force"), &err);
    toolstack_close(&t);
    if (err.code)
        return cli_fail(&err);
    json_t *doc = json_pack("{s:s,s:I,s:s}", "name", a->words[0], "domid", (json_int_t)v.frontend, "device", v.name);
    cli_done(cli, doc, "detached %s from domain %u", a->words[0], v.frontend);
    json_decref(doc);
    return EXIT_DONE;
}

const struct command attach_commands[] = {
    { .name = "attach", .arguments = "NAME[@SNAP] DOMAIN", .summary = "Give an image to a guest as a disk", .run = run_attach, .least = 2, .most = 2,
      .options = { { "vdev", 0, "DEVICE", "as which disk: xvda, xvdb, … (default: the first that is free)" },
                   { "mode", 0, "w|r", "writable (default) or read-only" } },
      .examples = "  parallax attach vm1 7                     # to the domain with that number\n"
                  "  parallax attach data web --vdev xvdb      # to the one of that name\n"
                  "  parallax attach vm1@before web --mode r   # a snapshot, to look at\n" },
    { .name = "detach", .arguments = "NAME[@SNAP] DOMAIN", .summary = "Take an image away from a guest", .run = run_detach, .least = 2, .most = 2,
      .options = { { "force", 0, NULL, "also if the guest does not let go" } },
      .examples = "  parallax detach data web   # when the guest has unmounted it\n" },
    { 0 },
};
