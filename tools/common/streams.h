/* streams.h - the standard streams of a program. */
#ifndef TOOLS_COMMON_STREAMS_H
#define TOOLS_COMMON_STREAMS_H

/* First of all in main: a standard stream that is closed must not become the first file that is opened. Using it is an error
 * (EBADF) afterwards as before. */
void streams_hold(void);
#endif
