/* format.c - tells disk image formats by their content.
 *
 * Sources: docs/interop/qcow2.txt of QEMU (magic "QFI\xfb"); Microsoft's VHD 1.0 ("conectix" in the last 512 bytes, and of
 * dynamic ones also in the first) and VHDX ("vhdxfile"); VMware's VMDK 5.0 ("KDMV", "COWD", or a descriptor as text); the
 * VDI header's signature 0xbeda107f at 64, its type at 76 (4: differencing). qcow2: version at 4 (1: qcow), backing file's offset
 * at 8, incompatible features at 72 (bit 2: external data file). VHD: type at 60 (4: differencing). What is recognised only to be
 * refused: docs/interop/qed_spec.txt and parallels.txt of QEMU, RFC 1952 (gzip), RFC 8878 (zstd), and what xz, bzip2, lz4 and zip
 * say of their files. */
#include "tools/parallax/source.h"

#include "base/endian.h"

#include <string.h>

bool format_is_read(const char *format)
{
    static const char *const known[] = { "raw", "qcow2", "vhd", "vhdx", "vmdk", "vdi" };
    for (unsigned i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(format, known[i]))
            return true;
    return false;
}

static const char *foreign(const unsigned char head[FORMAT_HEAD])
{
    static const struct {
        const char *name, *magic;
        size_t length;
    } known[] = {
        { "qed", "QED\0", 4 },           { "parallels", "WithoutFreeSpace", 16 }, { "parallels", "WithouFreSpacExt", 16 },
        { "gzip", "\x1f\x8b\x08", 3 },   { "xz", "\xfd" "7zXZ\0", 6 },           { "zstd", "\x28\xb5\x2f\xfd", 4 },
        { "lz4", "\x04\x22\x4d\x18", 4 }, { "zip", "PK\3\4", 4 },
    };
    for (unsigned i = 0; i < sizeof known / sizeof *known; i++)
        if (!memcmp(head, known[i].magic, known[i].length))
            return known[i].name;
    return !memcmp(head, "BZh", 3) && !memcmp(head + 4, "1AY&SY", 6) ? "bzip2" : NULL;
}

const char *format_of_head(const unsigned char head[FORMAT_HEAD])
{
    static const char descriptor[] = "# Disk DescriptorFile";
    if (!memcmp(head, "QFI\xfb", 4))
        return get_be32(head + 4) == 1 ? "qcow" : "qcow2";
    if (!memcmp(head, "vhdxfile", 8))
        return "vhdx";
    if (!memcmp(head, "conectix", 8))
        return "vhd";
    if (!memcmp(head, "KDMV", 4) || !memcmp(head, "COWD", 4) || !memcmp(head, descriptor, sizeof descriptor - 1))
        return "vmdk";
    if (get_le32(head + 64) == 0xbeda107fu)
        return "vdi";
    return foreign(head);
}

/* Before Virtual PC 2004 the footer had 511 bytes. */
const char *format_of_tail(const unsigned char tail[FORMAT_TAIL])
{
    return memcmp(tail, "conectix", 8) && memcmp(tail + 1, "conectix", 8) ? NULL : "vhd";
}

const char *format_of_ends(const unsigned char head[FORMAT_HEAD], const unsigned char tail[FORMAT_TAIL])
{
    const char *format = format_of_head(head);
    return format ? format : format_of_tail(tail);
}

bool format_chains(const char *format) { return !strcmp(format, "qcow2") || !strcmp(format, "vmdk"); }

static bool holds_text(const unsigned char head[FORMAT_HEAD], const char *text) { return memmem(head, FORMAT_HEAD, text, strlen(text)) != NULL; }

const char *format_outside(const char *format, const unsigned char head[FORMAT_HEAD])
{
    if (!strcmp(format, "qcow2")) {
        if (memcmp(head, "QFI\xfb", 4)) // refused for that when it is read: these fields are none
            return NULL;
        if (get_be32(head + 4) >= 3 && get_be64(head + 72) & 4)
            return "keeps its data in another file";
        return get_be64(head + 8) ? "has a backing file" : NULL;
    }
    if (!strcmp(format, "vmdk")) {
        if (head[0] == '#')
            return "is a descriptor of other files";
        return holds_text(head, "parentFileNameHint") ? "has a parent file" : NULL;
    }
    if (!strcmp(format, "vhd"))
        return !memcmp(head, "conectix", 8) && get_be32(head + 60) == 4 ? "has a parent file" : NULL;
    if (!strcmp(format, "vdi"))
        return get_le32(head + 76) == 4 ? "has a parent file" : NULL;
    return NULL;
}
