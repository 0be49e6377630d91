/* hiding.c - see hiding.h. */
#include "tools/parallaxd/hiding.h"

#include <errno.h>
#include <string.h>

#define HIDINGS_MAX 64

static const struct {
    const char *name;
    enum blkback_feature feature;
} names[] = {
    { "flush", BLKBACK_FLUSH },       { "barrier", BLKBACK_BARRIER },         { "discard", BLKBACK_DISCARD },
    { "indirect", BLKBACK_INDIRECT }, { "multi-queue", BLKBACK_MULTI_QUEUE }, { "multi-page", BLKBACK_MULTI_PAGE },
    { "small-sectors", BLKBACK_SMALL_SECTORS },
};

static unsigned feature_of(const char *name)
{
    for (unsigned i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcmp(name, names[i].name))
            return names[i].feature;
    return 0;
}

int hiding_add(char *text, const struct blkback_hiding **list, unsigned *count, struct error *err)
{
    static struct blkback_hiding hidings[HIDINGS_MAX];
    struct blkback_hiding h = { .glob = "*" };
    char *features = strchr(text, ':'), *rest = NULL;
    if (*count == HIDINGS_MAX)
        return error_set(err, -EINVAL, "--hide is given more than %d times", HIDINGS_MAX);
    if (features) {
        *features++ = '\0';
        h.glob = text;
    } else {
        features = text;
    }
    for (char *name = strtok_r(features, ",", &rest); name; name = strtok_r(NULL, ",", &rest)) {
        unsigned feature = feature_of(name);
        if (!feature)
            return error_set(err, -EINVAL, "--hide knows no feature '%.64s'; there are flush, barrier, discard, indirect, multi-queue, multi-page, small-sectors", name);
        h.features |= feature;
    }
    if (!h.features || !*h.glob)
        return error_set(err, -EINVAL, "--hide takes [GLOB:]FEATURE[,FEATURE…]");
    hidings[(*count)++] = h;
    *list = hidings;
    return 0;
}
