/* Streams, events, and the kernel that a stand-in for an engine launches. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "state.h"

enum { NON_BLOCKING = 1, ADDRESS_ALIGNMENT = 256 };

Stream *all_streams;
Stream legacy_stream = {.alive = 1};
static uint64_t marks;

Stream *stream_of(void *handle) {
    if (handle == NULL) return &legacy_stream;
    for (Stream *stream = all_streams; stream; stream = stream->next)
        if (stream == handle && stream->alive) return stream;
    return NULL;
}

void push(Queue *queue, Work work) {
    Work *added = malloc(sizeof *added);
    *added = work;
    added->next = NULL;
    if (queue->last) queue->last->next = added;
    else queue->first = added;
    queue->last = added;
}

/* Queue work, or capture it. The legacy stream waits for every blocking stream, which no capture survives. */
Result append(Stream *stream, Work work) {
    if (stream == &legacy_stream) {
        for (Stream *other = all_streams; other; other = other->next)
            if (other->capturing && !other->non_blocking) {
                other->invalidated = 1;
                return CAPTURE_IMPLICIT;
            }
    }
    if (stream->capturing && stream->invalidated) return CAPTURE_INVALIDATED;
    push(stream->capturing ? &stream->captured : &stream->queue, work);
    return SUCCESS;
}

static double now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}

static void run_until(Stream *stream, const Event *event, uint64_t mark);

static void perform(const Work *work) {
    Event *event = work->event;
    switch (work->kind) {
    case COPY: memcpy(work->target, work->source, work->size); break;
    case RECORD:
        event->done = work->mark;
        event->done_ms = now_ms();
        break;
    case WAIT:
        if (event->done < work->mark) run_until(event->stream, event, work->mark);
        break;
    case KERNEL:
        if (broken == SUCCESS) work->kernel(work->arguments);
        break;
    }
}

/* Run a stream's queue up to the record of an event, or all of it. */
static void run_until(Stream *stream, const Event *event, uint64_t mark) {
    while (stream->queue.first) {
        Work *work = stream->queue.first;
        stream->queue.first = work->next;
        if (stream->queue.first == NULL) stream->queue.last = NULL;
        perform(work);
        int reached = event && work->kind == RECORD && work->event == event && work->mark == mark;
        free(work);
        if (reached) return;
    }
}

void run(Stream *stream) { run_until(stream, NULL, 0); }

void run_everything(void) {
    for (Stream *stream = all_streams; stream; stream = stream->next) run(stream);
    run(&legacy_stream);
}

Result cuStreamCreate(void **handle, unsigned flags) {
    CALL("cuStreamCreate", IN_A_CONTEXT);
    Stream *stream = calloc(1, sizeof *stream);
    stream->alive = 1;
    stream->non_blocking = (flags & NON_BLOCKING) != 0;
    stream->next = all_streams;
    all_streams = stream;
    counts.streams++;
    *handle = stream;
    return SUCCESS;
}

/* The memory of a stream or an event stays, so that one used after its end is recognized. */
Result cuStreamDestroy_v2(void *handle) {
    CALL("cuStreamDestroy", IN_A_CONTEXT);
    Stream *stream = stream_of(handle);
    if (stream == NULL || stream == &legacy_stream) return INVALID_HANDLE;
    run(stream);
    stream->alive = 0;
    counts.streams--;
    return SUCCESS;
}

Result cuStreamSynchronize(void *handle) {
    CALL("cuStreamSynchronize", IN_A_CONTEXT);
    Stream *stream = stream_of(handle);
    if (stream == NULL) return INVALID_HANDLE;
    if (stream->capturing) {
        stream->invalidated = 1;
        return CAPTURE_UNSUPPORTED;
    }
    run(stream);
    return broken;
}

Result cuStreamQuery(void *handle) {
    CALL("cuStreamQuery", IN_A_CONTEXT);
    Stream *stream = stream_of(handle);
    if (stream == NULL) return INVALID_HANDLE;
    return stream->queue.first ? NOT_READY : SUCCESS;
}

