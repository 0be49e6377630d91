/* place.h - where a store is and where its daemon listens.
 *
 * Words: a store's key is its directory as an absolute path without links; two URLs of one store have the same key.
 * A daemon listens at a path derived from the key, so that anyone who may talk to it finds it without reading the store;
 * a link "daemon.sock" in the store's directory names any other path. The system's store may also be served at a path that a
 * service manager listens at before there is a daemon. Any thread. */
#ifndef CONTROL_PLACE_H
#define CONTROL_PLACE_H
#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>

#define PLACE_MAX 512
#define PLACE_GROUP "parallax"
#define PLACE_NAME_MAX 32
#define PLACE_DOMAIN "storage" /* what a storage domain is called if nobody says otherwise */
#define PLACE_CANDIDATES 5

/* The store's URL to use when none is given: PARALLAX_STORE, else what the configuration says (config.h), else
 * /var/lib/parallax for root and group parallax, else ~/.local/share/parallax. */
int place_default_url(char out[PLACE_MAX], struct error *err);
/* The key of a URL. A directory that does not exist yet keeps its name, made absolute. */
int place_store_key(const char *url, char out[PLACE_MAX], struct error *err);
/* Where a daemon of this store may listen, best first; writes up to PLACE_CANDIDATES paths and returns how many. */
unsigned place_socket_candidates(const char *key, char out[PLACE_CANDIDATES][PLACE_MAX]);
/* The path a new daemon should listen at; makes its directory. explicit_path (may be NULL) is the operator's choice, which is
 * then linked from the store's directory. */
int place_socket_to_serve(const char *key, const char *explicit_path, char out[PLACE_MAX], struct error *err);
/* A directory in memory, of this user alone, for what a storage domain that serves this store must remember while the host runs; made
 * if need be. Each domain has one of its own: guests wait for the one that they were attached to, whatever serves the store meanwhile.
 * NULL: a domain that has no name of ours, as on Xen. */
int place_state_directory(const char *key, const char *domain, char out[PLACE_MAX], struct error *err);
/* Whether guests wait for that domain, to serve this store again. */
bool place_guests_wait(const char *key, const char *domain);
/* The same of all domains. What a hypervisor that has ended left stays until a daemon of that name is started. */
bool place_any_guests_wait(const char *key);
/* A name for a storage domain that serves this store and no other. */
void place_domain_name(const char *key, char out[static PLACE_NAME_MAX]);
/* Takes the link away again. */
void place_forget_socket(const char *key);
#endif
