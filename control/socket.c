/* socket.c - the control socket in the file system.
 *
 * A socket is bound under a temporary name, given its mode and group and made to listen, and renamed last: whoever sees the
 * name can connect, and a stale socket of a daemon that was killed is replaced in one step. Nothing but a socket that nobody has open
 * is replaced. */
#include "control/control.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define LISTEN_BACKLOG 64

static int fill_address(const char *path, struct sockaddr_un *sa)
{
    memset(sa, 0, sizeof *sa);
    sa->sun_family = AF_UNIX;
    if (strlen(path) >= sizeof sa->sun_path)
        return -ENAMETOOLONG;
    memcpy(sa->sun_path, path, strlen(path));
    return 0;
}

int control_connect(const char *path, int *out)
{
    struct sockaddr_un sa;
    int err = fill_address(path, &sa);
    if (err)
        return err;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    /* It would wait for as long as the queue is full, and nobody could take it back. */
    if (connect(fd, (struct sockaddr *)&sa, sizeof sa) < 0 || fcntl(fd, F_SETFL, 0) < 0) {
        err = -errno;
        close(fd);
        return err;
    }
    *out = fd;
    return 0;
}

int control_socket_unused(const char *path)
{
    int fd, err = control_connect(path, &fd);
    if (!err)
        close(fd);
    if (err == -ENOENT || err == -ECONNREFUSED)
        return 0;
    return !err || err == -EAGAIN || err == -EPROTOTYPE ? -EADDRINUSE : err;
}

static int refuse_other_file(const char *path)
{
    struct stat st;
    if (lstat(path, &st) < 0)
        return 0;
    return S_ISSOCK(st.st_mode) ? control_socket_unused(path) : -EEXIST;
}

static int prepare(int fd, const char *path, const char *group)
{
    struct sockaddr_un sa;
    int err = fill_address(path, &sa);
    if (err)
        return err;
    unlink(path);
    if (bind(fd, (struct sockaddr *)&sa, sizeof sa) < 0 || chmod(path, 0660) < 0)
        return -errno;
    struct group *g = group ? getgrnam(group) : NULL;
    if (g && chown(path, (uid_t)-1, g->gr_gid) < 0 && errno != EPERM)
        return -errno;
    return listen(fd, LISTEN_BACKLOG) < 0 ? -errno : 0;
}

int control_listen(const char *path, const char *group, int *out)
{
    char temporary[sizeof((struct sockaddr_un *)0)->sun_path + 8];
    int n = snprintf(temporary, sizeof temporary, "%s.new", path);
    if (n < 0 || (size_t)n >= sizeof((struct sockaddr_un *)0)->sun_path)
        return -ENAMETOOLONG;
    int other = refuse_other_file(path);
    if (!other)
        other = refuse_other_file(temporary);
    if (other)
        return other;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    /* Until the mode is set nobody else may connect. */
    mode_t before = umask(0177);
    int err = prepare(fd, temporary, group);
    umask(before);
    if (!err && rename(temporary, path) < 0)
        err = -errno;
    if (err) {
        unlink(temporary);
        close(fd);
        return err;
    }
    *out = fd;
    return 0;
}

int control_peer_pid(int fd)
{
    struct ucred who;
    socklen_t length = sizeof who;
    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &length) < 0 ? -1 : (int)who.pid;
}
