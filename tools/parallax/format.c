/* format.c - tells disk image formats by their content.
 *
 * Sources: docs/interop/qcow2.txt of QEMU (magic "QFI\xfb"); Microsoft's VHD 1.0 ("conectix" in the last 512 bytes, and of
 * dynamic ones also in the first) and VHDX ("vhdxfile"); VMware's VMDK 5.0 ("KDMV", "COWD", or a descriptor as text); the
 * VDI header's signature 0xbeda107f at 64. */
#include "tools/parallax/source.h"

#include "base/endian.h"

#include <string.h>

const char *format_of_head(const unsigned char head[FORMAT_HEAD])
{
    static const char descriptor[] = "# Disk DescriptorFile";
    if (!memcmp(head, "QFI\xfb", 4))
        return "qcow2";
    if (!memcmp(head, "vhdxfile", 8))
        return "vhdx";
    if (!memcmp(head, "conectix", 8))
        return "vhd";
    if (!memcmp(head, "KDMV", 4) || !memcmp(head, "COWD", 4) || !memcmp(head, descriptor, sizeof descriptor - 1))
        return "vmdk";
    if (get_le32(head + 64) == 0xbeda107fu)
        return "vdi";
    return NULL;
}

const char *format_of_tail(const unsigned char tail[FORMAT_TAIL]) { return memcmp(tail, "conectix", 8) ? NULL : "vhd"; }
