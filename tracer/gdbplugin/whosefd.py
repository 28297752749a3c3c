# What the plug-in does, once there is a process, a core or a server. gdb runs it out of the string in start.py.
#
# Before gdb opens a name that depends on who asks, a folder of links is made in which the name leads to the
# right file, and becomes gdb's sysroot. A process to which gdb attaches, a core file and a server are looked at
# before gdb reads any of their libraries. In a program that runs, breakpoints of ours stand on dlopen(3) and
# on the function by which the dynamic loader tells debuggers of a change of its list (link.h).

import atexit
import fcntl
import itertools
import os
import re
import stat
import struct
import sys

import gdb

NEUTRAL = ('target:', '', '/')  # sysroots that mean this machine; any other is the user's, and stays
MAX_LIBRARIES = 65536
MAX_NAME = 4096  # PATH_MAX of limits.h

AT_PHDR, AT_PHENT, AT_PHNUM, AT_RANDOM = 3, 4, 5, 25  # getauxval(3)
PT_DYNAMIC, PT_NOTE, PT_PHDR = 2, 4, 6  # elf(5), as the next three lines
DT_NEEDED, DT_STRTAB, DT_DEBUG = 1, 5, 21
NT_GNU_BUILD_ID = 3
RT_CONSISTENT = 0  # link.h

# Where a function finds its first two arguments, by gdb's name of the architecture: in registers, or (i386)
# above the stack pointer.
ARGUMENTS = (('i386:x86-64', 'rdi', 'rsi'), ('i386:x64-32', 'rdi', 'rsi'), ('i386', None, None), ('aarch64', 'x0', 'x1'),
             ('arm', 'r0', 'r1'), ('riscv', 'a0', 'a1'), ('powerpc', 'r3', 'r4'), ('s390', 'r2', 'r3'))

# Links of /proc/PID whose text is not where they lead: proc_pid_fd(5), proc_pid_cwd(5) and others.
MAGIC = re.compile(r'(/proc/\d+/root)?/proc/\d+(/task/\d+)?/(fd/\d+|cwd|exe|root|map_files/[^/]+)$')

# What only a process can say of itself: names that mean another file to every process, by their text.
OF_ITSELF = re.compile(r'/proc/(self|thread-self|\d+)/|/dev/(fd/|std(in|out|err)$)')

on = True
users_sysroot = 'target:'  # what was set before ours
reading = False  # gdb reads libraries again for us
own_directory = None  # a descriptor of gdb's working directory, while gdb is in another one
last_error = ''
place = None  # the folder of this gdb's folders
place_lock = None  # a descriptor that tells other gdbs that we live
folders = {}  # by the inferior's number
looked_at = {}  # the pid that was looked at, by the inferior's number
hooks = []  # breakpoints of ours
returns = {}  # others, where the loader's function returns to, by the inferior's number
debugs = {}  # where r_debug is, by pid and address of the program's headers
checked = {}  # the libraries that were looked at, by pid
waiting = None  # what is set when the program has stopped


def tell(text):
    """Tells the user what he must know, in one line."""
    gdb.write('whosefd: %s\n' % clean(text), gdb.STDERR)


def clean(text):
    """A text of somebody else's, as it may go to a terminal."""
    return ''.join(c if c.isprintable() else '?' for c in text)


def harmless(function):
    """Whatever goes wrong, gdb goes on as without us."""
    def guarded(*arguments):
        global last_error
        try:
            function(*arguments)
        except Exception as error:
            last_error = '%s: %s: %s' % (function.__name__, type(error).__name__, error)
    return guarded


# ---- A process's memory

