/* Makes a run's environment fail it (LD_PRELOAD), as files in $FAULTS say, which come and go while it runs:
 *   write  a write to a file of a checkpoint fails with this errno
 *   fsync  syncing one does
 *   slow   syncing one takes so many milliseconds longer
 *   clock  the wall clock is so many seconds off; the monotonic one goes on
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

/* The number in a file; 0 where there is none. */
static long asked(const char *name) {
    const char *folder = getenv("FAULTS");
    char path[4096], text[32] = "";
    int before = errno;
    snprintf(path, sizeof path, "%s/%s", folder ? folder : "", name);
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file >= 0) {
        if (read(file, text, sizeof text - 1) < 0) text[0] = 0;
        close(file);
    }
    errno = before;
    return atol(text);
}

static int of_checkpoint(int file) {
    char link[64], path[4096];
    int before = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    errno = before;
    path[length < 0 ? 0 : length] = 0;
    return strstr(path, "/checkpoints/.step-") != NULL;
}

ssize_t write(int file, const void *bytes, size_t count) {
    long error = of_checkpoint(file) ? asked("write") : 0;
    if (error) return errno = error, -1;
    return REAL(write)(file, bytes, count);
}

int fsync(int file) {
    if (of_checkpoint(file)) {
        usleep(1000 * asked("slow"));
        long error = asked("fsync");
        if (error) return errno = error, -1;
    }
    return REAL(fsync)(file);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int status = REAL(clock_gettime)(clock, now);
    if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE) now->tv_sec += asked("clock");
    return status;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    int status = REAL(gettimeofday)(now, zone);
    now->tv_sec += asked("clock");
    return status;
}

time_t time(time_t *kept) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (kept) *kept = now.tv_sec;
    return now.tv_sec;
}
