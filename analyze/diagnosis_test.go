package analyze

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"whosefd/tracer/event"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// want is what matters of a diagnosis: "rule effect confidence identity" of
// each finding, and rules of the risks.
var want = map[string]struct {
	verdict  string
	findings []string
	risks    []string
}{
	"hang":                   {"hang", []string{"self-fd hang certain certain"}, nil},
	"attached":               {"hang", []string{"self-fd hang certain certain"}, nil},
	"closed":                 {"hang", []string{"self-fd hang certain certain"}, nil},
	"closed-unreachable":     {"hang", []string{"self-fd hang certain certain"}, nil},
	"reused":                 {"hang", []string{"self-fd hang certain certain"}, nil},
	"thread":                 {"hang", []string{"self-fd hang certain certain"}, nil},
	"other-inferior-without": {"hang", []string{"self-fd hang certain certain"}, nil},
	"two-inferiors":          {"hang", []string{"self-fd hang likely likely", "self-fd hang likely likely"}, nil},
	"two-names":              {"hang", []string{"self-fd hang certain certain"}, []string{"self-fd hang"}},
	"two-names-no-stack":     {"hang", []string{"self-fd hang likely likely", "self-fd hang likely likely"}, nil},
	"two-names-stream":       {"hang", []string{"self-fd hang certain certain"}, []string{"self-fd hang"}},
	"script":                 {"hang", []string{"self-fd hang certain certain"}, nil},
	"script-below":           {"hang", []string{"self-fd hang certain certain"}, nil},
	"name-of-nobody":         {"hang", []string{"self-fd hang certain certain"}, nil},
	"name-of-its-user":       {"hang", []string{"self-wait hang certain certain"}, nil},
	"name-of-another-writer": {"blocked", nil, nil},
	"prompt":                 {"blocked", nil, nil},
	"waiting-inferior":       {"blocked", nil, nil},
	"running-inferior":       {"blocked", nil, nil},
	"gdbserver-accept":       {"blocked", nil, nil},
	"cured":                  {"blocked", nil, nil},
	"repaired":               {"blocked", nil, nil},
	"risk":                   {"blocked", nil, []string{"self-fd hang"}},
	"own-read":               {"hang", []string{"self-wait hang certain certain"}, []string{"self-fd hang"}},
	"wrong-file":             {"wrong-file", []string{"self-fd wrong-file likely likely"}, nil},
	"wrong-file-presumed":    {"wrong-file", []string{"self-fd wrong-file possible possible"}, nil},
	"error":                  {"error", []string{"self-fd error possible possible"}, nil},
	"error-procfs":           {"error", []string{"self-fd error possible possible"}, nil},
	"stolen-input":           {"stolen-input", []string{"self-fd stolen-input certain certain"}, nil},
	"stolen-pipe":            {"stolen-input", []string{"self-fd stolen-input likely certain"}, nil},
	"unseen":                 {"hang", []string{"self-fd hang likely certain"}, nil},
	"unseen-older":           {"hang", []string{"self-fd hang certain certain"}, nil},
	"unseen-inherited":       {"hang", []string{"self-fd hang likely certain"}, nil},
	"no-list":                {"hang", []string{"self-fd hang likely likely"}, nil},
	"btrfs":                  {"blocked", nil, nil},
	"relative":               {"error", []string{"relative-path error possible possible"}, nil},
	"mount-namespace":        {"wrong-file", []string{"mount-namespace wrong-file likely likely"}, nil},
	"open-hang":              {"hang", []string{"relative-path hang likely certain"}, nil},
	"open-trace":             {"hang", []string{"relative-path hang likely certain"}, nil},
	"open-came-back":         {"ok", nil, nil},
	"entry-error":            {"error", []string{"replaced-file error likely likely"}, nil},
	"entry-fifo":             {"hang", []string{"replaced-file hang likely likely"}, nil},
	"entry-right":            {"ok", nil, nil},
	"entry-elsewhere":        {"ok", nil, nil},
	"container":              {"blocked", nil, nil},
	"container-self":         {"error", []string{"self-fd error possible possible"}, nil},
	"pid-namespace":          {"error", []string{"pid-namespace error possible possible"}, nil},
	"replaced-file":          {"wrong-file", []string{"replaced-file wrong-file possible possible"}, nil},
	"self-link":              {"error", []string{"self-link error possible possible"}, nil},
	"trace-hang":             {"hang", []string{"self-fd hang likely certain"}, nil},
	"trace-hang-closing":     {"hang", []string{"self-fd hang certain certain"}, nil},
	"trace-counterpart":      {"hang", []string{"self-fd hang likely likely"}, nil},
	"trace-alone":            {"hang", []string{"self-fd hang likely likely"}, nil},
	"trace-error":            {"error", []string{"self-fd error certain certain"}, nil},
	"log-core":               {"hang", []string{"self-fd hang likely likely"}, nil},
	"trace-map-text":         {"error", []string{"replaced-file error certain certain"}, []string{"self-fd hang"}},
	"trace-map-text-alone":   {"error", []string{"replaced-file error likely likely"}, nil},
	"trace-wrong-file":       {"wrong-file", []string{"self-fd wrong-file certain certain"}, nil},
	"trace-stolen-input":     {"stolen-input", []string{"self-fd stolen-input certain certain"}, nil},
	"trace-derived":          {"ok", nil, nil},
	"trace-own-self":         {"ok", nil, nil},
	"trace-guarded":          {"ok", nil, nil},
	"trace-searched":         {"ok", nil, nil},
	"empty":                  {"ok", nil, nil},
	"hostile":                {"hang", []string{"self-fd hang likely certain"}, nil},
}

