// A library for LD_PRELOAD that lets the n-th write, rename or sync of a process fail, or kills the process there, and
// records what was never synced. README.md lists the variables that it reads.
//
// Not every program calls libc for these (Rust's rustix does not), so that system calls are caught, not functions: a
// seccomp filter sends them to a handler of SIGSYS, which makes the call itself with a mark in the sixth argument that
// the filter lets pass. Writes to mapped memory are not seen.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define MARK 0x6661756c74736869ULL
#define EXCHANGE 2 // RENAME_EXCHANGE of linux/fs.h

enum op { WRITE, RENAME, SYNC, OPS, REMOVE, REFUSED };
static const char *const NAMES[OPS] = {"write", "rename", "sync"};
enum action { FAIL, KILL, SKIP };

// What is caught. Copies inside the kernel are refused, so that programs fall back to writes.
static const struct { long number; enum op op; int refused; } CALLS[] = {
    {SYS_write, WRITE, 0}, {SYS_pwrite64, WRITE, 0}, {SYS_writev, WRITE, 0}, {SYS_pwritev, WRITE, 0},
    {SYS_pwritev2, REFUSED, ENOSYS}, {SYS_copy_file_range, REFUSED, EXDEV}, {SYS_sendfile, REFUSED, EINVAL},
    {SYS_renameat2, RENAME, 0}, {SYS_fsync, SYNC, 0}, {SYS_fdatasync, SYNC, 0}, {SYS_unlinkat, REMOVE, 0},
#ifdef SYS_renameat
    {SYS_renameat, RENAME, 0},
#endif
#ifdef SYS_rename
    {SYS_rename, RENAME, 0}, {SYS_unlink, REMOVE, 0}, {SYS_rmdir, REMOVE, 0},
#endif
};
#define COUNT (sizeof CALLS / sizeof *CALLS)

// A file with writes, or a folder with the new name of a folder, that no sync came after.
struct unsynced {
    struct unsynced *next;
    dev_t device;
    ino_t inode;
    int is_folder;
    char path[PATH_MAX];
};

static struct {
    enum op op; // OPS: none
    enum action action;
    long at;
    int from_then_on, no_exchange, error, record;
    char below[PATH_MAX];
} setup = {.op = OPS, .record = -1};

static long done[OPS];
static struct unsynced *unsynced;
static atomic_flag busy = ATOMIC_FLAG_INIT;

static long call(long number, const long *a) {
    long result = syscall(number, a[0], a[1], a[2], a[3], a[4], MARK);
    return result < 0 ? -errno : result;
}

static void record(const char *format, ...) {
    char line[3 * PATH_MAX];
    va_list parts;
    if (setup.record < 0) return;
    va_start(parts, format);
    int length = vsnprintf(line, sizeof line, format, parts);
    va_end(parts);
    if (length > (int)sizeof line) length = sizeof line;
    call(SYS_write, (long[5]){setup.record, (long)line, length});
}

static int is_below(const char *path, const char *folder) {
    size_t length = strlen(folder);
    return strncmp(path, folder, length) == 0 && (path[length] == '/' || path[length] == 0);
}

static int of_descriptor(int descriptor, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    path[length < 0 ? 0 : length] = 0;
    return length > 0 && path[0] == '/';
}

// The path without links in its folders.
static int absolute(int folder, const char *name, char *path) {
    char full[2 * PATH_MAX], real[PATH_MAX], start[PATH_MAX] = "";
    if (name[0] != '/' && folder == AT_FDCWD && !getcwd(start, sizeof start)) return 0;
    if (name[0] != '/' && folder != AT_FDCWD && !of_descriptor(folder, start)) return 0;
    snprintf(full, sizeof full, "%s/%s", start, name);
    for (size_t end = strlen(full); end > 1 && full[end - 1] == '/'; end--) full[end - 1] = 0;
    char *last = strrchr(full, '/');
    *last = 0;
    if (!realpath(last == full ? "/" : full, real)) return 0;
    return snprintf(path, PATH_MAX, "%s/%s", real, last + 1) < PATH_MAX;
}

static void mark(const struct stat *of, const char *path) {
    for (struct unsynced *one = unsynced; one; one = one->next)
        if (one->device == of->st_dev && one->inode == of->st_ino) return;
    struct unsynced *one = calloc(1, sizeof *one);
    if (!one) return;
    *one = (struct unsynced){unsynced, of->st_dev, of->st_ino, S_ISDIR(of->st_mode), ""};
    snprintf(one->path, sizeof one->path, "%s", path);
    unsynced = one;
}

