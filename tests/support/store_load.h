/* store_load.h - one image of a store under load, for programs that measure: 4 KiB requests, 32 of them in flight.
 *
 * Written blocks differ in every word, so that nothing is shared. What fails ends the program with a line on stderr and exit
 * status 1. One thread; a program has one load. */
#ifndef TESTS_STORE_LOAD_H
#define TESTS_STORE_LOAD_H
#include "parallax/parallax.h"

enum load_kind { LOAD_FILL /* writes, in order */, LOAD_WRITES, LOAD_READS, LOAD_MIXED /* reads and writes in turn */ };

/* The store at url, on a loop of its own. command: what the store shows as its user. */
struct store *load_open(const char *url, const char *command);
/* bytes: of a new image; 0: the image exists. */
void load_open_image(const char *name, uint64_t bytes);
/* Closes the image and the store. */
void load_close(void);

/* Starts count requests; they go on in every load_wait. */
void load_begin(enum load_kind kind, uint64_t count);
/* Starts no more, and waits for those in flight. */
void load_end(void);
/* Carries out count requests; returns the seconds. */
double load_run(enum load_kind kind, uint64_t count);

/* An operation to be started, and the wait for its end; returns the seconds from the one to the other. */
struct store_op *load_op(void);
double load_wait(void);
/* Checkpoints until nothing is held and nothing waits to be deleted. */
struct store_status load_settle(void);

uint64_t load_random(uint64_t below);
/* Sorts; the value below which percent of them lie. */
double load_percentile(double *values, unsigned count, unsigned percent);
#endif
