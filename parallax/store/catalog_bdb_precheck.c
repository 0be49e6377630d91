/* catalog_bdb_precheck.c - what Berkeley DB believes of its files before, or without, checking a checksum, and must not.
 *
 * 1. Whether pages have checksums is a flag in the first page of the database.
 * 2. A log file begins with a record of fixed size, and its checksum is computed over as many bytes as that record says.
 * 3. A page whose type is that of a database's first page is verified only if flags in that page itself say so, and the page of a
 *    long value is used whatever its type is: random bytes pass for one if the type among them is such a one. There is one
 *    database in the file, so only its first page may have it. Looked at when recovery has made whole what it can.
 * Files that are too short, as after a crash, are left to Berkeley DB: it deals with them. */
#include "parallax/store/catalog_bdb_private.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define META_FLAGS_OFFSET 26
#define META_FLAG_CHECKSUM 1u
#define PAGE_TYPE_OFFSET 25u
#define PAGES_AT_ONCE 128u
#define LOG_LENGTH_OFFSET 4 /* in the byte order of the host */
#define LOG_FIRST_RECORD_BYTES 28u

/* Reads what is there of that stretch of the file over `data`. 0 or errno. */
static int read_part(struct catalog_bdb *b, const char *name, off_t offset, void *data, size_t length)
{
    int fd = openat(b->directory_fd, name, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return errno;
    int rc = pread(fd, data, length, offset) < 0 ? errno : 0;
    close(fd);
    return rc;
}

static int damaged(struct catalog_bdb *b, const char *name, const char *what)
{
    snprintf(b->first_message, sizeof b->first_message, "%.100s: %s", name, what);
    return DB_VERIFY_BAD;
}

static int check_log_file(struct catalog_bdb *b, const char *name)
{
    uint32_t length = 0;
    int rc = read_part(b, name, LOG_LENGTH_OFFSET, &length, sizeof length);
    if (!rc && length > LOG_FIRST_RECORD_BYTES)
        rc = damaged(b, name, "its first record has a wrong length");
    return rc;
}

static int check_log_files(struct catalog_bdb *b)
{
    b->log_files = 0;
    int rc = 0, fd = openat(b->directory_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    if (!d) {
        rc = errno;
        if (fd >= 0)
            close(fd);
        return rc;
    }
    for (struct dirent *e; !rc && (e = readdir(d));)
        if (strncmp(e->d_name, "log.", 4) == 0) {
            rc = check_log_file(b, e->d_name);
            b->log_files++;
        }
    closedir(d);
    return rc;
}

int catalog_bdb_precheck(struct catalog_bdb *b)
{
    unsigned char flags = META_FLAG_CHECKSUM;
    int rc = read_part(b, CATALOG_BDB_FILE, META_FLAGS_OFFSET, &flags, sizeof flags);
    if (!rc && flags != META_FLAG_CHECKSUM)
        rc = damaged(b, CATALOG_BDB_FILE, "its first page has wrong flags");
    return rc ? rc : check_log_files(b);
}

/* Of Berkeley DB's access methods hash, btree, queue and heap. */
static bool is_first_page(unsigned char type) { return type == 8 || type == 9 || type == 10 || type == 14; }

int catalog_bdb_check_pages(struct catalog_bdb *b)
{
    unsigned char pages[PAGES_AT_ONCE * CATALOG_BDB_PAGE_BYTES];
    int fd = openat(b->directory_fd, CATALOG_BDB_FILE, O_RDONLY | O_CLOEXEC), rc = fd < 0 ? errno : 0;
    ssize_t n = 0;
    for (off_t at = 0; !rc && (n = pread(fd, pages, sizeof pages, at)) > 0; at += n)
        for (size_t k = 0; k + PAGE_TYPE_OFFSET < (size_t)n && !rc; k += CATALOG_BDB_PAGE_BYTES)
            if (at + (off_t)k > 0 && is_first_page(pages[k + PAGE_TYPE_OFFSET]))
                rc = damaged(b, CATALOG_BDB_FILE, "a page has the type of a database's first one");
    if (n < 0)
        rc = errno;
    if (fd >= 0)
        close(fd);
    return rc;
}
