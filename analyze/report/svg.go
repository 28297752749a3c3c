package report

import (
	"fmt"
	"html"
	"html/template"
	"strings"
	"unicode/utf8"
)

// sheet is how a picture is laid out, in units of the drawing: side by side, or
// one process below the other for a narrow screen.
type sheet struct {
	class   string
	width   int
	box     int // width of a process's box
	left    int // x of the debugger's box
	right   int // x of the inferior's box
	stacked bool
	// openedX and meantX are where the two arrows go down.
	openedX, meantX int
	char            float64 // advance of a character of the tables
	fd, access, to  int     // x of the columns within a box
}

// The two layouts. The page shows the one that fits.
var (
	wideSheet = sheet{class: "wide", width: 960, box: 388, left: 0, right: 572, openedX: 472, meantX: 488, char: 7.25, fd: 34, access: 44, to: 78}
	slimSheet = sheet{class: "slim", width: 360, box: 332, left: 27, right: 27, stacked: true, openedX: 18, meantX: 7, char: 6.65, fd: 28, access: 37, to: 64}
)

const (
	boxTop    = 74 // y of the first box
	boxHead   = 66 // from the top of a box to its first row
	rowHeight = 22
	boxGap    = 18 // between stacked boxes
)

// drawing collects the elements of a picture. All its texts are clean, and are
// escaped here.
type drawing struct {
	strings.Builder
	sheet
}

// svg draws the diagram. Its colors come from the page; what they say is said
// by words and by solid and broken lines as well. The id tells several pictures
// of a page apart.
func (s *diagram) svg(sh sheet, id string) template.HTML {
	d := &drawing{sheet: sh}
	leftEnd := boxTop + s.left.height()
	rightTop := boxTop
	if sh.stacked {
		rightTop = leftEnd + boxGap
	}
	height := max(leftEnd, rightTop+s.right.height()) + 2
	fmt.Fprintf(d, `<svg class="picture %s" viewBox="0 0 %d %d" role="img" aria-labelledby="%s-t %s-d">`, sh.class, sh.width, height, id, id)
	fmt.Fprintf(d, `<title id="%s-t">%s</title><desc id="%s-d">%s</desc>`, id, esc("Where the name "+s.name+" leads"), id, esc(s.words()))
	d.name(s.name)
	openedY := d.table(&s.left, sh.left, boxTop, "opened")
	meantY := d.table(&s.right, sh.right, rightTop, "meant")
	openedEnd, meantEnd := sh.left+sh.box, sh.right
	if sh.stacked {
		openedEnd = sh.left
	}
	d.arrow("opened", sh.openedX, openedY, openedEnd, s.left.hitTag())
	d.arrow("meant", sh.meantX, meantY, meantEnd, s.right.hitTag())
	d.WriteString(`</svg>`)
	return template.HTML(d.String())
}

// words are the picture for somebody who does not see it.
func (s *diagram) words() string {
	return fmt.Sprintf("%s is resolved by %s; %s. It belongs to %s; %s.", s.name, strings.TrimPrefix(s.opened.who, "resolved by "), strings.Join(s.opened.lines(), ", "),
		strings.TrimPrefix(s.meant.who, "belongs to "), strings.Join(s.meant.lines(), ", "))
}

func (t *fdTable) height() int {
	n := boxHead + rowHeight*len(t.rows) + 10
	for _, s := range []string{t.moreText(), t.note} {
		if s != "" {
			n += 20
		}
	}
	return n
}

func (t *fdTable) hitTag() string {
	for _, r := range t.rows {
		if r.hit {
			return r.tag
		}
	}
	return ""
}

// name draws the name in its frame, at the top.
func (d *drawing) name(name string) {
	const char, top, height = 8.5, 6, 34
	text := cutFront(name, int(float64(d.width-32)/char))
	w := max(140, int(float64(width(text))*char)+32)
	x := (d.width - w) / 2
	if d.stacked {
		x = 0
	}
	fmt.Fprintf(d, `<rect class="name" x="%d.5" y="%d.5" width="%d" height="%d" rx="17"/>`, max(0, x), top, w-1, height)
	fmt.Fprintf(d, `<text class="nametext" x="%d" y="%d">%s</text>`, x+w/2, top+23, esc(text))
}

