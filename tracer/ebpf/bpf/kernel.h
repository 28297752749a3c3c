/* SPDX-License-Identifier: Dual MIT/GPL */
/*
 * The fields of kernel structures that calls.bpf.c reads. Each access is
 * relocated when the program is loaded (CO-RE, preserve_access_index), by the
 * running kernel's own description of its types in /sys/kernel/btf/vmlinux: so
 * only names and types count here, neither order nor size.
 */
#ifndef WHOSEFD_KERNEL_H
#define WHOSEFD_KERNEL_H
#define __VMLINUX_H__ /* libbpf's headers take the kernel's names of registers */

#include <stdbool.h>
#include <linux/types.h>
#include <linux/bpf.h>

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

#if defined(__TARGET_ARCH_x86)
struct pt_regs {
	unsigned long di, si, dx, r10, r8, r9, ax, orig_ax, ip, sp, bp, cx;
};
struct thread_info {
	__u32 status; /* arch/x86/include/asm/thread_info.h */
};
#elif defined(__TARGET_ARCH_arm64)
struct user_pt_regs {
	__u64 regs[31];
	__u64 sp, pc, pstate;
};
struct pt_regs {
	__u64 regs[31];
	__u64 sp, pc, pstate;
	__u64 orig_x0;
	__s32 syscallno;
};
struct thread_info {
	unsigned long flags; /* arch/arm64/include/asm/thread_info.h */
};
#endif

struct upid {
	int nr;
};
struct pid {
	struct upid numbers[1]; /* of the first namespace and below */
};
struct qstr {
	const unsigned char *name;
};
struct hlist_bl_node {
	struct hlist_bl_node **pprev;
};
struct super_block {
	__u32 s_dev; /* major << 20 | minor, linux/kdev_t.h */
	unsigned long s_magic;
	struct dentry *s_root;
};
struct proc_ns_operations {
	const char *name;
};
struct ns_common {
	const struct proc_ns_operations *ops;
};
struct inode {
	__u16 i_mode;
	unsigned long i_ino;
	__u32 i_rdev;
	void *i_private;
	struct super_block *i_sb;
};
struct proc_inode { /* of /proc/PID/… */
	struct pid *pid;
	struct inode vfs_inode;
};
struct dentry {
	struct hlist_bl_node d_hash;
	struct dentry *d_parent;
	struct qstr d_name;
	struct inode *d_inode;
};
struct vfsmount {
	struct dentry *mnt_root;
	struct super_block *mnt_sb;
};
struct mount {
	struct mount *mnt_parent;
	struct dentry *mnt_mountpoint;
	struct vfsmount mnt;
};
struct path {
	struct vfsmount *mnt;
	struct dentry *dentry;
};
struct file {
	struct path f_path;
	struct inode *f_inode;
};
struct fdtable {
	unsigned int max_fds;
	struct file **fd;
};
struct files_struct {
	struct fdtable *fdt;
};
struct fs_struct {
	struct path root;
};
typedef struct {
	unsigned long sig[1];
} sigset_t;
typedef struct {
	int counter;
} atomic_t;
struct signal_struct {
	atomic_t live; /* threads that have not ended */
	int group_exit_code;
};
struct sigaction {
	void *sa_handler;
};
struct k_sigaction {
	struct sigaction sa;
};
struct sighand_struct {
	struct k_sigaction action[64];
};
struct list_head {
	struct list_head *next;
};
struct task_struct {
	struct thread_info thread_info;
	int pid, tgid;
	struct files_struct *files;
	struct fs_struct *fs;
	struct signal_struct *signal;
	struct sighand_struct *sighand;
	sigset_t blocked;
	int exit_code;
	struct task_struct *group_leader;
	struct list_head ptraced, ptrace_entry; /* those that it traces, and its place in such a list */
};
#pragma clang attribute pop
#endif
