// SPDX-License-Identifier: Dual MIT/GPL
/*
 * Watches the system calls of chosen processes without stopping them.
 *
 * At the entry of a call its arguments and its name are kept with the thread;
 * at the exit, still in that thread, the files behind its descriptors are
 * identified, and one record goes to the ring buffer. Which calls, and what
 * their arguments mean, says the table `calls`, which the loader fills from
 * tracer/decode: no call's number stands here.
 *
 * For a guard, a call whose name may belong to an inferior sends its own thread
 * a signal. The kernel delivers that when the call has returned, before the
 * thread runs on; as the thread is traced (PTRACE_SEIZE), it stops there.
 *
 * Needs Linux 5.17, for bpf_loop: ring buffers are from 5.8, task storage for
 * tracing programs from 5.11, bpf_send_signal_thread from 5.5.
 */
#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include <bpf/bpf_core_read.h>

char LICENSE[] SEC("license") = "Dual MIT/GPL";

#define PATH_MAX 4096 /* linux/limits.h */
#define CLONE_THREAD 0x10000 /* linux/sched.h */
#define DATA_MAX 256
#define PROC_SUPER_MAGIC 0x9fa0 /* linux/magic.h */
#define NSFS_MAGIC 0x6e736673
#define S_IFMT 0170000 /* linux/stat.h */
#define S_IFREG 0100000
#define NAME_ROOM 256   /* NAME_MAX and a NUL, linux/limits.h */
#define DEPTH_MAX 48    /* folders of a path that are followed */
#define TAIL_MAX (4 * PATH_MAX)
#define CALLS_MAX 512
#define TRACEES_MAX 4
#define TRACED_MAX 64 /* threads that are looked at for that */
#define IOVECS_MAX 16 /* spans of a call that are kept */
#define IOVEC_SIZE 16 /* struct iovec, uio.h */

/* What is done with a process: flags of `watched`. */
#define WATCH_RECORD 1u
#define WATCH_GUARD 2u
#define WATCH_NAMES 4u /* record only the calls with such a name, and new inferiors */
#define WATCH_FOREIGN_SAID 0x100u /* set here: that it makes calls of a 32-bit program */

/* What a call's arguments mean: struct call_row. -1: there is none. */
#define OUT_NONE 0
#define OUT_BUF 1    /* the result says how many bytes */
#define OUT_STRUCT 2 /* `size` bytes */
#define OUT_IOVEC 3  /* an array of struct iovec; the argument behind it has its length */
#define OUT_MAPPING 4
#define IN_STRUCT 5 /* `size` bytes, at the entry */

#define IF_ALWAYS 0
#define IF_FD 1     /* the descriptor argument is not negative: mmap(2) */
#define IF_VALUE 2  /* `cond_arg` is one of `cond` */
#define MAKES_FD 1u      /* the result is a descriptor */
#define DROPS_FD 2u      /* the descriptor argument is closed */
#define NAMES_FILE 4u    /* a call that guard may lead to another file */
#define IS_LINK 8u       /* readlink(2): its text is kept */
#define IS_PTRACE 16u    /* ptrace(2): `cond` are the requests that are told, from BRINGS on those that bring inferiors */
#define MAKES_IF_COND 32u /* MAKES_FD only if `cond_arg` is one of `cond` (fcntl) */
#define RELATES 64u      /* after it the process may have a child or a peer that it had not; `cond_arg`: FLAGS_ */
#define SPARED 128u      /* not sent when the buffer is half full: others are of more use */
#define FLAGS_ARG 1        /* the first argument has flags of clone(2) */
#define FLAGS_BEHIND_ARG 2 /* it points to struct clone_args, sched.h, which begins with them */
#define BRINGS 2
#define RECORD_WHOSE 2 /* only whose memory it reads */

struct call_row {
	__s8 path_arg, fd_arg, out_arg, remote_arg;
	__u8 out, condition, cond_arg, flags;
	__u8 record; /* RECORD_ */
	__s8 dirfd_arg; /* the file itself, where the name is empty (AT_EMPTY_PATH) */
	__u16 size;
	__u32 cond[6];
};

struct file_id {
	__u64 file; /* its address: the same as long as it is open */
	__u64 ino;
	__u32 dev, rdev; /* as in the kernel: major << 20 | minor */
	__u32 mode, magic;
};

#define REC_ENTRY_UNSEEN 1u  /* it was going on already when we came */
#define REC_FOREIGN 2u       /* a call of another architecture: 32-bit */
#define REC_PATH_CUT 4u      /* the end of the name could not be read */
#define REC_SIGNALLED 8u     /* the thread was sent the guard's signal */
#define REC_OF_KNOWN 16u     /* where `of` lies was said before */
#define REC_DATA_MISSING 32u /* the memory was not there */
#define REC_UNSTOPPABLE 64u  /* the guard's signals are all blocked */
#define REC_OF_CUT 128u      /* the path of `of` is longer than what follows */
#define REC_MADE_CUT 256u
#define REC_OF_DELETED 512u
#define REC_MADE_DELETED 1024u
#define REC_EXIT 2048u       /* no call: the process has ended; `ret` is its wait status */
#define REC_EXEC 4096u       /* no call: the process runs a program of `programs` now */