class Memory:
    """The memory of a process or a core: read from the kernel where that can be, else through gdb."""

    def __init__(self, inferior, here):
        """here: it is a process of this machine."""
        self.inferior, self.pid, self.here, self.file, self.wide = inferior, inferior.pid, here, None, None
        if here:
            try:
                self.file = os.open('/proc/%d/mem' % self.pid, os.O_RDONLY)
            except OSError:
                pass
            with open('/proc/%d/exe' % self.pid, 'rb') as f:
                self.wide = f.read(5)[4:] == b'\2'  # ELFCLASS64
        else:
            self.wide = gdb.lookup_type('void').pointer().sizeof == 8
        self.word = 8 if self.wide else 4

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.file is not None:
            os.close(self.file)

    def read(self, address, size):
        """Up to size bytes; fewer where there is no more."""
        try:
            if self.file is not None:
                return os.pread(self.file, size, address)
            return bytes(self.inferior.read_memory(address, size))
        except (OSError, OverflowError, gdb.error):  # gdb.MemoryError is a gdb.error
            return b''

    def numbers(self, form, address):
        """What struct.unpack gives of the memory at an address; an exception where there is none."""
        return struct.unpack('=' + form, self.read(address, struct.calcsize('=' + form)))

    def words(self, address, count):
        return self.numbers('%d%s' % (count, 'Q' if self.wide else 'I'), address)

    def text(self, address):
        """A string of C's, which may end just before memory that is not there."""
        found = b''
        while b'\0' not in found and len(found) < MAX_NAME:
            at = address + len(found)
            part = self.read(at, 256 - at % 256)
            if not part:
                break
            found += part
        return os.fsdecode(found.split(b'\0')[0])

    def auxv(self):
        """The auxiliary vector. gdb has it of a core; of a process here the kernel has it at any time."""
        if self.here:
            with open('/proc/%d/auxv' % self.pid, 'rb') as f:
                raw = f.read()
            return dict(struct.iter_unpack('=QQ' if self.wide else '=II', raw))
        found = {}
        for line in gdb.execute('info auxv', to_string=True).splitlines():
            kind, value = re.match(r'(\d+) .*?(0x[0-9a-f]+|\d+)( ".*)?$', line).group(1, 2)
            found[int(kind)] = int(value, 0)
        return found

    def segments(self, headers, size, count):
        """The program headers: type, offset in the file, address, size in the file."""
        for at in range(headers, headers + size * min(count, 4096), max(size, 1)):
            if self.wide:
                kind, _, offset, address, _, length = self.numbers('IIQQQQ', at)
            else:
                kind, offset, address, _, length = self.numbers('IIIII', at)
            yield kind, offset, address, length

    def object(self, base):
        """The program headers of the object that is mapped at base."""
        if self.read(base, 4) != b'\x7fELF':
            return []
        offset, = self.numbers('Q', base + 32) if self.wide else self.numbers('I', base + 28)
        size, count = self.numbers('HH', base + (54 if self.wide else 42))
        return list(self.segments(base + offset, size, count))

    def build_id(self, base):
        """The build id of the object that is mapped at base, as far as its first pages are there."""
        for kind, offset, _, length in self.object(base):
            found = kind == PT_NOTE and build_id(self.read(base + offset, min(length, 4096)))
            if found:
                return found
        return None

    def dynamic(self, address):
        """The entries of a dynamic section."""
        for i in range(1024):
            tag, value = self.words(address + 2 * i * self.word, 2)
            if tag == 0:
                return
            yield tag, value

    def program(self):
        """Where the program's dynamic section is, and how far the program was moved; 0 where it has none."""
        aux = self.auxv()
        moved = dynamic = 0
        for kind, _, address, _ in self.segments(aux.get(AT_PHDR, 0), aux.get(AT_PHENT, 0), aux.get(AT_PHNUM, 0)):
            if kind == PT_PHDR:
                moved = aux[AT_PHDR] - address
            elif kind == PT_DYNAMIC:
                dynamic = address
        return dynamic and dynamic + moved, moved

    def debug(self):
        """The address of the loader's r_debug (link.h); 0 before the loader has begun, and where there is none."""
        key = self.pid, self.auxv().get(AT_PHDR)
        if not debugs.get(key):
            dynamic, _ = self.program()
            debugs[key] = dynamic and dict(self.dynamic(dynamic)).get(DT_DEBUG, 0)
        return debugs[key]

    def libraries(self):
        """What the loader has loaded: how far it was moved, the address of its name, that of its dynamic section."""
        seen, debug = set(), self.debug()
        while debug and debug not in seen:
            seen.add(debug)
            version, link = self.words(debug, 2)
            while link and link not in seen and len(seen) < MAX_LIBRARIES:
                seen.add(link)
                moved, name, dynamic, link = self.words(link, 4)
                yield moved, name, dynamic
            # The lists of dlmopen(3), from glibc 2.35 on (r_debug_extended).
            debug = self.words(debug + 5 * self.word, 1)[0] if version & 0xffffffff >= 2 else 0

    def mappings(self):
        """The mappings of files: start, end, device, inode, path."""
        found = []
        with open('/proc/%d/maps' % self.pid, 'rb') as f:
            for line in f:
                part = line.rstrip(b'\n').split(None, 5)
                if part[4] != b'0':
                    start, end = (int(x, 16) for x in part[0].split(b'-'))
                    major, minor = (int(x, 16) for x in part[3].split(b':'))
                    found.append((start, end, os.makedev(major, minor), int(part[4]), os.fsdecode(part[5])))
        return found

class File(Memory):
    """A file as if it were mapped at 0, to read the build id from."""

    def __init__(self, path):
        self.file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        self.wide = self.read(4, 1) == b'\2'
        self.word = 8 if self.wide else 4


def build_id(notes):
    """The build id among notes (elf(5))."""
    at = 0
    while at + 12 <= len(notes):
        name, size, kind = struct.unpack_from('=III', notes, at)
        begin = at + 12 + (name + 3 & ~3)
        if kind == NT_GNU_BUILD_ID and notes[at + 12:at + 15] == b'GNU':
            return notes[begin:begin + size].hex()
        at = begin + (size + 3 & ~3)
    return None


def status(pid, key):
    """A number from /proc/PID/status; 0 if it is not there."""
    try:
        with open('/proc/%d/status' % pid) as f:
            return next(int(line.split()[1]) for line in f if line.startswith(key + ':'))
    except (OSError, StopIteration):
        return 0


