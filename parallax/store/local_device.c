/* local_device.c - the header of a device that carries blocks.
 *
 * A device's name may mean another disk after a restart, so the device itself says whose it is. The header's two copies lie
 * in blocks 0 and 1 and are written one after the other, each made durable: at any moment one is whole, and the one with more
 * blocks in use is the newer.
 *   0  magic (16 bytes)   16  version (4)   20  CRC-32C of the 512 bytes, this field 0 (4)   24  blocks in use (8)
 *   32 uuid of the store, text (40)   72 zeroes up to 512 */
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
#define VERSION 1u
#define PROBE_BYTES (64u << 10)
static const char magic[16] = "Parallax device";

enum { AT_MAGIC = 0, AT_VERSION = 16, AT_CRC = 20, AT_BLOCKS = 24, AT_UUID = 32, UUID_SIZE = 40 };

static void encode(unsigned char h[HEADER_BYTES], const char *uuid, uint64_t blocks)
{
    memset(h, 0, HEADER_BYTES);
    memcpy(h + AT_MAGIC, magic, sizeof magic);
    put_le32(h + AT_VERSION, VERSION);
    put_le64(h + AT_BLOCKS, blocks);
    snprintf((char *)h + AT_UUID, UUID_SIZE, "%s", uuid);
    put_le32(h + AT_CRC, crc32c(0, h, HEADER_BYTES));
}

/* True if h is a whole header; then *blocks and uuid are set. */
static bool decode(unsigned char h[HEADER_BYTES], char uuid[UUID_SIZE], uint64_t *blocks)
{
    uint32_t crc = get_le32(h + AT_CRC);
    put_le32(h + AT_CRC, 0);
    if (memcmp(h + AT_MAGIC, magic, sizeof magic) != 0 || get_le32(h + AT_VERSION) != VERSION || crc != crc32c(0, h, HEADER_BYTES))
        return false;
    memcpy(uuid, h + AT_UUID, UUID_SIZE);
    uuid[UUID_SIZE - 1] = 0;
    *blocks = get_le64(h + AT_BLOCKS);
    return true;
}

/* The newer whole copy. */
static bool read_header(int fd, char uuid[UUID_SIZE], uint64_t *blocks)
{
    bool found = false;
    for (unsigned copy = 0; copy < 2; copy++) {
        unsigned char h[HEADER_BYTES];
        char copy_uuid[UUID_SIZE];
        uint64_t copy_blocks;
        if (pread(fd, h, sizeof h, (off_t)(copy * BDEV_BLOCK_SIZE)) != (ssize_t)sizeof h || !decode(h, copy_uuid, &copy_blocks))
            continue;
        if (found && copy_blocks < *blocks)
            continue;
        memcpy(uuid, copy_uuid, UUID_SIZE);
        *blocks = copy_blocks;
        found = true;
    }
    return found;
}

static int write_header(int fd, const char *uuid, uint64_t blocks)
{
    unsigned char h[HEADER_BYTES];
    encode(h, uuid, blocks);
    for (unsigned copy = 0; copy < 2; copy++) {
        ssize_t n = pwrite(fd, h, sizeof h, (off_t)(copy * BDEV_BLOCK_SIZE));
        if (n != (ssize_t)sizeof h)
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
    char uuid[UUID_SIZE], name[64] = "data of an unknown kind";
    uint64_t blocks;
    if (read_header(fd, uuid, &blocks))
        return error_set(err, -EEXIST, "the device %s already carries the Parallax store %s; wipe it first if it is no longer needed", device,
                         uuid);
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

int local_device_check(const char *device, bool force, struct error *err)
{
    struct stat st;
    if (stat(device, &st) < 0)
        return error_set(err, -errno, "cannot use the device %s: %s", device, strerror(errno));
    if (!S_ISBLK(st.st_mode))
        return error_set(err, -ENOTBLK, "%s is not a block device", device);
    int fd = open(device, O_RDWR | O_EXCL | O_CLOEXEC);
    if (fd < 0 && errno == EBUSY)
        return error_set(err, -EBUSY, "the device %s is in use (mounted, swap, or part of a volume); release it first", device);
    if (fd < 0)
        return error_set(err, -errno, "cannot open the device %s: %s", device, strerror(errno));
    uint64_t bytes = 0;
    int rc = host_device_size(fd, &bytes);
    if (rc)
        error_set(err, rc, "cannot tell the size of %s: %s", device, strerror(-rc));
    else if (bytes <= LOCAL_DEVICE_HEADER_BYTES)
        rc = error_set(err, -ENOSPC, "the device %s is too small", device);
    else
        rc = check_contents(fd, device, force, err);
    close(fd);
    return rc;
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

int local_device_read(const char *device, const char *uuid, uint64_t *blocks, struct error *err)
{
    char found[UUID_SIZE] = "";
    uint64_t count = 0;
    int fd = open(device, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return error_set(err, -errno, "cannot open the store's device %s: %s", device, strerror(errno));
    bool whole = read_header(fd, found, &count);
    close(fd);
    if (!whole || strcmp(found, uuid) != 0)
        return error_set(err, -ENODEV, "the device %s is not the one of store %s (it %s%s); attach the right one under that name", device, uuid,
                         whole ? "belongs to store " : "has no Parallax header", found);
    *blocks = count;
    return 0;
}

int local_device_record(const char *device, const char *uuid, uint64_t blocks)
{
    int fd = open(device, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    int rc = write_header(fd, uuid, blocks);
    close(fd);
    return rc;
}
