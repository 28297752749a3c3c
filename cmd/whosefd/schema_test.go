package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"flag"
	"maps"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/invopop/jsonschema"
	validator "github.com/santhosh-tekuri/jsonschema/v6"

	"whosefd/analyze"
	"whosefd/analyze/report"
	"whosefd/samples/scene"
	"whosefd/tracer/event"
)

var updateSchemas = flag.Bool("update-schemas", false, "write docs/schema anew")

// described are the outputs that have a schema: by its name, the Go value that is
// written, whether it is an element of a list, and the lists of rows that are lines of
// --format jsonl, by the table that they name.
var described = map[string]struct {
	value any
	list  bool
	lines map[string]any
}{
	"whosefd.diagnosis/v1": {value: analyze.Diagnosis{}},
	"whosefd.preflight/v1": {value: preflightJSON{}, lines: map[string]any{"names": analyze.Preflight{}.Names}},
	"whosefd.rules/v1":     {value: analyze.Rules{}},
	"whosefd.repair/v1":    {value: repairResult{}},
	"whosefd.waits/v1":     {value: report.WaitsJSON{}, lines: map[string]any{"processes": report.WaitsJSON{}.Processes}},
	"whosefd.table/v1": {value: report.TablesJSON{}, lines: map[string]any{"calls": report.TablesJSON{}.Calls,
		"summary": report.TablesJSON{}.Summary, "descriptors": report.TablesJSON{}.Descriptors}},
	"whosefd.watch/v1":  {value: notice{}},
	"whosefd.ps/v1":     {value: report.PSRowJSON{}, list: true, lines: map[string]any{"debuggers": []analyze.PSRow{}}},
	"whosefd.doctor/v1": {value: report.CheckJSON{}, list: true, lines: map[string]any{"checks": []report.Check{}}},
	event.Schema:        {}, // by the type of its line
}

// schemaFile is where a schema lies.
func schemaFile(name string) string {
	what, version, _ := strings.Cut(strings.TrimPrefix(name, "whosefd."), "/")
	return what + "." + version + ".json"
}

// schemas makes them from the Go types and their comments; strict ones allow no field
// that is not described, which tells what is missing.
func schemas(t *testing.T, strict bool) map[string]*jsonschema.Schema {
	t.Helper()
	r := &jsonschema.Reflector{
		Anonymous: true, AllowAdditionalProperties: !strict,
		Namer: func(t reflect.Type) string {
			if t.Name() == "" {
				return "" // a slice, a map, a pointer
			}
			return path.Base(t.PkgPath()) + "." + t.Name()
		},
	}
	r.Mapper = func(typ reflect.Type) *jsonschema.Schema { return primitive(r, typ) }
	for _, dir := range []string{"tracer/event", "tracer/sysroot", "analyze", "cmd/whosefd"} {
		if err := r.AddGoComments("whosefd", dir); err != nil {
			t.Fatal(err)
		}
	}
	for key, text := range r.CommentMap {
		r.CommentMap[key] = strings.Join(strings.Fields(text), " ")
		if pkg, rest, ok := strings.Cut(key, "cmd/whosefd."); ok && pkg == "whosefd/" {
			r.CommentMap["main."+rest] = r.CommentMap[key]
		}
	}
	all := map[string]*jsonschema.Schema{}
	for name, d := range described {
		var s *jsonschema.Schema
		if name == event.Schema {
			s = recordingSchema(r)
		} else {
			s = r.Reflect(d.value)
		}
		whole := &jsonschema.Schema{Ref: s.Ref}
		if d.list {
			whole = &jsonschema.Schema{Type: "array", Items: whole}
		}
		if d.list || d.lines != nil {
			s = &jsonschema.Schema{Version: s.Version, Definitions: s.Definitions, Else: whole,
				If: &jsonschema.Schema{Type: "object", Required: []string{"table"}}}
			s.Then = lineSchemas(r, s.Definitions, name, d.lines)
		}
		s.Title = name
		all[name] = s
	}
	return all
}

