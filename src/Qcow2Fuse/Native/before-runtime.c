// SPDX-License-Identifier: MIT
// Runs before the runtime of the native program begins, which no managed code can do. It uses no heap and starts no
// thread.
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

// MADV_POPULATE_WRITE, for C libraries that do not name it yet.
enum { POPULATE_WRITE = 23 };

extern char **environ;

// From the linker: the zeroed memory of the program.
extern char __bss_start[], _end[];

// The runtime reads variables DOTNET_NAME for the size and the form of its heap. They were set for other programs: a
// small heap would end this one with a failed start. Programs that are started get them all the same, because their
// environment is read from /proc/self/environ, which is the memory that the kernel filled.
static void hide_variables_of_the_runtime(void)
{
    static const char prefix[] = "DOTNET_";
    char **to = environ;

    if (to == NULL)
        return;
    for (char **from = to; *from != NULL; from++) {
        if (strncmp(*from, prefix, sizeof prefix - 1) != 0)
            *to++ = *from;
    }
    *to = NULL;
}

// A file that is opened must not become a standard stream, into which messages are written. Standard output stays one
// that takes nothing, so that it is told what could not be written.
static void open_standard_streams(void)
{
    for (int stream = STDIN_FILENO; stream <= STDERR_FILENO; stream++) {
        if (fcntl(stream, F_GETFD) >= 0)
            continue;
        // The lowest free number is this one. Without /dev/null, something that takes no messages.
        if (open("/dev/null", stream == STDOUT_FILENO ? O_RDONLY : O_RDWR) != stream && open("/", O_RDONLY | O_DIRECTORY) != stream)
            _exit(4);
    }
}

// The runtime unpacks its tables of types into the program's zeroed memory, all of it, first of all. Found page by page
// that is several hundred faults, a good part of a short command's time.
static void find_memory_of_the_tables(void)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t start = ((uintptr_t)__bss_start + page - 1) & ~(page - 1);
    uintptr_t end = (uintptr_t)_end & ~(page - 1);

    // Refused before Linux 5.14; then it happens page by page.
    if (end > start)
        (void)madvise((void *)start, end - start, POPULATE_WRITE);
}

__attribute__((constructor)) static void before_the_runtime(void)
{
    hide_variables_of_the_runtime();
    open_standard_streams();
    find_memory_of_the_tables();
}
