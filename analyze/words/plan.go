package words

import (
	"fmt"

	"whosefd/tracer/event"
)

// SayPlan adds to each step of a plan what it does, and what takes it back.
func SayPlan(p *event.Plan) {
	for i := range p.Steps {
		s := &p.Steps[i]
		say := func(format string, args ...any) { s.Text = event.Text(fmt.Sprintf(format, args...)) }
		switch s.Kind {
		case event.StepAttach:
			say("Stop thread %d in its read of descriptor %d, if that still is %s.", s.TID, s.FD.Val, describe(*s.Expect))
			s.Undo = "Let it go: the read starts again."
		case event.StepOpen:
			what := "the file that the inferior has mapped"
			if p.Release {
				what = "which ends every read at once"
			}
			say("In the debugger, open %s, %s.", s.Path, what)
			s.Undo = "Close it."
		case event.StepUnblock:
			say("Let reads of it wait, as of any other file.")
		case event.StepFlags:
			say("Ask whether descriptor %d is closed on exec: it stays so.", s.FD.Val)
		case event.StepKeep:
			say("Keep what descriptor %d means now, for as long as this can be undone.", s.FD.Val)
			s.Undo = "Close it."
		case event.StepReplace:
			say("Make descriptor %d mean the opened file instead of %s.", s.FD.Val, describe(*s.Replaces))
			s.Undo = event.Text(fmt.Sprintf("Make descriptor %d mean what was kept.", s.FD.Val))
		case event.StepClose:
			say("Close the descriptor that the open gave.")
			if s.Call.Args[0] == event.ResultKept.Arg() {
				say("Close what was kept.")
			}
		case event.StepResume:
			say("Let thread %d go: the kernel makes the read again, now from the right place.", s.TID)
		case event.StepGuard:
			say("Stay, and lead each later open of %s to %s.", s.Name, s.Path)
			s.Undo = "Leave. The debugger opens the name again when it needs the file the next time, and gets the wrong one."
		case event.StepDetach:
			say("Leave. The debugger opens the name again when it needs the file the next time, and gets the wrong one.")
			if p.Release {
				say("Leave. Each later open of the name will hang again.")
			}
		}
	}
}
