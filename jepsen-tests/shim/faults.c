/* A disk that fails, for one process: preloaded into a node (LD_PRELOAD), it stands before the calls that
 * write and sync, and makes some of them fail as the harness says.
 *
 * The harness says it through a file of 64-bit words that both have mapped or open (JEPSEN_FAULTS_CONTROL):
 * the first words are orders, later ones count what was done. Only files below JEPSEN_FAULTS_DIR are
 * concerned: never the node's output or its sockets. What a process writes through mmap or io_uring
 * passes unseen; the server uses neither.
 *
 * An order is a countdown: n makes the n-th call from now fail, 0 none. After that it is 0 again, or, where
 * REPEATS says so, stays at 1 until the harness takes it away: a disk that fails once, and one that goes on.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* The same numbers are in cluster/shim.rs. */
enum word {
    SCOPE = 0,          /* 0 all files, 1 the log only, 2 all but the log */
    REPEATS = 1,        /* errors go on until the order is taken away */
    SYNC_DELAY_US = 2,  /* every sync takes so much longer */
    SYNC_ERROR = 3,     /* countdown: EIO */
    WRITE_ERROR = 4,    /* countdown: EIO */
    FULL = 5,           /* countdown: ENOSPC */
    FULL_GROWTH = 6,    /* ENOSPC only where the file would grow */
    SHORT = 7,          /* countdown: only a part is written */
    SHORT_THEN_FULL = 8,/* and the next write finds the disk full */
    TEAR = 9,           /* countdown: some sectors are written, and then nothing ever again */
    SEED = 10,          /* of what is cut, and where */
    WORKS = 16,         /* the shim has been loaded: how often */
    SLOWED = 17,        /* from here on: how often it was done */
    SYNC_ERRORS = 18,
    WRITE_ERRORS = 19,
    FULLS = 20,
    SHORTS = 21,
    TORN = 22,
    HELD = 23,          /* calls that wait for the end of the process after a torn write */
    WORDS = 64,
};

/* What a disk writes whole, or not at all. */
#define SECTOR 512

static _Atomic uint64_t *words;
static char below[4096];
static size_t below_length;
static _Atomic int is_torn;

static void count(enum word counter) { atomic_fetch_add(&words[counter], 1); }

