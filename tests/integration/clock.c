/* Preloaded into a test's process: the realtime clock, which the test can then set. */
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long long offset;

static long long now(clockid_t id)
{
    struct timespec t;
    syscall(SYS_clock_gettime, id, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static long long realtime(void)
{
    return now(CLOCK_REALTIME) + offset;
}

void clock_step(double seconds)
{
    offset += (long long)(seconds * 1e9);
}

int clock_gettime(clockid_t id, struct timespec *t)
{
    long long value = id == CLOCK_REALTIME ? realtime() : now(id);
    t->tv_sec = value / 1000000000LL;
    t->tv_nsec = value % 1000000000LL;
    return 0;
}

int gettimeofday(struct timeval *t, void *zone)
{
    t->tv_sec = realtime() / 1000000000LL;
    t->tv_usec = realtime() / 1000 % 1000000;
    return 0;
}
