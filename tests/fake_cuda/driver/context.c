/* Starting, devices, the primary context, the stack of current contexts of each thread, and planned failures. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "state.h"

enum { DEEPEST = 64, CAPABILITY_MAJOR = 75, CAPABILITY_MINOR = 76, TEXTURE_ALIGNMENT = 14 };

Counts counts;
Result broken = SUCCESS;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int initialized, the_context;
static __thread void *current[DEEPEST];
static __thread int depth;
static char failing[64];
static int calls_before_failure;
static Result planned;

void enter(void) { pthread_mutex_lock(&lock); }

void leave(int *entered) {
    (void)entered;
    pthread_mutex_unlock(&lock);
}

Result refuse(const char *function, int wants_context) {
    if (strcmp(function, failing) == 0 && calls_before_failure-- == 0) {
        failing[0] = 0;
        return planned;
    }
    if (!initialized) return NOT_INITIALIZED;
    if (wants_context && depth == 0) return INVALID_CONTEXT;
    return wants_context ? broken : SUCCESS;
}

/* Let the call of a function after some that succeed fail, once. */
void stand_in_fail(const char *function, int after, int result) {
    enter();
    snprintf(failing, sizeof failing, "%s", function);
    calls_before_failure = after;
    planned = (Result)result;
    pthread_mutex_unlock(&lock);
}

/* Return whether a planned failure has not come yet, and forget it. */
int stand_in_not_failed(void) {
    enter();
    int waiting = failing[0] != 0;
    failing[0] = 0;
    pthread_mutex_unlock(&lock);
    return waiting;
}

void stand_in_counts(long *into) {
    enter();
    memcpy(into, &counts, sizeof counts);
    into[sizeof counts / sizeof *into - 1] = depth;
    pthread_mutex_unlock(&lock);
}

/* When the process ends, what it left behind goes to the file that FAKE_CUDA_REPORT names. */
__attribute__((destructor)) static void report(void) {
    const char *place = getenv("FAKE_CUDA_REPORT");
    FILE *file = place ? fopen(place, "w") : NULL;
    if (file == NULL) return;
    fprintf(file, "device %ld\nhost %ld\nstreams %ld\nevents %ld\ngraphs %ld\nexecutables %ld\nretained %ld\ncurrent %d\n",
            counts.device, counts.host, counts.streams, counts.events, counts.graphs, counts.executables,
            counts.retained, depth);
    fclose(file);
}

Result cuInit(unsigned flags) {
    (void)flags;
    initialized = 1;
    return SUCCESS;
}

Result cuDriverGetVersion(int *version) {
    *version = 13000;
    return SUCCESS;
}

Result cuDeviceGetCount(int *count) {
    CALL("cuDeviceGetCount", ANYWHERE);
    *count = 1;
    return SUCCESS;
}

Result cuDeviceGet(int *device, int index) {
    CALL("cuDeviceGet", ANYWHERE);
    *device = index;
    return index == 0 ? SUCCESS : INVALID_VALUE;
}

Result cuDeviceGetName(char *name, int length, int device) {
    (void)device;
    CALL("cuDeviceGetName", ANYWHERE);
    snprintf(name, (size_t)length, "NVIDIA Test GPU");
    return SUCCESS;
}

Result cuDeviceGetPCIBusId(char *place, int length, int device) {
    (void)device;
    CALL("cuDeviceGetPCIBusId", ANYWHERE);
    snprintf(place, (size_t)length, "0000:65:00.0");
    return SUCCESS;
}

Result cuDeviceGetAttribute(int *value, int attribute, int device) {
    (void)device;
    CALL("cuDeviceGetAttribute", ANYWHERE);
    *value = attribute == CAPABILITY_MAJOR ? 8 : attribute == CAPABILITY_MINOR ? 9 : attribute == TEXTURE_ALIGNMENT ? 512 : 1;
    return SUCCESS;
}

Result cuDevicePrimaryCtxRetain(void **context, int device) {
    (void)device;
    CALL("cuDevicePrimaryCtxRetain", ANYWHERE);
    counts.retained++;
    *context = &the_context;
    return SUCCESS;
}

Result cuDevicePrimaryCtxRelease_v2(int device) {
    (void)device;
    CALL("cuDevicePrimaryCtxRelease", ANYWHERE);
    if (counts.retained == 0) return INVALID_CONTEXT;
    counts.retained--;
    return SUCCESS;
}

Result cuCtxPushCurrent_v2(void *context) {
    CALL("cuCtxPushCurrent", ANYWHERE);
    if (context != &the_context || counts.retained == 0 || depth == DEEPEST) return INVALID_CONTEXT;
    current[depth++] = context;
    return SUCCESS;
}

Result cuCtxPopCurrent_v2(void **context) {
    CALL("cuCtxPopCurrent", ANYWHERE);
    if (depth == 0) return INVALID_CONTEXT;
    depth--;
    if (context) *context = current[depth];
    return SUCCESS;
}

Result cuCtxGetCurrent(void **context) {
    CALL("cuCtxGetCurrent", ANYWHERE);
    *context = depth ? current[depth - 1] : NULL;
    return SUCCESS;
}

Result cuCtxGetDevice(int *device) {
    CALL("cuCtxGetDevice", IN_A_CONTEXT);
    *device = 0;
    return SUCCESS;
}

/* A primary context is released, never detached. */
Result cuCtxDetach(void *context) {
    (void)context;
    return INVALID_CONTEXT;
}

Result cuCtxSynchronize(void) {
    CALL("cuCtxSynchronize", IN_A_CONTEXT);
    if ((refusal = refuse_in_capture()) != SUCCESS) return refusal;
    run_everything();
    return broken;
}

Result cuGetErrorName(Result result, const char **text) {
    switch (result) {
    case SUCCESS: *text = "CUDA_SUCCESS"; break;
    case OUT_OF_MEMORY: *text = "CUDA_ERROR_OUT_OF_MEMORY"; break;
    case INVALID_CONTEXT: *text = "CUDA_ERROR_INVALID_CONTEXT"; break;
    case ILLEGAL_ADDRESS: *text = "CUDA_ERROR_ILLEGAL_ADDRESS"; break;
    default: *text = "an error of the stand-in"; break;
    }
    return SUCCESS;
}

Result cuGetErrorString(Result result, const char **text) {
    if (result == OUT_OF_MEMORY) {
        *text = "out of memory";
        return SUCCESS;
    }
    return cuGetErrorName(result, text);
}

/* cuda-bindings asks for its functions by name; the newest version of each is the one that the stand-in has. */
Result cuGetProcAddress_v2(const char *name, void **function, int version, uint64_t flags, int *status) {
    static const char *const endings[] = {"_v4", "_v3", "_v2", "WithFlags", ""};
    (void)version, (void)flags;
    void *here = dlopen("libcuda.so.1", RTLD_NOLOAD | RTLD_LAZY);
    *function = NULL;
    for (size_t i = 0; here && *function == NULL && i < sizeof endings / sizeof *endings; i++) {
        char whole[128];
        snprintf(whole, sizeof whole, "%s%s", name, endings[i]);
        *function = dlsym(here, whole);
    }
    if (here) dlclose(here);
    if (status) *status = *function ? 0 : 1;
    return *function ? SUCCESS : NOT_FOUND;
}
