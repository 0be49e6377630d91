/* uuid.c - see uuid.h. */
#include "base/uuid.h"

#include <errno.h>
#include <stdio.h>
#include <sys/random.h>

int uuid_make(uint8_t out[static UUID_BYTES])
{
    if (getrandom(out, UUID_BYTES, 0) != UUID_BYTES)
        return -EIO;
    out[6] = (uint8_t)((out[6] & 0x0f) | 0x40); /* version 4 */
    out[8] = (uint8_t)((out[8] & 0x3f) | 0x80);
    return 0;
}

void uuid_text(const uint8_t u[static UUID_BYTES], char out[static UUID_TEXT_SIZE])
{
    snprintf(out, UUID_TEXT_SIZE, "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", u[0], u[1], u[2], u[3], u[4], u[5], u[6], u[7], u[8], u[9],
             u[10], u[11], u[12], u[13], u[14], u[15]);
}

void uuid_read(const char text[static UUID_TEXT_SIZE], uint8_t out[static UUID_BYTES])
{
    for (unsigned i = 0; i < UUID_BYTES; i++, text += 2) {
        text += *text == '-';
        sscanf(text, "%2hhx", &out[i]);
    }
}
