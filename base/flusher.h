/* flusher.h - for processes that a file system's or a block device's written pages pass through.
 *
 * When memory is short the kernel frees it by writing such pages. A process in their way must then not wait for memory that is
 * freed by its own work: that would be a wait without end. */
#ifndef BASE_FLUSHER_H
#define BASE_FLUSHER_H

/* Where the process has the right to (CAP_SYS_RESOURCE), and with no effect elsewhere: memory for it is found without writing
 * anything back, it is not slowed down for what others have written, and its own memory stays in memory. Holds for this thread
 * and for those that it starts: call it first. Locked memory cannot be given back: madvise(MADV_DONTNEED) is refused and zeroes nothing. */
void flusher_begin(void);
#endif
