/* frame.c - the header of a frame and its JSON payload: encode, decode and check in one place. */
#include "base/endian.h"
#include "control/control.h"

#include <stdlib.h>

bool control_frame_valid(uint32_t type, uint32_t length)
{
    switch ((enum control_type)type) {
    case CONTROL_HELLO:
    case CONTROL_REQUEST:
    case CONTROL_ITEM:
    case CONTROL_REPLY:
        return length >= 2 && length <= CONTROL_JSON_MAX;
    case CONTROL_DATA:
        return length > CONTROL_OFFSET_SIZE && length <= CONTROL_OFFSET_SIZE + CONTROL_DATA_MAX;
    case CONTROL_END:
        return length == 0;
    case CONTROL_CREDIT:
        return length == 4;
    }
    return false;
}

void control_header_encode(unsigned char out[CONTROL_HEADER_SIZE], enum control_type type, uint32_t length)
{
    put_le32(out, length);
    put_le32(out + 4, type);
}

void control_header_decode(const unsigned char in[CONTROL_HEADER_SIZE], uint32_t *type, uint32_t *length)
{
    *length = get_le32(in);
    *type = get_le32(in + 4);
}

json_t *control_json_decode(const void *bytes, size_t length)
{
    json_error_t error;
    return json_loadb(bytes, length, JSON_REJECT_DUPLICATES, &error);
}

char *control_json_encode(const json_t *doc, uint32_t *length)
{
    size_t size = json_dumpb(doc, NULL, 0, JSON_COMPACT);
    if (size == 0 || size > CONTROL_JSON_MAX)
        return NULL;
    char *text = malloc(size);
    if (text)
        *length = (uint32_t)json_dumpb(doc, text, size, JSON_COMPACT);
    return text;
}