// lineSchemas describes the lines of --format jsonl: a row of a table each, with the
// schema and the table that it is of.
func lineSchemas(r *jsonschema.Reflector, defs jsonschema.Definitions, schema string, rows map[string]any) *jsonschema.Schema {
	all := &jsonschema.Schema{}
	for _, table := range slices.Sorted(maps.Keys(rows)) {
		row := r.ReflectFromType(reflect.TypeOf(rows[table]).Elem())
		for name, def := range row.Definitions {
			defs[name] = cmp.Or(defs[name], def)
		}
		line := *row.Definitions[strings.TrimPrefix(row.Ref, "#/$defs/")]
		line.Description = "A line of --format jsonl, of the table " + table + "."
		line.Properties = jsonschema.NewProperties()
		line.Properties.Set("schema", &jsonschema.Schema{Const: schema})
		line.Properties.Set("table", &jsonschema.Schema{Const: table})
		for p := defs[strings.TrimPrefix(row.Ref, "#/$defs/")].Properties.Oldest(); p != nil; p = p.Next() {
			line.Properties.Set(p.Key, p.Value)
		}
		line.Required = append([]string{"schema", "table"}, line.Required...)
		defs["line."+table] = &line
		all.OneOf = append(all.OneOf, &jsonschema.Schema{Ref: "#/$defs/line." + table})
	}
	return all
}

// recordingSchema describes a line of a recording by its type.
func recordingSchema(r *jsonschema.Reflector) *jsonschema.Schema {
	whole := &jsonschema.Schema{Version: jsonschema.Version, Definitions: jsonschema.Definitions{}}
	for _, ev := range []event.Event{&event.Session{}, &event.Syscall{}, &event.Descriptor{}, &event.Inferior{}, &event.LinkMap{}, &event.Blocked{},
		&event.Stack{}, &event.Wait{}, &event.Search{}, &event.Lost{}, &event.End{}} {
		one := r.Reflect(ev)
		for name, def := range one.Definitions {
			whole.Definitions[name] = def
		}
		def := whole.Definitions[strings.TrimPrefix(one.Ref, "#/$defs/")]
		def.Properties.Set("type", &jsonschema.Schema{Const: ev.Type()})
		def.Required = append([]string{"type"}, def.Required...)
		whole.OneOf = append(whole.OneOf, &jsonschema.Schema{Ref: one.Ref})
	}
	return whole
}

// primitive describes the types that write themselves.
func primitive(r *jsonschema.Reflector, t reflect.Type) *jsonschema.Schema {
	switch t {
	case reflect.TypeFor[event.Micros]():
		return &jsonschema.Schema{Type: "number", Description: "seconds, with microseconds"}
	case reflect.TypeFor[event.Hex]():
		return &jsonschema.Schema{Type: "string", Pattern: "^0x[0-9a-f]+$"}
	case reflect.TypeFor[event.Text]():
		return &jsonschema.Schema{Type: "string"}
	case reflect.TypeFor[event.Kind]():
		s := &jsonschema.Schema{Type: "string"}
		for _, k := range event.Kinds {
			s.Enum = append(s.Enum, k)
		}
		return s
	}
	if t.PkgPath() != reflect.TypeFor[event.Kind]().PkgPath() || !strings.HasPrefix(t.Name(), "Opt[") {
		return nil
	}
	val, _ := t.FieldByName("Val")
	if s := primitive(r, val.Type); s != nil {
		return s
	}
	switch val.Type.Kind() {
	case reflect.Bool:
		return &jsonschema.Schema{Type: "boolean"}
	case reflect.String:
		return &jsonschema.Schema{Type: "string"}
	default:
		return &jsonschema.Schema{Type: "integer"}
	}
}

