/* main.c - parallaxd: the storage domain.
 *
 * What the command line does not say is taken from the configuration, as if it stood there. */
#include "base/flusher.h"
#include "control/config.h"
#include "control/place.h"
#include "tools/common/streams.h"
#include "tools/common/size.h"
#include "tools/parallaxd/daemon.h"
#include "tools/parallaxd/exporter.h"
#include "tools/parallaxd/hiding.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] =
    "usage: parallaxd [OPTION …]\n\n"
    "Serves the images of a store to guests, and its commands on a control socket, until SIGTERM or SIGINT.\n\n"
    "  --store URL            the store: DIR, file:DIR or file:DIR?device=/dev/X (default: $PARALLAX_STORE, else the\n"
    "                         configuration's, else /var/lib/parallax for root and group parallax, else ~/.local/share/parallax)\n"
    "  --hypervisor KIND      auto (default), xen or local (the embedded one)\n"
    "  --name NAME            name of the storage domain with the embedded hypervisor (default: storage)\n"
    "  --socket PATH          the control socket (default: derived from the store)\n"
    "  --map-cache SIZE       memory for the map (default: 64M)\n"
    "  --block-cache SIZE     memory for blocks that were read, shared by all images (default: 128M)\n"
    "  --on-full error|wait   what a guest's write does when the store is full (default: error)\n"
    "  --grants copy|map      guests' data: copied by the hypervisor (default), or through mappings that are kept, 1056 pages a ring\n"
    "  --hide [GLOB:]LIST     features not to offer, for images that match GLOB (default: all), as far as LIST names them: flush,\n"
    "                         barrier, discard, indirect, multi-queue, multi-page, small-sectors (its disks then\n"
    "                         have sectors of 4096 bytes); may be repeated\n"
    "  --metrics [ADDR:]PORT  serve metrics in Prometheus' format at http://ADDR:PORT/metrics (default: not at all; ADDR without\n"
    "                         a port: " EXPORTER_PORT "; a port alone: of 127.0.0.1). There is no authentication\n"
    "  --help, --version\n\n"
    "Each of the others may stand in /etc/parallax/parallax.conf without its dashes: on-full = wait. See parallax.conf(5).\n"
    "It logs on stderr; a line \"ready store=… socket=…\" says that it serves, as READY=1 to NOTIFY_SOCKET does.\n"
    "Exit: 0 ended on request, 1 failed, 2 wrong usage.\n\n"
    "Examples:\n"
    "  parallaxd\n"
    "  parallaxd --store /srv/images --hypervisor local --on-full wait\n";

enum { OPT_STORE = 256, OPT_HYPERVISOR, OPT_NAME, OPT_SOCKET, OPT_MAP_CACHE, OPT_BLOCK_CACHE, OPT_ON_FULL, OPT_GRANTS, OPT_HIDE, OPT_METRICS, OPT_HELP, OPT_VERSION };

static const struct option long_options[] = {
    { "store", required_argument, NULL, OPT_STORE },         { "hypervisor", required_argument, NULL, OPT_HYPERVISOR },
    { "name", required_argument, NULL, OPT_NAME },           { "socket", required_argument, NULL, OPT_SOCKET },
    { "map-cache", required_argument, NULL, OPT_MAP_CACHE }, { "block-cache", required_argument, NULL, OPT_BLOCK_CACHE },
    { "on-full", required_argument, NULL, OPT_ON_FULL },     { "grants", required_argument, NULL, OPT_GRANTS },
    { "hide", required_argument, NULL, OPT_HIDE },           { "metrics", required_argument, NULL, OPT_METRICS },
    { "help", no_argument, NULL, OPT_HELP },                 { "version", no_argument, NULL, OPT_VERSION },
    { NULL, 0, NULL, 0 },
};

static int fail(int status, const char *text)
{
    fprintf(stderr, "parallaxd: %s%s\n", text, status == 2 ? "; see parallaxd --help" : "");
    return status;
}

static bool one_of(const char *text, const char *a, const char *b, const char *c)
{
    return !strcmp(text, a) || !strcmp(text, b) || (c && !strcmp(text, c));
}

