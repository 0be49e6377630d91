/* tree.h - the family tree of images, printed. */
#ifndef TOOLS_PARALLAX_TREE_H
#define TOOLS_PARALLAX_TREE_H
#include <jansson.h>

/* list: images as `ls --json` gives them. */
void tree_print(const json_t *list);
void tree_print_dot(const json_t *list);
#endif
