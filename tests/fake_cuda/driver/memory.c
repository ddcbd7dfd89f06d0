/* Memory of the "device" and page-locked memory: malloc, poisoned, counted and limited. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>

#include "state.h"

enum { ALIGNMENT = 512, FRESH = 0xCD, FREED = 0xDD };

Memory *all_memory;
size_t memory_limit = (size_t)1 << 30, memory_used;

void stand_in_limit(size_t bytes) { memory_limit = bytes; }

Memory *memory_at(const void *address, size_t size) {
    const char *start = address;
    for (Memory *memory = all_memory; memory; memory = memory->next)
        if (start >= memory->start && start + size <= memory->start + memory->size) return memory;
    return NULL;
}

static Result allocate(void **address, size_t size, int on_host) {
    Result refusal = refuse_in_capture();
    if (refusal != SUCCESS) return refusal;
    if (size == 0) return INVALID_VALUE;
    if (memory_used + size > memory_limit || posix_memalign(address, ALIGNMENT, size) != 0) return OUT_OF_MEMORY;
    memset(*address, FRESH, size);
    Memory *memory = malloc(sizeof *memory);
    *memory = (Memory){.start = *address, .size = size, .on_host = on_host, .next = all_memory};
    all_memory = memory;
    memory_used += size;
    *(on_host ? &counts.host : &counts.device) += 1;
    return SUCCESS;
}

static Result release(void *address, int on_host) {
    Result refusal = refuse_in_capture();
    if (refusal != SUCCESS) return refusal;
    run_everything(); /* CUDA waits for the device before it frees */
    for (Memory **link = &all_memory; *link; link = &(*link)->next) {
        Memory *memory = *link;
        if (memory->start != address || memory->on_host != on_host) continue;
        *link = memory->next;
        memory_used -= memory->size;
        *(on_host ? &counts.host : &counts.device) -= 1;
        memset(memory->start, FREED, memory->size);
        free(memory->start);
        free(memory);
        return SUCCESS;
    }
    return INVALID_VALUE;
}

Result cuMemAlloc_v2(void **address, size_t size) {
    CALL("cuMemAlloc", IN_A_CONTEXT);
    return allocate(address, size, 0);
}

Result cuMemFree_v2(void *address) {
    CALL("cuMemFree", IN_A_CONTEXT);
    return release(address, 0);
}

Result cuMemHostAlloc(void **address, size_t size, unsigned flags) {
    (void)flags;
    CALL("cuMemHostAlloc", IN_A_CONTEXT);
    return allocate(address, size, 1);
}

Result cuMemFreeHost(void *address) {
    CALL("cuMemFreeHost", IN_A_CONTEXT);
    return release(address, 1);
}

Result cuMemGetInfo_v2(size_t *left, size_t *total) {
    CALL("cuMemGetInfo", IN_A_CONTEXT);
    *left = memory_limit - memory_used;
    *total = memory_limit;
    return SUCCESS;
}

/* Only page-locked memory is copied later; a copy of other memory waits for the stream, and may not be captured. */
static Result copy(void *target, const void *source, size_t size, const void *host, void *handle) {
    const Memory *on_device = memory_at(host == target ? source : target, size);
    const Memory *locked = memory_at(host, size);
    Stream *stream = stream_of(handle);
    if (on_device == NULL || on_device->on_host || stream == NULL) return INVALID_VALUE;
    if (locked != NULL && locked->on_host)
        return append(stream, (Work){.kind = COPY, .target = target, .source = source, .size = size});
    if (stream->capturing) {
        stream->invalidated = 1;
        return CAPTURE_UNSUPPORTED;
    }
    run(stream);
    memcpy(target, source, size);
    return broken;
}

Result cuMemcpyHtoDAsync_v2(void *target, const void *source, size_t size, void *stream) {
    CALL("cuMemcpyHtoDAsync", IN_A_CONTEXT);
    return copy(target, source, size, source, stream);
}

Result cuMemcpyDtoHAsync_v2(void *target, void *source, size_t size, void *stream) {
    CALL("cuMemcpyDtoHAsync", IN_A_CONTEXT);
    return copy(target, source, size, target, stream);
}
