/* local_identity.c - the file STORE.
 *
 * Lines of text, in this order: "parallax-store VERSION", then "key=value" lines, then "crc32c=" with eight digits over
 * everything before it. A version that is not known is refused before anything else is looked at; keys that are not known are
 * passed over, so that a later program may add what an older one need not see. */
#include "base/crc32c.h"
#include "parallax/store/local_private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define VERSION 1ul
#define TEXT_MAX 4096u
#define FIRST_WORD "parallax-store "
#define CHECKSUM_KEY "crc32c="
#define LAST_LINE_MAX 24u

/* The line that follows the first n bytes of the text. */
static void format_last_line(const char *text, size_t n, char out[LAST_LINE_MAX])
{
    snprintf(out, LAST_LINE_MAX, CHECKSUM_KEY "%08x\n", crc32c(0, text, n));
}

int local_identity_make(struct local_identity *id, const char *device, struct error *err)
{
    uint8_t uuid[UUID_BYTES];
    if (uuid_make(uuid))
        return error_set(err, -EIO, "cannot make a uuid for the store: the kernel gave no random bytes");
    uuid_text(uuid, id->uuid);
    if (gethostname(id->host, sizeof id->host - 1) < 0)
        strcpy(id->host, "unknown");
    id->host[sizeof id->host - 1] = 0;
    snprintf(id->device, sizeof id->device, "%s", device);
    return local_machine_id(id->machine_id, err);
}

static int write_all(int fd, const char *text, size_t length)
{
    while (length) {
        ssize_t n = write(fd, text, length);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n ? -errno : -EIO;
        text += n;
        length -= (size_t)n;
    }
    return 0;
}

int local_identity_write(int directory_fd, const char *directory, const char *file, const struct local_identity *id, struct error *err)
{
    char text[TEXT_MAX];
    int n = snprintf(text, sizeof text, FIRST_WORD "%lu\nuuid=%s\nmachine-id=%s\nhost=%s\ndevice=%s\n", VERSION, id->uuid, id->machine_id,
                     id->host, id->device);
    if (id->adoption)
        n += snprintf(text + n, sizeof text - (size_t)n, "adoption=%llu\n", id->adoption);
    char last[LAST_LINE_MAX];
    format_last_line(text, (size_t)n, last);
    n += snprintf(text + n, sizeof text - (size_t)n, "%s", last);
    int fd = openat(directory_fd, file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    int rc = fd < 0 ? -errno : write_all(fd, text, (size_t)n);
    if (!rc && fsync(fd) < 0)
        rc = -errno;
    if (fd >= 0)
        close(fd);
    return rc ? error_set(err, rc, "cannot write %s/%s: %s", directory, file, strerror(-rc)) : 0;
}

static int damaged(const char *directory, const char *why, struct error *err)
{
    return error_set(err, -EBADMSG, "%s/" LOCAL_STORE_FILE " is damaged (%s); restore it from a backup, or, if the store is on a device, take that over: "
                     "'init --adopt DEVICE' with a new directory", directory, why);
}

static int check_frame(const char *text, const char *directory, struct error *err)
{
    const size_t word = sizeof FIRST_WORD - 1;
    if (strncmp(text, FIRST_WORD, word) != 0)
        return damaged(directory, "it does not begin as it should", err);
    size_t digits = strspn(text + word, "0123456789");
    unsigned long version = digits && digits < 10 ? strtoul(text + word, NULL, 10) : 0;
    if (text[word + digits] != '\n' || !version)
        return damaged(directory, "its version is no number", err);
    if (version > VERSION)
        return error_set(err, -EPROTONOSUPPORT, "the store %s has format %lu and this program knows up to %lu; use a newer program",
                         directory, version, VERSION);
    const char *last = strstr(text, "\n" CHECKSUM_KEY);
    if (!last)
        return damaged(directory, "it is cut short", err);
    char expected[LAST_LINE_MAX];
    last++;
    format_last_line(text, (size_t)(last - text), expected);
    if (strcmp(last, expected) != 0)
        return damaged(directory, "wrong checksum", err);
    return 0;
}

/* True if the key is there and its value fits. */
static bool get_value(const char *text, const char *key, char *value, size_t size)
{
    char start[32];
    snprintf(start, sizeof start, "\n%s=", key);
    const char *at = strstr(text, start);
    if (!at)
        return false;
    at += strlen(start);
    size_t n = strcspn(at, "\n");
    if (n >= size)
        return false;
    memcpy(value, at, n);
    value[n] = 0;
    return true;
}

/* A store that is being made, or was not finished, has STORE.new. */
static int missing(int directory_fd, const char *directory, struct error *err)
{
    if (faccessat(directory_fd, LOCAL_CATALOG_DIRECTORY "/catalog.db", F_OK, 0) || faccessat(directory_fd, LOCAL_STORE_NEW_FILE, F_OK, 0) == 0)
        return error_set(err, -ENOENT, "%s is not a Parallax store; create one with 'parallax init'", directory);
    return error_set(err, -ENOENT, "%s has a store's catalog and no file " LOCAL_STORE_FILE "; restore that from a backup, or, if the store is on a device, take "
                     "that over: 'init --adopt DEVICE' with a new directory", directory);
}

/* Of a FIFO it waits for no writer. */
static int open_store_file(int directory_fd, const char *directory, struct error *err)
{
    struct stat st;
    int fd = openat(directory_fd, LOCAL_STORE_FILE, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK), code = errno;
    if (fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode))
        return fd;
    if (fd < 0 && code == ENOENT)
        return missing(directory_fd, directory, err);
    if (fd < 0 && code != ELOOP && code != ENXIO) /* a symbolic link, a socket */
        return error_set(err, -code, "cannot open %s/" LOCAL_STORE_FILE ": %s", directory, strerror(code));
    if (fd >= 0)
        close(fd);
    return damaged(directory, "it is no regular file", err);
}

int local_identity_read(int directory_fd, const char *directory, struct local_identity *id, struct error *err)
{
    char text[TEXT_MAX + 1];
    int fd = open_store_file(directory_fd, directory, err);
    if (fd < 0)
        return fd;
    ssize_t n = read(fd, text, TEXT_MAX);
    int code = -errno;
    close(fd);
    if (n < 0)
        return error_set(err, code, "cannot read %s/" LOCAL_STORE_FILE ": %s", directory, strerror(-code));
    text[n] = 0;
    if (strlen(text) != (size_t)n)
        return damaged(directory, "it is no text", err);
    code = check_frame(text, directory, err);
    if (code)
        return code;
    if (!get_value(text, "uuid", id->uuid, sizeof id->uuid) || !get_value(text, "machine-id", id->machine_id, sizeof id->machine_id) ||
        !get_value(text, "host", id->host, sizeof id->host) || !get_value(text, "device", id->device, sizeof id->device))
        return damaged(directory, "a line is missing", err);
    char adoption[24] = "0";
    get_value(text, "adoption", adoption, sizeof adoption);
    id->adoption = strtoull(adoption, NULL, 10);
    return 0;
}

int local_identity_check_host(const struct local_identity *id, const char *directory, struct error *err)
{
    char here[65];
    int rc = local_machine_id(here, err);
    if (rc)
        return rc;
    if (strcmp(here, id->machine_id) != 0)
        return error_set(err, -EXDEV, "the store %s belongs to host %s (machine-id %s); open it there, or take it over for this host (%s) with 'init --adopt' and "
                         "the directory's name", directory, id->host, id->machine_id, here);
    return 0;
}
