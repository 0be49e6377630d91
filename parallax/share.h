/* share.h - finding blocks that are stored already, and putting references to them into an image (consistency.md, 27 to 30).
 *
 * match.c looks for them, on the walker's thread; share.c puts them in, on the loop; dedup.c is the operation. */
#ifndef PARALLAX_SHARE_H
#define PARALLAX_SHARE_H
#include "parallax/parallax_private.h"

/* An image's block whose bytes are those of another stored block. */
struct share {
    uint64_t block, old_address, address;
    uint32_t crc;
};

/* ---- share.c ---- */

/* Puts shares into an image's head, where the block still is what it was; those that are not are left out. Zero-initialise but
 * for what is the caller's; lent until done. From before the bytes were read until done, the caller is a reader (H1), and
 * what the addresses belong to is pinned (P4). */
struct sharing {
    struct store *store;
    uint64_t image;             /* id */
    const struct store_op *op;  /* on whose behalf: it may be stopped */
    const struct share *shares; /* by block */
    uint32_t count;
    void (*done)(struct sharing *g);
    uint32_t shared;            /* result */
    int error;                  /* -ENOSPC: no room for what the checkpoint needs; -ESTALE: the image is gone or sealed */
    /* private */
    struct radix_lookup lookup;
    struct radix_entry entries[RADIX_FANOUT];
    uint32_t at, next, tries;
    uint64_t era;
    struct loop_timer retry;
    struct store_op barrier;
};
void sharing_start(struct sharing *g);

/* ---- match.c ---- */

/* A version whose blocks may be shared. */
struct holder {
    struct version *version; /* pinned */
    struct radix_root root;
    uint64_t min_birth;      /* what is older another holder has */
    bool self;               /* it is the one that is searched: only of two blocks the one with the higher address is replaced */
};

#define MATCH_BLOCKS 131072u /* of the image, in one pass */

struct match {
    struct store *store;
    const struct store_op *op;
    struct radix_root root;
    uint64_t min_birth, cursor; /* cursor: where the next pass begins; UINT64_MAX: there is none */
    uint64_t examined_blocks;
    struct holder *holders;
    uint32_t holder_count;
    struct share *shares;       /* found in this pass, by block; the caller's */
    uint32_t share_count;
    int error;
};
/* One pass, on the walker's thread. */
void match_pass(struct match *m);

/* ---- dedup.c ---- */

/* Shares in an image that is being imported, then done runs; failing only leaves things as they are. */
void dedup_import(struct store *s, struct store_op *op, uint64_t image, void (*done)(struct store_op *op));
#endif
