/* mend.c - see mend.h.
 *
 * A block that the map counted when the walk began and that nothing reached cannot have been given to anybody since, so it is
 * free. It becomes allocatable after the checkpoint that says so, as any freed block does (H1).
 * A block in use that the map calls free is taken out of what may be allocated at once; if it has been given away already, it
 * has two users, and the checksum of the one who lost it tells.
 * A page of the map that could not be read is made anew from what was reached: nothing was taken from it meanwhile (S3). */
#include "parallax/mend.h"

static void free_leaked(struct store *s, struct mend *m, uint64_t w)
{
    uint64_t leaked = m->counted[w] & ~m->reached[w], freed = 0;
    for (uint64_t bits = leaked; bits; bits &= bits - 1) {
        uint64_t i = w * 64 + (uint64_t)__builtin_ctzll(bits), address = s->super.zone_start + i;
        if (!space_covers(&s->space, address) || !space_image_test(&s->space, address) || pool_shared(&s->pool, address))
            continue; /* with a count left over it could not be used again rightly */
        space_image_forget(&s->space, address);
        freed |= 1ull << (i % 64);
        m->result->mended++;
    }
    m->counted[w] = freed;
}

static void claim_used(struct store *s, struct mend *m, uint64_t w)
{
    for (uint64_t bits = m->reached[w] & ~m->counted[w]; bits; bits &= bits - 1) {
        uint64_t address = s->super.zone_start + w * 64 + (uint64_t)__builtin_ctzll(bits);
        if (space_image_test(&s->space, address) || !space_mark_used(&s->space, address))
            continue;
        space_image_set(&s->space, address);
        m->result->mended++;
    }
}

/* While a page was lost nobody knew what of it is a hole. */
static void find_holes(struct store *s, uint64_t from, uint64_t to)
{
    uint64_t start, end;
    for (uint64_t at = from; at < to && bdev_hole(s->blocks, at, &start, &end) == 0 && start < to; at = end)
        space_note_holes(&s->space, start, end < to ? end : to);
}

/* counted: what is to be freed of it. Holes are free as they are; and what lies behind the end becomes free when it is there. */
static void make_page(struct store *s, struct mend *m, uint32_t page)
{
    struct space *sp = &s->space;
    uint64_t from = (uint64_t)page * PAGE_WORDS, address = s->super.zone_start + from * 64;
    space_page_rebuild(sp, page, m->reached + from);
    find_holes(s, address, address + PAGE_WORDS * 64);
    s->grow_error = 0; /* they are room to grow into */
    for (uint64_t w = from; w < from + PAGE_WORDS; w++, address += 64) {
        uint64_t there = address >= sp->usable ? 0 : sp->usable - address;
        m->counted[w] = ~m->reached[w] & ~sp->hole[w] & (there < 64 ? (1ull << there) - 1 : ~0ull);
    }
    m->result->mended++;
}

void mend_begin(struct store *s, struct mend *m)
{
    runs_return(s); /* what is lent and not used is no new use of a block */
    for (uint32_t p = 0; p < s->space.pages && (p + 1ull) * PAGE_WORDS <= m->words; p++) {
        uint64_t from = (uint64_t)p * PAGE_WORDS;
        if (s->space.page_lost[p]) {
            for (uint64_t w = from; w < from + PAGE_WORDS; w++)
                m->counted[w] = 0;
            if (!m->blind)
                make_page(s, m, p);
            continue;
        }
        for (uint64_t w = from; w < from + PAGE_WORDS; w++) {
            claim_used(s, m, w);
            if (m->blind)
                m->counted[w] = 0;
            else
                free_leaked(s, m, w);
        }
    }
}

void mend_end(struct store *s, const struct mend *m)
{
    for (uint64_t w = 0; w < m->words; w++)
        for (uint64_t bits = m->counted[w]; bits; bits &= bits - 1) {
            uint64_t address = s->super.zone_start + w * 64 + (uint64_t)__builtin_ctzll(bits);
            if (space_covers(&s->space, address) && !space_image_test(&s->space, address))
                space_hold(&s->space, address);
        }
    checkpoint_release(s);
}