static void forget(dev_t device, ino_t inode) {
    for (struct unsynced **at = &unsynced; *at; at = &(*at)->next)
        if ((*at)->device == device && (*at)->inode == inode) {
            struct unsynced *gone = *at;
            *at = gone->next;
            free(gone);
            return;
        }
}

static void moved(struct unsynced *one, const char *from, const char *to) {
    char rest[PATH_MAX];
    snprintf(rest, sizeof rest, "%s", one->path + strlen(from));
    if (strlen(to) + strlen(rest) < sizeof one->path) {
        strcpy(one->path, to);
        strcat(one->path, rest);
    }
}

// Counts the call; whether it is to go on, else `result` is what it comes to.
static int goes_on(enum op op, long *result) {
    long number = ++done[op];
    if (op != setup.op || (number != setup.at && !(setup.from_then_on && number > setup.at))) return 1;
    record("fault\t%s\t%ld\n", NAMES[op], number);
    if (setup.action == KILL) kill(getpid(), SIGKILL);
    *result = setup.action == SKIP ? 0 : -setup.error;
    return 0;
}

static long on_write(long number, const long *a) {
    struct stat of;
    char path[PATH_MAX];
    long result;
    if (!of_descriptor(a[0], path) || !is_below(path, setup.below)) return call(number, a);
    if (fstat(a[0], &of) || !S_ISREG(of.st_mode)) return call(number, a);
    record("write\t%ld\t%s\n", done[WRITE] + 1, path);
    if (!goes_on(WRITE, &result)) return result;
    result = call(number, a);
    if (result > 0) mark(&of, path);
    return result;
}

static long on_sync(long number, const long *a) {
    struct stat of;
    char path[PATH_MAX];
    long result;
    if (!of_descriptor(a[0], path) || !is_below(path, setup.below)) return call(number, a);
    record("sync\t%ld\t%s\n", done[SYNC] + 1, path);
    if (!goes_on(SYNC, &result)) return result;
    result = call(number, a);
    if (result == 0 && fstat(a[0], &of) == 0) forget(of.st_dev, of.st_ino);
    return result;
}

// Whether a file or folder goes with this name; its number may be that of another one then.
static int is_last_name(const char *path, struct stat *of) {
    return lstat(path, of) == 0 && (S_ISDIR(of->st_mode) || of->st_nlink <= 1);
}

static void mark_parent(const char *path) {
    struct stat of;
    char folder[PATH_MAX];
    snprintf(folder, sizeof folder, "%s", path);
    *strrchr(folder, '/') = 0;
    if (stat(folder, &of) == 0) mark(&of, folder);
}

static long renamed(long number, const long *a, int is_exchange, const char *from, const char *to) {
    struct stat of, gone = {0};
    long result;
    record("rename\t%ld\t%s\t%s\n", done[RENAME] + 1, from, to);
    if (!goes_on(RENAME, &result)) return result;
    int is_folder = lstat(from, &of) == 0 && S_ISDIR(of.st_mode);
    int is_replaced = !is_exchange && is_last_name(to, &gone);
    for (struct unsynced *one = unsynced; one; one = one->next)
        if (!one->is_folder && is_below(one->path, from))
            record("unsynced\t%s\tbefore it was renamed to %s\n", one->path, to);
    if ((result = call(number, a)) != 0) return result;
    if (is_replaced) forget(gone.st_dev, gone.st_ino);
    for (struct unsynced *one = unsynced; one; one = one->next) {
        if (is_below(one->path, from)) moved(one, from, to);
        else if (is_exchange && is_below(one->path, to)) moved(one, to, from);
    }
    if (is_folder) {
        mark_parent(from);
        mark_parent(to);
    }
    return 0;
}

static long on_rename(long number, const long *a) {
    char from[PATH_MAX], to[PATH_MAX];
    int is_exchange = number == SYS_renameat2 && (a[4] & EXCHANGE), known;
#ifdef SYS_rename
    if (number == SYS_rename)
        known = absolute(AT_FDCWD, (char *)a[0], from) && absolute(AT_FDCWD, (char *)a[1], to);
    else
#endif
        known = absolute(a[0], (char *)a[1], from) && absolute(a[2], (char *)a[3], to);
    if (!known || !is_below(to, setup.below)) return call(number, a);
    if (is_exchange && setup.no_exchange) return -EINVAL;
    return renamed(number, a, is_exchange, from, to);
}

