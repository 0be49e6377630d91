/* door_private.h - the structs of a door and what its files share. */
#ifndef DOORS_COMMON_DOOR_PRIVATE_H
#define DOORS_COMMON_DOOR_PRIVATE_H
#include "base/list.h"
#include "base/loop.h"
#include "blkfront/blkfront.h"
#include "control/control.h"
#include "control/place.h"
#include "doors/common/door.h"
#include "vbd/vbd.h"

#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>

#define DOOR_CLIENTS 4u /* control connections at once: the daemon serves 64 in all */

struct door {
    struct door_options opt;
    char url[PLACE_MAX], key[PLACE_MAX];
    int cancel_fd;                 /* readable once stopped */
    atomic_bool stopped;
    pthread_mutex_t lock;          /* of what follows */
    pthread_cond_t client_free;
    struct control_client idle[DOOR_CLIENTS];
    unsigned idle_count, client_count;
    bool away;                     /* the operator was told that the storage domain is away */
    struct list_node disks;
    /* The toolstack's end, under toolstack_lock: attaching. */
    pthread_mutex_t toolstack_lock;
    struct hv *toolstack;
    struct hv_xs *xs;
    hv_domid backend;
};

/* ---- door_control.c ---- */
void door_clients_close(struct door *d);
/* Sleeps, or returns false at once when the door is stopped. */
bool door_pause(struct door *d, unsigned ms);

/* ---- Requests of one disk ---- */

#define DOOR_SLOT_PAGES 32u
#define DOOR_SLOT_BYTES (DOOR_SLOT_PAGES * HV_PAGE_SIZE)

/* A caller that waits for its requests. */
struct door_waiter {
    struct list_node link; /* waiting, or ended */
    unsigned pending;      /* requests */
    int error;             /* the first */
    sem_t woken;           /* they have ended, or it is the leader from now on */
};

/* Granted memory and the ring request that uses it. */
struct door_slot {
    struct blkfront_req req;
    struct iovec iov;
    struct door_disk *disk;
    struct door_waiter *waiter; /* NULL: its caller was sent away */
    struct list_node link;      /* idle or out */
    void *memory;
};

struct door_disk {
    struct door *door;
    struct list_node link;
    struct door_disk_options opt;
    char target[260];
    char *identity; /* of what is attached */
    bool read_only;
    atomic_ullong size_bytes;
    pthread_t thread;
    struct loop *loop;
    struct hv *hv;
    struct blkfront *front;
    struct vbd vbd;
    struct loop_task stop_task, close_task; /* posted */
    atomic_uint grace_ms;
    unsigned slot_count;
    int wake_fd; /* readable: the leader is to look again */
    /* Of what follows, and of front and whatever turns with the loop. */
    pthread_mutex_t lock;
    bool opened, closing;
    struct error error; /* how opening went */
    pthread_cond_t opened_cond, slot_free;
    unsigned slots_wanted; /* callers waiting for a slot */
    struct list_node idle, out;
    bool refuse;           /* stopped: no request is taken any more */
    struct loop_timer grace;
    struct door_slot *slots;
    void *memory;
    struct list_node waiting, ended; /* callers: whose requests are on the ring; whose have ended, and who are still to be woken */
    struct door_waiter *leader;      /* it waits for the ring's events; NULL: nobody does */
    /* A write of part of a sector excludes all other writes while it reads and writes. */
    pthread_rwlock_t edges;
};

/* ---- door_io.c ---- */
int door_slots_create(struct door_disk *k);
void door_slots_destroy(struct door_disk *k);
/* Under the lock: ends all waiting callers with error; what is on the ring is forgotten. */
void door_requests_abandon(struct door_disk *k, int error);
/* Under the lock: wakes the callers whose requests have ended. */
void door_wake_ended(struct door_disk *k);
/* Multiples of 512. data NULL: a discard (offset of 4096), or with length 0 a flush. */
int door_transfer(struct door_disk *k, enum blkfront_op op, void *data, uint64_t length, uint64_t offset);
#endif
