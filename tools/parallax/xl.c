/* xl.c - see xl.h.
 *
 * From dom0 libxl needs the script that waits for parallaxd's verdict; from another domain it needs that domain's name, by which
 * the line still holds when the domain was started anew. */
#include "tools/parallax/xl.h"

#include "hypervisor/hypervisor.h"

#include <stdio.h>
#include <stdlib.h>

/* Who serves: "script=block-parallax" or "backend=NAME". */
static void place(char *out, size_t size)
{
    struct hv *hv;
    struct hv_xs *xs;
    char *name = NULL;
    snprintf(out, size, "backend=STORDOM");
    if (hv_open("xen", &(struct hv_identity){ .kind = HV_GUEST }, &hv, NULL))
        return;
    if (hv_own_domid(hv) == HV_DOMID_TOOLSTACK) {
        snprintf(out, size, "script=block-parallax");
    } else if (hv_xs_open(hv, &xs) == 0) {
        if (hv_xs_read(xs, 0, "name", &name, NULL) == 0)
            snprintf(out, size, "backend=%s", name);
        free(name);
        hv_xs_close(xs);
    }
    hv_close(hv);
}

void xl_print(const char *target, bool read_only)
{
    char server[160];
    place(server, sizeof server);
    printf("disk=['format=raw,vdev=xvda,access=%s,backendtype=phy,%s,target=%s']\n", read_only ? "ro" : "rw", server, target);
}
