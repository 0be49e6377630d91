/* content.h - commands about what blocks hold (cmd_content.c). */
#ifndef TOOLS_PARALLAX_CONTENT_H
#define TOOLS_PARALLAX_CONTENT_H
#include "tools/parallax/cli.h"

int content_digest(struct cli *cli, const struct args *a);
int content_verify(struct cli *cli, const struct args *a);
int content_dedup(struct cli *cli, const struct args *a);
#endif
