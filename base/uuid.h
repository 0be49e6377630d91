/* uuid.h - identifiers of 16 bytes (RFC 4122), and their text. */
#ifndef BASE_UUID_H
#define BASE_UUID_H
#include <stdint.h>

#define UUID_BYTES 16u
#define UUID_TEXT_SIZE 37u /* with the zero at its end */

/* A random one. -EIO: the kernel gave no random bytes. */
int uuid_make(uint8_t out[static UUID_BYTES]);
void uuid_text(const uint8_t uuid[static UUID_BYTES], char out[static UUID_TEXT_SIZE]);
/* Of what uuid_text has written; of anything else the result is arbitrary. */
void uuid_read(const char text[static UUID_TEXT_SIZE], uint8_t out[static UUID_BYTES]);
#endif
