/* xl.h - the line by which an operator of Xen gives an image to a guest. */
#ifndef TOOLS_PARALLAX_XL_H
#define TOOLS_PARALLAX_XL_H
#include <stdbool.h>

/* Prints disk=['…'] for xl.cfg(5). It names the domain that this process runs in, if that is one of Xen, else STORDOM. */
void xl_print(const char *target, bool read_only);
#endif
