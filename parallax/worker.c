/* worker.c - a thread that does jobs in order and hands each back to the loop. */
#include "parallax/parallax_private.h"

#include <errno.h>

static void deliver(struct loop_task *t)
{
    struct worker *w = container_of(t, struct worker, deliver);
    for (;;) {
        pthread_mutex_lock(&w->lock);
        struct list_node *n = list_pop(&w->finished);
        pthread_mutex_unlock(&w->lock);
        if (!n)
            break;
        struct job *j = container_of(n, struct job, link);
        j->done.run(&j->done);
    }
}

static void *run(void *arg)
{
    struct worker *w = arg;
    pthread_mutex_lock(&w->lock);
    for (;;) {
        struct list_node *n = list_pop(&w->jobs);
        if (n) {
            struct job *j = container_of(n, struct job, link);
            pthread_mutex_unlock(&w->lock);
            j->work(j);
            pthread_mutex_lock(&w->lock);
            list_add_tail(&w->finished, &j->link);
            loop_post(w->loop, &w->deliver);
        } else if (w->stop) {
            break;
        } else {
            pthread_cond_wait(&w->wake, &w->lock);
        }
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

int worker_start(struct worker *w, struct loop *loop)
{
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->wake, NULL);
    list_init(&w->jobs);
    list_init(&w->finished);
    w->deliver.run = deliver;
    w->stop = false;
    w->loop = loop;
    int err = pthread_create(&w->thread, NULL, run, w);
    w->started = err == 0;
    return -err;
}

void worker_stop(struct worker *w)
{
    if (!w->started)
        return;
    pthread_mutex_lock(&w->lock);
    w->stop = true;
    pthread_cond_signal(&w->wake);
    pthread_mutex_unlock(&w->lock);
    pthread_join(w->thread, NULL);
    loop_unpost(w->loop, &w->deliver);
    pthread_mutex_destroy(&w->lock);
    pthread_cond_destroy(&w->wake);
    w->started = false;
}

void worker_submit(struct worker *w, struct job *j)
{
    pthread_mutex_lock(&w->lock);
    list_add_tail(&w->jobs, &j->link);
    pthread_cond_signal(&w->wake);
    pthread_mutex_unlock(&w->lock);
}
