/* change.h - metadata changes: what a change record's payload says, and making it true.
 *
 * A change names every identifier it makes, so that replay makes the same objects (consistency.md, 8 and 22). The writer
 * grows its buffer; a failed allocation is remembered and told at the end. */
#ifndef PARALLAX_CHANGE_H
#define PARALLAX_CHANGE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum change_kind {
    CHANGE_CREATE = 1,   /* image, version, line, size, created, flags, name */
    CHANGE_CLONE,        /* source image, source version, version of the new head (0: source is frozen), first image, first
                            version, first line, count, created, numbered, first number, name */
    CHANGE_SNAPSHOT,     /* created, flags, count × { image, version of the new head, name } */
    CHANGE_SEAL,         /* image */
    CHANGE_RENAME,       /* image, name */
    CHANGE_RESIZE,       /* image, size */
    CHANGE_PROTECT,      /* image, version or 0, on */
    CHANGE_DELETE,       /* count × image */
    CHANGE_UNSNAPSHOT,   /* count × version */
    CHANGE_RENAME_SNAPSHOT, /* version, name */
    CHANGE_ROLLBACK,     /* image, target version, new version, new line, created, name to keep the old state under or "" */
    CHANGE_FINISH_IMPORT, /* image, seal, name */
    CHANGE_RELEASE,      /* version: a temporary one is no longer needed */
    CHANGE_COPY,         /* source version (frozen), image, version, line, created: an image without a name */
    CHANGE_REPLACE,      /* image (sealed), image without a name: the former gets the latter's state, and the latter ends */
};

struct change_writer {
    uint8_t *bytes;
    uint32_t length, capacity;
    bool failed;
};
void change_u8(struct change_writer *w, uint8_t v);
void change_u32(struct change_writer *w, uint32_t v);
void change_u64(struct change_writer *w, uint64_t v);
void change_text(struct change_writer *w, const char *text); /* at most 255 bytes */
#endif
