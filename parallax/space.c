/* space.c - see space.h.
 *
 * Free space is taken from the emptiest page first, in ascending runs: long runs make large writes. A run that was taken and
 * not used costs nothing at the next opening, because the stored map never heard of it. */
#include "parallax/space.h"

#include "base/log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define PAGE_ATTEMPTS 3u

static uint64_t index_of(const struct space *sp, uint64_t address) { return address - sp->zone_start; }

static bool test(const uint64_t *map, uint64_t i) { return map[i / 64] >> (i % 64) & 1; }
static void set(uint64_t *map, uint64_t i) { map[i / 64] |= 1ull << (i % 64); }
static void clear(uint64_t *map, uint64_t i) { map[i / 64] &= ~(1ull << (i % 64)); }

static void *reserve_map(uint64_t words)
{
    void *p = mmap(NULL, words * 8, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

static uint64_t map_words(const struct space *sp) { return (uint64_t)sp->max_pages * PAGE_WORDS; }

int space_init(struct space *sp, uint64_t zone_start, uint64_t max_blocks)
{
    *sp = (struct space){ .zone_start = zone_start, .max_blocks = max_blocks };
    uint64_t zones = (max_blocks - zone_start + ZONE_BLOCKS - 1) / ZONE_BLOCKS;
    sp->max_pages = (uint32_t)(zones * ZONE_PAGES);
    sp->cursor_page = UINT32_MAX;
    sp->taken = reserve_map(map_words(sp));
    sp->image = reserve_map(map_words(sp));
    sp->freed = reserve_map(map_words(sp));
    sp->hole = reserve_map(map_words(sp));
    sp->free_in_page = calloc(sp->max_pages, sizeof *sp->free_in_page);
    sp->holes_in_page = calloc(sp->max_pages, sizeof *sp->holes_in_page);
    sp->page_state = calloc(sp->max_pages, 1);
    sp->page_dirty = calloc(sp->max_pages, 1);
    sp->page_written = calloc(sp->max_pages, 1);
    sp->page_freed = calloc(sp->max_pages, 1);
    sp->page_lost = calloc(sp->max_pages, 1);
    if (sp->taken && sp->image && sp->freed && sp->hole && sp->free_in_page && sp->holes_in_page && sp->page_state && sp->page_dirty
        && sp->page_written && sp->page_freed && sp->page_lost)
        return 0;
    space_fini(sp);
    return -ENOMEM;
}

void space_fini(struct space *sp)
{
    if (sp->taken)
        munmap(sp->taken, map_words(sp) * 8);
    if (sp->image)
        munmap(sp->image, map_words(sp) * 8);
    if (sp->freed)
        munmap(sp->freed, map_words(sp) * 8);
    if (sp->hole)
        munmap(sp->hole, map_words(sp) * 8);
    free(sp->free_in_page);
    free(sp->holes_in_page);
    free(sp->page_state);
    free(sp->page_dirty);
    free(sp->page_written);
    free(sp->page_freed);
    free(sp->page_lost);
    *sp = (struct space){ 0 };
}

bool space_covers(const struct space *sp, uint64_t address)
{
    return address >= sp->zone_start && address < sp->usable && index_of(sp, address) % ZONE_BLOCKS >= ZONE_HEAD_BLOCKS;
}

void space_set_usable(struct space *sp, uint64_t blocks)
{
    if (blocks > sp->max_blocks)
        blocks = sp->max_blocks;
    if (blocks <= sp->zone_start || blocks <= sp->usable)
        return;
    uint64_t from = sp->usable > sp->zone_start ? index_of(sp, sp->usable) : 0, to = index_of(sp, blocks);
    for (uint64_t i = from; i < to; i++) {
        if (sp->page_lost[i / PAGE_BLOCKS]) {
            set(sp->taken, i);
        } else if (i % ZONE_BLOCKS < ZONE_HEAD_BLOCKS) {
            set(sp->taken, i);
            set(sp->image, i);
        } else if (!test(sp->taken, i)) {
            sp->free_in_page[i / PAGE_BLOCKS]++;
            sp->free_blocks++;
        }
    }
    sp->usable = blocks;
    __atomic_store_n(&sp->pages, (uint32_t)((to + PAGE_BLOCKS - 1) / PAGE_BLOCKS), __ATOMIC_RELAXED);
}

void space_opened(struct space *sp)
{
    sp->free_blocks = 0;
    uint64_t end = sp->usable > sp->zone_start ? index_of(sp, sp->usable) : 0;
    for (uint32_t p = 0; p < sp->pages; p++) {
        uint64_t base = (uint64_t)p * PAGE_WORDS, used = 0;
        for (uint32_t w = 0; w < PAGE_WORDS; w++) {
            sp->taken[base + w] = sp->page_lost[p] ? ~0ull : sp->image[base + w];
            used += (uint64_t)__builtin_popcountll(sp->taken[base + w]);
        }
        uint64_t reach = end - (uint64_t)p * PAGE_BLOCKS;
        if (reach > PAGE_BLOCKS)
            reach = PAGE_BLOCKS;
        sp->free_in_page[p] = used < reach ? (uint32_t)(reach - used) : 0;
        sp->free_blocks += sp->free_in_page[p];
    }
}

uint64_t space_end_in_use(const struct space *sp)
{
    for (uint32_t p = sp->stored_pages; p-- > 0;) {
        if (p >= sp->pages && sp->page_state[p])
            return sp->zone_start + (uint64_t)p * PAGE_BLOCKS + 1;
        for (uint32_t w = PAGE_WORDS; w-- > 0 && !sp->page_lost[p];) {
            uint64_t word = sp->image[(uint64_t)p * PAGE_WORDS + w];
            if (word)
                return sp->zone_start + (uint64_t)p * PAGE_BLOCKS + w * 64 + 64 - (unsigned)__builtin_clzll(word);
        }
    }
    return sp->zone_start;
}

void space_mark_taken(struct space *sp, uint64_t address)
{
    uint64_t i = index_of(sp, address);
    space_fill_holes(sp, address, address + 1); /* what is in use is no hole, whatever was believed */
    if (test(sp->taken, i))
        return;
    set(sp->taken, i);
    sp->free_in_page[i / PAGE_BLOCKS]--;
    sp->free_blocks--;
}

static bool choose_page(struct space *sp)
{
    uint32_t best = UINT32_MAX, most = 0;
    for (uint32_t p = 0; p < sp->pages; p++)
        if (sp->free_in_page[p] > most) {
            most = sp->free_in_page[p];
            best = p;
        }
    sp->cursor_page = best;
    sp->cursor = (uint64_t)best * PAGE_BLOCKS;
    return best != UINT32_MAX;
}

/* First index in [from, to) whose taken bit is `value`, else to. */
static uint64_t find_bit(const uint64_t *map, uint64_t from, uint64_t to, bool value)
{
    while (from < to) {
        uint64_t w = (value ? map[from / 64] : ~map[from / 64]) >> (from % 64);
        if (w) {
            from += (uint64_t)__builtin_ctzll(w);
            return from < to ? from : to;
        }
        from = (from / 64 + 1) * 64;
    }
    return to;
}

int space_take(struct space *sp, uint64_t want, struct space_run *out)
{
    for (;;) {
        if (sp->free_blocks == 0)
            return -ENOSPC;
        uint64_t end = 0;
        if (sp->cursor_page != UINT32_MAX) {
            end = (uint64_t)(sp->cursor_page + 1) * PAGE_BLOCKS;
            if (end > index_of(sp, sp->usable))
                end = index_of(sp, sp->usable);
        }
        uint64_t from = sp->cursor_page == UINT32_MAX ? 0 : find_bit(sp->taken, sp->cursor, end, false);
        if (from >= end) {
            if (!choose_page(sp))
                return -ENOSPC;
            continue;
        }
        uint64_t limit = from + want < end ? from + want : end;
        uint64_t to = find_bit(sp->taken, from, limit, true);
        for (uint64_t i = from; i < to; i++)
            set(sp->taken, i);
        sp->free_in_page[sp->cursor_page] -= (uint32_t)(to - from);
        sp->free_blocks -= to - from;
        if (sp->free_blocks < sp->low_free_blocks)
            sp->low_free_blocks = sp->free_blocks;
        sp->cursor = to;
        *out = (struct space_run){ sp->zone_start + from, sp->zone_start + to };
        return 0;
    }
}

void space_give_back(struct space *sp, uint64_t address, uint64_t count)
{
    for (uint64_t i = index_of(sp, address), end = i + count; i < end; i++) {
        clear(sp->taken, i);
        sp->free_in_page[i / PAGE_BLOCKS]++;
        sp->free_blocks++;
    }
}

/* ---- Holes ---- */

#define EXCESS_PAGES 256u /* looked at in one call */

void space_make_holes(struct space *sp, uint64_t start, uint64_t end)
{
    start = start > sp->zone_start ? index_of(sp, start) : 0;
    end = end > sp->zone_start ? index_of(sp, end < sp->usable ? end : sp->usable) : 0;
    for (uint64_t i = start; i < end; i++) {
        if (test(sp->taken, i))
            continue;
        set(sp->taken, i);
        set(sp->hole, i);
        sp->free_in_page[i / PAGE_BLOCKS]--;
        sp->holes_in_page[i / PAGE_BLOCKS]++;
        sp->free_blocks--;
        sp->hole_blocks++;
    }
}

uint64_t space_fill_holes(struct space *sp, uint64_t start, uint64_t end)
{
    uint64_t filled = 0;
    for (uint64_t i = index_of(sp, start), last = index_of(sp, end); i < last; i++) {
        if (!test(sp->hole, i))
            continue;
        clear(sp->hole, i);
        clear(sp->taken, i);
        sp->free_in_page[i / PAGE_BLOCKS]++;
        sp->holes_in_page[i / PAGE_BLOCKS]--;
        filled++;
    }
    sp->free_blocks += filled;
    sp->hole_blocks -= filled;
    return filled;
}

static uint64_t page_end(const struct space *sp, uint32_t page)
{
    uint64_t end = (uint64_t)(page + 1) * PAGE_BLOCKS, usable = index_of(sp, sp->usable);
    return end < usable ? end : usable;
}

uint32_t space_take_excess(struct space *sp, uint32_t *page, uint64_t least, uint64_t most, struct space_run *runs, uint32_t max_runs)
{
    uint32_t n = 0, last = sp->pages - *page < EXCESS_PAGES ? sp->pages : *page + EXCESS_PAGES;
    for (; *page < last; ++*page) {
        uint64_t end = page_end(sp, *page), at = (uint64_t)*page * PAGE_BLOCKS;
        while (sp->free_in_page[*page] >= least && (at = find_bit(sp->taken, at, end, false)) < end) {
            uint64_t to = find_bit(sp->taken, at, end, true);
            if (to - at >= least) {
                if (n == max_runs || most < least)
                    return n;
                to = to - at > most ? at + most : to;
                runs[n] = (struct space_run){ sp->zone_start + at, sp->zone_start + to };
                space_make_holes(sp, runs[n].next, runs[n].end);
                n++;
                most -= to - at;
            }
            at = to;
        }
    }
    return n;
}

int space_find_holes(const struct space *sp, uint64_t most, struct space_run *out)
{
    uint32_t best = 0;
    for (uint32_t p = 1; p < sp->pages; p++)
        if (sp->holes_in_page[p] > sp->holes_in_page[best])
            best = p;
    if (sp->hole_blocks == 0)
        return -ENOENT;
    uint64_t end = page_end(sp, best), from = find_bit(sp->hole, (uint64_t)best * PAGE_BLOCKS, end, true);
    uint64_t to = find_bit(sp->hole, from, from + most < end ? from + most : end, false);
    *out = (struct space_run){ sp->zone_start + from, sp->zone_start + to };
    return 0;
}

static void mark_freed(struct space *sp, uint64_t i)
{
    if (sp->page_lost[i / PAGE_BLOCKS])
        return;
    set(sp->freed, i);
    sp->page_freed[i / PAGE_BLOCKS] = 1;
}

void space_hold(struct space *sp, uint64_t address) { mark_freed(sp, index_of(sp, address)); }

void space_image_set(struct space *sp, uint64_t address)
{
    uint64_t i = index_of(sp, address);
    set(sp->image, i);
    sp->page_dirty[i / PAGE_BLOCKS] = 1;
}

void space_image_clear(struct space *sp, uint64_t address)
{
    uint64_t i = index_of(sp, address);
    if (sp->page_lost[i / PAGE_BLOCKS])
        return;
    clear(sp->image, i);
    sp->page_dirty[i / PAGE_BLOCKS] = 1;
    mark_freed(sp, i);
}

void space_image_forget(struct space *sp, uint64_t address)
{
    uint64_t i = index_of(sp, address);
    clear(sp->image, i);
    sp->page_dirty[i / PAGE_BLOCKS] = 1;
}

bool space_mark_used(struct space *sp, uint64_t address)
{
    uint64_t i = index_of(sp, address);
    if (test(sp->taken, i) && !test(sp->hole, i))
        return false;
    space_mark_taken(sp, address);
    return true;
}

void space_page_rebuild(struct space *sp, uint32_t page, const uint64_t *used)
{
    uint64_t base = (uint64_t)page * PAGE_WORDS;
    memcpy(sp->image + base, used, PAGE_WORDS * sizeof *used);
    for (uint64_t i = (uint64_t)page * PAGE_BLOCKS, end = i + ZONE_HEAD_BLOCKS; page % ZONE_PAGES == 0 && i < end; i++)
        set(sp->image, i);
    /* What is not there yet becomes free when it is. */
    for (uint64_t i = page_end(sp, page), end = (uint64_t)(page + 1) * PAGE_BLOCKS; i < end; i++)
        clear(sp->taken, i);
    sp->page_lost[page] = 0;
    sp->page_dirty[page] = 1;
}

void space_note_holes(struct space *sp, uint64_t start, uint64_t end)
{
    for (uint64_t i = index_of(sp, start), last = index_of(sp, end < sp->usable ? end : sp->usable); i < last; i++) {
        if (test(sp->image, i) || test(sp->hole, i))
            continue;
        set(sp->hole, i);
        sp->holes_in_page[i / PAGE_BLOCKS]++;
        sp->hole_blocks++;
    }
}

bool space_image_lost(const struct space *sp, uint64_t address) { return sp->page_lost[index_of(sp, address) / PAGE_BLOCKS]; }

bool space_image_test(const struct space *sp, uint64_t address) { return test(sp->image, index_of(sp, address)); }

static uint64_t copy_address(const struct space *sp, uint32_t page, unsigned copy)
{
    return sp->zone_start + (uint64_t)(page / ZONE_PAGES) * ZONE_BLOCKS + (copy - 1) * ZONE_PAGES + page % ZONE_PAGES;
}

/* Those that can have a state. The loop may add pages meanwhile, which are clean. */
static uint32_t page_count(const struct space *sp)
{
    uint32_t pages = __atomic_load_n(&sp->pages, __ATOMIC_RELAXED);
    return pages > sp->stored_pages ? pages : sp->stored_pages;
}

int space_write_pages(struct space *sp, struct bdev *device, uint32_t seed, uint64_t checkpoint, uint8_t *buffer)
{
    for (uint32_t p = 0, pages = page_count(sp); p < pages; p++) {
        if (!sp->page_dirty[p] || sp->page_lost[p])
            continue;
        uint8_t copy = sp->page_state[p] == 1 ? 2 : 1;
        page_encode(buffer, seed, p / ZONE_PAGES, p % ZONE_PAGES, checkpoint, sp->image + (uint64_t)p * PAGE_WORDS);
        int err = bdev_write(device, copy_address(sp, p, copy), buffer, 1);
        if (err)
            return err;
        sp->page_written[p] = copy;
        sp->page_dirty[p] = 0;
    }
    return 0;
}

uint32_t space_encode_states(const struct space *sp, uint8_t *states)
{
    uint32_t length = 0;
    for (uint32_t p = 0, pages = page_count(sp); p < pages; p++) {
        unsigned s = sp->page_lost[p] ? PAGE_LOST : sp->page_written[p] ? sp->page_written[p] : sp->page_state[p];
        if (!s)
            continue;
        states[p / 4] |= (uint8_t)(s << 2 * (p % 4));
        length = p / 4 + 1;
    }
    return length;
}

void space_install(struct space *sp)
{
    for (uint32_t p = 0; p < sp->pages; p++)
        if (sp->page_written[p]) {
            sp->page_state[p] = sp->page_written[p];
            sp->page_written[p] = 0;
        }
}

uint64_t space_release(struct space *sp)
{
    uint64_t released = 0;
    for (uint32_t p = 0; p < sp->pages; p++) {
        if (!sp->page_freed[p])
            continue;
        uint64_t base = (uint64_t)p * PAGE_WORDS;
        uint32_t n = 0;
        for (uint32_t w = 0; w < PAGE_WORDS; w++) {
            uint64_t bits = sp->freed[base + w] & sp->taken[base + w];
            n += (uint32_t)__builtin_popcountll(bits);
            sp->taken[base + w] &= ~bits;
            sp->freed[base + w] = 0;
        }
        sp->page_freed[p] = 0;
        sp->free_in_page[p] += n;
        released += n;
    }
    sp->free_blocks += released;
    return released;
}

/* An attempt that failed must not lose a page that can be read. */
static int read_page(const struct space *sp, struct bdev *device, uint32_t seed, uint32_t page, unsigned copy, uint8_t *buffer)
{
    int err = -EBADMSG;
    for (unsigned attempt = 0; attempt < PAGE_ATTEMPTS && err; attempt++) {
        err = bdev_read(device, copy_address(sp, page, copy), buffer, 1);
        if (!err)
            err = page_decode(buffer, seed, page / ZONE_PAGES, page % ZONE_PAGES, sp->image + (uint64_t)page * PAGE_WORDS);
    }
    return err;
}

int space_load(struct space *sp, struct bdev *device, uint32_t seed, const uint8_t *states, size_t length)
{
    uint8_t *buffer = bdev_buffer_alloc(1);
    if (!buffer)
        return -ENOMEM;
    for (uint32_t p = 0; p < sp->max_pages && p / 4 < length; p++) {
        unsigned s = states[p / 4] >> 2 * (p % 4) & 3;
        if (!s)
            continue;
        sp->page_state[p] = (uint8_t)s;
        sp->stored_pages = p + 1;
        int err = s == PAGE_LOST ? -EBADMSG : p >= sp->pages ? -ENXIO : read_page(sp, device, seed, p, s, buffer);
        if (err) {
            log_error("space map page unreadable, its blocks stay unused page=%u error=%d", p, err);
            sp->page_lost[p] = 1;
        }
    }
    free(buffer);
    return 0;
}

bool space_has_lost(const struct space *sp) { return memchr(sp->page_lost, 1, sp->stored_pages) != NULL; }

uint64_t space_stored_end(const struct space *sp) { return sp->zone_start + (uint64_t)sp->stored_pages * PAGE_BLOCKS; }

void space_lose_pages(struct space *sp)
{
    for (uint32_t p = 0; p < sp->stored_pages; p++)
        sp->page_lost[p] |= sp->page_state[p] != 0;
}
