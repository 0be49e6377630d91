/* reserve.h - large private memory that comes into being as it is touched: caches, pools of buffers, tables.
 *
 * It is asked for in huge pages where the kernel has them for whoever asks: what is looked up at random in tens of megabytes
 * costs a walk of the page tables each time otherwise, which in a virtual machine is two walks in one. So memory is used by up
 * to 2 MiB more than was touched. */
#ifndef BASE_RESERVE_H
#define BASE_RESERVE_H
#include <stddef.h>

/* Zeroes, aligned to a page; NULL if there is no room for it. */
void *reserve_memory(size_t bytes);
/* Takes NULL, too. */
void reserve_release(void *memory, size_t bytes);
#endif
