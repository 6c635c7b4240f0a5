// Boost.Interprocess's message_queue behind functions that Rust can call. They return 0 when done, 1 where that
// would have had to wait, -1 when something went wrong: nothing is thrown across.

#include <boost/interprocess/ipc/message_queue.hpp>

#include <cstddef>

using boost::interprocess::create_only;
using boost::interprocess::message_queue;
using boost::interprocess::open_only;

extern "C" {

message_queue *bench_queue_create(const char *name, std::size_t messages, std::size_t bytes) {
    try {
        return new message_queue(create_only, name, messages, bytes);
    } catch (...) {
        return nullptr;
    }
}

message_queue *bench_queue_open(const char *name) {
    try {
        return new message_queue(open_only, name);
    } catch (...) {
        return nullptr;
    }
}

void bench_queue_close(message_queue *queue) { delete queue; }

int bench_queue_remove(const char *name) { return message_queue::remove(name) ? 0 : -1; }

int bench_queue_send(message_queue *queue, const void *bytes, std::size_t len, bool waits) {
    try {
        if (waits) {
            queue->send(bytes, len, 0);
            return 0;
        }
        return queue->try_send(bytes, len, 0) ? 0 : 1;
    } catch (...) {
        return -1;
    }
}

int bench_queue_receive(message_queue *queue, void *bytes, std::size_t room, std::size_t *len,
                        bool waits) {
    try {
        unsigned int priority;
        message_queue::size_type received = 0;
        if (waits) {
            queue->receive(bytes, room, received, priority);
        } else if (!queue->try_receive(bytes, room, received, priority)) {
            return 1;
        }
        *len = received;
        return 0;
    } catch (...) {
        return -1;
    }
}
}
