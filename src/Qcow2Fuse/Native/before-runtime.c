// SPDX-License-Identifier: MIT
// Runs before the runtime of the native program begins, which no managed code can do. It uses no heap and starts no
// thread.
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

extern char **environ;

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

// A file that is opened must not become a standard stream, into which messages are written.
static void open_standard_streams(void)
{
    for (int stream = STDIN_FILENO; stream <= STDERR_FILENO; stream++) {
        if (fcntl(stream, F_GETFD) >= 0)
            continue;
        // The lowest free number is this one. Without /dev/null, something that takes no messages.
        if (open("/dev/null", O_RDWR) != stream && open("/", O_RDONLY | O_DIRECTORY) != stream)
            _exit(4);
    }
}

__attribute__((constructor)) static void before_the_runtime(void)
{
    hide_variables_of_the_runtime();
    open_standard_streams();
}
