/* main.c - parallax-hypervisor: the embedded hypervisor as a process. See hypervisor/hypervisor.h and docs/hypervisor.md.
 *
 * Programs that need it start it themselves (with --daemon); run by hand or as a service it stays in the foreground. */
#include "hypervisor/hypervisor.h"
#include "tools/common/streams.h"

#include <getopt.h>
#include <stdio.h>

static const char usage[] =
    "usage: parallax-hypervisor [--daemon] [--stay] [DIR]\n"
    "Serves domains, grants, event channels and the xenstore in DIR (default: PARALLAX_HYPERVISOR_DIR, else\n"
    "/run/parallax/hypervisor as root, else $XDG_RUNTIME_DIR/parallax/hypervisor, else /dev/shm/parallax-UID/hypervisor).\n"
    "  --daemon  go to the background once connections are accepted\n"
    "  --stay    stay when the last domain is gone\n"
    "  --help, --version\n\n"
    "Examples:\n"
    "  parallax-hypervisor --stay                      as a service does\n"
    "  parallax-hypervisor --daemon /dev/shm/mine/hv   then: PARALLAX_HYPERVISOR_DIR=/dev/shm/mine/hv parallaxd …\n";

int main(int argc, char **argv)
{
    streams_hold();
    static const struct option options[] = {
        { "daemon", no_argument, NULL, 'd' }, { "stay", no_argument, NULL, 's' }, { "help", no_argument, NULL, 'h' },
        { "version", no_argument, NULL, 'v' }, { NULL, 0, NULL, 0 },
    };
    bool daemonize = false, stay = false;
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (c == 'h') {
            fputs(usage, stdout);
            return 0;
        }
        if (c == 'v') {
            puts("parallax-hypervisor 0.1");
            return 0;
        }
        if (c != 'd' && c != 's') {
            fputs(usage, stderr);
            return 2;
        }
        daemonize = daemonize || c == 'd';
        stay = stay || c == 's';
    }
    if (argc - optind > 1) {
        fputs(usage, stderr);
        return 2;
    }
    struct error err = ERROR_NONE;
    if (hv_server_run(argv[optind], stay, daemonize, &err) == 0)
        return 0;
    fprintf(stderr, "parallax-hypervisor: %s\n", err.text);
    return 1;
}
