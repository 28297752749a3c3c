# whosefd's plug-in for gdb 9 and later with Python 3.6 and later. MIT licence, the whosefd authors.
#
# A program may load a library by a name that means something else to every process: /proc/self/fd/4,
# /dev/fd/4, ./plugin.so. gdb reads that name out of the program and opens it in its own process, where it is
# another file or, often, a pipe that gdb then reads forever. With this plug-in gdb opens what the program has
# mapped. Where no such name occurs, nothing is set and nothing is shown.
#
# gdb compiles a script each time that it starts. So only what stands outside the string below is compiled
# then; the string, which does the work, when the first process, core or server is there, or a command asks.

import gdb

WHOSEFD = r'''
@BODY@
'''


def whosefd(body):
    """All in a function, so that nothing of it gets among the names of the user's own Python code."""
    import os

    loaded = {}

    def call(name, *args):
        if not loaded:
            loaded['__name__'] = 'whosefd'
            exec(compile(body, 'whosefd', 'exec'), loaded)
        return loaded[name](*args)

    def new_thread(event):
        # Whatever goes wrong, gdb goes on as without us.
        try:
            call('new_thread', event)
        except Exception:
            pass

    def command(name, function, doc, prefix=False):
        class Command(gdb.Command):
            __doc__ = doc

            def __init__(self):
                super(Command, self).__init__(name, gdb.COMMAND_SUPPORT, gdb.COMPLETE_FILENAME, prefix)

            if function:
                def invoke(self, argument, from_tty):
                    call('command', function, argument)

        Command()

    def sweep():
        """A gdb that was killed has left its folder behind."""
        for parent in (os.environ.get('XDG_RUNTIME_DIR') or '/run', '/run/user/%d' % os.getuid(), '/run', os.environ.get('TMPDIR') or '/tmp'):
            for name in ('whosefd', 'whosefd-%d' % os.getuid()):
                path = os.path.join(parent, name)
                if os.path.isdir(path) and any(not os.path.isdir('/proc/' + n.split('.')[0]) for n in os.listdir(path)):
                    call('sweep', path)

    gdb.whosefd = call
    if hasattr(os, 'memfd_create'):
        os.memfd_create('whosefd-gdb-plugin')  # so that whosefd sees that this gdb has the plug-in; not inherited
    gdb.events.new_thread.connect(new_thread)
    command('whosefd', None, """Ask the tool whosefd about this gdb.
What is built in: "info whosefd", "set whosefd on", "set whosefd off", "set whosefd file".""", True)
    command('whosefd explain', 'explain', """Run "whosefd explain" on this gdb: what it waits for, and why.""")
    command('whosefd preflight', 'preflight', """Run "whosefd preflight" on the inferior, or on the process with the number given:
which of its libraries' names lead a debugger elsewhere.""")
    command('info whosefd', 'info', """Show which names of inferiors were led to which files, and why.""")
    command('show whosefd', 'show', """Show whether names of inferiors are led to the inferiors' files.""")
    command('set whosefd', None, """Whether names of inferiors are led to the inferiors' files.
Usage: set whosefd on | off
       set whosefd file NAME FILE""", True)
    command('set whosefd on', 'on', """Lead the names of inferiors to the inferiors' files, from now on.""")
    command('set whosefd off', 'off', """Let gdb open the names of inferiors in its own process, as it does by itself.
It holds from the next process on: names that were led already stay so.""")
    command('set whosefd file', 'file', """Say which file a library is that gdb cannot reach.
Usage: set whosefd file NAME FILE
NAME is its name as the program has it, which "info whosefd" shows. It is for a core file, and for a process
that has closed the descriptor from which it loaded the library. The build ids are compared.""")
    try:
        sweep()
    except Exception:
        pass


if not hasattr(gdb, 'whosefd'):
    whosefd(WHOSEFD)
del whosefd, WHOSEFD