struct record {
	__u64 t, dur; /* ns, CLOCK_MONOTONIC */
	__u32 pid, tid;
	__u32 nr, flags;
	__s64 ret;
	__u64 args[6];
	struct file_id of, made;
	__u64 remote_base, remote_len; /* the first span of the other process: process_vm_readv(2) */
	__u16 path_len, vec_len, data_len, of_len, made_len; /* in tail, in this order, bytes */
	__u16 sig; /* that was sent */
	__u32 others; /* calls with names of this thread, but for readlink(2) */
	__u32 tracees[TRACEES_MAX]; /* processes that the thread traces, of a call with a name; then 0 */
	__u8 tail[TAIL_MAX];
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 16 << 20);
} records SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct record);
} pending SEC(".maps");

struct watch {
	__u32 how; /* WATCH_ */
	__u32 recent; /* whose memory it has read last, or whom it has called ptrace(2) about; of a guard */
	/* How often the process did what may change whom it debugs (from bit 32 on), or lets a process
	 * run that it debugs. */
	__u64 changes;
};
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u32); /* tgid */
	__type(value, struct watch);
} watched SEC(".maps");

/* The changes of which the guard knows the outcome: the names of all libraries are in `names`. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u32); /* tgid */
	__type(value, __u64);
} looked SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, CALLS_MAX);
	__type(key, __u32);
	__type(value, struct call_row);
} calls SEC(".maps");

/* Files whose path was sent: what is at that address may be another one by now. */
struct known_file {
	__u64 ino, inode, dentry; /* its number, and addresses */
	__u32 dev, rdev, magic, pad;
};
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, struct known_file);
} known SEC(".maps");

/* Calls whose threads were sent the guard's signal, by thread id: why it stops. */
struct summons {
	__u32 nr, sig;
	__s64 ret;
	__u64 t, dur; /* as in struct record */
	__u64 args[6];
	__u64 changes; /* as in struct watch */
	__u32 others, recent;
};
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, struct summons);
} summoned SEC(".maps");

/* Threads in which the guard makes a call, or has one made again. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, __u8);
} led SEC(".maps");

/* Programs of this machine that are watched from their start on, by the name of
 * their first thread (comm, proc_pid_comm(5)): WATCH_ */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, char[16]);
	__type(value, __u32);
} programs SEC(".maps");

#define COUNT_LOST 0
#define COUNT_NO_STORAGE 1
#define COUNT_UNSTOPPABLE 2
#define COUNT_SPARED 3
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u64);
} counts SEC(".maps");

/* Signals that the guard may send, the best first; 0: none. */
#define SIGNALS 4
volatile const __u32 signals[SIGNALS] = {};
volatile const __u32 room = 16 << 20; /* in the buffer for records, bytes */
/* Requests of ptrace(2) that let nobody run, as sets of bits: those from 0 on, and those from PTRACE_SETOPTIONS on. */
volatile const __u64 quiet[2] = {};
#define FIRST_OPTION 0x4200 /* PTRACE_SETOPTIONS, linux/ptrace.h */

/* Keeps a number below a power of two, less one. The compiler checks one register and uses a copy of
 * it, or leaves out a mask that it finds needless: verifiers up to that of Linux 6.12 do not follow that. */
#define BOUNDED(v, max) asm volatile("%0 &= %1" : "+r"(v) : "i"(max))

static __always_inline void add(__u32 which)
{
	__u64 *n = bpf_map_lookup_elem(&counts, &which);
	if (n)
		*n += 1;
}

/* What the verifier knows to be a kernel structure is read as such (the current task, a tracepoint's
 * registers): that is a load, where BPF_CORE_READ is a call. */

/* A call of a 32-bit program. */
static __always_inline bool foreign(struct task_struct *t)
{
#if defined(__TARGET_ARCH_x86)
	return t->thread_info.status & 0x2; /* TS_COMPAT */
#else
	return t->thread_info.flags & (1ul << 22); /* TIF_32BIT */
#endif
}

/* The number of the call that a thread is in. */
static __always_inline __u32 number_of(struct pt_regs *regs)
{
#if defined(__TARGET_ARCH_x86)
	return regs->orig_ax;
#else
	return regs->syscallno;
#endif
}

/* The address of the file behind a descriptor of the current thread; 0: there is none. (What is not
 * inline is verified once: its ways through do not multiply with those of its callers.) */
__noinline __u64 file_of(__s32 fd)
{
	struct task_struct *t = bpf_get_current_task_btf();
	struct fdtable *table = t->files->fdt;
	__u64 f = 0;
	if (fd >= 0 && (__u32)fd < table->max_fds)
		bpf_probe_read_kernel(&f, sizeof f, table->fd + fd);
	return f;
}

