/* commands.h - the tables of commands, one a file cmd_….c; each ends with a row without a name. */
#ifndef TOOLS_PARALLAX_COMMANDS_H
#define TOOLS_PARALLAX_COMMANDS_H
#include "tools/parallax/cli.h"

extern const struct command store_commands[], import_commands[], export_commands[], image_commands[], snap_commands[], list_commands[],
    data_commands[], top_commands[], history_commands[], check_commands[], attach_commands[], nbd_commands[], mount_commands[],
    bench_commands[];
#endif
