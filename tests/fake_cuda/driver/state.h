/* What the stand-in for libcuda.so.1 keeps. One lock guards all of it: every call of the driver takes it first. */
#ifndef STATE_H
#define STATE_H

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

/* The results that the stand-in gives, with the numbers of cuda.h. */
typedef enum {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NOT_INITIALIZED = 3,
    INVALID_CONTEXT = 201,
    INVALID_HANDLE = 400,
    ILLEGAL_STATE = 401,
    NOT_FOUND = 500,
    NOT_READY = 600,
    ILLEGAL_ADDRESS = 700,
    NOT_SUPPORTED = 801,
    CAPTURE_UNSUPPORTED = 900,
    CAPTURE_INVALIDATED = 901,
    CAPTURE_UNMATCHED = 903,
    CAPTURE_ISOLATION = 905,
    CAPTURE_IMPLICIT = 906,
    CAPTURED_EVENT = 907,
    CAPTURE_WRONG_THREAD = 908,
} Result;

typedef struct Event Event;

/* Something that a stream does: a copy, the record of an event, the wait for one, or a kernel. */
typedef struct Work {
    enum { COPY, RECORD, WAIT, KERNEL } kind;
    void *target;
    const void *source;
    size_t size;
    Event *event;
    uint64_t mark; /* which record of the event is meant */
    void (*kernel)(const int64_t *arguments);
    int64_t arguments[8];
    struct Work *next;
} Work;

typedef struct {
    Work *first, *last;
} Queue;

/* A stream is a queue that runs only when something waits for it: whoever forgets to wait reads wrong data. */
typedef struct Stream {
    Queue queue;
    int alive, non_blocking;
    int capturing, invalidated, mode;
    pthread_t capturer;
    Queue captured;
    struct Stream *next;
} Stream;

struct Event {
    int alive, captured;
    uint64_t recorded, done; /* the latest record asked for, and the latest that the stream came to */
    double done_ms;
    Stream *stream;
    struct Event *next;
};

typedef struct Memory {
    char *start;
    size_t size;
    int on_host;
    struct Memory *next;
} Memory;

typedef struct {
    long device, host, streams, events, graphs, executables, retained, deepest_current;
} Counts;

extern Counts counts;
extern Stream *all_streams;
extern Stream legacy_stream;
extern Memory *all_memory;
extern size_t memory_limit, memory_used;
extern Result broken; /* a kernel that reads what is not there breaks the context for good, as CUDA's does */

void enter(void);
void leave(int *entered);
Result refuse(const char *function, int wants_context);

/* Begin a call of the driver: lock, then answer what stands against the call. */
#define CALL(function, wants_context)                                    \
    int entered __attribute__((cleanup(leave))) = 1;                     \
    (void)entered;                                                       \
    enter();                                                             \
    Result refusal = refuse(function, wants_context);                    \
    if (refusal != SUCCESS) return refusal

enum { ANYWHERE = 0, IN_A_CONTEXT = 1 };

Memory *memory_at(const void *address, size_t size);
Stream *stream_of(void *handle);
Result append(Stream *stream, Work work);
void push(Queue *queue, Work work);
void run(Stream *stream);
void run_everything(void);
Result refuse_in_capture(void);

#endif