# ---- Names and files

def stat_of(path):
    """What a path leads to, or None. Nothing is opened: to open may block, or take somebody's input."""
    try:
        return os.stat(path)
    except (OSError, ValueError):
        return None


def same(a, b):
    return a is not None and b is not None and (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino)


def is_mapped(file, mapping):
    """Whether a file is that of a mapping. On btrfs and overlayfs stat(2) has another device than
    /proc/PID/maps; both have the major number 0."""
    _, _, device, inode, path = mapping
    return file is not None and stat.S_ISREG(file.st_mode) and file.st_ino == inode and (
        file.st_dev == device or os.major(device) == os.major(file.st_dev) == 0 and not path.startswith('/memfd:'))


def root_of(pid):
    """What we must put before an absolute name of a process: /proc/PID/root, or nothing if its files are ours."""
    root = '/proc/%d/root' % pid
    try:
        if os.readlink('/proc/%d/ns/mnt' % pid) == os.readlink('/proc/self/ns/mnt') and same(os.stat('/'), os.stat(root)):
            return ''
    except OSError:
        return ''
    return root


def is_magic(link):
    """Whether a link leads elsewhere than its text says. Of the process's /proc it is told by its name; a working
    directory may be in /proc too."""
    return MAGIC.match(link) is not None or '/cwd/' in link and os.lstat(link).st_dev == os.stat('/proc').st_dev


def resolve(name, pid, tid):
    """A path on which we reach what a name leads a process to, and whether the name means something else to
    another process. path_resolution(7) is done here as far as it depends on the process."""
    root = root_of(pid)
    depends = not name.startswith('/')
    at = '/proc/%d/task/%d/cwd' % (pid, tid) if depends else root
    todo, links = name.split('/'), 0
    while todo:
        part = todo.pop(0)
        path = at + '/' + part
        if part in ('', '.'):
            continue
        if part == '..':
            at = path if MAGIC.match(at) else max(root, os.path.dirname(at), key=len)
        elif at == root + '/proc' and part in ('self', 'thread-self'):
            at, depends = '/proc/%d' % pid + ('' if part == 'self' else '/task/%d' % tid), True
        else:
            try:
                text = os.readlink(path)
            except (OSError, ValueError):
                text = None
            links += 1
            if text is None or is_magic(path) or links > 1000:
                at = path
            else:
                at = root if text.startswith('/') else at
                todo = text.split('/') + todo
    return at, depends


def reach(memory, name, path, mapping):
    """A path to the very file of a mapping, and why that; None if there is none."""
    pid, start, end = memory.pid, mapping[0], mapping[1]
    if is_mapped(stat_of(path), mapping):
        return path, 'as the process reaches it'
    try:
        numbers = os.listdir('/proc/%d/fd' % pid)
    except OSError:
        numbers = []
    for number in numbers:
        path = '/proc/%d/fd/%s' % (pid, number)
        if is_mapped(stat_of(path), mapping):
            return path, 'the name leads the process elsewhere now, its descriptor %s to the library' % number
    path = '/proc/%d/map_files/%x-%x' % (pid, start, end)  # as proc_pid_map_files(5) says, not for everybody
    if stat_of(path) is not None:
        return path, 'the name leads the process elsewhere now; from its mapping'
    return copy(pid, name), 'the name leads the process elsewhere now; copied by whosefd'


def copy(pid, name):
    """A copy that whosefd makes, if it is there, and may do what we may not."""
    import shutil  # not at gdb's start, as it takes milliseconds
    import subprocess
    tool, into = shutil.which('whosefd'), os.path.join(make_place(), 'copies-%d' % pid)
    if tool and not os.path.isdir(into):
        subprocess.call([tool, 'preflight', '--sysroot', into, str(pid)], stdin=subprocess.DEVNULL,
                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=20)
    path = into + os.path.normpath(name)
    return path if os.path.isfile(path) and not os.path.islink(path) else None


# ---- The folder of links

def home():
    """The folder for our folders: in the user's runtime directory, else in that for temporary files."""
    me = os.getuid()
    for parent in (os.environ.get('XDG_RUNTIME_DIR', ''), '/run/user/%d' % me, '/run' if me == 0 else ''):
        file = stat_of(parent)
        if file and stat.S_ISDIR(file.st_mode) and file.st_uid == me and not file.st_mode & 0o022 and os.access(parent, os.W_OK):
            return os.path.join(parent, 'whosefd')
    return os.path.join(os.environ.get('TMPDIR') or '/tmp', 'whosefd-%d' % me)


def make_private(path):
    """Makes a folder for this user alone, or takes one that is there and is just that."""
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        file = os.lstat(path)  # not through a link
        if not stat.S_ISDIR(file.st_mode) or file.st_uid != os.getuid() or file.st_mode & 0o077:
            raise OSError('%s is not a folder for this user alone' % path)


