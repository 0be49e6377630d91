/* space.h - which blocks of the device are free.
 *
 * Four bit maps over the addresses from the first zone on:
 *   taken  the loop's: not to be allocated now (in use, lent out, held, or a hole)
 *   hole   the loop's: free, but given back to what lies below: to be filled before it is allocated (S4); taken as well
 *   image  the checkpoint's: what the next committed space map says is allocated
 *   freed  the checkpoint's while it runs, the loop's otherwise: taken bits to clear once the commit is done and no reader of
 *          older roots is left (consistency.md, H1)
 * Threads: calls marked L on the loop, C on the checkpoint's thread (or on the loop while no checkpoint runs). The two never
 * touch the same map at the same time.
 * Memory: the maps are reserved for the largest device and touched only as far as it reaches: 4 bits a block. */
#ifndef PARALLAX_SPACE_H
#define PARALLAX_SPACE_H
#include "base/bdev.h"
#include "parallax/disk.h"

struct space {
    uint64_t *taken, *hole, *image, *freed; /* word i of page p: index p * PAGE_WORDS + i */
    uint64_t zone_start, max_blocks; /* addresses below zone_start are not ours */
    uint64_t usable;                 /* addresses below this exist and, but for holes, are physically allocated */
    uint32_t max_pages, pages;       /* pages: those that `usable` reaches */
    uint32_t stored_pages;           /* as many had a state when the store was opened */
    uint32_t *free_in_page;          /* by taken; L */
    uint32_t *holes_in_page;         /* L */
    uint8_t *page_state;             /* 0 never written, 1 copy A, 2 copy B, or PAGE_LOST; changed at install */
    uint8_t *page_dirty;             /* C: image differs from the valid copy */
    uint8_t *page_written;           /* C: copy written by the checkpoint under way (1 or 2) */
    uint8_t *page_freed;             /* some freed bit is set */
    uint8_t *page_lost;              /* could not be read: nothing is taken or freed here */
    uint64_t free_blocks;            /* L: usable and not taken */
    uint64_t hole_blocks;            /* L */
    uint64_t low_free_blocks;        /* L: the least that free_blocks was since its user last set this */
    uint32_t cursor_page;            /* L: where runs are being taken */
    uint64_t cursor;
};

struct space_run {
    uint64_t next, end; /* addresses; empty when equal */
};

int space_init(struct space *sp, uint64_t zone_start, uint64_t max_blocks);
void space_fini(struct space *sp);
/* L: the device now has that many blocks; new ones are free except for zone heads. */
void space_set_usable(struct space *sp, uint64_t blocks);
/* L, while opening: the stored map has been read into image; makes taken equal to it. */
void space_opened(struct space *sp);
/* L, while opening: recovery found this block to be in use. */
void space_mark_taken(struct space *sp, uint64_t address);
/* L: a stretch of free blocks, taken; at most `want` long. -ENOSPC. */
int space_take(struct space *sp, uint64_t want, struct space_run *out);
/* L: gives back what was taken and never used. */
void space_give_back(struct space *sp, uint64_t address, uint64_t count);
/* L: a block that never reached the stored map is no longer needed; it becomes free with the next release. */
void space_hold(struct space *sp, uint64_t address);
/* L: what is free in that range becomes a hole. */
void space_make_holes(struct space *sp, uint64_t start, uint64_t end);
/* L: the holes of that range are there again, and free. Returns how many. */
uint64_t space_fill_holes(struct space *sp, uint64_t start, uint64_t end);
/* L: makes holes of free runs of at least `least` blocks, no more than `most` blocks in all, from page *page on, and tells
 * them; *page moves on, to sp->pages when all was looked at. Looks at a bounded number of pages. */
uint32_t space_take_excess(struct space *sp, uint32_t *page, uint64_t least, uint64_t most, struct space_run *runs, uint32_t max_runs);
/* L: a stretch of holes, at most `most` blocks; they stay holes. -ENOENT: there are none. */
int space_find_holes(const struct space *sp, uint64_t most, struct space_run *out);
/* Addresses that are physically allocated. */
static inline uint64_t space_present(const struct space *sp) { return sp->usable - sp->hole_blocks; }
/* C */
void space_image_set(struct space *sp, uint64_t address);
void space_image_clear(struct space *sp, uint64_t address);
/* While no checkpoint runs, for repairs. Like image_clear, but the block becomes free only by space_hold after the commit. */
void space_image_forget(struct space *sp, uint64_t address);
/* Takes a block that is in use out of what is free; false: it is taken already. */
bool space_mark_used(struct space *sp, uint64_t address);
/* A lost page becomes what `used` says (PAGE_WORDS words), and is lost no longer. */
void space_page_rebuild(struct space *sp, uint32_t page, const uint64_t *used);
/* Of a page made anew, before anything of it may be allocated: what is not in use there is not physically allocated. */
void space_note_holes(struct space *sp, uint64_t start, uint64_t end);
bool space_image_test(const struct space *sp, uint64_t address);
/* Nothing is known of it: its page is lost. */
bool space_image_lost(const struct space *sp, uint64_t address);
bool space_has_lost(const struct space *sp);
bool space_covers(const struct space *sp, uint64_t address);
/* C: writes the dirty pages to the copies that are not valid; buffer: one block. */
int space_write_pages(struct space *sp, struct bdev *device, uint32_t seed, uint64_t checkpoint, uint8_t *buffer);
/* C: two bits a page, as if the pages just written were valid. states: (max_pages + 3) / 4 bytes, zeroed. Returns the length. */
uint32_t space_encode_states(const struct space *sp, uint8_t *states);
/* L: the commit is done: the pages written are the valid ones. */
void space_install(struct space *sp);
/* L: no old reader is left: held and freed blocks are free. Returns how many. */
uint64_t space_release(struct space *sp);
/* While opening: states as stored, then the pages. A page that cannot be read is lost, and logged. */
int space_load(struct space *sp, struct bdev *device, uint32_t seed, const uint8_t *states, size_t length);
/* After space_load: no page that was ever written is to be believed. The device ends behind all of them. */
void space_lose_pages(struct space *sp);
/* Where the last page ends that was ever written. */
uint64_t space_stored_end(const struct space *sp);
/* After space_load: the device cannot be whole if it ends before this address. */
uint64_t space_end_in_use(const struct space *sp);
#endif