/* Says which file it is, and whether its path was sent already. */
__noinline int identify(struct file_id *id, __u64 file)
{
	struct file *f = (struct file *)file;
	if (!id)
		return 0;
	struct inode *i = BPF_CORE_READ(f, f_inode);
	struct known_file *old = bpf_map_lookup_elem(&known, &file);

	id->file = file;
	id->ino = BPF_CORE_READ(i, i_ino);
	id->mode = BPF_CORE_READ(i, i_mode);
	if (old && old->ino == id->ino && old->inode == (__u64)i && old->dentry == (__u64)BPF_CORE_READ(f, f_path.dentry)) {
		id->rdev = old->rdev;
		id->dev = old->dev;
		id->magic = old->magic;
		return 1;
	}
	struct super_block *sb = BPF_CORE_READ(i, i_sb);
	id->rdev = BPF_CORE_READ(i, i_rdev);
	id->dev = BPF_CORE_READ(sb, s_dev);
	id->magic = BPF_CORE_READ(sb, s_magic);
	return 0;
}

/* Notes that the path of a file is sent. */
static __always_inline void now_known(__u64 file, struct file_id *id)
{
	struct file *f = (struct file *)file;
	struct known_file now = {.ino = id->ino, .inode = (__u64)BPF_CORE_READ(f, f_inode), .dentry = (__u64)BPF_CORE_READ(f, f_path.dentry),
		.dev = id->dev, .rdev = id->rdev, .magic = id->magic};
	bpf_map_update_elem(&known, &file, &now, BPF_ANY);
}

/* Where append_path has got to. */
struct walk {
	struct record *r;
	struct dentry *d, *root;
	struct vfsmount *mnt, *root_mnt;
	struct mount *m;
	__u32 at, done;
};

static long step_up(__u64 i, struct walk *w)
{
	struct dentry *d = w->d, *parent = BPF_CORE_READ(d, d_parent);
	struct vfsmount *mnt = w->mnt;
	struct mount *m = w->m, *above;
	__u32 at = w->at;
	long n;

	if (d == w->root && mnt == w->root_mnt)
		goto top;
	if (d == BPF_CORE_READ(mnt, mnt_root) || d == parent) {
		above = BPF_CORE_READ(m, mnt_parent);
		if (above && above != m) {
			w->d = BPF_CORE_READ(m, mnt_mountpoint);
			w->m = above;
			w->mnt = (void *)above + bpf_core_field_offset(struct mount, mnt);
			return 0;
		}
		/* "/", or a file of a file system of the kernel's own (pipes, …), which has a name but no folder. */
		if (d != parent || i != 0)
			goto top;
		w->done = 1;
	}
	if (at >= TAIL_MAX - NAME_ROOM)
		return 1;
	n = bpf_probe_read_kernel_str(w->r->tail + at, NAME_ROOM, BPF_CORE_READ(d, d_name.name));
	if (n > 0)
		w->at = at + n;
	w->d = parent;
	return w->done ? 1 : 0;
top:
	w->done = 1;
	return 1;
}

/* Appends the names from a file up to the root, each ended by NUL: what
 * /proc/PID/fd shows, backwards. Gives the new length of the tail. `shift` is 0
 * for the flags of `of`, 1 for those of `made`. (A function that is not static is
 * verified once, and not with each call of it.) */
__noinline int append_path(struct record *r, __u32 at, __u64 file, __u32 shift)
{
	if (!r || at > TAIL_MAX)
		return TAIL_MAX;
	struct walk w = {.r = r, .at = at};
	struct task_struct *t = bpf_get_current_task_btf();
	struct file *f = (struct file *)file;
	struct dentry *d = BPF_CORE_READ(f, f_path.dentry);
	struct inode *i = BPF_CORE_READ(f, f_inode);

	if (BPF_CORE_READ(i, i_sb, s_magic) == NSFS_MAGIC && at < TAIL_MAX - NAME_ROOM) {
		/* A namespace: the kind of it is its name. */
		struct ns_common *ns = BPF_CORE_READ(i, i_private);
		long n = bpf_probe_read_kernel_str(r->tail + at, NAME_ROOM, BPF_CORE_READ(ns, ops, name));
		return n > 0 ? at + n : at;
	}
	w.d = d;
	w.mnt = BPF_CORE_READ(f, f_path.mnt);
	w.m = (void *)w.mnt - bpf_core_field_offset(struct mount, mnt);
	w.root = BPF_CORE_READ(t, fs, root.dentry);
	w.root_mnt = BPF_CORE_READ(t, fs, root.mnt);
	if (!BPF_CORE_READ(d, d_hash.pprev) && BPF_CORE_READ(d, d_parent) != d)
		r->flags |= REC_OF_DELETED << (shift & 1);
	bpf_loop(DEPTH_MAX, step_up, &w, 0);
	if (!w.done)
		r->flags |= REC_OF_CUT << (shift & 1);
	return w.at <= TAIL_MAX ? w.at : TAIL_MAX;
}

/*
 * Beginnings of names at which a process is made to stop: those that depend on who
 * resolves them, and those that its inferiors are known to use. With its NUL a
 * name is meant as a whole.
 */
#define TEXT_MAX 248
struct name_key {
	__u32 bits; /* of what follows, LPM_TRIE in linux/bpf.h */
	__u32 pid;
	char text[TEXT_MAX];
};
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct name_key);
	__type(value, __u8);
} names SEC(".maps");
#define NAME_COUNTS 1
#define NAME_IS_FREE 2 /* whatever a shorter beginning says */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct name_key);
} scratch SEC(".maps");