def lock(path):
    """Locks a folder for as long as this process lives, and gives the descriptor; None if another one has it."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return fd
    except OSError:
        os.close(fd)
        return None


def remove(path):
    import shutil
    shutil.rmtree(path, ignore_errors=True)  # which follows no links


def make_place():
    """The folder for this gdb's folders. Another gdb may meanwhile take it for one that was left behind, or end as
    the last one and remove its parent: only one that is there and has our lock is ours."""
    global place, place_lock
    if place is None:
        make_private(home())
        sweep(home())
        for suffix in [''] + ['.%d' % n for n in range(100)]:  # another pid namespace may have our number
            path = os.path.join(home(), '%d%s' % (os.getpid(), suffix))
            try:
                make_private(home())
                os.mkdir(path, 0o700)
                place_lock = lock(path)
            except (FileExistsError, FileNotFoundError):
                continue
            if place_lock is None:
                continue
            if not same(stat_of(path), os.fstat(place_lock)):
                os.close(place_lock)
                continue
            place = path
            atexit.register(remove_place, os.getpid())
            break
    return place


@harmless
def remove_place(pid):
    if pid == os.getpid():  # and not a child that gdb has forked
        remove(place)
        os.rmdir(home())  # unless another gdb has its own there


@harmless
def sweep(base):
    """Removes the folders of gdbs that were killed."""
    make_private(base)
    for name in os.listdir(base):
        path = os.path.join(base, name)
        fd = lock(path)
        if fd is not None:
            remove(path)
            os.close(fd)


class Folder:
    """The file system as an inferior sees it, in links: a sysroot for gdb."""

    def __init__(self, inferior, root):
        self.pid, self.root = inferior.pid, root  # root: as root_of has it
        self.path = os.path.join(make_place(), str(inferior.num))
        self.relative = self.path + '-relative'  # for the last parts of relative names
        self.entries = {}  # by name: (file or None, mapping or None, where to, why)
        self.held = {}  # by name: a descriptor
        for path in self.path, self.relative:
            remove(path)
            os.mkdir(path)
        self.fill([])

    def fill(self, parts):
        """Links to what is in a folder of the inferior's. What says who asks is left out of /proc: there are only
        the processes that names tell of, and of those only the names themselves."""
        source = self.root + '/' + '/'.join(parts)
        if parts[:1] == ['proc'] and len(parts) > 1 or parts == ['dev', 'fd'] or not os.path.isdir(source):
            return
        for name in os.listdir(source):
            if parts != ['proc'] or not (name.isdigit() or name in ('self', 'thread-self')):
                to = os.path.join(source, name)
                if self.root:  # a link that begins with a slash would lead out of it
                    to = resolve(to[len(self.root):], self.pid, self.pid)[0]
                os.symlink(to, os.path.join(self.path, *(parts + [name])))

    def set(self, name, to):
        """Makes the link for an absolute name, or none. Each folder on the way becomes one of ours."""
        parts = []
        for part in name.split('/'):
            if part == '..':
                parts = parts[:-1]
            elif part not in ('', '.'):
                parts.append(part)
                path = os.path.join(self.path, *parts)
                if os.path.islink(path):
                    os.unlink(path)
                if not os.path.isdir(path):
                    os.mkdir(path)
                    self.fill(parts)
        os.rmdir(path)  # the last one, which fails if it is a folder with something in it
        if to:
            os.symlink(to, path)

    def lead(self, name, mapping, path, why):
        """Lets a name lead to the file at path, whatever becomes of the inferior."""
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)  # of a FIFO or terminal, nothing more is done
        file, to = os.fstat(fd), os.readlink('/proc/self/fd/%d' % fd)
        if not stat.S_ISREG(file.st_mode):
            os.close(fd)
            raise OSError('%s is not a regular file' % path)
        self.forget(name)
        if same(stat_of(to), file):
            os.close(fd)
        else:  # nothing but a descriptor leads there
            self.held[name], to = fd, '/proc/%d/fd/%d' % (os.getpid(), fd)
        self.put(name, to)
        self.entries[name] = file, mapping, path, why

    def put(self, name, to):
        if name.startswith('/'):
            self.set(name, to)
        else:
            path = os.path.join(self.relative, os.path.basename(name))
            if os.path.lexists(path):
                os.unlink(path)
            if to:
                os.symlink(to, path)

    def block(self, name, mapping, why):
        """Lets a name lead to nothing, so that gdb fails to open it, and does not hang."""
        self.forget(name)
        self.put(name, None)
        self.entries[name] = None, mapping, None, why

    def forget(self, name):
        self.entries.pop(name, None)
        if name in self.held:
            os.close(self.held.pop(name))

    def ensure(self, name, mapping):
        """Sees to it that an ordinary name is found too."""
        file = stat_of(self.path + name)
        if file is None and stat_of(self.root + name) is not None or self.root and not is_mapped(file, mapping):
            self.set(name, resolve(name, self.pid, self.pid)[0])

    def settles(self, name, mapping):
        """Whether a name leads where it must, as far as it can."""
        file, known, _, _ = self.entries.get(name, (None, None, None, None))
        return is_mapped(file, mapping) if file else known is not None and known[2:4] == mapping[2:4]

    def close(self):
        for name in list(self.entries):
            self.forget(name)


def folder_of(inferior, root):
    """The folder of an inferior, a new one for a new process."""
    folder = folders.get(inferior.num)
    if folder is None or folder.pid != inferior.pid:
        if folder:
            folder.close()
        folder = folders[inferior.num] = Folder(inferior, root)
    return folder


# ---- gdb's settings

def sysroot():
    return gdb.parameter('sysroot') or ''


def is_ours(path):
    return place is not None and path.startswith(place + '/')


def current_folder():
    return next((f for f in folders.values() if f.path == sysroot()), None)


def may_set():
    return on and (sysroot() in NEUTRAL or is_ours(sysroot()))


def search_path(folder):
    """solib-search-path as it should be: the user's own, and behind it ours for relative names."""
    paths = [p for p in (gdb.parameter('solib-search-path') or '').split(':') if p and not is_ours(p)]
    if folder and any(not name.startswith('/') for name in folder.entries):
        paths.append(folder.relative)
    return ':'.join(paths)


