/* disk_record.c - what is durable, and what is not yet: the record behind the test disk.
 *
 * 1. disk_pending holds the changes in the order in which they were begun; what a flush covers is applied to the durable
 *    contents in that order and leaves the list.
 * 2. Changes of names on which a durable one depends (of the same name or file, and earlier) become durable with it. */
#include "tests/disk/disk_private.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct list_node disk_files = LIST_INIT(disk_files), disk_pending = LIST_INIT(disk_pending);

static uint64_t moment;

uint64_t disk_now(void) { return ++moment; }

uint64_t disk_random(uint64_t *s)
{
    *s ^= *s >> 12;
    *s ^= *s << 25;
    *s ^= *s >> 27;
    return *s * 0x2545f4914f6cdd1du >> 11;
}

static void *must(void *p)
{
    if (!p)
        abort();
    return p;
}

struct disk_file *disk_file_new(const char *name, ino_t inode)
{
    struct disk_file *f = must(calloc(1, sizeof *f));
    f->inode = inode;
    f->name = must(strdup(name));
    list_add_tail(&disk_files, &f->link);
    return f;
}

struct disk_file *disk_file_by_inode(ino_t inode)
{
    list_for_each(n, &disk_files) {
        struct disk_file *f = container_of(n, struct disk_file, link);
        if (f->inode == inode)
            return f;
    }
    return NULL;
}

struct disk_file *disk_file_by_name(const char *name)
{
    list_for_each(n, &disk_files) {
        struct disk_file *f = container_of(n, struct disk_file, link);
        if (f->name && strcmp(f->name, name) == 0)
            return f;
    }
    return NULL;
}

static bool all_zero(const unsigned char *p, uint64_t length) { return !length || (*p == 0 && memcmp(p, p + 1, length - 1) == 0); }

struct disk_change *disk_change_new(enum disk_change_kind kind, struct disk_file *f, uint64_t offset, uint64_t length, const void *data)
{
    struct disk_change *c = must(calloc(1, sizeof *c));
    *c = (struct disk_change){ .kind = kind, .file = f, .offset = offset, .length = length };
    if (data && !all_zero(data, length)) {
        c->data = must(malloc(length));
        memcpy(c->data, data, length);
    }
    list_add_tail(&disk_pending, &c->link);
    return c;
}

void disk_change_free(struct disk_change *c)
{
    list_remove(&c->link);
    free(c->data);
    free(c->name);
    free(c->to);
    free(c);
}

void disk_resize(struct disk_file *f, uint64_t size)
{
    uint64_t pages = (size + DISK_PAGE - 1) / DISK_PAGE;
    for (uint64_t p = pages; p < f->pages; p++) {
        free(f->page[p]);
        f->page[p] = NULL;
    }
    if (pages > f->pages) {
        f->page = must(realloc(f->page, pages * sizeof *f->page));
        memset(f->page + f->pages, 0, (pages - f->pages) * sizeof *f->page);
        f->pages = pages;
    } else if (size < f->durable_size && size % DISK_PAGE && f->page[pages - 1]) {
        memset(f->page[pages - 1] + size % DISK_PAGE, 0, DISK_PAGE - size % DISK_PAGE);
    }
    f->durable_size = size;
}

void disk_put(struct disk_file *f, uint64_t offset, const unsigned char *data, uint64_t length)
{
    if (offset + length > f->durable_size)
        disk_resize(f, offset + length);
    while (length) {
        uint64_t page = offset / DISK_PAGE, at = offset % DISK_PAGE, n = DISK_PAGE - at < length ? DISK_PAGE - at : length;
        if (!f->page[page] && data)
            f->page[page] = must(calloc(1, DISK_PAGE));
        if (data)
            memcpy(f->page[page] + at, data, n);
        else if (f->page[page])
            memset(f->page[page] + at, 0, n);
        offset += n;
        length -= n;
        data = data ? data + n : NULL;
    }
}

static void rename_durably(struct disk_file *f, const char *name)
{
    free(f->durable_name);
    f->durable_name = name ? must(strdup(name)) : NULL;
}

void disk_apply(struct disk_change *c)
{
    uint64_t end = c->offset + c->length;
    switch (c->kind) {
    case DISK_DATA:
        disk_put(c->file, c->offset, c->data, c->length);
        break;
    case DISK_TRUNCATE:
        disk_resize(c->file, c->length);
        break;
    case DISK_ALLOCATE:
        if (end > c->file->durable_size)
            disk_resize(c->file, end);
        break;
    case DISK_PUNCH:
        if (c->offset < c->file->durable_size)
            disk_put(c->file, c->offset, NULL, (end < c->file->durable_size ? end : c->file->durable_size) - c->offset);
        break;
    case DISK_CREATE:
        rename_durably(c->file, c->name);
        break;
    case DISK_REMOVE:
        rename_durably(c->file, NULL);
        disk_resize(c->file, 0); /* nothing shows it any more */
        break;
    case DISK_RENAME:
        if (c->replaced)
            rename_durably(c->replaced, NULL);
        rename_durably(c->file, c->to);
        break;
    }
}

static bool is_name_change(const struct disk_change *c) { return c->kind >= DISK_CREATE; }

static bool concerns(const struct disk_change *c, const char *name)
{
    return name && ((c->name && strcmp(c->name, name) == 0) || (c->to && strcmp(c->to, name) == 0));
}

/* Makes one change of a name durable, and first those it stands on. */
static void name_flushed(struct disk_change *c)
{
    for (struct list_node *n = disk_pending.next, *next; n != &c->link; n = next) {
        struct disk_change *before = container_of(n, struct disk_change, link);
        next = n->next;
        if (!is_name_change(before) || (before->file != c->file && !concerns(before, c->name) && !concerns(before, c->to)))
            continue;
        name_flushed(before);
        next = disk_pending.next; /* others may have gone with it */
    }
    disk_apply(c);
    disk_change_free(c);
}

static bool in_directory(const char *path, const char *directory)
{
    const char *slash = strrchr(path, '/');
    size_t n = slash ? (size_t)(slash - path) : 0;
    return strlen(directory) == n && strncmp(path, directory, n) == 0;
}

void disk_directory_flushed(const char *directory)
{
    for (struct list_node *n = disk_pending.next, *next; n != &disk_pending; n = next) {
        struct disk_change *c = container_of(n, struct disk_change, link);
        next = n->next;
        if (!is_name_change(c) || !in_directory(c->name, directory))
            continue;
        name_flushed(c);
        next = disk_pending.next;
    }
}

void disk_flushed(struct disk_file *f, uint64_t begun)
{
    for (struct list_node *n = disk_pending.next, *next; n != &disk_pending; n = next) {
        struct disk_change *c = container_of(n, struct disk_change, link);
        next = n->next;
        if (c->file != f || !c->completed || c->completed >= begun)
            continue;
        if (c->kind == DISK_CREATE) {
            name_flushed(c);
            next = disk_pending.next;
        } else if (!is_name_change(c)) {
            disk_apply(c);
            disk_change_free(c);
        }
    }
}

void disk_clear(void)
{
    while (!list_empty(&disk_pending))
        disk_change_free(container_of(disk_pending.next, struct disk_change, link));
    while (!list_empty(&disk_files)) {
        struct disk_file *f = container_of(disk_files.next, struct disk_file, link);
        list_remove(&f->link);
        for (uint64_t p = 0; p < f->pages; p++)
            free(f->page[p]);
        free(f->page);
        free(f->name);
        free(f->durable_name);
        free(f);
    }
}
