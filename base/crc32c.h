/* crc32c.h - CRC-32C (Castagnoli), by the processor's instruction where there is one.
 *
 * Source: RFC 3720 B.4 (polynomial 0x1EDC6F41, reflected). Any thread. */
#ifndef BASE_CRC32C_H
#define BASE_CRC32C_H
#include <stddef.h>
#include <stdint.h>

/* Extends crc (0 to begin with) by length bytes; crc32c(0, "123456789", 9) is 0xe3069283. */
uint32_t crc32c(uint32_t crc, const void *data, size_t length);
#endif
