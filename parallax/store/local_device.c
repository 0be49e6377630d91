/* local_device.c - the header of a device that carries blocks.
 *
 * A device's name may mean another disk after a restart, so the device itself says whose it is, down to the directory: after
 * an adoption the former one is refused. The header's two copies lie in blocks 0 and 1 and are written one after the other,
 * each made durable: at any moment one is whole, and the one of the higher sequence is the newer (version 1 has none: there it
 * is the one with more blocks in use). Layout: docs/disk-format.md. */
#include "base/crc32c.h"
#include "base/endian.h"
#include "parallax/store/host_device.h"
#include "parallax/store/local_private.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define HEADER_BYTES 512u
#define VERSION_WITHOUT_COPY 1u
#define VERSION 2u
#define PROBE_BYTES (64u << 10)
#define REGION_MAX (1ull << 30)
#define REGION_MIN (4ull << 20)
#define REGION_STEP (512ull << 10) /* block 0 lies at a whole MiB, as the stripes and erase blocks below like it */
static const char magic[16] = "Parallax device";

enum {
    AT_MAGIC = 0, AT_VERSION = 16, AT_CRC = 20, AT_BLOCKS = 24, AT_UUID = 32, UUID_SIZE = 40,
    AT_SEQUENCE = 72, AT_START = 80, AT_COPY = 88, AT_COPY_BYTES = 96, AT_ADOPTION = 104, AT_MACHINE = 112, AT_HOST = 184, NAME_SIZE = 65,
};

static void encode(unsigned char b[HEADER_BYTES], const struct local_device_header *h)
{
    memset(b, 0, HEADER_BYTES);
    memcpy(b + AT_MAGIC, magic, sizeof magic);
    put_le32(b + AT_VERSION, h->copy_bytes ? VERSION : VERSION_WITHOUT_COPY);
    put_le64(b + AT_BLOCKS, h->blocks);
    snprintf((char *)b + AT_UUID, UUID_SIZE, "%s", h->uuid);
    if (h->copy_bytes) {
        put_le64(b + AT_SEQUENCE, h->sequence);
        put_le64(b + AT_START, h->start_bytes);
        put_le64(b + AT_COPY, LOCAL_DEVICE_HEADER_BYTES);
        put_le64(b + AT_COPY_BYTES, h->copy_bytes);
        put_le64(b + AT_ADOPTION, h->adoption);
        snprintf((char *)b + AT_MACHINE, NAME_SIZE, "%s", h->machine_id);
        snprintf((char *)b + AT_HOST, NAME_SIZE, "%s", h->host);
    }
    put_le32(b + AT_CRC, crc32c(0, b, HEADER_BYTES));
}

/* A text for people and for lines of STORE: whoever wrote the device may have put anything there. */
static void take_text(char *out, size_t size, const unsigned char *at)
{
    memcpy(out, at, size);
    out[size - 1] = 0;
    for (char *p = out; *p; p++)
        if ((unsigned char)*p < 32 || (unsigned char)*p > 126)
            *p = '?';
}

/* True if b is a whole header. */
static bool decode(unsigned char b[HEADER_BYTES], struct local_device_header *h)
{
    uint32_t crc = get_le32(b + AT_CRC), version = get_le32(b + AT_VERSION);
    put_le32(b + AT_CRC, 0);
    if (memcmp(b + AT_MAGIC, magic, sizeof magic) != 0 || crc != crc32c(0, b, HEADER_BYTES))
        return false;
    *h = (struct local_device_header){ .blocks = get_le64(b + AT_BLOCKS), .start_bytes = LOCAL_DEVICE_HEADER_BYTES };
    take_text(h->uuid, sizeof h->uuid, b + AT_UUID);
    if (version == VERSION_WITHOUT_COPY) {
        h->sequence = h->blocks;
        return true;
    }
    h->sequence = get_le64(b + AT_SEQUENCE);
    h->start_bytes = get_le64(b + AT_START);
    h->copy_bytes = get_le64(b + AT_COPY_BYTES);
    h->adoption = get_le64(b + AT_ADOPTION);
    take_text(h->machine_id, NAME_SIZE, b + AT_MACHINE);
    take_text(h->host, NAME_SIZE, b + AT_HOST);
    return version == VERSION && get_le64(b + AT_COPY) == LOCAL_DEVICE_HEADER_BYTES && h->copy_bytes && h->copy_bytes <= REGION_MAX &&
           h->copy_bytes % BDEV_BLOCK_SIZE == 0 && h->start_bytes == LOCAL_DEVICE_HEADER_BYTES + 2 * h->copy_bytes;
}

