/* hiding.h - which features are hidden from the frontends of which images: the option --hide. */
#ifndef TOOLS_PARALLAXD_HIDING_H
#define TOOLS_PARALLAXD_HIDING_H
#include "base/error.h"
#include "blkback/blkback.h"

/* Adds what text ("[GLOB:]FEATURE[,FEATURE…]") says to a list that lives as long as the program; text is borrowed and changed. */
int hiding_add(char *text, const struct blkback_hiding **list, unsigned *count, struct error *err);
#endif
