/* blkif.h - the Xen block interface as bytes: rings, requests, responses, and the constants of its xenstore handshake.
 *
 * Words: a slot is one ring entry, wide enough for a request; an ABI is the layout that the frontend's "protocol" node names.
 * Layouts: x86_32-abi aligns 64-bit fields to 4 bytes; x86_64-abi and arm-abi align them to 8 and are the same. The structs
 * named blkif32_… and blkif64_… below are those two. All fields are little-endian, as both ends are on every host we serve.
 * Units: a sector is 512 bytes here always (Linux's reading); first_sect and last_sect count within a page, both included.
 * Trust: ring memory is shared with the other end, which may change it at any time: copy a request out once, then check it.
 * Source: Xen public header io/blkif.h (facts), Linux xen-blkfront and xen-blkback (behaviour). */
#ifndef HYPERVISOR_BLKIF_H
#define HYPERVISOR_BLKIF_H
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define BLKIF_SECTOR_SIZE 512u
#define BLKIF_PAGE_SIZE 4096u
#define BLKIF_SECTORS_PER_PAGE (BLKIF_PAGE_SIZE / BLKIF_SECTOR_SIZE)

/* The "protocol" node. */
enum blkif_abi { BLKIF_ABI_X86_32, BLKIF_ABI_X86_64, BLKIF_ABI_ARM };
#define BLKIF_PROTOCOL_X86_32 "x86_32-abi"
#define BLKIF_PROTOCOL_X86_64 "x86_64-abi"
#define BLKIF_PROTOCOL_ARM "arm-abi"

/* The "state" nodes of both ends. */
enum xenbus_state {
    XENBUS_UNKNOWN = 0, /* the node is missing */
    XENBUS_INITIALISING = 1,
    XENBUS_INIT_WAIT = 2,
    XENBUS_INITIALISED = 3,
    XENBUS_CONNECTED = 4,
    XENBUS_CLOSING = 5,
    XENBUS_CLOSED = 6,
    XENBUS_RECONFIGURING = 7,
    XENBUS_RECONFIGURED = 8,
};

enum blkif_op {
    BLKIF_OP_READ = 0,
    BLKIF_OP_WRITE = 1,
    BLKIF_OP_WRITE_BARRIER = 2,
    BLKIF_OP_FLUSH_DISKCACHE = 3, /* may carry segments: flush first, then write them */
    BLKIF_OP_DISCARD = 5,
    BLKIF_OP_INDIRECT = 6,
};

/* The last is not Xen's: only a frontend that asks for it (parallax-no-space, docs/blkif.md) gets it. */
enum blkif_status { BLKIF_RSP_OKAY = 0, BLKIF_RSP_ERROR = -1, BLKIF_RSP_EOPNOTSUPP = -2, BLKIF_RSP_PARALLAX_NO_SPACE = -3 };

/* The "info" node. */
#define BLKIF_INFO_CDROM 1u
#define BLKIF_INFO_REMOVABLE 2u
#define BLKIF_INFO_READONLY 4u

#define BLKIF_DISCARD_SECURE 1u /* blkif*_discard.flag */

#define BLKIF_MAX_SEGMENTS 11u                /* in a direct request */
#define BLKIF_MAX_INDIRECT_PAGES 8u           /* in an indirect request */
#define BLKIF_SEGMENTS_PER_INDIRECT_PAGE 512u /* BLKIF_PAGE_SIZE / sizeof(struct blkif_segment) */
#define BLKIF_MAX_RING_ORDER 4u

/* The start of every ring; slots follow at once. Producer indices run freely and are reduced modulo the number of slots. */
struct blkif_ring_header {
    uint32_t req_prod;  /* @0  written by the frontend */
    uint32_t req_event; /* @4  written by the backend: notify me when req_prod passes this */
    uint32_t rsp_prod;  /* @8  written by the backend */
    uint32_t rsp_event; /* @12 written by the frontend */
    uint8_t reserved[48];
};

struct blkif_segment {
    uint32_t gref;       /* @0 */
    uint8_t first_sect;  /* @4 */
    uint8_t last_sect;   /* @5 */
    uint16_t reserved;   /* @6 */
};

/* ---- 64-bit fields aligned to 8: x86_64-abi, arm-abi ---- */
struct blkif64_request {
    uint8_t operation;   /* @0 */
    uint8_t nr_segments; /* @1 */
    uint16_t handle;     /* @2 */
    uint32_t pad;        /* @4 */
    uint64_t id;         /* @8 */
    uint64_t sector_number; /* @16 */
    struct blkif_segment seg[BLKIF_MAX_SEGMENTS]; /* @24 */
};

struct blkif64_discard {
    uint8_t operation;
    uint8_t flag;
    uint16_t handle;
    uint32_t pad;
    uint64_t id;            /* @8 */
    uint64_t sector_number; /* @16 */
    uint64_t nr_sectors;    /* @24 */
};

struct blkif64_indirect {
    uint8_t operation;
    uint8_t indirect_op;  /* @1: BLKIF_OP_READ, BLKIF_OP_WRITE, … */
    uint16_t nr_segments; /* @2 */
    uint32_t pad;
    uint64_t id;            /* @8 */
    uint64_t sector_number; /* @16 */
    uint16_t handle;        /* @24 */
    uint16_t pad2;
    uint32_t indirect_grefs[BLKIF_MAX_INDIRECT_PAGES]; /* @28 */
    uint32_t pad3;
};

