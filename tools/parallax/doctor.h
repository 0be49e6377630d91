/* doctor.h - looks at the store's surroundings. */
#ifndef TOOLS_PARALLAX_DOCTOR_H
#define TOOLS_PARALLAX_DOCTOR_H
#include "tools/parallax/cli.h"

/* Prints a line "ok", "warn" or "fail" for everything it looks at, with what to do; EXIT_FAILED if anything fails. */
int doctor_run(struct cli *cli, const struct args *a);
#endif