__attribute__((constructor)) static void load(void) {
    const char *control = getenv("JEPSEN_FAULTS_CONTROL"), *dir = getenv("JEPSEN_FAULTS_DIR");
    if (control == NULL || dir == NULL || strlen(dir) + 2 > sizeof below) return;
    int fd = open(control, O_RDWR | O_CLOEXEC);
    if (fd < 0) return;
    void *page = mmap(NULL, WORDS * sizeof *words, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (page == MAP_FAILED) return;
    below_length = (size_t)snprintf(below, sizeof below, "%s/", dir);
    words = page;
    count(WORKS);
}

/* Whether anything is ordered: most calls are none of our business, and end here. */
static int is_armed(void) {
    if (words == NULL) return 0;
    for (int word = SYNC_DELAY_US; word <= TEAR; word++)
        if (atomic_load_explicit(&words[word], memory_order_relaxed) != 0) return 1;
    return atomic_load_explicit(&is_torn, memory_order_relaxed);
}

static int is_ours(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    /* The directory itself is synced too, and has no slash at its end. */
    if (strncmp(path, below, below_length) != 0 &&
        !((size_t)length == below_length - 1 && strncmp(path, below, (size_t)length) == 0))
        return 0;
    uint64_t scope = atomic_load(&words[SCOPE]);
    if (scope == 0) return 1;
    int is_log = length > 4 && strcmp(path + length - 4, ".wal") == 0;
    return scope == 1 ? is_log : !is_log;
}

/* Counts an order down; whether this is the call that it is for. */
static int is_due(enum word order) {
    uint64_t left = atomic_load(&words[order]);
    do {
        if (left == 0) return 0;
    } while (!atomic_compare_exchange_weak(&words[order], &left,
                                           left == 1 ? (atomic_load(&words[REPEATS]) ? 1 : 0) : left - 1));
    return left == 1;
}

/* splitmix64: the harness chooses the seed. */
static uint64_t draw(void) {
    uint64_t x = atomic_fetch_add(&words[SEED], 0x9e3779b97f4a7c15u) + 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static int fail(enum word counter, int error) {
    count(counter);
    errno = error;
    return -1;
}

/* After a torn write the power is gone: no call on the disk comes back. The harness ends the process; where
 * there is no harness any more, nothing may stay behind either. */
static void hold_if_torn(void) {
    if (!atomic_load(&is_torn)) return;
    count(HELD);
    sleep(60);
    _exit(70);
}

/* Writes some of the sectors that a write covers, and never returns. */
static void tear(int fd, const char *bytes, size_t length, off_t offset) {
    size_t at = 0;
    /* From now on other threads wait, so that nothing is synced after it. */
    atomic_store(&is_torn, 1);
    while (at < length) {
        size_t to_boundary = SECTOR - (size_t)((offset + (off_t)at) % SECTOR);
        size_t piece = length - at < to_boundary ? length - at : to_boundary;
        int whole = piece == length;
        /* A single piece is cut: not every medium writes sectors whole. */
        if (whole) piece = (size_t)(draw() % length);
        if ((whole || draw() % 2 == 0) && piece > 0)
            syscall(SYS_pwrite64, fd, bytes + at, piece, offset + (off_t)at);
        at = whole ? length : at + piece;
    }
    count(TORN);
    hold_if_torn();
}

/* Where a write without an offset goes. */
static off_t position(int fd) {
    int flags = fcntl(fd, F_GETFL);
    return lseek(fd, 0, flags >= 0 && (flags & O_APPEND) ? SEEK_END : SEEK_CUR);
}

static int grows(int fd, off_t end) {
    struct stat status;
    return fstat(fd, &status) == 0 && end > status.st_size;
}

static int is_full(int fd, off_t end) {
    if (atomic_load(&words[FULL]) == 0) return 0;
    if (atomic_load(&words[FULL_GROWTH]) && !grows(fd, end)) return 0;
    return is_due(FULL);
}

/* What is to be done to a write of `length` bytes: 0 nothing, -1 it fails, above 0 so many bytes. */
static ssize_t spoil(int fd, const char *bytes, size_t length, off_t offset) {
    if (length == 0 || !is_ours(fd)) return 0;
    hold_if_torn();
    if (is_due(WRITE_ERROR)) return fail(WRITE_ERRORS, EIO);
    if (is_full(fd, offset + (off_t)length)) return fail(FULLS, ENOSPC);
    if (bytes != NULL && is_due(TEAR)) tear(fd, bytes, length, offset);
    if (length > 1 && is_due(SHORT)) {
        count(SHORTS);
        if (atomic_load(&words[SHORT_THEN_FULL])) atomic_store(&words[FULL], 1);
        return (ssize_t)(1 + draw() % (length - 1));
    }
    return 0;
}

ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t offset) {
    if (is_armed()) {
        ssize_t spoilt = spoil(fd, bytes, length, offset);
        if (spoilt < 0) return -1;
        if (spoilt > 0) length = (size_t)spoilt;
    }
    return syscall(SYS_pwrite64, fd, bytes, length, offset);
}

ssize_t pwrite(int fd, const void *bytes, size_t length, off_t offset) {
    return pwrite64(fd, bytes, length, offset);
}

ssize_t write(int fd, const void *bytes, size_t length) {
    if (is_armed()) {
        ssize_t spoilt = spoil(fd, bytes, length, position(fd));
        if (spoilt < 0) return -1;
        if (spoilt > 0) length = (size_t)spoilt;
    }
    return syscall(SYS_write, fd, bytes, length);
}

ssize_t writev(int fd, const struct iovec *pieces, int count) {
    if (is_armed() && count > 0) {
        size_t length = 0;
        for (int i = 0; i < count; i++) length += pieces[i].iov_len;
        ssize_t spoilt = spoil(fd, NULL, length, position(fd));
        if (spoilt < 0) return -1;
        /* A short one: the first piece that has anything, or a part of it. */
        for (int i = 0; spoilt > 0 && i < count; i++)
            if (pieces[i].iov_len > 0) {
                size_t part = (size_t)spoilt < pieces[i].iov_len ? (size_t)spoilt : pieces[i].iov_len;
                return syscall(SYS_write, fd, pieces[i].iov_base, part);
            }
    }
    return syscall(SYS_writev, fd, pieces, count);
}

int ftruncate64(int fd, off64_t length) {
    if (is_armed() && is_ours(fd)) {
        hold_if_torn();
        if (grows(fd, length) && is_full(fd, length)) return fail(FULLS, ENOSPC);
    }
    return (int)syscall(SYS_ftruncate, fd, length);
}

int ftruncate(int fd, off_t length) { return ftruncate64(fd, length); }

/* What is to be done to a sync: 0 nothing, -1 it fails. */
static int spoil_sync(int fd) {
    if (!is_ours(fd)) return 0;
    hold_if_torn();
    uint64_t delay_us = atomic_load(&words[SYNC_DELAY_US]);
    if (delay_us > 0) {
        struct timespec delay = {(time_t)(delay_us / 1000000), (long)(delay_us % 1000000) * 1000};
        nanosleep(&delay, NULL);
        count(SLOWED);
        hold_if_torn();
    }
    return is_due(SYNC_ERROR) ? fail(SYNC_ERRORS, EIO) : 0;
}

int fsync(int fd) {
    if (is_armed() && spoil_sync(fd) < 0) return -1;
    return (int)syscall(SYS_fsync, fd);
}

int fdatasync(int fd) {
    if (is_armed() && spoil_sync(fd) < 0) return -1;
    return (int)syscall(SYS_fdatasync, fd);
}

int sync_file_range(int fd, off64_t offset, off64_t length, unsigned int flags) {
    if (is_armed() && spoil_sync(fd) < 0) return -1;
    return (int)syscall(SYS_sync_file_range, fd, offset, length, flags);
}