/* What `names` says of the name of a call: 0 where it says nothing. */
__noinline int named(struct record *r, __u32 pid)
{
	__u32 zero = 0;
	struct name_key *k = bpf_map_lookup_elem(&scratch, &zero);
	if (!k || !r)
		return 0;
	k->bits = sizeof(*k) * 8 - 32;
	k->pid = pid;
	__builtin_memcpy(k->text, r->tail, TEXT_MAX); /* behind the NUL lies what was there before: no key goes beyond it */
	__u8 *how = bpf_map_lookup_elem(&names, k);
	return how ? *how : 0;
}

/* Whether a call has a name that depends on who resolves it, whoever else there is. */
static __always_inline bool dependent(struct record *r)
{
	return r->path_len > 1 && (r->tail[0] != '/' || named(r, 0) == NAME_COUNTS);
}

#define BEGINS(p, text) begins(p, text, sizeof(text) - 1)
#define AT(i) (n <= i || p[i] == text[i])
static __always_inline bool begins(const __u8 *p, const char *text, int n) /* of at most 6 */
{
	return AT(0) && AT(1) && AT(2) && AT(3) && AT(4) && AT(5);
}

/* /proc/PID/…: what is said to be a process's descriptor, and what debuggers look at again and again. */
#define OF_NONE 0
#define OF_FD 1
#define OF_STATE 2
__noinline int of_process(struct record *r)
{
	int i = 6;

	if (!r || !BEGINS(r->tail, "/proc/"))
		return OF_NONE;
	for (; i < 6 + 10; i++)
		if (r->tail[i] < '0' || r->tail[i] > '9')
			break;
	if (i == 6 || i == 6 + 10)
		return OF_NONE;
	__u8 *rest = r->tail + i;
	if (BEGINS(rest, "/fd/"))
		return OF_FD;
	if (BEGINS(rest, "/task/") || BEGINS(rest, "/stat") || BEGINS(rest, "/ns/"))
		return OF_STATE;
	return OF_NONE;
}

/* Whether a guard must look at the name of a call. */
static __always_inline bool concerns(struct record *r, struct watch *w)
{
	if (r->path_len < 2)
		return false;
	int how = named(r, r->pid);
	if (how)
		return how == NAME_COUNTS;
	/* What the kernel shows of a mapping whose file was deleted, or has no name: " (deleted)". */
	__u64 at = r->path_len - 11;
	BOUNDED(at, 2 * PATH_MAX - 1);
	if (r->path_len > 11 && r->tail[at] == ' ' && r->tail[at + 1] == '(' && r->tail[at + 8] == 'd' && r->tail[at + 9] == ')')
		return true;
	how = of_process(r);
	if (how != OF_NONE)
		return how == OF_FD;
	__u64 *known = bpf_map_lookup_elem(&looked, &r->pid);
	return !known || *known != w->changes;
}

/* Whether a process lets a signal have its default effect. */
static __always_inline bool by_default(struct task_struct *t, __u32 sig)
{
	struct sighand_struct *hand = BPF_CORE_READ(t, sighand);
	void *handler = 0;

	bpf_probe_read_kernel(&handler, sizeof handler, (void *)hand + bpf_core_field_offset(struct sighand_struct, action) +
		(sig - 1) * bpf_core_type_size(struct k_sigaction) + bpf_core_field_offset(struct k_sigaction, sa.sa_handler));
	return !handler; /* SIG_DFL */
}

/* Sends a signal that makes the thread stop behind its call; 0: it cannot be. Best by one that means
 * nothing to the process, else by one that it handles: the guard drops it, and should that have been
 * killed, one too many does no harm. */
__noinline int send_signal(void)
{
	struct task_struct *t = bpf_get_current_task_btf();
	unsigned long blocked = BPF_CORE_READ(t, blocked.sig[0]);

	for (int i = 0; i < 2 * SIGNALS; i++) {
		__u32 sig = signals[i % SIGNALS];
		if (!sig || (blocked & (1ul << (sig - 1))) || (i < SIGNALS && !by_default(t, sig)) || bpf_send_signal_thread(sig))
			continue;
		return sig;
	}
	add(COUNT_UNSTOPPABLE);
	return 0;
}

__u64 sent; /* signals, counted before they are */

static __always_inline void send(struct record *r)
{
	__sync_fetch_and_add(&sent, 1);
	r->sig = send_signal();
	if (!r->sig)
		__sync_fetch_and_add(&sent, -1);
	r->flags |= r->sig ? REC_SIGNALLED : REC_UNSTOPPABLE;
}

static __always_inline bool wanted(struct call_row *row, __u64 *args)
{
	__u32 v;
	switch (row->condition) {
	case IF_FD:
		return (__s32)args[row->fd_arg & 7] >= 0;
	case IF_VALUE:
		v = args[row->cond_arg & 7];
		for (int i = 0; i < 6; i++)
			if (v == row->cond[i])
				return true;
		return false;
	}
	return true;
}

