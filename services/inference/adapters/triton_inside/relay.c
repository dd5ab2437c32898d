/* What Triton's threads call, without Python's lock: they leave word in a pipe and go on.
 *
 * A thread that held the lock could lose its processor to another while the event loop waits for
 * it. A word is shorter than PIPE_BUF, so that words of several threads never mix.
 */
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

#define PIPE_SHIFT 40 /* A call's number begins with that of its pipe. */
#define RELEASED (UINT64_C(1) << 32)

static void tell(void *call, const void *response, uint64_t flags)
{
    const uint64_t word[3] = {(uintptr_t)call, (uintptr_t)response, flags};
    const int pipe = (int)((uintptr_t)call >> PIPE_SHIFT);

    while (write(pipe, word, sizeof word) < 0 && errno == EINTR)
        ;
}

void relay_respond(void *response, uint32_t flags, void *call)
{
    if (response || flags)
        tell(call, response, flags);
}

void relay_release(void *request, uint32_t flags, void *call)
{
    (void)request, (void)flags;
    tell(call, NULL, RELEASED);
}

void *relay_allocate(void *allocator, const char *name, size_t size, int kind, int64_t kind_id,
                     void *call, void **buffer, void **buffer_mark, int *actual_kind,
                     int64_t *actual_kind_id)
{
    (void)allocator, (void)name, (void)kind, (void)kind_id, (void)call;
    *buffer = size ? malloc(size) : NULL;
    *buffer_mark = NULL;
    *actual_kind = 0; /* TRITONSERVER_MEMORY_CPU */
    *actual_kind_id = 0;
    return NULL;
}

void *relay_free(void *allocator, void *buffer, void *buffer_mark, size_t size, int kind,
                 int64_t kind_id)
{
    (void)allocator, (void)buffer_mark, (void)size, (void)kind, (void)kind_id;
    free(buffer);
    return NULL;
}