def set_sysroot(folder, again=False):
    """The user's own, if there is no folder. again: libraries were read, and are dropped before each setting."""
    global users_sysroot
    if not is_ours(sysroot()):
        users_sysroot = sysroot()
    settings = ['set sysroot ' + (folder.path if folder else users_sysroot)]
    if search_path(folder) != (gdb.parameter('solib-search-path') or ''):
        settings.append('set solib-search-path ' + search_path(folder))
    for setting in settings:
        if again:
            gdb.execute('nosharedlibrary', to_string=True)
        gdb.execute(setting, to_string=True)


def set_before(folder):
    """For a new process, before gdb has read any library. When this setting changes, gdb reads them all again,
    and looks at registers for it, which cannot be read yet. Of no known system, a program has no libraries."""
    system = gdb.parameter('osabi')
    gdb.execute('set osabi none', to_string=True)
    try:
        set_sysroot(folder)
    finally:
        gdb.execute('set osabi ' + system, to_string=True)


def set_now(folder):
    """For a process that is stopped, has gdb read all libraries from there. They are dropped first: when
    gdb takes another file for one that it has, it gets the loader's address wrong, and never again learns of a
    library."""
    global reading
    reading = True
    try:
        set_sysroot(folder, again=True)
    finally:
        reading = False


def hide(names):
    """gdb looks for a relative name in its own directory first. While that has a file of the name, gdb must be
    in another one."""
    global own_directory
    if own_directory is None and any(not n.startswith('/') and os.path.lexists(n) for n in names):
        own_directory = os.open('.', os.O_RDONLY | os.O_DIRECTORY)
        os.makedirs(make_place() + '/empty', exist_ok=True)
        os.chdir(make_place() + '/empty')


@harmless
def unhide(*_):
    global own_directory
    if own_directory is not None:
        os.fchdir(own_directory)
        os.close(own_directory)
        own_directory = None


# ---- Who is debugged

def kind(inferior):
    """'native', 'served' (by a gdbserver on this machine), 'core', or None: somewhere else."""
    connection = getattr(inferior, 'connection', None)  # from gdb 12 on
    what = getattr(connection, 'type', '')
    if what == 'native' or not what and status(inferior.pid, 'TracerPid') == os.getpid():
        return 'native'
    if what == 'core' or not what and 'core dump' in gdb.execute('info target', to_string=True):
        return 'core'
    if what in ('', 'remote', 'extended-remote') and status(inferior.pid, 'TracerPid'):
        # A process here with that number is the one if it has the same 16 random bytes from the kernel.
        with Memory(inferior, True) as memory:
            at = memory.auxv().get(AT_RANDOM, 0)
            if memory.file is not None and at and memory.read(at, 16) == bytes(inferior.read_memory(at, 16)):
                return 'served'
    return None


def needs(memory, tid, libraries):
    """The names that mean something else to gdb, as (name, path, mapping); and the others, as (name, mapping)."""
    wanted, others, mappings, root = [], [], None, root_of(memory.pid)
    for _, name, dynamic in libraries:
        name = memory.text(name)
        if '/' not in name:
            continue  # the program itself, and the vdso
        if mappings is None:
            mappings = memory.mappings()
        mapping = next((m for m in mappings if m[0] <= dynamic < m[1]), None)
        if mapping is None:
            continue
        if not root and is_mapped(stat_of(name), mapping):
            others.append((name, mapping))
            continue
        path, depends = resolve(name, memory.pid, tid)
        if depends:
            wanted.append((name, path, mapping))
        else:
            others.append((name, mapping))
    return wanted, others


def prepare(memory, wanted, others):
    """Makes the folder of an inferior, in which its names lead where they must."""
    folder = folder_of(memory.inferior, root_of(memory.pid))
    for name, path, mapping in wanted:
        if folder.settles(name, mapping):
            continue
        to, why = reach(memory, name, path, mapping)
        if to:
            folder.lead(name, mapping, to, why)
        else:
            folder.block(name, mapping, 'the name leads the process elsewhere now, and its mapping cannot be opened')
            tell('no symbols for %s of process %d: the name leads elsewhere now, and only a privileged user may open the '
                 'mapping; or say which file it is by "set whosefd file"' % (name, memory.pid))
    for name, mapping in others:
        if name.startswith('/'):
            folder.ensure(name, mapping)
    return folder