static __always_inline void read_args(struct pt_regs *regs, __u64 *args)
{
#if defined(__TARGET_ARCH_x86)
	args[0] = regs->di;
	args[1] = regs->si;
	args[2] = regs->dx;
	args[3] = regs->r10;
	args[4] = regs->r8;
	args[5] = regs->r9;
#else
	args[0] = regs->orig_x0;
	args[1] = regs->regs[1];
	args[2] = regs->regs[2];
	args[3] = regs->regs[3];
	args[4] = regs->regs[4];
	args[5] = regs->regs[5];
#endif
}

/* A request of ptrace(2) behind the first two, which only read. */
static __always_inline bool brings_inferior(struct call_row *row, __u64 *args)
{
	__u32 v = args[row->cond_arg & 7];
	for (int i = BRINGS; i < 6; i++)
		if (v == row->cond[i])
			return true;
	return false;
}

/* Counts what may change whom a process debugs, or what those have loaded. */
static __always_inline void note_change(struct record *r, struct call_row *row, struct watch *w)
{
	__u32 request = r->args[0];
	__u64 change = 1ull << 32;

	if (row->flags & IS_PTRACE)
		w->recent = r->args[1];
	if (row->flags & IS_PTRACE && !brings_inferior(row, r->args)) {
		__u32 set = request >= FIRST_OPTION;
		__u32 bit = set ? request - FIRST_OPTION : request;
		if (bit < 64 && (quiet[set] >> bit & 1))
			return;
		change = 1;
	}
	__sync_fetch_and_add(&w->changes, change);
}

static __always_inline bool is_led(struct record *r)
{
	return bpf_map_lookup_elem(&led, &r->tid) != 0;
}

/* Reads the name of a call; its length is with the NUL. */
static __always_inline void read_name(struct record *r, struct call_row *row)
{
	if (row->path_arg < 0)
		return;
	/* One byte more than the longest has: of one that is too long, the NUL is there. */
	long n = bpf_probe_read_user_str(r->tail, PATH_MAX + 1, (void *)r->args[row->path_arg & 7]);
	if (n > 0)
		r->path_len = n;
}

/* The thread's record, for something new. */
static __always_inline struct record *fresh(struct task_struct *t, __u64 id, __u32 nr, __u32 flags)
{
	struct record *r = bpf_task_storage_get(&pending, t, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!r) {
		add(COUNT_NO_STORAGE);
		return 0;
	}
	r->t = bpf_ktime_get_ns();
	r->pid = id >> 32;
	r->tid = id;
	r->nr = nr;
	r->flags = flags;
	r->path_len = r->vec_len = r->data_len = r->of_len = r->made_len = 0;
	r->remote_base = r->remote_len = 0;
	r->of.file = r->made.file = 0;
	r->tracees[0] = 0;
	return r;
}

/* Whether a call has anything to tell. */
static __always_inline bool told(struct call_row *row, struct watch *w)
{
	return row->record || ((row->flags & RELATES) && (w->how & WATCH_GUARD));
}

SEC("tp_btf/sys_enter")
int BPF_PROG(enter, struct pt_regs *regs, long nr)
{
	__u64 id = bpf_get_current_pid_tgid();
	__u32 pid = id >> 32, key = nr;
	struct watch *w = bpf_map_lookup_elem(&watched, &pid);
	if (!w)
		return 0;
	struct task_struct *t = bpf_get_current_task_btf();
	bool is_foreign = foreign(t);
	struct call_row *row = bpf_map_lookup_elem(&calls, &key);
	if (is_foreign) {
		fresh(t, id, nr, REC_FOREIGN);
		return 0;
	}
	if (!row || !told(row, w))
		return 0;
	struct record *r = fresh(t, id, nr, 0);
	if (!r)
		return 0;
	read_args(regs, r->args);
	if (row->flags & RELATES) {
		__u64 flags = row->cond_arg == FLAGS_ARG ? r->args[0] : 0;
		if (row->cond_arg == FLAGS_BEHIND_ARG)
			bpf_probe_read_user(&flags, sizeof flags, (void *)r->args[0]);
		if (flags & CLONE_THREAD)
			r->t = 0;
		return 0;
	}
	if ((row->flags & IS_PTRACE) && (w->how & WATCH_GUARD))
		note_change(r, row, w); /* from its beginning on: the other one may run before it has ended */
	if (!wanted(row, r->args)) {
		if (!(row->flags & MAKES_IF_COND)) {
			r->t = 0; /* not this one */
			return 0;
		}
	}
	read_name(r, row);
	if (row->flags & DROPS_FD) {
		/* Behind it lies nothing any more when the call returns. */
		__u64 f = file_of(r->args[row->fd_arg & 7]);
		if (f) {
			if (identify(&r->of, f)) {
				r->flags |= REC_OF_KNOWN;
			} else {
				__u32 at = r->path_len & (2 * PATH_MAX - 1);
				r->of_len = append_path(r, at, f, 0) - at;
			}
			bpf_map_delete_elem(&known, &f); /* perhaps its last descriptor; if not, it is said once more */
		}
	}
	if (!(w->how & (WATCH_GUARD | WATCH_NAMES)) || !r->path_len || !(row->flags & NAMES_FILE) || is_led(r))
		return 0;
	if (!(row->flags & IS_LINK))
		r->others++;
	if (w->how & WATCH_GUARD) {
		if (concerns(r, w))
			send(r);
	} else if (!dependent(r)) {
		r->t = 0;
	}
	return 0;
}

