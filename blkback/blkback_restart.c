/* blkback_restart.c - restart tables as mapped files "ring-DOMID-VDEV-QUEUE".
 *
 * The order of stores that makes a table true at any instant is kept by blkback_ring.c; here is only the file. */
#include "blkback/blkback_restart.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAGIC 0x31676e6972787270ull /* "prxring1" */

static size_t table_bytes(uint32_t slots) { return sizeof(struct blkback_table) + (size_t)slots * sizeof(struct blkback_saved); }

static void table_path(char *out, size_t size, const char *dir, uint32_t domid, uint32_t vdev, uint32_t queue)
{
    snprintf(out, size, "%s/ring-%u-%u-%u", dir, domid, vdev, queue);
}

int blkback_restart_create(const char *dir, const struct blkback_table_key *key, struct blkback_table **out)
{
    char path[512];
    table_path(path, sizeof path, dir, key->domid, key->vdev, key->queue);
    uint32_t slots = blkif_ring_slots((enum blkif_abi)key->abi, key->order);
    unlink(path); /* a process that was killed may have left one of another life of this queue */
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return -errno;
    /* Allocated, not only extended: a full tmpfs must be an error here, not a SIGBUS at the first store. */
    int err = -posix_fallocate(fd, 0, (off_t)table_bytes(slots));
    void *t = MAP_FAILED;
    if (!err) {
        t = mmap(NULL, table_bytes(slots), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        err = t == MAP_FAILED ? -errno : 0;
    }
    close(fd);
    if (err) {
        unlink(path);
        return err;
    }
    *out = t;
    (*out)->slots = slots;
    (*out)->key = *key;
    return 0;
}

void blkback_restart_publish(struct blkback_table *t) { __atomic_store_n(&t->magic, MAGIC, __ATOMIC_RELEASE); }

/* A table that counted, of rings that this device had before. */
static bool is_of_others(int fd, const struct blkback_table_key *key)
{
    struct blkback_table head;
    return pread(fd, &head, sizeof head, 0) == (ssize_t)sizeof head && head.magic == MAGIC && memcmp(&head.key, key, sizeof *key);
}

static bool sound(const struct blkback_table *t, uint32_t slots)
{
    if (t->magic != MAGIC || t->slots != slots)
        return false;
    for (uint32_t i = 0; i < slots; i++)
        if (t->saved[i].state > BLKBACK_ANSWERED)
            return false;
    return true;
}

int blkback_restart_open(const char *dir, const struct blkback_table_key *key, struct blkback_table **out)
{
    char path[512];
    table_path(path, sizeof path, dir, key->domid, key->vdev, key->queue);
    uint32_t slots = blkif_ring_slots((enum blkif_abi)key->abi, key->order);
    int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return -errno;
    struct stat st;
    int err = 0;
    void *t = MAP_FAILED;
    if (is_of_others(fd, key))
        err = -ESTALE;
    else if (fstat(fd, &st) < 0 || st.st_size != (off_t)table_bytes(slots))
        err = -EBADMSG;
    if (!err) {
        t = mmap(NULL, table_bytes(slots), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        err = t == MAP_FAILED ? -errno : 0;
    }
    close(fd);
    if (!err && !sound(t, slots)) {
        munmap(t, table_bytes(slots));
        err = -EBADMSG;
    }
    if (!err)
        *out = t;
    return err;
}

void blkback_restart_close(const char *dir, struct blkback_table *t, bool keep)
{
    if (!keep) {
        char path[512];
        table_path(path, sizeof path, dir, t->key.domid, t->key.vdev, t->key.queue);
        unlink(path);
    }
    munmap(t, table_bytes(t->slots));
}

bool blkback_restart_exists(const char *dir, hv_domid domid, unsigned vdev)
{
    char path[512];
    table_path(path, sizeof path, dir, domid, vdev, 0);
    return access(path, F_OK) == 0;
}

void blkback_restart_sweep(const char *dir, bool (*wanted)(void *ctx, hv_domid domid, unsigned vdev), void *ctx)
{
    DIR *d = opendir(dir);
    if (!d)
        return;
    struct dirent *e;
    while ((e = readdir(d))) {
        unsigned domid, vdev, queue;
        int end = 0;
        if (sscanf(e->d_name, "ring-%u-%u-%u%n", &domid, &vdev, &queue, &end) == 3 && !e->d_name[end] && !wanted(ctx, domid, vdev))
            unlinkat(dirfd(d), e->d_name, 0);
    }
    closedir(d);
}