def new_thread(event):
    """The first thread of a process: its pid is known, and gdb has read none of its libraries."""
    thread = event.inferior_thread
    inferior = thread.inferior if thread else gdb.selected_inferior()
    if looked_at.get(inferior.num) == inferior.pid or inferior.num != gdb.selected_inferior().num:
        return
    looked_at[inferior.num] = inferior.pid
    parent = status(inferior.pid, 'PPid')
    if not may_set():
        return
    what, folder, names, begins = kind(inferior), None, [], False
    watch(what in ('native', 'served'))
    if what == 'core':
        folder = prepare_core(inferior)
    elif parent == os.getpid():  # our child has just been forked, and runs no program yet
        begins = True
    elif what:
        with Memory(inferior, True) as memory:
            wanted, others = needs(memory, inferior.pid, memory.libraries())
            begins = not wanted and not others
            current = current_folder()
            if wanted and current and all(current.settles(name, mapping) for name, _, mapping in wanted):
                return
            if wanted:
                folder, names = prepare(memory, wanted, others), [w[0] for w in wanted]
    if folder:
        set_before(folder)
        hide(names)
    elif not begins and left_over():
        set_before(None)


def left_over():
    """Whether the sysroot is ours from a process before this one, and nobody's now."""
    return is_ours(sysroot()) and not any(i.num in folders and folders[i.num].pid == i.pid for i in gdb.inferiors() if i.pid)


def prepare_core(inferior):
    """Names in a core lead to nothing here, until the user says which files they were."""
    with Memory(inferior, False) as memory:
        names = [memory.text(name) for _, name, _ in memory.libraries()]
    folder = None
    for name in names:
        if '/' in name and (not name.startswith('/') or OF_ITSELF.match(os.path.normpath(name))):
            folder = folder_of(inferior, '')
            folder.block(name, None, 'a core does not say which file it was')
            tell('no symbols for %s of the core, whose name for it means nothing any more; "set whosefd file %s FILE" '
                 'says which file it is' % (name, name))
    return folder


# ---- Programs that run

class Hook(gdb.Breakpoint):
    """A breakpoint of ours: on a function, in every program in which there is one, or at an address. Nobody sees it,
    and the program goes on from it."""

    def __init__(self, act, **where):
        super(Hook, self).__init__(internal=True, **where)
        self.silent = True
        self.act = act

    def stop(self):
        if on:
            self.act()
        return waiting is not None


def set_hooks():
    # gdb's server for the Debug Adapter Protocol would show them to the editor.
    dap = sys.modules.get('gdb.dap.breakpoint')
    for event in 'created', 'modified', 'deleted':
        listener, events = getattr(dap, '_bp_' + event, None), getattr(gdb.events, 'breakpoint_' + event)
        if listener is not None:
            events.disconnect(listener)
            events.connect(lambda breakpoint, listener=listener: breakpoint.visible and listener(breakpoint))
    hooks.extend(Hook(act, function=function, qualified=True)
                 for function, act in (('dlopen', at_dlopen(0)), ('dlmopen', at_dlopen(1)), ('_dl_debug_state', at_change)))


def watch(local):
    """The breakpoints would cost a program elsewhere dear, and find nothing there that we could open."""
    for hook in hooks:
        if hook.enabled != local:
            hook.enabled = local


@harmless
def new_objfile(event):
    """gdb has read a file of a program that is there. gdb takes its time for the first breakpoint by a name, so
    it is not set at its start."""
    inferior = gdb.selected_inferior()
    if not reading and event.new_objfile.filename != inferior.progspace.filename:
        unhide()  # gdb opens all new libraries before it reads the first
    if hooks and hooks[0].enabled or not inferior.pid or kind(inferior) not in ('native', 'served'):
        return
    if not hooks:  # it would say that there is no such function yet
        gdb.execute('python gdb.whosefd("set_hooks")', to_string=True)
    watch(True)  # before gdb 12 it could not be told yet at the event of the thread


def on_return():
    """Calls at_change again when the function has returned. Where gdb's own breakpoint stands on the function, gdb
    may not read the libraries anew in the middle of the stop: it replaces that breakpoint, and still uses the old one."""
    number, address = gdb.selected_inferior().num, gdb.newest_frame().older().pc()
    if number not in returns or not returns[number].is_valid() or returns[number].address != address:
        drop(number)
        returns[number] = Hook(lambda: at_return(number), spec='*%#x' % address)
        returns[number].address = address
    returns[number].enabled = True


@harmless
def at_return(number):
    returns[number].enabled = False
    at_change(True)


def drop(number):
    """gdb must not meet it in another program at that address, nor when the inferior is no more."""
    if number in returns and returns[number].is_valid():
        returns[number].delete()
    returns.pop(number, None)