/* The newer whole copy, from the device: what this host has cached of it is older if another host has written since. */
static bool read_header(int fd, struct local_device_header *h)
{
    bool found = false;
    posix_fadvise(fd, 0, LOCAL_DEVICE_HEADER_BYTES, POSIX_FADV_DONTNEED);
    for (unsigned copy = 0; copy < 2; copy++) {
        unsigned char b[HEADER_BYTES];
        struct local_device_header one;
        if (pread(fd, b, sizeof b, (off_t)(copy * BDEV_BLOCK_SIZE)) != (ssize_t)sizeof b || !decode(b, &one))
            continue;
        if (found && one.sequence < h->sequence)
            continue;
        *h = one;
        found = true;
    }
    return found;
}

/* Whether there is a header that cannot be read: damaged, or of a newer version. */
static bool has_magic(int fd)
{
    char b[sizeof magic];
    for (unsigned copy = 0; copy < 2; copy++)
        if (pread(fd, b, sizeof b, (off_t)(copy * BDEV_BLOCK_SIZE)) == (ssize_t)sizeof b && memcmp(b, magic, sizeof b) == 0)
            return true;
    return false;
}

static int write_header(int fd, const struct local_device_header *h)
{
    unsigned char b[HEADER_BYTES];
    encode(b, h);
    for (unsigned copy = 0; copy < 2; copy++) {
        ssize_t n = pwrite(fd, b, sizeof b, (off_t)(copy * BDEV_BLOCK_SIZE));
        if (n != (ssize_t)sizeof b)
            return n < 0 ? -errno : -EIO;
        if (fdatasync(fd) < 0)
            return -errno;
    }
    return 0;
}

/* What libblkid, if this host has it, takes the contents for: 1 and a name, else 0. It is loaded when needed rather than
 * linked: only init on a device asks it, and without it the zero test below still protects the device. */
