/* Preloaded: changes what a process reads from the realtime clock. CLOCK_AFTER seconds of monotonic time after the
   first reading, CLOCK_STEP seconds are added, for CLOCK_FOR seconds; time runs CLOCK_RATE times as fast. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
#include <sys/syscall.h>
#include <unistd.h>

static double from_environment(const char *name, double otherwise) {
    const char *text = getenv(name);
    return text ? atof(text) : otherwise;
}

static double seconds(clockid_t id) {
    struct timespec now;
    syscall(SYS_clock_gettime, id, &now);
    return now.tv_sec + now.tv_nsec / 1e9;
}

static double begun, after, step, lasting, rate;

__attribute__((constructor)) static void begin(void) {
    after = from_environment("CLOCK_AFTER", 1e9);
    step = from_environment("CLOCK_STEP", 0);
    lasting = from_environment("CLOCK_FOR", 1e9);
    rate = from_environment("CLOCK_RATE", 1);
    begun = seconds(CLOCK_MONOTONIC);
}

static double shift(void) {
    double passed = seconds(CLOCK_MONOTONIC) - begun;
    return (passed > after && passed < after + lasting ? step : 0) + passed * (rate - 1);
}

int clock_gettime(clockid_t id, struct timespec *now) {
    int status = syscall(SYS_clock_gettime, id, now);
    if (id == CLOCK_REALTIME && begun > 0) {
        long long nanoseconds = now->tv_sec * 1000000000LL + now->tv_nsec + (long long)(shift() * 1e9);
        now->tv_sec = nanoseconds / 1000000000LL;
        now->tv_nsec = nanoseconds % 1000000000LL;
    }
    return status;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec exact;
    int status = clock_gettime(CLOCK_REALTIME, &exact);
    (void)zone;
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return status;
}