@harmless
def exited(event):
    """The process has ended, or gdb has left it."""
    unhide()
    drop(event.inferior.num)
    checked.pop(looked_at.pop(event.inferior.num, None), None)


def argument(memory, number):
    """An argument of the function at whose first instruction the program is."""
    frame = gdb.newest_frame()
    name = frame.architecture().name()
    registers = next((a[1:] for a in ARGUMENTS if name.startswith(a[0])), ())
    if not registers:
        return 0
    if registers[number] is None:
        return memory.words((int(frame.read_register('esp')) & 0xffffffff) + 4 * (number + 1), 1)[0]
    return int(frame.read_register(registers[number])) & (1 << 8 * memory.word) - 1


def at_dlopen(number):
    """What is done at the first instruction of dlopen, whose argument of this number is the name."""
    @harmless
    def act():
        inferior, thread = gdb.selected_inferior(), gdb.selected_thread()
        with Memory(inferior, True) as memory:
            name = memory.text(argument(memory, number))
            if '/' not in name or not may_set():
                return
            root, tid = root_of(inferior.pid), thread.ptid[1] or inferior.pid
            path, depends = resolve(name, inferior.pid, tid)
            file, folder = stat_of(path), current_folder()
            if not depends or file is None or not stat.S_ISREG(file.st_mode):
                return
            if folder and name in folder.entries:
                if same(folder.entries[name][0], file):
                    hide([name])
                    return
            elif not root and same(stat_of(name), file):
                return
            use(memory, [(name, path)], 'named to dlopen', *needs(memory, tid, memory.libraries()))
    return act


def use(memory, names, why, wanted, others):
    """Leads names that the loader is about to open, and those that it has opened."""
    before = current_folder()
    global waiting
    folder = prepare(memory, wanted, others)
    for name, path in names:
        folder.lead(name, None, path, why)
    if folder is before and not wanted and search_path(folder) == (gdb.parameter('solib-search-path') or ''):
        hide([n[0] for n in names])
    elif in_use():
        waiting = folder
        tell('stopped: gdb must read the libraries again before the program goes on, and cannot in the middle of this '
             'command; "continue" goes on')
    else:
        hide([w[0] for w in wanted])
        set_now(folder)
        unhide()
        hide([n[0] for n in names])


def frames():
    """The frames of the thread down to main, and whether each is in a library with debug information."""
    frame, program = gdb.newest_frame(), gdb.current_progspace().filename
    while frame is not None:
        function = frame.function()
        yield frame, function is not None and function.symtab.objfile.filename != program
        frame = frame.older() if frame.name() != 'main' else None


def local_watchpoints():
    """The watchpoints on variables of functions of libraries."""
    found, newest = [], gdb.newest_frame()
    for breakpoint in gdb.breakpoints():
        if not breakpoint.visible or not breakpoint.expression or breakpoint.type == gdb.BP_BREAKPOINT:
            continue
        for frame in [f for f, in_library in frames() if in_library and f != newest]:
            frame.select()
            try:
                gdb.parse_and_eval(breakpoint.expression)
                in_frame = True
                newest.select()
                gdb.parse_and_eval(breakpoint.expression)
                in_frame = False  # global
            except gdb.error:
                pass
            if in_frame:
                found.append(breakpoint)
                break
    newest.select()
    return found


def in_use():
    """Whether gdb holds on to symbols of a library, and would use them when they are gone: of a function that is
    called from gdb's prompt, that "finish" leaves or "next" steps in, or of a watchpoint."""
    stack = list(frames())
    return any(frame.type() == gdb.DUMMY_FRAME for frame, _ in stack) or any(in_library for _, in_library in stack) and (
        re.search(r'^-?\d+ +(finish|step resume) ', gdb.execute('maint info breakpoints', to_string=True), re.M) is not None or
        bool(local_watchpoints()))


@harmless
def stopped(_):
    global waiting
    unhide()
    if waiting is not None:
        folder, waiting = waiting, None
        for breakpoint in local_watchpoints():
            tell('watchpoint %d on %s had to be deleted; set it again' % (breakpoint.number, breakpoint.expression))
            breakpoint.delete()
        set_now(folder)


@harmless
def at_change(returned=False):
    """The loader tells of a change of its list, or has told of it. If gdb's own breakpoint stands here too, it has opened
    the libraries by now: of a name without a slash, which was searched for, nobody knew before where it would be."""
    inferior = gdb.selected_inferior()
    if not may_set():
        return
    with Memory(inferior, True) as memory:
        debug, tid = memory.debug(), gdb.selected_thread().ptid[1] or inferior.pid
        if not debug:
            return
        state = memory.words(debug + 3 * memory.word, 1)[0] & 0xffffffff
        if state != RT_CONSISTENT:
            if len(list(itertools.islice(memory.libraries(), 4))) < 4:  # the program, the loader, the vdso
                at_begin(memory, tid, returned)
            return
        libraries = list(memory.libraries())
        known = checked.get(inferior.pid, ())
        wanted, _ = needs(memory, tid, [library for library in libraries if library not in known])
        folder = current_folder()
        if wanted and not (folder and all(folder.settles(name, mapping) for name, _, mapping in wanted)):
            if not returned:
                return on_return()
            wanted, others = needs(memory, tid, libraries)
            use(memory, [], '', wanted, others)
        checked[inferior.pid] = set(libraries)


