/* size.c - see size.h. */
#include "tools/common/size.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

static const char units[] = "BKMGTP";

/* The unit's power of 1024, or -1. */
static int unit_power(const char *unit)
{
    if (!*unit || !strcasecmp(unit, "B"))
        return 0;
    const char *at = strchr(units + 1, toupper((unsigned char)*unit));
    if (!at || (unit[1] && strcasecmp(unit + 1, "iB")))
        return -1;
    return (int)(at - units);
}

static int refuse_unit(const char *what, const char *text, const char *unit, struct error *err)
{
    char letter = (char)toupper((unsigned char)*unit);
    if (strchr(units + 1, letter) && !strcasecmp(unit + 1, "B"))
        return error_set(err, -EINVAL, "%s '%.64s': %.2s can mean 1000 or 1024; write %c or %ciB (1024)", what, text, unit, letter, letter);
    return error_set(err, -EINVAL, "%s '%.64s' has an unknown unit; write bytes, or K M G T P (1024)", what, text);
}

int size_parse(const char *what, const char *text, uint64_t *out, struct error *err)
{
    if (*text == '-')
        return error_set(err, -EINVAL, "%s '%.64s' is negative", what, text);
    const char *p = text;
    uint64_t whole = 0, numerator = 0, denominator = 1;
    for (; isdigit((unsigned char)*p); p++) {
        uint64_t digit = (uint64_t)(*p - '0');
        if (whole > ((uint64_t)INT64_MAX - digit) / 10)
            return error_set(err, -EINVAL, "%s '%.64s' is too large", what, text);
        whole = whole * 10 + digit;
    }
    if (p == text)
        return error_set(err, -EINVAL, "%s '%.64s' is not a size; write bytes, or a number and K M G T P, as 10G", what, text);
    const char *point = *p == '.' ? p++ : NULL;
    for (; point && isdigit((unsigned char)*p); p++)
        if (denominator < 1000000000u) {
            numerator = numerator * 10 + (uint64_t)(*p - '0');
            denominator *= 10;
        }
    if (point && p == point + 1)
        return error_set(err, -EINVAL, "%s '%.64s' ends in a point", what, text);
    int power = unit_power(p);
    if (power < 0)
        return refuse_unit(what, text, p, err);
    if (numerator && power == 0)
        return error_set(err, -EINVAL, "%s '%.64s' is a fraction of a byte", what, text);
    unsigned shift = 10u * (unsigned)power;
    if (whole > (uint64_t)INT64_MAX >> shift)
        return error_set(err, -EINVAL, "%s '%.64s' is too large", what, text);
    uint64_t bytes = whole << shift;
    if (numerator) {
        unsigned __int128 part = ((unsigned __int128)numerator << shift) / denominator;
        bytes = (bytes + (uint64_t)part + 511) & ~(uint64_t)511;
    }
    if (bytes > (uint64_t)INT64_MAX)
        return error_set(err, -EINVAL, "%s '%.64s' is too large", what, text);
    *out = bytes;
    return 0;
}

char *size_format(uint64_t bytes, char *out)
{
    unsigned power = 0;
    while (power + 1 < sizeof units - 1 && bytes >> (10 * (power + 1)))
        power++;
    uint64_t unit = (uint64_t)1 << (10 * power);
    if (bytes % unit == 0)
        snprintf(out, SIZE_TEXT_MAX, "%llu %c%s", (unsigned long long)(bytes / unit), units[power], power ? "iB" : "");
    else
        snprintf(out, SIZE_TEXT_MAX, "%.1f %ciB", (double)bytes / (double)unit, units[power]);
    return out;
}

int size_is_bare(const char *text)
{
    return *text && strspn(text, "0123456789") == strlen(text);
}