/* Where append_spans_data has got to. */
struct gather {
	struct record *r;
	__u32 base, at, got, n;
};

static long gather_span(__u64 i, struct gather *g)
{
	struct record *r = g->r;
	__u32 from = g->base + i * IOVEC_SIZE, to = g->at + g->got, len = g->n - g->got;

	if ((i + 1) * IOVEC_SIZE > r->vec_len || g->got >= g->n || from > TAIL_MAX - IOVEC_SIZE || to > TAIL_MAX - DATA_MAX)
		return 1;
	__u64 *span = (__u64 *)(r->tail + from);
	if (len > span[1])
		len = span[1];
	if (len > DATA_MAX)
		len = DATA_MAX;
	if (bpf_probe_read_user(r->tail + to, len, (void *)span[0])) {
		r->flags |= REC_DATA_MISSING;
		return 1;
	}
	g->got += len;
	return 0;
}

/* The first n bytes, at most DATA_MAX, that a call has brought to its spans. */
static __always_inline __u32 append_spans_data(struct record *r, __u32 at, __u32 n)
{
	struct gather g = {.r = r, .base = r->path_len & (2 * PATH_MAX - 1), .at = at, .n = n < DATA_MAX ? n : DATA_MAX};

	bpf_loop(IOVECS_MAX, gather_span, &g, 0);
	if (g.got > DATA_MAX)
		g.got = DATA_MAX;
	r->data_len = g.got;
	return at + g.got;
}

/* What the call has brought to memory, from `at` on in the tail. */
static __always_inline __u32 append_data(struct record *r, struct call_row *row, __u32 at)
{
	__u64 from = r->args[row->out_arg & 7];
	__u32 n = 0;
	if (at > TAIL_MAX - DATA_MAX)
		return at;
	switch (row->out) {
	case OUT_STRUCT:
	case IN_STRUCT:
		n = row->size;
		break;
	case OUT_BUF:
	case OUT_MAPPING:
	case OUT_IOVEC:
		if (row->flags & IS_LINK)
			n = DATA_MAX;
		else if (r->of.magic == PROC_SUPER_MAGIC) /* perhaps memory of a process */
			n = DATA_MAX;
		else if ((r->of.mode & S_IFMT) == S_IFREG) /* the beginning of a regular file */
			n = 16;
		if (row->out == OUT_MAPPING) {
			from = r->ret;
		} else if (row->out == OUT_IOVEC) {
			if (row->remote_arg >= 0)
				n = r->remote_len < DATA_MAX ? r->remote_len : DATA_MAX;
			return append_spans_data(r, at, n < r->ret ? n : r->ret);
		} else if (n > r->ret) {
			n = r->ret;
		}
		break;
	default:
		return at;
	}
	if (n == 0)
		return at;
	if (n > DATA_MAX)
		n = DATA_MAX;
	if (bpf_probe_read_user(r->tail + at, n, (void *)from)) {
		r->flags |= REC_DATA_MISSING;
		return at;
	}
	r->data_len = n;
	return at + n;
}

/* The spans of a call, and the first of those in another process. */
static __always_inline __u32 append_spans(struct record *r, struct call_row *row, __u32 at)
{
	__u64 n = r->args[(row->out_arg + 1) & 7];
	if (row->out != OUT_IOVEC || at > TAIL_MAX - IOVECS_MAX * IOVEC_SIZE)
		return at;
	if (n > IOVECS_MAX)
		n = IOVECS_MAX;
	n *= IOVEC_SIZE;
	if (n && !bpf_probe_read_user(r->tail + at, n, (void *)r->args[row->out_arg & 7])) {
		r->vec_len = n;
		at += n;
	}
	if (row->remote_arg >= 0)
		bpf_probe_read_user(&r->remote_base, IOVEC_SIZE, (void *)r->args[row->remote_arg & 7]);
	return at;
}

/* Where find_tracees has got to. */
struct search {
	struct record *r;
	struct list_head *at, *end;
	__u32 n, last;
};

static long next_tracee(__u64 i, struct search *s)
{
	struct list_head *at = s->at;
	struct task_struct *t = (void *)at - bpf_core_field_offset(struct task_struct, ptrace_entry);
	__u32 pid;

	if (!at || at == s->end || s->n >= TRACEES_MAX)
		return 1;
	pid = BPF_CORE_READ(t, tgid);
	if (pid != s->last) { /* threads of a process mostly stand side by side */
		s->r->tracees[s->n & (TRACEES_MAX - 1)] = s->last = pid;
		s->n++;
	}
	s->at = BPF_CORE_READ(at, next);
	return 0;
}

/* Finds out whom a thread traces, or else the first thread of its process. */
__noinline int find_tracees(struct record *r)
{
	struct task_struct *t = bpf_get_current_task_btf(), *leader = BPF_CORE_READ(t, group_leader);
	struct list_head *end = (void *)t + bpf_core_field_offset(struct task_struct, ptraced), *at = BPF_CORE_READ(end, next);

	if (!r)
		return 0;
	if (at == end) {
		end = (void *)leader + bpf_core_field_offset(struct task_struct, ptraced);
		at = BPF_CORE_READ(end, next);
	}
	struct search s = {.r = r, .at = at, .end = end};
	bpf_loop(TRACED_MAX, next_tracee, &s, 0);
	return s.n;
}

