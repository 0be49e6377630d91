/* help.c - the help texts, from the same tables that the parser reads. */
#include "tools/parallax/cli.h"

#include <stdio.h>
#include <string.h>

static const char global_options[] =
    "Options of all commands, before or after COMMAND:\n"
    "  --store URL         the store: DIR, file:DIR or file:DIR?device=/dev/X (default: $PARALLAX_STORE, else what\n"
    "                      parallax.conf(5) says, else /var/lib/parallax for root and group parallax, else ~/.local/share/parallax)\n"
    "  --json              print one JSON document (help stays text)\n"
    "  -q, --quiet         print nothing but results and errors\n"
    "  --progress          show progress on stderr also where that is no terminal\n"
    "  --lock-timeout S    how long to wait for another command on this store (default: 10 seconds)\n"
    "  --help, --version\n";

static const char first_steps[] =
    "Examples:\n"
    "  parallax init                                            # a store\n"
    "  parallax import debian-12.qcow2 debian-12 --template     # a disk to clone from\n"
    "  parallax clone debian-12 vm1                             # a disk of its own, at once, without copying\n"
    "  parallax nbd vm1 --socket /run/vm1.sock                  # … for QEMU, until it is ended\n"
    "  parallax snap create vm1@before                          # while the guest runs\n"
    "  parallax snap rollback vm1@before                        # when it is off\n";

void help_overview(const char *first)
{
    size_t length = first ? strlen(first) : 0;
    printf("usage: parallax [OPTION …] %s …\n\nCommands (parallax COMMAND --help tells more):\n", first ? first : "COMMAND");
    for (unsigned f = 0; command_families[f]; f++)
        for (const struct command *c = command_families[f]; c->name; c++)
            if (!first || (!strncmp(c->name, first, length) && c->name[length] == ' '))
                printf("  %-14s %s\n", c->name, c->summary);
    printf("\n%s\n%s\nSizes are bytes, or K M G T P (KiB … PiB, 1024). Exit: 0 done, 1 failed, 2 wrong usage.\n", global_options, first_steps);
}

void help_command(const struct command *c)
{
    printf("usage: parallax %s%s %s\n\n%s.\n", c->name, c->options[0].name ? " [OPTION …]" : "", c->arguments, c->summary);
    if (c->options[0].name)
        puts("\nOptions:");
    for (unsigned i = 0; i < OPTIONS_MAX && c->options[i].name; i++) {
        const struct option_spec *o = &c->options[i];
        char left[64], letter[8] = "";
        if (o->letter)
            snprintf(letter, sizeof letter, "-%c, ", o->letter);
        snprintf(left, sizeof left, "%s--%s%s%s", letter, o->name, o->value ? " " : "", o->value ? o->value : "");
        printf("  %-19s %s\n", left, o->help);
    }
    printf("\n%s\nExamples:\n%s", global_options, c->examples);
}
