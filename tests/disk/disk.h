/* disk.h - a disk under the real code: what the power-cut, fault and bit-flip tests stand on.
 *
 * A program that is linked with this folder has its own open, pwrite, fsync, rename, io_submit and the like, which come before
 * the C library's and libaio's for everything in the process, Berkeley DB included (disk_calls.c, disk_aio.c). Files below one
 * directory are watched: each write, flush, change of size and change of a name goes into one record, in the order in which it
 * happened, whoever did it. The record is kept as what is durable and, after that, what is not yet (disk_record.c). From it
 * disk_cut makes what the disk may hold after a power cut (disk_cut.c). A fault can be ordered for the nth call (disk_fault.c).
 *
 * The disk's rules:
 * 1. A flush (fsync, fdatasync, the asynchronous one, each write of a file opened with O_DSYNC) makes durable, of that file,
 *    what had completed before the flush was begun, its size included.
 * 2. A new file's name is durable once the file or its directory has been flushed, as on the file systems of Linux; a removed
 *    or changed name once the directory has been.
 * 3. Everything else may be there after a cut, in any combination: see disk_cut.
 * Asynchronous requests complete in random order, some at once and some late.
 *
 * Threads: any; one lock makes each call one step of the record. */
#ifndef TESTS_DISK_DISK_H
#define TESTS_DISK_DISK_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- Watching ---- */

/* What is below the directory now is durable; from now on it is recorded. seed: of the order of completions. */
void disk_watch(const char *directory, uint64_t seed);
/* Ends it, and any fault. */
void disk_unwatch(void);
/* Called, with the disk locked, by the thread that does I/O, wherever a cut would be worth looking at: before and after each
 * flush, after each submission, completion, write and change of a name. NULL: no more. */
void disk_at_boundary(void (*boundary)(bool flush));
/* Boundary calls end here: the lock may be given up and taken again inside one, and taken by others between calls. */
void disk_lock(void);
void disk_unlock(void);

/* ---- Power cuts ---- */

struct disk_cut {
    unsigned pending;        /* writes and changes that no flush covered */
    unsigned whole, part;    /* of these: came through whole; torn or garbled */
    uint64_t hash;           /* of everything that the disk holds then */
};

/* For a forked process that holds the lock: the power fails now. Of what is not durable random parts come through, each write
 * whole, not at all, or sector by sector (of 512 bytes or 4 KiB, old or new, and some of the data file's garbled: random bytes).
 * The result becomes the durable contents, is put into the new directory, and is watched there. random NULL: everything comes
 * through, as when only the process ends. */
void disk_cut(const char *directory, uint64_t *random, struct disk_cut *out);

/* Everything becomes durable. Nothing may be under way. */
void disk_settle(void);

/* Removes a directory and the files and directories in it. */
void disk_remove_tree(const char *directory);

/* ---- Rot ---- */

/* Called, with the disk locked, for every stretch of a watched file that is read. NULL: no more. */
void disk_at_read(void (*read)(const char *name, uint64_t offset, uint64_t length));
/* The file's length and the byte there, as they are durable; 0 where there is none. */
uint64_t disk_size(const char *name);
unsigned char disk_byte(const char *name, uint64_t offset);
/* Turns bits of the durable contents over; in a forked process, before disk_cut. */
void disk_flip(const char *name, uint64_t offset, unsigned char bits);

/* ---- Faults ---- */

enum { DISK_READ = 1, DISK_WRITE = 2, DISK_FLUSH = 4, DISK_SPACE = 8 /* sizes and allocation */, DISK_NAME = 16 /* opening, making, removing */,
       DISK_MEMORY = 32 /* allocations of the libraries under test: disk_memory.c */ };

enum disk_manner {
    DISK_FAILS,  /* the error, and nothing has happened */
    DISK_SHORT,  /* half of it is done, which is the answer; a flush or change fails with the error */
    DISK_LATE,   /* it is done, and the error comes all the same, after everything else under way has completed */
};

struct disk_fault {
    unsigned kinds;
    uint64_t nth; /* the 1st, 2nd, … call of these kinds from now on */
    int error;    /* positive errno */
    enum disk_manner manner;
    bool lasting; /* and all that follow */
};

/* Replaces the fault in force; NULL: none, and what was met still counts. */
void disk_order_fault(const struct disk_fault *fault);
/* Faults met since the last order of one. */
uint64_t disk_faults_met(void);
#endif