struct blkif64_response {
    uint64_t id;       /* @0 */
    uint8_t operation; /* @8 */
    uint8_t pad;
    int16_t status;    /* @10 */
    uint32_t pad2;
};

/* ---- 64-bit fields aligned to 4: x86_32-abi ---- */
#pragma pack(push, 4)
struct blkif32_request {
    uint8_t operation;
    uint8_t nr_segments;
    uint16_t handle;
    uint64_t id;            /* @4 */
    uint64_t sector_number; /* @12 */
    struct blkif_segment seg[BLKIF_MAX_SEGMENTS]; /* @20 */
};

struct blkif32_discard {
    uint8_t operation;
    uint8_t flag;
    uint16_t handle;
    uint64_t id;            /* @4 */
    uint64_t sector_number; /* @12 */
    uint64_t nr_sectors;    /* @20 */
};

struct blkif32_indirect {
    uint8_t operation;
    uint8_t indirect_op;
    uint16_t nr_segments;
    uint64_t id;            /* @4 */
    uint64_t sector_number; /* @12 */
    uint16_t handle;        /* @20 */
    uint16_t pad;
    uint32_t indirect_grefs[BLKIF_MAX_INDIRECT_PAGES]; /* @24 */
    uint64_t pad2;
};

struct blkif32_response {
    uint64_t id;       /* @0 */
    uint8_t operation; /* @8 */
    uint8_t pad;
    int16_t status;    /* @10 */
};
#pragma pack(pop)

#define BLKIF_CHECK(name, condition) _Static_assert(condition, "blkif layout: " name)
BLKIF_CHECK("ring header", sizeof(struct blkif_ring_header) == 64);
BLKIF_CHECK("segment", sizeof(struct blkif_segment) == 8 && offsetof(struct blkif_segment, last_sect) == 5);
BLKIF_CHECK("segments a page", BLKIF_PAGE_SIZE / sizeof(struct blkif_segment) == BLKIF_SEGMENTS_PER_INDIRECT_PAGE);
BLKIF_CHECK("64 request", sizeof(struct blkif64_request) == 112 && offsetof(struct blkif64_request, id) == 8 &&
            offsetof(struct blkif64_request, sector_number) == 16 && offsetof(struct blkif64_request, seg) == 24);
BLKIF_CHECK("64 discard", sizeof(struct blkif64_discard) == 32 && offsetof(struct blkif64_discard, nr_sectors) == 24);
BLKIF_CHECK("64 indirect", sizeof(struct blkif64_indirect) == 64 && offsetof(struct blkif64_indirect, handle) == 24 &&
            offsetof(struct blkif64_indirect, indirect_grefs) == 28);
BLKIF_CHECK("64 response", sizeof(struct blkif64_response) == 16 && offsetof(struct blkif64_response, status) == 10);
BLKIF_CHECK("32 request", sizeof(struct blkif32_request) == 108 && offsetof(struct blkif32_request, id) == 4 &&
            offsetof(struct blkif32_request, sector_number) == 12 && offsetof(struct blkif32_request, seg) == 20);
BLKIF_CHECK("32 discard", sizeof(struct blkif32_discard) == 28 && offsetof(struct blkif32_discard, nr_sectors) == 20);
BLKIF_CHECK("32 indirect", sizeof(struct blkif32_indirect) == 64 && offsetof(struct blkif32_indirect, handle) == 20 &&
            offsetof(struct blkif32_indirect, indirect_grefs) == 24);
BLKIF_CHECK("32 response", sizeof(struct blkif32_response) == 12 && offsetof(struct blkif32_response, status) == 10);
#undef BLKIF_CHECK

/* Bytes from one slot to the next. */
static inline uint32_t blkif_slot_bytes(enum blkif_abi abi) { return abi == BLKIF_ABI_X86_32 ? sizeof(struct blkif32_request) : sizeof(struct blkif64_request); }

/* Slots of a ring of 1 << order pages: 32, 64, 128, 256, 512 for orders 0 to 4, the largest power of two that fits. */
static inline uint32_t blkif_ring_slots(enum blkif_abi abi, unsigned order)
{
    uint32_t fit = (uint32_t)(((BLKIF_PAGE_SIZE << order) - sizeof(struct blkif_ring_header)) / blkif_slot_bytes(abi)), slots = 1;
    while (slots * 2 <= fit)
        slots *= 2;
    return slots;
}

/* 0 and the layout, or -EINVAL for a name that is none. */
static inline int blkif_abi_parse(const char *protocol, enum blkif_abi *out)
{
    if (!strcmp(protocol, BLKIF_PROTOCOL_X86_32))
        *out = BLKIF_ABI_X86_32;
    else if (!strcmp(protocol, BLKIF_PROTOCOL_X86_64))
        *out = BLKIF_ABI_X86_64;
    else if (!strcmp(protocol, BLKIF_PROTOCOL_ARM))
        *out = BLKIF_ABI_ARM;
    else
        return -EINVAL;
    return 0;
}

static inline const char *blkif_abi_name(enum blkif_abi abi)
{
    static const char *const names[] = { [BLKIF_ABI_X86_32] = BLKIF_PROTOCOL_X86_32, [BLKIF_ABI_X86_64] = BLKIF_PROTOCOL_X86_64,
                                         [BLKIF_ABI_ARM] = BLKIF_PROTOCOL_ARM };
    return names[abi];
}
#endif