/* What a call's arguments point to, behind its name. Gives the length of the tail. */
__noinline int append_memory(struct record *r, struct call_row *row)
{
	if (!r || !row)
		return 0;
	__u32 at = append_spans(r, row, r->path_len & (2 * PATH_MAX - 1));
	return r->ret >= 0 ? append_data(r, row, at) : at;
}

/* Notes whose memory a call has read. */
static __always_inline void note_whose(struct record *r, struct call_row *row, struct watch *w)
{
	if (row->fd_arg < 0) { /* process_vm_readv(2) */
		w->recent = r->args[0];
		return;
	}
	__u64 f = file_of(r->args[row->fd_arg & 7]);
	if (!f)
		return;
	struct inode *i = BPF_CORE_READ((struct file *)f, f_inode);
	if (BPF_CORE_READ(i, i_sb, s_magic) != PROC_SUPER_MAGIC)
		return;
	struct proc_inode *of = (void *)i - bpf_core_field_offset(struct proc_inode, vfs_inode);
	struct pid *pid = BPF_CORE_READ(of, pid);
	__u32 nr = 0;
	if (pid && !bpf_probe_read_kernel(&nr, sizeof nr, (void *)pid + bpf_core_field_offset(struct pid, numbers)) && nr)
		w->recent = nr;
}

static long until(__u64 i, __u64 *end)
{
	return bpf_ktime_get_ns() >= *end;
}

/* Makes a thread wait behind its call, the longer the fuller the buffer is: 33 us when it is half full,
 * at most 100. Else a thread that does nothing but calls is faster than who reads of them, and
 * records are lost. */
static __always_inline void slow_down(__u64 used)
{
	__u64 end;

	if (used <= room / 4)
		return;
	end = bpf_ktime_get_ns() + (used - room / 4) * 131072 / room;
	bpf_loop(4096, until, &end, 0);
}

static __always_inline void finish(struct record *r, struct call_row *row, struct watch *w)
{
	__u32 at, how = w->how;
	if (row->record == RECORD_WHOSE) {
		note_whose(r, row, w);
		return;
	}
	if (row->path_arg >= 0 && !r->path_len) {
		/* Its page was not there at the entry; the kernel has read it since. */
		read_name(r, row);
		if (!r->path_len)
			r->flags |= REC_PATH_CUT;
		else if ((how & WATCH_GUARD) && (row->flags & NAMES_FILE) && !is_led(r) && concerns(r, w))
			send(r);
	}
	bool depends = (row->flags & NAMES_FILE) && dependent(r);
	if ((how & WATCH_NAMES) && !(row->flags & IS_PTRACE ? brings_inferior(row, r->args) : depends))
		return;
	if (how & WATCH_GUARD) {
		if (row->flags & RELATES) {
			note_change(r, row, w); /* whatever it returns: a connection may come later */
			return;
		}
		if (r->flags & REC_SIGNALLED) {
			struct summons s = {.nr = r->nr, .sig = r->sig, .ret = r->ret, .t = r->t, .dur = r->dur,
				.changes = w->changes, .others = r->others, .recent = w->recent};
			__builtin_memcpy(s.args, r->args, sizeof s.args);
			bpf_map_update_elem(&summoned, &r->tid, &s, BPF_ANY);
			return; /* told by who handles the stop */
		}
		if (!(how & WATCH_RECORD) || is_led(r))
			return;
	}
	if ((row->flags & SPARED) && bpf_ringbuf_query(&records, BPF_RB_AVAIL_DATA) > room / 2) {
		add(COUNT_SPARED);
		return;
	}
	__u64 of = 0, made = 0;
	int said = 0;
	__s8 fd_arg = row->fd_arg;
	if (fd_arg < 0 && r->path_len <= 1)
		fd_arg = row->dirfd_arg;
	if (fd_arg >= 0 && !(row->flags & DROPS_FD)) {
		of = file_of(r->args[fd_arg & 7]);
		if (of)
			said = identify(&r->of, of);
	}
	if ((row->flags & MAKES_FD) && r->ret >= 0 && (!(row->flags & MAKES_IF_COND) || wanted(row, r->args))) {
		made = file_of(r->ret);
		if (made)
			identify(&r->made, made);
	}
	at = append_memory(r, row);
	if (row->flags & DROPS_FD)
		at += r->of_len & (TAIL_MAX - 1);
	if (of) {
		if (said) {
			r->flags |= REC_OF_KNOWN;
		} else {
			now_known(of, &r->of);
			__u32 end = append_path(r, at, of, 0);
			r->of_len = end - at;
			at = end;
		}
	}
	if (made) {
		__u32 end = append_path(r, at, made, 1);
		now_known(made, &r->made);
		r->made_len = end - at;
		at = end;
	}
	__u64 wake = BPF_RB_NO_WAKEUP;
	r->tracees[0] = r->tracees[1] = r->tracees[2] = r->tracees[3] = 0;
	if (row->flags & NAMES_FILE) {
		int traces = find_tracees(r);
		/* What the name of an open means to others, and what those have loaded, is looked up while they are there. */
		if ((row->flags & MAKES_FD) && (depends || (traces && of_process(r) != OF_STATE)))
			wake = BPF_RB_FORCE_WAKEUP;
	}
	BOUNDED(at, TAIL_MAX - 1);
	/* Each wake-up costs an interrupt: one as the buffer begins to fill, the next when it has been read. */
	__u64 before = bpf_ringbuf_query(&records, BPF_RB_AVAIL_DATA);
	if ((how & WATCH_NAMES) || (before < room / 16 && before + at + sizeof(struct record) - TAIL_MAX >= room / 16))
		wake = BPF_RB_FORCE_WAKEUP;
	if (bpf_ringbuf_output(&records, r, __builtin_offsetof(struct record, tail) + at, wake)) {
		add(COUNT_LOST);
		if (of)
			bpf_map_delete_elem(&known, &of);
		if (made)
			bpf_map_delete_elem(&known, &made);
	}
	slow_down(before);
}

