// Package report renders what package analyze found: text for a person, JSON,
// and tables. Its output depends on its arguments alone. Whatever a process
// wrote goes through [Clean] before it reaches a terminal.
package report

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/mattn/go-runewidth"
)

// Style says how text is to look.
type Style struct {
	Width int  // columns of the terminal; 0: not a terminal, nothing is wrapped or cut
	Color bool // use escape sequences for color
}

// Clean makes a foreign text harmless on a terminal, on one line: bytes below
// 0x20, 0x7f and bytes that are not UTF-8 become \xNN, newline and tab \n and
// \t, and all runes that show nothing or change how others are shown (C1
// controls, direction marks, zero-width ones, line separators, marks in heaps)
// become \uNNNN.
func Clean(s string) string {
	clean := true
	for i := 0; i < len(s); i++ {
		if s[i] < 0x20 || s[i] >= 0x7f {
			clean = false
			break
		}
	}
	if clean {
		return s
	}
	var b strings.Builder
	marks := maxMarks // a text does not begin with one: it would belong to what stands before it
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		mark := unicode.In(r, unicode.Mn, unicode.Me)
		if marks++; !mark {
			marks = 0
		}
		switch {
		case mark && marks > maxMarks:
			escape(&b, r)
			marks = 0
		case r == utf8.RuneError && n <= 1:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case r < 0x20 || r == 0x7f:
			fmt.Fprintf(&b, `\x%02x`, r)
		case visible(r):
			b.WriteString(s[i : i+n])
		default:
			escape(&b, r)
		}
		i += n
	}
	return b.String()
}

func escape(b *strings.Builder, r rune) {
	if r > 0xffff {
		fmt.Fprintf(b, `\U%08x`, r)
		return
	}
	fmt.Fprintf(b, `\u%04x`, r)
}

// visible says whether a rune may reach a terminal. The space is the only
// blank one: others can hide what a text is. Some letters and marks are made not
// to be seen too (Default_Ignorable_Code_Point in the Unicode standard), and one
// symbol is: the Braille pattern without dots.
func visible(r rune) bool {
	if !unicode.IsPrint(r) || r == utf8.RuneError {
		return false
	}
	return r < 0x80 || r != '\u2800' && !unicode.In(r, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector)
}

// maxMarks is how many marks a letter may bear: more of them reach into the
// lines above and below.
const maxMarks = 4

// wide measures text the same way whatever the locale.
var wide = &runewidth.Condition{StrictEmojiNeutral: true}

// width is the number of columns of a clean text.
func width(s string) int { return wide.StringWidth(s) }

// cutMiddle is cut for texts that begin alike, such as paths: it keeps the beginning
// and, longer, the end.
func cutMiddle(s string, n int) string {
	if n <= 0 || width(s) <= n {
		return s
	}
	tail := n * 2 / 3
	return wide.Truncate(s, n-1-tail, "") + "…" + wide.TruncateLeft(s, width(s)-tail, "")
}

// cut shortens a clean text to at most n columns, with an ellipsis.
func cut(s string, n int) string {
	if n <= 0 || width(s) <= n {
		return s
	}
	return wide.Truncate(s, n, "…")
}

// pad fills a clean text up to n columns.
func pad(s string, n int) string {
	if w := width(s); w < n {
		return s + strings.Repeat(" ", n-w)
	}
	return s
}

// The colors (ECMA-48 SGR).
const (
	bold   = "1"
	red    = "1;31"
	yellow = "33"
	green  = "32"
	faint  = "2"
)

// paint colors a clean text.
func (st Style) paint(code, s string) string {
	if !st.Color || s == "" {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

// wrap breaks a clean text at spaces into lines of at most n columns; n <= 0
// does not break. A longer word stands alone on its line.
func wrap(s string, n int) []string {
	if n <= 0 {
		return []string{s}
	}
	var lines []string
	line, cols := "", 0
	for _, word := range strings.Split(s, " ") {
		w := width(word)
		switch {
		case line == "":
			line, cols = word, w
		case cols+1+w <= n:
			line, cols = line+" "+word, cols+1+w
		default:
			lines = append(lines, line)
			line, cols = word, w
		}
	}
	return append(lines, line)
}
