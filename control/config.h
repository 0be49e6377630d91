/* config.h - the configuration file: lines "key = value".
 *
 * Which file: PARALLAX_CONFIG names the only one; else root reads /etc/parallax/parallax.conf, a member of group parallax his own
 * ($XDG_CONFIG_HOME/parallax/parallax.conf, by default below ~/.config) and then that of the system, and anybody else his own.
 * Of a key that stands in both, only the lines of the first file count; a file that is not there is empty, but for the one that
 * PARALLAX_CONFIG names. The keys are parallaxd's options; see parallax.conf(5). What is said on a command line or in the
 * environment goes before any file. Any thread, but the environment must not change. */
#ifndef CONTROL_CONFIG_H
#define CONTROL_CONFIG_H
#include "base/error.h"

#include <stdbool.h>

#define CONFIG_SYSTEM_FILE "/etc/parallax/parallax.conf"
#define CONFIG_VALUE_MAX 512u /* with its end */

/* Gives each line that counts to take, in order; an error it returns (with err filled) ends the reading, and gets the file and the
 * line's number put before it. Unknown keys and lines that say nothing are errors of that kind too, whoever asks.
 * value lives as long as the call. */
int config_read(int (*take)(void *ctx, const char *key, char *value, struct error *err), void *ctx, struct error *err);
/* The value of key, "" if no line sets it. */
int config_value(const char *key, char out[CONFIG_VALUE_MAX], struct error *err);
/* Whether this process is root's or of group parallax: then the system's store and file are its own. */
bool config_of_system(void);
#endif
