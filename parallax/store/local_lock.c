/* local_lock.c - the store's lock.
 *
 * An open file description lock: the kernel drops it when the last descriptor of this opening is closed, so it is never
 * stale, whatever killed the holder, and two openings in one process exclude each other as well. The descriptor is closed by
 * exec; a process that forks without exec shares the lock and has to close it. The file is never removed (a waiter may have
 * it open), and its text only informs. */
#include "base/clock.h"
#include "parallax/store/local_private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define POLL_MS 20u
#define NOTICE_MS 1000u

/* Who holds it, as far as the text says; a holder may be about to write it. */
static void read_holder(int fd, int *pid, char command[BACKING_COMMAND_SIZE])
{
    char text[BACKING_COMMAND_SIZE];
    ssize_t n = pread(fd, text, sizeof text - 1, 0);
    *pid = 0;
    strcpy(command, "unknown");
    if (n <= 0)
        return;
    text[n] = 0;
    text[strcspn(text, "\n")] = 0;
    char *end;
    long value = strtol(text, &end, 10);
    if (end == text || *end != ' ' || value <= 0)
        return;
    *pid = (int)value;
    snprintf(command, BACKING_COMMAND_SIZE, "%s", end + 1);
    for (char *p = command; *p; p++)
        if ((unsigned char)*p < 32 || *p == 127)
            *p = '?';
}

static int write_holder(int fd, const char *command)
{
    char text[BACKING_COMMAND_SIZE];
    int n = snprintf(text, sizeof text, "%d %s\n", (int)getpid(), command ? command : "unknown");
    size_t length = n < (int)sizeof text ? (size_t)n : sizeof text - 1;
    if (ftruncate(fd, 0) < 0)
        return -errno;
    return pwrite(fd, text, length, 0) < 0 ? -errno : 0;
}

static int try_lock(int fd)
{
    struct flock whole = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
    if (fcntl(fd, F_OFD_SETLK, &whole) == 0)
        return 0;
    return errno == EACCES || errno == EAGAIN ? -EBUSY : -errno;
}

static int wait_for_lock(int fd, const struct backing_open_options *opt)
{
    uint64_t start = clock_monotonic_ms();
    bool noticed = !opt->waiting;
    int rc;
    while ((rc = try_lock(fd)) == -EBUSY) {
        uint64_t waited = clock_monotonic_ms() - start;
        if (waited >= opt->lock_timeout_ms)
            break;
        if (!noticed && waited >= NOTICE_MS) {
            int pid;
            char command[BACKING_COMMAND_SIZE];
            read_holder(fd, &pid, command);
            opt->waiting(opt->waiting_ctx, pid, command);
            noticed = true;
        }
        uint64_t left = opt->lock_timeout_ms - waited;
        usleep((useconds_t)(left < POLL_MS ? left : POLL_MS) * 1000u);
    }
    return rc;
}

int local_lock_take(int directory_fd, const char *directory, const struct backing_open_options *opt, struct error *err)
{
    int fd = openat(directory_fd, LOCAL_LOCK_FILE, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return error_set(err, -errno, "cannot open the lock of the store %s: %s", directory, strerror(errno));
    int rc = wait_for_lock(fd, opt);
    if (rc == -EBUSY) {
        int pid;
        char command[BACKING_COMMAND_SIZE];
        read_holder(fd, &pid, command);
        error_set(err, rc, "the store %s is in use by process %d (%s); wait for it to end, or stop it", directory, pid, command);
    } else if (rc) {
        error_set(err, rc, "cannot lock the store %s: %s", directory, strerror(-rc));
    } else if ((rc = write_holder(fd, opt->command)) && rc != -ENOSPC) {
        /* A full file system must not keep anybody out; others then learn no name. */
        error_set(err, rc, "cannot write the lock of the store %s: %s", directory, strerror(-rc));
    } else {
        return fd;
    }
    close(fd);
    return rc;
}

int backing_holder(const char *url, char command[static BACKING_COMMAND_SIZE])
{
    struct flock whole = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
    struct error err = ERROR_NONE;
    char path[LOCAL_PATH_MAX + sizeof LOCAL_LOCK_FILE], directory[LOCAL_PATH_MAX], device[LOCAL_PATH_MAX];
    int pid = 0;
    if (backing_parse_url(url, directory, device, &err))
        return 0;
    snprintf(path, sizeof path, "%s/" LOCAL_LOCK_FILE, directory);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0)
        return 0;
    if (fcntl(fd, F_OFD_GETLK, &whole) == 0 && whole.l_type != F_UNLCK)
        read_holder(fd, &pid, command);
    close(fd);
    return pid;
}