static long on_remove(long number, const long *a) {
    struct stat of = {0};
    char path[PATH_MAX];
    int known = number == SYS_unlinkat ? absolute(a[0], (char *)a[1], path)
                                       : absolute(AT_FDCWD, (char *)a[0], path);
    for (struct unsynced *one = unsynced; known && one; one = one->next)
        if (one->is_folder && is_below(path, one->path))
            record("unsynced\t%s\tbefore %s was removed\n", one->path, path);
    int is_gone = known && is_last_name(path, &of);
    long result = call(number, a);
    if (result == 0 && is_gone) forget(of.st_dev, of.st_ino);
    return result;
}

static long handled(long number, const long *a) {
    for (size_t i = 0; i < COUNT; i++) {
        if (CALLS[i].number != number) continue;
        if (CALLS[i].op == REFUSED) return -CALLS[i].refused;
        struct stat of;
        // Pipes and sockets may have to wait for another thread.
        if (CALLS[i].op == WRITE && (fstat(a[0], &of) || !S_ISREG(of.st_mode))) return call(number, a);
        while (atomic_flag_test_and_set(&busy)) sched_yield();
        long result = CALLS[i].op == WRITE    ? on_write(number, a)
                      : CALLS[i].op == RENAME ? on_rename(number, a)
                      : CALLS[i].op == SYNC   ? on_sync(number, a)
                                              : on_remove(number, a);
        atomic_flag_clear(&busy);
        return result;
    }
    return -ENOSYS;
}

static void on_signal(int signal, siginfo_t *info, void *context) {
    (void)signal;
    int before = errno;
    mcontext_t *m = &((ucontext_t *)context)->uc_mcontext;
#if defined(__x86_64__)
    greg_t *r = m->gregs;
    long a[5] = {r[REG_RDI], r[REG_RSI], r[REG_RDX], r[REG_R10], r[REG_R8]};
    r[REG_RAX] = handled(info->si_syscall, a);
#elif defined(__aarch64__)
    long a[5] = {m->regs[0], m->regs[1], m->regs[2], m->regs[3], m->regs[4]};
    m->regs[0] = handled(info->si_syscall, a);
#else
#error "the registers of this processor are not known"
#endif
    errno = before;
}

static int filtered(void) {
    struct sock_filter code[COUNT + 16];
    unsigned short n = 0;
    unsigned mark_at = offsetof(struct seccomp_data, args[5]);
    code[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    for (size_t i = 0; i < COUNT; i++)
        code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, CALLS[i].number, COUNT - i, 0);
    code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    code[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, mark_at);
    code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)MARK, 0, 2);
    code[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, mark_at + 4);
    code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)(MARK >> 32), 1, 0);
    code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP);
    code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    struct sock_fprog program = {n, code};
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

static void refuse(const char *why) {
    dprintf(2, "fault shim: %s\n", why);
    _exit(97);
}

static void read_fault(void) {
    const char *op = getenv("FAULT_OP"), *at = getenv("FAULT_AT"), *action = getenv("FAULT_ACTION");
    if (!op) return;
    for (setup.op = WRITE; setup.op < OPS && strcmp(op, NAMES[setup.op]); setup.op++) {}
    char *end = "?";
    setup.at = at ? strtol(at, &end, 10) : 0;
    setup.from_then_on = strcmp(end, "+") == 0;
    if (setup.op == OPS || setup.at < 1 || (*end && !setup.from_then_on) || !action)
        refuse("expected FAULT_OP=write|rename|sync, FAULT_AT=N or N+, and FAULT_ACTION");
    if (strcmp(action, "KILL") == 0) setup.action = KILL;
    else if (strcmp(action, "SKIP") == 0 && setup.op == SYNC) setup.action = SKIP;
    else if (strcmp(action, "ENOSPC") == 0) setup.error = ENOSPC;
    else if (strcmp(action, "EIO") == 0) setup.error = EIO;
    else refuse("expected FAULT_ACTION=ENOSPC|EIO|KILL, or SKIP of a sync");
}

__attribute__((constructor)) static void start(void) {
    const char *below = getenv("FAULT_BELOW"), *to = getenv("FAULT_RECORD");
    if (!below) return;
    if (!realpath(below, setup.below)) refuse("FAULT_BELOW is no folder");
    setup.no_exchange = getenv("FAULT_NO_EXCHANGE") != NULL;
    read_fault();
    if (to && (setup.record = open(to, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666)) < 0)
        refuse("FAULT_RECORD cannot be written");
    struct sigaction catch = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_RESTART};
    sigfillset(&catch.sa_mask);
    if (sigaction(SIGSYS, &catch, NULL) || !filtered()) refuse("this system has no seccomp filters");
}