// table draws a process with its descriptors, and gives the y of the row that
// the arrow ends at.
func (d *drawing) table(t *fdTable, x, y int, class string) (hit int) {
	fmt.Fprintf(d, `<rect class="box" x="%d.5" y="%d.5" width="%d" height="%d" rx="6"/>`, x, y, d.box-1, t.height()-1)
	fmt.Fprintf(d, `<text class="comm" x="%d" y="%d">%s</text>`, x+14, y+24, esc(cut(t.comm, 24)))
	role := t.role
	if t.pid != 0 {
		role = fmt.Sprintf("%s, pid %d", role, t.pid)
	}
	fmt.Fprintf(d, `<text class="role" x="%d" y="%d">%s</text>`, x+d.box-14, y+24, esc(role))
	fmt.Fprintf(d, `<line class="rule" x1="%d" y1="%d" x2="%d" y2="%d"/>`, x, y+36, x+d.box, y+36)
	fmt.Fprintf(d, `<text class="head num" x="%d" y="%d">fd</text><text class="head" x="%d" y="%d">leads to</text>`, x+d.fd, y+54, x+d.to, y+54)
	y += boxHead
	for _, r := range t.rows {
		room := d.box - d.to - 12
		tag := r.tag
		if r.hit && !d.stacked {
			tag = "" // the arrow says it
		}
		if tag != "" {
			room -= int(float64(width(tag))*d.char) + 8
		}
		if r.hit {
			hit = y + rowHeight/2
		}
		if r.tag != "" {
			kind := "same"
			if r.hit {
				kind = "hit"
			}
			fmt.Fprintf(d, `<rect class="row %s %s" x="%d" y="%d" width="%d" height="%d"/>`, kind, class, x+1, y, d.box-2, rowHeight)
		}
		base := y + 15
		fmt.Fprintf(d, `<g class="cell%s"><title>%s</title>`, map[bool]string{true: " strong"}[r.hit], esc(r.target))
		fmt.Fprintf(d, `<text class="num" x="%d" y="%d">%s</text>`, x+d.fd, base, esc(r.fd))
		if r.access != "" {
			fmt.Fprintf(d, `<text class="dim" x="%d" y="%d">%s</text>`, x+d.access, base, esc(cut(r.access, 4)))
		}
		fmt.Fprintf(d, `<text x="%d" y="%d">%s</text>`, x+d.to, base, esc(cutFront(r.target, int(float64(room)/d.char))))
		if tag != "" {
			fmt.Fprintf(d, `<text class="tag %s" x="%d" y="%d">%s</text>`, class, x+d.box-10, base, esc(tag))
		}
		d.WriteString(`</g>`)
		y += rowHeight
	}
	for _, s := range []string{t.moreText(), t.note} {
		if s != "" {
			y += 20
			fmt.Fprintf(d, `<text class="note" x="%d" y="%d">%s</text>`, x+14, y-4, esc(cut(s, int(float64(d.box-24)/(d.char-0.75)))))
		}
	}
	return hit
}

// arrow draws a line from the name down to a row, and its head.
func (d *drawing) arrow(class string, x, y, end int, label string) {
	const from, bend, head = 41, 8, 8
	dir := 1
	if end < x {
		dir = -1
	}
	fmt.Fprintf(d, `<path class="arrow %s" d="M%d %d V%d Q%d %d %d %d H%d"/>`, class, x, from, y-bend, x, y, x+dir*bend, y, end-dir*(head-1))
	fmt.Fprintf(d, `<path class="arrowhead %s" d="M%d %d l%d -5 v10 z"/>`, class, end, y, -dir*head)
	if d.stacked {
		return
	}
	at, anchor := x-6, "end"
	if dir > 0 {
		at, anchor = x+6, "start"
	}
	fmt.Fprintf(d, `<text class="label %s" text-anchor="%s" x="%d" y="%d">%s</text>`, class, anchor, at, y-7, esc(label))
}

func esc(s string) string { return html.EscapeString(s) }

// cutFront shortens a clean text to at most n columns. Of a path the end says
// more than the beginning.
func cutFront(s string, n int) string {
	if n <= 0 || width(s) <= n {
		return s
	}
	if !strings.HasPrefix(s, "/") {
		return cut(s, n)
	}
	from, cols := len(s), 0
	for {
		r, size := utf8.DecodeLastRuneInString(s[:from])
		if cols += width(string(r)); cols > n-1 {
			if slash := strings.IndexByte(s[from:], '/'); slash > 0 && slash < (len(s)-from)/2 {
				from += slash // whole names, if that does not cost much
			}
			return "…" + s[from:]
		}
		from -= size
	}
}