// The files in docs/schema are what the Go types say, and what the commands write is
// what they say, with no field besides.
func TestSchemas(t *testing.T) { // not parallel: the comments are found from the top folder
	dir := filepath.Join(t.TempDir(), "out")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	recordings, err := filepath.Abs("../../analyze/testdata")
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir("../..")
	for name, s := range schemas(t, false) {
		text, err := json.MarshalIndent(s, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		text = append(text, '\n')
		file := filepath.Join("docs/schema", schemaFile(name))
		if *updateSchemas {
			err = os.WriteFile(file, text, 0o644)
		}
		if had, _ := os.ReadFile(file); err != nil || !bytes.Equal(had, text) {
			t.Errorf("%s is not what the types say (go test ./cmd/whosefd -run TestSchemas -update-schemas): %v", file, err)
		}
	}
	if files, err := os.ReadDir("docs/schema"); err != nil || len(files) != len(described) {
		t.Errorf("%d files in docs/schema, want %d: %v", len(files), len(described), err)
	}
	check := checker(t)
	seen := map[string]int{}
	output := func(args ...string) {
		out, stderr := inProcess(t, args)
		if out == "" {
			t.Errorf("%v: nothing: %s", args, stderr)
		}
		for d := json.NewDecoder(strings.NewReader(out)); d.More(); {
			var v json.RawMessage
			if err := d.Decode(&v); err != nil {
				t.Fatalf("%v: %v", args, err)
			}
			for _, name := range check(args, v) {
				seen[name]++
			}
		}
	}
	files, err := filepath.Glob(filepath.Join(recordings, "*.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if filepath.Base(file) == "empty.jsonl" {
			continue
		}
		output("explain", "--format", "json", file)
		if text, err := os.ReadFile(file); err == nil && bytes.Contains(text, []byte(`"syscall"`)) {
			output("table", "--format", "json", file)
			output("table", "--format", "jsonl", file)
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range bytes.Lines(text) {
			for _, name := range check([]string{file}, line) {
				seen[name]++
			}
		}
	}
	self := strconv.Itoa(sleeping(t))
	output("explain", "--rules", "--format", "json")
	output("doctor", "--format", "json")
	output("ps", "--format", "json", self)
	output("ps", "--format", "jsonl", self)
	output("ps", "--all-waits", "--format", "json", self)
	output("ps", "--all-waits", "--format", "jsonl", self)
	output("doctor", "--format", "jsonl")
	output("preflight", "--format", "json", self)
	output("repair", "--format", "json", self) // nothing to repair
	output("preflight", "--format", "jsonl", strconv.Itoa(loaded(t).PID))
	for name, d := range described {
		for table := range d.lines {
			if seen[name+" "+table] == 0 {
				t.Errorf("%s: no line of the table %s was looked at", name, table)
			}
		}
		if seen[name] == 0 && name != "whosefd.watch/v1" { // which TestSchemasLive looks at
			t.Errorf("%s: no output was looked at", name)
		}
	}
}

// checker gives a function that checks a JSON value against the schema that it names, and
// gives the names.
func checker(t *testing.T) func(args []string, v json.RawMessage) []string {
	t.Helper()
	c := validator.NewCompiler()
	for name, s := range schemas(t, true) {
		text, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		doc, err := validator.UnmarshalJSON(bytes.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		if err := c.AddResource("/"+schemaFile(name), doc); err != nil {
			t.Fatal(err)
		}
	}
	compiled := map[string]*validator.Schema{}
	of := func(name string) *validator.Schema {
		if compiled[name] == nil {
			s, err := c.Compile("/" + name)
			if err != nil {
				t.Fatalf("schema %s: %v", name, err)
			}
			compiled[name] = s
		}
		return compiled[name]
	}
	return func(args []string, v json.RawMessage) []string {
		t.Helper()
		doc, err := validator.UnmarshalJSON(bytes.NewReader(v))
		if err != nil {
			t.Fatalf("%v: %v", args, err)
		}
		var names []string
		object := doc
		if all, ok := doc.([]any); ok && len(all) > 0 {
			object = all[0]
		}
		m, _ := object.(map[string]any)
		name, _ := m["schema"].(string)
		if kind, ok := m["type"].(string); ok && kind != "" {
			name = event.Schema
		}
		where := schemaFile(name)
		if table, ok := m["table"].(string); ok { // a line of it
			names = append(names, name+" "+table)
		}
		if _, ok := described[name]; !ok {
			t.Errorf("%v: schema %q is not described", args, name)
			return nil
		}
		if err := of(where).Validate(doc); err != nil {
			t.Errorf("%v: %s: %v\n%.600s", args, where, err, v)
		}
		return append(names, name)
	}
}

// What is written of a live gdb is as described, too.
func TestSchemasLive(t *testing.T) {
	scene.Require(t, "gdb", "ptrace", "root")
	gdb := scene.Hang(t)
	t.Chdir("../..")
	check := checker(t)
	t.Chdir("cmd/whosefd")
	pid := strconv.Itoa(gdb.PID)
	for _, args := range [][]string{{"explain", pid}, {"ps", pid}, {"ps", "--all-waits", pid}, {"repair", "--dry-run", pid}, {"preflight", strconv.Itoa(gdb.Inferior())}} {
		out, stderr, code := whosefd(t, append(args, "--format", "json")...)
		if code == exitTrouble {
			t.Fatalf("%v: %s", args, stderr)
		}
		check(args, []byte(out))
	}
	_, file := watching(t, "-v")
	noticed(t, file, "the hang", func(n notice) bool { return int(n.PID) == gdb.PID && n.Kind == "finding" })
	notices, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	notices = notices[:bytes.LastIndexByte(notices, '\n')+1]
	for line := range bytes.Lines(notices) {
		check([]string{"watch"}, line)
	}
}
