/* confine.h - somebody else's program, made to see one file and nothing else.
 *
 * The files that people bring are hostile until proven otherwise, and the programs that understand their formats are large.
 * Such a program runs with:
 *   Landlock      it can open the one file, and read what it needs to run (/usr/lib, /lib, /lib64, its own binary); nothing
 *                 else, whatever names a file's content makes it try. Without Landlock in the kernel it does not run.
 *   namespaces    user, network and IPC of its own, where the kernel allows that: no capability, no network.
 *   identity      started by root it becomes the file's owner, and can gain no privileges.
 *   limits        memory, descriptors, no core.
 * It dies with its parent. Threads: any. */
#ifndef TOOLS_PARALLAX_CONFINE_H
#define TOOLS_PARALLAX_CONFINE_H
#include "base/error.h"

#include <stdbool.h>
#include <sys/types.h>

#define CONFINE_FILE "/proc/self/fd/4" /* how the program names its file */
#define CONFINE_SOCKET_FD 3            /* a listening socket, told in LISTEN_FDS; -1: none */

struct confine {
    const char *program;   /* found in /usr/bin */
    char *const *argv;
    int file_fd;           /* becomes CONFINE_FILE */
    int socket_fd;         /* becomes CONFINE_SOCKET_FD, or -1 */
    int output_fd;         /* becomes its standard output, or -1 */
    int error_fd;          /* becomes its standard error */
    bool writable;         /* the file may be written */
    bool other_files;      /* every file may be read: the user asked for backing files to be followed */
};
/* Starts it. -ENOENT: it is not installed; -ENOSYS: no Landlock. */
int confine_start(const struct confine *c, pid_t *out, struct error *err);
#endif