static int recognise(const char *device, char name[64])
{
    void *library = dlopen("libblkid.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return 0;
    void *(*open_probe)(const char *) = (void *(*)(const char *))dlsym(library, "blkid_new_probe_from_filename");
    void (*free_probe)(void *) = (void (*)(void *))dlsym(library, "blkid_free_probe");
    int (*enable_partitions)(void *, int) = (int (*)(void *, int))dlsym(library, "blkid_probe_enable_partitions");
    int (*safeprobe)(void *) = (int (*)(void *))dlsym(library, "blkid_do_safeprobe");
    int (*lookup)(void *, const char *, const char **, size_t *) =
        (int (*)(void *, const char *, const char **, size_t *))dlsym(library, "blkid_probe_lookup_value");
    int found = 0;
    void *probe = open_probe && free_probe && enable_partitions && safeprobe && lookup ? open_probe(device) : NULL;
    if (probe) {
        const char *value;
        enable_partitions(probe, 1);
        int rc = safeprobe(probe);
        if (rc == 0 && lookup(probe, "TYPE", &value, NULL) == 0)
            found = snprintf(name, 64, "%.40s data", value) > 0;
        else if (rc == 0 && lookup(probe, "PTTYPE", &value, NULL) == 0)
            found = snprintf(name, 64, "a %.40s partition table", value) > 0;
        else if (rc == -2)
            found = snprintf(name, 64, "several kinds of data at once") > 0;
        free_probe(probe);
    }
    dlclose(library);
    return found;
}

/* 1: some byte at the beginning is not zero; 0: all are; or a negative errno. */
static int beginning_used(int fd)
{
    unsigned char *buf = malloc(PROBE_BYTES);
    if (!buf)
        return -ENOMEM;
    ssize_t n = pread(fd, buf, PROBE_BYTES, 0);
    int used = n < 0 ? -errno : 0;
    for (ssize_t i = 0; i < n && !used; i++)
        used = buf[i] != 0;
    free(buf);
    return used;
}

static int check_contents(int fd, const char *device, bool force, struct error *err)
{
    char name[64] = "data of an unknown kind";
    struct local_device_header h;
    if (read_header(fd, &h))
        return error_set(err, -EEXIST, "the device %s already carries the Parallax store %s; adopt it with 'init --adopt', or wipe it first if it is no "
                         "longer needed", device, h.uuid);
    if (has_magic(fd))
        return error_set(err, -EEXIST, "the device %s carries a Parallax store whose header is damaged or of a newer Parallax; wipe it first if it is no "
                         "longer needed", device);
    if (force)
        return 0;
    int found = recognise(device, name);
    int used = found ? 1 : beginning_used(fd);
    if (used < 0)
        return error_set(err, used, "cannot read the device %s: %s", device, strerror(-used));
    if (used)
        return error_set(err, -ENOTEMPTY, "the device %s holds %s; choose another, or use --force to overwrite it", device, name);
    return 0;
}

/* A descriptor that claims the device for itself. */
static int claim(const char *device, struct error *err)
{
    struct stat st;
    if (stat(device, &st) < 0)
        return error_set(err, -errno, "cannot use the device %s: %s", device, strerror(errno));
    if (!S_ISBLK(st.st_mode))
        return error_set(err, -ENOTBLK, "%s is not a block device", device);
    int fd = open(device, O_RDWR | O_EXCL | O_CLOEXEC);
    if (fd < 0 && errno == EBUSY)
        return error_set(err, -EBUSY, "the device %s is in use (mounted, swap, part of a volume, or open by another Parallax); release it first", device);
    if (fd < 0 ? errno == EROFS : host_device_read_only(fd)) {
        if (fd >= 0)
            close(fd);
        return error_set(err, -EROFS, "the device %s is read-only; make it writable first: 'blockdev --setrw %s', or attach it anew, writable", device, device);
    }
    return fd < 0 ? error_set(err, -errno, "cannot open the device %s: %s", device, strerror(errno)) : fd;
}

int local_device_check(const char *device, bool force, struct error *err)
{
    int fd = claim(device, err);
    int rc = fd < 0 ? fd : check_contents(fd, device, force, err);
    if (fd >= 0)
        close(fd);
    return rc;
}

/* A 512th of the device for each region of the copy, within bounds; a sixteenth of a tiny one. */
int local_device_lay_out(const char *device, struct local_device_header *h, uint64_t *room_bytes, struct error *err)
{
    uint64_t bytes = 0;
    int fd = open(device, O_RDONLY | O_CLOEXEC);
    int rc = fd < 0 ? -errno : host_device_size(fd, &bytes);
    if (fd >= 0)
        close(fd);
    if (rc)
        return error_set(err, rc, "cannot tell the size of %s: %s", device, strerror(-rc));
    uint64_t region = bytes / 512 < REGION_MIN ? REGION_MIN : bytes / 512 > REGION_MAX ? REGION_MAX : bytes / 512;
    region = region > bytes / 16 ? bytes / 16 : region;
    *h = (struct local_device_header){ .copy_bytes = region - region % (region < REGION_STEP ? BDEV_BLOCK_SIZE : REGION_STEP) };
    h->start_bytes = LOCAL_DEVICE_HEADER_BYTES + 2 * h->copy_bytes;
    *room_bytes = bytes > h->start_bytes ? bytes - h->start_bytes : 0;
    return 0;
}

/* Takes every old signature of the range away before the new header appears. */
static int wipe(int fd)
{
    void *zeroes = calloc(1, LOCAL_DEVICE_HEADER_BYTES);
    if (!zeroes)
        return -ENOMEM;
    ssize_t n = pwrite(fd, zeroes, LOCAL_DEVICE_HEADER_BYTES, 0);
    int rc = n == (ssize_t)LOCAL_DEVICE_HEADER_BYTES ? 0 : n < 0 ? -errno : -EIO;
    free(zeroes);
    return !rc && fdatasync(fd) < 0 ? -errno : rc;
}

int local_device_wipe(const char *device, struct error *err)
{
    int fd = open(device, O_RDWR | O_CLOEXEC);
    int rc = fd < 0 ? -errno : wipe(fd);
    if (fd >= 0)
        close(fd);
    return rc ? error_set(err, rc, "cannot write the device %s: %s", device, strerror(-rc)) : 0;
}

int local_device_read(const char *device, bool claimed, struct local_device_header *h, struct error *err)
{
    int fd = claimed ? claim(device, err) : open(device, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return claimed ? fd : error_set(err, -errno, "cannot open the store's device %s: %s", device, strerror(errno));
    bool whole = read_header(fd, h), marked = !whole && has_magic(fd);
    close(fd);
    if (marked)
        return error_set(err, -ENODEV, "the device %s has no Parallax header that can be read: it is damaged, or a newer Parallax made it", device);
    return whole ? 0 : error_set(err, -ENODEV, "the device %s has no Parallax header: it carries no store; attach the right one under that name", device);
}

int local_device_check_owner(const struct local_device_header *h, const struct local_identity *id, const char *directory, struct error *err)
{
    if (strcmp(h->uuid, id->uuid) != 0)
        return error_set(err, -ENODEV, "the device %s is not the one of store %s (it belongs to store %s); attach the right one under that name",
                         id->device, id->uuid, h->uuid);
    if (h->copy_bytes && (h->adoption != id->adoption || strcmp(h->machine_id, id->machine_id) != 0))
        return error_set(err, -EXDEV, "the device %s belongs to host %s now, which has adopted it; %s is not its directory any more and can be removed",
                         id->device, h->host, directory);
    return 0;
}

void local_device_own(struct local_device_header *h, const struct local_identity *id)
{
    h->adoption = id->adoption;
    snprintf(h->uuid, sizeof h->uuid, "%s", id->uuid);
    snprintf(h->machine_id, sizeof h->machine_id, "%s", id->machine_id);
    snprintf(h->host, sizeof h->host, "%s", id->host);
}

int local_device_write(const char *device, struct local_device_header *h)
{
    int fd = open(device, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    h->sequence++;
    int rc = write_header(fd, h);
    close(fd);
    return rc;
}
