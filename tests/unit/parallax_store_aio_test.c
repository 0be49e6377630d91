/* parallax_store_aio_test.c - the block device over a file where the kernel gives no AIO context, takes no requests, or tells of an
 * error; and in which order what is submitted goes out. The calls of libaio pass through here. */
#include "tests/support/file_device.h"
#include "tests/support/unit.h"

#include <errno.h>
#include <libaio.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static int setup_error; /* of every io_setup */

int io_setup(int depth, io_context_t *out)
{
    if (setup_error)
        return setup_error;
    return syscall(SYS_io_setup, depth, out) ? -errno : 0;
}

static int submit_error; /* of every io_submit */
static atomic_uint flushes_submitted; /* by any thread */

int io_submit(io_context_t context, long count, struct iocb **iocbs)
{
    for (long i = 0; i < count; i++)
        flushes_submitted += iocbs[i]->aio_lio_opcode == IO_CMD_FDSYNC;
    long n = submit_error ? submit_error : syscall(SYS_io_submit, context, count, iocbs);
    return submit_error || n >= 0 ? (int)n : -errno;
}

static int sync_error; /* of the next flush whose end is asked for by io_getevents */

int io_getevents(io_context_t context, long least, long most, struct io_event *events, struct timespec *timeout)
{
    long n = syscall(SYS_io_getevents, context, least, most, events, timeout);
    for (long i = 0; i < n && sync_error; i++)
        if (events[i].obj->aio_lio_opcode == IO_CMD_FDSYNC) {
            events[i].res = (unsigned long)(long)sync_error;
            sync_error = 0;
        }
    return n >= 0 ? (int)n : -errno;
}

/* fs.aio-max-nr is used up, by others who may let go of some; there is no memory; the kernel has none, or none for us. */
static void without_a_context_each_request_is_waited_for_until_there_is_one(void)
{
    struct device w;
    device_open(&w, 64, true);
    device_close(&w); /* never used */
    device_open(&w, 64, true);
    struct device_request *list[] = { device_request(&w, BDEV_WRITE, 3, 4, 2), device_request(&w, BDEV_READ, 3, 4, 1), device_request(&w, BDEV_FLUSH, 0, 0, 0),
                               device_request(&w, BDEV_READ, 4, 1, 1) };
    const int setup[] = { -EAGAIN, -ENOMEM, -ENOSYS, -EPERM, -EINVAL, 0 }, expected[] = { 0, 0, 0, 0, -EINVAL, 0 };
    for (unsigned i = 0; i < 3; i++)
        list[i]->next = list[i + 1];
    for (unsigned round = 0; round < sizeof setup / sizeof *setup; round++) {
        setup_error = setup[round];
        memset(list[0]->buf, 0x11 + (int)round, 4 * BDEV_BLOCK_SIZE);
        memset(list[1]->buf, 0, 4 * BDEV_BLOCK_SIZE);
        device_submit(list[0]);
        device_drain(&w);
        for (unsigned i = 0; i < 4; i++) {
            CU_ASSERT_EQUAL(list[i]->error, expected[round]);
            CU_ASSERT_EQUAL(list[i]->calls, 1);
            list[i]->calls = 0;
        }
        CU_ASSERT(expected[round] || !memcmp(list[0]->buf, list[1]->buf, 4 * BDEV_BLOCK_SIZE));
    }
    for (unsigned i = 0; i < 4; i++)
        device_free(list[i]);
    device_close(&w);
}

/* The kernel tells of it once: to whoever makes the context, here for a read. */
static void a_flush_that_fails_when_a_context_is_made_fails_all_that_follow(void)
{
    struct device w;
    device_open(&w, 64, true);
    struct device_request *list[] = { device_request(&w, BDEV_WRITE, 3, 4, 1), device_request(&w, BDEV_READ, 3, 4, 1), device_request(&w, BDEV_FLUSH, 0, 0, 0) };
    setup_error = -EAGAIN;
    device_submit(list[0]);
    device_drain(&w);
    setup_error = 0;
    sync_error = -EIO;
    for (unsigned i = 1; i < 3; i++) {
        device_submit(list[i]);
        device_drain(&w);
    }
    CU_ASSERT_EQUAL(list[0]->error, 0);
    CU_ASSERT_EQUAL(list[2]->error, -EIO);
    CU_ASSERT_EQUAL(bdev_flush(w.d), -EIO);
    for (unsigned i = 0; i < 3; i++)
        device_free(list[i]);
    device_close(&w);
}

