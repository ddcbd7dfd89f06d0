/* Capturing a stream into a graph, and launching it. */
#define _GNU_SOURCE
#include <stdlib.h>

#include "state.h"

enum { GLOBAL = 0, THREAD_LOCAL = 1, RELAXED = 2 };

/* What a graph holds is a queue, too; an executable graph is a copy of it. */
typedef struct {
    Queue queue;
    int alive;
} Graph;

static void empty(Queue *queue) {
    while (queue->first) {
        Work *work = queue->first;
        queue->first = work->next;
        free(work);
    }
    queue->last = NULL;
}

static Graph *graph_of(const Queue *queue) {
    Graph *graph = calloc(1, sizeof *graph);
    graph->alive = 1;
    for (const Work *work = queue->first; work; work = work->next) push(&graph->queue, *work);
    return graph;
}

/* A call that may wait for the device is refused during a capture of its own thread, or of any in mode "global". */
Result refuse_in_capture(void) {
    Result result = SUCCESS;
    for (Stream *stream = all_streams; stream; stream = stream->next) {
        int own = pthread_equal(stream->capturer, pthread_self());
        if (!stream->capturing || stream->mode == RELAXED || (stream->mode == THREAD_LOCAL && !own)) continue;
        stream->invalidated = 1;
        result = CAPTURE_UNSUPPORTED;
    }
    return result;
}

Result cuStreamBeginCapture_v2(void *handle, int mode) {
    CALL("cuStreamBeginCapture", IN_A_CONTEXT);
    Stream *stream = stream_of(handle);
    if (stream == NULL) return INVALID_HANDLE;
    if (stream == &legacy_stream) return CAPTURE_UNSUPPORTED;
    if (stream->capturing) return ILLEGAL_STATE;
    stream->capturing = 1;
    stream->invalidated = 0;
    stream->mode = mode;
    stream->capturer = pthread_self();
    return SUCCESS;
}

Result cuStreamEndCapture(void *handle, Graph **graph) {
    CALL("cuStreamEndCapture", IN_A_CONTEXT);
    Stream *stream = stream_of(handle);
    *graph = NULL;
    if (stream == NULL) return INVALID_HANDLE;
    if (!stream->capturing) return ILLEGAL_STATE;
    if (stream->mode != RELAXED && !pthread_equal(stream->capturer, pthread_self())) return CAPTURE_WRONG_THREAD;
    stream->capturing = 0;
    if (!stream->invalidated) {
        *graph = graph_of(&stream->captured);
        counts.graphs++;
    }
    empty(&stream->captured);
    return stream->invalidated ? CAPTURE_INVALIDATED : SUCCESS;
}

Result cuStreamIsCapturing(void *handle, int *status) {
    CALL("cuStreamIsCapturing", IN_A_CONTEXT);
    const Stream *stream = stream_of(handle);
    if (stream == NULL) return INVALID_HANDLE;
    *status = stream->capturing ? (stream->invalidated ? 2 : 1) : 0;
    return SUCCESS;
}

Result cuGraphInstantiateWithFlags(Graph **executable, Graph *graph, unsigned long long flags) {
    (void)flags;
    CALL("cuGraphInstantiate", IN_A_CONTEXT);
    *executable = NULL;
    if (graph == NULL || !graph->alive) return INVALID_VALUE;
    *executable = graph_of(&graph->queue);
    counts.executables++;
    return SUCCESS;
}

Result cuGraphLaunch(Graph *executable, void *handle) {
    CALL("cuGraphLaunch", IN_A_CONTEXT);
    Stream *stream = stream_of(handle);
    if (stream == NULL || !executable->alive) return INVALID_HANDLE;
    Result result = SUCCESS;
    for (Work *work = executable->queue.first; work && result == SUCCESS; work = work->next)
        result = append(stream, *work);
    return result;
}

static Result destroy(Graph *graph, long *count) {
    if (graph == NULL || !graph->alive) return INVALID_VALUE;
    empty(&graph->queue);
    graph->alive = 0;
    *count -= 1;
    return SUCCESS;
}

Result cuGraphDestroy(Graph *graph) {
    CALL("cuGraphDestroy", ANYWHERE);
    return destroy(graph, &counts.graphs);
}

Result cuGraphExecDestroy(Graph *executable) {
    CALL("cuGraphExecDestroy", ANYWHERE);
    return destroy(executable, &counts.executables);
}
