/* Counts the file operations that change something below a folder, in every process that loads it, and at the n-th of
 * them refuses with an error of the system, or kills the process. Loaded by LD_PRELOAD, so it sees what Python, Rust
 * (safetensors) and C write alike; programs that are linked statically (ffmpeg) it does not see.
 *
 * STILLSIGHT_REFUSE names a file of one `struct plan`, which the harness writes and all processes share.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#define FOLDERS 4
#define FDS 4096
#define LONGEST (2 * PATH_MAX + 2)
#define KILL 1000 /* `how`: no errno, but the end of the process */

struct plan {
    _Atomic uint64_t count;  /* operations so far, of all processes */
    uint64_t at;             /* the one to refuse, from 1; 0 refuses none */
    int32_t how;             /* an errno, or KILL */
    int32_t lasting;         /* refuse all that follow, too */
    char under[FOLDERS][512];
    char log[512];           /* where each operation is noted, or empty */
};

static struct plan *plan;
static char *names[FDS]; /* of the files that are open to be written, below a folder */

#define REAL(name, type, ...)                                     \
    static type (*real_##name)(__VA_ARGS__);                      \
    if (!real_##name) real_##name = dlsym(RTLD_NEXT, #name)

static struct plan *get_plan(void) {
    static int tried;
    if (plan || tried) return plan;
    tried = 1;
    const char *place = getenv("STILLSIGHT_REFUSE");
    if (!place) return NULL;
    REAL(open, int, const char *, int, ...);
    int fd = real_open(place, O_RDWR | O_CLOEXEC);
    if (fd < 0) return NULL;
    void *mapped = mmap(NULL, sizeof(struct plan), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    REAL(close, int, int);
    real_close(fd);
    if (mapped != MAP_FAILED) plan = mapped;
    return plan;
}

static int counts(const char *path) {
    struct plan *p = get_plan();
    if (!p) return 0;
    for (int i = 0; i < FOLDERS; i++) {
        size_t length = strlen(p->under[i]);
        if (length && !strncmp(path, p->under[i], length) && (path[length] == '/' || !path[length])) return 1;
    }
    return 0;
}

/* `path`, relative to the open folder `at`, as an absolute one. */
static const char *absolute(int at, const char *path, char *place) {
    if (!path) return "";
    if (path[0] == '/') return path;
    char folder[PATH_MAX];
    if (at == AT_FDCWD) {
        if (!getcwd(folder, sizeof folder)) return path;
    } else {
        char link[64];
        snprintf(link, sizeof link, "/proc/self/fd/%d", at);
        ssize_t length = readlink(link, folder, sizeof folder - 1);
        if (length < 0) return path;
        folder[length] = 0;
    }
    snprintf(place, LONGEST, "%s/%s", folder, path);
    return place;
}

/* Count an operation; -1, with errno set, where it is to be refused. */
static int refused(const char *what, const char *path) {
    struct plan *p = get_plan();
    uint64_t number = atomic_fetch_add(&p->count, 1) + 1;
    if (p->log[0]) {
        char line[LONGEST + 64];
        int length = snprintf(line, sizeof line, "%llu %s %s\n", (unsigned long long)number, what, path);
        REAL(open, int, const char *, int, ...);
        REAL(write, ssize_t, int, const void *, size_t);
        REAL(close, int, int);
        int fd = real_open(p->log, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
        if (fd >= 0) {
            if (real_write(fd, line, (size_t)length) < 0) { /* a note that is lost spoils nothing */ }
            real_close(fd);
        }
    }
    if (!p->at || number < p->at || (number > p->at && !p->lasting)) return 0;
    if (number > p->at && (!strcmp(what, "remove") || !strcmp(what, "close"))) return 0; /* which need no room */
    if (p->how == KILL) {
        kill(getpid(), SIGKILL);
        pause();
    }
    errno = p->how;
    return -1;
}

static void remember(int fd, const char *path) {
    if (fd < 0 || fd >= FDS) return;
    free(names[fd]);
    names[fd] = path ? strdup(path) : NULL;
}

static const char *written(int fd) { return fd >= 0 && fd < FDS ? names[fd] : NULL; }

#define CHANGES(flags) (((flags) & O_ACCMODE) != O_RDONLY || ((flags) & (O_CREAT | O_TRUNC)))

static int opened(int fd, int flags, const char *path) {
    if (fd >= 0) remember(fd, ((flags) & O_ACCMODE) != O_RDONLY && counts(path) ? path : NULL);
    return fd;
}

#define OPEN(name)                                                            \
    int name(const char *path, int flags, ...) {                              \
        REAL(name, int, const char *, int, ...);                              \
        va_list rest;                                                         \
        va_start(rest, flags);                                                \
        mode_t mode = (flags & (O_CREAT | O_TMPFILE)) ? va_arg(rest, mode_t) : 0; \
        va_end(rest);                                                         \
        char place[LONGEST];                                                 \
        const char *whole = absolute(AT_FDCWD, path, place);                  \
        if (CHANGES(flags) && counts(whole) && refused("open", whole)) return -1; \
        return opened(real_##name(path, flags, mode), flags, whole);          \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                          \
    int name(int at, const char *path, int flags, ...) {                      \
        REAL(name, int, int, const char *, int, ...);                         \
        va_list rest;                                                         \
        va_start(rest, flags);                                                \
        mode_t mode = (flags & (O_CREAT | O_TMPFILE)) ? va_arg(rest, mode_t) : 0; \
        va_end(rest);                                                         \
        char place[LONGEST];                                                 \
        const char *whole = absolute(at, path, place);                        \
        if (CHANGES(flags) && counts(whole) && refused("open", whole)) return -1; \
        return opened(real_##name(at, path, flags, mode), flags, whole);      \
    }
OPENAT(openat)
OPENAT(openat64)

int close(int fd) {
    REAL(close, int, int);
    const char *path = written(fd);
    int failed = path ? refused("close", path) : 0, number = errno;
    remember(fd, NULL);
    int closed = real_close(fd); /* which it is, whatever it says */
    if (failed) errno = number;
    return failed ? failed : closed;
}

#define WRITE(name, type, what, parameters, arguments)                        \
    type name parameters {                                                    \
        REAL(name, type, PARENTHESES parameters);                             \
        const char *path = written(fd);                                       \
        if (path && refused(what, path)) return -1;                           \
        return real_##name arguments;                                         \
    }
#define PARENTHESES(...) __VA_ARGS__

WRITE(write, ssize_t, "write", (int fd, const void *data, size_t size), (fd, data, size))
WRITE(pwrite, ssize_t, "write", (int fd, const void *data, size_t size, off_t at), (fd, data, size, at))
WRITE(pwrite64, ssize_t, "write", (int fd, const void *data, size_t size, off64_t at), (fd, data, size, at))
WRITE(writev, ssize_t, "write", (int fd, const struct iovec *data, int size), (fd, data, size))
WRITE(fsync, int, "fsync", (int fd), (fd))
WRITE(fdatasync, int, "fsync", (int fd), (fd))
WRITE(ftruncate, int, "truncate", (int fd, off_t size), (fd, size))
WRITE(ftruncate64, int, "truncate", (int fd, off64_t size), (fd, size))
WRITE(fallocate, int, "allocate", (int fd, int mode, off_t at, off_t size), (fd, mode, at, size))
WRITE(fallocate64, int, "allocate", (int fd, int mode, off64_t at, off64_t size), (fd, mode, at, size))

#define PATH(name, what, at, parameters, arguments)                           \
    int name parameters {                                                     \
        REAL(name, int, PARENTHESES parameters);                              \
        char place[LONGEST];                                                 \
        const char *whole = absolute(at, path, place);                        \
        if (counts(whole) && refused(what, whole)) return -1;                 \
        return real_##name arguments;                                         \
    }

PATH(unlink, "remove", AT_FDCWD, (const char *path), (path))
PATH(unlinkat, "remove", at, (int at, const char *path, int flags), (at, path, flags))
PATH(rmdir, "remove", AT_FDCWD, (const char *path), (path))
PATH(mkdir, "mkdir", AT_FDCWD, (const char *path, mode_t mode), (path, mode))
PATH(mkdirat, "mkdir", at, (int at, const char *path, mode_t mode), (at, path, mode))

int rename(const char *from, const char *to) {
    REAL(rename, int, const char *, const char *);
    char place[LONGEST];
    const char *whole = absolute(AT_FDCWD, to, place);
    if (counts(whole) && refused("rename", whole)) return -1;
    return real_rename(from, to);
}

int renameat(int at, const char *from, int to_at, const char *to) {
    REAL(renameat, int, int, const char *, int, const char *);
    char place[LONGEST];
    const char *whole = absolute(to_at, to, place);
    if (counts(whole) && refused("rename", whole)) return -1;
    return real_renameat(at, from, to_at, to);
}

int renameat2(int at, const char *from, int to_at, const char *to, unsigned int flags) {
    REAL(renameat2, int, int, const char *, int, const char *, unsigned int);
    char place[LONGEST];
    const char *whole = absolute(to_at, to, place);
    if (counts(whole) && refused("rename", whole)) return -1;
    return real_renameat2(at, from, to_at, to, flags);
}