/* Takes one option; an error names what is wrong. */
static int take_option(struct daemon_options *o, int option, char *value, struct error *err)
{
    static struct exporter_address metrics;
    switch (option) {
    case OPT_METRICS:
        o->metrics = &metrics;
        return exporter_parse(value, &metrics, err);
    case OPT_STORE:
        o->url = value;
        return *value ? 0 : error_set(err, -EINVAL, "--store names no store");
    case OPT_HYPERVISOR:
        o->hypervisor = value;
        return one_of(value, "auto", "xen", "local") ? 0 : error_set(err, -EINVAL, "--hypervisor is auto, xen or local, not '%.64s'", value);
    case OPT_NAME:
        o->name = value;
        return *value && strlen(value) < 64 ? 0 : error_set(err, -EINVAL, "--name is a name of at most 63 characters");
    case OPT_SOCKET:
        o->socket = value;
        return *value ? 0 : error_set(err, -EINVAL, "--socket names no path");
    case OPT_GRANTS:
        o->map_grants = !strcmp(value, "map");
        return one_of(value, "copy", "map", NULL) ? 0 : error_set(err, -EINVAL, "--grants is copy or map, not '%.64s'", value);
    case OPT_HIDE:
        return hiding_add(value, &o->hidings, &o->hiding_count, err);
    case OPT_MAP_CACHE:
        return size_parse("--map-cache", value, &o->map_cache_bytes, err);
    case OPT_BLOCK_CACHE:
        return size_parse("--block-cache", value, &o->block_cache_bytes, err);
    default:
        o->wait_when_full = !strcmp(value, "wait");
        return one_of(value, "error", "wait", NULL) ? 0 : error_set(err, -EINVAL, "--on-full is error or wait, not '%.64s'", value);
    }
}

struct settings {
    struct daemon_options *options;
    bool said[OPT_HELP - OPT_STORE]; /* on the command line */
};

/* The key is known, and the value lives as long as the program. */
static int take_setting(void *ctx, const char *key, char *value, struct error *err)
{
    struct settings *s = ctx;
    const struct option *o = long_options;
    while (strcmp(o->name, key))
        o++;
    /* Which store is the default is place.h's business: the environment goes before a file. The socket is that store's. */
    if (o->val == OPT_STORE || s->said[o->val - OPT_STORE] || (o->val == OPT_SOCKET && s->said[0]))
        return 0;
    char *kept = strdup(value);
    return kept ? take_option(s->options, o->val, kept, err) : error_set(err, -ENOMEM, "out of memory");
}

int main(int argc, char **argv)
{
    streams_hold();
    char url[PLACE_MAX], text[256];
    struct daemon_options o = { .hypervisor = "auto", .name = PLACE_DOMAIN };
    struct settings settings = { .options = &o };
    struct error err = ERROR_NONE;
    int option;
    opterr = 0;
    while ((option = getopt_long(argc, argv, ":", long_options, NULL)) != -1) {
        if (option == OPT_HELP)
            return fputs(usage, stdout) < 0;
        if (option == OPT_VERSION)
            return puts("parallaxd 0.1") < 0;
        if (option == '?' || option == ':') {
            snprintf(text, sizeof text, option == '?' ? "unknown option '%.64s'" : "option '%.64s' needs a value", argv[optind - 1]);
            return fail(2, text);
        }
        if (take_option(&o, option, optarg, &err))
            return fail(2, err.text);
        settings.said[option - OPT_STORE] = true;
    }
    if (optind < argc) {
        snprintf(text, sizeof text, "'%.64s' is one argument too many", argv[optind]);
        return fail(2, text);
    }
    if (config_read(take_setting, &settings, &err))
        return fail(1, err.text);
    if (!o.url) {
        if (place_default_url(url, &err))
            return fail(1, err.text);
        o.url = url;
    }
    flusher_begin(); /* a loop device of this host may stand on one of our images */
    return daemon_run(&o, &err) ? fail(1, err.text) : 0;
}
