/* notify.c - see notify.h. */
#include "base/notify.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define FIRST_GIVEN 3 /* the descriptor, by the protocol */

void notify_state(const char *state)
{
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un sa = { .sun_family = AF_UNIX };
    if (!path || !*path || strlen(path) >= sizeof sa.sun_path)
        return;
    memcpy(sa.sun_path, path, strlen(path));
    if (*path == '@')
        sa.sun_path[0] = '\0'; /* the abstract name space */
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return;
    sendto(fd, state, strlen(state), MSG_NOSIGNAL, (struct sockaddr *)&sa, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path)));
    close(fd);
}

/* A variable with a number; meant for this process if the one that names a process is absent or names it. */
static unsigned long long number_for_us(const char *name, const char *process)
{
    const char *text = getenv(name), *pid = getenv(process);
    if (!text || (pid && strtoull(pid, NULL, 10) != (unsigned long long)getpid()))
        return 0;
    return strtoull(text, NULL, 10);
}

uint64_t notify_watchdog_ms(void) { return number_for_us("WATCHDOG_USEC", "WATCHDOG_PID") / 1000; }

static int socket_option(int fd, int option)
{
    int value;
    socklen_t length = sizeof value;
    return getsockopt(fd, SOL_SOCKET, option, &value, &length) < 0 ? -1 : value;
}

int notify_listener(int *out)
{
    unsigned long long count = getenv("LISTEN_PID") ? number_for_us("LISTEN_FDS", "LISTEN_PID") : 0;
    unsetenv("LISTEN_FDS");
    unsetenv("LISTEN_PID");
    unsetenv("LISTEN_FDNAMES");
    if (!count)
        return -ENOENT;
    if (count != 1 || socket_option(FIRST_GIVEN, SO_DOMAIN) != AF_UNIX || socket_option(FIRST_GIVEN, SO_TYPE) != SOCK_STREAM ||
        socket_option(FIRST_GIVEN, SO_ACCEPTCONN) != 1)
        return -EINVAL;
    if (fcntl(FIRST_GIVEN, F_SETFD, FD_CLOEXEC) < 0 || fcntl(FIRST_GIVEN, F_SETFL, fcntl(FIRST_GIVEN, F_GETFL) | O_NONBLOCK) < 0)
        return -errno;
    *out = FIRST_GIVEN;
    return 0;
}
