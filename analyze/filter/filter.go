// Package filter reads the expressions that choose calls and notices, such as
//
//	call == "openat" && path =~ "^/proc/" && errno != "" && dur > 1ms
//
// The language is that of github.com/expr-lang/expr, without its functions, and with
// three things more: =~ and !~ for its "matches" and "not matches" (regular
// expressions of package regexp), and times such as 1ms or 1.5s, which are numbers of
// seconds.
package filter

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/expr-lang/expr"
	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/file"
	"github.com/expr-lang/expr/vm"
)

// Expr is an expression over the fields of E, a struct whose tags "expr" name them. It
// is not safe for concurrent use.
type Expr[E any] struct {
	program *vm.Program
	machine vm.VM
	err     error
}

// Compile reads an expression. What can be seen to be wrong is an error that names the
// fields: words that are none, types that do not fit, and a text that a field of known
// values is compared with and never has, which known says by an error.
func Compile[E any](text string, known map[string]func(string) error) (*Expr[E], error) {
	var none E
	plain, at := translate(text)
	c := &checker{known: known}
	program, err := expr.Compile(plain, expr.Env(none), expr.AsBool(), expr.DisableAllBuiltins(), expr.Patch(c))
	if c.err != nil {
		return nil, c.err
	}
	if err != nil {
		what, where := err.Error(), ""
		var located *file.Error
		if errors.As(err, &located) {
			what = located.Message
			if i := located.Column; i < len(at) {
				where = fmt.Sprintf(" at character %d", at[i]+1)
			}
		}
		what = strings.ReplaceAll(what, "float64", "number")
		return nil, fmt.Errorf("%s%s; the fields are %s", what, where, strings.Join(Fields[E](), ", "))
	}
	return &Expr[E]{program: program}, nil
}

// Match says whether a row is chosen. The field of what is not known is "", or not a
// number, which is equal to nothing and neither less nor more.
func (x *Expr[E]) Match(row *E) bool {
	got, err := x.machine.Run(x.program, row)
	if err != nil && x.err == nil {
		x.err = err
	}
	chosen, ok := got.(bool)
	return ok && chosen
}

// Err is why the expression could not be evaluated for some row, which was then not
// chosen.
func (x *Expr[E]) Err() error { return x.err }

// Fields gives the names of the fields, in the order of the struct.
func Fields[E any]() (names []string) {
	for t, i := reflect.TypeFor[E](), 0; i < t.NumField(); i++ {
		names = append(names, t.Field(i).Tag.Get("expr"))
	}
	return names
}

// checker looks at what fields of known values are compared with.
type checker struct {
	known map[string]func(string) error
	err   error
}

// Visit implements [ast.Visitor].
func (c *checker) Visit(node *ast.Node) {
	b, ok := (*node).(*ast.BinaryNode)
	if !ok || !slices.Contains([]string{"==", "!=", "in"}, b.Operator) {
		return
	}
	for _, side := range [][2]ast.Node{{b.Left, b.Right}, {b.Right, b.Left}} {
		name, ok := side[0].(*ast.IdentifierNode)
		if !ok || c.known[name.Value] == nil {
			continue
		}
		values := side[1:]
		if list, ok := side[1].(*ast.ArrayNode); ok {
			values = list.Nodes
		}
		for _, v := range values {
			if s, ok := v.(*ast.StringNode); ok && s.Value != "" && c.err == nil {
				c.err = c.known[name.Value](s.Value)
			}
		}
	}
}

// translate writes =~, !~ and times as the library has them; at is where each
// character of that was before, counted in characters.
func translate(text string) (plain string, at []int) {
	var out []rune
	put := func(s string, from int) {
		for _, r := range s {
			out, at = append(out, r), append(at, from)
		}
	}
	in := []rune(text)
	for i := 0; i < len(in); {
		switch r := in[i]; {
		case strings.ContainsRune("\"'`", r):
			end := i + 1
			for end < len(in) && in[end] != r {
				if in[end] == '\\' && r != '`' {
					end++
				}
				end++
			}
			for end = min(end+1, len(in)); i < end; i++ {
				put(string(in[i]), i)
			}
		case (r == '=' || r == '!') && i+1 < len(in) && in[i+1] == '~':
			put(map[rune]string{'=': " matches ", '!': " not matches "}[r], i)
			i += 2
		case r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r):
			end := i
			for end < len(in) && (in[end] == '_' || unicode.IsLetter(in[end]) || unicode.IsDigit(in[end]) ||
				unicode.IsDigit(r) && in[end] == '.' && end+1 < len(in) && unicode.IsDigit(in[end+1])) {
				end++
			}
			word := string(in[i:end])
			if d, err := time.ParseDuration(word); err == nil && unicode.IsDigit(r) && word != "0" {
				put(fmt.Sprintf("%.9f", d.Seconds()), i)
				i = end
				continue
			}
			for ; i < end; i++ {
				put(string(in[i]), i)
			}
		default:
			put(string(r), i)
			i++
		}
	}
	return string(out), append(at, len(in))
}