static __always_inline struct record *entry_unseen(struct task_struct *t, struct pt_regs *regs, __u64 id)
{
	__u32 nr = number_of(regs);
	struct call_row *row = bpf_map_lookup_elem(&calls, &nr);
	struct record *r = bpf_task_storage_get(&pending, t, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!r || !row || !row->record || foreign(t))
		return 0;
	r->t = bpf_ktime_get_ns();
	r->tid = id;
	r->nr = nr;
	r->flags = REC_ENTRY_UNSEEN;
	read_args(regs, r->args);
	if (!wanted(row, r->args))
		r->t = 0;
	return r;
}

SEC("tp_btf/sys_exit")
int BPF_PROG(leave, struct pt_regs *regs, long ret)
{
	__u64 id = bpf_get_current_pid_tgid();
	__u32 pid = id >> 32;
	struct watch *w = bpf_map_lookup_elem(&watched, &pid);
	if (!w)
		return 0;
	struct task_struct *t = bpf_get_current_task_btf();
	__u32 nr = number_of(regs);
	struct call_row *unseen = bpf_map_lookup_elem(&calls, &nr);
	if (unseen && !told(unseen, w) && !foreign(t))
		return 0; /* as at its entry */
	struct record *r = bpf_task_storage_get(&pending, t, 0, 0);
	if (!r) {
		/* The first end of a call that we see of this thread: did it begin before we came? */
		r = entry_unseen(t, regs, id);
		if (!r)
			return 0;
	}
	if (!r->t)
		return 0;
	r->ret = ret;
	r->dur = bpf_ktime_get_ns() - r->t;
	r->pid = pid;
	__u32 key = r->nr;
	struct call_row *row = bpf_map_lookup_elem(&calls, &key);
	if (r->flags & REC_FOREIGN) {
		if (!(w->how & WATCH_FOREIGN_SAID)) {
			w->how |= WATCH_FOREIGN_SAID;
			bpf_ringbuf_output(&records, r, __builtin_offsetof(struct record, tail), 0);
		}
	} else if (row) {
		finish(r, row, w);
	}
	r->t = 0;
	return 0;
}

/* A record that is about no call. */
static __always_inline void tell(struct task_struct *t, __u64 id, __u32 flags, __s64 ret)
{
	struct record *r = fresh(t, id, 0, flags);
	if (!r)
		return;
	r->ret = ret;
	r->dur = 0;
	if (bpf_ringbuf_output(&records, r, __builtin_offsetof(struct record, tail), BPF_RB_FORCE_WAKEUP))
		add(COUNT_LOST);
	r->t = 0;
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(started, struct task_struct *t)
{
	char comm[16] = {};
	__u64 id = bpf_get_current_pid_tgid();
	__u32 pid = id >> 32;

	bpf_get_current_comm(comm, sizeof comm);
	__u32 *how = bpf_map_lookup_elem(&programs, comm);
	if (!how || bpf_map_lookup_elem(&watched, &pid))
		return 0;
	struct watch w = {.how = *how};
	bpf_map_update_elem(&watched, &pid, &w, BPF_ANY);
	tell(bpf_get_current_task_btf(), id, REC_EXEC, 0);
	return 0;
}

/* The last thread of a process has ended. */
SEC("tp_btf/sched_process_exit")
int BPF_PROG(ended, struct task_struct *t)
{
	__u64 id = bpf_get_current_pid_tgid();
	__u32 pid = id >> 32;
	struct watch *w = bpf_map_lookup_elem(&watched, &pid);
	if (!w || BPF_CORE_READ(t, signal, live.counter) != 0)
		return 0;
	__s64 status = BPF_CORE_READ(t, signal, group_exit_code);
	if (!status)
		status = BPF_CORE_READ(t, exit_code);
	tell(bpf_get_current_task_btf(), id, REC_EXIT, status);
	if (!(w->how & WATCH_GUARD)) /* a guard asks what it has done */
		bpf_map_delete_elem(&watched, &pid);
	return 0;
}
