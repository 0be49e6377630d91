/* paste.c - see paste.h.
 *
 * Names of images are safe in every one of these languages; a socket's path is whatever its owner chose. In a URI everything
 * but letters, digits and a few signs is written as %XX, which QEMU's option parser and the shell leave alone too. */
#include "tools/parallax/paste.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#define SERVED_SOCKETS "/run/parallax/nbd"

void paste_default_socket(const char *target, char out[PATH_MAX]) { snprintf(out, PATH_MAX, "%s/%s.sock", SERVED_SOCKETS, target); }

void paste_for_uri(const char *text, char *out, size_t size)
{
    for (; *text && size > PASTE_URI_FACTOR; text++) {
        bool plain = isalnum((unsigned char)*text) || strchr("/-._~@", *text);
        int n = snprintf(out, size, plain ? "%c" : "%%%02X", (unsigned char)*text);
        out += n;
        size -= (size_t)n;
    }
    *out = '\0';
}

void paste_for_shell(const char *text, char *out, size_t size)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/-._~@:=,+%";
    bool quotes = !*text || *text == '~' || text[strspn(text, plain)];
    size_t at = (size_t)snprintf(out, size, "%s", quotes ? "'" : "");
    for (; *text && at + PASTE_SHELL_FACTOR + 1 < size; text++)
        at += (size_t)snprintf(out + at, size - at, *text == '\'' ? "'\\''" : "%c", *text);
    snprintf(out + at, size - at, "%s", quotes ? "'" : "");
}

static void put_for_uri(const char *text)
{
    char piece[PASTE_URI_FACTOR + 1];
    for (; *text; text++) {
        paste_for_uri((const char[]){ *text, '\0' }, piece, sizeof piece);
        fputs(piece, stdout);
    }
}

static void put_for_xml(const char *text)
{
    for (; *text; text++)
        if (strchr("&<>'\"", *text))
            printf("&#%d;", *text);
        else
            putchar(*text);
}

void paste_qemu(const char *target, const char *socket, bool read_only)
{
    printf("-drive 'file=nbd+unix:///");
    put_for_uri(target);
    printf("?socket=");
    put_for_uri(socket);
    printf(",format=raw,if=virtio,cache=none,%s'\n", read_only ? "readonly=on" : "discard=unmap");
}

void paste_libvirt(const char *target, const char *socket, bool read_only)
{
    printf("<disk type='network' device='disk'>\n  <driver name='qemu' type='raw' cache='none' discard='unmap'/>\n  <source protocol='nbd' name='");
    put_for_xml(target);
    printf("'>\n    <host transport='unix' socket='");
    put_for_xml(socket);
    printf("'/>\n  </source>\n  <target dev='vda' bus='virtio'/>\n%s</disk>\n", read_only ? "  <readonly/>\n" : "");
}