def at_begin(memory, tid, returned):
    """Leads what the loader was told to load by such names, before it does."""
    names = []
    with open('/proc/%d/environ' % memory.pid, 'rb') as f:
        for variable in f.read().split(b'\0'):
            if variable.startswith(b'LD_PRELOAD='):
                names += re.split('[ :]', os.fsdecode(variable[11:]))
    dynamic, moved = memory.program()
    table = list(memory.dynamic(dynamic))
    strings = dict(table).get(DT_STRTAB, 0)
    strings += moved if strings < moved else 0
    names += [memory.text(strings + value) for tag, value in table if tag == DT_NEEDED]
    found = []
    for name in names:
        if '/' in name:
            path, depends = resolve(name, memory.pid, tid)
            file = stat_of(path)
            if depends and file is not None and stat.S_ISREG(file.st_mode) and not same(stat_of(name), file):
                found.append((name, path))
    # After exec in a new inferior, gdb still holds on to the old one's.
    unneeded = left_over() and len(gdb.inferiors()) == 1
    if not returned and (found or unneeded):
        on_return()
    elif found:
        use(memory, found, 'named to the loader', [], [])
    elif unneeded:
        set_now(None)


# ---- Commands

def command(name, argument):
    COMMANDS[name](gdb.string_to_argv(argument))


def run(tool, arguments):
    import subprocess
    try:
        child = subprocess.Popen(['whosefd', tool] + arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    except FileNotFoundError:
        raise gdb.GdbError('There is no whosefd on the PATH.')
    gdb.write(child.communicate()[0].decode('utf-8', 'replace'))


def explain(arguments):
    run('explain', arguments or [str(os.getpid())])


def preflight(arguments):
    pid = gdb.selected_inferior().pid
    if not arguments and not pid:
        raise gdb.GdbError('The program is not being run; give the number of a process.')
    run('preflight', arguments or [str(pid)])


def turn(to):
    def act(_):
        global on
        on = to
    return act


def show(_=None):
    gdb.write('Names of inferiors are led to the inferiors\' files: %s.\n' % ('on' if on else 'off'))


def info(_):
    show()
    if sysroot() not in NEUTRAL and not is_ours(sysroot()):
        gdb.write('The sysroot is your own, %s, so nothing is led.\n' % sysroot())
    shown = False
    for number, folder in sorted(folders.items()):
        for name, (file, _, path, why) in sorted(folder.entries.items()):
            shown = True
            to = '%s (device %d:%d, inode %d)' % (path, os.major(file.st_dev), os.minor(file.st_dev), file.st_ino) if file else 'nothing'
            gdb.write(clean('Inferior %d (pid %d): %s leads to %s: %s.' % (number, folder.pid, name, to, why)) + '\n')
    if not shown:
        gdb.write('No name had to be led.\n')
    if last_error:
        gdb.write(clean('The last thing that went wrong: ' + last_error) + '\n')


def set_file(arguments):
    """set whosefd file NAME FILE"""
    if len(arguments) != 2:
        raise gdb.GdbError('Usage: set whosefd file NAME FILE')
    name, path = arguments[0], os.path.expanduser(arguments[1])
    inferior = gdb.selected_inferior()
    folder = folders.get(inferior.num)
    if folder is None or folder.pid != inferior.pid or name not in folder.entries:
        raise gdb.GdbError('No library of this inferior by the name %s had to be led.' % name)
    file = stat_of(path)
    if file is None or not stat.S_ISREG(file.st_mode):
        raise gdb.GdbError('%s: no such file.' % path)
    with File(path) as candidate:
        theirs = candidate.build_id(0)
    with Memory(inferior, kind(inferior) != 'core') as memory:
        base = next((moved for moved, text, _ in memory.libraries() if memory.text(text) == name), 0)
        wanted = memory.build_id(base)
    if wanted and theirs != wanted:
        raise gdb.GdbError('%s has the build id %s, and the library %s.' % (path, theirs or 'of none', wanted))
    if not wanted:
        tell('the library\'s build id is not known, so it was not compared')
    folder.lead(name, folder.entries[name][1], os.path.abspath(path), 'as you said')
    if sysroot() == folder.path:
        gdb.execute('nosharedlibrary')
        gdb.execute('sharedlibrary')
    else:
        set_now(folder)


COMMANDS = {'explain': explain, 'preflight': preflight, 'info': info, 'show': show, 'on': turn(True), 'off': turn(False), 'file': set_file}

for name, handler in (('new_objfile', new_objfile), ('exited', exited), ('stop', stopped), ('before_prompt', unhide)):
    getattr(gdb.events, name).connect(handler)
