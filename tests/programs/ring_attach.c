/* ring_attach.c - the toolstack for tests of rings: writes the nodes of block devices and tells the states of their ends.
 *
 *   ring_attach attach BACKEND-DOMID DOMID VDEV TARGET w|r     writes the nodes and returns
 *   ring_attach detach BACKEND-DOMID DOMID VDEV                asks for the end and waits 10 s for it
 *   ring_attach remove BACKEND-DOMID DOMID VDEV                removes the nodes
 *   ring_attach states BACKEND-DOMID DOMID VDEV                prints "BACKEND FRONTEND" */
#include "tests/support/blkback_toolstack.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int detach(struct hv_xs *xs, const struct toolstack_device *d)
{
    int err = toolstack_ask_detach(xs, d);
    for (int i = 0; i < 1000 && !err; i++) {
        unsigned state = toolstack_backend_state(xs, d);
        if (state == 0 || state == 6) {
            toolstack_remove(xs, d);
            return 0;
        }
        usleep(10000);
    }
    fprintf(stderr, "ring_attach: backend state %u, frontend state %u\n", toolstack_backend_state(xs, d), toolstack_frontend_state(xs, d));
    return 1;
}

int main(int argc, char **argv)
{
    struct error err = ERROR_NONE;
    struct hv *hv;
    struct hv_xs *xs;
    int rc = 0;
    if (argc < 5)
        return 2;
    struct toolstack_device d = { .backend = (hv_domid)strtoul(argv[2], NULL, 10), .frontend = (hv_domid)strtoul(argv[3], NULL, 10),
                                  .vdev = (unsigned)strtoul(argv[4], NULL, 10) };
    if (hv_open("local", &(struct hv_identity){ .kind = HV_TOOLSTACK }, &hv, &err) || hv_xs_open(hv, &xs)) {
        fprintf(stderr, "ring_attach: %s\n", err.text);
        return 1;
    }
    if (!strcmp(argv[1], "attach") && argc == 7) {
        d.params = argv[5];
        d.mode = argv[6];
        rc = toolstack_attach(xs, &d);
        if (rc)
            fprintf(stderr, "ring_attach: %s\n", strerror(-rc));
    } else if (!strcmp(argv[1], "detach")) {
        rc = detach(xs, &d);
    } else if (!strcmp(argv[1], "remove")) {
        toolstack_remove(xs, &d);
    } else if (!strcmp(argv[1], "states")) {
        printf("%u %u\n", toolstack_backend_state(xs, &d), toolstack_frontend_state(xs, &d));
    } else {
        rc = 2;
    }
    hv_xs_close(xs);
    hv_close(hv);
    return rc != 0;
}