Result cuStreamWaitEvent(void *handle, Event *event, unsigned flags) {
    (void)flags;
    CALL("cuStreamWaitEvent", IN_A_CONTEXT);
    Stream *stream = stream_of(handle);
    if (stream == NULL || !event->alive) return INVALID_HANDLE;
    if (stream->capturing && !event->captured) {
        stream->invalidated = 1;
        return CAPTURE_ISOLATION;
    }
    if (event->recorded == 0) return SUCCESS;
    return append(stream, (Work){.kind = WAIT, .event = event, .mark = event->recorded});
}

Result cuEventCreate(Event **event, unsigned flags) {
    (void)flags;
    CALL("cuEventCreate", IN_A_CONTEXT);
    *event = calloc(1, sizeof **event);
    (*event)->alive = 1;
    counts.events++;
    return SUCCESS;
}

Result cuEventDestroy_v2(Event *event) {
    CALL("cuEventDestroy", IN_A_CONTEXT);
    if (!event->alive) return INVALID_HANDLE;
    event->alive = 0;
    counts.events--;
    return SUCCESS;
}

Result cuEventRecord(Event *event, void *handle) {
    CALL("cuEventRecord", IN_A_CONTEXT);
    Stream *stream = stream_of(handle);
    if (stream == NULL || !event->alive) return INVALID_HANDLE;
    Result result = append(stream, (Work){.kind = RECORD, .event = event, .mark = marks + 1});
    if (result != SUCCESS) return result;
    event->recorded = ++marks;
    event->stream = stream;
    event->captured = stream->capturing;
    return SUCCESS;
}

Result cuEventSynchronize(Event *event) {
    CALL("cuEventSynchronize", IN_A_CONTEXT);
    if (!event->alive) return INVALID_HANDLE;
    if (event->captured) return CAPTURED_EVENT;
    if (event->stream && event->done < event->recorded) run_until(event->stream, event, event->recorded);
    return broken;
}

Result cuEventQuery(Event *event) {
    CALL("cuEventQuery", IN_A_CONTEXT);
    if (!event->alive) return INVALID_HANDLE;
    return event->done < event->recorded ? NOT_READY : SUCCESS;
}

Result cuEventElapsedTime_v2(float *ms, const Event *from, const Event *to) {
    CALL("cuEventElapsedTime", IN_A_CONTEXT);
    if (!from->alive || !to->alive || from->recorded == 0 || to->recorded == 0) return INVALID_HANDLE;
    if (from->done < from->recorded || to->done < to->recorded) return NOT_READY;
    *ms = (float)(to->done_ms - from->done_ms);
    return SUCCESS;
}

Result cuEventElapsedTime(float *ms, const Event *from, const Event *to) { return cuEventElapsedTime_v2(ms, from, to); }

/* Each image's mean, plus an offset, for each class. It computes only in memory of the device. */
static void mean(const int64_t *arguments) {
    const float *images = (const float *)arguments[0];
    float *logits = (float *)arguments[1];
    int64_t batch = arguments[2], pixels = arguments[3], classes = arguments[4];
    float offset;
    memcpy(&offset, &arguments[5], sizeof offset);
    const Memory *read = memory_at(images, (size_t)(batch * pixels) * sizeof *images);
    const Memory *written = memory_at(logits, (size_t)(batch * classes) * sizeof *logits);
    if (read == NULL || read->on_host || written == NULL || written->on_host) {
        broken = ILLEGAL_ADDRESS;
        return;
    }
    for (int64_t n = 0; n < batch; n++) {
        double sum = 0;
        for (int64_t i = 0; i < pixels; i++) sum += images[n * pixels + i];
        for (int64_t c = 0; c < classes; c++) logits[n * classes + c] = (float)(sum / (double)pixels) + offset;
    }
}

/* Launch the mean on a stream, as an engine would launch its kernels. */
Result stand_in_launch_mean(void *handle, int64_t images, int64_t logits, int64_t batch, int64_t pixels,
                            int64_t classes, float offset) {
    CALL("launch", IN_A_CONTEXT);
    Stream *stream = stream_of(handle);
    if (stream == NULL) return INVALID_HANDLE;
    if (images % ADDRESS_ALIGNMENT || logits % ADDRESS_ALIGNMENT) return INVALID_VALUE;
    Work work = {.kind = KERNEL, .kernel = mean, .arguments = {images, logits, batch, pixels, classes}};
    memcpy(&work.arguments[5], &offset, sizeof offset);
    return append(stream, work);
}