struct answer {
    struct device_request write, flush;
    struct loop_task task;
    unsigned flushes; /* that were submitted when it went out */
};

static void send_answer(struct loop_task *task) { container_of(task, struct answer, task)->flushes = flushes_submitted; }

static void answer_and_flush(struct bdev_req *req, int error)
{
    struct answer *a = container_of(req, struct answer, write.req);
    loop_defer_last(a->write.w->loop, &a->task);
    device_done(req, error);
}

/* Whoever is woken by the answer to a write may take the processor from us. */
static void a_flush_is_on_its_way_before_what_it_covers_is_answered(void)
{
    static struct answer a;
    struct device w;
    device_open(&w, 64, false);
    struct device_request *model = device_request(&w, BDEV_WRITE, 3, 4, 1);
    a = (struct answer){ .write = { .w = &w, .next = &a.flush }, .flush = { .w = &w, .req = { .op = BDEV_FLUSH, .done = device_done } }, .task.run = send_answer };
    a.write.req = model->req;
    a.write.req.done = answer_and_flush;
    unsigned before = flushes_submitted;
    device_submit(&a.write);
    device_drain(&w);
    CU_ASSERT(a.write.error == 0 && a.flush.error == 0 && a.flush.calls == 1);
    CU_ASSERT_EQUAL(a.flushes, before + 1);
    device_free(model);
    device_close(&w);
}

/* Three blocks here and there, written and read back by one call each. */
static const uint64_t scattered[3] = { 5, 60, 17 };

static void many_go_there_and_back(struct device *w, void *const bufs[3])
{
    for (unsigned i = 0; i < 3; i++)
        device_fill(bufs[i], scattered[i], 3);
    CU_ASSERT_EQUAL(bdev_write_many(w->d, scattered, bufs, 3), 0);
    for (unsigned i = 0; i < 3; i++)
        memset(bufs[i], 0, BDEV_BLOCK_SIZE);
    CU_ASSERT_EQUAL(bdev_read_many(w->d, scattered, bufs, 3), 0);
    for (unsigned i = 0; i < 3; i++)
        CU_ASSERT(device_holds(bufs[i], scattered[i], 3));
}

static void without_a_context_many_blocks_are_read_and_written_in_turn(void)
{
    struct device w;
    unsigned char *buf = bdev_buffer_alloc(3);
    void *bufs[] = { buf, buf + BDEV_BLOCK_SIZE, buf + 2 * BDEV_BLOCK_SIZE };
    device_open(&w, 64, true);
    const int setup[] = { -ENOMEM, -ENOSYS, -EPERM, -EAGAIN };
    for (unsigned i = 0; i < sizeof setup / sizeof *setup; i++) {
        setup_error = setup[i];
        many_go_there_and_back(&w, bufs);
    }
    CU_ASSERT_EQUAL(truncate(device_path, 20 * (off_t)BDEV_BLOCK_SIZE), 0);
    CU_ASSERT_EQUAL(bdev_read_many(w.d, scattered, bufs, 3), -EIO);
    CU_ASSERT(device_holds(bufs[2], 17, 3));
    setup_error = 0;
    free(buf);
    device_close(&w);
}

/* An error here would be one of the checkpoint's, and the end of the store's life. */
static void what_the_kernel_does_not_take_is_read_and_written_in_turn(void)
{
    struct device w;
    unsigned char *buf = bdev_buffer_alloc(3);
    void *bufs[] = { buf, buf + BDEV_BLOCK_SIZE, buf + 2 * BDEV_BLOCK_SIZE };
    device_open(&w, 64, false);
    submit_error = -EAGAIN;
    many_go_there_and_back(&w, bufs);
    submit_error = -EIO;
    CU_ASSERT_EQUAL(bdev_read_many(w.d, scattered, bufs, 3), -EIO);
    submit_error = 0;
    many_go_there_and_back(&w, bufs);
    free(buf);
    device_close(&w);
}

int main(int argc, char **argv)
{
    return device_tests(argc, argv, "aio", (struct unit_test[]){
        UNIT(without_a_context_each_request_is_waited_for_until_there_is_one), UNIT(a_flush_that_fails_when_a_context_is_made_fails_all_that_follow),
        UNIT(a_flush_is_on_its_way_before_what_it_covers_is_answered), UNIT(without_a_context_many_blocks_are_read_and_written_in_turn),
        UNIT(what_the_kernel_does_not_take_is_read_and_written_in_turn), { 0 } });
}