func TestDiagnosis(t *testing.T) {
	all := scenes()
	for _, name := range sceneNames() {
		t.Run(name, func(t *testing.T) {
			d := analyzed(all[name]).Diagnosis()
			w, ok := want[name]
			if !ok {
				t.Fatal("nothing is expected of this scene")
			}
			var findings, risks []string
			for _, f := range d.Findings {
				findings = append(findings, strings.Join([]string{string(f.Rule), string(f.Effect), string(f.Confidence), string(f.Identity)}, " "))
			}
			for _, r := range d.Risks {
				risks = append(risks, string(r.Rule)+" "+string(r.Effect))
			}
			if d.Verdict != w.verdict || strings.Join(findings, ";") != strings.Join(w.findings, ";") || strings.Join(risks, ";") != strings.Join(w.risks, ";") {
				t.Errorf("verdict %s, findings %q, risks %q\n   want %s, %q, %q\nsummary %s", d.Verdict, findings, risks, w.verdict, w.findings, w.risks, d.Summary)
			}
			recording(t, name, all[name])
			got, err := json.MarshalIndent(d, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			golden(t, name+".json", append(got, '\n'))
		})
	}
}

// recording keeps a scene as a recording, from which the tests of the reports
// start too, and checks that the diagnosis from it is the same.
func recording(t *testing.T, name string, s scene) {
	t.Helper()
	var buf bytes.Buffer
	w := event.NewWriter(&buf)
	for _, ev := range s {
		if err := w.Write(ev); err != nil {
			t.Fatal(err)
		}
	}
	golden(t, name+".jsonl", buf.Bytes())
	a, r := New(), event.NewReader(&buf)
	for {
		ev, err := r.Next()
		if err != nil {
			break
		}
		a.Add(ev)
	}
	x, _ := json.Marshal(a.Diagnosis())
	y, _ := json.Marshal(analyzed(s).Diagnosis())
	if !bytes.Equal(x, y) {
		t.Errorf("from the recording:\n%s\nfrom the events:\n%s", x, y)
	}
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs (-update rewrites it); got:\n%s", path, got)
	}
}

// A signal that ends a debugger ends its read, too. That it hung stays true, and nothing
// can be given back.
func TestKilledWhileItHung(t *testing.T) {
	hung := scenes()["trace-hang"]
	end := &event.End{T: 9000000, Reason: "killed", Signal: "SIGKILL"}
	interrupted := hung.with(end).change(func(ev event.Event) event.Event {
		if c, ok := ev.(*event.Syscall); ok && c.Name == "read" {
			return failed(readFrom(c.T, 16, ownPipe, 0), "ERESTARTSYS")
		}
		return ev
	})
	for name, s := range map[string]scene{"not seen to end": hung.with(end), "interrupted": interrupted} {
		d := analyzed(s).Diagnosis()
		if d.Verdict != "hang" || len(d.Findings) != 1 || !strings.Contains(string(d.Summary), "It was killed in this (SIGKILL).") {
			t.Errorf("%s: %s: %s", name, d.Verdict, d.Summary)
			continue
		}
		for _, r := range d.Findings[0].Remedies {
			if r.Kind == "repair" || r.Kind == "release" {
				t.Errorf("%s: %s", name, r.Command)
			}
		}
	}
}
