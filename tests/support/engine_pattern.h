/* engine_pattern.h - sector contents that say who wrote them: what the engine's tests write and what they recognise.
 *
 * Words: an id names one write, or several that are to make equal blocks; 0 stands for zeroes. A sector's 512 bytes are a function of its id and of its number in the
 * image, so that a sector that came from another write, from another place, or in part from either is told from the right one.
 * Threads: any; pure functions. */
#ifndef TESTS_SUPPORT_ENGINE_PATTERN_H
#define TESTS_SUPPORT_ENGINE_PATTERN_H
#include <stdbool.h>
#include <stdint.h>

#define PATTERN_BAD UINT32_MAX /* an id that is never written: the sector is no pattern, or that of another place */

/* Fills `sectors` sectors of 512 bytes, the first of which has the number first_sector in its image. */
void pattern_fill(void *buf, uint32_t id, uint64_t first_sector, uint64_t sectors);
/* The id of the one sector at buf, or PATTERN_BAD. */
uint32_t pattern_id(const void *buf, uint64_t sector);
#endif
